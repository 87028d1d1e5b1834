//! What must hold, judged from the bytes at the sockets and from what the peers know; nothing here asks the relay how it
//! works. A rule that is broken panics with a sentence.

mod appends;
mod ends;
pub mod keys;
mod media;
mod talk;
pub mod tools;

use crate::playback::Playback;
use crate::terms::Terms;
use crate::ws::Frame;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use voxrelay::call::{EndReason, Fact, Leg, Stats};

pub const SID: &str = "MZ0a9b8c7d6e5f43210123456789abcdef";
/// Half of `Stalled for ten seconds` would be enough; this is what one leg may hold, with a frame on top.
const BACKLOG_BYTES_MAX: usize = 4 * 1024 * 1024 + 256;
/// How far `audio_end_ms` may lie from what was played when the carrier's clear took effect, where the line is calm.
const HEARD_TOLERANCE_MS: u64 = 40;

/// What is asked for and not answered is given up.
const GIVEN_UP_AFTER: u64 = 10_000_000;

/// What a message of a peer's means, for the judge, when the relay has all of it.
#[derive(Clone, Debug)]
pub enum Note {
    Other,
    /// The carrier says that the call is over.
    Gone,
    /// The model says that its session is over.
    Over,
    /// The caller's audio, by number.
    Caller(usize),
    /// The model's audio.
    Delta {
        item: usize,
        start: usize,
        len: usize,
    },
    /// The model confirmed the session.
    Updated,
    SpeechStarted,
    SpeechStopped,
    ResponseCreated {
        id: String,
        /// Our word, where it was asked for by us.
        tag: Option<String>,
    },
    ResponseDone {
        id: String,
        cancelled: bool,
        failed: bool,
    },
    /// A call of a tool, by number.
    Call(usize),
    /// The carrier's `start`.
    Started,
    /// The caller pressed a key.
    Key(char),
    /// An answer to `response.create` that refuses it.
    CreateRefused {
        tag: String,
        /// Our `event_id`.
        create: String,
    },
    TruncateRefused,
    Ping(Vec<u8>),
}

/// What the relay sent, understood.
#[derive(Clone, Debug)]
pub enum Seen {
    Media { item: usize, len: usize },
    Mark(String),
    Clear,
    Append,
    Event(Map<String, Value>),
    Ping(Vec<u8>),
    Pong,
    Close(u16),
}

/// One frame of the caller's.
pub struct CallerFrame {
    pub stamp_ms: u64,
    pub bytes: Vec<u8>,
}

/// One item of the model's, with all of its audio so far.
#[derive(Default)]
pub struct Item {
    pub id: String,
    pub response: String,
    /// The connection that it was made on.
    connection: u32,
    pub bytes: Vec<u8>,
    /// The relay had heard of it as the so-manieth thing.
    known: Option<u64>,
    /// The clear, by number, after which nothing of it may follow.
    dead: Option<u32>,
    /// Bytes that went to the carrier.
    sent: usize,
    truncated: bool,
    deleted: bool,
    /// Bytes played when a clear took effect.
    played_at_clear: Option<u64>,
    truncated_ms: Option<u64>,
    /// Keys that the relay plays: no session knows of them as an item.
    tones: bool,
}

/// The course of one connection's appends.
#[derive(Default)]
struct Appends {
    /// Bytes given to the model.
    position: u64,
    /// The frame that is being read, and how much of it was.
    inside: Option<(usize, usize)>,
    /// Stamp and position of the first frame.
    origin: Option<(u64, u64)>,
}

