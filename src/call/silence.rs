//! Silence and time: what happens when nobody speaks, how long a call may last, and that a goodbye is heard before
//! the call ends. Keys, too: they end a silence like words. Core; part of `Call`.
//!
//! The line is *silent* while no speech is open, no response is asked for or under way, and nothing that was sent is
//! left to be heard. Times of silence add up over the agent's own nudges, and anything else that is
//! said begins them anew. While the model's connection is lost, no time of silence passes.

use super::greeting::Wish;
use super::outbox::Class;
#[cfg(feature = "planted-bugs")]
use super::planted::{self, Planted};
use super::policy::{Dtmf, Policy, Silence};
use super::responses::Why;
use super::state::Phase;
use super::timer::Deadline;
use super::{Call, EndReason, Fact, Leg, Output};
use crate::base::limit;
use crate::base::time::{Mono, Now};
use crate::base::unit::AudioMs;
use crate::proto::realtime::client_event::{self, NewItem};
use crate::proto::realtime::server_event::ServerEvent;
use std::time::Duration;

/// A goodbye that takes longer than this to be said is not waited for.
const GOODBYE_DEADLINE: Duration = Duration::from_secs(20);
/// D12: the last mark is waited for as long as its audio should take, and this.
const MARK_GRACE: Duration = Duration::from_millis(500);
/// Keys kept until they are told; more are reported only.
const KEYS_MAX: usize = 64;
/// What the model is told at the end of the longest duration.
const DURATION_TEXT: &str = "The call has reached its longest duration. Say in one short sentence that it must end now, and goodbye.";

/// Time of silence, and what it has led to.
#[derive(Debug, Default)]
pub(super) struct Quiet {
    /// Silent time before `since`.
    before: Duration,
    /// Silent from here on; may lie ahead, where what was sent will have been heard.
    since: Option<Mono>,
    /// Stages that have come: 0 to 3.
    stage: u8,
    /// The response that is asked for is a nudge.
    nudging: bool,
    /// Audio came since, which may be the nudge's.
    spoken: bool,
}

impl Quiet {
    fn stop(&mut self, now: Mono) {
        if let Some(since) = self.since.take() {
            self.before += now.since(since);
        }
    }

    fn go_on(&mut self, from: Mono, now: Mono) {
        if from > now {
            self.stop(now);
        }
        match self.since {
            Some(since) if since <= now => {}
            _ => self.since = Some(from),
        }
    }

    fn begin_anew(&mut self) {
        *self = Self::default();
    }

    /// The next stage, 1 to 3, and when it comes.
    fn next(&self, silence: &Silence) -> Option<(u8, Mono)> {
        let since = self.since?;
        let stages = [
            silence.nudge_after_ms,
            silence.second_nudge_after_ms,
            silence.hang_up_after_ms,
        ];
        let (stage, ms) = (1..)
            .zip(stages)
            .find(|&(stage, ms)| stage > self.stage && ms > 0)?;
        let left = Duration::from_millis(ms.into()).saturating_sub(self.before);
        Some((stage, since + left))
    }
}

/// A call that ends once its last words were heard.
#[derive(Clone, Copy, Debug)]
pub(super) struct Farewell {
    reason: EndReason,
    /// They are generated.
    said: Option<Said>,
}

/// Last words that are all there.
#[derive(Clone, Copy, Debug)]
struct Said {
    /// Where they end on the ledger's line: what comes behind them is not waited for.
    end: u64,
    /// Nor is a carrier that takes too long to play them.
    by: Mono,
}

