//! The caller's audio on its way to the model: order, gaps, pads, what is not passed on.

use super::harness::*;
use crate::base::limit;
use crate::call::fact::{Drop, EndReason, Fact, Leg};
use crate::proto::ws::Role;
use crate::proto::ws::writer::Kind;

const STARTED: &str =
    r#"{"type":"input_audio_buffer.speech_started","audio_start_ms":0,"item_id":"i"}"#;
const STOPPED: &str =
    r#"{"type":"input_audio_buffer.speech_stopped","audio_end_ms":9,"item_id":"i"}"#;

#[test]
fn the_callers_audio_arrives_untouched_and_in_order() {
    let mut pair = Pair::ready();
    let spoken: Vec<_> = (0..500).map(|_| pair.speak()).collect();
    assert_eq!(pair.appended(), spoken);
    let stats = pair.session.stats();
    assert_eq!(
        (stats.inbound_frames, stats.inbound_frames_sent),
        (500, 500)
    );
    assert_eq!(stats.inbound_bytes_sent, 500 * 160);
    assert_eq!(
        (stats.fills, stats.sequence_gaps, stats.scan_fallbacks),
        (0, 0, 0)
    );
}

#[test]
fn both_directions_carry_the_same_bytes_however_they_are_cut() {
    // Everything both peers say in a short call, as two byte streams.
    let mut up = Vec::new();
    let mut spoken = Vec::new();
    for n in 0..3 {
        spoken.push(payload(n));
        let text = media(61 + n * 20, 1 + n, &spoken[n as usize]);
        up.extend(frame(Role::Client, Kind::Text, text.as_bytes()));
    }
    let heard = [encode(&[1; 160]), encode(&[2; 2000])];
    let mut down = Vec::new();
    for text in &heard {
        down.extend(frame(
            Role::Server,
            Kind::Text,
            delta("item_1", text).as_bytes(),
        ));
    }
    for (leg, bytes) in [(Leg::Carrier, &up), (Leg::Realtime, &down)] {
        for split in 0..=bytes.len() {
            let mut pair = Pair::ready();
            pair.feed(leg, &bytes[..split]);
            pair.feed(leg, &bytes[split..]);
            check(&pair, leg, &spoken, &heard);
        }
        let mut pair = Pair::ready();
        for byte in bytes {
            pair.feed(leg, &[*byte]);
        }
        check(&pair, leg, &spoken, &heard);
    }

    fn check(pair: &Pair, leg: Leg, spoken: &[String], heard: &[String]) {
        match leg {
            Leg::Carrier => assert_eq!(pair.appended(), spoken),
            Leg::Realtime | Leg::Standby => {
                let texts = pair.carrier.texts();
                let media: Vec<_> = texts.iter().filter(|text| text.contains("media")).collect();
                assert_eq!(media.len(), 2);
                for (text, payload) in media.iter().zip(heard) {
                    assert!(text.contains(payload.as_str()));
                }
            }
        }
    }
}

#[test]
fn frames_leave_whole_and_a_frame_longer_than_a_send_in_pieces() {
    for max in [1, 7, 100, 300, 1000] {
        let mut pair = Pair::ready();
        pair.model.max = max;
        let spoken: Vec<_> = (0..3).map(|_| pair.speak()).collect();
        assert_eq!(pair.appended(), spoken);
    }
}

#[test]
fn a_pause_in_stream_time_is_filled_with_silence_before_the_frame() {
    let mut pair = Pair::ready();
    let first = pair.speak();
    pair.stamp += 2_500;
    let second = pair.speak();
    let second_of_silence = encode(&[0xFF; 8_000]);
    assert_eq!(
        pair.appended(),
        [
            first,
            second_of_silence.clone(),
            second_of_silence,
            encode(&[0xFF; 4_000]),
            second
        ]
    );
    let stats = pair.session.stats();
    assert_eq!((stats.fills, stats.filled_bytes), (1, 2_500 * 8));
    assert_eq!(stats.inbound_frames_sent, 2);
}

#[test]
fn a_late_frame_is_no_gap() {
    let mut pair = Pair::ready();
    for wait in [0, 3_000, 0, 0, 600, 0] {
        pair.at_ms += wait;
        pair.speak();
    }
    assert_eq!(pair.appended().len(), 6);
    assert_eq!(pair.session.stats().fills, 0);
}

