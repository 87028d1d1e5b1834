//! The worker over real sockets and a real ring. Goal: bytes come back in order whatever their split, a fault ends
//! one connection alone, and every buffer comes home.

use super::table::Driver;
use super::*;
use crate::bus::command::{EchoOutcome, ToDesk, WorkerSender, desk_queue, worker_queue};
use crate::bus::report::{ReportInbox, report_queue};
use crate::bus::tool::tool_queue;
use crate::call::{EndReason, Fact};
use crate::proto::ws::Role;
use crate::proto::ws::writer::{Kind, write_frame};
use crate::transport::Established;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use tokio::sync::oneshot;

struct Fixture {
    orders: WorkerSender,
    _reports: ReportInbox,
    _desk: crate::bus::command::DeskInbox,
    thread: JoinHandle<()>,
}

impl Fixture {
    fn start() -> Self {
        let (orders, inbox) = worker_queue(1024).expect("eventfd");
        let (desk, desk_inbox) = desk_queue(64);
        let (reports, report_inbox) = report_queue(64);
        let parts = Parts {
            id: WorkerId(0),
            inbox,
            desk,
            reports,
            tools: tool_queue(1).0,
            clock: SystemClock::new(),
        };
        let thread = start(parts).expect("io_uring");
        Self {
            orders,
            _reports: report_inbox,
            _desk: desk_inbox,
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

    fn stop(self) {
        self.orders.send(ToWorker::Stop).expect("room");
        self.thread.join().expect("no panic outside a call");
    }
}

fn client_frame(text: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    write_frame(&mut frame, Kind::Text, Some([7, 1, 250, 3]), &[text]);
    frame
}

fn server_frame(text: &[u8]) -> Vec<u8> {
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
