//! A disk that keeps what was synced apart from what was only written, and loses, tears and reorders the latter at a crash. Tests only.
//!
//! Each file has two contents: what a reader sees (the kernel's memory) and what is on the platter. Names have the
//! same: changes of names reach the platter one by one and in any order until the directory is synced. At a [`SimDisk::crash`] each
//! sector that was not synced is there, not there, noughts, rubbish, or torn at a byte; at a [`SimDisk::kill`] only the process
//! ends. A failed fdatasync drops what it should have written, and the next one says that all is well (as Linux does).

use super::disk::Disk;
use crate::base::rng::Rng;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

const SECTOR: usize = 512;

/// What goes wrong, and at which operation that changes something (counted from 0).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Operations in the range fail with this error.
    Errors(u64, u64, Errno),
    /// The power goes during this operation; from then on nothing works.
    PowerOff(u64),
}

/// The simulated directory. A clone is the same one.
#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<State>>);

#[derive(Clone)]
struct State {
    names: BTreeMap<String, usize>,
    files: Vec<SimFile>,
    platter_names: BTreeMap<String, usize>,
    /// Changes of names since the last sync of the directory.
    changes: Vec<Change>,
    faults: Vec<Fault>,
    operations: u64,
    off: bool,
    /// Blocks of 4096 bytes that cannot be read: file name, block.
    bad_blocks: Vec<(String, u64)>,
    rng: Rng,
}

#[derive(Clone, Default)]
struct SimFile {
    /// What a reader sees.
    seen: Vec<u8>,
    /// What survives for certain.
    platter: Vec<u8>,
    /// Parts of `seen` that a failed sync has dropped and no later one will write.
    dropped: Vec<Range<usize>>,
}

#[derive(Clone, Debug)]
enum Change {
    Add(String, usize),
    Rename(String, String),
    Remove(String),
}

fn error(errno: Errno) -> io::Error {
    io::Error::from_raw_os_error(errno.raw_os_error())
}

fn apply(names: &mut BTreeMap<String, usize>, change: &Change) {
    match change {
        Change::Add(name, file) => {
            names.insert(name.clone(), *file);
        }
        Change::Rename(from, to) => {
            if let Some(file) = names.remove(from) {
                names.insert(to.clone(), file);
            }
        }
        Change::Remove(name) => {
            names.remove(name);
        }
    }
}

impl State {
    fn below(&mut self, bound: usize) -> usize {
        (self.rng.next_u64() % bound.max(1) as u64) as usize
    }

    /// Counts an operation and says how it goes: `Ok(false)` as asked, `Ok(true)` the power goes during it.
    fn operation(&mut self) -> io::Result<bool> {
        if self.off {
            return Err(error(Errno::IO));
        }
        let at = self.operations;
        self.operations += 1;
        for fault in self.faults.clone() {
            match fault {
                Fault::PowerOff(when) if when == at => {
                    self.off = true;
                    return Ok(true);
                }
                Fault::Errors(from, to, errno) if (from..to).contains(&at) => {
                    return Err(error(errno));
                }
                _ => {}
            }
        }
        Ok(false)
    }

    /// A change of names; when the power goes it may have happened or not.
    fn change(&mut self, change: Change) -> io::Result<()> {
        let off = self.operation()?;
        if !off || self.below(2) == 0 {
            apply(&mut self.names, &change);
            self.changes.push(change);
        }
        if off { Err(error(Errno::IO)) } else { Ok(()) }
    }
}

