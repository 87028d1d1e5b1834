//! An agent's settings from elsewhere than config.toml: the same keys, kinds, bounds and proofs as `[agent]` has.
//!
//! Shell, like all of `config`, but pure. For agents that are kept in the store or come over the API as JSON.

use super::env::Vars;
use super::file::{self, Values};
use super::prove::Prover;
use super::{Problem, has_errors};
use crate::call::policy::Policy;
use crate::proto::realtime::settings::Settings;
use serde_json::{Map, Value};

/// Proves an object of the keys of `[agent]`, nested as there. `insecure` allows tools over plain HTTP. `Err`: everything
/// that is wrong; a place is the key, `agent.…`, where it is known.
pub fn prove_agent(
    settings: &Map<String, Value>,
    insecure: bool,
) -> Result<(Settings, Policy), Vec<Problem>> {
    let mut agent = Value::Object(settings.clone());
    let mut problems = Vec::new();
    // What may be any object is handed on as text: TOML has no null, and an order of its own.
    as_text(&mut agent, &["session_extra"]);
    if let Some(Value::Array(tools)) = agent.get_mut("tools") {
        for tool in tools {
            as_text(tool, &["parameters"]);
        }
    }
    without_nulls(&mut agent);
    let root: Map<String, Value> = [("agent".to_owned(), agent)].into_iter().collect();
    let Ok(text) = toml::to_string(&root) else {
        // Numbers beyond 64 bits are all that JSON has and TOML does not.
        let what = "the settings hold a number that is out of all bounds";
        return Err(vec![Problem::error("agent", what, "")]);
    };
    let mut values = Values::defaults();
    file::apply(&mut values, "agent", &text, &mut problems);
    let vars = Vars::new();
    let mut prover = Prover {
        values: &values,
        vars: &vars,
        problems: &mut problems,
    };
    let proven = (prover.agent(insecure), prover.policy());
    if !has_errors(&problems) {
        return Ok(proven);
    }
    for problem in &mut problems {
        // Lines are those of a text that nobody wrote.
        problem.place = match problem.place.split_once(" (") {
            Some((key, _)) if key.starts_with("agent.") => key.to_owned(),
            _ => String::new(),
        };
    }
    Err(problems)
}

fn as_text(value: &mut Value, keys: &[&str]) {
    for key in keys {
        if let Some(object @ Value::Object(_)) = value.get_mut(*key) {
            *object = Value::String(object.to_string());
        }
    }
}

/// A key that is null is a key that is not set.
fn without_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(without_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(without_nulls),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn proven(settings: Value) -> Result<(Settings, Policy), Vec<String>> {
        let settings = settings.as_object().expect("an object").clone();
        prove_agent(&settings, false)
            .map_err(|problems| problems.iter().map(Problem::to_string).collect())
    }

    #[test]
    fn nothing_said_is_what_an_empty_file_means() {
        let config = crate::config::Config::default();
        assert_eq!(
            proven(json!({})),
            Ok((config.agent.clone(), config.policy.clone()))
        );
        assert_eq!(
            proven(json!({"voice": null, "turn_detection": {"threshold": null}})),
            Ok((config.agent, config.policy))
        );
    }

    #[test]
    fn settings_of_every_kind_arrive() {
        let (settings, policy) = proven(json!({
            "voice": "marin",
            "speed": 1,
            "instructions": "はい\n\"quoted\" # [x]",
            "turn_detection": {"type": "semantic_vad", "eagerness": "high"},
            "max_output_tokens": "inf",
            "session_extra": {"prompt": null, "tracing": {"a": [1, null]}},
            "tools": [
                {"kind": "end_call"},
                {"kind": "http", "name": "hours", "description": "d", "url": "https://tools.example.com/x",
                 "secret": "s", "parameters": {"type": "object", "properties": {"day": {"default": null}}}},
            ],
            "greeting": "Hello",
            "silence": {"nudge_after_ms": 5_000},
        }))
        .unwrap();
        assert_eq!((&*settings.voice, settings.speed), ("marin", Some(1.0)));
        assert_eq!(settings.instructions, "はい\n\"quoted\" # [x]");
        assert_eq!(settings.session_extra["prompt"], Value::Null);
        assert_eq!(settings.tools.len(), 2);
        assert!(settings.tools[1].parameters["properties"]["day"]["default"].is_null());
        assert_eq!(
            (&*policy.greeting, policy.silence.nudge_after_ms),
            ("Hello", 5_000)
        );
    }

    #[test]
    fn all_problems_are_named_by_their_keys_and_never_by_lines() {
        let problems = proven(json!({
            "voice": 5,
            "mood": "good",
            "speed": 9.0,
            "tools": [{"kind": "http", "name": "a", "description": "d", "url": "http://tools.example.com/", "secret": "geheim"}],
            "unplayed_ms_max": 1,
        }))
        .unwrap_err();
        let all = problems.join("\n");
        for key in [
            "agent.voice",
            "agent.mood",
            "agent.speed",
            "agent.tools.0.url",
            "agent.unplayed_ms_max",
        ] {
            assert!(all.contains(key), "{key}: {all}");
        }
        assert!(!all.contains("line") && !all.contains("geheim"), "{all}");
    }
}
