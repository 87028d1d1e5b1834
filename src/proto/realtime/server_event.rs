//! Events from the model ("Realtime API reference: server events", read 2026-11).
//!
//! Decoding has two paths that must agree: `scan_audio_delta` takes the one hot event when it has exactly
//! the expected shape, `decode_json` takes everything. Both protocol generations' names are read (GA and
//! beta), and every field but `type` may be missing: compatible servers leave them out.

use crate::proto::decode::{DecodeError, Noticed, Scanner, Span, Value, cut, fill, once};
use std::borrow::Cow;

pub use super::client_event::METADATA_KEY;
pub use crate::proto::decode::Scratch;

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
        /// The mean of `logprobs[].logprob`, at most 0: e to that is a confidence. None when none came.
        logprob_mean: Option<f64>,
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

/// Where the parts of an audio delta lie.
#[derive(Default)]
struct DeltaSpans {
    response_id: Option<Span>,
    item_id: Option<Span>,
    content_index: Option<u64>,
    delta: Span,
}

impl DeltaSpans {
    fn view<'a>(&self, text: &'a [u8]) -> AudioDelta<'a> {
        let str = |span: Span| Cow::Borrowed(span.str(text));
        AudioDelta {
            response_id: self.response_id.map(str),
            item_id: self.item_id.map(str),
            content_index: self.content_index.unwrap_or(0),
            delta: Cow::Borrowed(self.delta.bytes(text)),
        }
    }
}

fn scan(text: &[u8]) -> Option<DeltaSpans> {
    let mut found = DeltaSpans::default();
    let (mut kind, mut event_id, mut output_index, mut delta) = (None, None, None, None);
    let mut scanner = Scanner::new(text);
    scanner.object(|scanner, key| match key {
        b"type" => {
            fill(&mut kind, scanner.string())?;
            is_audio_delta(kind?.bytes(text)).then_some(())
        }
        b"event_id" => fill(&mut event_id, scanner.string()),
        b"response_id" => fill(&mut found.response_id, scanner.string()),
        b"item_id" => fill(&mut found.item_id, scanner.string()),
        b"output_index" => fill(&mut output_index, scanner.uint()),
        b"content_index" => fill(&mut found.content_index, scanner.uint()),
        b"delta" => fill(&mut delta, scanner.long_string()),
        _ => None,
    })?;
    scanner.end()?;
    kind?;
    found.delta = delta?;
    Some(found)
}

/// GA and beta name.
fn is_audio_delta(kind: &[u8]) -> bool {
    matches!(
        kind,
        b"response.output_audio.delta" | b"response.audio.delta"
    )
}

/// The strict scanner for audio deltas: same rules as `carrier::twilio::scan_media`, one flat object.
pub fn scan_audio_delta(text: &[u8]) -> Option<AudioDelta<'_>> {
    Some(scan(text)?.view(text))
}

/// `scan_audio_delta`, else `decode_json`.
pub fn decode<'a>(
    text: &'a mut [u8],
    scratch: &mut Scratch,
) -> Result<(ServerEvent<'a>, Noticed), DecodeError> {
    match scan(text) {
        Some(found) => Ok((
            ServerEvent::AudioDelta(found.view(text)),
            Noticed::default(),
        )),
        None => decode_json(text, scratch),
    }
}

/// The slow, equal path: any event, through simd-json, in place. `text` is spent afterwards: escapes
/// are undone inside it. Unknown fields are counted at the top level of audio deltas only: elsewhere
/// new ones appear without notice and mean nothing.
pub fn decode_json<'a>(
    text: &'a mut [u8],
    scratch: &mut Scratch,
) -> Result<(ServerEvent<'a>, Noticed), DecodeError> {
    scratch.parse(text, read)
}

