//! Bytes in, bytes out: two legs around one `Call`. Core: no socket, no clock, no TLS.
//!
//! # Contract
//!
//! The worker owns a `Session` and calls it in this order, any number of times:
//!
//! 1. one `handle_*` (bytes, a close, a dial's outcome, a timeout, a command), with the `Now` of the wake-up. Where
//!    several are due, input before timeouts: a pong that waits in the socket is a sign of life;
//! 2. `poll_intent` until `None`, obeying each;
//! 3. for each leg that has no send in flight: `poll_transmit`; what it takes of the returned bytes it
//!    says with `handle_taken`, and when the kernel has taken the whole send, `handle_sent`;
//! 4. `poll_fact` until `None`;
//! 5. `poll_timeout` for the next deadline;
//! 6. when `is_finished`, both sockets are closed and the session is dropped.
//!
//! Input is lent for one call and may be changed in place (unmasking). Nothing here blocks or panics on any input.
//!
//! # Ends
//!
//! `Fact::Ended` comes when the end is decided and is the last fact. The closing handshakes follow, which nothing can
//! prolong past three times `limit::CLOSE_DEADLINE`: then `is_finished`. For each leg that was open the shell sees exactly
//! one of: its own `handle_closed` (the socket is gone, the shell frees it), `Intent::Finish`, `Intent::Abort`. One
//! exception: a `Finish` whose bytes are not taken in time is followed by an `Abort`. A leg that is finishing goes on
//! with `poll_transmit`, `handle_taken` and `handle_sent` until nothing waits. A dial that comes back after the
//! end is answered with `Abort` of its leg.

#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod leg;
#[cfg(test)]
mod tests;

use super::fact::{EndReason, Fact, Leg, Stats};
#[cfg(feature = "planted-bugs")]
use super::planted;
use super::playback::Playback;
use super::policy::Policy;
use super::state::Phase;
use super::timer::Deadline;
use super::tools::{ToolCall, ToolResult};
use super::trace::Turn;
use super::{Call, DialFailure, LegEnd, Order};
use crate::base::id::{CallId, CallSid};
use crate::base::limit;
use crate::base::rng::Rng;
use crate::base::route::StreamMode;
use crate::base::time::{Mono, Now};
use crate::proto::carrier::twilio;
#[cfg(feature = "planted-bugs")]
use crate::proto::decode::Noticed;
use crate::proto::realtime::server_event::{self, ServerEvent};
use crate::proto::realtime::settings::Settings;
use crate::proto::ws::Role;
use crate::proto::ws::reader::{Message, Reader};
use leg::{State, Wire, Wires};
use std::sync::Arc;

/// After a message longer than this the slow path's memory is given back.
const SCRATCH_KEPT_BYTES: usize = 4 * 1024;

/// What a session is born with.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The call.
    pub call_id: CallId,
    /// What the model is told in `session.update`.
    pub settings: Arc<Settings>,
    /// How the call is led.
    pub policy: Arc<Policy>,
    /// The call that `start` must name, when the stream came with a ticket.
    pub expected_call_sid: Option<CallSid>,
    /// What the stream's path does with its call; for the shell's records, the call is led the same.
    pub mode: StreamMode,
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
    /// Connect to the model; answer with `handle_upstream`. The connection is `Leg::Realtime`.
    Dial,
    /// Connect once more, with one attempt, and answer likewise. The connection is this leg: `Realtime` or `Standby`, in
    /// turn, whatever it is for. At most one dial is under way.
    Redial(Leg),
    /// The dial that is under way is not wanted any more: no answer is expected to it.
    CancelDial,
    /// The connection that was given last was of no use: prefer another endpoint for a while.
    Distrust,
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
    call: Call,
    carrier_reader: Reader,
    carrier_scratch: twilio::Scratch,
    /// Of `Leg::Realtime` and `Leg::Standby`.
    realtime_readers: [Reader; 2],
    realtime_scratch: server_event::Scratch,
    wires: Wires,
}

