//! Bytes that change under the journal: what is whole is used, what is lost is said, nothing panics.

use super::super::entry::{Content, Entry};
use super::super::error::JournalError;
use super::super::header::{FILE_HEADER_BYTES, Kind, name};
use super::super::report::Report;
use super::super::seq::Seq;
use super::super::sim_disk::SimDisk;
use super::super::verify::verify;
use super::super::writer::Journal;
use super::life::{Judge, options, replayed};
use std::collections::BTreeSet;

/// Three segments and 30 entries, with commits between.
fn filled() -> SimDisk {
    let disk = SimDisk::new(1);
    let (mut journal, _) = Journal::open(disk.clone(), options(1)).expect("empty");
    let mut judge = Judge::default();
    for entry in 0..30 {
        judge
            .append(&mut journal, entry % 4, 130 + entry as usize * 7)
            .expect("room");
        if entry % 3 == 2 {
            judge.commit(&mut journal).expect("no fault");
        }
    }
    disk
}

fn segments(disk: &SimDisk) -> Vec<String> {
    let report = verify(disk).expect("readable");
    report.segments.into_iter().map(|s| s.name).collect()
}

/// The disk with one file changed.
fn bent(disk: &SimDisk, file: &str, change: impl FnOnce(&mut Vec<u8>)) -> SimDisk {
    let copy = disk.kill();
    let mut bytes = copy.bytes(file);
    change(&mut bytes);
    copy.put(file, &bytes);
    copy
}

fn reopened(disk: &SimDisk) -> (Vec<u64>, Report) {
    let (journal, report) = Journal::open(disk.clone(), options(9)).expect("it opens");
    let (ids, _) = replayed(&journal, Seq::NONE).expect("it replays");
    (ids, report)
}

#[test]
fn a_flipped_bit_anywhere_costs_one_entry_at_most_and_is_told() {
    let disk = filled();
    let names = segments(&disk);
    assert!(names.len() >= 3, "{names:?}");
    let all: BTreeSet<u64> = (0..30).collect();
    for (at, name) in names.iter().enumerate() {
        let len = disk.bytes(name).len();
        // Every third byte, another bit each time: headers, ids and bodies of all entries are among them.
        for byte in (0..64)
            .chain(512..576)
            .chain((FILE_HEADER_BYTES..len).step_by(3))
        {
            let copy = bent(&disk, name, |bytes| bytes[byte] ^= 1 << (byte % 8));
            let report = verify(&copy).expect("it is read");
            let (ids, _) = reopened(&copy);
            let missing: Vec<u64> = all
                .difference(&ids.iter().copied().collect())
                .copied()
                .collect();
            let place = format!("{name} byte {byte}: {missing:?}, {report}");
            if byte < FILE_HEADER_BYTES {
                assert!(missing.is_empty() && !report.is_sound(), "{place}");
                continue;
            }
            assert_eq!(missing.len(), 1, "{place}");
            if report.gaps.is_empty() {
                // Only the very last entry can be taken for a write that was cut off.
                assert!(at + 1 == names.len() && missing == [29], "{place}");
                assert!(report.segments[at].tail_bytes > 0, "{place}");
            } else {
                assert_eq!(report.lost_entries(), 1, "{place}");
                assert_eq!(report.gaps[0].first.count(), missing[0] + 1, "{place}");
                // What lies before the last commit of all was durable beyond doubt.
                assert_eq!(report.gaps[0].proven, missing[0] < 27, "{place}");
            }
        }
    }
}

#[test]
fn a_sound_journal_is_called_sound_and_looking_changes_nothing() {
    let disk = filled();
    disk.plan(&[]);
    let report = verify(&disk).expect("readable");
    assert!(report.is_sound(), "{report}");
    assert_eq!((report.entries(), report.last.count()), (30, 30));
    assert!(report.to_string().ends_with("sound"), "{report}");
    assert_eq!(disk.operations(), 0);
}

#[test]
fn a_torn_tail_is_cut_off_and_told_at_every_length() {
    let disk = filled();
    let name = segments(&disk).pop().expect("three");
    let whole = disk.bytes(&name);
    let report = verify(&disk).expect("readable");
    let ends = |cut: usize| {
        let copy = bent(&disk, &name, |bytes| bytes.truncate(cut));
        reopened(&copy)
    };
    let mut entries = 30;
    for cut in (FILE_HEADER_BYTES..whole.len()).rev() {
        let (ids, torn) = ends(cut);
        assert!(ids.len() == entries || ids.len() == entries - 1, "{cut}");
        entries = ids.len();
        let kept = torn.segments.last().expect("three").bytes;
        assert_eq!(kept + torn.truncated_bytes, cut as u64, "{torn}");
        assert!(torn.gaps.is_empty(), "a torn tail is no loss: {torn}");
    }
    assert_eq!(
        entries as u64,
        30 - report.segments.last().expect("three").entries
    );
}

