//! Who speaks first, and what the agent is asked to say on its own account. Core; part of `Call`.

use super::outbox::Class;
use super::policy::{FirstSpeaker, instructions};
use super::state::Phase;
use super::timer::Deadline;
use super::{Call, Leg, Output};
use crate::base::time::Now;
use crate::proto::realtime::client_event;
use std::time::Duration;

/// A response that we ask for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Wish {
    /// An answer to what is there.
    Answer,
    /// The first words.
    Greeting,
    /// One with a purpose of its own: this, behind the session's instructions.
    Say(String),
}

/// The one place that asks for responses: a second one while one is active would be refused, so it waits, and
/// wishes that wait are one wish, the newest with words of its own.
#[derive(Debug, Default)]
pub(super) struct Slot {
    /// Asked for, and not yet begun.
    asked: bool,
    active: bool,
    waiting: Option<Wish>,
    /// Audio of the newest response went towards the caller.
    sounded: bool,
    /// A turn of the caller's was committed, and no audio came in answer yet.
    turn_open: bool,
}

impl Call {
    /// The first session is ready.
    pub(super) fn begin(&mut self, now: Now, out: &mut impl Output) {
        match self.policy.first_speaker {
            FirstSpeaker::Agent => self.respond(Wish::Greeting, out),
            // Already due: the set-up took longer than the agent was to wait.
            FirstSpeaker::AfterMs(_) if !self.timers.is_set(Deadline::FirstWords) => {
                self.on_first_words(out);
            }
            FirstSpeaker::AfterMs(_) | FirstSpeaker::Caller => {}
        }
        self.flush_keys(out);
        self.watch_silence(now);
    }

    /// `start` has come.
    pub(super) fn arm_first_words(&mut self, now: Now) {
        if let FirstSpeaker::AfterMs(ms) = self.policy.first_speaker {
            let at = now.mono + Duration::from_millis(ms.into());
            self.timers.set(Deadline::FirstWords, at);
        }
    }

    /// `Deadline::FirstWords`: the caller has said nothing. Before the session is ready `begin` does it.
    pub(super) fn on_first_words(&mut self, out: &mut impl Output) {
        if self.phase == Phase::Ready && !self.anyone_spoke {
            self.respond(Wish::Greeting, out);
        }
    }

    /// What a lost first response is made good with.
    pub(super) fn first_wish(&self) -> Wish {
        match self.policy.first_speaker {
            FirstSpeaker::Caller => Wish::Answer,
            FirstSpeaker::Agent | FirstSpeaker::AfterMs(_) => Wish::Greeting,
        }
    }

    /// Asks for a response as soon as the model is free for one.
    pub(super) fn respond(&mut self, wish: Wish, out: &mut impl Output) {
        let slot = &mut self.slot;
        if self.phase != Phase::Ready || slot.active || slot.asked {
            if wish != Wish::Answer || slot.waiting.is_none() {
                slot.waiting = Some(wish);
            }
            return;
        }
        slot.asked = true;
        slot.sounded = false;
        let session = self.settings.instructions.as_str();
        let instructions = match &wish {
            Wish::Answer => None,
            Wish::Greeting => self.policy.greeting_instructions(session),
            Wish::Say(text) => Some(instructions(session, text, "")),
        };
        let event = client_event::response_create(instructions.as_deref(), None, "vr_response");
        self.send(out, Leg::Realtime, Class::Control, &[event.as_bytes()]);
    }

    pub(super) fn on_response_created(&mut self) {
        self.slot.asked = false;
        self.slot.active = true;
        self.slot.sounded = false;
    }

    pub(super) fn on_response_done(&mut self, out: &mut impl Output) {
        self.slot.active = false;
        self.slot.asked = false;
        if let Some(wish) = self.slot.waiting.take() {
            self.respond(wish, out);
        }
    }

    /// The model refused a response that we asked for: it is busy with another, or something else is wrong.
    pub(super) fn on_response_refused(&mut self, busy: bool) {
        self.slot.asked = false;
        if busy {
            self.slot.active = true;
            self.slot.waiting.get_or_insert(Wish::Answer);
        }
    }

    /// The caller's turn became an item.
    pub(super) fn on_turn(&mut self) {
        self.slot.turn_open = true;
    }

    /// Audio of the response went towards the caller.
    pub(super) fn on_sound(&mut self) {
        self.slot.sounded = true;
        self.slot.turn_open = false;
    }

    /// A response is asked for, under way, or waits.
    pub(super) fn is_responding(&self) -> bool {
        self.slot.asked || self.slot.active || self.slot.waiting.is_some()
    }

    /// Whether the model owes one: the caller's turn is unanswered, or a response is not at its end.
    pub(super) fn owes_an_answer(&self) -> bool {
        self.slot.turn_open || self.is_responding()
    }

    pub(super) fn forget_responses(&mut self) {
        self.slot = Slot::default();
    }

    /// A response was asked for on another way.
    pub(super) fn expect_response(&mut self) {
        self.slot.asked = true;
    }
}
