//! The few things that the journal asks of a file system, within one directory. Shell.
//!
//! Narrow, so that a simulated disk can stand in its place which loses and tears whatever was not synced
//! (`sim_disk`), and so that the journal can later stand on something else than local files. [`OsDisk`] is the real
//! one: it holds the directory itself open, so that a directory which is moved is still the same one.

use super::error::JournalError;
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::sync::Arc;

/// A directory of files. A clone is the same directory.
pub trait Disk: Clone {
    /// An open file.
    type File;

    /// Makes a new file for `append`; fails when the name is taken.
    fn create(&self, name: &str) -> io::Result<Self::File>;
    /// Opens a file for `read_at`, `len`.
    fn open(&self, name: &str) -> io::Result<Self::File>;
    /// Writes all of `bytes` at the end. After an error any beginning of them may stand there.
    fn append(&self, file: &mut Self::File, bytes: &[u8]) -> io::Result<()>;
    /// Reads at `offset` what one call gives; 0 at the end.
    fn read_at(&self, file: &Self::File, offset: u64, into: &mut [u8]) -> io::Result<usize>;
    /// The length now.
    fn len(&self, file: &Self::File) -> io::Result<u64>;
    /// Returns once what was appended survives a loss of power. After an error nobody knows what does: the kernel may
    /// have dropped the pages and will say so only once, so it must not be asked again.
    fn fdatasync(&self, file: &Self::File) -> io::Result<()>;
    /// Cuts the file at `len` bytes, durably.
    fn truncate(&self, name: &str, len: u64) -> io::Result<()>;
    /// Renames, replacing what was there.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a name.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// All names, in whatever order.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Returns once names made, changed and removed survive a loss of power.
    fn sync_dir(&self) -> io::Result<()>;
    /// Whether the file still has a name: what is written to a deleted one is lost, and no write says so.
    fn is_linked(&self, file: &Self::File) -> io::Result<bool>;
}

/// The lock file's name. It holds the writer's process id as text.
const LOCK: &str = "lock";

/// A directory of the real file system.
#[derive(Clone, Debug)]
pub struct OsDisk {
    directory: Arc<OwnedFd>,
}

impl OsDisk {
    /// Opens an existing directory, to read or, with a [`DirLock`] besides, to write.
    pub fn open(directory: &Path) -> Result<Self, JournalError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(directory, flags, Mode::empty()).map_err(|error| {
            JournalError::from_io("opening the store's directory", &error.into())
        })?;
        Ok(Self {
            directory: Arc::new(fd),
        })
    }

    /// Makes the directory and its parents where they are missing, readable by its owner only, and opens it.
    pub fn create_dir(directory: &Path) -> Result<Self, JournalError> {
        use std::os::unix::fs::DirBuilderExt as _;
        let fail = |error: io::Error| JournalError::from_io("making the store's directory", &error);
        let missing: Vec<&Path> = directory
            .ancestors()
            .take_while(|ancestor| !ancestor.as_os_str().is_empty() && !ancestor.exists())
            .collect();
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(fail)?;
        // A new name is durable once the directory that holds it is synced.
        for made in missing {
            let parent = match made.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent,
                _ => Path::new("."),
            };
            File::open(parent)
                .and_then(|parent| parent.sync_all())
                .map_err(fail)?;
        }
        Self::open(directory)
    }

    /// Takes the directory's lock for this process, or says who has it. It is free again when the value is dropped or
    /// the process ends, however it ends.
    pub fn lock(&self) -> Result<DirLock, JournalError> {
        let fail =
            |error: io::Error| JournalError::from_io("locking the store's directory", &error);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
        let fd = self.at(LOCK, flags).map_err(fail)?;
        let mut file = File::from(fd);
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                // Another process may have taken it and not yet written its id.
                let mut text = String::new();
                let _ = (&file).take(32).read_to_string(&mut text);
                return Err(JournalError::Locked {
                    pid: text.trim().parse().ok(),
                });
            }
            Err(error) => return Err(fail(error.into())),
        }
        file.set_len(0).map_err(fail)?;
        file.write_all(format!("{}\n", std::process::id()).as_bytes())
            .map_err(fail)?;
        Ok(DirLock { _file: file })
    }

    fn at(&self, name: &str, flags: OFlags) -> io::Result<OwnedFd> {
        let mode = Mode::RUSR | Mode::WUSR;
        Ok(rustix::fs::openat(
            &*self.directory,
            name,
            flags | OFlags::CLOEXEC,
            mode,
        )?)
    }
}

/// One process per directory: held as long as this value lives.
#[derive(Debug)]
pub struct DirLock {
    _file: File,
}

impl Disk for OsDisk {
    type File = File;

    fn create(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::APPEND;
        self.at(name, flags).map(File::from)
    }

    fn open(&self, name: &str) -> io::Result<File> {
        self.at(name, OFlags::RDONLY).map(File::from)
    }

    fn append(&self, file: &mut File, bytes: &[u8]) -> io::Result<()> {
        file.write_all(bytes)
    }

    fn read_at(&self, file: &File, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        loop {
            match file.read_at(into, offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                done => return done,
            }
        }
    }

    fn len(&self, file: &File) -> io::Result<u64> {
        Ok(file.metadata()?.len())
    }

    fn fdatasync(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    fn truncate(&self, name: &str, len: u64) -> io::Result<()> {
        let file = File::from(self.at(name, OFlags::RDWR)?);
        file.set_len(len)?;
        file.sync_data()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(
            &*self.directory,
            from,
            &*self.directory,
            to,
        )?)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(
            &*self.directory,
            name,
            AtFlags::empty(),
        )?)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&*self.directory)? {
            // A name that is not UTF-8 is none of ours.
            if let Ok(name) = entry?.file_name().to_str() {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    fn sync_dir(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&*self.directory)?)
    }

    fn is_linked(&self, file: &File) -> io::Result<bool> {
        Ok(file.metadata()?.nlink() > 0)
    }
}
