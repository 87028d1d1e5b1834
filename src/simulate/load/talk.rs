//! Turns of the talk profile: what the model hears of the stamps, and what an answer is made of. Pure.

use crate::base::rng::Rng;
use crate::simulate::dice::Dice as _;

/// Frames of silence that end a turn: 500 ms.
const SILENCE_FRAMES: u32 = 25;
/// Frames of speech that begin one.
const SPEECH_FRAMES: u32 = 3;
/// Blocks in a delta: 240 to 260 ms, as the endpoint sends them.
const DELTA_BLOCKS: (u64, u64) = (12, 13);
/// From delta to delta: four times as fast as it plays.
const DELTA_GAP_MS: (u64, u64) = (40, 85);
/// An answer's length in blocks: one and a half to five seconds.
const ANSWER_BLOCKS: (u64, u64) = (75, 250);
/// What it says, a word a delta.
const WORDS: [&str; 8] = [
    "Yes,",
    " we",
    " are",
    " open",
    " on",
    " Saturday",
    " until",
    " one.",
];

/// An edge of the caller's speech.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// It began, at this position of the input, ms.
    Started(u64),
    /// It ended.
    Stopped(u64),
}

/// Finds turns in frames that say themselves whether they are speech.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ear {
    frames: u64,
    speech: u32,
    silence: u32,
    is_open: bool,
}

impl Ear {
    /// Takes the next frame.
    pub fn hear(&mut self, is_speech: bool) -> Option<Heard> {
        self.frames += 1;
        if is_speech {
            self.speech += 1;
            self.silence = 0;
            if !self.is_open && self.speech >= SPEECH_FRAMES {
                self.is_open = true;
                let start = self.frames - u64::from(SPEECH_FRAMES);
                return Some(Heard::Started(start * 20));
            }
        } else {
            self.speech = 0;
            self.silence += 1;
            if self.is_open && self.silence >= SILENCE_FRAMES {
                self.is_open = false;
                let end = self.frames - u64::from(SILENCE_FRAMES);
                return Some(Heard::Stopped(end * 20));
            }
        }
        None
    }
}

/// An answer under way.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Response.
    pub response: String,
    /// Its item.
    pub item: String,
    /// Its first frame.
    pub first: u32,
    /// Frames sent of it.
    pub sent: u32,
    /// What its transcript says so far.
    pub said: String,
    /// When the next delta is due, ns.
    pub due: u64,
    left: u64,
}

/// One piece of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delta {
    /// When it was due.
    pub at: u64,
    /// Blocks of audio.
    pub blocks: u32,
    /// Its words.
    pub words: &'static str,
}

impl Answer {
    /// An answer of a random length, whose first delta is due `at`.
    pub fn new(response: String, item: String, first: u32, at: u64, rng: &mut Rng) -> Self {
        Self {
            response,
            item,
            first,
            sent: 0,
            said: String::new(),
            due: at,
            left: rng.between(ANSWER_BLOCKS.0, ANSWER_BLOCKS.1),
        }
    }

    /// The delta that is due; `None` at the end.
    pub fn next_delta(&mut self, rng: &mut Rng) -> Option<Delta> {
        if self.left == 0 {
            return None;
        }
        let blocks = rng.between(DELTA_BLOCKS.0, DELTA_BLOCKS.1).min(self.left);
        self.left -= blocks;
        let at = self.due;
        let gap = rng.millis(DELTA_GAP_MS.0, DELTA_GAP_MS.1);
        // The end follows its last delta at once.
        self.due += if self.left == 0 {
            0
        } else {
            gap.as_nanos() as u64
        };
        let words = WORDS[(self.sent / DELTA_BLOCKS.0 as u32) as usize % WORDS.len()];
        self.sent += blocks as u32;
        self.said.push_str(words);
        Some(Delta {
            at,
            blocks: blocks as u32,
            words,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_begins_after_three_frames_and_ends_after_half_a_second() {
        let mut ear = Ear::default();
        let heard: Vec<(u32, Heard)> = (0..100u32)
            .filter_map(|frame| {
                let is_speech = (10..40).contains(&frame) || frame == 5;
                ear.hear(is_speech).map(|heard| (frame, heard))
            })
            .collect();
        assert_eq!(
            heard,
            [(12, Heard::Started(200)), (64, Heard::Stopped(800))]
        );
    }

    #[test]
    fn an_answer_comes_faster_than_it_plays_and_ends() {
        let mut rng = Rng::from_u64(3);
        let mut answer = Answer::new("r".into(), "i".into(), 7, 1_000, &mut rng);
        let mut last = 0;
        while let Some(delta) = answer.next_delta(&mut rng) {
            assert!((1..=13).contains(&delta.blocks));
            last = delta.at;
        }
        let played = u64::from(answer.sent) * 20_000_000;
        assert!((75..=250).contains(&answer.sent));
        assert!(last * 2 < played, "{last} ns for {played} ns of audio");
        assert!(!answer.said.is_empty());
    }
}
