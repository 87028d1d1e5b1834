use super::*;

#[test]
fn the_defaults_have_no_problem() {
    assert_eq!(Settings::default().validate(), []);
}

#[test]
fn every_bound_is_inclusive_and_named() {
    fn keys(change: impl FnOnce(&mut Settings)) -> Vec<String> {
        let mut settings = Settings::default();
        change(&mut settings);
        settings
            .validate()
            .into_iter()
            .map(|(key, _)| key)
            .collect()
    }
    for good in [0.25, 1.0, 1.5] {
        assert_eq!(keys(|s| s.speed = Some(good)), [""; 0]);
    }
    for bad in [0.0, 0.249, 1.501, -1.0, f64::NAN, f64::INFINITY] {
        assert_eq!(keys(|s| s.speed = Some(bad)), ["speed"], "{bad}");
    }
    for good in [0.0, 1.0] {
        assert_eq!(keys(|s| s.turn_detection.threshold = good), [""; 0]);
    }
    for bad in [-0.1, 1.1, f64::NAN] {
        assert_eq!(
            keys(|s| s.turn_detection.threshold = bad),
            ["turn_detection.threshold"]
        );
    }
    for (good, bad) in [(20, 19), (10_000, 10_001), (500, 0)] {
        assert_eq!(
            keys(|s| s.turn_detection.silence_duration_ms = good),
            [""; 0]
        );
        assert_eq!(
            keys(|s| s.turn_detection.silence_duration_ms = bad),
            ["turn_detection.silence_duration_ms"]
        );
    }
    assert_eq!(
        keys(|s| s.turn_detection.prefix_padding_ms = 5_000),
        [""; 0]
    );
    assert_eq!(
        keys(|s| s.turn_detection.prefix_padding_ms = 5_001),
        ["turn_detection.prefix_padding_ms"]
    );
    for (good, bad) in [(1, 0), (4_096, 4_097)] {
        assert_eq!(
            keys(|s| s.max_output_tokens = Some(OutputTokens::Max(good))),
            [""; 0]
        );
        assert_eq!(
            keys(|s| s.max_output_tokens = Some(OutputTokens::Max(bad))),
            ["max_output_tokens"]
        );
    }
    assert_eq!(
        keys(|s| s.instructions = "x".repeat(INSTRUCTIONS_BYTES_MAX)),
        [""; 0]
    );
    assert_eq!(
        keys(|s| s.instructions = "x".repeat(INSTRUCTIONS_BYTES_MAX + 1)),
        ["instructions"]
    );
    assert_eq!(keys(|s| s.voice = "mar in".into()), ["voice"]);
    assert_eq!(
        keys(|s| s.transcription_language = "en".into()),
        ["transcription_language"]
    );
}

#[test]
fn all_problems_come_at_once() {
    let settings = Settings {
        voice: "?".into(),
        speed: Some(9.0),
        max_output_tokens: Some(OutputTokens::Max(0)),
        ..Settings::default()
    };
    assert_eq!(settings.validate().len(), 3);
}

#[test]
fn the_configuration_section_is_read_strictly() {
    let settings: Settings = toml::from_str(
        r#"
        instructions = "Be brief."
        voice = "marin"
        speed = 1
        transcription_model = "gpt-4o-mini-transcribe"
        transcription_language = "en"
        noise_reduction = "far_field"
        max_output_tokens = 4096
        [turn_detection]
        threshold = 0
        "#,
    )
    .expect("every key is known");
    assert_eq!(settings.speed, Some(1.0));
    assert_eq!(settings.noise_reduction, Some(NoiseReduction::FarField));
    assert_eq!(
        settings.turn_detection,
        TurnDetection {
            threshold: 0.0,
            ..TurnDetection::default()
        }
    );
    for bad in [
        "temprature = 0.8",
        "max_output_tokens = \"infinite\"",
        "max_output_tokens = -1",
        "reasoning_effort = \"huge\"",
        "truncation = \"sometimes\"",
        "[turn_detection]\nsilence = 1",
        "[turn_detection]\ntype = \"vad\"",
        "[[tools]]\nkind = \"dance\"",
    ] {
        assert!(toml::from_str::<Settings>(bad).is_err(), "{bad}");
    }
}

