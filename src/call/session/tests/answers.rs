//! Responses that fail, answers that do not come, and what is asked for after another session was told of it all (C22, C09).

use super::harness::*;
use super::outage::*;
use crate::call::fact::{EndReason, Fact, Leg};
use crate::call::policy::{FirstSpeaker, Policy, Reconnect};
use crate::call::session::{Closed, Setup};
use crate::call::tools::{Outcome, ToolCallId, ToolResult};
use crate::proto::realtime::settings::Settings;
use crate::proto::realtime::tool::Tool;
use crate::proto::ws::Role;
use crate::proto::ws::writer::Kind;
use serde_json::Value;
use std::sync::Arc;

const STOPPED: &str = r#"{"type":"input_audio_buffer.speech_stopped","item_id":"u1"}"#;
const COMMITTED: &str = r#"{"type":"input_audio_buffer.committed","item_id":"u1"}"#;
const STARTED: &str = r#"{"type":"input_audio_buffer.speech_started","item_id":"u2"}"#;

/// A ready call with a tool, and the connection's expected end where `expires` is given.
pub(super) fn with_tool(change: impl FnOnce(&mut Policy)) -> Pair {
    let mut policy = Policy {
        reconnect: Reconnect::default(),
        ..Policy::default()
    };
    change(&mut policy);
    let look_up = "name = \"look_up\"\nurl = \"http://127.0.0.1:9/\"";
    let mut pair = Pair::with(Setup {
        settings: Arc::new(Settings {
            tools: vec![toml::from_str::<Tool>(look_up).expect("a tool")],
            ..Settings::default()
        }),
        policy: Arc::new(policy),
        ..setup()
    });
    pair.carrier(START);
    pair.connect();
    pair.model(CREATED);
    pair.model(&updated(3_600));
    pair.model.got.clear();
    pair
}

/// "One moment", and a call of the tool, in a response that is done.
fn call_tool(pair: &mut Pair) {
    for event in WORDS {
        pair.newest(event);
    }
    pair.newest(&delta("a1", &payload(7)));
    let item = serde_json::json!({
        "type": "response.output_item.done", "response_id": "resp_1", "output_index": 1,
        "item": {"id": "item_9", "type": "function_call", "status": "completed",
                 "name": "look_up", "call_id": "call_1", "arguments": "{}"},
    });
    pair.newest(&item.to_string());
    pair.newest(DONE);
    assert!(pair.session.poll_tool().is_some());
}

pub(super) fn answer(pair: &mut Pair) {
    let result = ToolResult {
        tool_call_id: ToolCallId::new("call_1").expect("short"),
        output: "\"At nine.\"".into(),
        outcome: Outcome::Ok,
    };
    let at = now(pair.at_ms);
    pair.session.handle_tool_result(result, at);
    pair.pump();
}

/// What the newest connection was told, beside audio: outputs as `output …`, wishes as `create <our word>`.
pub(super) fn said(pair: &mut Pair) -> Vec<String> {
    let place = pair.place;
    let texts = pair.peer(place).texts();
    let texts = texts.iter().filter(|text| !text.contains("buffer.append"));
    texts
        .map(|text| {
            let event: Value = serde_json::from_str(text).expect("JSON");
            let word = event["response"]["metadata"]["voxrelay"].as_str();
            let output = event["item"]["output"].as_str();
            let kind = event["item"]["type"].as_str();
            match (word, output) {
                (Some(word), _) => format!("create {word}"),
                (_, Some(output)) => format!("output {output}"),
                _ => kind
                    .unwrap_or(event["type"].as_str().expect("a type"))
                    .to_owned(),
            }
        })
        .collect()
}

pub(super) fn creates(pair: &mut Pair) -> Vec<String> {
    let mut said = said(pair);
    said.retain(|event| event.starts_with("create "));
    said
}

/// Lets time pass on a line that is alive.
pub(super) fn live(pair: &mut Pair, ms: u64) {
    let until = pair.at_ms + ms;
    live_until(pair, until);
}

fn live_until(pair: &mut Pair, until: u64) {
    while pair.at_ms < until {
        pair.pass(1_000.min(until - pair.at_ms));
        for leg in [Leg::Carrier, Leg::Realtime, Leg::Standby] {
            let role = match leg {
                Leg::Carrier => Role::Client,
                _ => Role::Server,
            };
            pair.feed(leg, &frame(role, Kind::Pong, b""));
        }
    }
}

