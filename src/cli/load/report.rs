//! What is printed and written of runs: a table, a JSON document, a picture.

use super::measure::{Cost, Run};
use crate::simulate::load::check::Kind;
use crate::simulate::load::plot::{Chart, Series};
use crate::simulate::load::tally::Quantiles;
use serde_json::{Map, Value, json};
use std::fmt::Write as _;
use std::time::Duration;

/// Faults shown in full.
const FAULTS_SHOWN: usize = 20;
/// The longest p99 of a leg at which a relay still keeps up.
pub const KNEE: Duration = Duration::from_millis(20);

fn ms(time: Duration) -> String {
    format!("{:.3}", time.as_secs_f64() * 1e3)
}

fn kib(bytes: f64) -> String {
    format!("{:.1} KiB", bytes / 1024.0)
}

/// Whether the relay kept up: nothing wrong in a run that counts, and no leg slower than a frame.
pub fn keeps_up(run: &Run) -> bool {
    let tally = &run.ran.tally;
    run.void.is_none()
        && run.died.is_none()
        && tally.faults.total() == 0
        && tally.up.quantiles().count > 0
        && tally.up.quantiles().p99 <= KNEE
        && tally.down.quantiles().p99 <= KNEE
}

/// Memory that a call adds, bytes.
fn per_call(cost: &Cost) -> Option<(f64, Option<f64>)> {
    let calls = f64::from((cost.calls > 0).then_some(cost.calls)?);
    let grown = |loaded: u64, idle: u64| loaded.saturating_sub(idle) as f64 / calls;
    let pss = cost.loaded.pss.zip(cost.idle.pss);
    Some((
        grown(cost.loaded.rss, cost.idle.rss),
        pss.map(|(loaded, idle)| grown(loaded, idle)),
    ))
}

/// One run, for people.
pub fn table(run: &Run) -> String {
    let tally = &run.ran.tally;
    let mut text = String::new();
    let seconds = run.ran.window.as_secs_f64();
    let _ = writeln!(
        text,
        "{}: {} calls, {}, {seconds:.1} s measured",
        run.name,
        run.plan.calls,
        run.plan.profile.label()
    );
    let _ = writeln!(
        text,
        "  delay (ms)                 p50      p90      p99    p99.9      max      count"
    );
    let mut row = |name: &str, q: Quantiles| {
        if q.count > 0 {
            let _ = writeln!(
                text,
                "  {name:<20} {:>9} {:>8} {:>8} {:>8} {:>8} {:>10}",
                ms(q.p50),
                ms(q.p90),
                ms(q.p99),
                ms(q.p999),
                ms(q.max),
                q.count
            );
        }
    };
    row("carrier to model", tally.up.quantiles());
    row("model to carrier", tally.down.quantiles());
    row("speech to clear", tally.clear.quantiles());
    row("truncated off by", tally.truncation.quantiles());
    row("dial to 101", tally.setup.quantiles());
    row("dial to first frame", tally.first_frame.quantiles());
    row("generator late", tally.lateness.quantiles());
    let _ = writeln!(
        text,
        "  frames               {} sent, {} at the model; {} sent back, {} at the carrier",
        tally.up_sent, tally.up_received, tally.down_sent, tally.down_received
    );
    let _ = writeln!(
        text,
        "  calls                {} placed, {} answered, {} ended in order; {} marks, {} returned",
        tally.placed, tally.answered, tally.ended, tally.marks, tally.marks_returned
    );
    if run.plan.churn.is_some() {
        let _ = writeln!(
            text,
            "  new calls            {:.0} a second",
            tally.answered_measured as f64 / seconds.max(1e-9)
        );
    }
    if tally.barge_ins > 0 {
        let _ = writeln!(
            text,
            "  barge-ins            {}, {} clears, {} truncates",
            tally.barge_ins, tally.clears, tally.truncates
        );
    }
    match &run.cost {
        Some(cost) => costs(&mut text, run, cost),
        None => {
            let _ = writeln!(
                text,
                "  relay                its process is not known: name it with --relay-pid"
            );
        }
    }
    let _ = writeln!(
        text,
        "  generator            {:.0} % of a core, {:.2} io_uring_enter a frame; not part of the figures above",
        run.generator_core * 100.0,
        run.ran.enters as f64 / (tally.up_sent + tally.down_sent).max(1) as f64
    );
    let faults = &tally.faults;
    for fault in faults.kept().iter().take(FAULTS_SHOWN) {
        let _ = writeln!(text, "  FAULT  {fault}");
    }
    if faults.kept().len() > FAULTS_SHOWN {
        let _ = writeln!(text, "  FAULT  … {} in all", faults.total());
    }
    if let Some(why) = &run.died {
        let _ = writeln!(text, "  FAULT  the relay ended by itself: {why}");
    }
    let verdict = match (faults.total(), &run.died, &run.void) {
        (0, None, None) => "content right, times valid".to_owned(),
        (0, None, Some(why)) => format!("content right, times VOID: {why}"),
        (total, _, _) => format!("FAILED: {total} faults"),
    };
    let _ = writeln!(text, "  {verdict}");
    text
}

