//! The agent's section: that every key arrives, and that what can't be is refused with its place.

use super::super::env::Vars;
use super::super::{Config, EndpointConfig, Loaded, Severity, file, load_text, schema};
use super::*;
use crate::proto::realtime::tool::{Builtin, HttpTool};
use std::time::Duration;

fn load(text: &str, vars: &[(&str, &str)]) -> Loaded {
    let vars: Vars = vars
        .iter()
        .map(|(k, v)| (k.to_string(), v.to_string()))
        .collect();
    load_text(Some(text), "config.toml", &vars)
}

fn config(text: &str) -> Config {
    let loaded = load(text, &[]);
    loaded
        .config
        .unwrap_or_else(|| panic!("{:?}", loaded.problems))
}

/// All errors, each on a line; panics when there are none.
fn errors(text: &str, vars: &[(&str, &str)]) -> Vec<String> {
    let loaded = load(text, vars);
    assert!(loaded.config.is_none(), "{text} was accepted");
    let errors = loaded.problems.iter();
    errors
        .filter(|problem| problem.severity == Severity::Error)
        .map(ToString::to_string)
        .collect()
}

#[test]
fn every_setting_arrives() {
    let agent = config(
        r#"
        [agent]
        temperature = 0
        transcription_model = "gpt-4o-transcribe"
        transcription_prompt = "Bicycles."
        transcription_logprobs = true
        max_output_tokens = "inf"
        tool_choice = "bye"
        parallel_tool_calls = false
        truncation = "retention_ratio"
        retention_ratio = 0.5
        retention_tokens_max = 9000
        reasoning_effort = "high"
        [agent.session_extra.prompt]
        id = "pmpt_1"
        [agent.turn_detection]
        type = "semantic_vad"
        eagerness = "low"
        create_response = false
        interrupt_response = false
        [[agent.tools]]
        kind = "end_call"
        name = "bye"
        "#,
    )
    .agent;
    let expected = Settings {
        temperature: Some(0.0),
        transcription_model: "gpt-4o-transcribe".into(),
        transcription_prompt: "Bicycles.".into(),
        transcription_logprobs: true,
        max_output_tokens: Some(OutputTokens::Unbounded),
        tool_choice: Some(ToolChoice::Function("bye".into())),
        parallel_tool_calls: Some(false),
        truncation: Some(Truncation::RetentionRatio {
            ratio: 0.5,
            post_instructions: Some(9_000),
        }),
        reasoning_effort: Some(Effort::High),
        session_extra: serde_json::from_str(r#"{"prompt":{"id":"pmpt_1"}}"#).expect("JSON"),
        turn_detection: TurnDetection {
            kind: TurnKind::SemanticVad,
            eagerness: Eagerness::Low,
            create_response: false,
            interrupt_response: false,
            ..TurnDetection::default()
        },
        tools: vec![Tool {
            name: "bye".into(),
            ..Tool::builtin(Builtin::EndCall)
        }],
        ..Settings::default()
    };
    assert_eq!(agent, expected);
    let turn = config("[agent.turn_detection]\nidle_timeout_ms = 6000\n").agent;
    assert_eq!(turn.turn_detection.idle_timeout_ms, Some(6_000));
    let turn = config("[agent.turn_detection]\ntype = \"none\"\n").agent;
    assert_eq!(turn.turn_detection.kind, TurnKind::None);
}

#[test]
fn every_policy_arrives() {
    let policy = config(
        r#"
        [agent]
        first_speaker = "after_ms"
        first_speaker_after_ms = 1500
        greeting = "Hello."
        greeting_exact = true
        unplayed_ms_max = 60000
        max_duration_secs = 600
        duration_warning_secs = 20
        dtmf = "ignore"
        dtmf_pause_ms = 900
        on_model_unavailable = "conference"
        unavailable_conference = "desk"
        rollover_before_secs = 0
        barge_in = { enabled = false, guard_ms = 800, confirm_ms = 300 }
        reconnect = { tries = 3, base_ms = 100, cap_ms = 900, outage_ms = 5000, hold_ms = 500 }
        tool_limits = { in_flight_max = 2, calls_max = 20, arguments_bytes_max = 1000 }
        [agent.silence]
        nudge_after_ms = 8000
        nudge_text = "One."
        second_nudge_after_ms = 16000
        second_nudge_text = "Two."
        hang_up_after_ms = 24000
        goodbye_text = ""
        "#,
    )
    .policy;
    let expected = Policy {
        coalesce_ms: 0,
        first_speaker: FirstSpeaker::AfterMs(1_500),
        greeting: "Hello.".into(),
        greeting_exact: true,
        unplayed_ms_max: 60_000,
        max_duration_secs: 600,
        duration_warning_secs: 20,
        dtmf: Dtmf::Ignore,
        dtmf_pause_ms: 900,
        on_model_unavailable: OnModelUnavailable::Conference("desk".into()),
        rollover_before_secs: 0,
        barge_in: BargeIn {
            enabled: false,
            guard_ms: 800,
            confirm_ms: 300,
        },
        reconnect: Reconnect {
            tries: 3,
            base_ms: 100,
            cap_ms: 900,
            outage_ms: 5_000,
            hold_ms: 500,
        },
        tool_limits: ToolLimits {
            in_flight_max: 2,
            calls_max: 20,
            arguments_bytes_max: 1_000,
        },
        silence: Silence {
            nudge_after_ms: 8_000,
            nudge_text: "One.".into(),
            second_nudge_after_ms: 16_000,
            second_nudge_text: "Two.".into(),
            hang_up_after_ms: 24_000,
            goodbye_text: String::new(),
        },
    };
    assert_eq!(policy, expected);
}

#[test]
fn an_http_tool_arrives_from_the_file_and_from_the_environment() {
    let expected = Tool {
        name: "look_up".into(),
        description: "Looks it up.".into(),
        parameters: serde_json::from_str(
            r#"{"type":"object","properties":{"n":{"type":"integer","minimum":1}}}"#,
        )
        .expect("JSON"),
        kind: ToolKind::Http(HttpTool {
            url: "https://tools.example.com/x".into(),
            secret: Secret::new("s"),
            timeout_ms: 900,
            retries: 0,
            response_bytes_max: 100,
        }),
    };
    let tables = r#"
        [[agent.tools]]
        name = "look_up"
        description = "Looks it up."
        url = "https://tools.example.com/x"
        secret = "s"
        timeout_ms = 900
        retries = 0
        response_bytes_max = 100
        [agent.tools.parameters]
        type = "object"
        properties.n = { type = "integer", minimum = 1 }
        [[agent.tools]]
        kind = "take_note"
        "#;
    let both = [expected, Tool::builtin(Builtin::TakeNote)];
    assert_eq!(config(tables).agent.tools, both);
    let json = r#"[
        {"name":"look_up","description":"Looks it up.","url":"https://tools.example.com/x","secret":"s",
         "timeout_ms":900,"retries":0,"response_bytes_max":100,
         "parameters":{"type":"object","properties":{"n":{"type":"integer","minimum":1}}}},
        {"kind":"take_note"}]"#;
    // It replaces what the file lists.
    let loaded = load(
        "[[agent.tools]]\nkind = \"end_call\"\n",
        &[("VOXRELAY__AGENT__TOOLS", json)],
    );
    let agent = loaded.config.expect("it fits").agent;
    assert_eq!(agent.tools, both);
}

