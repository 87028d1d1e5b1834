//! The one response slot (C13). Core; used by `Call`, through which everybody asks: `Call::want`.
//!
//! A conversation has at most one response at a time, and a `response.create` that comes too early is refused. So a wish
//! waits for `response.done`, wishes of the same kind are one, and one that was refused all the same (the server began a
//! response of its own at that moment) is kept and sent again.
//!
//! ```text
//!           want: create             response.created
//!   Free ───────────────▶ Requested ──────────────────▶ Active ──┐
//!    ▲ ▲                     │  │  refused: one is active   ▲      │ response.done: the next wish, or Free
//!    │ └──── other refusal ──┘  └───────(id unknown)────────┘      │
//!    └─────────────────────────────────────────────────────────────┘
//! ```
//!
//! A response that the server begins by itself goes from anywhere to `Active`. While the server owes us an answer of which
//! we know no id, `limit::RESPONSE_DEADLINE` runs; of one that we know, `limit::RESPONSE_SILENCE` since its last event:
//! nothing waits for ever.

use crate::base::id::ResponseId;
use crate::proto::realtime::client_event;
use std::collections::VecDeque;

/// What a response is wanted for. At most one wish of each waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// The results of tools are there.
    Tools,
    /// The agent begins.
    Greeting,
    /// The caller is silent.
    Nudge,
    /// The call is to end with a word.
    Goodbye,
    /// The caller wrote or pressed something.
    Text,
    /// An answer that a lost session did not give.
    Owed,
    /// A response that failed, or did not come.
    Again,
}

impl Why {
    /// What `response.metadata` carries, so that our own responses are known.
    pub fn label(self) -> &'static str {
        match self {
            Why::Tools => "tools",
            Why::Greeting => "greeting",
            Why::Nudge => "nudge",
            Why::Goodbye => "goodbye",
            Why::Text => "text",
            Why::Owed => "owed",
            Why::Again => "again",
        }
    }
}

/// A wish for a response.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Want {
    /// What for.
    pub why: Why,
    /// In place of the session's instructions; the latest wish of a kind decides.
    pub instructions: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Slot {
    #[default]
    Free,
    Requested,
    /// The id, where we know it.
    Active(Option<ResponseId>),
}

#[derive(Clone, Debug)]
struct Unsure {
    want: Want,
    /// Of its event.
    number: u64,
    /// The response that was done.
    by: Option<ResponseId>,
    /// Nobody had said that it began.
    lone: bool,
}

/// What the ids of our events of this kind begin with.
const CREATE_ID: &str = "vr_create_";
const CANCEL_ID: &str = "vr_cancel_";

/// The slot, and who waits for it.
#[derive(Clone, Debug, Default)]
pub struct Responses {
    slot: Slot,
    /// In the slot and not yet answered.
    asked: Option<Want>,
    waiting: VecDeque<Want>,
    /// The active one was cancelled by us.
    cancelled: bool,
    /// Was asked for when a response without our word was done: answered by that one, or still to be refused.
    unsure: Option<Unsure>,
    /// The server says our word back, so a response without it is not ours. Learned from the first that does.
    echoes: bool,
    last_done: Option<ResponseId>,
    created: u64,
    /// What the active one answers, where we asked for it.
    answering: Option<Want>,
    /// The one that was done last, until `take_ended`: what it answered.
    ended: Option<Option<Want>>,
    /// What `Why::Again` is about. Should that begin after all, it is answered.
    again_of: Option<Why>,
}

impl Responses {
    /// A response is wanted. Returns the event to send now, if the slot is free.
    pub fn want(&mut self, want: Want) -> Option<String> {
        self.keep(want);
        self.next()
    }

    /// A wish is no longer one. What was sent stays sent.
    pub fn withdraw(&mut self, why: Why) {
        self.waiting.retain(|want| want.why != why);
    }

    /// Whether a wish of this kind waits, or is in the slot unanswered.
    pub fn is_wanted(&self, why: Why) -> bool {
        self.waiting.iter().chain(&self.asked).any(|w| w.why == why)
    }

    /// Whether one of this kind is in the slot unanswered.
    pub fn is_asked(&self, why: Why) -> bool {
        self.asked.as_ref().is_some_and(|want| want.why == why)
    }

