//! Snapshots, compaction and erasure.

use super::super::entry::{Content, Entry};
use super::super::error::JournalError;
use super::super::replay::Base;
use super::super::seq::Seq;
use super::super::sim_disk::SimDisk;
use super::super::verify::verify;
use super::super::writer::Journal;
use super::life::{Judge, call, options, replayed};
use std::collections::BTreeSet;

fn open(disk: &SimDisk) -> Journal<SimDisk> {
    Journal::open(disk.clone(), options(1)).expect("it opens").0
}

fn fill(journal: &mut Journal<SimDisk>, judge: &mut Judge, entries: u64) {
    for entry in 0..entries {
        judge.append(journal, entry % 4, 200).expect("room");
        judge.commit(journal).expect("no fault");
    }
}

#[test]
fn segments_go_when_the_older_of_two_snapshots_stands_for_them() {
    let disk = SimDisk::new(1);
    let mut journal = open(&disk);
    let mut judge = Judge::default();
    let mut segments = Vec::new();
    for _ in 0..5 {
        fill(&mut journal, &mut judge, 40);
        judge.snapshot(&mut journal).expect("no fault");
        let report = verify(&disk).expect("readable");
        assert!(report.is_sound() && report.snapshots.len() <= 2, "{report}");
        segments.push(report.segments.len());
    }
    assert!(segments[1] < 2 * segments[0], "{segments:?}");
    assert_eq!(segments[2..], [segments[2]; 3], "{segments:?}");
    let (ids, base) = replayed(&journal, Seq::NONE).expect("reads");
    assert_eq!(ids, (0..200).collect::<Vec<u64>>());
    assert_eq!(base, Base::Snapshot(journal.durable()));
    // An index that is not far behind gets entries, one that is too far the snapshot.
    let near = Seq::from_bits(journal.durable().bits() - 30);
    let (ids, base) = replayed(&journal, near).expect("reads");
    assert_eq!((ids.len(), base), (30, Base::Entries));
    let far = Seq::first_of(1);
    let (ids, base) = replayed(&journal, far).expect("reads");
    assert_eq!((ids.len(), base), (200, Base::Snapshot(journal.durable())));
}

#[test]
fn a_damaged_snapshot_is_told_and_the_other_loses_nothing() {
    let disk = SimDisk::new(1);
    let mut journal = open(&disk);
    let mut judge = Judge::default();
    for _ in 0..3 {
        fill(&mut journal, &mut judge, 30);
        judge.snapshot(&mut journal).expect("no fault");
    }
    fill(&mut journal, &mut judge, 5);
    let snapshots = verify(&disk).expect("readable").snapshots;
    let newest = &snapshots[1].name;
    let len = disk.bytes(newest).len();
    for at in (64..512).step_by(64).chain((1024..len).step_by(29)) {
        let copy = disk.kill();
        let mut bytes = copy.bytes(newest);
        bytes[at] ^= 0x10;
        copy.put(newest, &bytes);
        let (journal, report) = Journal::open(copy, options(2)).expect("it opens");
        let (ids, base) = replayed(&journal, Seq::NONE).expect("reads");
        assert_eq!(ids, (0..95).collect::<Vec<u64>>(), "byte {at}: {report}");
        if at >= 1024 {
            assert!(!report.is_sound(), "byte {at}: {report}");
            assert_eq!(base, Base::Snapshot(snapshots[0].covers), "byte {at}");
        }
    }
    for cut in (0..len).step_by(53) {
        let copy = disk.kill();
        let bytes = copy.bytes(newest)[..cut].to_vec();
        copy.put(newest, &bytes);
        let (journal, _) = Journal::open(copy, options(2)).expect("it opens");
        let (ids, _) = replayed(&journal, Seq::NONE).expect("reads");
        assert_eq!(ids, (0..95).collect::<Vec<u64>>(), "cut at {cut}");
    }
}

#[test]
fn a_snapshot_stands_for_durable_entries_only_and_leaves_nothing_when_dropped() {
    let disk = SimDisk::new(1);
    let mut journal = open(&disk);
    let mut judge = Judge::default();
    let seq = judge.append(&mut journal, 1, 10).expect("room");
    let refused = journal.begin_snapshot(seq, 0).map(drop);
    assert_eq!(refused, Err(JournalError::NotDurable));
    judge.commit(&mut journal).expect("no fault");
    let mut writer = journal.begin_snapshot(seq, 0).expect("durable");
    let entry = Entry {
        kind: 1,
        schema: 1,
        call_id: None,
        unix_ms: 0,
        body: b"x",
    };
    writer.add(&entry).expect("no fault");
    assert_eq!(
        journal.erase(&BTreeSet::from([call(1)])),
        Err(JournalError::SnapshotUnderWay)
    );
    drop(writer);
    let report = verify(&disk).expect("readable");
    assert_eq!((report.snapshots.len(), report.temporary), (0, 0));
    assert!(journal.erase(&BTreeSet::from([call(1)])).is_ok());
}

/// Every byte that any file of the directory holds.
fn all_bytes(disk: &SimDisk) -> Vec<u8> {
    use super::super::disk::Disk;
    let names = disk.list().expect("lists");
    names.iter().flat_map(|name| disk.bytes(name)).collect()
}

