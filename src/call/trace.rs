//! Where the time of a turn went: from the end of the caller's speech to the first sound that was heard in answer. Core;
//! part of `Call`.
//!
//! ```text
//! speech_stopped ── response.created ── first delta ── first byte on the carrier's wire ── first mark back
//! ```
//!
//! All times count from when `speech_stopped` was handled. The model's own wait before it (`silence_duration_ms`) is
//! before our first reading and not in them.

use crate::base::time::Mono;
use std::collections::VecDeque;
use std::time::Duration;

/// Turns kept of a live call.
pub const TURNS_KEPT: usize = 8;

/// One turn's times since the caller stopped; `None`: that did not come (yet).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Turn {
    /// When the caller stopped.
    pub stopped: Mono,
    /// `response.created`.
    pub created: Option<Duration>,
    /// The first audio delta.
    pub first_delta: Option<Duration>,
    /// The first byte of the message with it was given to a send.
    pub first_byte: Option<Duration>,
    /// The first mark behind it came back.
    pub first_mark: Option<Duration>,
}

/// The stages with their names, as a metric's label.
pub const STAGES: [&str; 4] = ["created", "first_delta", "first_byte", "first_mark"];

impl Turn {
    /// Each stage by name (`STAGES`), with its time.
    pub fn stages(&self) -> impl Iterator<Item = (&'static str, Duration)> {
        STAGES
            .into_iter()
            .zip(self.times())
            .filter_map(|(name, time)| Some((name, time?)))
    }

    fn times(&self) -> [Option<Duration>; STAGES.len()] {
        [
            self.created,
            self.first_delta,
            self.first_byte,
            self.first_mark,
        ]
    }
}

/// The turns of one call.
#[derive(Clone, Debug, Default)]
pub(super) struct Trace {
    /// Oldest first; the newest may still be open.
    turns: VecDeque<Turn>,
    open: bool,
    /// The first delta's item, as marks count them.
    item: u32,
    /// The first delta was queued, and where it stands on the wire is not known yet.
    wants_position: bool,
    /// The bytes of the carrier's wire before its frame, while that waits.
    position: Option<u64>,
    /// Of the turns that are over.
    summary: TurnSummary,
}

/// The times of many turns, by stage (`STAGES`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TurnSummary {
    /// Turns.
    pub turns: u32,
    /// How often each stage came, the sum of its times, and the longest.
    stages: [(u32, Duration, Duration); STAGES.len()],
}

impl TurnSummary {
    fn add(&mut self, turn: &Turn) {
        self.turns = self.turns.saturating_add(1);
        for ((count, sum, longest), time) in self.stages.iter_mut().zip(turn.times()) {
            if let Some(time) = time {
                *count = count.saturating_add(1);
                *sum = sum.saturating_add(time);
                *longest = time.max(*longest);
            }
        }
    }

    /// Each stage that came: its name, the mean and the longest time.
    pub fn stages(&self) -> impl Iterator<Item = (&'static str, Duration, Duration)> {
        let stages = STAGES.into_iter().zip(self.stages);
        stages
            .filter(|(_, (count, ..))| *count > 0)
            .map(|(name, (count, sum, longest))| (name, sum / count, longest))
    }
}

impl Trace {
    /// The turns so far, oldest first.
    pub(super) fn turns(&self) -> impl Iterator<Item = &Turn> {
        self.turns.iter()
    }

    /// All turns of the call so far; `None` without any.
    pub(super) fn summary(&self) -> Option<TurnSummary> {
        let mut summary = self.summary;
        if let Some(open) = self.turns.back().filter(|_| self.open) {
            summary.add(open);
        }
        (summary.turns > 0).then_some(summary)
    }

    pub(super) fn stopped(&mut self, now: Mono) {
        if let Some(turn) = self.turns.back().filter(|_| self.open) {
            self.summary.add(turn);
        }
        if self.turns.len() == TURNS_KEPT {
            self.turns.pop_front();
        } else if self.turns.capacity() == 0 {
            self.turns.reserve_exact(TURNS_KEPT);
        }
        self.turns.push_back(Turn {
            stopped: now,
            ..Turn::default()
        });
        self.open = true;
        self.wants_position = false;
        self.position = None;
    }

    fn newest(&mut self) -> Option<&mut Turn> {
        self.turns.back_mut().filter(|_| self.open)
    }

    pub(super) fn created(&mut self, now: Mono) {
        if let Some(turn) = self.newest()
            && turn.created.is_none()
        {
            turn.created = Some(now.since(turn.stopped));
        }
    }

