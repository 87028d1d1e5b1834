//! Admission: who may open a stream, as which call, on which worker. Decisions only: no socket, no clock, no key.
//!
//! In this order: draining (503), the carrier's signature (403), the ticket (403), unknown ids by policy (404), an id that
//! is live already (409), calls at once (503). A ticket is spent only when everything else is granted.
//!
//! | auth tokens | path | needs |
//! |---|---|---|
//! | none (loopback or `dev.insecure`) | any | nothing; a ticket that is there must be good |
//! | some | with our ticket | signature and ticket |
//! | some | with the id of a call that we announced | the ticket: 403 without |
//! | some | with another id | signature; `carrier.unknown_call` decides on ids that nobody announced |
//! | some | without id | signature |

use crate::base::id::{CallId, CallSid, WorkerId};
use crate::base::token::{Ticket, TicketError};
use crate::bus::directory::{Directory, Expected};
use crate::config::UnknownCall;
use std::collections::{HashMap, HashSet};

/// Spent tickets kept until they expire. Each was signed by us within its short life, so more than this
/// can't come from real webhooks at any rate that we serve.
const SPENT_MAX: usize = 64 * 1024;
/// Expired ones are looked for when this many are kept, and then at twice of what was left.
const SPENT_SWEEP_MIN: usize = 1024;
/// What a refused carrier is told to wait, seconds.
const RETRY_AFTER_SECS: u32 = 5;

/// A request that is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// HTTP status.
    pub(super) status: u16,
    /// For the body and for the metric.
    pub(super) code: &'static str,
    /// For people.
    pub(super) message: &'static str,
    /// `Retry-After`, seconds.
    pub(super) retry_after: Option<u32>,
}

impl Refusal {
    pub(super) const fn new(status: u16, code: &'static str, message: &'static str) -> Self {
        Self {
            status,
            code,
            message,
            retry_after: None,
        }
    }

    pub(super) const fn busy(code: &'static str, message: &'static str) -> Self {
        Self {
            status: 503,
            code,
            message,
            retry_after: Some(RETRY_AFTER_SECS),
        }
    }
}

/// What the carrier's signature says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signature {
    /// No auth token is configured.
    NotNeeded,
    /// Fits one of the tokens.
    Valid,
    /// No header.
    Missing,
    /// Fits none.
    Wrong,
}

/// What a request brings.
#[derive(Clone, Debug)]
pub(super) struct Request<'a> {
    /// The path's id, where it is no ticket.
    pub(super) id: Option<&'a str>,
    /// A ticket, or what is wrong with what looks like one.
    pub(super) ticket: Option<Result<Ticket, TicketError>>,
    /// See there.
    pub(super) signature: Signature,
}

/// What the configuration says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// Calls at once.
    pub(super) calls_max: usize,
    /// For ids that nobody announced.
    pub(super) unknown_call: UnknownCall,
}

/// A granted request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grant {
    /// The call's id; `None`: make one.
    pub(super) call_id: Option<CallId>,
    /// What `start` must name.
    pub(super) expected_call_sid: Option<CallSid>,
    /// The path names a call that nobody announced.
    pub(super) is_unknown: bool,
    /// Where the call goes. Its place is taken: give it back with `release`.
    pub(super) worker: WorkerId,
}

/// What admission remembers.
#[derive(Debug)]
pub(super) struct Admission {
    /// Calls by worker.
    calls: Vec<usize>,
    /// Announced calls whose connection to the model is made for a worker already.
    reserved: HashMap<CallId, WorkerId>,
    /// Calls with a place whose id came with the stream: no second one may have it at the same time.
    ids: HashSet<CallId>,
    /// Spent tickets and when they expire.
    spent: HashMap<[u8; 16], u64>,
    /// See `SPENT_SWEEP_MIN`.
    sweep_at: usize,
    draining: bool,
}

impl Admission {
    pub(super) fn new(workers: usize) -> Self {
        Self {
            calls: vec![0; workers],
            reserved: HashMap::new(),
            ids: HashSet::new(),
            spent: HashMap::new(),
            sweep_at: SPENT_SWEEP_MIN,
            draining: false,
        }
    }

    /// Refuses everything from now on.
    pub(super) fn drain(&mut self) {
        self.draining = true;
    }

    /// Whether everything is refused.
    pub(super) fn is_draining(&self) -> bool {
        self.draining
    }

    /// The worker where an announced call will be, as long as its reservation stands.
    pub(super) fn reserve(&mut self, call_id: CallId) -> WorkerId {
        let worker = self.least();
        self.reserved.insert(call_id, worker);
        worker
    }

    /// Its place is chosen, or it has none any more.
    pub(super) fn unreserve(&mut self, call_id: CallId) {
        self.reserved.remove(&call_id);
    }

    /// Calls that have a place.
    pub(super) fn live(&self) -> usize {
        self.calls.iter().sum()
    }

    /// A call is over, or was not handed over after all.
    pub(super) fn release(&mut self, worker: WorkerId, call_id: Option<CallId>) {
        if let Some(call_id) = call_id {
            self.ids.remove(&call_id);
        }
        if let Some(calls) = self.calls.get_mut(usize::from(worker.0)) {
            *calls = calls.saturating_sub(1);
        }
    }

