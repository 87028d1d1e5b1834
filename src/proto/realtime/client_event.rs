//! Events to the model ("Realtime API reference: client events", read 2026-11). The server's types
//! refuse unknown fields, so each event has exactly the documented ones.
//!
//! Every builder takes an `event_id` (at most 512 characters; empty: none), which comes back in the `error`
//! event when the event fails; often it comes back null, so nothing may depend on it.

use super::settings::{self, OutputTokens, Settings, ToolChoice, Truncation, TurnKind};
use serde::Serialize;
use serde_json::{Map, Value, json};

/// What stands before the payload of an append; `APPEND_SUFFIX` stands behind it.
pub const APPEND_PREFIX: &[u8] = br#"{"type":"input_audio_buffer.append","audio":""#;
/// See `APPEND_PREFIX`.
pub const APPEND_SUFFIX: &[u8] = br#""}"#;
/// The one member of a response's `metadata` that is ours: it tells our responses from the server's own.
pub const METADATA_KEY: &str = "voxrelay";

/// The `session.update` that makes a telephone session of `settings`: PCMU both ways, audio answers.
///
/// Numbers that JSON does not have (NaN, infinity) become `null`; `Settings::validate` refuses them.
pub fn session_update(settings: &Settings, event_id: &str) -> String {
    let session = Session::new(settings);
    if settings.session_extra.is_empty() {
        return event("session.update", event_id, &Update { session });
    }
    let mut session =
        serde_json::to_value(session).expect("plain structs with string keys are always JSON");
    merge(&mut session, &settings.session_extra);
    keep_telephone(&mut session);
    event("session.update", event_id, &json!({"session": session}))
}

/// A later `session.update` with only what changes, and always both formats: updates without them have
/// silently gone back to the server's own (openai-agents-js #1366). Formats and type in `patch` have no effect.
pub fn session_patch(patch: &Map<String, Value>, event_id: &str) -> String {
    let mut session = json!({"type": "realtime"});
    merge(&mut session, patch);
    keep_telephone(&mut session);
    event("session.update", event_id, &json!({"session": session}))
}

/// `session_patch` for turn detection, which is sent whole: whether a part would reset the rest is unconfirmed. What
/// `session_extra` says of it counts here too.
pub fn turn_detection_patch(settings: &Settings, event_id: &str) -> String {
    let turn = TurnDetection::new(&settings.turn_detection);
    let mut session = json!({"audio": {"input": {"turn_detection": turn}}});
    let extra = settings.session_extra.get("audio");
    if let Some(extra) = extra.and_then(|audio| audio.get("input")?.get("turn_detection")) {
        let mut whole = Map::new();
        let extra = json!({"input": {"turn_detection": extra}});
        whole.insert("audio".into(), extra);
        merge(&mut session, &whole);
    }
    let Value::Object(patch) = session else {
        unreachable!("it was made as an object");
    };
    session_patch(&patch, event_id)
}

/// `response.create`. `instructions` replace the session's for this response; `tag` comes back in
/// `response.created` and `response.done` (at most 512 characters).
pub fn response_create(instructions: Option<&str>, tag: Option<&str>, event_id: &str) -> String {
    #[derive(Serialize)]
    struct Create<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        response: Option<Response<'a>>,
    }
    #[derive(Serialize)]
    struct Response<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        instructions: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        metadata: Option<Metadata<'a>>,
    }
    #[derive(Serialize)]
    struct Metadata<'a> {
        // `METADATA_KEY`; a test compares them.
        voxrelay: &'a str,
    }
    let response = (instructions.is_some() || tag.is_some()).then(|| Response {
        instructions,
        metadata: tag.map(|voxrelay| Metadata { voxrelay }),
    });
    event("response.create", event_id, &Create { response })
}

/// `response.cancel`: of this response, else of the one that is active.
pub fn response_cancel(response_id: Option<&str>, event_id: &str) -> String {
    #[derive(Serialize)]
    struct Cancel<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        response_id: Option<&'a str>,
    }
    event("response.cancel", event_id, &Cancel { response_id })
}

/// `conversation.item.truncate`: keeps the item's audio up to `audio_end_ms`, which must not be more than came.
/// The server forgets the item's transcript.
pub fn truncate(item_id: &str, content_index: u64, audio_end_ms: u64, event_id: &str) -> String {
    #[derive(Serialize)]
    struct Truncate<'a> {
        item_id: &'a str,
        content_index: u64,
        audio_end_ms: u64,
    }
    let body = Truncate {
        item_id,
        content_index,
        audio_end_ms,
    };
    event("conversation.item.truncate", event_id, &body)
}

