//! The caller speaks while something is unheard: clear, cancel, truncate at what was heard. Core; part of `Call`.
//!
//! The ledger decides, not the response: a model that finished long ago has most of its answer still in the carrier's
//! buffer. In this order, all within the one call that read `speech_started`:
//!
//! 1. The carrier's `clear` goes before everything that waits on its leg; our own audio and marks that wait are cut at a
//!    frame, and the generation of marks goes up.
//! 2. `response.cancel`, when one is active that the server does not break off by itself: with `interrupt_response = false`,
//!    in the guard window's session, or when it began in a pause.
//! 3. Every item that was not wholly heard is truncated, once: the audible one at the milliseconds heard, later ones at 0.
//!    A message that was announced and has no audio yet is deleted: the server refuses to truncate it.
//! 4. Late audio of those responses is dropped by response id until its `response.done`, and by item id after.
//!
//! ```text
//!            speech_started,          confirm_ms > 0, all of it kept
//!            unheard audio            ┌──────────────▶ Paused ──confirm_ms over──▶ cut
//!   Playing ──────────────────────────┤                  │ speech_stopped before, and the speech was shorter
//!      ▲                              └──▶ cut           ▼
//!      └──────────────────────────────────────── sent again from the heard byte
//! ```
//!
//! A server VAD tells of the end of speech only `silence_duration_ms` after it, so a pause lasts that much longer.
//!
//! In the guard window after `start` nothing is cut; speech that is still open when it ends cuts then. The session begins
//! with `interrupt_response = false`, or the server would break the greeting off and answer the noise; when the window is
//! over it is told otherwise.
//!
//! Where the server does not break off, a response that begins while the caller speaks is cancelled as well: the server
//! answers what is being said when that is over. What answers it begins behind its `speech_stopped`.

use super::fact::Drop;
use super::outbox::Class;
#[cfg(feature = "planted-bugs")]
use super::planted::{self, Planted};
use super::playback::{Playback, Settled, is_tones};
use super::responses::Want;
use super::state::Phase;
use super::timer::Deadline;
use super::{Call, Fact, Leg, Output};
use crate::base::id::{ItemId, ResponseId};
use crate::base::limit;
use crate::base::time::Now;
use crate::base::unit::AudioMs;
use crate::proto::realtime::client_event::{self, NewItem};
use crate::proto::realtime::settings::TurnKind;
use std::time::Duration;

/// The `event_id` of the update behind the guard window.
const GUARD_EVENT_ID: &str = "vr_guard_1";

/// Who breaks off, and what the speech that is open has led to.
#[derive(Debug, Default)]
pub(super) struct Interrupts {
    /// The guard window is not over.
    guarded: bool,
    /// This session was told not to break off by itself, and has not confirmed anything else.
    held: bool,
    /// It was told to, again.
    released: bool,
    /// Where the speech began, as the server counts.
    speech_from: Option<u64>,
    /// The speech began and ended in the guard window, as far as we know.
    noise: bool,
    /// The speech that is open is an interruption.
    barging: bool,
    /// The response that the server broke off when the pause began.
    broken_off: Option<ResponseId>,
}

impl Call {
    /// `start` has come: the guard window begins.
    pub(super) fn arm_guard(&mut self, now: Now) {
        let guard = self.policy.barge_in;
        if guard.enabled && guard.guard_ms > 0 {
            self.interrupts.guarded = true;
            let guard = Duration::from_millis(u64::from(guard.guard_ms));
            self.timers.set(Deadline::Guard, now.mono + guard);
        }
    }

    /// Our settings for a session that is set up now.
    pub(super) fn settings_update(&mut self, leg: Leg, event_id: &str) -> String {
        let turn = &self.settings.turn_detection;
        let breaks_off = turn.interrupt_response && turn.kind != TurnKind::None;
        let held = leg == Leg::Realtime && self.interrupts.guarded && breaks_off;
        if leg == Leg::Realtime {
            (self.interrupts.held, self.interrupts.released) = (held, false);
        }
        if !held {
            return client_event::session_update(&self.settings, event_id);
        }
        let mut settings = self.settings.as_ref().clone();
        settings.turn_detection.interrupt_response = false;
        client_event::session_update(&settings, event_id)
    }

