//! Events from the model ("Realtime API reference: server events", read 2026-11).

use crate::proto::decode::{DecodeError, Noticed};
use std::borrow::Cow;

/// Reused memory of the slow path, one per worker or session.
#[derive(Default)]
pub struct Scratch {
    _private: (),
}

impl std::fmt::Debug for Scratch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Scratch")
    }
}

/// `response.output_audio.delta` (beta: `response.audio.delta`).
#[derive(Clone, Debug, PartialEq)]
pub struct AudioDelta<'a> {
    /// The response.
    pub response_id: Option<Cow<'a, str>>,
    /// The item.
    pub item_id: Option<Cow<'a, str>>,
    /// The part of the item.
    pub content_index: u64,
    /// Base64 text, not yet checked.
    pub delta: Cow<'a, [u8]>,
}

/// One event. Every field but the type is optional on the wire: compatible servers leave them out.
#[derive(Clone, Debug, PartialEq)]
pub enum ServerEvent<'a> {
    /// The server is there, with its own defaults.
    SessionCreated(SessionEcho<'a>),
    /// Our update was taken; the whole effective configuration comes back.
    SessionUpdated(SessionEcho<'a>),
    /// Audio.
    AudioDelta(AudioDelta<'a>),
    /// An item's audio is complete (also when it was interrupted).
    AudioDone {
        /// The response.
        response_id: Option<Cow<'a, str>>,
        /// The item.
        item_id: Option<Cow<'a, str>>,
        /// The part of the item.
        content_index: u64,
    },
    /// The caller began to speak.
    SpeechStarted {
        /// Ms of input stream.
        audio_start_ms: Option<u64>,
        /// The item that the speech will become.
        item_id: Option<Cow<'a, str>>,
    },
    /// The caller stopped speaking.
    SpeechStopped {
        /// Ms of input stream.
        audio_end_ms: Option<u64>,
        /// The item that the speech will become.
        item_id: Option<Cow<'a, str>>,
    },
    /// A response began.
    ResponseCreated {
        /// `response.id`.
        response_id: Option<Cow<'a, str>>,
    },
    /// A response is generated.
    ResponseDone {
        /// `response.id`.
        response_id: Option<Cow<'a, str>>,
        /// completed, cancelled, failed, incomplete.
        status: Option<Cow<'a, str>>,
        /// `status_details.reason`, else `.error.code`, else `.error.type`, else `status_details` itself when it is a string.
        detail: Option<Cow<'a, str>>,
        /// `status_details.error.message`.
        message: Option<Cow<'a, str>>,
    },
    /// A piece of what the model says, as text.
    OutputTranscriptDelta {
        /// The item.
        item_id: Option<Cow<'a, str>>,
        /// New text.
        delta: Cow<'a, str>,
    },
    /// All of what the model says in one item.
    OutputTranscriptDone {
        /// The item.
        item_id: Option<Cow<'a, str>>,
        /// The text.
        transcript: Cow<'a, str>,
    },
    /// A piece of what the caller said.
    InputTranscriptDelta {
        /// The item.
        item_id: Option<Cow<'a, str>>,
        /// New text.
        delta: Cow<'a, str>,
    },
    /// All of what the caller said in one turn.
    InputTranscriptCompleted {
        /// The item.
        item_id: Option<Cow<'a, str>>,
        /// The text.
        transcript: Cow<'a, str>,
    },
    /// Transcription failed: the call goes on.
    InputTranscriptFailed {
        /// `error.code` or `error.type`.
        code: Option<Cow<'a, str>>,
        /// `error.message`.
        message: Option<Cow<'a, str>>,
    },
    /// An error; the session normally stays open.
    Error {
        /// `error.type`.
        kind: Option<Cow<'a, str>>,
        /// `error.code`.
        code: Option<Cow<'a, str>>,
        /// `error.message`.
        message: Option<Cow<'a, str>>,
        /// `error.param`.
        param: Option<Cow<'a, str>>,
        /// `error.event_id`: which of our events failed, often null.
        event_id: Option<Cow<'a, str>>,
    },
    /// A known event that this relay does not act on (yet): items, parts, rate limits, …
    Ignored {
        /// Its type.
        kind: Cow<'a, str>,
    },
    /// A type that we do not know.
    Unknown {
        /// Its type, cut to 64 bytes.
        kind: Cow<'a, str>,
    },
}

/// The parts of a session's echo that matter.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct SessionEcho<'a> {
    /// `session.id`.
    pub id: Option<Cow<'a, str>>,
    /// `session.expires_at`, seconds since 1970.
    pub expires_at: Option<u64>,
    /// `session.audio.input.format.type` (beta: `session.input_audio_format`).
    pub input_format: Option<Cow<'a, str>>,
    /// `session.audio.output.format.type` (beta: `session.output_audio_format`).
    pub output_format: Option<Cow<'a, str>>,
}

/// The strict scanner for audio deltas: same rules as `carrier::twilio::scan_media`.
pub fn scan_audio_delta(text: &[u8]) -> Option<AudioDelta<'_>> {
    let _ = text;
    unimplemented!()
}

/// The slow, equal path: any event, through simd-json, in place.
pub fn decode_json<'a>(
    text: &'a mut [u8],
    scratch: &'a mut Scratch,
) -> Result<(ServerEvent<'a>, Noticed), DecodeError> {
    let _ = (text, scratch);
    unimplemented!()
}

/// `scan_audio_delta`, else `decode_json`.
pub fn decode<'a>(
    text: &'a mut [u8],
    scratch: &'a mut Scratch,
) -> Result<(ServerEvent<'a>, Noticed), DecodeError> {
    let _ = (text, scratch);
    unimplemented!()
}
