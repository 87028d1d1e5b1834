//! How calls end: one reason, one last fact, both legs closed in order, whatever the order of events.

use super::harness::*;
use crate::base::limit;
use crate::call::fact::{EndReason, Fact, Leg};
use crate::call::session::{Closed, Command, Intent};
use crate::proto::ws::Role;
use crate::proto::ws::writer::Kind;

fn stop() -> String {
    format!(
        r#"{{"event":"stop","sequenceNumber":"912","stop":{{"accountSid":"AC1","callSid":"CA1"}},"streamSid":"{SID}"}}"#
    )
}

const PING_MS: u64 = limit::PING_INTERVAL.as_millis() as u64;
const PONG_MS: u64 = limit::PONG_DEADLINE.as_millis() as u64;
const CLOSE_MS: u64 = limit::CLOSE_DEADLINE.as_millis() as u64;
const STALL_MS: u64 = limit::WRITE_STALL_DEADLINE.as_millis() as u64;

/// A session in each phase: before start, dialling, open, configuring, ready.
fn in_phase(phase: u32) -> Pair {
    match phase {
        0 => Pair::new(),
        1 => Pair::started(),
        4 => Pair::ready(),
        _ => {
            let mut pair = Pair::started();
            pair.connect();
            if phase == 3 {
                pair.model(CREATED);
            }
            pair
        }
    }
}

#[test]
fn stop_closes_the_model_then_the_carrier_with_1000() {
    let mut pair = Pair::ready();
    pair.speak();
    pair.give(
        Leg::Carrier,
        &frame(Role::Client, Kind::Text, stop().as_bytes()),
    );
    assert_eq!(pair.session.poll_intent(), None);
    pair.pump();
    assert_eq!(pair.model.close_code(), Some(1000));
    assert_eq!(pair.carrier.close_code(), Some(1000));
    assert_eq!(pair.reason(), Some(EndReason::CallerHungUp));
    assert!(!pair.session.is_finished());
    // The model answers; as a client we wait for its end of stream. The carrier answers: we close.
    pair.close(Leg::Realtime, 1000);
    assert!(!pair.model.finishing);
    pair.close(Leg::Carrier, 1000);
    assert!(pair.carrier.finishing);
    assert!(!pair.session.is_finished());
    pair.gone(Leg::Realtime, Closed::Eof);
    assert!(pair.session.is_finished());
}

#[test]
fn the_carriers_close_is_answered_with_its_code_and_the_model_is_closed() {
    let mut pair = Pair::ready();
    pair.close(Leg::Carrier, 1001);
    assert_eq!(pair.carrier.close_code(), Some(1001));
    assert!(pair.carrier.finishing);
    assert_eq!(pair.model.close_code(), Some(1000));
    assert_eq!(pair.wind_up(), EndReason::CallerHungUp);
}

#[test]
fn a_close_without_a_code_is_answered_without_one() {
    let mut pair = Pair::ready();
    pair.feed(Leg::Carrier, &frame(Role::Client, Kind::Close, b""));
    assert_eq!(pair.carrier.close_code(), Some(1005));
    assert_eq!(pair.wind_up(), EndReason::CallerHungUp);
}

#[test]
fn in_every_phase_every_cause_ends_the_call_once() {
    type Cause = fn(&mut Pair);
    let causes: [(Cause, EndReason); 6] = [
        (|pair| pair.carrier(&stop()), EndReason::CallerHungUp),
        (
            |pair| pair.close(Leg::Carrier, 1000),
            EndReason::CallerHungUp,
        ),
        (
            |pair| pair.gone(Leg::Carrier, Closed::Eof),
            EndReason::CallerHungUp,
        ),
        (
            |pair| pair.gone(Leg::Carrier, Closed::Broken),
            EndReason::CarrierLost,
        ),
        (
            |pair| pair.hang_up(EndReason::HungUpByOperator),
            EndReason::HungUpByOperator,
        ),
        (|pair| pair.hang_up(EndReason::Drained), EndReason::Drained),
    ];
    for phase in 0..5 {
        for (first, reason) in causes {
            for (second, _) in causes {
                let mut pair = in_phase(phase);
                first(&mut pair);
                assert_eq!(pair.reason(), Some(reason), "phase {phase}");
                second(&mut pair);
                assert_eq!(pair.wind_up(), reason);
                let ends = |fact: &&Fact| matches!(fact, Fact::Ended { .. });
                assert_eq!(pair.facts.iter().filter(ends).count(), 1);
            }
        }
    }
}