/// The top-level members that we read.
#[derive(Default)]
struct Top<'t, 'a> {
    kind: Option<Value<'t, 'a>>,
    event_id: Option<Value<'t, 'a>>,
    response_id: Option<Value<'t, 'a>>,
    item_id: Option<Value<'t, 'a>>,
    output_index: Option<Value<'t, 'a>>,
    content_index: Option<Value<'t, 'a>>,
    delta: Option<Value<'t, 'a>>,
    transcript: Option<Value<'t, 'a>>,
    audio_start_ms: Option<Value<'t, 'a>>,
    audio_end_ms: Option<Value<'t, 'a>>,
    session: Option<Value<'t, 'a>>,
    item: Option<Value<'t, 'a>>,
    part: Option<Value<'t, 'a>>,
    previous_item_id: Option<Value<'t, 'a>>,
    logprobs: Option<Value<'t, 'a>>,
    rate_limits: Option<Value<'t, 'a>>,
    usage: Option<Value<'t, 'a>>,
    response: Option<Value<'t, 'a>>,
    error: Option<Value<'t, 'a>>,
}

impl<'t, 'a> Top<'t, 'a> {
    fn response_id(&self) -> Option<Cow<'a, str>> {
        self.response_id.and_then(Value::text)
    }

    fn item_id(&self) -> Option<Cow<'a, str>> {
        self.item_id.and_then(Value::text)
    }

    fn content_index(&self) -> u64 {
        self.content_index.and_then(Value::uint).unwrap_or(0)
    }

    fn previous_item_id(&self) -> Option<Cow<'a, str>> {
        self.previous_item_id.and_then(Value::text)
    }

    fn output_index(&self) -> u64 {
        self.output_index.and_then(Value::uint).unwrap_or(0)
    }

    /// `response.id`, or where a server put it at the top.
    fn id_of_response(&self) -> Result<Option<Cow<'a, str>>, DecodeError> {
        Ok(first_text(self.response, &[&["id"]])?.or_else(|| self.response_id()))
    }
}

