//! One response: what it will say and when each piece is due. Pure.

use super::options::Profile;
use super::session::Format;
use super::voice;
use crate::base::rng::Rng;
use crate::base::time::Mono;
use crate::simulate::dice::Dice as _;
use std::collections::VecDeque;
use std::time::Duration;

/// A piece of a response, in the order in which it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// `output_item.added`, `item.added`, `content_part.added`.
    Open,
    /// A transcript or text delta.
    Text(String),
    /// An audio delta's bytes.
    Audio(Vec<u8>),
    /// Every `.done`.
    Close,
}

/// What a response is made of.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The text.
    pub line: String,
    /// Audio with transcript, or text alone.
    pub speaks: bool,
    /// Of the audio.
    pub format: Format,
    /// Delta sizes and pace.
    pub profile: Profile,
    /// From creation to the first audio, median.
    pub first_audio: Duration,
}

/// A response that runs.
#[derive(Debug)]
pub struct Response {
    /// Its name.
    pub id: String,
    /// Its one item.
    pub item_id: String,
    /// Audio with transcript, or text alone.
    pub speaks: bool,
    /// Whether it belongs to the conversation (`conversation` is not `none`).
    pub in_conversation: bool,
    /// The client's metadata, given back.
    pub metadata: serde_json::Value,
    /// Place in the list of outputs is always 0; whether `Open` was sent.
    pub is_open: bool,
    /// Audio bytes sent.
    pub audio_bytes: u64,
    /// Text sent so far.
    pub text: String,
    /// Ends as failed when the next piece is due.
    pub fails: bool,
    /// What is left, each with its moment, in order.
    pub steps: VecDeque<(Mono, Step)>,
}

/// Longest share of deltas that are far bigger than the rest.
const OUTLIER: f64 = 0.002;
/// Their length, ms.
const OUTLIER_MS: u64 = 1_200;
/// Share of gaps that are stalls.
const STALL: f64 = 0.05;

/// Plans a whole response from `now` on: sizes, pace, stalls, and the transcript ahead of the audio.
pub fn plan(plan: &Plan, rng: &mut Rng, now: Mono) -> VecDeque<(Mono, Step)> {
    let first_audio = now + rng.log_normal(plan.first_audio, 0.25);
    // The recordings show the first transcript about 120 ms before the first audio, and the item before it.
    let open = first_audio + Duration::ZERO;
    let open = Mono(
        open.0
            .saturating_sub(plan.first_audio.mul_f64(0.35).as_nanos() as u64),
    )
    .max(now);
    let mut steps = vec![(open, Step::Open)];
    let words = pieces(&plan.line);
    let mut last = first_audio;
    if plan.speaks {
        let deltas = audio(plan, rng);
        let total: usize = deltas.iter().map(Vec::len).sum();
        let mut due = first_audio;
        let mut not_before = Mono(0);
        let mut times = Vec::with_capacity(deltas.len());
        for delta in &deltas {
            if rng.chance(STALL) {
                not_before = due + rng.millis(100, 300);
            }
            let at = due.max(not_before);
            times.push(at);
            let length = Duration::from_millis(delta.len() as u64 / plan.format.bytes_per_ms());
            due = due
                + length
                    .div_f64(plan.profile.speed())
                    .mul_f64(0.5 + rng.unit());
            last = at;
        }
        let mut passed = 0;
        for (word, text) in words.iter().enumerate() {
            // The delta in which this word is spoken.
            let at_byte = total * word / words.len();
            let mut start = 0;
            let index = deltas.iter().position(|delta| {
                start += delta.len();
                start > at_byte
            });
            let spoken = times[index.unwrap_or(times.len() - 1)];
            let lead = rng.millis(50, 150);
            let at = Mono(spoken.0.saturating_sub(lead.as_nanos() as u64));
            passed = passed.max(at.0).max(open.0);
            steps.push((Mono(passed), Step::Text(text.clone())));
        }
        steps.extend(times.into_iter().zip(deltas.into_iter().map(Step::Audio)));
    } else {
        for text in words {
            steps.push((last, Step::Text(text)));
            last = last + rng.millis(10, 40);
        }
    }
    // Stable: pieces of one moment keep the order above, so nothing overtakes `Open`.
    steps.sort_by_key(|(at, _)| *at);
    steps.push((last + Duration::from_millis(3), Step::Close));
    steps.into()
}

