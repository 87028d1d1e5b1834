//! Metric handles, made at start. Workers count in plain integers and publish here once a second.
//!
//! Shell. Totals are set, not added up, so a missed tick loses nothing.

use super::name;
use crate::base::id::WorkerId;
use crate::call::fact::VIOLATIONS;
use crate::call::tools::Outcome;
use crate::call::trace::{STAGES, Turn};
use crate::call::{Drop, EndReason, Stats};
use metrics::{Counter, Gauge, Histogram, Label};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What a worker counts beside its sessions. Totals since start, or values of now.
#[derive(Clone, Debug, Default)]
pub struct WorkerStats {
    /// Live calls.
    pub calls_active: u64,
    /// Model legs open.
    pub upstream_open: u64,
    /// Ring wake-ups.
    pub wakeups: u64,
    /// io_uring_enter calls.
    pub enters: u64,
    /// Receive completions.
    pub receives: u64,
    /// Sends submitted.
    pub sends: u64,
    /// Multishot receives that ended for want of buffers.
    pub buffers_exhausted: u64,
    /// Provided buffers lent to the kernel now.
    pub buffers_free: u64,
    /// Bytes kept for incomplete frames and records.
    pub carry_bytes: u64,
    /// Connections that wait for a call now, in the order of `name::IDLE_KINDS`.
    pub idle_now: [u64; 2],
    /// How their waits ended, in the order of `name::IDLE_ENDS`.
    pub idle_ends: [[u64; name::IDLE_ENDS.len()]; 2],
    /// Messages that they had no room for.
    pub idle_dropped: u64,
    /// Answers to dials that nobody waits for any more.
    pub dials_stale: u64,
    /// Panics caught in sessions.
    pub panics: u64,
    /// Reports that found the queue full.
    pub reports_dropped: u64,
    /// TLS errors on established legs.
    pub tls_errors: u64,
    /// Completions of every kind.
    pub completions: u64,
    /// Waits that gathered.
    pub gathered_waits: u64,
    /// Allocations of this thread, without those inside rustls.
    pub allocations: u64,
    /// Those inside rustls.
    pub tls_allocations: u64,
    /// CPU time of the thread in the last second, thousandths of it.
    pub busy_permille: u64,
    /// 1 while no new calls are taken.
    pub overloaded: u64,
    /// Messages in a send of the last second, thousandths.
    pub messages_per_send_milli: u64,
    /// Messages and sends at the last tick.
    joined: (u64, u64),
    /// Times that a carrier leg was not read for a while, since it brought too much at once.
    pub legs_paused: u64,
}

impl WorkerStats {
    /// From the total of messages sent: how many shared a send since the last time.
    pub fn measure_joining(&mut self, messages: u64) {
        let now = (messages, self.sends);
        let before = std::mem::replace(&mut self.joined, now);
        let (messages, sends) = (
            now.0.saturating_sub(before.0),
            now.1.saturating_sub(before.1),
        );
        self.messages_per_send_milli = (messages * 1_000).checked_div(sends).unwrap_or(0);
    }
}

/// A counter's name, its labels beside `worker`, and where its total stands.
type Total<S> = (
    &'static str,
    &'static [(&'static str, &'static str)],
    fn(&S) -> u64,
);