fn costs(text: &mut String, run: &Run, cost: &Cost) {
    let cpu = cost.user + cost.system;
    let frames = cost.frames.max(1) as f64;
    let call_seconds = f64::from(run.plan.calls) * cost.wall.as_secs_f64();
    let per_frame = |time: Duration| time.as_secs_f64() * 1e6 / frames;
    let _ = writeln!(
        text,
        "  relay CPU            {:.2} µs a frame ({:.2} user, {:.2} system), {:.3} ms a call-second, {:.0} % of a core",
        per_frame(cpu),
        per_frame(cost.user),
        per_frame(cost.system),
        cpu.as_secs_f64() * 1e3 / call_seconds.max(1e-9),
        cpu.as_secs_f64() / cost.wall.as_secs_f64().max(1e-9) * 100.0
    );
    if run.plan.churn.is_some() && run.ran.tally.answered_measured > 0 {
        let _ = writeln!(
            text,
            "  relay CPU            {:.3} ms a call, set-up, audio and end",
            cpu.as_secs_f64() * 1e3 / run.ran.tally.answered_measured as f64
        );
    }
    let enters = match cost.enters {
        Some(enters) => format!("{:.3} io_uring_enter a frame", enters as f64 / frames),
        None => "system calls a frame not available".to_owned(),
    };
    let _ = writeln!(
        text,
        "  relay switches       {:.3} context switches a frame, {enters}",
        cost.switches as f64 / frames
    );
    let idle = kib(cost.idle.rss as f64);
    let memory = match per_call(cost) {
        Some((rss, Some(pss))) => format!("{} RSS, {} PSS a call; idle {idle}", kib(rss), kib(pss)),
        Some((rss, None)) => format!("{} RSS a call; idle {idle}", kib(rss)),
        None => format!("idle {idle}"),
    };
    let _ = writeln!(text, "  relay memory         {memory}");
    if let Some((first, last)) = growth(cost) {
        let _ = writeln!(
            text,
            "  relay memory         {} after {} calls, {} after {}",
            kib(first.1 as f64),
            first.0,
            kib(last.1 as f64),
            last.0
        );
    }
}

/// Memory after the first tenth of a churn's calls, and at its end.
fn growth(cost: &Cost) -> Option<((u32, u64), (u32, u64))> {
    let last = *cost.memory.last()?;
    let first = *cost
        .memory
        .iter()
        .find(|(ended, _)| *ended >= last.0 / 10)?;
    Some((first, last))
}

/// The runs of a series of steps, a line each.
pub fn steps(runs: &[Run]) -> String {
    let mut text = String::from(
        "  calls   up p50   up p99   down p50  down p99   µs/frame  core %   faults\n",
    );
    for run in runs {
        let tally = &run.ran.tally;
        let (up, down) = (tally.up.quantiles(), tally.down.quantiles());
        let cpu = run.cost.as_ref();
        let per_frame = cpu.and_then(Cost::micros_per_frame).unwrap_or(0.0);
        let core = cpu.map_or(0.0, |cost| {
            (cost.user + cost.system).as_secs_f64() / cost.wall.as_secs_f64().max(1e-9)
        });
        let _ = writeln!(
            text,
            "{:>7} {:>8} {:>8}   {:>8}  {:>8} {per_frame:>10.2} {:>7.0} {:>8}{}",
            run.plan.calls,
            ms(up.p50),
            ms(up.p99),
            ms(down.p50),
            ms(down.p99),
            core * 100.0,
            tally.faults.total(),
            if run.void.is_some() { "  void" } else { "" }
        );
    }
    let knee = runs
        .iter()
        .take_while(|run| keeps_up(run))
        .map(|run| run.plan.calls)
        .last();
    let _ = match knee {
        Some(calls) => writeln!(
            text,
            "  knee: {calls} calls with p99 of each leg within 20 ms and nothing wrong"
        ),
        None => writeln!(text, "  knee: below the smallest step"),
    };
    text
}

fn quantiles(q: Quantiles) -> Value {
    if q.count == 0 {
        return Value::Null;
    }
    let micros = |time: Duration| (time.as_nanos() as f64 / 1e3 * 10.0).round() / 10.0;
    json!({"count": q.count, "p50_us": micros(q.p50), "p90_us": micros(q.p90), "p99_us": micros(q.p99),
        "p999_us": micros(q.p999), "max_us": micros(q.max)})
}

