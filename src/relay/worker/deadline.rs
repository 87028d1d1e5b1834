//! Every call's next deadline, earliest first.
//!
//! A heap with lazy entries instead of a wheel: a call's deadline moves later with almost every frame (the pad
//! after a silence, the dead-peer ping), and moving later costs nothing here. The old entry stays, and when it
//! comes up the call is asked again. So a call has about one entry, and a frame touches none.

use crate::base::id::SlotKey;
use crate::base::time::Mono;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The deadlines of one worker.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    heap: BinaryHeap<Reverse<(Mono, SlotKey)>>,
}

impl Deadlines {
    /// Makes sure that `key` comes up at `at`. `armed` is the earliest entry that stands for this call.
    pub(super) fn arm(&mut self, key: SlotKey, at: Option<Mono>, armed: &mut Option<Mono>) {
        let Some(at) = at else { return };
        if armed.is_some_and(|standing| standing <= at) {
            return;
        }
        *armed = Some(at);
        self.heap.push(Reverse((at, key)));
    }

    /// The earliest entry.
    pub(super) fn next(&self) -> Option<Mono> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// Takes an entry that is due.
    pub(super) fn pop_due(&mut self, now: Mono) -> Option<(Mono, SlotKey)> {
        if self.next()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse(entry)| entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: SlotKey = SlotKey {
        index: 1,
        generation: 1,
    };

    #[test]
    fn a_deadline_that_moves_later_adds_no_entry() {
        let mut deadlines = Deadlines::default();
        let mut armed = None;
        for at in 10..1000 {
            deadlines.arm(KEY, Some(Mono(at)), &mut armed);
        }
        assert_eq!(deadlines.heap.len(), 1);
        assert_eq!(deadlines.pop_due(Mono(9)), None);
        assert_eq!(deadlines.pop_due(Mono(10)), Some((Mono(10), KEY)));
    }

    #[test]
    fn a_deadline_that_moves_earlier_comes_up_first() {
        let mut deadlines = Deadlines::default();
        let mut armed = None;
        deadlines.arm(KEY, Some(Mono(50)), &mut armed);
        deadlines.arm(KEY, Some(Mono(20)), &mut armed);
        assert_eq!(deadlines.next(), Some(Mono(20)));
        assert_eq!(armed, Some(Mono(20)));
    }
}
