//! How busy each worker is, as it last said: read by the desk that places calls and by control that answers webhooks.
//! Plain atomics, written by the worker alone, each value good by itself.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicUsize, Ordering::Relaxed};

/// Why a worker takes no new calls.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Overload {
    /// Its core is used up.
    Busy,
    /// It acts later than it should: its core is somebody else's.
    Lag,
}

impl Overload {
    /// For metrics and answers.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Busy => "overload_busy",
            Self::Lag => "overload_lag",
        }
    }
}

/// One worker's load.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Load {
    /// Calls that live there now.
    pub live: usize,
    /// Those that lived there when the rest was measured.
    pub measured_live: usize,
    /// CPU time of its thread in the last second, thousandths of it.
    pub busy_permille: u32,
    /// How late nine of ten of its deadlines were acted on at most, in the last second, microseconds.
    pub lag_us: u32,
    /// It takes no new calls.
    pub overload: Option<Overload>,
}

/// Where a worker's load is written and read.
#[derive(Debug, Default)]
pub struct LoadCell {
    live: AtomicUsize,
    measured_live: AtomicUsize,
    busy_permille: AtomicU32,
    lag_us: AtomicU32,
    overload: AtomicU8,
}

impl LoadCell {
    /// What the worker last said.
    pub fn read(&self) -> Load {
        Load {
            live: self.live.load(Relaxed),
            measured_live: self.measured_live.load(Relaxed),
            busy_permille: self.busy_permille.load(Relaxed),
            lag_us: self.lag_us.load(Relaxed),
            overload: match self.overload.load(Relaxed) {
                0 => None,
                1 => Some(Overload::Busy),
                _ => Some(Overload::Lag),
            },
        }
    }

    /// The number of live calls alone, which moves between measurements.
    pub fn set_live(&self, live: usize) {
        self.live.store(live, Relaxed);
    }

    /// A second's measurement.
    pub fn set_measured(&self, load: &Load) {
        self.measured_live.store(load.measured_live, Relaxed);
        self.busy_permille.store(load.busy_permille, Relaxed);
        self.lag_us.store(load.lag_us, Relaxed);
        let overload = match load.overload {
            None => 0,
            Some(Overload::Busy) => 1,
            Some(Overload::Lag) => 2,
        };
        self.overload.store(overload, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let cell = LoadCell::default();
        for overload in [None, Some(Overload::Busy), Some(Overload::Lag)] {
            let load = Load {
                live: 3,
                measured_live: 2,
                busy_permille: 512,
                lag_us: 77,
                overload,
            };
            cell.set_live(load.live);
            cell.set_measured(&load);
            assert_eq!(cell.read(), load);
        }
    }
}
