//! A simulated Twilio media stream: one call as a sans-IO state machine, and a thin client around it.
//!
//! Written against the vendor's pages: numbers that are strings, 20 ms frames on absolute deadlines, a
//! playback queue that returns marks when their audio has been heard, warnings 31950 and 31951 for what a
//! server must not send.
//!
//! # Contract of [`Carrier`]
//!
//! 1. [`Carrier::new`] once the server answered the upgrade with 101;
//! 2. any number of `handle_text`, `handle_binary`, `handle_closed`, `handle_timeout`, each with the `Now` of the
//!    wake-up;
//! 3. after each, `poll_output` until `None`; after a [`Output::Close`] or [`Output::Reset`] nothing follows;
//! 4. `poll_timeout` says when to call `handle_timeout` next; `None` means that the call is over.

pub mod client;
pub mod inspect;
pub mod options;
pub mod playback;
pub mod sign;
pub mod webhook;

use self::inspect::{MALFORMED_MESSAGE, Order, UNSUPPORTED_MESSAGE, inspect};
use self::options::{HangUp, Options};
use self::playback::Playback;
use crate::base::rng::Rng;
use crate::base::time::{Mono, Now};
use crate::proto::audio::base64;
use crate::simulate::Passed;
use crate::simulate::dice::Dice as _;
use serde_json::{Map, Value, json};
use std::collections::VecDeque;
use std::time::Duration;

/// What the client is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send one text message.
    Text(String),
    /// Send a close frame and close.
    Close(u16),
    /// Reset the connection.
    Reset,
}

/// A complaint of the carrier about the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// 31950 or 31951.
    pub code: u16,
    /// Why.
    pub reason: String,
}

/// What a call saw.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The stream's id.
    pub stream_sid: String,
    /// The call's id.
    pub call_sid: String,
    /// `media` frames sent, and their audio in bytes.
    pub media_sent: u64,
    /// See `media_sent`.
    pub bytes_sent: u64,
    /// `media` messages received, and their audio in bytes.
    pub media_received: u64,
    /// See `media_received`.
    pub bytes_received: u64,
    /// Bytes that the caller heard; the rest was cut by `clear` or by the end.
    pub bytes_heard: u64,
    /// Bytes cut by `clear`.
    pub bytes_cut: u64,
    /// Marks received.
    pub marks_received: u64,
    /// Marks given back.
    pub marks_returned: u64,
    /// `clear` messages received.
    pub clears: u64,
    /// How often the carrier complained; it raises each code once per stream, we count all.
    pub warning_count: u64,
    /// The first of them.
    pub warnings: Vec<Warning>,
    /// The server closed first: its close code, 1006 for none (the carrier's 31921).
    pub closed_by_server: Option<u16>,
    /// What was sent, when audio is kept.
    pub sent: Vec<Passed>,
    /// What was received, when audio is kept.
    pub received: Vec<Passed>,
}

/// One frame, ms and bytes.
const FRAME_MS: u64 = 20;
const FRAME_BYTES: usize = 160;
const FRAME: Duration = Duration::from_millis(FRAME_MS);
/// Mu-law silence: the line after the voice's end.
const SILENCE: u8 = 0xFF;
/// Warnings kept with their reason.
const WARNINGS_KEPT: usize = 32;
/// When the quirks happen.
const QUIRK_AT: Duration = Duration::from_secs(2);
const BURST_AT: Duration = Duration::from_secs(3);
/// Quiet after voice and playback are over, before the caller hangs up.
const QUIET_BEFORE_END: Duration = Duration::from_millis(1500);

/// One call of the simulated carrier.
#[derive(Debug)]
pub struct Carrier {
    options: Options,
    account_sid: String,
    report: Report,
    playback: Playback,
    started: Mono,
    /// Added to every timestamp: streams start near, but not at, a fixed value.
    timestamp_base: u64,
    /// `sequenceNumber` of the last frame sent.
    sequence: u64,
    /// `chunk` of the last media frame sent.
    chunk: u64,
    /// Frames of stream time that are over, sent or left out.
    frames_over: u64,
    keys_sent: usize,
    unknown_mark_sent: bool,
    /// Since when voice and playback are over.
    quiet_since: Option<Mono>,
    out: VecDeque<Output>,
    has_ended: bool,
}

