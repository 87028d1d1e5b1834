//! The caller interrupts: what the carrier and the model are told, and what is still played. Time passes as the test says;
//! the carrier here takes what it is sent at once and plays in real time, so what was heard is what has passed.

use super::harness::*;
use crate::base::id::ItemId;
use crate::call::fact::{Drop, Fact, Leg};
use crate::call::policy::Policy;
use crate::call::session::Setup;
use crate::proto::realtime::settings::Settings;
use crate::proto::ws::Role;
use crate::proto::ws::writer::Kind;
use std::sync::Arc;

pub(super) const STARTED: &str =
    r#"{"type":"input_audio_buffer.speech_started","audio_start_ms":0,"item_id":"item_u"}"#;
pub(super) const STOPPED: &str =
    r#"{"type":"input_audio_buffer.speech_stopped","audio_end_ms":9,"item_id":"item_u"}"#;

pub(super) fn clear() -> String {
    format!(r#"{{"event":"clear","streamSid":"{SID}"}}"#)
}

fn mark_in(name: &str) -> String {
    format!(r#"{{"event":"mark","streamSid":"{SID}","mark":{{"name":"{name}"}}}}"#)
}

pub(super) fn audio(ms: usize) -> String {
    encode(&vec![0x33; ms * 8])
}

pub(super) fn created(id: &str) -> String {
    format!(r#"{{"type":"response.created","response":{{"id":"{id}","status":"in_progress"}}}}"#)
}

pub(super) fn done(id: &str, status: &str) -> String {
    format!(r#"{{"type":"response.done","response":{{"id":"{id}","status":"{status}"}}}}"#)
}

pub(super) fn audio_done(item: &str) -> String {
    format!(
        r#"{{"type":"response.output_audio.done","response_id":"resp_1","item_id":"{item}","output_index":0,"content_index":0}}"#
    )
}

pub(super) fn with(policy: impl FnOnce(&mut Policy), settings: impl FnOnce(&mut Settings)) -> Pair {
    let (mut p, mut s) = (Policy::default(), Settings::default());
    policy(&mut p);
    settings(&mut s);
    Pair::ready_with(Setup {
        policy: Arc::new(p),
        settings: Arc::new(s),
        ..setup()
    })
}

/// What the model was told, but for audio: type, item, milliseconds.
pub(super) fn told(pair: &Pair) -> Vec<String> {
    pair.model
        .texts()
        .into_iter()
        .filter(|text| !text.contains("input_audio_buffer"))
        .map(|text| {
            let event: serde_json::Value = serde_json::from_str(text).expect("JSON");
            let mut said = event["type"].as_str().unwrap().to_owned();
            for key in ["item_id", "response_id", "audio_end_ms"] {
                if let Some(value) = event.get(key) {
                    said += &format!(" {}", value.to_string().trim_matches('"'));
                }
            }
            said
        })
        .collect()
}

pub(super) fn cleared(pair: &Pair) -> usize {
    let clear = clear();
    pair.carrier.texts().iter().filter(|t| **t == clear).count()
}

fn media_after_clear(pair: &Pair) -> usize {
    let clear = clear();
    let texts = pair.carrier.texts();
    let at = texts
        .iter()
        .rposition(|text| *text == clear)
        .expect("a clear");
    texts[at..].iter().filter(|t| t.contains("media")).count()
}

#[test]
fn the_audible_item_is_truncated_at_what_was_heard_and_later_ones_at_nothing() {
    let mut pair = Pair::ready();
    pair.model(&created("resp_1"));
    pair.model(&delta("item_1", &audio(1_000)));
    pair.model(&audio_done("item_1"));
    pair.model(&delta("item_2", &audio(500)));
    pair.pass(345);
    pair.model(STARTED);
    assert_eq!(pair.carrier.texts().last(), Some(&clear().as_str()));
    assert_eq!(
        told(&pair),
        [
            "conversation.item.truncate item_1 345",
            "conversation.item.truncate item_2 0"
        ]
    );
    let item = |id| ItemId::new(id).unwrap();
    for fact in [
        Fact::Cut {
            item_id: item("item_1"),
            audio_end_ms: 345,
        },
        Fact::Cut {
            item_id: item("item_2"),
            audio_end_ms: 0,
        },
        Fact::BargeIn {
            unplayed_ms: 1_155,
            items: 2,
        },
    ] {
        assert!(pair.facts.contains(&fact), "{fact:?}");
    }
    let stats = pair.session.stats();
    assert_eq!((stats.barge_ins, stats.truncates, stats.clears), (1, 2, 1));
}

#[test]
fn it_works_when_the_model_finished_long_ago() {
    let mut pair = Pair::ready();
    pair.model(&created("resp_1"));
    pair.model(&delta("item_1", &audio(20_000)));
    pair.model(&audio_done("item_1"));
    pair.model(&done("resp_1", "completed"));
    for _ in 0..50 {
        pair.pass(200);
        pair.speak();
    }
    pair.model(STARTED);
    assert_eq!(cleared(&pair), 1);
    assert_eq!(told(&pair), ["conversation.item.truncate item_1 10000"]);
}

#[test]
fn while_nothing_is_unheard_there_is_neither_clear_nor_truncate() {
    let mut pair = Pair::ready();
    pair.model(STARTED);
    pair.model(STOPPED);
    pair.model(&created("resp_1"));
    pair.model(STARTED);
    pair.model(&done("resp_1", "cancelled"));
    pair.model(&created("resp_2"));
    pair.model(&delta("item_1", &audio(300)).replace("resp_1", "resp_2"));
    pair.model(&audio_done("item_1"));
    pair.model(&done("resp_2", "completed"));
    pair.pass(300);
    pair.model(STARTED);
    assert_eq!((cleared(&pair), told(&pair)), (0, vec![]));
    assert_eq!(pair.session.stats().barge_ins, 0);
}

#[test]
fn each_item_is_truncated_at_most_once() {
    let mut pair = Pair::ready();
    pair.model(&created("resp_1"));
    pair.model(&delta("item_1", &audio(1_000)));
    pair.pass(100);
    for _ in 0..3 {
        pair.model(STARTED);
        pair.model(&delta("item_1", &audio(100)));
        pair.model(STOPPED);
    }
    assert_eq!(told(&pair), ["conversation.item.truncate item_1 100"]);
    assert_eq!(cleared(&pair), 1);
}

#[test]
fn late_audio_of_the_cancelled_response_is_dropped_until_its_done() {
    let mut pair = Pair::ready();
    pair.model(&created("resp_1"));
    pair.model(&delta("item_1", &audio(1_000)));
    pair.pass(100);
    pair.model(STARTED);
    for item in ["item_1", "item_1", "item_2", "item_2"] {
        pair.model(&delta(item, &audio(100)));
    }
    assert_eq!(media_after_clear(&pair), 0);
    assert_eq!(pair.dropped(Drop::LateDelta), 4);
    assert_eq!(
        told(&pair),
        [
            "conversation.item.truncate item_1 100",
            // It came into being after the caller spoke: nothing of it was heard.
            "conversation.item.truncate item_2 0"
        ]
    );
    pair.model(&done("resp_1", "cancelled"));
    // By its item it is known even then.
    pair.model(&delta("item_1", &audio(100)));
    assert_eq!(pair.dropped(Drop::LateDelta), 5);
    // The next answer is heard.
    pair.model(&created("resp_2"));
    pair.model(&delta("item_3", &audio(100)).replace("resp_1", "resp_2"));
    assert_eq!(media_after_clear(&pair), 1);
}

#[test]
fn late_audio_is_dropped_also_when_nothing_of_the_response_had_come() {
    let mut pair = Pair::ready();
    pair.model(&created("resp_1"));
    pair.model(STARTED);
    pair.model(&delta("item_1", &audio(100)));
    assert!(pair.carrier.got.is_empty());
    assert_eq!(told(&pair), ["conversation.item.truncate item_1 0"]);
}

#[test]
fn a_message_without_audio_is_deleted_not_truncated() {
    let mut pair = Pair::ready();
    pair.model(&created("resp_1"));
    pair.model(&delta("item_1", &audio(500)));
    pair.model(r#"{"type":"response.output_item.added","response_id":"resp_1","output_index":1,"item":{"id":"item_2","type":"message","role":"assistant","status":"in_progress","content":[]}}"#);
    pair.model(r#"{"type":"response.output_item.added","response_id":"resp_1","output_index":2,"item":{"id":"item_3","type":"function_call","name":"x","call_id":"c","arguments":""}}"#);
    pair.pass(200);
    pair.model(STARTED);
    assert_eq!(
        told(&pair),
        [
            "conversation.item.truncate item_1 200",
            "conversation.item.delete item_2"
        ]
    );
}

#[test]
fn with_interrupt_response_off_the_response_is_cancelled_first_and_only_while_active() {
    let off = |s: &mut Settings| s.turn_detection.interrupt_response = false;
    let mut pair = with(|_| {}, off);
    pair.model(&created("resp_1"));
    pair.model(&delta("item_1", &audio(500)));
    pair.pass(100);
    pair.model(STARTED);
    assert_eq!(
        told(&pair),
        [
            "response.cancel resp_1",
            "conversation.item.truncate item_1 100"
        ]
    );
    let mut pair = with(|_| {}, off);
    pair.model(&created("resp_1"));
    pair.model(&delta("item_1", &audio(500)));
    pair.model(&done("resp_1", "completed"));
    pair.pass(100);
    pair.model(STARTED);
    assert_eq!(told(&pair), ["conversation.item.truncate item_1 100"]);
}

#[test]
fn the_clear_goes_before_everything_that_waits_and_nothing_of_the_old_follows() {
    let mut pair = Pair::ready();
    pair.carrier.takes = false;
    pair.model(&created("resp_1"));
    // The first is in flight and not taken; the rest waits.
    for _ in 0..20 {
        pair.model(&delta("item_1", &audio(250)));
    }
    pair.feed(Leg::Carrier, &frame(Role::Client, Kind::Ping, b"p"));
    pair.pass(1_000);
    pair.model(STARTED);
    pair.carrier.takes = true;
    pair.pump();
    let texts = pair.carrier.texts();
    assert_eq!(texts.last(), Some(&clear().as_str()));
    assert_eq!(texts.iter().filter(|t| t.contains("media")).count(), 1);
    // A pong is no audio: it is kept, behind the clear.
    assert_eq!(pair.carrier.got.last(), Some(&Got::Pong(b"p".to_vec())));
    // Not even the first was taken by the socket, so nothing was heard.
    assert_eq!(told(&pair), ["conversation.item.truncate item_1 0"]);
    assert_eq!(pair.session.stats().outbound_bytes_cut, 19 * 2_000);
    // What was in flight at the clear counts for nothing afterwards.
    pair.pass(1_000);
    assert!(!pair.session.playback().is_unheard());
}

#[test]
fn a_frame_that_has_begun_is_finished_before_the_clear() {
    let mut pair = Pair::ready();
    pair.carrier.max = 100;
    pair.carrier.takes = false;
    pair.model(&created("resp_1"));
    pair.model(&delta("item_1", &audio(250)));
    pair.model(&delta("item_1", &audio(250)));
    pair.model(STARTED);
    pair.carrier.takes = true;
    pair.pump();
    let texts = pair.carrier.texts();
    assert_eq!(texts.len(), 2, "the begun one, whole, and the clear");
    assert!(texts[0].contains("media"));
    assert_eq!(texts[1], clear());
}

#[test]
fn marks_that_the_clear_sent_back_do_not_count_as_heard() {
    let mut pair = Pair::ready();
    pair.model(&created("resp_1"));
    for _ in 0..5 {
        pair.model(&delta("item_1", &audio(200)));
    }
    pair.pass(300);
    pair.carrier(&mark_in("g0.1.200"));
    pair.model(STARTED);
    for ms in [400, 600, 800, 1_000] {
        pair.carrier(&mark_in(&format!("g0.1.{ms}")));
    }
    let stats = pair.session.stats();
    assert_eq!((stats.marks_returned, stats.marks_flushed), (5, 4));
    let returned = |f: &&Fact| matches!(f, Fact::MarkReturned { .. });
    assert_eq!(pair.facts.iter().filter(returned).count(), 1);
    assert_eq!(told(&pair), ["conversation.item.truncate item_1 300"]);
    // The next item's marks are of the next generation.
    pair.model(&created("resp_2"));
    pair.model(&delta("item_2", &audio(200)).replace("resp_1", "resp_2"));
    let last = pair.carrier.texts().last().map(|text| text.to_string());
    assert!(last.unwrap().contains("g1.2.200"));
}

#[test]
fn a_mark_of_another_call_counts_for_nothing() {
    let mut pair = Pair::ready();
    pair.model(&delta("item_1", &audio(200)));
    pair.carrier(&mark_in("g0.1.200").replace(SID, "MZother"));
    pair.carrier(&mark_in("g0.7.200"));
    assert_eq!(pair.session.stats().marks_returned, 0);
    assert_eq!(pair.dropped(Drop::ForeignStream), 1);
    assert_eq!(pair.dropped(Drop::UnknownMark), 1);
}

#[test]
fn a_carrier_that_returns_marks_at_once_is_not_believed() {
    let mut pair = Pair::ready();
    pair.model(&created("resp_1"));
    for n in 1..=20 {
        pair.model(&delta("item_1", &audio(200)));
        pair.carrier(&mark_in(&format!("g0.1.{}", n * 200)));
    }
    pair.pass(500);
    pair.model(STARTED);
    assert_eq!(told(&pair), ["conversation.item.truncate item_1 500"]);
    assert!(pair.session.stats().marks_early > 10);
}

#[test]
fn in_the_guard_window_nothing_is_cut_unless_the_caller_still_speaks_at_its_end() {
    let guard = |p: &mut Policy| p.barge_in.guard_ms = 1_000;
    for still in [false, true] {
        let mut pair = with(guard, |_| {});
        pair.model(&created("resp_1"));
        pair.model(&delta("item_1", &audio(5_000)));
        pair.pass(300);
        pair.model(STARTED);
        assert_eq!(cleared(&pair), 0);
        if !still {
            pair.model(STOPPED);
        }
        pair.pass(2_000);
        assert_eq!(cleared(&pair), usize::from(still));
        pair.model(UPDATED);
        pair.model(STARTED);
        assert_eq!(cleared(&pair), 1);
        let told = told(&pair);
        let cuts: Vec<_> = told.iter().filter(|t| t.contains("truncate")).collect();
        let at = if still { 1_000 } else { 2_300 };
        assert_eq!(cuts, [&format!("conversation.item.truncate item_1 {at}")]);
    }
}

#[test]
fn switched_off_nothing_is_ever_cut() {
    let mut pair = with(|p| p.barge_in.enabled = false, |_| {});
    pair.model(&created("resp_1"));
    pair.model(&delta("item_1", &audio(5_000)));
    pair.pass(300);
    pair.model(STARTED);
    pair.pass(1_000);
    assert_eq!((cleared(&pair), told(&pair)), (0, vec![]));
}

fn reversible() -> Pair {
    with(|p| p.barge_in.confirm_ms = 400, |_| {})
}

fn payloads(pair: &Pair) -> Vec<u8> {
    let mut bytes = Vec::new();
    let clear = clear();
    let texts = pair.carrier.texts();
    let at = texts
        .iter()
        .rposition(|t| *t == clear)
        .map_or(0, |at| at + 1);
    for text in &texts[at..] {
        if let Some(rest) = text.split(r#""payload":""#).nth(1) {
            let mut out = Vec::new();
            let text = rest.trim_end_matches(r#""}}"#).as_bytes();
            assert!(crate::proto::audio::base64::decode_into(text, &mut out));
            bytes.extend(out);
        }
    }
    bytes
}

#[test]
fn a_short_noise_is_taken_back_and_the_audio_goes_on_where_it_was_heard() {
    let mut pair = reversible();
    let all: Vec<u8> = (0..8_000u32).map(|n| (n % 251) as u8).collect();
    pair.model(&created("resp_1"));
    pair.model(&delta("item_1", &encode(&all[..4_000])));
    pair.model(&delta("item_1", &encode(&all[4_000..])));
    pair.pass(300);
    pair.model(STARTED);
    assert_eq!((cleared(&pair), told(&pair)), (1, vec![]));
    assert!(payloads(&pair).is_empty());
    pair.pass(200);
    pair.model(STOPPED);
    assert!(payloads(&pair) == all[2_400..]);
    let stats = pair.session.stats();
    assert_eq!((stats.pauses, stats.resumes, stats.barge_ins), (1, 1, 0));
    // It is heard to its end, with marks of the new generation, and nobody is told anything.
    pair.model(&audio_done("item_1"));
    pair.model(&done("resp_1", "completed"));
    pair.pass(700);
    pair.speak();
    assert!(!pair.session.playback().is_unheard());
    assert!(pair.carrier.texts().iter().any(|t| t.contains("g1.1.1000")));
    assert_eq!(told(&pair), [""; 0]);
    assert!(pair.facts.iter().any(|fact| matches!(
        fact,
        Fact::Heard {
            heard_ms: 1_000,
            total_ms: 1_000,
            ..
        }
    )));
}

#[test]
fn speech_that_lasts_is_an_interruption_at_the_heard_point() {
    let mut pair = reversible();
    pair.model(&created("resp_1"));
    pair.model(&delta("item_1", &audio(1_000)));
    pair.pass(300);
    pair.model(STARTED);
    pair.model(&delta("item_1", &audio(100)));
    assert_eq!(pair.session.paused_bytes(), 800);
    // 400 ms, and the 500 ms of silence after which the model tells of an end.
    pair.pass(899);
    assert_eq!(told(&pair), [""; 0]);
    pair.pass(1);
    assert_eq!(told(&pair), ["conversation.item.truncate item_1 300"]);
    assert_eq!((cleared(&pair), pair.session.paused_bytes()), (1, 0));
    pair.model(STOPPED);
    pair.model(&delta("item_1", &audio(100)));
    assert!(payloads(&pair).is_empty());
}

#[test]
fn audio_that_comes_during_the_pause_follows_what_was_taken_back() {
    let mut pair = reversible();
    pair.model(&created("resp_1"));
    pair.model(&delta("item_1", &encode(&[1; 2_400])));
    pair.pass(100);
    pair.model(STARTED);
    pair.model(&delta("item_1", &encode(&[2; 800])));
    pair.model(&delta("item_2", &encode(&[3; 80])));
    pair.model(STOPPED);
    // 800 bytes were heard; base64 is cut between its groups of three.
    let expected = [vec![1; 1_602], vec![2; 800], vec![3; 80]].concat();
    assert!(payloads(&pair) == expected);
    pair.pass(50);
    pair.model(STARTED);
    pair.pass(900);
    assert_eq!(
        told(&pair),
        [
            "conversation.item.truncate item_1 149",
            "conversation.item.truncate item_2 0"
        ]
    );
}

#[test]
fn audio_that_the_leg_did_not_take_does_not_come_back_with_a_resume() {
    let mut pair = reversible();
    pair.model(&created("resp_1"));
    pair.model(&delta("item_1", &encode(&[1; 8_000])));
    // Pongs of ours fill the leg.
    pair.carrier.takes = false;
    let ping = frame(Role::Client, Kind::Ping, &[b'p'; 125]);
    pair.feed(Leg::Carrier, &ping.repeat(40_000));
    pair.model(&delta("item_1", &encode(&[2; 4_000])));
    assert_eq!(pair.dropped(Drop::OutboxFull), 1);
    pair.carrier.takes = true;
    pair.pump();
    pair.pass(300);
    pair.model(STARTED);
    pair.model(STOPPED);
    assert_eq!(pair.session.stats().resumes, 1);
    assert!(payloads(&pair) == vec![1; 8_000 - 2_400]);
}

#[test]
fn a_call_that_ends_in_a_pause_accounts_for_every_byte() {
    let mut pair = reversible();
    pair.model(&delta("item_1", &audio(500)));
    pair.model(STARTED);
    pair.model(&delta("item_1", &audio(500)));
    pair.hang_up(crate::call::EndReason::HungUpByOperator);
    pair.wind_up();
}

#[test]
fn what_the_caller_hears_after_the_clear_is_only_what_came_after_it() {
    // Every split of the interruption's bytes, with audio of the next response right behind.
    let mut bytes = Vec::new();
    for event in [
        STARTED.to_owned(),
        delta("item_1", &audio(100)),
        done("resp_1", "cancelled"),
        created("resp_2"),
        delta("item_2", &audio(40)).replace("resp_1", "resp_2"),
    ] {
        bytes.extend(frame(Role::Server, Kind::Text, event.as_bytes()));
    }
    for split in (0..bytes.len()).step_by(7) {
        let mut pair = Pair::ready();
        pair.model(&created("resp_1"));
        pair.model(&delta("item_1", &audio(1_000)));
        pair.pass(250);
        pair.feed(Leg::Realtime, &bytes[..split]);
        pair.feed(Leg::Realtime, &bytes[split..]);
        assert_eq!(told(&pair), ["conversation.item.truncate item_1 250"]);
        assert!(payloads(&pair) == vec![0x33; 320]);
    }
}
