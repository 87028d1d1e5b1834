//! The journal, open for writing: one value, one thread. Shell.

use super::disk::{DirLock, Disk, OsDisk};
use super::entry::{self, Content, Entry};
use super::error::JournalError;
use super::file::{NewFile, rewrite};
use super::header::{FileHeader, is_temporary, parse_name};
use super::read::{FileScan, Open};
use super::replay::Replay;
use super::report::{Gap, Report, SegmentReport, SnapshotReport};
use super::seq::Seq;
use super::verify::verify;
use crate::base::limit::{
    JOURNAL_BODY_BYTES_MAX, JOURNAL_PENDING_BYTES_MAX, JOURNAL_SEGMENT_BYTES,
};
use crate::base::rng::Rng;
use std::path::Path;
use std::sync::Arc;

/// Memory for waiting entries that is kept when a burst is over.
const PENDING_KEPT_BYTES: usize = 1024 * 1024;

/// What may be chosen at the opening.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// See `JOURNAL_SEGMENT_BYTES`.
    pub segment_bytes: u64,
    /// Entropy for the files' salts; from the system, except in a simulation.
    pub seed: [u8; 32],
}

impl Options {
    /// As the daemon opens it.
    pub fn with_seed(seed: [u8; 32]) -> Self {
        Self {
            segment_bytes: JOURNAL_SEGMENT_BYTES,
            seed,
        }
    }
}

/// The journal.
///
/// `append` keeps an entry in memory and gives it its number; `commit` writes all that wait and returns when they are
/// durable. Nothing else makes an entry durable, and only what is up to [`Journal::durable`] may be told to anybody as
/// kept, or applied to an index that outlives the process: what a crash takes from memory never comes back, and its number neither.
///
/// When a write or a sync fails the segment is never appended to again, for after a failed fdatasync nobody knows what the
/// kernel still holds. The waiting entries go to a new segment, which from its first number on
/// stands for whatever the old one holds. If that fails too, `commit` reports it, the entries go on waiting, and the
/// next `commit` tries another new segment.
pub struct Journal<D: Disk = OsDisk> {
    pub(super) disk: D,
    pub(super) salts: Rng,
    segment_bytes: u64,
    epoch: u32,
    /// The next file's index.
    index: u32,
    /// The next entry's number; `None` when the epoch is used up.
    next: Option<Seq>,
    /// The last entry that `append` took.
    appended: Seq,
    durable: Seq,
    /// All segments, in order; the last one is the active one while there is one.
    pub(super) segments: Vec<SegmentReport>,
    pub(super) active: Option<Active<D::File>>,
    pub(super) snapshots: Vec<SnapshotReport>,
    /// Held by each snapshot that is being written.
    pub(super) under_way: Arc<()>,
    /// Waiting entries with empty checksums.
    pending: Vec<u8>,
    pending_first: Seq,
    pending_entries: u64,
    unix_ms: u64,
    _lock: Option<DirLock>,
}

/// The segment that is appended to.
pub(super) struct Active<F> {
    file: F,
    salt: u64,
}

impl Journal<OsDisk> {
    /// Opens the journal in `directory`, which is made if it is missing, and takes its lock.
    pub fn open_dir(directory: &Path) -> Result<(Self, Report), JournalError> {
        let disk = OsDisk::create_dir(directory)?;
        let lock = disk.lock()?;
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|_| JournalError::Io {
            doing: "asking the system for entropy",
            errno: None,
            kind: std::io::ErrorKind::Other,
        })?;
        let (mut journal, report) = Self::open(disk, Options::with_seed(seed))?;
        journal._lock = Some(lock);
        Ok((journal, report))
    }
}

/// Looks at the journal in `directory` without changing anything, also beside a process that writes in it.
pub fn inspect(directory: &Path) -> Result<Report, JournalError> {
    verify(&OsDisk::open(directory)?)
}

/// The report on the journal in `directory`, and its entries above `after`, as [`Journal::replay`] gives them. Changes nothing, and
/// works beside a process that writes: the last entries may then not be durable yet.
pub fn read(directory: &Path, after: Seq) -> Result<(Report, Replay<OsDisk>), JournalError> {
    let disk = OsDisk::open(directory)?;
    let report = verify(&disk)?;
    let files = (&report.segments[..], &report.snapshots[..]);
    let replay = Replay::plan(disk, files, after, report.last);
    Ok((report, replay))
}

