//! The model's connection over a call's life: what happens when it is lost, and when its session's time runs out. Core;
//! part of `Call`.
//!
//! ```text
//!            lost                  wait, dial            101              updated: the conversation is told
//!   Ready ─────────▶ Dialing ───────────────▶ Opening ───────▶ Configuring ─────────────────▶ Ready
//!                      ▲   a try failed          │                 │
//!                      └─────────────────────────┴─────────────────┘   tries or time used up: the end
//!
//!   near expires_at: standby dialled ▶ opened ▶ configured ▶ primed ── silent moment ──▶ told, and in its place
//! ```
//!
//! - An outage has `Reconnect::tries` tries with doubling waits and full jitter, and `outage_ms` in all. The count of
//!   tries goes back only when a response is completed: a session that opens and dies again must not loop.
//! - What is lost behind the first 101 and before the first session is confirmed is an outage too, within the time that
//!   the first set-up has (`limit::UPSTREAM_DEADLINE`).
//! - Whatever makes a connection useless is a loss: its end, a broken protocol, another audio format, an error that
//!   passes. What would be the same again ends the call: a refused key or setting, a wrong format twice in a row.
//! - A connection that is lost before it brought a response is reported, so that its endpoint is left alone a while.
//! - The caller's audio is held meanwhile, as at the call's start but for a shorter time; what the carrier still
//!   plays plays on.
//! - Another session knows nothing: it is told the conversation (`history`), and asked for a response only when one
//!   was owed, that is when the caller was speaking, had been answered nothing, or a response was under way.
//! - A call that is saying goodbye needs no other session: what came of its last words is heard, and it ends.
//! - At most one dial is asked for at a time. Lost while the standby (`rollover`) is on its way: that becomes the next
//!   try.

use super::answers::LASTING;
use super::greeting::Wish;
use super::outbox::Class;
use super::policy::OnModelUnavailable;
use super::responses::{Want, Why};
use super::rollover::{STANDBY_AGAIN, Standby};
use super::state::Phase;
use super::timer::Deadline;
use super::{Call, EndReason, Fact, Leg, Order, Output};
use crate::base::limit;
use crate::base::rng::Rng;
use crate::base::time::{Mono, Now};
use crate::proto::realtime::client_event;
use std::time::Duration;

/// From a try's connection to its confirmed session: a third of an outage's usual length, so that a server that only
/// accepts connections does not use it up.
const SETUP_DEADLINE: Duration = Duration::from_secs(3);
/// The same of the first connection: half of what the first set-up has, so that another endpoint may do better.
const FIRST_SETUP_DEADLINE: Duration = Duration::from_secs(limit::UPSTREAM_DEADLINE.as_secs() / 2);
/// Sessions in a row that confirm another audio format before that is believed to last.
const WRONG_FORMATS_MAX: u32 = 2;

/// The `event_id` of our `session.update`: an error that answers it names it, or names none.
pub(super) const UPDATE_EVENT_ID: &str = "vr_session_1";

/// Errors after which another try may do better; the rest of `UNAVAILABLE` lasts.
const PASSING: [&str; 5] = [
    "session_expired",
    "model_load_error",
    "rate_limit_exceeded",
    "inference_rate_limit_exceeded",
    "server_error",
];

/// What the new session is told behind the conversation.
const NOTE: &str = "The connection was briefly interrupted. Go on with the conversation where it stopped; do not \
                    greet the caller again.";
/// And when the caller was speaking.
const NOTE_SPEECH: &str = "The connection was briefly interrupted while the caller was speaking, and some of \
                           their words may be lost. Go on with the conversation; do not greet the caller again.";

/// Why a dial came to nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DialFailure {
    /// A sentence for the log.
    pub text: String,
    /// Whether the same thing may go better a moment later: not with a refused key, an exhausted quota, an unknown model.
    pub retry: bool,
}

/// Whom the outstanding dial is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Purpose {
    Try,
    Standby,
}

/// From a loss to the next confirmed session.
#[derive(Clone, Copy, Debug)]
struct Outage {
    since: Mono,
    until: Mono,
    /// Tries in this one.
    tries: u32,
    owed: bool,
    speech_open: bool,
    /// What the latest failure is called where no session was ever ready.
    reason: EndReason,
}

