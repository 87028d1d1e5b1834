//! Peers that do not read, that come in crowds, or that leave all at once; a machine without descriptors, a worker
//! without headroom.
//!
//! Method: beside each of them a healthy call on the same worker relays byte for byte all the time, in a task of its own.
//! What is answered, why calls end and what is counted is what an operator sees: status codes, close codes, `/metrics`.

mod common;

use common::carrier::{Carrier, FRAME_BYTES, Refused};
use common::daemon::{Daemon, Launch, sum};
use common::http::{Client, post_form};
use common::model::Model;
use common::pair::Pair;
use common::{audio, base64, metric, within};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;

const ACCEPT_ERRORS: &str = "voxrelay_accept_errors_total";
const CONNECTIONS: &str = "voxrelay_desk_connections";
const REPORTS_DROPPED: &str = "voxrelay_worker_reports_dropped_total";

/// A round trip brings the caller 60 ms of speech: at this pace it is heard as fast as it comes.
const PACE: Duration = Duration::from_millis(60);

/// A call that relays a frame each way again and again, judged byte for byte, until it is told to stop.
struct Beside {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicUsize>,
    task: JoinHandle<Pair>,
}

impl Beside {
    fn start(mut pair: Pair, pace: Duration) -> Self {
        let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let (is_over, counted): (_, Arc<AtomicUsize>) = (stop.clone(), Arc::clone(&rounds));
        let task = tokio::spawn(async move {
            let mut next = tokio::time::interval(pace);
            while !is_over.load(Ordering::Relaxed) {
                next.tick().await;
                pair.round_trip().await;
                counted.fetch_add(1, Ordering::Relaxed);
            }
            pair
        });
        Self { stop, rounds, task }
    }

