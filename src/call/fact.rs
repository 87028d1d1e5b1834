//! What a call reports, and how it ended.

use super::marks::MarkName;
pub use super::policy::OnModelUnavailable;
pub use super::trace::{Turn, TurnSummary};
use crate::base::id::{CallId, CallSid, ItemId, ResponseId, StreamSid};
use crate::base::route::StreamMode;
use crate::base::time::Now;
pub use crate::proto::realtime::server_event::Usage;

/// One of a call's two connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Leg {
    /// To the telephone network.
    Carrier,
    /// To the speech model.
    Realtime,
    /// A second connection to the speech model. As a socket: the other of the two places that connections to it take
    /// in turn. In a call's decisions: the one that takes over before the session of the first expires.
    Standby,
}

/// Who is to blame for an end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Side {
    /// The carrier or the caller.
    Carrier,
    /// The model's endpoint.
    Realtime,
    /// An operator or our own configuration.
    Local,
}

/// Why a call ended: exactly one per call. Its close codes are in `EndReason::close_code`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum EndReason {
    /// The carrier sent `stop`, or closed its socket in order.
    CallerHungUp,
    /// The carrier's socket broke, or went mute past the ping deadline.
    CarrierLost,
    /// The carrier does not take what we send.
    CarrierStalled,
    /// The carrier broke the WebSocket protocol.
    CarrierProtocol,
    /// No `start` in time.
    StartTimeout,
    /// The stream's media format is not one we relay.
    UnsupportedMedia,
    /// `start` names another call than the ticket, or stream ids of another stream kept coming.
    NotAuthorized,
    /// The model could not be reached or refused, before the session was ready.
    RealtimeUnavailable,
    /// The model did not confirm our session in time, or confirmed another audio format.
    RealtimeSetup,
    /// The model closed or broke the connection of a session that was ready.
    RealtimeLost,
    /// The model does not take what we send.
    RealtimeStalled,
    /// The model broke the WebSocket protocol.
    RealtimeProtocol,
    /// Nobody spoke for as long as the agent waits.
    Silence,
    /// The longest duration was reached.
    MaxDuration,
    /// The model ended it (`end_call`), and its goodbye was heard.
    EndedByModel,
    /// An operator ended it.
    HungUpByOperator,
    /// The daemon stops and the drain time is over.
    Drained,
    /// A fault of ours, contained to this call.
    Internal,
}

impl EndReason {
    /// Whose doing it was.
    pub fn side(self) -> Side {
        use EndReason::*;
        match self {
            CallerHungUp | CarrierLost | CarrierStalled | CarrierProtocol | StartTimeout
            | UnsupportedMedia | NotAuthorized => Side::Carrier,
            RealtimeUnavailable | RealtimeSetup | RealtimeLost | RealtimeStalled
            | RealtimeProtocol => Side::Realtime,
            Silence | MaxDuration | EndedByModel | HungUpByOperator | Drained | Internal => {
                Side::Local
            }
        }
    }

    /// A bounded label for metrics, logs and records.
    pub fn label(self) -> &'static str {
        use EndReason::*;
        match self {
            CallerHungUp => "caller_hung_up",
            CarrierLost => "carrier_lost",
            CarrierStalled => "carrier_stalled",
            CarrierProtocol => "carrier_protocol",
            StartTimeout => "start_timeout",
            UnsupportedMedia => "unsupported_media",
            NotAuthorized => "not_authorized",
            RealtimeUnavailable => "realtime_unavailable",
            RealtimeSetup => "realtime_setup",
            RealtimeLost => "realtime_lost",
            RealtimeStalled => "realtime_stalled",
            RealtimeProtocol => "realtime_protocol",
            Silence => "silence",
            MaxDuration => "max_duration",
            EndedByModel => "ended_by_model",
            HungUpByOperator => "hung_up_by_operator",
            Drained => "drained",
            Internal => "internal",
        }
    }

    /// The WebSocket close code (RFC 6455 section 7.4.1) that a leg gets when the call ends for this reason. The
    /// one exception: a leg that broke the protocol gets the code of what it did (1002, 1007 or 1009). A leg that
    /// was lost or stalls gets no close frame at all.
    pub fn close_code(self, leg: Leg) -> u16 {
        use EndReason::*;
        let (carrier, realtime) = match self {
            CallerHungUp | CarrierLost | Silence | MaxDuration | EndedByModel
            | HungUpByOperator => (1000, 1000),
            // Going away: this process stops.
            Drained => (1001, 1001),
            CarrierProtocol => (1002, 1000),
            UnsupportedMedia => (1003, 1000),
            CarrierStalled | StartTimeout | NotAuthorized => (1008, 1000),
            // Internal error: what kept us from serving the carrier was not its doing.
            RealtimeUnavailable | RealtimeSetup | RealtimeLost | RealtimeStalled => (1011, 1000),
            RealtimeProtocol => (1011, 1002),
            Internal => (1011, 1011),
        };
        match leg {
            Leg::Carrier => carrier,
            Leg::Realtime | Leg::Standby => realtime,
        }
    }
}

