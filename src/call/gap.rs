//! Gap filling by stream time: how much silence belongs before a frame. Core; used by `Call` alone.
//!
//! The model's clock is the audio it is given, so audio that never came must be replaced by silence, or its
//! turn detection waits for ever. What is missing is read from the carrier's stamps, never from arrival
//! times: a late frame is not a lost one.
//!
//! ```text
//! stamps   origin                                     stamp of this frame
//!            │───────────── delivered ─────────────│── gap ──│
//!            │  audio + fills + pads                          │
//! ```
//!
//! The comparison is cumulative, so stamps that jitter by a few milliseconds never add up to a fill. What
//! was delivered too much (a pad for audio that came after all, frames sharing a stamp) makes the gap
//! negative and is thereby deducted from later ones. No frame is ever dropped because of its numbers.

use crate::base::limit::{GAP_FILL_MS_MAX, GAP_FILL_MS_MIN};
use crate::base::time::Mono;
use crate::base::unit::AudioMs;

/// A stamp this far before the newest one is a clock that began again, not a frame out of order.
const RESTART_MS: u64 = 1_000;
/// Stamps this far behind the audio say nothing any more (a constant stamp, a clock that is too slow).
const LEAD_MS_MAX: u64 = 5_000;

/// What stands before a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Gap {
    /// Silence to send before it.
    pub fill: AudioMs,
    /// Part of the gap is not filled: it is longer than `limit::GAP_FILL_MS_MAX`, or fills have used up what a
    /// call of this age may have.
    pub too_long: bool,
    /// The stamp was unusable (it went back, or it stands still): the clock was anchored anew.
    pub anomaly: bool,
}

/// The stream's clock, by stamps and by audio.
#[derive(Clone, Debug, Default)]
pub struct StreamClock {
    /// The stamp of the first frame since the last anchoring; `None` before the first stamped frame.
    origin: Option<u64>,
    /// PCMU bytes given to the model since then: audio, fills and pads.
    delivered_bytes: u64,
    /// The newest stamp since the last anchoring.
    newest: u64,
    /// All silence filled so far.
    filled_ms: u64,
    /// When the first frame came; bounds `filled_ms`.
    began: Option<Mono>,
}

impl StreamClock {
    /// Takes the next frame's stamp (ms) and length (PCMU bytes), and says what silence belongs before it. The
    /// fill is taken as delivered, so it must be sent.
    ///
    /// Fills in all are never longer than the call is old plus `limit::GAP_FILL_MS_MAX`: stamps in another
    /// unit would otherwise have us send hours of silence. That is the only use of `now`.
    pub fn observe(&mut self, stamp: Option<u64>, bytes: u64, now: Mono) -> Gap {
        let began = *self.began.get_or_insert(now);
        let mut gap = Gap::default();
        if let Some(stamp) = stamp {
            let Some(origin) = self.origin else {
                self.anchor(stamp);
                self.delivered_bytes = bytes;
                return gap;
            };
            let expected = origin.saturating_add(AudioMs::from_pcmu_bytes(self.delivered_bytes).0);
            if stamp.saturating_add(RESTART_MS) < self.newest
                || stamp.saturating_add(LEAD_MS_MAX) < expected
            {
                gap.anomaly = true;
                self.anchor(stamp);
            } else if stamp >= expected.saturating_add(GAP_FILL_MS_MIN) {
                let missing = stamp - expected;
                let age_ms = now.since(began).as_millis().min(u128::from(u64::MAX)) as u64;
                let allowed = age_ms
                    .saturating_add(GAP_FILL_MS_MAX)
                    .saturating_sub(self.filled_ms)
                    .min(GAP_FILL_MS_MAX);
                gap.fill = AudioMs(missing.min(allowed));
                self.filled_ms += gap.fill.0;
                if missing > allowed {
                    gap.too_long = true;
                    self.anchor(stamp);
                } else {
                    self.delivered_bytes =
                        self.delivered_bytes.saturating_add(gap.fill.pcmu_bytes());
                }
            }
            self.newest = self.newest.max(stamp);
        }
        self.delivered_bytes = self.delivered_bytes.saturating_add(bytes);
        gap
    }

    /// Silence was sent outside of any gap: later gaps are that much shorter.
    pub fn padded(&mut self, pad: AudioMs) {
        self.delivered_bytes = self.delivered_bytes.saturating_add(pad.pcmu_bytes());
    }

