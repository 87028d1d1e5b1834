//! The worker over real sockets and a real ring. Goal: bytes come back in order whatever their split, a fault ends
//! one connection alone, and every buffer comes home.

use super::leg::LegState;
use super::table::Driver;
use super::*;
use crate::bus::command::{EchoOutcome, ToDesk, WorkerSender, desk_queue, worker_queue};
use crate::bus::report::{ReportInbox, report_queue};
use crate::bus::tool::tool_queue;
use crate::call::Fact;
use crate::proto::ws::Role;
use crate::proto::ws::writer::{Kind, write_frame};
use crate::transport::Established;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use tokio::sync::oneshot;

pub(super) struct Fixture {
    pub(super) orders: WorkerSender,
    _reports: ReportInbox,
    pub(super) desk: crate::bus::command::DeskInbox,
    pub(super) thread: JoinHandle<()>,
}

/// A worker's parts, with the defaults of everything but its queues.
fn parts(inbox: WorkerInbox, desk: DeskSender, reports: ReportSender) -> Parts {
    Parts {
        id: WorkerId(0),
        inbox,
        desk,
        reports,
        tools: tool_queue(1).0,
        clock: SystemClock::new(),
        grown_bytes_max: 1 << 20,
        tuning: Tuning::default(),
    }
}

impl Fixture {
    pub(super) fn start() -> Self {
        let (orders, inbox) = worker_queue(1024).expect("eventfd");
        let (desk, desk_inbox) = desk_queue(64);
        let (reports, report_inbox) = report_queue(64);
        let parts = parts(inbox, desk, reports);
        let thread = start(parts).expect("io_uring");
        Self {
            orders,
            _reports: report_inbox,
            desk: desk_inbox,
            thread,
        }
    }

    fn echo(&self, plaintext: Vec<u8>) -> (UnixStream, oneshot::Receiver<EchoOutcome>) {
        let (ours, theirs) = UnixStream::pair().expect("socketpair");
        let (done, outcome) = oneshot::channel();
        let leg = Box::new(Established {
            fd: OwnedFd::from(theirs),
            tls: None,
            ciphertext: Vec::new(),
            plaintext,
            peer: None,
        });
        self.orders
            .send(ToWorker::Echo {
                leg,
                role: Role::Server,
                done: Some(done),
            })
            .expect("room");
        (ours, outcome)
    }

    pub(super) fn stop(self) {
        self.orders.send(ToWorker::Stop).expect("room");
        self.thread.join().expect("no panic outside a call");
    }
}

pub(super) fn client_frame(text: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    write_frame(&mut frame, Kind::Text, Some([7, 1, 250, 3]), &[text]);
    frame
}

pub(super) fn server_frame(text: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    write_frame(&mut frame, Kind::Text, None, &[text]);
    frame
}

#[test]
fn messages_come_back_in_order_whatever_their_split() {
    let fixture = Fixture::start();
    let texts: Vec<Vec<u8>> = [1usize, 5, 125, 126, 400, 2047, 2048, 5000, 70_000, 3]
        .iter()
        .enumerate()
        .map(|(i, len)| vec![b'a' + i as u8; *len])
        .collect();
    let sent: Vec<u8> = texts.iter().flat_map(|text| client_frame(text)).collect();
    let due: Vec<u8> = texts.iter().flat_map(|text| server_frame(text)).collect();
    for step in [1usize, 7, 1000, sent.len()] {
        let (mut socket, _outcome) = fixture.echo(Vec::new());
        let mut writer = socket.try_clone().expect("clone");
        let input = sent.clone();
        let writing = std::thread::spawn(move || {
            for piece in input.chunks(step) {
                writer.write_all(piece).expect("the worker reads");
            }
        });
        let mut back = vec![0; due.len()];
        socket.read_exact(&mut back).expect("the echo");
        assert!(back == due, "step {step}");
        writing.join().expect("written");
    }
    fixture.stop();
}

#[test]
fn bytes_that_came_with_the_connection_are_taken_first() {
    let fixture = Fixture::start();
    let whole = [client_frame(b"one"), client_frame(b"two")].concat();
    let (early, late) = whole.split_at(9);
    let (mut socket, _outcome) = fixture.echo(early.to_vec());
    socket.write_all(late).expect("the worker reads");
    let due = [server_frame(b"one"), server_frame(b"two")].concat();
    let mut back = vec![0; due.len()];
    socket.read_exact(&mut back).expect("the echo");
    assert_eq!(back, due);
    fixture.stop_after(socket);
}

#[test]
fn a_violation_closes_its_connection_and_no_other() {
    let fixture = Fixture::start();
    let (mut good, _outcome) = fixture.echo(Vec::new());
    let (mut bad, outcome) = fixture.echo(Vec::new());
    bad.write_all(&server_frame(b"unmasked"))
        .expect("the worker reads");
    let mut answer = Vec::new();
    bad.shutdown(std::net::Shutdown::Write).expect("half close");
    bad.read_to_end(&mut answer)
        .expect("a close frame, then the end");
    assert_eq!(&answer[..4], b"\x88\x02\x03\xea");
    assert_eq!(outcome.blocking_recv().expect("told").messages, 0);

    good.write_all(&client_frame(b"still here"))
        .expect("the worker reads");
    let mut back = [0; 12];
    good.read_exact(&mut back).expect("the echo");
    assert_eq!(&back[2..], b"still here");
    fixture.stop_after(good);
}

