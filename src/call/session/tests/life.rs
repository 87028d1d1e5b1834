//! Who speaks first, silence, the longest duration, the goodbye, keys, and where a turn's time goes.

use super::harness::*;
use crate::call::fact::{EndReason, Fact, Leg};
use crate::call::policy::{Dtmf, FirstSpeaker, Policy};
use crate::call::session::Setup;
use std::sync::Arc;

fn started(change: impl FnOnce(&mut Policy)) -> Pair {
    let mut policy = Policy::default();
    change(&mut policy);
    let mut pair = Pair::with(Setup {
        policy: Arc::new(policy),
        ..setup()
    });
    pair.carrier(START);
    pair
}

fn ready(change: impl FnOnce(&mut Policy)) -> Pair {
    let mut pair = started(change);
    confirm(&mut pair);
    pair
}

fn confirm(pair: &mut Pair) {
    pair.connect();
    pair.model(CREATED);
    pair.model(UPDATED);
}

/// The instructions of the responses that were asked for; "-" without.
fn asked(pair: &Pair) -> Vec<String> {
    let texts = pair.model.texts();
    let creates = texts
        .iter()
        .filter(|text| text.contains("\"response.create\""));
    creates
        .map(|text| {
            let value: serde_json::Value = serde_json::from_str(text).unwrap();
            let instructions = value["response"]["instructions"].as_str();
            instructions.unwrap_or("-").to_owned()
        })
        .collect()
}

/// The model answers what it was asked: `ms` of audio.
fn answer(pair: &mut Pair, item: &str, ms: u64) {
    let of = |text: &str| text.replace("resp_1", &format!("resp_{item}"));
    pair.model(&of(
        r#"{"type":"response.created","response":{"id":"resp_1"}}"#,
    ));
    pair.model(&of(&delta(item, &encode(&vec![0x55; ms as usize * 8]))));
    pair.model(&of(&format!(
        r#"{{"type":"response.output_audio.done","response_id":"resp_1","item_id":"{item}"}}"#
    )));
    pair.model(&of(
        r#"{"type":"response.done","response":{"id":"resp_1","status":"completed"}}"#,
    ));
}