impl SimDisk {
    /// An empty directory; `seed` decides what is lost.
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            names: BTreeMap::new(),
            files: Vec::new(),
            platter_names: BTreeMap::new(),
            changes: Vec::new(),
            faults: Vec::new(),
            operations: 0,
            off: false,
            bad_blocks: Vec::new(),
            rng: Rng::from_u64(seed),
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0
            .lock()
            .expect("no test panics while it holds the lock")
    }

    /// What goes wrong from now on; operations are counted anew.
    pub fn plan(&self, faults: &[Fault]) {
        let mut state = self.state();
        state.faults = faults.to_vec();
        state.operations = 0;
    }

    /// Operations that change something, since `plan`.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// The power is off.
    pub fn is_off(&self) -> bool {
        self.state().off
    }

    /// Ends the process: what it wrote is still there, synced or not. A directory of its own, without faults.
    pub fn kill(&self) -> Self {
        let mut state = self.state().clone();
        state.faults.clear();
        state.off = false;
        Self(Arc::new(Mutex::new(state)))
    }

    /// Takes the power away: of what was not synced, chance decides. A directory of its own, without faults.
    pub fn crash(&self, seed: u64) -> Self {
        let mut state = self.state().clone();
        state.rng = Rng::from_u64(seed);
        let mut names = state.platter_names.clone();
        let changes = std::mem::take(&mut state.changes);
        let keep_all = state.below(4) == 0;
        for change in &changes {
            if keep_all || state.below(2) == 0 {
                apply(&mut names, change);
            }
        }
        for at in 0..state.files.len() {
            let file = std::mem::take(&mut state.files[at]);
            let left = survivors(&file, &mut state.rng);
            state.files[at] = SimFile {
                seen: left.clone(),
                platter: left,
                dropped: Vec::new(),
            };
        }
        state.names = names.clone();
        state.platter_names = names;
        state.faults.clear();
        state.off = false;
        Self(Arc::new(Mutex::new(state)))
    }

    /// A file's bytes as a reader sees them.
    pub fn bytes(&self, name: &str) -> Vec<u8> {
        let state = self.state();
        state.files[state.names[name]].seen.clone()
    }

    /// Puts a file there, synced, in place of one that had the name.
    pub fn put(&self, name: &str, bytes: &[u8]) {
        let mut state = self.state();
        state.files.push(SimFile {
            seen: bytes.to_vec(),
            platter: bytes.to_vec(),
            dropped: Vec::new(),
        });
        let at = state.files.len() - 1;
        state.names.insert(name.to_owned(), at);
        state.platter_names.insert(name.to_owned(), at);
    }

    /// Makes a block of 4096 bytes unreadable.
    pub fn spoil(&self, name: &str, block: u64) {
        self.state().bad_blocks.push((name.to_owned(), block));
    }

    /// All names are gone, as after `rm -r` of the directory; open files stay open.
    pub fn delete_all(&self) {
        let mut state = self.state();
        state.names.clear();
        state.platter_names.clear();
    }
}

/// What of a file is left when the power goes.
fn survivors(file: &SimFile, rng: &mut Rng) -> Vec<u8> {
    let mut below = |bound: usize| (rng.next_u64() % bound.max(1) as u64) as usize;
    let (synced, seen) = (file.platter.len(), file.seen.len());
    if seen <= synced {
        return file.platter.clone();
    }
    // The length may have reached the platter without the bytes, or in part.
    let len = match below(4) {
        0 => synced,
        1 => seen,
        _ => synced + below(seen - synced + 1),
    };
    let mut left = file.seen[..len].to_vec();
    left[..synced].copy_from_slice(&file.platter);
    let all = below(3) == 0;
    let mut at = synced;
    while at < len && !all {
        let end = ((at / SECTOR + 1) * SECTOR).min(len);
        match below(8) {
            0 => left[at..end].fill(0),
            1 => left[at..end]
                .iter_mut()
                .for_each(|byte| *byte = below(256) as u8),
            2 => {
                let torn = at + below(end - at);
                left[torn..end].fill(0);
            }
            _ => {}
        }
        at = end;
    }
    for range in &file.dropped {
        let end = range.end.min(len);
        left[range.start.min(end)..end].fill(0);
    }
    left
}

impl Disk for SimDisk {
    type File = usize;