/// Who spoke.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Speaker {
    /// The caller.
    User,
    /// The model.
    Assistant,
}

/// Something that happened in a call, for records, logs and live views. Never on the audio path:
/// a fact may allocate.
#[derive(Clone, PartialEq, Debug)]
pub enum Fact {
    /// The stream is with its worker. Comes from the shell, before anything of the call itself.
    Admitted {
        /// What the stream's path does with its call.
        mode: StreamMode,
    },
    /// The carrier's `start`.
    Started {
        /// The media stream.
        stream_sid: StreamSid,
        /// The phone call.
        call_sid: Option<CallSid>,
        /// `start.customParameters`, in order: at most `limit::PARAMETERS_MAX`, none longer than a carrier sends.
        parameters: Vec<(String, String)>,
    },
    /// `session.updated` confirmed our settings. The exact `session.update` that we had sent.
    SessionReady {
        /// The model's session id, empty when it gave none.
        session_id: String,
        /// The JSON of our `session.update`.
        session_update: String,
    },
    /// The caller began to speak, by the model's detection.
    SpeechStarted {
        /// Milliseconds of input stream.
        audio_start_ms: Option<u64>,
        /// The item that the speech will become.
        item_id: Option<ItemId>,
    },
    /// The caller stopped speaking.
    SpeechStopped {
        /// Milliseconds of input stream.
        audio_end_ms: Option<u64>,
        /// The item that the speech will become.
        item_id: Option<ItemId>,
    },
    /// A response began.
    ResponseCreated {
        /// Its id.
        response_id: ResponseId,
    },
    /// The first audio of a response went towards the carrier.
    FirstAudio {
        /// Its id.
        response_id: ResponseId,
    },
    /// A response is generated (not: played).
    ResponseDone {
        /// Its id.
        response_id: ResponseId,
        /// completed, cancelled, failed or incomplete.
        status: String,
        /// The reason or error code where there is one.
        detail: Option<String>,
        /// What it cost, where the model said so.
        usage: Option<Usage>,
    },
    /// A piece of transcript as it comes.
    TranscriptDelta {
        /// Who spoke.
        speaker: Speaker,
        /// The conversation item.
        item_id: ItemId,
        /// The new text.
        text: String,
    },
    /// An item's whole transcript.
    Transcript {
        /// Who spoke.
        speaker: Speaker,
        /// The conversation item.
        item_id: ItemId,
        /// The text.
        text: String,
        /// The mean probability of its tokens, 0 to 1, where the model gave them.
        confidence: Option<f64>,
    },
    /// An item joined the conversation, as the model wrote it. It may come again when it is known to be complete.
    Item {
        /// Its id, where it has one.
        item_id: Option<ItemId>,
        /// The JSON, byte by byte.
        json: String,
    },
    /// An item of the model's is over: what the caller heard of it. All of it, or less when it was cut.
    Heard {
        /// The conversation item.
        item_id: ItemId,
        /// Heard, milliseconds.
        heard_ms: u64,
        /// Generated, milliseconds.
        total_ms: u64,
        /// The transcript as far as it was heard, in proportion.
        text: String,
    },
    /// The caller interrupted: the carrier was told to forget what it had not played.
    BargeIn {
        /// Audio that was not heard, milliseconds.
        unplayed_ms: u64,
        /// Items that were cut.
        items: u32,
    },
    /// The model was told how much of an item was heard.
    Cut {
        /// The conversation item.
        item_id: ItemId,
        /// What was heard, milliseconds.
        audio_end_ms: u64,
    },
    /// A key was pressed.
    Dtmf {
        /// `0` to `9`, `*`, `#`, perhaps `A` to `D`.
        digit: char,
    },
    /// The carrier returned a mark.
    MarkReturned {
        /// Its name, as sent. Inline: marks come back all through a call.
        name: MarkName,
    },
    /// The model reported an error that the call survives, or one that ends it.
    RealtimeError {
        /// `error.code`, or `error.type` where there is no code.
        code: String,
        /// `error.message`.
        message: String,
    },
    /// The model's connection was lost, or another try failed; the call goes on and the next try follows.
    Reconnecting {
        /// Tries since the model last did something useful, this one included; from 1.
        attempt: u32,
        /// Until it, ms.
        wait_ms: u64,
        /// Why, in a sentence.
        cause: String,
    },
    /// Another session has taken over after a loss, and was told the conversation.
    Reconnected {
        /// From the loss to the new session's readiness, ms.
        gap_ms: u64,
        /// Tries that it took.
        attempts: u32,
        /// Items of the conversation that it was told.
        items: u32,
    },
    /// Another session has taken over before the first one's time was up.
    RolledOver {
        /// Items of the conversation that it was told.
        items: u32,
    },
    /// The model can't be had any more; the end follows. What the agent's settings want done then.
    ModelUnavailable {
        /// That.
        action: OnModelUnavailable,
    },
    /// Nobody has spoken for a while: the model was asked to.
    Nudged {
        /// 1 or 2.
        stage: u8,
    },
    /// The call is about to end: the model was asked to say goodbye.
    Goodbye {
        /// What the call will end with.
        reason: EndReason,
    },
    /// A turn was answered and the answer's beginning was heard.
    Turn(Turn),
    /// All turns of the call, before its end.
    Turns(Box<TurnSummary>),
    /// What the model's account has left of something. At 0 the next response may fail.
    RateLimit {
        /// What is limited: a bounded metric label.
        name: &'static str,
        /// How much is left.
        remaining: u64,
        /// Until all is there again, ms.
        reset_ms: Option<u64>,
    },
    /// Something an operator should read in this call's notes.
    Note {
        /// One sentence.
        text: String,
    },
    /// The model wrote something down (`take_note`).
    NoteTaken {
        /// Its words.
        text: String,
    },
    /// A call of a tool was answered.
    ToolFinished {
        /// What the model called, cut to 64 bytes.
        name: String,
        /// How it went.
        outcome: super::tools::Outcome,
        /// From the call to its answer's turn.
        took: std::time::Duration,
    },
    /// The call is over; nothing follows.
    Ended {
        /// Why.
        reason: EndReason,
        /// What was counted.
        stats: Box<Stats>,
    },
}