#[test]
fn noughts_and_rubbish_at_the_end_are_a_torn_tail() {
    let disk = filled();
    let name = segments(&disk).pop().expect("three");
    for fill in [0x00, 0xFF, 0x4A] {
        let copy = bent(&disk, &name, |bytes| bytes.extend([fill; 5000]));
        let (ids, report) = reopened(&copy);
        assert_eq!((ids.len(), report.truncated_bytes), (30, 5000), "{report}");
        // And the next opening finds nothing more to say.
        let (_, again) = reopened(&copy);
        assert!(again.is_sound() && again.truncated_bytes == 0, "{again}");
    }
}

#[test]
fn a_lost_stretch_is_told_by_its_numbers_and_what_follows_is_used() {
    let disk = filled();
    let name = &segments(&disk)[1];
    let before = verify(&disk).expect("readable");
    let segment = &before.segments[1];
    let copy = bent(&disk, name, |bytes| {
        let end = bytes.len() - 700;
        bytes[FILE_HEADER_BYTES + 500..end].fill(0);
    });
    let (ids, report) = reopened(&copy);
    assert_eq!(report.gaps.len(), 1, "{report}");
    let gap = report.gaps[0];
    assert!(gap.proven && gap.first > segment.first && gap.last < segment.last);
    assert_eq!(ids.len() as u64 + report.lost_entries(), 30);
    assert!(report.to_string().contains("lost"), "{report}");
}

#[test]
fn what_a_crash_tore_out_of_the_last_commit_is_told_once_and_what_follows_it_is_used() {
    let disk = SimDisk::new(1);
    let (mut journal, _) = Journal::open(disk.clone(), options(1)).expect("empty");
    let mut judge = Judge::default();
    judge.append(&mut journal, 1, 100).expect("room");
    judge.commit(&mut journal).expect("no fault");
    for _ in 0..12 {
        judge.append(&mut journal, 1, 100).expect("room");
    }
    judge.commit(&mut journal).expect("no fault");
    let name = segments(&disk).pop().expect("one");
    let copy = bent(&disk, &name, |bytes| bytes[2048..2560].fill(0));
    let (ids, report) = reopened(&copy);
    assert_eq!(report.gaps.len(), 1, "{report}");
    assert!(!report.gaps[0].proven, "{report}");
    let lost = report.lost_entries();
    assert!((3..=5).contains(&lost), "{report}");
    assert_eq!(ids.len() as u64, 13 - lost);
    // Its numbers are tombstones now.
    let (again, report) = reopened(&copy);
    assert_eq!(again, ids);
    assert!(report.is_sound(), "{report}");
    assert_eq!(report.segments[0].lost, lost);
    // Damage to what was durable beyond doubt stays where it is, for whoever wants to look at it.
    let copy = bent(&disk, &name, |bytes| bytes[1100] ^= 1);
    let damaged = copy.bytes(&name);
    for _ in 0..2 {
        let (ids, report) = reopened(&copy);
        assert_eq!((ids.len(), report.lost_entries()), (12, 1), "{report}");
        assert_eq!(copy.bytes(&name), damaged);
    }
}

#[test]
fn a_missing_or_unreadable_segment_costs_its_own_entries_and_they_are_told() {
    let disk = filled();
    let names = segments(&disk);
    let before = verify(&disk).expect("readable");
    for at in 0..names.len() {
        let lost = before.segments[at].entries;
        let unreadable = bent(&disk, &names[at], |bytes| bytes[..1024].fill(0));
        let (ids, report) = reopened(&unreadable);
        assert_eq!(ids.len() as u64, 30 - lost, "{report}");
        assert!(!report.is_sound() && report.segments[at].unreadable);
        if at + 1 < names.len() {
            assert_eq!(report.lost_entries(), lost, "{report}");
            let missing = disk.kill();
            super::super::disk::Disk::remove(&missing, &names[at]).expect("there");
            let (ids, report) = reopened(&missing);
            assert_eq!(ids.len() as u64, 30 - lost, "{report}");
            assert_eq!(report.lost_entries(), lost, "{report}");
        }
    }
}

#[test]
fn a_block_that_the_disk_cannot_read_costs_what_lies_in_it_and_is_not_cut_off() {
    let disk = SimDisk::new(1);
    let mut wide = options(1);
    wide.segment_bytes = 1 << 20;
    let (mut journal, _) = Journal::open(disk.clone(), wide).expect("empty");
    let mut judge = Judge::default();
    for entry in 0..200 {
        judge.append(&mut journal, entry, 100).expect("room");
        judge.commit(&mut journal).expect("no fault");
    }
    let name = segments(&disk).pop().expect("one");
    let blocks = disk.bytes(&name).len() as u64 / 4096;
    for block in 1..=blocks {
        let copy = disk.kill();
        copy.spoil(&name, block);
        let (ids, report) = reopened(&copy);
        assert!((160..200).contains(&ids.len()), "{report}");
        assert!(report.segments[0].unreadable_bytes > 0);
        assert!(!report.is_sound());
        // It may be readable again: nothing was cut, and an erasure does not make the loss final.
        assert_eq!(copy.bytes(&name), disk.bytes(&name));
        let (mut journal, _) = Journal::open(copy.clone(), options(4)).expect("it opens");
        assert_eq!(
            judge.clone().erase(&mut journal, 3),
            Err(JournalError::Unreadable { file: name.clone() })
        );
    }
}