    /// The guard window is over, and the session is there: from now on the server breaks off by itself.
    pub(super) fn release_interrupts(&mut self, out: &mut impl Output) {
        let Interrupts {
            guarded,
            held,
            released,
            ..
        } = self.interrupts;
        if guarded || !held || released || self.phase != Phase::Ready {
            return;
        }
        self.interrupts.released = true;
        let event = client_event::turn_detection_patch(&self.settings, GUARD_EVENT_ID);
        self.send(out, Leg::Realtime, Class::Control, &[event.as_bytes()]);
    }

    /// The session confirmed a later update, and there is but one. What it told of before was under the old one.
    pub(super) fn on_later_update(&mut self) {
        if self.interrupts.released {
            self.interrupts.held = false;
        }
    }

    /// The session is left, with the speech that it heard.
    pub(super) fn forget_speech(&mut self) {
        self.interrupts = Interrupts {
            guarded: self.interrupts.guarded,
            ..Interrupts::default()
        };
    }

    /// Whether the server breaks its active response off when the caller speaks.
    fn server_interrupts(&self) -> bool {
        #[cfg(feature = "planted-bugs")]
        if planted::is(Planted::CancelForgotten) {
            return true;
        }
        self.settings.turn_detection.interrupt_response && !self.interrupts.held
    }

    /// Whether the caller's last words were noise of the connection.
    pub(super) fn was_noise(&self) -> bool {
        self.interrupts.noise
    }

    /// The caller began to speak, as the model hears it.
    pub(super) fn on_speech_started(
        &mut self,
        audio_start_ms: Option<u64>,
        now: Now,
        out: &mut impl Output,
    ) {
        self.interrupts.speech_from = audio_start_ms;
        self.interrupts.noise = self.interrupts.guarded;
        if self.policy.barge_in.enabled && self.phase == Phase::Ready && !self.interrupts.guarded {
            self.interrupt(now, out);
        }
    }

    /// `Deadline::Guard`: who still speaks now was no connection noise.
    pub(super) fn on_guard_over(&mut self, now: Now, out: &mut impl Output) {
        self.interrupts.guarded = false;
        if self.speech_open && self.phase == Phase::Ready {
            self.interrupts.noise = false;
            self.interrupt(now, out);
        }
        self.release_interrupts(out);
    }

    /// The caller stopped. A pause that is not confirmed yet was for nothing, unless the event was late.
    pub(super) fn on_speech_stopped(
        &mut self,
        audio_end_ms: Option<u64>,
        now: Now,
        out: &mut impl Output,
    ) {
        if self.hold.paused {
            let confirm = u64::from(self.policy.barge_in.confirm_ms);
            match self.spoken_ms(audio_end_ms) {
                Some(ms) if ms >= confirm => self.on_confirmed(now, out),
                _ => {
                    self.resume(now, out);
                    self.hear_later(now);
                }
            }
        }
        self.interrupts.barging = false;
    }

    /// How long the speech was that ends at `audio_end_ms`, where the server counts. Its times lie `prefix_padding_ms` before
    /// the first word and `silence_duration_ms` behind the last. (OpenAI, Realtime server events, `speech_started` and
    /// `speech_stopped`, read 2026-11.)
    fn spoken_ms(&self, audio_end_ms: Option<u64>) -> Option<u64> {
        let turn = &self.settings.turn_detection;
        let around = match turn.kind {
            TurnKind::ServerVad => u64::from(turn.prefix_padding_ms + turn.silence_duration_ms),
            TurnKind::SemanticVad | TurnKind::None => return None,
        };
        let ms = audio_end_ms?.saturating_sub(self.interrupts.speech_from?);
        Some(ms.saturating_sub(around))
    }

