//! Erasure of a call: every file that holds an entry of it is written anew without. Shell.
//!
//! It is rewriting and not the shredding of a key. A key per call would have to be kept as durably as the entries
//! themselves, in a second file whose old blocks lie on the same disk and in the same backups, and losing it would lose calls
//! that nobody wanted erased. Rewriting costs time in proportion to the journal, for something that is rare, and afterwards
//! `grep` finds nothing. What it cannot reach: blocks that the file system has freed and not yet reused (a disk that is
//! encrypted, or trimmed, answers that), and copies made before.

use super::disk::Disk;
use super::entry::Content;
use super::error::JournalError;
use super::file::rewrite;
use super::header::{is_temporary, parse_name};
use super::read::{FileScan, Found, Open};
use super::seq::Seq;
use super::verify::readable;
use super::writer::Journal;
use crate::base::id::CallId;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What an erasure did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Erased {
    /// Entries that are tombstones now.
    pub entries: u64,
    /// Files that were written anew.
    pub files: u64,
    /// Files that could not be read at all, and were removed because nobody can know what they hold.
    pub removed: u64,
}

impl<D: Disk> Journal<D> {
    /// Replaces every entry of `calls` by a tombstone of the same number, in segments and snapshots; many calls cost no more
    /// than one. When it returns, that is durable.
    ///
    /// It reads the whole journal and writes the files concerned: about a second for a million entries, in which nothing is
    /// committed. It is atomic for each file and not for all of them: after an error or a crash, erase again. So whoever erases appends
    /// an entry that says so first, under another id than the call's, and repeats the erasure at the start until it is done.
    /// Files with damage are written anew too, for the damaged bytes may be the call's.
    pub fn erase(&mut self, calls: &BTreeSet<CallId>) -> Result<Erased, JournalError> {
        if Arc::strong_count(&self.under_way) > 1 {
            return Err(JournalError::SnapshotUnderWay);
        }
        self.commit()?;
        let mut erased = Erased::default();
        let limits: BTreeMap<String, Option<Seq>> = readable(&self.segments).into_iter().collect();
        let fail = |error: std::io::Error| JournalError::from_io("erasing", &error);
        // By what is in the directory and not by what is in use: a snapshot whose last step failed, or that nobody adopted,
        // and unfinished files hold entries too.
        for name in self.disk.list().map_err(fail)? {
            if is_temporary(&name) {
                self.disk.remove(&name).map_err(fail)?;
            }
            if parse_name(&name).is_none() {
                continue;
            }
            let limit = limits.get(&name).copied().flatten();
            match FileScan::open(&self.disk, &name)? {
                Open::Vanished => return Err(JournalError::Gone),
                Open::Unreadable { .. } => {
                    self.remove_unreadable(&name)?;
                    erased.removed += 1;
                }
                Open::Scan(scan) => {
                    if !concerns(*scan, limit, calls)? {
                        continue;
                    }
                    // The active segment is closed; the next commit begins another.
                    if self.segments.last().is_some_and(|last| last.name == name) {
                        self.active = None;
                    }
                    let Open::Scan(scan) = FileScan::open(&self.disk, &name)? else {
                        return Err(JournalError::Gone);
                    };
                    let salt = self.salts.next_u64();
                    let done = rewrite(&self.disk, *scan, limit, salt, |header| {
                        header.call_id.is_some_and(|id| calls.contains(&id))
                    })?;
                    erased.entries += done.erased;
                    erased.files += 1;
                    self.note_rewritten(&name, done.bytes);
                }
            }
        }
        // Also for files that were removed before and whose names may still be on the disk.
        self.disk.sync_dir().map_err(fail)?;
        Ok(erased)
    }

    fn note_rewritten(&mut self, name: &str, bytes: u64) {
        if let Some(segment) = self.segments.iter_mut().find(|s| s.name == name) {
            segment.bytes = bytes;
            segment.damaged_bytes = 0;
            segment.tail_bytes = 0;
            segment.head_damaged = false;
        }
        if let Some(snapshot) = self.snapshots.iter_mut().find(|s| s.name == name) {
            snapshot.bytes = bytes;
        }
    }

    fn remove_unreadable(&mut self, name: &str) -> Result<(), JournalError> {
        if self.segments.last().is_some_and(|last| last.name == name) {
            self.active = None;
        }
        self.disk
            .remove(name)
            .map_err(|error| JournalError::from_io("removing an unreadable file", &error))?;
        self.segments.retain(|segment| segment.name != name);
        self.snapshots.retain(|snapshot| snapshot.name != name);
        Ok(())
    }
}

/// Whether the file holds an entry of `calls`, or bytes that may be one.
fn concerns<D: Disk>(
    mut scan: FileScan<D>,
    limit: Option<Seq>,
    calls: &BTreeSet<CallId>,
) -> Result<bool, JournalError> {
    while let Some(found) = scan.next()? {
        match found {
            Found::Damaged { .. } => return Ok(true),
            // Written again in the next segment; here it is left over.
            Found::Entry(header) if limit.is_some_and(|limit| header.seq >= limit) => {
                return Ok(true);
            }
            Found::Entry(header) => {
                if header.content == Content::Whole
                    && header.call_id.is_some_and(|id| calls.contains(&id))
                {
                    return Ok(true);
                }
            }
        }
    }
    Ok(false)
}
