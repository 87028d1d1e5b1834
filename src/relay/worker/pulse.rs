//! How a worker's loop does, second by second, and what follows from it: whether completions are gathered, whether new
//! calls are taken. Shell, in plain integers; published on the tick.
//!
//! - *Busy* is the CPU time of the worker's thread in a second. Time outside of the ring's wait would say little: nearly
//!   all of a frame's cost is the kernel's TCP, which runs inside `io_uring_enter`.
//! - *Lag* is how late a wait came back that had a deadline. Under load there is one every `PROBE`, so a core that is
//!   taken away shows here even though the thread is not busy by its own time.
//! - *Delay* is from the wake-up that brought a frame to the submission of the send that carries it, of each send's
//!   oldest frame. What `relay.gather_us` and `relay.coalesce_ms` add by intent comes before and is not in it.

use crate::base::id::WorkerId;
use crate::base::time::Mono;
use crate::bus::load::{Load, Overload};
use crate::config::Relay;
use crate::telemetry::latency::{Latency, Series, series};
use crate::telemetry::name;
use rustix::time::{ClockId, clock_gettime};
use std::sync::Arc;
use std::time::Duration;

/// How often a loaded loop measures how late it is.
const PROBE: Duration = Duration::from_millis(20);
/// Completions a second from which on it does: a handful of calls.
const PROBE_FROM_RATE: u64 = 1_000;
/// A second with fewer measurements says nothing about lag, unless it was probed from its beginning.
const LAG_COUNT_MIN: u64 = 10;
/// Then there would be some fifty: fewer are so few because each was late, and one alone may be chance.
const LAG_COUNT_PROBED_MIN: u64 = 2;
/// How far below its bound a worker's load must fall before new calls come again, percent of a core.
const BUSY_HYSTERESIS_PERCENT: u32 = 10;

/// How a worker is run.
#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    /// How long completions are gathered under load; zero: not at all.
    pub gather: Duration,
    /// Completions a second from which on they are; below half of it no more.
    pub gather_from_rate: u64,
    /// Busier than that, no new calls are taken; 100: always.
    pub busy_max_percent: u32,
    /// Later than that, none are taken; zero: always.
    pub lag_max: Duration,
    /// The core that the thread stays on.
    pub core: Option<usize>,
}

impl Default for Tuning {
    /// What an empty configuration means, but that new calls are always taken.
    fn default() -> Self {
        Self {
            gather: Duration::from_millis(1),
            gather_from_rate: 10_000,
            busy_max_percent: 100,
            lag_max: Duration::ZERO,
            core: None,
        }
    }
}

impl Tuning {
    /// As configured, on `core`.
    pub fn new(relay: &Relay, core: Option<usize>) -> Self {
        Self {
            gather: relay.gather,
            gather_from_rate: relay.gather_from_rate,
            busy_max_percent: relay.busy_max_percent,
            lag_max: relay.lag_max,
            core,
        }
    }
}

/// What the loop measures of itself.
#[derive(Debug)]
pub(super) struct Pulse {
    tuning: Tuning,
    gathering: bool,
    /// The loop is loaded enough to be measured.
    probing: bool,
    /// Bounds the next wait while `probing`.
    probe_at: Mono,
    /// Completions since the last tick.
    completions: u64,
    ticked_at: Mono,
    /// The thread's CPU time then.
    ticked_cpu: Duration,
    overload: Option<Overload>,
    lag: Latency,
    /// To the carrier, to the model.
    delays: [Latency; 2],
    lag_series: Arc<Series>,
    delay_series: [Arc<Series>; 2],
}

