//! What the front desk counts. Labels come from fixed sets in the code, never from the wire.

use metrics::{counter, gauge};

/// Upgrade requests answered with anything but 101, by `reason`.
pub const REJECTED_UPGRADES: &str = "voxrelay_rejected_upgrades_total";
/// Requests answered with an error before anything is known of them but that they came, by `reason`.
pub const REJECTED_REQUESTS: &str = "voxrelay_rejected_requests_total";
/// Streams handed to a worker.
pub const ADMITTED: &str = "voxrelay_admitted_streams_total";
/// Connections accepted.
pub const CONNECTIONS: &str = "voxrelay_connections_total";
/// Connections closed before a whole request came, by `reason`.
pub const CONNECTIONS_LOST: &str = "voxrelay_connections_lost_total";
/// Connections that are with the desk or with control now, not yet known to be calls.
pub const CONNECTIONS_OPEN: &str = "voxrelay_desk_connections";
/// Failed accepts, by `reason`.
pub const ACCEPT_ERRORS: &str = "voxrelay_accept_errors_total";
/// Stream paths whose question mark came percent-encoded.
pub const REPAIRED_PATHS: &str = "voxrelay_repaired_paths_total";
/// Attempts to reach the model.
pub const DIAL_ATTEMPTS: &str = "voxrelay_dial_attempts_total";
/// Attempts that failed, by `cause`.
pub const DIAL_ERRORS: &str = "voxrelay_dial_errors_total";
/// Dials for connections that are kept warm, by `outcome`.
pub const WARM_DIALS: &str = "voxrelay_warm_dials_total";
/// Orders or connections that found a queue full, by `queue`.
pub const QUEUE_FULL: &str = "voxrelay_desk_queue_full_total";

/// The desk's counters. Everything here is rare, so handles are looked up when used.
#[derive(Clone, Copy, Debug, Default)]
pub struct DeskMeter;

impl DeskMeter {
    /// An upgrade or a bad request was refused.
    pub fn rejected(self, reason: &'static str) {
        counter!(REJECTED_UPGRADES, "reason" => reason).increment(1);
    }

    /// A connection or a plain request was refused: a cap, a slow head, a bad head on a kept-alive connection.
    pub fn rejected_request(self, reason: &'static str) {
        counter!(REJECTED_REQUESTS, "reason" => reason).increment(1);
    }

    /// A stream went to a worker.
    pub fn admitted(self) {
        counter!(ADMITTED).increment(1);
    }

    /// A connection was accepted; `open` are with the desk now.
    pub fn accepted(self, open: usize) {
        counter!(CONNECTIONS).increment(1);
        self.open(open);
    }

    /// How many connections are with the desk or control now.
    pub fn open(self, open: usize) {
        gauge!(CONNECTIONS_OPEN).set(open as f64);
    }

    /// A connection ended before it could be answered.
    pub fn lost(self, reason: &'static str) {
        counter!(CONNECTIONS_LOST, "reason" => reason).increment(1);
    }

    /// An accept failed.
    pub fn accept_error(self, reason: &'static str) {
        counter!(ACCEPT_ERRORS, "reason" => reason).increment(1);
    }

    /// A stream's path was put right.
    pub fn repaired(self) {
        counter!(REPAIRED_PATHS).increment(1);
    }

    /// The model is being dialled.
    pub fn dial_attempt(self) {
        counter!(DIAL_ATTEMPTS).increment(1);
    }

    /// A dial attempt failed.
    pub fn dial_error(self, cause: &'static str) {
        counter!(DIAL_ERRORS, "cause" => cause).increment(1);
    }

    /// A dial for a connection that is to be kept warm came to this.
    pub fn warm_dial(self, outcome: &'static str) {
        counter!(WARM_DIALS, "outcome" => outcome).increment(1);
    }

    /// A queue was full.
    pub fn queue_full(self, queue: &'static str) {
        counter!(QUEUE_FULL, "queue" => queue).increment(1);
    }
}
