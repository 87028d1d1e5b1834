//! Latencies of workers: fixed arrays of counts, recorded without a lock, an allocation or a float, and published on the
//! worker's tick. Shell.
//!
//! ```text
//! worker: Latency::record ──tick──► Series (atomics) ◄── scrape: render, /health: quantiles
//! ```
//!
//! Buckets are log-linear: sixteen to each power of two of microseconds, so a value is known to within 6 %. What is
//! rendered for Prometheus is coarser. The metrics crate's own histograms keep every sample until they are drained,
//! which is why the path of audio does not use them.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Sub-buckets of a power of two.
const LINEAR: usize = 16;
/// Powers of two above the first `LINEAR` microseconds: up to 16 s; the last bucket takes what is longer.
const OCTAVES: usize = 20;
const BUCKETS: usize = LINEAR * (OCTAVES + 1);
/// Rendered upper ends, as powers of two of microseconds: 16 µs to 8.4 s, each with one and a half of it.
const RENDERED: std::ops::RangeInclusive<u32> = 4..=23;

/// The bucket of so many microseconds.
fn bucket(us: u64) -> usize {
    if us < LINEAR as u64 {
        return us as usize;
    }
    let octave = us.ilog2() as usize - LINEAR.ilog2() as usize;
    let within = (us >> octave) as usize - LINEAR;
    (LINEAR * (octave + 1) + within).min(BUCKETS - 1)
}

/// The first microsecond past a bucket.
fn end_us(bucket: usize) -> u64 {
    match (bucket / LINEAR).checked_sub(1) {
        None => bucket as u64 + 1,
        Some(octave) => ((LINEAR + bucket % LINEAR + 1) as u64) << octave,
    }
}

/// Counts of one thread's latencies.
pub struct Latency {
    counts: [u64; BUCKETS],
    sum_us: u64,
}

impl std::fmt::Debug for Latency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Latency({} values)", self.counts.iter().sum::<u64>())
    }
}

impl Default for Latency {
    fn default() -> Self {
        Self {
            counts: [0; BUCKETS],
            sum_us: 0,
        }
    }
}

impl Latency {
    /// Counts one.
    pub fn record(&mut self, took: Duration) {
        let us = took.as_micros().min(u128::from(u32::MAX)) as u64;
        self.counts[bucket(us)] += 1;
        self.sum_us += us;
    }
}

/// What a latency was since it was last published.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// Values.
    pub count: u64,
    /// Half of them were shorter.
    pub p50: Duration,
    /// Nine of ten were.
    pub p90: Duration,
    /// 99 of 100 were.
    pub p99: Duration,
}

/// One latency as everybody may read it: the totals since start and the last window's p99.
pub struct Series {
    name: &'static str,
    /// As Prometheus writes them, without braces.
    labels: String,
    counts: [AtomicU64; BUCKETS],
    sum_us: AtomicU64,
    p50_us: AtomicU32,
    p99_us: AtomicU32,
}

impl std::fmt::Debug for Series {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Series({}{{{}}})", self.name, self.labels)
    }
}

/// Every series there is. Locked when a worker starts and when somebody reads, never by a worker that runs.
static ALL: Mutex<Vec<Arc<Series>>> = Mutex::new(Vec::new());

/// The series of this name and these labels, made where there is none.
pub fn series(name: &'static str, labels: &[(&str, &str)]) -> Arc<Series> {
    let mut text = String::new();
    for (key, value) in labels {
        let comma = if text.is_empty() { "" } else { "," };
        // Values are our own words and numbers: nothing in them needs an escape.
        let _ = write!(text, "{comma}{key}=\"{value}\"");
    }
    let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(found) = all.iter().find(|s| s.name == name && s.labels == text) {
        return found.clone();
    }
    let made = Arc::new(Series {
        name,
        labels: text,
        counts: [const { AtomicU64::new(0) }; BUCKETS],
        sum_us: AtomicU64::new(0),
        p50_us: AtomicU32::new(0),
        p99_us: AtomicU32::new(0),
    });
    all.push(made.clone());
    made
}

impl Series {
    /// Sets the totals, and says what came since the last time.
    pub fn publish(&self, latency: &Latency) -> Window {
        let mut since = [0u64; BUCKETS];
        let mut count = 0;
        for (at, total) in latency.counts.iter().enumerate() {
            let before = self.counts[at].swap(*total, Relaxed);
            since[at] = total.saturating_sub(before);
            count += since[at];
        }
        self.sum_us.store(latency.sum_us, Relaxed);
        let window = Window {
            count,
            p50: quantile(&since, count, 50),
            p90: quantile(&since, count, 90),
            p99: quantile(&since, count, 99),
        };
        let us = |time: Duration| time.as_micros().min(u128::from(u32::MAX)) as u32;
        self.p50_us.store(us(window.p50), Relaxed);
        self.p99_us.store(us(window.p99), Relaxed);
        window
    }