/// What is known of one connection to the model.
#[derive(Default)]
struct Connection {
    /// From 1, over the whole call.
    number: u32,
    updated: bool,
    next_frame: usize,
    appends: Appends,
    active: Option<(String, u64)>,
    /// Our word in the active one.
    active_tag: Option<String>,
    /// What was asked for and not answered, by our word.
    creates: Vec<String>,
    /// When the last of them was asked for.
    asked: u64,
    /// What the server has neither made nor refused, by our `event_id` and word.
    outstanding: Vec<(String, String)>,
    /// It has said our word back.
    echoes: bool,
    speech_open: bool,
    keys_told: usize,
    /// It refused a response because of one that nobody knows.
    active_unknown: bool,
    /// Responses that were begun or done.
    known: BTreeSet<String>,
    /// A response was done that may have been the answer to what was asked for, or not.
    unsure: bool,
    pings: BTreeMap<Vec<u8>, u64>,
}

impl Connection {
    fn creates_tag(&self, tag: &str) -> bool {
        self.creates.iter().any(|create| create == tag)
    }
}

/// The judge of one call.
#[derive(Default)]
pub struct Judge {
    pub step: u64,
    /// Microseconds.
    now: u64,
    terms: Terms,
    /// Where the session is that the call means, and the one that is to take over.
    current: Option<usize>,
    standby: Option<usize>,
    /// The session that the call had when this step began, by its connection's number: a close goes out before the end is
    /// reported.
    had: Option<u32>,
    pub tools: tools::Tools,
    keys: keys::Keys,
    talk: talk::Talk,
    /// The model's audio that the relay was handed before this step, and in it, with the tones that it plays by itself.
    audio_bytes: [u64; 2],
    pub frames: Vec<CallerFrame>,
    pub items: Vec<Item>,
    /// Both directions at the carrier are calm, marks come back faithfully, stamps are even.
    calm: bool,
    /// The carrier takes nothing any more, and does not say so.
    pub vanished: bool,
    /// Every stamp is where its audio belongs.
    even_stamps: bool,
    /// The barge-in of this call is on, without guard or second thoughts.
    barge_in: bool,
    seq: u64,
    known_before_step: u64,
    /// What was known at each `speech_started` since the carrier last was free: what their clears are about.
    known_at_speech: VecDeque<u64>,
    delivered_caller: usize,
    delivered_caller_bytes: u64,
    /// Frames that the model was given, on whatever connection.
    given: BTreeSet<usize>,
    connections: u32,
    pub caller_bytes: u64,
    pub silence_bytes: u64,
    deltas: VecDeque<(usize, usize, usize)>,
    skipped_bytes: u64,
    pub played_bytes: u64,
    started: bool,
    mark_names: BTreeSet<String>,
    /// By place; the third is the carrier, of which only pings are kept.
    at: [Connection; 3],
    truncate_refused: u32,
    ended: bool,
    pub clears: u32,
    pub truncates: u32,
    /// Must be cleared in this step.
    expect_clear: Option<u64>,
    clear_step: u64,
    clears_arrived: u32,
    /// Who was speaking when the last clear went out, and since when.
    active_at_clear: Option<(String, u64)>,
    cancel_step: u64,
    /// The server breaks off by itself.
    interrupts: bool,
    /// An interruption may be taken back: what was cleared is sent again, from where it was heard.
    reversible: bool,
    /// What was sent, in order: item, start and length.
    line: Vec<(usize, usize, usize)>,
    /// Where the next piece that is sent again must begin.
    again: Option<(usize, usize)>,
    /// The first piece that was sent again after a clear.
    resumed: Vec<(usize, usize, usize)>,
    /// Played of each item, by clear.
    played_at: Vec<Vec<u64>>,
    pub resumes: u32,
}

impl Judge {
    pub fn new(calm: bool, even_stamps: bool, terms: Terms) -> Self {
        Self {
            interrupts: terms.interrupts,
            calm,
            even_stamps,
            barge_in: terms.barge_in && terms.guard_ms == 0 && terms.confirm_ms == 0,
            reversible: terms.confirm_ms > 0,
            terms,
            ..Self::default()
        }
    }

