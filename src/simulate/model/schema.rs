//! What client events may hold: names, types, ranges. Refuses as the real API does, with the path. Pure.

mod shape;

use self::shape::{Field, Shape, may, must, object};
use super::error::ApiError;
use serde_json::{Map, Value};

const VOICES: &[&str] = &[
    "alloy", "ash", "ballad", "coral", "echo", "sage", "shimmer", "verse", "marin", "cedar",
];

const FORMAT: Shape = Shape::Tagged(&[
    ("audio/pcmu", &[]),
    ("audio/pcma", &[]),
    // PCM needs its rate: without it the whole update is refused.
    ("audio/pcm", &[must("rate", Shape::Int(24_000, 24_000))]),
]);

const TURN_DETECTION: Shape = Shape::Tagged(&[
    (
        "server_vad",
        &[
            may("threshold", Shape::Num(0.0, 1.0)),
            may("prefix_padding_ms", Shape::Int(0, 60_000)),
            may("silence_duration_ms", Shape::Int(0, 60_000)),
            may("idle_timeout_ms", Shape::Maybe(&Shape::Int(5_000, 30_000))),
            may("create_response", Shape::Bool),
            may("interrupt_response", Shape::Bool),
        ],
    ),
    (
        "semantic_vad",
        &[
            may(
                "eagerness",
                Shape::OneOf(&["low", "medium", "high", "auto"]),
            ),
            may("create_response", Shape::Bool),
            may("interrupt_response", Shape::Bool),
        ],
    ),
]);

const EFFORT: Shape = Shape::OneOf(&["minimal", "low", "medium", "high", "xhigh"]);

const TRANSCRIPTION: Shape = Shape::Object(&[
    must("model", Shape::Text),
    may("language", Shape::Text),
    may("languages", Shape::List(&Shape::Text)),
    may("keywords", Shape::List(&Shape::Text)),
    may("prompt", Shape::Text),
    may("delay", EFFORT),
]);

const AUDIO_INPUT: Shape = Shape::Object(&[
    may("format", FORMAT),
    may(
        "noise_reduction",
        Shape::Maybe(&Shape::Object(&[
            must("type", Shape::OneOf(&["near_field", "far_field"])),
            may("strength", Shape::Num(0.0, 1.0)),
        ])),
    ),
    may("transcription", Shape::Maybe(&TRANSCRIPTION)),
    may("turn_detection", Shape::Maybe(&TURN_DETECTION)),
]);

const AUDIO_OUTPUT: Shape = Shape::Object(&[
    may("format", FORMAT),
    may("voice", Shape::Custom(voice)),
    may("speed", Shape::Num(0.25, 1.5)),
]);

const TOOL: Shape = Shape::Tagged(&[
    (
        "function",
        &[
            must("name", Shape::Text),
            may("description", Shape::Text),
            may("parameters", Shape::Any),
        ],
    ),
    (
        "mcp",
        &[
            must("server_label", Shape::Text),
            may("server_url", Shape::Text),
            may("connector_id", Shape::Text),
            may("server_description", Shape::Text),
            may("authorization", Shape::Text),
            may("headers", Shape::Any),
            may("allowed_tools", Shape::Any),
            may("require_approval", Shape::Any),
        ],
    ),
]);

const PROMPT: Shape = Shape::Object(&[
    must("id", Shape::Text),
    may("version", Shape::Maybe(&Shape::Text)),
    may("variables", Shape::Maybe(&Shape::Any)),
]);

const MODALITIES: Shape = Shape::Custom(modalities);
const TOKENS: Shape = Shape::Custom(max_tokens);
const REASONING: Shape = Shape::Object(&[may("effort", EFFORT)]);

