//! The load tester's model: one session of a lean Realtime endpoint. Pure: messages and the time in, events out.
//!
//! What is rare (settings, errors, turns) follows [`crate::simulate::model`], whose settings and schema it uses; what
//! happens fifty times a second is written by hand. Speech is told by the stamps of the audio and not by its sound.
//!
//! Behind a relay that looks at nothing (a TCP proxy) it is the carrier's protocol that arrives here: then each `media` goes
//! back as it came, so that such a relay can be measured with the same frames.

use super::caller::digits;
use super::check::Kind;
use super::ledger::{BLOCK_NANOS, Ledger};
use super::scan;
use super::stamp::{BLOCK_BYTES, Blocks, Damage, ECHO, SPEECH, Stamp, Way};
use super::talk::{Answer, Ear, Heard};
use super::tally::Tally;
use super::wire::Outbox;
use crate::base::rng::Rng;
use crate::proto::audio::base64;
use crate::simulate::dice::Dice as _;
use crate::simulate::model::error::ApiError;
use crate::simulate::model::{schema, session};
use serde_json::{Value, json};
use std::collections::VecDeque;

/// What a session looks calls up in.
pub trait Ledgers {
    /// The ledger of a live call.
    fn ledger(&mut self, call: u32) -> Option<&mut Ledger>;
}

/// Which protocol came through the relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// The model's own.
    Realtime,
    /// The carrier's: the relay looks at nothing.
    Carrier,
}

/// From the end of speech to the answer's first event, with its spread, when no latency is set.
const THINKING_MS: (u64, u64) = (250, 450);
/// `event_id`s count from here, so that they all have the same length.
const EVENTS_FROM: u64 = 100_000_000_000;

/// One session.
pub struct Session {
    serial: u64,
    dialect: Dialect,
    /// Until it is set up.
    settings: Option<Box<session::Session>>,
    event_prefix: String,
    events: u64,
    /// The call that it belongs to, once its first frame came.
    pub call: Option<u32>,
    /// What stands between an event's id and its audio: response, item.
    middle: Vec<u8>,
    /// An echo's response is open.
    echoes: bool,
    latency: u64,
    /// Echoes that wait: when, and the number.
    delayed: VecDeque<(u64, u32)>,
    ear: Ear,
    /// A turn is over; the answer begins then.
    answer_at: Option<u64>,
    answer: Option<Answer>,
    /// The last answer: item, first frame, the frame behind its last.
    last: Option<(String, u32, u32)>,
    answers: u64,
    rng: Rng,
    head: Vec<u8>,
    decoded: Vec<u8>,
    encoded: Vec<u8>,
    partial: Vec<u8>,
}

impl Session {
    /// A session whose upgrade was answered; its first event is written.
    pub fn new(
        serial: u64,
        dialect: Dialect,
        latency: u64,
        seed: u64,
        unix_s: u64,
        outbox: &mut Outbox,
    ) -> Self {
        let mut session = Self {
            serial,
            dialect,
            settings: None,
            event_prefix: format!("event_L{:08x}", serial as u32),
            events: EVENTS_FROM,
            call: None,
            middle: Vec::new(),
            echoes: false,
            latency,
            delayed: VecDeque::new(),
            ear: Ear::default(),
            answer_at: None,
            answer: None,
            last: None,
            answers: 0,
            rng: Rng::from_u64(seed ^ serial << 24),
            head: Vec::new(),
            decoded: Vec::new(),
            encoded: Vec::new(),
            partial: Vec::new(),
        };
        if dialect == Dialect::Realtime {
            let id = session.rng.id("sess_", 21);
            let settings = session::Session::new(id, "gpt-realtime", unix_s + 3600);
            let echo = settings.echo();
            session.settings = Some(Box::new(settings));
            session.emit("session.created", json!({"session": echo}), outbox);
        }
        session
    }

    /// When `handle_timeout` is to be called next.
    pub fn poll_timeout(&self) -> Option<u64> {
        let delayed = self.delayed.front().map(|(at, _)| *at);
        let answer = self.answer.as_ref().map(|answer| answer.due);
        [delayed, self.answer_at, answer]
            .into_iter()
            .flatten()
            .min()
    }