fn read<'a>(root: Value<'_, 'a>) -> Result<(ServerEvent<'a>, Noticed), DecodeError> {
    let members = root.members().ok_or(DecodeError::Shape("object"))?;
    let mut top = Top::default();
    let mut unknown = 0;
    for (key, value) in members {
        match key {
            "type" => once(&mut top.kind, value)?,
            "event_id" => once(&mut top.event_id, value)?,
            "response_id" => once(&mut top.response_id, value)?,
            "item_id" => once(&mut top.item_id, value)?,
            "output_index" => once(&mut top.output_index, value)?,
            "content_index" => once(&mut top.content_index, value)?,
            "delta" => once(&mut top.delta, value)?,
            "transcript" => once(&mut top.transcript, value)?,
            "audio_start_ms" => once(&mut top.audio_start_ms, value)?,
            "audio_end_ms" => once(&mut top.audio_end_ms, value)?,
            "session" => once(&mut top.session, value)?,
            "response" => once(&mut top.response, value)?,
            "error" => once(&mut top.error, value)?,
            // Known, but not in an audio delta, where they count as unknown like any other.
            "item" => once(&mut top.item, value).map(|()| unknown += 1)?,
            "part" => once(&mut top.part, value).map(|()| unknown += 1)?,
            "previous_item_id" => {
                once(&mut top.previous_item_id, value).map(|()| unknown += 1)?;
            }
            "logprobs" => once(&mut top.logprobs, value).map(|()| unknown += 1)?,
            "rate_limits" => once(&mut top.rate_limits, value).map(|()| unknown += 1)?,
            "usage" => once(&mut top.usage, value).map(|()| unknown += 1)?,
            _ => unknown += 1,
        }
    }
    let kind = top
        .kind
        .and_then(Value::str)
        .ok_or(DecodeError::Shape("type"))?;
    let mut noticed = Noticed::default();
    let event = match kind {
        kind if is_audio_delta(kind.as_bytes()) => {
            noticed = Noticed {
                fallback: true,
                unknown_fields: unknown,
            };
            ServerEvent::AudioDelta(AudioDelta {
                response_id: top.response_id(),
                item_id: top.item_id(),
                content_index: top.content_index(),
                delta: top
                    .delta
                    .and_then(Value::str)
                    .map(|text| Cow::Borrowed(text.as_bytes()))
                    .ok_or(DecodeError::Shape("delta"))?,
            })
        }
        "response.output_audio.done" | "response.audio.done" => ServerEvent::AudioDone {
            response_id: top.response_id(),
            item_id: top.item_id(),
            content_index: top.content_index(),
        },
        "response.output_audio_transcript.delta" | "response.audio_transcript.delta" => {
            ServerEvent::OutputTranscriptDelta {
                item_id: top.item_id(),
                delta: str_or_empty(top.delta),
            }
        }
        "response.output_audio_transcript.done" | "response.audio_transcript.done" => {
            ServerEvent::OutputTranscriptDone {
                item_id: top.item_id(),
                transcript: str_or_empty(top.transcript),
            }
        }
        "conversation.item.input_audio_transcription.delta" => ServerEvent::InputTranscriptDelta {
            item_id: top.item_id(),
            delta: str_or_empty(top.delta),
        },
        "conversation.item.input_audio_transcription.completed" => {
            ServerEvent::InputTranscriptCompleted {
                item_id: top.item_id(),
                transcript: str_or_empty(top.transcript),
                logprob_mean: logprob_mean(top.logprobs)?,
            }
        }
        "conversation.item.input_audio_transcription.failed" => {
            ServerEvent::InputTranscriptFailed {
                code: first_text(top.error, &[&["code"], &["type"]])?,
                message: first_text(top.error, &[&["message"]])?,
            }
        }
        "input_audio_buffer.speech_started" => ServerEvent::SpeechStarted {
            audio_start_ms: top.audio_start_ms.and_then(Value::uint),
            item_id: top.item_id(),
        },
        "input_audio_buffer.speech_stopped" => ServerEvent::SpeechStopped {
            audio_end_ms: top.audio_end_ms.and_then(Value::uint),
            item_id: top.item_id(),
        },
        "response.created" => ServerEvent::ResponseCreated {
            response_id: top.id_of_response()?,
            tag: first_text(top.response, &[&["metadata", METADATA_KEY]])?,
            out_of_band: path(top.response, &["conversation_id"])?.is_some_and(Value::is_null),
        },
        "response.done" => ServerEvent::ResponseDone {
            response_id: top.id_of_response()?,
            status: first_text(top.response, &[&["status"]])?,
            detail: first_text(
                top.response,
                &[
                    &["status_details", "reason"],
                    &["status_details", "error", "code"],
                    &["status_details", "error", "type"],
                    // xAI: the details are one word.
                    &["status_details"],
                ],
            )?,
            message: first_text(top.response, &[&["status_details", "error", "message"]])?,
            tag: first_text(top.response, &[&["metadata", METADATA_KEY]])?,
            has_audio: read_output(top.response)?.0,
            function_calls: read_output(top.response)?.1,
            // xAI has it at the top.
            usage: read_usage(path(top.response, &["usage"])?.or(top.usage))?,
        },
        "conversation.item.added" | "conversation.item.created" => ServerEvent::ItemAdded {
            item: read_item(top.item)?,
            previous_item_id: top.previous_item_id(),
        },
        "conversation.item.done" => ServerEvent::ItemDone {
            item: read_item(top.item)?,
            previous_item_id: top.previous_item_id(),
        },
        "conversation.item.truncated" => ServerEvent::ItemTruncated {
            item_id: top.item_id(),
            content_index: top.content_index(),
            audio_end_ms: top.audio_end_ms.and_then(Value::uint),
        },
        "conversation.item.deleted" => ServerEvent::ItemDeleted {
            item_id: top.item_id(),
        },
        "response.output_item.added" => ServerEvent::OutputItemAdded {
            response_id: top.response_id(),
            output_index: top.output_index(),
            item: read_item(top.item)?,
        },
        "response.output_item.done" => ServerEvent::OutputItemDone {
            response_id: top.response_id(),
            output_index: top.output_index(),
            item: read_item(top.item)?,
        },
        "response.content_part.added" | "response.content_part.done" => ServerEvent::ContentPart {
            done: kind.ends_with("done"),
            response_id: top.response_id(),
            item_id: top.item_id(),
            content_index: top.content_index(),
            kind: first_text(top.part, &[&["type"]])?,
        },
        "input_audio_buffer.committed" => ServerEvent::Committed {
            item_id: top.item_id(),
            previous_item_id: top.previous_item_id(),
        },
        "input_audio_buffer.timeout_triggered" => ServerEvent::InputTimeoutTriggered {
            audio_start_ms: top.audio_start_ms.and_then(Value::uint),
            audio_end_ms: top.audio_end_ms.and_then(Value::uint),
            item_id: top.item_id(),
        },
        "rate_limits.updated" => ServerEvent::RateLimits(read_rate_limits(top.rate_limits)?),
        "session.created" => ServerEvent::SessionCreated(read_session(top.session)?),
        "session.updated" => ServerEvent::SessionUpdated(read_session(top.session)?),
        "error" => ServerEvent::Error {
            kind: first_text(top.error, &[&["type"]])?,
            code: first_text(top.error, &[&["code"]])?,
            // Some gateways send the error as a bare sentence.
            message: first_text(top.error, &[&["message"], &[]])?,
            param: first_text(top.error, &[&["param"]])?,
            event_id: first_text(top.error, &[&["event_id"]])?,
        },
        kind if is_ignored(kind) => ServerEvent::Ignored {
            kind: Cow::Borrowed(kind),
        },
        kind => ServerEvent::Unknown {
            kind: Cow::Borrowed(cut(kind)),
        },
    };
    Ok((event, noticed))
}