    /// From the event that speech began until it is known to be long enough.
    pub(super) fn confirm_after(&self) -> Duration {
        let turn = &self.settings.turn_detection;
        let told_after = match turn.kind {
            TurnKind::ServerVad => turn.silence_duration_ms,
            TurnKind::SemanticVad | TurnKind::None => 0,
        };
        Duration::from_millis(u64::from(self.policy.barge_in.confirm_ms) + u64::from(told_after))
    }

    /// `Deadline::Confirm`: the caller means it.
    pub(super) fn on_confirmed(&mut self, now: Now, out: &mut impl Output) {
        if self.hold.paused {
            self.interrupts.barging = self.speech_open;
            self.playback.advance(now.mono);
            self.drop_paused();
            let broken_off = self.interrupts.broken_off.take();
            self.cut(broken_off, out);
            // `end_call` may have come during the pause: the caller has spoken into that goodbye.
            if !self.upstream.is_over() {
                self.keep_going();
            }
        }
    }

    /// A response began. Over the caller's words it is not to be heard; what they lead to is their own answer.
    pub(super) fn on_response_under_speech(&mut self, out: &mut impl Output) {
        if self.interrupts.barging
            && self.speech_open
            && self.settings.turn_detection.create_response
            && self.goodbye_reason().is_none()
            && !self.server_interrupts()
        {
            self.cancel_response(Drop::LateDelta, out);
        }
    }

    fn interrupt(&mut self, now: Now, out: &mut impl Output) {
        self.playback.advance(now.mono);
        if self.hold.paused {
            return;
        }
        let active = self.responses.active();
        let broken_off = active.filter(|_| self.server_interrupts());
        if !self.playback.is_unheard() {
            // Nothing to take back. But what is broken off just now may still be on its way.
            self.interrupts.barging = true;
            self.break_off(broken_off, out);
            return;
        }
        let (heard, _, queued) = self.playback.offsets();
        let confirm = self.policy.barge_in.confirm_ms;
        if confirm > 0 && self.hold.covers(heard, queued) {
            self.clear(heard, out);
            self.playback.rewind();
            self.hold.paused = true;
            self.stats.pauses += 1;
            self.interrupts.broken_off = broken_off;
            let at = now.mono + self.confirm_after();
            self.timers.set(Deadline::Confirm, at);
            return;
        }
        self.interrupts.barging = true;
        self.clear(queued, out);
        self.hold.forget();
        self.cut(broken_off, out);
    }

    /// The carrier forgets what it has, and we what we have not sent. What is sent from now on lies behind `offset`.
    fn clear(&mut self, offset: u64, out: &mut impl Output) {
        #[cfg(feature = "planted-bugs")]
        if planted::is(Planted::ClearForgotten) {
            return;
        }
        #[cfg(feature = "planted-bugs")]
        let cut = match planted::is(Planted::QueueUncut) {
            true => super::outbox::Cut::default(),
            false => out.cut(Leg::Carrier),
        };
        #[cfg(not(feature = "planted-bugs"))]
        let cut = out.cut(Leg::Carrier);
        let mut text = std::mem::take(&mut self.text);
        text.clear();
        self.encoder.clear(&mut text);
        if out.send_first(Leg::Carrier, &[&text]) {
            self.stats.carrier_messages_out += 1;
            self.stats.clears += 1;
        }
        self.text = text;
        self.trace.cut();
        self.marks.clear(cut.marks, offset);
        self.stats.outbound_bytes_cut += cut.bytes;
    }

    /// Tells the model what was not heard, and forgets it. The carrier was told. `broken_off`: by the server, as the caller
    /// began to speak.
    fn cut(&mut self, broken_off: Option<ResponseId>, out: &mut impl Output) {
        let unplayed = self.playback.unplayed_ms();
        self.break_off(broken_off, out);
        let mut items = 0;
        while let Some(settled) = self.playback.take_cut() {
            if let Some(id) = settled.response_id {
                self.cuts.mute(id, Drop::LateDelta);
            }
            items += u32::from(!settled.whole);
            self.report_heard(settled, out);
        }
        while let Some(item_id) = self.cuts.take_announced() {
            self.playback.close(item_id);
            self.history.cut(item_id, "");
            let event = self.cuts.delete(item_id);
            self.stats.items_deleted += 1;
            self.send(out, Leg::Realtime, Class::Control, &[event.as_bytes()]);
            items += 1;
        }
        self.stats.barge_ins += 1;
        self.facts.push_back(Fact::BargeIn {
            unplayed_ms: unplayed.0,
            items,
        });
    }

