//! Bytes as a course of events for a whole session, for the fuzzer and for tests: whatever happens, the call ends once, both
//! legs are closed, and every byte of audio is accounted for.
//!
//! Each operation is one byte for what it is, one for how much input it takes, and that input:
//!
//! | `op % 8` | what happens |
//! |---|---|
//! | 0, 1 | raw bytes from the carrier, from the model |
//! | 2, 3 | a text frame from the carrier, from the model |
//! | 4 | time passes, the shell's deadlines with it |
//! | 5 | the dial succeeds, or fails |
//! | 6 | a leg's socket is gone |
//! | 7 | the shell sends what waits on a leg, or stops doing so |

use super::{Closed, Intent, Session, Setup};
use crate::base::id::CallId;
use crate::base::limit;
use crate::base::time::{Mono, Now};
use crate::call::DialFailure;
use crate::call::fact::{Fact, Leg};
use crate::proto::realtime::settings::Settings;
use crate::proto::ws::writer::{Kind, write_frame};
use std::sync::Arc;
use std::time::Duration;

struct Shell {
    session: Session,
    now: Now,
    /// Input not consumed, per leg.
    pending: [Vec<u8>; 3],
    /// The socket is there, per leg.
    open: [bool; 3],
    takes: [bool; 3],
    in_flight: [bool; 3],
    /// The leg that is dialled for.
    dialling: Option<Leg>,
    /// The leg that was connected last.
    active: Leg,
    ended: u32,
}

/// Plays `bytes` and panics where a property does not hold.
pub fn play(bytes: &[u8]) {
    let now = Now {
        mono: Mono(0) + Duration::from_secs(1),
        unix_ms: 0,
    };
    let setup = Setup {
        call_id: CallId::default(),
        settings: Arc::new(Settings::default()),
        expected_call_sid: None,
        mode: crate::base::route::StreamMode::Full,
        policy: Arc::default(),
        seed: [0; 32],
    };
    let mut shell = Shell {
        session: Session::new(setup, now),
        now,
        pending: [Vec::new(), Vec::new(), Vec::new()],
        open: [true, false, false],
        takes: [true; 3],
        in_flight: [false; 3],
        dialling: None,
        active: Leg::Realtime,
        ended: 0,
    };
    let mut rest = bytes;
    while let [op, len, tail @ ..] = rest {
        let (input, after) = tail.split_at(tail.len().min(usize::from(*len)));
        rest = after;
        shell.step(*op, input);
        shell.turn();
    }
    shell.gone(Leg::Carrier, Closed::Broken);
    shell.gone(Leg::Realtime, Closed::Broken);
    shell.gone(Leg::Standby, Closed::Broken);
    shell.turn();
    for _ in 0..3 {
        shell.pass(limit::CLOSE_DEADLINE);
    }
    assert!(shell.session.is_finished());
    assert_eq!(shell.ended, 1);
}

impl Shell {
    fn step(&mut self, op: u8, input: &[u8]) {
        let leg = if op & 1 == 0 {
            Leg::Carrier
        } else {
            Leg::Realtime
        };
        match op % 8 {
            0 | 1 => self.feed(leg, input),
            2 | 3 => {
                let mask = (leg == Leg::Carrier).then_some([1, 2, 3, 4]);
                let mut frame = Vec::new();
                write_frame(&mut frame, Kind::Text, mask, &[input]);
                self.feed(leg, &frame);
            }
            4 => {
                let ms = input
                    .iter()
                    .fold(0, |sum, byte| sum + u64::from(*byte) * 100);
                self.pass(Duration::from_millis(ms));
            }
            5 if let Some(leg) = self.dialling.take() => {
                let ok = input.first() != Some(&0);
                self.open[leg as usize] = ok;
                let outcome = match ok {
                    true => Ok(()),
                    false => Err(DialFailure {
                        text: "no".to_owned(),
                        retry: input.len() > 1,
                    }),
                };
                if ok {
                    self.active = leg;
                    self.pending[leg as usize].clear();
                    self.in_flight[leg as usize] = false;
                }
                self.session.handle_upstream(outcome, self.now);
            }
            6 if op & 8 == 0 => self.gone(Leg::Carrier, Closed::Eof),
            6 => self.gone(self.active, Closed::Broken),
            7 => {
                let takes = &mut self.takes[usize::from(op & 8 == 0)];
                *takes = !*takes;
            }
            _ => {}
        }
    }

