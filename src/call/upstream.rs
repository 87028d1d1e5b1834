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
//! - The caller's audio is held meanwhile, as at the call's start but for a shorter time; what the carrier still
//!   plays plays on.
//! - Another session knows nothing: it is told the conversation (`history`), and asked for a response only when one
//!   was owed, that is when the caller's turn was committed or a response was under way and not heard to its end.
//! - At most one dial is asked for at a time. Lost while the standby is on its way: that becomes the next try.

use super::greeting::Wish;
use super::outbox::Class;
use super::policy::OnModelUnavailable;
use super::responses::{Want, Why};
use super::state::Phase;
use super::timer::Deadline;
use super::{Call, EndReason, Fact, Leg, Order, Output};
use crate::base::limit;
use crate::base::rng::Rng;
use crate::base::time::{Mono, Now};
use crate::proto::realtime::client_event;
use crate::proto::realtime::server_event::{ServerEvent, SessionEcho};
use std::time::Duration;

/// From a try's connection to its confirmed session: a third of an outage's usual length, so that a server that only
/// accepts connections does not use it up.
const SETUP_DEADLINE: Duration = Duration::from_secs(3);
/// After a standby that came to nothing.
const STANDBY_AGAIN: Duration = Duration::from_secs(15);
/// How often a primed standby looks for a silent moment that no event announces.
const MOMENT_POLL: Duration = Duration::from_millis(250);
/// So long before its end a session is left in the middle of things as well.
const LAST_MOMENT: Duration = Duration::from_secs(10);
/// So long after the caller's last word its transcript is waited for.
const WORDS_WAIT: Duration = Duration::from_secs(3);

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
enum Purpose {
    Try,
    Standby,
}

/// Where the second session is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Standby {
    #[default]
    None,
    Dialing,
    Opening,
    Configuring,
    Primed,
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
}

/// See above.
#[derive(Debug)]
pub(super) struct Upstream {
    rng: Rng,
    /// Sessions confirmed so far.
    sessions: u32,
    outage: Option<Outage>,
    /// Tries since a response was last completed.
    tries: u32,
    dial: Option<Purpose>,
    standby: Standby,
    standby_id: String,
    /// When the standby's session ends, ms since 1970.
    standby_expires: Option<u64>,
    /// When the session ends, ms since 1970.
    expires: Option<u64>,
}

