//! What follows a call's stream: the carrier asks when it is over (`<Connect action>`), and the answer depends on how the
//! call ended. Where the model was not to be had, that is what the agent wants done (`on_model_unavailable`): a sentence, a
//! conference, or the end.
//!
//! The carrier and the call's worker report the same end on two ways, so either may be first: a request that comes before
//! the end is known waits for it, a little. What is known is kept for a while, as the carrier may ask again. A call is
//! named by its `CallSid`; one that was neither announced nor started here is nobody's, and gets an empty document.

use super::Shared;
use super::webhook::{Failure, accept, said};
use crate::base::id::{CallId, CallSid};
use crate::base::limit::TICKET_LIFE;
use crate::bus::command::ToDesk;
use crate::call::fact::{Fact, OnModelUnavailable, Report};
use crate::proto::carrier::twiml;
use axum::extract::{Request, State};
use axum::response::Response;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// Where the carrier asks.
pub const PATH: &str = "/api/twilio/after-stream";
/// How long a request waits for its call's end. The carrier itself waits 15 s in all.
const END_WAIT: Duration = Duration::from_secs(3);
/// How long the end of a call is remembered.
const ENDED_LIFE: Duration = Duration::from_secs(600);
/// And a call that lives: reports can be lost under load, so an end may not be seen.
const LIVE_LIFE: Duration = Duration::from_secs(48 * 3_600);
/// Calls at once; past it the one that would be forgotten first goes.
const CALLS_MAX: usize = 16 * 1024;

/// `POST|GET /api/twilio/after-stream`: the stream of a call is over.
pub async fn next(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    said(decide(&shared, request).await)
}

async fn decide(shared: &Shared, request: Request) -> Result<(&'static str, String), Failure> {
    let webhook = accept(shared, request).await?;
    let Some(call_sid) = CallSid::new(webhook.param("CallSid")) else {
        return Ok(("after_unknown", twiml::nothing()));
    };
    if let Some(call_id) = shared.calls.after.call_id(call_sid) {
        // A stream that never came leaves a connection that was dialled for it; a full queue leaves it to its own life.
        let _ = shared.desk.try_send(ToDesk::Forget { call_id });
    }
    let deadline = Instant::now() + END_WAIT;
    Ok(match shared.calls.after.known(call_sid, deadline).await {
        Known::Unavailable(action) => match &*action {
            OnModelUnavailable::Message(text) => ("after_message", twiml::say_and_hang_up(text)),
            OnModelUnavailable::Conference(name) => ("after_conference", twiml::conference(name)),
            OnModelUnavailable::HangUp => ("after_hang_up", twiml::hangup()),
        },
        Known::Over => ("after_end", twiml::hangup()),
        Known::Nothing => {
            tracing::warn!("a call's stream is over, and its end was not reported");
            ("after_late", twiml::hangup())
        }
        Known::Nobody => ("after_unknown", twiml::nothing()),
    })
}

/// What is known of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Known {
    /// There is no such call.
    Nobody,
    /// It lives, as far as was reported.
    Nothing,
    /// Its model was not to be had.
    Unavailable(Arc<OnModelUnavailable>),
    /// It ended otherwise.
    Over,
}

#[derive(Debug)]
struct Entry {
    call_id: CallId,
    known: Known,
    /// Forgotten then, milliseconds since 1970.
    until_unix_ms: u64,
}

#[derive(Debug, Default)]
struct Entries {
    calls: HashMap<CallSid, Entry>,
    /// Of the live ones: facts name a call by our id.
    sids: HashMap<CallId, CallSid>,
    /// The last one that was asked for: calls of one agent share it.
    action: Option<Arc<OnModelUnavailable>>,
}

/// How calls ended, by the carrier's id: bounded in number and time.
#[derive(Debug, Default)]
pub struct AfterStream {
    entries: Mutex<Entries>,
    changed: Notify,
}

impl AfterStream {
    /// A webhook has connected this call to a stream.
    pub fn announce(&self, call_id: CallId, call_sid: CallSid, now_unix_ms: u64) {
        let until = now_unix_ms + (TICKET_LIFE + END_WAIT).as_millis() as u64;
        self.lock().insert(call_id, call_sid, until, now_unix_ms);
    }

