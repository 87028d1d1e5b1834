//! One established socket of a call: what is received and not yet whole, what is in a send, how it closes. Shell.
//!
//! ```text
//!   Open ── Finish, peer's end ──► Finishing ── all sent, write side shut ──► Lingering ─┐
//!    │                                │ (the peer has ended: no lingering)                ├─► Retired ── last completion ──► closed
//!    └── Abort, error ────────────────┴───────────────── too long ────────────────────────┘
//! ```

use super::buffer::SlotId;
use super::{CARRIER_BYTES_PER_TICK, TICK};
use crate::base::time::Mono;
use crate::telemetry::allocation::apart;
use crate::transport::Established;
use crate::transport::tls::{Tls, TlsError};
use socket2::SockRef;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

/// Carry buffers above this are not kept for the next use, nor more of them than this.
const CARRY_KEPT_BYTES: usize = 64 * 1024;
const CARRY_KEPT: usize = 64;

/// Where a leg is on its way out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// Relaying.
    Open,
    /// Sends what is queued, then shuts its write side.
    Finishing {
        /// No longer than this.
        until: Mono,
    },
    /// Waits for the peer's end, so that a reset does not eat our last bytes; what comes is dropped.
    Lingering {
        /// No longer than this.
        until: Mono,
    },
    /// Shut both ways: closed at its last completion.
    Retired,
}

impl Phase {
    /// When this phase has lasted too long.
    pub(super) fn until(self) -> Option<Mono> {
        match self {
            Self::Finishing { until } | Self::Lingering { until } => Some(until),
            Self::Open | Self::Retired => None,
        }
    }
}

/// A send that the kernel has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sending {
    pub(super) slot: SlotId,
    /// Bytes already gone; 0 <= start < end.
    pub(super) start: usize,
    pub(super) end: usize,
    /// The session waits to hear of it (TLS's own records are nobody's business).
    pub(super) of_session: bool,
}

/// What opening received bytes came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Received {
    /// The peer's TLS said that it is done.
    pub(super) closed: bool,
}

/// One leg.
#[derive(Debug)]
pub(super) struct LegState {
    fd: OwnedFd,
    tls: Option<Box<Tls>>,
    /// An incomplete TLS record.
    cipher: Vec<u8>,
    /// Plaintext that the session has not consumed: an incomplete frame.
    plain: Vec<u8>,
    /// TLS's own records: they go before anything sealed later.
    tls_out: Vec<u8>,
    close_notify_sent: bool,
    /// A receive is armed.
    pub(super) receiving: bool,
    /// And is being cancelled.
    pub(super) cancelling: bool,
    pub(super) sending: Option<Sending>,
    pub(super) phase: Phase,
    /// The peer has ended its side: nothing more is received, what is queued may still go.
    pub(super) eof: bool,
    /// Since when something has waited for the send in flight.
    pub(super) waiting_since: Option<Mono>,
    /// Not read until then: it brought too much at once.
    pub(super) paused_until: Option<Mono>,
    /// What it holds beyond its ordinary buffers, as last counted.
    pub(super) grown_bytes: usize,
    /// Since when `received_bytes` are counted.
    counted_since: Mono,
    received_bytes: usize,
    /// A cancellation of everything on this socket is on its way.
    pub(super) cancelled: bool,
}

/// Emptied carry buffers, for the next leg that needs one.
#[derive(Debug, Default)]
pub(super) struct CarryPool(Vec<Vec<u8>>);

impl CarryPool {
    fn fill(&mut self, carry: &mut Vec<u8>, bytes: &[u8]) {
        if carry.capacity() == 0
            && !bytes.is_empty()
            && let Some(kept) = self.0.pop()
        {
            *carry = kept;
        }
        carry.extend_from_slice(bytes);
    }

    fn empty(&mut self, carry: &mut Vec<u8>) {
        carry.clear();
        if carry.capacity() > 0 {
            let carry = std::mem::take(carry);
            // Every connection brings one of its own from the desk: without a bound each call would leave some here.
            if carry.capacity() <= CARRY_KEPT_BYTES && self.0.len() < CARRY_KEPT {
                self.0.push(carry);
            }
        }
    }
}

impl LegState {
    /// Takes an established connection, and with it what was read ahead (give that to `receive` first).
    pub(super) fn new(connection: Established) -> (Self, Vec<u8>) {
        let Established {
            fd,
            tls,
            ciphertext,
            plaintext,
            peer: _,
        } = connection;
        let leg = Self {
            fd,
            tls,
            cipher: Vec::new(),
            // What the desk read the upgrade into is too large to be kept for nothing.
            plain: if plaintext.is_empty() {
                Vec::new()
            } else {
                plaintext
            },
            tls_out: Vec::new(),
            close_notify_sent: false,
            receiving: false,
            cancelling: false,
            sending: None,
            phase: Phase::Open,
            eof: false,
            waiting_since: None,
            paused_until: None,
            grown_bytes: 0,
            counted_since: Mono::default(),
            received_bytes: 0,
            cancelled: false,
        };
        (leg, ciphertext)
    }

    pub(super) fn raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// Counts received bytes; true when there were more than `CARRIER_BYTES_PER_TICK` in one tick.
    pub(super) fn is_flooding(&mut self, bytes: usize, now: Mono) -> bool {
        if now.since(self.counted_since) >= TICK {
            self.counted_since = now;
            self.received_bytes = 0;
        }
        self.received_bytes += bytes;
        self.received_bytes > CARRIER_BYTES_PER_TICK && self.paused_until.is_none()
    }

