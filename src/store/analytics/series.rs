//! Calls summed up: over all, and by hour, day and week. Pure.
//!
//! Every sum is of whole numbers, so a call that is taken away leaves exactly what there would be without it; what can't
//! be taken away (a maximum) is read off a histogram. Times are UTC; a week begins on Monday.

use crate::store::record::analysis::{Mood, bucket_end};
use crate::store::record::money::Nano;
use crate::store::record::state::CallRecord;
use crate::store::record::status::Status;
use crate::store::record::time::DAY_MS;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::Range;

/// How wide a place of a series is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// 3,600 s.
    Hour,
    /// 24 hours.
    Day,
    /// Seven days, from Monday.
    Week,
}

impl Step {
    /// All of them.
    pub const ALL: [Step; 3] = [Step::Hour, Step::Day, Step::Week];

    /// How long it is, ms.
    pub fn length_ms(self) -> u64 {
        match self {
            Step::Hour => DAY_MS / 24,
            Step::Day => DAY_MS,
            Step::Week => 7 * DAY_MS,
        }
    }

    /// The beginning of the place in which a time lies.
    pub fn start_of(self, unix_ms: u64) -> u64 {
        // 1970-01-01 was a Thursday: three days after a Monday. The days before it are of no week that we count.
        let shift = if self == Step::Week { 3 * DAY_MS } else { 0 };
        let shifted = unix_ms.saturating_add(shift);
        (shifted - shifted % self.length_ms()).saturating_sub(shift)
    }

    /// Its word.
    pub fn from_word(word: &str) -> Option<Step> {
        Some(match word {
            "hour" => Step::Hour,
            "day" => Step::Day,
            "week" => Step::Week,
            _ => return None,
        })
    }
}

/// What one call adds. Made of its row when it is over, and made again, the same, when it is taken away.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Totals {
    /// Calls.
    pub calls: u64,
    /// Of those, in order.
    pub completed: u64,
    /// Of those, not.
    pub failed: u64,
    /// How long they were.
    pub duration_ms: u64,
    /// Of those calls that were worked out: how many, and the sums of their numbers.
    pub analysed: u64,
    /// See [`crate::store::record::analysis::Analytics`].
    pub user_talk_ms: u64,
    /// Likewise.
    pub agent_talk_ms: u64,
    /// Likewise.
    pub overlap_ms: u64,
    /// Likewise.
    pub silence_ms: u64,
    /// Likewise.
    pub interruptions_by_user: u64,
    /// Likewise.
    pub interruptions_by_agent: u64,
    /// How the callers sounded.
    pub positive: u64,
    /// Likewise.
    pub neutral: u64,
    /// Likewise.
    pub negative: u64,
    /// Tokens.
    pub tokens: u64,
    /// What they cost.
    pub cost: Nano,
    /// Answers by latency: see [`crate::store::record::analysis::bucket`].
    pub latency: BTreeMap<u16, u64>,
}

impl Totals {
    /// What a call adds.
    pub fn of(record: &CallRecord) -> Totals {
        let call = &record.call;
        let status = call.phase.status();
        let mut totals = Totals {
            calls: 1,
            completed: u64::from(status == Status::Completed),
            failed: u64::from(status == Status::Failed),
            duration_ms: call.duration_ms.unwrap_or(0),
            tokens: call.account.usage.total(),
            cost: call.account.cost,
            ..Totals::default()
        };
        if let Some(analytics) = &record.analytics {
            let mood = analytics.sentiment.as_ref().map(|s| s.label);
            totals.analysed = 1;
            totals.user_talk_ms = analytics.user_talk_ms;
            totals.agent_talk_ms = analytics.agent_talk_ms;
            totals.overlap_ms = analytics.overlap_ms;
            totals.silence_ms = analytics.silence_ms;
            totals.interruptions_by_user = analytics.interruptions_by_user;
            totals.interruptions_by_agent = analytics.interruptions_by_agent;
            totals.positive = u64::from(mood == Some(Mood::Positive));
            totals.neutral = u64::from(mood == Some(Mood::Neutral));
            totals.negative = u64::from(mood == Some(Mood::Negative));
            for (bucket, count) in &analytics.latency.buckets {
                *totals.latency.entry(*bucket).or_default() += u64::from(*count);
            }
        }
        totals
    }

