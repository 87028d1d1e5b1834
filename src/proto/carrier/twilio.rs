//! Twilio Media Streams ("Media Streams - WebSocket Messages", read 2026-11): decode and encode.
//!
//! Decoding has two paths that must agree: `scan_media` takes the one hot message when it has exactly
//! the expected shape, `decode_json` takes everything. Numbers may be strings or numbers, ids may be
//! missing, unknown events and fields are normal; compatible carriers differ in all of these.

use super::{Media, MediaFormat, Message, Start};
use crate::proto::decode::{DecodeError, Noticed, Scanner, Span, Value, cut, fill, once};
use std::borrow::Cow;

pub use crate::proto::decode::Scratch;

/// Where the parts of a `media` message lie.
#[derive(Default)]
struct MediaSpans {
    stream_sid: Option<Span>,
    track: Option<Span>,
    chunk: Option<u64>,
    timestamp: Option<u64>,
    sequence_number: Option<u64>,
    payload: Span,
}

impl MediaSpans {
    fn view<'a>(&self, text: &'a [u8]) -> Media<'a> {
        let str = |span: Span| Cow::Borrowed(span.str(text));
        Media {
            stream_sid: self.stream_sid.map(str),
            track: self.track.map(str),
            chunk: self.chunk,
            timestamp: self.timestamp,
            sequence_number: self.sequence_number,
            payload: Cow::Borrowed(self.payload.bytes(text)),
        }
    }
}

fn scan(text: &[u8]) -> Option<MediaSpans> {
    let mut found = MediaSpans::default();
    let (mut event, mut media, mut payload) = (None, None, None);
    let mut scanner = Scanner::new(text);
    scanner.object(|scanner, key| match key {
        b"event" => {
            fill(&mut event, scanner.string())?;
            (event?.bytes(text) == b"media").then_some(())
        }
        b"sequenceNumber" => fill(&mut found.sequence_number, scanner.uint()),
        b"streamSid" => fill(&mut found.stream_sid, scanner.string()),
        b"media" => {
            fill(&mut media, Some(()))?;
            scanner.object(|scanner, key| match key {
                b"track" => fill(&mut found.track, scanner.string()),
                b"chunk" => fill(&mut found.chunk, scanner.uint()),
                b"timestamp" => fill(&mut found.timestamp, scanner.uint()),
                b"payload" => fill(&mut payload, scanner.long_string()),
                _ => None,
            })
        }
        _ => None,
    })?;
    scanner.end()?;
    event?;
    found.payload = payload?;
    Some(found)
}

/// The strict scanner: takes a `media` message of exactly the expected shape (one object, at most one nested,
/// strings of printable ASCII without escapes, unsigned integers, each known key once and no other, no
/// trailing bytes), else `None`. Never decodes base64. Whatever it takes, `decode_json` reads equally.
pub fn scan_media(text: &[u8]) -> Option<Media<'_>> {
    Some(scan(text)?.view(text))
}

/// `scan_media`, else `decode_json`.
pub fn decode<'a>(
    text: &'a mut [u8],
    scratch: &mut Scratch,
) -> Result<(Message<'a>, Noticed), DecodeError> {
    match scan(text) {
        Some(found) => Ok((Message::Media(found.view(text)), Noticed::default())),
        None => decode_json(text, scratch),
    }
}

/// The slow, equal path: any message, through simd-json, in place. `text` is spent afterwards: escapes
/// are undone inside it. No allocation of ours once the scratch has grown, except for a `start`'s box and
/// lists and for ids that came as numbers.
pub fn decode_json<'a>(
    text: &'a mut [u8],
    scratch: &mut Scratch,
) -> Result<(Message<'a>, Noticed), DecodeError> {
    scratch.parse(text, read)
}

/// The top-level members that any of our events has.
#[derive(Default)]
struct Top<'t, 'a> {
    event: Option<Value<'t, 'a>>,
    sequence_number: Option<Value<'t, 'a>>,
    stream_sid: Option<Value<'t, 'a>>,
    protocol: Option<Value<'t, 'a>>,
    version: Option<Value<'t, 'a>>,
    start: Option<Value<'t, 'a>>,
    media: Option<Value<'t, 'a>>,
    dtmf: Option<Value<'t, 'a>>,
    mark: Option<Value<'t, 'a>>,
    stop: Option<Value<'t, 'a>>,
}

