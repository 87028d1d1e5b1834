//! What the model asks for is answered: once, in order, in words it can act on.

use super::*;
use crate::proto::realtime::tool::Tool;
use proptest::prelude::*;
use std::borrow::Cow;

fn at(ms: u64) -> Now {
    Now {
        mono: Mono(ms * 1_000_000),
        unix_ms: ms,
    }
}

fn http(name: &str) -> Tool {
    toml::from_str(&format!("name = {name:?}\nurl = \"http://127.0.0.1:9/x\"")).expect("a tool")
}

fn toolbox() -> ToolBox {
    let mut tools = vec![http("slow"), http("fast")];
    tools.extend(Builtin::ALL.map(Tool::builtin));
    let settings = Settings {
        tools,
        ..Settings::default()
    };
    ToolBox::new(Arc::new(settings), ToolLimits::default())
}

fn item<'a>(call_id: &'a str, name: &'a str, arguments: &'a str) -> Item<'a> {
    Item {
        id: Some(Cow::Borrowed("item_1")),
        kind: Some(Cow::Borrowed("function_call")),
        status: Some(Cow::Borrowed("completed")),
        role: None,
        name: Some(Cow::Borrowed(name)),
        call_id: Some(Cow::Borrowed(call_id)),
        arguments: Some(Cow::Borrowed(arguments)),
        text: None,
        has_audio: false,
        phase: None,
    }
}

fn result(call_id: &str, output: &str) -> ToolResult {
    ToolResult {
        tool_call_id: ToolCallId::new(call_id).expect("short"),
        output: output.into(),
        outcome: Outcome::Ok,
    }
}

/// Everything to do, without reports: outputs as `id=output`, the rest by name.
fn drain(tools: &mut ToolBox) -> Vec<String> {
    let mut all = Vec::new();
    while let Some(action) = tools.poll() {
        match action {
            ToolAction::Output {
                tool_call_id,
                output,
            } => all.push(format!("{tool_call_id}={output}")),
            ToolAction::WantResponse => all.push("response".into()),
            ToolAction::EndCall { reason } => all.push(format!("end:{reason}")),
            ToolAction::PlayDtmf(digits) => all.push(format!("keys:{}", digits.as_str())),
            ToolAction::Report(Fact::NoteTaken { text }) => all.push(format!("note:{text}")),
            ToolAction::Report(_) => {}
        }
    }
    all
}

fn asked(tools: &mut ToolBox) -> Vec<String> {
    std::iter::from_fn(|| tools.poll_request())
        .map(|call| format!("{}:{}:{}", call.tool_call_id, call.name, call.arguments))
        .collect()
}

#[test]
fn results_out_of_order_go_out_in_order_with_one_response_after_the_last() {
    let mut tools = toolbox();
    tools.handle_item_done(Some("r1"), &item("a", "slow", "{\"x\":1}"), at(0));
    tools.handle_item_done(Some("r1"), &item("b", "fast", "{}"), at(1));
    assert_eq!(asked(&mut tools), ["a:slow:{\"x\":1}", "b:fast:{}"]);
    tools.handle_result(result("b", "B"), at(10));
    assert_eq!(drain(&mut tools), [""; 0]);
    tools.handle_response_done(Some("r1"), false, at(20));
    assert_eq!(drain(&mut tools), [""; 0]);
    tools.handle_result(result("a", "A"), at(30));
    assert_eq!(drain(&mut tools), ["a=A", "b=B", "response"]);
    assert_eq!((tools.open(), tools.poll_timeout()), (0, None));
}

#[test]
fn no_response_is_wanted_before_the_calling_one_is_done() {
    let mut tools = toolbox();
    tools.handle_item_done(Some("r1"), &item("a", "fast", ""), at(0));
    tools.handle_result(result("a", "A"), at(1));
    assert_eq!(drain(&mut tools), ["a=A"]);
    tools.handle_response_done(Some("other"), false, at(2));
    assert_eq!(drain(&mut tools), [""; 0]);
    tools.handle_response_done(Some("r1"), false, at(3));
    assert_eq!(drain(&mut tools), ["response"]);
    tools.handle_response_done(Some("r1"), false, at(4));
    assert_eq!(drain(&mut tools), [""; 0]);
}

#[test]
fn a_slow_tool_of_one_response_does_not_hold_up_another_s() {
    let mut tools = toolbox();
    tools.handle_item_done(Some("r1"), &item("a", "slow", "{}"), at(0));
    tools.handle_response_done(Some("r1"), false, at(1));
    tools.handle_item_done(Some("r2"), &item("b", "fast", "{}"), at(2));
    tools.handle_response_done(Some("r2"), false, at(3));
    tools.handle_result(result("b", "B"), at(4));
    assert_eq!(drain(&mut tools), ["b=B", "response"]);
    tools.handle_result(result("a", "A"), at(5));
    assert_eq!(drain(&mut tools), ["a=A", "response"]);
}

