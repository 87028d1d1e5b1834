//! Decisions, pure: one conversation from `connected` to its one `EndReason`.
//!
//! `Call` sees messages and events as values and never a frame; `Session` gives it those, and puts what it sends into
//! frames. Both are core: no socket, no clock, no log. `Session` is what the shell, the simulation, the benches
//! and the fuzzers drive.
//!
//! | file | subject |
//! |---|---|
//! | `state` | the phases of a call, drawn, and the legal moves |
//! | `inbound` | the carrier's messages: start, the caller's audio, keys, stop |
//! | `outbound` | the model's events: set-up, its audio, marks, transcripts, errors |
//! | `gap` | silence for what is missing in stream time |
//! | `early` | caller audio held until the model is ready |
//! | `playback` | the ledger: what was received, sent, heard of each item |
//! | `barge_in` | the caller speaks: clear, cancel, truncate at what was heard; the bound on what waits to be heard |
//! | `cuts` | what the model was told of that, and what it answers |
//! | `hold` | audio kept so that an interruption can be taken back |
//! | `responses` | the one response slot |
//! | `answers` | responses that fail, or do not come |
//! | `policy` | how an agent leads a call |
//! | `marks` | what marks are called, when one is due, which are out |
//! | `upstream` | the model's connection lost, and dialled again |
//! | `rollover` | its session replaced before it expires |
//! | `history` | what was said, as text, for a session that must be told again |
//! | `greeting` | who speaks first; the one place that asks for responses |
//! | `silence` | silence, the longest duration, the goodbye, keys |
//! | `trace` | where the time of a turn went |
//! | `timer` | named deadlines |
//! | `tool_work` | what the tools decide, carried out |
//! | `tools` | what the model asks of tools, and the answers in order |
//! | `fact` | what a call reports, how it ends, what it counts |
//! | `outbox` | frames waiting on a leg |
//! | `session` | bytes in, bytes out: two WebSocket legs around one `Call` |
//!
//! Everything from the model comes through `Call::handle_realtime` (in `outbound`), everything from the carrier through
//! `Call::handle_carrier` (in `inbound`), every deadline through `Call::handle_timeout` (here): what else wants to know of
//! them hooks in there. Whoever wants a response asks `Call::want`.

mod answers;
mod barge_in;
pub mod cuts;
pub mod early;
pub mod fact;
pub mod gap;
mod greeting;
pub mod history;
pub mod hold;
mod inbound;
pub mod marks;
mod outbound;
pub mod outbox;
#[cfg(feature = "planted-bugs")]
pub mod planted;
pub mod playback;
pub mod policy;
pub mod responses;
mod rollover;
pub mod session;
mod silence;
pub mod state;
pub mod timer;
mod tool_work;
pub mod tools;
pub mod trace;
pub mod track;
mod upstream;

pub use fact::{Drop, EndReason, Fact, Leg, Report, Side, Speaker, Stats};
pub use upstream::DialFailure;

use crate::base::id::{CallSid, ResponseId, StreamSid};
use crate::base::limit;
use crate::base::time::{Mono, Now};
use crate::proto::carrier::twilio::Encoder;
use crate::proto::realtime::settings::Settings;
use cuts::Cuts;
use early::EarlyAudio;
use gap::StreamClock;
use history::History;
use hold::Hold;
use marks::Marks;
use outbox::{Class, Cut};
use playback::Playback;
use policy::Policy;
use responses::Responses;
use silence::{Farewell, Quiet};
use state::Phase;
use std::collections::VecDeque;
use std::sync::Arc;
use timer::{Deadline, Timers};
use trace::{Trace, Turn};
use upstream::Upstream;

/// Facts whose memory is kept when the queue is empty.
const FACTS_KEPT: usize = 8;

/// Where a call's messages go while it handles something. Lent for one call of a `handle_*`.
pub trait Output {
    /// Queues one text message, made of `parts` in order, on `leg`. `false`: the leg takes no more of this class.
    fn send(&mut self, leg: Leg, class: Class, parts: &[&[u8]]) -> bool;
    /// Drops what plays (`Class::Playing`, `Class::Mark`) and has not begun to go out on `leg`.
    fn cut(&mut self, leg: Leg) -> Cut;
    /// Queues one text message before everything that waits on `leg`. `false`: the leg is closed.
    fn send_first(&mut self, leg: Leg, parts: &[&[u8]]) -> bool;
}