#[test]
fn peers_that_never_answer_a_close_are_dropped_after_the_deadline() {
    for phase in 0..5 {
        let mut pair = in_phase(phase);
        pair.hang_up(EndReason::HungUpByOperator);
        assert!(!pair.session.is_finished());
        pair.pass(CLOSE_MS - 1);
        assert!(!pair.session.is_finished());
        pair.pass(1);
        assert!(pair.session.is_finished());
        assert!(!pair.carrier.socket_open && !pair.model.socket_open);
    }
}

#[test]
fn a_model_that_answers_the_close_but_keeps_its_socket_is_finished_after_the_deadline() {
    let mut pair = Pair::ready();
    pair.carrier(&stop());
    pair.close(Leg::Carrier, 1000);
    pair.close(Leg::Realtime, 1000);
    pair.pass(CLOSE_MS);
    assert!(pair.model.finishing);
    assert!(pair.session.is_finished());
}

#[test]
fn a_peer_that_takes_nothing_cannot_hold_up_the_end() {
    let mut pair = Pair::ready();
    pair.carrier.takes = false;
    pair.model.takes = false;
    pair.speak();
    pair.model(&delta("item_1", "AAAA"));
    pair.hang_up(EndReason::HungUpByOperator);
    pair.pass(3 * CLOSE_MS);
    assert!(pair.session.is_finished());
    assert_eq!(pair.reason(), Some(EndReason::HungUpByOperator));
}

#[test]
fn what_was_queued_goes_out_before_the_close_frame() {
    let mut pair = Pair::ready();
    pair.give(
        Leg::Realtime,
        &frame(Role::Server, Kind::Text, delta("item_1", "AAAA").as_bytes()),
    );
    pair.close(Leg::Realtime, 1011);
    assert!(matches!(&pair.carrier.got[0], Got::Text(text) if text.contains("AAAA")));
    assert!(matches!(&pair.carrier.got[1], Got::Close(1011, reason) if reason == "realtime_lost"));
}

#[test]
fn nothing_is_acted_on_after_the_end_but_the_close_frame_is_found() {
    let mut pair = Pair::ready();
    let mut bytes = frame(Role::Client, Kind::Text, stop().as_bytes());
    bytes.extend(frame(
        Role::Client,
        Kind::Text,
        media(61, 1, "AAAA").as_bytes(),
    ));
    bytes.extend(frame(Role::Client, Kind::Ping, b"hello?"));
    bytes.extend(frame(Role::Client, Kind::Close, &close_payload(1000)));
    bytes.extend(frame(Role::Client, Kind::Text, b"{}"));
    pair.feed(Leg::Carrier, &bytes);
    assert!(pair.appended().is_empty());
    assert_eq!(
        pair.carrier.got,
        [Got::Close(1000, "caller_hung_up".to_owned())]
    );
    assert!(pair.carrier.finishing);
    assert_eq!(pair.wind_up(), EndReason::CallerHungUp);
}

#[test]
fn the_models_close_says_why_and_the_carrier_gets_1011() {
    let mut pair = Pair::ready();
    let mut payload = close_payload(4000);
    payload.extend_from_slice(b"invalid_request_error.invalid_model");
    pair.feed(Leg::Realtime, &frame(Role::Server, Kind::Close, &payload));
    assert!(pair.facts.contains(&Fact::RealtimeError {
        code: "close_4000".to_owned(),
        message: "invalid_request_error.invalid_model".to_owned()
    }));
    assert_eq!(pair.model.close_code(), Some(4000));
    assert_eq!(pair.carrier.close_code(), Some(1011));
    assert_eq!(pair.wind_up(), EndReason::RealtimeLost);
}

#[test]
fn a_dial_that_succeeds_after_the_end_is_aborted() {
    let mut pair = Pair::started();
    pair.carrier(&stop());
    pair.session.handle_upstream(Ok(()), now(pair.at_ms));
    assert_eq!(
        pair.session.poll_intent(),
        Some(Intent::Abort(Leg::Realtime))
    );
    pair.session
        .handle_upstream(failed("late"), now(pair.at_ms));
    assert_eq!(pair.session.poll_intent(), None);
    assert_eq!(pair.wind_up(), EndReason::CallerHungUp);
}

#[test]
fn a_dial_that_the_end_overtakes_in_one_piece_of_input_is_not_made() {
    let mut pair = Pair::new();
    let mut bytes = frame(Role::Client, Kind::Text, START.as_bytes());
    bytes.extend(frame(Role::Client, Kind::Text, stop().as_bytes()));
    pair.feed(Leg::Carrier, &bytes);
    assert_eq!(pair.wind_up(), EndReason::CallerHungUp);
}