    /// Nothing more of the active response is played; it is cancelled, unless it is the one that the server broke off.
    fn break_off(&mut self, broken_off: Option<ResponseId>, out: &mut impl Output) {
        match self.responses.active() {
            Some(id) if broken_off == Some(id) => self.cuts.mute(id, Drop::LateDelta),
            // Of one that we know no id of, a server that breaks off has broken it off.
            None if self.server_interrupts() => {}
            _ => self.cancel_response(Drop::LateDelta, out),
        }
    }

    /// Cancels the active response, if there is one; its late audio is dropped as `why`.
    fn cancel_response(&mut self, why: Drop, out: &mut impl Output) {
        if let Some(id) = self.responses.active() {
            self.cuts.mute(id, why);
        }
        if let Some(event) = self.responses.cancel() {
            self.send(out, Leg::Realtime, Class::Control, &[event.as_bytes()]);
        }
    }

    /// Goes on from where the caller stopped hearing.
    fn resume(&mut self, now: Now, out: &mut impl Output) {
        self.timers.clear(Deadline::Confirm);
        self.playback.advance(now.mono);
        let (heard, ..) = self.playback.offsets();
        #[cfg(feature = "planted-bugs")]
        let heard = match planted::is(Planted::ResumedLate) {
            true => heard + 8 * 100,
            false => heard,
        };
        let hold = std::mem::take(&mut self.hold);
        let mut whole = true;
        for (n, kept) in hold.iter(heard).enumerate() {
            if n == 0 {
                self.playback.rewind_to(kept.start);
            }
            let (before, after) = self.encoder.media();
            let parts = [before, kept.text, after];
            // Longer than any delta that was taken: never.
            let class = Class::Playing(u32::try_from(kept.bytes).unwrap_or(u32::MAX));
            whole = whole && out.send(Leg::Carrier, class, &parts);
            match (whole, kept.fresh) {
                (true, true) => {
                    self.stats.outbound_frames_sent += 1;
                    self.stats.outbound_bytes_sent += kept.bytes;
                }
                (true, false) => self.stats.resent_bytes += kept.bytes,
                (false, true) => {
                    self.stats.drop(Drop::OutboxFull);
                    self.stats.outbound_bytes_dropped += kept.bytes;
                }
                (false, false) => {}
            }
            if whole {
                self.stats.carrier_messages_out += 1;
                self.mark_if_due(kept.start + kept.bytes, now, out);
            }
        }
        self.hold = hold;
        self.hold.resume();
        if whole {
            self.stats.resumes += 1;
            // The end of an item may have come meanwhile.
            self.end_item(now, out);
        } else {
            // It does not fit a second time: then the interruption stands.
            let (_, _, queued) = self.playback.offsets();
            self.clear(queued, out);
            self.hold.forget();
            let broken_off = self.interrupts.broken_off.take();
            self.cut(broken_off, out);
        }
    }

    /// The pause ends in a cut: what came during it is not played.
    pub(super) fn drop_paused(&mut self) {
        self.timers.clear(Deadline::Confirm);
        let (bytes, pieces) = self.hold.fresh();
        self.stats.outbound_bytes_dropped += bytes;
        self.stats.drops[Drop::LateDelta as usize] += pieces;
        self.hold = Default::default();
    }

