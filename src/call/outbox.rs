//! Frames waiting to go out on one leg: whole WebSocket frames in order, with their boundaries kept, so that what
//! has not begun to go out can still be cut at a frame. Core; used by `session` alone, and knows nothing of
//! what is in a frame.
//!
//! ```text
//! buf    ░░░░░░░░░░│ frame (begun) │ frame │ frame │ frame │
//!        0        head                                    len
//! ```
//!
//! What plays at the carrier (audio and the marks between it) can be cut: `cut` drops all of it that has not begun to go
//! out, and `push_first` puts a frame before everything that waits. A frame that has begun is always finished.
//!
//! Full means: audio is refused first (`limit::OUTBOX_BYTES_MAX` less a reserve), then control; a close
//! frame always fits. Memory that a burst took is given back once it is over.

use crate::base::limit::OUTBOX_BYTES_MAX;
use std::collections::VecDeque;

/// What audio may not use: marks, pongs and pings still fit when the audio's part is full.
pub const CONTROL_RESERVE: usize = 64 * 1024;
/// Capacity that is never given back: two of the model's usual deltas.
const KEEP_BYTES: usize = 8 * 1024;
/// A burst beyond this is given back as soon as it is out.
const BURST_BYTES: usize = 256 * 1024;
/// After this many times empty without need of the capacity, it is given back.
const QUIET_TURNS: u32 = 64;

/// What a frame is to us: who is refused first, and what a cut drops.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// Refused when the outbox is full.
    Audio,
    /// As `Audio`; alone it may wait for what follows it, to share a send.
    Joining,
    /// Audio that plays at the other end, PCMU bytes. Refused like `Audio`, and cut.
    Playing(u32),
    /// Stands between playing audio. Has the reserve, and is cut.
    Mark,
    /// Has a reserve.
    Control,
    /// A close frame: always taken, and the last.
    Close,
}

/// A waiting frame.
#[derive(Clone, Copy, Debug)]
struct Frame {
    len: u32,
    /// PCMU bytes that play, 0 for a mark; `KEEP` for what a cut leaves.
    playing: u32,
}

/// See `Frame::playing`. No frame holds so much audio.
const KEEP: u32 = u32::MAX;

/// What a cut dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cut {
    /// PCMU bytes.
    pub bytes: u64,
    /// Messages of audio.
    pub frames: u64,
    /// Marks, the last ones that were queued.
    pub marks: usize,
}

/// A leg's waiting frames.
#[derive(Debug, Default)]
pub struct Outbox {
    buf: Vec<u8>,
    /// Bytes of `buf` that are gone: 0 <= head <= buf.len().
    head: usize,
    /// The waiting frames in order; their lengths sum up to `buf.len() - head + begun`.
    frames: VecDeque<Frame>,
    /// Bytes of the first frame that are gone.
    begun: usize,
    /// Most bytes waiting since the outbox was last empty.
    peak: usize,
    quiet: u32,
}

impl Outbox {
    /// Appends one frame of `len` bytes, written by `write` to the end of the buffer. `false`: it is full for this
    /// class, nothing was written.
    pub fn push(&mut self, class: Class, len: usize, write: impl FnOnce(&mut Vec<u8>)) -> bool {
        let bound = match class {
            Class::Audio | Class::Joining | Class::Playing(_) => OUTBOX_BYTES_MAX - CONTROL_RESERVE,
            Class::Control | Class::Mark => OUTBOX_BYTES_MAX,
            Class::Close => usize::MAX,
        };
        let waiting = self.waiting();
        if waiting.saturating_add(len) > bound {
            return false;
        }
        // Moves what waits to the front rather than growing, but only when less is moved than was freed: each byte
        // is moved at most once for each byte that went out.
        if self.head > 0 && self.buf.len() + len > self.buf.capacity() && self.head >= waiting {
            self.buf.copy_within(self.head.., 0);
            self.buf.truncate(waiting);
            self.head = 0;
        }
        let before = self.buf.len();
        write(&mut self.buf);
        debug_assert_eq!(
            self.buf.len() - before,
            len,
            "the frame is as long as announced"
        );
        let len = self.buf.len() - before;
        self.frames.push_back(Frame {
            len: len as u32,
            playing: match class {
                Class::Playing(bytes) => bytes.min(KEEP - 1),
                Class::Mark => 0,
                Class::Audio | Class::Joining | Class::Control | Class::Close => KEEP,
            },
        });
        self.peak = self.peak.max(waiting + len);
        true
    }