    /// Adds another's.
    pub fn add(&mut self, other: &Totals) {
        self.each(other, u64::saturating_add);
        self.cost = self.cost.plus(other.cost);
        for (bucket, count) in &other.latency {
            *self.latency.entry(*bucket).or_default() += count;
        }
    }

    /// Takes away what was added before.
    pub fn remove(&mut self, other: &Totals) {
        self.each(other, u64::saturating_sub);
        self.cost = self.cost.minus(other.cost);
        for (bucket, count) in &other.latency {
            if let Some(sum) = self.latency.get_mut(bucket) {
                *sum = sum.saturating_sub(*count);
                if *sum == 0 {
                    self.latency.remove(bucket);
                }
            }
        }
    }

    fn each(&mut self, other: &Totals, apply: fn(u64, u64) -> u64) {
        // Taken apart, so that a new field can't be forgotten here.
        let Totals {
            calls,
            completed,
            failed,
            duration_ms,
            analysed,
            user_talk_ms,
            agent_talk_ms,
            overlap_ms,
            silence_ms,
            interruptions_by_user,
            interruptions_by_agent,
            positive,
            neutral,
            negative,
            tokens,
            cost: _,
            latency: _,
        } = self;
        for (sum, more) in [
            (calls, other.calls),
            (completed, other.completed),
            (failed, other.failed),
            (duration_ms, other.duration_ms),
            (analysed, other.analysed),
            (user_talk_ms, other.user_talk_ms),
            (agent_talk_ms, other.agent_talk_ms),
            (overlap_ms, other.overlap_ms),
            (silence_ms, other.silence_ms),
            (interruptions_by_user, other.interruptions_by_user),
            (interruptions_by_agent, other.interruptions_by_agent),
            (positive, other.positive),
            (neutral, other.neutral),
            (negative, other.negative),
            (tokens, other.tokens),
        ] {
            *sum = apply(*sum, more);
        }
    }

    /// The latency that so many in a hundred answers were not above, ms: at most 3 % too high. `None` without answers.
    pub fn latency_ms(&self, percent: u64) -> Option<u32> {
        let count: u64 = self.latency.values().sum();
        let rank = (count * percent.min(100)).div_ceil(100).max(1);
        let mut seen = 0;
        for (bucket, n) in &self.latency {
            seen += n;
            if seen >= rank {
                return Some(bucket_end(*bucket));
            }
        }
        None
    }

    /// The mean length of a call, ms.
    pub fn mean_duration_ms(&self) -> Option<u64> {
        self.duration_ms.checked_div(self.calls)
    }
}

/// Sums over all calls and over each hour, day and week in which one began.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Series {
    total: Totals,
    places: BTreeMap<(Step, u64), Totals>,
}

impl Series {
    /// Adds a call that began at `unix_ms`.
    pub fn add(&mut self, unix_ms: u64, call: &Totals) {
        self.total.add(call);
        for step in Step::ALL {
            let place = self.places.entry((step, step.start_of(unix_ms)));
            place.or_default().add(call);
        }
    }

    /// Takes a call away that was added with the same time and numbers.
    pub fn remove(&mut self, unix_ms: u64, call: &Totals) {
        self.total.remove(call);
        for step in Step::ALL {
            let key = (step, step.start_of(unix_ms));
            if let Some(place) = self.places.get_mut(&key) {
                place.remove(call);
                if place.calls == 0 {
                    self.places.remove(&key);
                }
            }
        }
    }

    /// Over all.
    pub fn total(&self) -> &Totals {
        &self.total
    }