    fn emit(&mut self, kind: &str, mut fields: Value, outbox: &mut Outbox) {
        self.events += 1;
        let id = format!("{}{}", self.event_prefix, self.events);
        let mut event = json!({"type": kind, "event_id": id});
        if let (Some(event), Some(fields)) = (event.as_object_mut(), fields.as_object_mut()) {
            event.append(fields);
        }
        outbox.text(&[event.to_string().as_bytes()]);
    }

    fn refuse(&mut self, error: &ApiError, cause: &Value, tally: &mut Tally, outbox: &mut Outbox) {
        let call = self.call.unwrap_or(0);
        let json = error.to_json(cause["event_id"].as_str());
        tally.call_fault(Kind::Message, call, format!("to the model: {json:.200}"));
        self.emit("error", json!({"error": json}), outbox);
    }

    /// Takes one message.
    pub fn handle_text(
        &mut self,
        text: &[u8],
        now: u64,
        blocks: &Blocks,
        ledgers: &mut impl Ledgers,
        tally: &mut Tally,
        outbox: &mut Outbox,
    ) {
        let (mut kind, mut audio) = (None, None);
        let mut is_plain = true;
        let is_whole = match self.dialect {
            Dialect::Realtime => scan::each(text, |outer, key, value| match (outer, key) {
                (b"", b"type") => kind = value.text(),
                (b"", b"audio") => audio = value.text(),
                (b"", b"event_id") => {}
                _ => is_plain = false,
            }),
            Dialect::Carrier => scan::each(text, |outer, key, value| match (outer, key) {
                (b"", b"event") => kind = value.text(),
                (b"media", b"payload") => audio = value.text(),
                (b"", b"streamSid") if self.middle.is_empty() => {
                    self.middle
                        .extend_from_slice(value.text().unwrap_or_default());
                }
                _ => {}
            }),
        };
        match (self.dialect, kind, audio) {
            (Dialect::Realtime, Some(b"input_audio_buffer.append"), Some(audio))
                if is_whole.is_some() && is_plain =>
            {
                self.on_audio(audio, now, blocks, ledgers, tally, outbox);
            }
            (Dialect::Carrier, Some(b"media"), Some(audio)) if is_whole.is_some() => {
                self.on_audio(audio, now, blocks, ledgers, tally, outbox);
            }
            // `connected`, `start`, `mark`, `stop` of the carrier say nothing to a mirror.
            (Dialect::Carrier, _, _) => {}
            (Dialect::Realtime, _, _) => {
                self.on_event(text, now, blocks, ledgers, tally, outbox);
            }
        }
    }

    /// Anything but a plain append: the whole parser, the vendor's schema.
    fn on_event(
        &mut self,
        text: &[u8],
        now: u64,
        blocks: &Blocks,
        ledgers: &mut impl Ledgers,
        tally: &mut Tally,
        outbox: &mut Outbox,
    ) {
        let event: Value = serde_json::from_slice(text).unwrap_or(Value::Null);
        let Some(members) = event.as_object() else {
            let error = ApiError::new("invalid_json", "The event is not a JSON object.");
            return self.refuse(&error, &Value::Null, tally, outbox);
        };
        let kind = match schema::check(members) {
            Ok(kind) => kind,
            Err(error) => return self.refuse(&error, &event, tally, outbox),
        };
        match kind {
            "input_audio_buffer.append" => {
                let audio = event["audio"].as_str().unwrap_or_default().to_owned();
                self.on_audio(audio.as_bytes(), now, blocks, ledgers, tally, outbox);
            }
            "session.update" => {
                let Some(settings) = &mut self.settings else {
                    return;
                };
                match settings.update(&event["session"], false) {
                    Ok(()) => {
                        let echo = settings.echo();
                        let is_pcmu = settings.input_format() == session::Format::Pcmu
                            && settings.output_format() == session::Format::Pcmu;
                        if !is_pcmu {
                            let detail = "the session is not set to audio/pcmu both ways";
                            tally.call_fault(Kind::Message, self.call.unwrap_or(0), detail);
                        }
                        self.emit("session.updated", json!({"session": echo}), outbox);
                    }
                    Err(error) => self.refuse(&error, &event, tally, outbox),
                }
            }
            "conversation.item.truncate" => {
                let item = event["item_id"].as_str().unwrap_or_default();
                let end = event["audio_end_ms"].as_u64().unwrap_or(0);
                if let Some(ledger) = self.call.and_then(|call| ledgers.ledger(call)) {
                    ledger.truncate(item, end, tally);
                }
                let fields = json!({"item_id": item, "content_index": 0, "audio_end_ms": end});
                self.emit("conversation.item.truncated", fields, outbox);
            }
            "response.cancel" => {
                let from = self.close_answer("cancelled", outbox);
                if let (Some(blocks), Some(call)) = (from, self.call)
                    && let Some(ledger) = ledgers.ledger(call)
                {
                    ledger.down.cut(blocks.0, blocks.1);
                }
            }
            "response.create" => self.answer_at = Some(now + self.latency),
            // Items, clears, commits: nothing that a load run needs an answer to.
            _ => {}
        }
    }