impl Call {
    /// Looks at an event of the model's before it is acted on.
    pub(super) fn on_event(&mut self, event: &ServerEvent<'_>, now: Now) {
        use super::outbound::item;
        match event {
            ServerEvent::SpeechStarted { .. } => {
                self.on_caller_back();
                if self.settings.turn_detection.create_response {
                    // The answer to what is being said now is one to what was said before.
                    self.responses.withdraw(Why::Owed);
                }
            }
            ServerEvent::SpeechStopped { .. } => {
                self.last_speech = now.mono;
                self.turn_open = true;
                self.turn_after = self.responses.active();
                self.trace.stopped(now.mono);
            }
            ServerEvent::Committed { item_id, .. } => {
                self.history.user_turn(item(item_id.as_deref()));
                self.turn_open = true;
            }
            ServerEvent::InputTranscriptCompleted {
                item_id,
                transcript,
                ..
            } => self
                .history
                .user_said(item(item_id.as_deref()), transcript.trim()),
            ServerEvent::OutputTranscriptDelta { item_id, delta, .. } => {
                self.history
                    .assistant_piece(item(item_id.as_deref()), delta);
            }
            ServerEvent::OutputTranscriptDone {
                item_id,
                transcript,
                ..
            } => self
                .history
                .assistant_said(item(item_id.as_deref()), transcript),
            ServerEvent::OutputItemDone { item, .. }
                if item.kind.as_deref() == Some("function_call")
                    && item
                        .status
                        .as_deref()
                        .is_none_or(|status| status == "completed") =>
            {
                if let (Some(call_id), Some(name)) = (&item.call_id, &item.name) {
                    let arguments = item.arguments.as_deref().unwrap_or("{}");
                    self.history.call(call_id, name, arguments);
                }
            }
            ServerEvent::ResponseCreated { out_of_band, .. } if !out_of_band => {
                self.trace.created(now.mono);
            }
            ServerEvent::ResponseDone { status, .. } => {
                if status.as_deref() == Some("completed") {
                    self.on_useful_work();
                }
                self.quiet.nudging = false;
            }
            // Before the session is confirmed it is noise, and not played.
            ServerEvent::AudioDelta(_) if self.phase == Phase::Ready => {
                self.anyone_spoke = true;
                match self.quiet.nudging {
                    true => self.quiet.spoken = true,
                    false => self.quiet.begin_anew(),
                }
            }
            ServerEvent::SessionUpdated(echo) => self.on_expiry(echo, now),
            _ => {}
        }
    }

    /// The caller spoke or pressed a key: an end for silence is off.
    fn on_caller_back(&mut self) {
        self.anyone_spoke = true;
        self.quiet.begin_anew();
        self.responses.withdraw(Why::Nudge);
        // Without a model there is nobody left to come back to.
        if self.farewell_reason() == Some(EndReason::Silence) && !self.upstream.is_over() {
            self.farewell = None;
            self.responses.withdraw(Why::Goodbye);
            self.timers.clear(Deadline::Goodbye);
        }
    }

    /// Looks again once an event was acted on. `sent_before`: `outbound_bytes_sent` before it, when it was audio; else
    /// more than any call sends.
    pub(super) fn after_event(&mut self, sent_before: u64, now: Now, out: &mut impl Output) {
        if self.phase.is_ended() {
            return;
        }
        if self.stats.outbound_bytes_sent > sent_before {
            if self.turn_after.is_none() || self.turn_after != self.sounding {
                self.turn_open = false;
            }
            let item = self.playback.end_place().map_or(0, |place| place.item);
            self.trace.delta(item, now.mono);
            return;
        }
        if self
            .farewell
            .is_some_and(|farewell| farewell.said.is_none())
            && !self.responses.is_busy()
        {
            self.on_said(now);
            self.seek_end();
        }
        self.watch_silence(now);
        self.seek_moment(now, out);
    }

    /// A mark of this item (as marks count them) came back.
    pub(super) fn on_mark_back(&mut self, item: u32, now: Now) {
        if let Some(turn) = self.trace.mark(item, now.mono) {
            self.facts.push_back(Fact::Turn(turn));
        }
        self.watch_silence(now);
        self.seek_end();
    }

    /// Whether anybody speaks, or is about to, or something is left to be heard.
    pub(super) fn is_busy(&self, now: Now) -> bool {
        self.speech_open || self.responses.is_busy() || self.quiet_from(now) > now.mono
    }

