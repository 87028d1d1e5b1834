//! Events from the model ("Realtime API reference: server events", read 2026-11).
//!
//! Decoding has two paths that must agree: `scan_audio_delta` takes the one hot event when it has exactly
//! the expected shape, `decode_json` takes everything. Both protocol generations' names are read (GA and
//! beta), and every field but `type` may be missing: compatible servers leave them out.

use crate::proto::decode::{DecodeError, Noticed, Scanner, Span, Value, cut, fill, once};
mod event;
pub use event::{AudioDelta, Item, RateLimit, RateLimits, ServerEvent, SessionEcho, Usage};

use std::borrow::Cow;

pub use super::client_event::METADATA_KEY;
pub use crate::proto::decode::Scratch;

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

/// As `decode`; where the event tells of an item as it will stay (`conversation.item.done`; beta: `.created`), that item is
/// kept in `item`, byte by byte, before its text is spent. Audio never gets so far.
pub fn decode_and_keep<'a>(
    text: &'a mut [u8],
    scratch: &mut Scratch,
    item: &mut Option<KeptItem>,
) -> Result<(ServerEvent<'a>, Noticed), DecodeError> {
    match scan(text) {
        Some(found) => Ok((
            ServerEvent::AudioDelta(found.view(text)),
            Noticed::default(),
        )),
        None => {
            *item = KeptItem::read(text);
            decode_json(text, scratch)
        }
    }
}

/// An item of the conversation as the server wrote it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeptItem {
    /// Its id, empty when there is none.
    pub id: String,
    /// The JSON value, byte by byte.
    pub json: String,
}

impl KeptItem {
    /// The item in an event's text; `None` when the event tells of none, or is no JSON.
    fn read(text: &[u8]) -> Option<Self> {
        use serde_json::value::RawValue;
        #[derive(serde::Deserialize)]
        struct Event<'t> {
            #[serde(rename = "type", borrow)]
            kind: std::borrow::Cow<'t, str>,
            #[serde(borrow)]
            item: &'t RawValue,
        }
        #[derive(serde::Deserialize)]
        struct Item<'t> {
            #[serde(default, borrow)]
            id: Option<std::borrow::Cow<'t, str>>,
        }
        // Most events are not about items; a look for the word is cheaper than a parse.
        memchr::memmem::find(text, b"conversation.item.")?;
        let event: Event<'_> = serde_json::from_slice(text).ok()?;
        if !matches!(
            &*event.kind,
            "conversation.item.done" | "conversation.item.created"
        ) {
            return None;
        }
        let json = event.item.get();
        let item: Item<'_> = serde_json::from_str(json).ok()?;
        Some(Self {
            id: item.id.unwrap_or_default().into_owned(),
            json: json.to_owned(),
        })
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
                probability_mean: probability_mean(top.logprobs)?,
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
            error_type: first_text(top.response, &[&["status_details", "error", "type"]])?,
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

fn probability_mean(logprobs: Option<Value<'_, '_>>) -> Result<Option<f64>, DecodeError> {
    let (mut sum, mut count) = (0.0, 0_u32);
    for token in logprobs.and_then(Value::elements).into_iter().flatten() {
        if let Some(logprob) = token.member("logprob")?.and_then(Value::number) {
            // Some servers write -9999 for never; a positive one is none.
            sum += logprob.clamp(-100.0, 0.0).exp();
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
