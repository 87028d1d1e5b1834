//! Caller audio held until the model's session is confirmed (B23, C04). Core; used by `Call` alone.
//!
//! Bounded in audio (`limit::EARLY_AUDIO_MS_MAX`, in an outage less) and in pieces; past either bound the oldest goes, and is
//! counted by the caller of `push_*`. Holds base64 text as it came, already checked. Made when the first frame
//! has to wait, and dropped as a whole when the session is ready: a call that only relays has none.

use crate::base::limit::EARLY_AUDIO_MS_MAX;
use crate::base::unit::AudioMs;
use std::collections::VecDeque;

/// Pieces held at most, so that tiny frames can't outgrow their audio: 5 s of 5 ms frames.
pub const HELD_PIECES_MAX: usize = 1_000;

#[derive(Clone, Copy, Debug)]
struct Held {
    /// Length of the base64 text; 0 for silence.
    text: u32,
    /// PCMU bytes; at most `bytes_max`.
    bytes: u32,
}

/// One held piece, oldest first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Piece<'a> {
    /// A frame of the caller's: base64 text and the PCMU bytes in it.
    Frame(&'a [u8], u64),
    /// Silence for a gap in stream time.
    Fill(AudioMs),
}

/// What had to go to make room.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Dropped {
    /// Pieces, fills among them.
    pub pieces: u64,
    /// The caller's audio in them, PCMU bytes; fills not counted.
    pub bytes: u64,
}

/// Early audio, oldest first.
#[derive(Clone, Debug)]
pub struct EarlyAudio {
    /// What may be held, PCMU bytes.
    bytes_max: u64,
    /// The text of the pieces in order; the first `text_head` bytes are gone.
    text: Vec<u8>,
    text_head: usize,
    pieces: VecDeque<Held>,
    /// Sum over `pieces`, fills included: <= bytes_max.
    total_bytes: u64,
    /// Sum over frames alone.
    frame_bytes: u64,
}

impl Default for EarlyAudio {
    fn default() -> Self {
        Self::bounded(AudioMs(EARLY_AUDIO_MS_MAX))
    }
}

impl EarlyAudio {
    /// Holds at most so much.
    pub fn bounded(audio: AudioMs) -> Self {
        Self {
            bytes_max: audio.pcmu_bytes(),
            text: Vec::new(),
            text_head: 0,
            pieces: VecDeque::new(),
            total_bytes: 0,
            frame_bytes: 0,
        }
    }

    /// Keeps a frame: checked base64 `text` of `bytes` PCMU bytes, neither empty. Says what had to go, perhaps the
    /// frame itself when it alone is longer than the bound.
    pub fn push_frame(&mut self, text: &[u8], bytes: u64) -> Dropped {
        debug_assert!(!text.is_empty() && bytes > 0);
        if bytes > self.bytes_max {
            let mut dropped = self.make_room(self.bytes_max);
            dropped.pieces += 1;
            dropped.bytes += bytes;
            return dropped;
        }
        let dropped = self.make_room(bytes);
        if self.text_head > 0 && self.text.len() + text.len() > self.text.capacity() {
            self.text.drain(..self.text_head);
            self.text_head = 0;
        }
        self.text.extend_from_slice(text);
        self.pieces.push_back(Held {
            text: text.len() as u32,
            bytes: bytes as u32,
        });
        self.total_bytes += bytes;
        self.frame_bytes += bytes;
        dropped
    }

    /// Keeps silence, cut to the bound.
    pub fn push_fill(&mut self, silence: AudioMs) -> Dropped {
        let bytes = silence.pcmu_bytes().min(self.bytes_max);
        let dropped = self.make_room(bytes);
        if bytes == 0 {
            return dropped;
        }
        self.pieces.push_back(Held {
            text: 0,
            bytes: bytes as u32,
        });
        self.total_bytes += bytes;
        dropped
    }

    /// The caller's audio held now, PCMU bytes.
    pub fn frame_bytes(&self) -> u64 {
        self.frame_bytes
    }

