//! Hands out the journal's entries in order, from a position on. Shell; bounded memory.

use super::disk::Disk;
use super::entry::Content;
use super::error::JournalError;
use super::read::{FileScan, Found, Open};
use super::report::{SegmentReport, SnapshotReport};
use super::seq::Seq;
use super::verify::readable;
use crate::base::id::CallId;
use std::collections::VecDeque;

/// An entry as it was found. It borrows the reader's buffer until the next one is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Stored<'a> {
    /// Its number. In a snapshot: a number of the snapshot's own, which is no position in the journal.
    pub seq: Seq,
    /// It comes from the snapshot that the replay begins with.
    pub in_snapshot: bool,
    /// Whether it is the entry or a tombstone. Of a tombstone everything below is empty.
    pub content: Content,
    /// As it was appended.
    pub kind: u16,
    /// As it was appended.
    pub schema: u8,
    /// As it was appended.
    pub call_id: Option<CallId>,
    /// As it was appended.
    pub unix_ms: u64,
    /// As it was appended.
    pub body: &'a [u8],
}

/// What a replay begins with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Base {
    /// Entries of the journal alone, from the first above the position that was asked for.
    Entries,
    /// A snapshot that stands for everything up to and including this number: whoever replays forgets what he has
    /// and begins with it. Then the entries above it.
    Snapshot(Seq),
}

/// A replay under way. What is damaged is passed over; the report of the opening says what that was.
pub struct Replay<D: Disk> {
    disk: D,
    base: Base,
    /// Only entries above this.
    after: Seq,
    /// Only entries up to this.
    until: Seq,
    /// Files to come, each with the number from which on the next one stands for it.
    files: VecDeque<(String, Option<Seq>)>,
    current: Option<(Box<FileScan<D>>, Option<Seq>)>,
}

impl<D: Disk> Replay<D> {
    /// Entries above `after` and up to `until`, from these files.
    pub(super) fn plan(
        disk: D,
        (segments, snapshots): (&[SegmentReport], &[SnapshotReport]),
        after: Seq,
        until: Seq,
    ) -> Self {
        let complete = snapshots.iter().filter(|s| s.complete);
        let snapshot = complete.max_by_key(|s| s.covers).or_else(|| {
            // Better what is whole of a damaged one than nothing.
            snapshots.iter().max_by_key(|s| (s.covers, s.entries))
        });
        // Whether the segments that are left begin early enough.
        let first = segments.iter().find(|segment| !segment.unreadable);
        let reached = first.is_none_or(|segment| segment.prior <= after);
        let snapshot =
            snapshot.filter(|s| s.covers > after && (!reached || after == Seq::NONE && s.complete));
        let (base, after) = match snapshot {
            Some(snapshot) => (Base::Snapshot(snapshot.covers), snapshot.covers),
            None => (Base::Entries, after),
        };
        let snapshot = snapshot.map(|snapshot| (snapshot.name.clone(), None));
        let needed = |name: &str| segments.iter().any(|s| s.name == name && s.last > after);
        let rest = readable(segments)
            .into_iter()
            .filter(|(name, _)| needed(name));
        Self {
            disk,
            base,
            after,
            until,
            files: snapshot.into_iter().chain(rest).collect(),
            current: None,
        }
    }

    /// What it begins with.
    pub fn base(&self) -> Base {
        self.base
    }

    /// The next entry; `None` when all that was durable when the replay was made has been handed out.
    ///
    /// `JournalError::Gone`: a compaction removed a file meanwhile; make a new replay from the last position.
    #[allow(clippy::should_implement_trait)] // an entry borrows the buffer, which an Iterator cannot say
    pub fn next(&mut self) -> Result<Option<Stored<'_>>, JournalError> {
        let header = loop {
            let Some((scan, limit)) = &mut self.current else {
                let Some((name, limit)) = self.files.pop_front() else {
                    return Ok(None);
                };
                match FileScan::open(&self.disk, &name)? {
                    Open::Scan(scan) => self.current = Some((scan, limit)),
                    // Damaged since the opening, which is as good as damaged at it.
                    Open::Unreadable { .. } => {}
                    Open::Vanished => return Err(JournalError::Gone),
                }
                continue;
            };
            let snapshot = scan.header.snapshot;
            match scan.next()? {
                Some(Found::Entry(header)) if snapshot && header.content != Content::End => {
                    break header;
                }
                Some(Found::Entry(header)) if !snapshot => {
                    if header.seq > self.until || limit.is_some_and(|limit| header.seq >= limit) {
                        self.current = None;
                    } else if header.seq > self.after {
                        break header;
                    }
                }
                Some(Found::Damaged { .. }) => {}
                Some(Found::Entry(_)) | None => self.current = None,
            }
        };
        let (scan, _) = self.current.as_ref().expect("an entry was found in it");
        Ok(Some(Stored {
            seq: header.seq,
            in_snapshot: scan.header.snapshot,
            content: header.content,
            kind: header.kind,
            schema: header.schema,
            call_id: header.call_id,
            unix_ms: header.unix_ms,
            body: &scan.bytes()[header.body_at()..],
        }))
    }
}
