//! From the carrier's first byte to a confirmed session.

use super::harness::*;
use crate::base::id::CallSid;
use crate::base::limit;
use crate::call::fact::{Drop, EndReason, Fact, Leg};
use crate::call::session::Closed;

fn start_with(from: &str, to: &str) -> Pair {
    assert!(START.contains(from));
    let mut pair = Pair::new();
    pair.carrier(&START.replace(from, to));
    pair
}

#[test]
fn a_good_start_dials_and_is_reported_with_its_parameters() {
    let pair = Pair::started();
    let Fact::Started {
        stream_sid,
        call_sid,
        parameters,
    } = &pair.facts[0]
    else {
        panic!("{:?}", pair.facts)
    };
    assert_eq!(stream_sid.as_str(), SID);
    assert_eq!(call_sid.unwrap().as_str(), "CA1");
    assert_eq!(parameters, &[("tenant".to_owned(), "acme".to_owned())]);
}

#[test]
fn start_without_connected_is_a_start() {
    let mut pair = Pair::new();
    pair.carrier(START);
    assert_eq!(pair.dials, 1);
}

#[test]
fn no_start_in_time_ends_the_call() {
    let mut pair = Pair::new();
    pair.carrier(r#"{"event":"connected","protocol":"Call","version":"1.0.0"}"#);
    pair.pass(limit::START_DEADLINE.as_millis() as u64 - 1);
    assert_eq!(pair.reason(), None);
    pair.pass(1);
    assert_eq!(pair.carrier.close_code(), Some(1008));
    assert_eq!(pair.wind_up(), EndReason::StartTimeout);
}

#[test]
fn another_audio_format_is_refused_with_1003() {
    for (from, to) in [
        ("audio/x-mulaw", "audio/x-l16"),
        ("8000", "16000"),
        (r#""channels":1"#, r#""channels":2"#),
    ] {
        let mut pair = start_with(from, to);
        assert_eq!(pair.dials, 0);
        assert_eq!(pair.carrier.close_code(), Some(1003));
        assert_eq!(pair.wind_up(), EndReason::UnsupportedMedia);
    }
}

#[test]
fn mu_law_in_other_spellings_and_without_a_format_is_accepted() {
    for (from, to) in [
        ("audio/x-mulaw", "audio/mulaw"),
        ("audio/x-mulaw", "audio/PCMU"),
        ("audio/x-mulaw", "PCMU"),
        (r#","channels":1"#, ""),
        (
            r#","mediaFormat":{"encoding":"audio/x-mulaw","sampleRate":8000,"channels":1}"#,
            "",
        ),
    ] {
        let pair = start_with(from, to);
        assert_eq!(pair.dials, 1, "{from} as {to}: {:?}", pair.facts);
    }
}

#[test]
fn a_start_of_another_call_than_the_tickets_is_refused_with_1008() {
    for sid in ["CA2", "CA11"] {
        let mut pair = Pair::with(crate::call::session::Setup {
            expected_call_sid: CallSid::new(sid),
            ..setup()
        });
        pair.carrier(START);
        assert_eq!(pair.dials, 0);
        assert_eq!(pair.carrier.close_code(), Some(1008));
        assert_eq!(pair.wind_up(), EndReason::NotAuthorized);
    }
}

#[test]
fn a_start_of_the_tickets_call_is_accepted() {
    let mut pair = Pair::with(crate::call::session::Setup {
        expected_call_sid: CallSid::new("CA1"),
        ..setup()
    });
    pair.carrier(START);
    assert_eq!(pair.dials, 1);
}

#[test]
fn a_start_without_a_stream_id_is_dropped_and_the_deadline_goes_on() {
    let mut pair = Pair::new();
    pair.carrier(r#"{"event":"start","start":{"callSid":"CA1"}}"#);
    assert_eq!(pair.dropped(Drop::Malformed), 1);
    assert_eq!(pair.dials, 0);
    pair.carrier(START);
    assert_eq!(pair.dials, 1);
}

#[test]
fn a_second_start_is_dropped_and_counted() {
    let mut pair = Pair::started();
    pair.carrier(&START.replace("acme", "evil"));
    assert_eq!(pair.dropped(Drop::SecondStart), 1);
    assert_eq!(pair.dials, 1);
    let starts = |fact: &&Fact| matches!(fact, Fact::Started { .. });
    assert_eq!(pair.facts.iter().filter(starts).count(), 1);
}

#[test]
fn custom_parameters_are_bounded_in_number_and_length() {
    let mut pair = Pair::new();
    let fits = "\u{e4}".repeat(limit::PARAMETER_CHARS_MAX - 3);
    let mut parameters = vec![format!(r#""fit":"{fits}""#), format!(r#""long":"{fits}""#)];
    parameters.extend((0..200).map(|n| format!(r#""p{n}":"{n}""#)));
    pair.carrier(&START.replace(r#""tenant":"acme""#, &parameters.join(",")));
    let Some(Fact::Started { parameters, .. }) = pair.facts.first() else {
        panic!("{:?}", pair.facts);
    };
    assert_eq!(parameters.len(), limit::PARAMETERS_MAX);
    assert_eq!(parameters[0], ("fit".to_owned(), fits));
    assert_eq!(parameters[1], ("p0".to_owned(), "0".to_owned()));
    assert_eq!(pair.dropped(Drop::Parameter), 202 - 64);
    assert_eq!(pair.dials, 1);
}

#[test]
fn media_before_start_is_dropped_and_counted() {
    let mut pair = Pair::new();
    pair.speak();
    assert_eq!(pair.dropped(Drop::BeforeStart), 1);
    assert_eq!(pair.session.stats().inbound_bytes, 0);
    assert_eq!(pair.reason(), None);
}

#[test]
fn the_update_waits_for_the_server_and_audio_for_its_echo() {
    let mut pair = Pair::started();
    let mut spoken = vec![pair.speak()];
    pair.connect();
    assert!(pair.model.got.is_empty());
    pair.model(CREATED);
    spoken.push(pair.speak());
    let texts = pair.model.texts();
    assert_eq!(texts.len(), 1, "{texts:?}");
    assert!(texts[0].contains(r#""type":"session.update""#));
    assert!(texts[0].contains("audio/pcmu"));
    let update = texts[0].to_owned();
    pair.model(UPDATED);
    assert_eq!(pair.appended(), spoken);
    assert_eq!(pair.session.stats().held_bytes_peak, 320);
    assert_eq!(
        pair.facts.last(),
        Some(&Fact::SessionReady {
            session_id: "sess_1".to_owned(),
            session_update: update,
        })
    );
}

#[test]
fn an_update_from_a_server_that_was_not_asked_opens_nothing() {
    let mut pair = Pair::started();
    pair.connect();
    pair.model(UPDATED);
    pair.speak();
    assert!(pair.model.got.is_empty());
}

#[test]
fn another_format_than_pcmu_ends_the_call() {
    for (from, to) in [
        (
            r#""input":{"format":{"type":"audio/pcmu"}}"#,
            r#""input":{"format":{"type":"audio/pcm"}}"#,
        ),
        (
            r#""output":{"format":{"type":"audio/pcmu"}}"#,
            r#""output":{"format":{"type":"audio/pcma"}}"#,
        ),
        (r#","output":{"format":{"type":"audio/pcmu"}}"#, ""),
    ] {
        assert!(UPDATED.contains(from));
        let mut pair = Pair::started();
        pair.connect();
        pair.model(CREATED);
        pair.speak();
        pair.model(&UPDATED.replace(from, to));
        assert_eq!(pair.appended(), Vec::<String>::new());
        assert_eq!(pair.model.close_code(), Some(1000));
        assert_eq!(pair.carrier.close_code(), Some(1011));
        assert_eq!(pair.dropped(Drop::EarlyAudio), 1);
        assert_eq!(pair.wind_up(), EndReason::RealtimeSetup);
    }
}

#[test]
fn a_beta_echo_is_accepted() {
    let mut pair = Pair::started();
    pair.connect();
    pair.model(CREATED);
    pair.model(r#"{"type":"session.updated","session":{"id":"s","input_audio_format":"g711_ulaw","output_audio_format":"g711_ulaw"}}"#);
    assert!(matches!(pair.facts.last(), Some(Fact::SessionReady { .. })));
}

#[test]
fn a_later_update_that_changes_the_format_ends_the_call() {
    let mut pair = Pair::ready();
    pair.model(UPDATED);
    assert_eq!(pair.reason(), None);
    pair.model(&UPDATED.replace("audio/pcmu", "audio/pcm"));
    assert_eq!(pair.wind_up(), EndReason::RealtimeSetup);
}

#[test]
fn a_dial_that_fails_ends_the_call_and_says_why() {
    let mut pair = Pair::started();
    pair.session
        .handle_upstream(failed("no route to host"), now(pair.at_ms));
    pair.pump();
    assert!(pair.facts.contains(&Fact::Note {
        text: "no route to host".to_owned()
    }));
    assert_eq!(pair.carrier.close_code(), Some(1011));
    assert_eq!(pair.wind_up(), EndReason::RealtimeUnavailable);
}

#[test]
fn the_set_up_deadline_counts_from_the_dial_and_names_the_phase() {
    let deadline = limit::UPSTREAM_DEADLINE.as_millis() as u64;
    let mut pair = Pair::started();
    pair.pass(deadline);
    assert_eq!(pair.wind_up(), EndReason::RealtimeUnavailable);

    let mut pair = Pair::started();
    pair.pass(deadline / 2);
    pair.connect();
    pair.model(CREATED);
    pair.pass(deadline / 2);
    assert_eq!(pair.wind_up(), EndReason::RealtimeSetup);

    let mut pair = Pair::ready();
    pair.pass(deadline);
    assert_eq!(pair.reason(), None);
}

#[test]
fn an_error_that_answers_the_update_ends_the_call_and_says_why() {
    for event_id in [r#""vr_session_1""#, "null"] {
        let mut pair = Pair::started();
        pair.connect();
        pair.model(CREATED);
        pair.model(&format!(
            r#"{{"type":"error","error":{{"type":"invalid_request_error","code":"unknown_parameter","message":"no","param":"session.x","event_id":{event_id}}}}}"#
        ));
        assert!(pair.facts.contains(&Fact::RealtimeError {
            code: "unknown_parameter".to_owned(),
            message: "no".to_owned()
        }));
        assert_eq!(pair.wind_up(), EndReason::RealtimeSetup);
    }
}

#[test]
fn an_error_that_means_no_service_ends_the_call_before_it_is_ready() {
    for (kind, code) in [
        ("invalid_request_error", r#""invalid_api_key""#),
        ("insufficient_quota", "null"),
        ("invalid_request_error", r#""beta_api_shape_disabled""#),
    ] {
        for created in [false, true] {
            let mut pair = Pair::started();
            pair.connect();
            if created {
                pair.model(CREATED);
            }
            pair.model(&format!(
                r#"{{"type":"error","error":{{"type":"{kind}","code":{code},"message":"m"}}}}"#
            ));
            assert_eq!(pair.wind_up(), EndReason::RealtimeUnavailable);
        }
    }
}

#[test]
fn early_audio_keeps_the_newest_five_seconds_and_goes_out_in_order() {
    let mut pair = Pair::started();
    let spoken: Vec<_> = (0..400)
        .map(|_| {
            pair.at_ms += 20;
            pair.speak()
        })
        .collect();
    assert_eq!(pair.session.held_bytes(), 40_000);
    assert_eq!(pair.dropped(Drop::EarlyAudio), 150);
    assert_eq!(pair.session.stats().inbound_bytes_dropped, 150 * 160);
    pair.connect();
    pair.model(CREATED);
    pair.model(UPDATED);
    assert_eq!(pair.appended(), spoken[150..]);
    assert_eq!(pair.session.held_bytes(), 0);
    assert_eq!(pair.session.stats().held_bytes_peak, 40_000);
    let next = pair.speak();
    assert_eq!(pair.appended().last(), Some(&next));
}

#[test]
fn a_gap_in_early_audio_is_filled_in_its_place() {
    let mut pair = Pair::started();
    let first = pair.speak();
    pair.stamp += 60;
    let second = pair.speak();
    pair.connect();
    pair.model(CREATED);
    pair.model(UPDATED);
    let silence = encode(&[0xFF; 480]);
    assert_eq!(pair.appended(), [first, silence, second]);
    assert_eq!(pair.session.stats().filled_bytes, 480);
    assert_eq!(pair.session.stats().fills, 1);
}

#[test]
fn the_model_that_leaves_before_it_is_ready_was_unavailable() {
    for phase in 0..3 {
        for how in 0..3 {
            let mut pair = Pair::started();
            pair.connect();
            if phase > 0 {
                pair.model(CREATED);
            }
            if phase > 1 {
                pair.model(UPDATED);
            }
            match how {
                0 => pair.close(Leg::Realtime, 4000),
                1 => pair.gone(Leg::Realtime, Closed::Eof),
                _ => pair.gone(Leg::Realtime, Closed::Broken),
            }
            assert_eq!(pair.carrier.close_code(), Some(1011));
            let reason = pair.wind_up();
            if phase > 1 {
                assert_eq!(reason, EndReason::RealtimeLost);
            } else {
                assert_eq!(reason, EndReason::RealtimeUnavailable);
            }
        }
    }
}