const SESSION: Shape = Shape::Object(&[
    must("type", Shape::OneOf(&["realtime"])),
    may("model", Shape::Text),
    may("instructions", Shape::Text),
    may("output_modalities", MODALITIES),
    may(
        "audio",
        Shape::Object(&[may("input", AUDIO_INPUT), may("output", AUDIO_OUTPUT)]),
    ),
    may("tools", Shape::List(&TOOL)),
    may("tool_choice", Shape::Custom(tool_choice)),
    may("parallel_tool_calls", Shape::Bool),
    may("reasoning", REASONING),
    may("max_output_tokens", TOKENS),
    may("truncation", Shape::Custom(truncation)),
    may("prompt", Shape::Maybe(&PROMPT)),
    may("tracing", Shape::Maybe(&Shape::Custom(tracing))),
    may(
        "include",
        Shape::Maybe(&Shape::List(&Shape::OneOf(&[
            "item.input_audio_transcription.logprobs",
        ]))),
    ),
]);

const CONTENT: Shape = Shape::Tagged(&[
    ("input_text", &[must("text", Shape::Text)]),
    (
        "input_audio",
        &[may("audio", Shape::Text), may("transcript", Shape::Text)],
    ),
    (
        "input_image",
        &[
            must("image_url", Shape::Text),
            may("detail", Shape::OneOf(&["auto", "low", "high"])),
        ],
    ),
    ("output_text", &[must("text", Shape::Text)]),
    // Assistant audio can't be seeded: the real API asks for the text (reference section 5.4).
    (
        "output_audio",
        &[
            must("text", Shape::Text),
            may("audio", Shape::Text),
            may("transcript", Shape::Text),
        ],
    ),
]);

const ITEM: Shape = Shape::Tagged(&[
    (
        "message",
        &[
            must("role", Shape::OneOf(&["system", "user", "assistant"])),
            must("content", Shape::List(&CONTENT)),
            may("id", Shape::Text),
            may("object", Shape::OneOf(&["realtime.item"])),
            may("status", STATUS),
        ],
    ),
    (
        "function_call",
        &[
            must("name", Shape::Text),
            must("arguments", Shape::Text),
            may("call_id", Shape::Text),
            may("id", Shape::Text),
            may("object", Shape::OneOf(&["realtime.item"])),
            may("status", STATUS),
        ],
    ),
    (
        "function_call_output",
        &[
            must("call_id", Shape::Text),
            must("output", Shape::Text),
            may("id", Shape::Text),
            may("object", Shape::OneOf(&["realtime.item"])),
            may("status", STATUS),
        ],
    ),
]);

const STATUS: Shape = Shape::OneOf(&["completed", "incomplete", "in_progress"]);

const RESPONSE: Shape = Shape::Object(&[
    may("output_modalities", MODALITIES),
    may("audio", Shape::Object(&[may("output", AUDIO_OUTPUT)])),
    may("instructions", Shape::Text),
    may("conversation", Shape::OneOf(&["auto", "none"])),
    may("input", Shape::List(&Shape::Any)),
    may("tools", Shape::List(&TOOL)),
    may("tool_choice", Shape::Custom(tool_choice)),
    may("parallel_tool_calls", Shape::Bool),
    may("max_output_tokens", TOKENS),
    may("metadata", Shape::Maybe(&Shape::Any)),
    may("prompt", Shape::Maybe(&PROMPT)),
    may("reasoning", REASONING),
]);

/// Every client event, its members beside `type` and `event_id`.
const EVENTS: &[(&str, &[Field])] = &[
    ("session.update", &[must("session", SESSION)]),
    ("input_audio_buffer.append", &[must("audio", Shape::Text)]),
    ("input_audio_buffer.commit", &[]),
    ("input_audio_buffer.clear", &[]),
    (
        "conversation.item.create",
        &[
            must("item", ITEM),
            may("previous_item_id", Shape::Maybe(&Shape::Text)),
        ],
    ),
    (
        "conversation.item.retrieve",
        &[must("item_id", Shape::Text)],
    ),
    (
        "conversation.item.truncate",
        &[
            must("item_id", Shape::Text),
            must("content_index", Shape::Int(0, 0)),
            must("audio_end_ms", Shape::Int(0, i64::MAX)),
        ],
    ),
    ("conversation.item.delete", &[must("item_id", Shape::Text)]),
    ("response.create", &[may("response", RESPONSE)]),
    ("response.cancel", &[may("response_id", Shape::Text)]),
    ("output_audio_buffer.clear", &[]),
];