    /// The places that begin within `range`, in order; those without calls are left out.
    pub fn places(&self, step: Step, range: Range<u64>) -> impl Iterator<Item = (u64, &Totals)> {
        let end = range.end.max(range.start);
        let found = self.places.range((step, range.start)..(step, end));
        found.map(|((_, start), totals)| (*start, totals))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::record::analysis::{Analytics, Latency, Sentiment, bucket};
    use crate::store::record::call::Call;
    use crate::store::record::status::Phase;
    use proptest::prelude::*;

    fn record(n: u64) -> CallRecord {
        let latency = (n * 37 % 2_000) as u32;
        CallRecord {
            call: Call {
                phase: Phase::ALL[(n % 10) as usize],
                duration_ms: Some(n * 10),
                ..Call::default()
            },
            analytics: n.is_multiple_of(2).then(|| Analytics {
                user_talk_ms: n,
                latency: Latency {
                    buckets: vec![(bucket(latency), 2)],
                    ..Latency::default()
                },
                sentiment: Some(Sentiment {
                    label: [Mood::Positive, Mood::Neutral, Mood::Negative][(n % 3) as usize],
                    score: 0.0,
                    source: String::new(),
                }),
                ..Analytics::default()
            }),
            ..CallRecord::default()
        }
    }

    #[test]
    fn places_begin_where_people_say() {
        // Thursday 2026-03-05 14:35:17 UTC.
        let at = 1_772_721_317_000;
        for (step, start) in [
            (Step::Hour, 1_772_719_200_000),
            (Step::Day, 1_772_668_800_000),
            // Monday 2026-03-02.
            (Step::Week, 1_772_409_600_000),
        ] {
            assert_eq!(step.start_of(at), start, "{step:?}");
            assert_eq!(step.start_of(start), start);
            assert_eq!(step.start_of(start + step.length_ms() - 1), start);
            assert_eq!(
                step.start_of(start + step.length_ms()),
                start + step.length_ms()
            );
        }
        assert_eq!(Step::Week.start_of(0), 0);
        let word = |step| serde_json::to_value(step).unwrap();
        assert!(
            Step::ALL
                .into_iter()
                .all(|step| Step::from_word(word(step).as_str().unwrap()) == Some(step))
        );
    }

    #[test]
    fn percentiles_over_calls_are_off_by_3_percent_at_most() {
        let mut totals = Totals::default();
        for ms in 1..=1_000u32 {
            *totals.latency.entry(bucket(ms)).or_default() += 1;
        }
        for (percent, exact) in [(0, 1), (50, 500), (95, 950), (100, 1_000)] {
            let got = totals.latency_ms(percent).unwrap();
            assert!(
                got >= exact && got <= exact + exact / 32 + 1,
                "{percent}: {got}"
            );
        }
        assert_eq!(Totals::default().latency_ms(50), None);
    }

    #[test]
    fn a_range_holds_its_places_alone() {
        let mut series = Series::default();
        for day in 0..10u64 {
            series.add(day * DAY_MS + 5, &Totals::of(&record(day)));
        }
        let days: Vec<u64> = series
            .places(Step::Day, 2 * DAY_MS..5 * DAY_MS)
            .map(|(at, _)| at / DAY_MS)
            .collect();
        assert_eq!(days, [2, 3, 4]);
        assert_eq!(series.places(Step::Week, 0..u64::MAX).count(), 2);
        let backwards = Range { start: 5, end: 2 };
        assert_eq!(series.places(Step::Day, backwards).count(), 0);
        assert_eq!(series.total().calls, 10);
    }

    proptest! {
        #[test]
        fn taking_calls_away_leaves_what_the_others_make(
            calls in prop::collection::vec((0..40 * DAY_MS, 0..500u64, any::<bool>()), 0..40),
        ) {
            let (mut all, mut kept) = (Series::default(), Series::default());
            for (at, n, stays) in &calls {
                let totals = Totals::of(&record(*n));
                all.add(*at, &totals);
                if *stays {
                    kept.add(*at, &totals);
                }
            }
            for (at, n, stays) in calls.iter().rev() {
                if !stays {
                    all.remove(*at, &Totals::of(&record(*n)));
                }
            }
            prop_assert_eq!(&all, &kept);
            // And every step adds up to the whole.
            for step in Step::ALL {
                let mut sum = Totals::default();
                for (_, totals) in all.places(step, 0..u64::MAX) {
                    sum.add(totals);
                }
                prop_assert_eq!(&sum, all.total());
            }
        }
    }
}