/// What is published of the sessions. `held_bytes_peak` is one call's affair: a sum of peaks says nothing.
const SESSION_TOTALS: &[Total<Stats>] = &[
    (name::MESSAGES, &[("leg", "carrier"), ("way", "in")], |s| {
        s.carrier_messages_in
    }),
    (name::MESSAGES, &[("leg", "carrier"), ("way", "out")], |s| {
        s.carrier_messages_out
    }),
    (name::MESSAGES, &[("leg", "realtime"), ("way", "in")], |s| {
        s.realtime_messages_in
    }),
    (
        name::MESSAGES,
        &[("leg", "realtime"), ("way", "out")],
        |s| s.realtime_messages_out,
    ),
    (
        name::AUDIO_FRAMES,
        &[("direction", "inbound"), ("step", "received")],
        |s| s.inbound_frames,
    ),
    (
        name::AUDIO_FRAMES,
        &[("direction", "inbound"), ("step", "sent")],
        |s| s.inbound_frames_sent,
    ),
    (
        name::AUDIO_FRAMES,
        &[("direction", "outbound"), ("step", "received")],
        |s| s.outbound_frames,
    ),
    (
        name::AUDIO_FRAMES,
        &[("direction", "outbound"), ("step", "sent")],
        |s| s.outbound_frames_sent,
    ),
    (
        name::AUDIO_BYTES,
        &[("direction", "inbound"), ("step", "received")],
        |s| s.inbound_bytes,
    ),
    (
        name::AUDIO_BYTES,
        &[("direction", "inbound"), ("step", "sent")],
        |s| s.inbound_bytes_sent,
    ),
    (
        name::AUDIO_BYTES,
        &[("direction", "outbound"), ("step", "received")],
        |s| s.outbound_bytes,
    ),
    (
        name::AUDIO_BYTES,
        &[("direction", "outbound"), ("step", "sent")],
        |s| s.outbound_bytes_sent,
    ),
    (name::AUDIO_DROPPED, &[("direction", "inbound")], |s| {
        s.inbound_bytes_dropped
    }),
    (name::AUDIO_DROPPED, &[("direction", "outbound")], |s| {
        s.outbound_bytes_dropped
    }),
    (name::AUDIO_FILLED, &[], |s| s.filled_bytes),
    (name::AUDIO_FILLS, &[], |s| s.fills),
    (name::AUDIO_PADDED, &[], |s| s.padded_bytes),
    (name::SEQUENCE_GAPS, &[], |s| s.sequence_gaps),
    (name::MARKS, &[("step", "sent")], |s| s.marks_sent),
    (name::MARKS, &[("step", "returned")], |s| s.marks_returned),
    (name::MARKS, &[("step", "flushed")], |s| s.marks_flushed),
    (name::MARKS, &[("step", "early")], |s| s.marks_early),
    (name::BARGE_INS, &[("step", "cut")], |s| s.barge_ins),
    (name::BARGE_INS, &[("step", "paused")], |s| s.pauses),
    (name::BARGE_INS, &[("step", "resumed")], |s| s.resumes),
    (name::CLEARS, &[], |s| s.clears),
    (name::CUTS, &[("step", "truncated")], |s| s.truncates),
    (name::CUTS, &[("step", "refused")], |s| s.truncates_refused),
    (name::CUTS, &[("step", "deleted")], |s| s.items_deleted),
    (name::AUDIO_CUT, &[], |s| s.outbound_bytes_cut),
    (name::AUDIO_RESENT, &[], |s| s.resent_bytes),
    (name::RESPONSES_REPEATED, &[], |s| s.responses_repeated),
    (name::RESPONSES_SILENT, &[], |s| s.responses_silent),
    (name::SCAN_FALLBACKS, &[], |s| s.scan_fallbacks),
    (name::UNKNOWN_FIELDS, &[], |s| s.unknown_fields),
    (name::RECONNECTS, &[], |s| s.reconnects),
    (name::RECONNECT_ATTEMPTS, &[], |s| s.reconnect_attempts),
    (name::ROLLOVERS, &[], |s| s.rollovers),
];

/// What is published of the worker itself.
const WORKER_TOTALS: &[Total<WorkerStats>] = &[
    (name::WAKEUPS, &[], |w| w.wakeups),
    (name::ENTERS, &[], |w| w.enters),
    (name::RECEIVES, &[], |w| w.receives),
    (name::COMPLETIONS, &[], |w| w.completions),
    (name::GATHERED_WAITS, &[], |w| w.gathered_waits),
    (name::ALLOCATIONS, &[("of", "relay")], |w| w.allocations),
    (name::ALLOCATIONS, &[("of", "tls")], |w| w.tls_allocations),
    (name::SENDS, &[], |w| w.sends),
    (name::BUFFERS_EXHAUSTED, &[], |w| w.buffers_exhausted),
    (name::PANICS, &[], |w| w.panics),
    (name::REPORTS_DROPPED, &[], |w| w.reports_dropped),
    (name::TLS_ERRORS, &[], |w| w.tls_errors),
    (name::LEGS_PAUSED, &[], |w| w.legs_paused),
    (name::IDLE_DROPPED, &[], |w| w.idle_dropped),
    (name::DIALS_STALE, &[], |w| w.dials_stale),
];

