//! Who is admitted, refused and placed where.

use super::*;
use crate::bus::load::Overload;

const NOW: u64 = 1_000_000;
const RULES: Rules = Rules {
    calls_max: 3,
    unknown_call: UnknownCall::Create,
};

fn directory() -> Directory {
    let mut directory = Directory::default();
    let expected = |sid, expires_unix_ms| Expected {
        call_sid: CallSid::new(sid),
        expires_unix_ms,
    };
    directory
        .expected
        .insert(CallId::new("ours").unwrap(), expected("CA1", NOW + 1));
    directory
        .expected
        .insert(CallId::new("late").unwrap(), expected("CA2", NOW));
    directory
}

fn ticket(call: &str) -> Option<Result<Ticket, TicketError>> {
    Some(Ok(Ticket {
        call_id: CallId::new(call).unwrap(),
        expires_unix_ms: NOW + 1,
        mac: [1; 16],
    }))
}

fn with_id(id: &str, signature: Signature) -> Request<'_> {
    Request {
        id: Some(id),
        ticket: None,
        signature,
    }
}

fn with_ticket(call: &str) -> Request<'static> {
    Request {
        id: None,
        ticket: ticket(call),
        signature: Signature::Valid,
    }
}

fn code(outcome: Result<Grant, Refusal>) -> (u16, &'static str) {
    let refusal = outcome.unwrap_err();
    (refusal.status, refusal.code)
}

#[test]
fn development_takes_any_id_and_none() {
    let mut admission = Admission::new(2);
    let grant = admission
        .decide(
            &with_id("x", Signature::NotNeeded),
            RULES,
            &directory(),
            NOW,
        )
        .unwrap();
    assert_eq!(grant.call_id, CallId::new("x"));
    assert_eq!(grant.worker, WorkerId(0));
    let request = Request {
        id: None,
        ticket: None,
        signature: Signature::NotNeeded,
    };
    let grant = admission
        .decide(&request, RULES, &directory(), NOW)
        .unwrap();
    assert_eq!((grant.call_id, grant.worker), (None, WorkerId(1)));
    // Nobody configured a secret, so the policy for strangers has nothing to stand on.
    let rules = Rules {
        unknown_call: UnknownCall::Reject,
        ..RULES
    };
    assert!(admission.decide(&request, rules, &directory(), NOW).is_ok());
}

#[test]
fn signatures_are_asked_first() {
    let mut admission = Admission::new(1);
    let missing = with_id("x", Signature::Missing);
    let wrong = Request {
        signature: Signature::Wrong,
        ..with_ticket("ours")
    };
    for (request, expected) in [(missing, "signature_missing"), (wrong, "signature_wrong")] {
        let outcome = admission.decide(&request, RULES, &directory(), NOW);
        assert_eq!(code(outcome), (403, expected));
    }
    // The refused ticket was not spent.
    assert!(
        admission
            .decide(&with_ticket("ours"), RULES, &directory(), NOW)
            .is_ok()
    );
}

#[test]
fn a_ticket_names_its_call_and_is_good_once() {
    let mut admission = Admission::new(1);
    let grant = admission
        .decide(&with_ticket("ours"), RULES, &directory(), NOW)
        .unwrap();
    assert_eq!(grant.call_id, CallId::new("ours"));
    assert_eq!(grant.expected_call_sid, CallSid::new("CA1"));
    let again = admission.decide(&with_ticket("ours"), RULES, &directory(), NOW);
    assert_eq!(code(again), (403, "ticket_reused"));
}

#[test]
fn tickets_of_unknown_or_expired_calls_and_bad_ones_are_refused() {
    let mut admission = Admission::new(1);
    for call in ["late", "never"] {
        let outcome = admission.decide(&with_ticket(call), RULES, &directory(), NOW);
        assert_eq!(code(outcome), (403, "ticket_unknown"), "{call}");
    }
    for (error, expected) in [
        (TicketError::Shape, "ticket_shape"),
        (TicketError::Signature, "ticket_forged"),
        (TicketError::Expired, "ticket_expired"),
    ] {
        let bad = Request {
            ticket: Some(Err(error)),
            ..with_id("x", Signature::NotNeeded)
        };
        let outcome = admission.decide(&bad, RULES, &directory(), NOW);
        assert_eq!(code(outcome), (403, expected));
    }
    assert_eq!(admission.live(), 0);
}

