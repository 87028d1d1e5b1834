//! Whole calls by seed: jitter, stalls, cuts anywhere, sends of any size. Nothing is lost, doubled or out of order, and
//! silence stands exactly where stream time says.

use super::harness::*;
use crate::base::rng::Rng;
use crate::call::fact::{EndReason, Leg};
use crate::proto::ws::Role;
use crate::proto::ws::writer::Kind;
use proptest::prelude::*;

/// Gives bytes in pieces of random sizes, with time between some of them.
fn trickle(pair: &mut Pair, leg: Leg, mut bytes: &[u8], rng: &mut Rng) {
    while !bytes.is_empty() {
        let n = match rng.next_u32() % 3 {
            0 => bytes.len(),
            _ => 1 + rng.next_u32() as usize % bytes.len(),
        };
        pair.feed(leg, &bytes[..n]);
        bytes = &bytes[n..];
        if rng.next_u32().is_multiple_of(4) {
            pair.pass(u64::from(rng.next_u32() % 8));
        }
    }
}

fn a_call(seed: u64) {
    let mut rng = Rng::from_u64(seed);
    let mut pair = Pair::ready();
    pair.model.max = 1 + rng.next_u32() as usize % 2_000;
    pair.carrier.max = 1 + rng.next_u32() as usize % 2_000;
    let mut up = Vec::new(); // what the model must get
    let mut down = Vec::new(); // what the carrier must get
    for n in 0..60 {
        match rng.next_u32() % 10 {
            // A frame of the caller's, now and then after a loss.
            0..6 => {
                // Before the first frame nothing can be missed.
                if pair.chunk > 1 && rng.next_u32().is_multiple_of(12) {
                    let lost_ms = 20 * (1 + u64::from(rng.next_u32() % 50));
                    pair.stamp += lost_ms;
                    up.push(encode(&vec![0xFF; lost_ms as usize * 8]));
                }
                let payload = payload(n);
                let text = media(pair.stamp, pair.chunk, &payload);
                pair.stamp += 20;
                pair.chunk += 1;
                up.push(payload);
                let bytes = frame(Role::Client, Kind::Text, text.as_bytes());
                trickle(&mut pair, Leg::Carrier, &bytes, &mut rng);
            }
            6..8 => {
                let audio = vec![n as u8; 1 + rng.next_u32() as usize % 4_000];
                let payload = encode(&audio);
                let text = delta(&format!("item_{}", n / 9), &payload);
                down.push(payload);
                let bytes = frame(Role::Server, Kind::Text, text.as_bytes());
                trickle(&mut pair, Leg::Realtime, &bytes, &mut rng);
            }
            8 => pair.pass(u64::from(rng.next_u32() % 3_000)),
            _ => {
                // One side takes nothing for a while, shorter than a stall.
                let leg = [Leg::Carrier, Leg::Realtime][rng.next_u32() as usize % 2];
                let takes = &mut pair.peer(leg).takes;
                *takes = !*takes;
            }
        }
        // The peers answer pings, and nobody stalls for ever.
        pair.feed(Leg::Carrier, &frame(Role::Client, Kind::Pong, b""));
        pair.feed(Leg::Realtime, &frame(Role::Server, Kind::Pong, b""));
        if rng.next_u32().is_multiple_of(3) {
            pair.carrier.takes = true;
            pair.model.takes = true;
            pair.pump();
        }
        if pair.reason().is_some() {
            break; // stalled past the deadline: a proper end as well
        }
    }
    if let Some(reason) = pair.reason() {
        assert!(
            matches!(
                reason,
                EndReason::CarrierStalled | EndReason::RealtimeStalled
            ),
            "{reason:?}"
        );
        return;
    }
    pair.carrier.takes = true;
    pair.model.takes = true;
    pair.pump();
    let appended = pair.appended();
    // Said shortly: the texts are long.
    assert_eq!(appended.iter().zip(&up).position(|(a, b)| a != b), None);
    assert_eq!(appended.len(), up.len());
    let heard: Vec<_> = pair
        .carrier
        .texts()
        .into_iter()
        .filter_map(|text| text.split(r#""payload":""#).nth(1))
        .map(|rest| rest.trim_end_matches(r#""}}"#).to_owned())
        .collect();
    assert_eq!(heard, down);
    let stats = pair.session.stats();
    assert_eq!(stats.drops, [0; crate::call::fact::DROP_REASONS]);
    assert_eq!((stats.padded_bytes, stats.sequence_gaps), (0, 0));
    pair.hang_up(EndReason::HungUpByOperator);
    assert_eq!(pair.wind_up(), EndReason::HungUpByOperator);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_doubled_or_out_of_order(seed in any::<u64>()) {
        a_call(seed);
    }
}
