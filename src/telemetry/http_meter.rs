//! What the control plane counts. Labels come from fixed sets in the code, never from the wire.

use super::name::{HTTP_REQUESTS, WEBHOOKS};
use metrics::counter;

/// A request was answered: `route` as in the route table, `method` from a fixed set.
pub fn request(route: String, method: &'static str, status: u16) {
    counter!(HTTP_REQUESTS, "route" => route, "method" => method, "status" => status.to_string())
        .increment(1);
}

/// A voice webhook was answered.
pub fn webhook(outcome: &'static str) {
    counter!(WEBHOOKS, "outcome" => outcome).increment(1);
}