impl Carrier {
    /// A call whose upgrade was answered with 101. `connected` and `start` are ready at once.
    pub fn new(options: Options, now: Now) -> Self {
        let mut rng = Rng::from_u64(options.seed);
        let mut carrier = Self {
            account_sid: rng.sid("AC"),
            report: Report {
                stream_sid: rng.sid("MZ"),
                call_sid: options.call_sid.clone().unwrap_or_else(|| rng.sid("CA")),
                ..Report::default()
            },
            timestamp_base: rng.between(21, 99),
            options,
            playback: Playback::default(),
            started: now.mono,
            sequence: 0,
            chunk: 0,
            frames_over: 0,
            keys_sent: 0,
            unknown_mark_sent: false,
            quiet_since: None,
            out: VecDeque::new(),
            has_ended: false,
        };
        carrier.options.keys.sort_by_key(|key| key.at);
        carrier.start();
        carrier
    }

    /// What the call saw so far.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// The final report. `bytes_heard` counts to `now`.
    pub fn into_report(mut self, now: Now) -> Report {
        self.report.bytes_cut = self.playback.cut_bytes();
        self.report.bytes_heard = self.playback.heard_bytes(now.mono);
        self.report
    }

    /// Marks that wait for their audio.
    pub fn pending_marks(&self) -> usize {
        self.playback.pending_marks()
    }

    /// The call is over, from whichever side.
    pub fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// How much of the caller's voice has been sent, 0.0 to 1.0.
    pub fn progress(&self) -> f64 {
        let len = self.options.audio.len().max(1);
        (self.frames_over as f64 * FRAME_BYTES as f64 / len as f64).min(1.0)
    }

    /// Takes one text message of the server.
    pub fn handle_text(&mut self, text: &[u8], now: Now) {
        self.handle_timeout(now);
        if self.has_ended {
            return;
        }
        match inspect(text, &self.report.stream_sid) {
            Ok(Order::Media { payload, bytes }) => {
                self.report.media_received += 1;
                self.report.bytes_received += bytes;
                self.playback.queue_audio(bytes, now.mono);
                if self.options.keeps_audio {
                    let payload = payload.into_boxed_str();
                    self.report.received.push(Passed {
                        at: now.mono,
                        payload,
                    });
                }
            }
            Ok(Order::Mark(name)) => {
                self.report.marks_received += 1;
                self.playback.queue_mark(name, now.mono);
            }
            Ok(Order::Clear) => {
                self.report.clears += 1;
                self.playback.clear(now.mono);
            }
            Err(reason) => self.warn(MALFORMED_MESSAGE, reason),
        }
        self.return_marks(now.mono);
    }

    /// Takes one binary message: the carrier has none.
    pub fn handle_binary(&mut self, now: Now) {
        self.handle_timeout(now);
        if !self.has_ended {
            self.warn(UNSUPPORTED_MESSAGE, "binary message".into());
        }
    }

    /// The server closed (`Some` close code) or the connection broke (`None`).
    pub fn handle_closed(&mut self, code: Option<u16>, now: Now) {
        self.handle_timeout(now);
        if !self.has_ended {
            self.report.closed_by_server = Some(code.unwrap_or(1006));
            self.has_ended = true;
        }
    }

    /// Does what is due: frames, marks, keys, the end.
    pub fn handle_timeout(&mut self, now: Now) {
        if self.has_ended {
            return;
        }
        self.return_marks(now.mono);
        while self.frame_due() <= now.mono && !self.has_ended {
            let elapsed = FRAME * (self.frames_over as u32 + 1);
            self.quirks(elapsed);
            if !self.is_left_out() {
                self.send_frame(now.mono);
            }
            self.frames_over += 1;
            if self.is_over(elapsed, now.mono) {
                self.hang_up();
            }
        }
    }

    /// The next thing for the client to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    /// When to call `handle_timeout`; `None` once the call is over.
    pub fn poll_timeout(&self) -> Option<Mono> {
        if self.has_ended {
            return None;
        }
        let mark = self.playback.next_mark();
        mark.into_iter().chain([self.frame_due()]).min()
    }

    fn start(&mut self) {
        self.push(json!({"event": "connected", "protocol": "Call", "version": "1.0.0"}));
        let mut start = json!({
            "accountSid": self.account_sid,
            "streamSid": self.report.stream_sid,
            "callSid": self.report.call_sid,
            "tracks": ["inbound"],
            "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
        });
        if !(self.options.parameters.is_empty() && self.options.omit_empty_parameters) {
            let parameters = self.options.parameters.iter();
            let parameters: Map<String, Value> = parameters
                .map(|(name, value)| (name.clone(), value.as_str().into()))
                .collect();
            start["customParameters"] = parameters.into();
        }
        let sequence = self.next_sequence();
        self.push(
            json!({"event": "start", "sequenceNumber": sequence, "start": start,
            "streamSid": self.report.stream_sid}),
        );
    }

