//! Outages of the model's connection, and the session that takes over before another expires.

use super::harness::*;
use crate::call::fact::{EndReason, Fact, Leg};
use crate::call::policy::{FirstSpeaker, OnModelUnavailable, Policy, Reconnect};
use crate::call::session::{Closed, Setup};
use crate::proto::realtime::settings::Settings;
use crate::proto::realtime::tool::{Builtin, Tool};
use crate::proto::ws::Role;
use crate::proto::ws::writer::Kind;
use std::sync::Arc;

pub(super) const WORDS: [&str; 6] = [
    r#"{"type":"input_audio_buffer.speech_started","item_id":"u1"}"#,
    r#"{"type":"input_audio_buffer.speech_stopped","item_id":"u1"}"#,
    r#"{"type":"input_audio_buffer.committed","item_id":"u1"}"#,
    r#"{"type":"conversation.item.input_audio_transcription.completed","item_id":"u1","transcript":"When do you open?"}"#,
    r#"{"type":"response.created","response":{"id":"resp_1"}}"#,
    r#"{"type":"response.output_audio_transcript.done","item_id":"a1","transcript":"At nine."}"#,
];
pub(super) const DONE: &str =
    r#"{"type":"response.done","response":{"id":"resp_1","status":"completed"}}"#;

pub(super) fn patient(change: impl FnOnce(&mut Policy)) -> Pair {
    let mut policy = Policy {
        reconnect: Reconnect::default(),
        ..Policy::default()
    };
    change(&mut policy);
    let mut pair = Pair::with(Setup {
        policy: Arc::new(policy),
        settings: Arc::new(Settings {
            tools: Builtin::ALL.map(Tool::builtin).to_vec(),
            ..Settings::default()
        }),
        ..setup()
    });
    pair.carrier(START);
    pair.connect();
    pair.model(CREATED);
    pair.model(UPDATED);
    pair.carrier.got.clear();
    pair.model.got.clear();
    pair
}

/// One turn, asked and answered.
pub(super) fn talk(pair: &mut Pair) {
    for event in WORDS {
        pair.newest(event);
    }
    pair.newest(&delta("a1", &payload(7)));
    pair.newest(DONE);
}

/// Events of these types on the connection that was dialled last.
pub(super) fn told(pair: &mut Pair) -> Vec<String> {
    let place = pair.place;
    let texts = pair.peer(place).texts();
    let kinds = texts.iter().filter(|text| !text.contains("buffer.append"));
    kinds
        .map(|text| {
            let value: serde_json::Value = serde_json::from_str(text).unwrap();
            let kind = value["type"].as_str().unwrap().to_owned();
            match value["item"]["content"][0]["text"].as_str() {
                Some(words) => format!("{} {words}", value["item"]["role"].as_str().unwrap()),
                None => kind,
            }
        })
        .collect()
}

pub(super) fn again(pair: &mut Pair) {
    pair.pass(4_000);
    assert_eq!(pair.dials, 1);
    pair.connect();
    pair.newest(CREATED);
    pair.newest(UPDATED);
}

#[test]
fn a_lost_model_is_dialled_again_and_told_the_conversation() {
    for how in 0..4 {
        let mut pair = patient(|_| {});
        talk(&mut pair);
        match how {
            0 => pair.close(Leg::Realtime, 1001),
            1 => pair.gone(Leg::Realtime, Closed::Eof),
            2 => pair.gone(Leg::Realtime, Closed::Broken),
            _ => pair.model(
                r#"{"type":"error","error":{"type":"invalid_request_error","code":"session_expired","message":"60 minutes"}}"#,
            ),
        }
        assert_eq!(pair.reason(), None, "way {how}");
        again(&mut pair);
        assert_eq!(
            pair.place,
            Leg::Standby,
            "the first is perhaps still being closed"
        );
        let told = told(&mut pair);
        assert_eq!(told[0], "session.update");
        assert_eq!(told[1], "user When do you open?");
        assert_eq!(told[2], "assistant At nine.");
        assert!(told[3].starts_with("system The connection was briefly interrupted."));
        assert_eq!(told.len(), 4, "nothing was owed: {told:?}");
        assert!(matches!(
            pair.facts.last(),
            Some(Fact::Reconnected {
                attempts: 1,
                items: 2,
                ..
            })
        ));
        // Both ways on the new connection; the old one is not heard any more.
        let said = pair.speak();
        assert!(pair.standby.texts().last().unwrap().contains(&said));
        pair.newest(&delta("b1", &payload(99)));
        assert!(
            pair.carrier
                .texts()
                .iter()
                .any(|text| text.contains(&payload(99)))
        );
        assert_eq!(pair.session.stats().reconnects, 1);
        pair.hang_up(EndReason::HungUpByOperator);
        pair.wind_up();
    }
}

