//! The load tester's caller: a lean media stream of a simulated carrier. Pure: messages and the time in, frames out.
//!
//! The same vendor's pages as [`crate::simulate::carrier`], without what costs at a thousand calls: nothing is allocated for a
//! frame, and audio is stamped instead of recorded.

use super::check::Kind;
use super::ledger::{BLOCK_NANOS, Ledger};
use super::scan;
use super::stamp::{BLOCK_BYTES, Blocks, ECHO, SPEECH, Stamp, Way};
use super::tally::Tally;
use super::wire::Outbox;
use crate::base::rng::Rng;
use crate::proto::audio::base64;
use crate::simulate::carrier::inspect::{Order, inspect};
use crate::simulate::dice::Dice as _;
use serde_json::{Map, Value, json};
use std::collections::VecDeque;
use std::time::Duration;

/// A frame's length.
const FRAME_MS: u64 = 20;
/// The longest name of a mark that is kept without an allocation of its own being counted.
const MARKS_MAX: usize = 10_000;

/// What the caller does (talk profile).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// Speaks until then.
    Speaking(u64),
    /// Has spoken; the answer is to come before that.
    Waiting(u64),
    /// Hears the answer, and speaks over it at that time.
    Hearing(Option<u64>),
    /// Says nothing until then.
    Pausing(u64),
    /// Echo profile: one long turn.
    Echo,
}

/// No answer within this is a fault.
const ANSWER_DEADLINE: u64 = 15_000_000_000;

/// One caller.
#[derive(Debug)]
pub struct Caller {
    /// Serial number of the call.
    pub call: u32,
    /// The call's SID: it may stand in the stream's path.
    pub call_sid: String,
    stream_sid: String,
    account_sid: String,
    /// From the webhook, for `start`.
    pub parameters: Vec<(String, String)>,
    /// `sequenceNumber` of the last message.
    sequence: u64,
    frames: u32,
    timestamp_base: u64,
    /// When the next frame is due, ns.
    pub due: u64,
    marks: VecDeque<(u64, Vec<u8>)>,
    /// Names' memory for the next marks.
    spare: Vec<Vec<u8>>,
    last_mark: Vec<u8>,
    turn: Turn,
    rng: Rng,
    barge_in_rate: f64,
    suffix: Vec<u8>,
    head: Vec<u8>,
    decoded: Vec<u8>,
    /// An answer's block that did not end with its message.
    partial: Vec<u8>,
    /// When the first echo or answer came.
    pub first_frame: Option<u64>,
}

impl Caller {
    /// A caller; `start` must follow before a frame.
    pub fn new(call: u32, echoes: bool, barge_in_rate: f64, seed: u64) -> Self {
        let mut rng = Rng::from_u64(seed ^ (u64::from(call) << 20));
        let stream_sid = rng.sid("MZ");
        Self {
            call,
            call_sid: rng.sid("CA"),
            suffix: format!("\"}},\"streamSid\":\"{stream_sid}\"}}").into_bytes(),
            stream_sid,
            account_sid: rng.sid("AC"),
            parameters: Vec::new(),
            sequence: 0,
            frames: 0,
            timestamp_base: rng.between(21, 99),
            due: 0,
            marks: VecDeque::new(),
            spare: Vec::new(),
            last_mark: Vec::new(),
            turn: if echoes { Turn::Echo } else { Turn::Pausing(0) },
            rng,
            barge_in_rate,
            head: Vec::new(),
            decoded: Vec::new(),
            partial: Vec::new(),
            first_frame: None,
        }
    }

