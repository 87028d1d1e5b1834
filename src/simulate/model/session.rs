//! The session's effective configuration: server defaults, patches, the echo. Pure.

use super::error::ApiError;
use super::vad;
use crate::proto::audio::g711;
use serde_json::{Map, Value, json};

/// How audio is coded on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// 16-bit little-endian at 24 kHz: the default, and loud static when a telephone plays it.
    Pcm24,
    /// G.711 mu-law.
    Pcmu,
    /// G.711 A-law.
    Pcma,
}

impl Format {
    fn of(value: &Value) -> Self {
        match value["type"].as_str() {
            Some("audio/pcmu") => Self::Pcmu,
            Some("audio/pcma") => Self::Pcma,
            _ => Self::Pcm24,
        }
    }

    /// Bytes in one millisecond.
    pub fn bytes_per_ms(self) -> u64 {
        match self {
            Self::Pcm24 => 48,
            Self::Pcmu | Self::Pcma => 8,
        }
    }

    /// Samples in one second.
    pub fn rate(self) -> u64 {
        match self {
            Self::Pcm24 => 24_000,
            Self::Pcmu | Self::Pcma => 8_000,
        }
    }

    /// Bytes off the wire as samples at `rate`. An odd last PCM byte is dropped.
    pub fn decode(self, bytes: &[u8]) -> Vec<i16> {
        match self {
            Self::Pcm24 => bytes
                .chunks_exact(2)
                .map(|b| i16::from_le_bytes([b[0], b[1]]))
                .collect(),
            Self::Pcmu => bytes.iter().map(|&b| g711::to_linear(b)).collect(),
            Self::Pcma => bytes.iter().map(|&b| alaw_to_linear(b)).collect(),
        }
    }

    /// Samples at 8 kHz as bytes for the wire.
    pub fn encode(self, samples: &[i16]) -> Vec<u8> {
        match self {
            // Three times each sample: crude, and enough for a client that must refuse this format.
            Self::Pcm24 => samples
                .iter()
                .flat_map(|s| [s.to_le_bytes(); 3])
                .flatten()
                .collect(),
            Self::Pcmu => samples.iter().map(|&s| g711::from_linear(s)).collect(),
            Self::Pcma => samples.iter().map(|&s| linear_to_alaw(s)).collect(),
        }
    }
}

/// ITU-T G.711 table 1a: A-law, even bits inverted.
fn alaw_to_linear(byte: u8) -> i16 {
    let code = byte ^ 0x55;
    let (segment, step) = ((code >> 4) & 7, i16::from(code & 15));
    let magnitude = if segment == 0 {
        (step << 4) + 8
    } else {
        ((step << 4) + 0x108) << (segment - 1)
    };
    if code & 0x80 != 0 {
        magnitude
    } else {
        -magnitude
    }
}

fn linear_to_alaw(sample: i16) -> u8 {
    let magnitude = i32::from(sample).unsigned_abs().min(32_767) as u16;
    let segment = (magnitude >> 8).checked_ilog2().map_or(0, |n| n + 1);
    let step = (magnitude >> if segment == 0 { 4 } else { segment + 3 }) & 15;
    let sign = if sample >= 0 { 0x80 } else { 0 };
    (sign | (segment as u8) << 4 | step as u8) ^ 0x55
}

/// What the session is set to.
#[derive(Clone, Debug)]
pub struct Session {
    config: Map<String, Value>,
    model: String,
    /// Some client's `session.update` was accepted.
    pub is_configured: bool,
}

const DEFAULT_INSTRUCTIONS: &str = "Your knowledge cutoff is 2024-06. You are a helpful, witty, and friendly AI. \
Act like a human, but remember that you aren't a human. Talk quickly.";