    /// When all that was sent will have been heard; not before now.
    fn quiet_from(&self, now: Now) -> Mono {
        #[cfg(feature = "planted-bugs")]
        if planted::is(Planted::NudgeTooEarly) {
            return now.mono;
        }
        self.playback.silent_at(now.mono)
    }

    /// Sets the next stage of silence, or takes it away while the line is not silent.
    pub(super) fn watch_silence(&mut self, now: Now) {
        let silence = &self.policy.silence;
        let silent = self.phase == Phase::Ready
            && !self.speech_open
            && !self.responses.is_busy()
            && !self.is_ending()
            && !self.waits_to_begin()
            && self.farewell.is_none();
        if silent {
            self.quiet.go_on(self.quiet_from(now), now.mono);
        } else {
            self.quiet.stop(now.mono);
        }
        match self.quiet.next(silence) {
            Some((_, at)) => self.timers.set(Deadline::Silence, at),
            None => self.timers.clear(Deadline::Silence),
        }
    }

    /// The carrier took audio: what it took late is heard late, and silence begins behind it.
    pub(super) fn on_audio_taken(&mut self, now: Now) {
        self.put_off_goodbye(now);
        let heard = self.playback.silent_at(now.mono);
        if self.quiet.since.is_some_and(|since| since < heard) {
            self.quiet.since = Some(heard);
            if let Some((_, at)) = self.quiet.next(&self.policy.silence) {
                self.timers.set(Deadline::Silence, at);
            }
        }
    }

    /// `Deadline::Silence`.
    pub(super) fn on_silence(&mut self, now: Now, out: &mut impl Output) {
        let policy = self.policy.clone();
        let silence = &policy.silence;
        let Some((stage, at)) = self.quiet.next(silence) else {
            return;
        };
        // The agent may have been asked for something since this was set: then nobody is silent.
        if at > now.mono || self.phase != Phase::Ready || self.is_busy(now) {
            self.watch_silence(now);
            return;
        }
        self.quiet.stage = stage;
        if stage == 3 {
            self.say_goodbye(EndReason::Silence, &silence.goodbye_text, now, out);
            return;
        }
        self.quiet.nudging = true;
        self.quiet.spoken = false;
        self.facts.push_back(Fact::Nudged { stage });
        #[cfg(feature = "planted-bugs")]
        if planted::is(Planted::NudgeForgotten) {
            return;
        }
        let text = match stage {
            1 => &silence.nudge_text,
            _ => &silence.second_nudge_text,
        };
        self.respond(Why::Nudge, &Wish::Say(text.clone()), now, out);
        self.watch_silence(now);
    }

    /// The model has begun to speak by itself, and what we asked for is refused: a greeting and a nudge would come behind it, and
    /// so would what was asked for again.
    pub(super) fn forget_openings(&mut self) {
        // What was heard meanwhile was no nudge, so the silence began anew with it.
        if self.quiet.spoken && self.responses.is_wanted(Why::Nudge) {
            self.quiet.begin_anew();
        }
        self.responses.withdraw(Why::Again);
        self.responses.withdraw(Why::Greeting);
        self.responses.withdraw(Why::Nudge);
        self.quiet.nudging = false;
    }

    /// The session is gone. What the next one says first is an answer, unless a nudge still waits to be asked for.
    pub(super) fn forget_nudge(&mut self) {
        self.quiet.nudging = self.responses.is_wanted(Why::Nudge);
    }

    /// `start` has come: the call's longest duration counts from here.
    pub(super) fn arm_duration(&mut self, now: Now) {
        let max = Duration::from_secs(self.policy.max_duration_secs.into());
        let warning = Duration::from_secs(self.policy.duration_warning_secs.into());
        if max.is_zero() {
            return;
        }
        self.timers.set(Deadline::Duration, now.mono + max);
        if !warning.is_zero() && warning < max {
            self.timers
                .set(Deadline::Warning, now.mono + (max - warning));
        }
    }

