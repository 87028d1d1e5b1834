//! Allocations on the path of audio, counted by the shipped binary itself: a worker relays a minute of a call, both ways,
//! with TLS to the model, and makes none of its own. What rustls makes for each record is counted apart and stated.
//!
//! Method: the worker publishes what its thread has allocated. Two readings with nothing but frames, deltas and marks
//! between them are compared; each reading waits until all of it is in the figures.

mod common;

use common::daemon::{Daemon, Launch, sum};
use common::model::Model;
use common::pair::Pair;
use common::tls::Authority;
use common::within;
use std::time::Duration;

/// Frames each way between two readings: a minute of speech.
const FRAMES: usize = 1_000;

/// What a worker has published.
#[derive(Debug)]
struct Reading {
    ours: f64,
    tls: f64,
}

/// Waits until the worker has published `frames` frames of the caller.
async fn read(daemon: &Daemon, frames: usize) -> Reading {
    let sent = [("direction", "inbound"), ("step", "sent")];
    within("the worker's tick", async {
        loop {
            let text = daemon.metrics().await;
            if sum(&text, "voxrelay_audio_frames_total", &sent) >= frames as f64 {
                let of = |what| sum(&text, "voxrelay_worker_allocations_total", &[("of", what)]);
                return Reading {
                    ours: of("relay"),
                    tls: of("tls"),
                };
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
}

async fn relay(pair: &mut Pair, frames: usize) {
    for _ in 0..frames {
        pair.round_trip().await;
        for name in std::mem::take(&mut pair.carrier.marks) {
            pair.carrier.return_mark(&name).await;
        }
    }
}

#[tokio::test]
async fn a_worker_allocates_nothing_of_its_own_for_what_it_relays() {
    let authority = Authority::new();
    let mut model = Model::tls(&authority.identity()).await;
    let launch = Launch::serve(&model.url).env("VOXRELAY__AGENT__UNPLAYED_MS_MAX", "600000");
    let ca = launch.file("ca.pem", &authority.pem);
    let daemon = launch.env("VOXRELAY__REALTIME__CA_FILE", &ca).start().await;
    let mut pair = Pair::new(&daemon, &mut model, "/media-stream/counted").await;
    // Buffers grow to what this call needs.
    relay(&mut pair, 500).await;
    let before = read(&daemon, 500).await;
    relay(&mut pair, FRAMES).await;
    let after = read(&daemon, 500 + FRAMES).await;
    assert!(before.ours > 0.0, "the counting allocator is in place");
    // None, in fact. Only where this machine stops one of the threads for long may a buffer still grow, or the queue of
    // reports take another block: a few at most, whatever the number of frames.
    let ours = after.ours - before.ours;
    assert!(
        ours <= 10.0,
        "{ours} allocations of ours: {before:?} {after:?}"
    );
    // Each frame is a record to the model, each delta one from it; marks and pings come on top.
    let per_record = (after.tls - before.tls) / (2 * FRAMES) as f64;
    assert!(
        (0.5..=2.0).contains(&per_record),
        "{per_record} inside rustls"
    );
    pair.hang_up().await;
}