    fn anchor(&mut self, stamp: u64) {
        self.origin = Some(stamp);
        self.newest = stamp;
        self.delivered_bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    const FRAME: u64 = 160;

    fn at(ms: u64) -> Mono {
        Mono(0) + Duration::from_millis(ms)
    }

    /// Feeds 20 ms frames with these stamps; the fills in ms.
    fn fills(stamps: impl IntoIterator<Item = u64>) -> Vec<u64> {
        let mut clock = StreamClock::default();
        stamps
            .into_iter()
            .map(|stamp| clock.observe(Some(stamp), FRAME, at(stamp)).fill.0)
            .collect()
    }

    #[test]
    fn an_even_stream_is_never_filled() {
        assert!(
            fills((0..5000).map(|i| 61 + i * 20))
                .iter()
                .all(|&f| f == 0)
        );
    }

    #[test]
    fn stamps_that_jitter_are_never_filled() {
        let jitter = [0i64, 7, -7, 3, -5, 9, -9, 1];
        let stamps = (0..5000u64).map(|i| (1000 + i as i64 * 20 + jitter[i as usize % 8]) as u64);
        assert!(fills(stamps).iter().all(|&f| f == 0));
    }

    #[test]
    fn a_pause_is_filled_once_with_its_length() {
        assert_eq!(fills([0, 20, 40, 560, 580, 600]), [0, 0, 0, 500, 0, 0]);
    }

    #[test]
    fn one_lost_frame_is_filled() {
        assert_eq!(fills([0, 20, 60, 80]), [0, 0, 20, 0]);
    }

    #[test]
    fn frames_out_of_order_are_kept_and_what_was_filled_too_much_is_deducted() {
        // 40 comes before 20: 20 ms are filled that come after all, so the next loss of 20 ms needs none.
        assert_eq!(fills([0, 40, 20, 60, 100, 120]), [0, 20, 0, 0, 0, 0]);
    }

    #[test]
    fn frames_that_share_a_stamp_are_not_a_gap() {
        assert_eq!(fills([0, 0, 0, 60, 60, 60, 120]), [0; 7]);
    }

    #[test]
    fn constant_stamps_are_anomalies_and_never_fills() {
        let mut clock = StreamClock::default();
        let mut anomalies = 0;
        for i in 0..3000 {
            let gap = clock.observe(Some(7), FRAME, at(i * 20));
            assert_eq!(gap.fill.0, 0);
            anomalies += u32::from(gap.anomaly);
        }
        assert!(anomalies > 0 && anomalies < 20, "{anomalies}");
    }

    #[test]
    fn missing_stamps_leave_the_clock_to_the_audio() {
        let mut clock = StreamClock::default();
        for stamp in [Some(0), None, None, Some(60), None, Some(100)] {
            assert_eq!(clock.observe(stamp, FRAME, at(0)), Gap::default());
        }
        assert_eq!(clock.observe(Some(220), FRAME, at(0)).fill.0, 100);
    }

    #[test]
    fn a_huge_jump_is_filled_up_to_the_bound_and_anchored_anew() {
        let mut clock = StreamClock::default();
        clock.observe(Some(0), FRAME, at(0));
        let gap = clock.observe(Some(u64::MAX - 5), FRAME, at(20));
        assert_eq!(gap.fill.0, GAP_FILL_MS_MAX);
        assert!(gap.too_long);
        let next = clock.observe(Some(u64::MAX), FRAME, at(40));
        assert_eq!(next, Gap::default());
    }

    #[test]
    fn a_clock_that_begins_again_is_followed() {
        let mut clock = StreamClock::default();
        for i in 0..100 {
            clock.observe(Some(i * 20), FRAME, at(i * 20));
        }
        let restart = clock.observe(Some(0), FRAME, at(2000));
        assert!(restart.anomaly);
        assert_eq!(clock.observe(Some(20), FRAME, at(2020)), Gap::default());
        assert_eq!(clock.observe(Some(140), FRAME, at(2140)).fill.0, 100);
    }

    #[test]
    fn a_pad_is_deducted_from_the_gap_that_follows() {
        let mut clock = StreamClock::default();
        clock.observe(Some(0), FRAME, at(0));
        clock.padded(AudioMs(1000));
        // 3 s are missing, 1 s of it was padded.
        assert_eq!(clock.observe(Some(3020), FRAME, at(3020)).fill.0, 2000);
    }

    #[test]
    fn a_pad_for_audio_that_came_late_is_deducted_from_later_gaps() {
        let mut clock = StreamClock::default();
        clock.observe(Some(0), FRAME, at(0));
        clock.padded(AudioMs(1000));
        assert_eq!(clock.observe(Some(20), FRAME, at(900)), Gap::default());
        assert_eq!(clock.observe(Some(540), FRAME, at(1400)).fill.0, 0);
        assert_eq!(clock.observe(Some(1560), FRAME, at(2500)).fill.0, 500);
    }

    #[test]
    fn stamps_in_another_unit_cannot_fill_without_bound() {
        // Samples instead of milliseconds: each frame seems to follow 140 ms of loss.
        let mut clock = StreamClock::default();
        let mut filled = 0;
        for i in 0..10_000u64 {
            filled += clock.observe(Some(i * 160), FRAME, at(i * 20)).fill.0;
        }
        assert!(filled <= 10_000 * 20 + GAP_FILL_MS_MAX, "{filled}");
    }

    proptest! {
        #[test]
        fn any_stamps_are_survived_and_the_model_never_falls_behind_a_sane_clock(
            steps in proptest::collection::vec((0u64..3000, 0u64..800), 1..200)
        ) {
            // Stamps that only go forward, each frame after the one before: after each frame the delivered
            // audio is at the stamp (within the bound for jitter), unless a gap was too long.
            let mut clock = StreamClock::default();
            let mut stamp = 0;
            for (skip, bytes) in steps {
                stamp += skip;
                let gap = clock.observe(Some(stamp), bytes, at(stamp));
                prop_assert!(!gap.anomaly);
                prop_assert!(gap.fill.0 <= GAP_FILL_MS_MAX);
                let end = clock.origin.unwrap() + clock.delivered_bytes / 8;
                prop_assert!(end + GAP_FILL_MS_MIN > stamp + bytes / 8);
                stamp += bytes / 8;
            }
        }

        #[test]
        fn no_numbers_panic(
            steps in proptest::collection::vec((any::<Option<u64>>(), any::<u64>(), any::<u64>()), 1..50)
        ) {
            let mut clock = StreamClock::default();
            for (stamp, bytes, now) in steps {
                clock.observe(stamp, bytes, Mono(now));
                clock.padded(AudioMs(1000));
            }
        }
    }
}