    /// The server says that a response began.
    pub fn on_created(&mut self, id: Option<ResponseId>, tag: Option<&str>) {
        if id.is_some() && id == self.last_done {
            return;
        }
        // Ours when it carries our word. One without may be the server's own, and then ours is about to be refused, so
        // the wish is kept until this one is done.
        if let Some(tag) = tag {
            self.echoes = true;
            let is = |want: &Want| want.why.label() == tag;
            let answers_newer = self.asked.as_ref().is_some_and(is);
            // The older one is answered only now: the response that was done carried no word, so it was not ours. Where nobody
            // had announced that, it may have been; then the newer is answered, where both are of a kind.
            // Is it neither's, then it is the answer to one that was asked for before both, and they are still to be answered.
            let older = self
                .unsure
                .take_if(|unsure| is(&unsure.want) || answers_newer)
                .filter(|unsure| is(&unsure.want));
            let again = self.again_of.take_if(|of| of.label() == tag);
            if again.is_some() {
                // Late, and there all the same: it is not wanted a second time.
                self.withdraw(Why::Again);
            }
            match older {
                Some(older) => {
                    if older.lone && self.is_asked(older.want.why) {
                        self.asked = None;
                    }
                    self.answering = Some(older.want);
                }
                None => self.answering = self.asked.take(),
            }
        } else {
            self.answering = None;
        }
        self.slot = Slot::Active(id);
        self.cancelled = false;
    }

    /// The server says that a response is done. Whether that was news, and the event to send now.
    pub fn on_done(&mut self, id: Option<ResponseId>) -> (bool, Option<String>) {
        self.ended = None;
        let repeated = id.is_some() && id == self.last_done;
        let ours = match self.slot {
            Slot::Free => false,
            Slot::Active(Some(active)) => id.is_none_or(|id| id == active),
            // A `response.done` without a `response.created` has been seen.
            Slot::Requested | Slot::Active(None) => !repeated,
        };
        if id.is_some() {
            self.last_done = id;
        }
        if !ours {
            return (!repeated, None);
        }
        if self.echoes && self.asked.is_some() && self.slot != Slot::Requested {
            // The server's own came in between. What we asked for is still to be answered.
            self.answering = None;
            self.slot = Slot::Requested;
            self.cancelled = false;
            return (true, None);
        }
        let answered = self.answering.take().or_else(|| self.asked.clone());
        self.ended = Some(answered);
        if let Some(want) = self.asked.take() {
            self.unsure = Some(Unsure {
                want,
                number: self.created,
                by: id,
                lone: self.slot == Slot::Requested,
            });
        }
        self.free();
        (true, self.next())
    }

    /// Whether a refusal may be of something that we asked for, and not of what the server began by itself.
    pub fn expects_refusal(&self, event_id: Option<&str>) -> bool {
        event_id.is_some_and(|id| id.starts_with(CREATE_ID))
            || self.asked.is_some()
            || self.unsure.is_some()
    }

    /// An error came, which may say in words what was in the way. The event to send now; `None` also when it was none of
    /// ours.
    pub fn on_error(
        &mut self,
        code: Option<&str>,
        event_id: Option<&str>,
        message: Option<&str>,
    ) -> Option<String> {
        let names_create = event_id.is_some_and(|id| id.starts_with(CREATE_ID));
        match code {
            Some("conversation_already_has_active_response") => {
                // The error often names no event, but always the response that was in the way.
                let names =
                    |by: &ResponseId| message.is_some_and(|text| text.contains(by.as_str()));
                let of_unsure = |unsure: &mut Unsure| match event_id {
                    Some(id) => {
                        id.strip_prefix(CREATE_ID) == Some(unsure.number.to_string().as_str())
                    }
                    None => self.asked.is_none() || unsure.by.as_ref().is_some_and(names),
                };
                let older = self.unsure.take_if(of_unsure);
                let newer_is_out = older.is_some() && self.slot == Slot::Requested;
                let refused = match older {
                    Some(unsure) => Some(unsure.want),
                    None => self.asked.take(),
                };
                if let Some(want) = refused
                    && !self.waiting.iter().any(|other| other.why == want.why)
                {
                    self.waiting.push_front(want);
                }
                if !matches!(self.slot, Slot::Active(_)) && !newer_is_out {
                    self.slot = Slot::Active(None);
                }
                None
            }
            Some("response_cancel_not_active") => None,
            // Refused for what it says, so it would be again.
            _ if self.slot == Slot::Requested
                && (names_create || code == Some("bad_response_create")) =>
            {
                self.free();
                self.next()
            }
            _ => None,
        }
    }

    /// Whether an answer is owed whose id we do not know: `on_timeout` after `limit::RESPONSE_DEADLINE`.
    pub fn is_owed(&self) -> bool {
        matches!(self.slot, Slot::Requested | Slot::Active(None))
    }

