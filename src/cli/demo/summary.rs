//! What the demo says at its end: figures, then checks.

use super::Evidence;
use crate::base::time::Mono;
use crate::call::{EndReason, Stats};
use crate::simulate::measure::{Direction, compare, first_audio, overlaps};
use std::time::Duration;

/// One named check.
struct Check {
    name: &'static str,
    is_good: bool,
    detail: String,
}

/// Prints both; whether every check held.
pub(super) fn print(evidence: &Evidence) -> bool {
    let Evidence {
        carrier,
        model,
        end,
        ..
    } = evidence;
    // A frame that left just before `session.updated` was still held when it came.
    let from = model.ready_at.unwrap_or(Mono(0)) + Duration::from_millis(5);
    let inbound = compare(&carrier.sent, &model.appended, from);
    let outbound = compare(&model.sent, &carrier.received, Mono(0));
    let latencies = first_audio(&model.speech_stopped, &carrier.received);
    let stats = end.as_ref().map(|(_, stats)| stats.as_ref());

    println!("\nOne call, simulated at both ends");
    println!(
        "  turns           {}, {} of them begun while an answer still played",
        model.speech_stopped.len(),
        overlaps(&model.speech_started, &carrier.received)
    );
    for (turn, latency) in latencies.iter().enumerate() {
        let text = match latency {
            Some(latency) => format!("{} ms", latency.as_millis()),
            None => "none before the next turn".into(),
        };
        println!(
            "  first audio {}   {text} after the caller's turn ended",
            turn + 1
        );
    }
    figures("caller → model", &inbound);
    figures("model → caller", &outbound);
    if let Some(stats) = stats {
        println!(
            "  balance         in  {} = {} sent on + {} dropped;  model got {} = {} + {} filled + {} padded",
            stats.inbound_bytes,
            stats.inbound_bytes_sent,
            stats.inbound_bytes_dropped,
            model.counts.appended_bytes,
            stats.inbound_bytes_sent,
            stats.filled_bytes,
            stats.padded_bytes,
        );
        println!(
            "                  out {} = {} sent on + {} dropped;  the caller heard {} bytes, {} were cleared",
            stats.outbound_bytes,
            stats.outbound_bytes_sent,
            stats.outbound_bytes_dropped,
            carrier.bytes_heard,
            carrier.bytes_cut,
        );
    }
    println!(
        "  marks           {} set, {} returned",
        carrier.marks_received, carrier.marks_returned
    );

    println!("\nChecks");
    let checks = checks(
        evidence,
        &inbound,
        &outbound,
        latencies.iter().flatten().count(),
    );
    for check in &checks {
        let sign = if check.is_good { '✓' } else { '✗' };
        let gap = if check.detail.is_empty() { "" } else { ": " };
        println!("  {sign} {}{gap}{}", check.name, check.detail);
    }
    let is_good = checks.iter().all(|check| check.is_good);
    if is_good {
        println!("\nAll checks hold.");
    } else {
        println!("\nThe call was not right.");
    }
    is_good
}

fn figures(name: &str, direction: &Direction) {
    println!(
        "  {name}  {} frames in, {} out; {} bytes in, {} out ({} filled, {} missing)",
        direction.sent_frames,
        direction.received_frames,
        direction.sent_bytes,
        direction.received_bytes,
        direction.filled_bytes,
        direction.missing_bytes,
    );
    if let (Some(p50), Some(p99)) = (direction.delay(0.5), direction.delay(0.99)) {
        println!(
            "                  relay delay p50 {} µs, p99 {} µs over {} frames",
            p50.as_micros(),
            p99.as_micros(),
            direction.measured()
        );
    }
}

fn checks(
    evidence: &Evidence,
    inbound: &Direction,
    outbound: &Direction,
    answered: usize,
) -> Vec<Check> {
    let Evidence {
        turns_min,
        carrier,
        violation,
        model,
        sessions,
        end,
    } = evidence;
    let reason = end.as_ref().map(|(reason, _)| *reason);
    let none = Stats::default();
    let stats = end.as_ref().map_or(&none, |(_, stats)| stats);
    let mut checks = Vec::new();
    let mut check = |name, is_good, detail: String| {
        checks.push(Check {
            name,
            is_good,
            // What is as it should be needs no words.
            detail: if is_good { String::new() } else { detail },
        });
    };
    check(
        "the caller's audio reached the model byte for byte",
        inbound.is_content_equal && inbound.received_frames > 0,
        format!("{} frames that nobody sent", inbound.strange_frames),
    );
    check("and in order", inbound.is_in_order, String::new());
    check(
        "the model's audio reached the caller byte for byte",
        outbound.is_content_equal && outbound.received_frames > 0,
        format!("{} frames that nobody sent", outbound.strange_frames),
    );
    check("and in order", outbound.is_in_order, String::new());
    check(
        "every turn of the caller was heard and answered",
        answered >= *turns_min && answered == model.speech_stopped.len(),
        format!("{} turns, {answered} answered", model.speech_stopped.len()),
    );
    check(
        "the carrier had nothing to complain of (31924, 31950, 31951)",
        carrier.warning_count == 0 && violation.is_none(),
        format!("{:?} {violation:?}", carrier.warnings),
    );
    check(
        "the model had nothing to complain of",
        model.counts.errors == 0,
        format!("{} error events", model.counts.errors),
    );
    check(
        "every mark came back and was counted",
        carrier.marks_received == carrier.marks_returned
            && stats.marks_sent == carrier.marks_received
            && stats.marks_returned == carrier.marks_returned
            && carrier.marks_received > 0,
        format!(
            "carrier got {} and returned {}; relay sent {} and got {}",
            carrier.marks_received, carrier.marks_returned, stats.marks_sent, stats.marks_returned
        ),
    );
    check(
        "caller → model adds up: received = sent on + dropped, and fills are counted",
        carrier.bytes_sent == stats.inbound_bytes
            && stats.inbound_bytes == stats.inbound_bytes_sent + stats.inbound_bytes_dropped
            && model.counts.appended_bytes
                == stats.inbound_bytes_sent + stats.filled_bytes + stats.padded_bytes,
        format!("{} bytes left the caller", carrier.bytes_sent),
    );
    check(
        "model → caller adds up: received = sent on + dropped",
        model.counts.delta_bytes == stats.outbound_bytes
            && stats.outbound_bytes == stats.outbound_bytes_sent + stats.outbound_bytes_dropped
            && stats.outbound_bytes_sent == carrier.bytes_received,
        format!("{} bytes left the model", model.counts.delta_bytes),
    );
    check(
        "nothing was dropped",
        stats.drops.iter().all(|n| *n == 0)
            && inbound.missing_bytes == 0
            && outbound.missing_bytes == 0,
        format!("by reason {:?}", stats.drops),
    );
    check(
        "the call ended as the caller hung up, from nobody else's side",
        reason == Some(EndReason::CallerHungUp) && carrier.closed_by_server.is_none(),
        format!(
            "{reason:?}, closed by the server with {:?}",
            carrier.closed_by_server
        ),
    );
    check(
        "the model's connection was closed in order, once",
        *sessions == 1 && matches!(model.closed, Some(1000 | 1001)),
        format!("{sessions} sessions, close code {:?}", model.closed),
    );
    checks
}