/// Values of now.
const WORKER_GAUGES: &[Total<WorkerStats>] = &[
    (name::CALLS_ACTIVE, &[], |w| w.calls_active),
    (name::UPSTREAM_OPEN, &[], |w| w.upstream_open),
    (name::BUFFERS_FREE, &[], |w| w.buffers_free),
    (name::CARRY_BYTES, &[], |w| w.carry_bytes),
    (name::OVERLOADED, &[], |w| w.overloaded),
    (name::IDLE_UPSTREAMS, &[("kind", "predial")], |w| {
        w.idle_now[0]
    }),
    (name::IDLE_UPSTREAMS, &[("kind", "warm")], |w| w.idle_now[1]),
];

/// Values of now that are kept in thousandths.
const WORKER_RATIOS: &[Total<WorkerStats>] = &[
    (name::BUSY, &[], |w| w.busy_permille),
    (name::MESSAGES_PER_SEND, &[], |w| w.messages_per_send_milli),
];

/// What is published of the sessions together and is no total.
const SESSION_GAUGES: &[Total<Stats>] = &[(name::UNPLAYED_PEAK, &[], |s| s.unplayed_ms_peak)];

/// Makes the recorder for the whole process and describes every metric. Where one was made before (a second
/// daemon in one process), that one is used.
pub fn install() -> PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    let install = || {
        let recorder = builder().build_recorder();
        let handle = recorder.handle();
        // Only somebody else's recorder can be in the way: then ours stays empty, and calls go on.
        if metrics::set_global_recorder(recorder).is_err() {
            tracing::error!("metrics go to another recorder of this process");
        }
        describe();
        handle
    };
    HANDLE.get_or_init(install).clone()
}

/// Bounds of `TURN_STAGE`, seconds: our own share is at the low end, a caller who waits too long at the other.
const TURN_BUCKETS: [f64; 14] = [
    0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0,
];

/// A recorder in which durations have buckets: quantiles of two workers can't be added up.
fn builder() -> PrometheusBuilder {
    let tools = Matcher::Full(name::TOOL_CALL_DURATION.to_owned());
    let turns = Matcher::Full(name::TURN_STAGE.to_owned());
    PrometheusBuilder::new()
        .set_buckets_for_metric(tools, name::TOOL_CALL_BUCKETS)
        .expect("there are buckets")
        .set_buckets_for_metric(turns, &TURN_BUCKETS)
        .expect("there are buckets")
}

/// Tells the current recorder what each metric is, and sets those that never change.
pub fn describe() {
    for (name, help) in name::COUNTERS {
        metrics::describe_counter!(*name, *help);
    }
    for (name, help) in name::HISTOGRAMS {
        metrics::describe_histogram!(*name, *help);
    }
    for (name, help) in name::GAUGES {
        metrics::describe_gauge!(*name, *help);
    }
    metrics::describe_histogram!(
        name::TOOL_CALL_DURATION,
        metrics::Unit::Seconds,
        "From the model's call of a tool to its answer's turn"
    );
    metrics::gauge!(name::BUILD_INFO, "version" => crate::VERSION, "commit" => crate::COMMIT)
        .set(1.0);
    let started = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64());
    metrics::gauge!(name::START_TIME).set(started);
}

/// One worker's handles, made at start: publishing formats and allocates nothing.
pub struct WorkerMeter {
    sessions: Vec<Counter>,
    drops: Vec<Counter>,
    violations: Vec<Counter>,
    totals: Vec<Counter>,
    idle_ends: Vec<Counter>,
    gauges: Vec<Gauge>,
    ratios: Vec<Gauge>,
    session_gauges: Vec<Gauge>,
    ended: Vec<(EndReason, Counter)>,
    turns: Vec<(&'static str, Histogram)>,
    tools: Vec<(Outcome, Counter)>,
    tool_duration: Histogram,
}

impl std::fmt::Debug for WorkerMeter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WorkerMeter")
    }
}

