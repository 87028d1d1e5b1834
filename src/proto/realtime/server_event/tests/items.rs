//! Items, their parts, what a response cost, and what an account has left.

use super::{assert_event, error, json, some};
use crate::proto::decode::DecodeError;
use crate::proto::realtime::server_event::{Item, RateLimit, RateLimits, ServerEvent, Usage};

/// A finished function call, as the vendor sends it.
const CALL: &str = r#"{"type":"response.output_item.done","event_id":"event_1","response_id":"resp_1","output_index":1,"item":{"id":"item_2","object":"realtime.item","type":"function_call","status":"completed","name":"look_up","call_id":"call_1","arguments":"{\"city\":\"Köln\"}"}}"#;

fn call() -> Item<'static> {
    Item {
        id: some("item_2"),
        kind: some("function_call"),
        status: some("completed"),
        name: some("look_up"),
        call_id: some("call_1"),
        arguments: some(r#"{"city":"Köln"}"#),
        ..Item::default()
    }
}

fn message(id: &'static str, role: &'static str) -> Item<'static> {
    Item {
        id: some(id),
        kind: some("message"),
        role: some(role),
        ..Item::default()
    }
}

#[test]
fn a_response_s_items_begin_and_end() {
    assert_event(
        CALL,
        ServerEvent::OutputItemDone {
            response_id: some("resp_1"),
            output_index: 1,
            item: call(),
        },
    );
    assert_event(
        r#"{"type":"response.output_item.added","event_id":"e","response_id":"resp_1","output_index":0,"item":{"id":"item_1","object":"realtime.item","type":"message","status":"in_progress","role":"assistant","content":[],"phase":"commentary"}}"#,
        ServerEvent::OutputItemAdded {
            response_id: some("resp_1"),
            output_index: 0,
            item: Item {
                status: some("in_progress"),
                phase: some("commentary"),
                ..message("item_1", "assistant")
            },
        },
    );
}

#[test]
fn a_conversation_s_items_come_under_old_and_new_names() {
    for kind in ["added", "created"] {
        let text = format!(
            r#"{{"type":"conversation.item.{kind}","previous_item_id":"item_0","item":{{"id":"item_1","type":"message","status":"completed","role":"user","content":[{{"type":"input_audio","transcript":null}}]}}}}"#
        );
        assert_event(
            &text,
            ServerEvent::ItemAdded {
                item: Item {
                    status: some("completed"),
                    has_audio: true,
                    ..message("item_1", "user")
                },
                previous_item_id: some("item_0"),
            },
        );
    }
    assert_event(
        r#"{"type":"conversation.item.done","previous_item_id":null,"item":{"id":"item_1","type":"message","role":"assistant","content":[{"type":"output_text"},{"type":"output_audio","transcript":"Hello."},{"type":"output_text","text":"No."}]}}"#,
        ServerEvent::ItemDone {
            item: Item {
                text: some("Hello."),
                has_audio: true,
                ..message("item_1", "assistant")
            },
            previous_item_id: None,
        },
    );
}

