//! Telephone keys as in-band tones (ITU-T Q.23), in mu-law.
//!
//! Core. A key is two sines at once, one of a low group and one of a high group. We write each key as 100 ms of
//! tone and 100 ms of silence, which is above every minimum in use (ITU-T Q.24, table A-1: receivers accept from
//! 40 ms of tone and 40 ms of pause, some administrations from 50), so that a network that shortens a tone by
//! a frame does not lose it.
//!
//! Levels are ETSI ES 201 235-2's for a terminal: the low tone at -11 dBm0, the high tone at -9 dBm0. Together that
//! is -6.9 dBm0 with a twist of 2 dB in favour of the high tone, which lines attenuate more. A tone begins and
//! ends within 2 ms raised cosines: cut square it would click across the band.

use super::g711;
use crate::base::id::Inline;

/// Samples in a second, and mu-law bytes too.
const RATE: f64 = 8_000.0;
/// How long a tone lasts, ms.
pub const TONE_MS: u64 = 100;
/// How long it is silent after each tone, ms.
pub const PAUSE_MS: u64 = 100;
/// How long `w` waits, ms: what carriers' own "send digits" mean by it.
pub const WAIT_MS: u64 = 500;
/// Keys in one order. More than any menu or card number asks for.
pub const KEYS_MAX: usize = 32;
/// The low tone's level, dBm0.
pub const LOW_DBM0: f64 = -11.0;
/// The high tone's level, dBm0.
pub const HIGH_DBM0: f64 = -9.0;

/// ITU-T Q.23 section 3: the low group, Hz, a row of the key pad each.
const LOW_HZ: [f64; 4] = [697.0, 770.0, 852.0, 941.0];
/// The high group, Hz, a column each.
const HIGH_HZ: [f64; 4] = [1_209.0, 1_336.0, 1_477.0, 1_633.0];
/// The key pad, row by row.
const PAD: &[u8; 16] = b"123A456B789C*0#D";
/// Rise and fall at the ends of a tone, samples.
const RAMP: usize = 16;
const BYTES_PER_MS: u64 = 8;

/// The peak of a sine of 0 dBm0: ITU-T G.711 section 4 puts a full sine, whose peak is the virtual decision value
/// 8159 (here left-aligned in 16 bits), at +3.17 dBm0 for mu-law.
fn peak(dbm0: f64) -> f64 {
    8_159.0 * 4.0 * 10f64.powf((dbm0 - 3.17) / 20.0)
}

/// Keys to press, proven: 1 to `KEYS_MAX` of `0` to `9`, `A` to `D`, `*`, `#`, and `w` for a wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Digits(Inline<KEYS_MAX>);

impl Digits {
    /// Reads them; letters may be small. `None` for anything else, for none and for more than `KEYS_MAX`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut keys = [0; KEYS_MAX];
        let keys = keys.get_mut(..text.len())?;
        for (key, byte) in keys.iter_mut().zip(text.bytes()) {
            *key = match byte {
                b'w' | b'W' => b'w',
                byte if PAD.contains(&byte.to_ascii_uppercase()) => byte.to_ascii_uppercase(),
                _ => return None,
            };
        }
        let keys = std::str::from_utf8(keys).ok()?;
        (!keys.is_empty()).then_some(())?;
        Inline::new(keys).map(Self)
    }

    /// The keys as text.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// How long `tones_into` plays, ms.
    pub fn duration_ms(&self) -> u64 {
        let one = |key| match key {
            b'w' => WAIT_MS,
            _ => TONE_MS + PAUSE_MS,
        };
        self.as_str().bytes().map(one).sum()
    }
}

/// The two frequencies of a key, Hz; `None` for what is no key.
pub fn frequencies(key: char) -> Option<(f64, f64)> {
    let at = PAD.iter().position(|k| *k as char == key)?;
    Some((LOW_HZ[at / 4], HIGH_HZ[at % 4]))
}

/// Appends the keys as mu-law: each a tone and a pause, `w` a longer pause alone.
pub fn tones_into(digits: &Digits, out: &mut Vec<u8>) {
    out.reserve((digits.duration_ms() * BYTES_PER_MS) as usize);
    for key in digits.as_str().chars() {
        let silence = match frequencies(key) {
            Some((low, high)) => {
                tone_into(low, high, out);
                PAUSE_MS
            }
            None => WAIT_MS,
        };
        let silent = (silence * BYTES_PER_MS) as usize;
        out.resize(out.len() + silent, g711::SILENCE);
    }
}