#[test]
fn a_gap_too_long_is_filled_for_ten_seconds_and_counted() {
    let mut pair = Pair::ready();
    pair.speak();
    pair.stamp += 3_600_000;
    pair.speak();
    pair.speak();
    let stats = pair.session.stats();
    assert_eq!(stats.filled_bytes, limit::GAP_FILL_MS_MAX * 8);
    assert_eq!(stats.fills, 1);
    assert_eq!(pair.dropped(Drop::GapTooLong), 1);
    assert_eq!(pair.appended().len(), 3 + 10);
}

#[test]
fn no_number_drops_audio() {
    let strange = [
        ("0", "1"),
        ("0", "1"),
        ("18446744073709551615", "18446744073709551615"),
        ("5", "0"),
        ("0", "7"),
    ];
    let mut pair = Pair::ready();
    for (stamp, chunk) in strange {
        let text = media(0, 0, "AAAA")
            .replace(r#""timestamp":"0""#, &format!(r#""timestamp":"{stamp}""#))
            .replace(r#""chunk":"0""#, &format!(r#""chunk":"{chunk}""#));
        pair.carrier(&text);
    }
    pair.carrier(&format!(
        r#"{{"event":"media","media":{{"payload":"AAAA"}},"streamSid":"{SID}"}}"#
    ));
    assert_eq!(pair.session.stats().inbound_frames_sent, 6);
    // The one that follows 2^64 - 1 as 0 is in order; the repeated, the jump and the last are not.
    assert_eq!(pair.session.stats().sequence_gaps, 3);
    assert_eq!(pair.session.stats().stamp_anomalies, 1);
}

#[test]
fn without_chunk_numbers_the_messages_own_tell_of_loss() {
    let mut pair = Pair::ready();
    let frame = |pair: &mut Pair, sequence: u64| {
        let before = pair.session.stats().sequence_gaps;
        pair.carrier(&format!(
            r#"{{"event":"media","sequenceNumber":"{sequence}","media":{{"payload":"AAAA"}},"streamSid":"{SID}"}}"#
        ));
        pair.session.stats().sequence_gaps - before
    };
    assert_eq!(frame(&mut pair, 7), 0, "the first one follows nothing");
    assert_eq!(frame(&mut pair, 8), 0);
    assert_eq!(frame(&mut pair, 10), 1);
    // A key has a number of its own.
    pair.carrier(&format!(
        r#"{{"event":"dtmf","streamSid":"{SID}","sequenceNumber":"11","dtmf":{{"digit":"7"}}}}"#
    ));
    assert_eq!(frame(&mut pair, 12), 0);
    assert_eq!(frame(&mut pair, 14), 1);
    assert_eq!(frame(&mut pair, 14), 1);
}

#[test]
fn a_bare_event_ends_marks_and_presses_nothing() {
    let mut pair = Pair::ready();
    let keys = |pair: &Pair| {
        let is_key = |fact: &&Fact| matches!(fact, Fact::Dtmf { .. });
        pair.facts.iter().filter(is_key).count()
    };
    pair.carrier(r#"{"event":"stop"}"#);
    assert_eq!(pair.reason(), None);
    pair.carrier(r#"{"event":"dtmf","dtmf":{"digit":"7"}}"#);
    assert_eq!((pair.reason(), keys(&pair)), (None, 0));
    assert_eq!(pair.dropped(Drop::ForeignStream), 2);
    pair.carrier(r#"{"event":"mark","mark":{"name":"g0.1.200"}}"#);
    assert_eq!(pair.dropped(Drop::UnknownMark), 0);
    // The third message of no stream of ours.
    assert_eq!(pair.carrier.close_code(), Some(1008));
    assert_eq!(pair.wind_up(), EndReason::NotAuthorized);
}

#[test]
fn a_lost_chunk_is_counted() {
    let mut pair = Pair::ready();
    pair.speak();
    pair.chunk += 1;
    pair.speak();
    pair.speak();
    assert_eq!(pair.session.stats().sequence_gaps, 1);
}

#[test]
fn a_caller_who_goes_mute_in_mid_speech_gets_one_pad_that_later_filling_deducts() {
    let mut pair = Pair::ready();
    pair.speak();
    pair.model(STARTED);
    pair.pass(749);
    assert_eq!(pair.session.stats().padded_bytes, 0);
    pair.pass(1);
    assert_eq!(pair.session.stats().padded_bytes, 8_000);
    assert_eq!(pair.appended().last(), Some(&encode(&[0xFF; 8_000])));
    pair.pass(5_000);
    assert_eq!(pair.session.stats().padded_bytes, 8_000, "once");
    // 3 s are missing in stream time; 1 s of them was padded.
    pair.stamp += 3_000;
    pair.speak();
    assert_eq!(pair.session.stats().filled_bytes, 2_000 * 8);
    // Still open, mute again: the next pad.
    pair.pass(750);
    assert_eq!(pair.session.stats().padded_bytes, 16_000);
}

#[test]
fn no_pad_while_audio_comes_or_when_speech_is_not_open() {
    let mut pair = Pair::ready();
    pair.speak();
    pair.pass(5_000);
    pair.speak();
    pair.model(STARTED);
    for _ in 0..100 {
        pair.pass(20);
        pair.speak();
    }
    pair.model(STOPPED);
    pair.pass(5_000);
    assert_eq!(pair.session.stats().padded_bytes, 0);
}

#[test]
fn bad_base64_is_dropped_and_counted() {
    let mut pair = Pair::ready();
    for bad in [
        "A",
        "AAA",
        "AA=A",
        "====",
        "AAA!",
        "AAAA AAAA",
        "_-AA",
        "AAAA\\n",
    ] {
        pair.carrier(&media(0, 1, bad));
    }
    assert!(pair.model.got.is_empty());
    assert_eq!(pair.dropped(Drop::BadBase64), 8);
    assert_eq!(pair.session.stats().inbound_bytes, 0);
    assert_eq!(pair.reason(), None);
}

#[test]
fn an_escaped_payload_takes_the_slow_path_and_arrives_the_same() {
    let mut pair = Pair::ready();
    pair.carrier(&media(0, 1, r"\u0041AAA\/\/\/\/"));
    assert_eq!(pair.appended(), ["AAAA////"]);
    assert_eq!(pair.session.stats().scan_fallbacks, 1);
}

#[test]
fn an_empty_payload_is_a_frame_without_audio() {
    let mut pair = Pair::ready();
    pair.carrier(&media(0, 1, ""));
    assert!(pair.model.got.is_empty());
    assert_eq!(pair.session.stats().inbound_frames, 1);
}

#[test]
fn the_outbound_track_is_not_given_to_the_model() {
    let mut pair = Pair::ready();
    let text = media(0, 1, "AAAA").replace(r#""inbound""#, r#""outbound""#);
    pair.carrier(&text);
    assert!(pair.model.got.is_empty());
    assert_eq!(pair.dropped(Drop::OutboundTrack), 1);
}

#[test]
fn another_streams_audio_is_dropped_and_the_third_time_closes_with_1008() {
    let mut pair = Pair::ready();
    let foreign = media(0, 1, "AAAA").replace(SID, "MZother");
    let nameless = media(0, 1, "AAAA").replace(&format!(r#","streamSid":"{SID}""#), "");
    for text in [&foreign, &nameless] {
        pair.carrier(text);
        assert_eq!(pair.reason(), None);
    }
    pair.speak();
    pair.carrier(&foreign);
    assert_eq!(pair.dropped(Drop::ForeignStream), 3);
    assert_eq!(pair.appended().len(), 1);
    assert_eq!(pair.carrier.close_code(), Some(1008));
    assert_eq!(pair.wind_up(), EndReason::NotAuthorized);
}

#[test]
fn a_model_that_takes_nothing_costs_bounded_memory_and_counted_audio() {
    let mut pair = Pair::ready();
    pair.model.takes = false;
    let big = encode(&[0x11; 36_000]);
    for n in 0..200 {
        pair.carrier(&media(n * 4_500, n + 1, &big));
    }
    assert!(pair.dropped(Drop::OutboxFull) > 90);
    let stats = pair.session.stats();
    assert_eq!(
        stats.inbound_bytes_sent + stats.inbound_bytes_dropped,
        200 * 36_000
    );
    assert!(pair.session.wires.realtime.waiting() <= limit::OUTBOX_BYTES_MAX);
    // It wakes up: what was kept arrives whole.
    pair.model.takes = true;
    pair.pump();
    let sent = pair.session.stats().inbound_frames_sent as usize;
    assert_eq!(pair.appended(), vec![big; sent]);
}

#[test]
fn keys_are_reported() {
    let mut pair = Pair::ready();
    pair.carrier(&format!(
        r#"{{"event":"dtmf","streamSid":"{SID}","sequenceNumber":"57","dtmf":{{"track":"inbound_track","digit":"7"}}}}"#
    ));
    assert_eq!(
        pair.facts.last(),
        Some(&crate::call::fact::Fact::Dtmf { digit: '7' })
    );
}