/// See above.
#[derive(Debug)]
pub(super) struct Upstream {
    rng: Rng,
    /// Sessions confirmed so far.
    pub(super) sessions: u32,
    outage: Option<Outage>,
    /// Tries since a response was last completed.
    tries: u32,
    /// A response was completed on this connection.
    pub(super) useful: bool,
    /// Sessions in a row that confirmed another audio format.
    wrong_formats: u32,
    /// The connection is lost and no other is wanted: the goodbye is still to be heard.
    over: bool,
    pub(super) dial: Option<Purpose>,
    pub(super) standby: Standby,
    pub(super) standby_id: String,
    /// The connection had waited for a call, and has not shown since that it still works.
    waited: bool,
    /// When the standby's session ends, ms since 1970.
    pub(super) standby_expires: Option<u64>,
    /// When the session ends, ms since 1970.
    pub(super) expires: Option<u64>,
}

impl Default for Upstream {
    fn default() -> Self {
        Self {
            rng: Rng::from_u64(0),
            sessions: 0,
            outage: None,
            tries: 0,
            useful: false,
            wrong_formats: 0,
            over: false,
            dial: None,
            standby: Standby::None,
            standby_id: String::new(),
            waited: false,
            standby_expires: None,
            expires: None,
        }
    }
}

impl Upstream {
    /// Whether a session was ever confirmed.
    pub(super) fn was_ready(&self) -> bool {
        self.sessions > 0
    }

    pub(super) fn in_outage(&self) -> bool {
        self.outage.is_some()
    }

    /// Whether the next session is asked for an answer that the lost one did not give.
    pub(super) fn owes(&self) -> bool {
        self.outage.is_some_and(|outage| outage.owed)
    }

    /// Whether the call ends without another session.
    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// What a call ends with whose tries came to nothing.
    fn given_up(&self) -> EndReason {
        match (self.was_ready(), self.outage) {
            (false, Some(outage)) => outage.reason,
            (false, None) => EndReason::RealtimeUnavailable,
            (true, _) => EndReason::RealtimeLost,
        }
    }

    /// Any number.
    pub(super) fn dice(&mut self) -> u64 {
        self.rng.next_u64()
    }

    /// Full jitter: anything up to the doubling bound, ms.
    fn wait(&mut self, base_ms: u32, cap_ms: u32) -> u64 {
        let doublings = self.tries.saturating_sub(1).min(31);
        let bound = (u64::from(base_ms) << doublings).min(u64::from(cap_ms));
        self.rng.next_u64() % (bound + 1)
    }
}

impl Call {
    /// Gives the call its own source of jitter. Without it every call waits alike.
    pub fn set_rng(&mut self, rng: Rng) {
        self.upstream.rng = rng;
    }

    /// What a connection that the outstanding dial brings would be: `Realtime`, `Standby`, or nothing any more.
    pub fn expects(&self) -> Option<Leg> {
        match (self.phase, self.upstream.dial) {
            (Phase::Ended(_), _) => None,
            _ if self.upstream.over => None,
            (Phase::Dialing, None) if !self.upstream.in_outage() => Some(Leg::Realtime),
            (Phase::Dialing, Some(Purpose::Try)) => Some(Leg::Realtime),
            (_, Some(Purpose::Standby)) => Some(Leg::Standby),
            _ => None,
        }
    }

    /// The connection that the next `handle_upstream` brings had waited for a call.
    pub fn note_waited(&mut self) {
        self.upstream.waited = true;
    }

    /// The dial's outcome.
    pub fn handle_upstream(&mut self, outcome: Result<(), DialFailure>, now: Now) {
        let expected = self.expects();
        let first = self.upstream.dial.take().is_none();
        match (expected, outcome) {
            (None, _) => {}
            (Some(Leg::Standby), Ok(())) => {
                self.upstream.standby = Standby::Opening;
                self.timers
                    .set(Deadline::Standby, now.mono + limit::UPSTREAM_DEADLINE);
            }
            (Some(Leg::Standby), Err(failure)) => {
                self.note(format!("No second session: {}.", failure.text));
                self.upstream.standby = Standby::None;
                if failure.retry {
                    self.timers
                        .set(Deadline::Rollover, now.mono + STANDBY_AGAIN);
                }
            }
            (Some(_), Ok(())) => {
                self.enter(Phase::Opening);
                self.upstream.useful = false;
                let patience = match first {
                    true if self.policy.reconnect.tries == 0 => limit::UPSTREAM_DEADLINE,
                    true => FIRST_SETUP_DEADLINE,
                    false => SETUP_DEADLINE,
                };
                self.timers.set(Deadline::Setup, now.mono + patience);
            }
            (Some(_), Err(failure)) if !first && failure.retry => {
                if let Some(outage) = &mut self.upstream.outage {
                    outage.reason = EndReason::RealtimeUnavailable;
                }
                self.next_try(failure.text, now);
            }
            (Some(_), Err(failure)) => {
                self.note(failure.text);
                self.end(match self.upstream.was_ready() {
                    true => EndReason::RealtimeLost,
                    false => EndReason::RealtimeUnavailable,
                });
            }
        }
    }