    /// Drops what plays or stands between what plays, but for a frame that has begun. That one still goes out, and its
    /// audio is counted no more.
    pub fn cut(&mut self) -> Cut {
        let mut cut = Cut::default();
        let begun = usize::from(self.begun > 0);
        if let Some(first) = self.frames.front_mut().filter(|_| begun > 0) {
            first.playing = KEEP;
        }
        let mut kept = begun;
        let mut from = self.head + self.first_left();
        let mut to = from;
        for i in begun..self.frames.len() {
            let frame = self.frames[i];
            let len = frame.len as usize;
            if frame.playing == KEEP {
                self.buf.copy_within(from..from + len, to);
                to += len;
                self.frames[kept] = frame;
                kept += 1;
            } else {
                cut.bytes += u64::from(frame.playing);
                cut.frames += u64::from(frame.playing > 0);
                cut.marks += usize::from(frame.playing == 0);
            }
            from += len;
        }
        self.frames.truncate(kept);
        self.buf.truncate(to);
        if self.is_empty() {
            self.buf.clear();
            self.head = 0;
            self.rest();
        }
        cut
    }

    /// Puts one frame of `len` bytes, written by `write` to the end of the buffer, before everything that waits and has
    /// not begun. Always taken: for the few messages that can't wait.
    pub fn push_first(&mut self, len: usize, write: impl FnOnce(&mut Vec<u8>)) {
        self.push(Class::Close, len, write);
        let at = self.head + self.first_left();
        let first = usize::from(self.begun > 0);
        if let Some(frame) = self.frames.pop_back() {
            self.buf[at..].rotate_right(frame.len as usize);
            self.frames.insert(first, frame);
        }
    }

    /// What is left of a frame that has begun.
    fn first_left(&self) -> usize {
        match self.frames.front() {
            Some(frame) if self.begun > 0 => frame.len as usize - self.begun,
            _ => 0,
        }
    }

    /// Bytes not taken yet.
    pub fn waiting(&self) -> usize {
        self.buf.len() - self.head
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.head == self.buf.len()
    }

    /// Frames not wholly taken yet.
    pub fn frames(&self) -> usize {
        self.frames.len()
    }

    /// Whole frames from the front, at most `max` bytes; when the first alone is longer, `max` bytes of it. What is
    /// left of a frame that has begun counts as one frame.
    pub fn peek(&self, max: usize) -> &[u8] {
        let mut end = 0;
        for (i, &frame) in self.frames.iter().enumerate() {
            let left = frame.len as usize - if i == 0 { self.begun } else { 0 };
            if end + left > max {
                break;
            }
            end += left;
        }
        if end == 0 {
            end = max.min(self.waiting());
        }
        &self.buf[self.head..self.head + end]
    }

    /// Takes `len` bytes from the front: they are on their way. Returns the PCMU bytes of playing audio in the frames that
    /// are wholly gone with it.
    pub fn consume(&mut self, len: usize) -> u64 {
        debug_assert!(len <= self.waiting());
        let len = len.min(self.waiting());
        self.head += len;
        let mut gone = self.begun + len;
        let mut playing = 0;
        while let Some(&frame) = self.frames.front() {
            if gone < frame.len as usize {
                break;
            }
            gone -= frame.len as usize;
            if frame.playing != KEEP {
                playing += u64::from(frame.playing);
            }
            self.frames.pop_front();
        }
        self.begun = gone;
        if self.is_empty() {
            self.buf.clear();
            self.head = 0;
            self.rest();
        }
        playing
    }

    /// Drops everything, and the memory.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Gives back capacity that is not needed, when the outbox is empty.
    fn rest(&mut self) {
        let capacity = self.buf.capacity();
        if capacity > BURST_BYTES {
            self.shrink(KEEP_BYTES);
        } else if capacity > KEEP_BYTES && self.peak <= capacity / 4 {
            self.quiet += 1;
            if self.quiet >= QUIET_TURNS {
                self.shrink((2 * self.peak).max(KEEP_BYTES));
            }
        } else {
            self.quiet = 0;
        }
        self.peak = 0;
    }

