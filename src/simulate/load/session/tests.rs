//! Caller and session joined by a hand-made relay: what is right passes, what is wrong is named.

use super::*;
use crate::proto::ws::Role;
use crate::proto::ws::reader::{Message, Reader};
use crate::simulate::load::caller::Caller;

/// One live call's ledger, number 3.
struct Book(Ledger);

impl Ledgers for Book {
    fn ledger(&mut self, call: u32) -> Option<&mut Ledger> {
        (call == self.0.call).then_some(&mut self.0)
    }
}

struct Bench {
    blocks: Blocks,
    book: Book,
    tally: Tally,
    caller: Caller,
    session: Session,
    to_relay: Outbox,
    from_model: Outbox,
}

const MS: u64 = 1_000_000;

impl Bench {
    fn new(dialect: Dialect, latency: u64, echoes: bool) -> Self {
        let mut from_model = Outbox::new(Role::Server, 1);
        let session = Session::new(9, dialect, latency, 1, 1_800_000_000, &mut from_model);
        let mut bench = Self {
            blocks: Blocks::default(),
            book: Book(Ledger::new(3)),
            tally: Tally::default(),
            caller: Caller::new(3, echoes, 1.0, 1),
            session,
            to_relay: Outbox::new(Role::Client, 1),
            from_model,
        };
        bench.tally.window = (0, u64::MAX);
        bench.caller.handle_open(20 * MS, &mut bench.to_relay);
        bench
    }

    /// The caller's next frame as the carrier sends it.
    fn frame(&mut self) -> String {
        self.to_relay.raw().clear();
        let due = self.caller.due;
        self.caller.handle_due(
            due,
            &self.blocks,
            &mut self.book.0,
            &mut self.tally,
            &mut self.to_relay,
        );
        texts(&mut self.to_relay, Role::Server)
            .pop()
            .expect("a frame")
    }

    fn tell_model(&mut self, text: &str, now: u64) {
        self.session.handle_text(
            text.as_bytes(),
            now,
            &self.blocks,
            &mut self.book,
            &mut self.tally,
            &mut self.from_model,
        );
    }

    fn tell_carrier(&mut self, text: &str, now: u64) {
        let (blocks, ledger) = (&self.blocks, &mut self.book.0);
        self.caller
            .handle_text(text.as_bytes(), now, blocks, ledger, &mut self.tally);
    }

    fn faults(&self) -> Vec<String> {
        self.tally
            .faults
            .kept()
            .iter()
            .map(ToString::to_string)
            .collect()
    }
}

/// The text messages in an outbox, as their reader sees them.
fn texts(outbox: &mut Outbox, reader: Role) -> Vec<String> {
    let mut bytes = std::mem::take(outbox.raw());
    let mut reader = Reader::new(reader, 1 << 20);
    let (mut at, mut found) = (0, Vec::new());
    while let Ok((used, Some(message))) = reader.read(&mut bytes[at..]) {
        at += used;
        if let Message::Text(text) = message {
            found.push(String::from_utf8_lossy(text).into_owned());
        }
    }
    found
}

fn field(text: &str, path: &[&str]) -> String {
    let mut value: Value = serde_json::from_str(text).expect("JSON");
    for name in path {
        value = value[name].take();
    }
    value.as_str().unwrap_or_default().to_owned()
}

fn append(frame: &str) -> String {
    let payload = field(frame, &["media", "payload"]);
    format!("{{\"type\":\"input_audio_buffer.append\",\"audio\":\"{payload}\"}}")
}

fn media(frame: &str, delta: &str) -> String {
    let stream = field(frame, &["streamSid"]);
    format!(
        "{{\"event\":\"media\",\"streamSid\":\"{stream}\",\"media\":{{\"payload\":\"{delta}\"}}}}"
    )
}

#[test]
fn an_echo_goes_round_and_both_ways_are_measured_for_themselves() {
    let mut bench = Bench::new(Dialect::Realtime, 0, true);
    for n in 0..5 {
        let frame = bench.frame();
        let due = (n + 1) * 20 * MS;
        bench.tell_model(&append(&frame), due + 2 * MS);
        let answer = texts(&mut bench.from_model, Role::Client)
            .pop()
            .expect("a delta");
        assert_eq!(field(&answer, &["type"]), "response.output_audio.delta");
        let text = media(&frame, &field(&answer, &["delta"]));
        bench.tell_carrier(&text, due + 5 * MS);
    }
    assert!(bench.faults().is_empty(), "{:?}", bench.faults());
    assert!(bench.book.0.is_complete());
    let (up, down) = (bench.tally.up.quantiles(), bench.tally.down.quantiles());
    assert_eq!((up.count, up.max.as_millis()), (5, 2));
    assert_eq!((down.count, down.max.as_millis()), (5, 3));
}

