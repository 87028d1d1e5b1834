//! What an agent's settings become: the `session.update` event (written by `client_event`). The same
//! struct is the `[agent]` section of the configuration, so its field names are that section's keys.
//! What leads the call but is never sent to the model is `call::policy`'s.

use super::tool::{TOOLS_MAX, Tool};
use serde::Deserialize;
use serde_json::{Map, Value};

/// Instructions in bytes. The model's own limit is 16,384 tokens for instructions and tools together
/// (unconfirmed by the vendor), which is about this much English.
pub const INSTRUCTIONS_BYTES_MAX: usize = 64 * 1024;
/// `audio.output.speed`: what the API takes.
pub const SPEED_MIN: f64 = 0.25;
/// See `SPEED_MIN`.
pub const SPEED_MAX: f64 = 1.5;
/// The highest sampling temperature that any endpoint takes.
pub const TEMPERATURE_MAX: f64 = 2.0;
/// Audio kept before speech; more than this would repeat what was already answered.
pub const PREFIX_PADDING_MS_MAX: u32 = 5_000;
/// Silence that ends a turn: below one frame nothing would ever be a turn, above this callers give up.
pub const SILENCE_DURATION_MS: std::ops::RangeInclusive<u32> = 20..=10_000;
/// `idle_timeout_ms`: what the API takes.
pub const IDLE_TIMEOUT_MS: std::ops::RangeInclusive<u32> = 5_000..=30_000;
/// `max_output_tokens`: what the API takes beside `"inf"`.
pub const OUTPUT_TOKENS: std::ops::RangeInclusive<u32> = 1..=4_096;
/// The prompt of the transcription, bytes.
pub const TRANSCRIPTION_PROMPT_BYTES_MAX: usize = 4 * 1024;
/// `session_extra` as JSON, bytes.
pub const EXTRA_BYTES_MAX: usize = 64 * 1024;

/// An enum of the words that the API knows for one field.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$word_meta:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
        pub enum $name {
            $($(#[$word_meta])* #[serde(rename = $word)] $variant,)*
        }

        impl $name {
            /// As the API spells it.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }

            /// The word's value; `None` when it is none of them.
            pub fn from_word(word: &str) -> Option<Self> {
                match word {
                    $($word => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }
    };
}

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
    /// Goes into the URL, never into the session: GA sessions have none. 0 is a value.
    pub temperature: Option<f64>,
    /// `audio.input.turn_detection`, sent whole.
    pub turn_detection: TurnDetection,
    /// `audio.input.transcription.model`; empty switches transcription off.
    pub transcription_model: String,
    /// `audio.input.transcription.language`; empty is left out.
    pub transcription_language: String,
    /// `audio.input.transcription.prompt`; empty is left out.
    pub transcription_prompt: String,
    /// `include`: asks for the probability of each transcribed token, for a confidence of each turn.
    pub transcription_logprobs: bool,
    /// `audio.input.noise_reduction`; off unless set: it is made for microphones.
    pub noise_reduction: Option<NoiseReduction>,
    /// `tools`; none are left out.
    pub tools: Vec<Tool>,
    /// `tool_choice`; unset is the server's "auto".
    pub tool_choice: Option<ToolChoice>,
    /// `parallel_tool_calls`; unset is left out: older models have none.
    pub parallel_tool_calls: Option<bool>,
    /// `max_output_tokens` of one response; unset is the server's `"inf"`.
    pub max_output_tokens: Option<OutputTokens>,
    /// `truncation`; unset is the server's "auto".
    pub truncation: Option<Truncation>,
    /// `reasoning.effort`; unset is left out: a model that does not reason refuses the whole update.
    pub reasoning_effort: Option<Effort>,
    /// Merged into the session last: objects member by member, anything else in place of what was there.
    /// `type`, `model` and the formats can't be said here.
    pub session_extra: Map<String, Value>,
}

/// Who decides that the caller's turn is over, and what follows.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TurnDetection {
    /// By silence, by meaning, or not at all.
    #[serde(rename = "type")]
    pub kind: TurnKind,
    /// Server VAD: 0.0 to 1.0.
    pub threshold: f64,
    /// Server VAD: audio kept before speech, ms.
    pub prefix_padding_ms: u32,
    /// Server VAD: silence that ends a turn, ms. Always sent: the server's default differs by model.
    pub silence_duration_ms: u32,
    /// Server VAD: the model speaks up when the caller says nothing for so long after an answer, ms.
    pub idle_timeout_ms: Option<u32>,
    /// Semantic VAD: how soon it takes a turn to be over.
    pub eagerness: Eagerness,
    /// Whether the server answers when a turn is over.
    pub create_response: bool,
    /// Whether the server breaks its answer off when the caller speaks.
    pub interrupt_response: bool,
}

impl Default for TurnDetection {
    fn default() -> Self {
        Self {
            kind: TurnKind::ServerVad,
            threshold: 0.5,
            prefix_padding_ms: 300,
            silence_duration_ms: 500,
            idle_timeout_ms: None,
            eagerness: Eagerness::Auto,
            create_response: true,
            interrupt_response: true,
        }
    }
}

/// The kinds of turn detection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TurnKind {
    /// By silence.
    #[default]
    ServerVad,
    /// By what was said. Reported never to fire on telephone audio by one deployment.
    SemanticVad,
    /// The server detects no turns: `turn_detection` is null.
    None,
}

