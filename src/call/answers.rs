//! Responses that fail, and answers that do not come: asked for once more, then the connection counts as lost, and in the end
//! the model as unavailable (C22). Core; part of `Call`.
//!
//! ```text
//!   committed ──10 s, no response──┐
//!   asked for ──10 s, no response──┼──▶ asked for again ──the same again──▶ lost: another connection ──▶ … ──▶ given up
//!   response  ──30 s of silence ───┤                                          ▲
//!   response failed ──a short wait─┘     failed for want of money, or such ───┘
//! ```
//!
//! A *strike* is each of these; a response that was completed forgets them. What the caller says meanwhile brings an answer by
//! itself. A goodbye is not asked for again: its own deadline ends the call.

use super::responses::{Want, Why};
use super::state::Phase;
use super::timer::Deadline;
use super::upstream::said;
use super::{Call, EndReason, Output};
use crate::base::limit;
use crate::base::time::{Mono, Now};
use crate::proto::realtime::server_event::ServerEvent;
use std::time::Duration;

/// Errors that the same key and endpoint would meet again (reference, error codes).
pub(super) const LASTING: [&str; 5] = [
    "insufficient_quota",
    "credit_balance_exhausted",
    "billing_hard_limit_reached",
    "invalid_api_key",
    "account_deactivated",
];
/// Of `LASTING` in a row: once may be one key's or one endpoint's fault.
const LASTING_MAX: u32 = 2;
/// The second strike in a row loses the connection,
const STRIKES_LOST: u32 = 2;
/// and so does the third, on another one. Then the model is given up.
const STRIKES_MAX: u32 = 4;
/// Before a failed response is asked for again: this, and up to as much more.
const PAUSE_MS: u64 = 250;
/// The same after a limit of rate, where nothing is known of its end.
const RATE_PAUSE_MS: u64 = 1_000;
/// And at most, where it is: nobody waits longer on a telephone.
const RATE_PAUSE_MAX: Duration = Duration::from_secs(5);

/// What did not go well since a response was last completed.
#[derive(Debug, Default)]
pub(super) struct Answers {
    strikes: u32,
    lasting: u32,
    /// What is asked for at `Deadline::Again`.
    again: Option<Option<Want>>,
    /// A limit of rate is used up until then.
    limited_until: Option<Mono>,
}

impl Answers {
    /// Whether a response is to be asked for again in a moment.
    pub(super) fn will_ask(&self) -> bool {
        self.again.is_some()
    }
}

impl Call {
    /// Looks at an event of the model's before it is acted on.
    pub(super) fn watch_answers(&mut self, event: &ServerEvent<'_>, now: Now) {
        match event {
            ServerEvent::AudioDelta(_) => {}
            ServerEvent::SpeechStarted { .. } => {
                self.timers.clear(Deadline::Answer);
                if self.settings.turn_detection.create_response {
                    self.drop_again();
                }
            }
            ServerEvent::SpeechStopped { .. } | ServerEvent::Committed { .. }
                if self.phase == Phase::Ready && self.settings.turn_detection.create_response =>
            {
                let by = now.mono + limit::RESPONSE_DEADLINE;
                self.timers.set(Deadline::Answer, by);
            }
            ServerEvent::ResponseCreated {
                out_of_band: false, ..
            } => self.timers.clear(Deadline::Answer),
            ServerEvent::ResponseDone { status, .. } => {
                self.timers.clear(Deadline::Answer);
                if matches!(status.as_deref(), Some("completed" | "incomplete")) {
                    self.answers.strikes = 0;
                    self.answers.lasting = 0;
                }
            }
            ServerEvent::RateLimits(limits) => {
                let limits = [&limits.requests, &limits.tokens].into_iter().flatten();
                let used_up = limits.filter(|limit| limit.remaining == Some(0));
                let secs = used_up.filter_map(|limit| limit.reset_seconds);
                let secs = secs.fold(None, |most: Option<f64>, s| {
                    Some(most.map_or(s, |most| most.max(s)))
                });
                self.answers.limited_until = secs.map(|secs| {
                    // Saturates; NaN becomes 0.
                    let ms = (secs * 1000.0) as u64;
                    now.mono + Duration::from_millis(ms).min(RATE_PAUSE_MAX)
                });
            }
            _ => {}
        }
    }