#[test]
fn every_key_is_read() {
    let settings: Settings = toml::from_str(
        r#"
        temperature = 0
        transcription_model = "gpt-4o-transcribe"
        transcription_prompt = "Bicycles."
        transcription_logprobs = true
        tool_choice = "required"
        parallel_tool_calls = false
        max_output_tokens = "inf"
        truncation = { retention_ratio = { ratio = 0.8, post_instructions = 8000 } }
        reasoning_effort = "xhigh"
        session_extra = { prompt = { id = "pmpt_1" } }
        [turn_detection]
        type = "semantic_vad"
        eagerness = "high"
        create_response = false
        interrupt_response = false
        [[tools]]
        kind = "end_call"
        [[tools]]
        name = "look_up"
        url = "https://tools.example/look_up"
        [tools.parameters]
        type = "object"
        properties = { city = { type = "string" } }
        "#,
    )
    .expect("every key is known");
    assert_eq!(settings.validate(), []);
    assert_eq!(settings.temperature, Some(0.0));
    assert_eq!(settings.tool_choice, Some(ToolChoice::Required));
    assert_eq!(settings.parallel_tool_calls, Some(false));
    assert_eq!(settings.max_output_tokens, Some(OutputTokens::Unbounded));
    assert_eq!(
        settings.truncation,
        Some(Truncation::RetentionRatio {
            ratio: 0.8,
            post_instructions: Some(8_000)
        })
    );
    assert_eq!(settings.reasoning_effort, Some(Effort::Xhigh));
    assert_eq!(settings.turn_detection.kind, TurnKind::SemanticVad);
    assert_eq!(settings.turn_detection.eagerness, Eagerness::High);
    assert_eq!(
        settings.tools[1].parameters["properties"]["city"]["type"],
        "string"
    );
    assert_eq!(settings.session_extra["prompt"]["id"], "pmpt_1");
}

fn keys_of(text: &str) -> Vec<String> {
    let settings: Settings = toml::from_str(text).expect("every key is known");
    let keys = settings.validate().into_iter().map(|(key, _)| key);
    keys.collect()
}

#[test]
fn what_does_not_go_together_is_named() {
    for (text, key) in [
        ("temperature = 2.1", "temperature"),
        ("temperature = -0.1", "temperature"),
        ("temperature = nan", "temperature"),
        (
            "[turn_detection]\nidle_timeout_ms = 4999",
            "turn_detection.idle_timeout_ms",
        ),
        (
            "[turn_detection]\nidle_timeout_ms = 30001",
            "turn_detection.idle_timeout_ms",
        ),
        (
            "[turn_detection]\ntype = \"semantic_vad\"\nidle_timeout_ms = 5000",
            "turn_detection.idle_timeout_ms",
        ),
        (
            "[turn_detection]\neagerness = \"low\"",
            "turn_detection.eagerness",
        ),
        ("transcription_prompt = \"x\"", "transcription_prompt"),
        ("transcription_logprobs = true", "transcription_logprobs"),
        (
            "transcription_model = \"gpt-realtime-whisper\"\ntranscription_prompt = \"x\"",
            "transcription_prompt",
        ),
        ("tool_choice = \"look_up\"", "tool_choice"),
        ("tool_choice = \"required\"", "tool_choice"),
        (
            "truncation = { retention_ratio = { ratio = 1.1 } }",
            "retention_ratio",
        ),
        (
            "truncation = { retention_ratio = { ratio = 1, post_instructions = 0 } }",
            "retention_tokens_max",
        ),
        (
            "[[tools]]\nkind = \"end_call\"\n[[tools]]\nkind = \"end_call\"",
            "tools.1.name",
        ),
        (
            "[[tools]]\nkind = \"end_call\"\nname = \"a b\"",
            "tools.0.name",
        ),
        (
            "session_extra = { type = \"realtime\" }",
            "session_extra.type",
        ),
        ("session_extra = { model = \"x\" }", "session_extra.model"),
        (
            "session_extra = { temperature = 1 }",
            "session_extra.temperature",
        ),
        (
            "session_extra = { output_modalities = [\"text\"] }",
            "session_extra.output_modalities",
        ),
        ("session_extra = { audio = 3 }", "session_extra.audio"),
        (
            "session_extra = { audio = { output = [] } }",
            "session_extra.audio.output",
        ),
        (
            "session_extra = { audio = { input = { format = { type = \"audio/pcmu\" } } } }",
            "session_extra.audio.input.format",
        ),
        (
            "session_extra = { audio = { input = { turn_detection = { create_response = false } } } }",
            "session_extra.audio.input.turn_detection",
        ),
    ] {
        assert_eq!(keys_of(text), [key], "{text}");
    }
    for good in [
        "[turn_detection]\nidle_timeout_ms = 5000",
        "[turn_detection]\nidle_timeout_ms = 30000",
        "tool_choice = \"none\"",
        "tool_choice = \"required\"\nsession_extra = { tools = [] }",
        "truncation = \"disabled\"",
        "temperature = 2",
    ] {
        assert_eq!(keys_of(good), [""; 0], "{good}");
    }
}