words! {
    /// How soon semantic VAD takes a turn to be over.
    #[derive(Default)]
    Eagerness {
        /// Waits up to 8 s.
        Low = "low",
        /// Waits up to 4 s.
        Medium = "medium",
        /// Waits up to 2 s.
        High = "high",
        /// As medium.
        #[default]
        Auto = "auto",
    }
}

words! {
    /// The kinds of noise reduction that the model's input has.
    NoiseReduction {
        /// A headset.
        NearField = "near_field",
        /// A room.
        FarField = "far_field",
    }
}

words! {
    /// How much a reasoning model thinks before it speaks.
    Effort {
        /// Least.
        Minimal = "minimal",
        /// The server's default.
        Low = "low",
        /// More.
        Medium = "medium",
        /// Much.
        High = "high",
        /// Most.
        Xhigh = "xhigh",
    }
}

/// Whether and which tool the model must call.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub enum ToolChoice {
    /// It decides.
    Auto,
    /// None, although there are some.
    None,
    /// At least one.
    Required,
    /// This one.
    Function(String),
}

impl From<String> for ToolChoice {
    /// "auto", "none", "required", else a tool's name.
    fn from(word: String) -> Self {
        match word.as_str() {
            "auto" => Self::Auto,
            "none" => Self::None,
            "required" => Self::Required,
            _ => Self::Function(word),
        }
    }
}

/// The longest response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Value")]
pub enum OutputTokens {
    /// At most so many tokens, 1 to 4096.
    Max(u32),
    /// `"inf"`.
    Unbounded,
}

impl TryFrom<Value> for OutputTokens {
    type Error = &'static str;

    fn try_from(value: Value) -> Result<Self, Self::Error> {
        match value {
            Value::String(word) if word == "inf" => Ok(Self::Unbounded),
            Value::Number(number) => number
                .as_u64()
                .and_then(|n| u32::try_from(n).ok())
                .map(Self::Max)
                .ok_or("is no number of tokens"),
            _ => Err("is neither a number nor \"inf\""),
        }
    }
}

/// What becomes of a conversation that outgrows the model's context.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Truncation {
    /// The server drops the oldest items.
    Auto,
    /// A response fails instead.
    Disabled,
    /// More is dropped than needed, so that the cached prefix lives longer.
    RetentionRatio {
        /// How much is kept, 0.0 to 1.0.
        ratio: f64,
        /// `token_limits.post_instructions`: the conversation's tokens without the instructions.
        post_instructions: Option<u32>,
    },
}

