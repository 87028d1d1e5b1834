//! Events to the model ("Realtime API reference: client events", read 2026-11). The server's types
//! refuse unknown fields, so each event has exactly the documented ones.

use super::settings::Settings;
use serde::Serialize;

/// What stands before the payload of an append; `APPEND_SUFFIX` stands behind it.
pub const APPEND_PREFIX: &[u8] = br#"{"type":"input_audio_buffer.append","audio":""#;
/// See `APPEND_PREFIX`.
pub const APPEND_SUFFIX: &[u8] = br#""}"#;

/// The `session.update` that makes a telephone session of `settings`: PCMU both ways, audio answers, the
/// server detects turns, answers them and breaks off when the caller speaks. `event_id` (at most 512
/// characters) comes back in the `error` event if the update fails.
///
/// Numbers that JSON does not have (NaN, infinity) become `null`; `Settings::validate` refuses them.
pub fn session_update(settings: &Settings, event_id: &str) -> String {
    let turn = &settings.turn_detection;
    let event = SessionUpdate {
        r#type: "session.update",
        event_id,
        session: Session {
            r#type: "realtime",
            output_modalities: ["audio"],
            instructions: non_empty(&settings.instructions),
            max_output_tokens: settings.max_output_tokens,
            audio: Audio {
                input: Input {
                    format: PCMU,
                    // Null is said, not left out: the server's default must never decide.
                    transcription: non_empty(&settings.transcription_model).map(|model| {
                        Transcription {
                            model,
                            language: non_empty(&settings.transcription_language),
                        }
                    }),
                    noise_reduction: settings.noise_reduction.map(|kind| Typed {
                        r#type: kind.as_str(),
                    }),
                    turn_detection: TurnDetection {
                        r#type: "server_vad",
                        threshold: turn.threshold,
                        prefix_padding_ms: turn.prefix_padding_ms,
                        silence_duration_ms: turn.silence_duration_ms,
                        create_response: true,
                        interrupt_response: true,
                    },
                },
                output: Output {
                    format: PCMU,
                    voice: non_empty(&settings.voice).map(|voice| {
                        if voice.starts_with("voice_") {
                            Voice::Custom { id: voice }
                        } else {
                            Voice::Name(voice)
                        }
                    }),
                    speed: settings.speed,
                },
            },
        },
    };
    serde_json::to_string(&event).expect("plain structs with string keys are always JSON")
}

const PCMU: Typed = Typed {
    r#type: "audio/pcmu",
};

fn non_empty(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

#[derive(Serialize)]
struct Typed {
    r#type: &'static str,
}

#[derive(Serialize)]
struct SessionUpdate<'a> {
    r#type: &'static str,
    event_id: &'a str,
    session: Session<'a>,
}

#[derive(Serialize)]
struct Session<'a> {
    r#type: &'static str,
    output_modalities: [&'static str; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    instructions: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_output_tokens: Option<u32>,
    audio: Audio<'a>,
}

#[derive(Serialize)]
struct Audio<'a> {
    input: Input<'a>,
    output: Output<'a>,
}

#[derive(Serialize)]
struct Input<'a> {
    format: Typed,
    transcription: Option<Transcription<'a>>,
    noise_reduction: Option<Typed>,
    turn_detection: TurnDetection,
}

#[derive(Serialize)]
struct Transcription<'a> {
    model: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    language: Option<&'a str>,
}

#[derive(Serialize)]
struct TurnDetection {
    r#type: &'static str,
    threshold: f64,
    prefix_padding_ms: u32,
    silence_duration_ms: u32,
    create_response: bool,
    interrupt_response: bool,
}

#[derive(Serialize)]
struct Output<'a> {
    format: Typed,
    #[serde(skip_serializing_if = "Option::is_none")]
    voice: Option<Voice<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    speed: Option<f64>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Voice<'a> {
    Name(&'a str),
    Custom { id: &'a str },
}

#[cfg(test)]
mod tests {
    use super::super::settings::{NoiseReduction, TurnDetection};
    use super::*;

    #[test]
    fn the_minimal_telephone_session_has_the_documented_bytes() {
        let settings = Settings {
            instructions: "You answer for a bicycle repair shop. Keep replies short.".into(),
            voice: "marin".into(),
            transcription_model: "gpt-4o-mini-transcribe".into(),
            transcription_language: "en".into(),
            ..Settings::default()
        };
        assert_eq!(
            session_update(&settings, "vr_cfg_1"),
            concat!(
                r#"{"type":"session.update","event_id":"vr_cfg_1","session":{"type":"realtime","#,
                r#""output_modalities":["audio"],"#,
                r#""instructions":"You answer for a bicycle repair shop. Keep replies short.","#,
                r#""audio":{"input":{"format":{"type":"audio/pcmu"},"#,
                r#""transcription":{"model":"gpt-4o-mini-transcribe","language":"en"},"#,
                r#""noise_reduction":null,"#,
                r#""turn_detection":{"type":"server_vad","threshold":0.5,"prefix_padding_ms":300,"#,
                r#""silence_duration_ms":500,"create_response":true,"interrupt_response":true}},"#,
                r#""output":{"format":{"type":"audio/pcmu"},"voice":"marin"}}}}"#,
            )
        );
    }

    #[test]
    fn what_is_not_set_is_left_out_but_off_is_said() {
        let text = session_update(&Settings::default(), "e");
        let event: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let session = &event["session"];
        assert!(session.get("instructions").is_none());
        assert!(session.get("max_output_tokens").is_none());
        assert!(session["audio"]["output"].get("voice").is_none());
        assert!(session["audio"]["output"].get("speed").is_none());
        let input = session["audio"]["input"].as_object().expect("an object");
        assert!(input["transcription"].is_null());
        assert!(input["noise_reduction"].is_null());
        assert!(session.get("temperature").is_none(), "GA has none");
    }

    #[test]
    fn every_setting_arrives() {
        let settings = Settings {
            instructions: "Say \"hé\"\n\u{1}".into(),
            voice: "voice_123".into(),
            speed: Some(0.25),
            turn_detection: TurnDetection {
                threshold: 0.0,
                prefix_padding_ms: 0,
                silence_duration_ms: 200,
            },
            transcription_model: "whisper-1".into(),
            noise_reduction: Some(NoiseReduction::NearField),
            max_output_tokens: Some(4096),
            ..Settings::default()
        };
        let text = session_update(&settings, "a\"b");
        let event: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(event["event_id"], "a\"b");
        let session = &event["session"];
        assert_eq!(session["instructions"], "Say \"hé\"\n\u{1}");
        assert_eq!(session["max_output_tokens"], 4096);
        let audio = &session["audio"];
        assert_eq!(audio["output"]["voice"]["id"], "voice_123");
        assert_eq!(audio["output"]["speed"], 0.25);
        assert_eq!(audio["input"]["noise_reduction"]["type"], "near_field");
        assert_eq!(
            audio["input"]["transcription"].as_object().map(|t| t.len()),
            Some(1)
        );
        assert_eq!(audio["input"]["turn_detection"]["threshold"], 0.0);
        assert_eq!(audio["input"]["turn_detection"]["prefix_padding_ms"], 0);
    }

    #[test]
    fn prefix_payload_and_suffix_make_an_append() {
        let text = [APPEND_PREFIX, b"AA==", APPEND_SUFFIX].concat();
        assert_eq!(
            text,
            br#"{"type":"input_audio_buffer.append","audio":"AA=="}"#
        );
    }
}
