//! What one journal entry says, and its bytes. Core.
//!
//! An entry names its kind (a number that is never used again), the version of that kind's layout, and the call; the body
//! is JSON. Decision 0014 says why JSON. A body holds everything that the event needs: no event refers to another, and
//! those of a call are in order.
//!
//! Growing a kind: a new member with a default needs no new version, since unknown members are ignored and missing ones
//! are their defaults. Anything else is a new version: [`Payload::SCHEMA`] goes up, and [`Payload::older`] reads what the
//! old one wrote. `tests/data` keeps bodies of every version that was ever written.

use super::agent::{Agent, AgentRow};
use super::analysis::Analytics;
use super::call::{Direction, Metadata, NoteSource, Turn};
use super::item::{Item, Raw};
use super::money::{Nano, Usage};
use super::state::CallRecord;
use super::status::Phase;
use super::transcript::Entry;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Why an entry's body can't be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DecodeError {
    /// A kind that this version does not know.
    UnknownKind(u16),
    /// A layout that this version does not know, of a kind that it does.
    UnknownSchema {
        /// The kind.
        kind: u16,
        /// The layout.
        schema: u8,
    },
    /// The body is not what its kind and layout say.
    Malformed(u16),
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownKind(kind) => {
                write!(f, "entries of kind {kind} are newer than this program")
            }
            Self::UnknownSchema { kind, schema } => {
                write!(
                    f,
                    "layout {schema} of kind {kind} is newer than this program"
                )
            }
            Self::Malformed(kind) => {
                write!(f, "an entry of kind {kind} is not as its kind should be")
            }
        }
    }
}

impl std::error::Error for DecodeError {}

/// The body of one kind of event.
pub trait Payload: Serialize + DeserializeOwned {
    /// The layout that is written.
    const SCHEMA: u8 = 1;

    /// Reads a layout before `SCHEMA`. `None`: there never was such a one.
    fn older(_schema: u8, _body: &[u8]) -> Option<Result<Self, serde_json::Error>> {
        None
    }
}

/// Reads a body of this kind in whatever layout.
fn read<P: Payload>(kind: u16, schema: u8, body: &[u8]) -> Result<P, DecodeError> {
    let read = if schema == P::SCHEMA {
        Some(serde_json::from_slice(body))
    } else {
        P::older(schema, body)
    };
    read.ok_or(DecodeError::UnknownSchema { kind, schema })?
        .map_err(|_| DecodeError::Malformed(kind))
}