    /// A fact of a call's.
    pub fn note(&self, report: &Report) {
        let now = report.at.unix_ms;
        let ended = now + ENDED_LIFE.as_millis() as u64;
        match &report.fact {
            Fact::Started {
                call_sid: Some(call_sid),
                ..
            } => {
                let until = now + LIVE_LIFE.as_millis() as u64;
                self.lock().insert(report.call_id, *call_sid, until, now);
            }
            Fact::ModelUnavailable { action } => {
                let mut entries = self.lock();
                let shared = match &entries.action {
                    Some(last) if **last == *action => last.clone(),
                    _ => Arc::new(action.clone()),
                };
                entries.action = Some(shared.clone());
                entries.set(report.call_id, Known::Unavailable(shared), ended);
            }
            Fact::Ended { .. } => {
                let mut entries = self.lock();
                entries.set(report.call_id, Known::Over, ended);
                entries.sids.remove(&report.call_id);
            }
            _ => return,
        }
        self.changed.notify_waiters();
    }

    /// The call's id here, as long as it is known.
    fn call_id(&self, call_sid: CallSid) -> Option<CallId> {
        self.lock().calls.get(&call_sid).map(|entry| entry.call_id)
    }

    /// Forgets what is too old.
    pub fn forget_until(&self, now_unix_ms: u64) {
        self.lock().forget_until(now_unix_ms);
    }

