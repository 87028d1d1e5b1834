//! The model's events: shapes, quirks, and both paths' agreement.

use super::*;
use crate::proto::differential::assert_realtime_paths_agree as assert_paths_agree;
use proptest::prelude::*;

const DELTA: &str = r#"{"type":"response.output_audio.delta","event_id":"event_7dT0aQmP2xLw9Zc4Rk1Vb","response_id":"resp_1","item_id":"item_1","output_index":0,"content_index":2,"delta":"fn5+f35//39+"}"#;

fn json<T>(
    text: &[u8],
    check: impl FnOnce(Result<(ServerEvent<'_>, Noticed), DecodeError>) -> T,
) -> T {
    let mut copy = text.to_vec();
    let mut scratch = Scratch::default();
    check(decode_json(&mut copy, &mut scratch))
}

fn assert_event(text: &str, expected: ServerEvent<'_>) {
    json(text.as_bytes(), |result| {
        assert_eq!(result.map(|found| found.0), Ok(expected), "{text}");
    });
}

fn error(text: &str) -> DecodeError {
    json(text.as_bytes(), |result| result.expect_err(text))
}

fn some(text: &str) -> Option<Cow<'_, str>> {
    Some(Cow::Borrowed(text))
}

#[test]
fn the_scanner_takes_the_documented_delta_under_both_names() {
    let expected = AudioDelta {
        response_id: some("resp_1"),
        item_id: some("item_1"),
        content_index: 2,
        delta: Cow::Borrowed(b"fn5+f35//39+"),
    };
    assert_eq!(scan_audio_delta(DELTA.as_bytes()), Some(expected.clone()));
    assert!(assert_paths_agree(DELTA.as_bytes()));
    let beta = DELTA.replace("output_audio", "audio");
    assert_eq!(scan_audio_delta(beta.as_bytes()), Some(expected));
    assert!(assert_paths_agree(beta.as_bytes()));
}

#[test]
fn the_scanner_takes_any_key_order_and_missing_keys() {
    for text in [
        r#"{"delta":"AA==","type":"response.output_audio.delta"}"#,
        " {\n\"content_index\" : \"3\" ,\t\"type\":\"response.audio.delta\",\"delta\":\"\" } \r\n",
    ] {
        assert!(assert_paths_agree(text.as_bytes()), "{text}");
    }
}

#[test]
fn the_scanner_refuses_every_other_shape() {
    for text in [
        "",
        "{}",
        r#"{"type":"response.output_audio.delta"}"#,
        r#"{"delta":"AAAA"}"#,
        r#"{"type":"response.output_audio_transcript.delta","delta":"AAAA"}"#,
        r#"{"type":"response.output_audio.delta","delta":"AAAA","type":"response.output_audio.delta"}"#,
        r#"{"type":"response.output_audio.delta","delta":"AAAA","delta":"AAAA"}"#,
        r#"{"type":"response.output_audio.delta","delta":"AAAA","event_id":"a","event_id":"a"}"#,
        r#"{"type":"response.output_audio.delta","delta":"AAAA","obfuscation":"x"}"#,
        r#"{"type":"response.output_audio.delta","delta":"AA\u0041A"}"#,
        r#"{"type":"response.output_audio.delta","delta":"AAAA","content_index":-1}"#,
        r#"{"type":"response.output_audio.delta","delta":"AAAA","content_index":00}"#,
        r#"{"type":"response.output_audio.delta","delta":"AAAA","item_id":null}"#,
        r#"{"type":"response.output_audio.delta","delta":{"a":"AAAA"}}"#,
        r#"{"type":"response.output_audio.delta","delta":"AAAA"}}"#,
        r#"[{"type":"response.output_audio.delta","delta":"AAAA"}]"#,
    ] {
        assert_eq!(scan_audio_delta(text.as_bytes()), None, "{text}");
    }
}

#[test]
fn a_delta_cut_anywhere_is_no_event() {
    for end in 0..DELTA.len() {
        let cut = &DELTA.as_bytes()[..end];
        assert_eq!(scan_audio_delta(cut), None);
        json(cut, |result| assert_eq!(result, Err(DecodeError::Syntax)));
    }
}

#[test]
fn decode_takes_the_fast_path_and_falls_back_equal() {
    let mut scratch = Scratch::default();
    let mut hot = DELTA.as_bytes().to_vec();
    let (event, noticed) = decode(&mut hot, &mut scratch).expect("valid");
    assert_eq!(noticed, Noticed::default());
    let event = format!("{event:?}");
    for (text, unknown) in [
        (DELTA.replace("resp_1", r"resp\u005f1"), 0),
        (DELTA.replace("fn5", r"f\u006e5"), 0),
        (
            DELTA.replace("\"delta\"", "\"obfuscation\":\"x\",\"delta\""),
            1,
        ),
        (DELTA.replace(":2,", ":2.0,"), 0),
    ] {
        let mut text = text.into_bytes();
        let (found, noticed) = decode(&mut text, &mut scratch).expect("valid");
        assert_eq!(format!("{found:?}"), event);
        assert_eq!(
            noticed,
            Noticed {
                fallback: true,
                unknown_fields: unknown
            }
        );
    }
}

#[test]
fn sessions_say_their_formats_in_both_generations() {
    let ga = r#"{"type":"session.updated","event_id":"e","session":{"type":"realtime","object":"realtime.session","id":"sess_1","expires_at":1763610000,"output_modalities":["audio"],"tools":[{"a":{"type":"x"}}],"audio":{"input":{"format":{"type":"audio/pcmu"},"turn_detection":{"type":"server_vad"}},"output":{"format":{"type":"audio/pcm","rate":24000},"voice":"marin"}}}}"#;
    assert_event(
        ga,
        ServerEvent::SessionUpdated(SessionEcho {
            id: some("sess_1"),
            expires_at: Some(1_763_610_000),
            input_format: some("audio/pcmu"),
            output_format: some("audio/pcm"),
        }),
    );
    let beta = r#"{"type":"session.created","session":{"id":"s","input_audio_format":"g711_ulaw","output_audio_format":"pcm16","expires_at":0}}"#;
    assert_event(
        beta,
        ServerEvent::SessionCreated(SessionEcho {
            id: some("s"),
            expires_at: Some(0),
            input_format: some("g711_ulaw"),
            output_format: some("pcm16"),
        }),
    );
    for text in [
        r#"{"type":"session.updated"}"#,
        r#"{"type":"session.updated","session":null}"#,
        r#"{"type":"session.updated","session":{"audio":{"input":null,"output":[]}}}"#,
    ] {
        assert_event(text, ServerEvent::SessionUpdated(SessionEcho::default()));
    }
}

#[test]
fn responses_and_what_became_of_them() {
    assert_event(
        r#"{"type":"response.created","event_id":"e","response":{"object":"realtime.response","id":"resp_1","status":"in_progress","output":[]}}"#,
        ServerEvent::ResponseCreated {
            response_id: some("resp_1"),
            tag: None,
            out_of_band: false,
        },
    );
    let done = |details: &str, detail, error_type, message| {
        let text = format!(
            r#"{{"type":"response.done","event_id":"e","response":{{"id":"resp_1","status":"failed","status_details":{details},"usage":null}}}}"#
        );
        assert_event(
            &text,
            ServerEvent::ResponseDone {
                response_id: some("resp_1"),
                status: some("failed"),
                detail,
                error_type,
                message,
                tag: None,
                has_audio: false,
                function_calls: 0,
                usage: None,
            },
        );
    };
    done("null", None, None, None);
    done(r#"{"type":"completed"}"#, None, None, None);
    done(
        r#"{"type":"cancelled","reason":"turn_detected"}"#,
        some("turn_detected"),
        None,
        None,
    );
    done(
        r#"{"type":"failed","error":{"type":"t","code":"rate_limit_exceeded","message":"Wait 2s."}}"#,
        some("rate_limit_exceeded"),
        some("t"),
        some("Wait 2s."),
    );
    done(
        r#"{"type":"failed","error":{"type":"server_error","code":null}}"#,
        some("server_error"),
        some("server_error"),
        None,
    );
    // xAI: one word.
    done(r#""cancelled""#, some("cancelled"), None, None);
    assert_event(
        r#"{"type":"response.done","response_id":"r"}"#,
        ServerEvent::ResponseDone {
            response_id: some("r"),
            status: None,
            detail: None,
            error_type: None,
            message: None,
            tag: None,
            has_audio: false,
            function_calls: 0,
            usage: None,
        },
    );
}

#[test]
fn audio_done_speech_and_transcripts() {
    for (text, expected) in [
        (
            r#"{"type":"response.output_audio.done","response_id":"r","item_id":"i","output_index":0,"content_index":1}"#,
            ServerEvent::AudioDone {
                response_id: some("r"),
                item_id: some("i"),
                content_index: 1,
            },
        ),
        (
            r#"{"type":"response.audio.done"}"#,
            ServerEvent::AudioDone {
                response_id: None,
                item_id: None,
                content_index: 0,
            },
        ),
        (
            r#"{"type":"input_audio_buffer.speech_started","audio_start_ms":0,"item_id":"i"}"#,
            ServerEvent::SpeechStarted {
                audio_start_ms: Some(0),
                item_id: some("i"),
            },
        ),
        (
            // xAI leaves the time out.
            r#"{"type":"input_audio_buffer.speech_started","item_id":"i"}"#,
            ServerEvent::SpeechStarted {
                audio_start_ms: None,
                item_id: some("i"),
            },
        ),
        (
            r#"{"type":"input_audio_buffer.speech_stopped","audio_end_ms":2176,"item_id":"i"}"#,
            ServerEvent::SpeechStopped {
                audio_end_ms: Some(2176),
                item_id: some("i"),
            },
        ),
        (
            r#"{"type":"response.output_audio_transcript.delta","item_id":"i","delta":"H\u00e9 \"","obfuscation":"xxxx"}"#,
            ServerEvent::OutputTranscriptDelta {
                item_id: some("i"),
                delta: "Hé \"".into(),
            },
        ),
        (
            r#"{"type":"response.audio_transcript.done","item_id":"i","transcript":"日本"}"#,
            ServerEvent::OutputTranscriptDone {
                item_id: some("i"),
                transcript: "日本".into(),
            },
        ),
        (
            r#"{"type":"conversation.item.input_audio_transcription.delta","item_id":"i","content_index":0}"#,
            ServerEvent::InputTranscriptDelta {
                item_id: some("i"),
                delta: "".into(),
            },
        ),
        (
            r#"{"type":"conversation.item.input_audio_transcription.completed","item_id":"i","content_index":0,"transcript":"Hello.","usage":{"type":"duration","seconds":1},"status":"completed"}"#,
            ServerEvent::InputTranscriptCompleted {
                item_id: some("i"),
                transcript: "Hello.".into(),
                probability_mean: None,
            },
        ),
        (
            r#"{"type":"conversation.item.input_audio_transcription.failed","item_id":"i","error":{"code":"DeploymentNotFound","message":"m"}}"#,
            ServerEvent::InputTranscriptFailed {
                code: some("DeploymentNotFound"),
                message: some("m"),
            },
        ),
    ] {
        assert_event(text, expected);
    }
}

#[test]
fn errors_with_all_and_with_few_fields() {
    assert_event(
        r#"{"type":"error","event_id":"event_1","error":{"type":"invalid_request_error","code":"response_cancel_not_active","message":"Cancellation failed: no active response found","param":null,"event_id":"vr_000123"}}"#,
        ServerEvent::Error {
            kind: some("invalid_request_error"),
            code: some("response_cancel_not_active"),
            message: some("Cancellation failed: no active response found"),
            param: None,
            event_id: some("vr_000123"),
        },
    );
    let none = |message| ServerEvent::Error {
        kind: None,
        code: None,
        message,
        param: None,
        event_id: None,
    };
    assert_event(r#"{"type":"error"}"#, none(None));
    assert_event(r#"{"type":"error","error":"No."}"#, none(some("No.")));
}

#[test]
fn known_but_unused_events_are_told_from_unknown_ones() {
    for kind in [
        "conversation.created",
        "conversation.item.retrieved",
        "conversation.item.input_audio_transcription.segment",
        "conversation.item.input_audio_transcription.updated",
        "input_audio_buffer.cleared",
        "input_audio_buffer.dtmf_event_received",
        "output_audio_buffer.started",
        "response.output_text.delta",
        "response.text.done",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.mcp_call_arguments.delta",
        "response.mcp_call.in_progress",
        "mcp_list_tools.completed",
        "ping",
    ] {
        let text = format!(r#"{{"event_id":"e","item":{{"id":"i"}},"type":"{kind}"}}"#);
        assert_event(&text, ServerEvent::Ignored { kind: kind.into() });
    }
    for kind in [
        "",
        "response.cancelled",
        "pings",
        "Error",
        "response.output_audio",
        "session.output_audio.delta",
    ] {
        let text = format!(r#"{{"type":"{kind}"}}"#);
        assert_event(&text, ServerEvent::Unknown { kind: kind.into() });
    }
    // A made-up name of a known family does not travel whole either.
    let long = format!("conversation.item.{}", "x".repeat(1000));
    assert_event(
        &format!(r#"{{"type":"{long}"}}"#),
        ServerEvent::Unknown {
            kind: long[..64].into(),
        },
    );
}

#[test]
fn what_is_no_event_says_why() {
    for text in ["", "{", "{} {}", "\u{0}"] {
        assert_eq!(error(text), DecodeError::Syntax, "{text}");
    }
    assert_eq!(error("[]"), DecodeError::Shape("object"));
    assert_eq!(error("{}"), DecodeError::Shape("type"));
    assert_eq!(error(r#"{"type":7}"#), DecodeError::Shape("type"));
    for delta in ["", r#","delta":null"#, r#","delta":7"#] {
        let text = format!(r#"{{"type":"response.output_audio.delta"{delta}}}"#);
        assert_eq!(error(&text), DecodeError::Shape("delta"), "{text}");
    }
    for text in [
        r#"{"type":"ping","type":"error"}"#,
        r#"{"type":"response.created","response":{"id":"a","id":"b"}}"#,
        r#"{"type":"session.updated","session":{"audio":{"input":{"format":{"type":"audio/pcmu","type":"audio/pcm"}}}}}"#,
    ] {
        assert_eq!(error(text), DecodeError::DuplicateKey, "{text}");
    }
    for text in ["[".repeat(10_000), r#"{"type":"#.repeat(10_000)] {
        assert_eq!(error(&text), DecodeError::TooDeep);
    }
}

#[test]
fn a_huge_event_of_few_fields_is_read_and_one_of_many_is_refused() {
    let audio = "A,".repeat(1024 * 1024);
    let text = format!(
        r#"{{"type":"conversation.item.retrieved","item":{{"content":[{{"audio":"{audio}\"\\"}}]}}}}"#
    );
    assert_event(
        &text,
        ServerEvent::Ignored {
            kind: "conversation.item.retrieved".into(),
        },
    );
    let many = format!(r#"{{"type":"ping","x":[{}1]}}"#, "1,".repeat(1024 * 1024));
    assert_eq!(error(&many), DecodeError::TooDeep);
    // Cut inside a string, behind a backslash.
    let cut = format!(r#"{{"type":"{audio}\"#);
    assert_eq!(error(&cut), DecodeError::Syntax);
}

fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        5 => "[A-Za-z0-9_]{0,24}".prop_map(|text| format!("\"{text}\"")),
        4 => any::<u32>().prop_map(|n| n.to_string()),
        1 => Just("null".to_owned()),
        1 => Just("1.5".to_owned()),
        1 => Just("{}".to_owned()),
        1 => ".{0,6}".prop_map(|text| serde_json::to_string(&text).expect("a string")),
    ]
}

fn delta_like() -> impl Strategy<Value = String> {
    let keys: &[&str] = &[
        "event_id",
        "response_id",
        "item_id",
        "output_index",
        "content_index",
        "x",
    ];
    let member =
        (proptest::sample::select(keys), value()).prop_map(|(k, v)| format!("\"{k}\":{v}"));
    (
        proptest::collection::vec(member, 0..6),
        "[A-Za-z0-9+/]{0,200}={0,2}",
        any::<bool>(),
    )
        .prop_flat_map(|(mut members, delta, beta)| {
            let kind = if beta { "audio" } else { "output_audio" };
            members.push(format!("\"type\":\"response.{kind}.delta\""));
            members.push(format!("\"delta\":\"{delta}\""));
            Just(members).prop_shuffle()
        })
        .prop_map(|members| format!("{{{}}}", members.join(",")))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn both_paths_agree_on_shuffled_and_mutated_deltas(
        text in prop_oneof![delta_like(), Just(DELTA.to_owned())],
        edits in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>(), 0..3_u8), 0..3),
    ) {
        let mut bytes = text.into_bytes();
        assert_paths_agree(&bytes);
        for (index, byte, kind) in edits {
            let at = index.index(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => { bytes.remove(at); }
                _ => bytes.insert(at, b"\"\\{}[]:, 0"[usize::from(byte) % 10]),
            }
            if bytes.is_empty() { break; }
            assert_paths_agree(&bytes);
        }
    }

    #[test]
    fn no_bytes_panic_either_path(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        assert_paths_agree(&bytes);
    }
}

mod items;