#[test]
fn a_full_house_does_not_spend_the_ticket() {
    let mut admission = Admission::new(1);
    let rules = Rules {
        calls_max: 0,
        ..RULES
    };
    let outcome = admission.decide(&with_ticket("ours"), rules, &directory(), NOW);
    assert_eq!(outcome.unwrap_err().retry_after, Some(RETRY_AFTER_SECS));
    assert!(
        admission
            .decide(&with_ticket("ours"), RULES, &directory(), NOW)
            .is_ok()
    );
}

#[test]
fn ids_are_found_by_ours_and_by_the_carriers() {
    let mut admission = Admission::new(1);
    for id in ["ours", "CA1"] {
        let request = with_id(id, Signature::NotNeeded);
        let grant = admission
            .decide(&request, RULES, &directory(), NOW)
            .unwrap();
        assert_eq!(grant.call_id, CallId::new("ours"), "{id}");
        assert_eq!(grant.expected_call_sid, CallSid::new("CA1"));
        let again = admission.decide(&request, RULES, &directory(), NOW);
        assert_eq!(code(again), (409, "call_live"), "{id}");
        admission.release(grant.worker, grant.call_id);
    }
}

#[test]
fn an_announced_call_needs_its_ticket_besides_the_signature() {
    let mut admission = Admission::new(1);
    for id in ["ours", "CA1"] {
        let request = with_id(id, Signature::Valid);
        let outcome = admission.decide(&request, RULES, &directory(), NOW);
        assert_eq!(code(outcome), (403, "ticket_missing"), "{id}");
    }
    let outcome = admission.decide(&with_ticket("ours"), RULES, &directory(), NOW);
    assert!(outcome.is_ok(), "the ticket is unspent");
}

#[test]
fn strangers_are_a_matter_of_policy() {
    for (unknown_call, granted) in [
        (UnknownCall::Create, true),
        (UnknownCall::Debug, true),
        (UnknownCall::Reject, false),
    ] {
        let mut admission = Admission::new(1);
        let rules = Rules {
            calls_max: 10,
            unknown_call,
        };
        for id in ["stranger", "late", "CA2"] {
            let request = with_id(id, Signature::Valid);
            let outcome = admission.decide(&request, rules, &directory(), NOW);
            assert!(outcome.is_err() || outcome.is_ok_and(|grant| grant.is_unknown));
            assert_eq!(outcome.is_ok(), granted, "{id} {unknown_call:?}");
            if let Err(refusal) = outcome {
                assert_eq!((refusal.status, refusal.code), (404, "unknown_call"));
            }
        }
    }
}

#[test]
fn places_are_counted_given_back_and_spread() {
    let mut admission = Admission::new(3);
    let request = Request {
        id: None,
        ..with_id("", Signature::NotNeeded)
    };
    let mut workers = Vec::new();
    for _ in 0..3 {
        workers.push(
            admission
                .decide(&request, RULES, &directory(), NOW)
                .unwrap()
                .worker
                .0,
        );
    }
    assert_eq!(workers, [0, 1, 2]);
    let full = admission.decide(&request, RULES, &directory(), NOW);
    assert_eq!(code(full), (503, "calls_max"));
    admission.release(WorkerId(1), None);
    admission.release(WorkerId(9), None);
    let grant = admission
        .decide(&request, RULES, &directory(), NOW)
        .unwrap();
    assert_eq!(grant.worker, WorkerId(1));
    assert_eq!(admission.live(), 3);
}

fn load(busy_permille: u32, measured_live: usize, overload: Option<Overload>) -> Load {
    Load {
        live: measured_live,
        measured_live,
        busy_permille,
        lag_us: 0,
        overload,
    }
}

