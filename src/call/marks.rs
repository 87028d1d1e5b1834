//! Marks: what they are called, when one is due, and which are still out. Core; used by `Call` alone.
//!
//! A name is `g<generation>.<item number>.<ms>`: the generation goes up with each `clear` (so a mark that
//! comes back late is known to be flushed, not played), items are numbered from 1 within the call, and `ms` is
//! how much of the item was sent when the mark was. No two marks of a call have the same name.
//!
//! What a mark proves is `playback`'s matter: a mark that is out remembers its offset on the ledger's line, and one of an
//! older generation came back because of a `clear`, not because it was heard.

use crate::base::id::Inline;
use crate::base::limit::MARK_INTERVAL_MS;
use crate::base::unit::AudioMs;
#[cfg(feature = "planted-bugs")]
use crate::call::planted;
use crate::call::playback::Place;
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

/// A mark that came back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Returned {
    /// Where it stands.
    pub position: Position,
    /// The same on the ledger's line.
    pub offset: u64,
    /// A `clear` was sent since it was: it may never have been played.
    pub flushed: bool,
}

/// Marks of one call.
#[derive(Clone, Debug, Default)]
pub struct Marks {
    generation: u32,
    /// The last mark, and its offset.
    last: Option<Position>,
    marked: u64,
    /// Sent and not returned, oldest first, with their offsets.
    out: VecDeque<(Position, u64)>,
}

impl Marks {
    /// Whether a mark is due when so much is queued.
    pub fn is_due(&self, queued: u64) -> bool {
        queued.saturating_sub(self.marked) >= AudioMs(MARK_INTERVAL_MS).pcmu_bytes()
    }

    /// The mark for `place`; `None` when one of that name was sent last, or is out: less than a millisecond more of an item,
    /// and another's audio in between.
    pub fn at(&self, place: Place) -> Option<Position> {
        let position = Position {
            generation: self.generation,
            #[cfg(not(feature = "planted-bugs"))]
            item: place.item,
            #[cfg(feature = "planted-bugs")]
            item: match planted::is(planted::Planted::MarkNameReused) {
                true => 1,
                false => place.item,
            },
            sent: place.sent,
        };
        // What is sent of an item only grows, so its newest mark decides; that is nearly always the last one.
        let newest = (self.out.iter().rev())
            .map(|&(out, _)| out)
            .take_while(|out| out.generation == position.generation)
            .find(|out| out.item == position.item);
        (newest != Some(position) && self.last != Some(position)).then_some(position)
    }

    /// The mark at `position` was sent, behind the audio that ends at `offset`.
    pub fn sent(&mut self, position: Position, offset: u64) {
        self.last = Some(position);
        self.marked = offset;
        if self.out.len() == OUT_MAX {
            self.out.pop_front();
        }
        self.out.push_back((position, offset));
    }

    /// A `clear` follows, and what is sent from now on ends behind `offset`. The last `unsent` marks never went out.
    pub fn clear(&mut self, unsent: usize, offset: u64) {
        self.generation = self.generation.saturating_add(1);
        self.out.truncate(self.out.len().saturating_sub(unsent));
        self.marked = offset;
    }

    /// A mark came back; `None` when no such mark is out.
    pub fn returned(&mut self, name: &str) -> Option<Returned> {
        let position = Position::parse(name)?;
        // They come back in order, so the first is nearly always the one. One that was passed over is still
        // out: nothing says that carriers never reorder.
        let at = self.out.iter().position(|&(out, _)| out == position)?;
        let (position, offset) = self.out.remove(at)?;
        Some(Returned {
            position,
            offset,
            flushed: position.generation != self.generation,
        })
    }

    /// Whether every mark sent has come back.
    pub fn none_out(&self) -> bool {
        self.out.is_empty()
    }

    /// How many clears there were.
    pub fn generation(&self) -> u32 {
        self.generation
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn place(item: u32, ms: u64) -> Place {
        Place {
            item,
            sent: AudioMs(ms),
        }
    }

    #[test]
    fn a_mark_is_due_every_two_hundred_ms() {
        let mut marks = Marks::default();
        let mut names = Vec::new();
        for n in 1..=25 {
            if marks.is_due(n * 160) {
                let position = marks.at(place(1, n * 20)).unwrap();
                marks.sent(position, n * 160);
                names.push(position.name().as_str().to_owned());
            }
        }
        assert_eq!(names, ["g0.1.200", "g0.1.400"]);
    }

    #[test]
    fn none_goes_twice_to_the_same_place() {
        let mut marks = Marks::default();
        let position = marks.at(place(1, 200)).unwrap();
        marks.sent(position, 1600);
        assert_eq!(marks.at(place(1, 200)), None);
        assert!(marks.at(place(1, 201)).is_some());
        assert!(marks.at(place(2, 200)).is_some());
        // Nor once another item's was sent.
        let other = marks.at(place(2, 200)).unwrap();
        marks.sent(other, 3_200);
        assert_eq!(marks.at(place(1, 200)), None);
    }

    #[test]
    fn only_marks_that_are_out_come_back_and_each_once() {
        let mut marks = Marks::default();
        let position = marks.at(place(1, 200)).unwrap();
        marks.sent(position, 1600);
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
        let returned = marks.returned("g0.1.200").unwrap();
        assert_eq!((returned.position, returned.offset), (position, 1600));
        assert!(!returned.flushed);
        assert_eq!(marks.returned("g0.1.200"), None);
    }

    #[test]
    fn after_a_clear_what_comes_back_is_flushed_and_what_never_went_out_is_unknown() {
        let mut marks = Marks::default();
        for ms in [200, 400, 600] {
            let position = marks.at(place(1, ms)).unwrap();
            marks.sent(position, ms * 8);
        }
        marks.clear(1, 4_800);
        assert!(marks.returned("g0.1.200").unwrap().flushed);
        assert!(marks.returned("g0.1.400").unwrap().flushed);
        assert_eq!(marks.returned("g0.1.600"), None);
        assert!(!marks.is_due(4_800 + 1_599) && marks.is_due(4_800 + 1_600));
        let position = marks.at(place(2, 200)).unwrap();
        assert_eq!(position.name().as_str(), "g1.2.200");
        marks.sent(position, 6_400);
        assert!(!marks.returned("g1.2.200").unwrap().flushed);
    }

    #[test]
    fn marks_that_never_come_back_are_forgotten_in_the_end() {
        let mut marks = Marks::default();
        for n in 1..=OUT_MAX as u64 + 10 {
            let position = marks.at(place(1, n * 200)).unwrap();
            marks.sent(position, n * 1_600);
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
        fn any_name_parses_to_itself_or_not_at_all(name in "g?[0-9.+-]{0,24}") {
            if let Some(position) = Position::parse(&name) {
                let again = position.name();
                prop_assert_eq!(again.as_str(), &name);
            }
        }

        #[test]
        fn names_are_unique_in_a_call(steps in proptest::collection::vec((1u64..400, 0u8..4), 0..300)) {
            let mut marks = Marks::default();
            let mut names = BTreeSet::new();
            let (mut item, mut ms, mut offset) = (1, 0, 0);
            for (step, what) in steps {
                match what {
                    0 => (item, ms) = (item + 1, 0),
                    1 => marks.clear(0, offset),
                    _ => {
                        ms += step;
                        offset += step * 8;
                        if let Some(position) = marks.at(place(item, ms)) {
                            marks.sent(position, offset);
                            prop_assert!(names.insert(position.name()));
                        }
                    }
                }
            }
        }
    }
}