    fn on_audio(
        &mut self,
        audio: &[u8],
        now: u64,
        blocks: &Blocks,
        ledgers: &mut impl Ledgers,
        tally: &mut Tally,
        outbox: &mut Outbox,
    ) {
        self.decoded.clear();
        let mut decoded = std::mem::take(&mut self.decoded);
        decoded.append(&mut self.partial);
        let front = decoded.len();
        if base64::decode_into(audio, &mut decoded) {
            if front > 0 && Blocks::begins(&decoded[front..]) {
                // A new block begins here, so what was left over of earlier messages was no block's front.
                self.on_damage(blocks.judge(&decoded[..front]), ledgers, tally);
                decoded.drain(..front);
            }
            let (whole, rest) = decoded.as_chunks::<BLOCK_BYTES>();
            for block in whole {
                tally.up_received += 1;
                self.on_block(block, now, blocks, ledgers, tally, outbox);
            }
            self.partial.extend_from_slice(rest);
        } else {
            let call = self.call.unwrap_or(0);
            tally.call_fault(Kind::Message, call, "appended audio is not base64");
        }
        self.decoded = decoded;
    }

    fn on_block(
        &mut self,
        block: &[u8],
        now: u64,
        blocks: &Blocks,
        ledgers: &mut impl Ledgers,
        tally: &mut Tally,
        outbox: &mut Outbox,
    ) {
        let stamp = match blocks.read(block) {
            Ok(stamp) => stamp,
            Err(damage) => return self.on_damage(damage, ledgers, tally),
        };
        let call = *self.call.get_or_insert(stamp.call);
        if stamp.way != Way::Up || stamp.call != call {
            let detail = format!("it is call {}'s, {}", stamp.call, stamp.way.label());
            tally.frame_fault(Kind::Foreign, call, Way::Up, stamp.seq, &detail);
            return;
        }
        let Some(ledger) = ledgers.ledger(call) else {
            let detail = "the call is over";
            tally.frame_fault(Kind::Foreign, call, Way::Up, stamp.seq, detail);
            return;
        };
        if tally.measures(stamp.at) {
            tally.up.record(now.saturating_sub(stamp.at));
        }
        let owner = *ledger.session.get_or_insert(self.serial);
        if owner != self.serial {
            let detail = "it came on a second connection to the model";
            tally.frame_fault(Kind::Foreign, call, Way::Up, stamp.seq, detail);
        }
        ledger.take(Way::Up, stamp.seq, tally);
        if stamp.flags & ECHO != 0 || self.dialect == Dialect::Carrier {
            let at = now + self.latency;
            if self.latency == 0 {
                self.send_echo(at, blocks, ledger, tally, outbox);
            } else {
                self.delayed.push_back((at, stamp.seq));
            }
            return;
        }
        match self.ear.hear(stamp.flags & SPEECH != 0) {
            Some(Heard::Started(ms)) => self.on_speech(ms, now, ledger, tally, outbox),
            Some(Heard::Stopped(ms)) => {
                let item = self.rng.id("item_", 21);
                let fields = json!({"audio_end_ms": ms, "item_id": item});
                self.emit("input_audio_buffer.speech_stopped", fields, outbox);
                let fields = json!({"previous_item_id": null, "item_id": item});
                self.emit("input_audio_buffer.committed", fields, outbox);
                let thinking = match self.latency {
                    0 => self.rng.millis(THINKING_MS.0, THINKING_MS.1).as_nanos() as u64,
                    latency => latency,
                };
                self.answer_at = Some(now + thinking);
            }
            None => {}
        }
    }

