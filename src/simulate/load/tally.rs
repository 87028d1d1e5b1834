//! What a run counts and measures, and what of it can be read while it runs.

use super::check::{Fault, Faults, Kind};
use super::stamp::Way;
use hdrhistogram::Histogram;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// Times in nanoseconds, from a microsecond to two minutes, three digits.
#[derive(Clone, Debug)]
pub struct Times(Histogram<u64>);

impl Default for Times {
    fn default() -> Self {
        Self(Histogram::new_with_bounds(1_000, 120_000_000_000, 3).expect("valid bounds"))
    }
}

/// What is printed of a distribution.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Quantiles {
    /// How many were measured; without any, the rest is zero.
    pub count: u64,
    /// Median and on.
    pub p50: Duration,
    /// See `p50`.
    pub p90: Duration,
    /// See `p50`.
    pub p99: Duration,
    /// See `p50`.
    pub p999: Duration,
    /// The longest.
    pub max: Duration,
}

impl Times {
    /// Takes one, nanoseconds.
    pub fn record(&mut self, nanos: u64) {
        self.0.saturating_record(nanos.max(1_000));
    }

    /// What is printed.
    pub fn quantiles(&self) -> Quantiles {
        if self.0.is_empty() {
            return Quantiles::default();
        }
        let at = |share| Duration::from_nanos(self.0.value_at_quantile(share));
        Quantiles {
            count: self.0.len(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: Duration::from_nanos(self.0.max()),
        }
    }
}

/// Where a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Calls are being placed.
    Ramp,
    /// All are up: what is measured is measured now.
    Hold,
    /// No more frames are sent; what is under way arrives.
    Drain,
    /// Over.
    Done,
}

impl Phase {
    fn from_number(number: u8) -> Self {
        match number {
            0 => Phase::Ramp,
            1 => Phase::Hold,
            2 => Phase::Drain,
            _ => Phase::Done,
        }
    }
}

/// What another thread may read while the run goes on, and how it ends it.
#[derive(Debug, Default)]
pub struct Live {
    phase: AtomicU8,
    /// Calls whose audio flows.
    pub calls: AtomicU32,
    /// Calls placed so far.
    pub placed: AtomicU32,
    /// Calls that ended so far.
    pub ended: AtomicU32,
    /// Frames that arrived at the model.
    pub up: AtomicU64,
    /// Frames that arrived at the carrier.
    pub down: AtomicU64,
    /// Faults.
    pub faults: AtomicU64,
    /// The latest lateness seen in the last wake-ups, nanoseconds.
    pub late: AtomicU64,
    /// CPU time of the generator's thread, nanoseconds.
    pub cpu: AtomicU64,
    /// Ends the run early: calls are hung up at once.
    pub stop: AtomicBool,
}

impl Live {
    /// Where the run is.
    pub fn phase(&self) -> Phase {
        Phase::from_number(self.phase.load(Ordering::Acquire))
    }

    /// Moves on.
    pub fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
    }

    /// Frames in both directions.
    pub fn frames(&self) -> u64 {
        self.up.load(Ordering::Relaxed) + self.down.load(Ordering::Relaxed)
    }
}

/// Everything that a run counted.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Only frames meant to be sent in here count for the times: from, to; nanoseconds.
    pub window: (u64, u64),
    /// Carrier to model.
    pub up: Times,
    /// Model to carrier.
    pub down: Times,
    /// `speech_started` written to `clear` read.
    pub clear: Times,
    /// From the dial (or the webhook) to the carrier's 101.
    pub setup: Times,
    /// From the dial to the first frame that went the whole way.
    pub first_frame: Times,
    /// How late frames were sent by the generator itself.
    pub lateness: Times,
    /// How far `audio_end_ms` was from what the simulated caller had heard.
    pub truncation: Times,
    /// Frames sent by carriers, and those that arrived at the model.
    pub up_sent: u64,
    /// See `up_sent`.
    pub up_received: u64,
    /// Frames sent by the model, and those that arrived at the carrier.
    pub down_sent: u64,
    /// See `down_sent`.
    pub down_received: u64,
    /// Messages with audio, which can hold several frames: to the carrier.
    pub down_messages: u64,
    /// Marks received and given back by carriers.
    pub marks: u64,
    /// See `marks`.
    pub marks_returned: u64,
    /// `clear` messages.
    pub clears: u64,
    /// Times that a caller spoke over an answer, as the model saw it.
    pub barge_ins: u64,
    /// `conversation.item.truncate` events.
    pub truncates: u64,
    /// Calls placed, set up, and ended in order.
    pub placed: u64,
    /// See `placed`.
    pub answered: u64,
    /// Calls answered in the measured time.
    pub answered_measured: u64,
    /// See `placed`.
    pub ended: u64,
    /// What went wrong.
    pub faults: Faults,
}

impl Tally {
    /// Whether a frame that was meant for this moment is measured.
    pub fn measures(&self, at: u64) -> bool {
        self.window.0 <= at && at < self.window.1
    }

    /// Notes a fault of one frame.
    pub fn frame_fault(&mut self, kind: Kind, call: u32, way: Way, seq: u32, detail: &str) {
        self.faults.push(Fault {
            kind,
            call,
            way: Some(way),
            frame: Some((seq, 0)),
            detail: detail.into(),
        });
    }

    /// Notes a fault of a call.
    pub fn call_fault(&mut self, kind: Kind, call: u32, detail: impl Into<String>) {
        self.faults.push(Fault {
            kind,
            call,
            way: None,
            frame: None,
            detail: detail.into(),
        });
    }
}