impl Session {
    /// A session whose carrier leg is upgraded. It has not seen a byte yet.
    pub fn new(setup: Setup, now: Now) -> Self {
        let mut wires = Wires::new(Rng::from_seed(setup.seed), setup.policy.coalesce_ms);
        wires.carrier.open(now.mono);
        let mut call = Call::new(setup.settings, setup.policy, setup.expected_call_sid, now);
        // Of its own, so that jitter does not shift the mask keys.
        let mut seed = setup.seed;
        seed[0] ^= 0x5a;
        call.set_rng(Rng::from_seed(seed));
        Self {
            call,
            carrier_reader: Reader::new(Role::Server, limit::CARRIER_MESSAGE_BYTES_MAX),
            carrier_scratch: twilio::Scratch::default(),
            realtime_readers: [realtime_reader(), realtime_reader()],
            realtime_scratch: server_event::Scratch::default(),
            wires,
        }
    }

    /// Takes plaintext from a leg: the bytes not consumed by the last call, then the new ones.
    /// Returns how many bytes from the front were consumed; the rest is an incomplete frame, to be
    /// given again (unchanged: part of it may have been unmasked) with more behind it.
    pub fn handle_input(&mut self, leg: Leg, input: &mut [u8], now: Now) -> usize {
        self.wires.now = now.mono;
        let mut used = 0;
        while self.wires.wire(leg).reads() {
            match self.read_one(leg, &mut input[used..], now) {
                Some((n, more)) => {
                    used += n;
                    self.settle(now);
                    if !more {
                        return used;
                    }
                }
                None => {
                    self.settle(now);
                    let (wire, _, intents) = self.wires.parts(leg);
                    wire.unreadable(now.mono, intents);
                    break;
                }
            }
        }
        // Nothing that follows a close frame is looked at (RFC 6455 section 1.4).
        input.len()
    }

    /// Reads and handles at most one message: the bytes used, and whether there was one. `None`: the peer broke the
    /// protocol.
    fn read_one(&mut self, leg: Leg, input: &mut [u8], now: Now) -> Option<(usize, bool)> {
        let Session {
            call,
            carrier_reader,
            carrier_scratch,
            realtime_readers: [first, second],
            realtime_scratch,
            wires,
        } = self;
        // What it is to the call; a connection that is only being closed is nothing any more.
        let meaning = wires.meaning(leg);
        let reader = match leg {
            Leg::Carrier => carrier_reader,
            Leg::Realtime => first,
            Leg::Standby => second,
        };
        let (used, message) = match reader.read(input) {
            Ok((used, None)) => return Some((used, false)),
            Ok((used, Some(message))) => (used, message),
            Err(violation) => {
                let how = LegEnd::Protocol(violation.close_code(), violation.label());
                if let Some(leg) = meaning {
                    call.handle_leg_end(leg, how, now);
                }
                return None;
            }
        };
        let (wire, rng, intents) = wires.parts(leg);
        wire.heard();
        match message {
            Message::Close(code, reason) => {
                wire.on_peer_close(code, now.mono, intents);
                if let Some(leg) = meaning {
                    call.handle_leg_end(leg, LegEnd::CloseFrame(code, reason), now);
                }
            }
            // Only the close frame is of interest. But audio on a connection to the model that is being left came all the
            // same: it is counted, and not played.
            Message::Text(text) if wire.state != State::Open && leg != Leg::Carrier => {
                if let Ok((ServerEvent::AudioDelta(delta), _)) =
                    server_event::decode(text, realtime_scratch)
                {
                    #[cfg(feature = "planted-bugs")]
                    if planted::is(planted::Planted::LeftAudioPlayed) {
                        let event = ServerEvent::AudioDelta(delta);
                        call.handle_realtime(event, Noticed::default(), now, wires);
                        return Some((used, true));
                    }
                    call.handle_left_audio(&delta);
                }
            }
            _ if wire.state != State::Open => {}
            Message::Ping(payload) => wire.pong(payload, rng),
            Message::Pong(_) => {}
            Message::Binary(_) => call.handle_binary(leg, now),
            Message::Text(text) => {
                let long = text.len() > SCRATCH_KEPT_BYTES;
                match leg {
                    Leg::Carrier => {
                        match twilio::decode(text, carrier_scratch) {
                            Ok((message, noticed)) => {
                                call.handle_carrier(message, noticed, now, wires);
                            }
                            Err(_) => call.handle_malformed(leg, now),
                        }
                        if long {
                            *carrier_scratch = twilio::Scratch::default();
                        }
                    }
                    Leg::Realtime | Leg::Standby => {
                        let mut item = None;
                        let decoded =
                            server_event::decode_and_keep(text, realtime_scratch, &mut item);
                        match (decoded, meaning) {
                            (Ok((event, noticed)), Some(Leg::Realtime)) => {
                                if let Some(item) = item {
                                    call.handle_item(item);
                                }
                                call.handle_realtime(event, noticed, now, wires);
                                if call.wants_wire_position() {
                                    call.set_wire_position(wires.carrier.playing_at);
                                }
                            }
                            (Ok((event, _)), _) => call.handle_standby(&event, now, wires),
                            (Err(_), meaning) => {
                                call.handle_malformed(meaning.unwrap_or(Leg::Standby), now);
                            }
                        }
                        if long {
                            *realtime_scratch = server_event::Scratch::default();
                        }
                    }
                }
            }
        }
        Some((used, true))
    }