#[test]
fn nonsense_is_answered_at_once_in_words() {
    let deep = format!("{}{}", "{\"a\":".repeat(10_000), "}".repeat(10_000));
    let long = format!("{{\"a\":\"{}\"}}", "x".repeat(20_000));
    for (name, arguments, word) in [
        ("nobody", "{}", "no tool named"),
        ("", "{}", "no tool named"),
        ("fast", "{\"cut\":", "not a JSON object"),
        ("fast", "[1]", "not a JSON object"),
        ("fast", "null", "not a JSON object"),
        ("fast", "{} {}", "not a JSON object"),
        ("fast", &deep, "too long"),
        ("fast", &deep[..1_000], "not a JSON object"),
        ("fast", &long, "too long"),
        ("send_dtmf", "{\"digits\":\"call me\"}", "no telephone keys"),
        ("send_dtmf", "{\"digits\":5}", "no telephone keys"),
        ("take_note", "{\"text\":\" \"}", "empty"),
        (
            "transfer_to_human",
            "{\"reason\":\"angry\"}",
            "Nobody can be reached",
        ),
    ] {
        let mut tools = toolbox();
        tools.handle_item_done(Some("r1"), &item("a", name, arguments), at(0));
        tools.handle_response_done(Some("r1"), false, at(0));
        assert_eq!(asked(&mut tools), [""; 0]);
        let done = drain(&mut tools);
        assert_eq!(done.len(), 2, "{name}: {done:?}");
        let output = done[0].strip_prefix("a=").expect("answered");
        let output: Value = serde_json::from_str(output).expect("JSON");
        let error = output["error"].as_str().expect("an error");
        assert!(error.contains(word), "{name}: {error}");
        assert_eq!(done[1], "response");
    }
}

#[test]
fn a_call_is_acted_on_once_and_only_when_it_is_whole() {
    let mut tools = toolbox();
    let cut = Item {
        status: Some(Cow::Borrowed("incomplete")),
        ..item("a", "fast", "{\"x\":")
    };
    tools.handle_item_done(Some("r1"), &cut, at(0));
    let nameless = Item {
        call_id: None,
        ..item("", "fast", "{}")
    };
    tools.handle_item_done(Some("r1"), &nameless, at(0));
    tools.handle_item_done(Some("r1"), &item(&"x".repeat(65), "fast", "{}"), at(0));
    let message = Item {
        kind: Some(Cow::Borrowed("message")),
        ..item("m", "fast", "{}")
    };
    tools.handle_item_done(Some("r1"), &message, at(0));
    assert_eq!(asked(&mut tools), [""; 0]);
    let bare = Item {
        status: None,
        ..item("b", "fast", "{}")
    };
    tools.handle_item_done(Some("r1"), &bare, at(0));
    tools.handle_item_done(Some("r1"), &bare, at(0));
    assert_eq!(asked(&mut tools), ["b:fast:{}"]);
    assert_eq!(
        tools.stats(),
        ToolStats {
            incomplete: 3,
            duplicate: 1,
            stale_results: 0
        }
    );
}

#[test]
fn results_that_nobody_waits_for_are_counted_and_change_nothing() {
    let mut tools = toolbox();
    tools.handle_item_done(Some("r1"), &item("a", "fast", "{}"), at(0));
    tools.handle_result(result("z", "Z"), at(1));
    tools.handle_result(result("a", "A"), at(2));
    tools.handle_result(result("a", "again"), at(3));
    assert_eq!(drain(&mut tools), ["a=A"]);
    assert_eq!(tools.stats().stale_results, 2);
}

#[test]
fn a_tool_that_says_nothing_is_given_up_behind_its_own_deadline() {
    let mut tools = toolbox();
    tools.handle_item_done(Some("r1"), &item("a", "slow", "{}"), at(0));
    tools.handle_response_done(Some("r1"), false, at(0));
    // 5 s a try, two tries' worth in all, and the margin.
    assert_eq!(tools.poll_timeout(), Some(at(12_000).mono));
    assert_eq!(
        tools.poll_request().expect("asked").expires,
        at(10_000).mono
    );
    assert!(!tools.handle_timeout(at(11_999)));
    assert!(tools.handle_timeout(at(12_000)));
    let done = drain(&mut tools);
    assert!(done[0].contains("did not answer in time"), "{done:?}");
    assert_eq!(done[1], "response");
    assert!(!tools.handle_timeout(at(60_000)));
    tools.handle_result(result("a", "late"), at(60_000));
    assert_eq!(drain(&mut tools), [""; 0]);
}

