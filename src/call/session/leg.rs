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
#[cfg(feature = "planted-bugs")]
use crate::call::{fact::EndReason, planted};
use crate::proto::ws::writer::{Kind, frame_len, write_frame};
use crate::proto::ws::{Role, close};
use std::collections::VecDeque;
use std::time::Duration;

/// How late the audio that another waits for may come, ms: frames of 20 ms do not come exactly so far apart.
const JOIN_SLACK_MS: u64 = 10;

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
    /// All that waits is audio that may wait for what follows it, until `Deadline::Join`.
    joining: bool,
    /// A send is with the kernel.
    in_flight: bool,
    /// Playing audio in that send, PCMU bytes: it counts as sent when the kernel has it.
    in_flight_audio: u64,
    /// The peer's close code, once its close frame was read.
    peer_close: Option<u16>,
    /// Bytes ever given to sends.
    pub(super) given: u64,
    /// As many as `given` will be when the newest frame of playing audio begins to go out, unless something is cut or
    /// put before it.
    pub(super) playing_at: u64,
    /// Something was put before all that waits, and waits itself.
    pub(super) urgent: bool,
}

impl Wire {
    pub(super) fn new(leg: Leg, role: Role) -> Self {
        Self {
            leg,
            role,
            state: State::Unopened,
            outbox: Outbox::default(),
            timers: Timers::default(),
            joining: false,
            in_flight: false,
            in_flight_audio: 0,
            peer_close: None,
            given: 0,
            playing_at: 0,
            urgent: false,
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
        let before = self.given + self.outbox.waiting() as u64;
        let len = frame_len(payload, masked);
        let is_alone = self.outbox.is_empty();
        let queued = self.outbox.push(class, len, |buf| {
            // RFC 6455 section 5.3: a fresh key for each frame of a client.
            let mask = masked.then(|| rng.mask_key());
            write_frame(buf, kind, mask, parts);
        });
        if queued && matches!(class, Class::Playing(_)) {
            self.playing_at = before;
        }
        match class {
            Class::Joining => self.joining |= is_alone && queued,
            // Nothing but audio waits, and nothing waits behind it.
            _ => self.go(),
        }
        queued
    }

    /// What waits goes out with the next send.
    pub(super) fn go(&mut self) {
        self.joining = false;
        self.timers.clear(Deadline::Join);
    }

    /// A text frame before everything that waits.
    fn frame_first(&mut self, parts: &[&[u8]], rng: &mut Rng) -> bool {
        if self.state != State::Open {
            return false;
        }
        self.go();
        self.urgent = true;
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
        #[cfg(feature = "planted-bugs")]
        if planted::is(planted::Planted::PongForgotten) {
            return;
        }
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
                #[cfg(feature = "planted-bugs")]
                if planted::is(planted::Planted::TalksAfterClose) {
                    self.frame(Class::Control, Kind::Ping, &[], rng);
                }
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
        self.joining = false;
        self.in_flight = false;
        self.in_flight_audio = 0;
    }

    /// Bytes that wait to be taken.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.outbox.waiting()
    }

    pub(super) fn peek(&self, max: usize) -> &[u8] {
        if self.joining {
            return &[];
        }
        self.outbox.peek(max)
    }