#[test]
fn an_answer_that_was_owed_is_asked_for_once() {
    for events in [3, 4, 5] {
        let mut pair = patient(|_| {});
        for event in &WORDS[..events] {
            pair.model(event);
        }
        pair.gone(Leg::Realtime, Closed::Broken);
        again(&mut pair);
        let told = told(&mut pair);
        let asked = told.iter().filter(|event| *event == "response.create");
        assert_eq!(asked.count(), 1, "{told:?}");
        assert_eq!(told.last().unwrap(), "response.create");
    }
}

#[test]
fn the_callers_last_second_is_kept_and_the_rest_counted() {
    let mut pair = patient(|policy| policy.reconnect.base_ms = 4_000);
    pair.gone(Leg::Realtime, Closed::Broken);
    let spoken: Vec<String> = (0..200).map(|_| pair.speak()).collect();
    assert_eq!(pair.session.held_bytes(), 8_000);
    assert_eq!(pair.session.stats().inbound_bytes_dropped, 150 * 160);
    again(&mut pair);
    let appended: Vec<&str> = pair.standby.texts();
    let appended: Vec<&&str> = appended.iter().filter(|t| t.contains("append")).collect();
    assert_eq!(appended.len(), 50);
    for (event, payload) in appended.iter().zip(&spoken[150..]) {
        assert!(event.contains(payload));
    }
}

#[test]
fn tries_are_counted_until_a_response_is_completed() {
    let mut pair = patient(|_| {});
    for attempt in 1..=5 {
        let place = pair.place;
        pair.gone(place, Closed::Broken);
        assert_eq!(pair.reason(), None);
        pair.pass(4_000);
        assert_eq!(pair.dials, 1, "attempt {attempt}");
        pair.connect();
        pair.newest(CREATED);
        pair.newest(UPDATED);
    }
    let mut useful = pair;
    talk(&mut useful);
    let place = useful.place;
    useful.gone(place, Closed::Broken);
    assert!(matches!(
        useful.facts.last(),
        Some(Fact::Reconnecting { attempt: 1, .. })
    ));
    useful.hang_up(EndReason::Drained);
    useful.wind_up();

    let mut pair = patient(|_| {});
    for _ in 1..=5 {
        let place = pair.place;
        pair.gone(place, Closed::Broken);
        pair.pass(4_000);
        pair.connect();
        pair.newest(CREATED);
        pair.newest(UPDATED);
    }
    let place = pair.place;
    pair.gone(place, Closed::Broken);
    assert_eq!(pair.reason(), Some(EndReason::RealtimeLost));
    pair.wind_up();
}

#[test]
fn an_outage_ends_after_its_time_or_at_a_refusal_that_lasts() {
    let mut pair = patient(|policy| {
        policy.on_model_unavailable = OnModelUnavailable::Conference("help".to_owned());
    });
    pair.gone(Leg::Realtime, Closed::Broken);
    pair.pass(300);
    pair.refuse(false);
    assert_eq!(pair.reason(), Some(EndReason::RealtimeLost));
    assert!(pair.facts.contains(&Fact::ModelUnavailable {
        action: OnModelUnavailable::Conference("help".to_owned())
    }));
    pair.wind_up();

    // Refusals that pass, until the time is up.
    let mut pair = patient(|policy| policy.reconnect.tries = 20);
    pair.gone(Leg::Realtime, Closed::Broken);
    for _ in 0..20 {
        pair.pass(500);
        if pair.dials > 0 {
            pair.refuse(true);
        }
    }
    pair.pass(1_000);
    assert_eq!(pair.reason(), Some(EndReason::RealtimeLost));
    pair.wind_up();

    // A server that accepts and says nothing.
    let mut pair = patient(|_| {});
    pair.gone(Leg::Realtime, Closed::Broken);
    for _ in 0..30 {
        pair.pass(500);
        if pair.dials > 0 {
            pair.connect();
        }
    }
    assert_eq!(pair.reason(), Some(EndReason::RealtimeLost));
    assert!(pair.session.stats().reconnect_attempts >= 2);
    pair.wind_up();
}