#[test]
fn the_call_ends_when_the_goodbye_s_response_is_done() {
    let mut tools = toolbox();
    tools.handle_item_done(
        Some("r1"),
        &item("a", "end_call", "{\"reason\":\"done\"}"),
        at(0),
    );
    assert_eq!(drain(&mut tools), [""; 0]);
    tools.handle_response_done(Some("r1"), false, at(5));
    assert_eq!(drain(&mut tools), ["end:done", "a={\"ok\":true}"]);
    assert_eq!(tools.open(), 0);
}

#[test]
fn a_caller_who_speaks_into_the_goodbye_is_not_hung_up_on() {
    let mut tools = toolbox();
    tools.handle_item_done(Some("r1"), &item("a", "end_call", "{}"), at(0));
    tools.handle_response_done(Some("r1"), true, at(5));
    let done = drain(&mut tools);
    assert_eq!(done.len(), 1, "{done:?}");
    assert!(done[0].contains("not ended"), "{done:?}");
}

#[test]
fn the_call_ends_even_if_the_model_never_says_that_it_is_done() {
    let mut tools = toolbox();
    tools.handle_item_done(Some("r1"), &item("a", "end_call", "{}"), at(0));
    assert_eq!(tools.poll_timeout(), Some(at(10_000).mono));
    assert!(tools.handle_timeout(at(10_000)));
    assert_eq!(drain(&mut tools), ["end:", "a={\"ok\":true}"]);
}

#[test]
fn a_cancelled_response_s_tools_answer_but_ask_for_nothing() {
    let mut tools = toolbox();
    tools.handle_item_done(Some("r1"), &item("a", "fast", "{}"), at(0));
    tools.handle_response_done(Some("r1"), true, at(1));
    tools.handle_result(result("a", "A"), at(2));
    assert_eq!(drain(&mut tools), ["a=A"]);
}

#[test]
fn built_in_tools_decide_and_answer() {
    let mut tools = toolbox();
    tools.handle_item_done(None, &item("a", "send_dtmf", "{\"digits\":\"1w#\"}"), at(0));
    tools.handle_item_done(
        None,
        &item("b", "take_note", "{\"text\":\"Likes tea.\"}"),
        at(0),
    );
    tools.handle_response_done(None, false, at(1));
    assert_eq!(
        drain(&mut tools),
        [
            "keys:1w#",
            "a={\"ok\":true,\"duration_ms\":900}",
            "note:Likes tea.",
            "b={\"ok\":true}",
            "response"
        ]
    );
}

#[test]
fn limits_are_answered_and_what_runs_goes_on() {
    let mut tools = toolbox();
    tools.limits = ToolLimits {
        in_flight_max: 2,
        calls_max: 4,
        ..ToolLimits::default()
    };
    for id in ["a", "b", "c", "d", "e"] {
        tools.handle_item_done(Some("r1"), &item(id, "slow", "{}"), at(0));
        if id == "c" {
            tools.handle_result(result("a", "A"), at(0));
        }
    }
    assert_eq!(asked(&mut tools).len(), 3);
    tools.handle_response_done(Some("r1"), false, at(1));
    tools.handle_result(result("b", "B"), at(1));
    tools.handle_result(result("d", "D"), at(1));
    let done = drain(&mut tools);
    assert_eq!(done.len(), 6, "{done:?}");
    assert!(done[2].contains("Too many tools"), "{done:?}");
    assert!(done[4].contains("No more tools"), "{done:?}");
    assert_eq!(done[5], "response");
}

#[test]
fn what_runs_when_the_model_s_connection_is_lost_is_answered_all_the_same() {
    let mut tools = toolbox();
    tools.handle_item_done(Some("r1"), &item("a", "slow", "{}"), at(0));
    tools.handle_upstream_lost();
    assert!(tools.is_open("a") && tools.will_ask() && !tools.is_open("b"));
    // Another session's response of that name is another one.
    tools.handle_item_done(Some("r1"), &item("b", "slow", "{}"), at(1));
    tools.handle_result(result("a", "A"), at(1));
    let done = drain(&mut tools);
    assert_eq!(
        done.last().map(String::as_str),
        Some("response"),
        "{done:?}"
    );
    assert!(tools.is_open("b") && !tools.is_open("a"));
    assert_eq!(asked(&mut tools).len(), 2);
}

#[test]
fn a_call_does_not_end_when_its_goodbye_is_lost() {
    let mut tools = toolbox();
    tools.handle_item_done(Some("r1"), &item("a", "end_call", "{}"), at(0));
    tools.handle_upstream_lost();
    assert_eq!((tools.open(), tools.poll_timeout()), (0, None));
    tools.handle_response_done(Some("r1"), false, at(1));
    assert_eq!(drain(&mut tools), [""; 0]);
}