#[test]
fn an_echo_with_latency_is_due_later_and_measured_from_then() {
    let mut bench = Bench::new(Dialect::Realtime, 30 * MS, true);
    let frame = bench.frame();
    bench.tell_model(&append(&frame), 21 * MS);
    assert_eq!(bench.session.poll_timeout(), Some(51 * MS));
    assert!(bench.session.is_busy());
    let _ = texts(&mut bench.from_model, Role::Client);
    let (session, book, tally) = (&mut bench.session, &mut bench.book, &mut bench.tally);
    session.handle_timeout(52 * MS, &bench.blocks, book, tally, &mut bench.from_model);
    let answer = texts(&mut bench.from_model, Role::Client)
        .pop()
        .expect("a delta");
    bench.tell_carrier(&media(&frame, &field(&answer, &["delta"])), 54 * MS);
    assert_eq!(bench.tally.down.quantiles().max.as_millis(), 3);
    assert!(bench.faults().is_empty() && !bench.session.is_busy());
}

#[test]
fn a_mirror_answers_in_the_carrier_s_protocol() {
    let mut bench = Bench::new(Dialect::Carrier, 0, true);
    let frame = bench.frame();
    bench.tell_model(&frame, 21 * MS);
    let answer = texts(&mut bench.from_model, Role::Client)
        .pop()
        .expect("media");
    assert_eq!(
        field(&answer, &["streamSid"]),
        field(&frame, &["streamSid"])
    );
    bench.tell_carrier(&answer, 22 * MS);
    assert!(bench.faults().is_empty(), "{:?}", bench.faults());
    assert!(bench.book.0.is_complete());
}

#[test]
fn frames_lost_doubled_and_of_others_are_named_with_call_and_number() {
    let mut bench = Bench::new(Dialect::Realtime, 0, true);
    let frames: Vec<String> = (0..4).map(|_| bench.frame()).collect();
    for n in [0, 2, 2, 3] {
        bench.tell_model(&append(&frames[n]), 100 * MS);
    }
    // The caller's own audio straight back, past the model.
    let payload = field(&frames[1], &["media", "payload"]);
    bench.tell_carrier(&media(&frames[1], &payload), 101 * MS);
    // A frame of call 4.
    let mut other = Caller::new(4, true, 0.0, 1);
    other.handle_open(20 * MS, &mut bench.to_relay);
    bench.to_relay.raw().clear();
    let mut ledger = Ledger::new(4);
    let (blocks, tally) = (&bench.blocks, &mut bench.tally);
    other.handle_due(20 * MS, blocks, &mut ledger, tally, &mut bench.to_relay);
    let foreign = texts(&mut bench.to_relay, Role::Server)
        .pop()
        .expect("a frame");
    bench.tell_model(&append(&foreign), 102 * MS);
    bench.book.0.down = crate::simulate::load::check::Track::default();
    bench.book.0.down_sent = 0;
    bench.book.0.finish(&mut bench.tally);
    assert_eq!(
        bench.faults(),
        [
            "call 3, carrier to model, frame 2: duplicated",
            "call 3, model to carrier, frame 1: foreign (it is call 3's, carrier to model)",
            "call 3, carrier to model, frame 0: foreign (it is call 4's, carrier to model)",
            "call 3, carrier to model, frame 1: lost",
        ]
    );
}

#[test]
fn messages_that_the_vendors_do_not_know_are_named() {
    let mut bench = Bench::new(Dialect::Realtime, 0, true);
    let frame = bench.frame();
    bench.tell_model("{\"type\":\"no.such.event\"}", 30 * MS);
    bench.tell_model("not JSON", 30 * MS);
    let answers = texts(&mut bench.from_model, Role::Client);
    let errors = answers
        .iter()
        .filter(|text| field(text, &["type"]) == "error");
    assert_eq!(errors.count(), 2);
    bench.tell_carrier("{\"event\":\"nonsense\"}", 31 * MS);
    let stream = field(&frame, &["streamSid"]);
    let mark =
        format!("{{\"event\":\"mark\",\"streamSid\":\"{stream}\",\"mark\":{{\"name\":\"m1\"}}}}");
    bench.tell_carrier(&mark, 31 * MS);
    bench.tell_carrier(&mark, 31 * MS);
    bench.tell_carrier(
        &format!("{{\"event\":\"clear\",\"streamSid\":\"{stream}\"}}"),
        31 * MS,
    );
    let count = |kind| bench.tally.faults.count(kind);
    assert_eq!(
        (
            count(Kind::Message),
            count(Kind::Mark),
            count(Kind::StrangeClear)
        ),
        (3, 1, 1)
    );
}

#[test]
fn a_session_in_another_format_than_the_telephone_s_is_a_fault() {
    let mut bench = Bench::new(Dialect::Realtime, 0, true);
    let update = |format: &str| {
        format!(
            "{{\"type\":\"session.update\",\"session\":{{\"type\":\"realtime\",\"audio\":{{\
             \"input\":{{\"format\":{{\"type\":\"{format}\"}}}},\"output\":{{\"format\":{{\"type\":\"{format}\"}}}}}}}}}}"
        )
    };
    bench.tell_model(&update("audio/pcmu"), MS);
    assert!(bench.faults().is_empty(), "{:?}", bench.faults());
    bench.tell_model(&update("audio/pcma"), MS);
    assert_eq!(
        bench.tally.faults.count(Kind::Message),
        1,
        "{:?}",
        bench.faults()
    );
}
