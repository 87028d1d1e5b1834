//! The session path in numbers that repeat: run under callgrind with two counts of rounds, the difference of the instructions
//! is what one round costs, whatever the machine does besides. `.ci/instructions` does so and holds the result against
//! `benches/baseline/instructions.txt`.
//!
//! `voxrelay-instructions PATH ROUNDS`, PATH one of `caller`, `delta_20`, `delta_250`, `interruption`.

mod fixture;

use fixture::{delta, media, now, ready, speech_started, turn};
use std::hint::black_box;
use std::process::ExitCode;
use voxrelay::call::Leg;

/// What is counted, and nothing around it: callgrind collects inside this function alone (`--toggle-collect`).
#[inline(never)]
fn counted<T>(step: impl FnOnce() -> T) -> T {
    black_box(step())
}

/// 20 ms frames of the caller to the model.
fn caller(rounds: u64) {
    let mut session = ready();
    for n in 0..rounds {
        let mut bytes = media(n);
        counted(|| turn(&mut session, Leg::Carrier, &mut bytes, now(n * 20)));
    }
}

/// The model's deltas of `3 * groups + 2` bytes to the caller, as fast as they play.
fn deltas(rounds: u64, groups: usize) {
    let mut session = ready();
    let bytes = delta(groups);
    let ms = (groups as u64 * 3 + 2) / 8;
    for n in 0..rounds {
        let mut bytes = bytes.clone();
        counted(|| turn(&mut session, Leg::Realtime, &mut bytes, now(n * ms)));
    }
}

/// The caller's interruption, from the event's bytes to `clear` in what `poll_transmit` lends, with 2 s unheard.
fn interruptions(rounds: u64) {
    let bytes = delta(666);
    for _ in 0..rounds {
        let mut session = ready();
        for _ in 0..8 {
            turn(&mut session, Leg::Realtime, &mut bytes.clone(), now(20));
        }
        let mut started = speech_started();
        counted(|| {
            session.handle_input(Leg::Realtime, &mut started, now(500));
            session.poll_transmit(Leg::Carrier, 16 * 1024).len()
        });
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let parsed = match args.as_slice() {
        [_, path, rounds] => rounds.parse().ok().map(|rounds| (path.as_str(), rounds)),
        _ => None,
    };
    match parsed {
        Some(("caller", rounds)) => caller(rounds),
        Some(("delta_20", rounds)) => deltas(rounds, 53),
        Some(("delta_250", rounds)) => deltas(rounds, 666),
        Some(("interruption", rounds)) => interruptions(rounds),
        _ => {
            eprintln!("usage: voxrelay-instructions caller|delta_20|delta_250|interruption ROUNDS");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}