/// Known events that the relay has no use for, in both protocol generations and with the extras of
/// compatible servers. A family's later members are known too.
fn is_ignored(kind: &str) -> bool {
    const NAMES: &[&str] = &[
        "conversation.created",
        "input_audio_buffer.cleared",
        "input_audio_buffer.dtmf_event_received",
        "ping",
    ];
    const FAMILIES: &[&str] = &[
        "conversation.item.",
        "mcp_list_tools.",
        "output_audio_buffer.",
        "response.function_call_arguments.",
        "response.mcp_",
        "response.output_text.",
        "response.text.",
    ];
    // Longer than any real name: a made-up one, which must not travel whole.
    kind.len() <= 64
        && (NAMES.contains(&kind) || FAMILIES.iter().any(|family| kind.starts_with(family)))
}

/// What stands at the end of `names`, each the member of the object before; `None` where one is missing.
fn path<'t, 'a>(
    value: Option<Value<'t, 'a>>,
    names: &[&str],
) -> Result<Option<Value<'t, 'a>>, DecodeError> {
    let mut value = value;
    for name in names {
        value = match value {
            Some(object) => object.member(name)?,
            None => return Ok(None),
        };
    }
    Ok(value)
}

/// The first of these paths that ends at a text.
fn first_text<'a>(
    value: Option<Value<'_, 'a>>,
    paths: &[&[&str]],
) -> Result<Option<Cow<'a, str>>, DecodeError> {
    for names in paths {
        if let Some(text) = path(value, names)?.and_then(Value::text) {
            return Ok(Some(text));
        }
    }
    Ok(None)
}

fn str_or_empty<'a>(value: Option<Value<'_, 'a>>) -> Cow<'a, str> {
    Cow::Borrowed(value.and_then(Value::str).unwrap_or_default())
}

/// Whether this part of an item is speech, in either vocabulary and generation.
fn is_audio_part(kind: Option<&str>) -> bool {
    matches!(kind, Some("output_audio" | "audio" | "input_audio"))
}

fn read_item<'a>(item: Option<Value<'_, 'a>>) -> Result<Item<'a>, DecodeError> {
    let Some(members) = item.and_then(Value::members) else {
        return Ok(Item::default());
    };
    let (mut id, mut kind, mut status, mut role) = (None, None, None, None);
    let (mut name, mut call_id, mut arguments, mut content) = (None, None, None, None);
    let (mut transcript, mut phase) = (None, None);
    for (key, value) in members {
        match key {
            "id" => once(&mut id, value)?,
            "type" => once(&mut kind, value)?,
            "status" => once(&mut status, value)?,
            "role" => once(&mut role, value)?,
            "name" => once(&mut name, value)?,
            "call_id" => once(&mut call_id, value)?,
            "arguments" => once(&mut arguments, value)?,
            "content" => once(&mut content, value)?,
            "phase" => once(&mut phase, value)?,
            _ => {}
        }
    }
    let mut has_audio = false;
    for part in content.and_then(Value::elements).into_iter().flatten() {
        has_audio |= is_audio_part(part.member("type")?.and_then(Value::str));
        if transcript.is_none() {
            transcript = first_text(Some(part), &[&["transcript"], &["text"]])?;
        }
    }
    let text = |value: Option<Value<'_, 'a>>| value.and_then(Value::text);
    Ok(Item {
        id: text(id),
        kind: text(kind),
        status: text(status),
        role: text(role),
        name: text(name),
        call_id: text(call_id),
        arguments: arguments
            .filter(|value| !value.is_null())
            .map(Value::stringify),
        text: transcript,
        has_audio,
        phase: text(phase),
    })
}