#[test]
fn every_outcome_has_a_label_of_its_own() {
    let labels: std::collections::BTreeSet<_> = Outcome::ALL.iter().map(|o| o.label()).collect();
    assert_eq!(labels.len(), Outcome::ALL.len());
}

#[derive(Clone, Debug)]
enum Step {
    Call(u8, u8, u8),
    Done(u8, bool),
    Result(u8),
    Wait(u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0u8..24, 0u8..8, 0u8..4).prop_map(|(id, tool, response)| Step::Call(id, tool, response)),
        (0u8..4, proptest::bool::weighted(0.2)).prop_map(|(r, c)| Step::Done(r, c)),
        (0u8..24).prop_map(Step::Result),
        (0u16..8_000).prop_map(Step::Wait),
    ]
}

proptest! {
    /// Whatever happens in whatever order: each call is answered exactly once, in the order of its response's calls,
    /// and a response is wanted at most once a calling response, behind all its outputs.
    #[test]
    fn every_call_is_answered_exactly_once_and_in_order(steps in prop::collection::vec(step(), 0..80)) {
        let names = ["slow", "fast", "end_call", "transfer_to_human", "send_dtmf", "take_note", "nobody", "fast"];
        let mut tools = toolbox();
        let mut called: Vec<(u8, u8)> = Vec::new();
        let mut outputs: Vec<u8> = Vec::new();
        let mut finished = 0;
        let mut wanted = 0;
        let mut now = 0;
        let mut generation = [0u8; 4];
        let collect = |tools: &mut ToolBox, outputs: &mut Vec<u8>, wanted: &mut usize, finished: &mut usize| {
            while let Some(action) = tools.poll() {
                match action {
                    ToolAction::Output { tool_call_id, .. } => {
                        outputs.push(tool_call_id.as_str().parse().expect("ours"));
                    }
                    ToolAction::WantResponse => *wanted += 1,
                    ToolAction::Report(Fact::ToolFinished { .. }) => *finished += 1,
                    _ => {}
                }
            }
        };
        for step in steps {
            match step {
                Step::Call(id, tool, response) => {
                    let response_id = format!("r{response}_{}", generation[response as usize]);
                    let id_text = id.to_string();
                    let arguments = if tool == 7 { "oops" } else { "{\"digits\":\"1\",\"text\":\"t\"}" };
                    tools.handle_item_done(Some(&response_id), &item(&id_text, names[tool as usize], arguments), at(now));
                    if !called.iter().any(|(known, _)| *known == id) {
                        called.push((id, response * 50 + generation[response as usize]));
                    }
                }
                Step::Done(response, cancelled) => {
                    let response_id = format!("r{response}_{}", generation[response as usize]);
                    tools.handle_response_done(Some(&response_id), cancelled, at(now));
                    generation[response as usize] += 1;
                }
                Step::Result(id) => tools.handle_result(result(&id.to_string(), "x"), at(now)),
                Step::Wait(ms) => {
                    now += u64::from(ms);
                    tools.handle_timeout(at(now));
                }
            }
            while tools.poll_request().is_some() {}
            collect(&mut tools, &mut outputs, &mut wanted, &mut finished);
            if let Some(due) = tools.poll_timeout() {
                prop_assert!(due > at(now).mono || !matches!(step, Step::Wait(_)));
            }
        }
        // At the end everything is given up or done.
        now += 100_000;
        tools.handle_timeout(at(now));
        tools.handle_response_done(None, false, at(now));
        collect(&mut tools, &mut outputs, &mut wanted, &mut finished);
        prop_assert_eq!(tools.open(), 0);
        prop_assert_eq!(finished, outputs.len());
        let mut once = outputs.clone();
        once.sort_unstable();
        let mut expected: Vec<u8> = called.iter().map(|(id, _)| *id).collect();
        expected.sort_unstable();
        prop_assert_eq!(once, expected);
        let mut rounds: Vec<u8> = called.iter().map(|(_, round)| *round).collect();
        rounds.sort_unstable();
        rounds.dedup();
        prop_assert!(wanted <= rounds.len());
        for round in rounds {
            let order = |ids: &mut dyn Iterator<Item = u8>| -> Vec<u8> {
                ids.filter(|id| called.iter().any(|(i, r)| i == id && *r == round)).collect()
            };
            let asked = order(&mut called.iter().map(|(id, _)| *id));
            let answered = order(&mut outputs.iter().copied());
            prop_assert_eq!(asked, answered);
        }
    }
}