/// A fact with its call and time, as it travels to control and store.
#[derive(Clone, PartialEq, Debug)]
pub struct Report {
    /// Whose fact it is.
    pub call_id: CallId,
    /// When the wake-up that made it began.
    pub at: Now,
    /// The fact.
    pub fact: Fact,
}

/// Why a message, or its audio, was not passed on. Each is a metric label.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(usize)]
pub enum Drop {
    /// Held early audio past its bound: the oldest went.
    EarlyAudio,
    /// `media` before `start`.
    BeforeStart,
    /// Another stream's id.
    ForeignStream,
    /// A second `start`.
    SecondStart,
    /// A custom parameter beyond `limit::PARAMETERS_MAX`, or too long.
    Parameter,
    /// Not JSON, cut, too deep, a needed field missing or of another type, a known key twice.
    Malformed,
    /// The payload is not valid base64.
    BadBase64,
    /// A binary message where text is due.
    Binary,
    /// An event name we do not know.
    UnknownEvent,
    /// The carrier's own outbound track (both tracks were asked for).
    OutboundTrack,
    /// Model audio before the carrier's stream id is known, or after the end.
    NoStream,
    /// The leg's outbox is full.
    OutboxFull,
    /// A mark that was never sent.
    UnknownMark,
    /// A gap in stream time beyond what is filled.
    GapTooLong,
    /// Model audio of a response or item that was cut, or is complete.
    LateDelta,
    /// Model audio past the bound on what may wait to be heard.
    Unplayed,
}

/// How many `Drop` reasons there are.
pub const DROP_REASONS: usize = Drop::Unplayed as usize + 1;

impl Drop {
    /// All of them, in the order of `Stats::drops`.
    pub const ALL: [Drop; DROP_REASONS] = [
        Drop::EarlyAudio,
        Drop::BeforeStart,
        Drop::ForeignStream,
        Drop::SecondStart,
        Drop::Parameter,
        Drop::Malformed,
        Drop::BadBase64,
        Drop::Binary,
        Drop::UnknownEvent,
        Drop::OutboundTrack,
        Drop::NoStream,
        Drop::OutboxFull,
        Drop::UnknownMark,
        Drop::GapTooLong,
        Drop::LateDelta,
        Drop::Unplayed,
    ];