impl Session {
    /// The server's defaults for `model`.
    pub fn new(id: String, model: &str, expires_at: u64) -> Self {
        let config = json!({
            "type": "realtime",
            "object": "realtime.session",
            "id": id,
            "model": model,
            "output_modalities": ["audio"],
            "instructions": DEFAULT_INSTRUCTIONS,
            "tools": [],
            "tool_choice": "auto",
            "max_output_tokens": "inf",
            "tracing": null,
            "truncation": "auto",
            "prompt": null,
            "expires_at": expires_at,
            "audio": {
                "input": {
                    "format": {"type": "audio/pcm", "rate": 24000},
                    "transcription": null,
                    "noise_reduction": null,
                    "turn_detection": turn_detection(&json!({"type": "server_vad"}), model),
                },
                "output": {
                    "format": {"type": "audio/pcm", "rate": 24000},
                    "voice": "alloy",
                    "speed": 1.0,
                },
            },
            "include": null,
        });
        let Value::Object(config) = config else {
            unreachable!("written as an object above")
        };
        Self {
            config,
            model: model.to_string(),
            is_configured: false,
        }
    }

    /// Applies a `session` member that `schema::check` has accepted; all of it or nothing.
    pub fn update(&mut self, patch: &Value, has_spoken: bool) -> Result<(), ApiError> {
        let is_reasoning = self.model.starts_with("gpt-realtime-2");
        if !patch["model"].is_null() && patch["model"] != self.model.as_str() {
            return Err(ApiError::new(
                "invalid_value",
                "The model of a session cannot be changed.",
            )
            .at("session.model"));
        }
        for name in ["reasoning", "parallel_tool_calls"] {
            if patch.get(name).is_some() && !is_reasoning {
                return Err(ApiError::new(
                    "invalid_value",
                    format!("'{name}' is not supported with this model."),
                )
                .at(format!("session.{name}")));
            }
        }
        let voice = &patch["audio"]["output"]["voice"];
        if has_spoken && !voice.is_null() && *voice != self.output()["voice"] {
            return Err(ApiError::new(
                "cannot_update_voice",
                "Cannot update a conversation's voice if assistant audio is present.",
            ));
        }
        if !self.config["tracing"].is_null() && patch.get("tracing").is_some() {
            return Err(ApiError::new(
                "invalid_value",
                "Tracing cannot be modified once it is enabled.",
            )
            .at("session.tracing"));
        }
        let Some(patch) = patch.as_object() else {
            return Err(ApiError::wrong_type("session", "an object"));
        };
        for (name, value) in patch {
            if name == "audio" {
                for (side, members) in value.as_object().into_iter().flatten() {
                    for (member, value) in members.as_object().into_iter().flatten() {
                        let value = if member == "turn_detection" {
                            turn_detection(value, &self.model)
                        } else {
                            value.clone()
                        };
                        self.config["audio"][side][member] = value;
                    }
                }
            } else {
                self.config.insert(name.clone(), value.clone());
            }
        }
        self.is_configured = true;
        Ok(())
    }

    /// The whole effective configuration.
    pub fn echo(&self) -> Value {
        Value::Object(self.config.clone())
    }

    fn input(&self) -> &Value {
        &self.config["audio"]["input"]
    }

    /// `audio.output`.
    pub fn output(&self) -> &Value {
        &self.config["audio"]["output"]
    }

    /// One of the top-level members; null when absent.
    pub fn member(&self, name: &str) -> &Value {
        self.config.get(name).unwrap_or(&Value::Null)
    }

    /// How appended audio is read.
    pub fn input_format(&self) -> Format {
        Format::of(&self.input()["format"])
    }

    /// How audio is sent.
    pub fn output_format(&self) -> Format {
        Format::of(&self.output()["format"])
    }

    /// The transcription model, where transcription is on.
    pub fn transcription_model(&self) -> Option<&str> {
        self.input()["transcription"]["model"].as_str()
    }

    /// The detector's settings; `None` is manual. Semantic detection is played by energy with a longer silence.
    pub fn turn_detection(&self) -> Option<vad::Settings> {
        let detection = &self.input()["turn_detection"];
        match detection["type"].as_str()? {
            "server_vad" => Some(vad::Settings {
                threshold: detection["threshold"].as_f64()?,
                prefix_padding_ms: detection["prefix_padding_ms"].as_u64()?,
                silence_duration_ms: detection["silence_duration_ms"].as_u64()?,
            }),
            _ => Some(vad::Settings {
                threshold: 0.5,
                prefix_padding_ms: 300,
                silence_duration_ms: match detection["eagerness"].as_str() {
                    Some("low") => 1600,
                    Some("high") => 400,
                    _ => 800,
                },
            }),
        }
    }

