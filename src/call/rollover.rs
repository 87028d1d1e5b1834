//! The session that takes over before another expires: dialled, opened and configured beside it, and put in its place at
//! a silent moment. Core; part of `Call`. The diagram is in `upstream`, whose tries it shares.

use super::outbox::Class;
use super::state::Phase;
use super::timer::Deadline;
use super::upstream::{Purpose, UPDATE_EVENT_ID};
use super::{Call, Fact, Leg, Order, Output};
use crate::base::limit;
use crate::base::time::Now;
use crate::proto::realtime::client_event;
use crate::proto::realtime::server_event::{ServerEvent, SessionEcho};
use std::time::Duration;

/// After a standby that came to nothing.
pub(super) const STANDBY_AGAIN: Duration = Duration::from_secs(15);
/// How often a primed standby looks for a silent moment that no event announces.
const MOMENT_POLL: Duration = Duration::from_millis(250);
/// So long before its end a session is left in the middle of things as well.
const LAST_MOMENT: Duration = Duration::from_secs(10);
/// So long after the caller's last word its transcript is waited for.
const WORDS_WAIT: Duration = Duration::from_secs(3);

/// Where the second session is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Standby {
    #[default]
    None,
    Dialing,
    Opening,
    Configuring,
    Primed,
}

impl Call {
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

    pub(super) fn arm_rollover(&mut self, now: Now) {
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
                self.timers
                    .set(Deadline::Standby, now.mono + limit::UPSTREAM_DEADLINE);
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
            Standby::Dialing | Standby::Opening | Standby::Configuring => {
                self.on_standby_end("took too long", now);
            }
            Standby::None => {}
        }
    }

    /// The second connection is gone, or of no use.
    pub(super) fn on_standby_end(&mut self, why: &str, now: Now) {
        match std::mem::take(&mut self.upstream.standby) {
            Standby::None => return,
            Standby::Dialing => {
                self.upstream.dial = None;
                self.orders.push_back(Order::CancelDial);
            }
            Standby::Opening | Standby::Configuring | Standby::Primed => {
                self.orders.push_back(Order::DropStandby);
                self.orders.push_back(Order::Distrust);
            }
        }
        self.note(format!("The second session {why}."));
        self.malformed[Leg::Standby as usize] = 0;
        self.timers.clear(Deadline::Standby);
        self.timers
            .set(Deadline::Rollover, now.mono + STANDBY_AGAIN);
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
        let works = self.tools.is_working() || self.answers.will_ask();
        if self.is_busy(now) || words || works || !self.keys.is_empty() {
            self.timers.set(Deadline::Standby, now.mono + MOMENT_POLL);
        } else {
            self.switch(now, out);
        }
    }

    fn switch(&mut self, now: Now, out: &mut impl Output) {
        let in_speech = self.speech_open;
        let answers = self.settings.turn_detection.create_response;
        let owed = self.owes_an_answer() || in_speech && answers;
        let items = self.tell(Leg::Standby, out);
        if in_speech || owed {
            // The last moment: it is left in the middle of something.
            self.tell_break(Leg::Standby, in_speech, out);
        }
        self.upstream.standby = Standby::None;
        self.upstream.useful = false;
        self.timers.clear(Deadline::Standby);
        self.leave_session(now);
        let answer = self.responses.take_answers();
        if let Some(want) = self.next_answer(owed, answer) {
            self.responses.keep(want);
        }
        if let Some(event) = self.responses.resume() {
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
}