    /// A bounded metric label.
    pub fn label(self) -> &'static str {
        match self {
            Drop::EarlyAudio => "early_audio",
            Drop::BeforeStart => "before_start",
            Drop::ForeignStream => "foreign_stream",
            Drop::SecondStart => "second_start",
            Drop::Parameter => "parameter",
            Drop::Malformed => "malformed",
            Drop::BadBase64 => "bad_base64",
            Drop::Binary => "binary",
            Drop::UnknownEvent => "unknown_event",
            Drop::OutboundTrack => "outbound_track",
            Drop::NoStream => "no_stream",
            Drop::OutboxFull => "outbox_full",
            Drop::UnknownMark => "unknown_mark",
            Drop::GapTooLong => "gap_too_long",
            Drop::LateDelta => "late_delta",
            Drop::Unplayed => "unplayed",
        }
    }
}

/// How a leg can break the protocol: the WebSocket's rules as `Session` labels them, and messages that kept being
/// malformed. Metric labels.
pub const VIOLATIONS: [&str; 10] = [
    "reserved_bits",
    "opcode",
    "masking",
    "control",
    "fragmentation",
    "too_long",
    "utf8",
    "close",
    "length",
    MALFORMED,
];

/// The label of a leg that was closed after `limit::MALFORMED_MAX` malformed messages.
pub(super) const MALFORMED: &str = "malformed";

/// What one call counted. Plain integers; the worker sums and publishes them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// WebSocket messages from the carrier.
    pub carrier_messages_in: u64,
    /// WebSocket messages to the carrier.
    pub carrier_messages_out: u64,
    /// WebSocket messages from the model.
    pub realtime_messages_in: u64,
    /// WebSocket messages to the model.
    pub realtime_messages_out: u64,
    /// Inbound `media` frames that were for us.
    pub inbound_frames: u64,
    /// Their audio, PCMU bytes.
    pub inbound_bytes: u64,
    /// `input_audio_buffer.append` events sent for caller audio (fills not counted).
    pub inbound_frames_sent: u64,
    /// Their audio, PCMU bytes.
    pub inbound_bytes_sent: u64,
    /// Model audio deltas.
    pub outbound_frames: u64,
    /// Their audio, PCMU bytes.
    pub outbound_bytes: u64,
    /// `media` messages queued for the carrier.
    pub outbound_frames_sent: u64,
    /// Their audio, PCMU bytes.
    pub outbound_bytes_sent: u64,
    /// Silence sent to the model for gaps in stream time, PCMU bytes.
    pub filled_bytes: u64,
    /// Gaps that were filled.
    pub fills: u64,
    /// Silence pads sent while speech was open (`limit::SILENCE_PAD_AFTER`), PCMU bytes.
    pub padded_bytes: u64,
    /// Frames whose chunk number did not follow the one before.
    pub sequence_gaps: u64,
    /// Frames whose stamp went back or stood still so far that the stream's clock was anchored anew.
    pub stamp_anomalies: u64,
    /// Caller audio held before the session was ready, at its most, PCMU bytes.
    pub held_bytes_peak: u64,
    /// Marks sent.
    pub marks_sent: u64,
    /// Marks that came back.
    pub marks_returned: u64,
    /// Interruptions by the caller that cut something.
    pub barge_ins: u64,
    /// Interruptions that were held back to be confirmed.
    pub pauses: u64,
    /// Of those, the ones that were taken back.
    pub resumes: u64,
    /// Audio sent a second time after such a one, PCMU bytes.
    pub resent_bytes: u64,
    /// `clear` messages sent.
    pub clears: u64,
    /// Items truncated at what was heard.
    pub truncates: u64,
    /// Truncations that the model refused.
    pub truncates_refused: u64,
    /// Items deleted, because they could not be truncated.
    pub items_deleted: u64,
    /// Of `outbound_bytes_sent`: cut before it went out, PCMU bytes.
    pub outbound_bytes_cut: u64,
    /// Marks that came back after a `clear`: not heard.
    pub marks_flushed: u64,
    /// Marks that came back before their audio can have been played.
    pub marks_early: u64,
    /// `response.done` of a response that was done before.
    pub responses_repeated: u64,
    /// Responses that began and fell silent: cancelled, and not waited for any more.
    pub responses_silent: u64,
    /// Audio waiting to be heard, at its most, milliseconds.
    pub unplayed_ms_peak: u64,
    /// Hot messages that the strict scanner did not take and simd-json did.
    pub scan_fallbacks: u64,
    /// Known messages with fields that we do not know.
    pub unknown_fields: u64,
    /// Outages of the model's connection that were overcome.
    pub reconnects: u64,
    /// Tries to reconnect.
    pub reconnect_attempts: u64,
    /// Sessions replaced before their time was up.
    pub rollovers: u64,
    /// Connections closed for a broken protocol: by leg, then in the order of `VIOLATIONS`.
    pub violations: [[u64; VIOLATIONS.len()]; 2],
    /// Messages dropped, by reason.
    pub drops: [u64; DROP_REASONS],
    /// Audio dropped with them, PCMU bytes, caller to model.
    pub inbound_bytes_dropped: u64,
    /// Audio dropped with them, PCMU bytes, model to caller.
    pub outbound_bytes_dropped: u64,
}