    /// A switch of `turn_detection`; false when detection is off.
    pub fn detection_flag(&self, name: &str) -> bool {
        self.input()["turn_detection"][name]
            .as_bool()
            .unwrap_or(false)
    }

    /// `turn_detection.idle_timeout_ms`.
    pub fn idle_timeout_ms(&self) -> Option<u64> {
        self.input()["turn_detection"]["idle_timeout_ms"].as_u64()
    }
}

/// A `turn_detection` with its defaults filled in, as the echo shows it.
fn turn_detection(value: &Value, model: &str) -> Value {
    let given = |name: &str, default: Value| match value.get(name) {
        Some(value) => value.clone(),
        None => default,
    };
    // Seen: 200 on gpt-realtime, 500 on the 2.x models, whatever the documentation says.
    let silence = if model.starts_with("gpt-realtime-2.") {
        500
    } else {
        200
    };
    match value["type"].as_str() {
        Some("server_vad") => json!({
            "type": "server_vad",
            "threshold": given("threshold", json!(0.5)),
            "prefix_padding_ms": given("prefix_padding_ms", json!(300)),
            "silence_duration_ms": given("silence_duration_ms", json!(silence)),
            "idle_timeout_ms": given("idle_timeout_ms", Value::Null),
            "create_response": given("create_response", json!(true)),
            "interrupt_response": given("interrupt_response", json!(true)),
        }),
        Some("semantic_vad") => json!({
            "type": "semantic_vad",
            "eagerness": given("eagerness", json!("auto")),
            "create_response": given("create_response", json!(true)),
            "interrupt_response": given("interrupt_response", json!(true)),
        }),
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> Session {
        Session::new("sess_1".into(), "gpt-realtime", 1_800_003_600)
    }

    #[test]
    fn the_defaults_are_24_khz_pcm_both_ways() {
        let session = session();
        assert_eq!(session.input_format(), Format::Pcm24);
        assert_eq!(session.output_format(), Format::Pcm24);
        assert_eq!(session.echo()["expires_at"], 1_800_003_600u64);
        assert_eq!(
            session.turn_detection().map(|d| d.silence_duration_ms),
            Some(200)
        );
    }

    #[test]
    fn only_present_fields_change() {
        let mut session = session();
        let patch =
            json!({"type": "realtime", "audio": {"input": {"format": {"type": "audio/pcmu"}}}});
        assert_eq!(session.update(&patch, false), Ok(()));
        assert_eq!(session.input_format(), Format::Pcmu);
        assert_eq!(session.output_format(), Format::Pcm24);
        assert!(session.turn_detection().is_some());
        let off = json!({"type": "realtime", "audio": {"input": {"turn_detection": null}}});
        assert_eq!(session.update(&off, false), Ok(()));
        assert_eq!(session.turn_detection(), None);
        assert_eq!(session.input_format(), Format::Pcmu);
    }

    #[test]
    fn one_bad_field_rejects_the_whole_update() {
        let mut session = session();
        let patch =
            json!({"type": "realtime", "instructions": "new", "reasoning": {"effort": "low"}});
        assert!(session.update(&patch, false).is_err());
        assert_ne!(session.echo()["instructions"], "new");
    }

    #[test]
    fn the_voice_is_fixed_once_it_has_spoken() {
        let mut session = session();
        let marin = json!({"type": "realtime", "audio": {"output": {"voice": "marin"}}});
        assert_eq!(session.update(&marin, false), Ok(()));
        assert_eq!(session.update(&marin, true), Ok(()));
        let cedar = json!({"type": "realtime", "audio": {"output": {"voice": "cedar"}}});
        assert_eq!(
            session.update(&cedar, true).map_err(|e| e.code),
            Err("cannot_update_voice")
        );
    }

    #[test]
    fn a_law_comes_back_within_its_step() {
        for sample in (-32_000i16..32_000).step_by(97) {
            let back = alaw_to_linear(linear_to_alaw(sample));
            let error = (i32::from(back) - i32::from(sample)).abs();
            assert!(
                error <= 16.max(i32::from(sample).abs() / 16),
                "{sample} came back as {back}"
            );
        }
    }
}
