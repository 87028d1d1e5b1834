//! What a hostile or broken peer may send: each has a stated answer, and none takes the session down.

use super::harness::*;
use crate::base::limit;
use crate::call::fact::{Drop, EndReason, Fact, Leg, Stats, VIOLATIONS};
use crate::call::session::Closed;
use crate::proto::ws::Role;
use crate::proto::ws::reader::Violation;
use crate::proto::ws::writer::Kind;
use proptest::prelude::*;

/// A frame by hand: first byte, masked or not.
fn raw(first: u8, masked: bool, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    let mask = if masked { 0x80 } else { 0 };
    match payload.len() {
        len @ 0..126 => bytes.push(mask | len as u8),
        len => {
            bytes.push(mask | 127);
            bytes.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    if masked {
        bytes.extend_from_slice(&[0; 4]);
    }
    bytes.extend_from_slice(payload);
    bytes
}

#[test]
fn a_carrier_that_breaks_the_protocol_is_closed_with_the_code_of_what_it_did() {
    let long = vec![b' '; limit::CARRIER_MESSAGE_BYTES_MAX + 1];
    for (bytes, code, label) in [
        (raw(0x81, false, b"{}"), 1002, "masking"), // unmasked
        (raw(0xC1, true, b"{}"), 1002, "reserved_bits"), // reserved bit
        (raw(0x83, true, b"{}"), 1002, "opcode"),   // reserved opcode
        (raw(0x80, true, b"{}"), 1002, "fragmentation"), // a continuation of nothing
        (raw(0x09, true, b"{}"), 1002, "control"),  // a fragmented ping
        (raw(0x81, true, b"\xff"), 1007, "utf8"),   // not UTF-8
        (raw(0x81, true, &long), 1009, "too_long"),
        (raw(0x88, true, b"\x03"), 1002, "close"), // a close of one byte
    ] {
        let mut pair = Pair::ready();
        pair.feed(Leg::Carrier, &bytes);
        assert_eq!(pair.carrier.close_code(), Some(code), "{bytes:x?}");
        assert!(pair.carrier.finishing, "its close frame is not waited for");
        assert_eq!(pair.model.close_code(), Some(1000));
        let said = |fact: &Fact| matches!(fact, Fact::Note { text } if text.contains(label));
        assert!(pair.facts.iter().any(said), "{label}: {:?}", pair.facts);
        let mut expected = Stats::default();
        expected.violation(Leg::Carrier, label);
        let stats = pair.end().expect("an end").1;
        assert_eq!(stats.violations, expected.violations, "{label}");
        assert_eq!(stats.violations.as_flattened().iter().sum::<u64>(), 1);
        assert_eq!(pair.wind_up(), EndReason::CarrierProtocol);
    }
}

#[test]
fn every_violation_of_the_reader_has_a_count() {
    for violation in Violation::ALL {
        let mut stats = Stats::default();
        stats.violation(Leg::Realtime, violation.label());
        assert_eq!(stats.violations[1].iter().sum::<u64>(), 1, "{violation:?}");
    }
    assert_eq!(VIOLATIONS.len(), Violation::ALL.len() + 1);
}

#[test]
fn a_model_that_breaks_the_protocol_is_closed_with_the_code_of_what_it_did() {
    for (bytes, code) in [
        (raw(0x81, true, b"{}"), 1002), // masked
        (raw(0x81, false, b"\xc3("), 1007),
    ] {
        let mut pair = Pair::ready();
        pair.feed(Leg::Realtime, &bytes);
        assert_eq!(pair.model.close_code(), Some(code));
        assert_eq!(pair.carrier.close_code(), Some(1011));
        assert_eq!(pair.wind_up(), EndReason::RealtimeProtocol);
    }
}

#[test]
fn a_message_at_the_limit_is_taken() {
    let mut pair = Pair::ready();
    let bytes = (limit::CARRIER_MESSAGE_BYTES_MAX - 300) / 4 * 3;
    let audio = encode(&vec![0x22; bytes]);
    let mut text = media(61, 1, &audio);
    let spaces = limit::CARRIER_MESSAGE_BYTES_MAX - text.len();
    text.insert_str(1, &" ".repeat(spaces));
    pair.carrier(&text);
    assert_eq!(pair.appended(), [audio]);
    text.push(' ');
    pair.carrier(&text);
    assert_eq!(pair.carrier.close_code(), Some(1009));
}

#[test]
fn malformed_messages_are_counted_and_the_fiftieth_closes_with_1007() {
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let deep_in_object = format!(r#"{{"event":"media","media":{deep}}}"#);
    let cut = &media(61, 1, "AAAA")[..60];
    let twice = media(61, 1, "AAAA").replace(r#"{"event""#, r#"{"event":"stop","event""#);
    let kinds = [
        "",
        "[]",
        "nonsense",
        "{}",
        r#"{"event":7}"#,
        cut,
        &twice,
        &deep,
        &deep_in_object,
    ];
    for (leg, code) in [(Leg::Carrier, 1007), (Leg::Realtime, 1007)] {
        let mut pair = Pair::ready();
        for n in 0..limit::MALFORMED_MAX {
            assert_eq!(pair.reason(), None, "after {n}");
            let text = kinds[n as usize % kinds.len()];
            match leg {
                Leg::Carrier => pair.carrier(text),
                Leg::Realtime | Leg::Standby => pair.model(text),
            }
        }
        assert_eq!(
            pair.dropped(Drop::Malformed),
            u64::from(limit::MALFORMED_MAX)
        );
        assert_eq!(pair.peer(leg).close_code(), Some(code));
        let mut expected = Stats::default();
        expected.violation(leg, "malformed");
        assert_eq!(pair.session.stats().violations, expected.violations);
        let reason = pair.wind_up();
        match leg {
            Leg::Carrier => assert_eq!(reason, EndReason::CarrierProtocol),
            Leg::Realtime | Leg::Standby => assert_eq!(reason, EndReason::RealtimeProtocol),
        }
    }
}

#[test]
fn binary_messages_are_dropped_and_counted_and_the_call_goes_on() {
    let mut pair = Pair::ready();
    for _ in 0..100 {
        pair.feed(Leg::Carrier, &frame(Role::Client, Kind::Binary, &[0; 320]));
        pair.feed(Leg::Realtime, &frame(Role::Server, Kind::Binary, &[0; 320]));
    }
    assert_eq!(pair.dropped(Drop::Binary), 200);
    assert_eq!(pair.reason(), None);
    let spoken = pair.speak();
    assert_eq!(pair.appended(), [spoken]);
}

#[test]
fn unknown_carrier_events_are_counted() {
    let mut pair = Pair::ready();
    for _ in 0..200 {
        pair.carrier(&format!(r#"{{"event":"sneeze","streamSid":"{SID}"}}"#));
    }
    assert_eq!(pair.dropped(Drop::UnknownEvent), 200);
    assert_eq!(pair.reason(), None);
}

#[test]
fn pings_without_end_cost_bounded_memory() {
    let mut pair = Pair::ready();
    pair.carrier.takes = false;
    let pings = frame(Role::Client, Kind::Ping, &[1; 125]).repeat(1000);
    for _ in 0..60 {
        pair.feed(Leg::Carrier, &pings);
    }
    assert!(pair.session.wires.carrier.waiting() <= limit::OUTBOX_BYTES_MAX);
}

#[derive(Clone, Debug)]
enum Step {
    Bytes(Leg, Vec<u8>),
    Text(Leg, usize, usize),
    Close(Leg, u16),
    Gone(Leg, bool),
    Upstream(bool),
    Pass(u64),
    Takes(Leg, bool),
    HangUp,
}

fn texts() -> Vec<String> {
    vec![
        START.to_owned(),
        CREATED.to_owned(),
        UPDATED.to_owned(),
        media(61, 1, "AAAA"),
        media(4_000, 2, "AAAA"),
        delta("item_1", &"AAAA".repeat(700)),
        r#"{"type":"response.output_audio.done","item_id":"item_1"}"#.to_owned(),
        r#"{"type":"input_audio_buffer.speech_started"}"#.to_owned(),
        r#"{"type":"error","error":{"type":"server_error"}}"#.to_owned(),
        format!(r#"{{"event":"mark","streamSid":"{SID}","mark":{{"name":"g0.1.200"}}}}"#),
        format!(r#"{{"event":"stop","streamSid":"{SID}"}}"#),
    ]
}

fn leg() -> impl Strategy<Value = Leg> {
    prop_oneof![Just(Leg::Carrier), Just(Leg::Realtime)]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (leg(), proptest::collection::vec(any::<u8>(), 0..40))
            .prop_map(|(leg, bytes)| Step::Bytes(leg, bytes)),
        // A real text, perhaps cut.
        12 => (leg(), 0..texts().len(), prop_oneof![9 => Just(usize::MAX), 1 => 0usize..500])
            .prop_map(|(leg, n, cut)| Step::Text(leg, n, cut)),
        1 => (leg(), 1000u16..1012).prop_map(|(leg, code)| Step::Close(leg, code)),
        1 => (leg(), any::<bool>()).prop_map(|(leg, broken)| Step::Gone(leg, broken)),
        3 => any::<bool>().prop_map(Step::Upstream),
        3 => (0u64..30_000).prop_map(Step::Pass),
        1 => (leg(), any::<bool>()).prop_map(|(leg, takes)| Step::Takes(leg, takes)),
        1 => Just(Step::HangUp),
    ]
}

fn play(pair: &mut Pair, step: Step) {
    match step {
        Step::Bytes(leg, bytes) => pair.feed(leg, &bytes),
        Step::Text(leg, n, cut) => {
            let role = pair.peer(leg).role();
            let text = texts()[n].clone();
            let bytes = frame(role, Kind::Text, text.as_bytes());
            pair.feed(leg, &bytes[..cut.min(bytes.len())]);
        }
        Step::Close(leg, code) => pair.close(leg, code),
        Step::Gone(leg, true) => pair.gone(leg, Closed::Broken),
        Step::Gone(leg, false) => pair.gone(leg, Closed::Eof),
        Step::Upstream(ok) => {
            // The shell answers a dial once.
            if pair.dials > 0 {
                pair.dials = 0;
                if ok {
                    pair.connect();
                } else {
                    let at = now(pair.at_ms);
                    pair.session.handle_upstream(failed("refused"), at);
                    pair.pump();
                }
            }
        }
        Step::Pass(ms) => pair.pass(ms),
        Step::Takes(leg, takes) => {
            pair.peer(leg).takes = takes;
            pair.pump();
        }
        Step::HangUp => pair.hang_up(EndReason::HungUpByOperator),
    }
}

/// Whatever happened: with both sockets gone and time passing, the call is over.
fn must_end(mut pair: Pair) {
    pair.gone(Leg::Carrier, Closed::Broken);
    pair.gone(Leg::Realtime, Closed::Broken);
    pair.pass(limit::CLOSE_DEADLINE.as_millis() as u64 * 3);
    assert!(pair.session.is_finished(), "{:?}", pair.session);
    assert!(pair.reason().is_some());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, ..ProptestConfig::default() })]

    #[test]
    fn bytes_from_both_peers_never_panic_and_the_call_always_ends(
        carrier in proptest::collection::vec(any::<u8>(), 0..200),
        realtime in proptest::collection::vec(any::<u8>(), 0..200),
        ready in any::<bool>(),
    ) {
        let mut pair = if ready { Pair::ready() } else { Pair::new() };
        pair.feed(Leg::Carrier, &carrier);
        pair.feed(Leg::Realtime, &realtime);
        must_end(pair);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn any_course_of_events_ends_once_with_its_bytes_accounted_for(
        ready in any::<bool>(),
        steps in proptest::collection::vec(step(), 0..60),
    ) {
        let mut pair = if ready { Pair::ready() } else { Pair::new() };
        for step in steps {
            play(&mut pair, step);
        }
        must_end(pair);
    }

    #[test]
    fn the_same_seed_and_events_make_the_same_bytes(
        steps in proptest::collection::vec(step(), 0..20),
    ) {
        let run = |steps: Vec<Step>| {
            let mut pair = Pair::ready();
            for step in steps {
                play(&mut pair, step);
            }
            (pair.carrier.got, pair.model.got, pair.facts)
        };
        prop_assert_eq!(run(steps.clone()), run(steps));
    }
}
