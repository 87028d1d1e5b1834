//! Caller audio that waits to share a send: in order, to the byte, never longer than it may, never behind another event.

use super::harness::*;
use crate::call::fact::Leg;
use crate::call::policy::Policy;
use crate::call::session::Setup;
use crate::proto::ws::Role;
use crate::proto::ws::writer::Kind;
use proptest::prelude::*;
use std::sync::Arc;

fn pair(coalesce_ms: u32) -> Pair {
    let setup = setup();
    Pair::ready_with(Setup {
        policy: Arc::new(Policy {
            coalesce_ms,
            ..(*setup.policy).clone()
        }),
        ..setup
    })
}

#[test]
fn two_or_three_frames_share_a_send() {
    for (coalesce_ms, together) in [(0, 1), (20, 2), (40, 3)] {
        let mut pair = pair(coalesce_ms);
        let mut spoken = Vec::new();
        for n in 1..=30 {
            spoken.push(pair.speak());
            let out = n / together * together;
            assert_eq!(pair.appended(), spoken[..out], "{coalesce_ms} after {n}");
            pair.pass(20);
        }
    }
}

#[test]
fn a_late_frame_is_not_waited_for_longer_than_half_its_length() {
    let mut pair = pair(20);
    let first = pair.speak();
    pair.pass(29);
    assert_eq!(pair.appended().len(), 0);
    pair.pass(1);
    assert_eq!(pair.appended(), [first]);
    pair.pass(1_000);
    // The next one is what the first waited for: it goes at once.
    pair.stamp += 1_010;
    pair.speak();
    assert!(pair.appended().len() >= 2);
}

#[test]
fn whatever_else_is_said_takes_the_waiting_audio_along() {
    // Our answer to a ping.
    let mut waiting = pair(40);
    let spoken = waiting.speak();
    waiting.feed(Leg::Realtime, &frame(Role::Server, Kind::Ping, b"x"));
    assert_eq!(waiting.appended(), [spoken]);
    assert_eq!(waiting.model.got.last(), Some(&Got::Pong(b"x".to_vec())));

    // A barge-in's truncation.
    let mut waiting = pair(40);
    waiting.model(&delta("item_1", &encode(&[1; 8_000])));
    waiting.pass(100);
    let spoken = waiting.speak();
    assert_eq!(waiting.appended().len(), 0);
    waiting.model(
        r#"{"type":"input_audio_buffer.speech_started","audio_start_ms":0,"item_id":"item_u"}"#,
    );
    assert_eq!(waiting.appended(), [spoken]);
    let texts = waiting.model.texts();
    assert!(
        texts[0].contains("append") && texts[1].contains("truncate"),
        "{texts:?}"
    );

    // The caller's end.
    let mut waiting = pair(40);
    let spoken = waiting.speak();
    waiting.carrier(&format!(r#"{{"event":"stop","streamSid":"{SID}"}}"#));
    assert_eq!(waiting.appended(), [spoken]);
    assert_eq!(waiting.model.close_code(), Some(1000));
}

#[test]
fn a_long_frame_and_a_send_in_flight_make_nothing_wait_longer() {
    let mut long = pair(20);
    let payload = encode(&[3; 800]);
    long.carrier(&media(61, 1, &payload));
    assert_eq!(long.appended(), [payload]);

    let mut slow = pair(20);
    slow.model.takes = false;
    let spoken: Vec<_> = (0..7).map(|_| slow.speak()).collect();
    slow.model.takes = true;
    slow.pump();
    slow.pass(30);
    assert_eq!(slow.appended(), spoken);
}

proptest! {
    #[test]
    fn audio_stays_exact_and_waits_no_longer_than_it_may(
        coalesce_ms in prop_oneof![Just(20u32), Just(40)],
        steps in proptest::collection::vec((0u64..60, 0u8..8), 1..200),
    ) {
        let mut pair = pair(coalesce_ms);
        let mut spoken = Vec::new();
        let mut spoken_at = Vec::new();
        for (wait, what) in steps {
            pair.pass(wait);
            match what {
                0 => pair.feed(Leg::Realtime, &frame(Role::Server, Kind::Ping, b"")),
                1 => pair.model.takes = false,
                2 => {
                    pair.model.takes = true;
                    pair.pump();
                }
                _ => {
                    spoken_at.push(pair.at_ms);
                    spoken.push(pair.speak());
                }
            }
            let out = pair.appended();
            prop_assert_eq!(&out[..], &spoken[..out.len()]);
            if pair.model.takes {
                let due = spoken_at.iter().filter(|at| **at + u64::from(coalesce_ms) + 10 <= pair.at_ms);
                prop_assert!(out.len() >= due.count());
            }
        }
        pair.model.takes = true;
        pair.pump();
        pair.pass(u64::from(coalesce_ms) + 10);
        prop_assert_eq!(pair.appended(), spoken);
    }
}
