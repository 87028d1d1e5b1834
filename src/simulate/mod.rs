//! Simulated carriers and a simulated model, written against the vendors' references and not against
//! the relay's own message types, so that they can disagree with it. Sans-IO state machines; thin drivers.
//!
//! They share the WebSocket, HTTP, base64 and TLS parts with the relay, and nothing of its call logic or of
//! its message encoders: an error there shows here.
//!
//! - [`model`]: the Realtime endpoint. [`model::Model`] is one session, [`model::server`] serves it.
//! - [`carrier`]: a Twilio media stream. [`carrier::Carrier`] is one call, [`carrier::client`] places it.
//! - [`link`]: WebSocket messages over any byte stream, for both drivers.
//! - [`load`]: hundreds of calls at once, on a ring.
//! - [`measure`]: what one side sent against what the other received: content, order, delay.
//! - [`record`]: every event of a session to a file, for an independent judge.
//!
//! # The shipped voice
//!
//! `audio/caller.wav` (8 kHz mono mu-law) is made by `audio/make-caller.sh` with espeak-ng and sox: three
//! questions of a caller, pauses between them, line noise throughout, and the third begins while the
//! simulated model still answers the second. What is said stands in [`CALLER_LINES`].

pub mod carrier;
pub mod dice;
pub mod link;
pub mod load;
pub mod measure;
pub mod model;
pub mod record;
pub mod wav;

use crate::base::time::Mono;

#[cfg(test)]
mod peers;

/// The shipped caller, a WAV file.
pub const CALLER_WAV: &[u8] = include_bytes!("audio/caller.wav");

/// What the shipped caller says, turn by turn.
pub const CALLER_LINES: [&str; 3] = [
    "Hello, is this the bicycle workshop?",
    "Are you open on Saturday?",
    "Wait, Friday would be better for me.",
];

/// An audio payload and when it passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passed {
    /// When.
    pub at: Mono,
    /// Base64, as it was on the wire.
    pub payload: Box<str>,
}
