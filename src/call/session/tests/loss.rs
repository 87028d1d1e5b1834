//! What makes a connection to the model useless, what is owed after it, and what is still heard.

use super::harness::*;
use super::outage::*;
use crate::call::fact::{EndReason, Fact, Leg};
use crate::call::policy::{FirstSpeaker, Policy};
use crate::call::session::{Closed, Setup};
use crate::call::state::Phase;
use crate::proto::realtime::settings::Settings;
use crate::proto::ws::Role;
use crate::proto::ws::writer::Kind;
use std::sync::Arc;

const PCM: &str = r#"{"type":"session.updated","session":{"id":"sess_1","audio":{"input":{"format":{"type":"audio/pcm","rate":24000}},"output":{"format":{"type":"audio/pcm","rate":24000}}}}}"#;

fn error(kind: &str, code: &str, event_id: &str) -> String {
    format!(
        r#"{{"type":"error","error":{{"type":"{kind}","code":{code},"message":"m","event_id":{event_id}}}}}"#
    )
}

/// How often a response was asked for on the connection that was dialled last.
fn creates(pair: &mut Pair) -> usize {
    told(pair)
        .iter()
        .filter(|event| *event == "response.create")
        .count()
}

#[test]
fn a_model_that_breaks_the_protocol_is_left_for_another_connection() {
    let event = br#"{"type":"ping"}"#;
    for (code, bytes) in [
        (1002, frame(Role::Client, Kind::Text, event)),
        (1007, frame(Role::Server, Kind::Text, b"{\"\xff\"}")),
        (1009, vec![0x81, 127, 0, 0, 0, 0, 0x01, 0x10, 0, 0]),
    ] {
        let mut pair = patient(|_| {});
        talk(&mut pair);
        pair.feed(Leg::Realtime, &bytes);
        assert_eq!(pair.model.close_code(), Some(code));
        assert_eq!(pair.reason(), None, "{code}");
        again(&mut pair);
        assert!(matches!(pair.facts.last(), Some(Fact::Reconnected { .. })));
        assert_eq!(pair.session.stats().violations[1].iter().sum::<u64>(), 1);
        pair.close(Leg::Carrier, 1000);
        pair.wind_up();
    }
    // Messages that are no JSON: fifty on each connection, not in all.
    let mut pair = patient(|_| {});
    for n in 1..=3 {
        for _ in 0..49 {
            pair.newest("{");
        }
        assert_eq!(pair.dials, 0, "{n}");
        pair.newest("{");
        let place = pair.place;
        assert_eq!(pair.peer(place).close_code(), Some(1007));
        again(&mut pair);
    }
    pair.close(Leg::Carrier, 1000);
    pair.wind_up();
}

#[test]
fn a_wrong_format_is_tried_once_more_and_ends_the_call_when_it_is_confirmed_again() {
    for good_between in [false, true] {
        let mut pair = Pair::with(Setup {
            policy: Arc::new(Policy::default()),
            ..setup()
        });
        pair.carrier(START);
        pair.connect();
        for n in 0..2 {
            pair.newest(CREATED);
            assert_eq!(pair.reason(), None);
            pair.newest(PCM);
            if n == 1 {
                break;
            }
            pair.pass(4_000);
            pair.connect();
            if good_between {
                pair.newest(CREATED);
                pair.newest(UPDATED);
                pair.newest(PCM);
                assert_eq!(pair.reason(), None, "it had been right in between");
                pair.pass(4_000);
                pair.connect();
            }
        }
        assert!(
            pair.facts
                .iter()
                .any(|fact| matches!(fact, Fact::ModelUnavailable { .. }))
        );
        assert_eq!(pair.wind_up(), EndReason::RealtimeSetup);
    }
}

#[test]
fn an_error_that_nobody_can_place_while_a_try_is_set_up_costs_that_try_only() {
    for opened in [false, true] {
        for event_id in ["null", r#""vr_truncate_3""#] {
            let mut pair = patient(|_| {});
            talk(&mut pair);
            pair.gone(Leg::Realtime, Closed::Broken);
            pair.pass(4_000);
            pair.connect();
            if opened {
                pair.newest(CREATED);
            }
            pair.newest(&error("invalid_request_error", "null", event_id));
            assert_eq!(pair.reason(), None, "{event_id}");
            again(&mut pair);
            assert!(matches!(
                pair.facts.last(),
                Some(Fact::Reconnected { attempts: 2, .. })
            ));
            pair.close(Leg::Carrier, 1000);
            pair.wind_up();
        }
    }
}