#[test]
fn nothing_of_an_erased_call_is_left_in_any_file_and_nothing_else_is_gone() {
    let disk = SimDisk::new(1);
    let mut journal = open(&disk);
    let text = |number: u64, kind: &str| format!("{kind} of call {number}, which is secret");
    let mut seqs = Vec::new();
    for number in 0..40_u64 {
        let body = text(number % 4, "words");
        let seq = journal
            .append(&Entry {
                kind: 3,
                schema: 1,
                call_id: Some(call(number % 4)),
                unix_ms: 9,
                body: body.as_bytes(),
            })
            .expect("room");
        seqs.push(seq);
        journal.commit().expect("no fault");
        if number % 15 == 14 {
            let mut writer = journal.begin_snapshot(seq, 0).expect("durable");
            for number in 0..4 {
                let body = text(number, "state");
                writer
                    .add(&Entry {
                        kind: 4,
                        schema: 1,
                        call_id: Some(call(number)),
                        unix_ms: 9,
                        body: body.as_bytes(),
                    })
                    .expect("no fault");
            }
            let snapshot = writer.finish().expect("no fault");
            journal.adopt(snapshot).expect("no fault");
        }
    }
    // One more that only waits: it is committed and erased with the others.
    let waiting = text(2, "last words");
    journal
        .append(&Entry {
            kind: 3,
            schema: 1,
            call_id: Some(call(2)),
            unix_ms: 9,
            body: waiting.as_bytes(),
        })
        .expect("room");
    let erased = journal.erase(&BTreeSet::from([call(2)])).expect("no fault");
    assert_eq!(erased.entries, 10 + 1 + 2, "{erased:?}");
    for disk in [disk.kill(), disk.crash(1), disk.crash(2)] {
        let bytes = all_bytes(&disk);
        assert!(memchr::memmem::find(&bytes, b"of call 2").is_none());
        assert!(memchr::memmem::find(&bytes, b"call-2").is_none());
        assert!(memchr::memmem::find(&bytes, b"of call 3").is_some());
        let (journal, report) = Journal::open(disk, options(2)).expect("it opens");
        assert!(report.is_sound(), "{report}");
        let mut replay = journal.replay(seqs[0]);
        assert_eq!(replay.base(), Base::Entries);
        let mut found = vec![seqs[0]];
        while let Some(stored) = replay.next().expect("reads") {
            let is_two = stored.content == Content::Erased;
            assert_eq!(is_two, stored.body.is_empty());
            assert_eq!(is_two, stored.call_id.is_none() && stored.unix_ms == 0);
            found.push(stored.seq);
        }
        // The numbers are all there.
        assert_eq!(found[..40], seqs);
    }
    // Erasing again finds nothing to do, and the journal goes on.
    let again = journal.erase(&BTreeSet::from([call(2)])).expect("no fault");
    assert_eq!((again.entries, again.files), (0, 0));
    let mut judge = Judge::default();
    let _ = judge.append(&mut journal, 1, 10);
    assert!(journal.commit().is_ok());
}

#[test]
fn an_erasure_takes_what_a_failed_write_left_over_too() {
    use super::super::sim_disk::Fault;
    let disk = SimDisk::new(6);
    let mut journal = open(&disk);
    let put = |journal: &mut Journal<SimDisk>, body: &[u8], number| {
        let entry = Entry {
            kind: 3,
            schema: 1,
            call_id: Some(call(number)),
            unix_ms: 9,
            body,
        };
        journal.append(&entry).expect("room");
    };
    put(&mut journal, b"first", 1);
    journal.commit().expect("no fault");
    put(&mut journal, b"secret words", 2);
    disk.plan(&[Fault::Errors(1, 2, rustix::io::Errno::IO)]);
    journal.commit().expect("in a new segment");
    let count = |disk: &SimDisk| memchr::memmem::find_iter(&all_bytes(disk), b"secret").count();
    assert_eq!(count(&disk), 2);
    let erased = journal.erase(&BTreeSet::from([call(2)])).expect("no fault");
    assert_eq!((erased.entries, erased.files), (1, 2));
    assert_eq!(count(&disk), 0);
    assert!(verify(&disk).expect("readable").is_sound());
}

#[test]
fn an_erasure_is_final_also_for_files_whose_removal_was_not() {
    let body = b"secret words";
    let (mut failed, mut seen) = (0, 0);
    for fault in 0..8 {
        let disk = SimDisk::new(fault);
        let mut journal = open(&disk);
        let put = |journal: &mut Journal<SimDisk>, number, len: usize| {
            let body = body.repeat(len);
            let entry = Entry {
                kind: 3,
                schema: 1,
                call_id: Some(call(number)),
                unix_ms: 9,
                body: if number == 2 { &body } else { b"others" },
            };
            journal.append(&entry).expect("room");
            journal.commit().expect("no fault")
        };
        // The call fills a segment of its own, and both snapshots stand for it without a word of it.
        put(&mut journal, 2, 400);
        for _ in 0..2 {
            let covers = put(&mut journal, 1, 1);
            let writer = journal.begin_snapshot(covers, 0).expect("durable");
            let snapshot = writer.finish().expect("no fault");
            disk.plan(&[super::super::sim_disk::Fault::Errors(
                fault,
                fault + 1,
                rustix::io::Errno::IO,
            )]);
            failed += u32::from(journal.adopt(snapshot).is_err());
            disk.plan(&[]);
        }
        let is_there = |disk: &SimDisk| memchr::memmem::find(&all_bytes(disk), body).is_some();
        for seed in 0..8 {
            seen += u32::from(is_there(&disk.crash(seed)));
        }
        journal.erase(&BTreeSet::from([call(2)])).expect("no fault");
        for seed in 0..8 {
            assert!(!is_there(&disk.crash(seed)), "fault {fault}, seed {seed}");
        }
    }
    // The removal was cut off in some of them, and a crash brought the words back.
    assert!(failed >= 2 && seen > 0, "{failed} {seen}");
}