    fn feed(&mut self, leg: Leg, bytes: &[u8]) {
        if !self.open[leg as usize] {
            return;
        }
        let pending = &mut self.pending[leg as usize];
        pending.extend_from_slice(bytes);
        let used = self.session.handle_input(leg, pending, self.now);
        pending.drain(..used);
    }

    fn gone(&mut self, leg: Leg, how: Closed) {
        if std::mem::take(&mut self.open[leg as usize]) {
            self.session.handle_closed(leg, how, self.now);
        }
    }

    fn pass(&mut self, by: Duration) {
        let until = self.now.mono + by;
        while let Some(due) = self.session.poll_timeout()
            && due <= until
        {
            self.now.mono = self.now.mono.max(due);
            self.session.handle_timeout(self.now);
            self.turn();
        }
        self.now.mono = until;
    }

    fn turn(&mut self) {
        while let Some(intent) = self.session.poll_intent() {
            match intent {
                Intent::Dial => self.dialling = Some(Leg::Realtime),
                Intent::Redial(leg) => self.dialling = Some(leg),
                Intent::CancelDial => self.dialling = None,
                Intent::Distrust => {}
                // What is queued is still taken below.
                Intent::Finish(_) => {}
                Intent::Abort(leg) => self.open[leg as usize] = false,
            }
        }
        for leg in [Leg::Carrier, Leg::Realtime, Leg::Standby] {
            let i = leg as usize;
            while self.takes[i] {
                if std::mem::take(&mut self.in_flight[i]) {
                    self.session.handle_sent(leg, self.now);
                }
                let len = self.session.poll_transmit(leg, 4_096).len();
                assert!(len <= 4_096);
                if len == 0 {
                    break;
                }
                assert!(self.open[i], "frames for a socket that is gone");
                self.session.handle_taken(leg, len, self.now);
                self.in_flight[i] = true;
            }
        }
        while let Some(fact) = self.session.poll_fact() {
            assert_eq!(self.ended, 0, "a fact after the end: {fact:?}");
            self.ended += u32::from(matches!(fact, Fact::Ended { .. }));
        }
        let stats = self.session.stats();
        assert_eq!(
            stats.inbound_bytes,
            stats.inbound_bytes_sent + stats.inbound_bytes_dropped + self.session.held_bytes()
        );
        assert_eq!(
            stats.outbound_bytes,
            stats.outbound_bytes_sent + stats.outbound_bytes_dropped + self.session.paused_bytes()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const START: &[u8] = br#"{"event":"start","streamSid":"M","start":{"callSid":"C"}}"#;
    const MEDIA: &[u8] =
        br#"{"event":"media","streamSid":"M","media":{"timestamp":"90","payload":"AAAA"}}"#;
    const CREATED: &[u8] = br#"{"type":"session.created","session":{"id":"s"}}"#;
    const UPDATED: &[u8] = br#"{"type":"session.updated","session":{"input_audio_format":"g711_ulaw","output_audio_format":"g711_ulaw"}}"#;
    const DELTA: &[u8] = br#"{"type":"response.output_audio.delta","item_id":"i","delta":"AAAA"}"#;

    const STARTED: &[u8] = br#"{"type":"input_audio_buffer.speech_started"}"#;
    const REFUSED: &[u8] = br#"{"type":"error","error":{"message":"Audio content of 0ms is already shorter than 0ms"}}"#;
    const DONE: &[u8] = br#"{"type":"response.done","response":{"id":"r","status":"cancelled"}}"#;

    /// A course that reaches a ready session and an interruption, for the corpus.
    pub(super) fn good_course() -> Vec<u8> {
        let mut bytes = Vec::new();
        for (op, input) in [
            (2, START),
            (2, MEDIA),
            (5, b"\x01" as &[u8]),
            (3, CREATED),
            (3, UPDATED),
            (2, MEDIA),
            (3, DELTA),
            (3, STARTED),
            (3, DELTA),
            (3, REFUSED),
            (3, DONE),
            (4, b"\xff\xff"),
        ] {
            bytes.push(op);
            bytes.push(u8::try_from(input.len()).unwrap());
            bytes.extend_from_slice(input);
        }
        bytes
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_course_that_ends(bytes in proptest::collection::vec(any::<u8>(), 0..500)) {
            play(&bytes);
        }

        #[test]
        fn a_good_course_with_any_damage_ends(
            at in 0..good_course().len(),
            damage in proptest::collection::vec(any::<u8>(), 0..20),
        ) {
            let mut bytes = good_course();
            let end = bytes.len().min(at + damage.len() / 2);
            bytes.splice(at..end, damage);
            play(&bytes);
        }
    }
}
