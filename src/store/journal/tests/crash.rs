//! Every crash point, and the proof that the judge would notice.

use super::super::disk::Disk;
use super::super::sim_disk::{Fault, SimDisk};
use super::super::writer::Journal;
use super::life::{Judge, live, options};
use crate::base::rng::Rng;
use std::io;

/// Seeds of random lives in an ordinary run; `JOURNAL_LIVES` asks for more, `JOURNAL_SEED` for one of them.
const LIVES: u64 = 300;

#[test]
fn what_was_durable_comes_back_in_order_and_once_whatever_happens() {
    if let Ok(seed) = std::env::var("JOURNAL_SEED") {
        live(seed.parse().expect("a number"), |disk| disk).expect("that life");
        return;
    }
    let lives = std::env::var("JOURNAL_LIVES")
        .ok()
        .map_or(LIVES, |lives| lives.parse().expect("a number"));
    for seed in 0..lives {
        if let Err(fault) = live(seed, |disk| disk) {
            panic!("JOURNAL_SEED={seed}: {fault}");
        }
    }
}

/// A short life that does everything, without faults of its own.
fn script<D: Disk>(journal: &mut Journal<D>, judge: &mut Judge) {
    for round in 0..3 {
        for entry in 0..6 {
            let _ = judge.append(journal, entry % 3, 90 * entry as usize);
            if entry % 2 == 1 {
                let _ = judge.commit(journal);
            }
        }
        let _ = judge.append(journal, 5, 2_500);
        let _ = judge.commit(journal);
        let _ = judge.snapshot(journal);
        if round == 1 {
            let _ = judge.erase(journal, 2);
        }
    }
}

/// The script on `disk`, of which the power goes at operation `at`; `Err` is the judge's word.
fn with_power_off<D: Disk>(
    at: u64,
    wrap: impl Fn(SimDisk) -> D,
    end: impl Fn(&SimDisk) -> SimDisk,
) -> Result<(), String> {
    let mut judge = Judge::default();
    let disk = SimDisk::new(at);
    disk.plan(&[Fault::PowerOff(at)]);
    if let Ok((mut journal, _)) = Journal::open(wrap(disk.clone()), options(1)) {
        script(&mut journal, &mut judge);
    }
    // The power goes once more while the journal recovers, at one of its first operations.
    for second in [0, 1, 3, 6] {
        let left = end(&disk);
        left.plan(&[Fault::PowerOff(second)]);
        let _ = Journal::open(wrap(left.clone()), options(2));
        let left = end(&left);
        let (journal, report) =
            Journal::open(wrap(left), options(3)).map_err(|error| error.to_string())?;
        if report.gaps.iter().any(|gap| gap.proven) {
            return Err(format!("called lost: {report}"));
        }
        let mut judge = judge.clone();
        judge.judge(&journal, &mut Rng::from_u64(at))?;
    }
    Ok(())
}

fn script_operations() -> u64 {
    let disk = SimDisk::new(0);
    disk.plan(&[]);
    let (mut journal, _) = Journal::open(disk.clone(), options(1)).expect("an empty directory");
    script(&mut journal, &mut Judge::default());
    let operations = disk.operations();
    assert!(operations > 60, "{operations}: a script worth the name");
    operations
}

#[test]
fn a_loss_of_power_at_any_operation_loses_nothing_durable() {
    for at in 0..script_operations() {
        for seed in 0..2 {
            with_power_off(at, |disk| disk, |disk| disk.crash(seed))
                .unwrap_or_else(|fault| panic!("operation {at}, seed {seed}: {fault}"));
        }
    }
}

#[test]
fn a_kill_at_any_operation_and_a_loss_of_power_later_lose_nothing_durable() {
    for at in 0..script_operations() {
        with_power_off(at, |disk| disk, SimDisk::kill)
            .unwrap_or_else(|fault| panic!("operation {at}: {fault}"));
    }
}

/// A lie that a disk tells, or a mistake that the journal could make.
#[derive(Clone, Copy, Debug)]
enum Lie {
    /// fdatasync does nothing.
    NoSync,
    /// The sync of the directory does nothing.
    NoDirSync,
    /// A failed fdatasync is simply done again.
    SyncAgain,
    /// A file that should come into being whole is written under its own name at once.
    NoRename,
}

#[derive(Clone)]
struct Liar(SimDisk, Lie);

impl Liar {
    fn name(&self, name: &str) -> String {
        match self.1 {
            Lie::NoRename => name.strip_suffix(".tmp").unwrap_or(name).to_owned(),
            _ => name.to_owned(),
        }
    }
}

impl Disk for Liar {
    type File = usize;

    fn create(&self, name: &str) -> io::Result<usize> {
        let name = self.name(name);
        if matches!(self.1, Lie::NoRename) {
            let _ = self.0.remove(&name);
        }
        self.0.create(&name)
    }
    fn open(&self, name: &str) -> io::Result<usize> {
        self.0.open(name)
    }
    fn append(&self, file: &mut usize, bytes: &[u8]) -> io::Result<()> {
        self.0.append(file, bytes)
    }
    fn read_at(&self, file: &usize, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(file, offset, into)
    }
    fn len(&self, file: &usize) -> io::Result<u64> {
        self.0.len(file)
    }
    fn fdatasync(&self, file: &usize) -> io::Result<()> {
        match self.1 {
            Lie::NoSync => Ok(()),
            Lie::SyncAgain => self.0.fdatasync(file).or_else(|_| self.0.fdatasync(file)),
            Lie::NoDirSync | Lie::NoRename => self.0.fdatasync(file),
        }
    }
    fn truncate(&self, name: &str, len: u64) -> io::Result<()> {
        self.0.truncate(name, len)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        match self.1 {
            Lie::NoRename => Ok(()),
            _ => self.0.rename(from, to),
        }
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.remove(name)
    }
    fn list(&self) -> io::Result<Vec<String>> {
        self.0.list()
    }
    fn sync_dir(&self) -> io::Result<()> {
        match self.1 {
            Lie::NoDirSync => Ok(()),
            _ => self.0.sync_dir(),
        }
    }
    fn is_linked(&self, file: &usize) -> io::Result<bool> {
        self.0.is_linked(file)
    }
}

/// Whether at least `wanted` of the first lives end badly with that lie.
fn is_noticed(lie: Lie, wanted: usize) -> bool {
    (0..LIVES)
        .filter(|seed| {
            std::panic::catch_unwind(|| live(*seed, |disk| Liar(disk, lie)))
                .is_ok_and(|life| life.is_err())
        })
        .take(wanted)
        .count()
        == wanted
}

#[test]
fn without_fdatasync_the_judge_finds_durable_entries_lost() {
    assert!(is_noticed(Lie::NoSync, 50));
    let caught = (0..script_operations()).any(|at| {
        with_power_off(at, |disk| Liar(disk, Lie::NoSync), |disk| disk.crash(1)).is_err()
    });
    assert!(caught);
}

#[test]
fn without_the_sync_of_the_directory_the_judge_finds_durable_entries_lost() {
    assert!(is_noticed(Lie::NoDirSync, 10));
}

#[test]
fn a_failed_fdatasync_done_again_is_noticed() {
    assert!(is_noticed(Lie::SyncAgain, 1));
}

#[test]
fn files_that_do_not_come_into_being_whole_are_noticed() {
    assert!(is_noticed(Lie::NoRename, 1));
}
