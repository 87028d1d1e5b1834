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
        max_output_tokens: Some(0),
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
    assert!(toml::from_str::<Settings>("temperature = 0.8").is_err());
    assert!(toml::from_str::<Settings>("[turn_detection]\neagerness = \"low\"").is_err());
}