    /// Audio of the item was queued for the carrier.
    pub(super) fn delta(&mut self, item: u32, now: Mono) {
        if let Some(turn) = self.newest()
            && turn.first_delta.is_none()
        {
            turn.first_delta = Some(now.since(turn.stopped));
            self.item = item;
            self.wants_position = true;
        }
    }

    pub(super) fn wants_position(&self) -> bool {
        self.wants_position
    }

    /// How many bytes of the carrier's wire go before the first delta.
    pub(super) fn set_position(&mut self, before: u64) {
        self.wants_position = false;
        self.position = Some(before);
    }

    /// What plays and waits on the carrier's wire was dropped: the first delta with it, unless it has begun.
    pub(super) fn cut(&mut self) {
        self.wants_position = false;
        self.position = None;
    }

    /// So many bytes of the carrier's wire were given to sends.
    pub(super) fn taken(&mut self, taken: u64, now: Mono) {
        if self.position.is_some_and(|before| taken > before) {
            self.position = None;
            if let Some(turn) = self.newest() {
                turn.first_byte = Some(now.since(turn.stopped));
            }
        }
    }

    /// A mark of the item came back: the whole turn, when it was the first.
    pub(super) fn mark(&mut self, item: u32, now: Mono) -> Option<Turn> {
        if item < self.item {
            return None;
        }
        let turn = self.newest()?;
        turn.first_delta?;
        turn.first_mark = Some(now.since(turn.stopped));
        let turn = *turn;
        self.summary.add(&turn);
        self.open = false;
        Some(turn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Mono {
        Mono(ms * 1_000_000)
    }

    #[test]
    fn each_stage_counts_from_the_callers_last_word_and_only_the_first_of_each() {
        let mut trace = Trace::default();
        trace.created(at(1));
        trace.delta(1, at(2));
        assert_eq!(trace.mark(1, at(3)), None, "nobody had spoken");
        trace.stopped(at(100));
        assert_eq!(trace.mark(1, at(110)), None, "the greeting's tail");
        trace.created(at(190));
        trace.delta(2, at(600));
        assert!(trace.wants_position());
        trace.set_position(5_000);
        trace.delta(2, at(650));
        trace.taken(5_000, at(601));
        trace.taken(5_001, at(602));
        trace.taken(9_000, at(650));
        assert_eq!(trace.mark(1, at(700)), None, "an item before it");
        let turn = trace.mark(2, at(850)).expect("complete");
        let ms: Vec<_> = turn
            .stages()
            .map(|(name, time)| (name, time.as_millis()))
            .collect();
        assert_eq!(
            ms,
            [
                ("created", 90),
                ("first_delta", 500),
                ("first_byte", 502),
                ("first_mark", 750)
            ]
        );
        assert_eq!(trace.mark(2, at(900)), None, "once");
    }

    #[test]
    fn a_delta_that_is_cut_before_it_went_out_has_no_first_byte() {
        let mut trace = Trace::default();
        trace.stopped(at(0));
        trace.delta(1, at(1));
        trace.set_position(5_000);
        trace.cut();
        trace.taken(9_000, at(2));
        assert_eq!(trace.turns().next().expect("kept").first_byte, None);
    }

    #[test]
    fn the_summary_counts_every_turn_once_whether_it_was_answered_or_not() {
        let mut trace = Trace::default();
        assert_eq!(trace.summary(), None);
        for (n, ms) in [100, 300].into_iter().enumerate() {
            let begun = n as u64 * 10_000;
            trace.stopped(at(begun));
            trace.created(at(begun + ms));
            trace.delta(1, at(begun + ms));
            trace.mark(1, at(begun + 2 * ms));
        }
        // Never answered, then still open.
        trace.stopped(at(50_000));
        trace.stopped(at(60_000));
        trace.created(at(60_020));
        let summary = trace.summary().expect("turns");
        assert_eq!(summary.turns, 4);
        let ms: Vec<_> = summary
            .stages()
            .map(|(name, mean, longest)| (name, mean.as_millis(), longest.as_millis()))
            .collect();
        assert_eq!(
            ms,
            [
                ("created", 140, 300),
                ("first_delta", 200, 300),
                ("first_mark", 400, 600)
            ]
        );
    }

    #[test]
    fn the_last_turns_are_kept() {
        let mut trace = Trace::default();
        for n in 0..20 {
            trace.stopped(at(n));
        }
        let kept: Vec<_> = trace.turns().map(|turn| turn.stopped).collect();
        assert_eq!(kept, (12..20).map(at).collect::<Vec<_>>());
    }
}
