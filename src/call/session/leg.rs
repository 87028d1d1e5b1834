//! One leg's sending side and its life as a WebSocket endpoint: frames out, pings, the closing handshake, stalls.
//!
//! ```text
//!  Unopened ──open──▶ Open ──our close──▶ Closing ──peer's close──▶ Exchanged (client) ──▶ Finishing ──▶ Closed
//!                      │                     │                         │ server: at once       ▲           ▲
//!                      │ peer's close, ours  │ CLOSE_DEADLINE          │ CLOSE_DEADLINE ───────┘ all sent  │
//!                      │ in answer: as above │                         │ end of stream                     │
//!                      └─ lost, stalled ─────┴─────────────────────────┴───────────────────────────────────┘
//! ```
//!
//! `Finishing` is `Intent::Finish`: what is queued goes out, then the socket is closed. RFC 6455 section 7.1.1: the
//! server closes the TCP connection first, so as a client we wait for its end of stream, as long as
//! `limit::CLOSE_DEADLINE` allows. No wait is endless: each state past `Open` has that deadline.

use super::Intent;
use crate::base::limit;
use crate::base::rng::Rng;
use crate::base::time::Mono;
use crate::call::fact::Leg;
use crate::call::outbox::{Class, Cut, Outbox};
use crate::call::timer::{Deadline, Timers};
use crate::call::{Order, Output};
use crate::proto::ws::writer::{Kind, frame_len, write_frame};
use crate::proto::ws::{Role, close};
use std::collections::VecDeque;

/// Where a leg is; see the diagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    Unopened,
    Open,
    Closing,
    Exchanged,
    Finishing,
    Closed,
}

/// The sending side of one leg.
#[derive(Debug)]
pub(super) struct Wire {
    leg: Leg,
    role: Role,
    pub(super) state: State,
    outbox: Outbox,
    pub(super) timers: Timers,
    /// A send is with the kernel.
    in_flight: bool,
    /// Playing audio in that send, PCMU bytes: it counts as sent when the kernel has it.
    in_flight_audio: u64,
    /// The peer's close code, once its close frame was read.
    peer_close: Option<u16>,
}

impl Wire {
    pub(super) fn new(leg: Leg, role: Role) -> Self {
        Self {
            leg,
            role,
            state: State::Unopened,
            outbox: Outbox::default(),
            timers: Timers::default(),
            in_flight: false,
            in_flight_audio: 0,
            peer_close: None,
        }
    }

    pub(super) fn open(&mut self, now: Mono) {
        debug_assert_eq!(self.state, State::Unopened);
        self.state = State::Open;
        self.timers.set(Deadline::Ping, now + limit::PING_INTERVAL);
    }

