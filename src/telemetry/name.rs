//! Every metric name and label value, once. Prometheus conventions: the prefix `voxrelay_`, the unit in the
//! name, `_total` on counters, labels from fixed sets only.

use crate::call::{EndReason, Side};

/// WebSocket messages by `leg` and `way`.
pub const MESSAGES: &str = "voxrelay_messages_total";
/// Audio frames by `direction` and `step`.
pub const AUDIO_FRAMES: &str = "voxrelay_audio_frames_total";
/// Audio by `direction` and `step`, PCMU bytes.
pub const AUDIO_BYTES: &str = "voxrelay_audio_bytes_total";
/// Audio dropped by `direction`, PCMU bytes.
pub const AUDIO_DROPPED: &str = "voxrelay_audio_dropped_bytes_total";
/// Silence sent to the model for gaps in stream time, PCMU bytes.
pub const AUDIO_FILLED: &str = "voxrelay_audio_filled_bytes_total";
/// Gaps that were filled.
pub const AUDIO_FILLS: &str = "voxrelay_audio_fills_total";
/// Silence sent while speech was open and nothing arrived, PCMU bytes.
pub const AUDIO_PADDED: &str = "voxrelay_audio_padded_bytes_total";
/// Frames whose number did not follow the one before.
pub const SEQUENCE_GAPS: &str = "voxrelay_sequence_gaps_total";
/// Marks by `step`.
pub const MARKS: &str = "voxrelay_marks_total";
/// Interruptions by the caller, by `step`: those that cut, were held back, were taken back.
pub const BARGE_INS: &str = "voxrelay_barge_ins_total";
/// `clear` messages to the carrier.
pub const CLEARS: &str = "voxrelay_clears_total";
/// Items truncated or deleted for what was not heard, and truncations refused, by `step`.
pub const CUTS: &str = "voxrelay_cut_items_total";
/// Audio cut before it went out, PCMU bytes.
pub const AUDIO_CUT: &str = "voxrelay_audio_cut_bytes_total";
/// Audio sent again after an interruption was taken back, PCMU bytes.
pub const AUDIO_RESENT: &str = "voxrelay_audio_resent_bytes_total";
/// `response.done` of a response that was done before.
pub const RESPONSES_REPEATED: &str = "voxrelay_responses_repeated_total";
/// Responses that began and fell silent.
pub const RESPONSES_SILENT: &str = "voxrelay_responses_silent_total";
/// The most audio that waited to be heard in one call, ms.
pub const UNPLAYED_PEAK: &str = "voxrelay_unplayed_ms_peak";
/// Hot messages that took the slow path.
pub const SCAN_FALLBACKS: &str = "voxrelay_scan_fallbacks_total";
/// Fields that we do not know, in messages that we do.
pub const UNKNOWN_FIELDS: &str = "voxrelay_unknown_fields_total";
/// Messages dropped, by `reason`.
pub const MESSAGES_DROPPED: &str = "voxrelay_messages_dropped_total";
/// Legs that broke the protocol, by `leg` and `reason`.
pub const PROTOCOL_VIOLATIONS: &str = "voxrelay_protocol_violations_total";
/// What the model's account had left when it last said so, by `name`.
pub const RATE_LIMIT_REMAINING: &str = "voxrelay_realtime_rate_limit_remaining";
/// Calls ended, by `reason` and `side`.
pub const CALLS_ENDED: &str = "voxrelay_calls_ended_total";
/// Live calls.
pub const CALLS_ACTIVE: &str = "voxrelay_calls_active";
/// Model legs open.
pub const UPSTREAM_OPEN: &str = "voxrelay_upstream_open";
/// Ring wake-ups.
pub const WAKEUPS: &str = "voxrelay_worker_wakeups_total";
/// `io_uring_enter` calls.
pub const ENTERS: &str = "voxrelay_worker_enters_total";
/// Receive completions.
pub const RECEIVES: &str = "voxrelay_worker_receives_total";
/// Completions of every kind.
pub const COMPLETIONS: &str = "voxrelay_worker_completions_total";
/// Ring waits that gathered completions.
pub const GATHERED_WAITS: &str = "voxrelay_worker_gathered_waits_total";
/// Allocations of the worker's thread, by `of`: `relay` (ours) and `tls` (inside rustls).
pub const ALLOCATIONS: &str = "voxrelay_worker_allocations_total";
/// CPU time of the worker's thread in the last second, as a part of it.
pub const BUSY: &str = "voxrelay_worker_busy_ratio";
/// 1 while the worker takes no new calls, for want of headroom.
pub const OVERLOADED: &str = "voxrelay_worker_overloaded";
/// Messages that shared a send in the last second, on average.
pub const MESSAGES_PER_SEND: &str = "voxrelay_worker_messages_per_send";
/// How late the worker acts on a deadline.
pub const LOOP_LAG: &str = "voxrelay_worker_loop_lag_seconds";
/// From the wake-up that brought a frame to the submission of its send, by `direction`.
pub const RELAY_DELAY: &str = "voxrelay_relay_delay_seconds";
/// Sends submitted.
pub const SENDS: &str = "voxrelay_worker_sends_total";
/// Multishot receives that ended for want of buffers.
pub const BUFFERS_EXHAUSTED: &str = "voxrelay_worker_buffers_exhausted_total";
/// Provided buffers lent to the kernel now.
pub const BUFFERS_FREE: &str = "voxrelay_worker_buffers_free";
/// Bytes kept for incomplete frames and records.
pub const CARRY_BYTES: &str = "voxrelay_worker_carry_bytes";
/// Panics caught in sessions.
pub const PANICS: &str = "voxrelay_worker_panics_total";
/// Reports that found the queue full.
pub const REPORTS_DROPPED: &str = "voxrelay_worker_reports_dropped_total";
/// TLS errors on established legs.
pub const TLS_ERRORS: &str = "voxrelay_worker_tls_errors_total";
/// Carrier legs that were not read for a while: they brought too much at once.
pub const LEGS_PAUSED: &str = "voxrelay_worker_legs_paused_total";
/// Connections to the model that wait for a call, by `kind`.
pub const IDLE_UPSTREAMS: &str = "voxrelay_idle_upstreams";
/// Connections whose wait for a call is over, by `kind` and `outcome`.
pub const IDLE_ENDED: &str = "voxrelay_idle_upstreams_ended_total";
/// Messages for which an idle connection had no room.
pub const IDLE_DROPPED: &str = "voxrelay_idle_upstream_messages_dropped_total";
/// Answers to dials that came when nobody waited for them any more: closed in order.
pub const DIALS_STALE: &str = "voxrelay_upstream_dials_stale_total";
/// The `kind` of an idle connection: dialled for an announced call, or kept warm.
pub const IDLE_KINDS: [&str; 2] = ["predial", "warm"];
/// The `outcome` of its wait.
pub const IDLE_ENDS: [&str; 5] = ["adopted", "expired", "cancelled", "lost", "drained"];
/// Requests answered by the control plane, by `route` (as in the table), `method` and `status`.
pub const HTTP_REQUESTS: &str = "voxrelay_http_requests_total";
/// Voice webhooks by `outcome`.
pub const WEBHOOKS: &str = "voxrelay_webhooks_total";
/// Calls of tools that were answered, by `outcome`.
pub const TOOL_CALLS: &str = "voxrelay_tool_calls_total";
/// From the model's call of a tool to its answer's turn.
pub const TOOL_CALL_DURATION: &str = "voxrelay_tool_call_duration_seconds";
/// Its buckets' upper ends, seconds: from built-in tools to one that was given up.
pub const TOOL_CALL_BUCKETS: &[f64] = &[0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0];
/// Always 1; `version` and `commit` tell the build.
pub const TURN_STAGE: &str = "voxrelay_turn_stage_seconds";
/// See `HISTOGRAMS`' neighbours.
pub const RECONNECTS: &str = "voxrelay_upstream_reconnects_total";
/// As above.
pub const RECONNECT_ATTEMPTS: &str = "voxrelay_upstream_reconnect_attempts_total";
/// As above.
pub const ROLLOVERS: &str = "voxrelay_upstream_rollovers_total";
/// As above.
pub const BUILD_INFO: &str = "voxrelay_build_info";
/// When the process started, seconds since 1970.
pub const START_TIME: &str = "voxrelay_process_start_time_seconds";

