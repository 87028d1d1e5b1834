//! The whole session path each way, without I/O: bytes of a frame in, a frame to send out, taken and sent. One
//! iteration is one frame, with what the shell does around it (intents, facts, the next deadline).
#![allow(missing_docs)] // criterion's macros write public items without docs

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;
use voxrelay::base::id::{CallId, ItemId};
use voxrelay::base::time::{Mono, Now};
use voxrelay::call::Leg;
use voxrelay::call::playback::Playback;
use voxrelay::call::session::{Session, Setup};
use voxrelay::proto::realtime::settings::Settings;
use voxrelay::proto::ws::writer::{Kind, write_frame};

const SID: &str = "MZ0a9b8c7d6e5f43210123456789abcdef";

fn frame(leg: Leg, text: &str) -> Vec<u8> {
    let mask = (leg == Leg::Carrier).then_some([0x9f, 0x81, 0x37, 0x60]);
    let mut bytes = Vec::new();
    write_frame(&mut bytes, Kind::Text, mask, &[text.as_bytes()]);
    bytes
}

/// Lends `bytes` to the session and does a shell's turn; the bytes that went out.
fn turn(session: &mut Session, leg: Leg, bytes: &mut [u8], now: Now) -> usize {
    let used = session.handle_input(leg, bytes, now);
    debug_assert_eq!(used, bytes.len());
    while session.poll_intent().is_some() {}
    let mut out = 0;
    for leg in [Leg::Realtime, Leg::Carrier] {
        let len = black_box(session.poll_transmit(leg, 16 * 1024)).len();
        if len > 0 {
            session.handle_taken(leg, len, now);
            session.handle_sent(leg, now);
            out += len;
        }
    }
    while session.poll_fact().is_some() {}
    black_box(session.poll_timeout());
    out
}

fn ready() -> Session {
    let now = Now::default();
    let mut session = Session::new(
        Setup {
            call_id: CallId::new("bench").expect("short"),
            settings: Arc::new(Settings::default()),
            policy: Arc::default(),
            expected_call_sid: None,
            mode: voxrelay::base::route::StreamMode::Full,
            seed: [1; 32],
        },
        now,
    );
    let start = format!(r#"{{"event":"start","start":{{"callSid":"CA1"}},"streamSid":"{SID}"}}"#);
    turn(
        &mut session,
        Leg::Carrier,
        &mut frame(Leg::Carrier, &start),
        now,
    );
    session.handle_upstream(Ok(()), now);
    for event in [
        r#"{"type":"session.created","session":{"id":"s"}}"#,
        r#"{"type":"session.updated","session":{"audio":{"input":{"format":{"type":"audio/pcmu"}},"output":{"format":{"type":"audio/pcmu"}}}}}"#,
    ] {
        turn(
            &mut session,
            Leg::Realtime,
            &mut frame(Leg::Realtime, event),
            now,
        );
    }
    assert_eq!(session.phase(), voxrelay::call::state::Phase::Ready);
    session
}

/// The caller's `n`th 20 ms.
fn media(n: u64) -> Vec<u8> {
    let payload = "fn5/".repeat(53) + "fg==";
    frame(
        Leg::Carrier,
        &format!(
            r#"{{"event":"media","sequenceNumber":"{}","media":{{"track":"inbound","chunk":"{}","timestamp":"{}","payload":"{payload}"}},"streamSid":"{SID}"}}"#,
            n + 2,
            n + 1,
            61 + n * 20
        ),
    )
}

fn delta(groups: usize) -> Vec<u8> {
    let payload = "fn5/".repeat(groups) + "fn4=";
    frame(
        Leg::Realtime,
        &format!(
            r#"{{"type":"response.output_audio.delta","event_id":"event_7dT0aQmP2xLw9Zc4Rk1Vb","response_id":"resp_7dT0aQmP2xLw9Zc4Rk1Vb","item_id":"item_7dT0aQmP2xLw9Zc4Rk1Vb","output_index":0,"content_index":0,"delta":"{payload}"}}"#
        ),
    )
}

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
    let started = frame(
        Leg::Realtime,
        r#"{"type":"input_audio_buffer.speech_started","event_id":"event_1","audio_start_ms":120,"item_id":"item_u"}"#,
    );
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

fn now(ms: u64) -> Now {
    Now {
        mono: Mono(0) + Duration::from_millis(ms),
        unix_ms: ms,
    }
}

criterion_group!(session, benches);
criterion_main!(session);