/// Longest `event_id` of a client, characters.
const EVENT_ID_MAX: usize = 512;

/// Checks a whole client event; its name when it is sound.
pub fn check(event: &Map<String, Value>) -> Result<&'static str, ApiError> {
    let kind = match event.get("type") {
        Some(Value::String(kind)) => kind,
        Some(_) => return Err(ApiError::wrong_type("type", "a string")),
        None => return Err(ApiError::missing("type")),
    };
    let Some((name, fields)) = EVENTS.iter().find(|(name, _)| name == kind) else {
        let names: Vec<String> = EVENTS.iter().map(|(name, _)| format!("'{name}'")).collect();
        return Err(ApiError::invalid_value(
            "type",
            &Value::from(kind.as_str()),
            &names.join(", "),
        ));
    };
    if let Some(id) = event.get("event_id") {
        match id.as_str() {
            Some(id) if id.chars().count() <= EVENT_ID_MAX => {}
            Some(_) => {
                return Err(ApiError::new(
                    "string_above_max_length",
                    "Invalid 'event_id': string too long.",
                )
                .at("event_id"));
            }
            None => return Err(ApiError::wrong_type("event_id", "a string")),
        }
    }
    object(event, fields, &["type", "event_id"], "")?;
    Ok(name)
}

fn voice(value: &Value, path: &str) -> Result<(), ApiError> {
    match value {
        Value::Object(voice) => object(voice, &[must("id", Shape::Text)], &[], path),
        _ => Shape::OneOf(VOICES).check(value, path),
    }
}

/// Exactly one of the two: audio includes its transcript.
fn modalities(value: &Value, path: &str) -> Result<(), ApiError> {
    if *value == serde_json::json!(["audio"]) || *value == serde_json::json!(["text"]) {
        Ok(())
    } else {
        Err(ApiError::invalid_value(
            path,
            value,
            "['audio'] and ['text']",
        ))
    }
}

fn max_tokens(value: &Value, path: &str) -> Result<(), ApiError> {
    if value == "inf" {
        return Ok(());
    }
    Shape::Int(1, 4096).check(value, path)
}

fn tool_choice(value: &Value, path: &str) -> Result<(), ApiError> {
    if value.is_object() {
        const NAMED: Shape = Shape::Tagged(&[
            ("function", &[must("name", Shape::Text)]),
            (
                "mcp",
                &[must("server_label", Shape::Text), may("name", Shape::Text)],
            ),
        ]);
        NAMED.check(value, path)
    } else {
        Shape::OneOf(&["auto", "none", "required"]).check(value, path)
    }
}

fn truncation(value: &Value, path: &str) -> Result<(), ApiError> {
    if value.is_object() {
        const RATIO: Shape = Shape::Tagged(&[(
            "retention_ratio",
            &[
                must("retention_ratio", Shape::Num(0.0, 1.0)),
                may("token_limits", Shape::Any),
            ],
        )]);
        RATIO.check(value, path)
    } else {
        Shape::OneOf(&["auto", "disabled"]).check(value, path)
    }
}

