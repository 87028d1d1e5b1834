//! The machine's clocks, read here and handed down as `Now`.

use crate::base::time::{Clock, Mono, Now};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// The real clocks.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// Counts monotonic time from now on.
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
        }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Now {
        Now {
            mono: Mono(self.start.elapsed().as_nanos() as u64),
            // A clock before 1970 reads as 0: `check` reports it, a call does not end for it.
            unix_ms: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |d| d.as_millis() as u64),
        }
    }
}
