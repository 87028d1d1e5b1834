//! When the disk is asked. Core: it is told the time and what happened, and says when a commit is due.
//!
//! Many entries share one write and one fdatasync. Nobody waits longer than 200 ms for them, and somebody who waits for an
//! entry to be durable does not wait at all. After a commit that failed the pauses grow: a full disk is not asked in a loop.

use crate::base::limit::{
    JOURNAL_BATCH_BYTES, JOURNAL_BATCH_ENTRIES, JOURNAL_COMMIT_INTERVAL, JOURNAL_RETRY_MAX,
    JOURNAL_RETRY_MIN,
};
use crate::base::time::Mono;
use std::time::Duration;

/// The state between commits. The writer's loop tells it of each append and asks it before it waits for more.
#[derive(Clone, Copy, Debug, Default)]
pub struct Committer {
    /// When the oldest waiting entry was appended.
    oldest: Option<Mono>,
    entries: u32,
    bytes: u64,
    /// Somebody wants to know when what waits is durable.
    awaited: bool,
    /// After a failure: not before.
    not_before: Option<Mono>,
    pause: Duration,
}

impl Committer {
    /// Nothing waits.
    pub fn new() -> Self {
        Self::default()
    }

    /// An entry of `bytes` bytes was appended.
    pub fn on_append(&mut self, now: Mono, bytes: usize) {
        self.oldest.get_or_insert(now);
        self.entries = self.entries.saturating_add(1);
        self.bytes = self.bytes.saturating_add(bytes as u64);
    }

    /// Somebody waits for what was appended to be durable.
    pub fn on_await(&mut self) {
        self.awaited = true;
    }

    /// The commit was done: nothing waits any more.
    pub fn on_commit(&mut self) {
        *self = Self::new();
    }

    /// The commit failed: everything still waits, and the disk has a pause.
    pub fn on_failure(&mut self, now: Mono) {
        self.pause = (self.pause * 2).clamp(JOURNAL_RETRY_MIN, JOURNAL_RETRY_MAX);
        self.not_before = Some(now + self.pause);
    }

    /// When the next commit is due: from then on `commit` should be called. `None` while nothing waits. A time that has
    /// passed means at once.
    pub fn due(&self) -> Option<Mono> {
        let oldest = self.oldest?;
        let at_once = self.awaited
            || self.entries >= JOURNAL_BATCH_ENTRIES
            || self.bytes >= JOURNAL_BATCH_BYTES;
        let due = if at_once {
            oldest
        } else {
            oldest + JOURNAL_COMMIT_INTERVAL
        };
        Some(self.not_before.map_or(due, |pause| due.max(pause)))
    }

    /// Whether a commit is due at `now`.
    pub fn is_due(&self, now: Mono) -> bool {
        self.due().is_some_and(|due| due <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn nothing_is_due_while_nothing_waits() {
        let mut policy = Committer::new();
        policy.on_await();
        assert_eq!(policy.due(), None);
        policy.on_append(Mono(5), 10);
        policy.on_commit();
        assert_eq!(policy.due(), None);
    }

    #[test]
    fn an_entry_waits_no_longer_than_the_interval_whatever_follows_it() {
        let mut policy = Committer::new();
        policy.on_append(Mono(7), 10);
        policy.on_append(Mono(150 * MS), 10);
        assert_eq!(policy.due(), Some(Mono(200 * MS + 7)));
        assert!(!policy.is_due(Mono(200 * MS)));
        assert!(policy.is_due(Mono(200 * MS + 7)));
    }

    #[test]
    fn a_full_batch_is_due_at_once() {
        let mut policy = Committer::new();
        for _ in 1..JOURNAL_BATCH_ENTRIES {
            policy.on_append(Mono(3), 10);
            assert!(!policy.is_due(Mono(3)));
        }
        policy.on_append(Mono(3), 10);
        assert!(policy.is_due(Mono(3)));
        let mut policy = Committer::new();
        policy.on_append(Mono(3), JOURNAL_BATCH_BYTES as usize);
        assert!(policy.is_due(Mono(3)));
    }

    #[test]
    fn whoever_waits_is_not_kept_waiting() {
        let mut policy = Committer::new();
        policy.on_append(Mono(3), 10);
        policy.on_await();
        assert!(policy.is_due(Mono(3)));
        // And whoever comes before the entry that he waits for, too.
        policy.on_commit();
        policy.on_await();
        policy.on_append(Mono(9), 10);
        assert!(policy.is_due(Mono(9)));
    }

    #[test]
    fn a_failing_disk_is_left_alone_for_growing_pauses_even_when_somebody_waits() {
        let mut policy = Committer::new();
        policy.on_append(Mono(0), 10);
        policy.on_await();
        let mut now = Mono(0);
        let mut pauses = Vec::new();
        for _ in 0..8 {
            assert!(policy.is_due(now));
            policy.on_failure(now);
            let due = policy.due().expect("it still waits");
            pauses.push((due - now).as_millis());
            now = due;
        }
        assert_eq!(pauses, [200, 400, 800, 1600, 3200, 5000, 5000, 5000]);
        policy.on_commit();
        policy.on_append(now, 10);
        policy.on_await();
        assert!(policy.is_due(now));
    }
}