    /// How many pieces are held, fills included.
    pub fn len(&self) -> usize {
        self.pieces.len()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// What is held, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = Piece<'_>> {
        let mut at = self.text_head;
        self.pieces.iter().map(move |held| {
            if held.text == 0 {
                Piece::Fill(AudioMs::from_pcmu_bytes(u64::from(held.bytes)))
            } else {
                let text = &self.text[at..at + held.text as usize];
                at += held.text as usize;
                Piece::Frame(text, u64::from(held.bytes))
            }
        })
    }

    fn make_room(&mut self, bytes: u64) -> Dropped {
        let mut dropped = Dropped::default();
        while self.total_bytes + bytes > self.bytes_max || self.pieces.len() >= HELD_PIECES_MAX {
            let Some(oldest) = self.pieces.pop_front() else {
                break;
            };
            self.total_bytes -= u64::from(oldest.bytes);
            dropped.pieces += 1;
            if oldest.text > 0 {
                self.text_head += oldest.text as usize;
                self.frame_bytes -= u64::from(oldest.bytes);
                dropped.bytes += u64::from(oldest.bytes);
            }
        }
        dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELD_BYTES_MAX: u64 = AudioMs(EARLY_AUDIO_MS_MAX).pcmu_bytes();

    fn text(n: u32) -> Vec<u8> {
        format!("{n:08}").into_bytes()
    }

    #[test]
    fn what_is_held_comes_back_in_order_with_its_fills() {
        let mut early = EarlyAudio::default();
        assert_eq!(early.push_frame(b"AAAA", 3), Dropped::default());
        assert_eq!(early.push_fill(AudioMs(40)), Dropped::default());
        assert_eq!(early.push_frame(b"BBBBBBBB", 6), Dropped::default());
        let pieces: Vec<_> = early.iter().collect();
        assert_eq!(
            pieces,
            [
                Piece::Frame(b"AAAA", 3),
                Piece::Fill(AudioMs(40)),
                Piece::Frame(b"BBBBBBBB", 6)
            ]
        );
        assert_eq!(early.frame_bytes(), 9);
    }

    #[test]
    fn past_five_seconds_the_oldest_goes() {
        let mut early = EarlyAudio::default();
        let mut dropped = Dropped::default();
        for n in 0..300 {
            let d = early.push_frame(&text(n), 160);
            dropped.pieces += d.pieces;
            dropped.bytes += d.bytes;
        }
        assert_eq!((dropped.pieces, dropped.bytes), (50, 50 * 160));
        assert_eq!(early.frame_bytes(), 40_000);
        let expected: Vec<_> = (50..300).map(text).collect();
        let held: Vec<_> = early
            .iter()
            .map(|piece| match piece {
                Piece::Frame(text, 160) => text.to_vec(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(held, expected);
    }

    #[test]
    fn tiny_frames_are_bounded_by_their_number() {
        let mut early = EarlyAudio::default();
        let mut dropped = 0;
        for n in 0..50_000 {
            dropped += early.push_frame(&text(n), 1).bytes;
        }
        assert_eq!(early.len(), HELD_PIECES_MAX);
        assert_eq!(dropped + early.frame_bytes(), 50_000);
        assert!(
            early.text.capacity() < 64 * 1024,
            "{}",
            early.text.capacity()
        );
    }

    #[test]
    fn a_frame_longer_than_the_bound_is_dropped_with_all_that_is_older() {
        let mut early = EarlyAudio::default();
        early.push_frame(&text(1), 160);
        let dropped = early.push_frame(&text(2), HELD_BYTES_MAX + 1);
        assert_eq!(dropped.bytes, HELD_BYTES_MAX + 1 + 160);
        assert!(early.is_empty());
    }

    #[test]
    fn a_long_fill_is_cut_to_the_bound() {
        let mut early = EarlyAudio::default();
        early.push_frame(&text(1), 160);
        assert_eq!(
            early.push_fill(AudioMs(10_000)),
            Dropped {
                pieces: 1,
                bytes: 160
            }
        );
        assert_eq!(early.iter().next(), Some(Piece::Fill(AudioMs(5_000))));
    }
}