    /// A leg's connection is gone, and the shell frees its socket: nothing is asked of this leg any more. Not
    /// called for a leg after `Finish` or `Abort` (harmless if it is).
    pub fn handle_closed(&mut self, leg: Leg, how: Closed, now: Now) {
        self.wires.now = now.mono;
        let wire = self.wires.wire(leg);
        if wire.is_over() {
            return;
        }
        wire.closed();
        let how = match how {
            Closed::Eof => LegEnd::Eof,
            Closed::Broken => LegEnd::Lost,
        };
        if let Some(leg) = self.wires.meaning(leg) {
            self.call.handle_leg_end(leg, how, now);
        }
        self.settle(now);
    }

    /// The answer to `Intent::Dial`: a connection that had waited for a call. What came on it is given as input next.
    pub fn handle_adopted(&mut self, now: Now) {
        self.call.note_waited();
        self.handle_upstream(Ok(()), now);
    }

    /// The answer to `Intent::Dial` or `Redial`: connected and upgraded, or why not.
    pub fn handle_upstream(&mut self, outcome: Result<(), DialFailure>, now: Now) {
        self.wires.now = now.mono;
        let Some(place) = self.wires.dialling.take() else {
            return;
        };
        match (&outcome, self.call.expects()) {
            (Ok(()), Some(meaning)) => {
                self.realtime_readers[usize::from(place == Leg::Standby)] = realtime_reader();
                self.wires.connected(place, meaning, now.mono);
            }
            // The end, or time, has overtaken the dial.
            (Ok(()), None) => self.wires.intents.push_back(Intent::Abort(place)),
            (Err(_), _) => {}
        }
        self.call.handle_upstream(outcome, now);
        self.settle(now);
    }

    /// A deadline from `poll_timeout` may have passed. Harmless when none has.
    pub fn handle_timeout(&mut self, now: Now) {
        self.wires.now = now.mono;
        loop {
            let mut acted = self.call.handle_timeout(now, &mut self.wires);
            self.settle(now);
            for leg in [Leg::Carrier, Leg::Realtime, Leg::Standby] {
                let (wire, rng, intents) = self.wires.parts(leg);
                let Some(due) = wire.timers.take_due(now.mono) else {
                    continue;
                };
                acted = true;
                let lost = match due {
                    Deadline::Pong => Some(LegEnd::Lost),
                    Deadline::Stall => Some(LegEnd::Stalled),
                    Deadline::Ping => {
                        wire.ping(now.mono, rng);
                        None
                    }
                    Deadline::Join => {
                        wire.go();
                        None
                    }
                    Deadline::Close => {
                        wire.on_close_deadline(now.mono, intents);
                        None
                    }
                    // The rest are the call's own.
                    _ => None,
                };
                if let Some(how) = lost {
                    wire.abort(intents);
                    if let Some(leg) = self.wires.meaning(leg) {
                        self.call.handle_leg_end(leg, how, now);
                    }
                    self.settle(now);
                }
            }
            if !acted {
                return;
            }
        }
    }

    /// An order from outside.
    pub fn handle_command(&mut self, command: Command, now: Now) {
        self.wires.now = now.mono;
        match command {
            Command::HangUp(reason) => self.call.handle_hang_up(reason),
        }
        self.settle(now);
    }

    /// The session panicked inside a `handle_*` and was caught: counts as `EndReason::Internal`. It
    /// must not be driven any further; this gives its last facts and intents: both legs are aborted.
    pub fn handle_panic(&mut self, _now: Now) {
        self.call.handle_hang_up(EndReason::Internal);
        // Its frames may be half written: nothing more is sent.
        let _ = self.call.poll_order();
        self.wires
            .intents
            .retain(|intent| !matches!(intent, Intent::Dial | Intent::Redial(_)));
        for leg in [Leg::Realtime, Leg::Standby, Leg::Carrier] {
            let (wire, _, intents) = self.wires.parts(leg);
            wire.abort(intents);
        }
    }

