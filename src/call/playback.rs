//! The playback ledger: what of the model's audio was received, went to the carrier, and was heard. Core; used by `Call`
//! alone, which asks it before anything is cleared, truncated, written down or hung up.
//!
//! All audio for the carrier lies on one line of PCMU bytes, counted from the start of the call. Three offsets move along
//! it, and items are runs on it:
//!
//! ```text
//!        run 1 (item A)        run 2 (item B)          run 3
//!   ├────────────────────┼───────────────────────┼──────────────┤
//!             ▲                      ▲                          ▲
//!           heard                  sent                       queued          heard <= sent <= queued
//! ```
//!
//! - `queued`: accepted by the leg's outbox (or held back during a pause).
//! - `sent`: whole messages that the socket has taken. What still waits, or is with the kernel, can't be heard.
//! - `heard`: plays at 8 bytes a millisecond whenever anything is sent and not heard. So it starts with the first byte that
//!   went out, stands still between items, and never passes what was sent, however fast the model is.
//!
//! A returned mark proves that its place was played, so `heard` is never below it. It can't lie ahead of the clock either,
//! but for a little drift: nobody hears a second of speech in less than a second. A carrier that returns marks at
//! once (jambonz) is thus bounded by the clock, and one that never returns any is followed by the clock alone.
//!
//! That clock says what will have been heard when a `clear` that is sent now takes effect: audio and `clear` take the
//! same way, so the way's delay cancels out. What a carrier buffers before it begins to play is not in it.

use crate::base::id::{ItemId, ResponseId};
use crate::base::time::Mono;
use crate::base::unit::AudioMs;
use std::collections::VecDeque;
use std::time::Duration;

/// Runs at once. A response has a few items; a model that makes more without any being heard is not believed.
pub const RUNS_MAX: usize = 64;
/// How far a mark may lead the clock: two clocks that are 100 ppm apart drift 12 ms in the two minutes that may be queued.
pub const MARK_LEAD_MAX: AudioMs = AudioMs(20);
/// Items of which we remember that nothing more of them is played.
const CLOSED_MAX: usize = 16;
/// Transcripts kept at once, for items whose audio is not heard yet.
const TEXTS_MAX: usize = 16;
/// One of them, bytes.
const TEXT_BYTES_MAX: usize = 8 * 1024;
const NS_PER_BYTE: u64 = 125_000;
/// The content index of tones, which are our own: audio without an item id, and no part of an item that a model makes.
pub const TONES: u64 = u64::MAX;

/// Whether audio is our own tones.
pub fn is_tones(item_id: Option<&str>, content_index: u64) -> bool {
    #[cfg(feature = "planted-bugs")]
    if super::planted::is(super::planted::Planted::TonesOfTheModels) {
        return false;
    }
    item_id.is_none() && content_index == TONES
}

/// A stretch of one item's audio. An item has several only when another's audio came in between.
#[derive(Clone, Debug)]
struct Run {
    item_id: Option<ItemId>,
    response_id: Option<ResponseId>,
    content_index: u64,
    /// The item's number in this call, from 1.
    number: u32,
    /// On the line: start <= end.
    start: u64,
    end: u64,
    /// Bytes of the item in earlier runs.
    base: u64,
    /// Bytes of the item received until now, those that were dropped included: >= base + (end - start).
    received: u64,
    /// No more of it will be played: its audio or its response is complete, or was given up.
    done: bool,
    /// It belongs to a session that is no more: nobody can be told about it.
    orphan: bool,
}

impl Run {
    fn is(&self, item_id: Option<&str>, content_index: u64) -> bool {
        match (item_id, &self.item_id) {
            // The same id in another session is another item.
            _ if self.orphan => false,
            (Some(id), Some(own)) => own.is(id) && content_index == self.content_index,
            (Some(_), None) => false,
            // Tones stand alone: the model knows nothing of them, so they must not lengthen or end an item of its.
            (None, _) if is_tones(item_id, content_index) => self.is_tones(),
            // Audio without an id belongs to whatever is current.
            (None, _) => !self.is_tones(),
        }
    }

    fn is_tones(&self) -> bool {
        is_tones(
            self.item_id.as_ref().map(ItemId::as_str),
            self.content_index,
        )
    }

    fn same_item(&self, other: &Run) -> bool {
        self.item_id.is_some()
            && self.orphan == other.orphan
            && self.item_id == other.item_id
            && self.content_index == other.content_index
    }

    /// Bytes of the item up to the end of this run.
    fn queued(&self) -> u64 {
        self.base + (self.end - self.start)
    }

    fn heard(&self, offset: u64) -> u64 {
        self.base + (offset.clamp(self.start, self.end) - self.start)
    }