fn tone_into(low: f64, high: f64, out: &mut Vec<u8>) {
    let (low_peak, high_peak) = (peak(LOW_DBM0), peak(HIGH_DBM0));
    let samples = (TONE_MS * BYTES_PER_MS) as usize;
    let turn = std::f64::consts::TAU / RATE;
    out.extend((0..samples).map(|n| {
        let from_end = n.min(samples - 1 - n);
        let gain = if from_end < RAMP {
            let part = (from_end as f64 + 0.5) / RAMP as f64;
            (1.0 - (std::f64::consts::PI * part).cos()) / 2.0
        } else {
            1.0
        };
        let at = n as f64 * turn;
        let sample = low_peak * (low * at).sin() + high_peak * (high * at).sin();
        g711::from_linear((gain * sample) as i16)
    }));
}

const _: () = {
    assert!(RAMP * 2 < (TONE_MS * BYTES_PER_MS) as usize / 4);
};

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// ITU-T Q.23, table 1, typed a second time and read the other way round than in the code.
    const TABLE: [(char, f64, f64); 16] = [
        ('1', 697.0, 1209.0),
        ('4', 770.0, 1209.0),
        ('7', 852.0, 1209.0),
        ('*', 941.0, 1209.0),
        ('2', 697.0, 1336.0),
        ('5', 770.0, 1336.0),
        ('8', 852.0, 1336.0),
        ('0', 941.0, 1336.0),
        ('3', 697.0, 1477.0),
        ('6', 770.0, 1477.0),
        ('9', 852.0, 1477.0),
        ('#', 941.0, 1477.0),
        ('A', 697.0, 1633.0),
        ('B', 770.0, 1633.0),
        ('C', 852.0, 1633.0),
        ('D', 941.0, 1633.0),
    ];

    fn played(text: &str) -> Vec<u8> {
        let mut out = Vec::new();
        tones_into(&Digits::parse(text).expect("keys"), &mut out);
        out
    }

    /// A decoder of its own (the recommendation's formula, not our table), full scale 8031.
    fn expand(code: u8) -> f64 {
        let code = !code;
        let magnitude =
            ((2.0 * f64::from(code & 15) + 33.0) * 2f64.powi(i32::from(code >> 4 & 7))) - 33.0;
        if code & 0x80 == 0 {
            magnitude
        } else {
            -magnitude
        }
    }

    /// Goertzel's recurrence: the power of one frequency in a block, as the squared peak of a sine.
    fn goertzel(samples: &[f64], hz: f64) -> f64 {
        let step = 2.0 * (std::f64::consts::TAU * hz / 8_000.0).cos();
        let (mut s1, mut s2) = (0.0, 0.0);
        for sample in samples {
            (s1, s2) = (sample + step * s1 - s2, s1);
        }
        let power = s1 * s1 + s2 * s2 - step * s1 * s2;
        power / (samples.len() as f64 / 2.0).powi(2)
    }

    /// Level in dBm0 of a squared peak, with G.711's +3.17 dBm0 at the virtual decision value.
    fn dbm0(squared_peak: f64) -> f64 {
        10.0 * (squared_peak / (8_159.0f64 * 8_159.0)).log10() + 3.17
    }

    fn all_frequencies() -> Vec<f64> {
        let mut all: Vec<f64> = TABLE
            .iter()
            .flat_map(|(_, low, high)| [*low, *high])
            .collect();
        all.sort_by(f64::total_cmp);
        all.dedup();
        all
    }

    /// A receiver as small as one can be: 12.75 ms blocks (102 samples), two strongest frequencies, one in each
    /// group. Gives the key heard in each block.
    fn detect(bytes: &[u8]) -> Vec<Option<char>> {
        let samples: Vec<f64> = bytes.iter().map(|byte| expand(*byte)).collect();
        let all = all_frequencies();
        samples
            .chunks_exact(102)
            .map(|block| {
                let power: Vec<f64> = all.iter().map(|hz| goertzel(block, *hz)).collect();
                let best = |range: std::ops::Range<usize>| {
                    range
                        .max_by(|a, b| power[*a].total_cmp(&power[*b]))
                        .expect("four")
                };
                let (low, high) = (best(0..4), best(4..8));
                let loud = dbm0(power[low]) > -20.0 && dbm0(power[high]) > -20.0;
                TABLE
                    .iter()
                    .find(|(_, l, h)| loud && *l == all[low] && *h == all[high])
                    .map(|(key, _, _)| *key)
            })
            .collect()
    }

    #[test]
    fn every_key_is_heard_as_itself_for_as_long_as_stated() {
        for (key, _, _) in TABLE {
            let bytes = played(&key.to_string());
            assert_eq!(bytes.len(), 1_600);
            let blocks = detect(&bytes);
            // 100 ms are seven whole blocks and most of an eighth.
            assert_eq!(blocks[..7], [Some(key); 7], "{key}");
            assert_eq!(blocks[8..], [None; 7], "{key}");
        }
    }

    #[test]
    fn levels_and_twist_are_as_stated() {
        for (key, low, high) in TABLE {
            let bytes = played(&key.to_string());
            // 95 ms inside the ramps.
            let steady: Vec<f64> = bytes[20..780].iter().map(|byte| expand(*byte)).collect();
            let (l, h) = (dbm0(goertzel(&steady, low)), dbm0(goertzel(&steady, high)));
            assert!((l + 11.0).abs() < 0.25, "{key}: low tone at {l} dBm0");
            assert!((h + 9.0).abs() < 0.25, "{key}: high tone at {h} dBm0");
            assert!((h - l - 2.0).abs() < 0.4, "{key}: twist {} dB", h - l);
            // Mean power: both tones and nothing else.
            let mean = steady.iter().map(|s| s * s).sum::<f64>() / steady.len() as f64;
            let total = dbm0(2.0 * mean);
            assert!((total + 6.9).abs() < 0.2, "{key}: together {total} dBm0");
        }
    }

    #[test]
    fn a_tone_is_pure() {
        for (key, low, high) in TABLE {
            let bytes = played(&key.to_string());
            let steady: Vec<f64> = bytes[16..784].iter().map(|byte| expand(*byte)).collect();
            // What is left when both sines are fitted and taken away, against the whole. Quantising to mu-law alone
            // leaves about -37 dB.
            let fit = |samples: &[f64], hz: f64| -> Vec<f64> {
                let n = samples.len() as f64;
                let w = std::f64::consts::TAU * hz / 8_000.0;
                let (mut a, mut b) = (0.0, 0.0);
                for (i, s) in samples.iter().enumerate() {
                    a += s * (w * i as f64).cos() * 2.0 / n;
                    b += s * (w * i as f64).sin() * 2.0 / n;
                }
                let part = |i: usize| a * (w * i as f64).cos() + b * (w * i as f64).sin();
                samples
                    .iter()
                    .enumerate()
                    .map(|(i, s)| s - part(i))
                    .collect()
            };
            // The two sines are not quite orthogonal over the window: a few rounds separate them.
            let mut rest = steady.clone();
            for _ in 0..6 {
                rest = fit(&fit(&rest, low), high);
            }
            let power = |s: &[f64]| s.iter().map(|x| x * x).sum::<f64>();
            let ratio = 10.0 * (power(&rest) / power(&steady)).log10();
            assert!(ratio < -32.0, "{key}: {ratio} dB of something else");
        }
    }

    #[test]
    fn keys_follow_each_other_with_the_stated_pauses() {
        let bytes = played("1w5");
        assert_eq!(bytes.len(), (200 + 500 + 200) * 8);
        assert!(bytes[800..5_600].iter().all(|byte| *byte == g711::SILENCE));
        assert!(bytes[6_400..].iter().all(|byte| *byte == g711::SILENCE));
        assert_eq!(detect(&bytes[..800])[3], Some('1'));
        assert_eq!(detect(&bytes[5_600..])[3], Some('5'));
        // Each tone rises from and falls to silence: no click.
        for edge in [0, 799, 5_600, 6_399] {
            assert!(expand(bytes[edge]).abs() < 64.0, "sample {edge}");
        }
    }

    #[test]
    fn only_keys_are_keys() {
        for bad in ["", " ", "1 2", "E", "12;", "５", "\u{0}", "+1"] {
            assert_eq!(Digits::parse(bad), None, "{bad:?}");
        }
        assert_eq!(Digits::parse(&"1".repeat(KEYS_MAX + 1)), None);
        assert!(Digits::parse(&"1".repeat(KEYS_MAX)).is_some());
        assert_eq!(Digits::parse("a*#wD").expect("keys").as_str(), "A*#wD");
    }

    proptest! {
        #[test]
        fn what_is_parsed_plays_for_exactly_its_duration(text in "[0-9A-Da-dw*#]{1,32}") {
            let digits = Digits::parse(&text).expect("keys");
            let mut out = b"before".to_vec();
            tones_into(&digits, &mut out);
            prop_assert_eq!(out.len() as u64, 6 + digits.duration_ms() * 8);
            prop_assert_eq!(&out[..6], b"before");
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,40}") {
            if let Some(digits) = Digits::parse(&text) {
                prop_assert_eq!(Digits::parse(digits.as_str()), Some(digits));
            }
        }
    }
}