    /// The model begins an item; its number.
    pub fn new_item(&mut self, response: &str, connection: u32) -> usize {
        let n = self.items.len();
        self.items.push(Item {
            id: format!("item_{n}"),
            response: response.to_owned(),
            connection,
            ..Item::default()
        });
        n
    }

    /// A wake-up begins.
    pub fn begin_step(&mut self, step: u64, now: u64) {
        self.step = step;
        self.now = now;
        let had = self.current.map(|at| &self.at[at]);
        self.had = had.filter(|at| at.updated).map(|at| at.number);
        self.audio_bytes = [self.audio_bytes[0] + self.audio_bytes[1], 0];
        self.known_before_step = self.seq;
        self.end_calls_in_time();
    }

    /// A new connection to the model: nothing of the old one counts.
    pub fn on_connected(&mut self, place: usize, number: u32) {
        self.connections += 1;
        match self.current {
            None => self.current = Some(place),
            Some(_) => self.standby = Some(place),
        }
        self.at[place] = Connection {
            number,
            ..Connection::default()
        };
    }

    /// A connection is closed, or being closed: nothing on it counts any more.
    pub fn on_left(&mut self, leg: Leg) {
        let place = place(leg);
        let connection = &mut self.at[place];
        connection.active = None;
        connection.creates.clear();
        // Pongs may still wait before the close.
        self.current.take_if(|at| *at == place);
        self.standby.take_if(|at| *at == place);
    }

    /// A leg is aborted while it takes nothing: that session is lost in this very step, and no close of the relay's said so
    /// in an earlier one. Nobody is there any more to say a goodbye.
    pub fn on_stalled(&mut self, leg: Leg) {
        let number = self.at[place(leg)].number;
        self.had
            .take_if(|had| leg != Leg::Carrier && *had == number);
    }

    /// The relay goes over to another session, or must.
    pub fn on_fact(&mut self, fact: &Fact) {
        if matches!(fact, Fact::RolledOver { .. } | Fact::Reconnecting { .. }) {
            if let Some(at) = self.current {
                self.keys_left(at);
                self.on_left([Leg::Realtime, Leg::Standby][at]);
            }
            self.current = self.standby.take();
            // One that takes over after a loss is asked to confirm its settings once more, and is told nothing before.
            if let Some(at) = self.current
                && matches!(fact, Fact::Reconnecting { .. })
            {
                self.at[at].updated = false;
            }
        }
    }

    pub fn on_start(&mut self) {
        self.started = true;
    }