#[test]
fn both_legs_are_pinged_and_a_pong_or_any_message_keeps_them() {
    let mut pair = Pair::ready();
    for _ in 0..5 {
        pair.carrier.got.clear();
        pair.model.got.clear();
        pair.pass(PING_MS);
        assert_eq!(pair.carrier.got, [Got::Ping]);
        assert_eq!(pair.model.got, [Got::Ping]);
        pair.pass(100);
        pair.feed(Leg::Carrier, &frame(Role::Client, Kind::Pong, b""));
        pair.model(r#"{"type":"rate_limits.updated","rate_limits":[]}"#);
        pair.at_ms -= 100;
    }
    assert_eq!(pair.reason(), None);
}

#[test]
fn a_leg_that_stays_mute_after_a_ping_is_lost() {
    for (leg, reason) in [
        (Leg::Carrier, EndReason::CarrierLost),
        (Leg::Realtime, EndReason::RealtimeLost),
    ] {
        let mut pair = Pair::ready();
        pair.pass(PING_MS);
        match leg {
            Leg::Carrier => pair.feed(Leg::Realtime, &frame(Role::Server, Kind::Pong, b"")),
            Leg::Realtime | Leg::Standby => {
                pair.feed(Leg::Carrier, &frame(Role::Client, Kind::Pong, b""))
            }
        }
        pair.pass(PONG_MS - 1);
        assert_eq!(pair.reason(), None);
        pair.pass(1);
        assert_eq!(pair.reason(), Some(reason));
        assert!(!pair.peer(leg).socket_open);
        assert_eq!(pair.wind_up(), reason);
    }
}

#[test]
fn a_send_that_is_not_taken_in_time_ends_the_call() {
    for (leg, reason) in [
        (Leg::Carrier, EndReason::CarrierStalled),
        (Leg::Realtime, EndReason::RealtimeStalled),
    ] {
        let mut pair = Pair::ready();
        pair.peer(leg).takes = false;
        pair.speak();
        pair.model(&delta("item_1", "AAAA"));
        pair.pass(STALL_MS - 1);
        assert_eq!(pair.reason(), None);
        pair.pass(1);
        assert_eq!(pair.reason(), Some(reason));
        assert!(!pair.peer(leg).socket_open);
        assert_eq!(pair.wind_up(), reason);
    }
}

#[test]
fn a_slow_send_that_is_taken_in_time_ends_nothing() {
    let mut pair = Pair::ready();
    for _ in 0..3 {
        pair.carrier.takes = false;
        pair.model(&delta("item_1", "AAAA"));
        pair.pass(STALL_MS - 1);
        pair.carrier.takes = true;
        pair.pump();
    }
    assert_eq!(pair.reason(), None);
}

#[test]
fn a_panic_ends_the_call_as_internal_and_gives_up_both_legs() {
    for phase in 0..5 {
        let mut pair = in_phase(phase);
        pair.session.handle_panic(now(pair.at_ms));
        pair.pump();
        assert_eq!(pair.reason(), Some(EndReason::Internal));
        assert!(pair.session.is_finished());
        assert!(!pair.carrier.socket_open && !pair.model.socket_open);
    }
}

#[test]
fn of_several_hang_ups_the_first_counts_and_the_rest_change_nothing() {
    let mut pair = Pair::ready();
    pair.hang_up(EndReason::HungUpByOperator);
    for again in [EndReason::Drained, EndReason::HungUpByOperator] {
        pair.hang_up(again);
    }
    assert_eq!(pair.reason(), Some(EndReason::HungUpByOperator));
    // Also once the peers have answered.
    pair.close(Leg::Realtime, 1000);
    pair.hang_up(EndReason::Drained);
    // `close_code` fails on a second close frame.
    assert!(pair.carrier.close_code().is_some() && pair.model.close_code().is_some());
    assert_eq!(pair.wind_up(), EndReason::HungUpByOperator);
}

#[test]
fn a_panic_in_the_closing_handshake_keeps_the_reason() {
    let mut pair = Pair::ready();
    pair.session.handle_command(
        Command::HangUp(EndReason::HungUpByOperator),
        now(pair.at_ms),
    );
    pair.session.handle_panic(now(pair.at_ms));
    pair.pump();
    assert_eq!(pair.reason(), Some(EndReason::HungUpByOperator));
    assert!(pair.session.is_finished());
}