    fn settled(&self, offset: u64, text: String) -> Settled {
        Settled {
            item_id: self.item_id,
            response_id: self.response_id,
            content_index: self.content_index,
            heard: AudioMs::from_pcmu_bytes(self.heard(offset)),
            total: AudioMs::from_pcmu_bytes(self.received),
            whole: self.heard(offset) >= self.received,
            orphan: self.orphan,
            text,
        }
    }
}

/// What became of an item.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settled {
    /// The item, where it has an id.
    pub item_id: Option<ItemId>,
    /// Its response, where it is known.
    pub response_id: Option<ResponseId>,
    /// The part of the item.
    pub content_index: u64,
    /// Heard, whole milliseconds: at most `total`.
    pub heard: AudioMs,
    /// Received.
    pub total: AudioMs,
    /// Every byte of it was heard.
    pub whole: bool,
    /// Its session is gone: the model can't be told.
    pub orphan: bool,
    /// Its transcript as far as it was heard: all of it, or cut in proportion.
    pub text: String,
}

/// A place in an item, for the name of a mark.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The item's number.
    pub item: u32,
    /// How much of the item.
    pub sent: AudioMs,
}

/// How audio stands to what the ledger knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// More of the item that is being queued.
    Current,
    /// The beginning of an item, or more of one after another's audio.
    Another,
    /// Of an item of which nothing more is played.
    Closed,
}

/// The ledger of one call.
#[derive(Clone, Debug, Default)]
pub struct Playback {
    /// Oldest first, end to start without a hole; the first may be heard in part.
    runs: VecDeque<Run>,
    items: u32,
    queued: u64,
    sent: u64,
    heard: u64,
    /// When the byte at `heard` began to play; only meaningful while heard < sent.
    at: Mono,
    /// Items that are closed, in a circle: one part of them, or all (`None`).
    closed: [Option<(ItemId, Option<u64>)>; CLOSED_MAX],
    closed_next: usize,
    texts: VecDeque<(ItemId, String)>,
}

impl Playback {
    /// Lets the clock run up to `now`.
    pub fn advance(&mut self, now: Mono) {
        let bytes = now.0.saturating_sub(self.at.0) / NS_PER_BYTE;
        if self.heard + bytes >= self.sent {
            self.heard = self.sent;
            self.at = self.at.max(now);
        } else {
            self.heard += bytes;
            self.at.0 += bytes * NS_PER_BYTE;
            #[cfg(feature = "planted-bugs")]
            if super::planted::is(super::planted::Planted::ClockTooFast) {
                self.heard = (self.heard + bytes / 4).min(self.sent);
            }
        }
    }

    /// What audio of this item is to us.
    pub fn standing(&self, item_id: Option<&str>, content_index: u64) -> Standing {
        match self.runs.back() {
            Some(run) if run.is(item_id, content_index) => {
                return match (run.done, item_id) {
                    (false, _) => Standing::Current,
                    (true, Some(_)) => Standing::Closed,
                    // Nobody can tell whether it is the same one.
                    (true, None) => Standing::Another,
                };
            }
            _ => {}
        }
        let Some(id) = item_id else {
            return Standing::Another;
        };
        let closed = self.is_closed(id, content_index)
            || self
                .runs
                .iter()
                .any(|run| run.done && run.is(Some(id), content_index));
        match closed {
            true => Standing::Closed,
            false => Standing::Another,
        }
    }

    /// Audio of another item follows. `false`: there are too many that nobody has heard yet.
    pub fn begin(
        &mut self,
        item_id: Option<ItemId>,
        response_id: Option<ResponseId>,
        content_index: u64,
    ) -> bool {
        if self.runs.len() == RUNS_MAX {
            return false;
        }
        let mut run = Run {
            item_id,
            response_id,
            content_index,
            number: 0,
            start: self.queued,
            end: self.queued,
            base: 0,
            received: 0,
            done: false,
            orphan: false,
        };
        match self.runs.iter().rev().find(|old| old.same_item(&run)) {
            Some(old) => {
                (run.number, run.base, run.received) = (old.number, old.queued(), old.received);
            }
            None => {
                self.items = self.items.saturating_add(1);
                run.number = self.items;
            }
        }
        self.runs.push_back(run);
        true
    }

    /// Audio of the current item was accepted.
    pub fn queue(&mut self, bytes: u64) {
        if let Some(run) = self.runs.back_mut() {
            self.queued += bytes;
            run.end += bytes;
            run.received += bytes;
        }
    }

    /// Audio came that will not be played. When it is the current item's, that item ends here.
    pub fn refuse(&mut self, item_id: Option<&str>, content_index: u64, bytes: u64) {
        let found = |run: &&mut Run| run.is(item_id, content_index);
        if let Some(run) = self.runs.iter_mut().rev().find(found) {
            run.received += bytes;
            run.done = true;
        }
    }