    /// The relay was handed all of a peer's message.
    /// `left`: on a connection that the relay has closed on its side.
    pub fn on_delivered(&mut self, leg: Leg, note: &Note, carrier_waits: u64, left: bool) {
        if left && !matches!(note, Note::Delta { .. }) {
            return;
        }
        self.seq += 1;
        if self.ended {
            return;
        }
        let place = place(leg);
        let connection = &mut self.at[place];
        match note {
            Note::Caller(n) => {
                self.delivered_caller = n + 1;
                self.delivered_caller_bytes += self.frames[*n].bytes.len() as u64;
            }
            Note::Delta { item, start, len } => {
                self.items[*item].known.get_or_insert(self.seq);
                self.audio_bytes[1] += *len as u64;
                if connection.updated && *len > 0 && !left {
                    self.deltas.push_back((*item, *start, *len));
                }
            }
            Note::Updated => connection.updated = true,
            Note::SpeechStarted => {
                self.known_at_speech.push_back(self.seq);
                // 200 ms wait at the carrier itself: whatever is on its way, something is unheard.
                if self.barge_in && self.calm && connection.updated && carrier_waits > 1_600 {
                    self.expect_clear = Some(self.step);
                }
            }
            Note::ResponseCreated { id, tag } => {
                for item in &mut self.items {
                    if item.response == *id {
                        item.known.get_or_insert(self.seq);
                    }
                }
                self.talk_delivered(place, note);
                let connection = &mut self.at[place];
                connection.active = Some((id.clone(), self.step));
                connection.active_tag = tag.clone();
                connection.known.insert(id.clone());
                connection.active_unknown = false;
                let mut made = connection.outstanding.iter();
                let made = made.position(|(_, asked)| Some(asked) == tag.as_ref());
                connection.outstanding.drain(..made.map_or(0, |n| n + 1));
                connection.echoes |= tag.is_some();
                // One of the server's own does not answer ours, as far as the relay can know.
                if tag.is_some() || !connection.echoes {
                    connection.creates.clear();
                }
                return;
            }
            Note::ResponseDone { id, cancelled, .. } => {
                self.on_round_done(place, id, *cancelled);
                self.talk_delivered(place, note);
                let connection = &mut self.at[place];
                if connection
                    .active
                    .as_ref()
                    .is_some_and(|(active, _)| active == id)
                {
                    // A server that has never said our word back may have meant ours: of two that are out, nobody can tell then
                    // which one a refusal is of.
                    connection.unsure |= !connection.echoes && !connection.outstanding.is_empty();
                    if !connection.echoes {
                        self.keys.on_passed(connection.number);
                    }
                    connection.active = None;
                    connection.active_tag = None;
                    connection.active_unknown = false;
                } else if connection.active.is_none() && connection.known.insert(id.clone()) {
                    // A response that nobody announced is done, while one is asked for. The reference knows that order: our
                    // `response.create`, the caller speaks, `response.done` (cancelled), and no `response.created` between
                    // ("Barge-in while generating"). Nothing tells it from one of the server's own that was cancelled as early.
                    // Taken for the answer, the slot is free and the next wish goes out. Was it none, then the older create
                    // comes first on the wire: the server makes that one and refuses the newer, whose wish is kept and goes
                    // out again when that is done; or it makes both, one after the other. So there are never two responses,
                    // and at worst one create too many. Not taken for it, the agent would be mute until the deadline of ten
                    // seconds each time that a caller speaks into the first moment of an answer. Once for each such
                    // response: its `response.done` a second time is no answer.
                    connection.unsure |= !connection.outstanding.is_empty();
                    self.keys.on_passed(connection.number);
                    connection.active_unknown = false;
                    connection.creates.clear();
                }
                return;
            }
            Note::CreateRefused { tag, create } => {
                connection.creates.clear();
                connection.active_unknown = connection.active.is_none();
                connection.outstanding.retain(|(id, _)| id != create);
                self.talk_refused(tag, create);
            }
            Note::Call(n) => self.on_call(*n, place),
            Note::Key(digit) => self.on_key(*digit),
            Note::TruncateRefused => self.truncate_refused += 1,
            Note::Ping(payload) => {
                connection.pings.insert(payload.clone(), self.step);
            }
            Note::Over => {
                let number = connection.number;
                self.had.take_if(|had| *had == number);
            }
            Note::SpeechStopped | Note::Started | Note::Other | Note::Gone => {}
        }
        self.talk_delivered(place, note);
    }

    /// A frame left the relay. `late`: older sends were in its way, so it may have been written earlier.
    pub fn on_frame(
        &mut self,
        leg: Leg,
        frame: Frame,
        late: bool,
        playback: &Playback,
        stats: &Stats,
    ) -> Seen {
        match (leg, frame) {
            (_, Frame::Ping(payload)) => Seen::Ping(payload),
            (_, Frame::Pong(payload)) => {
                let pings = &mut self.at[place(leg)].pings;
                let at = pings.get(&payload).copied();
                let at = at.expect("a pong answers a ping");
                // Older ones are answered with it (RFC 6455 section 5.5.3).
                pings.retain(|_, step| *step > at);
                Seen::Pong
            }
            (_, Frame::Close(code, _)) => Seen::Close(code),
            (Leg::Carrier, Frame::Text(text)) => self.on_message(&text, late, playback, stats),
            (_, Frame::Text(text)) => self.on_event(place(leg), &text, late, stats),
        }
    }

