//! What the carrier was sent and the caller has not heard, kept so that an interruption can be taken back. Core; used by
//! `Call` alone, and only with `barge_in.confirm_ms` above 0: otherwise nothing is kept.
//!
//! Pieces are base64 text as it came, on the ledger's line and without a hole. Past `HELD_MS_MAX` nothing is kept until what
//! is kept has been heard: an interruption in between is final.

use crate::base::unit::AudioMs;
use std::collections::VecDeque;

/// Audio kept: 320 KB of text.
const HELD_MS_MAX: u64 = 30_000;
const HELD_PIECES_MAX: usize = 2_000;

#[derive(Clone, Copy, Debug)]
struct Piece {
    /// On the ledger's line.
    start: u64,
    bytes: u64,
    text: u32,
    /// It came during the pause: never sent yet.
    fresh: bool,
}

/// A piece to be sent again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kept<'a> {
    /// Base64.
    pub text: &'a [u8],
    /// Where its first byte lies.
    pub start: u64,
    /// PCMU bytes in it.
    pub bytes: u64,
    /// It was never sent before.
    pub fresh: bool,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Hold {
    /// The caller hears nothing; what comes is kept and not sent.
    pub paused: bool,
    pieces: VecDeque<Piece>,
    /// Their text; the first `head` bytes are gone.
    text: Vec<u8>,
    head: usize,
}

impl Hold {
    /// Keeps audio that begins at `start`. `false`: there is no room, and what is kept has a hole from here on.
    pub fn keep(&mut self, start: u64, bytes: u64, text: &[u8]) -> bool {
        let from = self.pieces.front().map_or(start, |first| first.start);
        if start + bytes - from > AudioMs(HELD_MS_MAX).pcmu_bytes()
            || self.pieces.len() >= HELD_PIECES_MAX
            || u32::try_from(text.len()).is_err()
        {
            return false;
        }
        if self
            .pieces
            .back()
            .is_some_and(|last| last.start + last.bytes != start)
        {
            self.forget();
        }
        if self.head > 0 && self.text.len() + text.len() > self.text.capacity() {
            self.text.drain(..self.head);
            self.head = 0;
        }
        self.text.extend_from_slice(text);
        self.pieces.push_back(Piece {
            start,
            bytes,
            text: text.len() as u32,
            fresh: self.paused,
        });
        true
    }

    /// What lies before `offset` was heard.
    pub fn forget_until(&mut self, offset: u64) {
        while let Some(first) = self.pieces.front()
            && first.start + first.bytes <= offset
        {
            self.head += first.text as usize;
            self.pieces.pop_front();
        }
        if self.pieces.is_empty() {
            self.text.clear();
            self.head = 0;
        }
    }

    /// Whether everything from `from` to `to` is kept.
    pub fn covers(&self, from: u64, to: u64) -> bool {
        match (self.pieces.front(), self.pieces.back()) {
            (Some(first), Some(last)) => first.start <= from && to <= last.start + last.bytes,
            _ => from >= to,
        }
    }

    /// The audio that was never sent, PCMU bytes, and its pieces.
    pub fn fresh(&self) -> (u64, u64) {
        let fresh = self.pieces.iter().filter(|piece| piece.fresh);
        fresh.fold((0, 0), |(bytes, count), piece| {
            (bytes + piece.bytes, count + 1)
        })
    }

    /// What is kept from `from` on, in order. The first piece begins up to two bytes before: base64 is cut between its
    /// groups of three bytes.
    pub fn iter(&self, from: u64) -> impl Iterator<Item = Kept<'_>> {
        let mut at = self.head;
        self.pieces.iter().filter_map(move |piece| {
            let text = &self.text[at..at + piece.text as usize];
            at += piece.text as usize;
            let groups = from.saturating_sub(piece.start).min(piece.bytes) / 3;
            let bytes = piece.bytes - groups * 3;
            (piece.start + piece.bytes > from).then_some(Kept {
                text: &text[groups as usize * 4..],
                start: piece.start + groups * 3,
                bytes,
                fresh: piece.fresh,
            })
        })
    }

    /// The pause is over, and what is kept was sent.
    pub fn resume(&mut self) {
        self.paused = false;
        for piece in &mut self.pieces {
            piece.fresh = false;
        }
    }

    /// Nothing is kept any more; the memory goes as well.
    pub fn forget(&mut self) {
        *self = Self {
            paused: self.paused,
            ..Self::default()
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_comes_back_from_the_group_of_the_first_byte() {
        let mut hold = Hold::default();
        assert!(hold.keep(100, 6, b"AAAABBBB"));
        assert!(hold.keep(106, 4, b"CCCCDA=="));
        let all = |from| -> Vec<_> {
            let kept = hold.iter(from);
            kept.map(|k| {
                (
                    k.start,
                    k.bytes,
                    String::from_utf8(k.text.to_vec()).unwrap(),
                )
            })
            .collect()
        };
        assert_eq!(
            all(100),
            [(100, 6, "AAAABBBB".into()), (106, 4, "CCCCDA==".into())]
        );
        assert_eq!(
            all(104),
            [(103, 3, "BBBB".into()), (106, 4, "CCCCDA==".into())]
        );
        assert_eq!(all(109), [(109, 1, "DA==".to_owned())]);
        assert_eq!(all(110), []);
        assert!(hold.covers(100, 110) && !hold.covers(99, 110) && !hold.covers(100, 111));
    }

    #[test]
    fn it_is_bounded_and_a_hole_makes_it_begin_anew() {
        let mut hold = Hold::default();
        let second = vec![b'A'; 10_664];
        let mut start = 0;
        while hold.keep(start, 7_998, &second) {
            start += 7_998;
        }
        assert_eq!(start, 7_998 * 30);
        assert!(!hold.covers(0, start + 7_998));
        hold.forget_until(start / 2);
        start += 7_998;
        assert!(hold.keep(start, 7_998, &second));
        assert!(hold.covers(start, start + 7_998) && !hold.covers(0, start + 7_998));
    }

    #[test]
    fn what_was_heard_is_forgotten() {
        let mut hold = Hold::default();
        for n in 0..100 {
            assert!(hold.keep(n * 3, 3, b"AAAA"));
            hold.forget_until(n * 3);
            assert!(hold.pieces.len() <= 1 && hold.text.len() <= 1_000);
        }
        hold.forget_until(300);
        assert!(hold.pieces.is_empty() && hold.text.is_empty());
    }
}