/// `conversation.item.delete`.
pub fn item_delete(item_id: &str, event_id: &str) -> String {
    #[derive(Serialize)]
    struct Delete<'a> {
        item_id: &'a str,
    }
    event("conversation.item.delete", event_id, &Delete { item_id })
}

/// `input_audio_buffer.clear`.
pub fn input_buffer_clear(event_id: &str) -> String {
    event("input_audio_buffer.clear", event_id, &Map::new())
}

/// What an item that we write is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewItem<'a> {
    /// Something that the caller said or pressed.
    UserText(&'a str),
    /// Something that the model said, as it was heard. Never as audio: that is refused.
    AssistantText(&'a str),
    /// Something that the model is to know.
    SystemText(&'a str),
    /// A call of a tool, for a conversation that is told again.
    FunctionCall {
        /// At most 32 characters when it is ours.
        call_id: &'a str,
        /// The tool's name.
        name: &'a str,
        /// JSON as text.
        arguments: &'a str,
    },
    /// What a tool answered.
    FunctionCallOutput {
        /// Of the call that is answered.
        call_id: &'a str,
        /// Any text; the model reads it.
        output: &'a str,
    },
}

/// `conversation.item.create`. `item_id` is ours to choose, or the server chooses; it comes behind
/// `previous_item_id` ("root": to the front), or at the end.
pub fn item_create(
    item: NewItem<'_>,
    item_id: Option<&str>,
    previous_item_id: Option<&str>,
    event_id: &str,
) -> String {
    #[derive(Serialize)]
    struct Create<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        previous_item_id: Option<&'a str>,
        item: Item<'a>,
    }
    #[derive(Serialize)]
    struct Item<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
        r#type: &'static str,
        #[serde(flatten)]
        body: Body<'a>,
    }
    #[derive(Serialize)]
    #[serde(untagged)]
    enum Body<'a> {
        Message {
            role: &'static str,
            content: [Part<'a>; 1],
        },
        Call {
            call_id: &'a str,
            name: &'a str,
            arguments: &'a str,
        },
        Output {
            call_id: &'a str,
            output: &'a str,
        },
    }
    #[derive(Serialize)]
    struct Part<'a> {
        r#type: &'static str,
        text: &'a str,
    }
    let message = |role, r#type, text| {
        let content = [Part { r#type, text }];
        ("message", Body::Message { role, content })
    };
    let (r#type, body) = match item {
        NewItem::UserText(text) => message("user", "input_text", text),
        NewItem::AssistantText(text) => message("assistant", "output_text", text),
        NewItem::SystemText(text) => message("system", "input_text", text),
        NewItem::FunctionCall {
            call_id,
            name,
            arguments,
        } => (
            "function_call",
            Body::Call {
                call_id,
                name,
                arguments,
            },
        ),
        NewItem::FunctionCallOutput { call_id, output } => {
            ("function_call_output", Body::Output { call_id, output })
        }
    };
    let item = Item {
        id: item_id,
        r#type,
        body,
    };
    let body = Create {
        previous_item_id,
        item,
    };
    event("conversation.item.create", event_id, &body)
}

/// One event as JSON.
fn event(kind: &'static str, event_id: &str, body: &impl Serialize) -> String {
    #[derive(Serialize)]
    struct Event<'a, B> {
        r#type: &'static str,
        #[serde(skip_serializing_if = "str::is_empty")]
        event_id: &'a str,
        #[serde(flatten)]
        body: &'a B,
    }
    let event = Event {
        r#type: kind,
        event_id,
        body,
    };
    serde_json::to_string(&event).expect("plain structs with string keys are always JSON")
}

/// Objects member by member, anything else in place of what was there.
fn merge(into: &mut Value, from: &Map<String, Value>) {
    let Value::Object(into) = into else {
        *into = Value::Object(from.clone());
        return;
    };
    for (name, value) in from {
        match (into.get_mut(name), value) {
            // How deep it goes is bounded by whoever read `from`: serde_json stops at 128.
            (Some(old @ Value::Object(_)), Value::Object(value)) => merge(old, value),
            _ => drop(into.insert(name.clone(), value.clone())),
        }
    }
}

/// Whatever was merged: a telephone session with PCMU both ways. `Settings::validate` refuses what this repairs.
fn keep_telephone(session: &mut Value) {
    session["type"] = json!("realtime");
    if !session["audio"].is_object() {
        session["audio"] = json!({});
    }
    for side in ["input", "output"] {
        if !session["audio"][side].is_object() {
            session["audio"][side] = json!({});
        }
        session["audio"][side]["format"] = json!(PCMU);
    }
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
struct Update<'a> {
    session: Session<'a>,
}