    fn shrink(&mut self, bytes: usize) {
        self.buf.shrink_to(bytes);
        self.frames.shrink_to(16);
        self.quiet = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn push(outbox: &mut Outbox, class: Class, byte: u8, len: usize) -> bool {
        outbox.push(class, len, |buf| buf.resize(buf.len() + len, byte))
    }

    #[test]
    fn frames_come_out_whole_and_in_order() {
        let mut outbox = Outbox::default();
        for (i, len) in [3, 4, 5].into_iter().enumerate() {
            assert!(push(&mut outbox, Class::Audio, i as u8, len));
        }
        assert_eq!(outbox.peek(8), [0, 0, 0, 1, 1, 1, 1]);
        outbox.consume(3);
        assert_eq!(outbox.peek(8), [1, 1, 1, 1]);
        outbox.consume(4);
        assert_eq!(outbox.peek(100), [2; 5]);
        outbox.consume(5);
        assert!(outbox.is_empty());
        assert_eq!(outbox.peek(100), b"");
    }

    #[test]
    fn a_frame_longer_than_a_send_is_finished_before_the_next() {
        let mut outbox = Outbox::default();
        push(&mut outbox, Class::Audio, 7, 10);
        push(&mut outbox, Class::Control, 8, 2);
        assert_eq!(outbox.peek(6), [7; 6]);
        outbox.consume(6);
        assert_eq!(outbox.frames(), 2);
        assert_eq!(outbox.peek(5), [7; 4]);
        outbox.consume(4);
        assert_eq!(outbox.peek(6), [8; 2]);
    }

    #[test]
    fn audio_is_refused_first_then_control_and_a_close_never() {
        let mut outbox = Outbox::default();
        while push(&mut outbox, Class::Audio, 1, 60_000) {}
        assert!(outbox.waiting() <= OUTBOX_BYTES_MAX - CONTROL_RESERVE);
        assert!(push(&mut outbox, Class::Control, 2, 100));
        while push(&mut outbox, Class::Control, 2, 1000) {}
        assert!(outbox.waiting() <= OUTBOX_BYTES_MAX);
        assert!(push(&mut outbox, Class::Close, 3, 127));
    }

    #[test]
    fn a_burst_gives_its_memory_back() {
        let mut outbox = Outbox::default();
        for _ in 0..20 {
            push(&mut outbox, Class::Audio, 1, 60_000);
        }
        outbox.consume(outbox.waiting());
        assert!(
            outbox.buf.capacity() <= KEEP_BYTES,
            "{}",
            outbox.buf.capacity()
        );
        // A smaller one after a while.
        for _ in 0..4 {
            push(&mut outbox, Class::Audio, 1, 20_000);
        }
        outbox.consume(outbox.waiting());
        for _ in 0..QUIET_TURNS {
            push(&mut outbox, Class::Audio, 1, 300);
            outbox.consume(300);
        }
        assert!(
            outbox.buf.capacity() <= KEEP_BYTES,
            "{}",
            outbox.buf.capacity()
        );
    }

    #[test]
    fn a_cut_drops_what_plays_and_leaves_the_rest_in_order() {
        let mut outbox = Outbox::default();
        push(&mut outbox, Class::Playing(80), 1, 10);
        push(&mut outbox, Class::Control, 2, 3);
        push(&mut outbox, Class::Mark, 3, 4);
        push(&mut outbox, Class::Playing(40), 4, 5);
        push(&mut outbox, Class::Control, 5, 2);
        let cut = outbox.cut();
        assert_eq!((cut.bytes, cut.frames, cut.marks), (120, 2, 1));
        outbox.push_first(2, |buf| buf.resize(buf.len() + 2, 9));
        assert_eq!(outbox.peek(100), [9, 9, 2, 2, 2, 5, 5]);
        assert_eq!((outbox.frames(), outbox.waiting()), (3, 7));
        assert_eq!(outbox.consume(7), 0);
        assert!(outbox.is_empty());
    }

    #[test]
    fn a_frame_that_has_begun_is_finished_before_what_is_put_first_and_its_audio_no_longer_counts()
    {
        let mut outbox = Outbox::default();
        push(&mut outbox, Class::Playing(80), 1, 10);
        push(&mut outbox, Class::Playing(80), 2, 10);
        assert_eq!(outbox.consume(4), 0);
        assert_eq!(outbox.cut().bytes, 80);
        outbox.push_first(2, |buf| buf.resize(buf.len() + 2, 9));
        assert_eq!(outbox.peek(100), [1, 1, 1, 1, 1, 1, 9, 9]);
        assert_eq!(outbox.consume(8), 0);
        push(&mut outbox, Class::Playing(8), 3, 1);
        assert_eq!(outbox.consume(1), 8);
    }

    #[test]
    fn audio_counts_when_its_whole_frame_is_gone() {
        let mut outbox = Outbox::default();
        push(&mut outbox, Class::Playing(80), 1, 10);
        push(&mut outbox, Class::Mark, 1, 3);
        push(&mut outbox, Class::Playing(8), 1, 5);
        assert_eq!(outbox.consume(9), 0);
        assert_eq!(outbox.consume(1), 80);
        assert_eq!(outbox.consume(7), 0);
        assert_eq!(outbox.consume(1), 8);
    }

    proptest! {
        #[test]
        fn cuts_leave_exactly_what_a_list_of_frames_would(
            steps in proptest::collection::vec((0u8..6, 1usize..200, 0usize..500), 1..200)
        ) {
            let mut outbox = Outbox::default();
            // A plain model: class, bytes left, whole.
            let mut model: VecDeque<(u8, u8, usize, bool)> = VecDeque::new();
            for (i, (what, len, take)) in steps.into_iter().enumerate() {
                let byte = i as u8;
                match what {
                    0 | 1 => {
                        push(&mut outbox, Class::Playing(len as u32), byte, len);
                        model.push_back((0, byte, len, true));
                    }
                    2 => {
                        push(&mut outbox, Class::Mark, byte, len);
                        model.push_back((0, byte, len, true));
                    }
                    3 => {
                        push(&mut outbox, Class::Control, byte, len);
                        model.push_back((1, byte, len, true));
                    }
                    4 => {
                        outbox.cut();
                        outbox.push_first(len, |buf| buf.resize(buf.len() + len, byte));
                        model.retain(|&(class, _, _, whole)| class == 1 || !whole);
                        let at = usize::from(model.front().is_some_and(|first| !first.3));
                        model.insert(at, (1, byte, len, true));
                    }
                    _ => {
                        let mut take = take.min(outbox.waiting());
                        outbox.consume(take);
                        while take > 0 {
                            let first = model.front_mut().unwrap();
                            let n = take.min(first.2);
                            first.2 -= n;
                            first.3 = false;
                            take -= n;
                            if first.2 == 0 {
                                model.pop_front();
                            }
                        }
                    }
                }
                let expected: Vec<u8> = model.iter().flat_map(|f| std::iter::repeat_n(f.1, f.2)).collect();
                prop_assert_eq!(outbox.peek(usize::MAX), &expected[..]);
                prop_assert_eq!(outbox.frames(), model.len());
            }
        }

        #[test]
        fn what_goes_in_comes_out(
            steps in proptest::collection::vec((1usize..3000, 0usize..4000, 0usize..4000), 1..200)
        ) {
            let mut outbox = Outbox::default();
            let mut expected = VecDeque::new();
            let mut boundaries = VecDeque::new(); // absolute ends of frames
            let (mut written, mut taken) = (0usize, 0usize);
            for (i, (len, max, take)) in steps.into_iter().enumerate() {
                prop_assert!(push(&mut outbox, Class::Audio, i as u8, len));
                expected.extend(std::iter::repeat_n(i as u8, len));
                written += len;
                boundaries.push_back(written);
                let out = outbox.peek(max).to_vec();
                prop_assert!(out.len() <= max);
                prop_assert!(max == 0 || !out.is_empty());
                if !out.is_empty() && out.len() < max {
                    prop_assert!(boundaries.contains(&(taken + out.len())));
                }
                prop_assert!(out.iter().eq(expected.iter().take(out.len())));
                let take = take.min(out.len());
                outbox.consume(take);
                expected.drain(..take);
                taken += take;
                boundaries.retain(|&end| end > taken);
                prop_assert_eq!(outbox.waiting(), expected.len());
                prop_assert_eq!(outbox.frames(), boundaries.len());
            }
        }
    }
}