    /// B07: more than the bound would wait to be heard, or the leg takes no more. The response ends here: what was sent is
    /// played and the item truncated at its end once that is heard, or earlier when the caller interrupts: an item is
    /// truncated once. What still comes of it is dropped; the model's leg is read on. Tones that find no room are dropped,
    /// and nothing else: they are ours, and the model's item goes on.
    pub(super) fn on_overflow(
        &mut self,
        response_id: Option<&str>,
        item_id: Option<&str>,
        content_index: u64,
        bytes: u64,
        why: Drop,
        out: &mut impl Output,
    ) {
        self.stats.drop(why);
        self.stats.outbound_bytes_dropped += bytes;
        self.playback.refuse(item_id, content_index, bytes);
        if is_tones(item_id, content_index) {
            return;
        }
        // The ledger had no room for another item: it is over before it began.
        if let Some(item_id) = super::outbound::item(item_id)
            && self
                .playback
                .item(item_id.as_str(), content_index)
                .is_none()
        {
            self.cut_unheard(item_id, content_index, out);
        }
        if let Some(id) = super::outbound::response(response_id) {
            self.cuts.mute(id, why);
        }
        self.cancel_response(why, out);
    }

    /// Audio of which nothing is played any more. An item that is heard of only now was cut before it began.
    pub(super) fn on_late(
        &mut self,
        item_id: Option<ItemId>,
        content_index: u64,
        bytes: u64,
        why: Drop,
        out: &mut impl Output,
    ) {
        self.stats.drop(why);
        self.stats.outbound_bytes_dropped += bytes;
        let Some(item_id) =
            item_id.filter(|id| !self.playback.is_closed(id.as_str(), content_index))
        else {
            return;
        };
        if self
            .playback
            .item(item_id.as_str(), content_index)
            .is_some()
        {
            // It is truncated where its audio ends, once that is heard.
            self.playback
                .refuse(Some(item_id.as_str()), content_index, bytes);
            return;
        }
        self.cut_unheard(item_id, content_index, out);
    }

    /// An item of which nothing was heard, nor will be, and that the ledger does not know.
    fn cut_unheard(&mut self, item_id: ItemId, content_index: u64, out: &mut impl Output) {
        self.cuts.on_content(item_id.as_str());
        self.playback.close(item_id);
        self.history.cut(item_id, "");
        self.truncate(item_id, content_index, AudioMs(0), out);
    }

    /// Reports items that are over and done, and lets the ledger's clock run.
    pub(super) fn settle_playback(&mut self, now: Now, out: &mut impl Output) {
        self.playback.advance(now.mono);
        while let Some(settled) = self.playback.take_settled() {
            self.report_heard(settled, out);
        }
        if self.policy.barge_in.confirm_ms > 0 {
            self.hold.forget_until(self.playback.offsets().0);
        }
    }

    /// What was heard of an item; the model is told when that was not all of it.
    fn report_heard(&mut self, settled: Settled, out: &mut impl Output) {
        let Settled {
            item_id,
            content_index,
            heard,
            total,
            whole,
            orphan,
            text,
            ..
        } = settled;
        let Some(item_id) = item_id else {
            return; // It can't be named.
        };
        match (whole, orphan) {
            (true, _) => {}
            (false, false) => self.history.cut(item_id, &text),
            (false, true) => {
                self.history.cut_old(item_id, &text);
                self.correct(&text, out);
            }
        }
        #[cfg(feature = "planted-bugs")]
        let heard = match planted::is(Planted::TruncatedAtSent) {
            true => total,
            false => heard,
        };
        if !whole && !orphan {
            #[cfg(feature = "planted-bugs")]
            if planted::is(Planted::TruncatedTwice) {
                self.truncate(item_id, content_index, heard, out);
            }
            self.truncate(item_id, content_index, heard, out);
        }
        self.facts.push_back(Fact::Heard {
            item_id,
            heard_ms: heard.0,
            total_ms: total.0,
            text,
        });
    }

    /// What played on from a session that is gone was told to this one as if it would be heard, and was not.
    fn correct(&mut self, heard: &str, out: &mut impl Output) {
        if self.phase == Phase::Ready && !self.upstream.in_outage() {
            let text = match heard.is_empty() {
                true => "Your last words were cut off before any of them was heard.".to_owned(),
                false => {
                    format!("Your last words were cut off. Only this of them was heard: {heard}")
                }
            };
            self.item(NewItem::SystemText(&text), out);
        }
    }

