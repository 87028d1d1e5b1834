//! What must hold, judged from the bytes at the sockets and from what the peers know; nothing here asks the relay how it
//! works. A rule that is broken panics with a sentence.

use crate::playback::Playback;
use crate::ws::Frame;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use voxrelay::call::{Leg, Stats};

pub const SID: &str = "MZ0a9b8c7d6e5f43210123456789abcdef";
/// Half of `Stalled for ten seconds` would be enough; this is what one leg may hold, with a frame on top.
const BACKLOG_BYTES_MAX: usize = 4 * 1024 * 1024 + 256;
/// How far `audio_end_ms` may lie from what was played when the carrier's clear took effect, where the line is calm.
const HEARD_TOLERANCE_MS: u64 = 40;

/// What a message of a peer's means, for the judge, when the relay has all of it.
#[derive(Clone, Debug)]
pub enum Note {
    Other,
    /// The carrier says that the call is over.
    Gone,
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
    ResponseCreated(String),
    ResponseDone(String),
    /// An answer to `response.create` that refuses it.
    CreateRefused,
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
    appends: Appends,
    active: Option<(String, u64)>,
    creates: Vec<u64>,
    pings: BTreeMap<Vec<u8>, u64>,
}

/// The judge of one call.
#[derive(Default)]
pub struct Judge {
    pub step: u64,
    pub frames: Vec<CallerFrame>,
    pub items: Vec<Item>,
    /// Both directions at the carrier are calm, marks come back faithfully, stamps are even.
    calm: bool,
    /// Every stamp is where its audio belongs.
    even_stamps: bool,
    /// The barge-in of this call is on, without guard or second thoughts.
    barge_in: bool,
    seq: u64,
    known_before_step: u64,
    known_at_speech: Option<u64>,
    delivered_caller: usize,
    delivered_caller_bytes: u64,
    next_frame: usize,
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
}

