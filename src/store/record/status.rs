//! How far a call is: one machine, and the vocabularies of three older systems as views of it. Core.
//!
//! ```text
//!   initiated → dialing → ringing → answered ─┬→ completed
//!       └─────────┴──────────┴────────────────┴→ failed · busy · no_answer · missed · canceled
//! ```
//!
//! A call only ever moves to the right, and an end is final: carriers' status callbacks come late, twice and out of order.

use serde::{Deserialize, Serialize};

/// The fine value. Its order is the order of the machine; all ends stand behind everything that is live.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It is known; nothing has been dialled or has rung.
    #[default]
    Initiated,
    /// The carrier was asked to dial.
    Dialing,
    /// It rings.
    Ringing,
    /// Somebody took it: the stream runs, or is about to.
    Answered,
    /// It was held and ended in order.
    Completed,
    /// Something broke.
    Failed,
    /// The called side was busy.
    Busy,
    /// Nobody took it.
    NoAnswer,
    /// Somebody called, and it was not taken in time.
    Missed,
    /// Whoever began it gave it up before it was taken.
    Canceled,
}

/// The coarse value that S4 shows as `status`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Not over.
    Active,
    /// Over, in order.
    Completed,
    /// Over, and not as it should.
    Failed,
}

/// Some phases: what a filter lets through.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Phases(u16);

impl Phase {
    /// All of them, in order.
    pub const ALL: [Phase; 10] = [
        Phase::Initiated,
        Phase::Dialing,
        Phase::Ringing,
        Phase::Answered,
        Phase::Completed,
        Phase::Failed,
        Phase::Busy,
        Phase::NoAnswer,
        Phase::Missed,
        Phase::Canceled,
    ];

    /// Whether nothing follows any more.
    pub fn is_over(self) -> bool {
        self >= Phase::Completed
    }

    /// The phase after a report of `reported`: never an earlier one, and never another end.
    pub fn advance(self, reported: Phase) -> Phase {
        if self.is_over() {
            self
        } else {
            self.max(reported)
        }
    }

    /// `status`, in S4's three values.
    pub fn status(self) -> Status {
        match self {
            Phase::Initiated | Phase::Dialing | Phase::Ringing | Phase::Answered => Status::Active,
            Phase::Completed => Status::Completed,
            _ => Status::Failed,
        }
    }

    /// S1's two values: on the line, or not any more.
    pub fn s1(self) -> &'static str {
        if self.is_over() {
            "completed"
        } else {
            "in-progress"
        }
    }

    /// S2's eight values.
    pub fn s2(self) -> &'static str {
        match self {
            Phase::Initiated => "INITIATED",
            Phase::Dialing => "DIALING",
            Phase::Ringing => "RINGING",
            Phase::Answered => "ANSWERED",
            Phase::Completed => "COMPLETED",
            Phase::Failed => "FAILED",
            // S2 has no word for a busy line: nobody answered.
            Phase::Busy | Phase::NoAnswer => "NO_ANSWER",
            Phase::Missed | Phase::Canceled => "MISSED",
        }
    }

    /// Our own word: `phase` in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Initiated => "initiated",
            Phase::Dialing => "dialing",
            Phase::Ringing => "ringing",
            Phase::Answered => "answered",
            Phase::Completed => "completed",
            Phase::Failed => "failed",
            Phase::Busy => "busy",
            Phase::NoAnswer => "no_answer",
            Phase::Missed => "missed",
            Phase::Canceled => "canceled",
        }
    }

    /// What a carrier's `CallStatus` means (Twilio, "Call resource", read 2026-03-01); `None` when we don't know the word.
    pub fn from_carrier(word: &str) -> Option<Phase> {
        Some(match word {
            "queued" => Phase::Initiated,
            "initiated" => Phase::Dialing,
            "ringing" => Phase::Ringing,
            "in-progress" | "answered" => Phase::Answered,
            "completed" => Phase::Completed,
            "busy" => Phase::Busy,
            "failed" => Phase::Failed,
            "no-answer" => Phase::NoAnswer,
            "canceled" => Phase::Canceled,
            _ => return None,
        })
    }

    /// The end that a call's `endReason` means, for a call that had come to `self`.
    pub fn end(self, reason: &str) -> Phase {
        let to = match reason {
            "caller_hung_up" if self < Phase::Answered => Phase::Missed,
            "caller_hung_up"
            | "ended_by_model"
            | "silence"
            | "max_duration"
            | "hung_up_by_operator"
            | "transferred"
            | "drained" => Phase::Completed,
            _ => Phase::Failed,
        };
        self.advance(to)
    }
}

