//! Whole calls by seed: a `Session` between a scripted carrier and a scripted model, on a network that delays, splits,
//! stalls and breaks, under a virtual clock, in one thread.
//!
//! | file | subject |
//! |---|---|
//! | `world` | one call: the clock, the shell's part of the contract, who is woken when |
//! | `link` | one connection, as the shell sees it |
//! | `carrier`, `model`, `trouble` | the peers, their scripts, their own encoders |
//! | `playback` | what the caller really heard |
//! | `terms` | how the call is led: greeting, silence, duration, keys, tools |
//! | `tools` | who carries HTTP tools out |
//! | `net`, `ws` | the wire: directions of a connection; frames, read strictly |
//! | `check` | what must hold, judged from the bytes |
//! | `dice` | chance |
//!
//! `cargo test --test sim` runs 2,000 seeds. `VOXRELAY_SIM_SEEDS=n` runs n, from `VOXRELAY_SIM_FROM` on (default 0);
//! `VOXRELAY_SIM_SEED=s` replays one with every step. `--features planted-bugs` proves that the checkers bite.

mod carrier;
mod check;
mod dice;
mod link;
mod model;
mod net;
mod playback;
mod terms;
mod tools;
mod trouble;
mod world;
mod ws;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, Once};
use std::time::Instant;
use world::{Course, STEP, World};

/// Seeds of an ordinary run.
const SEEDS: u64 = 2_000;

thread_local! {
    /// What the last panic of this thread said, when panics are kept quiet.
    static SAID: RefCell<String> = const { RefCell::new(String::new()) };
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text} is not a number")),
    )
}

/// The CPU time of this process so far, seconds: on a shared machine the clock on the wall says nothing.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // utime and stime, in ticks of 10 ms; the second field may hold spaces and ends at the last parenthesis.
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let ticks: u64 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|ticks| ticks.parse::<u64>().ok())
        .sum();
    ticks as f64 / 100.0
}

/// Past the test harness's capture, which shows nothing of a test that passes.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}");
}

/// One call; what broke, when something did.
fn call(seed: u64, log: bool) -> Result<Course, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if QUIET.get() {
                SAID.set(format!("{info}"));
            } else {
                before(info);
            }
        }));
    });
    QUIET.set(true);
    let result = catch_unwind(AssertUnwindSafe(|| World::new(seed, log).run()));
    QUIET.set(false);
    result.map_err(|_| {
        let (step, us) = STEP.get();
        format!(
            "seed {seed}, step {step}, {:.3} ms: {}\n  replay: VOXRELAY_SIM_SEED={seed} cargo test --test sim -- --nocapture",
            us as f64 / 1_000.0,
            SAID.take()
        )
    })
}

#[derive(Default)]
struct Tally {
    courses: u64,
    simulated_us: u64,
    steps: u64,
    clears: u64,
    truncates: u64,
    resumes: u64,
    again: u64,
    reasons: BTreeMap<&'static str, u64>,
    failures: Vec<(u64, String)>,
}

/// Runs many seeds, on all cores.
fn sweep(from: u64, seeds: u64) -> Tally {
    let next = AtomicU64::new(from);
    let tally = Mutex::new(Tally::default());
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= from + seeds {
                        break;
                    }
                    let result = call(seed, false);
                    let mut tally = tally.lock().expect("no thread panics holding it");
                    match result {
                        Ok(course) => {
                            tally.courses += 1;
                            tally.simulated_us += course.took;
                            tally.steps += course.steps;
                            tally.clears += u64::from(course.clears);
                            tally.resumes += u64::from(course.resumes);
                            tally.again += u64::from(course.connections.saturating_sub(1));
                            tally.truncates += u64::from(course.truncates);
                            *tally.reasons.entry(course.reason.label()).or_default() += 1;
                        }
                        Err(failure) => tally.failures.push((seed, failure)),
                    }
                }
            });
        }
    });
    let mut tally = tally.into_inner().expect("no thread panicked");
    tally.failures.sort();
    tally
}

#[test]
fn every_seed_keeps_every_promise() {
    if let Some(seed) = variable("VOXRELAY_SIM_SEED") {
        let course = call(seed, true).unwrap_or_else(|failure| panic!("{failure}"));
        say(&format!("{course:?}"));
        return;
    }
    let seeds = variable("VOXRELAY_SIM_SEEDS").unwrap_or(SEEDS);
    let (begun, cpu) = (Instant::now(), cpu_seconds());
    let tally = sweep(variable("VOXRELAY_SIM_FROM").unwrap_or(0), seeds);
    say(&format!(
        "{} calls, {} s of calls in {:.1} s ({:.1} s of CPU), {} steps, {} clears, {} truncations, {} resumed, {} more connections: {:?}",
        tally.courses,
        tally.simulated_us / 1_000_000,
        begun.elapsed().as_secs_f64(),
        cpu_seconds() - cpu,
        tally.steps,
        tally.clears,
        tally.truncates,
        tally.resumes,
        tally.again,
        tally.reasons
    ));
    let shown: Vec<&str> = tally
        .failures
        .iter()
        .take(10)
        .map(|(_, failure)| failure.as_str())
        .collect();
    assert!(
        shown.is_empty(),
        "{} of {seeds} seeds failed:\n{}\nall of them: {:?}",
        tally.failures.len(),
        shown.join("\n"),
        tally
            .failures
            .iter()
            .map(|(seed, _)| seed)
            .collect::<Vec<_>>()
    );
    // A sweep of a hundred and more meets every kind of end that the scripts can lead to.
    if seeds >= SEEDS {
        for reason in [
            "caller_hung_up",
            "carrier_lost",
            "start_timeout",
            "hung_up_by_operator",
            "realtime_lost",
            "silence",
            "max_duration",
            "ended_by_model",
        ] {
            assert!(
                tally.reasons.contains_key(reason),
                "no call ended as {reason}"
            );
        }
    }
}

#[test]
fn the_same_seed_takes_the_same_course_to_the_byte() {
    for seed in 0..20 {
        let courses = [call(seed, false), call(seed, false)];
        let [Ok(one), Ok(two)] = courses else {
            continue; // the sweep says what broke
        };
        assert_eq!(one, two, "seed {seed}");
    }
}

/// Each bug that the feature plants is found, and none by chance: without it the same seed passes.
#[cfg(feature = "planted-bugs")]
#[test]
fn every_planted_bug_is_found() {
    use voxrelay::call::planted::{self, Planted};
    let next = AtomicU64::new(0);
    let unfound = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(&bug) =
                    Planted::ALL.get(next.fetch_add(1, Ordering::Relaxed) as usize)
                {
                    // A seed that fails without the bug proves nothing.
                    let found = (0..SEEDS).find_map(|seed| {
                        planted::set(Some(bug));
                        let failure = call(seed, false).err();
                        planted::set(None);
                        failure.filter(|_| call(seed, false).is_ok())
                    });
                    match found {
                        Some(failure) => {
                            let line = failure.lines().take(2).collect::<Vec<_>>().join(" ");
                            say(&format!("{bug:?}: {line}"));
                        }
                        None => unfound.lock().expect("nobody panics").push(bug),
                    }
                }
            });
        }
    });
    let unfound = unfound.into_inner().expect("nobody panicked");
    assert!(
        unfound.is_empty(),
        "not found in {SEEDS} seeds: {unfound:?}"
    );
}