    /// Whether what the peer sends is still read, if only for its close frame.
    pub(super) fn reads(&self) -> bool {
        matches!(self.state, State::Open | State::Closing)
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self.state, State::Unopened | State::Closed)
    }

    fn frame(&mut self, class: Class, kind: Kind, parts: &[&[u8]], rng: &mut Rng) -> bool {
        if self.state != State::Open {
            return false;
        }
        let masked = self.role == Role::Client;
        let payload: usize = parts.iter().map(|part| part.len()).sum();
        self.outbox.push(class, frame_len(payload, masked), |buf| {
            // RFC 6455 section 5.3: a fresh key for each frame of a client.
            let mask = masked.then(|| rng.mask_key());
            write_frame(buf, kind, mask, parts);
        })
    }

    /// A text frame before everything that waits.
    fn frame_first(&mut self, parts: &[&[u8]], rng: &mut Rng) -> bool {
        if self.state != State::Open {
            return false;
        }
        let masked = self.role == Role::Client;
        let payload: usize = parts.iter().map(|part| part.len()).sum();
        self.outbox.push_first(frame_len(payload, masked), |buf| {
            let mask = masked.then(|| rng.mask_key());
            write_frame(buf, Kind::Text, mask, parts);
        });
        true
    }

    /// RFC 6455 section 5.5.2. A pong that finds no room is not sent: the peer is not reading, and a later one
    /// answers for it (section 5.5.3).
    pub(super) fn pong(&mut self, payload: &[u8], rng: &mut Rng) {
        self.frame(Class::Control, Kind::Pong, &[payload], rng);
    }

    /// The next ping; from now on the peer has `limit::PONG_DEADLINE` to show any sign of life.
    pub(super) fn ping(&mut self, now: Mono, rng: &mut Rng) {
        if self.state != State::Open {
            return;
        }
        self.frame(Class::Control, Kind::Ping, &[], rng);
        self.timers.set(Deadline::Ping, now + limit::PING_INTERVAL);
        if !self.timers.is_set(Deadline::Pong) {
            self.timers.set(Deadline::Pong, now + limit::PONG_DEADLINE);
        }
    }

    /// A message or pong came.
    pub(super) fn heard(&mut self) {
        self.timers.clear(Deadline::Pong);
    }

    /// The peer's close frame came. Before ours: the call decides, and `begin_close` answers. After ours: done.
    pub(super) fn on_peer_close(&mut self, code: u16, now: Mono, intents: &mut VecDeque<Intent>) {
        self.peer_close = Some(code);
        if self.state == State::Closing {
            self.exchanged(now, intents);
        }
    }

    /// Queues our close frame: with `code` and `reason`, or in answer to the peer's, with its own code.
    pub(super) fn begin_close(
        &mut self,
        code: u16,
        reason: &str,
        now: Mono,
        rng: &mut Rng,
        intents: &mut VecDeque<Intent>,
    ) {
        match self.state {
            State::Unopened => self.state = State::Closed,
            State::Open => {
                let (payload, len) = match self.peer_close {
                    Some(theirs) => close::payload(theirs, ""),
                    None => close::payload(code, reason),
                };
                self.frame(Class::Close, Kind::Close, &[&payload[..len]], rng);
                self.timers.clear(Deadline::Ping);
                self.timers.clear(Deadline::Pong);
                self.timers
                    .set(Deadline::Close, now + limit::CLOSE_DEADLINE);
                self.state = State::Closing;
                if self.peer_close.is_some() {
                    self.exchanged(now, intents);
                }
            }
            State::Closing | State::Exchanged | State::Finishing | State::Closed => {}
        }
    }

    /// The peer's frames can't be read any further: its close frame is not waited for.
    pub(super) fn unreadable(&mut self, now: Mono, intents: &mut VecDeque<Intent>) {
        if matches!(self.state, State::Closing | State::Exchanged) {
            self.finish(now, intents);
        }
    }

    fn exchanged(&mut self, now: Mono, intents: &mut VecDeque<Intent>) {
        match self.role {
            Role::Server => self.finish(now, intents),
            Role::Client => self.state = State::Exchanged,
        }
    }

    fn finish(&mut self, now: Mono, intents: &mut VecDeque<Intent>) {
        self.state = State::Finishing;
        self.timers
            .set(Deadline::Close, now + limit::CLOSE_DEADLINE);
        intents.push_back(Intent::Finish(self.leg));
        self.rest();
    }

    /// In `Finishing`: over once everything is out.
    fn rest(&mut self) {
        if self.state == State::Finishing && self.outbox.is_empty() && !self.in_flight {
            self.closed();
        }
    }

    /// `Deadline::Close`: no longer.
    pub(super) fn on_close_deadline(&mut self, now: Mono, intents: &mut VecDeque<Intent>) {
        match self.state {
            State::Exchanged => self.finish(now, intents),
            _ => self.abort(intents),
        }
    }

    pub(super) fn abort(&mut self, intents: &mut VecDeque<Intent>) {
        if !self.is_over() {
            intents.push_back(Intent::Abort(self.leg));
            self.closed();
        }
    }

    /// The socket is gone, or given up.
    pub(super) fn closed(&mut self) {
        self.state = State::Closed;
        self.timers.clear_all();
        self.outbox.clear();
        self.in_flight = false;
        self.in_flight_audio = 0;
    }

    /// Bytes that wait to be taken.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.outbox.waiting()
    }

    pub(super) fn peek(&self, max: usize) -> &[u8] {
        self.outbox.peek(max)
    }

    pub(super) fn taken(&mut self, len: usize, now: Mono) {
        if len == 0 || self.is_over() {
            return;
        }
        self.in_flight_audio += self.outbox.consume(len);
        if !self.in_flight {
            self.in_flight = true;
            self.timers
                .set(Deadline::Stall, now + limit::WRITE_STALL_DEADLINE);
        }
    }

    /// The send is with the kernel: how much audio it brought to the peer, PCMU bytes.
    pub(super) fn sent(&mut self) -> u64 {
        self.in_flight = false;
        self.timers.clear(Deadline::Stall);
        self.rest();
        std::mem::take(&mut self.in_flight_audio)
    }
}

/// Both sending sides, with what they share. This is where a call's messages become frames.
#[derive(Debug)]
pub(super) struct Wires {
    pub(super) carrier: Wire,
    pub(super) realtime: Wire,
    pub(super) rng: Rng,
    pub(super) intents: VecDeque<Intent>,
}

impl Wires {
    pub(super) fn wire(&mut self, leg: Leg) -> &mut Wire {
        match leg {
            Leg::Carrier => &mut self.carrier,
            Leg::Realtime => &mut self.realtime,
        }
    }

    /// A wire with what it may need.
    pub(super) fn parts(&mut self, leg: Leg) -> (&mut Wire, &mut Rng, &mut VecDeque<Intent>) {
        let wire = match leg {
            Leg::Carrier => &mut self.carrier,
            Leg::Realtime => &mut self.realtime,
        };
        (wire, &mut self.rng, &mut self.intents)
    }

    pub(super) fn obey(&mut self, order: Order, now: Mono) {
        match order {
            Order::Dial => self.intents.push_back(Intent::Dial),
            Order::Close {
                carrier,
                realtime,
                reason,
            } => {
                // C17: the model's connection first; it costs money.
                for (leg, code) in [(Leg::Realtime, realtime), (Leg::Carrier, carrier)] {
                    let (wire, rng, intents) = self.parts(leg);
                    wire.begin_close(code, reason.label(), now, rng, intents);
                }
            }
        }
    }
}

impl Output for Wires {
    fn send(&mut self, leg: Leg, class: Class, parts: &[&[u8]]) -> bool {
        let (wire, rng, _) = self.parts(leg);
        wire.frame(class, Kind::Text, parts, rng)
    }

    fn cut(&mut self, leg: Leg) -> Cut {
        let wire = self.wire(leg);
        // What is with the kernel goes out before what follows now; it will not be heard.
        wire.in_flight_audio = 0;
        wire.outbox.cut()
    }

    fn send_first(&mut self, leg: Leg, parts: &[&[u8]]) -> bool {
        let (wire, rng, _) = self.parts(leg);
        wire.frame_first(parts, rng)
    }
}