    /// It did not come, or did not go on. The event to send now.
    pub fn on_timeout(&mut self) -> Option<String> {
        match self.slot {
            Slot::Free => return None,
            // Should it be said to be done after all, that is not the next one's end.
            Slot::Active(Some(id)) => self.last_done = Some(id),
            Slot::Requested | Slot::Active(None) => {}
        }
        self.free();
        self.next()
    }

    /// Whether the response that `on_done` was last told of was the active one, and then what it answered, where we asked.
    pub fn take_ended(&mut self) -> Option<Option<Want>> {
        self.ended.take()
    }

    /// What is in the slot now is wanted once more, before all others, and with the same words. Not where others wait: their
    /// answer serves it.
    pub fn keep_for_again(&mut self) {
        if self.waiting.is_empty() {
            let want = match self.slot {
                Slot::Requested => self.asked.clone(),
                _ => self.answering.clone().or_else(|| self.asked.clone()),
            };
            // The next stage of silence comes by itself.
            if want.as_ref().is_none_or(|want| want.why != Why::Nudge) {
                self.ask_again(want);
            }
        }
    }

    /// The same of what `take_ended` said.
    pub fn ask_again(&mut self, want: Option<Want>) {
        self.again_of = want.as_ref().map(|want| want.why);
        self.keep(Want {
            why: Why::Again,
            instructions: want.and_then(|want| want.instructions),
        });
    }

    /// Whether an event that names this response, or none, may be the active one's.
    pub fn is_of_active(&self, id: Option<&str>) -> bool {
        match (&self.slot, id) {
            (Slot::Active(Some(active)), Some(id)) => active.as_str() == id,
            (Slot::Active(Some(_)), None) => true,
            _ => false,
        }
    }

    /// The event that cancels the active response: only where there is one, and only once for each.
    pub fn cancel(&mut self) -> Option<String> {
        let Slot::Active(id) = self.slot else {
            return None;
        };
        if std::mem::replace(&mut self.cancelled, true) {
            return None;
        }
        let event_id = format!("{CANCEL_ID}{}", self.created);
        let id = id.as_ref().map(ResponseId::as_str);
        Some(client_event::response_cancel(id, &event_id))
    }

    /// The active response.
    pub fn active(&self) -> Option<ResponseId> {
        match self.slot {
            Slot::Active(id) => id,
            _ => None,
        }
    }

    /// Whether the server works, or is asked to, on a response.
    pub fn is_busy(&self) -> bool {
        self.slot != Slot::Free
    }

    /// The session is gone, with what it was doing. What waits still waits: `resume` when the next one is ready.
    pub fn on_session_lost(&mut self) {
        self.unsure = None;
        self.ended = None;
        self.again_of = None;
        // What is said with words of its own can't be made good by another answer.
        let has_words = |want: &mut Want| want.why == Why::Goodbye;
        if self.slot == Slot::Requested
            && let Some(want) = self.asked.take_if(has_words)
        {
            self.waiting.push_front(want);
        }
        self.free();
    }

    /// A wish for later: `resume` asks.
    pub fn keep(&mut self, want: Want) {
        match self.waiting.iter_mut().find(|other| other.why == want.why) {
            Some(other) => *other = want,
            None => self.waiting.push_back(want),
        }
    }

    /// Whether any wish waits.
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Takes away the wishes that one answer to the whole conversation fulfils; one of them.
    pub fn take_answers(&mut self) -> Option<Want> {
        let order = [Why::Text, Why::Tools, Why::Again, Why::Owed];
        let place = |want: &Want| order.iter().position(|why| *why == want.why);
        let best = self.waiting.iter().filter(|want| place(want).is_some());
        let best = best.min_by_key(|want| place(want)).cloned();
        self.waiting.retain(|want| place(want).is_none());
        best
    }

    /// The next session is ready. The event to send now.
    pub fn resume(&mut self) -> Option<String> {
        self.next()
    }

    fn free(&mut self) {
        self.slot = Slot::Free;
        self.asked = None;
        self.answering = None;
        self.cancelled = false;
    }

    fn next(&mut self) -> Option<String> {
        #[cfg(feature = "planted-bugs")]
        let hasty = super::planted::is(super::planted::Planted::CreateTooEarly);
        #[cfg(not(feature = "planted-bugs"))]
        let hasty = false;
        if self.slot != Slot::Free && !hasty {
            return None;
        }
        let want = self.waiting.pop_front()?;
        self.created += 1;
        let event = client_event::response_create(
            want.instructions.as_deref(),
            Some(want.why.label()),
            &format!("{CREATE_ID}{}", self.created),
        );
        self.slot = Slot::Requested;
        self.asked = Some(want);
        Some(event)
    }
}

#[cfg(test)]
mod tests;