#[test]
fn a_file_of_a_newer_format_is_refused_and_left_alone() {
    let disk = filled();
    let name = &segments(&disk)[1];
    let copy = bent(&disk, name, |bytes| {
        for at in [0, 512] {
            bytes[at + 8] = 9;
            let crc = crc32c::crc32c(&bytes[at..at + 60]);
            bytes[at + 60..at + 64].copy_from_slice(&crc.to_le_bytes());
        }
    });
    copy.plan(&[]);
    let refused = Journal::open(copy.clone(), options(1)).map(drop);
    assert_eq!(
        refused,
        Err(JournalError::Newer {
            file: name.clone(),
            version: 9
        })
    );
    assert!(verify(&copy).is_err());
    assert_eq!(copy.operations(), 0);
}

#[test]
fn a_segment_under_another_ones_name_is_not_believed() {
    let disk = filled();
    let names = segments(&disk);
    let copy = disk.kill();
    let foreign = name(Kind::Segment, 1, 77);
    copy.put(&foreign, &disk.bytes(&names[0]));
    let (ids, report) = reopened(&copy);
    assert_eq!(ids.len(), 30);
    assert!(
        report
            .segments
            .iter()
            .any(|s| s.name == foreign && s.unreadable)
    );
}

#[test]
fn random_damage_never_panics_loops_or_invents() {
    let disk = filled();
    let names = segments(&disk);
    let mut rng = crate::base::rng::Rng::from_u64(5);
    let mut below = |bound: usize| (rng.next_u64() % bound as u64) as usize;
    for _ in 0..300 {
        let copy = disk.kill();
        for name in &names {
            let mut bytes = copy.bytes(name);
            for _ in 0..below(4) {
                let (at, other) = (below(bytes.len()), below(bytes.len()));
                let len = below(400).min(bytes.len() - at.max(other));
                match below(4) {
                    0 => bytes[at..at + len].fill(0),
                    1 => bytes.copy_within(other..other + len, at),
                    2 => drop(bytes.drain(at..at + len)),
                    _ => bytes[at] ^= 1 << below(8),
                }
                if bytes.is_empty() {
                    bytes.push(0);
                }
            }
            copy.put(name, &bytes);
        }
        // `replayed` checks every body against what was written, and that numbers rise.
        let (ids, _) = reopened(&copy);
        assert!(ids.is_sorted() && ids.iter().all(|id| *id < 30));
        // An erasure leaves no damage: what was damaged is a tombstone, and the numbers are dense again.
        let (mut journal, _) = Journal::open(copy.clone(), options(3)).expect("it opens");
        Judge::default().erase(&mut journal, 1).expect("no fault");
        let report = verify(&copy).expect("readable");
        assert!(
            report.segments.iter().all(|s| s.damaged_bytes == 0),
            "{report}"
        );
    }
}

#[test]
fn a_forged_entry_in_a_text_is_not_found_when_its_host_is_damaged() {
    let disk = SimDisk::new(1);
    let (mut journal, _) = Journal::open(disk.clone(), options(1)).expect("empty");
    // Sealed without the salt, which nobody outside knows, under the number that would fit.
    let mut forged = Vec::new();
    let entry = Entry {
        kind: 1,
        schema: 1,
        call_id: None,
        unix_ms: 0,
        body: b"forged",
    };
    let fits = Seq::first_of(1).next().expect("few");
    super::super::entry::encode(&mut forged, fits, false, Content::Whole, &entry);
    super::super::entry::seal(&mut forged, 0);
    let host = [&[0; 100][..], &forged].concat();
    for _ in 0..3 {
        journal
            .append(&Entry {
                body: &host,
                ..entry
            })
            .expect("room");
    }
    journal.commit().expect("no fault");
    let name = segments(&disk).pop().expect("one");
    let copy = bent(&disk, &name, |bytes| bytes[FILE_HEADER_BYTES + 16] ^= 1);
    let (journal, report) = Journal::open(copy, options(2)).expect("it opens");
    assert_eq!(report.lost_entries(), 1, "{report}");
    let mut replay = journal.replay(Seq::NONE);
    let mut contents = Vec::new();
    while let Some(stored) = replay.next().expect("it replays") {
        contents.push(stored.content);
        assert!(stored.content == Content::Lost || stored.body == host);
    }
    assert_eq!(contents, [Content::Lost, Content::Whole, Content::Whole]);
}