    /// The upgrade was answered: `connected` and `start`; the first frame is due at `first`.
    pub fn handle_open(&mut self, first: u64, outbox: &mut Outbox) {
        outbox.text(&[b"{\"event\":\"connected\",\"protocol\":\"Call\",\"version\":\"1.0.0\"}"]);
        let parameters: Map<String, Value> = self
            .parameters
            .iter()
            .map(|(name, value)| (name.clone(), value.as_str().into()))
            .collect();
        let sequence = self.next_sequence().to_string();
        let start = json!({"event": "start", "sequenceNumber": sequence, "start": {
            "accountSid": self.account_sid, "streamSid": self.stream_sid, "callSid": self.call_sid,
            "tracks": ["inbound"],
            "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
            "customParameters": parameters,
        }, "streamSid": self.stream_sid});
        outbox.text(&[start.to_string().as_bytes()]);
        self.due = first;
        if let Turn::Pausing(_) = self.turn {
            self.turn = Turn::Pausing(first + self.nanos(200, 1500));
        }
    }

    fn nanos(&mut self, low_ms: u64, high_ms: u64) -> u64 {
        self.rng.millis(low_ms, high_ms).as_nanos() as u64
    }

    fn next_sequence(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    /// Sends the frame that is due, and the marks whose audio has played. `stamped` is the frame's intended moment.
    pub fn handle_due(
        &mut self,
        now: u64,
        blocks: &Blocks,
        ledger: &mut Ledger,
        tally: &mut Tally,
        outbox: &mut Outbox,
    ) {
        self.return_marks(now, tally, outbox);
        let speaks = self.speaks(now, ledger, tally);
        let flags = match self.turn {
            Turn::Echo => ECHO,
            _ if speaks => SPEECH,
            _ => 0,
        };
        let stamp = Stamp {
            way: Way::Up,
            flags,
            call: self.call,
            seq: self.frames,
            at: self.due,
        };
        let (mut sequence, mut chunk, mut timestamp) = ([0; 20], [0; 20], [0; 20]);
        let number = self.next_sequence();
        let stream_time = self.timestamp_base + u64::from(self.frames) * FRAME_MS;
        let [first, second] = blocks.text(&stamp, &mut self.head);
        outbox.text(&[
            b"{\"event\":\"media\",\"sequenceNumber\":\"",
            digits(number, &mut sequence),
            b"\",\"media\":{\"track\":\"inbound\",\"chunk\":\"",
            digits(u64::from(self.frames) + 1, &mut chunk),
            b"\",\"timestamp\":\"",
            digits(stream_time, &mut timestamp),
            b"\",\"payload\":\"",
            first,
            second,
            &self.suffix,
        ]);
        self.frames += 1;
        ledger.up_sent = self.frames;
        tally.up_sent += 1;
        self.due += BLOCK_NANOS;
    }

    /// Moves the conversation on; whether this frame is speech.
    fn speaks(&mut self, now: u64, ledger: &Ledger, tally: &mut Tally) -> bool {
        let playing = ledger.playing(now) > 0;
        match self.turn {
            Turn::Echo => {}
            Turn::Pausing(until) if now >= until => {
                self.turn = Turn::Speaking(now + self.nanos(600, 1800));
            }
            Turn::Speaking(until) if now >= until => {
                self.turn = Turn::Waiting(now + ANSWER_DEADLINE);
            }
            Turn::Waiting(_) if playing => {
                let speaks_over = self.rng.chance(self.barge_in_rate);
                self.turn = Turn::Hearing(speaks_over.then(|| now + self.nanos(300, 1500)));
            }
            Turn::Waiting(deadline) if now >= deadline => {
                tally.call_fault(Kind::Lost, self.call, "no answer to a turn within 15 s");
                self.turn = Turn::Pausing(now + self.nanos(300, 1200));
            }
            Turn::Hearing(Some(at)) if playing && now >= at => {
                self.turn = Turn::Speaking(now + self.nanos(600, 1800));
            }
            Turn::Hearing(_) if !playing && self.marks.is_empty() => {
                self.turn = Turn::Pausing(now + self.nanos(300, 1200));
            }
            _ => {}
        }
        matches!(self.turn, Turn::Speaking(_))
    }

    /// Whether marks or audio are still to play.
    pub fn waits(&self) -> bool {
        !self.marks.is_empty()
    }

    /// Gives back the marks whose audio has played.
    pub fn return_marks(&mut self, now: u64, tally: &mut Tally, outbox: &mut Outbox) {
        while let Some((at, _)) = self.marks.front()
            && *at <= now
            && let Some((_, name)) = self.marks.pop_front()
        {
            let mut sequence = [0; 20];
            let number = self.next_sequence();
            outbox.text(&[
                b"{\"event\":\"mark\",\"sequenceNumber\":\"",
                digits(number, &mut sequence),
                b"\",\"streamSid\":\"",
                self.stream_sid.as_bytes(),
                b"\",\"mark\":{\"name\":\"",
                &name,
                b"\"}}",
            ]);
            tally.marks_returned += 1;
            self.spare.push(name);
        }
    }

    /// `stop` and a close frame.
    pub fn handle_end(
        &mut self,
        blocks: &Blocks,
        ledger: &Ledger,
        tally: &mut Tally,
        outbox: &mut Outbox,
    ) {
        if !self.partial.is_empty() {
            self.on_rest(&self.partial, blocks, ledger, tally);
        }
        let sequence = self.next_sequence().to_string();
        let stop = json!({"event": "stop", "sequenceNumber": sequence,
            "stop": {"accountSid": self.account_sid, "callSid": self.call_sid}, "streamSid": self.stream_sid});
        outbox.text(&[stop.to_string().as_bytes()]);
        outbox.close(1000);
    }

    /// Takes one message of the relay.
    pub fn handle_text(
        &mut self,
        text: &[u8],
        now: u64,
        blocks: &Blocks,
        ledger: &mut Ledger,
        tally: &mut Tally,
    ) {
        let (mut event, mut stream, mut payload, mut name) = (None, None, None, None);
        let mut is_plain = true;
        let scanned = scan::each(text, |outer, key, value| match (outer, key) {
            (b"", b"event") => event = value.text(),
            (b"", b"streamSid") => stream = value.text(),
            (b"media", b"payload") => payload = value.text(),
            (b"mark", b"name") => name = value.text(),
            // What the vendor's page does not have is judged by the whole parser.
            _ => is_plain = false,
        });
        let is_ours = stream == Some(self.stream_sid.as_bytes());
        match (event, payload, name) {
            (Some(b"media"), Some(payload), None) if scanned.is_some() && is_ours && is_plain => {
                self.on_media(payload, now, blocks, ledger, tally);
            }
            (Some(b"mark"), None, Some(name)) if scanned.is_some() && is_ours && is_plain => {
                self.on_mark(name, now, ledger, tally);
            }
            (Some(b"clear"), None, None) if scanned.is_some() && is_ours && is_plain => {
                self.on_clear(now, ledger, tally);
            }
            _ => match inspect(text, &self.stream_sid) {
                Ok(Order::Media { payload, .. }) => {
                    self.on_media(payload.as_bytes(), now, blocks, ledger, tally);
                }
                Ok(Order::Mark(name)) => self.on_mark(name.as_bytes(), now, ledger, tally),
                Ok(Order::Clear) => self.on_clear(now, ledger, tally),
                Err(reason) => {
                    tally.call_fault(
                        Kind::Message,
                        self.call,
                        format!("to the carrier: {reason}"),
                    );
                }
            },
        }
    }

    fn on_media(
        &mut self,
        payload: &[u8],
        now: u64,
        blocks: &Blocks,
        ledger: &mut Ledger,
        tally: &mut Tally,
    ) {
        tally.down_messages += 1;
        self.decoded.clear();
        self.decoded.append(&mut self.partial);
        let front = self.decoded.len();
        if !base64::decode_into(payload, &mut self.decoded) {
            tally.call_fault(Kind::Message, self.call, "media payload is not base64");
            return;
        }
        if front > 0 && Blocks::begins(&self.decoded[front..]) {
            // A new block begins here, so what was left over of earlier messages was no block's front.
            self.on_rest(&self.decoded[..front], blocks, ledger, tally);
            self.decoded.drain(..front);
        }
        let (whole, rest) = self.decoded.as_chunks::<BLOCK_BYTES>();
        for block in whole {
            ledger.queue(now);
            tally.down_received += 1;
            match blocks.read(block) {
                Ok(stamp) if stamp.way == Way::Down && stamp.call == self.call => {
                    if tally.measures(stamp.at) {
                        tally.down.record(now.saturating_sub(stamp.at));
                    }
                    ledger.take(Way::Down, stamp.seq, tally);
                    self.first_frame.get_or_insert(now);
                }
                Ok(stamp) => {
                    let detail = format!("it is call {}'s, {}", stamp.call, stamp.way.label());
                    tally.frame_fault(Kind::Foreign, self.call, Way::Down, stamp.seq, &detail);
                }
                Err(damage) => {
                    let seq = ledger.down.next();
                    let detail = format!("{damage:?} where {seq} was to come");
                    tally.frame_fault(damage.into(), self.call, Way::Down, seq, &detail);
                }
            }
        }
        self.partial.extend_from_slice(rest);
    }

    /// Audio that is no whole block.
    fn on_rest(&self, rest: &[u8], blocks: &Blocks, ledger: &Ledger, tally: &mut Tally) {
        let (damage, seq) = (blocks.judge(rest), ledger.down.next());
        let detail = format!("{damage:?}, {} bytes where {seq} was to come", rest.len());
        tally.frame_fault(damage.into(), self.call, Way::Down, seq, &detail);
    }

    fn on_mark(&mut self, name: &[u8], now: u64, ledger: &Ledger, tally: &mut Tally) {
        tally.marks += 1;
        if name == self.last_mark || self.marks.len() >= MARKS_MAX {
            let name = String::from_utf8_lossy(name).into_owned();
            tally.call_fault(Kind::Mark, self.call, format!("{name:.80} came again"));
            return;
        }
        self.last_mark.clear();
        self.last_mark.extend_from_slice(name);
        let mut kept = self.spare.pop().unwrap_or_default();
        kept.clear();
        kept.extend_from_slice(name);
        self.marks.push_back((ledger.playing_until.max(now), kept));
    }

    fn on_clear(&mut self, now: u64, ledger: &mut Ledger, tally: &mut Tally) {
        ledger.clear(now, tally);
        // The audio that was begun with the last message is gone with the rest.
        self.partial.clear();
        for (at, _) in &mut self.marks {
            *at = (*at).min(now);
        }
    }
}

/// A number as text, in the caller's memory.
pub fn digits(mut number: u64, room: &mut [u8; 20]) -> &[u8] {
    let mut at = room.len();
    loop {
        at -= 1;
        room[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &room[at..];
        }
    }
}

/// How far into the 20 ms this call's frames lie: spread evenly, in steps of `slot` (zero: each call its own moment).
pub fn phase(place: u32, slot: Duration) -> Duration {
    // The golden ratio's multiples: evenly spread at any number of calls, and the next call is never the next moment.
    let share = (f64::from(place) * 0.618_033_988_749_894_9).fract();
    let nanos = (share * BLOCK_NANOS as f64) as u64;
    let slot = (slot.as_nanos() as u64).max(1);
    Duration::from_nanos(nanos - nanos % slot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_those_of_the_number() {
        for number in [0, 7, 10, 99, 12_345, u64::MAX] {
            assert_eq!(digits(number, &mut [0; 20]), number.to_string().as_bytes());
        }
    }

    #[test]
    fn phases_are_spread_over_the_frame() {
        let mut phases: Vec<u64> = (0..100)
            .map(|place| phase(place, Duration::ZERO).as_micros() as u64)
            .collect();
        phases.sort_unstable();
        let widest = phases.windows(2).map(|pair| pair[1] - pair[0]).max();
        assert!(phases[99] < 20_000 && widest < Some(400), "{widest:?}");
        let slot = Duration::from_micros(100);
        assert!((0..100).all(|place| phase(place, slot).as_micros().is_multiple_of(100)));
    }
}
