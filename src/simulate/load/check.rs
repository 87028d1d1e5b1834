//! What may not happen to a call's audio, and who says so: one direction of one call as a sequence. Pure.

use super::stamp::{Damage, Way};
use std::fmt;

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A frame never arrived.
    Lost,
    /// A frame arrived twice.
    Duplicated,
    /// A frame arrived after a later one.
    Reordered,
    /// A frame of another call, of the other direction, or of nobody.
    Foreign,
    /// A frame with other bytes than were sent.
    Altered,
    /// Audio of an answer after the `clear` that cut it.
    AfterClear,
    /// A barge-in without `clear`.
    NoClear,
    /// A `clear` without a barge-in.
    StrangeClear,
    /// A barge-in without a right `conversation.item.truncate`.
    Truncation,
    /// A mark that came twice, or one that was never returned.
    Mark,
    /// A message that its vendor's reference does not allow.
    Message,
    /// The call could not be set up.
    Setup,
    /// The relay ended the call, or did not end it when asked.
    End,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 13] = [
        Kind::Lost,
        Kind::Duplicated,
        Kind::Reordered,
        Kind::Foreign,
        Kind::Altered,
        Kind::AfterClear,
        Kind::NoClear,
        Kind::StrangeClear,
        Kind::Truncation,
        Kind::Mark,
        Kind::Message,
        Kind::Setup,
        Kind::End,
    ];

    /// For people and for the JSON document.
    pub fn label(self) -> &'static str {
        match self {
            Kind::Lost => "lost",
            Kind::Duplicated => "duplicated",
            Kind::Reordered => "reordered",
            Kind::Foreign => "foreign",
            Kind::Altered => "altered",
            Kind::AfterClear => "after_clear",
            Kind::NoClear => "no_clear",
            Kind::StrangeClear => "strange_clear",
            Kind::Truncation => "truncation",
            Kind::Mark => "mark",
            Kind::Message => "message",
            Kind::Setup => "setup",
            Kind::End => "end",
        }
    }
}

/// One fault, with the call and, where there is one, the frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What.
    pub kind: Kind,
    /// Serial number of the call.
    pub call: u32,
    /// Which way the frame went.
    pub way: Option<Way>,
    /// Number of the frame in its direction, and how many more follow it in the same fault.
    pub frame: Option<(u32, u32)>,
    /// More, for people.
    pub detail: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "call {}", self.call)?;
        if let Some(way) = self.way {
            write!(f, ", {}", way.label())?;
        }
        match self.frame {
            Some((first, 0)) => write!(f, ", frame {first}")?,
            Some((first, more)) => write!(f, ", frames {first} to {}", first + more)?,
            None => {}
        }
        write!(f, ": {}", self.kind.label())?;
        if !self.detail.is_empty() {
            write!(f, " ({})", self.detail)?;
        }
        Ok(())
    }
}

/// Faults kept with their words; all are counted.
const KEPT: usize = 100;

/// All faults of a run.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    counts: [u64; Kind::ALL.len()],
    kept: Vec<Fault>,
}

impl Faults {
    /// Takes one.
    pub fn push(&mut self, fault: Fault) {
        self.counts[fault.kind as usize] += 1 + fault.frame.map_or(0, |(_, more)| u64::from(more));
        if self.kept.len() < KEPT {
            self.kept.push(fault);
        }
    }

    /// How many in all; a run of lost frames counts each.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// How many of a kind.
    pub fn count(&self, kind: Kind) -> u64 {
        self.counts[kind as usize]
    }

    /// The first of them.
    pub fn kept(&self) -> &[Fault] {
        &self.kept
    }
}

/// One direction of one call, as its receiver sees it.
///
/// Frames are numbered from 0. A gap is remembered; a frame that fills it later was reordered, what is left at the end was
/// lost. After `cut`, frames below its end may stay away, from some point on and then all of them.
#[derive(Clone, Debug, Default)]
pub struct Track {
    /// The number that comes next.
    next: u32,
    /// Numbers that did not come, as ranges below `next`.
    missing: Vec<(u32, u32)>,
    /// What an interruption allows to be left out: from, to.
    cut: Option<(u32, u32)>,
    /// Frames below this must not come any more: they were cleared.
    cleared: u32,
    /// Frames that came.
    received: u64,
}

impl Track {
    /// Frames that came, whatever they were.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// The number that comes next.
    pub fn next(&self) -> u32 {
        self.next
    }

    /// Whether everything below `sent` came or need not come.
    pub fn is_complete(&self, sent: u32) -> bool {
        self.missing.is_empty() && (self.next >= sent || self.cut.is_some_and(|(_, to)| to >= sent))
    }

    /// Frames from `from` to `to` belong to an answer that was interrupted: they may stay away.
    pub fn cut(&mut self, from: u32, to: u32) {
        self.cut = match self.cut {
            // Answers one after another may be cut while nothing came in between.
            Some((earlier, until)) if until >= from => Some((earlier, to.max(until))),
            _ => Some((from, to)),
        };
    }

    /// The receiver was told to forget what it had: nothing of what was cut may come after this.
    pub fn clear(&mut self) {
        if let Some((_, to)) = self.cut {
            self.cleared = to;
        }
    }