fn read<'a>(root: Value<'_, 'a>) -> Result<(Message<'a>, Noticed), DecodeError> {
    let members = root.members().ok_or(DecodeError::Shape("object"))?;
    let mut top = Top::default();
    let mut unknown = 0;
    for (key, value) in members {
        match key {
            "event" => once(&mut top.event, value)?,
            "sequenceNumber" => once(&mut top.sequence_number, value)?,
            "streamSid" => once(&mut top.stream_sid, value)?,
            "protocol" => once(&mut top.protocol, value)?,
            "version" => once(&mut top.version, value)?,
            "start" => once(&mut top.start, value)?,
            "media" => once(&mut top.media, value)?,
            "dtmf" => once(&mut top.dtmf, value)?,
            "mark" => once(&mut top.mark, value)?,
            "stop" => once(&mut top.stop, value)?,
            _ => unknown += 1,
        }
    }
    let event = top
        .event
        .and_then(Value::str)
        .ok_or(DecodeError::Shape("event"))?;
    // A known name where its event has no use for it is as foreign as an unknown one.
    let foreign =
        |name: &str, value: Option<Value<'_, '_>>| u32::from(value.is_some() && event != name);
    unknown += foreign("connected", top.protocol)
        + foreign("connected", top.version)
        + foreign("start", top.start)
        + foreign("media", top.media)
        + foreign("dtmf", top.dtmf)
        + foreign("mark", top.mark)
        + foreign("stop", top.stop);
    let stream_sid = top.stream_sid.and_then(Value::text);
    let message = match event {
        "media" => Message::Media(read_media(&top, stream_sid, &mut unknown)?),
        "connected" => Message::Connected {
            protocol: top.protocol.and_then(Value::text),
            version: top.version.and_then(Value::text),
        },
        "start" => {
            let mut start = read_start(top.start, &mut unknown)?;
            // The same id stands in both places; where only one has it, that one counts.
            start.stream_sid = stream_sid.or(start.stream_sid);
            Message::Start(Box::new(start))
        }
        "dtmf" => {
            let mut digit = None;
            for (key, value) in nested(top.dtmf) {
                match key {
                    "digit" => once(&mut digit, value)?,
                    "track" => {}
                    _ => unknown += 1,
                }
            }
            Message::Dtmf {
                stream_sid,
                digit: digit.and_then(Value::text).and_then(|text| {
                    let mut characters = text.chars();
                    characters.next().filter(|_| characters.next().is_none())
                }),
            }
        }
        "mark" => {
            let mut name = None;
            for (key, value) in nested(top.mark) {
                match key {
                    "name" => once(&mut name, value)?,
                    _ => unknown += 1,
                }
            }
            Message::Mark {
                stream_sid,
                name: name.and_then(Value::text),
            }
        }
        "stop" => {
            for (key, _) in nested(top.stop) {
                unknown += u32::from(!matches!(key, "accountSid" | "callSid"));
            }
            Message::Stop { stream_sid }
        }
        other => {
            unknown = 0;
            Message::Unknown {
                event: Cow::Borrowed(cut(other)),
            }
        }
    };
    let noticed = Noticed {
        fallback: matches!(message, Message::Media(_)),
        unknown_fields: unknown,
    };
    Ok((message, noticed))
}

/// The members of an optional object. An empty or missing `mark` has been seen in the field; whatever
/// is no object is as good as missing.
fn nested<'t, 'a>(
    value: Option<Value<'t, 'a>>,
) -> impl Iterator<Item = (&'a str, Value<'t, 'a>)> + use<'t, 'a> {
    value.and_then(Value::members).into_iter().flatten()
}

fn read_media<'a>(
    top: &Top<'_, 'a>,
    stream_sid: Option<Cow<'a, str>>,
    unknown: &mut u32,
) -> Result<Media<'a>, DecodeError> {
    let (mut track, mut chunk, mut timestamp, mut payload) = (None, None, None, None);
    for (key, value) in nested(top.media) {
        match key {
            "track" => once(&mut track, value)?,
            "chunk" => once(&mut chunk, value)?,
            "timestamp" => once(&mut timestamp, value)?,
            "payload" => once(&mut payload, value)?,
            _ => *unknown += 1,
        }
    }
    Ok(Media {
        stream_sid,
        track: track.and_then(Value::text),
        chunk: chunk.and_then(Value::uint),
        timestamp: timestamp.and_then(Value::uint),
        sequence_number: top.sequence_number.and_then(Value::uint),
        payload: payload
            .and_then(Value::str)
            .map(|text| Cow::Borrowed(text.as_bytes()))
            .ok_or(DecodeError::Shape("media.payload"))?,
    })
}

