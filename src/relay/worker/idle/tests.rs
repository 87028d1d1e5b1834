//! Idle connections over real sockets and a real ring: the test is the model, the carrier and the desk.

use super::super::ring::{Completion, Tag};
use super::super::tests::{Fixture, client_frame, server_frame};
use super::*;
use crate::base::route::StreamMode;
use crate::base::time::Clock as _;
use crate::bus::command::{ToWorker, desk_queue, worker_queue};
use crate::bus::report::report_queue;
use crate::bus::tool::tool_queue;
use crate::call::session::Setup;
use crate::proto::ws::Role;
use crate::proto::ws::reader::{Message, Reader};
use crate::proto::ws::writer::{Kind, write_frame};
use crate::telemetry::name;
use crate::transport::clock::SystemClock;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

const CREATED: &[u8] = br#"{"type":"session.created","event_id":"e","session":{"type":"realtime","object":"realtime.session","id":"sess_1","audio":{"input":{"format":{"type":"audio/pcm","rate":24000}},"output":{"format":{"type":"audio/pcm","rate":24000}}}}}"#;
const START: &[u8] = br#"{"event":"start","sequenceNumber":"1","streamSid":"MZ1","start":{"streamSid":"MZ1","accountSid":"AC1","callSid":"CA1","tracks":["inbound"],"customParameters":{},"mediaFormat":{"encoding":"audio/x-mulaw","sampleRate":8000,"channels":1}}}"#;
const LONG: Duration = Duration::from_secs(300);

fn id(text: &str) -> CallId {
    CallId::new(text).expect("short")
}

fn established(socket: UnixStream, plaintext: Vec<u8>) -> Box<Established> {
    Box::new(Established {
        fd: OwnedFd::from(socket),
        tls: None,
        ciphertext: Vec::new(),
        plaintext,
        peer: None,
    })
}

/// The model's end of an idle connection: reads the relay's frames as a server.
struct Model {
    socket: UnixStream,
    reader: Reader,
    bytes: Vec<u8>,
}

#[derive(Debug, PartialEq, Eq)]
enum Heard {
    Text(String),
    Ping,
    Pong(Vec<u8>),
    Close(u16),
}

impl Model {
    fn new(socket: UnixStream) -> Self {
        // A test that waits in vain fails.
        let patience = Some(Duration::from_secs(20));
        socket.set_read_timeout(patience).expect("a timeout");
        Self {
            socket,
            reader: Reader::new(Role::Server, 1 << 20),
            bytes: Vec::new(),
        }
    }

    fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).expect("the worker reads");
    }

    /// A ping whose answer proves that everything sent before it was read.
    fn settle(&mut self, behind: &[u8]) {
        let mut bytes = Vec::new();
        write_frame(&mut bytes, Kind::Ping, None, &[b"settle"]);
        bytes.extend_from_slice(behind);
        self.send(&bytes);
        assert_eq!(self.hear(), Heard::Pong(b"settle".to_vec()));
    }

    fn hear(&mut self) -> Heard {
        loop {
            let (used, heard) = match self.reader.read(&mut self.bytes).expect("no violation") {
                (used, None) => (used, None),
                (used, Some(message)) => {
                    let heard = match message {
                        Message::Text(text) => {
                            Heard::Text(String::from_utf8(text.to_vec()).expect("UTF-8"))
                        }
                        Message::Ping(_) => Heard::Ping,
                        Message::Pong(payload) => Heard::Pong(payload.to_vec()),
                        Message::Close(code, _) => Heard::Close(code),
                        Message::Binary(_) => panic!("binary"),
                    };
                    (used, Some(heard))
                }
            };
            self.bytes.drain(..used);
            if let Some(heard) = heard {
                return heard;
            }
            let mut chunk = [0; 4096];
            let len = self.socket.read(&mut chunk).expect("the worker writes");
            assert_ne!(len, 0, "the worker closed");
            self.bytes.extend_from_slice(&chunk[..len]);
        }
    }

    fn is_configured(&mut self) {
        match self.hear() {
            Heard::Text(text) => assert!(text.contains(r#""session.update""#), "{text}"),
            other => panic!("{other:?}"),
        }
    }
}

impl Fixture {
    fn idle(&self, call_id: Option<CallId>, plaintext: Vec<u8>) -> Model {
        let (ours, theirs) = UnixStream::pair().expect("socketpair");
        let order = ToWorker::Idle {
            upstream: established(theirs, plaintext),
            call_id,
            endpoint: 3,
            life: LONG,
        };
        self.orders.send(order).expect("room");
        Model::new(ours)
    }

    /// A call that has started: it wants the model.
    fn call(&self, name: &str) -> UnixStream {
        let (mut carrier, theirs) = UnixStream::pair().expect("socketpair");
        let setup = Box::new(Setup {
            call_id: id(name),
            settings: Default::default(),
            policy: Default::default(),
            expected_call_sid: None,
            mode: StreamMode::Full,
            seed: [1; 32],
        });
        let order = ToWorker::Adopt {
            setup,
            carrier: established(theirs, Vec::new()),
        };
        self.orders.send(order).expect("room");
        carrier.write_all(&client_frame(START)).expect("read");
        carrier
    }

    fn told(&mut self) -> ToDesk {
        self.desk.blocking_recv().expect("the worker lives")
    }

    /// The next end of a wait, past what else calls have to say.
    fn over(&mut self) -> (Option<CallId>, IdleEnd) {
        loop {
            if let ToDesk::IdleOver { call_id, how, .. } = self.told() {
                return (call_id, how);
            }
        }
    }
}

#[test]
fn an_idle_connection_answers_pings_and_its_end_is_told() {
    let mut fixture = Fixture::start();
    let mut one = fixture.idle(Some(id("a")), Vec::new());
    let mut two = fixture.idle(None, Vec::new());
    for model in [&mut one, &mut two] {
        model.settle(b"");
        model.settle(b"");
    }
    drop(one);
    assert_eq!(fixture.over(), (Some(id("a")), IdleEnd::Lost));
    let mut close = Vec::new();
    write_frame(&mut close, Kind::Close, None, &[&1001u16.to_be_bytes()]);
    two.send(&close);
    assert_eq!(two.hear(), Heard::Close(1001));
    assert_eq!(fixture.over(), (None, IdleEnd::Lost));
    assert_eq!(fixture.orders.live(), 0, "they are no calls");
    fixture.stop();
}

#[test]
fn a_call_takes_the_connection_that_was_dialled_for_it_wherever_its_bytes_were_cut() {
    let created = server_frame(CREATED);
    let mut fixture = Fixture::start();
    let warm = fixture.idle(None, Vec::new());
    for cut in [0, 1, 3, 4, 50, created.len() - 1, created.len()] {
        let name = format!("a{cut}");
        let (read_ahead, rest) = created.split_at(cut / 2);
        let mut model = fixture.idle(Some(id(&name)), read_ahead.to_vec());
        // A ping may stand between frames only.
        let (before, after) = rest.split_at(cut - cut / 2);
        match cut / 2 {
            0 => model.settle(before),
            _ => model.send(before),
        }
        let carrier = fixture.call(&name);
        assert_eq!(fixture.over(), (Some(id(&name)), IdleEnd::Adopted));
        model.send(after);
        model.is_configured();
        // And its own pings go on.
        model.settle(b"");
        // Nobody is left to answer a close frame.
        drop((model, carrier));
    }
    drop(warm);
    fixture.stop();
}

#[test]
fn a_call_without_one_takes_the_oldest_warm_one_and_then_the_desk_is_asked() {
    let mut fixture = Fixture::start();
    let first = fixture.idle(None, server_frame(CREATED));
    let mut second = fixture.idle(None, Vec::new());
    second.settle(&server_frame(CREATED));
    for mut model in [first, second] {
        let carrier = fixture.call("a");
        // The desk learns whose endpoint is whose.
        let (endpoint, taken_by) = loop {
            if let ToDesk::IdleOver {
                how: IdleEnd::Adopted,
                endpoint,
                taken_by,
                ..
            } = fixture.told()
            {
                break (endpoint, taken_by);
            }
        };
        assert_eq!((endpoint, taken_by), (3, Some(id("a"))));
        // What may be dialled for it is not needed.
        while !matches!(fixture.told(), ToDesk::Forget { call_id } if call_id == id("a")) {}
        model.is_configured();
        drop((model, carrier));
        while !matches!(fixture.told(), ToDesk::Ended { .. }) {}
    }
    let carrier = fixture.call("b");
    loop {
        match fixture.told() {
            ToDesk::Dial { call_id, once, .. } if call_id == id("b") => {
                assert!(!once);
                break;
            }
            ToDesk::CancelDial { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    drop(carrier);
    fixture.stop();
}

#[test]
fn a_connection_that_comes_while_its_call_waits_for_the_desk_is_the_answer() {
    let mut fixture = Fixture::start();
    let carrier = fixture.call("a");
    assert!(matches!(fixture.told(), ToDesk::Dial { .. }));
    let mut model = fixture.idle(Some(id("a")), server_frame(CREATED));
    assert_eq!(fixture.over(), (Some(id("a")), IdleEnd::Adopted));
    model.is_configured();
    // A second one for the same call finds it provided for, and waits for nobody.
    let mut late = fixture.idle(Some(id("a")), Vec::new());
    late.settle(b"");
    let call_id = Some(id("a"));
    fixture
        .orders
        .send(ToWorker::DropIdle { call_id })
        .expect("room");
    assert_eq!(late.hear(), Heard::Close(1000));
    assert_eq!(fixture.over(), (Some(id("a")), IdleEnd::Cancelled));
    drop((late, model, carrier));
    fixture.stop();
}

#[test]
fn a_connection_that_dies_in_that_moment_costs_the_call_one_more_dial_at_once() {
    let mut fixture = Fixture::start();
    for turn in 0..6 {
        let name = format!("a{turn}");
        let mut warm = fixture.idle(None, server_frame(CREATED));
        warm.settle(b"");
        let carrier = match turn % 2 {
            0 => {
                let carrier = fixture.call(&name);
                drop(warm);
                carrier
            }
            // Adopted for certain.
            _ => {
                let carrier = fixture.call(&name);
                warm.is_configured();
                drop(warm);
                carrier
            }
        };
        let mut was_adopted = false;
        let (slot, leg, dial) = loop {
            match fixture.told() {
                ToDesk::IdleOver { how, .. } => was_adopted = how == IdleEnd::Adopted,
                ToDesk::Forget { .. } | ToDesk::CancelDial { .. } => {}
                ToDesk::Dial {
                    slot, leg, dial, ..
                } => break (slot, leg, dial),
                other => panic!("turn {turn}: {other:?}"),
            }
        };
        assert!(was_adopted || turn % 2 == 0);
        let (ours, theirs) = UnixStream::pair().expect("socketpair");
        let outcome = Ok(established(theirs, server_frame(CREATED)));
        let order = ToWorker::Upstream {
            slot,
            leg,
            dial,
            outcome,
        };
        fixture.orders.send(order).expect("room");
        let mut fresh = Model::new(ours);
        fresh.is_configured();
        // A fresh one that dies as well has no such excuse: its endpoint is blamed first.
        drop(fresh);
        loop {
            match fixture.told() {
                ToDesk::Distrust { .. } => break,
                ToDesk::IdleOver { .. } | ToDesk::Forget { .. } => {}
                other => panic!("turn {turn}: {other:?}"),
            }
        }
        drop(carrier);
        while !matches!(fixture.told(), ToDesk::Ended { .. }) {}
    }
    fixture.stop();
}

#[test]
fn the_drain_closes_what_nobody_took_and_so_does_the_end() {
    for order in [ToWorker::DropIdle { call_id: None }, ToWorker::Stop] {
        let mut fixture = Fixture::start();
        let is_end = matches!(order, ToWorker::Stop);
        let mut models = [
            fixture.idle(None, Vec::new()),
            fixture.idle(Some(id("a")), Vec::new()),
        ];
        models.iter_mut().for_each(|model| model.settle(b""));
        fixture.orders.send(order).expect("room");
        for model in &mut models {
            assert_eq!(model.hear(), Heard::Close(1001));
        }
        drop(models);
        let mut over = [fixture.over(), fixture.over()];
        over.sort();
        assert_eq!(
            over,
            [(None, IdleEnd::Drained), (Some(id("a")), IdleEnd::Drained)]
        );
        match is_end {
            true => fixture.thread.join().expect("no panic outside a call"),
            false => fixture.stop(),
        }
    }
}

/// A worker that is driven step by step: nothing is submitted, so nothing completes.
fn still_worker() -> (Worker, crate::bus::command::DeskInbox) {
    let (_, inbox) = worker_queue(16).expect("eventfd");
    let (desk, desk_inbox) = desk_queue(64);
    let parts = super::super::Parts {
        id: crate::base::id::WorkerId(0),
        inbox,
        desk,
        reports: report_queue(64).0,
        tools: tool_queue(1).0,
        clock: SystemClock::new(),
        grown_bytes_max: 1 << 20,
        tuning: super::super::Tuning::default(),
    };
    (Worker::new(parts).expect("io_uring"), desk_inbox)
}

/// A call that waits for its first connection, and what it wants.
fn wanting(worker: &mut Worker) -> Wanted {
    let life = worker.table.insert(id("a"), Driver::Dead);
    life.dialling = true;
    life.dials = 1;
    Wanted {
        slot: life.key,
        call_id: id("a"),
        leg: Leg::Realtime,
    }
}

#[test]
fn when_the_call_ends_while_it_takes_one_a_warm_one_waits_on_and_its_own_is_closed() {
    for purpose in [None, Some(id("a"))] {
        let (mut worker, mut desk) = still_worker();
        worker.shared.now = SystemClock::new().now();
        let (_model, theirs) = UnixStream::pair().expect("socketpair");
        worker.on_idle(*established(theirs, Vec::new()), purpose, 0, LONG);
        let key = worker.touched[0];
        worker.serve(key).expect("ring");
        let wanted = wanting(&mut worker);
        worker.place(wanted).expect("ring");
        assert_eq!(worker.shared.idles.moving.len(), 1);
        worker.table.remove(wanted.slot);
        worker.settle_idle().expect("ring");
        assert!(worker.shared.idles.moving.is_empty());
        // The receive ends as it was told to, which says nothing of the connection.
        let leg_key = Life::leg_key(key, PLACE);
        let cancelled = Completion {
            tag: Tag::Receive(leg_key),
            result: -libc::ECANCELED,
            buffer: None,
            more: false,
        };
        worker.on_receive(leg_key, cancelled).expect("ring");
        worker.serve(key).expect("ring");
        worker.shared.flush_desk();
        match purpose {
            None => {
                assert_eq!(worker.shared.idles.waiting(), [0, 1]);
                assert!(desk.try_recv().is_err(), "nothing happened");
                let life = worker.table.find(key).expect("it waits on");
                let leg = life.legs[index_of(PLACE)].as_ref().expect("open");
                assert!(leg.receiving && !leg.cancelling, "it is read again");
            }
            Some(_) => {
                assert_eq!(worker.shared.idles.waiting(), [0, 0]);
                let told = desk.try_recv();
                let cancelled = IdleEnd::Cancelled;
                assert!(
                    matches!(told, Ok(ToDesk::IdleOver { how, .. }) if how == cancelled),
                    "{told:?}"
                );
            }
        }
    }
}

#[test]
fn a_call_that_is_over_gets_no_dial_and_is_forgotten() {
    let (mut worker, mut desk) = still_worker();
    worker.shared.now = SystemClock::new().now();
    let (mut carrier, theirs) = UnixStream::pair().expect("socketpair");
    // Start and stop in one receive.
    let mut plaintext = client_frame(START);
    let stop = br#"{"event":"stop","sequenceNumber":"2","streamSid":"MZ1","stop":{"accountSid":"AC1","callSid":"CA1"}}"#;
    plaintext.extend_from_slice(&client_frame(stop));
    worker.on_order(ToWorker::Adopt {
        setup: Box::new(Setup {
            call_id: id("a"),
            settings: Default::default(),
            policy: Default::default(),
            expected_call_sid: None,
            mode: StreamMode::Full,
            seed: [1; 32],
        }),
        carrier: established(theirs, plaintext),
    });
    worker.serve(worker.touched[0]).expect("ring");
    worker.settle_idle().expect("ring");
    worker.shared.flush_desk();
    assert!(worker.shared.idles.asked.is_empty());
    while let Ok(told) = desk.try_recv() {
        assert!(!matches!(told, ToDesk::Dial { .. }), "{told:?}");
    }
    carrier.write_all(b"x").expect("still open");

    // And the same where it ends between its wish and the look for a connection.
    let wanted = wanting(&mut worker);
    worker.shared.idles.wanted.push_back(wanted);
    worker.table.find(wanted.slot).expect("live").reported_end = true;
    worker.settle_idle().expect("ring");
    worker.shared.flush_desk();
    assert!(worker.shared.idles.asked.is_empty());
    assert!(desk.try_recv().is_err());
}

#[test]
fn an_answer_to_an_older_dial_is_closed_and_counted() {
    let (mut worker, mut desk) = still_worker();
    worker.shared.now = SystemClock::new().now();
    let wanted = wanting(&mut worker);
    worker.table.find(wanted.slot).expect("live").dials = 2;
    for (dial, stale) in [(1, 1), (2, 1)] {
        let (_model, theirs) = UnixStream::pair().expect("socketpair");
        worker.on_order(ToWorker::Upstream {
            slot: wanted.slot,
            leg: wanted.leg,
            dial,
            outcome: Ok(established(theirs, Vec::new())),
        });
        assert_eq!(worker.shared.stats.dials_stale, stale);
        let waits = worker.table.find(wanted.slot).expect("live").dialling;
        assert_eq!(waits, dial == 1, "the newest is still waited for");
    }
    worker.shared.flush_desk();
    assert!(matches!(desk.try_recv(), Ok(ToDesk::Discard { .. })));
    assert!(desk.try_recv().is_err());
}

#[test]
fn an_own_connection_that_can_t_be_used_is_given_up_before_the_desk_is_asked() {
    let (mut worker, mut desk) = still_worker();
    worker.shared.now = SystemClock::new().now();
    let (_model, theirs) = UnixStream::pair().expect("socketpair");
    // In the middle of a message in fragments.
    let begun = b"\x01\x03Hel".to_vec();
    worker.on_idle(*established(theirs, begun), Some(id("a")), 0, LONG);
    let wanted = wanting(&mut worker);
    worker.shared.idles.wanted.push_back(wanted);
    worker.settle_idle().expect("ring");
    worker.shared.flush_desk();
    // In this order: the desk leaves a dial unanswered as long as it believes that the connection waits.
    assert!(matches!(desk.try_recv(), Ok(ToDesk::IdleOver { .. })));
    assert!(matches!(desk.try_recv(), Ok(ToDesk::Dial { dial: 1, .. })));
}

/// A call with both legs, and its peers' ends.
fn connected(worker: &mut Worker, name: &str) -> (SlotKey, UnixStream, UnixStream) {
    let (carrier, theirs) = UnixStream::pair().expect("socketpair");
    worker.on_order(ToWorker::Adopt {
        setup: Box::new(Setup {
            call_id: id(name),
            settings: Default::default(),
            policy: Default::default(),
            expected_call_sid: None,
            mode: StreamMode::Full,
            seed: [1; 32],
        }),
        carrier: established(theirs, client_frame(START)),
    });
    let slot = *worker.touched.last().expect("touched");
    worker.serve(slot).expect("ring");
    worker.settle_idle().expect("ring");
    let dial = worker.table.find(slot).expect("live").dials;
    let (model, theirs) = UnixStream::pair().expect("socketpair");
    worker.on_order(ToWorker::Upstream {
        slot,
        leg: Leg::Realtime,
        dial,
        outcome: Ok(established(theirs, Vec::new())),
    });
    worker.touched.clear();
    (slot, carrier, model)
}

/// What the model says, as a receive of it would hand it on.
fn say(worker: &mut Worker, slot: SlotKey, text: &[u8]) {
    let now = worker.shared.now;
    let mut bytes = server_frame(text);
    let life = worker.table.find(slot).expect("live");
    let used = life.driver.handle_input(Leg::Realtime, &mut bytes, now);
    assert_eq!(used, bytes.len());
    Worker::touch(&mut worker.touched, life);
}

#[test]
fn a_clear_is_submitted_before_other_calls_of_the_wake_up_are_served() {
    const UPDATED: &[u8] = br#"{"type":"session.updated","event_id":"e","session":{"type":"realtime","object":"realtime.session","id":"sess_1","audio":{"input":{"format":{"type":"audio/pcmu"}},"output":{"format":{"type":"audio/pcmu"}}}}}"#;
    const DELTA: &[u8] = br#"{"type":"response.output_audio.delta","event_id":"e","response_id":"resp_1","item_id":"item_1","output_index":0,"content_index":0,"delta":"f39/f39/f39/f39/"}"#;
    const SPEECH: &[u8] = br#"{"type":"input_audio_buffer.speech_started","event_id":"e","item_id":"item_u","audio_start_ms":0}"#;
    let (mut worker, _desk) = still_worker();
    worker.shared.now = SystemClock::new().now();
    let (one, one_carrier, _one_model) = connected(&mut worker, "one");
    let (two, mut two_carrier, _two_model) = connected(&mut worker, "two");
    for slot in [one, two] {
        for text in [CREATED, UPDATED] {
            say(&mut worker, slot, text);
        }
    }
    worker.touched.clear();
    for slot in [one, two] {
        worker.table.find(slot).expect("live").touched = false;
    }
    // Another call's audio comes first in this wake-up, and then the interruption.
    say(&mut worker, one, DELTA);
    say(&mut worker, two, DELTA);
    say(&mut worker, two, SPEECH);
    assert!(worker.table.find(two).expect("live").driver.is_urgent());
    // The rest of what it receives: nothing.
    let key = Life::leg_key(two, Leg::Realtime);
    let again = Completion {
        tag: Tag::Receive(key),
        result: -libc::EAGAIN,
        buffer: None,
        more: true,
    };
    worker.on_receive(key, again).expect("ring");
    let mut sent = [0; 4096];
    two_carrier.set_nonblocking(true).expect("a socket");
    let len = two_carrier.read(&mut sent).expect("submitted, not queued");
    let text = String::from_utf8_lossy(&sent[..len]);
    assert!(text.contains(r#""event":"clear""#), "{text}");
    assert!(!worker.table.find(two).expect("live").driver.is_urgent());
    let other = worker.table.find(one).expect("live");
    let leg = other.legs[index_of(Leg::Carrier)].as_ref().expect("open");
    assert!(
        other.touched && leg.sending.is_none(),
        "its turn comes later"
    );
    drop(one_carrier);
}

#[test]
fn the_ends_are_counted_under_their_own_names() {
    assert_eq!(IdleEnd::ALL.map(IdleEnd::label), name::IDLE_ENDS);
    for (number, end) in IdleEnd::ALL.into_iter().enumerate() {
        assert_eq!(end as usize, number);
    }
}