    /// The model's connection is gone, or of no use any more. `reason` is the end where the agent does not want it tried
    /// again, and what the connection is closed with.
    pub(super) fn on_lost(&mut self, cause: String, reason: EndReason, now: Now) {
        self.on_lost_with(cause, reason, reason.close_code(Leg::Realtime), now);
    }

    /// The same with a close code of its own.
    pub(super) fn on_lost_with(&mut self, cause: String, reason: EndReason, code: u16, now: Now) {
        if self.phase.is_ended() || self.upstream.over {
            return;
        }
        if let Some(goodbye) = self.goodbye_reason() {
            self.finish_goodbye(goodbye, Order::DropUpstream { reason, code }, now);
            return;
        }
        if self.policy.reconnect.tries == 0 && !self.upstream.waited {
            self.end(reason);
            return;
        }
        self.orders.push_back(Order::DropUpstream { reason, code });
        let is_newest = matches!(self.upstream.standby, Standby::None | Standby::Dialing);
        // One that had waited has grown old, which is no fault of its endpoint.
        if !std::mem::take(&mut self.upstream.useful) && is_newest && !self.upstream.waited {
            self.orders.push_back(Order::Distrust);
        }
        self.timers.clear(Deadline::Setup);
        self.malformed[Leg::Realtime as usize] = 0;
        if self.upstream.outage.is_none() {
            let reconnect = self.policy.reconnect;
            let until = match self.upstream.was_ready() {
                true => now.mono + Duration::from_millis(reconnect.outage_ms.into()),
                false => self.timers.at(Deadline::Upstream).unwrap_or(now.mono),
            };
            let answers = self.settings.turn_detection.create_response;
            self.upstream.outage = Some(Outage {
                since: now.mono,
                until,
                tries: 0,
                owed: self.owes_an_answer() || self.speech_open && answers,
                speech_open: self.speech_open,
                reason,
            });
            self.timers.set(Deadline::Upstream, until);
            self.timers.clear(Deadline::Rollover);
            self.leave_session(now);
        } else if let Some(outage) = &mut self.upstream.outage {
            outage.reason = reason;
        }
        if self.phase != Phase::Dialing {
            self.enter(Phase::Dialing);
        }
        match self.upstream.standby {
            Standby::None => self.next_try(cause, now),
            _ => self.take_standby(cause, now),
        }
    }

    /// The call was about to end: what came of its last words is heard to its end first. There is nobody left to say more.
    fn finish_goodbye(&mut self, reason: EndReason, drop: Order, now: Now) {
        self.playback.advance(now.mono);
        if !self.playback.is_unheard() {
            self.end(reason);
            return;
        }
        self.upstream.over = true;
        self.orders.push_back(drop);
        self.timers.clear(Deadline::Setup);
        self.timers.clear(Deadline::Upstream);
        self.on_standby_end("is not needed", now);
        self.timers.clear(Deadline::Rollover);
        self.leave_session(now);
        if self.phase != Phase::Dialing {
            self.enter(Phase::Dialing);
        }
        self.hear_goodbye(now);
    }

    /// Ids, speech and responses of the session that is gone mean nothing to the next.
    pub(super) fn leave_session(&mut self, now: Now) {
        self.speech_open = false;
        self.turn_open = false;
        self.timers.clear(Deadline::Pad);
        self.forget_speech();
        self.forget_answers();
        self.history.forget_ids();
        self.tools.handle_upstream_lost();
        self.forget_session();
        self.watch_silence(now);
    }

    fn next_try(&mut self, cause: String, now: Now) {
        let reconnect = self.policy.reconnect;
        let Some(outage) = &mut self.upstream.outage else {
            return;
        };
        if std::mem::take(&mut self.upstream.waited) {
            // A connection that had waited for the call, and died when it was needed: no try, and no patience spent.
            self.facts.push_back(Fact::Reconnecting {
                attempt: self.upstream.tries,
                wait_ms: 0,
                cause,
            });
            if self.phase != Phase::Dialing {
                self.enter(Phase::Dialing);
            }
            self.on_redial();
            return;
        }
        outage.tries += 1;
        let until = outage.until;
        self.upstream.tries += 1;
        let wait_ms = self.upstream.wait(reconnect.base_ms, reconnect.cap_ms);
        let at = now.mono + Duration::from_millis(wait_ms);
        if self.upstream.tries > reconnect.tries || at >= until {
            self.note(format!("The model's connection is given up: {cause}."));
            self.end(self.upstream.given_up());
            return;
        }
        if self.phase != Phase::Dialing {
            self.enter(Phase::Dialing);
        }
        self.facts.push_back(Fact::Reconnecting {
            attempt: self.upstream.tries,
            wait_ms,
            cause,
        });
        self.timers.set(Deadline::Redial, at);
    }