impl Default for Upstream {
    fn default() -> Self {
        Self {
            rng: Rng::from_u64(0),
            sessions: 0,
            outage: None,
            tries: 0,
            dial: None,
            standby: Standby::None,
            standby_id: String::new(),
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
            (Phase::Dialing, None) if !self.upstream.in_outage() => Some(Leg::Realtime),
            (Phase::Dialing, Some(Purpose::Try)) => Some(Leg::Realtime),
            (_, Some(Purpose::Standby)) => Some(Leg::Standby),
            _ => None,
        }
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
                if !first {
                    self.timers.set(Deadline::Setup, now.mono + SETUP_DEADLINE);
                }
            }
            (Some(_), Err(failure)) if first => {
                self.note(failure.text);
                self.end(EndReason::RealtimeUnavailable);
            }
            (Some(_), Err(failure)) if failure.retry => self.next_try(failure.text, now),
            (Some(_), Err(failure)) => {
                self.note(failure.text);
                self.end(EndReason::RealtimeLost);
            }
        }
    }

    /// The model's connection is gone, or of no use any more, after a session on it was confirmed. `reason` is the end
    /// where the agent does not want it tried again.
    pub(super) fn on_lost(&mut self, cause: String, reason: EndReason, now: Now) {
        if self.phase.is_ended() {
            return;
        }
        if self.policy.reconnect.tries == 0 {
            self.end(reason);
            return;
        }
        if let Some(reason) = self.farewell_reason() {
            // Nobody is left to say goodbye.
            self.end(reason);
            return;
        }
        self.orders.push_back(Order::DropUpstream { reason });
        self.timers.clear(Deadline::Setup);
        if self.upstream.outage.is_none() {
            let until = now.mono + Duration::from_millis(self.policy.reconnect.outage_ms.into());
            self.upstream.outage = Some(Outage {
                since: now.mono,
                until,
                tries: 0,
                owed: self.owes_an_answer(),
                speech_open: self.speech_open,
            });
            self.timers.set(Deadline::Upstream, until);
            self.timers.clear(Deadline::Rollover);
            self.leave_session(now);
        }
        if self.phase != Phase::Dialing {
            self.enter(Phase::Dialing);
        }
        match self.upstream.standby {
            Standby::None => self.next_try(cause, now),
            _ => self.take_standby(cause, now),
        }
    }

    /// Ids, speech and responses of the session that is gone mean nothing to the next.
    fn leave_session(&mut self, now: Now) {
        self.speech_open = false;
        self.turn_open = false;
        self.timers.clear(Deadline::Pad);
        self.timers.clear(Deadline::Guard);
        self.history.forget_ids();
        // What they answer belongs to a conversation that is gone; the history says that it is lost.
        self.tools.handle_upstream_lost();
        self.forget_session();
        self.watch_silence(now);
    }

    fn next_try(&mut self, cause: String, now: Now) {
        let reconnect = self.policy.reconnect;
        let Some(outage) = &mut self.upstream.outage else {
            return;
        };
        outage.tries += 1;
        let until = outage.until;
        self.upstream.tries += 1;
        let wait_ms = self.upstream.wait(reconnect.base_ms, reconnect.cap_ms);
        let at = now.mono + Duration::from_millis(wait_ms);
        if self.upstream.tries > reconnect.tries || at >= until {
            self.note(format!("The model's connection is given up: {cause}."));
            self.end(EndReason::RealtimeLost);
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
        self.on_lost(cause, EndReason::RealtimeLost, now);
    }

    /// One of `UNAVAILABLE` while a try's session is set up.
    pub(super) fn on_try_error(&mut self, names: [Option<&str>; 2], now: Now) {
        let is = |list: &[&str]| names.iter().flatten().any(|name| list.contains(name));
        if is(&PASSING) && !is(&["insufficient_quota"]) {
            let name = names.into_iter().flatten().next().unwrap_or_default();
            self.on_lost(
                format!("the model says {name:?}"),
                EndReason::RealtimeLost,
                now,
            );
        } else {
            self.end(EndReason::RealtimeLost);
        }
    }

    /// Our settings for the session that was just opened.
    pub(super) fn configure(&mut self, leg: Leg, out: &mut impl Output) {
        let update = client_event::session_update(&self.settings, UPDATE_EVENT_ID);
        self.send(out, leg, Class::Control, &[update.as_bytes()]);
        if leg == Leg::Realtime {
            self.session_update = update;
        }
    }

    /// The session is confirmed: the phase is `Ready`. Tells it the conversation, when there was one before, and asks for
    /// what is owed.
    pub(super) fn on_ready(&mut self, now: Now, out: &mut impl Output) {
        self.upstream.sessions += 1;
        self.arm_rollover(now);
        self.timers.clear(Deadline::Setup);
        let Some(outage) = self.upstream.outage.take() else {
            self.begin(now, out);
            return;
        };
        let items = self.tell(Leg::Realtime, out);
        if items > 0 {
            let note = if outage.speech_open {
                NOTE_SPEECH
            } else {
                NOTE
            };
            let note = client_event::item_create(
                client_event::NewItem::SystemText(note),
                None,
                None,
                "vr_note",
            );
            self.send(out, Leg::Realtime, Class::Control, &[note.as_bytes()]);
        }
        self.stats.reconnects += 1;
        self.facts.push_back(Fact::Reconnected {
            gap_ms: now.mono.since(outage.since).as_millis() as u64,
            attempts: outage.tries,
            items,
        });
        if outage.owed {
            let wish = match self.history.agent_spoke() {
                true => Wish::Answer,
                // The greeting itself was lost.
                false => self.first_wish(),
            };
            self.respond(Why::Owed, &wish, now, out);
        }
        for want in std::mem::take(&mut self.wishes) {
            self.want(want, now, out);
        }
        let event = self.responses.resume();
        self.send_create(event, now, out);
        self.flush_keys(now, out);
        self.watch_silence(now);
    }

    /// Tells a session the whole conversation; how many items that were.
    fn tell(&mut self, leg: Leg, out: &mut impl Output) -> u32 {
        let history = std::mem::take(&mut self.history);
        let items = history.tell(|event| {
            self.send(out, leg, Class::Control, &[event.as_bytes()]);
        });
        self.history = history;
        items as u32
    }

    /// A response was completed: that was useful work.
    pub(super) fn on_useful_work(&mut self) {
        self.upstream.tries = 0;
    }

    /// What a confirmed session says of its end.
    pub(super) fn on_expiry(&mut self, echo: &SessionEcho<'_>, now: Now) {
        if let Some(secs) = echo.expires_at {
            let ms = secs.saturating_mul(1_000);
            if self.upstream.expires != Some(ms) {
                self.upstream.expires = Some(ms);
                if self.phase == Phase::Ready && self.upstream.standby == Standby::None {
                    self.arm_rollover(now);
                }
            }
        }
    }

    fn arm_rollover(&mut self, now: Now) {
        let before = u64::from(self.policy.rollover_before_secs) * 1_000;
        match self.upstream.expires {
            // One that is over already, by its own word, tells of a clock that is wrong, or of a server that means something
            // else.
            Some(at) if before > 0 && at > now.unix_ms => {
                let left = at - now.unix_ms;
                // A session shorter than the time before its end is left in its middle, not at once again and again.
                let wait = if left > before {
                    left - before
                } else {
                    left / 2
                };
                self.timers
                    .set(Deadline::Rollover, now.mono + Duration::from_millis(wait));
            }
            _ => self.timers.clear(Deadline::Rollover),
        }
    }

    /// `Deadline::Rollover`: time for a second session, or, when that waits, for leaving the first at any moment.
    pub(super) fn on_rollover(&mut self, now: Now, out: &mut impl Output) {
        match self.upstream.standby {
            Standby::None if self.phase == Phase::Ready && self.upstream.dial.is_none() => {
                self.upstream.standby = Standby::Dialing;
                self.upstream.dial = Some(Purpose::Standby);
                self.orders.push_back(Order::Redial);
            }
            Standby::Primed => self.switch(now, out),
            _ => {}
        }
    }

    /// `Deadline::Standby`: its set-up takes too long, or another look for a silent moment.
    pub(super) fn on_standby_deadline(&mut self, now: Now, out: &mut impl Output) {
        match self.upstream.standby {
            Standby::Primed => self.seek_moment(now, out),
            Standby::Opening | Standby::Configuring => self.on_standby_end("took too long", now),
            Standby::None | Standby::Dialing => {}
        }
    }

    /// The second connection is gone, or of no use.
    pub(super) fn on_standby_end(&mut self, why: &str, now: Now) {
        if self.upstream.standby == Standby::None {
            return;
        }
        self.note(format!("The second session {why}."));
        self.upstream.standby = Standby::None;
        self.timers.clear(Deadline::Standby);
        self.timers
            .set(Deadline::Rollover, now.mono + STANDBY_AGAIN);
        self.orders.push_back(Order::DropStandby);
    }

    /// An event of the second session.
    pub fn handle_standby(&mut self, event: &ServerEvent<'_>, now: Now, out: &mut impl Output) {
        if self.phase.is_ended() {
            return;
        }
        self.count_message_in(Leg::Standby);
        match (self.upstream.standby, event) {
            (Standby::Opening, ServerEvent::SessionCreated(echo)) => {
                self.upstream.standby_id = echo.id.as_deref().unwrap_or_default().to_owned();
                self.configure(Leg::Standby, out);
                self.upstream.standby = Standby::Configuring;
            }
            (Standby::Configuring, ServerEvent::SessionUpdated(echo)) => {
                if !super::outbound::is_telephone(echo) {
                    self.on_standby_end("confirmed another audio format", now);
                    return;
                }
                self.upstream.standby = Standby::Primed;
                self.upstream.standby_expires = echo.expires_at.map(|s| s.saturating_mul(1_000));
                if let Some(at) = self.upstream.expires {
                    let left = Duration::from_millis(at.saturating_sub(now.unix_ms));
                    self.timers.set(
                        Deadline::Rollover,
                        now.mono + left.saturating_sub(LAST_MOMENT),
                    );
                }
                self.seek_moment(now, out);
            }
            (Standby::Opening | Standby::Configuring, ServerEvent::Error { code, kind, .. }) => {
                let name = code.as_deref().or(kind.as_deref()).unwrap_or("unknown");
                self.on_standby_end(&format!("failed with {name:?}"), now);
            }
            (Standby::Primed, ServerEvent::Error { code, .. })
                if code.as_deref() == Some("session_expired") =>
            {
                self.on_standby_end("expired", now);
            }
            (_, ServerEvent::AudioDelta(delta)) => self.handle_left_audio(delta),
            _ => {}
        }
    }

    /// Switches when nothing is going on: no speech, no response, nothing left to be heard, no words on their way.
    pub(super) fn seek_moment(&mut self, now: Now, out: &mut impl Output) {
        if self.upstream.standby != Standby::Primed || self.phase != Phase::Ready {
            return;
        }
        let transcribed = !self.settings.transcription_model.is_empty();
        let words = (self.turn_open || transcribed && self.history.awaits_words())
            && now.mono < self.last_speech + WORDS_WAIT;
        let works = self.tools.is_working();
        if self.is_busy(now) || words || works || !self.keys.is_empty() {
            self.timers.set(Deadline::Standby, now.mono + MOMENT_POLL);
        } else {
            self.switch(now, out);
        }
    }

    fn switch(&mut self, now: Now, out: &mut impl Output) {
        let owed = self.owes_an_answer();
        let items = self.tell(Leg::Standby, out);
        self.upstream.standby = Standby::None;
        self.timers.clear(Deadline::Standby);
        self.leave_session(now);
        let event = match owed {
            true => self.responses.want(Want {
                why: Why::Owed,
                instructions: None,
            }),
            false => None,
        };
        if let Some(event) = event {
            self.send(out, Leg::Standby, Class::Control, &[event.as_bytes()]);
        }
        self.send_create(None, now, out);
        self.upstream.sessions += 1;
        self.upstream.expires = self.upstream.standby_expires.take();
        self.arm_rollover(now);
        self.stats.rollovers += 1;
        self.orders.push_back(Order::Switch);
        self.facts.push_back(Fact::SessionReady {
            session_id: std::mem::take(&mut self.upstream.standby_id),
            session_update: client_event::session_update(&self.settings, UPDATE_EVENT_ID),
        });
        self.facts.push_back(Fact::RolledOver { items });
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