    fn create(&self, name: &str) -> io::Result<usize> {
        let mut state = self.state();
        if state.names.contains_key(name) {
            return Err(error(Errno::EXIST));
        }
        state.files.push(SimFile::default());
        let file = state.files.len() - 1;
        state.change(Change::Add(name.to_owned(), file))?;
        Ok(file)
    }

    fn open(&self, name: &str) -> io::Result<usize> {
        let state = self.state();
        if state.off {
            return Err(error(Errno::IO));
        }
        state.names.get(name).copied().ok_or(error(Errno::NOENT))
    }

    fn append(&self, file: &mut usize, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        let done = state.operation();
        // A failed write, too, may have written a beginning.
        let len = match done {
            Ok(false) => bytes.len(),
            Ok(true) | Err(_) if bytes.is_empty() => 0,
            Ok(true) => state.below(bytes.len() + 1),
            Err(_) if state.off => 0,
            Err(_) => state.below(bytes.len()),
        };
        state.files[*file].seen.extend_from_slice(&bytes[..len]);
        match done {
            Ok(false) => Ok(()),
            Ok(true) => Err(error(Errno::IO)),
            Err(error) => Err(error),
        }
    }

    fn read_at(&self, file: &usize, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let state = self.state();
        if state.off {
            return Err(error(Errno::IO));
        }
        let seen = &state.files[*file].seen;
        let from = (offset as usize).min(seen.len());
        let len = into.len().min(seen.len() - from);
        let name = state.names.iter().find(|(_, at)| *at == file);
        let bad = state.bad_blocks.iter().any(|(of, block)| {
            let block = block * 4096..(block + 1) * 4096;
            name.is_some_and(|(name, _)| name == of)
                && (from as u64) < block.end
                && block.start < (from + len) as u64
        });
        if bad {
            return Err(error(Errno::IO));
        }
        into[..len].copy_from_slice(&seen[from..from + len]);
        Ok(len)
    }

    fn len(&self, file: &usize) -> io::Result<u64> {
        Ok(self.state().files[*file].seen.len() as u64)
    }

    fn fdatasync(&self, file: &usize) -> io::Result<()> {
        let mut state = self.state();
        let done = state.operation();
        if state.off {
            return Err(error(Errno::IO));
        }
        let SimFile {
            mut platter,
            seen,
            mut dropped,
        } = std::mem::take(&mut state.files[*file]);
        match done {
            Ok(_) => {
                platter = seen.clone();
                for range in &dropped {
                    platter[range.clone()].fill(0);
                }
            }
            Err(_) => {
                if platter.len() < seen.len() {
                    dropped.push(platter.len()..seen.len());
                }
            }
        }
        state.files[*file] = SimFile {
            seen,
            platter,
            dropped,
        };
        done.map(drop)
    }

    fn truncate(&self, name: &str, len: u64) -> io::Result<()> {
        let mut state = self.state();
        let at = *state.names.get(name).ok_or(error(Errno::NOENT))?;
        let off = state.operation()?;
        if !off || state.below(2) == 0 {
            let file = &mut state.files[at];
            file.seen.truncate(len as usize);
            file.platter = file.seen.clone();
            file.dropped.retain(|range| range.end <= len as usize);
        }
        if off { Err(error(Errno::IO)) } else { Ok(()) }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        if !state.names.contains_key(from) {
            return Err(error(Errno::NOENT));
        }
        state.change(Change::Rename(from.to_owned(), to.to_owned()))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        if !state.names.contains_key(name) {
            return Err(error(Errno::NOENT));
        }
        state.change(Change::Remove(name.to_owned()))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let state = self.state();
        if state.off {
            return Err(error(Errno::IO));
        }
        Ok(state.names.keys().cloned().collect())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut state = self.state();
        if state.operation()? {
            return Err(error(Errno::IO));
        }
        state.platter_names = state.names.clone();
        state.changes.clear();
        Ok(())
    }

    fn is_linked(&self, file: &usize) -> io::Result<bool> {
        Ok(self.state().names.values().any(|at| at == file))
    }
}