/// How a leg came to its end, as `Session` saw it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LegEnd<'a> {
    /// The peer's close frame: code (1005 when it gave none) and reason.
    CloseFrame(u16, &'a str),
    /// End of stream without a close frame.
    Eof,
    /// Reset, an I/O or TLS error, or mute past the ping deadline.
    Lost,
    /// It does not take what we send.
    Stalled,
    /// It broke the protocol: the code to close it with, and a bounded label of what it did.
    Protocol(u16, &'static str),
}

/// What a call wants done beside its messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// Connect to the model, and answer with `handle_upstream`.
    Dial,
    /// The same again, once, as `expects` says for what.
    Redial,
    /// The dial that is under way is not wanted any more.
    CancelDial,
    /// Close the connection to the model and go on without.
    DropUpstream {
        /// What became of it.
        reason: EndReason,
        /// The close code.
        code: u16,
    },
    /// The connection that was made last was of no use: its endpoint is not to be preferred for a while.
    Distrust,
    /// Close the second connection.
    DropStandby,
    /// The second connection is the one from now on; the first, if it is still there, is closed.
    Switch,
    /// Send our settings once more (`Session` calls `configure`).
    Configure,
    /// Close both legs, the realtime one first, with these codes. Comes once, after which only `poll_fact` gives
    /// anything.
    Close {
        /// For the carrier.
        carrier: u16,
        /// For the model.
        realtime: u16,
        /// Why.
        reason: EndReason,
    },
}

/// One call's decisions.
///
/// # Contract
///
/// - Any `handle_*` at any time, with a `now` that never goes back; then `poll_order` and `poll_fact` until
///   `None`, and `poll_timeout`. Nothing blocks or panics, whatever is handed in.
/// - What a `handle_*` borrows it gives back when it returns: what must be kept is copied (early audio, ids).
/// - Exactly one `EndReason`: the first cause wins, `Fact::Ended` is the last fact, and what is handed in afterwards
///   changes nothing.
/// - At any moment `inbound_bytes == inbound_bytes_sent + inbound_bytes_dropped + held_bytes()` and
///   `outbound_bytes == outbound_bytes_sent + outbound_bytes_dropped + paused_bytes()`. The model was given
///   `inbound_bytes_sent + filled_bytes + padded_bytes`; what went out to the carrier is at most
///   `outbound_bytes_sent + resent_bytes - outbound_bytes_cut`.
/// - `handle_audio_sent` when the carrier's socket has taken audio, and only for audio that no `Output::cut` came after.
/// - No allocation for relayed audio once the session is ready, nor for marks that come back.
#[derive(Debug)]
pub struct Call {
    phase: Phase,
    settings: Arc<Settings>,
    policy: Arc<Policy>,
    expected_call_sid: Option<CallSid>,
    stream_sid: Option<StreamSid>,
    /// The bytes around messages to the carrier, made from `start`.
    encoder: Encoder,
    timers: Timers,
    facts: VecDeque<Fact>,
    dial: bool,
    close: Option<(u16, u16)>,
    stats: Stats,

    /// Inbound: the chunk number of the last frame that had one.
    chunk: Option<u64>,
    /// Inbound: the sequence number of the last frame that had one, and how many other messages came since, which
    /// take numbers of the same count.
    sequence: Option<u64>,
    between: u64,
    clock: StreamClock,
    early: Option<Box<EarlyAudio>>,
    last_media: Mono,
    /// Audio queued since a send was last asked for, PCMU bytes (`Policy::coalesce_ms`).
    joining: u64,
    /// The model heard speech begin and not yet end.
    speech_open: bool,
    foreign: u32,
    /// Messages that did not parse, per leg.
    malformed: [u32; 3],

    /// Set-up: the session's id and our `session.update`, until both are reported.
    session_id: String,
    session_update: String,

    /// Outbound.
    playback: Playback,
    marks: Marks,
    cuts: Cuts,
    hold: Hold,
    interrupts: barge_in::Interrupts,
    responses: Responses,
    answers: answers::Answers,
    /// The response whose first audio was reported.
    sounding: Option<ResponseId>,
    /// Tools.
    tools: tools::ToolBox,
    tool_work: tool_work::ToolWork,
    /// Reused for messages that are made, not spliced.
    text: Vec<u8>,