impl<D: Disk> Journal<D> {
    /// Opens the journal on `disk`, whose lock the caller holds: looks at everything, cuts off the last process's
    /// unfinished write, and begins an epoch of its own. The report says what was found.
    pub fn open(disk: D, options: Options) -> Result<(Self, Report), JournalError> {
        let mut report = verify(&disk)?;
        let mut epoch = 0;
        for name in list(&disk)? {
            let stem = name.strip_suffix(super::header::TEMPORARY);
            if let Some((_, of, _)) = parse_name(stem.unwrap_or(&name)) {
                epoch = epoch.max(of);
            }
            if is_temporary(&name) {
                disk.remove(&name).map_err(|error| {
                    JournalError::from_io("removing an unfinished file", &error)
                })?;
            }
        }
        if epoch >= Seq::EPOCH_MAX {
            return Err(JournalError::Exhausted);
        }
        let mut salts = Rng::from_seed(options.seed);
        settle(&disk, &mut report, salts.next_u64())?;
        let mut journal = Self {
            disk,
            salts,
            segment_bytes: options.segment_bytes,
            epoch: epoch + 1,
            index: 0,
            next: Some(Seq::first_of(epoch + 1)),
            appended: Seq::NONE,
            durable: report.last.max(report.covers()),
            segments: report.segments.clone(),
            active: None,
            snapshots: report.snapshots.clone(),
            under_way: Arc::new(()),
            pending: Vec::new(),
            pending_first: Seq::NONE,
            pending_entries: 0,
            unix_ms: 0,
            _lock: None,
        };
        // A compaction that a crash cut off may have left earlier segments than it took.
        journal.compact()?;
        journal.forget_empty_epochs();
        journal.begin_segment(Seq::first_of(epoch + 1))?;
        Ok((journal, report))
    }

    /// Takes an entry and gives it its number. It is in memory until `commit`.
    pub fn append(&mut self, entry: &Entry<'_>) -> Result<Seq, JournalError> {
        if entry.body.len() > JOURNAL_BODY_BYTES_MAX {
            return Err(JournalError::TooLong {
                bytes: entry.body.len(),
            });
        }
        if self.pending.len() + entry.body.len() > JOURNAL_PENDING_BYTES_MAX {
            return Err(JournalError::Backlog);
        }
        let seq = self.next.ok_or(JournalError::Exhausted)?;
        let first = self.pending.is_empty();
        if first {
            self.pending_first = seq;
        }
        entry::encode(&mut self.pending, seq, first, Content::Whole, entry);
        self.pending_entries += 1;
        self.next = seq.next();
        self.appended = seq;
        self.unix_ms = entry.unix_ms;
        Ok(seq)
    }

    /// Makes durable all that was appended, and returns the last number of it. On an error nothing of what waits may be
    /// called durable; it goes on waiting.
    pub fn commit(&mut self) -> Result<Seq, JournalError> {
        if self.pending.is_empty() {
            return Ok(self.durable);
        }
        let grown = self.segments.last().map_or(0, |segment| segment.bytes);
        if self.active.is_some() && grown >= self.segment_bytes {
            self.active = None;
        }
        let fresh = self.active.is_none();
        let mut done = self.write_pending();
        if done.is_err() && !fresh {
            // A new segment may lie on a sound part of the disk.
            done = self.write_pending();
        }
        done?;
        let segment = self.segments.last_mut().expect("it was written to");
        let last = self.appended;
        segment.entries += self.pending_entries;
        segment.bytes += self.pending.len() as u64;
        segment.last = last;
        self.durable = last;
        self.pending.clear();
        self.pending.shrink_to(PENDING_KEPT_BYTES);
        self.pending_entries = 0;
        Ok(last)
    }

    /// One attempt. When it fails there is no active segment any more.
    fn write_pending(&mut self) -> Result<(), JournalError> {
        if self.active.is_none() {
            self.begin_segment(self.pending_first)?;
        }
        let active = self.active.as_mut().expect("just begun");
        entry::seal(&mut self.pending, active.salt);
        let fail = |error: std::io::Error| JournalError::from_io("writing the journal", &error);
        let written = self.disk.append(&mut active.file, &self.pending);
        if let Err(error) = written {
            // Nothing was synced, so what stands there is still ours to take back: on a full disk it is the last space.
            if let Some(segment) = self.segments.last().filter(|segment| segment.entries > 0) {
                let _ = self.disk.truncate(&segment.name, segment.bytes);
            }
            self.abandon();
            return Err(fail(error));
        }
        let synced = self
            .disk
            .fdatasync(&active.file)
            .and_then(|()| self.disk.is_linked(&active.file))
            .map_err(fail)
            .and_then(|linked| {
                if linked {
                    Ok(())
                } else {
                    Err(JournalError::Gone)
                }
            });
        if synced.is_err() {
            self.abandon();
        }
        synced
    }

    fn begin_segment(&mut self, first: Seq) -> Result<(), JournalError> {
        let header = FileHeader {
            snapshot: false,
            rewritten: false,
            epoch: self.epoch,
            index: self.take_index()?,
            first,
            prior: self.durable,
            unix_ms: self.unix_ms,
            salt: self.salts.next_u64(),
        };
        let (file, bytes) = NewFile::begin(&self.disk, header)?.finish()?;
        self.active = Some(Active {
            file,
            salt: header.salt,
        });
        self.segments.push(SegmentReport {
            name: header.name(),
            epoch: header.epoch,
            index: header.index,
            first,
            prior: header.prior,
            bytes,
            ..SegmentReport::default()
        });
        Ok(())
    }