    /// A tool's answer.
    pub fn handle_tool_result(&mut self, result: ToolResult, now: Now) {
        self.wires.now = now.mono;
        self.call.handle_tool_result(result, now, &mut self.wires);
        self.settle(now);
    }

    /// The next HTTP tool to ask, answered by `handle_tool_result`. Ask with the intents.
    pub fn poll_tool(&mut self) -> Option<ToolCall> {
        self.call.poll_tool()
    }

    /// The next thing for the shell to do.
    pub fn poll_intent(&mut self) -> Option<Intent> {
        self.wires.intents.pop_front()
    }

    /// Whole frames waiting on this leg, oldest first, at most `max` bytes unless the first frame
    /// alone is longer (then `max` bytes of it; the rest follows). Empty when there is nothing.
    pub fn poll_transmit(&mut self, leg: Leg, max: usize) -> &[u8] {
        self.wires.wire(leg).peek(max)
    }

    /// The first `len` bytes of the last `poll_transmit` of this leg are in a send now.
    pub fn handle_taken(&mut self, leg: Leg, len: usize, now: Now) {
        self.wires.wire(leg).taken(len, now.mono);
        if leg == Leg::Carrier {
            self.call
                .handle_carrier_taken(self.wires.carrier.given, now);
        }
    }

    /// Whether something waits for the carrier that went before all that waited (a `clear`): worth a send at once, before
    /// other calls are served.
    pub fn is_urgent(&self) -> bool {
        self.wires.carrier.urgent
    }

    /// The kernel has taken the whole of the last send of this leg.
    pub fn handle_sent(&mut self, leg: Leg, now: Now) {
        let bytes = self.wires.wire(leg).sent();
        if bytes > 0 {
            self.call.handle_audio_sent(bytes, now);
        }
    }

    /// The next thing to report, in order of occurrence.
    pub fn poll_fact(&mut self) -> Option<Fact> {
        self.call.poll_fact()
    }

    /// The earliest deadline.
    pub fn poll_timeout(&self) -> Option<Mono> {
        let leg = |wire: &Wire| wire.timers.earliest().map(|(at, _)| at);
        [
            self.call.poll_timeout(),
            leg(&self.wires.carrier),
            leg(&self.wires.realtime),
            leg(&self.wires.standby),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Both legs are closed (or were never opened) and `Fact::Ended` was made.
    pub fn is_finished(&self) -> bool {
        self.call.phase().is_ended() && self.wires.is_over()
    }

    /// Bytes kept inside for a message of this leg that comes in fragments; counts against the process's budget.
    pub fn fragment_bytes(&self, leg: Leg) -> usize {
        match leg {
            Leg::Carrier => self.carrier_reader.held_bytes(),
            Leg::Realtime => self.realtime_readers[0].held_bytes(),
            Leg::Standby => self.realtime_readers[1].held_bytes(),
        }
    }

    /// What was counted so far.
    pub fn stats(&self) -> &Stats {
        self.call.stats()
    }

    /// Where the call is, for views and tests.
    pub fn phase(&self) -> Phase {
        self.call.phase()
    }

    /// Where the time of the last turns went, oldest first.
    pub fn turns(&self) -> impl Iterator<Item = &Turn> {
        self.call.turns()
    }

    /// Caller audio held until the model is ready, PCMU bytes.
    pub fn held_bytes(&self) -> u64 {
        self.call.held_bytes()
    }

    /// Model audio that waits for an interruption to be confirmed or taken back, PCMU bytes.
    pub fn paused_bytes(&self) -> u64 {
        self.call.paused_bytes()
    }

    /// The ledger of what was sent and heard.
    pub fn playback(&self) -> &Playback {
        self.call.playback()
    }

    /// Does what the call ordered.
    fn settle(&mut self, now: Now) {
        while let Some(order) = self.call.poll_order() {
            if order == Order::Configure {
                self.call.configure(Leg::Realtime, &mut self.wires);
            } else {
                self.wires.obey(order, now.mono);
            }
        }
    }
}

fn realtime_reader() -> Reader {
    Reader::new(Role::Client, limit::REALTIME_MESSAGE_BYTES_MAX)
}