    fn on_damage(&mut self, damage: Damage, ledgers: &mut impl Ledgers, tally: &mut Tally) {
        let call = self.call.unwrap_or(0);
        let seq = ledgers.ledger(call).map_or(0, |ledger| ledger.up.next());
        let detail = format!("{damage:?} where {seq} was to come");
        tally.frame_fault(damage.into(), call, Way::Up, seq, &detail);
    }

    /// One frame back: the same audio, stamped for its way to the caller.
    fn send_echo(
        &mut self,
        at: u64,
        blocks: &Blocks,
        ledger: &mut Ledger,
        tally: &mut Tally,
        outbox: &mut Outbox,
    ) {
        let stamp = Stamp {
            way: Way::Down,
            flags: ECHO,
            call: ledger.call,
            seq: ledger.down_sent,
            at,
        };
        ledger.down_sent += 1;
        tally.down_sent += 1;
        if self.dialect == Dialect::Carrier {
            let [first, second] = blocks.text(&stamp, &mut self.head);
            outbox.text(&[
                b"{\"event\":\"media\",\"streamSid\":\"",
                &self.middle,
                b"\",\"media\":{\"payload\":\"",
                first,
                second,
                b"\"}}",
            ]);
            return;
        }
        if !self.echoes {
            self.echoes = true;
            let (response, item) = (self.rng.id("resp_", 21), self.rng.id("item_", 21));
            self.open(&response, &item, outbox);
        }
        self.events += 1;
        let [first, second] = blocks.text(&stamp, &mut self.head);
        outbox.text(&[
            DELTA,
            self.event_prefix.as_bytes(),
            digits(self.events, &mut [0; 20]),
            &self.middle,
            first,
            second,
            b"\"}",
        ]);
    }

    /// The events that open a response with one item of audio.
    fn open(&mut self, response: &str, item: &str, outbox: &mut Outbox) {
        self.middle = format!(
            "\",\"response_id\":\"{response}\",\"item_id\":\"{item}\",\"output_index\":0,\"content_index\":0,\"delta\":\""
        )
        .into_bytes();
        let body = json!({"object": "realtime.response", "id": response, "status": "in_progress",
            "status_details": null, "output": [], "output_modalities": ["audio"], "usage": null, "metadata": null});
        self.emit("response.created", json!({"response": body}), outbox);
        let body = json!({"id": item, "object": "realtime.item", "type": "message", "status": "in_progress",
            "role": "assistant", "content": []});
        let fields = json!({"response_id": response, "output_index": 0, "item": body});
        self.emit("response.output_item.added", fields, outbox);
        let fields = json!({"previous_item_id": null, "item": body});
        self.emit("conversation.item.added", fields, outbox);
        let fields = json!({"response_id": response, "item_id": item, "output_index": 0, "content_index": 0,
            "part": {"type": "audio", "transcript": ""}});
        self.emit("response.content_part.added", fields, outbox);
    }

    fn on_speech(
        &mut self,
        start_ms: u64,
        now: u64,
        ledger: &mut Ledger,
        tally: &mut Tally,
        outbox: &mut Outbox,
    ) {
        let item = self.rng.id("item_", 21);
        let fields = json!({"audio_start_ms": start_ms, "item_id": item});
        self.emit("input_audio_buffer.speech_started", fields, outbox);
        self.answer_at = None;
        self.close_answer("cancelled", outbox);
        if let Some((item, from, to)) = self.last.take() {
            ledger.interrupt(now, (from, to), &item, tally);
        }
    }