fn tracing(value: &Value, path: &str) -> Result<(), ApiError> {
    if value.is_object() {
        const TRACE: Shape = Shape::Object(&[
            may("workflow_name", Shape::Text),
            may("group_id", Shape::Text),
            may("metadata", Shape::Any),
        ]);
        TRACE.check(value, path)
    } else {
        Shape::OneOf(&["auto"]).check(value, path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn refused(event: Value) -> (&'static str, Option<String>) {
        let event = event.as_object().expect("an object").clone();
        let error = check(&event).expect_err("this must be refused");
        (error.code, error.param)
    }

    fn update(session: Value) -> Value {
        json!({"type": "session.update", "session": session})
    }

    #[test]
    fn a_telephone_session_is_accepted() {
        let event = update(json!({
            "type": "realtime", "output_modalities": ["audio"], "instructions": "Be short.",
            "audio": {
                "input": {"format": {"type": "audio/pcmu"},
                    "transcription": {"model": "gpt-4o-mini-transcribe", "language": "en"},
                    "noise_reduction": null,
                    "turn_detection": {"type": "server_vad", "threshold": 0.5, "prefix_padding_ms": 300,
                        "silence_duration_ms": 500, "create_response": true, "interrupt_response": true}},
                "output": {"format": {"type": "audio/pcmu"}, "voice": "marin"}}}));
        assert_eq!(
            check(event.as_object().expect("an object")),
            Ok("session.update")
        );
    }

    #[test]
    fn temperature_does_not_exist() {
        assert_eq!(
            refused(update(json!({"type": "realtime", "temperature": 0.8}))),
            ("unknown_parameter", Some("session.temperature".into()))
        );
    }

    #[test]
    fn the_session_type_is_required() {
        assert_eq!(
            refused(update(json!({"instructions": ""}))),
            ("missing_required_parameter", Some("session.type".into()))
        );
    }

    #[test]
    fn pcm_needs_its_rate_and_g711_takes_none() {
        let format = |format: Value| {
            refused(update(
                json!({"type": "realtime", "audio": {"output": {"format": format}}}),
            ))
        };
        assert_eq!(
            format(json!({"type": "audio/pcm"})),
            (
                "missing_required_parameter",
                Some("session.audio.output.format.rate".into())
            )
        );
        assert_eq!(
            format(json!({"type": "audio/pcmu", "rate": 8000})),
            (
                "unknown_parameter",
                Some("session.audio.output.format.rate".into())
            )
        );
        assert_eq!(format(json!({"type": "g711_ulaw"})).0, "invalid_value");
    }

    #[test]
    fn beta_names_and_voices_are_refused() {
        assert_eq!(
            refused(update(
                json!({"type": "realtime", "input_audio_format": "g711_ulaw"})
            )),
            (
                "unknown_parameter",
                Some("session.input_audio_format".into())
            )
        );
        assert_eq!(
            refused(update(
                json!({"type": "realtime", "audio": {"output": {"voice": "nova"}}})
            )),
            ("invalid_value", Some("session.audio.output.voice".into()))
        );
        assert_eq!(
            refused(update(
                json!({"type": "realtime", "output_modalities": ["audio", "text"]})
            ))
            .0,
            "invalid_value"
        );
    }

    #[test]
    fn unknown_event_types_name_the_type() {
        assert_eq!(
            refused(json!({"type": "transcription_session.update"})),
            ("invalid_value", Some("type".into()))
        );
        assert_eq!(
            refused(json!({})),
            ("missing_required_parameter", Some("type".into()))
        );
    }

    #[test]
    fn truncation_takes_integers_only() {
        assert_eq!(
            refused(
                json!({"type": "conversation.item.truncate", "item_id": "item_1",
                "content_index": 0, "audio_end_ms": 1833.4})
            ),
            ("invalid_type", Some("audio_end_ms".into()))
        );
    }

    #[test]
    fn assistant_audio_cannot_be_seeded() {
        assert_eq!(
            refused(
                json!({"type": "conversation.item.create", "item": {"type": "message",
                "role": "assistant", "content": [{"type": "output_audio", "transcript": "Hello"}]}})
            ),
            (
                "missing_required_parameter",
                Some("item.content[0].text".into())
            )
        );
    }
}
