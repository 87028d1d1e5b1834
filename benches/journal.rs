//! The journal on the real file system: entries a second with group commit, one entry that somebody waits for, and how fast
//! a start looks at everything and hands it out again.
//!
//! `cargo bench --bench journal`. The files lie below the target folder, so its disk is what is measured. An entry is 86 bytes with
//! a call's id of 34: 160 on the disk.
#![allow(missing_docs)] // criterion's macros write public items without docs

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use voxrelay::base::id::CallId;
use voxrelay::base::limit::JOURNAL_BATCH_ENTRIES;
use voxrelay::store::journal::entry::Entry;
use voxrelay::store::journal::seq::Seq;
use voxrelay::store::journal::{Journal, inspect};

/// Entries that a start finds.
const FOUND: u64 = 200_000;

fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory")
}

fn entry(body: &[u8]) -> Entry<'_> {
    Entry {
        kind: 1,
        schema: 1,
        call_id: CallId::new("CA0123456789abcdef0123456789abcdef"),
        unix_ms: 1_795_000_000_000,
        body,
    }
}

fn append(c: &mut Criterion) {
    let home = directory();
    let (mut journal, _) = Journal::open_dir(home.path()).expect("it opens");
    let body = [b'x'; 86];
    let batch = u64::from(JOURNAL_BATCH_ENTRIES);
    let mut group = c.benchmark_group("journal");
    group.throughput(Throughput::Elements(batch));
    group.bench_function("append_86_grouped", |b| {
        b.iter(|| {
            for _ in 0..batch {
                journal.append(black_box(&entry(&body))).expect("room");
            }
            journal.commit().expect("it writes")
        });
    });
    group.throughput(Throughput::Elements(1));
    group.bench_function("append_86_awaited", |b| {
        b.iter(|| {
            journal.append(black_box(&entry(&body))).expect("room");
            journal.commit().expect("it writes")
        });
    });
    group.finish();
}

fn start(c: &mut Criterion) {
    let home = directory();
    let (mut journal, _) = Journal::open_dir(home.path()).expect("it opens");
    let body = [b'x'; 86];
    for number in 0..FOUND {
        journal.append(&entry(&body)).expect("room");
        if number % 256 == 255 {
            journal.commit().expect("it writes");
        }
    }
    journal.commit().expect("it writes");
    let mut group = c.benchmark_group("journal");
    group.sample_size(20);
    group.throughput(Throughput::Elements(FOUND));
    group.bench_function("verify", |b| {
        b.iter(|| {
            let report = inspect(home.path()).expect("it reads");
            assert!(report.is_sound() && report.entries() == FOUND);
        });
    });
    group.bench_function("replay", |b| {
        b.iter(|| {
            let mut replay = journal.replay(Seq::NONE);
            let mut found = 0;
            while let Some(stored) = replay.next().expect("it reads") {
                black_box(stored.body);
                found += 1;
            }
            assert_eq!(found, FOUND);
        });
    });
    drop(journal);
    group.bench_function("open", |b| {
        b.iter(|| {
            let (journal, report) = Journal::open_dir(home.path()).expect("it opens");
            assert_eq!(report.entries(), FOUND);
            journal
        });
    });
    group.finish();
}

criterion_group!(benches, append, start);
criterion_main!(benches);