    /// Decides.
    pub(super) fn decide(
        &mut self,
        request: &Request<'_>,
        rules: Rules,
        directory: &Directory,
        now_unix_ms: u64,
    ) -> Result<Grant, Refusal> {
        if self.draining || directory.draining {
            return Err(Refusal::busy("draining", "the service is about to stop"));
        }
        match request.signature {
            Signature::NotNeeded | Signature::Valid => {}
            Signature::Missing => {
                return Err(Refusal::new(
                    403,
                    "signature_missing",
                    "X-Twilio-Signature is missing",
                ));
            }
            Signature::Wrong => {
                return Err(Refusal::new(
                    403,
                    "signature_wrong",
                    "X-Twilio-Signature does not fit",
                ));
            }
        }
        let mut spend = None;
        let mut is_known = true;
        let (call_id, expected_call_sid) = match (&request.ticket, request.id) {
            (Some(Err(error)), _) => return Err(refusal_of(*error)),
            (Some(Ok(ticket)), _) => {
                if self.spent.contains_key(&ticket.mac) {
                    return Err(Refusal::new(
                        403,
                        "ticket_reused",
                        "the ticket was used before",
                    ));
                }
                let Some(expected) = alive(directory.expected.get(&ticket.call_id), now_unix_ms)
                else {
                    return Err(Refusal::new(
                        403,
                        "ticket_unknown",
                        "no call is waiting for this ticket",
                    ));
                };
                spend = Some(ticket);
                (Some(ticket.call_id), expected.call_sid)
            }
            (None, Some(id)) => match find(directory, id, now_unix_ms) {
                // Our own TwiML gave this call a ticket: whoever knows the id alone is somebody else.
                Some(_) if request.signature == Signature::Valid => {
                    return Err(Refusal::new(
                        403,
                        "ticket_missing",
                        "a stream of an announced call needs its ticket",
                    ));
                }
                Some((call_id, expected)) => (Some(call_id), expected.call_sid),
                None if request.signature == Signature::Valid
                    && rules.unknown_call == UnknownCall::Reject =>
                {
                    return Err(Refusal::new(
                        404,
                        "unknown_call",
                        "no call of this id is known",
                    ));
                }
                // `base::route` and `CallId` have the same bound.
                None => {
                    is_known = false;
                    (CallId::new(id), None)
                }
            },
            (None, None) => (None, None),
        };
        if call_id.is_some_and(|call_id| self.ids.contains(&call_id)) {
            return Err(Refusal::new(
                409,
                "call_live",
                "a stream of this call is open already",
            ));
        }
        if self.live() >= rules.calls_max {
            return Err(Refusal::busy("calls_max", "all places are taken"));
        }
        if let Some(ticket) = spend {
            self.spend(ticket, now_unix_ms)?;
        }
        self.ids.extend(call_id);
        Ok(Grant {
            is_unknown: !is_known,
            call_id,
            expected_call_sid,
            worker: self.place(call_id),
        })
    }

    fn spend(&mut self, ticket: &Ticket, now_unix_ms: u64) -> Result<(), Refusal> {
        if self.spent.len() >= self.sweep_at {
            self.spent.retain(|_, expires| *expires > now_unix_ms);
            // Doubling keeps the sweeps' cost per ticket constant.
            self.sweep_at = (self.spent.len() * 2).clamp(SPENT_SWEEP_MIN, SPENT_MAX);
        }
        if self.spent.len() >= SPENT_MAX {
            return Err(Refusal::busy("tickets_max", "too many tickets at once"));
        }
        self.spent.insert(ticket.mac, ticket.expires_unix_ms);
        Ok(())
    }

    /// The worker that has the call's connection to the model, else the least loaded one.
    fn place(&mut self, call_id: Option<CallId>) -> WorkerId {
        let reserved = call_id.and_then(|call_id| self.reserved.remove(&call_id));
        let worker = reserved.unwrap_or_else(|| self.least());
        if let Some(calls) = self.calls.get_mut(usize::from(worker.0)) {
            *calls += 1;
        }
        worker
    }

    /// The worker with the fewest calls, announced ones included; of equals the first.
    fn least(&self) -> WorkerId {
        let mut load = self.calls.clone();
        for worker in self.reserved.values() {
            load[usize::from(worker.0)] += 1;
        }
        let least = (0..load.len()).min_by_key(|&i| load[i]).unwrap_or(0);
        WorkerId(least as u16)
    }
}

fn refusal_of(error: TicketError) -> Refusal {
    match error {
        TicketError::Shape => Refusal::new(403, "ticket_shape", "the ticket is damaged"),
        TicketError::Signature => Refusal::new(403, "ticket_forged", "the ticket is not ours"),
        TicketError::Expired => Refusal::new(403, "ticket_expired", "the ticket's time is over"),
    }
}

fn alive(expected: Option<&Expected>, now_unix_ms: u64) -> Option<&Expected> {
    expected.filter(|expected| expected.expires_unix_ms > now_unix_ms)
}

/// An announced call by our id or by the carrier's.
fn find<'d>(
    directory: &'d Directory,
    id: &str,
    now_unix_ms: u64,
) -> Option<(CallId, &'d Expected)> {
    let ours = CallId::new(id)?;
    if let Some(expected) = alive(directory.expected.get(&ours), now_unix_ms) {
        return Some((ours, expected));
    }
    // Announced calls live two minutes, so there are few; streams are rare beside frames.
    directory
        .expected
        .iter()
        .find(|(_, expected)| expected.call_sid.is_some_and(|sid| sid.as_str() == id))
        .filter(|(_, expected)| expected.expires_unix_ms > now_unix_ms)
        .map(|(call_id, expected)| (*call_id, expected))
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