impl Judge {
    pub fn new(calm: bool, even_stamps: bool, barge_in: bool, interrupts: bool) -> Self {
        Self {
            interrupts,
            calm,
            even_stamps,
            barge_in,
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
    pub fn begin_step(&mut self, step: u64) {
        self.step = step;
        self.known_before_step = self.seq;
    }

    /// A new connection to the model: nothing of the old one counts.
    pub fn on_connected(&mut self, place: usize, number: u32) {
        self.connections += 1;
        self.at[place] = Connection {
            number,
            ..Connection::default()
        };
    }

    /// A connection is closed, or being closed: nothing on it counts any more.
    pub fn on_left(&mut self, leg: Leg) {
        let connection = &mut self.at[place(leg)];
        connection.active = None;
        connection.creates.clear();
        connection.pings.clear();
    }

    pub fn on_start(&mut self) {
        self.started = true;
    }

    /// The relay was handed all of a peer's message.
    pub fn on_delivered(&mut self, leg: Leg, note: &Note, carrier_waits: u64) {
        self.seq += 1;
        if self.ended {
            return;
        }
        let connection = &mut self.at[place(leg)];
        match note {
            Note::Caller(n) => {
                self.delivered_caller = n + 1;
                self.delivered_caller_bytes += self.frames[*n].bytes.len() as u64;
            }
            Note::Delta { item, start, len } => {
                self.items[*item].known.get_or_insert(self.seq);
                if connection.updated && *len > 0 {
                    self.deltas.push_back((*item, *start, *len));
                }
            }
            Note::Updated => connection.updated = true,
            Note::SpeechStarted => {
                self.known_at_speech = Some(self.seq);
                // 200 ms wait at the carrier itself: whatever is on its way, something is unheard.
                if self.barge_in && self.calm && connection.updated && carrier_waits > 1_600 {
                    self.expect_clear = Some(self.step);
                }
            }
            Note::ResponseCreated(id) => {
                for item in &mut self.items {
                    if item.response == *id {
                        item.known.get_or_insert(self.seq);
                    }
                }
                connection.active = Some((id.clone(), self.step));
                connection.creates.clear();
            }
            Note::ResponseDone(id) => {
                if connection
                    .active
                    .as_ref()
                    .is_some_and(|(active, _)| active == id)
                {
                    connection.active = None;
                }
            }
            Note::CreateRefused => connection.creates.clear(),
            Note::TruncateRefused => self.truncate_refused += 1,
            Note::Ping(payload) => {
                connection.pings.insert(payload.clone(), self.step);
            }
            Note::Other | Note::Gone => {}
        }
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
                assert!(
                    late || self.at[at].creates.is_empty(),
                    "a second response.create before the first was answered"
                );
                self.at[at].creates.push(self.step);
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
            }
            "response.cancel" => {
                assert!(
                    !self.interrupts,
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

    fn on_append(&mut self, place: usize, bytes: &[u8], stats: &Stats) {
        let here = &mut self.at[place];
        assert!(here.updated, "audio before the session was confirmed");
        assert!(!bytes.is_empty(), "an append without audio");
        let mut at = 0;
        while at < bytes.len() {
            if let Some((n, done)) = here.appends.inside {
                let frame = &self.frames[n].bytes;
                let take = (frame.len() - done).min(bytes.len() - at);
                assert!(
                    frame[done..done + take] == bytes[at..at + take],
                    "the audio of the caller's frame {n} is not what the caller said"
                );
                at += take;
                self.caller_bytes += take as u64;
                here.appends.position += take as u64;
                here.appends.inside = (done + take < frame.len()).then_some((n, done + take));
                continue;
            }
            if bytes[at] == 0xff {
                let run = bytes[at..].iter().take_while(|&&b| b == 0xff).count();
                at += run;
                self.silence_bytes += run as u64;
                here.appends.position += run as u64;
                continue;
            }
            let head = bytes
                .get(at..at + 4)
                .expect("a frame begins with its number");
            let n = head.iter().fold(0, |n, &b| n << 7 | usize::from(b));
            assert!(
                n >= self.next_frame && n < self.delivered_caller,
                "the caller's frame {n} where {} or later was due (of {})",
                self.next_frame,
                self.delivered_caller
            );
            let stamp = self.frames[n].stamp_ms;
            if self.even_stamps && self.connections == 1 && stats.inbound_bytes_dropped == 0 {
                assert_eq!(n, self.next_frame, "a frame is missing and not counted");
                let position = here.appends.position;
                let (first, origin) = *here.appends.origin.get_or_insert((stamp, position));
                let due = (stamp - first) * 8;
                let is = position - origin;
                assert!(
                    is >= due && is <= due + stats.padded_bytes,
                    "frame {n} stands at {is} bytes of the model's time, where {due} is its place"
                );
            }
            self.next_frame = n + 1;
            here.appends.inside = Some((n, 0));
        }
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
        self.truncates += 1;
    }

    fn on_message(&mut self, text: &[u8], late: bool, playback: &Playback, stats: &Stats) -> Seen {
        let message = object(text);
        assert!(self.started, "a message before the stream's start");
        assert_eq!(message["streamSid"], SID, "every message names its stream");
        let keys: Vec<&str> = message.keys().map(String::as_str).collect();
        let only = |names: [&str; 2], what: &str| {
            assert!(
                keys.iter()
                    .all(|key| names.contains(key) || *key == "streamSid"),
                "{what} has members {keys:?}"
            );
        };
        match message["event"].as_str() {
            Some("media") => {
                only(["event", "media"], "media");
                let media = message["media"].as_object().expect("media is an object");
                assert_eq!(media.len(), 1, "media has the payload alone");
                let payload = base64_simd::STANDARD.decode_to_vec(string(media, "payload"));
                let payload = payload.expect("a payload is valid base64");
                self.on_media(&payload, stats)
            }
            Some("mark") => {
                only(["event", "mark"], "mark");
                let name = message["mark"]["name"]
                    .as_str()
                    .expect("a mark has a name")
                    .to_owned();
                assert!(
                    self.mark_names.insert(name.clone()),
                    "the mark {name} was sent before"
                );
                Seen::Mark(name)
            }
            Some("clear") => {
                only(["event", "event"], "clear");
                self.clears += 1;
                let known = self.known_at_speech.unwrap_or(self.known_before_step);
                for item in &mut self.items {
                    if item.known.is_some_and(|at| at <= known) {
                        item.dead.get_or_insert(self.clears);
                    }
                }
                self.clear_step = self.step;
                self.active_at_clear = self.at.iter().find_map(|at| at.active.clone());
                self.expect_clear = None;
                if self.calm && !late && self.barge_in {
                    let clear = Some(self.clears);
                    let unheard = self.items.iter().enumerate().any(|(n, item)| {
                        item.dead == clear && item.sent as u64 > playback.played(n)
                    });
                    assert!(unheard, "a clear where everything was heard");
                }
                Seen::Clear
            }
            _ => panic!("a message that is never due: {message:?}"),
        }
    }

    fn on_media(&mut self, payload: &[u8], stats: &Stats) -> Seen {
        assert!(!payload.is_empty(), "media without audio");
        // What was delivered stands in order; what is passed over was dropped.
        loop {
            let Some((item, start, len)) = self.deltas.pop_front() else {
                panic!(
                    "audio that the model did not send, or sent earlier, or that was sent already"
                );
            };
            let owner = &mut self.items[item];
            if owner.bytes[start..start + len] == *payload {
                assert!(
                    owner.dead.is_none(),
                    "audio of {} behind its clear",
                    owner.id
                );
                owner.sent += len;
                self.played_bytes += len as u64;
                return Seen::Media { item, len };
            }
            self.skipped_bytes += len as u64;
            if self.clears == 0 {
                assert!(
                    self.skipped_bytes <= stats.outbound_bytes_dropped,
                    "audio of {} was left out and not counted",
                    owner.id
                );
            }
        }
    }

    /// The carrier has acted on a clear: what was played until then is what was heard.
    pub fn on_cleared(&mut self, playback: &Playback) {
        self.clears_arrived += 1;
        for (n, item) in self.items.iter_mut().enumerate() {
            if item.dead == Some(self.clears_arrived) {
                item.played_at_clear = Some(playback.played(n));
            }
        }
    }

    /// A wake-up is over: all that it had to say and could say was said.
    pub fn end_step(&mut self, carrier_blocked: bool) {
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

    pub fn on_ended(&mut self) {
        self.ended = true;
    }

    /// The leg is open and nothing hinders it: pings that it was given are answered.
    pub fn pings_answered(&self, leg: Leg) {
        assert!(
            self.at[place(leg)].pings.is_empty(),
            "a ping of {leg:?} is not answered"
        );
    }

    /// The call is over. `clean`: each leg took all that was queued for it.
    pub fn at_end(&self, stats: &Stats, clean_model: bool, clean_carrier: bool) {
        assert_eq!(
            stats.inbound_bytes,
            stats.inbound_bytes_sent + stats.inbound_bytes_dropped,
            "the caller's audio does not add up"
        );
        assert_eq!(
            stats.outbound_bytes,
            stats.outbound_bytes_sent + stats.outbound_bytes_dropped,
            "the model's audio does not add up"
        );
        assert!(stats.inbound_bytes <= self.delivered_caller_bytes);
        assert!(self.caller_bytes <= stats.inbound_bytes_sent);
        assert!(self.silence_bytes <= stats.filled_bytes + stats.padded_bytes);
        assert!(self.played_bytes <= stats.outbound_bytes_sent);
        if clean_model && self.connections == 1 {
            assert_eq!(self.caller_bytes, stats.inbound_bytes_sent, "appended");
            assert_eq!(
                self.silence_bytes,
                stats.filled_bytes + stats.padded_bytes,
                "silence"
            );
        }
        if clean_carrier {
            assert_eq!(
                self.played_bytes + stats.outbound_bytes_cut,
                stats.outbound_bytes_sent + stats.resent_bytes,
                "played"
            );
        }
        if clean_carrier && self.clears == 0 {
            assert_eq!(
                self.mark_names.len() as u64,
                stats.marks_sent,
                "marks sent and marks counted"
            );
        }
        if self.calm && clean_carrier && clean_model && self.connections == 1 {
            self.truncations_are_true();
        }
    }

    fn truncations_are_true(&self) {
        for item in &self.items {
            let Some(played) = item.played_at_clear else {
                continue;
            };
            let Some(ms) = item.truncated_ms else {
                let unheard = (item.sent as u64).saturating_sub(played) / 8;
                assert!(
                    !self.barge_in || item.dead.is_none() || item.deleted || unheard <= 250,
                    "{} was cleared {unheard} ms before its end and never truncated",
                    item.id
                );
                continue;
            };
            assert!(
                ms.abs_diff(played / 8) <= HEARD_TOLERANCE_MS,
                "{} is truncated at {ms} ms, where {} ms were played",
                item.id,
                played / 8
            );
        }
    }
}

fn place(leg: Leg) -> usize {
    match leg {
        Leg::Realtime => 0,
        Leg::Carrier => 2,
        #[allow(unreachable_patterns)]
        _ => 1,
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