    /// The session's life.
    orders: VecDeque<Order>,
    upstream: Upstream,
    history: History,
    /// The caller stopped speaking, and no audio came in answer yet.
    turn_open: bool,
    /// What the model was saying when the caller stopped: no answer to that.
    turn_after: Option<ResponseId>,
    /// Wishes of a time without a session.
    wishes: Vec<responses::Want>,
    quiet: Quiet,
    farewell: Option<Farewell>,
    trace: Trace,
    /// Keys pressed and not told yet.
    keys: String,
    /// When the caller last stopped speaking.
    last_speech: Mono,
    /// The caller or the agent has said something.
    anyone_spoke: bool,
}

impl Call {
    /// A call whose carrier has connected.
    pub fn new(
        settings: Arc<Settings>,
        policy: Arc<Policy>,
        expected_call_sid: Option<CallSid>,
        now: Now,
    ) -> Self {
        let mut timers = Timers::default();
        timers.set(Deadline::Start, now.mono + limit::START_DEADLINE);
        Self {
            phase: Phase::Greeting,
            tools: tools::ToolBox::new(settings.clone(), policy.tool_limits),
            settings,
            tool_work: tool_work::ToolWork::default(),
            policy,
            expected_call_sid,
            stream_sid: None,
            encoder: Encoder::default(),
            timers,
            facts: VecDeque::new(),
            dial: false,
            close: None,
            stats: Stats::default(),
            chunk: None,
            sequence: None,
            between: 0,
            clock: StreamClock::default(),
            early: None,
            last_media: now.mono,
            joining: 0,
            speech_open: false,
            foreign: 0,
            malformed: [0; 3],
            session_id: String::new(),
            session_update: String::new(),
            playback: Playback::default(),
            marks: Marks::default(),
            cuts: Cuts::default(),
            hold: Hold::default(),
            interrupts: barge_in::Interrupts::default(),
            responses: Responses::default(),
            answers: answers::Answers::default(),
            sounding: None,
            text: Vec::new(),
            orders: VecDeque::new(),
            upstream: Upstream::default(),
            history: History::default(),
            turn_open: false,
            turn_after: None,
            wishes: Vec::new(),
            quiet: Quiet::default(),
            farewell: None,
            trace: Trace::default(),
            keys: String::new(),
            last_speech: now.mono,
            anyone_spoke: false,
        }
    }

    /// How this call is led.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// A text message that is none: not JSON, too deep, a needed field missing. Dropped and counted; the leg
    /// is closed with 1007 at the `limit::MALFORMED_MAX`th.
    pub fn handle_malformed(&mut self, leg: Leg, now: Now) {
        if self.phase.is_ended() {
            return;
        }
        self.count_message_in(leg);
        self.stats.drop(Drop::Malformed);
        let count = &mut self.malformed[leg as usize];
        *count += 1;
        if *count >= limit::MALFORMED_MAX {
            // RFC 6455 section 7.4.1: data not consistent with the type of the message.
            self.handle_leg_end(leg, LegEnd::Protocol(1007, fact::MALFORMED), now);
        }
    }

    /// A binary message, where both legs speak text only. Dropped and counted, and nothing else: Twilio's own
    /// answer to one is a warning, and a close would cost the caller more than the message is worth.
    pub fn handle_binary(&mut self, leg: Leg, _now: Now) {
        if self.phase.is_ended() {
            return;
        }
        self.count_message_in(leg);
        self.stats.drop(Drop::Binary);
    }

