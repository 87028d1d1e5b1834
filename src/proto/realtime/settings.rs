//! What an agent's settings become: the `session.update` event (written by `client_event`). The same
//! struct is the `[agent]` section of the configuration, so its field names are that section's keys.

use serde::Deserialize;

/// Instructions in bytes. The model's own limit is 16,384 tokens for instructions and tools together
/// (unconfirmed by the vendor), which is about this much English.
pub const INSTRUCTIONS_BYTES_MAX: usize = 64 * 1024;
/// `audio.output.speed`: what the API takes.
pub const SPEED_MIN: f64 = 0.25;
/// See `SPEED_MIN`.
pub const SPEED_MAX: f64 = 1.5;
/// Audio kept before speech; more than this would repeat what was already answered.
pub const PREFIX_PADDING_MS_MAX: u32 = 5_000;
/// Silence that ends a turn: below one frame nothing would ever be a turn, above this callers give up.
pub const SILENCE_DURATION_MS: std::ops::RangeInclusive<u32> = 20..=10_000;
/// `max_output_tokens`: what the API takes beside `"inf"`.
pub const OUTPUT_TOKENS: std::ops::RangeInclusive<u32> = 1..=4_096;

/// An agent's session settings. All audio is PCMU both ways.
#[derive(Clone, Debug, PartialEq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// `instructions`; empty is left out, so the server's default stands.
    pub instructions: String,
    /// `audio.output.voice`; empty is left out. A `voice_…` id is sent as a custom voice.
    pub voice: String,
    /// `audio.output.speed`, 0.25 to 1.5.
    pub speed: Option<f64>,
    /// `audio.input.turn_detection`, sent whole.
    pub turn_detection: TurnDetection,
    /// `audio.input.transcription.model`; empty switches transcription off.
    pub transcription_model: String,
    /// `audio.input.transcription.language`; empty is left out.
    pub transcription_language: String,
    /// `audio.input.noise_reduction`; off unless set: it is made for microphones.
    pub noise_reduction: Option<NoiseReduction>,
    /// `max_output_tokens` of one response, 1 to 4096; unset is the server's `"inf"`.
    pub max_output_tokens: Option<u32>,
}

/// Who decides that the caller's turn is over. Both kinds with all fields come with the conversation work.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TurnDetection {
    /// 0.0 to 1.0.
    pub threshold: f64,
    /// Audio kept before speech, ms.
    pub prefix_padding_ms: u32,
    /// Silence that ends a turn, ms. Always sent: the server's default differs by model.
    pub silence_duration_ms: u32,
}

impl Default for TurnDetection {
    fn default() -> Self {
        Self {
            threshold: 0.5,
            prefix_padding_ms: 300,
            silence_duration_ms: 500,
        }
    }
}

/// The kinds of noise reduction that the model's input has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoiseReduction {
    /// A headset.
    NearField,
    /// A room.
    FarField,
}

impl NoiseReduction {
    /// As the API spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NearField => "near_field",
            Self::FarField => "far_field",
        }
    }
}

impl Settings {
    /// All problems at once: the key below the agent, and one sentence that says what is wrong and what
    /// to write instead. Empty when the settings can be sent. One bad field would make the server refuse
    /// the whole update, and the call with it, so they are found before any call.
    pub fn validate(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        let mut demand = |fine: bool, key: &'static str, problem: String| {
            if !fine {
                problems.push((key, problem));
            }
        };
        demand(
            self.instructions.len() <= INSTRUCTIONS_BYTES_MAX,
            "instructions",
            format!(
                "{} bytes long; shorten to at most {INSTRUCTIONS_BYTES_MAX}",
                self.instructions.len()
            ),
        );
        demand(
            is_name(&self.voice),
            "voice",
            "is no voice name; write one such as marin or cedar, or a voice_… id".to_owned(),
        );
        // A NaN is in no range, so these also refuse it.
        let speed = self.speed.unwrap_or(1.0);
        demand(
            (SPEED_MIN..=SPEED_MAX).contains(&speed),
            "speed",
            format!("{speed} is out of bounds; write {SPEED_MIN} to {SPEED_MAX}, or leave it out"),
        );
        let TurnDetection {
            threshold,
            prefix_padding_ms,
            silence_duration_ms,
        } = self.turn_detection;
        demand(
            (0.0..=1.0).contains(&threshold),
            "turn_detection.threshold",
            format!("{threshold} is out of bounds; write 0.0 to 1.0"),
        );
        demand(
            prefix_padding_ms <= PREFIX_PADDING_MS_MAX,
            "turn_detection.prefix_padding_ms",
            format!("{prefix_padding_ms} is too long; write 0 to {PREFIX_PADDING_MS_MAX}"),
        );
        demand(
            SILENCE_DURATION_MS.contains(&silence_duration_ms),
            "turn_detection.silence_duration_ms",
            format!(
                "{silence_duration_ms} is out of bounds; write {} to {}",
                SILENCE_DURATION_MS.start(),
                SILENCE_DURATION_MS.end()
            ),
        );
        demand(
            is_name(&self.transcription_model),
            "transcription_model",
            "is no model name; write one such as gpt-4o-mini-transcribe, or leave it empty"
                .to_owned(),
        );
        demand(
            is_name(&self.transcription_language),
            "transcription_language",
            "is no language code; write one such as en or ja".to_owned(),
        );
        demand(
            self.transcription_language.is_empty() || !self.transcription_model.is_empty(),
            "transcription_language",
            "has no use without transcription; set transcription_model or leave this empty"
                .to_owned(),
        );
        if let Some(tokens) = self.max_output_tokens {
            demand(
                OUTPUT_TOKENS.contains(&tokens),
                "max_output_tokens",
                format!(
                    "{tokens} is out of bounds; write {} to {}, or leave it out",
                    OUTPUT_TOKENS.start(),
                    OUTPUT_TOKENS.end()
                ),
            );
        }
        problems
    }
}

/// What the vendor's names (voices, models, languages) and deployments consist of; empty is allowed.
fn is_name(text: &str) -> bool {
    text.len() <= 128
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.:/".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_have_no_problem() {
        assert_eq!(Settings::default().validate(), []);
    }

    #[test]
    fn every_bound_is_inclusive_and_named() {
        fn keys(change: impl FnOnce(&mut Settings)) -> Vec<&'static str> {
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
            assert_eq!(keys(|s| s.max_output_tokens = Some(good)), [""; 0]);
            assert_eq!(
                keys(|s| s.max_output_tokens = Some(bad)),
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
}
