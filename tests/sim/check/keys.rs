//! Keys both ways. Pressed by the caller: the model reads each once and in order, or none where the policy says so. Played
//! to the caller: tones by ITU-T Q.23, whole pieces, judged by a detector of our own.

use super::{Item, Judge};
use std::collections::BTreeMap;
use std::f64::consts::TAU;
use voxrelay::proto::audio::dtmf::{Digits, tones_into};

/// Tones go out in pieces of 200 ms at most.
const PIECE: usize = 1_600;
const A_LITTLE: u64 = 3_000;

#[derive(Default)]
pub struct Keys {
    /// What the relay was handed.
    pressed: String,
    last: u64,
    /// What sessions were told, each text once, and how many keys that were.
    told: Vec<String>,
    told_keys: usize,
    /// An answer to a text is still to be asked for.
    owed: bool,
}

impl Judge {
    pub(super) fn on_key(&mut self, digit: char) {
        self.keys.pressed.push(digit);
        self.keys.last = self.now;
        self.on_caller();
    }

    /// A text of the caller's that the model reads.
    pub(super) fn on_user_text(&mut self, at: usize, text: &str) {
        let Some(keys) = text.strip_prefix("The caller pressed ") else {
            return;
        };
        assert!(
            self.terms.keys_as_text,
            "keys are told that were to be ignored"
        );
        let keys = keys.strip_suffix('.').expect("a sentence");
        let cursor = &mut self.at[at].keys_told;
        *cursor += 1;
        if let Some(before) = self.keys.told.get(*cursor - 1) {
            assert!(
                keys == before && self.at[at].number > 1,
                "keys {keys} are told again, where {before} is due or nothing"
            );
            return;
        }
        let due = &self.keys.pressed[self.keys.told_keys..];
        assert!(
            !keys.is_empty() && due.starts_with(keys),
            "keys {keys} are told, where {due:?} were pressed"
        );
        self.keys.told_keys += keys.len();
        self.keys.told.push(keys.to_owned());
        self.keys.owed = true;
    }

    pub(super) fn on_text_create(&mut self, at: usize) {
        assert!(
            self.keys.owed || self.at[at].unsure,
            "nothing was pressed that wants an answer"
        );
        self.keys.owed = false;
    }

    pub(super) fn on_text_refused(&mut self) {
        self.keys.owed = true;
    }

    pub(super) fn keys_settled(&self, free: bool) {
        let waiting = &self.keys.pressed[self.keys.told_keys..];
        let due = match waiting.ends_with('#') {
            true => self.keys.last,
            false => self.keys.last + self.terms.keys_pause,
        };
        assert!(
            waiting.is_empty() || !self.terms.keys_as_text || self.now <= due + A_LITTLE,
            "the model is not told of the keys {waiting}"
        );
        assert!(
            !free || !self.keys.owed,
            "keys were told, and no answer is asked for"
        );
    }

    /// The relay was handed a call that plays keys: what the caller hears behind what is on its way.
    pub(super) fn expect_tones(&mut self, call: usize) {
        let call = &self.tools.calls[call];
        let bytes = tones(&call.arguments);
        let item = self.items.len();
        for start in (0..bytes.len()).step_by(PIECE) {
            let len = PIECE.min(bytes.len() - start);
            self.deltas.push_back((item, start, len));
        }
        self.audio_bytes[1] += bytes.len() as u64;
        self.items.push(Item {
            id: format!("tones of {}", call.id),
            response: call.response.clone(),
            bytes,
            known: Some(self.seq),
            tones: true,
            ..Item::default()
        });
    }
}

/// What the arguments of `send_dtmf` sound like: the relay's own bytes, once they are proven to be those keys.
fn tones(arguments: &str) -> Vec<u8> {
    thread_local! {
        static PROVEN: std::cell::RefCell<BTreeMap<String, Vec<u8>>> = const {
            std::cell::RefCell::new(BTreeMap::new())
        };
    }
    PROVEN.with_borrow_mut(|proven| {
        let made = || {
            let object: serde_json::Value = serde_json::from_str(arguments).expect("JSON");
            let keys = object["digits"].as_str().expect("keys");
            let mut bytes = Vec::new();
            tones_into(&Digits::parse(keys).expect("keys"), &mut bytes);
            prove(keys, &bytes);
            bytes
        };
        proven
            .entry(arguments.to_owned())
            .or_insert_with(made)
            .clone()
    })
}

/// 100 ms of the two tones and 100 ms of silence for each key, 500 ms of silence for a wait.
fn prove(keys: &str, mut bytes: &[u8]) {
    const LOW: [f64; 4] = [697.0, 770.0, 852.0, 941.0];
    const HIGH: [f64; 4] = [1_209.0, 1_336.0, 1_477.0, 1_633.0];
    const ROWS: [&str; 4] = ["123A", "456B", "789C", "*0#D"];
    for key in keys.chars() {
        if key != 'w' {
            let (tone, rest) = bytes.split_at(800);
            bytes = rest;
            let samples: Vec<f64> = tone[100..700].iter().map(|&b| linear(b)).collect();
            let loudest = |of: [f64; 4]| {
                let power = of.map(|hz| goertzel(&samples, hz));
                let most = (0..4).max_by(|&a, &b| power[a].total_cmp(&power[b]));
                most.expect("four of them")
            };
            let (low, high) = (loudest(LOW), loudest(HIGH));
            assert_eq!(ROWS[low].chars().nth(high), Some(key), "another key sounds");
            let all: f64 = samples.iter().map(|s| s * s).sum();
            let two = goertzel(&samples, LOW[low]) + goertzel(&samples, HIGH[high]);
            assert!(
                two * 2.0 / samples.len() as f64 > 0.9 * all,
                "{key} is not clean"
            );
        }
        let (silence, rest) = bytes.split_at(if key == 'w' { 4_000 } else { 800 });
        bytes = rest;
        assert!(silence.iter().all(|&b| b == 0xff), "no pause behind {key}");
    }
    assert!(bytes.is_empty(), "something follows the keys");
}

/// ITU-T G.711, mu-law.
fn linear(byte: u8) -> f64 {
    let byte = !byte;
    let exponent = i32::from(byte >> 4 & 7);
    let magnitude = (((i32::from(byte & 15) << 3) + 0x84) << exponent) - 0x84;
    f64::from(if byte & 0x80 == 0 {
        magnitude
    } else {
        -magnitude
    })
}

/// The power at one frequency.
fn goertzel(samples: &[f64], hz: f64) -> f64 {
    let turn = 2.0 * (TAU * hz / 8_000.0).cos();
    let (mut one, mut two) = (0.0, 0.0);
    for sample in samples {
        (one, two) = (sample + turn * one - two, one);
    }
    one * one + two * two - turn * one * two
}
