//! A session whose model uses tools: what goes to whom, and in which order.

use super::harness::*;
use crate::call::fact::{Drop, EndReason, Fact};
use crate::call::policy::Policy;
use crate::call::session::Setup;
use crate::call::tools::{Outcome, ToolCallId, ToolResult};
use crate::proto::realtime::settings::Settings;
use crate::proto::realtime::tool::{Builtin, Tool};
use serde_json::Value;
use std::sync::Arc;

fn with_tools() -> Pair {
    with_tools_and(|_| {})
}

fn with_tools_and(change: impl FnOnce(&mut Policy)) -> Pair {
    let mut policy = Policy::clone(&setup().policy);
    change(&mut policy);
    let look_up = "name = \"look_up\"\nurl = \"http://127.0.0.1:9/\"";
    let mut tools = vec![toml::from_str::<Tool>(look_up).expect("a tool")];
    tools.extend(Builtin::ALL.map(Tool::builtin));
    let mut pair = Pair::with(Setup {
        settings: Arc::new(Settings {
            tools,
            ..Settings::default()
        }),
        policy: Arc::new(policy),
        ..setup()
    });
    pair.carrier(START);
    pair.connect();
    pair.model(CREATED);
    pair.model(UPDATED);
    pair.model(r#"{"type":"response.created","response":{"id":"resp_1"}}"#);
    pair.model.got.clear();
    pair
}

fn function_call(pair: &mut Pair, call_id: &str, name: &str, arguments: &str) {
    let item = serde_json::json!({
        "type": "response.output_item.done", "response_id": "resp_1", "output_index": 0,
        "item": {"id": "item_9", "type": "function_call", "status": "completed",
                 "name": name, "call_id": call_id, "arguments": arguments},
    });
    pair.model(&item.to_string());
}

fn response_done(pair: &mut Pair) {
    pair.model(r#"{"type":"response.done","response":{"id":"resp_1","status":"completed"}}"#);
}

fn answer(pair: &mut Pair, call_id: &str, output: &str) {
    let result = ToolResult {
        tool_call_id: ToolCallId::new(call_id).expect("short"),
        output: output.into(),
        outcome: Outcome::Ok,
    };
    let at = now(pair.at_ms);
    pair.session.handle_tool_result(result, at);
    pair.pump();
}

/// What the model was told, beside audio: outputs as `id=output`, else the type.
fn told(pair: &Pair) -> Vec<String> {
    let events = pair.model.texts().into_iter().map(|text| {
        let event: Value = serde_json::from_str(text).expect("JSON");
        match &event["item"]["call_id"] {
            Value::String(id) => format!("{id}={}", event["item"]["output"].as_str().unwrap()),
            _ => event["type"].as_str().unwrap().to_owned(),
        }
    });
    events.collect()
}

#[test]
fn an_http_tool_is_asked_and_its_answer_brings_one_response() {
    let mut pair = with_tools();
    function_call(&mut pair, "a", "look_up", "{\"id\":1}");
    function_call(&mut pair, "b", "look_up", "{\"id\":2}");
    let asked: Vec<_> = std::iter::from_fn(|| pair.session.poll_tool()).collect();
    assert_eq!(asked.len(), 2);
    assert_eq!(asked[0].arguments, "{\"id\":1}");
    answer(&mut pair, "b", "B");
    response_done(&mut pair);
    assert_eq!(told(&pair), [""; 0]);
    answer(&mut pair, "a", "A");
    assert_eq!(told(&pair), ["a=A", "b=B", "response.create"]);
    let finished = pair.facts.iter();
    let finished = finished.filter(|fact| matches!(fact, Fact::ToolFinished { .. }));
    assert_eq!(finished.count(), 2);
}

#[test]
fn a_response_waits_for_the_one_under_way() {
    let mut pair = with_tools();
    function_call(&mut pair, "a", "look_up", "{}");
    response_done(&mut pair);
    pair.model(r#"{"type":"response.created","response":{"id":"resp_2"}}"#);
    answer(&mut pair, "a", "A");
    assert_eq!(told(&pair), ["a=A"]);
    pair.model(r#"{"type":"response.done","response":{"id":"resp_2","status":"completed"}}"#);
    assert_eq!(told(&pair), ["a=A", "response.create"]);
}

#[test]
fn a_response_that_was_waited_for_serves_the_answers_of_the_one_that_ended_just_now() {
    let mut pair = with_tools();
    function_call(&mut pair, "a", "look_up", "{}");
    response_done(&mut pair);
    // The server answers the caller by itself, with a call of its own.
    pair.model(r#"{"type":"response.created","response":{"id":"resp_2"}}"#);
    answer(&mut pair, "a", "A");
    pair.model(r#"{"type":"response.output_item.done","response_id":"resp_2","item":{"id":"i","type":"function_call","status":"completed","name":"take_note","call_id":"b","arguments":"{\"text\":\"x\"}"}}"#);
    pair.model(r#"{"type":"response.done","response":{"id":"resp_2","status":"completed"}}"#);
    let all = ["a=A", "b={\"ok\":true}", "response.create"];
    assert_eq!(told(&pair), all);
    pair.model(
        r#"{"type":"response.created","response":{"id":"resp_3","metadata":{"voxrelay":"tools"}}}"#,
    );
    pair.model(r#"{"type":"response.done","response":{"id":"resp_3","status":"completed"}}"#);
    assert_eq!(told(&pair), all, "one for both");
}

#[test]
fn a_tool_that_nobody_answers_for_is_answered_by_the_call_itself() {
    let mut pair = with_tools();
    function_call(&mut pair, "a", "look_up", "{}");
    response_done(&mut pair);
    pair.pass(11_000);
    pair.model.got.clear();
    pair.pass(2_000);
    let told = told(&pair);
    assert!(
        told.iter().any(|t| t.starts_with("a={\"error\":")),
        "{told:?}"
    );
    assert!(told.contains(&"response.create".to_owned()), "{told:?}");
}

#[test]
fn keys_are_played_to_the_caller_and_every_byte_is_counted() {
    let mut pair = with_tools();
    function_call(&mut pair, "a", "send_dtmf", "{\"digits\":\"12\"}");
    let mut heard = Vec::new();
    for text in pair.carrier.texts() {
        let event: Value = serde_json::from_str(text).expect("JSON");
        if let Some(payload) = event["media"]["payload"].as_str() {
            assert!(crate::proto::audio::base64::decode_into(
                payload.as_bytes(),
                &mut heard
            ));
        }
    }
    let mut expected = Vec::new();
    let digits = crate::proto::audio::dtmf::Digits::parse("12").expect("keys");
    crate::proto::audio::dtmf::tones_into(&digits, &mut expected);
    assert_eq!(heard, expected);
    let stats = pair.session.stats();
    assert_eq!(
        stats.outbound_bytes,
        stats.outbound_bytes_sent + stats.outbound_bytes_dropped
    );
    assert!(told(&pair)[0].starts_with("a={\"ok\":true"));
}

#[test]
fn the_goodbye_is_heard_before_the_call_ends() {
    let mut pair = with_tools();
    pair.model(&delta("item_1", &payload(1)));
    function_call(&mut pair, "a", "end_call", "{\"reason\":\"all done\"}");
    response_done(&mut pair);
    assert_eq!(pair.reason(), None);
    let marks: Vec<String> = pair
        .carrier
        .texts()
        .into_iter()
        .filter_map(|text| {
            let event: Value = serde_json::from_str(text).expect("JSON");
            event["mark"]["name"].as_str().map(str::to_owned)
        })
        .collect();
    assert!(!marks.is_empty());
    for name in marks {
        pair.carrier(&format!(
            r#"{{"event":"mark","sequenceNumber":"88","streamSid":"{SID}","mark":{{"name":"{name}"}}}}"#
        ));
    }
    assert_eq!(pair.reason(), Some(EndReason::EndedByModel));
}

#[test]
fn a_carrier_that_returns_no_marks_does_not_keep_an_ended_call() {
    let mut pair = with_tools();
    pair.model(&delta("item_1", &payload(1)));
    function_call(&mut pair, "a", "end_call", "{}");
    response_done(&mut pair);
    assert_eq!(pair.reason(), None);
    // What was sent lasts 20 ms; no mark says that it was heard, so half a second more is waited.
    pair.pass(100);
    assert_eq!(pair.reason(), None);
    pair.pass(1_000);
    assert_eq!(pair.reason(), Some(EndReason::EndedByModel));
}

#[test]
fn a_cut_off_call_with_broken_arguments_is_passed_over() {
    let mut pair = with_tools();
    pair.model(r#"{"type":"response.output_item.done","response_id":"resp_1","item":{"id":"i","type":"function_call","status":"incomplete","name":"look_up","call_id":"a","arguments":"{\"id\":"}}"#);
    pair.model(r#"{"type":"response.done","response":{"id":"resp_1","status":"cancelled"}}"#);
    assert!(pair.session.poll_tool().is_none());
    assert_eq!(told(&pair), [""; 0]);
}

#[test]
fn a_caller_who_speaks_into_the_goodbye_keeps_the_call() {
    let mut pair = with_tools();
    pair.model(&delta("item_1", &payload(1)));
    function_call(&mut pair, "a", "end_call", "{}");
    response_done(&mut pair);
    pair.model(
        r#"{"type":"input_audio_buffer.speech_started","audio_start_ms":900,"item_id":"item_2"}"#,
    );
    pair.pass(25_000);
    assert_eq!(pair.reason(), None);
}

const STARTED: &str = r#"{"type":"input_audio_buffer.speech_started","audio_start_ms":900}"#;
const STOPPED: &str = r#"{"type":"input_audio_buffer.speech_stopped","audio_end_ms":990}"#;

/// The caller has begun to speak into a goodbye of a second, and the model ends the call.
fn ended_while_the_caller_speaks(confirm_ms: u32) -> Pair {
    let mut pair = with_tools_and(|policy| policy.barge_in.confirm_ms = confirm_ms);
    pair.model(&delta("item_1", &encode(&[0x55; 8_000])));
    pair.model(STARTED);
    function_call(&mut pair, "a", "end_call", "{}");
    response_done(&mut pair);
    pair
}

#[test]
fn a_call_that_is_ended_goes_on_where_the_caller_means_to_interrupt() {
    let mut pair = ended_while_the_caller_speaks(400);
    pair.pass(25_000);
    assert_eq!(pair.reason(), None);
}

#[test]
fn a_goodbye_that_goes_on_after_a_noise_is_heard_to_its_end() {
    let mut pair = ended_while_the_caller_speaks(2_000);
    pair.pass(1_900);
    assert_eq!(pair.reason(), None);
    pair.model(STOPPED);
    pair.pass(999);
    assert_eq!(pair.reason(), None);
    pair.pass(501);
    assert_eq!(pair.reason(), Some(EndReason::EndedByModel));
    let whole = pair.facts.iter().any(|fact| {
        matches!(
            fact,
            Fact::Heard {
                heard_ms: 1_000,
                ..
            }
        )
    });
    assert!(whole, "{:?}", pair.facts);
}

#[test]
fn tones_that_find_no_room_leave_the_models_item_and_its_response_alone() {
    let mut pair = with_tools_and(|policy| policy.unplayed_ms_max = 2_000);
    pair.model(&delta("item_1", &encode(&[0x55; 15_200])));
    pair.model.got.clear();
    function_call(
        &mut pair,
        "a",
        "send_dtmf",
        "{\"digits\":\"1234567890123456\"}",
    );
    let stats = pair.session.stats();
    assert!(stats.outbound_bytes_dropped > 0, "not all tones fit");
    assert!(!told(&pair).contains(&"response.cancel".to_owned()));
    // Once there is room again, the item goes on, and is heard to its end.
    pair.pass(1_500);
    pair.model(&delta("item_1", &encode(&[0x66; 8_000])));
    assert_eq!(pair.dropped(Drop::LateDelta), 0);
    assert!(
        pair.carrier
            .texts()
            .iter()
            .any(|text| text.contains(&encode(&[0x66; 8_000])))
    );
    response_done(&mut pair);
    pair.pass(2_000);
    pair.speak();
    let heard = pair.facts.iter().find_map(|fact| match fact {
        Fact::Heard {
            heard_ms, total_ms, ..
        } => Some((*heard_ms, *total_ms)),
        _ => None,
    });
    assert_eq!(heard, Some((2_900, 2_900)));
    assert!(!told(&pair).contains(&"conversation.item.truncate".to_owned()));
}

#[test]
fn tones_do_not_lengthen_the_models_item() {
    let mut pair = with_tools();
    pair.model(&delta("item_1", &encode(&[0x55; 800])));
    function_call(&mut pair, "a", "send_dtmf", "{\"digits\":\"12\"}");
    pair.model.got.clear();
    pair.pass(200);
    pair.model(
        r#"{"type":"input_audio_buffer.speech_started","audio_start_ms":900,"item_id":"item_2"}"#,
    );
    let heard = pair.facts.iter().find_map(|fact| match fact {
        Fact::Heard {
            heard_ms, total_ms, ..
        } => Some((*heard_ms, *total_ms)),
        _ => None,
    });
    assert_eq!(heard, Some((100, 100)));
    assert_eq!(told(&pair), [""; 0]);
}

#[test]
fn tones_are_no_answer_of_the_models() {
    let mut pair = with_tools();
    pair.model(r#"{"type":"input_audio_buffer.speech_stopped"}"#);
    function_call(&mut pair, "a", "send_dtmf", "{\"digits\":\"1\"}");
    assert!(pair.session.stats().outbound_bytes_sent > 0);
    let turn = pair.session.turns().last().expect("a turn");
    assert_eq!(turn.first_delta, None);
    pair.model(&delta("item_1", &payload(1)));
    let turn = pair.session.turns().last().expect("a turn");
    assert!(turn.first_delta.is_some());
}
