//! What the daemon holds: idle, for each call with TLS to the model, and after thousands of short calls.
//!
//! Method: the kernel's own figures for the child (`/proc/PID/smaps_rollup`). Calls relay frames both ways before they are
//! counted, so that their buffers are what they are in use. The bounds are those of docs/performance.md, which also says
//! what the shipped profile needs; this is a build without optimisation, which needs no less.

mod common;

use common::daemon::{Daemon, Launch};
use common::model::Model;
use common::pair::Pair;
use common::tls::Authority;

/// Resident bytes of the daemon that are its own: files of the page cache, its program's code above all, are not.
fn resident(daemon: &Daemon) -> i64 {
    let text = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", daemon.pid()));
    let text = text.expect("/proc");
    let line = text.lines().find(|line| line.starts_with("Anonymous:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    1024 * kib
        .and_then(|kib| kib.parse::<i64>().ok())
        .expect("a number")
}

async fn tls_daemon() -> (Daemon, Model) {
    let authority = Authority::new();
    let model = Model::tls(&authority.identity()).await;
    let launch = Launch::serve(&model.url);
    let ca = launch.file("ca.pem", &authority.pem);
    let launch = launch.env("VOXRELAY__REALTIME__CA_FILE", &ca);
    (launch.start().await, model)
}

#[tokio::test]
async fn a_call_with_tls_to_the_model_needs_less_than_48_kib_and_an_idle_daemon_less_than_20_mib() {
    const CALLS: usize = 200;
    let (daemon, mut model) = tls_daemon().await;
    let idle = resident(&daemon);
    println!("idle: {} KiB", idle / 1024);
    assert!(idle < 20 << 20, "{idle} bytes, idle");
    // The first one brings what all share: every buffer of the ring, those of the allocator, of the desk.
    let mut first = Pair::new(&daemon, &mut model, "/media-stream/first").await;
    for _ in 0..1_900 {
        first.round_trip().await;
    }
    let mut pairs = vec![first];
    let mut before = 0;
    for call in 0..100 + CALLS {
        if call == 100 {
            before = resident(&daemon);
        }
        let path = format!("/media-stream/call-{call}");
        let mut pair = Pair::new(&daemon, &mut model, &path).await;
        for _ in 0..10 {
            pair.round_trip().await;
        }
        pairs.push(pair);
    }
    for pair in &mut pairs {
        pair.round_trip().await;
    }
    let per_call = (resident(&daemon) - before) / CALLS as i64;
    println!("per call: {per_call} bytes");
    assert!(per_call < 48 * 1024, "{per_call} bytes a call");
}

/// Calls that say a word and go.
async fn short_calls(daemon: &Daemon, model: &mut Model, calls: usize) {
    for _ in 0..calls {
        // The path without an id: each gets one of its own.
        let mut pair = Pair::new(daemon, model, "/media-stream").await;
        pair.round_trip().await;
        pair.hang_up().await;
    }
    daemon.settled().await;
}

async fn stays_flat(first: usize, then: usize) {
    let mut model = Model::plain().await;
    let daemon = Launch::serve(&model.url).start().await;
    short_calls(&daemon, &mut model, first).await;
    let (before, descriptors) = (resident(&daemon), daemon.descriptors());
    short_calls(&daemon, &mut model, then).await;
    let grown = resident(&daemon) - before;
    println!("{then} calls after {first}: {grown} bytes more");
    // 64 bytes a call would be 6 MB for a hundred thousand; what the allocator moves about is more than that here.
    assert!(
        grown < (then as i64 * 64).max(1 << 20),
        "{grown} bytes more"
    );
    assert!(daemon.descriptors() <= descriptors + 4);
}

#[tokio::test]
async fn short_calls_leave_nothing_behind() {
    stays_flat(1_000, 1_500).await;
}

#[tokio::test]
#[ignore = "takes minutes: 100,000 calls one after the other"]
async fn a_hundred_thousand_short_calls_leave_nothing_behind() {
    stays_flat(10_000, 90_000).await;
}
