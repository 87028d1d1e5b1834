//! The carrier's messages: Twilio first. A dialect is a decoder and an encoder over these types.

pub mod signature;
pub mod twilio;
pub mod twiml;

use std::borrow::Cow;

/// One message from the carrier. Borrowed from the message's bytes where nothing had to be unescaped.
#[derive(Clone, Debug, PartialEq)]
pub enum Message<'a> {
    /// The first message.
    Connected {
        /// `Call` for Twilio.
        protocol: Option<Cow<'a, str>>,
        /// `1.0.0`.
        version: Option<Cow<'a, str>>,
    },
    /// The stream begins.
    Start(Box<Start<'a>>),
    /// Audio.
    Media(Media<'a>),
    /// A key.
    Dtmf {
        /// Whose message it is.
        stream_sid: Option<Cow<'a, str>>,
        /// The key.
        digit: Option<char>,
    },
    /// A mark came back. The name is `None` where the `mark` object was empty or missing.
    Mark {
        /// Whose message it is.
        stream_sid: Option<Cow<'a, str>>,
        /// As sent.
        name: Option<Cow<'a, str>>,
    },
    /// The stream is over.
    Stop {
        /// Whose message it is.
        stream_sid: Option<Cow<'a, str>>,
    },
    /// An event name that we do not know.
    Unknown {
        /// The name, cut to 64 bytes.
        event: Cow<'a, str>,
    },
}

/// The `start` message.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Start<'a> {
    /// The stream's id (top level or inside `start`).
    pub stream_sid: Option<Cow<'a, str>>,
    /// The call's id.
    pub call_sid: Option<Cow<'a, str>>,
    /// The account's id.
    pub account_sid: Option<Cow<'a, str>>,
    /// `inbound`, `outbound`.
    pub tracks: Vec<Cow<'a, str>>,
    /// `mediaFormat`, where given.
    pub media_format: Option<MediaFormat<'a>>,
    /// `customParameters`, in order. Names are whatever our TwiML named: one that came twice is here twice.
    pub parameters: Vec<(Cow<'a, str>, Cow<'a, str>)>,
}

/// How the audio is encoded.
#[derive(Clone, Debug, PartialEq)]
pub struct MediaFormat<'a> {
    /// `audio/x-mulaw`.
    pub encoding: Cow<'a, str>,
    /// Hz.
    pub sample_rate: u32,
    /// 1 is mono.
    pub channels: u32,
}

/// One chunk of audio. Numbers may come as strings or as numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Media<'a> {
    /// Whose message it is.
    pub stream_sid: Option<Cow<'a, str>>,
    /// `inbound` or `outbound`.
    pub track: Option<Cow<'a, str>>,
    /// Counts media messages from 1.
    pub chunk: Option<u64>,
    /// Milliseconds since the stream began.
    pub timestamp: Option<u64>,
    /// Counts all messages from 1.
    pub sequence_number: Option<u64>,
    /// Base64 text, not yet checked. No escapes are left in it.
    pub payload: Cow<'a, [u8]>,
}
