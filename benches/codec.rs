//! Costs of the JSON codecs: the strict scanners, the simd-json path that they spare, and what is written.
//!
//! `cargo bench --bench codec`. 382 bytes are a carrier's 20 ms of audio, 743 and 5,543 a small and a large
//! delta of the model. The slow path spends its input, so its figures include one copy of it.
#![allow(missing_docs)] // criterion's macros write public items without docs

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use voxrelay::proto::carrier::{signature, twilio};
use voxrelay::proto::decode::Scratch;
use voxrelay::proto::realtime::settings::Settings;
use voxrelay::proto::realtime::{client_event, server_event};

fn media() -> Vec<u8> {
    let payload = "fn5+".repeat(54);
    format!(
        r#"{{"event":"media","sequenceNumber":"1042","media":{{"track":"inbound","chunk":"1040","timestamp":"20811","payload":"{payload}"}},"streamSid":"MZ0a9b8c7d6e5f43210123456789abcdef"}}"#
    )
    .into_bytes()
}

/// With four base64 characters for each of `groups`.
fn delta(groups: usize) -> Vec<u8> {
    let delta = "fn5+".repeat(groups);
    format!(
        r#"{{"type":"response.output_audio.delta","event_id":"event_7dT0aQmP2xLw9Zc4Rk1Vb","response_id":"resp_7dT0aQmP2xLw9Zc4Rk1Vb","item_id":"item_7dT0aQmP2xLw9Zc4Rk1Vb","output_index":0,"content_index":0,"delta":"{delta}"}}"#
    )
    .into_bytes()
}

fn inbound(c: &mut Criterion) {
    let text = media();
    assert!(twilio::scan_media(&text).is_some());
    let mut group = c.benchmark_group("media_382");
    group.throughput(Throughput::Bytes(text.len() as u64));
    group.bench_function("scan", |b| {
        b.iter(|| black_box(twilio::scan_media(black_box(&text))).is_some());
    });
    group.bench_function("simd_json", |b| {
        let (mut scratch, mut spent) = (Scratch::default(), text.clone());
        b.iter(|| {
            spent.copy_from_slice(&text);
            black_box(twilio::decode_json(&mut spent, &mut scratch)).is_ok()
        });
    });
    group.finish();
}

fn outbound(c: &mut Criterion) {
    for groups in [134, 1334] {
        let text = delta(groups);
        assert!(server_event::scan_audio_delta(&text).is_some());
        let mut group = c.benchmark_group(format!("delta_{}", text.len()));
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function("scan", |b| {
            b.iter(|| black_box(server_event::scan_audio_delta(black_box(&text))).is_some());
        });
        group.bench_function("simd_json", |b| {
            let (mut scratch, mut spent) = (Scratch::default(), text.clone());
            b.iter(|| {
                spent.copy_from_slice(&text);
                black_box(server_event::decode_json(&mut spent, &mut scratch)).is_ok()
            });
        });
        group.finish();
    }
}

fn written(c: &mut Criterion) {
    c.bench_function("mark", |b| {
        let encoder = twilio::Encoder::new("MZ0a9b8c7d6e5f43210123456789abcdef");
        let mut out = Vec::with_capacity(256);
        b.iter(|| {
            out.clear();
            encoder.mark(black_box("u12.3"), &mut out);
            out.len()
        });
    });
    c.bench_function("session_update", |b| {
        let settings = Settings {
            instructions: "You answer for a bicycle repair shop. ".repeat(50),
            voice: "marin".into(),
            transcription_model: "gpt-4o-mini-transcribe".into(),
            ..Settings::default()
        };
        b.iter(|| client_event::session_update(black_box(&settings), "vr_cfg_1"));
    });
    c.bench_function("upgrade_signature", |b| {
        let signature = signature::sign("12345", "wss://relay.example.net/media/twilio", &[]);
        b.iter(|| {
            signature::is_valid_upgrade(
                &["12345"],
                "https://relay.example.net",
                "/media/twilio",
                black_box(&signature),
            )
        });
    });
}

criterion_group!(benches, inbound, outbound, written);
criterion_main!(benches);
