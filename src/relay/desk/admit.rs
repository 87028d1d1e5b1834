//! Admission: who may open a stream, as which call, on which worker. Decisions only: no socket, no clock, no key.
//!
//! In this order: draining (503), the carrier's signature (403), the ticket (403), unknown ids by policy (404), an id that
//! is live already (409), calls at once (503), no worker with headroom (503). A ticket is spent only when everything else
//! is granted.
//!
//! | auth tokens | path | needs |
//! |---|---|---|
//! | none (loopback or `dev.insecure`) | any | nothing; a ticket that is there must be good |
//! | some | with our ticket | signature and ticket |
//! | some | with the id of a call that we announced | the ticket: 403 without |
//! | some | with another id | signature; `carrier.unknown_call` decides on ids that nobody announced |
//! | some | without id | signature |
//!
//! A call goes to the worker with the least load: the CPU time that it measured in its last second, and for calls that
//! came or went since, what a call costs it on average. A worker that says of itself that it is overloaded gets none.

use crate::base::id::{CallId, CallSid, WorkerId};
use crate::base::token::{Ticket, TicketError};
use crate::bus::directory::{Directory, Expected};
use crate::bus::load::Load;
use crate::config::UnknownCall;
use std::collections::{HashMap, HashSet};

/// Spent tickets kept until they expire. Each was signed by us within its short life, so more than this
/// can't come from real webhooks at any rate that we serve.
const SPENT_MAX: usize = 128 * 1024;
/// Expired ones are looked for when this many are kept, and then at twice of what was left.
const SPENT_SWEEP_MIN: usize = 1024;
/// What a call is taken to cost a worker that has measured too few, millionths of a core.
const CALL_COST: u64 = 1_000;
/// Calls from which on a worker's own average says more.
const CALL_COST_FROM: u64 = 16;
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
    /// What the workers last said of themselves.
    loads: Vec<Load>,
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
            loads: vec![Load::default(); workers],
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

    /// Takes in what a worker last said of itself.
    pub(super) fn set_load(&mut self, worker: usize, load: Load) {
        if let Some(known) = self.loads.get_mut(worker) {
            *known = load;
        }
    }

    /// Whether everything is refused.
    pub(super) fn is_draining(&self) -> bool {
        self.draining
    }

    /// The worker where an announced call will be, as long as its reservation stands.
    pub(super) fn reserve(&mut self, call_id: CallId) -> WorkerId {
        let any = self.least(|load| load.overload.is_none());
        let worker = any.or_else(|| self.least(|_| true)).unwrap_or(0);
        let worker = WorkerId(worker as u16);
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
        let worker = self.place(call_id)?;
        if let Some(ticket) = spend {
            self.spend(ticket, now_unix_ms)?;
        }
        if let Some(call_id) = call_id {
            self.reserved.remove(&call_id);
            self.ids.insert(call_id);
        }
        self.calls[worker] += 1;
        Ok(Grant {
            is_unknown: !is_known,
            call_id,
            expected_call_sid,
            worker: WorkerId(worker as u16),
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

    /// The worker that has the call's connection to the model already, even where it would take no other call: this one was
    /// announced while it did. Else the one with the least load.
    fn place(&self, call_id: Option<CallId>) -> Result<usize, Refusal> {
        let reserved = call_id.and_then(|call_id| self.reserved.get(&call_id));
        if let Some(worker) = reserved {
            return Ok(usize::from(worker.0));
        }
        self.least(|load| load.overload.is_none()).ok_or_else(|| {
            let why = self.loads.first().and_then(|load| load.overload);
            let code = why.map_or("no_worker", |overload| overload.label());
            Refusal::busy(code, "no worker has headroom for another call")
        })
    }

    /// Of the workers that `may` take a call, the one with the least load, announced calls included; of equals the one with
    /// the fewest calls, of those the first.
    fn least(&self, may: impl Fn(&Load) -> bool) -> Option<usize> {
        let mut calls = self.calls.clone();
        for worker in self.reserved.values() {
            calls[usize::from(worker.0)] += 1;
        }
        (0..calls.len())
            .filter(|worker| may(&self.loads[*worker]))
            .min_by_key(|&worker| {
                (
                    load_expected(&self.loads[worker], calls[worker]),
                    calls[worker],
                )
            })
    }
}

/// A worker's load with so many calls, millionths of a core.
fn load_expected(load: &Load, calls: usize) -> u64 {
    let busy = u64::from(load.busy_permille) * 1_000;
    let measured = load.measured_live as u64;
    let cost = match measured >= CALL_COST_FROM {
        true => busy / measured,
        false => CALL_COST,
    };
    let calls = calls as u64;
    busy.saturating_add(calls.saturating_sub(measured) * cost)
        .saturating_sub(measured.saturating_sub(calls) * cost)
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
mod tests;
