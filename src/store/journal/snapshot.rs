//! Snapshots, and the compaction that they allow. Shell.
//!
//! A snapshot stands for everything up to a number. The two newest are kept, and segments go only when the *older* of them stands for
//! them: when the newest turns out to be damaged, the other and the segments after it still give everything.

use super::disk::Disk;
use super::entry::{Content, Entry};
use super::error::JournalError;
use super::file::NewFile;
use super::header::FileHeader;
use super::report::SnapshotReport;
use super::seq::Seq;
use super::writer::Journal;
use crate::base::limit::JOURNAL_BODY_BYTES_MAX;
use std::sync::Arc;

/// Snapshots that are kept.
const KEPT: usize = 2;

/// A snapshot that is being written; on another thread if need be. Dropped unfinished, it leaves nothing behind.
pub struct SnapshotWriter<D: Disk> {
    file: NewFile<D>,
    name: String,
    covers: Seq,
    next: Seq,
    entries: u64,
    under_way: Arc<()>,
}

/// A finished snapshot; `Journal::adopt` takes it. Until then nothing can be erased.
#[derive(Debug)]
pub struct Snapshot {
    report: SnapshotReport,
    _under_way: Arc<()>,
}

impl<D: Disk> SnapshotWriter<D> {
    /// Adds an entry. Together the entries say what all entries up to the snapshot's number said.
    pub fn add(&mut self, entry: &Entry<'_>) -> Result<(), JournalError> {
        if entry.body.len() > JOURNAL_BODY_BYTES_MAX {
            return Err(JournalError::TooLong {
                bytes: entry.body.len(),
            });
        }
        self.put(Content::Whole, entry)
    }

    fn put(&mut self, content: Content, entry: &Entry<'_>) -> Result<(), JournalError> {
        self.file.add(self.next, false, content, entry)?;
        self.next = self.next.next().ok_or(JournalError::Exhausted)?;
        self.entries += 1;
        Ok(())
    }

    /// Makes it durable.
    pub fn finish(mut self) -> Result<Snapshot, JournalError> {
        let entries = self.entries;
        let end = Entry {
            kind: 0,
            schema: 0,
            call_id: None,
            unix_ms: 0,
            body: &entries.to_le_bytes(),
        };
        self.put(Content::End, &end)?;
        let (_, bytes) = self.file.finish()?;
        let report = SnapshotReport {
            name: self.name,
            covers: self.covers,
            entries,
            bytes,
            complete: true,
        };
        Ok(Snapshot {
            report,
            _under_way: self.under_way,
        })
    }
}

impl<D: Disk> Journal<D> {
    /// Begins a snapshot that stands for everything up to `covers`, which must be durable.
    pub fn begin_snapshot(
        &mut self,
        covers: Seq,
        unix_ms: u64,
    ) -> Result<SnapshotWriter<D>, JournalError> {
        if covers > self.durable() {
            return Err(JournalError::NotDurable);
        }
        let first = Seq::first_of(self.epoch());
        let header = FileHeader {
            snapshot: true,
            rewritten: false,
            epoch: self.epoch(),
            index: self.take_index()?,
            first,
            prior: covers,
            unix_ms,
            salt: self.salts.next_u64(),
        };
        Ok(SnapshotWriter {
            file: NewFile::begin(&self.disk, header)?,
            name: header.name(),
            covers,
            next: first,
            entries: 0,
            under_way: self.under_way.clone(),
        })
    }

    /// Takes a finished snapshot into use and removes what it makes superfluous. How many files that were.
    ///
    /// On an error the snapshot is in use all the same; the next one removes what is left.
    pub fn adopt(&mut self, snapshot: Snapshot) -> Result<usize, JournalError> {
        self.snapshots.push(snapshot.report);
        self.compact()
    }

    /// Removes snapshots beyond the two newest complete ones, and the segments that the older of these stands for. Damaged
    /// snapshots go as soon as there are two complete ones.
    pub(super) fn compact(&mut self) -> Result<usize, JournalError> {
        let mut complete: Vec<(Seq, String)> = self
            .snapshots
            .iter()
            .filter(|snapshot| snapshot.complete)
            .map(|snapshot| (snapshot.covers, snapshot.name.clone()))
            .collect();
        complete.sort_unstable();
        if complete.len() < KEPT {
            return Ok(0);
        }
        let kept = complete.split_off(complete.len() - KEPT);
        let covers = kept[0].0;
        let mut names: Vec<String> = self
            .snapshots
            .iter()
            .filter(|snapshot| kept.iter().all(|(_, name)| *name != snapshot.name))
            .map(|snapshot| snapshot.name.clone())
            .collect();
        // In order and without a hole: up to the first segment that is still needed. The last one always stays, active or
        // not: it keeps the epochs rising.
        for pair in self.segments.windows(2) {
            // An unreadable one may hold whatever lies before the next.
            let reach = if pair[0].unreadable {
                pair[1].prior.max(pair[0].last)
            } else {
                pair[0].last
            };
            if reach > covers || pair[0].unreadable && pair[1].unreadable {
                break;
            }
            names.push(pair[0].name.clone());
        }
        let removed = names.len();
        for name in names {
            match self.disk.remove(&name) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(JournalError::from_io("removing an old file", &error)),
            }
            self.segments.retain(|segment| segment.name != name);
            self.snapshots.retain(|snapshot| snapshot.name != name);
        }
        if removed > 0 {
            self.disk
                .sync_dir()
                .map_err(|error| JournalError::from_io("removing an old file", &error))?;
        }
        Ok(removed)
    }
}
