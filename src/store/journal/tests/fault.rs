//! A disk that says no: what is reported durable stays so, what waits goes on waiting, and the error says what to do.

use super::super::disk::Disk;
use super::super::entry::Entry;
use super::super::error::JournalError;
use super::super::seq::Seq;
use super::super::sim_disk::{Fault, SimDisk};
use super::super::verify::verify;
use super::super::writer::Journal;
use super::life::{Judge, options, replayed};
use crate::base::limit::{JOURNAL_BODY_BYTES_MAX, JOURNAL_PENDING_BYTES_MAX};
use crate::base::rng::Rng;
use rustix::io::Errno;

fn open(disk: &SimDisk) -> Journal<SimDisk> {
    Journal::open(disk.clone(), options(1)).expect("it opens").0
}

const NEVER: u64 = u64::MAX;

#[test]
fn while_the_disk_is_full_nothing_is_durable_and_when_it_is_not_everything_is() {
    for (errno, told) in [
        (Errno::NOSPC, JournalError::DiskFull),
        (Errno::DQUOT, JournalError::DiskFull),
        (Errno::ROFS, JournalError::ReadOnly),
        (Errno::ACCESS, JournalError::Permission),
    ] {
        let disk = SimDisk::new(2);
        let mut journal = open(&disk);
        let mut judge = Judge::default();
        judge.append(&mut journal, 1, 10).expect("room");
        let before = judge.commit(&mut journal).expect("no fault");
        disk.plan(&[Fault::Errors(0, NEVER, errno)]);
        for _ in 0..3 {
            judge.append(&mut journal, 1, 10).expect("memory");
            assert_eq!(judge.commit(&mut journal), Err(told.clone()));
            assert_eq!(journal.durable(), before);
        }
        assert_eq!(journal.pending().0, 3);
        disk.plan(&[]);
        assert_eq!(judge.commit(&mut journal).map(Seq::count), Ok(4));
        assert_eq!(journal.pending(), (0, 0));
        let journal = open(&disk.crash(3));
        assert_eq!(
            replayed(&journal, Seq::NONE).expect("reads").0,
            [0, 1, 2, 3]
        );
        // Failed attempts leave no litter behind.
        let report = verify(&disk).expect("readable");
        assert!(
            report.segments.len() <= 2 && report.temporary == 0,
            "{report}"
        );
        assert!(report.is_sound(), "{report}");
    }
}

#[test]
fn a_write_that_failed_gives_its_space_back() {
    let disk = SimDisk::new(2);
    let mut journal = open(&disk);
    let mut judge = Judge::default();
    judge.append(&mut journal, 1, 10).expect("room");
    judge.commit(&mut journal).expect("no fault");
    let name = verify(&disk).expect("readable").segments[0].name.clone();
    let before = disk.bytes(&name);
    judge.append(&mut journal, 1, 2_000).expect("room");
    // The write fails, and so does the new segment that is tried then; what stands between is the cut.
    disk.plan(&[
        Fault::Errors(0, 1, Errno::NOSPC),
        Fault::Errors(2, NEVER, Errno::NOSPC),
    ]);
    assert_eq!(judge.commit(&mut journal), Err(JournalError::DiskFull));
    assert_eq!(disk.bytes(&name), before);
    disk.plan(&[]);
    assert_eq!(judge.commit(&mut journal).map(Seq::count), Ok(2));
}

#[test]
fn after_a_failed_sync_the_segment_is_not_touched_again() {
    let disk = SimDisk::new(2);
    let mut journal = open(&disk);
    let mut judge = Judge::default();
    judge.append(&mut journal, 1, 10).expect("room");
    judge.commit(&mut journal).expect("no fault");
    let first = verify(&disk).expect("readable").segments[0].name.clone();
    judge.append(&mut journal, 1, 10).expect("room");
    // Operation 0 is the write, 1 the sync.
    disk.plan(&[Fault::Errors(1, 2, Errno::IO)]);
    assert_eq!(judge.commit(&mut journal).map(Seq::count), Ok(2));
    let left = disk.bytes(&first);
    judge.append(&mut journal, 1, 10).expect("room");
    judge.commit(&mut journal).expect("no fault");
    assert_eq!(disk.bytes(&first), left);
    let report = verify(&disk).expect("readable");
    // The second entry stands in both and counts once.
    assert_eq!(
        (report.segments.len(), report.entries()),
        (2, 3),
        "{report}"
    );
    for seed in 0..20 {
        let journal = open(&disk.crash(seed));
        assert_eq!(replayed(&journal, Seq::NONE).expect("reads").0, [0, 1, 2]);
    }
}

