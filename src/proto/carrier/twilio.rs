//! Twilio Media Streams ("Media Streams - WebSocket Messages", read 2026-11): decode and encode.

use super::{Media, Message};
use crate::proto::decode::{DecodeError, Noticed};

/// Reused memory of the slow path (simd-json's buffers), one per worker or session.
#[derive(Default)]
pub struct Scratch {
    _private: (),
}

impl std::fmt::Debug for Scratch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Scratch")
    }
}

/// The strict scanner: takes a `media` message of exactly the expected shape (one object, at most one nested,
/// strings without escapes, unsigned integers, each known key once, no trailing bytes), else `None`. Never decodes base64.
pub fn scan_media(text: &[u8]) -> Option<Media<'_>> {
    let _ = text;
    unimplemented!()
}

/// The slow, equal path: any message, through simd-json, in place.
pub fn decode_json<'a>(
    text: &'a mut [u8],
    scratch: &'a mut Scratch,
) -> Result<(Message<'a>, Noticed), DecodeError> {
    let _ = (text, scratch);
    unimplemented!()
}

/// `scan_media`, else `decode_json`.
pub fn decode<'a>(
    text: &'a mut [u8],
    scratch: &'a mut Scratch,
) -> Result<(Message<'a>, Noticed), DecodeError> {
    let _ = (text, scratch);
    unimplemented!()
}

/// The bytes around an outbound payload, made once per stream. The stream id is escaped for JSON.
#[derive(Clone, Debug, Default)]
pub struct Encoder {
    _private: (),
}

impl Encoder {
    /// For one stream.
    pub fn new(stream_sid: &str) -> Self {
        let _ = stream_sid;
        unimplemented!()
    }
    /// `{"event":"media","streamSid":"…","media":{"payload":"` and `"}}`: the valid base64 goes between.
    pub fn media(&self) -> (&[u8], &[u8]) {
        unimplemented!()
    }
    /// Appends a whole `mark` message.
    pub fn mark(&self, name: &str, out: &mut Vec<u8>) {
        let _ = (name, out);
        unimplemented!()
    }
    /// Appends a whole `clear` message.
    pub fn clear(&self, out: &mut Vec<u8>) {
        let _ = out;
        unimplemented!()
    }
}
