//! The carrier's playback buffer: what the caller really heard, and when.

use std::collections::VecDeque;

/// One byte of PCMU, microseconds.
const BYTE: u64 = 125;

enum Entry {
    Audio { item: usize, left: u64 },
    Mark(String),
}

/// Plays in real time what came, in order.
#[derive(Default)]
pub struct Playback {
    queue: VecDeque<Entry>,
    /// When the front entry's playing began.
    head: u64,
    /// When the last audio ended.
    pub idle_since: u64,
    /// Played bytes by item.
    played: Vec<u64>,
}

impl Playback {
    pub fn audio(&mut self, item: usize, bytes: u64, now: u64) {
        self.begin(now);
        self.queue.push_back(Entry::Audio { item, left: bytes });
    }

    pub fn mark(&mut self, name: String, now: u64) {
        self.begin(now);
        self.queue.push_back(Entry::Mark(name));
    }

    fn begin(&mut self, now: u64) {
        if self.queue.is_empty() {
            self.head = now;
        }
    }

    pub fn played(&self, item: usize) -> u64 {
        self.played.get(item).copied().unwrap_or(0)
    }

    /// Bytes still to be played.
    pub fn waiting(&self) -> u64 {
        self.queue
            .iter()
            .map(|entry| match entry {
                Entry::Audio { left, .. } => *left,
                Entry::Mark(_) => 0,
            })
            .sum()
    }

    fn heard(&mut self, item: usize, bytes: u64) {
        if self.played.len() <= item {
            self.played.resize(item + 1, 0);
        }
        self.played[item] += bytes;
    }

    /// Plays up to now; the marks that were passed, each with its time.
    pub fn advance(&mut self, now: u64) -> Vec<(u64, String)> {
        let mut marks = Vec::new();
        while let Some(entry) = self.queue.pop_front() {
            match entry {
                Entry::Mark(name) => marks.push((self.head, name)),
                Entry::Audio { item, left } => {
                    let fits = now.saturating_sub(self.head) / BYTE;
                    let bytes = left.min(fits);
                    self.heard(item, bytes);
                    self.head += bytes * BYTE;
                    if bytes < left {
                        let left = left - bytes;
                        self.queue.push_front(Entry::Audio { item, left });
                        return marks;
                    }
                    self.idle_since = self.head;
                }
            }
        }
        marks
    }

    /// When the next mark is passed.
    pub fn next(&self) -> Option<u64> {
        let mut at = self.head;
        for entry in &self.queue {
            match entry {
                Entry::Audio { left, .. } => at += left * BYTE,
                Entry::Mark(_) => return Some(at),
            }
        }
        None
    }

    /// Everything goes; the marks among it come back at once.
    pub fn clear(&mut self, now: u64) -> Vec<String> {
        if self.waiting() > 0 {
            self.idle_since = now;
        }
        std::mem::take(&mut self.queue)
            .into_iter()
            .filter_map(|entry| match entry {
                Entry::Mark(name) => Some(name),
                Entry::Audio { .. } => None,
            })
            .collect()
    }
}
