//! A recording's timeline: where heard audio lies on it, and the bytes that say so. Core; a worker drives it and writes
//! what it gives, `store::recording` reads it back.
//!
//! Time on it is counted in samples of 8 kHz from the stream's `start`. The caller's track follows stream time, anchored
//! where the first frame came. The agent's follows the playback ledger: a byte lies where it is heard if all goes on as
//! it is, which is after everything before it and never before it was sent. What a `clear` takes back is cut: a later
//! piece may then lie where the cut ones did.
//!
//! A track is a file that only ever grows:
//!
//! ```text
//! ┌ head, 64 bytes ┬ piece ────────────────────────────────┬ piece ┬ cut ┬ piece …
//! │ side, begin,   │ 20 bytes: where, how long, checksums; │       │     │
//! │ length at end  │ then that many bytes of PCMU          │       │     │
//! └────────────────┴───────────────────────────────────────┴───────┴─────┴──
//! ```
//!
//! Silence between pieces is not written. A cut is a piece without audio: all that stands before it in the file and lies
//! behind it in time was not heard. So a file says by itself what was heard, also when its writer was killed: what is
//! missing is at its end, at most what waited in memory, and that is never older than [`FLUSH_AFTER`].
//!
//! Memory: each side of a call fills one block of [`BLOCK_BYTES`]. Full or due, it is exchanged for an empty one of the
//! worker's pool, so a frame never allocates; when the pool has none, audio is left out and counted, and the call goes on.

use crate::base::time::Mono;
use crate::base::unit::PCMU_BYTES_PER_MS;
use crate::proto::audio::base64;
pub use crate::proto::audio::g711::{SILENCE, from_linear, to_linear};
use std::time::Duration;

/// One block of memory, in bytes: two seconds of one side.
pub const BLOCK_BYTES: usize = 16 * 1024;
/// Audio that waits in memory longer than this is written, however little it is.
pub const FLUSH_AFTER: Duration = Duration::from_secs(1);
/// Samples a second, and bytes.
pub const RATE: u32 = 8_000;
/// The file's head.
pub const HEAD_BYTES: usize = 64;
/// A piece's head.
pub const PIECE_BYTES: usize = 20;
/// The longest recording: 149 hours fit 32 bits of samples; a call lasts a day at most.
pub const SAMPLES_MAX: u64 = 30 * 3_600 * RATE as u64;

/// Opens a file.
const MAGIC: [u8; 8] = *b"VXTRACK\n";
/// The layout that is written, and the only one so far.
const VERSION: u16 = 1;
/// Opens a piece.
const PIECE_MAGIC: [u8; 2] = [0xF7, 0x54];
/// A stamp that is off by less than one frame is jitter.
const JITTER_SAMPLES: u64 = 20 * PCMU_BYTES_PER_MS;
/// A stamp this far from the clock says nothing: the caller's track is anchored anew.
const STRAY_SAMPLES: u64 = 5_000 * PCMU_BYTES_PER_MS;
/// Without stamps a frame that comes this late follows a gap.
const LATE_SAMPLES: u64 = 500 * PCMU_BYTES_PER_MS;
/// Runs of the agent's audio that a cut may still reach back into.
const RUNS: usize = 4;

/// Whose track it is: left and right in the rendering.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u8)]
pub enum Side {
    /// The caller, left.
    Caller = 0,
    /// The agent as heard, right.
    Agent = 1,
}

/// The head of a track file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    /// Whose track it is.
    pub side: Side,
    /// When the timeline begins, ms since 1970.
    pub began_unix_ms: u64,
    /// How long the timeline is, in samples; `None` until the call was over.
    pub length: Option<u64>,
}

impl Head {
    /// Its bytes.
    pub fn encode(&self) -> [u8; HEAD_BYTES] {
        let mut bytes = [0; HEAD_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
        bytes[10] = self.side as u8;
        bytes[11] = u8::from(self.length.is_some());
        bytes[12..16].copy_from_slice(&RATE.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.began_unix_ms.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.length.unwrap_or(0).to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..60]);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a file's beginning; `None` when it is no track's of this version, or damaged.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; HEAD_BYTES] = bytes.first_chunk()?;
        let whole = crc32c::crc32c(&bytes[..60]) == le32(bytes, 60);
        if bytes[..8] != MAGIC || !whole || bytes[8..10] != VERSION.to_le_bytes() {
            return None;
        }
        if le32(bytes, 12) != RATE {
            return None;
        }
        let side = match bytes[10] {
            0 => Side::Caller,
            1 => Side::Agent,
            _ => return None,
        };
        let le64 = |at| u64::from(le32(bytes, at)) | u64::from(le32(bytes, at + 4)) << 32;
        Some(Self {
            side,
            began_unix_ms: le64(16),
            length: (bytes[11] & 1 == 1).then(|| le64(24)),
        })
    }
}