    /// The standby becomes the next try, as far as it has come.
    fn take_standby(&mut self, cause: String, now: Now) {
        self.upstream.tries += 1;
        if let Some(outage) = &mut self.upstream.outage {
            outage.tries += 1;
        }
        self.stats.reconnect_attempts += 1;
        self.facts.push_back(Fact::Reconnecting {
            attempt: self.upstream.tries,
            wait_ms: 0,
            cause,
        });
        self.timers.clear(Deadline::Standby);
        self.malformed[Leg::Standby as usize] = 0;
        let standby = std::mem::take(&mut self.upstream.standby);
        if standby == Standby::Dialing {
            self.upstream.dial = Some(Purpose::Try);
            return;
        }
        self.orders.push_back(Order::Switch);
        self.session_id = std::mem::take(&mut self.upstream.standby_id);
        self.session_update = client_event::session_update(&self.settings, UPDATE_EVENT_ID);
        self.timers.set(Deadline::Setup, now.mono + SETUP_DEADLINE);
        self.enter(Phase::Opening);
        if standby != Standby::Opening {
            self.enter(Phase::Configuring);
        }
        if standby == Standby::Primed {
            // It answers at once: its settings are confirmed. An update that repeats them asks for that answer, so that
            // there is one way to become ready.
            self.upstream.expires = self.upstream.standby_expires;
            self.orders.push_back(Order::Configure);
        }
    }

    /// `Deadline::Redial`.
    pub(super) fn on_redial(&mut self) {
        if self.phase == Phase::Dialing && self.upstream.dial.is_none() {
            self.upstream.dial = Some(Purpose::Try);
            self.stats.reconnect_attempts += 1;
            self.orders.push_back(Order::Redial);
        }
    }

    /// `Deadline::Setup`: this try takes too long.
    pub(super) fn on_setup_deadline(&mut self, now: Now) {
        let cause = "the session was not confirmed in time".to_owned();
        let reason = match self.upstream.was_ready() {
            true => EndReason::RealtimeLost,
            false => EndReason::RealtimeSetup,
        };
        self.on_lost(cause, reason, now);
    }

    /// `Deadline::Upstream`: the time that a set-up has, or an outage.
    pub(super) fn on_upstream_deadline(&mut self) {
        self.end(match self.phase {
            _ if self.upstream.in_outage() => self.upstream.given_up(),
            Phase::Dialing => EndReason::RealtimeUnavailable,
            _ => EndReason::RealtimeSetup,
        });
    }

    /// A session confirmed an audio format that is noise on a telephone. Once may be one endpoint's fault; what is
    /// confirmed again is what we would get each time.
    pub(super) fn on_wrong_format(&mut self, now: Now) {
        self.upstream.wrong_formats += 1;
        if self.upstream.wrong_formats >= WRONG_FORMATS_MAX {
            self.end(EndReason::RealtimeSetup);
        } else {
            let cause = "another audio format was confirmed".to_owned();
            self.on_lost(cause, EndReason::RealtimeSetup, now);
        }
    }

    /// One of `UNAVAILABLE` while a session is set up.
    pub(super) fn on_try_error(&mut self, names: [Option<&str>; 2], now: Now) {
        let is = |list: &[&str]| names.iter().flatten().any(|name| list.contains(name));
        let reason = match self.upstream.was_ready() {
            true => EndReason::RealtimeLost,
            false => EndReason::RealtimeUnavailable,
        };
        if is(&PASSING) && !is(&LASTING) {
            self.on_lost(said(names), reason, now);
        } else {
            self.end(reason);
        }
    }

    /// Another error while a try's session is set up, which does not name our update: what it is about nobody knows.
    pub(super) fn on_stray_error(&mut self, names: [Option<&str>; 2], now: Now) {
        self.on_lost(said(names), EndReason::RealtimeSetup, now);
    }

