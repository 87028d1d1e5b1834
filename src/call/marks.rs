//! Marks: what they are called, when one is due, and which are still out. Core; used by `Call` alone.
//!
//! A name is `g<generation>.<item number>.<ms>`: the generation goes up with each `clear` (so a mark that
//! comes back late is known to be flushed, not played), items are numbered from 1 within the call, and `ms` is
//! how much of the item was sent when the mark was. No two marks of a call have the same name.
//!
//! The playback ledger (what of an item was heard) will stand on this: `Marks::returned` already says which
//! position a mark stood for, and `generation` is moved by the barge-in that sends a `clear`.

use crate::base::id::{Inline, ItemId};
use crate::base::limit::MARK_INTERVAL_MS;
use crate::base::unit::AudioMs;
use std::collections::VecDeque;
use std::fmt::Write as _;

/// A mark's name, inline: `g` and three numbers of at most 10, 10 and 20 digits, with two dots.
pub type MarkName = Inline<43>;

/// Marks out at once; the oldest is forgotten past it. Twilio's queue of ten minutes would hold three times
/// this, but a carrier that never returns marks (a one-way stream) must not grow a call.
const OUT_MAX: usize = 1024;

/// A position in what was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Position {
    /// How many clears went before.
    pub generation: u32,
    /// The item's number in this call, from 1.
    pub item: u32,
    /// How much of the item.
    pub sent: AudioMs,
}

impl Position {
    /// The mark's name.
    pub fn name(self) -> MarkName {
        let mut text = Text {
            bytes: [0; MarkName::MAX],
            len: 0,
        };
        // Cannot fail: `MarkName` is as long as the three longest numbers.
        let _ = write!(text, "g{}.{}.{}", self.generation, self.item, self.sent.0);
        MarkName::new(text.as_str()).unwrap_or_default()
    }

    /// The position that a name stands for; `None` when it is not exactly of our making.
    pub fn parse(name: &str) -> Option<Self> {
        let mut parts = name.strip_prefix('g')?.split('.');
        let position = Self {
            generation: parts.next()?.parse().ok()?,
            item: parts.next()?.parse().ok()?,
            sent: AudioMs(parts.next()?.parse().ok()?),
        };
        // Leading zeros and signs parse as well: only the one spelling that we send counts.
        (parts.next().is_none() && position.name().as_str() == name).then_some(position)
    }
}

/// A little text on the stack, for formatting without allocation.
struct Text {
    bytes: [u8; MarkName::MAX],
    len: usize,
}

impl Text {
    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.len]).unwrap_or_default()
    }
}

impl std::fmt::Write for Text {
    fn write_str(&mut self, s: &str) -> std::fmt::Result {
        let end = self.len + s.len();
        let room = self.bytes.get_mut(self.len..end).ok_or(std::fmt::Error)?;
        room.copy_from_slice(s.as_bytes());
        self.len = end;
        Ok(())
    }
}

/// Marks of one call.
#[derive(Clone, Debug, Default)]
pub struct Marks {
    generation: u32,
    /// The item whose audio is being sent: its number, and its id where it has one.
    item: u32,
    item_id: Option<ItemId>,
    /// PCMU bytes of the item sent.
    sent_bytes: u64,
    /// `sent_bytes` at the item's last mark; `None` before its first.
    marked_bytes: Option<u64>,
    /// Sent and not returned, oldest first.
    out: VecDeque<Position>,
}

impl Marks {
    /// Whether audio with this item id belongs to the current item. Audio without an id belongs to whatever is
    /// current.
    pub fn is_current(&self, item_id: Option<&str>) -> bool {
        self.item > 0
            && match (item_id, &self.item_id) {
                (Some(id), Some(current)) => id == current.as_str(),
                (Some(_), None) => false,
                (None, _) => true,
            }
    }

    /// Another item's audio follows.
    pub fn begin_item(&mut self, item_id: Option<ItemId>) {
        self.item = self.item.saturating_add(1);
        self.item_id = item_id;
        self.sent_bytes = 0;
        self.marked_bytes = None;
    }

    /// Audio of the current item was sent. Returns the mark to send behind it, when one is due.
    pub fn on_sent(&mut self, bytes: u64) -> Option<Position> {
        self.sent_bytes += bytes;
        let since = self.sent_bytes - self.marked_bytes.unwrap_or(0);
        (since >= AudioMs(MARK_INTERVAL_MS).pcmu_bytes()).then(|| self.position())
    }