    /// A leg has ended, or must.
    pub fn handle_leg_end(&mut self, leg: Leg, how: LegEnd<'_>, now: Now) {
        let reason = match (leg, how) {
            (Leg::Carrier, LegEnd::CloseFrame(..) | LegEnd::Eof) => EndReason::CallerHungUp,
            (Leg::Carrier, LegEnd::Lost) => EndReason::CarrierLost,
            (Leg::Carrier, LegEnd::Stalled) => EndReason::CarrierStalled,
            (Leg::Carrier, LegEnd::Protocol(..)) => EndReason::CarrierProtocol,
            (Leg::Realtime, LegEnd::CloseFrame(..) | LegEnd::Eof | LegEnd::Lost) => {
                if self.phase == Phase::Ready {
                    EndReason::RealtimeLost
                } else {
                    EndReason::RealtimeUnavailable
                }
            }
            (Leg::Realtime, LegEnd::Stalled) => EndReason::RealtimeStalled,
            (Leg::Realtime, LegEnd::Protocol(..)) => EndReason::RealtimeProtocol,
            (Leg::Standby, _) => {
                if !self.phase.is_ended() {
                    self.on_standby_end("was lost", now);
                }
                return;
            }
        };
        if let (Leg::Realtime, LegEnd::CloseFrame(code, text)) = (leg, how)
            && !self.phase.is_ended()
        {
            // Why the model left is said nowhere else ("4000 invalid_request_error.invalid_model").
            self.facts.push_back(Fact::RealtimeError {
                code: format!("close_{code}"),
                message: text.to_owned(),
            });
        }
        // Before the first connection there is nothing to be lost.
        let may_return = leg == Leg::Realtime && !matches!(self.phase, Phase::Greeting);
        let LegEnd::Protocol(code, label) = how else {
            if may_return {
                let cause = match how {
                    LegEnd::CloseFrame(code, _) => format!("closed by the model with {code}"),
                    LegEnd::Eof => "the connection ended".to_owned(),
                    LegEnd::Stalled => "the model does not take what is sent".to_owned(),
                    LegEnd::Lost | LegEnd::Protocol(..) => "the connection is lost".to_owned(),
                };
                self.on_lost(cause, reason, now);
            } else {
                self.end(reason);
            }
            return;
        };
        if !self.phase.is_ended() {
            self.stats.violation(leg, label);
            self.note(format!("{leg:?}: {label}, closed with {code}."));
            if may_return {
                let cause = format!("the model broke the protocol ({label})");
                self.on_lost_with(cause, reason, code, now);
            } else {
                self.end(reason);
            }
            if let Some((carrier, realtime)) = &mut self.close {
                *(match leg {
                    Leg::Carrier => carrier,
                    Leg::Realtime | Leg::Standby => realtime,
                }) = code;
            }
        }
    }

    /// An order to end.
    pub fn handle_hang_up(&mut self, reason: EndReason) {
        self.end(reason);
    }

    /// Acts on one deadline that is due; `false` when none is.
    pub fn handle_timeout(&mut self, now: Now, out: &mut impl Output) -> bool {
        match self.timers.take_due(now.mono) {
            None => return self.on_tool_timeout(now, out),
            Some(Deadline::Start) => self.end(EndReason::StartTimeout),
            Some(Deadline::Upstream) => self.on_upstream_deadline(),
            Some(Deadline::Pad) => self.on_mute(out),
            Some(Deadline::Redial) => self.on_redial(),
            Some(Deadline::Setup) => self.on_setup_deadline(now),
            Some(Deadline::Rollover) => self.on_rollover(now, out),
            Some(Deadline::Standby) => self.on_standby_deadline(now, out),
            Some(Deadline::FirstWords) => self.on_first_words(now, out),
            Some(Deadline::Silence) => self.on_silence(now, out),
            Some(Deadline::Warning) => self.on_warning(out),
            Some(Deadline::Duration) => self.on_duration(now, out),
            Some(Deadline::Goodbye) => self.on_goodbye(now),
            Some(Deadline::Keys) => self.flush_keys(now, out),
            // B22: a one-way stream takes our audio and plays none of it.
            Some(Deadline::FirstMark) => self.note(
                "The carrier returns no marks: is this a one-way stream \
                 (<Start><Stream> where <Connect><Stream> is meant)?"
                    .to_owned(),
            ),
            Some(Deadline::Guard) => self.on_guard_over(now, out),
            Some(Deadline::Confirm) => self.on_confirmed(now, out),
            Some(Deadline::Response) => self.on_response_deadline(now, out),
            Some(Deadline::Answer) => self.on_answer_deadline(now, out),
            Some(Deadline::Again) => self.on_again(now, out),
            // The rest belong to legs.
            Some(
                Deadline::Pong
                | Deadline::Ping
                | Deadline::Join
                | Deadline::Stall
                | Deadline::Close,
            ) => {}
        }
        true
    }

    /// The carrier's socket has taken so many PCMU bytes more of what was queued for it.
    pub fn handle_audio_sent(&mut self, bytes: u64, now: Now) {
        if !self.phase.is_ended() {
            self.playback.on_sent(bytes, now.mono);
            self.on_audio_taken(now);
        }
    }