/// The carrier returns every mark that it got and has not returned.
fn play(pair: &mut Pair) {
    let marks: Vec<String> = pair
        .carrier
        .texts()
        .iter()
        .filter(|text| text.contains(r#""event":"mark""#))
        .map(|text| (*text).to_owned())
        .collect();
    pair.carrier.got.clear();
    for mark in marks {
        pair.carrier(&mark);
    }
}

#[test]
fn the_agent_begins_when_it_is_to_and_only_then() {
    let pair = ready(|policy| {
        policy.first_speaker = FirstSpeaker::Agent;
        policy.greeting = "Say hello.".to_owned();
    });
    assert_eq!(
        asked(&pair),
        ["Be \"brief\".\n\nNow greet the caller: Say hello."]
    );
    assert!(asked(&ready(|_| {})).is_empty());

    let mut pair = ready(|policy| policy.first_speaker = FirstSpeaker::AfterMs(2_000));
    pair.pass(1_999);
    assert!(asked(&pair).is_empty());
    pair.pass(1);
    assert_eq!(asked(&pair), ["-"]);

    let mut pair = ready(|policy| policy.first_speaker = FirstSpeaker::AfterMs(2_000));
    pair.model(r#"{"type":"input_audio_buffer.speech_started"}"#);
    pair.pass(5_000);
    assert!(asked(&pair).is_empty(), "the caller was first");

    let mut pair = started(|policy| policy.first_speaker = FirstSpeaker::AfterMs(2_000));
    pair.pass(3_000);
    confirm(&mut pair);
    assert_eq!(
        asked(&pair),
        ["-"],
        "it was due before the session was ready"
    );
}

#[test]
fn noise_before_the_session_is_confirmed_does_not_keep_the_agent_from_beginning() {
    let mut pair = started(|policy| policy.first_speaker = FirstSpeaker::AfterMs(2_000));
    pair.connect();
    pair.model(CREATED);
    pair.model(&delta("item_1", &payload(1)));
    pair.model(UPDATED);
    pair.pass(2_000);
    assert_eq!(asked(&pair), ["-"]);
}

#[test]
fn the_agents_own_first_words_come_before_a_nudge_and_in_place_of_it() {
    let mut pair = ready(|policy| {
        policy.first_speaker = FirstSpeaker::AfterMs(2_000);
        policy.silence.nudge_after_ms = 1_500;
    });
    pair.pass(1_999);
    assert!(asked(&pair).is_empty());
    pair.pass(5_000);
    assert_eq!(asked(&pair).len(), 1, "it is about to speak");
}

#[test]
fn what_is_refused_because_the_model_answers_by_itself_is_no_nudge_and_no_greeting_any_more() {
    for greets in [false, true] {
        let mut pair = ready(|policy| {
            policy.silence.nudge_after_ms = 1_000;
            if greets {
                policy.first_speaker = FirstSpeaker::AfterMs(1_000);
            }
        });
        pair.pass(1_000);
        assert_eq!(asked(&pair).len(), 1);
        // The caller was faster.
        pair.model(r#"{"type":"input_audio_buffer.speech_started"}"#);
        pair.model(r#"{"type":"input_audio_buffer.speech_stopped"}"#);
        pair.model(r#"{"type":"response.created","response":{"id":"resp_1"}}"#);
        pair.model(r#"{"type":"error","error":{"type":"invalid_request_error","code":"conversation_already_has_active_response","message":"Conversation already has an active response in progress: resp_1."}}"#);
        pair.model(&delta("item_1", &encode(&[0x55; 16_000])));
        pair.model(r#"{"type":"response.done","response":{"id":"resp_1","status":"completed"}}"#);
        pair.pass(2_900);
        assert_eq!(
            asked(&pair).len(),
            1,
            "two seconds are heard, then it is silent"
        );
        pair.pass(200);
        assert_eq!(asked(&pair).len(), 2);
    }
}

#[test]
fn silence_is_nudged_twice_then_the_call_ends_when_the_goodbye_was_heard() {
    let mut pair = ready(|policy| {
        policy.silence.nudge_after_ms = 5_000;
        policy.silence.second_nudge_after_ms = 10_000;
        policy.silence.hang_up_after_ms = 15_000;
    });
    pair.pass(4_999);
    assert!(asked(&pair).is_empty());
    pair.pass(1);
    assert_eq!(asked(&pair).len(), 1);
    assert!(pair.facts.contains(&Fact::Nudged { stage: 1 }));
    answer(&mut pair, "a1", 3_000);
    // Three seconds of it are no silence.
    pair.pass(7_999);
    assert_eq!(asked(&pair).len(), 1);
    pair.pass(1);
    assert_eq!(asked(&pair).len(), 2);
    answer(&mut pair, "a2", 1_000);
    play(&mut pair);
    // One second of it is played, whatever a carrier's marks say.
    pair.pass(6_000);
    assert!(pair.facts.contains(&Fact::Goodbye {
        reason: EndReason::Silence
    }));
    assert_eq!(asked(&pair).len(), 3);
    answer(&mut pair, "a3", 2_000);
    assert_eq!(pair.reason(), None, "said, and not heard");
    pair.pass(1_500);
    assert_eq!(pair.reason(), None);
    pair.pass(500);
    play(&mut pair);
    assert_eq!(pair.reason(), Some(EndReason::Silence));
    assert_eq!(pair.carrier.close_code(), Some(1000));
    pair.wind_up();
}

#[test]
fn a_goodbye_whose_mark_never_comes_back_ends_half_a_second_late() {
    let mut pair = ready(|policy| policy.silence.hang_up_after_ms = 5_000);
    pair.pass(5_000);
    answer(&mut pair, "a1", 2_000);
    pair.pass(2_499);
    assert_eq!(pair.reason(), None);
    pair.pass(1);
    assert_eq!(pair.reason(), Some(EndReason::Silence));
}

#[test]
fn whoever_speaks_or_presses_a_key_begins_the_silence_anew() {
    for what in 0..3 {
        let mut pair = ready(|policy| {
            policy.silence.hang_up_after_ms = 5_000;
            policy.dtmf = Dtmf::Ignore;
        });
        pair.pass(4_900);
        match what {
            0 => {
                pair.model(r#"{"type":"input_audio_buffer.speech_started"}"#);
                pair.pass(60_000 - 20_000);
                pair.model(r#"{"type":"input_audio_buffer.speech_stopped"}"#);
            }
            1 => pair.carrier(&format!(
                r#"{{"event":"dtmf","streamSid":"{SID}","dtmf":{{"track":"inbound_track","digit":"5"}}}}"#
            )),
            _ => answer(&mut pair, "a1", 20),
        }
        pair.pass(4_900);
        if what == 0 {
            // Pings went unanswered in this test's long speech; only the goodbye counts here.
            assert!(!pair.facts.iter().any(|f| matches!(f, Fact::Goodbye { .. })));
            continue;
        }
        assert!(asked(&pair).is_empty(), "{what}");
        pair.pass(200);
        assert_eq!(asked(&pair).len(), 1, "{what}");
    }
}

#[test]
fn a_caller_who_comes_back_during_the_goodbye_is_not_hung_up() {
    let mut pair = ready(|policy| policy.silence.hang_up_after_ms = 5_000);
    pair.pass(5_000);
    pair.model(r#"{"type":"response.created","response":{"id":"resp_1"}}"#);
    pair.model(r#"{"type":"input_audio_buffer.speech_started"}"#);
    pair.model(r#"{"type":"response.done","response":{"id":"resp_1","status":"cancelled"}}"#);
    pair.model(r#"{"type":"input_audio_buffer.speech_stopped"}"#);
    pair.pass(4_000);
    assert_eq!(pair.reason(), None);
}

#[test]
fn a_key_pressed_during_the_goodbye_keeps_the_call_like_a_word() {
    for dtmf in [Dtmf::Text, Dtmf::Ignore] {
        let mut pair = ready(|policy| {
            policy.silence.hang_up_after_ms = 5_000;
            policy.dtmf = dtmf;
        });
        pair.pass(5_000);
        answer(&mut pair, "a1", 1_000);
        pair.pass(500);
        pair.carrier(&format!(
            r#"{{"event":"dtmf","streamSid":"{SID}","dtmf":{{"track":"inbound_track","digit":"5"}}}}"#
        ));
        pair.pass(500);
        play(&mut pair);
        pair.pass(3_000);
        assert_eq!(pair.reason(), None, "{dtmf:?}");
        let told = pair.model.texts();
        let told = told.iter().any(|t| t.contains("The caller pressed 5."));
        assert_eq!(told, dtmf == Dtmf::Text);
    }
}

#[test]
fn a_key_does_not_put_off_the_longest_duration() {
    let mut pair = ready(|policy| {
        policy.max_duration_secs = 10;
        policy.duration_warning_secs = 0;
    });
    pair.pass(10_000);
    answer(&mut pair, "a1", 1_000);
    pair.carrier(&format!(
        r#"{{"event":"dtmf","streamSid":"{SID}","dtmf":{{"track":"inbound_track","digit":"5"}}}}"#
    ));
    pair.pass(1_000);
    play(&mut pair);
    assert_eq!(pair.reason(), Some(EndReason::MaxDuration));
}

#[test]
fn the_longest_duration_is_announced_and_ends_with_a_goodbye() {
    let mut pair = ready(|policy| {
        policy.max_duration_secs = 19;
        policy.duration_warning_secs = 5;
    });
    pair.pass(14_000);
    assert!(
        pair.model
            .texts()
            .last()
            .unwrap()
            .contains("The call ends in 5 seconds.")
    );
    pair.pass(5_000);
    assert_eq!(asked(&pair).len(), 1);
    assert_eq!(pair.reason(), None);
    answer(&mut pair, "a1", 100);
    pair.pass(100);
    play(&mut pair);
    assert_eq!(pair.reason(), Some(EndReason::MaxDuration));

    // Before there is a model, at once.
    let mut pair = started(|policy| {
        policy.max_duration_secs = 2;
        policy.duration_warning_secs = 0;
    });
    pair.pass(2_000);
    assert_eq!(pair.reason(), Some(EndReason::MaxDuration));
}

#[test]
fn keys_pressed_together_are_one_text_and_a_hash_ends_it() {
    let mut pair = ready(|_| {});
    let press = |pair: &mut Pair, digit: char| {
        pair.carrier(&format!(
            r#"{{"event":"dtmf","streamSid":"{SID}","dtmf":{{"track":"inbound_track","digit":"{digit}"}}}}"#
        ));
    };
    press(&mut pair, '5');
    pair.pass(1_000);
    press(&mut pair, '2');
    pair.pass(1_499);
    assert!(asked(&pair).is_empty());
    pair.pass(1);
    assert!(
        pair.model
            .texts()
            .iter()
            .any(|t| t.contains("The caller pressed 52."))
    );
    assert_eq!(asked(&pair), ["-"]);
    answer(&mut pair, "a1", 20);
    press(&mut pair, '7');
    press(&mut pair, '#');
    assert!(
        pair.model
            .texts()
            .iter()
            .any(|t| t.contains("The caller pressed 7#."))
    );
    assert_eq!(asked(&pair).len(), 2);

    let mut pair = ready(|policy| policy.dtmf = Dtmf::Ignore);
    press(&mut pair, '5');
    pair.pass(5_000);
    assert!(asked(&pair).is_empty());
    assert!(pair.facts.contains(&Fact::Dtmf { digit: '5' }));
}

#[test]
fn keys_before_the_session_is_ready_are_told_when_it_is() {
    let mut pair = started(|_| {});
    pair.carrier(&format!(
        r##"{{"event":"dtmf","streamSid":"{SID}","dtmf":{{"track":"inbound_track","digit":"#"}}}}"##
    ));
    confirm(&mut pair);
    assert!(
        pair.model
            .texts()
            .iter()
            .any(|t| t.contains("The caller pressed #."))
    );
    assert_eq!(asked(&pair), ["-"]);
}

#[test]
fn a_turn_says_where_its_time_went() {
    let mut pair = ready(|_| {});
    pair.model(r#"{"type":"input_audio_buffer.speech_started"}"#);
    pair.model(r#"{"type":"input_audio_buffer.speech_stopped"}"#);
    pair.pass(90);
    pair.model(r#"{"type":"response.created","response":{"id":"resp_1"}}"#);
    pair.pass(400);
    pair.carrier.takes = false;
    // One send is with the kernel, so what follows waits.
    pair.feed(
        Leg::Carrier,
        &frame(
            crate::proto::ws::Role::Client,
            crate::proto::ws::writer::Kind::Ping,
            b"x",
        ),
    );
    pair.model(&delta("a1", &encode(&[0x55; 1_600])));
    pair.pass(10);
    pair.carrier.takes = true;
    pair.pump();
    pair.pass(250);
    play(&mut pair);
    let turn = pair
        .facts
        .iter()
        .find_map(|fact| match fact {
            Fact::Turn(turn) => Some(*turn),
            _ => None,
        })
        .expect("a turn");
    let ms: Vec<u128> = turn.stages().map(|(_, time)| time.as_millis()).collect();
    assert_eq!(ms, [90, 490, 500, 750]);
    assert_eq!(pair.session.turns().count(), 1);
}

/// The newest turn's stages, ms.
fn newest_turn(pair: &Pair) -> Vec<(&'static str, u128)> {
    let turn = pair.session.turns().last().expect("a turn");
    let stages = turn.stages();
    stages.map(|(name, at)| (name, at.as_millis())).collect()
}

#[test]
fn the_first_byte_is_on_time_after_a_barge_in() {
    let mut pair = ready(|_| {});
    pair.carrier.takes = false;
    pair.model(r#"{"type":"response.created","response":{"id":"resp_1"}}"#);
    for _ in 0..20 {
        pair.model(&delta("a1", &encode(&[0x55; 1_600])));
    }
    pair.model(r#"{"type":"input_audio_buffer.speech_started"}"#);
    pair.model(r#"{"type":"response.done","response":{"id":"resp_1","status":"cancelled"}}"#);
    pair.carrier.takes = true;
    pair.pump();
    pair.model(r#"{"type":"input_audio_buffer.speech_stopped"}"#);
    pair.pass(300);
    let of = |text: &str| text.replace("resp_1", "resp_2");
    pair.model(&of(
        r#"{"type":"response.created","response":{"id":"resp_1"}}"#,
    ));
    pair.model(&of(&delta("a2", &encode(&[0x66; 160]))));
    assert_eq!(
        newest_turn(&pair),
        [("created", 300), ("first_delta", 300), ("first_byte", 300)]
    );
}

#[test]
fn the_first_byte_is_the_first_of_a_long_message_not_its_last() {
    let mut pair = ready(|_| {});
    pair.model(r#"{"type":"input_audio_buffer.speech_stopped"}"#);
    pair.pass(200);
    pair.carrier.takes = false;
    // 53 KB of text: the first send takes 16.
    pair.model(&delta("a1", &encode(&[0x55; 40_000])));
    pair.pass(700);
    pair.carrier.takes = true;
    pair.pump();
    assert_eq!(
        newest_turn(&pair),
        [("first_delta", 200), ("first_byte", 200)]
    );
}

#[test]
fn marks_returned_at_once_do_not_cut_the_goodbye_off() {
    let mut pair = ready(|policy| {
        policy.max_duration_secs = 19;
        policy.duration_warning_secs = 5;
    });
    pair.pass(19_000);
    answer(&mut pair, "a1", 2_000);
    // A carrier that returns marks as it gets them has played nothing yet.
    play(&mut pair);
    assert_eq!(pair.reason(), None);
    pair.pass(1_900);
    assert_eq!(pair.reason(), None);
    pair.pass(700);
    assert_eq!(pair.reason(), Some(EndReason::MaxDuration));
}
