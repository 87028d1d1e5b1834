use super::super::settings::{Eagerness, Effort, NoiseReduction, TurnDetection};
use super::super::tool::{Builtin, Tool};
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
            ..TurnDetection::default()
        },
        transcription_model: "whisper-1".into(),
        noise_reduction: Some(NoiseReduction::NearField),
        max_output_tokens: Some(OutputTokens::Max(4096)),
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