impl WorkerMeter {
    /// Makes the handles. Every series carries the worker's number: totals of two workers must not meet in one.
    pub fn new(worker: WorkerId) -> Self {
        let worker = worker.0.to_string();
        let labels = |fixed: &[(&'static str, &'static str)]| -> Vec<Label> {
            let mut labels: Vec<Label> = fixed
                .iter()
                .map(|(key, value)| Label::from_static_parts(key, value))
                .collect();
            labels.push(Label::new("worker", worker.clone()));
            labels
        };
        let counter = |name: &'static str, fixed: &[(&'static str, &'static str)]| {
            metrics::counter!(name, labels(fixed))
        };
        Self {
            sessions: SESSION_TOTALS
                .iter()
                .map(|(n, l, _)| counter(n, l))
                .collect(),
            drops: Drop::ALL
                .iter()
                .map(|drop| counter(name::MESSAGES_DROPPED, &[("reason", drop.label())]))
                .collect(),
            // In the order of `Stats::violations`: the legs as `Leg` numbers them.
            violations: ["carrier", "realtime"]
                .iter()
                .flat_map(|leg| VIOLATIONS.map(|reason| [("leg", *leg), ("reason", reason)]))
                .map(|labels| counter(name::PROTOCOL_VIOLATIONS, &labels))
                .collect(),
            totals: WORKER_TOTALS
                .iter()
                .map(|(n, l, _)| counter(n, l))
                .collect(),
            // In the order of `WorkerStats::idle_ends`.
            idle_ends: name::IDLE_KINDS
                .iter()
                .flat_map(|kind| name::IDLE_ENDS.map(|how| [("kind", *kind), ("outcome", how)]))
                .map(|labels| counter(name::IDLE_ENDED, &labels))
                .collect(),
            gauges: WORKER_GAUGES
                .iter()
                .map(|(n, l, _)| metrics::gauge!(*n, labels(l)))
                .collect(),
            ratios: WORKER_RATIOS
                .iter()
                .map(|(n, l, _)| metrics::gauge!(*n, labels(l)))
                .collect(),
            turns: STAGES
                .iter()
                .map(|stage| {
                    let labels = labels(&[("stage", stage)]);
                    (*stage, metrics::histogram!(name::TURN_STAGE, labels))
                })
                .collect(),
            tools: Outcome::ALL
                .iter()
                .map(|outcome| {
                    let labels = [("outcome", outcome.label())];
                    (*outcome, counter(name::TOOL_CALLS, &labels))
                })
                .collect(),
            tool_duration: metrics::histogram!(name::TOOL_CALL_DURATION, labels(&[])),
            session_gauges: SESSION_GAUGES
                .iter()
                .map(|(n, l, _)| metrics::gauge!(*n, labels(l)))
                .collect(),
            ended: name::END_REASONS
                .iter()
                .map(|reason| {
                    (
                        *reason,
                        counter(
                            name::CALLS_ENDED,
                            &[
                                ("reason", reason.label()),
                                ("side", name::side(reason.side())),
                            ],
                        ),
                    )
                })
                .collect(),
        }
    }

    /// Counts one answered call of a tool.
    pub fn tool(&self, outcome: Outcome, took: Duration) {
        if let Some((_, counter)) = self.tools.iter().find(|(o, _)| *o == outcome) {
            counter.increment(1);
        }
        self.tool_duration.record(took.as_secs_f64());
    }

    /// Publishes totals: the worker's own and the sum over all its sessions, ended and live.
    pub fn publish(&self, worker: &WorkerStats, sessions: &Stats) {
        for (counter, (_, _, total)) in self.sessions.iter().zip(SESSION_TOTALS) {
            counter.absolute(total(sessions));
        }
        for (counter, total) in self.drops.iter().zip(sessions.drops) {
            counter.absolute(total);
        }
        let violations = sessions.violations.as_flattened();
        for (counter, total) in self.violations.iter().zip(violations) {
            counter.absolute(*total);
        }
        for (counter, (_, _, total)) in self.totals.iter().zip(WORKER_TOTALS) {
            counter.absolute(total(worker));
        }
        for (counter, total) in self.idle_ends.iter().zip(worker.idle_ends.as_flattened()) {
            counter.absolute(*total);
        }
        for (gauge, (_, _, value)) in self.gauges.iter().zip(WORKER_GAUGES) {
            gauge.set(value(worker) as f64);
        }
        for (gauge, (_, _, value)) in self.ratios.iter().zip(WORKER_RATIOS) {
            gauge.set(value(worker) as f64 / 1_000.0);
        }
        for (gauge, (_, _, value)) in self.session_gauges.iter().zip(SESSION_GAUGES) {
            gauge.set(value(sessions) as f64);
        }
    }

    /// Records where a turn's time went.
    pub fn turn(&self, turn: &Turn) {
        for (stage, time) in turn.stages() {
            if let Some((_, histogram)) = self.turns.iter().find(|(name, _)| *name == stage) {
                histogram.record(time.as_secs_f64());
            }
        }
    }

    /// Counts one end.
    pub fn ended(&self, reason: EndReason) {
        if let Some((_, counter)) = self.ended.iter().find(|(r, _)| *r == reason) {
            counter.increment(1);
        }
    }
}