    pub(super) fn taken(&mut self, len: usize, now: Mono) {
        if len == 0 || self.is_over() {
            return;
        }
        self.urgent = false;
        self.in_flight_audio += self.outbox.consume(len);
        self.given += len as u64;
        if !self.in_flight {
            self.in_flight = true;
            #[cfg(feature = "planted-bugs")]
            if planted::is(planted::Planted::StallUnnoticed) {
                return;
            }
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

/// The sending sides, with what they share. This is where a call's messages become frames.
///
/// Connections to the model take two places in turn, `Leg::Realtime` and `Leg::Standby` as the shell sees them: while one is
/// closed, the other can be dialled. Which of them the call means by its legs of those names is here alone.
#[derive(Debug)]
pub(super) struct Wires {
    pub(super) carrier: Wire,
    pub(super) realtime: Wire,
    pub(super) standby: Wire,
    /// The place of the connection that the call speaks to.
    active: Option<Leg>,
    /// The place of the one that is to take over.
    next: Option<Leg>,
    /// The place that is being dialled for.
    pub(super) dialling: Option<Leg>,
    /// The place that was last dialled for: the shell may not be done with it yet, so the other comes first.
    last: Leg,
    pub(super) rng: Rng,
    pub(super) intents: VecDeque<Intent>,
    /// How long audio may wait to share a send.
    join_wait: Duration,
    /// Of the `handle_*` that is under way.
    pub(super) now: Mono,
}

impl Wires {
    /// `coalesce_ms` as in `Policy`. A frame that comes by half its length late is still waited for.
    pub(super) fn new(rng: Rng, coalesce_ms: u32) -> Self {
        Self {
            carrier: Wire::new(Leg::Carrier, Role::Server),
            realtime: Wire::new(Leg::Realtime, Role::Client),
            standby: Wire::new(Leg::Standby, Role::Client),
            active: None,
            next: None,
            dialling: None,
            last: Leg::Realtime,
            rng,
            intents: VecDeque::new(),
            join_wait: Duration::from_millis(u64::from(coalesce_ms) + JOIN_SLACK_MS),
            now: Mono::default(),
        }
    }

    pub(super) fn wire(&mut self, place: Leg) -> &mut Wire {
        self.parts(place).0
    }

    /// A wire with what it may need.
    pub(super) fn parts(&mut self, place: Leg) -> (&mut Wire, &mut Rng, &mut VecDeque<Intent>) {
        let wire = match place {
            Leg::Carrier => &mut self.carrier,
            Leg::Realtime => &mut self.realtime,
            Leg::Standby => &mut self.standby,
        };
        (wire, &mut self.rng, &mut self.intents)
    }

    /// What the connection at this place is to the call; nothing, when it is only being closed.
    pub(super) fn meaning(&self, place: Leg) -> Option<Leg> {
        match place {
            Leg::Carrier => Some(Leg::Carrier),
            _ if self.active == Some(place) => Some(Leg::Realtime),
            _ if self.next == Some(place) => Some(Leg::Standby),
            _ => None,
        }
    }

    /// The dialled connection is there, as what the call calls `meaning`.
    pub(super) fn connected(&mut self, place: Leg, meaning: Leg, now: Mono) {
        match meaning {
            Leg::Standby => self.next = Some(place),
            _ => self.active = Some(place),
        }
        let wire = self.wire(place);
        *wire = Wire::new(place, Role::Client);
        wire.open(now);
    }

    pub(super) fn is_over(&self) -> bool {
        self.carrier.is_over() && self.realtime.is_over() && self.standby.is_over()
    }

    /// A place for another connection to the model. One that is still being closed there is given up.
    fn free_place(&mut self) -> Leg {
        let taken = [self.active, self.next];
        let order = match self.last {
            Leg::Standby => [Leg::Realtime, Leg::Standby],
            _ => [Leg::Standby, Leg::Realtime],
        };
        let mut places = order
            .into_iter()
            .filter(|place| !taken.contains(&Some(*place)));
        let (first, second) = (places.next(), places.next());
        match (first, second) {
            (Some(place), _) if self.wire(place).is_over() => place,
            (_, Some(place)) if self.wire(place).is_over() => place,
            (first, _) => {
                // Never without one: of active and next at most one is there when a dial is asked for.
                let place = first.unwrap_or(Leg::Standby);
                let (wire, _, intents) = self.parts(place);
                wire.abort(intents);
                place
            }
        }
    }

    fn close(&mut self, place: Option<Leg>, code: u16, reason: &str, now: Mono) {
        if let Some(place) = place {
            let (wire, rng, intents) = self.parts(place);
            wire.begin_close(code, reason, now, rng, intents);
        }
    }

    pub(super) fn obey(&mut self, order: Order, now: Mono) {
        match order {
            Order::Dial => {
                self.dialling = Some(Leg::Realtime);
                self.intents.push_back(Intent::Dial);
            }
            Order::Redial => {
                let place = self.free_place();
                self.last = place;
                self.dialling = Some(place);
                self.intents.push_back(Intent::Redial(place));
            }
            Order::CancelDial => {
                if self.dialling.take().is_some() {
                    self.intents.push_back(Intent::CancelDial);
                }
            }
            Order::Distrust => self.intents.push_back(Intent::Distrust),
            Order::DropUpstream { reason, code } => {
                let place = self.active.take();
                self.close(place, code, reason.label(), now);
            }
            Order::DropStandby => {
                let place = self.next.take();
                self.close(place, 1000, "not needed", now);
            }
            Order::Switch => {
                let old = std::mem::replace(&mut self.active, self.next.take());
                self.close(old, 1000, "rolled over", now);
            }
            // `Session::settle` does it.
            Order::Configure => {}
            Order::Close {
                carrier,
                realtime,
                reason,
            } => {
                // C17: the model's connections first; they cost money.
                for (leg, code) in [
                    (Leg::Realtime, realtime),
                    (Leg::Standby, realtime),
                    (Leg::Carrier, carrier),
                ] {
                    #[cfg(feature = "planted-bugs")]
                    if planted::is(planted::Planted::UpstreamLeftOpen)
                        && (leg, reason) == (Leg::Realtime, EndReason::CallerHungUp)
                    {
                        continue;
                    }
                    self.close(Some(leg), code, reason.label(), now);
                }
            }
        }
    }
}

impl Output for Wires {
    fn send(&mut self, leg: Leg, class: Class, parts: &[&[u8]]) -> bool {
        let place = match leg {
            Leg::Carrier => Some(Leg::Carrier),
            Leg::Realtime => self.active,
            Leg::Standby => self.next,
        };
        let Some(place) = place else {
            return false;
        };
        let joins_at = self.now + self.join_wait;
        let (wire, rng, _) = self.parts(place);
        let queued = wire.frame(class, Kind::Text, parts, rng);
        if wire.joining && !wire.timers.is_set(Deadline::Join) {
            wire.timers.set(Deadline::Join, joins_at);
        }
        queued
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
