//! Why the journal could not do what it was asked. Every text says what to do.

use std::fmt;
use std::io;

/// Why an operation failed. Nothing that was reported durable is affected by any of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum JournalError {
    /// ENOSPC or EDQUOT.
    DiskFull,
    /// EROFS.
    ReadOnly,
    /// EACCES or EPERM.
    Permission,
    /// The directory or a file in it is not there, or was deleted under us.
    Gone,
    /// Another process writes here.
    Locked {
        /// Its id, where it could be read.
        pid: Option<u32>,
    },
    /// A file of a newer format.
    Newer {
        /// The file.
        file: String,
        /// Its format version.
        version: u16,
    },
    /// The body is longer than `JOURNAL_BODY_BYTES_MAX`.
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// More waits for the disk than may wait.
    Backlog,
    /// The process has used up its epoch, or the directory all epochs.
    Exhausted,
    /// An erasure cannot reach what a snapshot under way has already taken.
    SnapshotUnderWay,
    /// A snapshot may stand only for what is durable.
    NotDurable,
    /// Part of a file cannot be read, so it cannot be written anew.
    Unreadable {
        /// The file.
        file: String,
    },
    /// Every other failure of the machine.
    Io {
        /// What was tried.
        doing: &'static str,
        /// The error's number, where the system gave one.
        errno: Option<i32>,
        /// Its class.
        kind: io::ErrorKind,
    },
}

impl JournalError {
    /// Sorts the system's error; `doing` says what was tried.
    pub(super) fn from_io(doing: &'static str, error: &io::Error) -> Self {
        use rustix::io::Errno;
        let errno = error.raw_os_error().map(Errno::from_raw_os_error);
        match errno {
            Some(Errno::NOSPC | Errno::DQUOT) => Self::DiskFull,
            Some(Errno::ROFS) => Self::ReadOnly,
            Some(Errno::ACCESS | Errno::PERM) => Self::Permission,
            Some(Errno::NOENT | Errno::STALE | Errno::NOTDIR) => Self::Gone,
            _ => Self::Io {
                doing,
                errno: error.raw_os_error(),
                kind: error.kind(),
            },
        }
    }

    /// A bounded metric label.
    pub fn label(&self) -> &'static str {
        match self {
            Self::DiskFull => "disk_full",
            Self::ReadOnly => "read_only",
            Self::Permission => "permission",
            Self::Gone => "gone",
            Self::Locked { .. } => "locked",
            Self::Newer { .. } => "newer_format",
            Self::TooLong { .. } => "too_long",
            Self::Backlog => "backlog",
            Self::Exhausted => "exhausted",
            Self::SnapshotUnderWay => "snapshot_under_way",
            Self::NotDurable => "not_durable",
            Self::Unreadable { .. } => "unreadable",
            Self::Io { .. } => "io",
        }
    }
}

impl fmt::Display for JournalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DiskFull => f.write_str(
                "the disk of the store is full: free space; what waits is written then, without a restart",
            ),
            Self::ReadOnly => f.write_str(
                "the store's file system is read-only (often after a disk error): see the kernel's log, then remount it writable",
            ),
            Self::Permission => f.write_str(
                "no permission to write in the store's directory: give it to the user that the daemon runs as",
            ),
            Self::Gone => f.write_str(
                "the store's directory or a file in it is not there or was deleted: put it back from a backup and restart; until then nothing is recorded",
            ),
            Self::Locked { pid: Some(pid) } => write!(
                f,
                "process {pid} already writes in this store: stop it first, or use another directory"
            ),
            Self::Locked { pid: None } => f.write_str(
                "another process already writes in this store: stop it first, or use another directory",
            ),
            Self::Newer { file, version } => write!(
                f,
                "{file} has format version {version}, and this program reads up to {}: use the newer program, or restore a backup made before it",
                super::header::VERSION
            ),
            Self::TooLong { bytes } => write!(
                f,
                "an entry of {bytes} bytes is longer than the {} that one may have",
                crate::base::limit::JOURNAL_BODY_BYTES_MAX
            ),
            Self::Backlog => {
                f.write_str("the disk takes nothing and as much waits as may wait: try again later")
            }
            Self::Exhausted => f.write_str(
                "the journal's numbers are used up: restart; if that does not help, export the store and begin a new one",
            ),
            Self::SnapshotUnderWay => {
                f.write_str("a snapshot is being written: erase when it is finished")
            }
            Self::NotDurable => {
                f.write_str("a snapshot may stand only for entries that are durable: commit first")
            }
            Self::Unreadable { file } => write!(
                f,
                "part of {file} cannot be read (see the kernel's log): copy the store to a sound disk and try again"
            ),
            Self::Io {
                doing,
                errno: Some(errno),
                ..
            } => write!(
                f,
                "{doing} failed: {}",
                io::Error::from_raw_os_error(*errno)
            ),
            Self::Io { doing, kind, .. } => write!(f, "{doing} failed: {kind}"),
        }
    }
}

impl std::error::Error for JournalError {}
