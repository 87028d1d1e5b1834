//! The last words: they are heard before the call ends, however late the carrier takes them, and the call does end.

use super::barge_in::{audio, created, done};
use super::harness::*;
use crate::call::fact::{EndReason, Leg};
use crate::call::policy::Policy;
use crate::call::session::{Closed, Setup};
use crate::proto::realtime::settings::Settings;
use crate::proto::realtime::tool::{Builtin, Tool};
use std::sync::Arc;

fn ready(change: impl FnOnce(&mut Policy)) -> Pair {
    let mut policy = Policy::default();
    change(&mut policy);
    Pair::ready_with(Setup {
        policy: Arc::new(policy),
        settings: Arc::new(Settings {
            tools: Builtin::ALL.map(Tool::builtin).to_vec(),
            ..Settings::default()
        }),
        ..setup()
    })
}

fn key(pair: &mut Pair) {
    pair.carrier(&format!(
        r#"{{"event":"dtmf","streamSid":"{SID}","dtmf":{{"track":"inbound_track","digit":"5"}}}}"#
    ));
}

fn mark(pair: &mut Pair, name: &str) {
    pair.carrier(&format!(
        r#"{{"event":"mark","streamSid":"{SID}","mark":{{"name":"{name}"}}}}"#
    ));
}

fn creates(pair: &Pair) -> usize {
    let texts = pair.model.texts();
    let creates = texts.iter().filter(|t| t.contains("\"response.create\""));
    creates.count()
}