#[test]
fn an_error_at_any_operation_is_survived() {
    let run = |faults: &[Fault]| {
        let disk = SimDisk::new(4);
        let mut journal = open(&disk);
        let mut judge = Judge::default();
        disk.plan(faults);
        for entry in 0..20 {
            let _ = judge.append(&mut journal, entry % 3, 300);
            let _ = judge.commit(&mut journal);
            if entry % 8 == 7 {
                let _ = judge.snapshot(&mut journal);
                let _ = judge.erase(&mut journal, 2);
            }
        }
        let operations = disk.operations();
        disk.plan(&[]);
        judge.commit(&mut journal).expect("the fault is over");
        assert_eq!(journal.pending().0, 0);
        for left in [disk.kill(), disk.crash(1), disk.crash(2)] {
            let (journal, report) = Journal::open(left, options(2)).expect("it opens");
            assert!(report.gaps.is_empty(), "{faults:?}: {report}");
            let mut judge = judge.clone();
            judge
                .judge(&journal, &mut Rng::from_u64(7))
                .unwrap_or_else(|fault| panic!("{faults:?}: {fault}; {report}"));
        }
        operations
    };
    let operations = run(&[]);
    assert!(operations > 80, "{operations}");
    for at in 0..operations {
        for length in [1, 3] {
            run(&[Fault::Errors(at, at + length, Errno::IO)]);
        }
    }
}

#[test]
fn a_directory_deleted_under_the_journal_is_noticed_before_anything_is_called_durable() {
    let disk = SimDisk::new(2);
    let mut journal = open(&disk);
    let mut judge = Judge::default();
    judge.append(&mut journal, 1, 10).expect("room");
    judge.commit(&mut journal).expect("no fault");
    disk.delete_all();
    judge.append(&mut journal, 1, 10).expect("memory");
    // The simulated directory itself is still there, so the entries find a new segment in it.
    assert_eq!(judge.commit(&mut journal).map(Seq::count), Ok(2));
    let report = verify(&disk).expect("readable");
    assert_eq!(
        (report.entries(), report.lost_entries()),
        (1, 1),
        "{report}"
    );
}

#[test]
fn what_is_too_long_or_too_much_is_refused_and_harms_nothing() {
    let disk = SimDisk::new(2);
    let mut journal = open(&disk);
    let long = vec![b'x'; JOURNAL_BODY_BYTES_MAX + 1];
    let entry = Entry {
        kind: 1,
        schema: 1,
        call_id: None,
        unix_ms: 0,
        body: &long,
    };
    assert_eq!(
        journal.append(&entry),
        Err(JournalError::TooLong { bytes: long.len() })
    );
    let longest = Entry {
        body: &long[1..],
        ..entry
    };
    let mut taken = 0;
    let refused = loop {
        match journal.append(&longest) {
            Ok(_) => taken += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(refused, JournalError::Backlog);
    assert!(journal.pending().1 <= JOURNAL_PENDING_BYTES_MAX);
    assert_eq!(journal.commit().map(Seq::count), Ok(taken));
    assert!(journal.append(&longest).is_ok());
    let report = verify(&disk).expect("readable");
    assert_eq!((report.entries(), report.is_sound()), (taken, true));
}

#[test]
fn numbers_rise_over_restarts_and_none_is_used_twice() {
    let mut disk = SimDisk::new(2);
    let mut last = Seq::NONE;
    for process in 1..6 {
        let (mut journal, _) = Journal::open(disk.clone(), options(process)).expect("it opens");
        assert_eq!(u64::from(journal.epoch()), process);
        let mut judge = Judge::default();
        let lost = judge.append(&mut journal, 1, 1).expect("room");
        assert!(lost > last, "{lost} after {last}");
        last = lost;
        // Never committed: its number is used up all the same.
        disk = disk.crash(process);
    }
    let report = verify(&disk).expect("readable");
    // Empty segments of processes that wrote nothing do not pile up.
    assert!(report.segments.len() <= 3, "{report}");
    assert!(report.is_sound(), "{report}");
}

#[test]
fn unfinished_files_are_removed_at_the_next_opening() {
    let disk = SimDisk::new(2);
    drop(open(&disk));
    let name = format!(
        "{}.tmp",
        super::super::header::name(super::super::header::Kind::Segment, 9, 4)
    );
    disk.put(&name, b"half a head");
    disk.put("notes.tmp", b"not ours");
    assert_eq!(verify(&disk).expect("readable").temporary, 1);
    let journal = open(&disk);
    // Its epoch counts: a number may have been taken from it.
    assert_eq!(journal.epoch(), 10);
    let names = disk.list().expect("lists");
    assert!(!names.contains(&name) && names.contains(&"notes.tmp".to_owned()));
}
