//! The real file system.

use super::super::disk::{Disk, OsDisk};
use super::super::entry::Entry;
use super::super::error::JournalError;
use super::super::replay::Base;
use super::super::seq::Seq;
use super::super::writer::{Journal, inspect, read};
use super::life::{Judge, call};
use std::collections::BTreeSet;

#[test]
fn a_journal_lives_through_restarts_snapshots_and_erasure() {
    let home = tempfile::tempdir().expect("a directory");
    let directory = home.path().join("a/b/journal");
    let mut judge = Judge::default();
    let mut rng = crate::base::rng::Rng::from_u64(1);
    for process in 1..5 {
        let (mut journal, report) = Journal::open_dir(&directory).expect("it opens");
        assert!(report.is_sound(), "{report}");
        assert_eq!(journal.epoch(), process);
        judge.judge(&journal, &mut rng).expect("all there");
        for entry in 0..50 {
            judge.append(&mut journal, entry % 5, 100).expect("room");
        }
        judge.commit(&mut journal).expect("it writes");
        judge.snapshot(&mut journal).expect("it writes");
        judge
            .erase(&mut journal, u64::from(process))
            .expect("it writes");
        // Beside the writer, which holds the lock.
        let report = inspect(&directory).expect("it reads");
        assert!(report.is_sound(), "{report}");
        assert_eq!(report.last, journal.durable());
    }
    let (journal, _) = Journal::open_dir(&directory).expect("it opens");
    judge.judge(&journal, &mut rng).expect("all there");
}

#[test]
fn a_second_writer_is_refused_and_told_who_has_it() {
    let home = tempfile::tempdir().expect("a directory");
    let held = Journal::open_dir(home.path()).expect("it opens");
    let refused = Journal::open_dir(home.path()).map(drop);
    let pid = Some(std::process::id());
    assert_eq!(refused, Err(JournalError::Locked { pid }));
    let text = refused.unwrap_err().to_string();
    assert!(text.contains(&std::process::id().to_string()), "{text}");
    drop(held);
    assert!(Journal::open_dir(home.path()).is_ok());
}

#[test]
fn the_store_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let home = tempfile::tempdir().expect("a directory");
    let directory = home.path().join("journal");
    drop(Journal::open_dir(&directory).expect("it opens"));
    let mode = |path: &std::path::Path| {
        let metadata = std::fs::metadata(path).expect("there");
        metadata.permissions().mode() & 0o777
    };
    assert_eq!(mode(&directory), 0o700);
    for entry in std::fs::read_dir(&directory).expect("lists") {
        assert_eq!(mode(&entry.expect("there").path()), 0o600);
    }
}

#[test]
fn a_directory_deleted_under_a_running_journal_is_told_and_a_moved_one_is_followed() {
    let home = tempfile::tempdir().expect("a directory");
    let (here, there) = (home.path().join("here"), home.path().join("there"));
    let (mut journal, _) = Journal::open_dir(&here).expect("it opens");
    let mut judge = Judge::default();
    judge.append(&mut journal, 1, 10).expect("room");
    std::fs::rename(&here, &there).expect("it moves");
    judge.commit(&mut journal).expect("the same directory");
    assert!(judge.erase(&mut journal, 9).is_ok());
    std::fs::remove_dir_all(&there).expect("it goes");
    judge.append(&mut journal, 1, 10).expect("memory");
    let before = journal.durable();
    assert_eq!(judge.commit(&mut journal), Err(JournalError::Gone));
    assert_eq!((journal.durable(), journal.pending().0), (before, 1));
}

#[test]
fn what_is_no_directory_or_not_there_is_an_error_with_a_way_out() {
    let home = tempfile::tempdir().expect("a directory");
    let file = home.path().join("file");
    std::fs::write(&file, "x").expect("it writes");
    assert!(Journal::open_dir(&file).is_err());
    assert_eq!(
        inspect(&home.path().join("nothing")).map(drop),
        Err(JournalError::Gone)
    );
    // Looking makes nothing.
    assert!(!home.path().join("nothing").exists());
}

#[test]
fn the_real_disk_does_what_the_simulated_one_is_asked() {
    let home = tempfile::tempdir().expect("a directory");
    let disk = OsDisk::open(home.path()).expect("there");
    let mut file = disk.create("a").expect("new");
    assert_eq!(
        disk.create("a").map(drop).map_err(|error| error.kind()),
        Err(std::io::ErrorKind::AlreadyExists)
    );
    disk.append(&mut file, b"hello ").expect("it writes");
    disk.append(&mut file, b"world").expect("it writes");
    disk.fdatasync(&file).expect("it syncs");
    let mut into = [0; 32];
    assert_eq!(disk.read_at(&file, 6, &mut into).expect("it reads"), 5);
    assert_eq!(&into[..5], b"world");
    assert_eq!(disk.read_at(&file, 11, &mut into).expect("it reads"), 0);
    disk.truncate("a", 5).expect("it cuts");
    // Appending goes on at the new end.
    disk.append(&mut file, b"!").expect("it writes");
    assert_eq!(disk.len(&file).expect("it knows"), 6);
    disk.create("b").expect("new");
    assert!(disk.is_linked(&file).expect("it knows"));
    disk.rename("b", "a").expect("it replaces");
    assert!(!disk.is_linked(&file).expect("it knows"));
    disk.sync_dir().expect("it syncs");
    assert_eq!(
        disk.list()
            .expect("it lists")
            .iter()
            .filter(|n| *n == "a")
            .count(),
        1
    );
    disk.remove("a").expect("it removes");
    assert_eq!(
        disk.open("a").map(drop).map_err(|error| error.kind()),
        Err(std::io::ErrorKind::NotFound)
    );
}

#[test]
fn looking_beside_a_writer_that_compacts_and_erases_finds_nothing_wrong() {
    let home = tempfile::tempdir().expect("a directory");
    let (mut journal, _) = Journal::open_dir(home.path()).expect("it opens");
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let looks = scope.spawn(|| {
            let mut looks = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) || looks == 0 {
                let report = inspect(home.path()).expect("it reads");
                assert!(report.gaps.iter().all(|gap| !gap.proven), "{report}");
                looks += 1;
            }
            looks
        });
        for round in 0..60_u64 {
            for number in 0..20 {
                let entry = Entry {
                    kind: 1,
                    schema: 1,
                    call_id: Some(call(number)),
                    unix_ms: round,
                    body: &[b'x'; 500],
                };
                journal.append(&entry).expect("room");
            }
            journal.commit().expect("it writes");
            if round % 10 == 9 {
                let covers = journal.durable();
                let writer = journal.begin_snapshot(covers, 0).expect("durable");
                let snapshot = writer.finish().expect("it writes");
                journal.adopt(snapshot).expect("it removes");
                journal
                    .erase(&BTreeSet::from([call(round % 20)]))
                    .expect("it writes");
            }
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(looks.join().expect("no panic") > 0);
    });
    // And whoever reads gets what the writer would give.
    let (report, mut replay) = read(home.path(), Seq::NONE).expect("it reads");
    assert_eq!(report.last, journal.durable());
    assert_eq!(replay.base(), Base::Snapshot(journal.durable()));
    assert!(replay.next().expect("it reads").is_none());
    let after = Seq::from_bits(journal.durable().bits() - 3);
    let (_, mut replay) = read(home.path(), after).expect("it reads");
    assert_eq!(replay.base(), Base::Entries);
    let mut found = 0;
    while replay.next().expect("it reads").is_some() {
        found += 1;
    }
    assert_eq!(found, 3);
}