impl Fixture {
    /// Closes the last connection first: a worker stops only when nothing lives.
    fn stop_after(self, socket: UnixStream) {
        drop(socket);
        self.stop();
    }
}

#[test]
fn a_planted_panic_ends_its_call_and_every_other_goes_on() {
    let (orders, inbox) = worker_queue(16).expect("eventfd");
    let (desk, mut desk_inbox) = desk_queue(64);
    let (reports, mut report_inbox) = report_queue(64);
    let parts = Parts {
        id: WorkerId(0),
        inbox,
        desk,
        reports,
        tools: tool_queue(1).0,
        clock: SystemClock::new(),
        grown_bytes_max: 1 << 20,
        tuning: Tuning::default(),
    };
    let mut worker = Worker::new(parts).expect("io_uring");
    drop(orders);

    let mut plant = |driver: Driver, id: &str| {
        let (ours, theirs) = UnixStream::pair().expect("socketpair");
        let call_id = CallId::new(id).expect("short");
        let life = worker.table.insert(call_id, driver);
        let connection = Established {
            fd: OwnedFd::from(theirs),
            tls: None,
            ciphertext: Vec::new(),
            plaintext: Vec::new(),
            peer: None,
        };
        worker.shared.install(life, Leg::Carrier, connection);
        Worker::touch(&mut worker.touched, life);
        ours
    };
    let mut doomed = plant(Driver::Planted, "doomed");
    let mut healthy = plant(
        Driver::Echo(Box::new(Echo::new(Role::Server, [1; 32], None))),
        "healthy",
    );
    worker.stopping = true;

    let peers = std::thread::spawn(move || {
        doomed.write_all(b"x").expect("the worker reads");
        assert_eq!(doomed.read(&mut [0; 8]).expect("closed in order"), 0);
        healthy
            .write_all(&client_frame(b"alive"))
            .expect("the worker reads");
        let mut back = [0; 7];
        healthy.read_exact(&mut back).expect("the echo");
        assert_eq!(&back[2..], b"alive");
    });
    for at in 0..worker.touched.len() {
        worker.serve(worker.touched[at]).expect("ring");
    }
    worker.touched.clear();
    worker.run().expect("ring");
    peers.join().expect("both peers saw what they should");

    let report = report_inbox.blocking_recv().expect("one end is reported");
    assert_eq!(report.call_id.as_str(), "doomed");
    assert!(matches!(
        report.fact,
        Fact::Ended {
            reason: EndReason::Internal,
            ..
        }
    ));
    assert!(matches!(
        desk_inbox.blocking_recv(),
        Some(ToDesk::Ended { .. })
    ));
    assert!(report_inbox.blocking_recv().is_none(), "and no other");
}

/// A worker with one echo leg and hands on its insides: driven turn by turn, so that a budget can be watched.
#[test]
fn the_leg_that_grows_past_the_budget_pays_and_its_bytes_are_counted_home() {
    let (_orders, inbox) = worker_queue(16).expect("eventfd");
    let (desk, _desk_inbox) = desk_queue(64);
    let (reports, _report_inbox) = report_queue(64);
    let parts = Parts {
        id: WorkerId(0),
        inbox,
        desk,
        reports,
        tools: tool_queue(1).0,
        clock: SystemClock::new(),
        grown_bytes_max: 256 * 1024,
        tuning: Tuning::default(),
    };
    let mut worker = Worker::new(parts).expect("io_uring");
    let (mut peer, theirs) = UnixStream::pair().expect("socketpair");
    let driver = Driver::Echo(Box::new(Echo::new(Role::Server, [1; 32], None)));
    let life = worker
        .table
        .insert(CallId::new("greedy").expect("short"), driver);
    let connection = Established {
        fd: OwnedFd::from(theirs),
        tls: None,
        ciphertext: Vec::new(),
        plaintext: Vec::new(),
        peer: None,
    };
    worker.shared.install(life, Leg::Carrier, connection);
    Worker::touch(&mut worker.touched, life);
    worker.stopping = true;
    let sending = std::thread::spawn(move || {
        // The head of a 4 MiB message and then as much of it as is taken.
        let mut frame = vec![0x82, 0xFF, 0, 0, 0, 0, 0, 0x40, 0, 0, 1, 2, 3, 4];
        frame.resize(1024 * 1024, 7);
        let taken = peer.write_all(&frame);
        let ended = peer.read(&mut [0; 16]);
        (taken.is_err(), matches!(ended, Ok(0) | Err(_)))
    });
    for at in 0..worker.touched.len() {
        worker.serve(worker.touched[at]).expect("ring");
    }
    worker.touched.clear();
    worker.run().expect("ring");
    let (refused, ended) = sending.join().expect("no panic");
    assert!(refused && ended, "cut in the middle of its message");
}

