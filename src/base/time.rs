//! Time as a value that is handed in. Nothing in the core reads a clock.

use std::ops::{Add, Sub};
use std::time::Duration;

/// A point on the monotonic clock, in nanoseconds since an arbitrary start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash, Default)]
pub struct Mono(pub u64);

impl Mono {
    /// Time since `earlier`; zero when `earlier` is later.
    pub fn since(self, earlier: Mono) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Mono {
    type Output = Mono;
    fn add(self, by: Duration) -> Mono {
        Mono(
            self.0
                .saturating_add(by.as_nanos().min(u64::MAX as u128) as u64),
        )
    }
}

impl Sub<Mono> for Mono {
    type Output = Duration;
    fn sub(self, earlier: Mono) -> Duration {
        self.since(earlier)
    }
}

/// One reading of both clocks, taken once per wake-up and handed down.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Now {
    /// For deadlines and durations.
    pub mono: Mono,
    /// For records that people read: milliseconds since 1970-01-01 UTC.
    pub unix_ms: u64,
}

/// Where a shell gets its `Now`; `transport::clock::SystemClock` is the real one.
pub trait Clock: Send + Sync {
    /// Both clocks, read once.
    fn now(&self) -> Now;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_since_a_later_point_is_zero() {
        let (early, late) = (Mono(1_000), Mono(1_500));
        assert_eq!(late.since(early), Duration::from_nanos(500));
        assert_eq!(late - early, Duration::from_nanos(500));
        assert_eq!(early.since(late), Duration::ZERO);
    }

    #[test]
    fn a_deadline_beyond_the_range_stays_at_its_end() {
        assert_eq!(Mono(5) + Duration::from_micros(1), Mono(1_005));
        assert_eq!(Mono(u64::MAX - 1) + Duration::from_secs(1), Mono(u64::MAX));
        // More nanoseconds than 64 bits hold.
        assert_eq!(Mono(5) + Duration::MAX, Mono(u64::MAX));
    }
}