/// The last moment of a session with a primed standby, in the caller's words.
fn last_moment() -> Pair {
    let mut pair = with_tool(|_| {});
    live_until(&mut pair, 3_420_000);
    pair.connect();
    pair.newest(CREATED);
    pair.model(STARTED);
    pair.newest(&updated(7_200));
    pair.place = Leg::Realtime;
    live_until(&mut pair, 3_588_000);
    assert_eq!(pair.session.stats().rollovers, 0);
    pair
}

fn rolled(pair: &mut Pair) {
    live(pair, 3_000);
    pair.place = Leg::Standby;
    assert_eq!(pair.session.stats().rollovers, 1);
}

fn failed(code: &str) -> String {
    format!(
        r#"{{"type":"response.done","response":{{"id":"resp_1","status":"failed","status_details":{{"type":"failed","error":{{"type":"x","code":"{code}","message":"m"}}}}}}}}"#
    )
}

fn ask(pair: &mut Pair) {
    for event in &WORDS[..5] {
        pair.newest(event);
    }
}

#[test]
fn a_tool_that_runs_when_the_connection_is_lost_is_answered_in_the_next_session() {
    // Before the next session is told, and after.
    for late in [false, true] {
        let mut pair = with_tool(|_| {});
        call_tool(&mut pair);
        pair.gone(Leg::Realtime, Closed::Broken);
        if !late {
            answer(&mut pair);
        }
        again(&mut pair);
        if late {
            assert_eq!(creates(&mut pair), [""; 0], "the answer is still to come");
            answer(&mut pair);
        }
        let said = said(&mut pair);
        let outputs = said.iter().filter(|event| event.starts_with("output"));
        assert_eq!(outputs.collect::<Vec<_>>(), ["output \"At nine.\""]);
        assert_eq!(said.last().unwrap(), "create tools");
        assert_eq!(creates(&mut pair).len(), 1, "{said:?}");
    }
}

#[test]
fn a_tool_that_runs_in_the_last_moment_of_a_session_is_answered_in_the_next() {
    let mut pair = last_moment();
    call_tool(&mut pair);
    rolled(&mut pair);
    assert_eq!(creates(&mut pair), [""; 0], "the answer is still to come");
    answer(&mut pair);
    let said = said(&mut pair);
    assert_eq!(
        said[said.len() - 2..],
        ["output \"At nine.\"", "create tools"]
    );
    assert_eq!(creates(&mut pair).len(), 1, "{said:?}");
}

#[test]
fn what_is_said_in_the_last_moment_of_a_session_is_not_lost_without_a_word() {
    let mut pair = last_moment();
    talk(&mut pair);
    pair.model(STARTED);
    rolled(&mut pair);
    let told = told(&mut pair);
    let note = told[told.len() - 2].as_str();
    assert!(note.contains("while the caller was speaking"), "{told:?}");
    assert_eq!(creates(&mut pair), ["create owed"]);
}

