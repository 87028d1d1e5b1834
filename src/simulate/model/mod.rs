//! A simulated Realtime endpoint: one session as a sans-IO state machine, and a thin server around it.
//!
//! Written against the vendor's published types and recordings. It checks what clients send as strictly
//! as the real one, keeps its event order, and can be told to fail in named ways (`options::Fault`).
//! It knows nothing of the relay's own message types, so that it can disagree with them.
//!
//! # Contract of [`Model`]
//!
//! 1. [`Model::new`] once the upgrade was answered with 101;
//! 2. any number of `handle_text`, `handle_binary`, `handle_timeout`, each with the `Now` of the wake-up;
//! 3. after each, `poll_output` until `None`; after a [`Output::Close`] or [`Output::Reset`] nothing follows;
//! 4. `poll_timeout` says when to call `handle_timeout` next.
//!
//! The same options and the same inputs at the same times give the same outputs.

pub mod conversation;
pub mod error;
mod listen;
pub mod options;
pub mod response;
pub mod schema;
pub mod server;
pub mod session;
mod speak;
pub mod upgrade;
pub mod vad;
pub mod voice;

use self::conversation::{Conversation, Item};
use self::error::ApiError;
use self::options::{Harm, Mode, Options};
use self::response::Response;
use self::session::Session;
use self::vad::Vad;
use crate::base::rng::Rng;
use crate::base::time::{Mono, Now};
use crate::simulate::Passed;
use crate::simulate::dice::Dice as _;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// What the server is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send one text message.
    Text(String),
    /// Write these bytes below the WebSocket layer: a fault.
    Raw(Vec<u8>),
    /// Send a close frame; nothing follows.
    Close(u16, String),
    /// Reset the connection; nothing follows.
    Reset,
}

/// What a session saw, for checks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// `input_audio_buffer.append` events that were sound.
    pub appends: u64,
    /// Their audio, bytes.
    pub appended_bytes: u64,
    /// Audio deltas sent.
    pub deltas: u64,
    /// Their audio, bytes.
    pub delta_bytes: u64,
    /// `error` events sent: each is a complaint about the client.
    pub errors: u64,
    /// Responses that ended, however.
    pub responses_done: u64,
    /// Turns of the caller that ended.
    pub turns: u64,
}

/// What a session keeps for checks that come after it.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    /// What was counted.
    pub counts: Counts,
    /// Appended chunks, when audio is kept.
    pub appended: Vec<Passed>,
    /// When each turn of the caller began.
    pub speech_started: Vec<Mono>,
    /// When each turn of the caller ended.
    pub speech_stopped: Vec<Mono>,
}