    /// Whether the warning was due before now.
    pub(super) fn was_warned(&self) -> bool {
        let Policy {
            max_duration_secs: max,
            duration_warning_secs: warning,
            ..
        } = *self.policy;
        warning > 0 && warning < max && !self.timers.is_set(Deadline::Warning)
    }

    /// `Deadline::Warning`: the model is told, and says it when it next speaks. Before the first session is ready `begin`
    /// does it; between two sessions the next one is told it with the conversation.
    pub(super) fn on_warning(&mut self, out: &mut impl Output) {
        let text = format!(
            "The call ends in {} seconds. Bring the conversation to a close.",
            self.policy.duration_warning_secs
        );
        if self.phase == Phase::Ready {
            self.item(NewItem::SystemText(&text), out);
            #[cfg(feature = "planted-bugs")]
            if planted::is(Planted::WarningTwice) {
                self.item(NewItem::SystemText(&text), out);
            }
        }
        if self.phase == Phase::Ready || self.upstream.was_ready() {
            self.history.system_text(&text);
        }
    }

    /// `Deadline::Duration`.
    pub(super) fn on_duration(&mut self, now: Now, out: &mut impl Output) {
        #[cfg(feature = "planted-bugs")]
        if planted::is(Planted::DurationForgotten) {
            return;
        }
        self.say_goodbye(EndReason::MaxDuration, DURATION_TEXT, now, out);
    }

    /// The model says goodbye (when there is something to say, and a model), and when that was heard the call ends.
    pub(super) fn say_goodbye(
        &mut self,
        reason: EndReason,
        text: &str,
        now: Now,
        out: &mut impl Output,
    ) {
        if self.upstream.is_over() && self.goodbye_reason().is_some() {
            return; // It is being said.
        }
        if self.phase != Phase::Ready {
            self.end(reason);
            return;
        }
        self.facts.push_back(Fact::Goodbye { reason });
        if !text.is_empty() {
            self.respond(Why::Goodbye, &Wish::Say(text.to_owned()), now, out);
        }
        self.end_once_heard(reason, now);
    }

    /// Ends the call once what is being said was heard.
    pub(super) fn end_once_heard(&mut self, reason: EndReason, now: Now) {
        let said = !self.responses.is_busy();
        #[cfg(feature = "planted-bugs")]
        let said = said || planted::is(Planted::GoodbyeUnsaid);
        self.farewell = Some(Farewell { reason, said: None });
        self.timers
            .set(Deadline::Goodbye, now.mono + GOODBYE_DEADLINE);
        if said {
            self.on_said(now);
        }
        self.timers.clear(Deadline::Silence);
        self.seek_end();
    }

    /// Why the call is about to end, by its goodbye or by the model's.
    pub(super) fn goodbye_reason(&self) -> Option<EndReason> {
        let by_model = self.is_ending().then_some(EndReason::EndedByModel);
        self.farewell_reason().or(by_model)
    }

    /// The model is gone in the midst of a goodbye: the call ends when what came of it was heard.
    pub(super) fn hear_goodbye(&mut self, now: Now) {
        self.on_said(now);
        self.hear_ending(now);
    }

    /// The last words are all there. What of them waits to be sent is to be heard as well.
    fn on_said(&mut self, now: Now) {
        self.playback.advance(now.mono);
        let heard = self.playback.silent_at(now.mono) + self.pause_left();
        let (.., end) = self.playback.offsets();
        if let Some(farewell) = &mut self.farewell {
            let by = heard + limit::WRITE_STALL_DEADLINE;
            farewell.said = Some(Said { end, by });
            self.timers.set(Deadline::Goodbye, heard + MARK_GRACE);
        }
    }

    /// What the caller said was for nothing: a goodbye that was generated goes on from now.
    pub(super) fn hear_later(&mut self, now: Now) {
        self.playback.advance(now.mono);
        let by = self.playback.silent_at(now.mono) + limit::WRITE_STALL_DEADLINE;
        if let Some(Farewell {
            said: Some(said), ..
        }) = &mut self.farewell
        {
            said.by = said.by.max(by);
            self.timers.set(Deadline::Goodbye, now.mono + MARK_GRACE);
            self.put_off_goodbye(now);
        }
        self.put_off_ending(by, now);
    }