#[derive(Serialize)]
struct Session<'a> {
    r#type: &'static str,
    output_modalities: [&'static str; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    instructions: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_output_tokens: Option<Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<Tool<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_choice: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parallel_tool_calls: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    truncation: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning: Option<Reasoning>,
    #[serde(skip_serializing_if = "Option::is_none")]
    include: Option<[&'static str; 1]>,
    audio: Audio<'a>,
}

#[derive(Serialize)]
struct Tool<'a> {
    r#type: &'static str,
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    description: &'a str,
    parameters: &'a Map<String, Value>,
}

#[derive(Serialize)]
struct Reasoning {
    effort: &'static str,
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
    turn_detection: Option<TurnDetection>,
}

#[derive(Serialize)]
struct Transcription<'a> {
    model: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    language: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum TurnDetection {
    Server {
        r#type: &'static str,
        threshold: f64,
        prefix_padding_ms: u32,
        silence_duration_ms: u32,
        #[serde(skip_serializing_if = "Option::is_none")]
        idle_timeout_ms: Option<u32>,
        create_response: bool,
        interrupt_response: bool,
    },
    Semantic {
        r#type: &'static str,
        eagerness: &'static str,
        create_response: bool,
        interrupt_response: bool,
    },
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

impl<'a> Session<'a> {
    fn new(settings: &'a Settings) -> Self {
        let tool = |tool: &'a super::tool::Tool| Tool {
            r#type: "function",
            name: &tool.name,
            description: &tool.description,
            parameters: &tool.parameters,
        };
        Self {
            r#type: "realtime",
            output_modalities: ["audio"],
            instructions: non_empty(&settings.instructions),
            max_output_tokens: settings.max_output_tokens.map(|tokens| match tokens {
                OutputTokens::Max(tokens) => json!(tokens),
                OutputTokens::Unbounded => json!("inf"),
            }),
            tools: settings.tools.iter().map(tool).collect(),
            tool_choice: settings.tool_choice.as_ref().map(|choice| match choice {
                ToolChoice::Auto => json!("auto"),
                ToolChoice::None => json!("none"),
                ToolChoice::Required => json!("required"),
                ToolChoice::Function(name) => json!({"type": "function", "name": name}),
            }),
            parallel_tool_calls: settings.parallel_tool_calls,
            truncation: settings.truncation.map(truncation),
            reasoning: settings.reasoning_effort.map(|effort| Reasoning {
                effort: effort.as_str(),
            }),
            include: settings
                .transcription_logprobs
                .then_some(["item.input_audio_transcription.logprobs"]),
            audio: Audio {
                input: Input {
                    format: PCMU,
                    // Null is said, not left out: the server's default must never decide.
                    transcription: non_empty(&settings.transcription_model).map(|model| {
                        Transcription {
                            model,
                            language: non_empty(&settings.transcription_language),
                            prompt: non_empty(&settings.transcription_prompt),
                        }
                    }),
                    noise_reduction: settings.noise_reduction.map(|kind| Typed {
                        r#type: kind.as_str(),
                    }),
                    turn_detection: TurnDetection::new(&settings.turn_detection),
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
        }
    }
}

impl TurnDetection {
    fn new(turn: &settings::TurnDetection) -> Option<Self> {
        match turn.kind {
            TurnKind::ServerVad => Some(Self::Server {
                r#type: "server_vad",
                threshold: turn.threshold,
                prefix_padding_ms: turn.prefix_padding_ms,
                silence_duration_ms: turn.silence_duration_ms,
                idle_timeout_ms: turn.idle_timeout_ms,
                create_response: turn.create_response,
                interrupt_response: turn.interrupt_response,
            }),
            TurnKind::SemanticVad => Some(Self::Semantic {
                r#type: "semantic_vad",
                eagerness: turn.eagerness.as_str(),
                create_response: turn.create_response,
                interrupt_response: turn.interrupt_response,
            }),
            TurnKind::None => None,
        }
    }
}

fn truncation(truncation: Truncation) -> Value {
    match truncation {
        Truncation::Auto => json!("auto"),
        Truncation::Disabled => json!("disabled"),
        Truncation::RetentionRatio {
            ratio,
            post_instructions,
        } => {
            let mut value = json!({"type": "retention_ratio", "retention_ratio": ratio});
            if let Some(tokens) = post_instructions {
                value["token_limits"] = json!({"post_instructions": tokens});
            }
            value
        }
    }
}

#[cfg(test)]
#[path = "client_event/tests.rs"]
mod tests;