    /// Bytes kept for incomplete frames and records.
    pub(super) fn carry_bytes(&self) -> usize {
        self.cipher.len() + self.plain.len()
    }

    /// Opens `bytes` from the socket and gives plaintext to `consume`, which says how much it used up. `scratch` is lent
    /// for the call. On a plain leg with nothing carried, `consume` sees the receive buffer itself.
    pub(super) fn receive(
        &mut self,
        bytes: &mut [u8],
        scratch: &mut Vec<u8>,
        pool: &mut CarryPool,
        mut consume: impl FnMut(&mut [u8]) -> usize,
    ) -> Result<Received, TlsError> {
        let mut closed = false;
        if self.tls.is_none() && self.plain.is_empty() {
            let used = consume(bytes);
            pool.fill(&mut self.plain, &bytes[used..]);
        } else if self.tls.is_none() {
            self.plain.extend_from_slice(bytes);
            let used = consume(&mut self.plain);
            self.consumed(used, pool);
        } else {
            closed = self.open(bytes, scratch, pool)?;
            if !self.plain.is_empty() {
                // The incomplete frame and what continues it, in one piece.
                self.plain.extend_from_slice(scratch);
                let used = consume(&mut self.plain);
                self.consumed(used, pool);
            } else if !scratch.is_empty() {
                let used = consume(scratch);
                pool.fill(&mut self.plain, &scratch[used..]);
            }
        }
        Ok(Received { closed })
    }

    /// Opens ciphertext into `scratch` (cleared first).
    fn open(
        &mut self,
        bytes: &mut [u8],
        scratch: &mut Vec<u8>,
        pool: &mut CarryPool,
    ) -> Result<bool, TlsError> {
        scratch.clear();
        let tls = self.tls.as_mut().expect("only called on a TLS leg");
        if self.cipher.is_empty() {
            let opened = apart(|| tls.open(bytes, scratch, &mut self.tls_out))?;
            pool.fill(&mut self.cipher, &bytes[opened.consumed..]);
            Ok(opened.peer_closed)
        } else {
            self.cipher.extend_from_slice(bytes);
            let opened = apart(|| tls.open(&mut self.cipher, scratch, &mut self.tls_out))?;
            if opened.consumed == self.cipher.len() {
                pool.empty(&mut self.cipher);
            } else {
                self.cipher.drain(..opened.consumed);
            }
            Ok(opened.peer_closed)
        }
    }

    fn consumed(&mut self, used: usize, pool: &mut CarryPool) {
        if used == self.plain.len() {
            pool.empty(&mut self.plain);
        } else {
            self.plain.drain(..used);
        }
    }

    /// Puts plaintext in front of what is carried: `replay` gives it first.
    pub(super) fn put_first(&mut self, bytes: Vec<u8>) {
        let behind = std::mem::replace(&mut self.plain, bytes);
        self.plain.extend_from_slice(&behind);
    }

    /// Gives carried plaintext to `consume` once more: what came along with the connection itself.
    pub(super) fn replay(
        &mut self,
        pool: &mut CarryPool,
        mut consume: impl FnMut(&mut [u8]) -> usize,
    ) {
        if !self.plain.is_empty() {
            let used = consume(&mut self.plain);
            self.consumed(used, pool);
        }
    }

    /// Whether TLS has records of its own to send.
    pub(super) fn has_tls_out(&self) -> bool {
        !self.tls_out.is_empty()
    }

    /// How many bytes of it.
    pub(super) fn tls_out_len(&self) -> usize {
        self.tls_out.len()
    }

    /// Moves TLS's own records into a send slot; returns how many bytes.
    pub(super) fn take_tls_out(&mut self, slot: &mut [u8]) -> usize {
        let n = self.tls_out.len().min(slot.len());
        slot[..n].copy_from_slice(&self.tls_out[..n]);
        self.tls_out.drain(..n);
        n
    }

    /// Writes `plain` into a send slot, sealed where there is TLS; returns the bytes on the wire.
    pub(super) fn seal(&mut self, plain: &[u8], slot: &mut [u8]) -> Result<usize, TlsError> {
        match &mut self.tls {
            Some(tls) => apart(|| tls.seal(plain, slot)),
            None => {
                slot[..plain.len()].copy_from_slice(plain);
                Ok(plain.len())
            }
        }
    }

    /// Queues our close_notify; true when there is one to send.
    pub(super) fn queue_close_notify(&mut self) -> bool {
        if self.close_notify_sent {
            return false;
        }
        self.close_notify_sent = true;
        // A TLS state that can't say goodbye is closed without.
        self.tls
            .as_mut()
            .is_some_and(|tls| tls.close(&mut self.tls_out).is_ok())
            && self.has_tls_out()
    }

    /// Ends our side: the peer sees the end of the stream after everything sent.
    pub(super) fn shut_write(&self) {
        // Fails only when the peer has reset the connection: then the receive says so too.
        let _ = SockRef::from(&self.fd).shutdown(Shutdown::Write);
    }

    /// Ends both sides: pending operations complete.
    pub(super) fn shut_both(&self) {
        // As above.
        let _ = SockRef::from(&self.fd).shutdown(Shutdown::Both);
    }

    /// No operation of the kernel's is pending: the descriptor may be closed.
    pub(super) fn is_idle(&self) -> bool {
        !self.receiving && self.sending.is_none()
    }

    /// Gives the carry buffers back.
    pub(super) fn release(mut self, pool: &mut CarryPool) {
        pool.empty(&mut self.plain);
        pool.empty(&mut self.cipher);
    }
}
