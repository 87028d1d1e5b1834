//! What a look at the whole journal found, as values and as text for people.

use super::seq::Seq;
use std::fmt;

/// Losses that are listed one by one; further ones are counted.
pub const GAPS_LISTED_MAX: usize = 1_000;

/// One segment, as it was found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SegmentReport {
    /// The file.
    pub name: String,
    /// The process that wrote it, and the how-manieth file of that process it is.
    pub epoch: u32,
    /// See `epoch`.
    pub index: u32,
    /// Both copies of the head are damaged: nothing in it can be read.
    pub unreadable: bool,
    /// One copy of the head is damaged; nothing is lost by that.
    pub head_damaged: bool,
    /// The number that its first entry has or would have.
    pub first: Seq,
    /// The last entry that was durable when it was begun.
    pub prior: Seq,
    /// Its last whole entry's number; `Seq::NONE` when it has none.
    pub last: Seq,
    /// Whole entries, tombstones among them.
    pub entries: u64,
    /// Tombstones of erased entries.
    pub erased: u64,
    /// Tombstones of entries that were found damaged when the file was written anew.
    pub lost: u64,
    /// The file's length.
    pub bytes: u64,
    /// Bytes between entries that belong to none.
    pub damaged_bytes: u64,
    /// Bytes behind the last entry: a write that was cut off, or that failed and was done again in the next segment.
    pub tail_bytes: u64,
    /// Bytes that the disk cannot read; part of the two above.
    pub unreadable_bytes: u64,
}

impl SegmentReport {
    /// The file's offset behind its last entry.
    pub(super) fn sound_bytes(&self) -> u64 {
        self.bytes - self.tail_bytes
    }
}

/// One snapshot, as it was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotReport {
    /// The file.
    pub name: String,
    /// The last entry that it stands for.
    pub covers: Seq,
    /// Whole entries in it.
    pub entries: u64,
    /// The file's length.
    pub bytes: u64,
    /// It has its end and no damage. Another is used only when no complete one is left.
    pub complete: bool,
}

/// Entries that are lost: all numbers from `first` to `last`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gap {
    /// The first.
    pub first: Seq,
    /// The last.
    pub last: Seq,
    /// They had been durable. False: they stood in the last group commit of their segment, which a crash may have cut
    /// before anybody was told that it was done.
    pub proven: bool,
}

/// The journal, as it was found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// In order.
    pub segments: Vec<SegmentReport>,
    /// In the order in which they were begun.
    pub snapshots: Vec<SnapshotReport>,
    /// What is lost and no complete snapshot stands for; at most [`GAPS_LISTED_MAX`] are listed.
    pub gaps: Vec<Gap>,
    /// Losses beyond those.
    pub gaps_unlisted: u64,
    /// Unfinished files of a process that ended; removed at the next opening.
    pub temporary: u64,
    /// The tail of the last segment was cut off at this opening.
    pub truncated_bytes: u64,
    /// The last whole entry's number.
    pub last: Seq,
}

impl Report {
    /// Whole entries in all segments, tombstones among them.
    pub fn entries(&self) -> u64 {
        self.segments.iter().map(|segment| segment.entries).sum()
    }

    /// How many entries are lost, as far as they are listed.
    pub fn lost_entries(&self) -> u64 {
        self.gaps
            .iter()
            .map(|gap| gap.first.through(gap.last).max(1))
            .sum()
    }

    /// The last entry that a complete snapshot stands for.
    pub fn covers(&self) -> Seq {
        self.snapshots
            .iter()
            .filter(|snapshot| snapshot.complete)
            .map(|snapshot| snapshot.covers)
            .max()
            .unwrap_or_default()
    }

    /// Nothing is damaged or lost. A torn tail is no damage: nobody was told that it was durable.
    pub fn is_sound(&self) -> bool {
        self.gaps.is_empty()
            && self.gaps_unlisted == 0
            && self.snapshots.iter().all(|snapshot| snapshot.complete)
            && self.segments.iter().all(|segment| {
                !segment.unreadable
                    && !segment.head_damaged
                    && segment.damaged_bytes == 0
                    && segment.unreadable_bytes == 0
            })
    }

    pub(super) fn add_gap(&mut self, gap: Gap) {
        if self.gaps.len() < GAPS_LISTED_MAX {
            self.gaps.push(gap);
        } else {
            self.gaps_unlisted += 1;
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes: u64 = self.segments.iter().map(|segment| segment.bytes).sum();
        writeln!(
            f,
            "{} entries in {} segments ({bytes} bytes), {} snapshots, last entry {}",
            self.entries(),
            self.segments.len(),
            self.snapshots.len(),
            self.last,
        )?;
        for segment in &self.segments {
            let name = &segment.name;
            if segment.unreadable {
                writeln!(
                    f,
                    "{name}: its head is damaged, nothing of its {} bytes can be read",
                    segment.bytes
                )?;
            }
            if segment.head_damaged {
                writeln!(
                    f,
                    "{name}: one copy of its head is damaged, the other is used"
                )?;
            }
            if segment.unreadable_bytes > 0 {
                writeln!(
                    f,
                    "{name}: the disk cannot read {} bytes",
                    segment.unreadable_bytes
                )?;
            }
            if segment.damaged_bytes > 0 {
                writeln!(f, "{name}: {} bytes are damaged", segment.damaged_bytes)?;
            }
            if segment.tail_bytes > 0 {
                writeln!(
                    f,
                    "{name}: {} bytes of an unfinished write at the end",
                    segment.tail_bytes
                )?;
            }
        }
        for snapshot in self.snapshots.iter().filter(|snapshot| !snapshot.complete) {
            writeln!(f, "{}: damaged or cut short", snapshot.name)?;
        }
        if self.truncated_bytes > 0 {
            writeln!(
                f,
                "{} bytes of an unfinished write were cut off",
                self.truncated_bytes
            )?;
        }
        for gap in &self.gaps {
            let certainty = if gap.proven {
                "lost"
            } else {
                "lost, perhaps never finished"
            };
            if gap.first == gap.last {
                writeln!(f, "entry {}: {certainty}", gap.first)?;
            } else {
                writeln!(f, "entries {} to {}: {certainty}", gap.first, gap.last)?;
            }
        }
        if self.gaps_unlisted > 0 {
            writeln!(f, "and {} further losses", self.gaps_unlisted)?;
        }
        f.write_str(if self.is_sound() {
            "sound"
        } else {
            "damaged: the entries that are whole are used"
        })
    }
}