/// What stands at some place of a track file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Piece {
    /// Audio: as many bytes of PCMU follow.
    Audio {
        /// Where it lies, samples.
        at: u64,
        /// How long it is, samples and bytes.
        len: u32,
        /// The checksum of those bytes.
        crc: u32,
    },
    /// What stands before this and lies at or behind `at` was not heard.
    Cut {
        /// Where, samples.
        at: u64,
    },
}

impl Piece {
    /// Its head's bytes.
    pub fn encode(&self) -> [u8; PIECE_BYTES] {
        let (kind, at, len, crc) = match *self {
            Piece::Audio { at, len, crc } => (0, at, len, crc),
            Piece::Cut { at } => (1, at, 0, 0),
        };
        let mut bytes = [0; PIECE_BYTES];
        bytes[..2].copy_from_slice(&PIECE_MAGIC);
        bytes[2] = kind;
        // `at` is below SAMPLES_MAX, which fits.
        bytes[4..8].copy_from_slice(&(at as u32).to_le_bytes());
        bytes[8..12].copy_from_slice(&len.to_le_bytes());
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        let own = crc32c::crc32c(&bytes[..16]);
        bytes[16..].copy_from_slice(&own.to_le_bytes());
        bytes
    }

    /// Reads one; `None` when no whole one stands here.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; PIECE_BYTES] = bytes.first_chunk()?;
        if bytes[..2] != PIECE_MAGIC || crc32c::crc32c(&bytes[..16]) != le32(bytes, 16) {
            return None;
        }
        let (at, len, crc) = (u64::from(le32(bytes, 4)), le32(bytes, 8), le32(bytes, 12));
        match bytes[2] {
            0 if at + u64::from(len) <= SAMPLES_MAX => Some(Piece::Audio { at, len, crc }),
            1 if at <= SAMPLES_MAX => Some(Piece::Cut { at }),
            _ => None,
        }
    }

    /// The bytes of audio behind the head.
    pub fn audio_len(&self) -> u32 {
        match self {
            Piece::Audio { len, .. } => *len,
            Piece::Cut { .. } => 0,
        }
    }
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Who takes full blocks to the disk and has empty ones.
pub trait Blocks {
    /// Takes whole pieces, to be appended to that side's file in the order in which they come, and gives an empty block
    /// of [`BLOCK_BYTES`] capacity for it. `None`: there is none just now; [`Recorder::lend`] gives one later.
    fn exchange(&mut self, side: Side, full: Vec<u8>) -> Option<Vec<u8>>;
}

/// What a recorder counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Stretches of the caller's side that never came.
    pub gaps: u64,
    /// Cuts of the agent's side.
    pub cuts: u64,
    /// Audio left out because there was no block for it, or because the recording is as long as it may be, bytes.
    pub lost_bytes: u64,
}

/// One side's block, and where its audio goes on.
#[derive(Debug)]
struct Track {
    side: Side,
    /// Whole pieces, and perhaps an open one at the end. No capacity: there is no block.
    block: Vec<u8>,
    /// Where the open piece's head stands in the block, and where it lies.
    open: Option<(usize, u64)>,
    /// Behind the last sample.
    next: u64,
    /// When the block got its first byte.
    since: Option<Mono>,
    /// A cut that found no block: it goes before everything else.
    owed_cut: Option<u64>,
}

impl Track {
    fn new(side: Side, block: Vec<u8>) -> Self {
        debug_assert!(block.is_empty() && block.capacity() >= BLOCK_BYTES);
        Self {
            side,
            block,
            open: None,
            next: 0,
            since: None,
            owed_cut: None,
        }
    }

    /// Room for audio at `at`, bytes; a piece's head is kept free for a cut.
    fn room(&self, at: u64) -> usize {
        let goes_on = self.open.is_some() && at == self.next;
        let heads = if goes_on { 1 } else { 2 };
        let limit = self.block.capacity().min(BLOCK_BYTES);
        limit.saturating_sub(self.block.len() + heads * PIECE_BYTES)
    }