impl Pulse {
    pub(super) fn new(id: WorkerId, tuning: Tuning, now: Mono) -> Self {
        let worker = id.0.to_string();
        let delay = |direction| {
            let labels = [("direction", direction), ("worker", &*worker)];
            series(name::RELAY_DELAY, &labels)
        };
        Self {
            tuning,
            gathering: is_gathering(false, 0, &tuning),
            probing: false,
            probe_at: now,
            completions: 0,
            ticked_at: now,
            ticked_cpu: thread_cpu(),
            overload: None,
            lag: Latency::default(),
            delays: Default::default(),
            lag_series: series(name::LOOP_LAG, &[("worker", &worker)]),
            delay_series: [delay("outbound"), delay("inbound")],
        }
    }

    /// How long the next wait gathers.
    pub(super) fn gather(&self) -> Option<Duration> {
        self.gathering.then_some(self.tuning.gather)
    }

    /// When the next wait ends at the latest for the sake of measuring.
    pub(super) fn bound(&self, due: Mono) -> Mono {
        match self.probing {
            true => due.min(self.probe_at),
            false => due,
        }
    }

    /// A wait that was to end at `due` is over.
    pub(super) fn woke(&mut self, completions: usize, due: Mono, now: Mono) {
        self.completions += completions as u64;
        if now >= due {
            self.lag.record(now.since(due));
            self.probe_at = now + PROBE;
        }
    }

    /// A send whose oldest frame came at `since` is submitted now: `direction` 0 is to the carrier, 1 to the model.
    pub(super) fn left(&mut self, direction: usize, since: Mono, now: Mono) {
        self.delays[direction].record(now.since(since));
    }

    /// Publishes what the second since the last tick was like, and decides about the next.
    pub(super) fn tick(&mut self, live: usize, now: Mono) -> Load {
        let wall = now.since(self.ticked_at).max(Duration::from_millis(1));
        let cpu = thread_cpu();
        let used = cpu.saturating_sub(self.ticked_cpu);
        let per_second = |n: u64| (u128::from(n) * 1_000_000 / wall.as_micros()) as u64;
        let rate = per_second(std::mem::take(&mut self.completions));
        (self.ticked_at, self.ticked_cpu) = (now, cpu);
        self.gathering = is_gathering(self.gathering, rate, &self.tuning);
        let probed = std::mem::replace(&mut self.probing, rate >= PROBE_FROM_RATE);
        if self.probing && !probed {
            self.probe_at = now + PROBE;
        }
        for (series, latency) in self.delay_series.iter().zip(&self.delays) {
            series.publish(latency);
        }
        let lag = self.lag_series.publish(&self.lag);
        let count_min = match probed {
            true => LAG_COUNT_PROBED_MIN,
            false => LAG_COUNT_MIN,
        };
        let lag_known = match lag.count >= count_min {
            true => lag.p90,
            false => Duration::ZERO,
        };
        let busy_permille = (used.as_micros() * 1_000 / wall.as_micros()) as u32;
        self.overload = overload(self.overload, busy_permille, lag_known, &self.tuning);
        Load {
            live,
            measured_live: live,
            busy_permille,
            lag_us: lag.p90.as_micros().min(u128::from(u32::MAX)) as u32,
            overload: self.overload,
        }
    }
}

/// Whether completions are gathered from now on.
fn is_gathering(was: bool, rate: u64, tuning: &Tuning) -> bool {
    let from = tuning.gather_from_rate;
    !tuning.gather.is_zero() && (rate >= from || was && rate >= from / 2)
}

/// Whether new calls are refused from now on, and why: past a bound, until well below it.
fn overload(
    was: Option<Overload>,
    busy_permille: u32,
    lag: Duration,
    tuning: &Tuning,
) -> Option<Overload> {
    let busy_max = tuning.busy_max_percent;
    let past = |bound: u32| busy_max < 100 && busy_permille > bound * 10;
    let late = |bound: Duration| !tuning.lag_max.is_zero() && lag > bound;
    if past(busy_max) {
        return Some(Overload::Busy);
    }
    if late(tuning.lag_max) {
        return Some(Overload::Lag);
    }
    // Of a low bound the half: a worker with a call on it is never quite idle, and must be able to come back.
    let busy_until = busy_max
        .saturating_sub(BUSY_HYSTERESIS_PERCENT)
        .max(busy_max.div_ceil(2));
    was.filter(|_| past(busy_until) || late(tuning.lag_max / 2))
}

fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    // A thread's CPU time is never negative.
    Duration::new(
        time.tv_sec.unsigned_abs(),
        time.tv_nsec.unsigned_abs() as u32,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const TUNING: Tuning = Tuning {
        gather: Duration::from_millis(1),
        gather_from_rate: 10_000,
        busy_max_percent: 90,
        lag_max: Duration::from_millis(20),
        core: None,
    };
    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn gathering_begins_at_its_rate_and_ends_below_half() {
        let steps = [
            (9_999, false),
            (10_000, true),
            (5_000, true),
            (4_999, false),
            (9_000, false),
        ];
        let mut is = false;
        for (rate, expected) in steps {
            is = is_gathering(is, rate, &TUNING);
            assert_eq!(is, expected, "{rate}");
        }
        let off = Tuning {
            gather: Duration::ZERO,
            ..TUNING
        };
        assert!(!is_gathering(true, 1_000_000, &off));
        let always = Tuning {
            gather_from_rate: 0,
            ..TUNING
        };
        assert!(is_gathering(false, 0, &always));
    }

    #[test]
    fn a_worker_refuses_past_its_bounds_and_until_well_below_them() {
        let mut is = None;
        for (busy, lag, expected) in [
            (900, 20 * MS, None),
            (901, MS, Some(Overload::Busy)),
            (850, MS, Some(Overload::Busy)),
            (800, MS, None),
            (100, 21 * MS, Some(Overload::Lag)),
            (100, 11 * MS, Some(Overload::Lag)),
            (100, 10 * MS, None),
            (999, 90 * MS, Some(Overload::Busy)),
            (100, 90 * MS, Some(Overload::Lag)),
        ] {
            is = overload(is, busy, lag, &TUNING);
            assert_eq!(is, expected, "{busy} {lag:?}");
        }
        let open = Tuning {
            busy_max_percent: 100,
            lag_max: Duration::ZERO,
            ..TUNING
        };
        assert_eq!(overload(is, 2_000, 900 * MS, &open), None);
        let low = Tuning {
            busy_max_percent: 10,
            ..TUNING
        };
        assert_eq!(
            overload(Some(Overload::Busy), 51, MS, &low),
            Some(Overload::Busy)
        );
        assert_eq!(overload(Some(Overload::Busy), 50, MS, &low), None);
    }

    #[test]
    fn stalls_so_long_that_few_fit_in_a_second_are_lag_too() {
        let mut pulse = Pulse::new(WorkerId(901), TUNING, Mono(0));
        let mut now = Mono(0) + 1_000 * MS;
        pulse.woke(5_000, now, now);
        pulse.tick(7, now);
        for _ in 0..4 {
            pulse.woke(1_000, now, now + 230 * MS);
            now = now + 250 * MS;
        }
        assert_eq!(pulse.tick(7, now).overload, Some(Overload::Lag));
        // One alone may be chance.
        pulse.woke(1_000, now, now + 30 * MS);
        now = now + 1_000 * MS;
        assert_eq!(pulse.tick(7, now).overload, None);
    }

    #[test]
    fn a_late_second_is_seen_and_a_single_late_wake_up_is_not() {
        let mut pulse = Pulse::new(WorkerId(900), TUNING, Mono(0));
        let mut now = Mono(0);
        pulse.woke(0, now, now + 500 * MS);
        now = now + 1_000 * MS;
        let load = pulse.tick(7, now);
        assert_eq!((load.overload, load.measured_live), (None, 7));
        for _ in 0..20 {
            pulse.woke(100, now, now + 30 * MS);
            now = now + 50 * MS;
        }
        assert_eq!(pulse.tick(7, now).overload, Some(Overload::Lag));
        assert!(pulse.bound(now + 1_000 * MS) <= now + PROBE);
    }
}