/// Whether `response.output` holds audio, and how many function calls.
fn read_output(response: Option<Value<'_, '_>>) -> Result<(bool, u32), DecodeError> {
    let (mut has_audio, mut function_calls) = (false, 0);
    let output = path(response, &["output"])?.and_then(Value::elements);
    for item in output.into_iter().flatten() {
        if item.member("type")?.and_then(Value::str) == Some("function_call") {
            function_calls += 1;
        }
        let content = item.member("content")?.and_then(Value::elements);
        for part in content.into_iter().flatten() {
            has_audio |= is_audio_part(part.member("type")?.and_then(Value::str));
        }
    }
    Ok((has_audio, function_calls))
}

fn read_usage(usage: Option<Value<'_, '_>>) -> Result<Option<Usage>, DecodeError> {
    let Some(usage) = usage.filter(|usage| usage.members().is_some()) else {
        return Ok(None);
    };
    let count = |names: &[&str]| -> Result<u64, DecodeError> {
        Ok(path(Some(usage), names)?
            .and_then(Value::uint)
            .unwrap_or_default())
    };
    let cached = |what| count(&["input_token_details", "cached_tokens_details", what]);
    Ok(Some(Usage {
        input_tokens: count(&["input_tokens"])?,
        input_text_tokens: count(&["input_token_details", "text_tokens"])?,
        input_audio_tokens: count(&["input_token_details", "audio_tokens"])?,
        cached_tokens: count(&["input_token_details", "cached_tokens"])?,
        cached_text_tokens: cached("text_tokens")?,
        cached_audio_tokens: cached("audio_tokens")?,
        output_tokens: count(&["output_tokens"])?,
        output_text_tokens: count(&["output_token_details", "text_tokens"])?,
        output_audio_tokens: count(&["output_token_details", "audio_tokens"])?,
        reasoning_tokens: count(&["output_token_details", "reasoning_tokens"])?,
        total_tokens: count(&["total_tokens"])?,
    }))
}

fn read_rate_limits(limits: Option<Value<'_, '_>>) -> Result<RateLimits, DecodeError> {
    let mut found = RateLimits::default();
    for entry in limits.and_then(Value::elements).into_iter().flatten() {
        let limit = RateLimit {
            limit: entry.member("limit")?.and_then(Value::uint),
            remaining: entry.member("remaining")?.and_then(Value::uint),
            reset_seconds: entry.member("reset_seconds")?.and_then(Value::number),
        };
        match entry.member("name")?.and_then(Value::str) {
            Some("requests") => found.requests = Some(limit),
            Some("tokens") => found.tokens = Some(limit),
            _ => {}
        }
    }
    Ok(found)
}

fn logprob_mean(logprobs: Option<Value<'_, '_>>) -> Result<Option<f64>, DecodeError> {
    let (mut sum, mut count) = (0.0, 0_u32);
    for token in logprobs.and_then(Value::elements).into_iter().flatten() {
        if let Some(logprob) = token.member("logprob")?.and_then(Value::number) {
            // Some servers write -9999 for never; a positive one is none.
            sum += logprob.clamp(-100.0, 0.0);
            count += 1;
        }
    }
    Ok((count > 0).then(|| sum / f64::from(count)))
}

fn read_session<'a>(session: Option<Value<'_, 'a>>) -> Result<SessionEcho<'a>, DecodeError> {
    // GA has an object, beta a word at the top of the session.
    let format = |side: &str, beta: &str| {
        first_text(
            session,
            &[
                &["audio", side, "format", "type"],
                &["audio", side, "format"],
                &[beta],
            ],
        )
    };
    Ok(SessionEcho {
        id: first_text(session, &[&["id"]])?,
        expires_at: path(session, &["expires_at"])?.and_then(Value::uint),
        input_format: format("input", "input_audio_format")?,
        output_format: format("output", "output_audio_format")?,
    })
}

#[cfg(test)]
mod tests;