    /// Appends base64 text of PCMU from `at` on, which is not before `next`. Gives the bytes that found no place.
    fn write(&mut self, at: u64, text: &[u8], now: Mono, blocks: &mut impl Blocks) -> u64 {
        debug_assert!(at >= self.next);
        let (mut at, mut rest) = (at, text);
        while !rest.is_empty() {
            // Whole groups of four characters; the last group may be padded, and stands alone at the end.
            let mut room = self.room(at) / 3 * 4;
            if room == 0 {
                self.exchange(blocks);
                room = self.room(at) / 3 * 4;
                if room == 0 {
                    return length(rest);
                }
            }
            let (piece, later) = rest.split_at(room.min(rest.len()));
            rest = later;
            if self.open.is_none() || at != self.next {
                self.close();
                self.open = Some((self.block.len(), at));
                self.block.extend_from_slice(&[0; PIECE_BYTES]);
                self.next = at;
            }
            self.since.get_or_insert(now);
            let before = self.block.len();
            if !base64::decode_into(piece, &mut self.block) {
                // The call has checked it; what is no base64 all the same is no audio.
                self.block.truncate(before);
                return length(rest);
            }
            at += (self.block.len() - before) as u64;
            self.next = at;
        }
        0
    }

    fn cut(&mut self, at: u64, now: Mono, blocks: &mut impl Blocks) {
        self.close();
        if self.block.capacity().min(BLOCK_BYTES) < self.block.len() + PIECE_BYTES {
            self.exchange(blocks);
        }
        self.next = at;
        self.owed_cut = Some(self.owed_cut.map_or(at, |owed| owed.min(at)));
        self.pay_cut();
        if !self.block.is_empty() {
            self.since.get_or_insert(now);
        }
    }

    fn pay_cut(&mut self) {
        if self.block.capacity() > 0
            && let Some(at) = self.owed_cut.take()
        {
            let piece = Piece::Cut { at };
            self.block.extend_from_slice(&piece.encode());
        }
    }

    /// Takes a block where there was none.
    fn lend(&mut self, block: Vec<u8>) {
        debug_assert!(block.is_empty() && self.block.is_empty());
        self.block = block;
        self.pay_cut();
    }

    /// Finishes the open piece's head.
    fn close(&mut self) {
        let Some((head, at)) = self.open.take() else {
            return;
        };
        let audio = &self.block[head + PIECE_BYTES..];
        if audio.is_empty() {
            self.block.truncate(head);
            return;
        }
        let piece = Piece::Audio {
            at,
            len: audio.len() as u32,
            crc: crc32c::crc32c(audio),
        };
        self.block[head..head + PIECE_BYTES].copy_from_slice(&piece.encode());
    }

    /// Gives the block away, if there is anything in it.
    fn exchange(&mut self, blocks: &mut impl Blocks) {
        self.close();
        self.since = None;
        if !self.block.is_empty() {
            let full = std::mem::take(&mut self.block);
            if let Some(empty) = blocks.exchange(self.side, full) {
                self.lend(empty);
            }
        }
    }
}

/// The bytes of PCMU in base64 text.
fn length(text: &[u8]) -> u64 {
    base64::decoded_len(text) as u64
}

/// A run of the agent's audio: bytes of the ledger's line, and where they lie.
#[derive(Clone, Copy, Debug, Default)]
struct Run {
    line: u64,
    at: u64,
    len: u64,
}

/// A call's recording while it is made.
///
/// Order of calls: `caller` and `agent` in any order, each with a `now` that does not go back; `cut` for each `clear`;
/// `flush` when [`Recorder::due`] says so; `finish` once, and nothing after it.
#[derive(Debug)]
pub struct Recorder {
    zero: Mono,
    caller: Track,
    agent: Track,
    /// The first stamp of the caller's since the last anchoring, and where it lies.
    anchor: Option<(u64, u64)>,
    /// Newest last.
    runs: [Run; RUNS],
    counts: Counts,
}

impl Recorder {
    /// The timeline begins at `now`. Each block is empty and of [`BLOCK_BYTES`] capacity.
    pub fn new(now: Mono, caller: Vec<u8>, agent: Vec<u8>) -> Self {
        Self {
            zero: now,
            caller: Track::new(Side::Caller, caller),
            agent: Track::new(Side::Agent, agent),
            anchor: None,
            runs: [Run::default(); RUNS],
            counts: Counts::default(),
        }
    }

    /// Where `now` lies, in samples.
    pub fn position(&self, now: Mono) -> u64 {
        let samples = now.since(self.zero).as_nanos() / (1_000_000 / u128::from(PCMU_BYTES_PER_MS));
        u64::try_from(samples).unwrap_or(u64::MAX)
    }

    /// A frame of the caller's, as base64 text, with its stamp in ms of stream time.
    pub fn caller(
        &mut self,
        stamp_ms: Option<u64>,
        text: &[u8],
        now: Mono,
        blocks: &mut impl Blocks,
    ) {
        if text.is_empty() {
            return;
        }
        let at = self.caller_at(stamp_ms, now);
        if at > self.caller.next && self.caller.next > 0 {
            self.counts.gaps += 1;
        }
        if at + length(text) > SAMPLES_MAX {
            self.counts.lost_bytes += length(text);
            return;
        }
        self.counts.lost_bytes += self.caller.write(at, text, now, blocks);
    }