macro_rules! events {
    ($($(#[$doc:meta])* $kind:literal $name:ident($payload:ty),)*) => {
        /// What one entry says.
        #[derive(Clone, PartialEq, Debug)]
        pub enum Event {
            $($(#[$doc])* $name(Box<$payload>),)*
        }

        $(impl Payload for $payload {})*

        $(impl From<$payload> for Event {
            fn from(payload: $payload) -> Self {
                Self::$name(Box::new(payload))
            }
        })*

        impl Event {
            /// Every kind that there is.
            pub const KINDS: &[u16] = &[$($kind),*];

            /// Its kind.
            pub fn kind(&self) -> u16 {
                match self {
                    $(Self::$name(_) => $kind,)*
                }
            }

            /// The layout of what `encode` writes.
            pub fn schema(&self) -> u8 {
                match self {
                    $(Self::$name(_) => <$payload as Payload>::SCHEMA,)*
                }
            }

            /// Appends its body to `out`.
            pub fn encode(&self, out: &mut Vec<u8>) {
                let written = match self {
                    $(Self::$name(payload) => serde_json::to_writer(&mut *out, payload),)*
                };
                // Memory takes everything, and no payload has keys that are not texts.
                debug_assert!(written.is_ok());
            }

            /// Reads a body; never panics, whatever the bytes.
            pub fn decode(kind: u16, schema: u8, body: &[u8]) -> Result<Event, DecodeError> {
                match kind {
                    $($kind => Ok(Self::$name(Box::new(read::<$payload>(kind, schema, body)?))),)*
                    _ => Err(DecodeError::UnknownKind(kind)),
                }
            }
        }
    };
}

events! {
    /// An agent was made or changed.
    1 AgentPut(Agent),
    /// An agent was deleted; calls keep the versions that they ran with.
    2 AgentDeleted(AgentDeleted),
    /// An agent with all its versions, in a snapshot.
    3 AgentSnapshot(AgentSnapshot),
    /// A call is known.
    16 Opened(Opened),
    /// It got further, or its carrier said something of it.
    17 Progress(Progress),
    /// The stream's `start`.
    18 Started(Started),
    /// The model's session is ready.
    19 Ready(Ready),
    /// An item joined the conversation or is complete.
    20 Item(Item),
    /// More is known of an utterance.
    21 Entry(Entry),
    /// A response's tokens.
    22 Used(Used),
    /// Something was noted.
    23 Noted(Noted),
    /// Metadata to be merged.
    24 Metadata(Metadata),
    /// A turn's times.
    25 Turn(Turn),
    /// It is over.
    26 Ended(Ended),
    /// A recording was begun, finished or mended.
    27 Recording(Recording),
    /// What was worked out of it.
    28 Analytics(Analytics),
    /// Everything of it is to be gone.
    29 Erased(Erased),
    /// People changed its notes.
    30 Edited(Edited),
    /// Something happened that a time line should show.
    31 Happened(Happened),
    /// A call with everything of it, in a snapshot.
    32 CallSnapshot(CallRecord),
}

/// See [`Event::AgentDeleted`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AgentDeleted {
    /// Which.
    pub name: String,
}

/// See [`Event::AgentSnapshot`].
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct AgentSnapshot {
    /// Which.
    pub name: String,
    /// The row.
    pub row: AgentRow,
}

/// See [`Event::Opened`].
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Opened {
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
    /// What its templates draw with.
    pub seed: Option<u64>,
    /// The carrier's call.
    pub call_sid: Option<String>,
    /// How far it is already.
    pub phase: Phase,
    /// What is known besides.
    pub metadata: Metadata,
}

/// See [`Event::Progress`].
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Progress {
    /// How far it is.
    pub phase: Phase,
    /// The carrier's word for it.
    pub carrier_status: Option<String>,
}

/// See [`Event::Started`].
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Started {
    /// The media stream.
    pub stream_sid: String,
    /// The carrier's call.
    pub call_sid: Option<String>,
    /// `customParameters`, in order.
    pub parameters: Vec<(String, String)>,
}

/// See [`Event::Ready`].
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Ready {
    /// The model.
    pub model: Option<String>,
    /// The model's session.
    pub session_id: String,
    /// The `session.update` exactly as it was sent.
    pub session_update: Option<Raw>,
}

/// See [`Event::Used`].
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Used {
    /// The response.
    pub response_id: String,
    /// The model.
    pub model: String,
    /// Its tokens.
    pub usage: Usage,
    /// What it cost by the price table of that day; `None`: the model is not in it.
    pub cost: Option<Nano>,
}

/// See [`Event::Noted`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Noted {
    /// The words.
    pub text: String,
    /// Whose.
    pub source: NoteSource,
}

/// See [`Event::Ended`].
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Ended {
    /// `EndReason`'s label, or one of the store's own: `restart`, `store_stalled`.
    pub reason: String,
    /// How long the stream was; `None`: up to the last entry.
    pub duration_ms: Option<u64>,
}

/// The label of a call that a crash left open.
pub const RESTART: &str = "restart";
/// The label of a call whose entries the store could not take any more.
pub const STORE_STALLED: &str = "store_stalled";

/// A recording's row. A later one of the same id replaces an earlier one.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Recording {
    /// Unique within the call.
    pub id: String,
    /// How far it is.
    pub state: RecordingState,
    /// The track files, relative to the recordings' directory.
    pub files: Vec<String>,
    /// How it is stored: `ulaw`.
    pub format: String,
    /// Channels when both sides are there.
    pub channels: u8,
    /// Samples a second, as stored.
    pub sample_rate: u32,
    /// How long it is.
    pub duration_ms: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// SHA-256 of the track files, one after the other, in hex.
    pub sha256: Option<String>,
    /// Stretches of the caller's side that never came.
    pub gaps: u64,
    /// Stretches of the agent's side that were cut because the caller interrupted.
    pub cuts: u64,
    /// Where it lies: `local`, later a remote one's name.
    pub storage_class: String,
}

/// How far a recording is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecordingState {
    /// Being written.
    #[default]
    Writing,
    /// Finished in order.
    Complete,
    /// Left by a crash, and mended.
    Mended,
    /// Deleted.
    Erased,
}

/// See [`Event::Erased`].
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Erased {
    /// Why: `request`, `retention`.
    pub reason: String,
}

/// See [`Event::Edited`].
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Edited {
    /// The notes as they are now; `None` takes them away.
    pub notes: Option<String>,
}

/// See [`Event::Happened`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Happened {
    /// When, ms since the stream's start.
    #[serde(default)]
    pub at_ms: u64,
    /// What: a bounded word.
    pub what: String,
    /// More about it, in a sentence; may be empty.
    #[serde(default)]
    pub detail: String,
}

/// Feeds the decoder anything and asserts what must hold: what is read can be written, and reads the same again. For the
/// fuzzer and the property tests.
#[cfg(any(test, fuzzing))]
pub fn assert_decoder(bytes: &[u8]) {
    let Some((head, body)) = bytes.split_at_checked(3) else {
        return;
    };
    // Mostly kinds that there are.
    let kind = match head[0] {
        0xFF => u16::from_le_bytes([head[1], head[2]]),
        n => Event::KINDS[usize::from(n) % Event::KINDS.len()],
    };
    let schema = if head[0] == 0xFF { head[2] } else { 1 };
    let Ok(event) = Event::decode(kind, schema, body) else {
        return;
    };
    let mut written = Vec::new();
    event.encode(&mut written);
    let again = Event::decode(event.kind(), event.schema(), &written);
    assert_eq!(
        again.as_ref(),
        Ok(&event),
        "{}",
        String::from_utf8_lossy(&written)
    );
    // And whatever it says can be folded, twice.
    let mut state = super::state::State::default();
    for seq in [1, 1, 2] {
        let stamp = super::state::Stamp {
            seq,
            unix_ms: u64::from(head[1]),
            call_id: crate::base::id::CallId::new("call"),
        };
        super::state::apply(&mut state, &stamp, &event);
    }
}

#[cfg(test)]
#[path = "event_tests.rs"]
pub(super) mod tests;