/// The model's account has said what it has left of something. `name` is a bounded label.
pub fn rate_limit(name: &'static str, remaining: u64) {
    metrics::gauge!(name::RATE_LIMIT_REMAINING, "name" => name).set(remaining as f64);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::Leg;

    fn rendered(with: impl FnOnce()) -> String {
        let recorder = builder().build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            describe();
            with();
        });
        handle.render()
    }

    #[test]
    fn totals_are_absolute_and_workers_stay_apart() {
        let text = rendered(|| {
            let mut stats = Stats {
                inbound_frames: 7,
                ..Stats::default()
            };
            stats.drops[Drop::BadBase64 as usize] = 3;
            stats.violation(Leg::Carrier, "masking");
            stats.violation(Leg::Realtime, "malformed");
            let worker = WorkerStats {
                calls_active: 2,
                ..WorkerStats::default()
            };
            let meter = WorkerMeter::new(WorkerId(0));
            meter.publish(&worker, &stats);
            meter.publish(&worker, &stats);
            WorkerMeter::new(WorkerId(1)).publish(&WorkerStats::default(), &stats);
        });
        for line in [
            "voxrelay_audio_frames_total{direction=\"inbound\",step=\"received\",worker=\"0\"} 7",
            "voxrelay_audio_frames_total{direction=\"inbound\",step=\"received\",worker=\"1\"} 7",
            "voxrelay_messages_dropped_total{reason=\"bad_base64\",worker=\"0\"} 3",
            "voxrelay_protocol_violations_total{leg=\"carrier\",reason=\"masking\",worker=\"0\"} 1",
            "voxrelay_protocol_violations_total{leg=\"carrier\",reason=\"malformed\",worker=\"0\"} 0",
            "voxrelay_protocol_violations_total{leg=\"realtime\",reason=\"malformed\",worker=\"0\"} 1",
            "voxrelay_calls_active{worker=\"0\"} 2",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn every_end_is_counted_under_its_own_labels() {
        let text = rendered(|| {
            let meter = WorkerMeter::new(WorkerId(0));
            for reason in name::END_REASONS {
                meter.ended(*reason);
            }
            meter.ended(EndReason::Internal);
        });
        let ones = text
            .lines()
            .filter(|l| l.starts_with("voxrelay_calls_ended_total{") && l.ends_with(" 1"));
        assert_eq!(ones.count(), name::END_REASONS.len() - 1);
        assert!(text.contains("{reason=\"internal\",side=\"local\",worker=\"0\"} 2"));
    }

    #[test]
    fn tools_are_counted_by_outcome_and_timed_in_buckets() {
        let text = rendered(|| {
            let meter = WorkerMeter::new(WorkerId(0));
            for outcome in Outcome::ALL {
                meter.tool(outcome, Duration::from_millis(300));
            }
            meter.tool(Outcome::Timeout, Duration::from_secs(5));
        });
        let has = |line: &str| assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        has("voxrelay_tool_calls_total{outcome=\"ok\",worker=\"0\"} 1");
        has("voxrelay_tool_calls_total{outcome=\"timeout\",worker=\"0\"} 2");
        has("voxrelay_tool_call_duration_seconds_bucket{worker=\"0\",le=\"0.5\"} 10");
        has("voxrelay_tool_call_duration_seconds_count{worker=\"0\"} 11");
    }

    #[test]
    fn all_names_are_described() {
        let text = rendered(|| {
            let meter = WorkerMeter::new(WorkerId(0));
            meter.tool(Outcome::Ok, Duration::ZERO);
            meter.publish(&WorkerStats::default(), &Stats::default());
        });
        for line in text
            .lines()
            .filter(|line| !line.starts_with('#') && !line.is_empty())
        {
            let name = line.split(['{', ' ']).next().expect("a line has a name");
            let name = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|part| name.strip_suffix(part))
                .unwrap_or(name);
            assert!(text.contains(&format!("# HELP {name} ")), "{name}");
        }
    }
}