/// The model says so much and ends the call.
fn end_call(pair: &mut Pair, ms: usize) {
    pair.model(&created("resp_1"));
    for _ in 0..ms / 200 {
        pair.model(&delta("item_1", &audio(200)));
    }
    pair.model(r#"{"type":"response.output_item.done","response_id":"resp_1","item":{"id":"item_9","type":"function_call","status":"completed","name":"end_call","call_id":"c","arguments":"{\"reason\":\"done\"}"}}"#);
    pair.model(&done("resp_1", "completed"));
}

#[test]
fn a_key_does_not_keep_a_call_that_has_no_model_any_more() {
    let mut pair = ready(|policy| policy.silence.hang_up_after_ms = 5_000);
    pair.pass(5_000);
    pair.model(&created("resp_1"));
    pair.model(&delta("item_1", &audio(2_000)));
    pair.pass(200);
    pair.gone(Leg::Realtime, Closed::Eof);
    assert_eq!(pair.reason(), None, "two seconds are to be heard");
    key(&mut pair);
    pair.pass(1_700);
    assert_eq!(pair.reason(), None);
    pair.pass(700);
    assert_eq!(pair.reason(), Some(EndReason::Silence));
}

#[test]
fn a_goodbye_that_the_carrier_takes_late_is_heard() {
    let mut pair = ready(|policy| policy.silence.hang_up_after_ms = 5_000);
    pair.pass(5_000);
    pair.carrier.takes = false;
    pair.model(&created("resp_1"));
    pair.model(&delta("item_1", &audio(2_000)));
    pair.model(&done("resp_1", "completed"));
    pair.pass(4_000);
    assert_eq!(pair.reason(), None, "nothing of it was sent");
    pair.carrier.takes = true;
    pair.pump();
    pair.pass(1_999);
    assert_eq!(pair.reason(), None);
    pair.pass(600);
    assert_eq!(pair.reason(), Some(EndReason::Silence));
}

#[test]
fn a_goodbye_that_was_under_way_when_the_call_was_to_end_is_heard_too() {
    let mut pair = ready(|policy| {
        policy.max_duration_secs = 10;
        policy.duration_warning_secs = 0;
    });
    pair.pass(9_000);
    pair.carrier.takes = false;
    pair.model(&created("resp_1"));
    pair.model(&delta("item_1", &audio(2_000)));
    pair.pass(1_000);
    pair.model(&done("resp_1", "completed"));
    assert_eq!(creates(&pair), 1);
    pair.model(&created("resp_2"));
    pair.model(&delta("item_2", &audio(1_000)).replace("resp_1", "resp_2"));
    pair.model(&done("resp_2", "completed"));
    pair.pass(3_600);
    assert_eq!(pair.reason(), None);
    pair.carrier.takes = true;
    pair.pump();
    pair.pass(2_999);
    assert_eq!(pair.reason(), None);
    pair.pass(600);
    assert_eq!(pair.reason(), Some(EndReason::MaxDuration));
}

#[test]
fn a_goodbye_that_is_never_taken_is_not_waited_for() {
    let mut pair = ready(|policy| policy.silence.hang_up_after_ms = 5_000);
    pair.pass(5_000);
    pair.carrier.takes = false;
    pair.model(&created("resp_1"));
    pair.model(&delta("item_1", &audio(500)));
    pair.model(&done("resp_1", "completed"));
    pair.pass(9_000);
    assert_eq!(pair.reason(), None);
    pair.pass(2_000);
    assert!(pair.reason().is_some());
}

#[test]
fn who_goes_on_talking_does_not_put_off_the_end_of_the_longest_duration() {
    let mut pair = ready(|policy| {
        policy.max_duration_secs = 10;
        policy.duration_warning_secs = 0;
        policy.barge_in.enabled = false;
    });
    pair.pass(10_000);
    pair.model(&created("resp_0"));
    pair.model(&delta("item_0", &audio(1_000)).replace("resp_1", "resp_0"));
    pair.model(&done("resp_0", "completed"));
    // The model answers and answers.
    for n in 1..4 {
        let of = |text: &str| text.replace("resp_1", &format!("resp_{n}"));
        pair.model(&created(&format!("resp_{n}")));
        pair.model(&of(&delta(&format!("item_{n}"), &audio(1_000))));
        pair.model(&done(&format!("resp_{n}"), "completed"));
        pair.pass(500);
    }
    assert_eq!(pair.reason(), Some(EndReason::MaxDuration));
}

#[test]
fn silence_begins_when_what_the_carrier_took_late_was_heard() {
    let mut pair = ready(|policy| policy.silence.nudge_after_ms = 5_000);
    pair.carrier.takes = false;
    pair.model(&created("resp_1"));
    pair.model(&delta("item_1", &audio(2_000)));
    pair.model(&done("resp_1", "completed"));
    pair.pass(3_000);
    pair.carrier.takes = true;
    pair.pump();
    pair.pass(6_999);
    assert_eq!(creates(&pair), 0);
    pair.pass(1);
    assert_eq!(creates(&pair), 1);
}

#[test]
fn a_call_that_the_model_ends_waits_for_the_last_mark_and_not_for_any() {
    let mut pair = ready(|_| {});
    end_call(&mut pair, 1_000);
    pair.pass(1_000);
    // By the clock all of it was heard; the carrier is a little behind.
    mark(&mut pair, "g0.1.800");
    for ms in [200, 400, 600] {
        mark(&mut pair, &format!("g0.1.{ms}"));
    }
    pair.pass(200);
    assert_eq!(pair.reason(), None);
    mark(&mut pair, "g0.1.1000");
    assert_eq!(pair.reason(), Some(EndReason::EndedByModel));
}

#[test]
fn a_call_that_the_model_ends_with_many_words_ends_when_they_were_heard() {
    let mut pair = ready(|_| {});
    end_call(&mut pair, 25_000);
    pair.pass(25_000);
    assert_eq!(pair.reason(), None);
    pair.pass(500);
    assert_eq!(pair.reason(), Some(EndReason::EndedByModel));
}

#[test]
fn a_goodbye_of_the_models_that_the_carrier_takes_late_is_heard() {
    let mut pair = ready(|_| {});
    pair.carrier.takes = false;
    end_call(&mut pair, 1_000);
    pair.pass(4_000);
    assert_eq!(pair.reason(), None);
    pair.carrier.takes = true;
    pair.pump();
    pair.pass(999);
    assert_eq!(pair.reason(), None);
    pair.pass(1_100);
    assert_eq!(pair.reason(), Some(EndReason::EndedByModel));
}
