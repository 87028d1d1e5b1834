//! The model's events: its audio to the caller, marks, transcripts, errors.

use super::harness::*;
use crate::base::id::{ItemId, ResponseId};
use crate::call::fact::{Drop, EndReason, Fact, Leg, Speaker};
use crate::proto::ws::Role;
use crate::proto::ws::writer::Kind;

fn media_out(payload: &str) -> String {
    format!(r#"{{"event":"media","streamSid":"{SID}","media":{{"payload":"{payload}"}}}}"#)
}

fn mark_out(name: &str) -> String {
    format!(r#"{{"event":"mark","streamSid":"{SID}","mark":{{"name":"{name}"}}}}"#)
}

fn mark_in(name: &str) -> String {
    format!(
        r#"{{"event":"mark","sequenceNumber":"88","streamSid":"{SID}","mark":{{"name":"{name}"}}}}"#
    )
}

fn done(item: &str) -> String {
    format!(
        r#"{{"type":"response.output_audio.done","event_id":"e","response_id":"resp_1","item_id":"{item}","output_index":0,"content_index":0}}"#
    )
}

fn audio(ms: usize) -> String {
    encode(&vec![0x33; ms * 8])
}

#[test]
fn deltas_become_media_with_their_payload_untouched_and_marks_between() {
    let mut pair = Pair::ready();
    let a = audio(250);
    let b = audio(100);
    for payload in [&a, &b, &b] {
        pair.model(&delta("item_1", payload));
    }
    pair.model(&done("item_1"));
    assert_eq!(
        pair.carrier.texts(),
        [
            media_out(&a),
            mark_out("g0.1.250"),
            media_out(&b),
            media_out(&b),
            mark_out("g0.1.450"),
        ]
    );
    let stats = pair.session.stats();
    assert_eq!((stats.outbound_frames, stats.outbound_frames_sent), (3, 3));
    assert_eq!(stats.outbound_bytes_sent, 450 * 8);
    assert_eq!(stats.marks_sent, 2);
}

#[test]
fn the_end_of_an_item_has_a_mark_also_when_the_next_one_just_begins() {
    let mut pair = Pair::ready();
    let short = audio(60);
    pair.model(&delta("item_1", &short));
    pair.model(&delta("item_2", &short));
    pair.model(&done("item_1"));
    pair.model(&done("item_2"));
    assert_eq!(
        pair.carrier.texts(),
        [
            media_out(&short),
            mark_out("g0.1.60"),
            media_out(&short),
            mark_out("g0.2.60"),
        ]
    );
}

#[test]
fn no_mark_goes_before_audio() {
    let mut pair = Pair::ready();
    pair.model(&done("item_1"));
    pair.model(&delta("item_1", ""));
    pair.model(&done("item_1"));
    assert!(pair.carrier.got.is_empty());
}

#[test]
fn a_mark_comes_back_once_and_unknown_ones_are_counted() {
    let mut pair = Pair::ready();
    pair.model(&delta("item_1", &audio(200)));
    pair.carrier(&mark_in("g0.1.200"));
    pair.carrier(&mark_in("g0.1.200"));
    pair.carrier(&mark_in("hello"));
    pair.carrier(&format!(
        r#"{{"event":"mark","streamSid":"{SID}","mark":{{}}}}"#
    ));
    let returned: Vec<_> = pair
        .facts
        .iter()
        .filter_map(|fact| match fact {
            Fact::MarkReturned { name } => Some(name.as_str().to_owned()),
            _ => None,
        })
        .collect();
    assert_eq!(returned, ["g0.1.200"]);
    assert_eq!(pair.dropped(Drop::UnknownMark), 3);
    assert_eq!(pair.session.stats().marks_returned, 1);
}

#[test]
fn a_delta_that_is_no_base64_is_dropped_and_counted() {
    let mut pair = Pair::ready();
    for bad in ["A", "AA=A", "!!!!", "AAAA=", "AA\\u0041A!"] {
        pair.model(&delta("item_1", bad));
    }
    assert!(pair.carrier.got.is_empty());
    assert_eq!(pair.dropped(Drop::BadBase64), 5);
    assert_eq!(pair.reason(), None);
}

#[test]
fn an_escaped_delta_takes_the_slow_path_and_arrives_the_same() {
    let mut pair = Pair::ready();
    pair.model(&delta("item_1", r"AAA\u0041"));
    assert_eq!(pair.carrier.texts(), [media_out("AAAA")]);
    assert_eq!(pair.session.stats().scan_fallbacks, 1);
}

#[test]
fn audio_before_the_formats_are_confirmed_is_dropped_and_counted() {
    let mut pair = Pair::started();
    pair.connect();
    pair.model(CREATED);
    pair.model(&delta("item_1", &audio(20)));
    assert!(pair.carrier.got.is_empty());
    assert_eq!(pair.dropped(Drop::NoStream), 1);
    assert_eq!(pair.session.stats().outbound_bytes_dropped, 160);
}

#[test]
fn the_first_audio_of_each_response_is_reported() {
    let mut pair = Pair::ready();
    for _ in 0..3 {
        pair.model(&delta("item_1", &audio(20)));
    }
    pair.model(&delta("item_2", &audio(20)).replace("resp_1", "resp_2"));
    let first: Vec<_> = pair
        .facts
        .iter()
        .filter_map(|fact| match fact {
            Fact::FirstAudio { response_id } => Some(response_id.as_str().to_owned()),
            _ => None,
        })
        .collect();
    assert_eq!(first, ["resp_1", "resp_2"]);
}

#[test]
fn turns_responses_and_transcripts_are_reported_in_order() {
    let mut pair = Pair::ready();
    pair.facts.clear();
    for event in [
        r#"{"type":"input_audio_buffer.speech_started","audio_start_ms":120,"item_id":"item_u"}"#,
        r#"{"type":"input_audio_buffer.speech_stopped","audio_end_ms":900,"item_id":"item_u"}"#,
        r#"{"type":"response.created","response":{"id":"resp_1","status":"in_progress"}}"#,
        r#"{"type":"response.output_audio_transcript.delta","item_id":"item_a","delta":"Hel","obfuscation":"xyz"}"#,
        r#"{"type":"response.output_audio_transcript.done","item_id":"item_a","transcript":"Hello"}"#,
        r#"{"type":"conversation.item.input_audio_transcription.completed","item_id":"item_u","content_index":0,"transcript":"こんにちは"}"#,
        r#"{"type":"response.done","response":{"id":"resp_1","status":"completed","status_details":null}}"#,
        r#"{"type":"rate_limits.updated","rate_limits":[]}"#,
    ] {
        pair.model(event);
    }
    let item = |id| ItemId::new(id).unwrap();
    let response_id = ResponseId::new("resp_1").unwrap();
    assert_eq!(
        pair.facts,
        [
            Fact::SpeechStarted {
                audio_start_ms: Some(120),
                item_id: Some(item("item_u")),
            },
            Fact::SpeechStopped {
                audio_end_ms: Some(900),
                item_id: Some(item("item_u")),
            },
            Fact::ResponseCreated { response_id },
            Fact::TranscriptDelta {
                speaker: Speaker::Assistant,
                item_id: item("item_a"),
                text: "Hel".to_owned()
            },
            Fact::Transcript {
                speaker: Speaker::Assistant,
                item_id: item("item_a"),
                text: "Hello".to_owned(),
                confidence: None,
            },
            Fact::Transcript {
                speaker: Speaker::User,
                item_id: item("item_u"),
                text: "こんにちは".to_owned(),
                confidence: None,
            },
            Fact::ResponseDone {
                response_id,
                status: "completed".to_owned(),
                detail: None,
                usage: None,
            },
        ]
    );
}

#[test]
fn items_are_reported_byte_by_byte_when_they_are_complete() {
    let mut pair = Pair::ready();
    pair.facts.clear();
    let json = r#"{ "id":"item_u", "type":"message","role":"user" , "n":1.10,"content":[{"transcript":"\u306f\u3044 はい"}] }"#;
    pair.model(&format!(
        r#"{{"type":"conversation.item.added","item":{json}}}"#
    ));
    assert_eq!(pair.facts, []);
    pair.model(&format!(
        r#"{{"event_id":"e","item": {json} ,"type":"conversation.item.done"}}"#
    ));
    let item_id = ItemId::new("item_u");
    let json = json.to_owned();
    assert_eq!(pair.facts, [Fact::Item { item_id, json }]);
}

#[test]
fn a_failed_response_reports_its_error_and_the_call_goes_on() {
    let mut pair = Pair::ready();
    pair.facts.clear();
    pair.model(r#"{"type":"response.done","response":{"id":"resp_1","status":"failed","status_details":{"type":"failed","error":{"type":"tokens","code":"rate_limit_exceeded","message":"slow down"}}}}"#);
    assert_eq!(
        pair.facts,
        [
            Fact::RealtimeError {
                code: "rate_limit_exceeded".to_owned(),
                message: "slow down".to_owned()
            },
            Fact::ResponseDone {
                response_id: ResponseId::new("resp_1").unwrap(),
                status: "failed".to_owned(),
                detail: Some("rate_limit_exceeded".to_owned()),
                usage: None,
            }
        ]
    );
    assert_eq!(pair.reason(), None);
}

#[test]
fn an_error_in_a_ready_session_is_reported_and_survived() {
    let mut pair = Pair::ready();
    for code in [
        "response_cancel_not_active",
        "invalid_value",
        "item_create_duplicate_item_id",
    ] {
        pair.model(&format!(
            r#"{{"type":"error","error":{{"type":"invalid_request_error","code":"{code}","message":"m","event_id":null}}}}"#
        ));
        assert!(matches!(
            pair.facts.last(),
            Some(Fact::RealtimeError { .. })
        ));
    }
    assert_eq!(pair.reason(), None);
}

#[test]
fn an_expired_session_ends_the_call() {
    let mut pair = Pair::ready();
    pair.model(r#"{"type":"error","error":{"type":"invalid_request_error","code":"session_expired","message":"60 minutes"}}"#);
    pair.close(Leg::Realtime, 1001);
    assert_eq!(pair.carrier.close_code(), Some(1011));
    assert_eq!(pair.wind_up(), EndReason::RealtimeLost);
}

#[test]
fn unknown_events_and_fields_are_counted_and_never_fatal() {
    let mut pair = Pair::ready();
    for i in 0..200 {
        pair.model(&format!(
            r#"{{"type":"response.telepathy.{i}","x":[1,{{}}]}}"#
        ));
    }
    assert_eq!(pair.dropped(Drop::UnknownEvent), 200);
    let text = delta("item_1", "AAAA").replace(r#""delta":"#, r#""mood":"good","delta":"#);
    pair.model(&text);
    assert_eq!(pair.session.stats().outbound_frames_sent, 1);
    assert_eq!(pair.session.stats().unknown_fields, 1);
    assert_eq!(pair.reason(), None);
}

#[test]
fn pings_are_answered_with_their_payload_also_between_fragments() {
    let mut pair = Pair::ready();
    let text = delta("item_1", &audio(20));
    let (one, two) = text.as_bytes().split_at(30);
    // FIN off, text; ping; FIN on, continuation. Server frames are not masked.
    let mut bytes = vec![0x01, one.len() as u8];
    bytes.extend_from_slice(one);
    bytes.extend(frame(Role::Server, Kind::Ping, b"are you there"));
    bytes.extend([0x80, 126, (two.len() >> 8) as u8, two.len() as u8]);
    bytes.extend_from_slice(two);
    pair.feed(Leg::Realtime, &bytes);
    assert_eq!(pair.model.got, [Got::Pong(b"are you there".to_vec())]);
    assert_eq!(pair.carrier.texts(), [media_out(&audio(20))]);
    pair.feed(Leg::Carrier, &frame(Role::Client, Kind::Ping, b"x"));
    assert_eq!(pair.carrier.got.last(), Some(&Got::Pong(b"x".to_vec())));
}

#[test]
fn ids_that_are_too_long_are_cut_and_stay_one_item() {
    let mut pair = Pair::ready();
    let long = "é".repeat(100);
    for _ in 0..4 {
        pair.model(&delta(&long, &audio(50)));
    }
    pair.model(&done(&long));
    assert_eq!(pair.session.stats().marks_sent, 1);
    assert_eq!(
        pair.carrier.texts().last(),
        Some(&mark_out("g0.1.200").as_str())
    );
}

#[test]
fn a_carrier_that_returns_no_mark_is_noted_once_as_one_way() {
    let notes = |pair: &Pair| {
        let one_way =
            |fact: &&Fact| matches!(fact, Fact::Note { text } if text.contains("one-way"));
        pair.facts.iter().filter(one_way).count()
    };
    for returned in [false, true] {
        let mut pair = Pair::ready();
        pair.model(&delta("item_1", &audio(200)));
        pair.pass(4_999);
        assert_eq!(notes(&pair), 0);
        if returned {
            pair.carrier(&mark_in("g0.1.200"));
        }
        pair.pass(1);
        pair.model(&delta("item_1", &audio(200)));
        pair.pass(6_000);
        assert_eq!(notes(&pair), usize::from(!returned));
        assert_eq!(pair.reason(), None);
    }
}

#[test]
fn what_the_account_has_left_is_reported() {
    let mut pair = Pair::ready();
    pair.model(
        r#"{"type":"rate_limits.updated","event_id":"e","rate_limits":[{"name":"requests","limit":100,"remaining":0,"reset_seconds":1.5},{"name":"tokens","remaining":7},{"name":"smiles","remaining":0}]}"#,
    );
    let limit = |name, remaining, reset_ms| Fact::RateLimit {
        name,
        remaining,
        reset_ms,
    };
    let expected = [limit("requests", 0, Some(1500)), limit("tokens", 7, None)];
    assert!(pair.facts.ends_with(&expected), "{:?}", pair.facts);
}
