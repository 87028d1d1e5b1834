//! Audio time and the arithmetic of PCMU (G.711 mu-law at 8 kHz mono: 8 bytes are 1 ms).

use std::ops::{Add, AddAssign, Sub};

/// Bytes of PCMU in one millisecond.
pub const PCMU_BYTES_PER_MS: u64 = 8;

/// A length of audio in milliseconds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash, Default)]
pub struct AudioMs(pub u64);

impl AudioMs {
    /// The whole milliseconds in `bytes` of PCMU; a rest below 8 bytes is dropped.
    pub const fn from_pcmu_bytes(bytes: u64) -> Self {
        Self(bytes / PCMU_BYTES_PER_MS)
    }

    /// How many bytes of PCMU this lasts.
    pub const fn pcmu_bytes(self) -> u64 {
        self.0 * PCMU_BYTES_PER_MS
    }
}

impl Add for AudioMs {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl AddAssign for AudioMs {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sub for AudioMs {
    type Output = Self;
    /// Never below zero: a negative length of audio has no meaning.
    fn sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_bytes_are_a_millisecond_and_a_rest_is_dropped() {
        assert_eq!(AudioMs::from_pcmu_bytes(160), AudioMs(20));
        assert_eq!(AudioMs::from_pcmu_bytes(167), AudioMs(20));
        assert_eq!(AudioMs::from_pcmu_bytes(7), AudioMs(0));
        assert_eq!(AudioMs(20).pcmu_bytes(), 160);
        assert_eq!(
            AudioMs::from_pcmu_bytes(u64::MAX).pcmu_bytes(),
            u64::MAX - 7
        );
    }

    #[test]
    fn sums_and_differences_stay_in_range() {
        let mut sum = AudioMs(20) + AudioMs(30);
        sum += AudioMs(1);
        assert_eq!(sum, AudioMs(51));
        assert_eq!(AudioMs(20) - AudioMs(30), AudioMs(0));
        assert_eq!(AudioMs(30) - AudioMs(20), AudioMs(10));
        assert_eq!(AudioMs(u64::MAX) + AudioMs(1), AudioMs(u64::MAX));
    }
}