#[test]
fn a_greeting_that_falls_due_in_an_outage_is_asked_for_once_after_it() {
    // In the middle of the waiting, of the set-up, and owed already.
    for stage in 0..3 {
        let mut pair = patient(|policy| {
            policy.first_speaker = FirstSpeaker::AfterMs(2_000);
            policy.reconnect.base_ms = 4_000;
        });
        pair.pass(1_990);
        if stage == 2 {
            pair.model(r#"{"type":"response.created","response":{"id":"resp_1"}}"#);
        }
        pair.gone(Leg::Realtime, Closed::Broken);
        if stage == 1 {
            while pair.dials == 0 && pair.at_ms < 2_980 {
                pair.pass(1);
            }
        }
        again(&mut pair);
        pair.pass(1_000);
        let told = told(&mut pair);
        assert_eq!(told, ["session.update", "response.create"], "{stage}");
    }
}

#[test]
fn the_warning_of_the_longest_duration_is_told_once_after_an_outage_it_falls_into() {
    let mut pair = patient(|policy| {
        policy.max_duration_secs = 20;
        policy.duration_warning_secs = 15;
        policy.reconnect.base_ms = 4_000;
    });
    talk(&mut pair);
    pair.pass(4_999);
    pair.gone(Leg::Realtime, Closed::Broken);
    pair.pass(1);
    again(&mut pair);
    pair.pass(1_000);
    let told = told(&mut pair);
    let warnings = told.iter().filter(|t| t.contains("The call ends in 15"));
    assert_eq!(warnings.count(), 1, "{told:?}");
    assert!(told[3].starts_with("system The call ends"), "{told:?}");
}

#[test]
fn a_warning_that_is_due_before_the_first_session_is_told_to_it() {
    let mut pair = Pair::with(Setup {
        policy: Arc::new(Policy {
            max_duration_secs: 20,
            duration_warning_secs: 15,
            ..Policy::default()
        }),
        ..setup()
    });
    pair.carrier(START);
    pair.pass(6_000);
    pair.connect();
    pair.model(CREATED);
    pair.model(UPDATED);
    let told = told(&mut pair);
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[1].starts_with("system The call ends"), "{told:?}");
}

#[test]
fn a_caller_who_hangs_up_in_an_outage_ends_the_call() {
    for step in 0..3 {
        let mut pair = patient(|_| {});
        pair.close(Leg::Realtime, 1011);
        if step > 0 {
            pair.pass(300);
            assert_eq!(pair.dials, 1);
        }
        if step > 1 {
            pair.connect();
        }
        pair.close(Leg::Carrier, 1000);
        if step == 1 {
            pair.session.handle_upstream(Ok(()), now(pair.at_ms));
            pair.standby.socket_open = true;
            pair.pump();
            assert!(!pair.standby.socket_open);
        }
        assert_eq!(pair.wind_up(), EndReason::CallerHungUp);
    }
}