#[test]
fn calls_go_where_the_measured_load_is_least_and_spread_between_measurements() {
    let rules = Rules {
        calls_max: 1_000,
        ..RULES
    };
    let request = Request {
        id: None,
        ..with_id("", Signature::NotNeeded)
    };
    let mut admission = Admission::new(2);
    // Twenty calls on each, and those of the first cost it three times as much.
    admission.calls = vec![20, 20];
    admission.set_load(0, load(300, 20, None));
    admission.set_load(1, load(100, 20, None));
    let mut placed = [0; 2];
    for _ in 0..60 {
        let grant = admission.decide(&request, rules, &directory(), NOW);
        placed[usize::from(grant.unwrap().worker.0)] += 1;
    }
    // 300 + 15 a call there, 100 + 5 a call here: the first gets its first call when the second has forty more.
    assert!(placed[1] >= 50 && placed[0] >= 3, "{placed:?}");
    // Its calls ended since: it is idle again, whatever it measured.
    for _ in 0..placed[0] + 20 {
        admission.release(WorkerId(0), None);
    }
    assert_eq!(load_expected(&admission.loads[0], admission.calls[0]), 0);
}

#[test]
fn a_worker_without_headroom_gets_no_call_and_without_any_the_answer_is_503() {
    let mut admission = Admission::new(2);
    admission.set_load(0, load(990, 0, Some(Overload::Busy)));
    admission.set_load(1, load(100, 0, Some(Overload::Lag)));
    let outcome = admission.decide(&with_ticket("ours"), RULES, &directory(), NOW);
    let refusal = outcome.unwrap_err();
    assert_eq!((refusal.status, refusal.code), (503, "overload_busy"));
    assert_eq!(refusal.retry_after, Some(RETRY_AFTER_SECS));
    admission.set_load(1, load(950, 0, None));
    // The ticket is unspent.
    let grant = admission.decide(&with_ticket("ours"), RULES, &directory(), NOW);
    assert_eq!(grant.unwrap().worker, WorkerId(1));
}

#[test]
fn a_call_goes_where_its_connection_is_whatever_the_load_there() {
    let mut admission = Admission::new(3);
    let ours = CallId::new("ours").unwrap();
    admission.set_load(0, load(10, 0, None));
    admission.set_load(1, load(20, 0, Some(Overload::Lag)));
    assert_eq!(admission.reserve(ours), WorkerId(2));
    admission.set_load(2, load(999, 300, Some(Overload::Busy)));
    let grant = admission.decide(&with_ticket("ours"), RULES, &directory(), NOW);
    assert_eq!(grant.unwrap().worker, WorkerId(2));
    assert!(admission.reserved.is_empty());
}

#[test]
fn announced_calls_spread_like_those_that_have_come() {
    let mut admission = Admission::new(2);
    let id = |n: u32| CallId::new(&n.to_string()).unwrap();
    let workers: Vec<_> = (0..4).map(|n| admission.reserve(id(n)).0).collect();
    assert_eq!(workers, [0, 1, 0, 1]);
    admission.unreserve(id(0));
    admission.unreserve(id(2));
    assert_eq!(admission.reserve(id(9)), WorkerId(0));
}

#[test]
fn draining_refuses_whoever_says_so() {
    let request = with_id("x", Signature::NotNeeded);
    let mut admission = Admission::new(1);
    let mut draining = directory();
    draining.draining = true;
    let outcome = admission.decide(&request, RULES, &draining, NOW);
    assert_eq!(code(outcome), (503, "draining"));
    admission.drain();
    let outcome = admission.decide(&request, RULES, &directory(), NOW);
    assert_eq!(code(outcome), (503, "draining"));
}

#[test]
fn spent_tickets_are_bounded_and_forgotten_after_their_life() {
    let mut admission = Admission::new(1);
    let ticket = |i: usize, expires_unix_ms| Ticket {
        call_id: CallId::new("ours").unwrap(),
        expires_unix_ms,
        mac: (i as u128).to_be_bytes(),
    };
    for i in 0..SPENT_MAX {
        admission.spend(&ticket(i, NOW + 10), NOW).unwrap();
    }
    let refusal = admission
        .spend(&ticket(SPENT_MAX, NOW + 10), NOW)
        .unwrap_err();
    assert_eq!(refusal.code, "tickets_max");
    admission
        .spend(&ticket(SPENT_MAX, NOW + 20), NOW + 10)
        .unwrap();
    assert_eq!(admission.spent.len(), 1);
}