    /// A response failed; `names`: its error's code and type. Nothing of it is said to the caller otherwise.
    pub(super) fn on_failed_response(&mut self, names: [Option<&str>; 2], now: Now) {
        let Some(want) = self.responses.take_ended() else {
            return; // It was none of the conversation's.
        };
        if self.phase != Phase::Ready || self.goodbye_reason().is_some() {
            return;
        }
        let is = |name: &str| names.iter().flatten().any(|n| *n == name);
        if LASTING.iter().any(|name| is(name)) {
            self.answers.again = Some(want);
            self.on_lasting(names, now);
            return;
        }
        // Something else is asked for, or will be: that answer serves.
        let answers = self.settings.turn_detection.create_response;
        if self.responses.is_busy() || self.tools.is_working() || self.speech_open && answers {
            return;
        }
        // Should the connection be lost for it: that is owed.
        let is_nudge = want.as_ref().is_some_and(|want| want.why == Why::Nudge);
        self.answers.again = Some(want).filter(|_| !is_nudge);
        if self.is_struck(&said(names), now) || is_nudge {
            return; // The next stage of silence comes by itself.
        }
        let jitter = self.upstream.dice() % PAUSE_MS;
        let wait = match is("rate_limit_exceeded") || is("inference_rate_limit_exceeded") {
            true => match self.answers.limited_until {
                Some(until) if until > now.mono => until.since(now.mono),
                _ => Duration::from_millis(RATE_PAUSE_MS),
            },
            false => Duration::from_millis(PAUSE_MS),
        };
        let at = now.mono + wait + Duration::from_millis(jitter);
        self.timers.set(Deadline::Again, at);
    }

    /// An error that the same key and endpoint would meet again: another may do better.
    pub(super) fn on_lasting(&mut self, names: [Option<&str>; 2], now: Now) {
        self.answers.lasting += 1;
        if self.answers.lasting >= LASTING_MAX && self.goodbye_reason().is_none() {
            self.note(format!("The model is given up: {}.", said(names)));
            self.end(EndReason::RealtimeLost);
        } else {
            self.upstream.useful = false;
            self.on_lost(said(names), EndReason::RealtimeLost, now);
        }
    }

    /// `Deadline::Again`.
    pub(super) fn on_again(&mut self, now: Now, out: &mut impl Output) {
        let Some(want) = self.answers.again.take() else {
            return;
        };
        if self.phase == Phase::Ready && !self.responses.is_busy() && !self.speech_open {
            self.responses.ask_again(want);
            let event = self.responses.resume();
            self.send_create(event, now, out);
            self.watch_silence(now);
        }
    }

    /// `Deadline::Answer`: the caller's turn brought no response.
    pub(super) fn on_answer_deadline(&mut self, now: Now, out: &mut impl Output) {
        if self.phase != Phase::Ready || self.speech_open || self.goodbye_reason().is_some() {
            return;
        }
        if self.responses.is_busy() || self.tools.is_working() {
            // Another response stands before it, with a deadline of its own.
            let by = now.mono + limit::RESPONSE_DEADLINE;
            self.timers.set(Deadline::Answer, by);
            return;
        }
        self.answers.again = Some(None);
        if !self.is_struck("the caller's turn brings no response", now) {
            self.answers.again = None;
            self.responses.ask_again(None);
            let event = self.responses.resume();
            self.send_create(event, now, out);
            self.watch_silence(now);
        }
    }

    /// What is in the response slot does not come, or does not go on: it is wanted again. `true`: the connection is lost for
    /// it.
    pub(super) fn is_without_answer(&mut self, cause: &str, now: Now) -> bool {
        if self.goodbye_reason().is_some() {
            return false;
        }
        if self.is_struck(cause, now) {
            return true;
        }
        self.responses.keep_for_again();
        false
    }

    /// One more strike. `true`: it was one too many.
    fn is_struck(&mut self, cause: &str, now: Now) -> bool {
        self.answers.strikes += 1;
        match self.answers.strikes {
            strikes if strikes >= STRIKES_MAX => {
                self.note(format!("The model is given up: {cause}."));
                self.end(EndReason::RealtimeLost);
            }
            strikes if strikes >= STRIKES_LOST => {
                self.upstream.useful = false;
                self.on_lost(cause.to_owned(), EndReason::RealtimeLost, now);
            }
            _ => return false,
        }
        true
    }

    /// The session is gone: what was to be asked for in it is owed by the next.
    pub(super) fn forget_answers(&mut self) {
        self.timers.clear(Deadline::Answer);
        self.answers.limited_until = None;
        self.drop_again();
    }

    fn drop_again(&mut self) {
        self.timers.clear(Deadline::Again);
        self.answers.again = None;
        self.responses.withdraw(Why::Again);
    }
}
