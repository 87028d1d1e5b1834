//! Reads one file of the journal in pieces: a few hundred KiB of memory, or one entry where that is longer. Shell.

use super::disk::Disk;
use super::entry::Header;
use super::error::JournalError;
use super::header::{FILE_HEADER_BYTES, FileHeader, Opened};
use super::scan::{Scanner, Step};
use super::seq::Seq;
use std::io;

/// What one read asks for.
const CHUNK_BYTES: usize = 256 * 1024;
/// Where the disk reports an error, it is asked again in pieces of this size, and a failing one is damage.
const BLOCK_BYTES: usize = 4096;

/// What opening a file by name gave.
pub(super) enum Open<D: Disk> {
    /// It can be read.
    Scan(Box<FileScan<D>>),
    /// Neither copy of its head is whole, or it is another file's.
    Unreadable {
        /// The file's length.
        bytes: u64,
    },
    /// It is not there: removed since the directory was listed.
    Vanished,
}

/// What stands next in the file.
#[derive(Clone, Copy, Debug)]
pub(super) enum Found {
    /// A whole entry; `FileScan::bytes` has them until the next call.
    Entry(Header),
    /// Damage.
    Damaged {
        /// So much of it.
        bytes: u64,
        /// The entry that it was, where its header is whole.
        seq: Option<Seq>,
    },
}

/// A file under way.
pub(super) struct FileScan<D: Disk> {
    disk: D,
    file: D::File,
    /// Its head.
    pub header: FileHeader,
    /// One copy of the head is damaged.
    pub head_damaged: bool,
    /// Bytes that the disk could not read; they count as damage.
    pub unreadable_bytes: u64,
    scanner: Scanner,
    /// From `start` on not yet given up; the first `given` bytes of that are what `next` found last.
    window: Vec<u8>,
    start: usize,
    given: usize,
    /// The file's offset of the window's end.
    window_end: u64,
    at_end: bool,
}

impl<D: Disk> FileScan<D> {
    /// Opens `name` and reads its head.
    pub fn open(disk: &D, name: &str) -> Result<Open<D>, JournalError> {
        let fail = |error: io::Error| JournalError::from_io("reading the journal", &error);
        let file = match disk.open(name) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Open::Vanished),
            Err(error) => return Err(fail(error)),
        };
        let mut scan = FileScan {
            disk: disk.clone(),
            file,
            header: FileHeader {
                snapshot: false,
                rewritten: false,
                epoch: 0,
                index: 0,
                first: Seq::NONE,
                prior: Seq::NONE,
                unix_ms: 0,
                salt: 0,
            },
            head_damaged: false,
            unreadable_bytes: 0,
            scanner: Scanner::new(0, Seq::NONE),
            window: Vec::new(),
            start: 0,
            given: 0,
            window_end: 0,
            at_end: false,
        };
        scan.fill(FILE_HEADER_BYTES).map_err(fail)?;
        let head = scan.window.len().min(FILE_HEADER_BYTES);
        match FileHeader::decode(&scan.window[..head]) {
            Opened::Header { header, damaged } if header.name() == name => {
                scan.header = header;
                scan.head_damaged = damaged;
            }
            Opened::Newer(version) => {
                return Err(JournalError::Newer {
                    file: name.to_owned(),
                    version,
                });
            }
            Opened::Header { .. } | Opened::Unreadable => {
                let bytes = scan.disk.len(&scan.file).map_err(fail)?;
                return Ok(Open::Unreadable { bytes });
            }
        }
        scan.scanner = Scanner::new(scan.header.salt, scan.header.first);
        scan.start = head;
        Ok(Open::Scan(Box::new(scan)))
    }

    /// What stands next; `None` at the end of the file.
    pub fn next(&mut self) -> Result<Option<Found>, JournalError> {
        // What was handed out last is given up only now.
        self.start += std::mem::take(&mut self.given);
        loop {
            match self.scanner.step(&self.window[self.start..], self.at_end) {
                Step::Entry(header) => {
                    self.given = header.entry_len();
                    return Ok(Some(Found::Entry(header)));
                }
                Step::Damaged { bytes, seq } => {
                    self.given = bytes;
                    let bytes = bytes as u64;
                    return Ok(Some(Found::Damaged { bytes, seq }));
                }
                Step::More(wanted) => self
                    .fill(wanted)
                    .map_err(|error| JournalError::from_io("reading the journal", &error))?,
                Step::End => return Ok(None),
            }
        }
    }

    /// The bytes that `next` has just found.
    pub fn bytes(&self) -> &[u8] {
        &self.window[self.start..self.start + self.given]
    }

    /// The file's offset behind what `next` has just found.
    pub fn offset(&self) -> u64 {
        self.window_end - (self.window.len() - self.start - self.given) as u64
    }

    /// Reads until `wanted` bytes are unread in the window or the file ends.
    fn fill(&mut self, wanted: usize) -> io::Result<()> {
        self.window.drain(..self.start);
        self.start = 0;
        while self.window.len() < wanted && !self.at_end {
            let have = self.window.len();
            self.window.resize(have + CHUNK_BYTES.max(wanted - have), 0);
            let into = &mut self.window[have..];
            let read = match self.disk.read_at(&self.file, self.window_end, into) {
                Ok(read) => read,
                Err(error) if is_media_error(&error) => self.read_around(have)?,
                Err(error) => {
                    self.window.truncate(have);
                    return Err(error);
                }
            };
            self.window.truncate(have + read);
            self.window_end += read as u64;
            self.at_end = read == 0;
        }
        Ok(())
    }

    /// One block where a longer read failed; when it fails too, noughts in its place.
    fn read_around(&mut self, have: usize) -> io::Result<usize> {
        let len = self.disk.len(&self.file)?;
        // To the next block's beginning, so that a bad block costs no more than itself.
        let block = BLOCK_BYTES - (self.window_end % BLOCK_BYTES as u64) as usize;
        let rest = len.saturating_sub(self.window_end);
        let block = block.min(usize::try_from(rest).unwrap_or(block));
        let into = &mut self.window[have..have + block];
        match self.disk.read_at(&self.file, self.window_end, into) {
            Ok(read) => Ok(read),
            Err(error) if is_media_error(&error) => {
                into.fill(0);
                self.unreadable_bytes += block as u64;
                Ok(block)
            }
            Err(error) => Err(error),
        }
    }
}

/// The disk cannot read this place; other places it may.
fn is_media_error(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::IO, Errno::BADMSG]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}
