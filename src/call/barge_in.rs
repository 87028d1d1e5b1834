//! The caller speaks while something is unheard: clear, cancel, truncate at what was heard. Core; part of `Call`.
//!
//! The ledger decides, not the response: a model that finished long ago has most of its answer still in the carrier's
//! buffer. In this order, all within the one call that read `speech_started`:
//!
//! 1. The carrier's `clear` goes before everything that waits on its leg; our own audio and marks that wait are cut at a
//!    frame, and the generation of marks goes up.
//! 2. `response.cancel`, when the server does not break off by itself (`interrupt_response = false`) and one is active.
//! 3. Every item that was not wholly heard is truncated, once: the audible one at the milliseconds heard, later ones at 0.
//!    A message that was announced and has no audio yet is deleted: the server refuses to truncate it.
//! 4. Late audio of those responses is dropped by response id until its `response.done`, and by item id after.
//!
//! ```text
//!            speech_started,          confirm_ms > 0, all of it kept
//!            unheard audio            ┌──────────────▶ Paused ──confirm_ms over──▶ cut
//!   Playing ──────────────────────────┤                  │ speech_stopped before
//!      ▲                              └──▶ cut           ▼
//!      └──────────────────────────────────────── sent again from the heard byte
//! ```
//!
//! In the guard window after `start` nothing is cut; speech that is still open when it ends cuts then.

use super::fact::Drop;
use super::outbox::Class;
#[cfg(feature = "planted-bugs")]
use super::planted::{self, Planted};
use super::playback::{Playback, Settled, is_tones};
use super::responses::Want;
use super::state::Phase;
use super::timer::Deadline;
use super::{Call, Fact, Leg, Output};
use crate::base::id::ItemId;
use crate::base::limit;
use crate::base::time::Now;
use crate::base::unit::AudioMs;
use crate::proto::realtime::client_event::NewItem;
use std::time::Duration;

impl Call {
    /// The caller began to speak, as the model hears it.
    pub(super) fn on_speech_started(&mut self, now: Now, out: &mut impl Output) {
        if !self.policy.barge_in.enabled || self.phase != Phase::Ready {
            return;
        }
        if now.mono < self.guard_until {
            self.timers.set(Deadline::Guard, self.guard_until);
            return;
        }
        self.interrupt(now, out);
    }

    /// `Deadline::Guard`: who still speaks now was no connection noise.
    pub(super) fn on_guard_over(&mut self, now: Now, out: &mut impl Output) {
        if self.speech_open && self.phase == Phase::Ready {
            self.interrupt(now, out);
        }
    }

    /// The caller stopped. A pause that is not confirmed yet was for nothing.
    pub(super) fn on_speech_stopped(&mut self, now: Now, out: &mut impl Output) {
        self.timers.clear(Deadline::Guard);
        if self.hold.paused {
            self.resume(now, out);
            self.hear_later(now);
        }
    }

    /// `Deadline::Confirm`: the caller means it.
    pub(super) fn on_confirmed(&mut self, now: Now, out: &mut impl Output) {
        if self.hold.paused {
            self.playback.advance(now.mono);
            self.drop_paused();
            self.cut(out);
            // `end_call` may have come during the pause: the caller has spoken into that goodbye.
            if !self.upstream.is_over() {
                self.keep_going();
            }
        }
    }

    fn interrupt(&mut self, now: Now, out: &mut impl Output) {
        self.playback.advance(now.mono);
        if self.hold.paused {
            return;
        }
        if !self.playback.is_unheard() {
            // Nothing to take back. But what the server has just broken off may still be on its way.
            self.mute_active();
            return;
        }
        let (heard, _, queued) = self.playback.offsets();
        let confirm = self.policy.barge_in.confirm_ms;
        if confirm > 0 && self.hold.covers(heard, queued) {
            self.clear(heard, out);
            self.playback.rewind();
            self.hold.paused = true;
            self.stats.pauses += 1;
            let confirm = Duration::from_millis(u64::from(confirm));
            self.timers.set(Deadline::Confirm, now.mono + confirm);
            return;
        }
        self.clear(queued, out);
        self.hold.forget();
        self.cut(out);
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

    /// Tells the model what was not heard, and forgets it. The carrier was told.
    fn cut(&mut self, out: &mut impl Output) {
        let unplayed = self.playback.unplayed_ms();
        #[cfg(feature = "planted-bugs")]
        let interrupts = self.settings.turn_detection.interrupt_response
            || planted::is(Planted::CancelForgotten);
        #[cfg(not(feature = "planted-bugs"))]
        let interrupts = self.settings.turn_detection.interrupt_response;
        if !interrupts {
            self.cancel_response(Drop::LateDelta, out);
        }
        self.mute_active();
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

    /// The server breaks its active response off by itself when the caller speaks.
    fn mute_active(&mut self) {
        if self.settings.turn_detection.interrupt_response
            && let Some(id) = self.responses.active()
        {
            self.cuts.mute(id, Drop::LateDelta);
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
            self.cut(out);
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