#[test]
fn a_schema_may_be_json_as_text() {
    let tools = config(
        "[[agent.tools]]\nname = \"x\"\nurl = \"http://127.0.0.1:9/x\"\nparameters = '{\"type\": \"object\"}'\n",
    )
    .agent
    .tools;
    assert_eq!(tools[0].parameters["type"], "object");
    let extra = load(
        "",
        &[("VOXRELAY__AGENT__SESSION_EXTRA", r#"{"tracing":"auto"}"#)],
    );
    let agent = extra.config.expect("it fits").agent;
    assert_eq!(agent.session_extra["tracing"], "auto");
}

#[test]
fn what_can_t_be_is_refused_where_it_stands() {
    for (text, place, word) in [
        (
            "[agent.turn_detection]\neagerness = \"low\"\n",
            "line 2",
            "agent.turn_detection.eagerness",
        ),
        (
            "[agent]\nretention_ratio = 0.5\n",
            "line 2",
            "agent.retention_ratio",
        ),
        (
            "[agent]\nretention_tokens_max = 5\n",
            "line 2",
            "agent.retention_tokens_max",
        ),
        (
            "[agent]\ntruncation = \"retention_ratio\"\n",
            "default",
            "agent.retention_ratio",
        ),
        (
            "[agent]\nsession_extra = { type = \"x\" }\n",
            "line 2",
            "agent.session_extra.type",
        ),
        ("[agent]\nsession_extra = \"[]\"\n", "line 2", "JSON object"),
        (
            "[agent]\nsession_extra = { at = 1979-05-27 }\n",
            "line 2",
            "agent.session_extra",
        ),
        (
            "[agent]\nmax_output_tokens = \"infinite\"\n",
            "line 2",
            "\"inf\"",
        ),
        ("[agent]\nmax_output_tokens = 4097\n", "line 2", "1 to 4096"),
        (
            "[agent]\ngreeting_exact = true\n",
            "line 2",
            "agent.greeting_exact",
        ),
        (
            "[agent.silence]\nsecond_nudge_after_ms = 9\n",
            "line 2",
            "agent.silence.second_nudge",
        ),
        (
            "[agent]\non_model_unavailable = \"conference\"\n",
            "default",
            "unavailable_conference",
        ),
        (
            "[[agent.tools]]\nkind = \"end_call\"\n\n[[agent.tools]]\nkind = \"end_call\"\n",
            "line",
            "two tools",
        ),
        ("[[agent.tools]]\nname = \"x\"\n", "line 1", "no url"),
        ("[[agent.tools]]\nkind = \"dance\"\n", "line 2", "take_note"),
        (
            "[[agent.tools]]\nname = \"x y\"\nurl = \"https://a\"\n",
            "line 2",
            "agent.tools.0.name",
        ),
        (
            "[[agent.tools]]\nname = \"x\"\nurl = \"http://a.example\"\n",
            "line 3",
            "unencrypted",
        ),
        (
            "[[agent.tools]]\nname = \"x\"\nurl = \"https://u@a.example\"\n",
            "line 3",
            "user name",
        ),
        (
            "[[agent.tools]]\nname = \"x\"\nurl = \"https://a\"\nretries = 6\n",
            "line 4",
            "0 to 5",
        ),
        (
            "[[agent.tools]]\nnam = \"x\"\nkind = \"end_call\"\n",
            "line 2",
            "agent.tools.name",
        ),
        ("[agent]\ntools = 3\n", "line 2", "[[agent.tools]]"),
        ("[agent]\ntools = [3]\n", "line 2", "[[agent.tools]]"),
        (
            "[agent.barge_in]\nconfirm = 3\n",
            "line 2",
            "agent.barge_in.confirm_ms",
        ),
        (
            "[[agent.tool]]\nkind = \"end_call\"\n",
            "line 1",
            "agent.tools",
        ),
    ] {
        let errors = errors(text, &[]);
        assert_eq!(errors.len(), 1, "{text}: {errors:?}");
        assert!(
            errors[0].contains(place) && errors[0].contains(word),
            "{text}: {errors:?}"
        );
    }
}

#[test]
fn all_problems_of_all_tables_come_at_once() {
    let errors = errors(
        "[agent]\nvoice = \"?\"\nunavailable_message = \"\"\n[[agent.tools]]\nkind = \"dance\"\nretries = 9\n\
         [[agent.tools]]\nname = \"x\"\nurl = \"https://a\"\ntimeout = 1\n[[realtime.endpoints]]\nurl = \"x\"\n",
        &[],
    );
    // Voice, message, kind, retries, the unknown key, the endpoint's URL.
    assert_eq!(errors.len(), 6, "{errors:#?}");
}

#[test]
fn a_list_in_the_environment_must_fit_as_well() {
    for (json, word) in [
        ("", "JSON array"),
        ("{}", "JSON array"),
        ("[3]", "JSON array"),
        (r#"[{"kind":"dance"}]"#, "take_note"),
        (r#"[{"nam":"x","kind":"end_call"}]"#, "agent.tools.name"),
        (
            r#"[{"name":"x","url":"https://a","retries":1.5}]"#,
            "0 to 5",
        ),
        (
            r#"[{"name":"x","url":"https://a","parameters":[]}]"#,
            "agent.tools.0.parameters",
        ),
        (r#"[{"name":"x","url":"http://a"}]"#, "unencrypted"),
    ] {
        let errors = errors("", &[("VOXRELAY__AGENT__TOOLS", json)]);
        assert_eq!(errors.len(), 1, "{json}: {errors:?}");
        assert!(
            errors[0].contains(word) && errors[0].contains("VOXRELAY__AGENT__TOOLS"),
            "{json}: {errors:?}"
        );
    }
}

#[test]
fn the_agent_s_temperature_wins_over_the_endpoint_s() {
    let config = config("[agent]\ntemperature = 0\n[realtime]\ntemperature = 1\n");
    assert_eq!(config.realtime.temperature_for(&config.agent), Some(0.0));
    assert_eq!(
        config.realtime.temperature_for(&Settings::default()),
        Some(1.0)
    );
}

#[test]
fn without_a_list_the_one_endpoint_is_the_url_s() {
    let mut config = load("", &[("OPENAI_API_KEY", "sk-1")])
        .config
        .expect("it fits");
    config.realtime.url = "ws://127.0.0.1:9/x".into();
    let endpoint = EndpointConfig {
        url: "ws://127.0.0.1:9/x".into(),
        weight: 1,
        api_keys: vec![Secret::new("sk-1")],
    };
    assert_eq!(config.realtime.endpoints_in_force(), [endpoint]);
    assert!(config.realtime.predial);
    assert_eq!(config.realtime.warm_pool, 0, "it costs connections");
    assert_eq!(config.realtime.warm_max_age, Duration::from_secs(300));
}

#[test]
fn a_warm_pool_is_not_larger_than_the_calls_that_may_use_it() {
    let text = |pool: u32| {
        format!(
            "[realtime]\nwarm_pool = {pool}\nwarm_max_age_secs = 60\n[relay]\nworkers = 4\ncalls_max = 100\n"
        )
    };
    let key = [("OPENAI_API_KEY", "sk-1")];
    let loaded = load(&text(25), &key);
    let config = loaded.config.expect("as many as calls");
    assert_eq!(config.realtime.warm_pool, 25);
    assert_eq!(config.realtime.warm_max_age, Duration::from_secs(60));
    let loaded = load(&text(26), &key);
    assert!(loaded.config.is_none());
    let problems: Vec<String> = loaded.problems.iter().map(ToString::to_string).collect();
    let problems = problems.join("\n");
    assert!(problems.contains("realtime.warm_pool"), "{problems}");
    assert!(load(&text(65), &key).config.is_none(), "out of its bounds");
}

#[test]
fn endpoints_have_their_own_keys_and_no_key_goes_to_another_host() {
    let loaded = load(
        "[[realtime.endpoints]]\nurl = \"wss://api.openai.com/v1/realtime\"\n\
         [[realtime.endpoints]]\nurl = \"wss://b.example/v1/realtime\"\nweight = 3\napi_key = \"b1\"\napi_keys = [\"b2\", \"b1\"]\n\
         [[realtime.endpoints]]\nurl = \"ws://127.0.0.1:9\"\nweight = 0\n",
        &[("OPENAI_API_KEY", "sk-1")],
    );
    let config = loaded
        .config
        .unwrap_or_else(|| panic!("{:?}", loaded.problems));
    let endpoints = config.realtime.endpoints_in_force();
    let keys: Vec<Vec<&str>> = endpoints
        .iter()
        .map(|endpoint| endpoint.api_keys.iter().map(Secret::expose).collect())
        .collect();
    assert_eq!(keys, [vec!["sk-1"], vec!["b1", "b2"], vec![]]);
    let weights: Vec<_> = endpoints.iter().map(|endpoint| endpoint.weight).collect();
    assert_eq!(weights, [1, 3, 0]);
    assert!(!config.realtime.simulated);

    for (text, word) in [
        ("url = \"wss://b.example/\"\n", "has no key"),
        (
            "url = \"ws://b.example/\"\napi_key = \"b\"\n",
            "unencrypted",
        ),
        ("url = \"https://b.example/\"\napi_key = \"b\"\n", "wss://"),
        ("url = \"ws://127.0.0.1/\"\nweight = 0\n", "weight above 0"),
        ("url = \"ws://127.0.0.1/\"\nweight = -1\n", "0 to 1000"),
        ("url = \"ws://127.0.0.1/\"\napi_key = \"a b\"\n", "blank"),
        (
            "url = \"ws://127.0.0.1/\"\napi_key_file = \"/nonexistent\"\n",
            "/nonexistent",
        ),
    ] {
        let text = format!("[[realtime.endpoints]]\n{text}");
        let errors = errors(&text, &[("OPENAI_API_KEY", "sk-hidden")]);
        assert_eq!(errors.len(), 1, "{text}: {errors:?}");
        assert!(
            errors[0].contains(word) && !errors[0].contains("hidden"),
            "{errors:?}"
        );
    }
}

#[test]
fn a_list_is_shown_by_its_number_and_never_its_secrets() {
    let loaded = load(
        "[[agent.tools]]\nname = \"x\"\nurl = \"https://a\"\nsecret = \"hidden-1\"\n\
         [[realtime.endpoints]]\nurl = \"wss://b.example\"\napi_key = \"hidden-2\"\n",
        &[],
    );
    assert!(loaded.config.is_some(), "{:?}", loaded.problems);
    assert!(!format!("{loaded:?}").contains("hidden"));
    let shown = |path| {
        loaded
            .shown
            .iter()
            .find(|(key, _, _)| *key == path)
            .cloned()
    };
    let (_, value, source) = shown("agent.tools").expect("it is shown");
    assert_eq!(
        (value.as_str(), source),
        ("1 of them", file::Source::File(1))
    );
    let wrong = load(
        "",
        &[(
            "VOXRELAY__AGENT__TOOLS",
            r#"[{"name":"x","secret":"hidden-3","url":7}]"#,
        )],
    );
    assert!(wrong.config.is_none() && !format!("{:?}", wrong.problems).contains("hidden"));
}

#[test]
fn every_bound_of_the_table_is_one_that_the_agent_takes() {
    // These stand in relation to another key, which their own test covers.
    let related = [
        "agent.duration_warning_secs",
        "agent.max_duration_secs",
        "agent.reconnect.base_ms",
        "agent.reconnect.cap_ms",
        "agent.retention_ratio",
        "agent.retention_tokens_max",
        "agent.silence.second_nudge_after_ms",
    ];
    for key in schema::KEYS {
        let bounds = match key.kind {
            schema::Kind::Integer(min, max) | schema::Kind::IntegerOr(min, max, _) => {
                [min.to_string(), max.to_string()]
            }
            schema::Kind::Number(min, max) => [min.to_string(), max.to_string()],
            _ => continue,
        };
        if !key.path.starts_with("agent.") || related.contains(&key.path) {
            continue;
        }
        for value in bounds {
            let loaded = load("", &[(&super::super::env::variable(key.path), &value)]);
            assert!(
                loaded.config.is_some(),
                "{} = {value}: {:?}",
                key.path,
                loaded.problems
            );
        }
    }
}

#[test]
fn prices_are_read_exactly_and_a_wrong_one_is_named() {
    let text = "[[realtime.prices]]\nmodel = \"gpt-realtime*\"\naudio_input = \"32\"\naudio_cached = \"0.4\"\n";
    let loaded = load(text, &[]);
    let prices = loaded.judged.realtime.prices;
    let row = prices
        .of("gpt-realtime-2025-08-28")
        .expect("its name begins so");
    assert_eq!(row.audio_input.to_string(), "32");
    assert_eq!(row.audio_cached.to_string(), "0.4");
    assert_eq!(prices.of("other"), None);

    let text = "[[realtime.prices]]\naudio_input = \"1e3\"\n";
    let loaded = load(text, &[]);
    let all: Vec<String> = loaded.problems.iter().map(ToString::to_string).collect();
    let all = all.join("\n");
    assert!(all.contains("realtime.prices.0.model"), "{all}");
    assert!(
        all.contains("realtime.prices.0.audio_input") && all.contains("decimal"),
        "{all}"
    );
}
