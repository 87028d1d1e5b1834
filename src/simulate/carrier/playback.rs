//! The carrier's playback queue: audio plays at real time, marks come back when what was before them
//! has played. Pure.

use crate::base::time::Mono;
use std::collections::VecDeque;
use std::time::Duration;

/// One byte of PCMU plays this long, ns.
const NANOS_PER_BYTE: u64 = 125_000;

/// What waits to be heard on one stream.
#[derive(Debug, Default)]
pub struct Playback {
    /// When the last queued audio will have played; in the past when the line is quiet.
    until: Mono,
    /// Marks with the moment at which the audio before them has played; moments never fall.
    marks: VecDeque<(Mono, String)>,
    played_or_queued_bytes: u64,
    cut_bytes: u64,
}

impl Playback {
    /// Queues audio behind what is there.
    pub fn queue_audio(&mut self, bytes: u64, now: Mono) {
        self.until = self.until.max(now) + Duration::from_nanos(bytes * NANOS_PER_BYTE);
        self.played_or_queued_bytes += bytes;
    }

    /// Queues a mark behind the audio that is there; with none it is due at once.
    pub fn queue_mark(&mut self, name: String, now: Mono) {
        self.marks.push_back((self.until.max(now), name));
    }

    /// The next mark whose audio has played.
    pub fn poll_mark(&mut self, now: Mono) -> Option<String> {
        if self.marks.front()?.0 > now {
            return None;
        }
        self.marks.pop_front().map(|(_, name)| name)
    }

    /// When the next mark is due.
    pub fn next_mark(&self) -> Option<Mono> {
        self.marks.front().map(|(at, _)| *at)
    }

    /// Empties the queue: what has not played is cut, and every pending mark comes back now.
    pub fn clear(&mut self, now: Mono) {
        let left = self.until.since(now).as_nanos() as u64;
        self.cut_bytes += left / NANOS_PER_BYTE;
        self.until = self.until.min(now);
        for (at, _) in &mut self.marks {
            *at = (*at).min(now);
        }
    }

    /// Whether everything has played and every mark is back.
    pub fn is_idle(&self, now: Mono) -> bool {
        self.until <= now && self.marks.is_empty()
    }

    /// How long what is queued will still play.
    pub fn left(&self, now: Mono) -> Duration {
        self.until.since(now)
    }

    /// Marks that wait.
    pub fn pending_marks(&self) -> usize {
        self.marks.len()
    }

    /// Bytes that `clear` took away.
    pub fn cut_bytes(&self) -> u64 {
        self.cut_bytes
    }

    /// Bytes that the caller has heard by now.
    pub fn heard_bytes(&self, now: Mono) -> u64 {
        let left = self.left(now).as_nanos() as u64 / NANOS_PER_BYTE;
        self.played_or_queued_bytes - self.cut_bytes - left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Mono {
        Mono(ms * 1_000_000)
    }

    #[test]
    fn marks_come_back_in_playback_time() {
        let mut playback = Playback::default();
        playback.queue_audio(1600, ms(100));
        playback.queue_mark("a".into(), ms(101));
        playback.queue_audio(800, ms(102));
        playback.queue_mark("b".into(), ms(102));
        assert_eq!(playback.next_mark(), Some(ms(300)));
        assert_eq!(playback.poll_mark(ms(299)), None);
        assert_eq!(playback.heard_bytes(ms(200)), 800);
        assert_eq!(playback.poll_mark(ms(300)), Some("a".into()));
        assert_eq!(playback.poll_mark(ms(399)), None);
        assert_eq!(playback.poll_mark(ms(400)), Some("b".into()));
        assert!(playback.is_idle(ms(400)));
    }

    #[test]
    fn a_mark_with_nothing_before_it_comes_back_at_once() {
        let mut playback = Playback::default();
        playback.queue_mark("a".into(), ms(5));
        assert_eq!(playback.poll_mark(ms(5)), Some("a".into()));
    }

    #[test]
    fn clear_cuts_the_audio_and_returns_every_mark() {
        let mut playback = Playback::default();
        playback.queue_audio(8000, ms(0));
        playback.queue_mark("a".into(), ms(0));
        playback.queue_mark("b".into(), ms(0));
        playback.clear(ms(250));
        assert_eq!(playback.poll_mark(ms(250)), Some("a".into()));
        assert_eq!(playback.poll_mark(ms(250)), Some("b".into()));
        assert_eq!(
            (playback.cut_bytes(), playback.heard_bytes(ms(250))),
            (6000, 2000)
        );
        // What comes after plays at once.
        playback.queue_audio(800, ms(260));
        playback.queue_mark("c".into(), ms(260));
        assert_eq!(playback.next_mark(), Some(ms(360)));
    }

    #[test]
    fn silence_between_answers_is_not_played_time() {
        let mut playback = Playback::default();
        playback.queue_audio(800, ms(0));
        playback.queue_audio(800, ms(1000));
        assert_eq!(playback.left(ms(1000)), Duration::from_millis(100));
        assert_eq!(playback.heard_bytes(ms(2000)), 1600);
    }
}