#[test]
fn a_wish_that_waits_in_the_last_moment_of_a_session_goes_to_the_next() {
    let mut pair = last_moment();
    call_tool(&mut pair);
    pair.model(r#"{"type":"response.created","response":{"id":"resp_2"}}"#);
    answer(&mut pair);
    assert_eq!(creates(&mut pair), [""; 0], "one response at a time");
    rolled(&mut pair);
    for _ in 0..2 {
        assert_eq!(creates(&mut pair), ["create tools"]);
        pair.newest(r#"{"type":"response.created","response":{"id":"resp_5"}}"#);
        pair.newest(r#"{"type":"response.done","response":{"id":"resp_5","status":"completed"}}"#);
    }
}

#[test]
fn one_response_answers_all_that_another_session_was_told() {
    // A response is under way and an answer of a tool waits for it; and keys are pressed in the outage.
    for keys in [false, true] {
        let mut pair = with_tool(|policy| policy.reconnect.base_ms = 4_000);
        call_tool(&mut pair);
        pair.model(r#"{"type":"response.created","response":{"id":"resp_2"}}"#);
        answer(&mut pair);
        pair.gone(Leg::Realtime, Closed::Broken);
        if keys {
            pair.carrier(&format!(
                r##"{{"event":"dtmf","streamSid":"{SID}","sequenceNumber":"5","dtmf":{{"track":"inbound_track","digit":"#"}}}}"##
            ));
        }
        again(&mut pair);
        for _ in 0..3 {
            let place = pair.place;
            let asked = creates(&mut pair);
            let expected = if keys { "create text" } else { "create tools" };
            assert_eq!(asked, [expected]);
            pair.newest(r#"{"type":"response.created","response":{"id":"resp_5"}}"#);
            pair.newest(
                r#"{"type":"response.done","response":{"id":"resp_5","status":"completed"}}"#,
            );
            assert_eq!(pair.place, place);
        }
    }
}

#[test]
fn a_response_that_failed_is_asked_for_again_once_and_then_the_connection_is_lost() {
    for code in ["rate_limit_exceeded", "server_error", "nobody_knows"] {
        let mut pair = patient(|_| {});
        ask(&mut pair);
        pair.model(&failed(code));
        assert_eq!(creates(&mut pair), [""; 0], "not at once");
        pair.pass(1_250);
        assert_eq!(creates(&mut pair), ["create again"], "{code}");
        pair.model(r#"{"type":"response.created","response":{"id":"resp_2","metadata":{"voxrelay":"again"}}}"#);
        pair.model(&failed(code).replace("resp_1", "resp_2"));
        assert_eq!(pair.distrusted, 1, "{code}");
        assert_eq!(pair.reason(), None);
        again(&mut pair);
        assert_eq!(creates(&mut pair), ["create owed"]);
        // What is completed is a new start.
        pair.newest(r#"{"type":"response.created","response":{"id":"resp_1"}}"#);
        pair.newest(DONE);
        ask(&mut pair);
        pair.newest(&failed(code));
    }
}

#[test]
fn failures_on_each_connection_end_the_call_with_what_the_agent_wants_then() {
    let mut pair = patient(|_| {});
    ask(&mut pair);
    for n in 0..8 {
        let done = failed("server_error").replace("resp_1", &format!("resp_{n}"));
        pair.newest(&format!(
            r#"{{"type":"response.created","response":{{"id":"resp_{n}"}}}}"#
        ));
        pair.newest(&done);
        pair.pass(1_250);
        if pair.dials > 0 {
            again(&mut pair);
        }
        if pair.reason().is_some() {
            break;
        }
    }
    assert_eq!(pair.reason(), Some(EndReason::RealtimeLost));
    let unavailable = |fact: &Fact| matches!(fact, Fact::ModelUnavailable { .. });
    assert!(pair.facts.iter().any(unavailable));
    pair.wind_up();
}

#[test]
fn what_the_server_answers_by_itself_is_not_asked_for_again_behind_it() {
    let mut pair = patient(|_| {});
    ask(&mut pair);
    pair.model(&failed("server_error"));
    pair.pass(1_000);
    assert_eq!(creates(&mut pair), ["create again"]);
    for event in [STARTED, STOPPED, COMMITTED] {
        pair.model(event);
    }
    pair.model(r#"{"type":"response.created","response":{"id":"resp_2"}}"#);
    pair.model(r#"{"type":"error","error":{"type":"invalid_request_error","code":"conversation_already_has_active_response","message":"resp_2"}}"#);
    pair.model(r#"{"type":"response.done","response":{"id":"resp_2","status":"completed"}}"#);
    pair.pass(3_000);
    assert_eq!(
        creates(&mut pair),
        ["create again"],
        "the turn has its answer"
    );
}

#[test]
fn a_nudge_that_failed_is_left_to_the_next_stage_of_silence() {
    let mut pair = patient(|policy| {
        policy.silence.nudge_after_ms = 5_000;
        policy.silence.second_nudge_after_ms = 12_000;
    });
    live(&mut pair, 5_000);
    let nudge = |id: &str| {
        format!(
            r#"{{"type":"response.created","response":{{"id":"{id}","metadata":{{"voxrelay":"nudge"}}}}}}"#
        )
    };
    pair.model(&nudge("resp_1"));
    pair.model(&failed("server_error"));
    live(&mut pair, 5_000);
    assert_eq!(creates(&mut pair), ["create nudge"]);
    live(&mut pair, 3_000);
    assert_eq!(creates(&mut pair), ["create nudge", "create nudge"]);
}

#[test]
fn a_caller_who_speaks_again_is_answered_once_after_a_failure() {
    let mut pair = patient(|_| {});
    ask(&mut pair);
    pair.model(&failed("server_error"));
    pair.model(STARTED);
    pair.model(STOPPED);
    pair.pass(1_000);
    assert_eq!(
        creates(&mut pair),
        [""; 0],
        "that turn brings a response by itself"
    );
}

#[test]
fn without_money_another_connection_is_tried_and_then_the_model_is_given_up() {
    let by_type = r#"{"type":"response.done","response":{"id":"resp_1","status":"failed","status_details":{"type":"failed","error":{"type":"insufficient_quota","code":"x","message":"m"}}}}"#.to_owned();
    let by_error =
        r#"{"type":"error","error":{"type":"billing_hard_limit_reached","message":"m"}}"#
            .to_owned();
    for event in [
        failed("insufficient_quota"),
        failed("credit_balance_exhausted"),
        failed("billing_hard_limit_reached"),
        by_type,
        by_error,
    ] {
        let mut pair = patient(|_| {});
        talk(&mut pair);
        pair.model(
            r#"{"type":"response.created","response":{"id":"resp_1"}}"#
                .replace("_1", "_9")
                .as_str(),
        );
        pair.model(&event.replace("resp_1", "resp_9"));
        assert_eq!(pair.reason(), None, "{event}");
        assert_eq!(pair.distrusted, 1, "{event}");
        again(&mut pair);
        assert_eq!(creates(&mut pair), ["create owed"], "{event}");
        pair.newest(r#"{"type":"response.created","response":{"id":"resp_1"}}"#);
        pair.newest(&event);
        assert_eq!(pair.reason(), Some(EndReason::RealtimeLost), "{event}");
        pair.wind_up();
    }
}

#[test]
fn a_turn_that_brings_no_response_is_asked_for_once_and_then_the_connection_is_lost() {
    let mut pair = patient(|_| {});
    talk(&mut pair);
    pair.model(STARTED);
    pair.model(STOPPED);
    pair.model(COMMITTED);
    live(&mut pair, 9_000);
    assert_eq!(creates(&mut pair), [""; 0]);
    live(&mut pair, 1_000);
    assert_eq!(creates(&mut pair), ["create again"]);
    live(&mut pair, 10_000);
    assert!(
        pair.facts
            .iter()
            .any(|f| matches!(f, Fact::Reconnecting { .. }))
    );
    again(&mut pair);
    assert_eq!(creates(&mut pair), ["create owed"]);
}

#[test]
fn what_was_asked_for_and_does_not_begin_is_asked_for_again_with_its_words() {
    let mut pair = with_tool(|policy| {
        policy.first_speaker = FirstSpeaker::AfterMs(100);
        policy.greeting = "Say hello.".to_owned();
    });
    pair.pass(100);
    let first = pair.model.texts().last().unwrap().to_string();
    assert!(first.contains("Say hello."), "{first}");
    live(&mut pair, 10_000);
    let second = pair.model.texts().last().unwrap().to_string();
    assert_eq!(creates(&mut pair), ["create greeting", "create again"]);
    assert!(second.contains("Say hello."), "{second}");
    // The first comes after all: the second is about to be refused, and is not kept.
    let mut late = pair;
    late.model(r#"{"type":"response.created","response":{"id":"resp_1","metadata":{"voxrelay":"greeting"}}}"#);
    late.model(r#"{"type":"error","error":{"type":"invalid_request_error","code":"conversation_already_has_active_response","message":"resp_1"}}"#);
    late.model(DONE);
    assert_eq!(creates(&mut late).len(), 2, "greeted once");
}

#[test]
fn an_answer_of_tools_that_falls_silent_is_asked_for_again_and_then_the_connection_is_lost() {
    let mut pair = with_tool(|_| {});
    call_tool(&mut pair);
    answer(&mut pair);
    assert_eq!(creates(&mut pair), ["create tools"]);
    pair.model(
        r#"{"type":"response.created","response":{"id":"resp_2","metadata":{"voxrelay":"tools"}}}"#,
    );
    live(&mut pair, 30_000);
    assert_eq!(creates(&mut pair), ["create tools", "create again"]);
    pair.model(
        r#"{"type":"response.created","response":{"id":"resp_3","metadata":{"voxrelay":"again"}}}"#,
    );
    live(&mut pair, 31_000);
    assert!(
        pair.facts
            .iter()
            .any(|f| matches!(f, Fact::Reconnecting { .. }))
    );
}