    /// Our settings for the session that was just opened.
    pub(super) fn configure(&mut self, leg: Leg, out: &mut impl Output) {
        let update = self.settings_update(leg, UPDATE_EVENT_ID);
        self.send(out, leg, Class::Control, &[update.as_bytes()]);
        if leg == Leg::Realtime {
            self.session_update = update;
        }
    }

    /// The session is confirmed: the phase is `Ready`. Tells it the conversation, when there was one before, and asks for
    /// what is owed.
    pub(super) fn on_ready(&mut self, now: Now, out: &mut impl Output) {
        let first = !self.upstream.was_ready();
        self.upstream.sessions += 1;
        self.upstream.waited = false;
        self.upstream.wrong_formats = 0;
        self.arm_rollover(now);
        self.timers.clear(Deadline::Setup);
        if self.upstream.in_outage() {
            // Speech whose end nobody reports any more: what it held back is not played, and not told as heard.
            self.on_confirmed(now, out);
        }
        let Some(outage) = self.upstream.outage.take() else {
            self.begin(now, out);
            return;
        };
        let items = self.tell(Leg::Realtime, out);
        if items > 0 {
            self.tell_break(Leg::Realtime, outage.speech_open, out);
        }
        self.stats.reconnects += 1;
        self.facts.push_back(Fact::Reconnected {
            gap_ms: now.mono.since(outage.since).as_millis() as u64,
            attempts: outage.tries,
            items,
        });
        if first {
            self.begin(now, out);
        }
        for want in std::mem::take(&mut self.wishes) {
            self.responses.keep(want);
        }
        if !first {
            // Keys are written before anything is asked for, so that one answer serves them as well.
            let answer = self.responses.take_answers();
            self.flush_keys(now, out);
            if let Some(want) = self.next_answer(outage.owed, answer) {
                self.responses.keep(want);
            }
        }
        let event = self.responses.resume();
        self.send_create(event, now, out);
        self.watch_silence(now);
    }

    /// What another session, which was just told all of the conversation, is asked for: one response answers all of it. None
    /// where one is asked for already, or will be when tools have answered.
    pub(super) fn next_answer(&mut self, owed: bool, answer: Option<Want>) -> Option<Want> {
        if answer.is_some() || owed {
            // The caller has spoken.
            self.responses.withdraw(Why::Nudge);
        }
        if self.responses.is_busy() || self.responses.is_wanted(Why::Goodbye) {
            return None;
        }
        if answer.is_some() {
            return answer;
        }
        if !owed || self.responses.is_waiting() || self.tools.will_ask() {
            return None;
        }
        let wish = match self.history.agent_spoke() {
            true => Wish::Answer,
            // The greeting itself was lost.
            false => self.first_wish(),
        };
        let instructions = self.wish_text(&wish);
        let why = Why::Owed;
        Some(Want { why, instructions })
    }

    /// Tells a session that follows another of the break.
    pub(super) fn tell_break(&mut self, leg: Leg, in_speech: bool, out: &mut impl Output) {
        let note = if in_speech { NOTE_SPEECH } else { NOTE };
        let note = client_event::NewItem::SystemText(note);
        let note = client_event::item_create(note, None, None, "vr_note");
        self.send(out, leg, Class::Control, &[note.as_bytes()]);
    }

    /// Tells a session the whole conversation; how many items that were.
    pub(super) fn tell(&mut self, leg: Leg, out: &mut impl Output) -> u32 {
        let mut events = Vec::new();
        let is_open = |call_id: &str| self.tools.is_open(call_id);
        self.history
            .tell(is_open, |event| events.push(event.to_owned()));
        for event in &events {
            self.send(out, leg, Class::Control, &[event.as_bytes()]);
        }
        events.len() as u32
    }

    /// A response was completed: that was useful work.
    pub(super) fn on_useful_work(&mut self) {
        self.upstream.tries = 0;
        self.upstream.useful = true;
    }

    /// What the agent wants done when the model is not to be had, as a fact before the end.
    pub(super) fn report_unavailable(&mut self, reason: EndReason) {
        use EndReason::*;
        if matches!(
            reason,
            RealtimeUnavailable | RealtimeSetup | RealtimeLost | RealtimeStalled | RealtimeProtocol
        ) {
            let action: OnModelUnavailable = self.policy.on_model_unavailable.clone();
            self.facts.push_back(Fact::ModelUnavailable { action });
        }
    }
}

/// An error as a cause.
pub(super) fn said(names: [Option<&str>; 2]) -> String {
    let name = names.into_iter().flatten().next().unwrap_or_default();
    format!("the model says {name:?}")
}