/// One run, for programs.
pub fn json(run: &Run) -> Value {
    let (plan, tally) = (&run.plan, &run.ran.tally);
    let faults = &tally.faults;
    let counts: Map<String, Value> = Kind::ALL
        .iter()
        .map(|kind| (kind.label().to_owned(), faults.count(*kind).into()))
        .collect();
    let kept: Vec<String> = faults.kept().iter().map(ToString::to_string).collect();
    let churn = plan
        .churn
        .map(|churn| json!({"call_s": churn.call.as_secs_f64(), "total": churn.total}));
    json!({
        "relay": run.name,
        "plan": {
            "calls": plan.calls, "ramp_per_s": plan.ramp, "hold_s": plan.hold.as_secs_f64(),
            "profile": plan.profile.label(), "barge_in_rate": plan.barge_in_rate, "churn": churn,
            "model_latency_ms": plan.model_latency.as_secs_f64() * 1e3, "aligned": plan.aligned, "slot_us": plan.slot.as_micros() as u64,
            "url": plan.relay, "webhook": plan.webhook, "seed": plan.seed,
        },
        "measured_s": run.ran.window.as_secs_f64(),
        "delay": {
            "carrier_to_model": quantiles(tally.up.quantiles()),
            "model_to_carrier": quantiles(tally.down.quantiles()),
            "speech_to_clear": quantiles(tally.clear.quantiles()),
            "truncated_off_by": quantiles(tally.truncation.quantiles()),
            "dial_to_101": quantiles(tally.setup.quantiles()),
            "dial_to_first_frame": quantiles(tally.first_frame.quantiles()),
        },
        "frames": {
            "up_sent": tally.up_sent, "up_received": tally.up_received,
            "down_sent": tally.down_sent, "down_received": tally.down_received,
            "down_messages": tally.down_messages,
        },
        "calls": {"placed": tally.placed, "answered": tally.answered, "ended": tally.ended,
            "new_per_s": tally.answered_measured as f64 / run.ran.window.as_secs_f64().max(1e-9)},
        "marks": {"received": tally.marks, "returned": tally.marks_returned},
        "barge_ins": {"count": tally.barge_ins, "clears": tally.clears, "truncates": tally.truncates},
        "relay_cost": run.cost.as_ref().map(cost_json),
        "generator": {
            "core": run.generator_core, "late": quantiles(tally.lateness.quantiles()), "enters": run.ran.enters,
        },
        "faults": {"total": faults.total(), "by_kind": counts, "first": kept, "relay_died": run.died},
        "void": run.void,
        "keeps_up": keeps_up(run),
    })
}

fn cost_json(cost: &Cost) -> Value {
    let frames = cost.frames.max(1) as f64;
    let per_frame = |time: Duration| time.as_secs_f64() * 1e6 / frames;
    let (rss, pss) = per_call(cost).unzip();
    let memory: Vec<Value> = cost
        .memory
        .iter()
        .map(|(ended, bytes)| json!([ended, bytes]))
        .collect();
    json!({
        "wall_s": cost.wall.as_secs_f64(),
        "frames": cost.frames,
        "cpu_us_per_frame": per_frame(cost.user + cost.system),
        "user_us_per_frame": per_frame(cost.user),
        "system_us_per_frame": per_frame(cost.system),
        "core": (cost.user + cost.system).as_secs_f64() / cost.wall.as_secs_f64().max(1e-9),
        "switches_per_frame": cost.switches as f64 / frames,
        "enters_per_frame": cost.enters.map(|enters| enters as f64 / frames),
        "idle_rss_bytes": cost.idle.rss, "idle_pss_bytes": cost.idle.pss,
        "loaded_rss_bytes": cost.loaded.rss, "loaded_pss_bytes": cost.loaded.pss, "loaded_calls": cost.calls,
        "rss_bytes_per_call": rss, "pss_bytes_per_call": pss.flatten(),
        "memory_over_time": memory,
    })
}

/// The charts of `--plot`: one line for each relay where there are several.
pub fn charts(runs: &[Run]) -> Vec<Chart> {
    let mut names: Vec<&str> = runs.iter().map(|run| run.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let mut delay = Vec::new();
    let mut cpu = Vec::new();
    for name in &names {
        let of = |value: &dyn Fn(&Run) -> Option<f64>| {
            let mut points: Vec<(f64, f64)> = runs
                .iter()
                .filter(|run| run.name == *name)
                .filter_map(|run| Some((f64::from(run.plan.calls), value(run)?)))
                .collect();
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            points
        };
        let prefix = if names.len() > 1 {
            format!("{name} ")
        } else {
            String::new()
        };
        let time = |q: Quantiles, p: fn(&Quantiles) -> Duration| {
            (q.count > 0).then(|| p(&q).as_secs_f64() * 1e3)
        };
        for (label, points) in [
            (
                "up p50",
                of(&|run| time(run.ran.tally.up.quantiles(), |q| q.p50)),
            ),
            (
                "up p99",
                of(&|run| time(run.ran.tally.up.quantiles(), |q| q.p99)),
            ),
            (
                "down p50",
                of(&|run| time(run.ran.tally.down.quantiles(), |q| q.p50)),
            ),
            (
                "down p99",
                of(&|run| time(run.ran.tally.down.quantiles(), |q| q.p99)),
            ),
        ] {
            delay.push(Series {
                name: format!("{prefix}{label}"),
                points,
            });
        }
        cpu.push(Series {
            name: format!("{prefix}CPU"),
            points: of(&|run| run.cost.as_ref()?.micros_per_frame()),
        });
    }
    vec![
        Chart {
            title: "The relay's share of the delay".into(),
            unit: "ms".into(),
            series: delay,
        },
        Chart {
            title: "CPU of the relay per frame".into(),
            unit: "µs".into(),
            series: cpu,
        },
    ]
}
