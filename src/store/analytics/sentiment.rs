//! How a caller sounded, from a lexicon and without asking anybody. Pure.
//!
//! VADER (Hutto and Gilbert, 2014) in a port that gives what its reference version 3.3.2 gives. The lexicon is English, so
//! words in other scripts are left out, and a caller who spoke no English has no sentiment rather than a neutral one.

use crate::store::record::analysis::{Mood, Sentiment};
use std::sync::LazyLock;
use vader_parity::SentimentIntensityAnalyzer;

/// Who says so: what is recorded with each score.
pub const SOURCE: &str = "vader-3.3.2";
/// One utterance is judged by so much of it, bytes.
const TEXT_BYTES_MAX: usize = 8 * 1024;

/// Parses 11,000 lines once.
static ANALYZER: LazyLock<SentimentIntensityAnalyzer> =
    LazyLock::new(SentimentIntensityAnalyzer::new);

/// The mean over a caller's utterances.
pub fn of<'t>(utterances: impl IntoIterator<Item = &'t str>) -> Option<Sentiment> {
    let (mut sum, mut count) = (0.0, 0u32);
    for text in utterances {
        let text = &text[..text.floor_char_boundary(TEXT_BYTES_MAX)];
        if is_latin(text) {
            sum += ANALYZER.polarity_scores(text).compound;
            count += 1;
        }
    }
    let mean = (count > 0).then(|| sum / f64::from(count))?;
    Some(Sentiment {
        label: Mood::of_score(mean),
        score: (mean * 1e4).round() / 1e4,
        source: SOURCE.to_owned(),
    })
}

/// Whether most letters are Latin ones, as the lexicon's are.
fn is_latin(text: &str) -> bool {
    let letters = || text.chars().filter(|c| c.is_alphabetic());
    let latin = letters().filter(|c| *c < '\u{250}').count();
    latin > 0 && latin * 2 >= letters().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_sound_as_they_do() {
        let label = |text| of([text]).map(|sentiment| sentiment.label);
        assert_eq!(
            label("Thank you so much, that was great!"),
            Some(Mood::Positive)
        );
        assert_eq!(
            label("This is terrible, I am very angry."),
            Some(Mood::Negative)
        );
        assert_eq!(
            label("The meeting is on the second floor."),
            Some(Mood::Neutral)
        );
    }

    #[test]
    fn what_the_lexicon_can_not_read_has_no_sentiment() {
        assert_eq!(of([]), None);
        assert_eq!(of(["ありがとうございます", "42", ""]), None);
        // One that it can is enough, and the others do not water it down.
        let mixed = of(["ありがとう", "I love it"]);
        assert_eq!(mixed, of(["I love it"]));
        assert_eq!(mixed.map(|s| s.source), Some(SOURCE.to_owned()));
    }

    #[test]
    fn the_mean_counts_each_utterance_once() {
        let good = of(["I love it"]).unwrap().score;
        let both = of(["I love it", "The door is open."]).unwrap().score;
        assert!((both - good / 2.0).abs() < 1e-4);
    }
}