    /// p50 and p99 of the last published second, microseconds.
    pub fn last_us(&self) -> (u32, u32) {
        (self.p50_us.load(Relaxed), self.p99_us.load(Relaxed))
    }

    fn render(&self, out: &mut String) {
        let comma = if self.labels.is_empty() { "" } else { "," };
        let (name, labels) = (self.name, &self.labels);
        let (mut total, mut at) = (0, 0);
        for power in RENDERED {
            for edge_us in [1u64 << power, 3u64 << (power - 1)] {
                while at < BUCKETS && end_us(at) <= edge_us {
                    total += self.counts[at].load(Relaxed);
                    at += 1;
                }
                let le = edge_us as f64 / 1e6;
                let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"{le}\"}} {total}");
            }
        }
        let rest: u64 = self.counts[at..].iter().map(|c| c.load(Relaxed)).sum();
        total += rest;
        let sum = self.sum_us.load(Relaxed) as f64 / 1e6;
        let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {total}");
        let _ = writeln!(out, "{name}_sum{{{labels}}} {sum}");
        let _ = writeln!(out, "{name}_count{{{labels}}} {total}");
    }
}

/// The end of the bucket that holds the `percent`th of a hundred.
fn quantile(counts: &[u64; BUCKETS], count: u64, percent: u64) -> Duration {
    let wanted = (count * percent).div_ceil(100).max(1);
    let mut seen = 0;
    for (at, n) in counts.iter().enumerate() {
        seen += n;
        if seen >= wanted {
            return Duration::from_micros(end_us(at));
        }
    }
    Duration::ZERO
}

/// Appends every series to Prometheus' text. `help` names each metric once.
pub fn render(help: &[(&str, &str)], out: &mut String) {
    let all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
    for (name, help) in help {
        let mut first = true;
        for series in all.iter().filter(|series| series.name == *name) {
            if std::mem::take(&mut first) {
                let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} histogram");
            }
            series.render(out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_cover_every_value_in_order_and_to_six_percent() {
        let mut last = 0;
        for us in (0..5_000).chain([10_000, 100_000, 1_000_000, 15_999_999]) {
            let at = bucket(us);
            assert!(at >= last && us < end_us(at), "{us}");
            assert!(at == 0 || us >= end_us(at - 1), "{us}");
            assert!(end_us(at) <= us + 1 + us / LINEAR as u64, "{us}");
            last = at;
        }
        assert_eq!(bucket(u64::MAX >> 1), BUCKETS - 1);
    }

    #[test]
    fn a_window_is_what_came_since_the_last_one() {
        let mut latency = Latency::default();
        let series = series("test_window_seconds", &[("worker", "9")]);
        for us in 1..=100 {
            latency.record(Duration::from_micros(us));
        }
        let window = series.publish(&latency);
        assert_eq!(window.count, 100);
        assert!((50..=54).contains(&window.p50.as_micros()), "{window:?}");
        assert!((99..=104).contains(&window.p99.as_micros()), "{window:?}");
        assert_eq!(series.publish(&latency), Window::default());
        latency.record(Duration::from_secs(3));
        assert!(series.publish(&latency).p50 >= Duration::from_secs(3));
    }

    #[test]
    fn the_text_is_a_prometheus_histogram() {
        let mut latency = Latency::default();
        let made = series("test_text_seconds", &[("direction", "inbound")]);
        for us in [10, 70, 90_000_000] {
            latency.record(Duration::from_micros(us));
        }
        made.publish(&latency);
        let again = series("test_text_seconds", &[("direction", "inbound")]);
        assert!(Arc::ptr_eq(&made, &again), "one series of a name");
        let mut text = String::new();
        render(&[("test_text_seconds", "For a test.")], &mut text);
        let has = |line: &str| assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        has("# TYPE test_text_seconds histogram");
        has("test_text_seconds_bucket{direction=\"inbound\",le=\"0.000016\"} 1");
        has("test_text_seconds_bucket{direction=\"inbound\",le=\"0.000064\"} 1");
        has("test_text_seconds_bucket{direction=\"inbound\",le=\"0.000096\"} 2");
        has("test_text_seconds_bucket{direction=\"inbound\",le=\"+Inf\"} 3");
        has("test_text_seconds_count{direction=\"inbound\"} 3");
        has("test_text_seconds_sum{direction=\"inbound\"} 90.00008");
    }
}
