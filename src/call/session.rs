//! Bytes in, bytes out: two legs around one `Call`. Core: no socket, no clock, no TLS.
//!
//! # Contract
//!
//! The worker owns a `Session` and calls it in this order, any number of times:
//!
//! 1. one `handle_*` (bytes, a close, a dial's outcome, a timeout, a command), with the `Now` of the wake-up;
//! 2. `poll_intent` until `None`, obeying each;
//! 3. for each leg that has no send in flight: `poll_transmit`; what it takes of the returned bytes it
//!    says with `handle_taken`, and when the kernel has taken the whole send, `handle_sent`;
//! 4. `poll_fact` until `None`;
//! 5. `poll_timeout` for the next deadline;
//! 6. when `is_finished`, both sockets are closed and the session is dropped.
//!
//! Input is lent for one call and may be changed in place (unmasking). Nothing here blocks or panics on any input.

use super::fact::{EndReason, Fact, Leg, Stats};
use crate::base::id::{CallId, CallSid};
use crate::base::time::{Mono, Now};
use crate::proto::realtime::settings::Settings;
use std::sync::Arc;

/// What a session is born with.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The call.
    pub call_id: CallId,
    /// What the model is told in `session.update`.
    pub settings: Arc<Settings>,
    /// The call that `start` must name, when the stream came with a ticket.
    pub expected_call_sid: Option<CallSid>,
    /// Seeds mask keys and event ids.
    pub seed: [u8; 32],
}

/// How a leg's connection ended, seen by the worker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Closed {
    /// End of stream in order (FIN, and close_notify where there is TLS).
    Eof,
    /// Reset, an I/O error, a TLS error, a truncated TLS stream.
    Broken,
}

/// What the shell is to do for a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Intent {
    /// Connect to the model; answer with `handle_upstream`.
    Dial,
    /// Send what is queued on this leg, then close its socket. The session has written the close frame.
    Finish(Leg),
    /// Close this leg's socket now.
    Abort(Leg),
}

/// What an operator or the daemon asks of a live call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// End the call with this reason.
    HangUp(EndReason),
}

/// One call: its two legs and its decisions.
#[derive(Debug)]
pub struct Session {
    _private: (),
}

impl Session {
    /// A session whose carrier leg is upgraded. It has not seen a byte yet.
    pub fn new(setup: Setup, now: Now) -> Self {
        let _ = (setup, now);
        unimplemented!()
    }

    /// Takes plaintext from a leg: the bytes not consumed by the last call, then the new ones.
    /// Returns how many bytes from the front were consumed; the rest is an incomplete frame, to be
    /// given again (unchanged: part of it may have been unmasked) with more behind it.
    pub fn handle_input(&mut self, leg: Leg, input: &mut [u8], now: Now) -> usize {
        let _ = (leg, input, now);
        unimplemented!()
    }

    /// A leg's connection is gone. Not called for a leg after `Finish` or `Abort`.
    pub fn handle_closed(&mut self, leg: Leg, how: Closed, now: Now) {
        let _ = (leg, how, now);
        unimplemented!()
    }

    /// The answer to `Intent::Dial`: connected and upgraded, or not (with a sentence for the log).
    pub fn handle_upstream(&mut self, outcome: Result<(), String>, now: Now) {
        let _ = (outcome, now);
        unimplemented!()
    }

    /// A deadline from `poll_timeout` may have passed. Harmless when none has.
    pub fn handle_timeout(&mut self, now: Now) {
        let _ = now;
        unimplemented!()
    }

    /// An order from outside.
    pub fn handle_command(&mut self, command: Command, now: Now) {
        let _ = (command, now);
        unimplemented!()
    }

    /// The session panicked inside a `handle_*` and was caught: counts as `EndReason::Internal`. It
    /// must not be driven any further; this gives its last facts.
    pub fn handle_panic(&mut self, now: Now) {
        let _ = now;
        unimplemented!()
    }

    /// The next thing for the shell to do.
    pub fn poll_intent(&mut self) -> Option<Intent> {
        unimplemented!()
    }

    /// Whole frames waiting on this leg, oldest first, at most `max` bytes unless the first frame
    /// alone is longer (then `max` bytes of it; the rest follows). Empty when there is nothing.
    pub fn poll_transmit(&mut self, leg: Leg, max: usize) -> &[u8] {
        let _ = (leg, max);
        unimplemented!()
    }

    /// The first `len` bytes of the last `poll_transmit` of this leg are in a send now.
    pub fn handle_taken(&mut self, leg: Leg, len: usize, now: Now) {
        let _ = (leg, len, now);
        unimplemented!()
    }

    /// The kernel has taken the whole of the last send of this leg.
    pub fn handle_sent(&mut self, leg: Leg, now: Now) {
        let _ = (leg, now);
        unimplemented!()
    }

    /// The next thing to report, in order of occurrence.
    pub fn poll_fact(&mut self) -> Option<Fact> {
        unimplemented!()
    }

    /// The earliest deadline.
    pub fn poll_timeout(&self) -> Option<Mono> {
        unimplemented!()
    }

    /// Both legs are closed (or were never opened) and `Fact::Ended` was made.
    pub fn is_finished(&self) -> bool {
        unimplemented!()
    }

    /// What was counted so far.
    pub fn stats(&self) -> &Stats {
        unimplemented!()
    }
}