impl Status {
    /// As S4 spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Active => "active",
            Status::Completed => "completed",
            Status::Failed => "failed",
        }
    }
}

impl Phases {
    /// Everything.
    pub const ALL: Phases = Phases((1 << Phase::ALL.len()) - 1);

    /// What a filter's word means, in whichever vocabulary; `None` when no system has it.
    ///
    /// S2's words are in capitals. In small letters `completed` and `failed` are S4's: where S1's `completed` is anything
    /// that is over, S4's is the narrower and the one that the API shows.
    pub fn of_word(word: &str) -> Option<Phases> {
        let of = |fits: &dyn Fn(Phase) -> bool| {
            let found = Phase::ALL.into_iter().filter(|phase| fits(*phase));
            Phases(found.fold(0, |bits, phase| bits | 1 << phase as u16))
        };
        let found = match word {
            "active" | "in-progress" => of(&|phase| !phase.is_over()),
            "completed" => of(&|phase| phase.status() == Status::Completed),
            "failed" => of(&|phase| phase.status() == Status::Failed),
            _ => of(&|phase| phase.s2() == word || phase.as_str() == word),
        };
        if found.0 != 0 {
            return Some(found);
        }
        let phase = Phase::from_carrier(word)?;
        Some(of(&|other| other == phase))
    }

    /// Whether `phase` is among them.
    pub fn contains(self, phase: Phase) -> bool {
        self.0 & 1 << phase as u16 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_order_of_the_table_is_the_order_of_the_machine() {
        for (n, phase) in Phase::ALL.into_iter().enumerate() {
            assert_eq!(phase as usize, n);
            let word = serde_json::to_value(phase).unwrap();
            assert_eq!(word, phase.as_str());
        }
    }

    #[test]
    fn every_vocabulary_is_understood_by_a_filter() {
        let filter = |word: &str| {
            let phases = Phases::of_word(word).unwrap_or_default();
            let found = Phase::ALL.into_iter().filter(|p| phases.contains(*p));
            found.collect::<Vec<_>>()
        };
        use Phase::*;
        let live = vec![Initiated, Dialing, Ringing, Answered];
        assert_eq!(filter("in-progress"), live);
        assert_eq!(filter("active"), live);
        assert_eq!(filter("completed"), [Completed]);
        assert_eq!(filter("COMPLETED"), [Completed]);
        assert_eq!(filter("failed"), [Failed, Busy, NoAnswer, Missed, Canceled]);
        assert_eq!(filter("FAILED"), [Failed]);
        assert_eq!(filter("NO_ANSWER"), [Busy, NoAnswer]);
        assert_eq!(filter("MISSED"), [Missed, Canceled]);
        assert_eq!(filter("RINGING"), [Ringing]);
        assert_eq!(filter("ringing"), [Ringing]);
        assert_eq!(filter("no-answer"), [NoAnswer]);
        assert_eq!(filter("queued"), [Initiated]);
        assert_eq!(Phases::of_word("sleeping"), None);
        assert_eq!(Phases::of_word(""), None);
        assert!(Phase::ALL.into_iter().all(|p| Phases::ALL.contains(p)));
    }

    #[test]
    fn each_phase_has_a_word_in_each_vocabulary_and_finds_itself_by_it() {
        for phase in Phase::ALL {
            for word in [phase.s2(), phase.as_str(), phase.status().as_str()] {
                assert!(Phases::of_word(word).is_some_and(|found| found.contains(phase)));
            }
            assert_eq!(phase.s1() == "completed", phase.is_over());
        }
    }

    #[test]
    fn a_reason_decides_the_end() {
        assert_eq!(Phase::Answered.end("caller_hung_up"), Phase::Completed);
        assert_eq!(Phase::Ringing.end("caller_hung_up"), Phase::Missed);
        assert_eq!(Phase::Answered.end("restart"), Phase::Failed);
        assert_eq!(Phase::Busy.end("caller_hung_up"), Phase::Busy);
    }

    proptest! {
        #[test]
        fn a_status_never_goes_backward_and_an_end_is_final(
            reports in prop::collection::vec(0..Phase::ALL.len(), 0..20),
        ) {
            let mut phase = Phase::default();
            for n in reports {
                let next = phase.advance(Phase::ALL[n]);
                prop_assert!(next >= phase);
                prop_assert!(!phase.is_over() || next == phase);
                // The same report again changes nothing.
                prop_assert_eq!(next.advance(Phase::ALL[n]), next);
                phase = next;
            }
        }
    }
}