    fn truncate(
        &mut self,
        item_id: ItemId,
        content_index: u64,
        end: AudioMs,
        out: &mut impl Output,
    ) {
        let event = self.cuts.truncate(item_id, content_index, end.0);
        self.stats.truncates += 1;
        self.send(out, Leg::Realtime, Class::Control, &[event.as_bytes()]);
        self.facts.push_back(Fact::Cut {
            item_id,
            audio_end_ms: end.0,
        });
    }

    /// The end of a call: what was heard of what was never finished. The model is gone or going.
    pub(super) fn settle_at_end(&mut self) {
        self.drop_paused();
        while let Some(settled) = self.playback.take_cut() {
            if let Some(item_id) = settled.item_id {
                self.facts.push_back(Fact::Heard {
                    item_id,
                    heard_ms: settled.heard.0,
                    total_ms: settled.total.0,
                    text: settled.text,
                });
            }
        }
    }

    /// A response is wanted: sent when the one slot is free. For tools, greeting, nudges, goodbye.
    pub fn want(&mut self, want: Want, now: Now, out: &mut impl Output) {
        if self.phase != Phase::Ready {
            // Without a session it waits for the next one.
            self.wishes.retain(|other| other.why != want.why);
            self.wishes.push(want);
            return;
        }
        let event = self.responses.want(want);
        self.send_create(event, now, out);
    }

    /// Sends what the slot gave, and minds the time where it waits for an answer.
    pub(super) fn send_create(&mut self, event: Option<String>, now: Now, out: &mut impl Output) {
        if let Some(event) = event {
            #[cfg(feature = "planted-bugs")]
            if planted::is(Planted::CreateTwice) {
                self.send(out, Leg::Realtime, Class::Control, &[event.as_bytes()]);
            }
            self.send(out, Leg::Realtime, Class::Control, &[event.as_bytes()]);
            self.timers.clear(Deadline::Response);
        }
        let patience = match self.responses.is_owed() {
            true => limit::RESPONSE_DEADLINE,
            false => limit::RESPONSE_SILENCE,
        };
        if !self.responses.is_busy() {
            self.timers.clear(Deadline::Response);
        } else if !self.timers.is_set(Deadline::Response) {
            self.timers.set(Deadline::Response, now.mono + patience);
        }
    }

    /// An event of the active response came: it is not silent.
    pub(super) fn on_sign_of_life(&mut self, response_id: Option<&str>, now: Now) {
        if self.responses.is_of_active(response_id) {
            self.timers
                .set(Deadline::Response, now.mono + limit::RESPONSE_SILENCE);
        }
    }

    /// `Deadline::Response`: what the server owes does not come. What still comes of a response that fell silent is not
    /// played: it was given up, and the next answer may be on its way.
    pub(super) fn on_response_deadline(&mut self, now: Now, out: &mut impl Output) {
        if let Some(id) = self.responses.active() {
            self.stats.responses_silent += 1;
            self.end_response(Some(id), now, out);
            self.cancel_response(Drop::LateDelta, out);
        }
        if self.is_without_answer("no response comes", now) {
            return;
        }
        let event = self.responses.on_timeout();
        self.send_create(event, now, out);
        self.watch_silence(now);
    }

    /// The model's session is gone: its ids mean nothing to the next one. What was sent is still played, and counted.
    pub fn forget_session(&mut self) {
        self.cuts.on_session_lost();
        self.responses.on_session_lost();
        self.forget_nudge();
        self.timers.clear(Deadline::Response);
        self.playback.on_session_lost();
    }

    /// The ledger: what was sent and what was heard.
    pub fn playback(&self) -> &Playback {
        &self.playback
    }

    /// Audio that came during a pause and waits for its end, PCMU bytes: neither sent nor dropped yet.
    pub fn paused_bytes(&self) -> u64 {
        self.hold.fresh().0
    }
}