    /// Waits for so many more rounds: the call goes on, now.
    async fn goes_on(&self, rounds: usize) {
        let until = self.rounds.load(Ordering::Relaxed) + rounds;
        within("the call beside", async {
            while self.rounds.load(Ordering::Relaxed) < until {
                assert!(!self.task.is_finished(), "the call beside has failed");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    /// Everything it was given has arrived.
    async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        let pair = self.task.await.expect("the call beside lost nothing");
        pair.hang_up().await;
    }
}

/// This process holds both ends of hundreds of calls.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised).expect("to its own maximum");
}

async fn launch(launch: Launch, model: &mut Model) -> (Daemon, Beside) {
    let daemon = launch.start().await;
    let healthy = Pair::new(&daemon, model, "/media-stream/healthy").await;
    (daemon, Beside::start(healthy, PACE))
}

#[tokio::test]
async fn a_carrier_that_never_reads_ends_its_own_call() {
    let mut model = Model::plain().await;
    let (daemon, beside) = launch(Launch::serve(&model.url), &mut model).await;
    let socket = TcpSocket::new_v4().expect("socket");
    socket.set_recv_buffer_size(4096).expect("buffer");
    let stream = socket.connect(daemon.addr).await.expect("connect");
    let carrier = Carrier::dial_over(Box::new(stream), "/media-stream/deaf", &[]).await;
    let mut deaf = Pair::with(carrier.expect("upgraded"), &mut model).await;
    // 100 s of speech, below the bound on what waits to be heard: more than its socket holds.
    for second in 0..100 {
        let item = deaf.model.item();
        let speech = base64(&audio(second, 50 * FRAME_BYTES));
        deaf.model.delta(&item, &speech).await;
        deaf.model.audio_done(&item).await;
    }
    assert_eq!(deaf.model.closed().await, Some(1000));
    let stalled = [("reason", "carrier_stalled"), ("side", "carrier")];
    daemon.counted(metric::CALLS_ENDED, &stalled, 1.0).await;
    beside.goes_on(5).await;
    beside.end().await;
    daemon.settled().await;
}

#[tokio::test]
async fn a_model_that_never_reads_ends_its_own_call() {
    let mut model = Model::narrow().await;
    let serve = Launch::serve(&model.url).env("VOXRELAY__AGENT__RECONNECT__TRIES", "0");
    let (daemon, beside) = launch(serve, &mut model).await;
    let mut deaf = Pair::new(&daemon, &mut model, "/media-stream/deaf").await;
    // One message may be 64 KiB: two seconds of audio each.
    let long = base64(&audio(1, 2_000 * 8));
    for _ in 0..300 {
        let text = deaf.carrier.media_text(&long);
        deaf.carrier.timestamp += 1_980;
        deaf.carrier.send_text(&text).await;
    }
    assert_eq!(deaf.carrier.closed().await, Some(1011));
    let stalled = [("reason", "realtime_stalled"), ("side", "realtime")];
    daemon.counted(metric::CALLS_ENDED, &stalled, 1.0).await;
    beside.goes_on(5).await;
    beside.end().await;
    daemon.settled().await;
}

#[tokio::test]
async fn two_thousand_idle_sockets_are_told_off_and_delay_nobody() {
    raise_descriptor_limit();
    let mut model = Model::plain().await;
    let serve = Launch::serve(&model.url).env("VOXRELAY__LISTEN__CONNECTIONS_PER_ADDRESS", "4096");
    let (daemon, beside) = launch(serve, &mut model).await;
    let mut idle = Vec::new();
    for _ in 0..2_000 {
        idle.push(TcpStream::connect(daemon.addr).await.expect("connect"));
    }
    daemon.counted(CONNECTIONS, &[], 2_000.0).await;
    beside.goes_on(5).await;
    // A newcomer finds its way through the crowd.
    let mut newcomer = Pair::new(&daemon, &mut model, "/media-stream/newcomer").await;
    newcomer.round_trip().await;
    newcomer.hang_up().await;
    for mut socket in idle {
        let mut answer = Vec::new();
        within("the answer to silence", socket.read_to_end(&mut answer))
            .await
            .expect("an end in order");
        assert!(answer.starts_with(b"HTTP/1.1 408 "), "{answer:?}");
    }
    let late = [("reason", "head_deadline")];
    daemon
        .counted("voxrelay_rejected_requests_total", &late, 2_000.0)
        .await;
    beside.goes_on(5).await;
    beside.end().await;
}

#[tokio::test]
async fn five_hundred_calls_that_drop_at_the_same_instant_end_and_one_goes_on() {
    raise_descriptor_limit();
    let mut model = Model::plain().await;
    let (daemon, beside) = launch(Launch::serve(&model.url), &mut model).await;
    let before = daemon.descriptors();
    let mut pairs = Vec::new();
    for call in 0..500 {
        let stream = TcpStream::connect(daemon.addr).await.expect("connect");
        // Half of them vanish with a reset, the others with an end of stream.
        let reset = (call % 2 == 0).then_some(Duration::ZERO);
        socket2::SockRef::from(&stream)
            .set_linger(reset)
            .expect("linger");
        let path = format!("/media-stream/crowd-{call}");
        let carrier = Carrier::dial_over(Box::new(stream), &path, &[]).await;
        let mut pair = Pair::with(carrier.expect("upgraded"), &mut model).await;
        pair.round_trip().await;
        pairs.push(pair);
    }
    daemon.counted(metric::CALLS_ACTIVE, &[], 501.0).await;
    let (carriers, models): (Vec<_>, Vec<_>) = pairs
        .into_iter()
        .map(|pair| (pair.carrier, pair.model))
        .unzip();
    drop(carriers);
    for mut model in models {
        assert!(model.closed().await.is_some(), "closed in order");
    }
    // An end of stream becomes a reset where something of ours lay unread.
    let by_carrier = [("side", "carrier")];
    daemon
        .counted(metric::CALLS_ENDED, &by_carrier, 500.0)
        .await;
    let lost = [("reason", "carrier_lost")];
    daemon.counted(metric::CALLS_ENDED, &lost, 250.0).await;
    beside.goes_on(5).await;
    within("the descriptors to come back", async {
        // The metrics' own connection is one more.
        while daemon.descriptors() > before + 4 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let mut text = daemon.metrics().await;
    while sum(&text, metric::CALLS_ACTIVE, &[]) > 1.0 {
        beside.goes_on(1).await;
        text = daemon.metrics().await;
    }
    assert_eq!(sum(&text, REPORTS_DROPPED, &[]), 0.0);
    beside.end().await;
}

/// The limit under which no descriptor is free: numbers are given out from the lowest.
fn first_free_descriptor(pid: u32) -> u64 {
    let open: Vec<u64> = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("/proc")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    (0..).find(|n| !open.contains(n)).expect("not endless")
}

#[tokio::test]
async fn without_descriptors_accept_backs_off_and_live_calls_go_on() {
    let mut model = Model::plain().await;
    let (daemon, beside) = launch(Launch::serve(&model.url), &mut model).await;
    // One that is there already: nobody else could ask now.
    let mut operator = Client::connect(daemon.addr).await;
    let ask = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
    operator.send(ask).await;
    assert_eq!(operator.response().await.status, 200);

    let pid = Pid::from_raw(daemon.pid() as i32);
    let old = getrlimit(Resource::Nofile);
    let limit = |current| Rlimit {
        current: Some(current),
        maximum: old.maximum,
    };
    let free = first_free_descriptor(daemon.pid());
    prlimit(pid, Resource::Nofile, limit(free)).expect("its parent may");
    // The daemon may still have closed one or two: whoever gets those is accepted, and told that there is no room to go on.
    let mut waiting = Vec::new();
    for _ in 0..5 {
        let mut client = Client::connect(daemon.addr).await;
        client
            .send(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .await;
        waiting.push(client);
    }
    let failed = within("failed accepts", async {
        loop {
            operator.send(ask).await;
            let text = operator.response().await.text();
            let failed = sum(&text, ACCEPT_ERRORS, &[("reason", "descriptors")]);
            if failed >= 4.0 {
                return failed;
            }
            beside.goes_on(1).await;
        }
    })
    .await;
    // Each waits twice as long as the one before: a loop that spins would have thousands by now.
    assert!(failed < 50.0, "{failed} failed accepts");
    beside.goes_on(5).await;

    prlimit(pid, Resource::Nofile, limit(old.maximum.unwrap_or(20_000))).expect("its parent may");
    // Whoever waited is served, and calls are taken again.
    let mut statuses = Vec::new();
    for client in &mut waiting {
        statuses.push(client.response().await.status);
    }
    assert!(
        statuses.iter().all(|status| [200, 503].contains(status)),
        "{statuses:?}"
    );
    assert_eq!(statuses.last(), Some(&200), "{statuses:?}");
    let mut newcomer = Pair::new(&daemon, &mut model, "/media-stream/newcomer").await;
    newcomer.round_trip().await;
    newcomer.hang_up().await;
    beside.end().await;
}

#[tokio::test]
async fn without_headroom_new_calls_hear_the_busy_tone_until_there_is_some() {
    let mut model = Model::plain().await;
    let serve = Launch::serve(&model.url)
        .env("VOXRELAY__RELAY__BUSY_MAX_PERCENT", "1")
        .env("VOXRELAY__AGENT__UNPLAYED_MS_MAX", "600000")
        .env("VOXRELAY__REALTIME__PREDIAL", "false");
    let daemon = serve.start().await;
    let eager = Pair::new(&daemon, &mut model, "/media-stream/eager").await;
    let beside = Beside::start(eager, Duration::from_millis(2));
    let webhook = async || {
        let form = [
            ("CallSid", "CA1"),
            ("From", "+15550100"),
            ("To", "+15550101"),
        ];
        let answer = post_form(daemon.addr, "/api/twilio/voice", &form, &[]).await;
        assert_eq!(answer.status, 200);
        answer.text().contains("<Reject reason=\"busy\"")
    };
    daemon.counted("voxrelay_worker_overloaded", &[], 1.0).await;
    // A call that goes round thirty times as fast as speech takes more than a hundredth of the core, all the time.
    assert!(webhook().await);
    let refused = Carrier::dial_over(daemon.connect().await, "/media-stream/late", &[]).await;
    assert_eq!(refused.err(), Some(Refused(503)));
    let busy = [("reason", "overload_busy")];
    daemon.counted(metric::REFUSED, &busy, 1.0).await;
    let busy = [("outcome", "overload_busy")];
    daemon.counted("voxrelay_webhooks_total", &busy, 1.0).await;
    beside.goes_on(5).await;
    beside.end().await;
    within("headroom", async {
        while webhook().await {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    let mut newcomer = Pair::new(&daemon, &mut model, "/media-stream/newcomer").await;
    newcomer.round_trip().await;
    newcomer.hang_up().await;
}
