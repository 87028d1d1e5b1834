//! The whole session path each way, without I/O: bytes of a frame in, a frame to send out, taken and sent. One
//! iteration is one frame, with what the shell does around it (intents, facts, the next deadline).
#![allow(missing_docs)] // criterion's macros write public items without docs

mod fixture;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use fixture::{delta, media, now, ready, speech_started, turn};
use std::hint::black_box;
use voxrelay::base::id::ItemId;
use voxrelay::call::Leg;
use voxrelay::call::playback::Playback;

fn benches(c: &mut Criterion) {
    let mut group = c.benchmark_group("session");
    // 100 s of frames, then the same again: one in 5000 finds a clock that begins anew.
    let frames: Vec<Vec<u8>> = (0..5_000).map(media).collect();
    let mut session = ready();
    let mut ms = 0;
    let mut next = 0;
    group.throughput(Throughput::Elements(1));
    group.bench_function("caller to model, 20 ms frame", |b| {
        b.iter_batched_ref(
            || {
                ms += 20;
                next = (next + 1) % frames.len();
                (frames[next].clone(), now(ms))
            },
            |(bytes, now)| turn(&mut session, Leg::Carrier, bytes, *now),
            BatchSize::SmallInput,
        );
    });
    for (name, groups) in [
        ("model to caller, 20 ms delta", 53),
        ("model to caller, 250 ms delta", 666),
    ] {
        let mut session = ready();
        let mut ms = 0;
        let bytes = delta(groups);
        group.bench_function(name, |b| {
            b.iter_batched_ref(
                || {
                    // As fast as it plays: what is unheard stays within its bound.
                    ms += if groups == 53 { 20 } else { 250 };
                    (bytes.clone(), now(ms))
                },
                |(bytes, now)| turn(&mut session, Leg::Realtime, bytes, *now),
                BatchSize::SmallInput,
            );
        });
    }
    // The whole interruption, from the bytes of the event to `clear` in what `poll_transmit` lends, with 2 s unheard.
    let started = speech_started();
    group.bench_function("speech started to clear", |b| {
        b.iter_batched_ref(
            || {
                let mut session = ready();
                for _ in 0..8 {
                    turn(&mut session, Leg::Realtime, &mut delta(666), now(20));
                }
                (session, started.clone())
            },
            |(session, bytes)| {
                session.handle_input(Leg::Realtime, bytes, now(500));
                let out = black_box(session.poll_transmit(Leg::Carrier, 16 * 1024));
                debug_assert!(out.ends_with(b"}") && out.len() < 100);
                out.len()
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();

    // What one delta costs the ledger: its standing, the clock, queued, sent, the mark, settled.
    let mut group = c.benchmark_group("ledger");
    group.throughput(Throughput::Elements(1));
    let mut playback = Playback::default();
    let item = ItemId::new("item_7dT0aQmP2xLw9Zc4Rk1Vb").expect("short");
    playback.begin(Some(item), None, 0);
    let mut at = 0;
    group.bench_function("a 250 ms delta", |b| {
        b.iter(|| {
            at += 250;
            let at = now(at).mono;
            let standing = playback.standing(Some(black_box(item.as_str())), 0);
            playback.advance(at);
            playback.queue(2_000);
            let (_, _, end) = playback.offsets();
            black_box(playback.place(end));
            playback.on_sent(2_000, at);
            black_box((standing, playback.unplayed_ms(), playback.take_settled()));
        });
    });
    group.finish();
}

criterion_group!(session, benches);
criterion_main!(session);