#[test]
fn what_would_be_refused_again_ends_the_call_at_once() {
    let key = error("invalid_request_error", r#""invalid_api_key""#, "null");
    let quota = error("insufficient_quota", "null", "null");
    let update = error("invalid_request_error", "null", r#""vr_session_1""#);
    for (event, first, later) in [
        (
            &key,
            EndReason::RealtimeUnavailable,
            EndReason::RealtimeLost,
        ),
        (
            &quota,
            EndReason::RealtimeUnavailable,
            EndReason::RealtimeLost,
        ),
        (&update, EndReason::RealtimeSetup, EndReason::RealtimeSetup),
    ] {
        for again in [false, true] {
            let mut pair = Pair::with(Setup {
                policy: Arc::new(Policy::default()),
                ..setup()
            });
            pair.carrier(START);
            pair.connect();
            if again {
                pair.newest(CREATED);
                pair.newest(UPDATED);
                pair.gone(Leg::Realtime, Closed::Broken);
                pair.pass(4_000);
                pair.connect();
            }
            pair.newest(CREATED);
            pair.newest(event);
            let reason = if again { later } else { first };
            assert_eq!(pair.reason(), Some(reason), "{event}");
            assert_eq!(pair.dials, 0);
            pair.wind_up();
        }
    }
}

#[test]
fn a_loss_before_the_first_session_is_confirmed_is_tried_again_within_the_first_ten_seconds() {
    for stage in 0..3 {
        let mut pair = Pair::with(Setup {
            policy: Arc::new(Policy {
                first_speaker: FirstSpeaker::Agent,
                ..Policy::default()
            }),
            ..setup()
        });
        pair.carrier(START);
        pair.connect();
        if stage > 0 {
            pair.newest(CREATED);
        }
        match stage {
            2 => pair.newest(&error("server_error", "null", "null")),
            _ => pair.gone(Leg::Realtime, Closed::Eof),
        }
        assert_eq!(pair.reason(), None, "stage {stage}");
        assert_eq!(pair.distrusted, 1);
        // Nothing of the caller's first words is lost.
        for _ in 0..100 {
            pair.speak();
        }
        assert_eq!(pair.session.held_bytes(), 16_000);
        again(&mut pair);
        assert_eq!(told(&mut pair), ["session.update", "response.create"]);
        assert_eq!(pair.session.phase(), Phase::Ready);
        pair.close(Leg::Carrier, 1000);
        pair.wind_up();
    }
    // Never: then the call ends as one whose model was not to be had.
    let mut pair = Pair::with(Setup {
        policy: Arc::new(Policy::default()),
        ..setup()
    });
    pair.carrier(START);
    let began = pair.at_ms;
    while pair.reason().is_none() {
        if pair.dials > 0 {
            pair.connect();
        }
        pair.pass(100);
        let place = pair.place;
        if pair.at_ms.is_multiple_of(500) {
            pair.gone(place, Closed::Eof);
        }
    }
    assert!(pair.at_ms - began <= 10_100);
    assert_eq!(pair.wind_up(), EndReason::RealtimeUnavailable);
    assert!(
        pair.facts
            .iter()
            .any(|fact| matches!(fact, Fact::ModelUnavailable { .. }))
    );
    // One that connects and says nothing does not use up all of the time.
    let mut pair = Pair::with(Setup {
        policy: Arc::new(Policy::default()),
        ..setup()
    });
    pair.carrier(START);
    pair.connect();
    pair.pass(5_300);
    assert_eq!(pair.dials, 1);
    pair.connect();
    pair.pass(5_000);
    assert_eq!(pair.wind_up(), EndReason::RealtimeSetup);
}

#[test]
fn an_endpoint_is_distrusted_when_its_connection_brought_no_response() {
    let mut pair = patient(|_| {});
    talk(&mut pair);
    pair.gone(Leg::Realtime, Closed::Broken);
    assert_eq!(pair.distrusted, 0, "it had been of use");
    again(&mut pair);
    let place = pair.place;
    pair.gone(place, Closed::Broken);
    assert_eq!(pair.distrusted, 1);
    again(&mut pair);
    pair.close(Leg::Carrier, 1000);
    pair.wind_up();
}

#[test]
fn speech_that_was_open_at_the_loss_is_answered_after_it() {
    for answers in [true, false] {
        let mut settings = Settings::default();
        settings.turn_detection.create_response = answers;
        let mut pair = Pair::with(Setup {
            policy: Arc::new(Policy::default()),
            settings: Arc::new(settings),
            ..setup()
        });
        pair.carrier(START);
        pair.connect();
        pair.newest(CREATED);
        pair.newest(UPDATED);
        talk(&mut pair);
        pair.pass(100);
        pair.newest(r#"{"type":"input_audio_buffer.speech_started","item_id":"u2"}"#);
        pair.gone(Leg::Realtime, Closed::Broken);
        again(&mut pair);
        assert_eq!(creates(&mut pair), usize::from(answers));
        let told = told(&mut pair);
        assert!(
            told[3].contains("while the caller was speaking"),
            "{told:?}"
        );
        // It is in the one slot: nothing else is asked for beside it.
        pair.carrier(&format!(
            r##"{{"event":"dtmf","streamSid":"{SID}","dtmf":{{"digit":"#"}}}}"##
        ));
        assert_eq!(creates(&mut pair), 1);
        pair.close(Leg::Carrier, 1000);
        pair.wind_up();
    }
}

/// A goodbye of `ms` that plays when the model goes, said by us or by the model's `end_call`.
fn farewell(by_model: bool, ms: usize) -> Pair {
    let mut pair = patient(|policy| policy.silence.hang_up_after_ms = 5_000);
    if by_model {
        pair.newest(r#"{"type":"response.created","response":{"id":"resp_1"}}"#);
        pair.newest(&delta("bye", &encode(&vec![0x55; ms * 8])));
        pair.newest(r#"{"type":"response.output_item.done","response_id":"resp_1","item":{"id":"i","type":"function_call","status":"completed","name":"end_call","call_id":"c","arguments":"{}"}}"#);
        pair.newest(DONE);
    } else {
        pair.pass(5_000);
        assert_eq!(creates(&mut pair), 1);
        pair.newest(r#"{"type":"response.created","response":{"id":"resp_1"}}"#);
        pair.newest(&delta("bye", &encode(&vec![0x55; ms * 8])));
    }
    pair
}

#[test]
fn a_goodbye_that_plays_when_the_model_is_lost_is_heard_to_its_end() {
    for by_model in [true, false] {
        for how in 0..3 {
            let reason = if by_model {
                EndReason::EndedByModel
            } else {
                EndReason::Silence
            };
            let mut pair = farewell(by_model, 30_000);
            match how {
                0 => pair.gone(Leg::Realtime, Closed::Broken),
                1 => pair.close(Leg::Realtime, 1011),
                _ => pair.feed(Leg::Realtime, &frame(Role::Client, Kind::Text, b"{}")),
            }
            for _ in 0..298 {
                pair.speak();
                pair.pass(100);
                pair.feed(Leg::Carrier, &frame(Role::Client, Kind::Pong, b""));
                assert_eq!((pair.reason(), pair.dials), (None, 0), "{reason:?}");
            }
            pair.pass(800);
            assert_eq!(pair.reason(), Some(reason));
            assert_eq!(pair.carrier.close_code(), Some(1000));
            let heard = pair.facts.iter().any(|fact| {
                matches!(
                    fact,
                    Fact::Heard {
                        heard_ms: 30_000,
                        total_ms: 30_000,
                        ..
                    }
                )
            });
            assert!(heard, "{:?}", pair.facts);
            pair.wind_up();
        }
    }
    // None of it has come: there is nobody left to say it.
    let mut pair = patient(|policy| policy.silence.hang_up_after_ms = 5_000);
    pair.pass(5_000);
    pair.gone(Leg::Realtime, Closed::Broken);
    assert_eq!(pair.wind_up(), EndReason::Silence);
}

#[test]
fn an_answer_in_place_of_a_lost_nudge_begins_the_silence_anew() {
    let mut pair = patient(|policy| {
        policy.silence.nudge_after_ms = 1_000;
        policy.silence.hang_up_after_ms = 3_000;
    });
    pair.pass(1_000);
    assert_eq!(creates(&mut pair), 1);
    pair.gone(Leg::Realtime, Closed::Broken);
    again(&mut pair);
    assert_eq!(creates(&mut pair), 1, "what was lost is owed");
    pair.newest(
        r#"{"type":"response.created","response":{"id":"resp_2","metadata":{"voxrelay":"owed"}}}"#,
    );
    pair.newest(&delta("a1", &encode(&[0x55; 8_000])));
    pair.newest(r#"{"type":"response.done","response":{"id":"resp_2","status":"completed"}}"#);
    // A second in which it is heard, and then all of the silence again.
    pair.pass(1_900);
    assert_eq!(creates(&mut pair), 1);
    pair.pass(200);
    assert_eq!(creates(&mut pair), 2, "the first stage, not the last");
    assert!(
        !pair
            .facts
            .iter()
            .any(|fact| matches!(fact, Fact::Goodbye { .. }))
    );
    pair.close(Leg::Carrier, 1000);
    pair.wind_up();
}

#[test]
fn what_was_cut_while_the_model_was_away_is_told_as_it_was_heard() {
    let mut pair = patient(|policy| policy.barge_in.confirm_ms = 400);
    pair.newest(r#"{"type":"response.created","response":{"id":"resp_1"}}"#);
    pair.newest(r#"{"type":"response.output_audio_transcript.done","item_id":"a1","transcript":"One two three four."}"#);
    pair.newest(&delta("a1", &encode(&[0x55; 8_000])));
    pair.pass(500);
    pair.newest(r#"{"type":"input_audio_buffer.speech_started","item_id":"u1"}"#);
    pair.gone(Leg::Realtime, Closed::Broken);
    again(&mut pair);
    let told = told(&mut pair);
    assert_eq!(told[1], "assistant One two", "{told:?}");
    assert!(told[2].starts_with("system The connection"), "{told:?}");
    assert_eq!(pair.session.paused_bytes(), 0);
    pair.close(Leg::Carrier, 1000);
    pair.wind_up();
}

#[test]
fn what_plays_on_is_told_as_heard_and_put_right_when_the_caller_cuts_it() {
    let mut pair = patient(|_| {});
    pair.newest(r#"{"type":"response.created","response":{"id":"resp_1"}}"#);
    pair.newest(r#"{"type":"response.output_audio_transcript.done","item_id":"a1","transcript":"One two three four."}"#);
    pair.newest(&delta("a1", &encode(&[0x55; 160_000])));
    pair.newest(DONE);
    pair.gone(Leg::Realtime, Closed::Broken);
    again(&mut pair);
    assert_eq!(told(&mut pair)[1], "assistant One two three four.");
    pair.pass(10_000 - (pair.at_ms - 1_000));
    pair.newest(r#"{"type":"input_audio_buffer.speech_started","item_id":"u1"}"#);
    let last = told(&mut pair).pop().unwrap();
    assert_eq!(
        last,
        "system Your last words were cut off. Only this of them was heard: One two"
    );
    // Nobody there knows the item, so it is not truncated; and the next session is told what was heard.
    assert_eq!(pair.session.stats().truncates, 0);
    let place = pair.place;
    pair.gone(place, Closed::Broken);
    again(&mut pair);
    assert_eq!(told(&mut pair)[1], "assistant One two");
    pair.close(Leg::Carrier, 1000);
    pair.wind_up();
}

#[test]
fn a_second_session_whose_dial_is_never_answered_is_given_up_and_dialled_again() {
    let mut pair = aging();
    let alive = |pair: &mut Pair, ms| {
        pair.pass(ms);
        pair.feed(Leg::Carrier, &frame(Role::Client, Kind::Pong, b""));
        pair.feed(Leg::Realtime, &frame(Role::Server, Kind::Pong, b""));
    };
    alive(&mut pair, 10_000);
    assert_eq!(pair.dials, 0, "cancelled");
    // An answer that comes all the same is nobody's.
    pair.session.handle_upstream(Ok(()), now(pair.at_ms));
    pair.pump();
    alive(&mut pair, 10_000);
    alive(&mut pair, 5_000);
    assert_eq!(pair.dials, 1);
    pair.connect();
    pair.newest(CREATED);
    pair.newest(&updated(7_200));
    assert!(matches!(pair.facts.last(), Some(Fact::RolledOver { .. })));
    pair.close(Leg::Carrier, 1000);
    pair.wind_up();
}