    /// How this call ended, waited for until `deadline` while it lives.
    async fn known(&self, call_sid: CallSid, deadline: Instant) -> Known {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Registered before the look, so that an end between the two is not missed.
            changed.as_mut().enable();
            let known = match self.lock().calls.get(&call_sid) {
                Some(entry) => entry.known.clone(),
                None => Known::Nobody,
            };
            if known != Known::Nothing || timeout_at(deadline, changed).await.is_err() {
                return known;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Entries {
    /// This call lives. One of the same name before it is over: a carrier may connect a call to several streams in turn.
    fn insert(&mut self, call_id: CallId, call_sid: CallSid, until_unix_ms: u64, now: u64) {
        if self.calls.len() >= CALLS_MAX && !self.calls.contains_key(&call_sid) {
            self.forget_until(now);
            let soonest = self
                .calls
                .iter()
                .min_by_key(|(_, entry)| entry.until_unix_ms);
            if self.calls.len() >= CALLS_MAX
                && let Some(soonest) = soonest.map(|(sid, _)| *sid)
            {
                self.remove(soonest);
            }
        }
        self.remove(call_sid);
        self.sids.insert(call_id, call_sid);
        self.calls.insert(
            call_sid,
            Entry {
                call_id,
                known: Known::Nothing,
                until_unix_ms,
            },
        );
    }

    /// The first thing that is known stays.
    fn set(&mut self, call_id: CallId, known: Known, until_unix_ms: u64) {
        let entry = self.sids.get(&call_id);
        let entry = entry.and_then(|call_sid| self.calls.get_mut(call_sid));
        if let Some(entry) = entry.filter(|entry| entry.known == Known::Nothing) {
            entry.known = known;
            entry.until_unix_ms = until_unix_ms;
        }
    }

    fn remove(&mut self, call_sid: CallSid) {
        if let Some(entry) = self.calls.remove(&call_sid) {
            self.sids.remove(&entry.call_id);
        }
    }

    fn forget_until(&mut self, now_unix_ms: u64) {
        let Self { calls, sids, .. } = self;
        calls.retain(|_, entry| {
            let stays = entry.until_unix_ms > now_unix_ms;
            if !stays {
                sids.remove(&entry.call_id);
            }
            stays
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::StreamSid;
    use crate::base::time::Now;
    use crate::call::fact::{EndReason, Stats};

    fn call(id: &str) -> CallId {
        CallId::new(id).expect("fits")
    }

    fn sid(id: &str) -> CallSid {
        CallSid::new(id).expect("fits")
    }

    fn note(after: &AfterStream, id: &str, unix_ms: u64, fact: Fact) {
        after.note(&Report {
            call_id: call(id),
            at: Now {
                unix_ms,
                ..Now::default()
            },
            fact,
        });
    }

    fn started(call_sid: &str) -> Fact {
        Fact::Started {
            stream_sid: StreamSid::new("MZ1").expect("fits"),
            call_sid: CallSid::new(call_sid),
            parameters: Vec::new(),
        }
    }

    fn unavailable(text: &str) -> Fact {
        let action = OnModelUnavailable::Message(text.to_owned());
        Fact::ModelUnavailable { action }
    }

    fn ended() -> Fact {
        Fact::Ended {
            reason: EndReason::RealtimeLost,
            stats: Box::new(Stats::default()),
        }
    }

    /// What is known at once.
    async fn known(after: &AfterStream, call_sid: &str) -> Known {
        after.known(sid(call_sid), Instant::now()).await
    }

    #[tokio::test]
    async fn the_end_is_known_by_the_carriers_name_and_the_first_word_on_it_stays() {
        let after = AfterStream::default();
        assert_eq!(known(&after, "CA1").await, Known::Nobody);
        after.announce(call("a"), sid("CA1"), 0);
        assert_eq!(known(&after, "CA1").await, Known::Nothing);
        note(&after, "a", 1, started("CA1"));
        note(&after, "b", 1, started("CA2"));
        assert_eq!(known(&after, "CA1").await, Known::Nothing);
        note(&after, "a", 2, unavailable("Sorry."));
        note(&after, "a", 2, ended());
        note(&after, "b", 2, ended());
        let said = Arc::new(OnModelUnavailable::Message("Sorry.".to_owned()));
        assert_eq!(known(&after, "CA1").await, Known::Unavailable(said));
        assert_eq!(known(&after, "CA2").await, Known::Over);
        // The same call on another stream is another matter.
        after.announce(call("c"), sid("CA1"), 3);
        assert_eq!(known(&after, "CA1").await, Known::Nothing);
        note(&after, "a", 4, ended());
        assert_eq!(known(&after, "CA1").await, Known::Nothing);
    }

    #[tokio::test]
    async fn a_request_that_comes_first_waits_for_the_end() {
        let after = AfterStream::default();
        note(&after, "a", 1, started("CA1"));
        let far = Instant::now() + Duration::from_secs(3_600);
        let asking = after.known(sid("CA1"), far);
        tokio::pin!(asking);
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(asking.as_mut().poll(&mut context).is_pending());
        note(&after, "a", 2, Fact::Dtmf { digit: '1' });
        note(&after, "a", 2, unavailable("Sorry."));
        assert!(matches!(asking.await, Known::Unavailable(_)));
    }

    #[tokio::test]
    async fn what_is_remembered_is_bounded_in_time_and_number() {
        let after = AfterStream::default();
        after.announce(call("a"), sid("CA1"), 0);
        note(&after, "b", 0, started("CA2"));
        note(&after, "b", 0, ended());
        note(&after, "c", 0, started("CA3"));
        let ended_life = ENDED_LIFE.as_millis() as u64;
        after.forget_until(ended_life - 1);
        assert_eq!(known(&after, "CA1").await, Known::Nobody, "it never came");
        assert_eq!(known(&after, "CA2").await, Known::Over);
        after.forget_until(ended_life);
        assert_eq!(known(&after, "CA2").await, Known::Nobody);
        assert_eq!(known(&after, "CA3").await, Known::Nothing);
        after.forget_until(LIVE_LIFE.as_millis() as u64);
        let entries = after.lock();
        assert_eq!((entries.calls.len(), entries.sids.len()), (0, 0));
        drop(entries);
        for n in 0..CALLS_MAX + 10 {
            let (id, call_sid) = (format!("x{n}"), format!("CX{n}"));
            note(&after, &id, 1, started(&call_sid));
            if n == 5 {
                note(&after, &id, 1, ended());
            }
        }
        let entries = after.lock();
        assert_eq!(entries.calls.len(), CALLS_MAX);
        assert_eq!(entries.sids.len(), CALLS_MAX);
        assert!(
            !entries.calls.contains_key(&sid("CX5")),
            "over, so it went first"
        );
    }
}