    /// The socket has taken so much more.
    pub fn on_sent(&mut self, bytes: u64, now: Mono) {
        self.advance(now);
        self.sent = (self.sent + bytes).min(self.queued);
    }

    /// A mark that stands at `offset` came back, and no `clear` was sent since it went out. `false`: earlier than it
    /// can have been played, so it says nothing.
    pub fn on_mark(&mut self, offset: u64, now: Mono) -> bool {
        self.advance(now);
        let offset = offset.min(self.sent);
        if offset <= self.heard {
            return true;
        }
        if offset - self.heard > MARK_LEAD_MAX.pcmu_bytes() {
            return false;
        }
        self.heard = offset;
        self.at = now;
        true
    }

    /// An item's audio is complete.
    pub fn on_item_done(&mut self, item_id: Option<&str>, content_index: u64) {
        if item_id.is_none() {
            if let Some(run) = self.runs.back_mut() {
                run.done = true;
            }
            return;
        }
        for run in &mut self.runs {
            run.done |= run.is(item_id, content_index);
        }
    }

    /// A response is complete, and all of its items with it. Without an id: all there are, since there is one at a time.
    pub fn on_response_done(&mut self, response_id: Option<&str>) {
        for run in &mut self.runs {
            let of_it = match (response_id, &run.response_id) {
                (Some(id), Some(own)) => own.is(id),
                _ => true,
            };
            run.done |= of_it;
        }
    }

    /// The model's session is gone: what waits is still played, but the model can't be told of it.
    pub fn on_session_lost(&mut self) {
        for run in &mut self.runs {
            run.done = true;
            run.orphan = true;
        }
        self.closed = Default::default();
    }

    /// The next item that is over and done: all of its audio that was queued has been heard.
    pub fn take_settled(&mut self) -> Option<Settled> {
        while self
            .runs
            .front()
            .is_some_and(|run| run.done && run.end <= self.heard)
        {
            let run = self.runs.pop_front()?;
            // An item in several runs is settled with its last.
            if self.runs.iter().any(|later| later.same_item(&run)) {
                continue;
            }
            // Its other parts may still come.
            return Some(self.settle(&run, self.heard, Some(run.content_index)));
        }
        None
    }

    /// Takes the next item off the ledger as it stands, heard or not, the oldest first. For the caller who interrupts,
    /// and for the end of a call: once it gives `None`, nothing is queued any more.
    pub fn take_cut(&mut self) -> Option<Settled> {
        while let Some(run) = self.runs.pop_front() {
            let heard = self.heard;
            // What was queued of it never will be heard.
            (self.heard, self.sent) = (self.heard.max(run.end), self.sent.max(run.end));
            if let Some(later) = self.runs.iter_mut().find(|later| later.same_item(&run)) {
                // Settled with its last run; heard only as far as here when this one was not heard to its end.
                if heard < run.end {
                    (later.base, later.start) = (run.heard(heard), later.end);
                }
                continue;
            }
            return Some(self.settle(&run, heard, None));
        }
        (self.heard, self.sent) = (self.queued, self.queued);
        None
    }

    /// What was sent and not heard was cleared but is kept: it will be sent again from `heard` on.
    pub fn rewind(&mut self) {
        self.sent = self.heard;
    }

    /// As if nothing behind `offset` had been heard or sent. At most a few bytes back: audio is sent again in whole groups
    /// of its base64.
    pub fn rewind_to(&mut self, offset: u64) {
        self.heard = self.heard.min(offset);
        self.sent = self.heard;
    }

    /// Whether anything that came is still to be heard. As of the last `advance`.
    pub fn is_unheard(&self) -> bool {
        self.heard < self.queued
    }

    /// Audio that came and is still to be heard. As of the last `advance`.
    pub fn unplayed_ms(&self) -> AudioMs {
        AudioMs::from_pcmu_bytes(self.queued - self.heard)
    }

    /// The same in bytes.
    pub fn unplayed_bytes(&self) -> u64 {
        self.queued - self.heard
    }

    /// When everything that came will have been heard, should nothing follow, and what waits to be sent go out in time;
    /// `now` when it has been.
    pub fn silent_at(&self, now: Mono) -> Mono {
        // While nothing that was sent plays, the first byte begins now at the earliest.
        let from = match self.heard < self.sent {
            true => self.at,
            false => now,
        };
        now.max(from + Duration::from_nanos(self.unplayed_bytes() * NS_PER_BYTE))
    }

