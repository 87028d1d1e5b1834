//! `[agent]`: from values to what the model is told (`Settings`) and how the call is led (`Policy`).

use super::file::Values;
use super::prove::Prover;
use super::url::{Url, is_loopback_host};
use crate::base::money::{Price, PriceTable, Prices};
use crate::base::secret::Secret;
use crate::call::policy::{
    BargeIn, Dtmf, FirstSpeaker, OnModelUnavailable, Policy, Reconnect, Silence, ToolLimits,
};
use crate::proto::realtime::settings::{
    Eagerness, Effort, NoiseReduction, OutputTokens, Settings, ToolChoice, Truncation,
    TurnDetection, TurnKind,
};
use crate::proto::realtime::tool::{Tool, ToolForm, ToolKind};

impl Prover<'_> {
    /// What the model is told.
    pub(super) fn agent(&mut self, insecure: bool) -> Settings {
        let values = self.values;
        let text = |key: &str| values.text(&format!("agent.{key}")).to_owned();
        let settings = Settings {
            instructions: text("instructions"),
            voice: text("voice"),
            speed: values.number("agent.speed"),
            temperature: values.number("agent.temperature"),
            turn_detection: turn_detection(values),
            transcription_model: text("transcription_model"),
            transcription_language: text("transcription_language"),
            transcription_prompt: text("transcription_prompt"),
            transcription_logprobs: values.bool("agent.transcription_logprobs"),
            noise_reduction: NoiseReduction::from_word(values.text("agent.noise_reduction")),
            tools: self.tools(insecure),
            tool_choice: match values.text("agent.tool_choice") {
                "" => None,
                word => Some(ToolChoice::from(word.to_owned())),
            },
            parallel_tool_calls: values
                .is_set("agent.parallel_tool_calls")
                .then(|| values.bool("agent.parallel_tool_calls")),
            max_output_tokens: match values.text("agent.max_output_tokens") {
                "inf" => Some(OutputTokens::Unbounded),
                _ => small_if_set(values, "agent.max_output_tokens").map(OutputTokens::Max),
            },
            truncation: self.truncation(),
            reasoning_effort: Effort::from_word(values.text("agent.reasoning_effort")),
            session_extra: values.object("agent.session_extra"),
        };
        for (key, sentence) in settings.validate() {
            self.error(
                &format!("agent.{key}"),
                sentence,
                "The endpoint would refuse the session, and every call with it.",
            );
        }
        settings
    }

    /// How the call is led.
    pub(super) fn policy(&mut self) -> Policy {
        let values = self.values;
        let text = |key: &str| values.text(&format!("agent.{key}")).to_owned();
        let number = |key: &str| small(values, &format!("agent.{key}"));
        let policy = Policy {
            coalesce_ms: values.integer("relay.coalesce_ms") as u32,
            first_speaker: match values.text("agent.first_speaker") {
                "agent" => FirstSpeaker::Agent,
                "after_ms" => FirstSpeaker::AfterMs(number("first_speaker_after_ms")),
                _ => FirstSpeaker::Caller,
            },
            greeting: text("greeting"),
            greeting_exact: values.bool("agent.greeting_exact"),
            barge_in: BargeIn {
                enabled: values.bool("agent.barge_in.enabled"),
                guard_ms: number("barge_in.guard_ms"),
                confirm_ms: number("barge_in.confirm_ms"),
            },
            unplayed_ms_max: number("unplayed_ms_max"),
            silence: Silence {
                nudge_after_ms: number("silence.nudge_after_ms"),
                nudge_text: text("silence.nudge_text"),
                second_nudge_after_ms: number("silence.second_nudge_after_ms"),
                second_nudge_text: text("silence.second_nudge_text"),
                hang_up_after_ms: number("silence.hang_up_after_ms"),
                goodbye_text: text("silence.goodbye_text"),
            },
            max_duration_secs: number("max_duration_secs"),
            duration_warning_secs: number("duration_warning_secs"),
            dtmf: match values.text("agent.dtmf") {
                "ignore" => Dtmf::Ignore,
                _ => Dtmf::Text,
            },
            dtmf_pause_ms: number("dtmf_pause_ms"),
            reconnect: Reconnect {
                tries: number("reconnect.tries"),
                base_ms: number("reconnect.base_ms"),
                cap_ms: number("reconnect.cap_ms"),
                outage_ms: number("reconnect.outage_ms"),
                hold_ms: number("reconnect.hold_ms"),
            },
            on_model_unavailable: match values.text("agent.on_model_unavailable") {
                "conference" => OnModelUnavailable::Conference(text("unavailable_conference")),
                "hang_up" => OnModelUnavailable::HangUp,
                _ => OnModelUnavailable::Message(text("unavailable_message")),
            },
            rollover_before_secs: number("rollover_before_secs"),
            tool_limits: ToolLimits {
                in_flight_max: number("tool_limits.in_flight_max"),
                calls_max: number("tool_limits.calls_max"),
                arguments_bytes_max: number("tool_limits.arguments_bytes_max"),
            },
        };
        for (key, sentence) in policy.validate() {
            self.error(&format!("agent.{key}"), sentence, "");
        }
        policy
    }

    /// `[[realtime.prices]]`.
    pub(super) fn prices(&mut self) -> PriceTable {
        let mut rows = Vec::new();
        for (n, table) in self.values.tables("realtime.prices").iter().enumerate() {
            if table.is_broken {
                continue;
            }
            let model = table.text("model").to_owned();
            if model.is_empty() {
                self.error(
                    &format!("realtime.prices.{n}.model"),
                    "the model's name is missing",
                    "Write the whole name, or its beginning and *.",
                );
            }
            let mut price = |name: &str| {
                Price::parse(table.text(name)).unwrap_or_else(|why| {
                    let key = format!("realtime.prices.{n}.{name}");
                    self.error(&key, format!("this price {why}"), "");
                    Price::default()
                })
            };
            let prices = Prices {
                text_input: price("text_input"),
                text_cached: price("text_cached"),
                text_output: price("text_output"),
                audio_input: price("audio_input"),
                audio_cached: price("audio_cached"),
                audio_output: price("audio_output"),
            };
            rows.push((model, prices));
        }
        PriceTable::new(rows)
    }

    fn truncation(&mut self) -> Option<Truncation> {
        let values = self.values;
        let ratio = values.number("agent.retention_ratio");
        let tokens = small_if_set(values, "agent.retention_tokens_max");
        match (values.text("agent.truncation"), ratio) {
            ("retention_ratio", Some(ratio)) => Some(Truncation::RetentionRatio {
                ratio,
                post_instructions: tokens,
            }),
            ("retention_ratio", None) => {
                self.error(
                    "agent.retention_ratio",
                    "how much is to be kept is missing",
                    "Write 0.0 to 1.0, or another agent.truncation.",
                );
                None
            }
            (word, ratio) => {
                if ratio.is_some() || tokens.is_some() {
                    let key = match ratio {
                        Some(_) => "agent.retention_ratio",
                        None => "agent.retention_tokens_max",
                    };
                    self.error(
                        key,
                        "it has no use with this agent.truncation",
                        "Write truncation = \"retention_ratio\", or leave it out.",
                    );
                }
                match word {
                    "auto" => Some(Truncation::Auto),
                    "disabled" => Some(Truncation::Disabled),
                    _ => None,
                }
            }
        }
    }

    fn tools(&mut self, insecure: bool) -> Vec<Tool> {
        let values = self.values;
        let mut tools = Vec::new();
        for (n, table) in values.tables("agent.tools").iter().enumerate() {
            if table.is_broken {
                continue;
            }
            let form = ToolForm {
                kind: table.text("kind").to_owned(),
                name: table.text("name").to_owned(),
                description: table.text("description").to_owned(),
                parameters: table.object("parameters"),
                url: table.text("url").to_owned(),
                secret: Secret::new(table.text("secret")),
                timeout_ms: small_if_set(table, "timeout_ms"),
                retries: small_if_set(table, "retries"),
                response_bytes_max: small_if_set(table, "response_bytes_max"),
            };
            let tool = match Tool::try_from(form) {
                Ok(tool) => tool,
                Err(why) => {
                    self.error(&format!("agent.tools.{n}"), format!("the tool {why}"), "");
                    continue;
                }
            };
            if let ToolKind::Http(http) = &tool.kind {
                self.tool_url(&format!("agent.tools.{n}.url"), &http.url, insecure);
            }
            tools.push(tool);
        }
        tools
    }

    /// `Settings::validate` looks at the scheme; here the rest is proven.
    fn tool_url(&mut self, key: &str, text: &str, insecure: bool) {
        match Url::parse(text) {
            Ok(url) if url.scheme == "http" && !is_loopback_host(&url.host) && !insecure => self
                .error(
                    key,
                    "what callers say would cross the network unencrypted",
                    "Use https://; http:// is for loopback hosts, or with dev.insecure = true.",
                ),
            Ok(_) => {}
            Err(why) => self.error(
                key,
                format!("this is not a URL: {why}"),
                "Write for example \"https://tools.example.com/opening_hours\".",
            ),
        }
    }
}

fn turn_detection(values: &Values) -> TurnDetection {
    let key = |name: &str| format!("agent.turn_detection.{name}");
    TurnDetection {
        kind: match values.text(&key("type")) {
            "semantic_vad" => TurnKind::SemanticVad,
            "none" => TurnKind::None,
            _ => TurnKind::ServerVad,
        },
        threshold: values.number(&key("threshold")).unwrap_or(0.5),
        prefix_padding_ms: small(values, &key("prefix_padding_ms")),
        silence_duration_ms: small(values, &key("silence_duration_ms")),
        idle_timeout_ms: small_if_set(values, &key("idle_timeout_ms")),
        eagerness: Eagerness::from_word(values.text(&key("eagerness"))).unwrap_or_default(),
        create_response: values.bool(&key("create_response")),
        interrupt_response: values.bool(&key("interrupt_response")),
    }
}

/// A whole number of the table; none of its bounds is above 32 bits.
fn small(values: &Values, key: &str) -> u32 {
    u32::try_from(values.integer(key)).unwrap_or(u32::MAX)
}

fn small_if_set(values: &Values, key: &str) -> Option<u32> {
    values.is_set(key).then(|| small(values, key))
}

#[cfg(test)]
#[path = "agent_tests.rs"]
mod tests;