impl Stats {
    /// Adds another call's counts. Peaks take the larger.
    pub fn add(&mut self, other: &Self) {
        // Taken apart, so that a new field can't be forgotten here.
        let &Self {
            carrier_messages_in,
            carrier_messages_out,
            realtime_messages_in,
            realtime_messages_out,
            inbound_frames,
            inbound_bytes,
            inbound_frames_sent,
            inbound_bytes_sent,
            outbound_frames,
            outbound_bytes,
            outbound_frames_sent,
            outbound_bytes_sent,
            filled_bytes,
            fills,
            padded_bytes,
            sequence_gaps,
            stamp_anomalies,
            held_bytes_peak,
            marks_sent,
            marks_returned,
            barge_ins,
            pauses,
            resumes,
            resent_bytes,
            clears,
            truncates,
            truncates_refused,
            items_deleted,
            outbound_bytes_cut,
            marks_flushed,
            marks_early,
            responses_repeated,
            responses_silent,
            unplayed_ms_peak,
            scan_fallbacks,
            unknown_fields,
            reconnects,
            reconnect_attempts,
            rollovers,
            inbound_bytes_dropped,
            outbound_bytes_dropped,
            ref violations,
            ref drops,
        } = other;
        self.carrier_messages_in += carrier_messages_in;
        self.carrier_messages_out += carrier_messages_out;
        self.realtime_messages_in += realtime_messages_in;
        self.realtime_messages_out += realtime_messages_out;
        self.inbound_frames += inbound_frames;
        self.inbound_bytes += inbound_bytes;
        self.inbound_frames_sent += inbound_frames_sent;
        self.inbound_bytes_sent += inbound_bytes_sent;
        self.outbound_frames += outbound_frames;
        self.outbound_bytes += outbound_bytes;
        self.outbound_frames_sent += outbound_frames_sent;
        self.outbound_bytes_sent += outbound_bytes_sent;
        self.filled_bytes += filled_bytes;
        self.fills += fills;
        self.padded_bytes += padded_bytes;
        self.sequence_gaps += sequence_gaps;
        self.stamp_anomalies += stamp_anomalies;
        self.marks_sent += marks_sent;
        self.marks_returned += marks_returned;
        self.barge_ins += barge_ins;
        self.pauses += pauses;
        self.resumes += resumes;
        self.resent_bytes += resent_bytes;
        self.clears += clears;
        self.truncates += truncates;
        self.truncates_refused += truncates_refused;
        self.items_deleted += items_deleted;
        self.outbound_bytes_cut += outbound_bytes_cut;
        self.marks_flushed += marks_flushed;
        self.marks_early += marks_early;
        self.responses_repeated += responses_repeated;
        self.responses_silent += responses_silent;
        self.unplayed_ms_peak = self.unplayed_ms_peak.max(unplayed_ms_peak);
        self.scan_fallbacks += scan_fallbacks;
        self.unknown_fields += unknown_fields;
        self.reconnects += reconnects;
        self.reconnect_attempts += reconnect_attempts;
        self.rollovers += rollovers;
        self.inbound_bytes_dropped += inbound_bytes_dropped;
        self.outbound_bytes_dropped += outbound_bytes_dropped;
        self.held_bytes_peak = self.held_bytes_peak.max(held_bytes_peak);
        for (sum, count) in self.drops.iter_mut().zip(drops) {
            *sum += count;
        }
        let sums = self.violations.as_flattened_mut().iter_mut();
        for (sum, count) in sums.zip(violations.as_flattened()) {
            *sum += count;
        }
    }

    /// Counts a leg that broke the protocol. A label that is not in `VIOLATIONS` counts nowhere.
    pub fn violation(&mut self, leg: Leg, label: &str) {
        if let Some(n) = VIOLATIONS.iter().position(|known| *known == label) {
            self.violations[leg as usize][n] += 1;
        }
    }

    /// Counts one dropped message.
    pub fn drop(&mut self, reason: Drop) {
        self.drops[reason as usize] += 1;
    }

    /// How many messages were dropped for this reason.
    pub fn dropped(&self, reason: Drop) -> u64 {
        self.drops[reason as usize]
    }
}

#[cfg(test)]
mod tests;