impl Settings {
    /// All problems at once: the key below the agent, and one sentence that says what is wrong and what
    /// to write instead. Empty when the settings can be sent. One bad field would make the server refuse
    /// the whole update, and the call with it, so they are found before any call.
    pub fn validate(&self) -> Vec<(String, String)> {
        let mut problems = Vec::new();
        let mut demand = |fine: bool, key: &str, problem: String| {
            if !fine {
                problems.push((key.to_owned(), problem));
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
        let temperature = self.temperature.unwrap_or(0.0);
        demand(
            (0.0..=TEMPERATURE_MAX).contains(&temperature),
            "temperature",
            format!(
                "{temperature} is out of bounds; write 0 to {TEMPERATURE_MAX}, or leave it out"
            ),
        );
        if let Some(OutputTokens::Max(tokens)) = self.max_output_tokens {
            demand(
                OUTPUT_TOKENS.contains(&tokens),
                "max_output_tokens",
                format!(
                    "{tokens} is out of bounds; write {} to {}, \"inf\", or leave it out",
                    OUTPUT_TOKENS.start(),
                    OUTPUT_TOKENS.end()
                ),
            );
        }
        if let Some(Truncation::RetentionRatio {
            ratio,
            post_instructions,
        }) = self.truncation
        {
            demand(
                (0.0..=1.0).contains(&ratio),
                "retention_ratio",
                format!("{ratio} is out of bounds; write 0.0 to 1.0"),
            );
            demand(
                post_instructions != Some(0),
                "retention_tokens_max",
                "0 would leave no conversation; write at least 1, or leave it out".to_owned(),
            );
        }
        self.turn_detection.prove(&mut demand);
        self.prove_transcription(&mut demand);
        self.prove_tools(&mut demand);
        self.prove_extra(&mut demand);
        problems
    }

    fn prove_transcription(&self, demand: &mut impl FnMut(bool, &str, String)) {
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
        let on = !self.transcription_model.is_empty();
        for (key, is_set) in [
            (
                "transcription_language",
                !self.transcription_language.is_empty(),
            ),
            (
                "transcription_prompt",
                !self.transcription_prompt.is_empty(),
            ),
            ("transcription_logprobs", self.transcription_logprobs),
        ] {
            demand(
                on || !is_set,
                key,
                "has no use without transcription; set transcription_model or leave this out"
                    .to_owned(),
            );
        }
        demand(
            self.transcription_prompt.len() <= TRANSCRIPTION_PROMPT_BYTES_MAX,
            "transcription_prompt",
            format!(
                "{} bytes long; shorten to at most {TRANSCRIPTION_PROMPT_BYTES_MAX}",
                self.transcription_prompt.len()
            ),
        );
        demand(
            self.transcription_prompt.is_empty()
                || self.transcription_model != "gpt-realtime-whisper",
            "transcription_prompt",
            "is not taken by gpt-realtime-whisper; leave it empty or choose another model"
                .to_owned(),
        );
    }

    fn prove_tools(&self, demand: &mut impl FnMut(bool, &str, String)) {
        demand(
            self.tools.len() <= TOOLS_MAX,
            "tools",
            format!(
                "{} are too many; write at most {TOOLS_MAX}",
                self.tools.len()
            ),
        );
        for (n, tool) in self.tools.iter().enumerate() {
            for (key, problem) in tool.problems() {
                demand(false, &format!("tools.{n}.{key}"), problem);
            }
            demand(
                !self.tools[..n].iter().any(|other| other.name == tool.name),
                &format!("tools.{n}.name"),
                "is the name of two tools; give each its own".to_owned(),
            );
        }
        match &self.tool_choice {
            Some(ToolChoice::Function(name)) => demand(
                self.tools.iter().any(|tool| tool.name == *name),
                "tool_choice",
                "names no tool of this agent; write auto, none, required or a tool's name"
                    .to_owned(),
            ),
            Some(ToolChoice::Required) => demand(
                !self.tools.is_empty() || self.session_extra.contains_key("tools"),
                "tool_choice",
                "needs a tool and there is none; write one or leave this out".to_owned(),
            ),
            _ => {}
        }
    }

    fn prove_extra(&self, demand: &mut impl FnMut(bool, &str, String)) {
        let extra = &self.session_extra;
        let length = serde_json::to_string(extra).map_or(0, |text| text.len());
        demand(
            length <= EXTRA_BYTES_MAX,
            "session_extra",
            format!("{length} bytes of JSON; shorten to at most {EXTRA_BYTES_MAX}"),
        );
        for key in ["type", "model"] {
            demand(
                !extra.contains_key(key),
                &format!("session_extra.{key}"),
                "can't be changed here; leave it out".to_owned(),
            );
        }
        demand(
            !extra.contains_key("temperature"),
            "session_extra.temperature",
            "is in no session; write agent.temperature, which goes into the URL".to_owned(),
        );
        demand(
            !extra.contains_key("output_modalities"),
            "session_extra.output_modalities",
            "can't be changed: a telephone agent speaks; leave it out".to_owned(),
        );
        // What stands around a format must stay an object, or the format would be gone with it.
        let Some(audio) = extra.get("audio") else {
            return;
        };
        demand(
            audio.is_object(),
            "session_extra.audio",
            "must be an object: it holds the formats".to_owned(),
        );
        for side in ["input", "output"] {
            let Some(side_value) = audio.get(side) else {
                continue;
            };
            let key = format!("session_extra.audio.{side}");
            demand(
                side_value.is_object(),
                &key,
                "must be an object: it holds the format".to_owned(),
            );
            demand(
                side_value.get("format").is_none(),
                &format!("{key}.format"),
                "can't be changed: a telephone's audio is PCMU both ways; leave it out".to_owned(),
            );
            // The call acts by these settings, so it must know them.
            demand(
                side_value.get("turn_detection").is_none(),
                &format!("{key}.turn_detection"),
                "has keys of its own; write agent.turn_detection".to_owned(),
            );
        }
    }
}

impl TurnDetection {
    fn prove(&self, demand: &mut impl FnMut(bool, &str, String)) {
        demand(
            (0.0..=1.0).contains(&self.threshold),
            "turn_detection.threshold",
            format!("{} is out of bounds; write 0.0 to 1.0", self.threshold),
        );
        demand(
            self.prefix_padding_ms <= PREFIX_PADDING_MS_MAX,
            "turn_detection.prefix_padding_ms",
            format!(
                "{} is too long; write 0 to {PREFIX_PADDING_MS_MAX}",
                self.prefix_padding_ms
            ),
        );
        demand(
            SILENCE_DURATION_MS.contains(&self.silence_duration_ms),
            "turn_detection.silence_duration_ms",
            format!(
                "{} is out of bounds; write {} to {}",
                self.silence_duration_ms,
                SILENCE_DURATION_MS.start(),
                SILENCE_DURATION_MS.end()
            ),
        );
        if let Some(ms) = self.idle_timeout_ms {
            demand(
                IDLE_TIMEOUT_MS.contains(&ms),
                "turn_detection.idle_timeout_ms",
                format!(
                    "{ms} is out of bounds; write {} to {}, or leave it out",
                    IDLE_TIMEOUT_MS.start(),
                    IDLE_TIMEOUT_MS.end()
                ),
            );
            demand(
                self.kind == TurnKind::ServerVad,
                "turn_detection.idle_timeout_ms",
                "is server_vad's alone; leave it out or write type = \"server_vad\"".to_owned(),
            );
        }
        demand(
            self.eagerness == Eagerness::Auto || self.kind == TurnKind::SemanticVad,
            "turn_detection.eagerness",
            "is semantic_vad's alone; leave it out or write type = \"semantic_vad\"".to_owned(),
        );
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
#[path = "settings/tests.rs"]
mod tests;
