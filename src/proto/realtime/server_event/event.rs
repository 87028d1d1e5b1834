//! The events as values. Every field but the type is optional on the wire.

use std::borrow::Cow;

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
        /// `response.metadata`'s `METADATA_KEY`: what we wrote into `response.create`. None: the server began it.
        tag: Option<Cow<'a, str>>,
        /// It has no `conversation_id`, said as null: it runs beside the conversation.
        out_of_band: bool,
    },
    /// A response is generated.
    ResponseDone {
        /// `response.id`.
        response_id: Option<Cow<'a, str>>,
        /// completed, cancelled, failed, incomplete.
        status: Option<Cow<'a, str>>,
        /// `status_details.reason`, else `.error.code`, else `.error.type`, else `status_details` itself when it is a string.
        detail: Option<Cow<'a, str>>,
        /// `status_details.error.type`: what is lasting may be named here as well.
        error_type: Option<Cow<'a, str>>,
        /// `status_details.error.message`.
        message: Option<Cow<'a, str>>,
        /// See `ResponseCreated`.
        tag: Option<Cow<'a, str>>,
        /// Whether a message in `output` holds audio. What the list says: a server may leave it empty.
        has_audio: bool,
        /// The function calls in `output`.
        function_calls: u32,
        /// What it cost.
        usage: Option<Usage>,
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
        /// The mean of e to the `logprobs[].logprob`, 0 to 1: a confidence. None when none came.
        probability_mean: Option<f64>,
    },
    /// Transcription failed: the call goes on.
    InputTranscriptFailed {
        /// `error.code` or `error.type`.
        code: Option<Cow<'a, str>>,
        /// `error.message`.
        message: Option<Cow<'a, str>>,
    },
    /// An item joined the conversation (`conversation.item.added`; beta: `.created`).
    ItemAdded {
        /// The item, perhaps still without content.
        item: Item<'a>,
        /// The item before it.
        previous_item_id: Option<Cow<'a, str>>,
    },
    /// An item of the conversation is complete, or was broken off.
    ItemDone {
        /// The item.
        item: Item<'a>,
        /// The item before it.
        previous_item_id: Option<Cow<'a, str>>,
    },
    /// A truncation was taken.
    ItemTruncated {
        /// The item.
        item_id: Option<Cow<'a, str>>,
        /// The part of the item.
        content_index: u64,
        /// What is left, ms.
        audio_end_ms: Option<u64>,
    },
    /// A deletion was taken.
    ItemDeleted {
        /// The item.
        item_id: Option<Cow<'a, str>>,
    },
    /// A response began an item.
    OutputItemAdded {
        /// The response.
        response_id: Option<Cow<'a, str>>,
        /// Its place in the response.
        output_index: u64,
        /// The item, without content.
        item: Item<'a>,
    },
    /// A response finished an item. The one source of function calls: `response.function_call_arguments.done`
    /// and `response.done` say the same again and are not read for them.
    OutputItemDone {
        /// The response.
        response_id: Option<Cow<'a, str>>,
        /// Its place in the response.
        output_index: u64,
        /// The item. Act on a function call only when its status is completed.
        item: Item<'a>,
    },
    /// A part of an item began or is complete.
    ContentPart {
        /// `response.content_part.done`, not `.added`.
        done: bool,
        /// The response.
        response_id: Option<Cow<'a, str>>,
        /// The item.
        item_id: Option<Cow<'a, str>>,
        /// The part of the item.
        content_index: u64,
        /// `part.type`: audio or text (or, as finished items say, output_audio or output_text).
        kind: Option<Cow<'a, str>>,
    },
    /// The caller's turn became an item.
    Committed {
        /// The item.
        item_id: Option<Cow<'a, str>>,
        /// The item before it.
        previous_item_id: Option<Cow<'a, str>>,
    },
    /// The caller said nothing for `idle_timeout_ms`.
    InputTimeoutTriggered {
        /// Ms of input stream.
        audio_start_ms: Option<u64>,
        /// Ms of input stream.
        audio_end_ms: Option<u64>,
        /// The silent item.
        item_id: Option<Cow<'a, str>>,
    },
    /// What the account has left.
    RateLimits(RateLimits),
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

/// What matters of an item: a message, a function call, its output, or something else.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Item<'a> {
    /// `id`.
    pub id: Option<Cow<'a, str>>,
    /// `type`: message, function_call, function_call_output, …
    pub kind: Option<Cow<'a, str>>,
    /// completed, incomplete, in_progress.
    pub status: Option<Cow<'a, str>>,
    /// A message's: system, user, assistant.
    pub role: Option<Cow<'a, str>>,
    /// A function call's.
    pub name: Option<Cow<'a, str>>,
    /// A function call's, or that of its output.
    pub call_id: Option<Cow<'a, str>>,
    /// A function call's, JSON as text; not checked. An object in place of the text is written out as one.
    pub arguments: Option<Cow<'a, str>>,
    /// A message's first text or transcript.
    pub text: Option<Cow<'a, str>>,
    /// A part of it is (or will be) audio.
    pub has_audio: bool,
    /// `phase`, on reasoning models: commentary or final_answer.
    pub phase: Option<Cow<'a, str>>,
}

/// The tokens of a response. What the server left out is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Usage {
    /// Everything read, cached or not.
    pub input_tokens: u64,
    /// Of those, text.
    pub input_text_tokens: u64,
    /// Of those, audio.
    pub input_audio_tokens: u64,
    /// Of `input_tokens`, read from the cache.
    pub cached_tokens: u64,
    /// Of those, text.
    pub cached_text_tokens: u64,
    /// Of those, audio.
    pub cached_audio_tokens: u64,
    /// Everything generated, heard or not.
    pub output_tokens: u64,
    /// Of those, text.
    pub output_text_tokens: u64,
    /// Of those, audio.
    pub output_audio_tokens: u64,
    /// Of those, thoughts.
    pub reasoning_tokens: u64,
    /// All.
    pub total_tokens: u64,
}

/// What an account has left until it is refilled.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct RateLimits {
    /// Responses.
    pub requests: Option<RateLimit>,
    /// Tokens.
    pub tokens: Option<RateLimit>,
}

/// One of an account's limits.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct RateLimit {
    /// How much there is.
    pub limit: Option<u64>,
    /// How much is left.
    pub remaining: Option<u64>,
    /// Until all is there again, seconds.
    pub reset_seconds: Option<f64>,
}