    /// The next thing to do. A dial that an end has overtaken is not asked for any more.
    pub fn poll_order(&mut self) -> Option<Order> {
        if let Some((carrier, realtime)) = self.close.take()
            && let Phase::Ended(reason) = self.phase
        {
            self.dial = false;
            self.orders.clear();
            return Some(Order::Close {
                carrier,
                realtime,
                reason,
            });
        }
        if std::mem::take(&mut self.dial) {
            return Some(Order::Dial);
        }
        self.orders.pop_front()
    }

    /// The next fact, in order of occurrence.
    pub fn poll_fact(&mut self) -> Option<Fact> {
        let fact = self.facts.pop_front();
        if fact.is_none() && self.facts.capacity() > 4 * FACTS_KEPT {
            self.facts.shrink_to(FACTS_KEPT);
        }
        fact
    }

    /// The earliest deadline.
    pub fn poll_timeout(&self) -> Option<Mono> {
        let own = self.timers.earliest().map(|(at, _)| at);
        own.into_iter().chain(self.tool_timeout()).min()
    }

    /// Where the call is.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// What was counted so far.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Caller audio held for the model now, PCMU bytes.
    pub fn held_bytes(&self) -> u64 {
        self.early.as_ref().map_or(0, |early| early.frame_bytes())
    }

    /// Where the time of the last turns went, oldest first.
    pub fn turns(&self) -> impl Iterator<Item = &Turn> {
        self.trace.turns()
    }

    /// So many bytes of the carrier's wire were given to sends.
    pub fn handle_carrier_taken(&mut self, taken: u64, now: Now) {
        self.trace.taken(taken, now.mono);
    }

    /// The first audio of an answer was queued: `set_wire_position` wants to know how much of the wire goes before it.
    pub fn wants_wire_position(&self) -> bool {
        self.trace.wants_position()
    }

    /// See `wants_wire_position`.
    pub fn set_wire_position(&mut self, before: u64) {
        self.trace.set_position(before);
    }

    fn note(&mut self, text: String) {
        self.facts.push_back(Fact::Note { text });
    }

    fn enter(&mut self, next: Phase) {
        debug_assert!(self.phase.may_become(next), "{:?} to {next:?}", self.phase);
        self.phase = next;
    }

    /// The one way to end: whatever comes first.
    fn end(&mut self, reason: EndReason) {
        if self.phase.is_ended() {
            return;
        }
        self.enter(Phase::Ended(reason));
        self.settle_at_end();
        self.timers.clear_all();
        if let Some(early) = self.early.take() {
            self.stats.drops[Drop::EarlyAudio as usize] += early.len() as u64;
            self.stats.inbound_bytes_dropped += early.frame_bytes();
        }
        self.report_unavailable(reason);
        if let Some(summary) = self.trace.summary() {
            self.facts.push_back(Fact::Turns(Box::new(summary)));
        }
        self.close = Some((
            reason.close_code(Leg::Carrier),
            reason.close_code(Leg::Realtime),
        ));
        #[cfg(feature = "planted-bugs")]
        if planted::is(planted::Planted::EndedTwice) {
            let stats = Box::new(self.stats.clone());
            self.facts.push_back(Fact::Ended { reason, stats });
        }
        #[cfg(feature = "planted-bugs")]
        if planted::is(planted::Planted::EndUnsaid) && reason == EndReason::RealtimeLost {
            return;
        }
        self.facts.push_back(Fact::Ended {
            reason,
            stats: Box::new(self.stats.clone()),
        });
    }

    fn count_message_in(&mut self, leg: Leg) {
        match leg {
            Leg::Carrier => self.stats.carrier_messages_in += 1,
            Leg::Realtime | Leg::Standby => self.stats.realtime_messages_in += 1,
        }
    }

    /// Queues a message and counts it.
    fn send(&mut self, out: &mut impl Output, leg: Leg, class: Class, parts: &[&[u8]]) -> bool {
        let sent = out.send(leg, class, parts);
        if sent {
            match leg {
                Leg::Carrier => self.stats.carrier_messages_out += 1,
                Leg::Realtime | Leg::Standby => self.stats.realtime_messages_out += 1,
            }
        }
        sent
    }
}