fn read_start<'a>(
    value: Option<Value<'_, 'a>>,
    unknown: &mut u32,
) -> Result<Start<'a>, DecodeError> {
    let (mut stream_sid, mut call_sid, mut account_sid) = (None, None, None);
    let (mut tracks, mut format, mut parameters) = (None, None, None);
    if value.is_some_and(|value| value.members().is_none()) {
        return Err(DecodeError::Shape("start"));
    }
    for (key, value) in nested(value) {
        match key {
            "streamSid" => once(&mut stream_sid, value)?,
            "callSid" => once(&mut call_sid, value)?,
            "accountSid" => once(&mut account_sid, value)?,
            "tracks" => once(&mut tracks, value)?,
            "mediaFormat" => once(&mut format, value)?,
            "customParameters" => once(&mut parameters, value)?,
            _ => *unknown += 1,
        }
    }
    Ok(Start {
        stream_sid: stream_sid.and_then(Value::text),
        call_sid: call_sid.and_then(Value::text),
        account_sid: account_sid.and_then(Value::text),
        tracks: match tracks {
            Some(tracks) => match tracks.elements() {
                Some(elements) => elements.filter_map(Value::text).collect(),
                None => tracks.text().into_iter().collect(),
            },
            None => Vec::new(),
        },
        media_format: read_format(format, unknown)?,
        parameters: nested(parameters)
            .map(|(name, value)| (Cow::Borrowed(name), value.stringify()))
            .collect(),
    })
}

/// Missing parts are the protocol's only format (8000 Hz, one channel), the encoding apart: who names a
/// format must name that. Unreadable numbers become 0, which no one relays.
fn read_format<'a>(
    value: Option<Value<'_, 'a>>,
    unknown: &mut u32,
) -> Result<Option<MediaFormat<'a>>, DecodeError> {
    let (mut encoding, mut rate, mut channels) = (None, None, None);
    for (key, value) in nested(value) {
        match key {
            "encoding" => once(&mut encoding, value)?,
            "sampleRate" => once(&mut rate, value)?,
            "channels" => once(&mut channels, value)?,
            _ => *unknown += 1,
        }
    }
    if encoding.is_none() && rate.is_none() && channels.is_none() {
        return Ok(None);
    }
    let number = |value: Option<Value<'_, '_>>, missing: u32| match value {
        Some(value) => value
            .uint()
            .and_then(|n| u32::try_from(n).ok())
            .unwrap_or(0),
        None => missing,
    };
    Ok(Some(MediaFormat {
        encoding: encoding.and_then(Value::text).unwrap_or_default(),
        sample_rate: number(rate, 8000),
        channels: number(channels, 1),
    }))
}

/// The bytes around an outbound payload, made once per stream. The stream id is escaped for JSON.
///
/// Exactly the documented fields: Twilio drops a message with any other and raises warning 31951.
#[derive(Clone, Debug, Default)]
pub struct Encoder {
    media_prefix: Vec<u8>,
    mark_prefix: Vec<u8>,
    clear: Vec<u8>,
}

impl Encoder {
    /// For one stream.
    pub fn new(stream_sid: &str) -> Self {
        let message = |event: &str, rest: &str| {
            let mut out = format!(r#"{{"event":"{event}","streamSid":"#).into_bytes();
            write_string(stream_sid, &mut out);
            out.extend_from_slice(rest.as_bytes());
            out
        };
        Self {
            media_prefix: message("media", r#","media":{"payload":""#),
            mark_prefix: message("mark", r#","mark":{"name":"#),
            clear: message("clear", "}"),
        }
    }

    /// `{"event":"media","streamSid":"…","media":{"payload":"` and `"}}`: the valid base64 goes between.
    pub fn media(&self) -> (&[u8], &[u8]) {
        (&self.media_prefix, br#""}}"#)
    }

    /// Appends a whole `mark` message.
    pub fn mark(&self, name: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.mark_prefix);
        write_string(name, out);
        out.extend_from_slice(b"}}");
    }

    /// Appends a whole `clear` message.
    pub fn clear(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.clear);
    }
}

/// Appends `text` as a JSON string, with its quotes.
fn write_string(text: &str, out: &mut Vec<u8>) {
    serde_json::to_writer(out, text).expect("a Vec takes every byte and a str is always JSON");
}

#[cfg(test)]
mod tests;