/// Name and help of every counter above.
pub const COUNTERS: &[(&str, &str)] = &[
    (MESSAGES, "WebSocket messages by leg and way"),
    (AUDIO_FRAMES, "Audio frames by direction and step"),
    (AUDIO_BYTES, "PCMU bytes by direction and step"),
    (AUDIO_DROPPED, "PCMU bytes dropped by direction"),
    (
        AUDIO_FILLED,
        "PCMU bytes of silence sent for gaps in stream time",
    ),
    (AUDIO_FILLS, "Gaps in stream time that were filled"),
    (
        AUDIO_PADDED,
        "PCMU bytes of silence sent while speech was open",
    ),
    (
        SEQUENCE_GAPS,
        "Frames whose number did not follow the one before",
    ),
    (MARKS, "Marks by step"),
    (BARGE_INS, "Interruptions by the caller by step"),
    (CLEARS, "clear messages to the carrier"),
    (CUTS, "Items truncated or deleted by step"),
    (AUDIO_CUT, "PCMU bytes cut before they went out"),
    (
        AUDIO_RESENT,
        "PCMU bytes sent again after an interruption was taken back",
    ),
    (RESPONSES_REPEATED, "response.done repeated"),
    (RESPONSES_SILENT, "Responses that began and fell silent"),
    (SCAN_FALLBACKS, "Hot messages that took the slow path"),
    (UNKNOWN_FIELDS, "Unknown fields in known messages"),
    (MESSAGES_DROPPED, "Messages dropped by reason"),
    (
        PROTOCOL_VIOLATIONS,
        "Legs that broke the protocol by leg and reason",
    ),
    (CALLS_ENDED, "Calls ended by reason and side"),
    (WAKEUPS, "Ring wake-ups"),
    (ENTERS, "io_uring_enter calls"),
    (RECEIVES, "Receive completions"),
    (COMPLETIONS, "Ring completions of every kind"),
    (GATHERED_WAITS, "Ring waits that gathered completions"),
    (
        ALLOCATIONS,
        "Allocations of the worker's thread: ours, and those inside rustls",
    ),
    (SENDS, "Sends submitted"),
    (
        BUFFERS_EXHAUSTED,
        "Multishot receives that ended for want of buffers",
    ),
    (PANICS, "Panics caught in sessions"),
    (REPORTS_DROPPED, "Reports that found the queue full"),
    (TLS_ERRORS, "TLS errors on established legs"),
    (
        RECONNECTS,
        "Outages of the model's connection that were overcome",
    ),
    (RECONNECT_ATTEMPTS, "Tries to reconnect to the model"),
    (ROLLOVERS, "Sessions replaced before they expired"),
    (
        LEGS_PAUSED,
        "Carrier legs not read for a while because they brought too much at once",
    ),
    (
        IDLE_ENDED,
        "Connections to the model whose wait for a call is over",
    ),
    (
        IDLE_DROPPED,
        "Messages for which an idle connection had no room",
    ),
    (
        DIALS_STALE,
        "Answers to dials that nobody waited for any more",
    ),
    (HTTP_REQUESTS, "Requests answered by the control plane"),
    (WEBHOOKS, "Voice webhooks by outcome"),
    (TOOL_CALLS, "Calls of tools that were answered, by outcome"),
];