    fn caller_at(&mut self, stamp_ms: Option<u64>, now: Mono) -> u64 {
        let (next, here) = (self.caller.next, self.position(now));
        let Some(stamp) = stamp_ms else {
            return next.max(here.saturating_sub(LATE_SAMPLES));
        };
        if let Some((first, at)) = self.anchor {
            let due = i128::from(at)
                + (i128::from(stamp) - i128::from(first)) * i128::from(PCMU_BYTES_PER_MS);
            let strays = due > i128::from(here.max(next) + STRAY_SAMPLES)
                || due < i128::from(next) - i128::from(STRAY_SAMPLES);
            if !strays {
                let due = u64::try_from(due).unwrap_or(0);
                return if due < next + JITTER_SAMPLES {
                    next
                } else {
                    due
                };
            }
        }
        let at = next.max(here);
        self.anchor = Some((stamp, at));
        at
    }

    /// Audio of the agent's that was sent, as base64 text. `line` is where it begins on the playback ledger's line.
    pub fn agent(&mut self, line: u64, text: &[u8], now: Mono, blocks: &mut impl Blocks) {
        let (len, here) = (length(text), self.position(now));
        if len == 0 {
            return;
        }
        let newest = self.runs[RUNS - 1];
        let end = newest.at + newest.len;
        let goes_on = newest.len > 0 && newest.line + newest.len == line && here <= end;
        // Never before a cut, nor over what is still to be heard.
        let at = if goes_on {
            end
        } else {
            here.max(self.agent.next)
        };
        if at + len > SAMPLES_MAX {
            self.counts.lost_bytes += len;
            return;
        }
        if goes_on {
            self.runs[RUNS - 1].len += len;
        } else {
            self.runs.rotate_left(1);
            self.runs[RUNS - 1] = Run { line, at, len };
        }
        let lost = self.agent.write(at, text, now, blocks);
        if lost > 0 {
            // What was left out is silence of the same length.
            self.counts.lost_bytes += lost;
            self.agent.close();
            self.agent.next = at + len;
        }
    }

    /// The carrier was told to forget what it had not played: everything from `heard` on, on the ledger's line.
    pub fn cut(&mut self, heard: u64, now: Mono, blocks: &mut impl Blocks) {
        let mut at = None;
        for run in &mut self.runs {
            if run.line + run.len > heard && run.len > 0 {
                let keep = heard.saturating_sub(run.line).min(run.len);
                at.get_or_insert(run.at + keep);
                run.len = keep;
            }
        }
        if let Some(at) = at
            && at < self.agent.next
        {
            self.agent.cut(at, now, blocks);
            self.counts.cuts += 1;
        }
    }

    /// When `flush` should be called next; `None` while nothing waits in memory.
    pub fn due(&self) -> Option<Mono> {
        let sides = [self.caller.since, self.agent.since];
        let oldest = sides.into_iter().flatten().min()?;
        Some(oldest + FLUSH_AFTER)
    }

    /// Gives away every block whose time has come.
    pub fn flush(&mut self, now: Mono, blocks: &mut impl Blocks) {
        for track in [&mut self.caller, &mut self.agent] {
            if track
                .since
                .is_some_and(|since| now.since(since) >= FLUSH_AFTER)
            {
                track.exchange(blocks);
            }
        }
    }

    /// Gives a side a block that it did not get when it exchanged its last one. Gives it back where it is not needed.
    pub fn lend(&mut self, side: Side, block: Vec<u8>) -> Option<Vec<u8>> {
        let track = match side {
            Side::Caller => &mut self.caller,
            Side::Agent => &mut self.agent,
        };
        if track.block.capacity() > 0 {
            return Some(block);
        }
        track.lend(block);
        None
    }

    /// The call is over: what of the agent's lies behind now was never heard. Gives everything away, and then the length of
    /// the timeline in samples, which belongs into both heads.
    pub fn finish(&mut self, now: Mono, blocks: &mut impl Blocks) -> (u64, Counts) {
        let end = self.position(now).min(SAMPLES_MAX);
        if self.agent.next > end {
            self.agent.cut(end, now, blocks);
        }
        for track in [&mut self.caller, &mut self.agent] {
            track.exchange(blocks);
        }
        // Frames that came faster than time are still the caller's words.
        (end.max(self.caller.next), self.counts)
    }
}

#[cfg(test)]
#[path = "track/tests.rs"]
mod tests;