    /// The absolute deadline of the next frame; a late wake-up never shifts those after it.
    fn frame_due(&self) -> Mono {
        let due = self.started + FRAME * (self.frames_over as u32 + 1);
        let burst_from = self.started + BURST_AT;
        if due > burst_from {
            due.max(burst_from + self.options.burst)
        } else {
            due
        }
    }

    fn is_left_out(&self) -> bool {
        let first = (QUIRK_AT.as_millis() as u64) / FRAME_MS;
        (first..first + u64::from(self.options.gap_frames)).contains(&self.frames_over)
    }

    fn send_frame(&mut self, now: Mono) {
        let at = self.frames_over as usize * FRAME_BYTES;
        let voice = self.options.audio.get(at..).unwrap_or(&[]);
        let voice = &voice[..voice.len().min(FRAME_BYTES)];
        let mut frame = [SILENCE; FRAME_BYTES];
        frame[..voice.len()].copy_from_slice(voice);
        let mut payload = Vec::with_capacity(216);
        base64::encode_into(&frame, &mut payload);
        let payload = String::from_utf8(payload).expect("base64 is ASCII");
        self.chunk += 1;
        let timestamp = self.timestamp_base + self.frames_over * FRAME_MS;
        let sequence = self.next_sequence();
        // Written by hand, in the vendor's order: this is the message that is sent fifty times a second.
        self.out.push_back(Output::Text(format!(
            "{{\"event\":\"media\",\"sequenceNumber\":\"{sequence}\",\"media\":{{\"track\":\"inbound\",\
             \"chunk\":\"{}\",\"timestamp\":\"{timestamp}\",\"payload\":\"{payload}\"}},\"streamSid\":\"{}\"}}",
            self.chunk, self.report.stream_sid
        )));
        self.report.media_sent += 1;
        self.report.bytes_sent += FRAME_BYTES as u64;
        if self.options.keeps_audio {
            let payload = payload.into_boxed_str();
            self.report.sent.push(Passed { at: now, payload });
        }
    }

    fn quirks(&mut self, elapsed: Duration) {
        while let Some(key) = self.options.keys.get(self.keys_sent)
            && key.at <= elapsed
        {
            let digit = key.digit.to_string();
            self.keys_sent += 1;
            let sequence = self.next_sequence();
            // The track is spelled differently here than in `media`.
            self.push(json!({"event": "dtmf", "streamSid": self.report.stream_sid,
                "sequenceNumber": sequence, "dtmf": {"track": "inbound_track", "digit": digit}}));
        }
        if self.options.unknown_mark && !self.unknown_mark_sent && elapsed >= QUIRK_AT {
            self.unknown_mark_sent = true;
            self.push_mark("never.sent");
        }
    }

    fn return_marks(&mut self, now: Mono) {
        while let Some(name) = self.playback.poll_mark(now) {
            self.report.marks_returned += 1;
            self.push_mark(&name);
        }
    }

    fn push_mark(&mut self, name: &str) {
        let sequence = self.next_sequence();
        self.push(json!({"event": "mark", "sequenceNumber": sequence,
            "streamSid": self.report.stream_sid, "mark": {"name": name}}));
    }

    fn is_over(&mut self, elapsed: Duration, now: Mono) -> bool {
        if elapsed >= self.options.duration_max {
            return true;
        }
        if let Some(duration) = self.options.duration {
            return elapsed >= duration;
        }
        let is_spoken = self.frames_over as usize * FRAME_BYTES >= self.options.audio.len();
        if !(is_spoken && self.playback.is_idle(now)) {
            self.quiet_since = None;
            return false;
        }
        let since = *self.quiet_since.get_or_insert(now);
        now.since(since) >= QUIET_BEFORE_END
    }

    fn hang_up(&mut self) {
        match self.options.hang_up {
            HangUp::Stop => {
                let sequence = self.next_sequence();
                self.push(json!({"event": "stop", "sequenceNumber": sequence,
                    "stop": {"accountSid": self.account_sid, "callSid": self.report.call_sid},
                    "streamSid": self.report.stream_sid}));
                self.out.push_back(Output::Close(1000));
            }
            HangUp::Close => self.out.push_back(Output::Close(1000)),
            HangUp::Reset => self.out.push_back(Output::Reset),
        }
        self.has_ended = true;
    }

    fn warn(&mut self, code: u16, reason: String) {
        self.report.warning_count += 1;
        if self.report.warnings.len() < WARNINGS_KEPT {
            self.report.warnings.push(Warning { code, reason });
        }
    }

    /// Counts every frame after `connected`; a string on the wire.
    fn next_sequence(&mut self) -> String {
        self.sequence += 1;
        self.sequence.to_string()
    }

    fn push(&mut self, message: Value) {
        self.out.push_back(Output::Text(message.to_string()));
    }
}

#[cfg(test)]
mod tests;
