//! Files that come into being whole: written under a temporary name, synced, renamed, the directory synced. Shell.

use super::disk::Disk;
use super::entry::{self, Content, Header};
use super::error::JournalError;
use super::header::{FileHeader, TEMPORARY};
use super::read::{FileScan, Found};
use super::seq::Seq;

/// What is gathered before it is written.
const FLUSH_BYTES: usize = 1024 * 1024;

/// A file under its temporary name.
pub(super) struct NewFile<D: Disk> {
    disk: D,
    /// `None` once it is finished.
    file: Option<D::File>,
    header: FileHeader,
    name: String,
    temporary: String,
    /// Entries with empty checksums.
    waiting: Vec<u8>,
    bytes: u64,
    renamed: bool,
}

impl<D: Disk> NewFile<D> {
    /// Begins the file that `header` names. What an earlier attempt left is removed first.
    pub fn begin(disk: &D, header: FileHeader) -> Result<Self, JournalError> {
        let fail = |error: std::io::Error| JournalError::from_io("making a journal file", &error);
        let name = header.name();
        let temporary = format!("{name}{TEMPORARY}");
        let mut made = disk.create(&temporary);
        if made
            .as_ref()
            .is_err_and(|error| error.kind() == std::io::ErrorKind::AlreadyExists)
        {
            disk.remove(&temporary).map_err(fail)?;
            made = disk.create(&temporary);
        }
        let mut new = Self {
            disk: disk.clone(),
            file: Some(made.map_err(fail)?),
            header,
            name,
            temporary,
            waiting: Vec::new(),
            bytes: 0,
            renamed: false,
        };
        new.write(&header.encode())?;
        Ok(new)
    }

    /// Adds an entry.
    pub fn add(
        &mut self,
        seq: Seq,
        opens_batch: bool,
        content: Content,
        entry: &entry::Entry<'_>,
    ) -> Result<(), JournalError> {
        entry::encode(&mut self.waiting, seq, opens_batch, content, entry);
        self.flush_above(FLUSH_BYTES)
    }

    /// Adds a tombstone.
    pub fn add_tombstone(
        &mut self,
        seq: Seq,
        opens_batch: bool,
        content: Content,
    ) -> Result<(), JournalError> {
        entry::encode_tombstone(&mut self.waiting, seq, opens_batch, content);
        self.flush_above(FLUSH_BYTES)
    }

    fn flush_above(&mut self, bytes: usize) -> Result<(), JournalError> {
        if self.waiting.len() <= bytes {
            return Ok(());
        }
        let mut waiting = std::mem::take(&mut self.waiting);
        entry::seal(&mut waiting, self.header.salt);
        self.write(&waiting)?;
        waiting.clear();
        self.waiting = waiting;
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), JournalError> {
        let file = self.file.as_mut().expect("not finished");
        self.disk
            .append(file, bytes)
            .map_err(|error| JournalError::from_io("writing a journal file", &error))?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Makes it durable under its own name, in place of a file that had it. The file, open for `append`, and its length.
    pub fn finish(mut self) -> Result<(D::File, u64), JournalError> {
        self.flush_above(0)?;
        let fail =
            |error: std::io::Error| JournalError::from_io("finishing a journal file", &error);
        let file = self.file.take().expect("taken here only");
        self.disk.fdatasync(&file).map_err(fail)?;
        self.disk
            .rename(&self.temporary, &self.name)
            .map_err(fail)?;
        // From here on it is a whole file, whatever becomes of its name.
        self.renamed = true;
        self.disk.sync_dir().map_err(fail)?;
        Ok((file, self.bytes))
    }
}

impl<D: Disk> Drop for NewFile<D> {
    fn drop(&mut self) {
        if !self.renamed {
            // Where this fails too, the next opening removes it.
            let _ = self.disk.remove(&self.temporary);
        }
    }
}

/// What `rewrite` did.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rewritten {
    /// Entries that are tombstones now and were none before.
    pub erased: u64,
    /// Tombstones in the place of damage.
    pub lost: u64,
    /// The file's new length.
    pub bytes: u64,
}

/// Writes a file anew, in place of itself: all whole entries below `limit`, those that `erase` names as tombstones,
/// damaged ones as tombstones too, for the bytes of damage may hold anything. A snapshot that was not whole stays so.
pub(super) fn rewrite<D: Disk>(
    disk: &D,
    mut scan: FileScan<D>,
    limit: Option<Seq>,
    salt: u64,
    erase: impl Fn(&Header) -> bool,
) -> Result<Rewritten, JournalError> {
    let header = FileHeader {
        rewritten: true,
        salt,
        ..scan.header
    };
    let mut new = NewFile::begin(disk, header)?;
    let (mut erased, mut lost, mut damaged) = (0, 0, false);
    let mut expected = header.first;
    while let Some(found) = scan.next()? {
        let Found::Entry(entry) = found else {
            damaged = true;
            continue;
        };
        if limit.is_some_and(|limit| entry.seq >= limit) {
            break;
        }
        if entry.content == Content::End && damaged {
            continue;
        }
        // The scanner lets no more numbers be left out than the damage can have held.
        while expected < entry.seq {
            new.add_tombstone(expected, false, Content::Lost)?;
            lost += 1;
            expected = expected.next().unwrap_or(entry.seq);
        }
        if entry.content == Content::Whole && erase(&entry) {
            new.add_tombstone(entry.seq, entry.opens_batch, Content::Erased)?;
            erased += 1;
        } else {
            let again = entry::Entry {
                kind: entry.kind,
                schema: entry.schema,
                call_id: entry.call_id,
                unix_ms: entry.unix_ms,
                body: &scan.bytes()[entry.body_at()..],
            };
            new.add(entry.seq, entry.opens_batch, entry.content, &again)?;
        }
        expected = entry.seq.next().unwrap_or(entry.seq);
    }
    if scan.unreadable_bytes > 0 {
        // It may be readable again; a rewritten file would make the loss final.
        return Err(JournalError::Unreadable {
            file: header.name(),
        });
    }
    let (_, bytes) = new.finish()?;
    Ok(Rewritten {
        erased,
        lost,
        bytes,
    })
}
