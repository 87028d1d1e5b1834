//! Who speaks first, and what the agent is asked to say on its own account. Core; part of `Call`.

#[cfg(feature = "planted-bugs")]
use super::planted::{self, Planted};
use super::policy::{FirstSpeaker, instructions};
use super::responses::{Want, Why};
use super::state::Phase;
use super::timer::Deadline;
use super::{Call, Output};
use crate::base::time::Now;
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

impl Call {
    /// The first session is ready.
    pub(super) fn begin(&mut self, now: Now, out: &mut impl Output) {
        if self.was_warned() {
            self.on_warning(out);
        }
        match self.policy.first_speaker {
            FirstSpeaker::Agent => {
                self.respond(Why::Greeting, &Wish::Greeting, now, out);
                #[cfg(feature = "planted-bugs")]
                if planted::is(Planted::GreetingTwice) {
                    self.respond(Why::Greeting, &Wish::Greeting, now, out);
                }
            }
            // Already due: the set-up took longer than the agent was to wait.
            FirstSpeaker::AfterMs(_) if !self.timers.is_set(Deadline::FirstWords) => {
                self.on_first_words(now, out);
            }
            FirstSpeaker::AfterMs(_) | FirstSpeaker::Caller => {}
        }
        self.flush_keys(now, out);
        self.watch_silence(now);
    }

    /// `start` has come.
    pub(super) fn arm_first_words(&mut self, now: Now) {
        if let FirstSpeaker::AfterMs(ms) = self.policy.first_speaker {
            let at = now.mono + Duration::from_millis(ms.into());
            self.timers.set(Deadline::FirstWords, at);
        }
    }

    /// Whether the first words are the caller's for a while yet: nothing that silence leads to comes before the agent's own.
    pub(super) fn waits_to_begin(&self) -> bool {
        !self.anyone_spoke && self.timers.is_set(Deadline::FirstWords)
    }

    /// `Deadline::FirstWords`: the caller has said nothing. Before the first session is ready `begin` does it; between two
    /// sessions the wish waits for the next, unless that one is asked for the greeting anyway.
    pub(super) fn on_first_words(&mut self, now: Now, out: &mut impl Output) {
        #[cfg(feature = "planted-bugs")]
        if planted::is(Planted::GreetingIntoSpeech) {
            self.anyone_spoke = false;
        }
        let waits = self.upstream.was_ready() && !self.upstream.owes();
        if (self.phase == Phase::Ready || waits) && !self.anyone_spoke {
            self.respond(Why::Greeting, &Wish::Greeting, now, out);
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
    pub(super) fn respond(&mut self, why: Why, wish: &Wish, now: Now, out: &mut impl Output) {
        let instructions = self.wish_text(wish);
        self.want(Want { why, instructions }, now, out);
    }

    /// What goes in place of the session's instructions.
    pub(super) fn wish_text(&self, wish: &Wish) -> Option<String> {
        let session = self.settings.instructions.as_str();
        match wish {
            Wish::Answer => None,
            Wish::Greeting => self.policy.greeting_instructions(session),
            Wish::Say(text) => Some(instructions(session, text, "")),
        }
    }

    /// Whether the model owes an answer: the caller's turn has none, or a response is not at its end, or is to be asked for
    /// again.
    pub(super) fn owes_an_answer(&self) -> bool {
        let answers = self.settings.turn_detection.create_response;
        !self.speech_open
            && (self.turn_open && answers || self.responses.is_busy() || self.answers.will_ask())
    }
}