    /// How much later what waits may be heard because the caller speaks, and may not mean it.
    pub(super) fn pause_left(&self) -> Duration {
        match self.hold.paused {
            true => self.confirm_after(),
            false => Duration::ZERO,
        }
    }

    /// Why the call is about to end by a goodbye of ours.
    pub(super) fn farewell_reason(&self) -> Option<EndReason> {
        self.farewell.map(|farewell| farewell.reason)
    }

    /// The goodbye is said, and every mark behind it came back.
    fn seek_end(&mut self) {
        // A carrier that returns marks at once has played nothing yet: the ledger's clock decides, or the deadline.
        if let Some(Farewell { reason, said }) = self.farewell
            && said.is_some()
            && self.marks.none_out()
            && !self.playback.is_unheard()
        {
            self.end(reason);
        }
    }

    /// `Deadline::Goodbye`: time enough.
    pub(super) fn on_goodbye(&mut self, now: Now) {
        // What it reports as heard is as of now.
        self.playback.advance(now.mono);
        self.put_off_goodbye(now);
        if let Some(reason) = self.farewell_reason()
            && !self.timers.is_set(Deadline::Goodbye)
        {
            self.end(reason);
        }
    }

    /// Some of the last words went out late, or has yet to: they are waited for so much longer. As of the ledger's last
    /// `advance`.
    fn put_off_goodbye(&mut self, now: Now) {
        let (heard, ..) = self.playback.offsets();
        if let Some(Farewell {
            said: Some(Said { end, by }),
            ..
        }) = self.farewell
            && heard < end
            && now.mono < by
        {
            let left = Duration::from_millis(AudioMs::from_pcmu_bytes(end - heard).0);
            let at = (now.mono + left + MARK_GRACE).min(by);
            let at = at.max(self.timers.at(Deadline::Goodbye).unwrap_or(at));
            self.timers.set(Deadline::Goodbye, at);
        }
    }

    /// A key was pressed.
    pub(super) fn on_key(&mut self, digit: char, now: Now, out: &mut impl Output) {
        self.facts.push_back(Fact::Dtmf { digit });
        self.on_caller_back();
        if self.policy.dtmf == Dtmf::Text && self.keys.len() < KEYS_MAX {
            self.keys.push(digit);
            let pause = Duration::from_millis(self.policy.dtmf_pause_ms.into());
            self.timers.set(Deadline::Keys, now.mono + pause);
            if digit == '#' {
                self.timers.clear(Deadline::Keys);
                self.flush_keys(now, out);
            }
        }
        self.watch_silence(now);
    }

    /// The keys pressed so far are told, unless more may follow or there is no session to tell.
    pub(super) fn flush_keys(&mut self, now: Now, out: &mut impl Output) {
        if self.keys.is_empty() || self.phase != Phase::Ready || self.timers.is_set(Deadline::Keys)
        {
            return;
        }
        let keys = std::mem::take(&mut self.keys);
        #[cfg(feature = "planted-bugs")]
        let keys = match planted::is(Planted::KeyLost) && keys.len() > 1 {
            true => keys[1..].to_owned(),
            false => keys,
        };
        let text = format!("The caller pressed {keys}.");
        self.item(NewItem::UserText(&text), out);
        #[cfg(feature = "planted-bugs")]
        if planted::is(Planted::KeysTwice) {
            self.item(NewItem::UserText(&text), out);
        }
        self.history.user_text(&text);
        self.respond(Why::Text, &Wish::Answer, now, out);
    }

    /// Writes an item into the model's conversation.
    pub(super) fn item(&mut self, item: NewItem<'_>, out: &mut impl Output) {
        let event = client_event::item_create(item, None, None, "");
        self.send(out, Leg::Realtime, Class::Control, &[event.as_bytes()]);
    }
}
