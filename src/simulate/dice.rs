//! Chance for the simulators: what they draw from the seeded generator. Same seed, same call.

use crate::base::rng::Rng;
use std::time::Duration;

const ALPHANUMERIC: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Draws from the generator, as extension methods.
pub trait Dice {
    /// Uniform in `0.0..1.0`.
    fn unit(&mut self) -> f64;

    /// Uniform in `low..=high`. Needs `low <= high`.
    fn between(&mut self, low: u64, high: u64) -> u64;

    /// True with this probability.
    fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// A duration, uniform between two counts of milliseconds.
    fn millis(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_micros(self.between(low * 1000, high * 1000))
    }

    /// Log-normal around `median`, with `sigma` of the logarithm.
    fn log_normal(&mut self, median: Duration, sigma: f64) -> Duration {
        // Box-Muller; `1 - unit` keeps the logarithm's argument above zero.
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        let normal = radius * (std::f64::consts::TAU * self.unit()).cos();
        median.mul_f64((sigma * normal).exp())
    }

    /// `prefix` and `len` alphanumeric characters, the shape of the vendors' ids.
    fn id(&mut self, prefix: &str, len: usize) -> String;

    /// `prefix` and 32 lower-case hexadecimal digits (Twilio's SIDs).
    fn sid(&mut self, prefix: &str) -> String;
}

impl Dice for Rng {
    fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn between(&mut self, low: u64, high: u64) -> u64 {
        debug_assert!(low <= high);
        // The bias of a remainder is far below what any simulation here could notice.
        low + self.next_u64() % (high - low + 1)
    }

    fn id(&mut self, prefix: &str, len: usize) -> String {
        let mut id = String::with_capacity(prefix.len() + len);
        id.push_str(prefix);
        for _ in 0..len {
            id.push(ALPHANUMERIC[self.between(0, 61) as usize] as char);
        }
        id
    }

    fn sid(&mut self, prefix: &str) -> String {
        format!("{prefix}{:016x}{:016x}", self.next_u64(), self.next_u64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_seed_same_ids() {
        let (mut a, mut b) = (Rng::from_u64(7), Rng::from_u64(7));
        assert_eq!(a.id("event_", 21), b.id("event_", 21));
        assert_ne!(a.id("event_", 21), a.id("event_", 21));
        assert_eq!(a.sid("MZ").len(), 34);
    }

    #[test]
    fn draws_stay_in_their_range() {
        let mut rng = Rng::from_u64(1);
        let mut sum = 0.0;
        for _ in 0..2_000 {
            let unit = rng.unit();
            assert!((0.0..1.0).contains(&unit));
            assert!((3..=5).contains(&rng.between(3, 5)));
            sum += rng
                .log_normal(Duration::from_millis(450), 0.25)
                .as_secs_f64();
        }
        let mean = sum / 2_000.0;
        assert!((0.40..0.55).contains(&mean), "log-normal mean {mean}");
    }
}
