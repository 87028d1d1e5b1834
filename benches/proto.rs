//! Costs of the wire formats: one head, one frame in, one frame out.
//!
//! `cargo bench --bench proto`. A frame of 382 bytes is a carrier's 20 ms of audio, one of 263 is what goes to
//! the model for it.
#![allow(missing_docs)] // criterion's macros write public items without docs

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use voxrelay::base::limit::CARRIER_MESSAGE_BYTES_MAX;
use voxrelay::proto::audio::base64;
use voxrelay::proto::http::{head, upgrade};
use voxrelay::proto::ws::Role;
use voxrelay::proto::ws::mask;
use voxrelay::proto::ws::reader::{Message, Reader};
use voxrelay::proto::ws::writer::{Kind, write_frame};

const KEY: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

const UPGRADE: &[u8] =
    b"GET /api/twilio/media-stream/CA0123456789abcdef0123456789abcdef HTTP/1.1\r\n\
Host: relay.example.com\r\n\
User-Agent: TwilioMediaStreams/1.0\r\n\
Connection: Upgrade\r\n\
Upgrade: websocket\r\n\
Sec-WebSocket-Version: 13\r\n\
Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
X-Twilio-Signature: dGhlIHNhbXBsZSBub25jZSBvZiB0d2k=\r\n\r\n";

fn heads(c: &mut Criterion) {
    c.bench_function("head/parse_request", |b| {
        b.iter(|| head::parse_request(black_box(UPGRADE)).is_ok());
    });
    c.bench_function("head/parse_and_accept", |b| {
        let mut out = Vec::with_capacity(256);
        b.iter(|| {
            out.clear();
            if let Ok(head::Parsed::Complete { head, .. }) = head::parse_request(black_box(UPGRADE))
                && let Ok(accept) = upgrade::check_request(&head)
            {
                upgrade::write_accept(&mut out, &accept);
            }
            out.len()
        });
    });
}

fn frames_in(c: &mut Criterion) {
    let mut group = c.benchmark_group("ws_read");
    for (name, kind) in [("text", Kind::Text), ("binary", Kind::Binary)] {
        let mut frame = Vec::new();
        write_frame(&mut frame, kind, Some(KEY), &[&[b'A'; 382]]);
        group.throughput(Throughput::Bytes(frame.len() as u64));
        let mut reader = Reader::new(Role::Server, CARRIER_MESSAGE_BYTES_MAX);
        // A payload unmasked twice is masked again, and text must be text: each round starts from the frame.
        group.bench_function(format!("{name}_382_with_copy"), |b| {
            let mut input = frame.clone();
            b.iter(|| {
                input.copy_from_slice(&frame);
                matches!(
                    reader.read(black_box(&mut input)),
                    Ok((_, Some(Message::Text(_) | Message::Binary(_))))
                )
            });
        });
    }
    // Four zero bytes as key leave the payload as it is, so that nothing but the reader is timed.
    let mut frame = Vec::new();
    write_frame(&mut frame, Kind::Text, Some([0; 4]), &[&[b'A'; 382]]);
    group.bench_function("text_382", |b| {
        let mut reader = Reader::new(Role::Server, CARRIER_MESSAGE_BYTES_MAX);
        b.iter(|| {
            matches!(
                reader.read(black_box(&mut frame)),
                Ok((_, Some(Message::Text(_))))
            )
        });
    });
    group.finish();
}

fn frames_out(c: &mut Criterion) {
    let prefix = br#"{"type":"input_audio_buffer.append","audio":""#;
    let payload = [b'A'; 216];
    let parts: [&[u8]; 3] = [prefix, &payload, br#""}"#];
    let mut group = c.benchmark_group("ws_write");
    group.throughput(Throughput::Bytes(263));
    for (name, mask) in [("masked_263", Some(KEY)), ("plain_263", None)] {
        group.bench_function(name, |b| {
            let mut out = Vec::with_capacity(1024);
            b.iter(|| {
                out.clear();
                write_frame(black_box(&mut out), Kind::Text, mask, black_box(&parts));
                out.len()
            });
        });
    }
    group.finish();
}

fn masks(c: &mut Criterion) {
    let mut group = c.benchmark_group("mask");
    for len in [216, 382, 16_384] {
        group.throughput(Throughput::Bytes(len as u64));
        let mut bytes = vec![b'A'; len];
        group.bench_function(format!("in_place_{len}"), |b| {
            b.iter(|| mask::apply(black_box(&mut bytes), black_box(KEY), 0));
        });
        let mut out = Vec::with_capacity(len);
        group.bench_function(format!("copying_{len}"), |b| {
            b.iter(|| {
                out.clear();
                mask::extend(black_box(&mut out), black_box(&bytes), black_box(KEY), 0);
            });
        });
    }
    group.finish();
}

fn texts(c: &mut Criterion) {
    let mut text = Vec::new();
    base64::encode_into(&[0x7E; 160], &mut text);
    c.bench_function("base64/is_valid_216", |b| {
        b.iter(|| base64::is_valid(black_box(&text)))
    });
    c.bench_function("base64/decode_216", |b| {
        b.iter_batched_ref(
            || Vec::with_capacity(256),
            |out| base64::decode_into(black_box(&text), out),
            BatchSize::SmallInput,
        );
    });
}

criterion_group!(benches, heads, frames_in, frames_out, masks, texts);
criterion_main!(benches);