    /// Leaves the active segment as it is; what was not durable in it is written again elsewhere.
    fn abandon(&mut self) {
        self.active = None;
        // One that holds nothing durable is not even worth its name. Where removing it fails, it is harmless.
        if let Some(segment) = self.segments.pop_if(|segment| segment.entries == 0) {
            let _ = self.disk.remove(&segment.name);
        }
    }

    /// A file index that no file has had, not even one that failed.
    pub(super) fn take_index(&mut self) -> Result<u32, JournalError> {
        let index = self.index;
        self.index = index.checked_add(1).ok_or(JournalError::Exhausted)?;
        Ok(index)
    }

    /// Crash after crash would leave an empty segment each. The last one stays: it keeps the epochs rising.
    fn forget_empty_epochs(&mut self) {
        let last = self.segments.last().map_or(0, |segment| segment.epoch);
        let of_epoch = |epoch: u32| move |s: &&SegmentReport| s.epoch == epoch;
        let empty =
            |s: &SegmentReport| s.entries == 0 && s.bytes == s.sound_bytes() && !s.unreadable;
        let names: Vec<String> = self
            .segments
            .iter()
            .filter(|s| {
                let alone = self.segments.iter().filter(of_epoch(s.epoch)).count() == 1;
                // It must not be what says that entries before it are missing.
                alone && s.epoch < last && empty(s) && self.segments[0].name != s.name
            })
            .map(|s| s.name.clone())
            .collect();
        for name in names {
            if self.disk.remove(&name).is_ok() {
                self.segments.retain(|segment| segment.name != name);
            }
        }
    }

    /// The last entry that is durable.
    pub fn durable(&self) -> Seq {
        self.durable
    }

    /// This process's epoch.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Entries and bytes that wait for `commit`.
    pub fn pending(&self) -> (u64, usize) {
        (self.pending_entries, self.pending.len())
    }

    /// Everything durable above `after`, for an index that has applied all up to it (`Seq::NONE`: nothing yet).
    /// See [`super::replay::Base`] for what it begins with. An index that stands above `durable` is not of this journal (a backup
    /// that was put back): it gets nothing, and its owner should build it anew.
    pub fn replay(&self, after: Seq) -> Replay<D> {
        Replay::plan(
            self.disk.clone(),
            (&self.segments, &self.snapshots),
            after,
            self.durable,
        )
    }
}

/// Makes sure that what the last process wrote last is on the disk and not only in the kernel's memory, and cuts off what it
/// left unfinished.
///
/// That process may have been killed between write and fdatasync, or after an fdatasync that failed: then a further
/// fdatasync may say that all is well although the pages were dropped. So the file is written anew, with tombstones in
/// the place of entries that a crash tore out of its last commit. Where that is not possible (no space), or would destroy
/// what somebody may want to look at (damage to what was durable), it is cut and synced as it is.
///
/// A hand-over between two processes must open without this: there the older one is alive and appends.
fn settle<D: Disk>(disk: &D, report: &mut Report, salt: u64) -> Result<(), JournalError> {
    let Some(segment) = report.segments.last_mut().filter(|s| !s.unreadable) else {
        return Ok(());
    };
    let first = segment.first;
    let damaged = |gap: &Gap| gap.proven && gap.last >= first;
    let sound = segment.unreadable_bytes == 0 && !report.gaps.iter().any(damaged);
    if segment.entries > 0
        && sound
        && let Open::Scan(scan) = FileScan::open(disk, &segment.name)?
        && let Ok(done) = rewrite(disk, *scan, None, salt, |_| false)
    {
        report.truncated_bytes = segment.tail_bytes;
        segment.bytes = done.bytes;
        segment.entries += done.lost;
        segment.lost += done.lost;
        segment.damaged_bytes = 0;
        segment.tail_bytes = 0;
        segment.head_damaged = false;
        return Ok(());
    }
    let fail = |error: std::io::Error| JournalError::from_io("settling the last segment", &error);
    if segment.tail_bytes > 0 && segment.unreadable_bytes == 0 {
        disk.truncate(&segment.name, segment.sound_bytes())
            .map_err(fail)?;
        report.truncated_bytes = segment.tail_bytes;
        segment.bytes = segment.sound_bytes();
        segment.tail_bytes = 0;
    } else {
        let file = disk.open(&segment.name).map_err(fail)?;
        disk.fdatasync(&file).map_err(fail)?;
    }
    // Its name may not have reached the disk either; the new segment's first step syncs the directory.
    Ok(())
}

fn list<D: Disk>(disk: &D) -> Result<Vec<String>, JournalError> {
    disk.list()
        .map_err(|error| JournalError::from_io("listing the store's directory", &error))
}