/// The line cut into transcript deltas: a word or two each, with its space in front.
fn pieces(line: &str) -> Vec<String> {
    line.split_inclusive(' ')
        .scan(String::new(), |space, word| {
            let text = format!("{space}{}", word.trim_end());
            *space = " ".to_string();
            Some(text)
        })
        .collect()
}

/// The line's audio cut into deltas of the profile's sizes. The last one is shorter.
fn audio(plan: &Plan, rng: &mut Rng) -> Vec<Vec<u8>> {
    let bytes = plan.format.encode(&voice::speak(&plan.line, rng));
    let per_ms = plan.format.bytes_per_ms() as usize;
    let mut rest = &bytes[..];
    let mut deltas = Vec::new();
    while !rest.is_empty() {
        let ms = match plan.profile {
            _ if rng.chance(OUTLIER) => OUTLIER_MS,
            Profile::Ms250 => 250,
            Profile::Ms350 => rng.between(330, 400),
        };
        let len = (ms as usize * per_ms).min(rest.len());
        deltas.push(rest[..len].to_vec());
        rest = &rest[len..];
    }
    // An answer whose length happens to be a multiple would end on a whole delta; none does on the wire.
    if let Some(last) = deltas.last_mut() {
        let shorter = rng.between(20, 200) as usize * per_ms;
        if last.len() > shorter {
            last.truncate(shorter);
        }
    }
    deltas
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(profile: Profile, seed: u64) -> Vec<(Mono, Step)> {
        let request = Plan {
            line: "Yes, we are open on Saturday, from nine until one, and on Friday.".into(),
            speaks: true,
            format: Format::Pcmu,
            profile,
            first_audio: Duration::from_millis(450),
        };
        plan(&request, &mut Rng::from_u64(seed), Mono(1_000_000_000)).into()
    }

    fn deltas(steps: &[(Mono, Step)]) -> Vec<(Mono, usize)> {
        let audio = |(at, step): &(Mono, Step)| match step {
            Step::Audio(bytes) => Some((*at, bytes.len())),
            _ => None,
        };
        steps.iter().filter_map(audio).collect()
    }

    #[test]
    fn the_250_ms_profile_has_2000_byte_deltas_and_a_shorter_last_one() {
        let deltas = deltas(&steps(Profile::Ms250, 5));
        let (last, whole) = deltas.split_last().expect("there is audio");
        assert!(whole.len() > 5);
        assert!(whole.iter().all(|&(_, len)| len == 2000 || len == 9600));
        assert!((160..2000).contains(&last.1));
    }

    #[test]
    fn the_350_ms_profile_has_2640_to_3200_byte_deltas() {
        let deltas = deltas(&steps(Profile::Ms350, 5));
        let (_, whole) = deltas.split_last().expect("there is audio");
        assert!(
            whole
                .iter()
                .all(|&(_, len)| (2640..=3200).contains(&len) || len == 9600)
        );
    }

    #[test]
    fn audio_comes_several_times_faster_than_it_plays() {
        for (profile, low, high) in [(Profile::Ms250, 2.0, 8.0), (Profile::Ms350, 5.0, 25.0)] {
            let (mut played, mut took) = (0.0, 0.0);
            for seed in 0..20 {
                let deltas = deltas(&steps(profile, seed));
                played += deltas.iter().map(|d| d.1 as f64 / 8000.0).sum::<f64>();
                took += (deltas[deltas.len() - 1].0 - deltas[0].0).as_secs_f64();
            }
            let speed = played / took;
            assert!((low..high).contains(&speed), "{profile:?}: {speed}");
        }
    }

    #[test]
    fn the_transcript_leads_the_audio_and_is_whole() {
        let steps = steps(Profile::Ms250, 9);
        assert_eq!(steps[0].1, Step::Open);
        assert!(matches!(steps[1].1, Step::Text(_)));
        assert_eq!(steps[steps.len() - 1].1, Step::Close);
        assert!(steps.is_sorted_by_key(|(at, _)| *at));
        let text: String = steps
            .iter()
            .filter_map(|(_, step)| match step {
                Step::Text(text) => Some(text.as_str()),
                _ => None,
            })
            .collect();
        assert_eq!(
            text,
            "Yes, we are open on Saturday, from nine until one, and on Friday."
        );
    }
}
