//! What is worked out of a call, as it is kept. Core; `store::analytics` does the working out.

use serde::{Deserialize, Serialize};

/// A call in numbers. Times are milliseconds.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Analytics {
    /// From the stream's start to its end.
    pub duration_ms: u64,
    /// The caller spoke.
    pub user_talk_ms: u64,
    /// The agent was heard.
    pub agent_talk_ms: u64,
    /// Both at once: part of both of the above.
    pub overlap_ms: u64,
    /// Nobody did.
    pub silence_ms: u64,
    /// The caller cut the agent off.
    pub interruptions_by_user: u64,
    /// The agent began while the caller spoke.
    pub interruptions_by_agent: u64,
    /// From the end of the caller's speech to the first byte of the answer on the carrier's wire.
    pub latency: Latency,
    /// The caller's words a minute of speech; `None` without any.
    pub user_words_per_minute: Option<u32>,
    /// The agent's, of what was heard.
    pub agent_words_per_minute: Option<u32>,
    /// How the caller sounded; `None` when nobody could tell.
    pub sentiment: Option<Sentiment>,
}

/// Response latency, ms.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Latency {
    /// Answers that were measured.
    pub count: u32,
    /// Half of them came sooner.
    pub p50_ms: Option<u32>,
    /// Nineteen of twenty came sooner.
    pub p95_ms: Option<u32>,
    /// The slowest.
    pub max_ms: Option<u32>,
    /// How many lie in which [`bucket`], so that calls can be summed up.
    pub buckets: Vec<(u16, u32)>,
}

/// The bucket of a time: 32 to each doubling, so that a bucket is at most 3 % wide.
pub fn bucket(ms: u32) -> u16 {
    let octave = ms.checked_ilog2().unwrap_or(0).saturating_sub(5);
    // Below 64 each millisecond has its own; then 32 steps of 2^octave.
    (octave * 32 + (ms >> octave)) as u16
}

/// The longest time in a bucket.
pub fn bucket_end(bucket: u16) -> u32 {
    let octave = (u32::from(bucket) / 32).saturating_sub(1);
    let step = u64::from(bucket) - u64::from(octave) * 32;
    u32::try_from(((step + 1) << octave) - 1).unwrap_or(u32::MAX)
}

/// How somebody sounded.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sentiment {
    /// The word for it.
    pub label: Mood,
    /// -1 (worst) to 1 (best), four decimals.
    pub score: f64,
    /// Who said so: a lexicon with its version, or a model.
    pub source: String,
}

/// The three words for a sentiment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mood {
    /// Score of at least 0.05.
    Positive,
    /// Between the two.
    Neutral,
    /// Score of at most -0.05.
    Negative,
}

impl Mood {
    /// The word that a score stands for (Hutto and Gilbert, 2014: the thresholds are ±0.05).
    pub fn of_score(score: f64) -> Self {
        if score >= 0.05 {
            Self::Positive
        } else if score <= -0.05 {
            Self::Negative
        } else {
            Self::Neutral
        }
    }

    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Positive => "positive",
            Self::Neutral => "neutral",
            Self::Negative => "negative",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_each_other_and_are_at_most_3_percent_wide() {
        let mut last = bucket(0);
        for ms in 1..200_000 {
            let here = bucket(ms);
            assert!(here == last || here == last + 1, "{ms}");
            if here != last {
                assert_eq!(bucket_end(last), ms - 1);
            }
            assert!(bucket_end(here) >= ms && bucket_end(here) - ms <= ms / 32);
            last = here;
        }
        assert_eq!(bucket_end(bucket(u32::MAX)), u32::MAX);
    }

    #[test]
    fn a_score_has_its_word() {
        for (score, mood) in [
            (0.05, "positive"),
            (0.049, "neutral"),
            (-0.049, "neutral"),
            (-0.05, "negative"),
        ] {
            assert_eq!(Mood::of_score(score).as_str(), mood);
            assert_eq!(serde_json::to_value(Mood::of_score(score)).unwrap(), mood);
        }
    }
}