/// One session of the simulated model.
#[derive(Debug)]
pub struct Model {
    options: Options,
    rng: Rng,
    now: Now,
    session: Session,
    session_id: String,
    conversation_id: String,
    conversation: Conversation,
    vad: Vad,
    /// Audio since the last commit, ms times the format's bytes.
    buffered_bytes: u64,
    /// The id that the caller's open turn will have.
    turn_item: Option<String>,
    /// At most one with `in_conversation`, any number beside it.
    responses: Vec<Response>,
    responses_made: usize,
    fail_next: bool,
    /// What is sent later, by moment and then by order of planning.
    later: BTreeMap<(Mono, u64), (&'static str, Value)>,
    later_count: u64,
    expires: Mono,
    idle: Option<Mono>,
    /// Outputs with the moment before which they may not leave; moments never fall.
    out: VecDeque<(Mono, Output)>,
    stalled_until: Mono,
    has_ended: bool,
    events_sent: u64,
    keeps_audio: bool,
    kept: Kept,
    counts: Counts,
}

/// An `input_audio_buffer.append` larger than this is refused, bytes of audio.
const APPEND_BYTES_MAX: usize = 15 * 1024 * 1024;

impl Model {
    /// A session for a request that was answered with 101. Its first outputs are ready at once.
    pub fn new(options: Options, opened: &upgrade::Opened, now: Now) -> Self {
        let mut rng = Rng::from_u64(options.seed);
        let session_id = rng.id("sess_", 21);
        let expires = now.mono + options.session_life;
        let expires_at = (now.unix_ms + options.session_life.as_millis() as u64) / 1000;
        let mut model = Self {
            session: Session::new(session_id.clone(), &opened.model, expires_at),
            conversation_id: rng.id("conv_", 21),
            session_id,
            options,
            rng,
            now,
            conversation: Conversation::default(),
            vad: Vad::default(),
            buffered_bytes: 0,
            turn_item: None,
            responses: Vec::new(),
            responses_made: 0,
            fail_next: false,
            later: BTreeMap::new(),
            later_count: 0,
            expires,
            idle: None,
            out: VecDeque::new(),
            stalled_until: Mono(0),
            has_ended: false,
            events_sent: 0,
            keeps_audio: false,
            kept: Kept::default(),
            counts: Counts::default(),
        };
        model.apply_faults();
        if opened.is_beta {
            model.end_with(
                ApiError::new(
                    "beta_api_shape_disabled",
                    "The Realtime Beta API is no longer supported. Please use /v1/realtime for the GA API.",
                ),
                4000,
                "invalid_request_error.beta_api_shape_disabled",
            );
        } else if opened.model.starts_with("gpt-live") {
            // Another protocol's model: the upgrade works, the session does not.
            model.end_with(
                ApiError::new("invalid_model", "This model is not supported here.").at("model"),
                4000,
                "invalid_request_error.invalid_model",
            );
        } else {
            let session = model.session.echo();
            model.emit("session.created", json!({"session": session}));
        }
        model
    }

    /// The session's id.
    pub fn id(&self) -> &str {
        &self.session_id
    }

    /// What was counted.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Keeps every appended chunk from now on.
    pub fn keep_audio(&mut self, keeps: bool) {
        self.keeps_audio = keeps;
    }

    /// What the session kept.
    pub fn into_kept(mut self) -> Kept {
        self.kept.counts = self.counts;
        self.kept
    }

    /// Nothing will be sent any more and nothing is read.
    pub fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// Takes one text message of the client.
    pub fn handle_text(&mut self, text: &[u8], now: Now) {
        self.handle_timeout(now);
        if self.has_ended {
            return;
        }
        let event = match serde_json::from_slice::<Value>(text) {
            Ok(Value::Object(event)) => event,
            Ok(_) => {
                return self.refuse(ApiError::new("invalid_event", "Expected an object."), None);
            }
            Err(_) => {
                let message = "We could not parse the JSON body of your request.";
                return self.refuse(ApiError::new("invalid_json", message), None);
            }
        };
        let outcome = schema::check(&event).and_then(|kind| self.on_event(kind, &event));
        if let Err(error) = outcome {
            self.refuse(error, event.get("event_id").and_then(Value::as_str));
        }
    }

    /// Takes one binary message: the API has none.
    pub fn handle_binary(&mut self, now: Now) {
        self.handle_timeout(now);
        self.refuse(
            ApiError::new("invalid_event", "Expected a text message."),
            None,
        );
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Now) {
        while !self.has_ended {
            let later = self.later.first_key_value().map(|((at, _), _)| *at);
            let step = self.next_step();
            let due = [Some(self.expires), self.idle, later, step.map(|s| s.0)];
            let Some(at) = due.into_iter().flatten().min().filter(|at| *at <= now.mono) else {
                break;
            };
            // Each thing happens at its own moment, even when the wake-up comes late.
            self.now = Now {
                mono: at.max(self.now.mono),
                unix_ms: now.unix_ms,
            };
            if self.expires == at {
                let text = format!(
                    "Your session hit the maximum duration of {} minutes.",
                    self.options.session_life.as_secs().div_ceil(60)
                );
                self.end_with(ApiError::new("session_expired", text.clone()), 1001, &text);
            } else if later == Some(at) {
                if let Some((_, (kind, fields))) = self.later.pop_first() {
                    self.on_later(kind, fields);
                }
            } else if let Some((_, index)) = step.filter(|s| s.0 == at) {
                self.on_step(index);
            } else {
                self.idle = None;
                self.on_idle();
            }
        }
        self.now = now;
    }

