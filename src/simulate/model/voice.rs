//! Spoken-like audio for the simulated model's answers: pitch and two formants per syllable. Pure.
//!
//! It need not be understood, only be like speech to whoever looks at levels, pauses and bytes:
//! the same text and seed give the same samples.

use crate::base::rng::Rng;
use crate::simulate::dice::Dice as _;

/// Samples in one second.
pub const RATE: usize = 8000;
const SYLLABLE_MS: u64 = 170;
const WORD_PAUSE_MS: u64 = 40;
const SENTENCE_PAUSE_MS: u64 = 220;

/// 16-bit samples at 8 kHz for `text`: about four syllables a second.
pub fn speak(text: &str, rng: &mut Rng) -> Vec<i16> {
    let mut out = Vec::with_capacity(text.len() * RATE / 12);
    let words: Vec<&str> = text.split_whitespace().collect();
    for (index, word) in words.iter().enumerate() {
        // Pitch falls over a sentence, as it does when people state something.
        let fall = 20.0 * index as f64 / words.len() as f64;
        for vowel in nuclei(word) {
            let pitch = 135.0 - fall + rng.unit() * 12.0;
            let ms = rng.between(SYLLABLE_MS - 35, SYLLABLE_MS + 35);
            syllable(&mut out, vowel, pitch, ms as usize * RATE / 1000);
        }
        let pause = if word.ends_with(['.', '?', '!', ',']) {
            SENTENCE_PAUSE_MS
        } else {
            WORD_PAUSE_MS
        };
        out.resize(out.len() + pause as usize * RATE / 1000, 0);
    }
    out
}

/// The vowel that carries each syllable of a word; at least one.
fn nuclei(word: &str) -> Vec<char> {
    let mut found = Vec::new();
    let mut in_vowels = false;
    for c in word.chars().map(|c| c.to_ascii_lowercase()) {
        let is_vowel = "aeiouy".contains(c);
        if is_vowel && !in_vowels {
            found.push(c);
        }
        in_vowels = is_vowel;
    }
    if found.is_empty() {
        found.push('e');
    }
    found
}

/// First and second formant of a vowel, Hz.
fn formants(vowel: char) -> (f64, f64) {
    match vowel {
        'a' => (750.0, 1250.0),
        'e' => (530.0, 1850.0),
        'i' | 'y' => (300.0, 2250.0),
        'o' => (500.0, 950.0),
        _ => (330.0, 850.0),
    }
}

fn syllable(out: &mut Vec<i16>, vowel: char, pitch: f64, len: usize) {
    let (first, second) = formants(vowel);
    let harmonics: Vec<(f64, f64)> = (1..)
        .map(|n| f64::from(n) * pitch)
        .take_while(|&f| f < 3400.0)
        .map(|f| {
            let near = |center: f64, width: f64| (-((f - center) / width).powi(2)).exp();
            (
                f,
                0.15 / (1.0 + f / 500.0) + near(first, 150.0) + 0.6 * near(second, 200.0),
            )
        })
        .collect();
    let loudness: f64 = harmonics.iter().map(|(_, a)| a).sum();
    for i in 0..len {
        let t = i as f64 / RATE as f64;
        // Soft edges: a rise and a fall over the syllable, never a click.
        let envelope = (std::f64::consts::PI * (i as f64 + 0.5) / len as f64)
            .sin()
            .sqrt();
        let wave: f64 = harmonics
            .iter()
            .map(|(f, a)| a * (std::f64::consts::TAU * f * t).sin())
            .sum();
        out.push((wave / loudness * envelope * 20_000.0) as i16);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_text_and_seed_give_the_same_samples() {
        let once = speak("Good morning.", &mut Rng::from_u64(3));
        assert_eq!(once, speak("Good morning.", &mut Rng::from_u64(3)));
        assert_ne!(once, speak("Good morning.", &mut Rng::from_u64(4)));
    }

    #[test]
    fn it_is_loud_enough_to_be_speech_and_never_clips() {
        let audio = speak("We open at nine.", &mut Rng::from_u64(1));
        let peak = audio.iter().map(|s| s.unsigned_abs()).max();
        assert!(peak > Some(3000) && peak < Some(i16::MAX as u16));
        assert!((RATE..RATE * 4).contains(&audio.len()));
    }
}