/// The echo of a session that ends `secs` after the harness's clock began.
pub(super) fn updated(secs: u64) -> String {
    UPDATED.replace(
        r#""id":"sess_1""#,
        &format!(r#""id":"sess_1","expires_at":{}"#, 1_700_000_000 + secs),
    )
}

/// A ready call whose session ends in an hour, at the moment when the second one is dialled.
pub(super) fn aging() -> Pair {
    let mut pair = Pair::with(Setup {
        policy: Arc::new(Policy::default()),
        ..setup()
    });
    pair.carrier(START);
    pair.connect();
    pair.model(CREATED);
    pair.model(&updated(3_600));
    talk(&mut pair);
    while pair.at_ms < 3_420_000 {
        pair.pass(10_000.min(3_420_000 - pair.at_ms));
        for leg in [Leg::Carrier, Leg::Realtime] {
            let role = match leg {
                Leg::Carrier => Role::Client,
                _ => Role::Server,
            };
            pair.feed(leg, &frame(role, Kind::Pong, b""));
        }
    }
    assert_eq!(pair.dials, 1);
    assert_eq!(pair.place, Leg::Standby);
    pair
}

#[test]
fn a_session_is_replaced_before_it_expires_at_a_silent_moment() {
    let mut pair = aging();
    pair.connect();
    pair.newest(CREATED);
    pair.model(r#"{"type":"input_audio_buffer.speech_started","item_id":"u2"}"#);
    pair.newest(&updated(7_200));
    pair.pass(1_000);
    assert_eq!(told(&mut pair), ["session.update"], "the caller speaks");
    for event in [
        r#"{"type":"input_audio_buffer.speech_stopped","item_id":"u2"}"#,
        r#"{"type":"input_audio_buffer.committed","item_id":"u2"}"#,
        r#"{"type":"conversation.item.input_audio_transcription.completed","item_id":"u2","transcript":"Thanks."}"#,
        r#"{"type":"response.created","response":{"id":"resp_2"}}"#,
        r#"{"type":"response.output_audio_transcript.done","item_id":"a2","transcript":"Bye."}"#,
    ] {
        pair.model(event);
    }
    pair.model(&delta("a2", &encode(&[0x55; 8_000])));
    pair.model(r#"{"type":"response.done","response":{"id":"resp_2","status":"completed"}}"#);
    assert_eq!(
        told(&mut pair).len(),
        1,
        "a second of it is still to be heard"
    );
    pair.pass(1_300);
    assert_eq!(
        told(&mut pair),
        [
            "session.update",
            "user When do you open?",
            "assistant At nine.",
            "user Thanks.",
            "assistant Bye."
        ]
    );
    assert_eq!(pair.model.close_code(), Some(1000));
    assert!(matches!(
        pair.facts.last(),
        Some(Fact::RolledOver { items: 4 })
    ));
    let said = pair.speak();
    assert!(pair.standby.texts().last().unwrap().contains(&said));
    // What the old one still says is not heard.
    // It is counted all the same.
    pair.carrier.got.clear();
    let before = pair.session.stats().clone();
    pair.model(&delta("a9", &payload(3)));
    assert!(pair.carrier.got.is_empty());
    let stats = pair.session.stats();
    assert_eq!(stats.outbound_bytes, before.outbound_bytes + 160);
    assert_eq!(
        stats.outbound_bytes_dropped,
        before.outbound_bytes_dropped + 160
    );
    pair.close(Leg::Realtime, 1000);
    pair.gone(Leg::Realtime, Closed::Eof);
    assert_eq!(pair.reason(), None);
    pair.close(Leg::Carrier, 1000);
    assert_eq!(pair.wind_up(), EndReason::CallerHungUp);
}

#[test]
fn a_standby_takes_over_at_once_when_the_first_is_lost() {
    for stage in 0..4 {
        let mut pair = aging();
        if stage > 0 {
            pair.connect();
        }
        if stage > 1 {
            pair.newest(CREATED);
        }
        if stage > 2 {
            pair.model(r#"{"type":"input_audio_buffer.speech_started","item_id":"u2"}"#);
            pair.newest(&updated(7_200));
        }
        pair.gone(Leg::Realtime, Closed::Broken);
        assert_eq!(pair.reason(), None, "stage {stage}");
        if stage == 0 {
            pair.connect();
        }
        if stage < 2 {
            pair.newest(CREATED);
        }
        pair.newest(&updated(7_200));
        assert!(
            matches!(pair.facts.last(), Some(Fact::Reconnected { gap_ms: 0, .. })),
            "stage {stage}: {:?}",
            pair.facts.last()
        );
        let said = pair.speak();
        assert!(pair.standby.texts().last().unwrap().contains(&said));
        pair.close(Leg::Carrier, 1000);
        pair.wind_up();
    }
}

#[test]
fn a_standby_that_fails_harms_nothing_and_is_tried_again() {
    let mut pair = aging();
    pair.refuse(true);
    pair.pass(15_000);
    assert_eq!(pair.dials, 1);
    pair.connect();
    pair.newest(CREATED);
    pair.newest(r#"{"type":"error","error":{"type":"server_error","message":"no"}}"#);
    assert_eq!(pair.standby.close_code(), Some(1000));
    pair.speak();
    assert_eq!(pair.reason(), None);
    pair.close(Leg::Carrier, 1000);
    assert_eq!(pair.wind_up(), EndReason::CallerHungUp);
}
