//! A call's row, and how the API shows it. Core.

use super::item::Raw;
use super::money::Account;
use super::status::Phase;
use super::time::Iso;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Turns whose times a row keeps: the newest.
pub const TURNS_KEPT: usize = 64;
/// Notes of one call; the oldest stay.
pub const NOTES_MAX: usize = 1_000;

/// Who began it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// The caller.
    #[default]
    Inbound,
    /// We did.
    Outbound,
}

/// A call. What it consists of besides (items, transcript, recordings) is kept apart: this row is what lists are made of.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Call {
    /// Our id.
    pub id: String,
    /// The journal position of the last entry that is in here; what comes again is left out by it.
    pub applied: u64,
    /// Everything but the id is gone, on somebody's demand.
    pub erased: bool,
    /// Who began it.
    pub direction: Direction,
    /// The number that calls.
    pub caller: String,
    /// The number that is called.
    pub called: String,
    /// The agent's name.
    pub agent: Option<String>,
    /// The version that it runs with.
    pub agent_version: Option<String>,
    /// What the agent's templates drew with.
    pub seed: Option<u64>,
    /// The carrier's media stream.
    pub stream_sid: Option<String>,
    /// The carrier's call.
    pub call_sid: Option<String>,
    /// How far it is.
    pub phase: Phase,
    /// What the carrier last called it, verbatim.
    pub carrier_status: Option<String>,
    /// When the first entry of it was written: ms since 1970, as all that follow.
    pub created_ms: u64,
    /// When the last one was. Never goes back, whatever the clock does.
    pub updated_ms: u64,
    /// When the stream began.
    pub start_ms: Option<u64>,
    /// When it was over.
    pub end_ms: Option<u64>,
    /// How long it was, by a clock that does not jump.
    pub duration_ms: Option<u64>,
    /// Why it ended.
    pub end_reason: Option<String>,
    /// What people wrote to it.
    pub notes: Option<String>,
    /// What the agent and the daemon noted.
    pub note_log: Vec<Note>,
    /// Whatever else is known.
    pub metadata: Metadata,
    /// The model.
    pub model: Option<String>,
    /// The model's session.
    pub session_id: Option<String>,
    /// The `session.update` exactly as it was sent.
    pub session_update: Option<Raw>,
    /// Tokens and money.
    pub account: Account,
    /// Where the time of its turns went, the newest [`TURNS_KEPT`].
    pub turns: Vec<Turn>,
}

/// A line of a call's notes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Note {
    /// When, ms since 1970.
    #[serde(default)]
    pub at_ms: u64,
    /// The words.
    pub text: String,
    /// Whose they are.
    pub source: NoteSource,
}

/// Who noted something.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NoteSource {
    /// The model, by its tool.
    Agent,
    /// The daemon: something an operator should know.
    System,
    /// Somebody over the API.
    Operator,
}

/// What S4's `CallMetadata` holds.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Metadata {
    /// The language that is spoken.
    pub language: Option<String>,
    /// Where the number is.
    pub region: Option<String>,
    /// What the caller speaks into.
    pub device_type: Option<String>,
    /// How well the audio comes in.
    pub network_quality: Option<String>,
    /// Anything: stream parameters first of all.
    pub custom: Map<String, Value>,
}

impl Metadata {
    /// `createOrUpdateMetadata`: what `patch` says replaces what there was, what it leaves out stays. In `custom` a null
    /// takes a member away.
    pub fn merge(&mut self, patch: Metadata) {
        let pairs = [
            (&mut self.language, patch.language),
            (&mut self.region, patch.region),
            (&mut self.device_type, patch.device_type),
            (&mut self.network_quality, patch.network_quality),
        ];
        for (known, new) in pairs {
            if new.is_some() {
                *known = new;
            }
        }
        for (name, value) in patch.custom {
            match value {
                // Keeps the others' order.
                Value::Null => drop(self.custom.shift_remove(&name)),
                value => drop(self.custom.insert(name, value)),
            }
        }
    }
}

/// Where the time of one turn went: milliseconds since the caller stopped, three decimals. `None`: that did not come.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Turn {
    /// When the caller stopped, ms since the stream's start.
    pub stopped_ms: u64,
    /// `response.created`, µs.
    pub created_us: Option<u64>,
    /// The first audio delta, µs.
    pub first_delta_us: Option<u64>,
    /// The first byte on the carrier's wire, µs.
    pub first_byte_us: Option<u64>,
    /// The first mark back, µs.
    pub first_mark_us: Option<u64>,
}