#[test]
fn arguments_that_are_an_object_are_written_out_and_null_is_none() {
    for (arguments, expected) in [
        (r#"{"a":[1,null]}"#, some(r#"{"a":[1,null]}"#)),
        ("null", None),
        (r#""""#, some("")),
        (r#""{\"a\":""#, some("{\"a\":")),
    ] {
        let text = format!(
            r#"{{"type":"response.output_item.done","item":{{"type":"function_call","arguments":{arguments}}}}}"#
        );
        assert_event(
            &text,
            ServerEvent::OutputItemDone {
                response_id: None,
                output_index: 0,
                item: Item {
                    kind: some("function_call"),
                    arguments: expected,
                    ..Item::default()
                },
            },
        );
    }
}

#[test]
fn an_item_may_be_missing_or_nonsense_but_not_say_a_thing_twice() {
    for item in [
        "null",
        "[]",
        "7",
        "{}",
        r#"{"content":{}}"#,
        r#"{"id":[],"content":[null,3]}"#,
    ] {
        let text = format!(r#"{{"type":"conversation.item.added","item":{item}}}"#);
        assert_event(
            &text,
            ServerEvent::ItemAdded {
                item: Item::default(),
                previous_item_id: None,
            },
        );
    }
    assert_event(
        r#"{"type":"response.output_item.added"}"#,
        ServerEvent::OutputItemAdded {
            response_id: None,
            output_index: 0,
            item: Item::default(),
        },
    );
    for text in [
        r#"{"type":"response.output_item.done","item":{"name":"a","name":"b"}}"#,
        r#"{"type":"response.output_item.done","item":{},"item":{}}"#,
        r#"{"type":"response.done","response":{"usage":{"input_tokens":1,"input_tokens":2}}}"#,
    ] {
        assert_eq!(error(text), DecodeError::DuplicateKey, "{text}");
    }
}

#[test]
fn an_item_cut_anywhere_is_no_event() {
    for end in 0..CALL.len() {
        json(&CALL.as_bytes()[..end], |result| {
            assert!(result.is_err(), "cut at {end}");
        });
    }
}

#[test]
fn truncations_deletions_turns_and_parts() {
    for (text, expected) in [
        (
            r#"{"type":"conversation.item.truncated","item_id":"i","content_index":0,"audio_end_ms":1500}"#,
            ServerEvent::ItemTruncated {
                item_id: some("i"),
                content_index: 0,
                audio_end_ms: Some(1500),
            },
        ),
        (
            r#"{"type":"conversation.item.truncated"}"#,
            ServerEvent::ItemTruncated {
                item_id: None,
                content_index: 0,
                audio_end_ms: None,
            },
        ),
        (
            r#"{"type":"conversation.item.deleted","event_id":"e","item_id":"i"}"#,
            ServerEvent::ItemDeleted { item_id: some("i") },
        ),
        (
            r#"{"type":"input_audio_buffer.committed","event_id":"e","item_id":"i","previous_item_id":"h"}"#,
            ServerEvent::Committed {
                item_id: some("i"),
                previous_item_id: some("h"),
            },
        ),
        (
            r#"{"type":"input_audio_buffer.timeout_triggered","audio_start_ms":13216,"audio_end_ms":19232,"item_id":"i"}"#,
            ServerEvent::InputTimeoutTriggered {
                audio_start_ms: Some(13_216),
                audio_end_ms: Some(19_232),
                item_id: some("i"),
            },
        ),
        (
            r#"{"type":"response.content_part.added","response_id":"r","item_id":"i","output_index":0,"content_index":1,"part":{"type":"audio","transcript":""}}"#,
            ServerEvent::ContentPart {
                done: false,
                response_id: some("r"),
                item_id: some("i"),
                content_index: 1,
                kind: some("audio"),
            },
        ),
        (
            r#"{"type":"response.content_part.done","part":null}"#,
            ServerEvent::ContentPart {
                done: true,
                response_id: None,
                item_id: None,
                content_index: 0,
                kind: None,
            },
        ),
    ] {
        assert_event(text, expected);
    }
}

#[test]
fn our_own_responses_are_known_by_their_tag() {
    for (response, tag, out_of_band) in [
        (
            r#"{"id":"r","metadata":{"voxrelay":"greeting"},"conversation_id":"conv_1"}"#,
            some("greeting"),
            false,
        ),
        (
            r#"{"id":"r","metadata":null,"conversation_id":null}"#,
            None,
            true,
        ),
        (r#"{"id":"r","metadata":{"other":"x"}}"#, None, false),
    ] {
        assert_event(
            &format!(r#"{{"type":"response.created","response":{response}}}"#),
            ServerEvent::ResponseCreated {
                response_id: some("r"),
                tag,
                out_of_band,
            },
        );
    }
}

#[test]
fn a_finished_response_says_what_it_holds_and_cost() {
    let usage = Usage {
        input_tokens: 253,
        input_text_tokens: 119,
        input_audio_tokens: 134,
        cached_tokens: 128,
        cached_text_tokens: 64,
        cached_audio_tokens: 60,
        output_tokens: 61,
        output_text_tokens: 20,
        output_audio_tokens: 41,
        reasoning_tokens: 5,
        total_tokens: 314,
    };
    let cost = r#"{"total_tokens":314,"input_tokens":253,"output_tokens":61,"input_token_details":{"text_tokens":119,"audio_tokens":134,"image_tokens":0,"cached_tokens":128,"cached_tokens_details":{"text_tokens":64,"audio_tokens":60,"image_tokens":0}},"output_token_details":{"text_tokens":20,"audio_tokens":41,"reasoning_tokens":5}}"#;
    let output = r#"[{"id":"a","type":"message","role":"assistant","content":[{"type":"output_audio","transcript":"Hi."}]},{"id":"b","type":"function_call"},{"id":"c","type":"function_call"}]"#;
    let done = |text: &str, has_audio, function_calls, usage| {
        assert_event(
            text,
            ServerEvent::ResponseDone {
                response_id: some("r"),
                status: some("completed"),
                detail: None,
                error_type: None,
                message: None,
                tag: some("nudge"),
                has_audio,
                function_calls,
                usage,
            },
        );
    };
    let head = r#"{"type":"response.done","response":{"id":"r","status":"completed","metadata":{"voxrelay":"nudge"}"#;
    done(
        &format!(r#"{head},"output":{output},"usage":{cost}}}}}"#),
        true,
        2,
        Some(usage),
    );
    // xAI: the cost at the top.
    done(
        &format!(r#"{head}}},"usage":{cost}}}"#),
        false,
        0,
        Some(usage),
    );
    done(
        &format!(
            r#"{head},"output":[{{"type":"message","content":[{{"type":"output_text","text":"x"}}]}}],"usage":{{"input_tokens":"7","output_tokens":-1,"output_token_details":[]}}}}}}"#
        ),
        false,
        0,
        Some(Usage {
            input_tokens: 7,
            ..Usage::default()
        }),
    );
    for nonsense in ["null", "[]", "3"] {
        let text = format!(r#"{head},"output":{nonsense},"usage":{nonsense}}}}}"#);
        done(&text, false, 0, None);
    }
}

#[test]
fn rate_limits_may_name_both_one_or_none() {
    let limits = |text: &str, requests, tokens| {
        assert_event(
            &format!(r#"{{"type":"rate_limits.updated","event_id":"e","rate_limits":{text}}}"#),
            ServerEvent::RateLimits(RateLimits { requests, tokens }),
        );
    };
    let tokens = RateLimit {
        limit: Some(50_000),
        remaining: Some(49_950),
        reset_seconds: Some(0.06),
    };
    let one = r#"{"name":"tokens","limit":50000,"remaining":49950,"reset_seconds":0.06}"#;
    limits(&format!("[{one}]"), None, Some(tokens));
    limits(
        &format!(r#"[{{"name":"requests"}},{one},{{"name":"other","limit":1}},null]"#),
        Some(RateLimit::default()),
        Some(tokens),
    );
    for nothing in ["[]", "null", "{}", r#""tokens""#] {
        limits(nothing, None, None);
    }
}

#[test]
fn the_mean_probability_of_a_transcripts_tokens_lies_between_0_and_1() {
    for (logprobs, expected) in [
        (
            r#"[{"token":"a","logprob":-1,"bytes":[97]},{"token":"b","logprob":-0.5}]"#,
            Some(((-1.0f64).exp() + (-0.5f64).exp()) / 2.0),
        ),
        ("[]", None),
        ("null", None),
        (
            r#"[{"token":"a"},{"token":"b","logprob":-0.25}]"#,
            Some((-0.25f64).exp()),
        ),
        (r#"[{"logprob":-9999.0}]"#, Some((-100.0f64).exp())),
        (r#"[{"logprob":3}]"#, Some(1.0)),
        (r#"[{"logprob":"inf"}]"#, None),
    ] {
        assert_event(
            &format!(
                r#"{{"type":"conversation.item.input_audio_transcription.completed","item_id":"i","transcript":"ab","logprobs":{logprobs}}}"#
            ),
            ServerEvent::InputTranscriptCompleted {
                item_id: some("i"),
                transcript: "ab".into(),
                probability_mean: expected,
            },
        );
    }
}