    /// Ends the running answer; its frames.
    fn close_answer(&mut self, status: &str, outbox: &mut Outbox) -> Option<(u32, u32)> {
        let answer = self.answer.take()?;
        let (response, item) = (answer.response, answer.item);
        let ids = json!({"response_id": response, "item_id": item, "output_index": 0, "content_index": 0});
        self.emit("response.output_audio.done", ids.clone(), outbox);
        let mut fields = ids.clone();
        fields["transcript"] = answer.said.as_str().into();
        self.emit("response.output_audio_transcript.done", fields, outbox);
        let part = json!({"type": "audio", "transcript": answer.said});
        let mut fields = ids;
        fields["part"] = part;
        self.emit("response.content_part.done", fields, outbox);
        let is_whole = status == "completed";
        let body = json!({"id": item, "object": "realtime.item", "type": "message",
            "status": if is_whole { "completed" } else { "incomplete" }, "role": "assistant",
            "content": [{"type": "output_audio", "transcript": answer.said}]});
        let fields = json!({"response_id": response, "output_index": 0, "item": body});
        self.emit("response.output_item.done", fields, outbox);
        let details = if is_whole {
            Value::Null
        } else {
            json!({"type": "cancelled", "reason": "turn_detected"})
        };
        let body = json!({"object": "realtime.response", "id": response, "status": status,
            "status_details": details, "output": [body], "output_modalities": ["audio"],
            "usage": {"total_tokens": 100, "input_tokens": 60, "output_tokens": 40}, "metadata": null});
        self.emit("response.done", json!({"response": body}), outbox);
        let blocks = (answer.first, answer.first + answer.sent);
        self.last = Some((item, blocks.0, blocks.1));
        Some(blocks)
    }

    /// Sends what is due.
    pub fn handle_timeout(
        &mut self,
        now: u64,
        blocks: &Blocks,
        ledgers: &mut impl Ledgers,
        tally: &mut Tally,
        outbox: &mut Outbox,
    ) {
        let Some(ledger) = self.call.and_then(|call| ledgers.ledger(call)) else {
            // The call is over; so is what it was owed.
            self.delayed.clear();
            (self.answer_at, self.answer) = (None, None);
            return;
        };
        while let Some((at, _)) = self.delayed.front()
            && *at <= now
        {
            let at = *at;
            self.delayed.pop_front();
            self.send_echo(at, blocks, ledger, tally, outbox);
        }
        if let Some(at) = self.answer_at
            && at <= now
            && self.answer.is_none()
        {
            self.answer_at = None;
            self.answers += 1;
            let (response, item) = (self.rng.id("resp_", 21), self.rng.id("item_", 21));
            self.open(&response, &item, outbox);
            let answer = Answer::new(response, item, ledger.down_sent, at, &mut self.rng);
            self.answer = Some(answer);
        }
        while let Some(answer) = &mut self.answer
            && answer.due <= now
        {
            let Some(delta) = answer.next_delta(&mut self.rng) else {
                self.close_answer("completed", outbox);
                break;
            };
            self.decoded.clear();
            for _ in 0..delta.blocks {
                let stamp = Stamp {
                    way: Way::Down,
                    flags: 0,
                    call: ledger.call,
                    seq: ledger.down_sent,
                    at: delta.at,
                };
                ledger.down_sent += 1;
                tally.down_sent += 1;
                blocks.write_bytes(&stamp, &mut self.decoded);
            }
            self.encoded.clear();
            base64::encode_into(&self.decoded, &mut self.encoded);
            self.events += 2;
            let (mut first, mut second) = ([0; 20], [0; 20]);
            outbox.text(&[
                b"{\"type\":\"response.output_audio_transcript.delta\",\"event_id\":\"",
                self.event_prefix.as_bytes(),
                digits(self.events - 1, &mut first),
                &self.middle,
                delta.words.as_bytes(),
                b"\"}",
            ]);
            outbox.text(&[
                DELTA,
                self.event_prefix.as_bytes(),
                digits(self.events, &mut second),
                &self.middle,
                &self.encoded,
                b"\"}",
            ]);
        }
    }

    /// Whether it still owes its call something.
    pub fn is_busy(&self) -> bool {
        !self.delayed.is_empty()
    }

    /// No turn begins and no answer goes on after this: the call is ending.
    pub fn hush(&mut self, outbox: &mut Outbox) {
        self.answer_at = None;
        self.close_answer("completed", outbox);
    }
}

/// How each audio delta begins.
const DELTA: &[u8] = b"{\"type\":\"response.output_audio.delta\",\"event_id\":\"";

const _: () = assert!(BLOCK_NANOS == 20_000_000);

#[cfg(test)]
mod tests;