/// Name and help of every histogram above.
pub const HISTOGRAMS: &[(&str, &str)] = &[(
    TURN_STAGE,
    "From the caller's last word to each stage of the answer, seconds",
)];

/// Name and help of the latencies of workers, which `latency` renders.
pub const LATENCIES: &[(&str, &str)] = &[
    (LOOP_LAG, "How late the worker acted on deadlines, seconds"),
    (
        RELAY_DELAY,
        "From the wake-up that brought a frame to the submission of its send, seconds",
    ),
];

/// Name and help of every gauge above.
pub const GAUGES: &[(&str, &str)] = &[
    (
        BUSY,
        "CPU time of the worker's thread in the last second, as a part of it",
    ),
    (OVERLOADED, "1 while the worker takes no new calls"),
    (
        MESSAGES_PER_SEND,
        "Messages that shared a send in the last second, on average",
    ),
    (CALLS_ACTIVE, "Live calls"),
    (UPSTREAM_OPEN, "Model legs open"),
    (
        IDLE_UPSTREAMS,
        "Connections to the model that wait for a call",
    ),
    (
        RATE_LIMIT_REMAINING,
        "What the model's account had left when it last said so",
    ),
    (BUFFERS_FREE, "Provided buffers lent to the kernel"),
    (CARRY_BYTES, "Bytes kept for incomplete frames and records"),
    (
        UNPLAYED_PEAK,
        "Most milliseconds that waited to be heard in one call",
    ),
    (BUILD_INFO, "Version and commit of the build"),
    (START_TIME, "When the process started, seconds since 1970"),
];

/// Every way a call can end.
pub const END_REASONS: &[EndReason] = &[
    EndReason::CallerHungUp,
    EndReason::CarrierLost,
    EndReason::CarrierStalled,
    EndReason::CarrierProtocol,
    EndReason::StartTimeout,
    EndReason::UnsupportedMedia,
    EndReason::NotAuthorized,
    EndReason::RealtimeUnavailable,
    EndReason::RealtimeSetup,
    EndReason::RealtimeLost,
    EndReason::RealtimeStalled,
    EndReason::RealtimeProtocol,
    EndReason::Silence,
    EndReason::MaxDuration,
    EndReason::EndedByModel,
    EndReason::HungUpByOperator,
    EndReason::Drained,
    EndReason::Internal,
];

/// The `side` label of an end.
pub const fn side(side: Side) -> &'static str {
    match side {
        Side::Carrier => "carrier",
        Side::Realtime => "realtime",
        Side::Local => "local",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_follow_the_conventions_and_stand_once() {
        let mut seen = BTreeSet::new();
        for (name, help) in COUNTERS.iter().chain(GAUGES) {
            assert!(name.starts_with("voxrelay_"), "{name}");
            assert!(!help.is_empty() && seen.insert(*name), "{name}");
        }
        assert!(COUNTERS.iter().all(|(name, _)| name.ends_with("_total")));
        assert!(!GAUGES.iter().any(|(name, _)| name.ends_with("_total")));
    }
}