#[test]
fn a_flood_is_seen_once_per_tick_and_real_time_never() {
    let (ours, _theirs) = UnixStream::pair().expect("socketpair");
    let (mut leg, _) = LegState::new(Established {
        fd: OwnedFd::from(ours),
        tls: None,
        ciphertext: Vec::new(),
        plaintext: Vec::new(),
        peer: None,
    });
    let at = |ms: u64| crate::base::time::Mono(ms * 1_000_000);
    for frame in 0..5_000 {
        assert!(!leg.is_flooding(400, at(frame * 20)));
    }
    // A stall's backlog of ten seconds, all at once.
    for _ in 0..500 {
        assert!(!leg.is_flooding(400, at(200_000)));
    }
    assert!(leg.is_flooding(CARRIER_BYTES_PER_TICK, at(200_001)));
    leg.paused_until = Some(at(201_001));
    assert!(
        !leg.is_flooding(CARRIER_BYTES_PER_TICK, at(200_002)),
        "it is paused already"
    );
}

fn established(socket: UnixStream) -> Box<Established> {
    Box::new(Established {
        fd: OwnedFd::from(socket),
        tls: None,
        ciphertext: Vec::new(),
        plaintext: Vec::new(),
        peer: None,
    })
}

/// The call "c", its carrier at the other end of `socket`.
fn adopt(socket: UnixStream) -> ToWorker {
    ToWorker::Adopt {
        setup: Box::new(crate::call::session::Setup {
            call_id: CallId::new("c").expect("short"),
            settings: Default::default(),
            policy: Default::default(),
            expected_call_sid: None,
            mode: crate::base::route::StreamMode::Full,
            seed: [1; 32],
        }),
        carrier: established(socket),
    }
}

#[test]
fn a_call_that_comes_as_the_worker_stops_is_ended_too_and_only_its_own_turns_are_told() {
    for stops_first in [true, false] {
        let (orders, inbox) = worker_queue(16).expect("eventfd");
        let (desk, _desk_inbox) = desk_queue(64);
        let (reports, mut report_inbox) = report_queue(64);
        let worker = Worker::new(parts(inbox, desk, reports));
        let (mut carrier, theirs) = UnixStream::pair().expect("socketpair");
        let ask = |id: &str| {
            let (answer, told) = oneshot::channel();
            let call_id = CallId::new(id).expect("short");
            (ToWorker::Turns { call_id, answer }, told)
        };
        let ((of_c, told), (of_other, nothing)) = (ask("c"), ask("other"));
        let mut given = vec![adopt(theirs), of_c, of_other, ToWorker::Stop];
        if stops_first {
            given.rotate_right(1);
        }
        // All of it waits before the worker looks for the first time.
        for order in given {
            orders.send(order).expect("room");
        }
        let peer = std::thread::spawn(move || {
            let mut close = [0; 4];
            carrier.read_exact(&mut close).expect("a close frame");
            close
        });
        worker.expect("io_uring").run().expect("ring");
        assert_eq!(peer.join().expect("no panic")[0], 0x88);
        let turns = told.blocking_recv().expect("answered").expect("its call");
        assert!(turns.turns.is_empty(), "nobody has spoken");
        assert_eq!(nothing.blocking_recv(), Ok(None));
        let reason = std::iter::from_fn(|| report_inbox.blocking_recv()).find_map(|report| {
            match report.fact {
                Fact::Ended { reason, .. } => Some(reason),
                _ => None,
            }
        });
        assert_eq!(reason, Some(EndReason::Drained));
    }
}

#[test]
fn a_call_that_ends_while_its_dial_is_out_takes_the_dial_back() {
    let mut fixture = Fixture::start();
    let (mut carrier, theirs) = UnixStream::pair().expect("socketpair");
    fixture.orders.send(adopt(theirs)).expect("room");
    let start = br#"{"event":"start","sequenceNumber":"1","streamSid":"MZ1","start":{"streamSid":"MZ1","accountSid":"AC1","callSid":"CA1","tracks":["inbound"],"customParameters":{},"mediaFormat":{"encoding":"audio/x-mulaw","sampleRate":8000,"channels":1}}}"#;
    carrier.write_all(&client_frame(start)).expect("read");
    let Some(ToDesk::Dial { slot, .. }) = fixture.desk.blocking_recv() else {
        panic!("no dial");
    };
    drop(carrier);
    let mut cancelled = None;
    while cancelled.is_none() {
        match fixture.desk.blocking_recv().expect("the worker lives") {
            ToDesk::CancelDial { slot, .. } => cancelled = Some(slot),
            ToDesk::Ended { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(cancelled, Some(slot));
    // The dial's answer was on its way already: its leg goes back to be closed in order.
    let (_model, upstream) = UnixStream::pair().expect("socketpair");
    let late = ToWorker::Upstream {
        leg: Leg::Realtime,
        slot,
        dial: 1,
        outcome: Ok(established(upstream)),
    };
    fixture.orders.send(late).expect("room");
    match fixture.desk.blocking_recv().expect("the worker lives") {
        ToDesk::Discard { .. } => {}
        other => panic!("{other:?}"),
    }
    fixture.stop();
}