/// A call as the API shows it: S4's names first and unchanged, ours behind them.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)] // the names are S4's
pub struct CallView<'c> {
    pub id: &'c str,
    pub stream_sid: Option<&'c str>,
    pub call_sid: Option<&'c str>,
    pub caller: &'c str,
    pub agent: Option<&'c str>,
    pub start_time: Iso,
    pub end_time: Option<Iso>,
    /// Whole seconds.
    pub duration: Option<u64>,
    pub status: &'static str,
    pub notes: Option<String>,
    pub created_at: Iso,
    pub updated_at: Iso,
    pub phase: &'static str,
    pub carrier_status: Option<&'c str>,
    pub direction: Direction,
    pub called: &'c str,
    pub agent_version: Option<&'c str>,
    pub end_reason: Option<&'c str>,
    pub model: Option<&'c str>,
    pub metadata: &'c Metadata,
    pub usage: &'c super::money::Usage,
    /// Dollars, exact, as text.
    pub cost: String,
    /// Responses whose price nobody knew.
    pub unpriced_responses: u64,
    pub note_log: &'c [Note],
    pub turns: &'c [Turn],
}

impl Call {
    /// As the API shows it.
    pub fn view(&self) -> CallView<'_> {
        CallView {
            id: &self.id,
            stream_sid: self.stream_sid.as_deref(),
            call_sid: self.call_sid.as_deref(),
            caller: &self.caller,
            agent: self.agent.as_deref(),
            start_time: Iso(self.start_ms.unwrap_or(self.created_ms)),
            end_time: self.end_ms.map(Iso),
            duration: self.duration_ms.map(|ms| ms / 1_000),
            status: self.phase.status().as_str(),
            notes: self.notes(),
            created_at: Iso(self.created_ms),
            updated_at: Iso(self.updated_ms),
            phase: self.phase.as_str(),
            carrier_status: self.carrier_status.as_deref(),
            direction: self.direction,
            called: &self.called,
            agent_version: self.agent_version.as_deref(),
            end_reason: self.end_reason.as_deref(),
            model: self.model.as_deref(),
            metadata: &self.metadata,
            usage: &self.account.usage,
            cost: self.account.cost.to_string(),
            unpriced_responses: self.account.unpriced,
            note_log: &self.note_log,
            turns: &self.turns,
        }
    }

    /// `notes`: what people wrote; where nobody did, what was noted, a line each.
    pub fn notes(&self) -> Option<String> {
        if self.notes.is_some() {
            return self.notes.clone();
        }
        let lines: Vec<&str> = self.note_log.iter().map(|note| &*note.text).collect();
        (!lines.is_empty()).then(|| lines.join("\n"))
    }

    /// How long it has been, ms: as it was measured, else from its start to the last that is known of it.
    pub fn elapsed_ms(&self) -> u64 {
        self.duration_ms.unwrap_or_else(|| {
            let start = self.start_ms.unwrap_or(self.updated_ms);
            self.updated_ms.saturating_sub(start)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_view_begins_with_the_older_backends_names() {
        let call = Call {
            id: "c1".into(),
            caller: "+15550100".into(),
            start_ms: Some(1_000),
            end_ms: Some(63_999),
            duration_ms: Some(62_999),
            created_ms: 500,
            updated_ms: 64_000,
            phase: Phase::NoAnswer,
            ..Call::default()
        };
        let view = serde_json::to_value(call.view()).unwrap();
        let names: Vec<&String> = view.as_object().unwrap().keys().take(12).collect();
        assert_eq!(
            names,
            [
                "id",
                "streamSid",
                "callSid",
                "caller",
                "agent",
                "startTime",
                "endTime",
                "duration",
                "status",
                "notes",
                "createdAt",
                "updatedAt"
            ]
        );
        assert_eq!(view["startTime"], "1970-01-01T00:00:01.000Z");
        assert_eq!(view["duration"], 62);
        assert_eq!(view["status"], "failed");
        assert_eq!(view["streamSid"], Value::Null);
        assert_eq!(view["cost"], "0.000000000");
    }

    #[test]
    fn metadata_is_merged_and_a_null_takes_away() {
        let of = |value| serde_json::from_value::<Metadata>(value).unwrap();
        let mut known = of(json!({"language": "ja", "custom": {"a": 1, "b": {"c": 2}, "d": 3}}));
        known.merge(of(
            json!({"region": "JP", "custom": {"b": null, "d": "日本", "e": []}}),
        ));
        assert_eq!(
            serde_json::to_value(&known).unwrap(),
            json!({
                "language": "ja", "region": "JP", "deviceType": null, "networkQuality": null,
                "custom": {"a": 1, "d": "日本", "e": []},
            })
        );
    }

    #[test]
    fn notes_are_what_people_wrote_else_what_was_noted() {
        let note = |text: &str| Note {
            at_ms: 0,
            text: text.into(),
            source: NoteSource::Agent,
        };
        let mut call = Call::default();
        assert_eq!(call.notes(), None);
        call.note_log = vec![note("a"), note("b")];
        assert_eq!(call.notes().as_deref(), Some("a\nb"));
        call.notes = Some("mine".into());
        assert_eq!(call.notes().as_deref(), Some("mine"));
    }
}