    /// The current item is complete. Returns the mark to send behind it, unless none of it was sent or a mark
    /// stands there already.
    pub fn on_item_end(&mut self) -> Option<Position> {
        if self.sent_bytes == 0 {
            return None;
        }
        let position = self.position();
        match self.marked_bytes {
            Some(bytes) if AudioMs::from_pcmu_bytes(bytes) == position.sent => None,
            _ => Some(position),
        }
    }

    /// The mark at `position` (the last one asked for) was sent.
    pub fn sent(&mut self, position: Position) {
        self.marked_bytes = Some(self.sent_bytes);
        if self.out.len() == OUT_MAX {
            self.out.pop_front();
        }
        self.out.push_back(position);
    }

    /// A mark came back: the position it stood for, or `None` when no such mark is out.
    pub fn returned(&mut self, name: &str) -> Option<Position> {
        let position = Position::parse(name)?;
        // They come back in order, so the first is nearly always the one. One that was passed over is still
        // out: nothing says that carriers never reorder.
        let at = self.out.iter().position(|&out| out == position)?;
        self.out.remove(at)
    }

    /// The current item's number; 0 before the first.
    pub fn item(&self) -> u32 {
        self.item
    }

    /// Whether every mark sent has come back.
    pub fn none_out(&self) -> bool {
        self.out.is_empty()
    }

    fn position(&self) -> Position {
        Position {
            generation: self.generation,
            item: self.item,
            sent: AudioMs::from_pcmu_bytes(self.sent_bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_mark_is_due_every_two_hundred_ms_and_at_the_end() {
        let mut marks = Marks::default();
        assert!(!marks.is_current(None));
        marks.begin_item(ItemId::new("item_a"));
        let mut names = Vec::new();
        for _ in 0..25 {
            if let Some(position) = marks.on_sent(160) {
                marks.sent(position);
                names.push(position.name().as_str().to_owned());
            }
        }
        assert_eq!(names, ["g0.1.200", "g0.1.400"]);
        assert_eq!(marks.on_item_end().unwrap().name().as_str(), "g0.1.500");
    }

    #[test]
    fn no_mark_before_audio_and_none_twice_at_the_same_place() {
        let mut marks = Marks::default();
        marks.begin_item(None);
        assert_eq!(marks.on_item_end(), None);
        let position = marks.on_sent(1600).unwrap();
        marks.sent(position);
        assert_eq!(marks.on_item_end(), None);
    }

    #[test]
    fn only_marks_that_are_out_come_back_and_each_once() {
        let mut marks = Marks::default();
        marks.begin_item(ItemId::new("a"));
        let position = marks.on_sent(1600).unwrap();
        marks.sent(position);
        for strange in [
            "",
            "g",
            "g0",
            "g0.1",
            "g0.1.200.",
            "g00.1.200",
            "g0.1.+200",
            "g0.2.200",
            "hello",
            "g0.1.99999999999999999999999",
        ] {
            assert_eq!(marks.returned(strange), None, "{strange}");
        }
        assert_eq!(marks.returned("g0.1.200"), Some(position));
        assert_eq!(marks.returned("g0.1.200"), None);
    }

    #[test]
    fn marks_that_never_come_back_are_forgotten_in_the_end() {
        let mut marks = Marks::default();
        marks.begin_item(None);
        for _ in 0..OUT_MAX + 10 {
            let position = marks.on_sent(1600).unwrap();
            marks.sent(position);
        }
        assert_eq!(marks.out.len(), OUT_MAX);
        assert_eq!(marks.returned("g0.1.200"), None);
        assert!(marks.returned("g0.1.204800").is_some());
    }

    #[test]
    fn the_longest_name_fits() {
        let position = Position {
            generation: u32::MAX,
            item: u32::MAX,
            sent: AudioMs(u64::MAX),
        };
        assert_eq!(Position::parse(position.name().as_str()), Some(position));
    }

    proptest! {
        #[test]
        fn names_are_unique_in_a_call(steps in proptest::collection::vec((0u64..4000, any::<bool>()), 0..300)) {
            let mut marks = Marks::default();
            marks.begin_item(None);
            let mut names = BTreeSet::new();
            for (bytes, end) in steps {
                if let Some(position) = marks.on_sent(bytes) {
                    marks.sent(position);
                    prop_assert!(names.insert(position.name()));
                }
                if end {
                    if let Some(position) = marks.on_item_end() {
                        marks.sent(position);
                        prop_assert!(names.insert(position.name()));
                    }
                    marks.begin_item(None);
                }
            }
        }
    }
}