    /// Takes a frame's number; says what is wrong with it.
    pub fn take(&mut self, seq: u32) -> Option<Kind> {
        self.received += 1;
        if seq >= self.next {
            let is_cleared = seq < self.cleared;
            let from = self.next;
            self.next = seq + 1;
            if from < seq {
                // A gap that reaches the end of what was cut is what the interruption left out; what else is in it is missing.
                match self.cut {
                    Some((start, to)) if start < seq && from < to && to <= seq => {
                        let around = [(from, start), (to, seq)];
                        self.missing
                            .extend(around.iter().filter(|(from, to)| from < to));
                    }
                    _ => self.missing.push((from, seq)),
                }
            }
            return is_cleared.then_some(Kind::AfterClear);
        }
        let Some(at) = self
            .missing
            .iter()
            .position(|(from, to)| (*from..*to).contains(&seq))
        else {
            return Some(Kind::Duplicated);
        };
        let (from, to) = self.missing.remove(at);
        for part in [(from, seq), (seq + 1, to)] {
            if part.0 < part.1 {
                self.missing.push(part);
            }
        }
        Some(Kind::Reordered)
    }

    /// What never came of `sent` frames: ranges.
    pub fn lost(&self, sent: u32) -> Vec<(u32, u32)> {
        let mut lost = self.missing.clone();
        lost.sort_unstable();
        if self.next < sent {
            match self.cut {
                Some((start, to)) if start <= self.next => {
                    if to < sent {
                        lost.push((to.max(self.next), sent));
                    }
                }
                Some((start, to)) => {
                    lost.push((self.next, start));
                    if to < sent {
                        lost.push((to, sent));
                    }
                }
                None => lost.push((self.next, sent)),
            }
        }
        lost
    }
}

impl From<Damage> for Kind {
    fn from(damage: Damage) -> Self {
        match damage {
            Damage::Silence | Damage::Foreign => Kind::Foreign,
            Damage::Altered => Kind::Altered,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(frames: &[u32]) -> (Track, Vec<(u32, Kind)>) {
        let mut track = Track::default();
        let faults = frames
            .iter()
            .filter_map(|seq| track.take(*seq).map(|kind| (*seq, kind)))
            .collect();
        (track, faults)
    }

    #[test]
    fn frames_in_order_are_no_fault() {
        let (track, faults) = run(&[0, 1, 2, 3]);
        assert!(faults.is_empty() && track.is_complete(4) && track.lost(4).is_empty());
        assert!(!track.is_complete(5));
    }

    #[test]
    fn a_lost_frame_is_named_in_the_middle_and_at_the_end() {
        let (track, faults) = run(&[0, 1, 4, 5]);
        assert!(faults.is_empty(), "a gap may still be filled");
        assert_eq!(track.lost(8), [(2, 4), (6, 8)]);
        assert!(!track.is_complete(6));
    }

    #[test]
    fn a_duplicate_is_named() {
        assert_eq!(run(&[0, 1, 1, 2]).1, [(1, Kind::Duplicated)]);
        assert_eq!(run(&[0, 1, 2, 0]).1, [(0, Kind::Duplicated)]);
    }

    #[test]
    fn a_late_frame_is_reordered_once_and_then_a_duplicate() {
        let (track, faults) = run(&[0, 2, 3, 1, 1]);
        assert_eq!(faults, [(1, Kind::Reordered), (1, Kind::Duplicated)]);
        assert!(track.lost(4).is_empty());
        let (track, faults) = run(&[0, 5, 2]);
        assert_eq!(faults, [(2, Kind::Reordered)]);
        assert_eq!(track.lost(6), [(1, 2), (3, 5)]);
    }

    #[test]
    fn what_was_cut_may_stay_away_but_not_its_middle_and_not_more() {
        // An answer of frames 10 to 20 was cut; the next begins at 20.
        let cut = |frames: &[u32]| {
            let mut track = Track::default();
            for seq in 0..12 {
                track.take(seq);
            }
            track.cut(10, 20);
            let faults: Vec<Kind> = frames.iter().filter_map(|seq| track.take(*seq)).collect();
            (track, faults)
        };
        let (track, faults) = cut(&[12, 20, 21]);
        assert!(faults.is_empty() && track.lost(22).is_empty());
        let (track, _) = cut(&[14, 20]);
        assert_eq!(track.lost(21), [(12, 14)], "from its middle");
        let (track, _) = cut(&[22]);
        assert_eq!(track.lost(23), [(20, 22)], "the next one's first");
        let (track, _) = cut(&[]);
        assert!(track.is_complete(20) && track.lost(20).is_empty());
        assert_eq!(track.lost(23), [(20, 23)], "after it");
    }

    #[test]
    fn nothing_of_a_cleared_answer_may_follow() {
        let mut track = Track::default();
        (0..12).for_each(|seq| assert_eq!(track.take(seq), None));
        track.cut(10, 20);
        track.clear();
        assert_eq!(track.take(12), Some(Kind::AfterClear));
        assert_eq!(track.take(20), None);
    }

    #[test]
    fn a_fault_names_call_way_and_frames() {
        let fault = Fault {
            kind: Kind::Lost,
            call: 7,
            way: Some(Way::Up),
            frame: Some((3, 2)),
            detail: String::new(),
        };
        assert_eq!(
            fault.to_string(),
            "call 7, carrier to model, frames 3 to 5: lost"
        );
        let mut faults = Faults::default();
        faults.push(fault);
        assert_eq!((faults.total(), faults.count(Kind::Lost)), (3, 3));
    }
}
