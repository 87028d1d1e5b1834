//! The model's connection is lost at each event of a scripted call (M06): the conversation goes on, and every turn has exactly
//! one answer.

use super::answers::*;
use super::harness::*;
use super::outage::*;
use crate::call::fact::{EndReason, Fact, Leg};
use crate::call::session::Closed;

/// A turn whose answer needs a tool, and another that interrupts it.
const SCRIPT: [&str; 19] = [
    WORDS[0],
    WORDS[1],
    WORDS[2],
    WORDS[3],
    r#"{"type":"response.created","response":{"id":"resp_1"}}"#,
    r#"{"type":"response.output_audio_transcript.done","response_id":"resp_1","item_id":"a1","transcript":"One moment."}"#,
    "audio resp_1 a1",
    r#"{"type":"response.output_item.done","response_id":"resp_1","output_index":1,"item":{"id":"f1","type":"function_call","status":"completed","name":"look_up","call_id":"call_1","arguments":"{}"}}"#,
    r#"{"type":"response.done","response":{"id":"resp_1","status":"completed"}}"#,
    // The tool answers between these two.
    r#"{"type":"response.created","response":{"id":"resp_2","metadata":{"voxrelay":"tools"}}}"#,
    r#"{"type":"response.output_audio_transcript.done","response_id":"resp_2","item_id":"a2","transcript":"At nine."}"#,
    "audio resp_2 a2",
    r#"{"type":"response.done","response":{"id":"resp_2","status":"completed"}}"#,
    r#"{"type":"input_audio_buffer.speech_started","item_id":"u2"}"#,
    r#"{"type":"input_audio_buffer.speech_stopped","item_id":"u2"}"#,
    r#"{"type":"input_audio_buffer.committed","item_id":"u2"}"#,
    r#"{"type":"response.created","response":{"id":"resp_3"}}"#,
    "audio resp_3 a3",
    r#"{"type":"response.done","response":{"id":"resp_3","status":"completed"}}"#,
];
/// So many events in, the tool has been called; and then the response to its answer begins.
const CALLED: usize = 8;
const ANSWERED: usize = 9;

fn say(pair: &mut Pair, event: &str) {
    let words: Vec<&str> = event.split(' ').collect();
    match words[..] {
        ["audio", response, item] => {
            let event = delta(item, &encode(&[0x55; 1_600])).replace("resp_1", response);
            pair.newest(&event);
        }
        _ => pair.newest(event),
    }
}

/// Whether a turn has no answer, or not all of it, when so many events have come.
fn is_owed(events: usize) -> bool {
    // From the caller's first sound to the end of the response that answers.
    (1..13).contains(&events) || (14..19).contains(&events)
}

/// Plays the script up to its `lost_at`th event, and loses the connection there. `early`: the tool answers in the old session
/// or in the outage, not only in the next session.
fn lose(lost_at: usize, early: bool) -> Pair {
    let mut pair = with_tool(|_| {});
    for (n, event) in SCRIPT[..lost_at].iter().enumerate() {
        if n == ANSWERED {
            answer(&mut pair);
        }
        say(&mut pair, event);
    }
    if early && lost_at == ANSWERED {
        answer(&mut pair);
    }
    pair.gone(Leg::Realtime, Closed::Broken);
    if early && lost_at == CALLED {
        answer(&mut pair);
    }
    again(&mut pair);
    if !early && (CALLED..=ANSWERED).contains(&lost_at) {
        answer(&mut pair);
    }
    pair
}

#[test]
fn a_connection_that_is_lost_at_any_event_costs_no_answer_and_brings_none_twice() {
    for lost_at in 0..=SCRIPT.len() {
        for early in [false, true] {
            let mut pair = lose(lost_at, early);
            let case = format!("lost at {lost_at}, {early}");
            assert_eq!(
                creates(&mut pair).len(),
                usize::from(is_owed(lost_at)),
                "{case}"
            );
            // What is answered is told, once, and the agent's words as well.
            let told = said(&mut pair);
            let count = |what: &str| told.iter().filter(|event| event.as_str() == what).count();
            let called = usize::from(lost_at >= CALLED);
            assert_eq!(count("function_call"), called, "{case}: {told:?}");
            assert_eq!(count("output \"At nine.\""), called, "{case}: {told:?}");
            let outputs = told.iter().filter(|event| event.starts_with("output"));
            assert_eq!(outputs.count(), called, "{case}: {told:?}");
            // The answer, where one is asked for; then nobody asks for another.
            if is_owed(lost_at) {
                let word = creates(&mut pair)[0].replace("create ", "");
                pair.newest(&format!(
                    r#"{{"type":"response.created","response":{{"id":"resp_7","metadata":{{"voxrelay":"{word}"}}}}}}"#
                ));
                say(&mut pair, "audio resp_7 a7");
                pair.newest(
                    r#"{"type":"response.done","response":{"id":"resp_7","status":"completed"}}"#,
                );
            }
            live(&mut pair, 4_000);
            assert_eq!(
                creates(&mut pair).len(),
                usize::from(is_owed(lost_at)),
                "{case}"
            );
            // The conversation goes on, both ways.
            let voice = pair.speak();
            let place = pair.place;
            let last = pair.peer(place).texts().last().unwrap().to_string();
            assert!(last.contains(&voice), "{case}");
            pair.carrier.got.clear();
            for event in &SCRIPT[13..] {
                say(&mut pair, event);
            }
            let heard = pair.carrier.texts().join("");
            assert_eq!(heard.matches(r#""event":"media""#).count(), 1, "{case}");
            live(&mut pair, 4_000);
            assert_eq!(
                creates(&mut pair).len(),
                usize::from(is_owed(lost_at)),
                "{case}"
            );
            assert_eq!(pair.session.stats().reconnects, 1, "{case}");
            pair.close(Leg::Carrier, 1000);
            assert_eq!(pair.wind_up(), EndReason::CallerHungUp, "{case}");
            let ends = |fact: &&Fact| matches!(fact, Fact::Ended { .. });
            assert_eq!(pair.facts.iter().filter(ends).count(), 1, "{case}");
        }
    }
}
