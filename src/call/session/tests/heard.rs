//! What is told about what was heard: refused truncations, bad input, the bound on what may wait, reports; and, by seed,
//! that the ledger agrees with a carrier that plays.

use super::barge_in::*;
use super::harness::*;
use crate::base::rng::Rng;
use crate::call::fact::{Drop, EndReason, Fact, Leg};
use crate::proto::audio::base64;
use crate::proto::ws::Role;
use crate::proto::ws::writer::Kind;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

fn refused(message: &str, code: &str) -> String {
    format!(
        r#"{{"type":"error","error":{{"type":"invalid_request_error","code":"{code}","message":"{message}","param":null,"event_id":null}}}}"#
    )
}

#[test]
fn a_refused_truncation_is_tried_once_more_and_then_the_item_is_deleted() {
    let mut pair = Pair::ready();
    pair.model(&delta("item_1", &audio(1_000)));
    pair.pass(900);
    pair.model(STARTED);
    pair.model(&refused(
        "Audio content of 850ms is already shorter than 900ms",
        "invalid_value",
    ));
    pair.model(&refused(
        "Audio content of 800ms is already shorter than 850ms",
        "invalid_value",
    ));
    pair.model(&refused(
        "Audio content of 1ms is already shorter than 2ms",
        "invalid_value",
    ));
    assert_eq!(
        told(&pair),
        [
            "conversation.item.truncate item_1 900",
            "conversation.item.truncate item_1 850",
            "conversation.item.delete item_1"
        ]
    );
    assert_eq!(pair.session.stats().truncates_refused, 2);
    assert_eq!(pair.reason(), None);
}

#[test]
fn a_truncation_that_is_never_answered_holds_nothing_up() {
    let mut pair = Pair::ready();
    for n in 0..50 {
        pair.model(&created(&format!("resp_{n}")));
        pair.model(
            &delta(&format!("item_{n}"), &audio(100)).replace("resp_1", &format!("resp_{n}")),
        );
        pair.model(STARTED);
        pair.model(STOPPED);
        pair.model(&done(&format!("resp_{n}"), "cancelled"));
    }
    assert_eq!((cleared(&pair), told(&pair).len()), (50, 50));
}