    fn on_event(&mut self, at: usize, text: &[u8], late: bool, stats: &Stats) -> Seen {
        const PREFIX: &[u8] = br#"{"type":"input_audio_buffer.append","audio":""#;
        if let Some(rest) = text.strip_prefix(PREFIX)
            && let Some(audio) = rest.strip_suffix(br#""}"#)
        {
            let bytes = base64_simd::STANDARD.decode_to_vec(audio);
            self.on_append(at, &bytes.expect("an append is valid base64"), stats);
            return Seen::Append;
        }
        let event = object(text);
        let kind = event["type"]
            .as_str()
            .expect("an event has a type")
            .to_owned();
        let allowed: &[&str] = match kind.as_str() {
            "session.update" => &["session"],
            "input_audio_buffer.append" => &["audio"],
            "input_audio_buffer.clear" => &[],
            "conversation.item.create" => &["item", "previous_item_id"],
            "conversation.item.truncate" => &["item_id", "content_index", "audio_end_ms"],
            "conversation.item.delete" => &["item_id"],
            "response.create" => &["response"],
            "response.cancel" => &["response_id"],
            _ => panic!("an event that is never due: {kind}"),
        };
        for key in event.keys() {
            assert!(
                allowed.contains(&key.as_str()) || key == "type" || key == "event_id",
                "{kind} has a member {key}"
            );
        }
        match kind.as_str() {
            "session.update" => {
                let audio = &event["session"]["audio"];
                for side in ["input", "output"] {
                    assert_eq!(audio[side]["format"]["type"], "audio/pcmu", "{side}");
                }
            }
            "input_audio_buffer.append" => {
                let bytes = base64_simd::STANDARD.decode_to_vec(string(&event, "audio"));
                self.on_append(at, &bytes.expect("an append is valid base64"), stats);
                return Seen::Append;
            }
            "response.create" => {
                if let Some((id, since)) = &self.at[at].active
                    && *since < self.step
                    && !late
                {
                    panic!("response.create while {id} is active");
                }
                if self.now >= self.at[at].asked + GIVEN_UP_AFTER && !self.at[at].creates.is_empty()
                {
                    // Nothing waits for ever. Should it be answered after all, that may pass for an answer to the next.
                    self.at[at].creates.clear();
                    self.at[at].unsure = true;
                }
                assert!(
                    late || self.at[at].creates.is_empty(),
                    "a second response.create before the first was answered"
                );
                self.at[at].asked = self.now;
                let tag = &event["response"]["metadata"]["voxrelay"];
                let tag = tag.as_str().expect("ours says so").to_owned();
                let id = string(&event, "event_id").to_owned();
                self.at[at].outstanding.push((id, tag.clone()));
                // One that had to wait behind a send that nobody took: the relay does not ask where in its queue it lies, so a
                // response that was done meanwhile has passed for its answer, or not. Which, only the relay knows.
                self.at[at].unsure |= late;
                if !late {
                    self.at[at].creates.push(tag);
                }
                self.talk_create(at, &event, late);
            }
            "conversation.item.create" => {
                let item = &event["item"];
                let part = item["content"][0]["type"].as_str();
                let due = match item["role"].as_str() {
                    Some("assistant") => Some("output_text"),
                    Some("user" | "system") => Some("input_text"),
                    _ => None,
                };
                assert_eq!(part, due, "what an item may hold: {item}");
                let text = item["content"][0]["text"].as_str().unwrap_or_default();
                let members = item.as_object().expect("an item is an object");
                match (item["type"].as_str(), item["role"].as_str()) {
                    (Some("function_call"), _) => self.on_call_told(at, members),
                    (Some("function_call_output"), _) => self.on_output(at, members),
                    (_, Some("user")) => self.on_user_text(at, text),
                    (_, Some("system")) => self.on_system_text(at, text),
                    _ => {}
                }
            }
            "response.cancel" => {
                // But in the guard window, and of what began in a pause.
                assert!(
                    !self.interrupts || self.terms.guard_ms > 0 || self.reversible,
                    "a cancel where the server breaks off by itself"
                );
                self.cancel_step = self.step;
            }
            "conversation.item.truncate" => self.on_truncate(at, &event),
            "conversation.item.delete" => {
                let id = string(&event, "item_id");
                if let Some(item) = self.items.iter_mut().find(|item| item.id == id) {
                    item.deleted = true;
                }
            }
            _ => {}
        }
        Seen::Event(event)
    }

    fn on_truncate(&mut self, at: usize, event: &Map<String, Value>) {
        let id = string(event, "item_id");
        let ms = event["audio_end_ms"]
            .as_u64()
            .expect("audio_end_ms is an integer");
        assert_eq!(event["content_index"], 0);
        let item = self
            .items
            .iter_mut()
            .find(|item| item.id == id)
            .expect("the truncated item exists");
        assert_eq!(
            item.connection, self.at[at].number,
            "{id} is truncated in a session that does not know it"
        );
        assert!(
            ms * 8 <= item.sent as u64,
            "{id} is truncated at {ms} ms, of {} ms sent",
            item.sent / 8
        );
        if item.truncated {
            assert!(self.truncate_refused > 0, "{id} is truncated twice");
            self.truncate_refused -= 1;
        }
        item.truncated = true;
        item.truncated_ms = Some(ms);
        if self.reversible {
            item.dead = Some(self.clears);
        }
        self.truncates += 1;
    }

    /// A wake-up is over: all that it had to say and could say was said.
    pub fn end_step(&mut self, carrier_blocked: bool, model_blocked: [bool; 2]) {
        let blocked = self.current.is_none_or(|at| model_blocked[at]);
        self.talk_settled(blocked, carrier_blocked);
        if !carrier_blocked {
            self.known_at_speech.clear();
        }
        if self.clear_step == self.step
            && let Some((id, since)) = self.active_at_clear.take()
            && self.calm
            && self.barge_in
            && !self.interrupts
            && since < self.step
        {
            assert_eq!(
                self.cancel_step, self.step,
                "{id} is cleared and not cancelled"
            );
        }
        if let Some(step) = self.expect_clear
            && !carrier_blocked
        {
            assert!(
                step != self.step || self.ended,
                "the caller speaks, audio is unheard, and no clear went out at once"
            );
        }
        self.expect_clear = self.expect_clear.filter(|_| carrier_blocked);
    }

    pub fn on_backlog(&self, leg: Leg, bytes: usize) {
        assert!(
            bytes <= BACKLOG_BYTES_MAX,
            "{bytes} bytes wait on {leg:?}, more than a leg may hold"
        );
    }

    pub fn on_ended(&mut self, reason: EndReason) {
        self.talk_ended(reason);
        self.ended = true;
    }

    /// The leg is open and nothing hinders it: pings that it was given are answered.
    pub fn pings_answered(&self, leg: Leg) {
        assert!(
            self.at[place(leg)].pings.is_empty(),
            "a ping of {leg:?} is not answered"
        );
    }
}

fn place(leg: Leg) -> usize {
    match leg {
        Leg::Realtime => 0,
        Leg::Standby => 1,
        Leg::Carrier => 2,
    }
}

fn object(text: &[u8]) -> Map<String, Value> {
    match serde_json::from_slice(text) {
        Ok(Value::Object(object)) => object,
        other => panic!(
            "not a JSON object but {other:?}: {}",
            String::from_utf8_lossy(&text[..text.len().min(200)])
        ),
    }
}

fn string<'a>(object: &'a Map<String, Value>, key: &str) -> &'a str {
    object
        .get(key)
        .and_then(Value::as_str)
        .unwrap_or_else(|| panic!("{key} is a string in {object:?}"))
}
