//! The number of an entry: which process wrote it, and the how-manieth of that process it is. Core.

use std::fmt;

/// An entry's place in the journal. Numbers rise strictly and are never used twice, not even that of an entry which a
/// crash took before it was durable: each process that opens the journal for writing takes an epoch of its own, and the
/// epoch is the number's upper part.
///
/// Within an epoch the numbers are dense, so a missing one is a lost entry. Between epochs they jump; the first
/// segment of an epoch says how far the journal reached when it began (`Header::prior`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Seq(u64);

/// Entries of one epoch: 1.1e12, or 636 days at 20,000 a second.
const COUNT_BITS: u32 = 40;

impl Seq {
    /// Before the first entry of all.
    pub const NONE: Seq = Seq(0);
    /// The last epoch there is.
    pub const EPOCH_MAX: u32 = (1 << (64 - COUNT_BITS)) - 1;

    /// The first number of `epoch` (1 to [`Seq::EPOCH_MAX`]).
    pub const fn first_of(epoch: u32) -> Seq {
        Seq((epoch as u64) << COUNT_BITS | 1)
    }

    /// From its bits, as they stand in a file.
    pub const fn from_bits(bits: u64) -> Seq {
        Seq(bits)
    }

    /// As it stands in a file.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Which process wrote the entry.
    pub const fn epoch(self) -> u32 {
        (self.0 >> COUNT_BITS) as u32
    }

    /// The how-manieth entry of its epoch it is, from 1.
    pub const fn count(self) -> u64 {
        self.0 & ((1 << COUNT_BITS) - 1)
    }

    /// The next number of the same epoch; `None` when the epoch is used up.
    pub const fn next(self) -> Option<Seq> {
        let next = Seq(self.0.wrapping_add(1));
        if next.epoch() == self.epoch() {
            Some(next)
        } else {
            None
        }
    }

    /// The number before; of an epoch's first one something that is no entry's number but orders right.
    pub const fn before(self) -> Seq {
        Seq(self.0.saturating_sub(1))
    }

    /// How many numbers lie from `self` up to and including `last`; 0 when it is not above or the epochs differ.
    pub const fn through(self, last: Seq) -> u64 {
        if self.epoch() != last.epoch() || last.0 < self.0 {
            return 0;
        }
        last.0 - self.0 + 1
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch(), self.count())
    }
}

impl fmt::Debug for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_epoch_is_above_every_number_of_an_earlier_one() {
        let last = Seq::from_bits(Seq::first_of(4).bits() - 2);
        assert_eq!((last.epoch(), last.next()), (3, None));
        assert!(last < Seq::first_of(4));
        assert_eq!(Seq::first_of(3).next(), Some(Seq::from_bits(3 << 40 | 2)));
        assert_eq!(Seq::first_of(Seq::EPOCH_MAX).epoch(), Seq::EPOCH_MAX);
        assert_eq!(Seq::first_of(7).to_string(), "7.1");
        assert!(Seq::NONE < Seq::first_of(1));
    }

    #[test]
    fn a_count_over_epochs_is_none() {
        let (a, b) = (Seq::from_bits(1 << 40 | 3), Seq::from_bits(1 << 40 | 9));
        assert_eq!(a.through(b), 7);
        assert_eq!(a.through(a), 1);
        assert_eq!(b.through(a), 0);
        assert_eq!(a.through(Seq::first_of(2)), 0);
    }
}