    /// How much of an item was received, queued and heard. `None` once it is settled, or when it never had audio.
    pub fn item(&self, item_id: &str, content_index: u64) -> Option<(AudioMs, AudioMs, AudioMs)> {
        let mut found = None;
        let mut heard = 0;
        for run in &self.runs {
            if run.is(Some(item_id), content_index) {
                // Of a run behind one that is not heard to its end nothing is heard, so the larger is right.
                heard = heard.max(match run.start < self.heard {
                    true => run.heard(self.heard),
                    false => 0,
                });
                found = Some((run.received, run.queued(), heard));
            }
        }
        let ms = AudioMs::from_pcmu_bytes;
        found.map(|(received, queued, heard)| (ms(received), ms(queued), ms(heard)))
    }

    /// The three offsets on the line: heard, sent, queued.
    pub fn offsets(&self) -> (u64, u64, u64) {
        (self.heard, self.sent, self.queued)
    }

    /// The end of what is queued, as a place for a mark; `None` when nothing of the current item is.
    pub fn end_place(&self) -> Option<Place> {
        let run = self.runs.back()?;
        (run.end > run.start).then(|| Place {
            item: run.number,
            sent: AudioMs::from_pcmu_bytes(run.queued()),
        })
    }

    /// The place at `offset`, which is the end of some audio; `None` when that is settled.
    pub fn place(&self, offset: u64) -> Option<Place> {
        let run = self
            .runs
            .iter()
            .find(|run| run.start < offset && offset <= run.end)?;
        Some(Place {
            item: run.number,
            sent: AudioMs::from_pcmu_bytes(run.heard(offset)),
        })
    }

    /// Nothing more of this item is played: none of its parts.
    pub fn close(&mut self, item_id: ItemId) {
        self.close_part(item_id, None);
    }

    fn close_part(&mut self, item_id: ItemId, part: Option<u64>) {
        let entry = Some((item_id, part));
        if !self.closed.contains(&entry) {
            self.closed[self.closed_next] = entry;
            self.closed_next = (self.closed_next + 1) % CLOSED_MAX;
        }
    }

    /// Whether nothing more of this part of an item is played: as far as we remember.
    pub fn is_closed(&self, item_id: &str, content_index: u64) -> bool {
        self.closed
            .iter()
            .flatten()
            .any(|(id, part)| id.is(item_id) && part.is_none_or(|part| part == content_index))
    }

    /// A piece of what an item says, which belongs to its audio in proportion.
    pub fn on_text(&mut self, item_id: ItemId, text: &str, whole: bool) {
        let is_over = self.closed.iter().flatten().any(|(id, _)| *id == item_id);
        if is_over && !self.runs.iter().any(|run| run.item_id == Some(item_id)) {
            return;
        }
        let at = match self.texts.iter().position(|(id, _)| *id == item_id) {
            Some(at) => at,
            None => {
                if self.texts.len() == TEXTS_MAX {
                    self.texts.pop_front();
                }
                self.texts.push_back((item_id, String::new()));
                self.texts.len() - 1
            }
        };
        let kept = &mut self.texts[at].1;
        if whole {
            kept.clear();
        }
        let room = TEXT_BYTES_MAX - kept.len();
        kept.push_str(&text[..text.floor_char_boundary(room)]);
    }

    fn settle(&mut self, run: &Run, heard: u64, part: Option<u64>) -> Settled {
        let mut text = String::new();
        if let Some(id) = run.item_id {
            if !run.orphan {
                self.close_part(id, part);
            }
            if let Some(at) = self.texts.iter().position(|(kept, _)| *kept == id)
                && let Some((_, whole)) = self.texts.remove(at)
            {
                text = whole;
                let end = heard_text(&text, run.heard(heard), run.received).len();
                text.truncate(end);
            }
        }
        run.settled(heard, text)
    }
}

/// The front of `text` that `heard` of `total` bytes of its audio say: in proportion of characters, and no word is cut
/// through where there are words.
pub fn heard_text(text: &str, heard: u64, total: u64) -> &str {
    if heard >= total {
        return text;
    }
    let chars = text.chars().count() as u64;
    let keep = (u128::from(chars) * u128::from(heard) / u128::from(total)) as usize;
    let end = text.char_indices().nth(keep).map_or(text.len(), |(i, _)| i);
    let (front, rest) = text.split_at(end);
    if front.is_empty() || rest.is_empty() || rest.starts_with(char::is_whitespace) {
        return front.trim_end();
    }
    // A word longer than this is none (or the language writes no spaces).
    const WORD_MAX: usize = 32;
    let from = front.ceil_char_boundary(front.len().saturating_sub(WORD_MAX));
    match front[from..].rfind(char::is_whitespace) {
        Some(space) => front[..from + space].trim_end(),
        None if from == 0 && !text.is_ascii() => front,
        None if from == 0 => "",
        None => front,
    }
}

#[cfg(test)]
mod tests;