#[test]
fn errors_with_null_ids_and_unknown_items_change_nothing() {
    let mut pair = Pair::ready();
    pair.model(r#"{"type":"error","error":{"type":null,"code":null,"message":null,"param":null,"event_id":null}}"#);
    pair.model(r#"{"type":"error"}"#);
    pair.model(&refused("no such item", "item_truncate_invalid_item_id"));
    pair.model(r#"{"type":"conversation.item.truncated","item_id":"nobody","content_index":0,"audio_end_ms":5}"#);
    pair.model(r#"{"type":"response.output_audio.done","item_id":"nobody"}"#);
    pair.model(&delta("item_1", &audio(100)));
    assert_eq!(pair.session.stats().outbound_frames_sent, 1);
    assert_eq!((told(&pair), pair.reason()), (vec![], None));
}

#[test]
fn audio_for_a_finished_item_is_dropped_and_for_an_unknown_one_played() {
    let mut pair = Pair::ready();
    pair.model(&delta("item_1", &audio(100)));
    pair.model(&audio_done("item_1"));
    pair.model(&delta("item_1", &audio(100)));
    assert_eq!(pair.dropped(Drop::LateDelta), 1);
    pair.model(&delta("never_announced", &audio(100)));
    assert_eq!(pair.session.stats().outbound_frames_sent, 2);
    // The model has 200 ms of it and the caller heard 100.
    pair.pass(300);
    pair.speak();
    assert_eq!(told(&pair), ["conversation.item.truncate item_1 100"]);
}

#[test]
fn a_response_done_twice_is_reported_once_and_counted() {
    let mut pair = Pair::ready();
    pair.model(&created("resp_1"));
    for _ in 0..3 {
        pair.model(&done("resp_1", "completed"));
    }
    let is_done = |f: &&Fact| matches!(f, Fact::ResponseDone { .. });
    assert_eq!(pair.facts.iter().filter(is_done).count(), 1);
    assert_eq!(pair.session.stats().responses_repeated, 2);
}

#[test]
fn what_was_heard_of_an_item_is_reported_with_its_text() {
    let mut pair = Pair::ready();
    let text = |text: &str| {
        format!(
            r#"{{"type":"response.output_audio_transcript.delta","item_id":"item_1","delta":"{text}"}}"#
        )
    };
    pair.model(&created("resp_1"));
    pair.model(&text("We are open "));
    pair.model(&delta("item_1", &audio(1_000)));
    pair.model(&text("until six today."));
    pair.pass(500);
    pair.model(STARTED);
    let heard = pair.facts.iter().find_map(|fact| match fact {
        Fact::Heard {
            heard_ms,
            total_ms,
            text,
            ..
        } => Some((*heard_ms, *total_ms, text.as_str())),
        _ => None,
    });
    assert_eq!(heard, Some((500, 1_000, "We are open")));
}

#[test]
fn a_call_that_ends_in_mid_sentence_reports_what_was_heard_of_it() {
    let mut pair = Pair::ready();
    pair.model(&delta("item_1", &audio(1_000)));
    pair.pass(400);
    pair.speak();
    pair.carrier(&format!(r#"{{"event":"stop","streamSid":"{SID}"}}"#));
    assert!(pair.facts.iter().any(|fact| matches!(
        fact,
        Fact::Heard {
            heard_ms: 400,
            total_ms: 1_000,
            ..
        }
    )));
    assert!(matches!(pair.facts.last(), Some(Fact::Ended { .. })));
}

#[test]
fn past_the_unplayed_bound_the_response_is_cancelled_and_what_was_sent_is_played() {
    let mut pair = with(|p| p.unplayed_ms_max = 2_000, |_| {});
    pair.model(&created("resp_1"));
    for _ in 0..10 {
        pair.model(&delta("item_1", &audio(500)));
    }
    assert_eq!(told(&pair), ["response.cancel resp_1"]);
    assert_eq!(pair.session.stats().outbound_frames_sent, 4);
    assert_eq!(pair.dropped(Drop::Unplayed), 6);
    assert_eq!(pair.session.stats().unplayed_ms_peak, 2_000);
    pair.model(&done("resp_1", "cancelled"));
    pair.pass(1_999);
    pair.speak();
    assert_eq!(told(&pair).len(), 1);
    pair.pass(1);
    pair.speak();
    assert_eq!(told(&pair)[1..], ["conversation.item.truncate item_1 2000"]);
    // The call goes on.
    pair.model(&created("resp_2"));
    pair.model(&delta("item_2", &audio(500)).replace("resp_1", "resp_2"));
    assert_eq!(pair.session.stats().outbound_frames_sent, 5);
}

#[test]
fn an_interruption_after_that_truncates_where_it_was_heard_and_once() {
    let mut pair = with(|p| p.unplayed_ms_max = 2_000, |_| {});
    pair.model(&created("resp_1"));
    for _ in 0..10 {
        pair.model(&delta("item_1", &audio(500)));
    }
    pair.pass(700);
    pair.model(STARTED);
    pair.pass(5_000);
    pair.speak();
    assert_eq!(told(&pair)[1..], ["conversation.item.truncate item_1 700"]);
}

#[test]
fn a_carrier_that_takes_nothing_is_answered_the_same_way() {
    let mut pair = with(|p| p.unplayed_ms_max = 600_000, |_| {});
    pair.carrier.takes = false;
    pair.model(&created("resp_1"));
    let big = audio(20_000);
    for _ in 0..25 {
        pair.model(&delta("item_1", &big));
    }
    assert_eq!(told(&pair), ["response.cancel resp_1"]);
    assert_eq!(
        pair.dropped(Drop::OutboxFull),
        25 - pair.session.stats().outbound_frames_sent
    );
    // The model is still read.
    pair.model(STARTED);
    pair.carrier.takes = true;
    pair.pump();
    assert_eq!(pair.carrier.texts().last(), Some(&clear().as_str()));
}

/// A carrier that plays what it was sent, a millisecond at a time. Each byte says whose it is.
#[derive(Default)]
struct Player {
    read: usize,
    queue: VecDeque<u8>,
    /// Bytes played of each item.
    played: BTreeMap<u8, u64>,
    /// Bytes received of each item.
    received: BTreeMap<u8, u64>,
    marks: VecDeque<(String, usize)>,
    cleared: u32,
    /// Items that were cut: not a byte of them may come again.
    dead: BTreeSet<u8>,
}

impl Player {
    fn read(&mut self, pair: &Pair) -> Result<(), TestCaseError> {
        let texts = pair.carrier.texts();
        for text in &texts[self.read..] {
            let event: serde_json::Value = serde_json::from_str(text).expect("JSON");
            match event["event"].as_str() {
                Some("media") => {
                    let mut bytes = Vec::new();
                    let payload = event["media"]["payload"].as_str().unwrap();
                    assert!(base64::decode_into(payload.as_bytes(), &mut bytes));
                    let item = bytes[0];
                    prop_assert!(!self.dead.contains(&item), "audio of a dead generation");
                    *self.received.entry(item).or_default() += bytes.len() as u64;
                    self.queue.extend(bytes);
                }
                Some("mark") => {
                    let name = event["mark"]["name"].as_str().unwrap().to_owned();
                    self.marks.push_back((name, self.queue.len()));
                }
                _ => {
                    self.queue.clear();
                    self.cleared += 1;
                    for mark in &mut self.marks {
                        mark.1 = 0;
                    }
                }
            }
        }
        self.read = texts.len();
        Ok(())
    }

    fn play(&mut self, ms: u64) {
        let n = self.queue.len().min(ms as usize * 8);
        for byte in self.queue.drain(..n) {
            *self.played.entry(byte).or_default() += 1;
        }
        for mark in &mut self.marks {
            mark.1 = mark.1.saturating_sub(n);
        }
    }
}

/// Returns how many items were truncated.
fn a_conversation(seed: u64) -> Result<usize, TestCaseError> {
    let mut rng = Rng::from_u64(seed);
    let interrupts = rng.next_u32().is_multiple_of(2);
    let mut pair = with(
        |p| p.unplayed_ms_max = 20_000,
        |s| {
            s.turn_detection.interrupt_response = interrupts;
            // This model speaks when it likes, and owes no turn an answer.
            s.turn_detection.create_response = false;
        },
    );
    pair.carrier.max = 1 + rng.next_u32() as usize % 4_000;
    let mut player = Player::default();
    let (mut response, mut item) = (0u32, 0u8);
    let mut active = false;
    let mut told_before = 0;
    let mut truncated = BTreeSet::new();
    for _ in 0..120 {
        match rng.next_u32() % 12 {
            0 if !active && item < 240 => {
                response += 1;
                item += 1;
                active = true;
                pair.model(&created(&format!("resp_{response}")));
            }
            1 if active && item < 240 => {
                pair.model(&audio_done(&format!("item_{item}")));
                item += 1;
            }
            2 if active => {
                active = false;
                pair.model(&done(&format!("resp_{response}"), "completed"));
            }
            3 => {
                pair.model(STARTED);
                if rng.next_u32().is_multiple_of(2) {
                    pair.model(STOPPED);
                }
            }
            4..8 if active => {
                let audio = encode(&vec![item; 1 + rng.next_u32() as usize % 6_000]);
                let text = delta(&format!("item_{item}"), &audio);
                pair.model(&text.replace("resp_1", &format!("resp_{response}")));
            }
            _ => {
                let ms = u64::from(rng.next_u32() % 900);
                player.read(&pair)?;
                for _ in 0..ms / 20 {
                    pair.pass(20);
                    player.play(20);
                    pair.speak();
                }
            }
        }
        // Some marks come back at once, some late, some never.
        while player.marks.front().is_some_and(|mark| mark.1 == 0) {
            let (name, _) = player.marks.pop_front().unwrap();
            if !rng.next_u32().is_multiple_of(4) {
                let text =
                    format!(r#"{{"event":"mark","streamSid":"{SID}","mark":{{"name":"{name}"}}}}"#);
                pair.carrier(&text);
            }
        }
        player.read(&pair)?;
        let told = told(&pair);
        for said in &told[told_before..] {
            let words: Vec<&str> = said.split(' ').collect();
            if words[0] == "conversation.item.truncate" {
                let n: u8 = words[1].trim_start_matches("item_").parse().unwrap();
                let end: u64 = words[2].parse().unwrap();
                let played = player.played.get(&n).copied().unwrap_or(0) / 8;
                let sent = player.received.get(&n).copied().unwrap_or(0) / 8;
                prop_assert!(truncated.insert(n), "item {} truncated twice", n);
                prop_assert!(end <= sent, "{} beyond {} sent", end, sent);
                prop_assert!(end.abs_diff(played) <= 1, "{} told, {} played", end, played);
                player.dead.insert(n);
            }
        }
        told_before = told.len();
        prop_assert_eq!(pair.reason(), None);
        // Both peers are alive.
        pair.feed(Leg::Carrier, &frame(Role::Client, Kind::Pong, b""));
        pair.feed(Leg::Realtime, &frame(Role::Server, Kind::Pong, b""));
    }
    let stats = pair.session.stats();
    prop_assert_eq!(stats.clears, u64::from(player.cleared));
    prop_assert!(stats.unplayed_ms_peak <= 20_000);
    Ok(truncated.len())
}

#[test]
fn such_conversations_are_interrupted_in_mid_sentence() {
    let truncated = (0..10).map(|seed| a_conversation(seed).expect("agrees"));
    let sum: usize = truncated.sum();
    assert!(sum > 20, "{sum}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn the_model_is_told_what_a_carrier_that_plays_has_played(seed in any::<u64>()) {
        a_conversation(seed)?;
    }
}

#[test]
fn a_response_that_falls_silent_is_given_up_thirty_seconds_after_its_last_event() {
    let mut pair = Pair::ready();
    pair.model(&created("resp_1"));
    for event in [
        delta("item_1", &audio(100)),
        r#"{"type":"response.output_audio_transcript.delta","item_id":"item_1","delta":"We"}"#
            .to_owned(),
        r#"{"type":"response.function_call_arguments.delta","response_id":"resp_1","delta":"{"}"#
            .to_owned(),
    ] {
        alive(&mut pair, 29_000);
        assert_eq!(pair.session.stats().responses_silent, 0);
        pair.model(&event);
    }
    // Keys want an answer, which waits for the slot.
    let key = format!(
        r##"{{"event":"dtmf","streamSid":"{SID}","dtmf":{{"track":"inbound_track","digit":"#"}}}}"##
    );
    pair.carrier(&key);
    let creates = |pair: &Pair| {
        let told = pair.model.texts();
        told.iter()
            .filter(|t| t.contains("response.create\""))
            .count()
    };
    alive(&mut pair, 29_900);
    assert_eq!(creates(&pair), 0);
    alive(&mut pair, 200);
    assert_eq!(
        (creates(&pair), pair.session.stats().responses_silent),
        (1, 1)
    );
    let told = pair.model.texts();
    assert!(
        told.iter()
            .any(|t| t.contains("response.cancel") && t.contains("resp_1"))
    );
    // What comes late of it neither sounds nor ends the next.
    pair.carrier.got.clear();
    pair.model(&delta("item_1", &audio(20)));
    pair.model(&done("resp_1", "completed"));
    assert!(!pair.carrier.texts().iter().any(|t| t.contains("media")));
    pair.model(&created("resp_2"));
    pair.model(&done("resp_2", "completed"));
    pair.close(Leg::Carrier, 1000);
    assert_eq!(pair.wind_up(), EndReason::CallerHungUp);
}

/// Lets time pass while both peers answer pings.
fn alive(pair: &mut Pair, ms: u64) {
    for _ in 0..ms / 100 {
        pair.pass(100);
        pair.feed(Leg::Carrier, &frame(Role::Client, Kind::Pong, b""));
        pair.feed(Leg::Realtime, &frame(Role::Server, Kind::Pong, b""));
    }
}