    /// The next thing for the server to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        if self.out.front()?.0 > self.now.mono {
            return None;
        }
        self.out.pop_front().map(|(_, output)| output)
    }

    /// When to call `handle_timeout`.
    pub fn poll_timeout(&self) -> Option<Mono> {
        let out = self.out.front().map(|(at, _)| *at);
        if self.has_ended {
            return out;
        }
        let later = self.later.first_key_value().map(|((at, _), _)| *at);
        let step = self.next_step().map(|(at, _)| at);
        [Some(self.expires), self.idle, later, step, out]
            .into_iter()
            .flatten()
            .min()
            // For ever is not a deadline.
            .filter(|at| *at < Mono(u64::MAX))
    }

    fn on_event(&mut self, kind: &str, event: &Map<String, Value>) -> Result<(), ApiError> {
        let text = |name: &str| event.get(name).and_then(Value::as_str).unwrap_or_default();
        match kind {
            "input_audio_buffer.append" => self.on_append(text("audio")),
            "input_audio_buffer.commit" => self.on_commit(),
            "input_audio_buffer.clear" => {
                self.buffered_bytes = 0;
                self.turn_item = None;
                self.vad.reset();
                self.emit("input_audio_buffer.cleared", json!({}));
                Ok(())
            }
            "session.update" => {
                let has_spoken = self.conversation.has_spoken();
                self.session.update(&event["session"], has_spoken)?;
                if self.session.turn_detection().is_none() {
                    self.vad.reset();
                    self.turn_item = None;
                }
                let session = self.session.echo();
                let latency = self.options.update_latency;
                self.schedule(latency, "session.updated", json!({"session": session}));
                Ok(())
            }
            "conversation.item.create" => {
                let id = self.rng.id("item_", 21);
                let after = event.get("previous_item_id").and_then(Value::as_str);
                let item = event["item"].clone();
                let (item, previous) = self.conversation.create(item, after, id)?;
                self.emit_item(&item, previous.as_deref());
                Ok(())
            }
            "conversation.item.retrieve" => {
                let item = self.conversation.retrieve(text("item_id"))?;
                self.emit("conversation.item.retrieved", json!({"item": item}));
                Ok(())
            }
            "conversation.item.delete" => {
                self.conversation.delete(text("item_id"))?;
                let fields = json!({"item_id": text("item_id")});
                self.emit("conversation.item.deleted", fields);
                Ok(())
            }
            "conversation.item.truncate" => {
                let end = event["audio_end_ms"].as_u64().unwrap_or(0);
                self.conversation.truncate(text("item_id"), end)?;
                let fields =
                    json!({"item_id": text("item_id"), "content_index": 0, "audio_end_ms": end});
                self.emit("conversation.item.truncated", fields);
                Ok(())
            }
            "response.create" => self.create_response(event.get("response")),
            "response.cancel" => self.on_cancel(event.get("response_id").and_then(Value::as_str)),
            // What a WebSocket session answers to this is not known; the browser-only event is refused here.
            _ => Err(ApiError::new(
                "invalid_event",
                format!("'{kind}' is not supported on a WebSocket session."),
            )),
        }
    }

    /// `conversation.item.added` and `.done` for a whole item.
    fn emit_item(&mut self, item: &Value, previous: Option<&str>) {
        let fields = json!({"previous_item_id": previous, "item": item});
        self.emit("conversation.item.added", fields.clone());
        self.emit("conversation.item.done", fields);
    }

    fn on_later(&mut self, kind: &'static str, fields: Value) {
        if kind == "conversation.item.input_audio_transcription.completed" {
            let id = fields["item_id"].as_str().unwrap_or_default();
            if let Some(item) = self.conversation.find(id) {
                item.json["content"][0]["transcript"] = fields["transcript"].clone();
            }
        }
        self.emit(kind, fields);
    }

    fn schedule(&mut self, after: Duration, kind: &'static str, fields: Value) {
        self.later_count += 1;
        let at = self.now.mono + after;
        self.later.insert((at, self.later_count), (kind, fields));
    }

    fn refuse(&mut self, error: ApiError, event_id: Option<&str>) {
        self.counts.errors += 1;
        let error = error.to_json(event_id);
        self.emit("error", json!({"error": error}));
    }

    fn end_with(&mut self, error: ApiError, code: u16, reason: &str) {
        self.refuse(error, None);
        self.end(Output::Close(code, reason.to_string()));
    }

    fn emit(&mut self, kind: &str, fields: Value) {
        let mut event = Map::new();
        event.insert("type".into(), kind.into());
        event.insert("event_id".into(), self.rng.id("event_", 21).into());
        if let Value::Object(fields) = fields {
            event.extend(fields);
        }
        if self.options.obfuscation && is_text_delta(kind) {
            let shown = event
                .get("delta")
                .and_then(Value::as_str)
                .map_or(0, str::len);
            let padding = self.rng.id("", 16usize.saturating_sub(shown));
            event.insert("obfuscation".into(), padding.into());
        }
        let every = self.options.unknown_every;
        let is_odd_one = every > 0 && self.events_sent % every == every - 1;
        if is_odd_one {
            event.insert(
                "x_unlisted".into(),
                json!({"note": "a field that no type lists"}),
            );
        }
        self.push(Value::Object(event).to_string());
        if is_odd_one {
            let event_id = self.rng.id("event_", 21);
            self.push(json!({"type": "session.unlisted", "event_id": event_id}).to_string());
        }
    }

    /// Queues one text message and lets the faults that waited for it happen.
    fn push(&mut self, text: String) {
        self.queue(Output::Text(text));
        self.events_sent += 1;
        self.apply_faults();
    }

    fn queue(&mut self, output: Output) {
        if self.has_ended {
            return;
        }
        let before = self.out.back().map_or(Mono(0), |(at, _)| *at);
        let at = (self.now.mono + self.options.slow)
            .max(self.stalled_until)
            .max(before);
        self.out.push_back((at, output));
    }

    fn end(&mut self, output: Output) {
        self.queue(output);
        self.has_ended = true;
    }

    fn apply_faults(&mut self) {
        let due: Vec<Harm> = self
            .options
            .faults
            .iter()
            .filter(|fault| fault.after_events == self.events_sent)
            .map(|fault| fault.harm.clone())
            .collect();
        for harm in due {
            match harm {
                Harm::Stall(Some(time)) => self.stalled_until = self.now.mono + time,
                Harm::Stall(None) => self.stalled_until = Mono(u64::MAX),
                Harm::Reset => self.end(Output::Reset),
                Harm::Close(code) => self.end(Output::Close(code, "simulated fault".into())),
                Harm::Garbage => self.queue(Output::Text("{\"type\":\"response.out".into())),
                // Reserved opcode 0x3 with reserved bits: no WebSocket frame.
                Harm::BadFrame => self.queue(Output::Raw(vec![0xF3, 0x01, 0x00])),
                Harm::FailResponse => match self.responses.first_mut() {
                    Some(response) => response.fails = true,
                    None => self.fail_next = true,
                },
            }
        }
    }
}

fn is_text_delta(kind: &str) -> bool {
    kind.ends_with("transcript.delta")
        || kind.ends_with("text.delta")
        || kind.ends_with("transcription.delta")
}

#[cfg(test)]
mod tests;
