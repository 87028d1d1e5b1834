//! Who breaks a response off: the server by itself, or we, in the guard window, while a pause is not confirmed, and where the
//! server was told not to.

use super::barge_in::{STARTED, STOPPED, audio, cleared, created, done, told, with};
use super::harness::*;
use crate::call::fact::{Drop, Fact};
use crate::call::policy::Policy;
use crate::proto::realtime::settings::{Settings, TurnKind};

const REFUSED: &str = r#"{"type":"error","error":{"type":"invalid_request_error","code":"conversation_already_has_active_response","message":"Conversation already has an active response in progress: resp_1.","event_id":null}}"#;
const COMMITTED: &str = r#"{"type":"input_audio_buffer.committed","item_id":"item_u"}"#;

fn off(settings: &mut Settings) {
    settings.turn_detection.interrupt_response = false;
}

fn reversible(policy: &mut Policy) {
    policy.barge_in.confirm_ms = 400;
}

/// More audio, of another response than `resp_1`.
fn audio_of(response: &str, item: &str, ms: usize) -> String {
    delta(item, &audio(ms)).replace("resp_1", response)
}

/// `input_audio_buffer.speech_started` and `speech_stopped` of speech from `from` to `to`, on the server's clock.
fn speech(from: u64, to: u64) -> [String; 2] {
    let (start, end) = (from - 300, to + 500);
    [
        format!(r#"{{"type":"input_audio_buffer.speech_started","audio_start_ms":{start}}}"#),
        format!(r#"{{"type":"input_audio_buffer.speech_stopped","audio_end_ms":{end}}}"#),
    ]
}

#[test]
fn speech_is_measured_without_its_padding_and_the_silence_that_ends_it() {
    // Speech of so long; `speech_stopped` after so long; whether it is taken back.
    for (ms, stopped_after, back) in [
        (300, 800, true),
        (399, 899, true),
        (399, 600, true),
        (400, 880, false),
        (450, 950, false),
    ] {
        let mut pair = with(reversible, |_| {});
        let [started, stopped] = speech(1_000, 1_000 + ms);
        pair.model(&created("resp_1"));
        pair.model(&delta("item_1", &audio(1_000)));
        pair.pass(300);
        pair.model(&started);
        pair.pass(stopped_after);
        pair.model(&stopped);
        let stats = pair.session.stats();
        let counts = (stats.resumes, stats.barge_ins);
        assert_eq!(counts, (u64::from(back), u64::from(!back)), "{ms}");
        assert_eq!(told(&pair).is_empty(), back, "{ms}");
    }
}

#[test]
fn speech_without_times_is_measured_by_when_its_end_is_told() {
    for (after, back) in [(899, true), (900, false)] {
        let mut pair = with(reversible, |_| {});
        pair.model(&delta("item_1", &audio(1_000)));
        pair.model(r#"{"type":"input_audio_buffer.speech_started"}"#);
        pair.pass(after);
        pair.model(r#"{"type":"input_audio_buffer.speech_stopped"}"#);
        assert_eq!(pair.session.stats().resumes, u64::from(back));
    }
    // A model that tells by the meaning says nothing of silence.
    let mut pair = with(reversible, |s| {
        s.turn_detection.kind = TurnKind::SemanticVad
    });
    pair.model(&delta("item_1", &audio(1_000)));
    pair.model(STARTED);
    pair.pass(400);
    assert_eq!(pair.session.stats().barge_ins, 1);
}

#[test]
fn a_response_that_came_into_a_pause_is_cancelled_and_not_only_muted() {
    let mut pair = with(reversible, |_| {});
    pair.model(&created("resp_1"));
    pair.model(&delta("item_1", &audio(1_000)));
    pair.pass(300);
    pair.model(STARTED);
    pair.model(&done("resp_1", "cancelled"));
    // Asked for before the caller spoke: nobody breaks it off.
    pair.model(&created("resp_2"));
    pair.pass(900);
    assert_eq!(
        told(&pair),
        [
            "response.cancel resp_2",
            "conversation.item.truncate item_1 300"
        ]
    );
    pair.model(&audio_of("resp_2", "item_2", 100));
    assert_eq!(pair.dropped(Drop::LateDelta), 1);
    // The one that the server broke off itself needs no cancel.
    let mut pair = with(reversible, |_| {});
    pair.model(&created("resp_1"));
    pair.model(&delta("item_1", &audio(1_000)));
    pair.model(STARTED);
    pair.pass(900);
    assert_eq!(told(&pair), ["conversation.item.truncate item_1 0"]);
}

#[test]
fn where_the_server_goes_on_a_response_without_audio_is_cancelled_when_the_caller_speaks() {
    let mut pair = with(|_| {}, off);
    pair.model(&created("resp_1"));
    pair.model(STARTED);
    assert_eq!(told(&pair), ["response.cancel resp_1"]);
    pair.model(&delta("item_1", &audio(500)));
    assert!(pair.carrier.got.is_empty());
    // Between two deltas, when all of the first was heard.
    let mut pair = with(|_| {}, off);
    pair.model(&created("resp_1"));
    pair.model(&delta("item_1", &audio(200)));
    pair.pass(300);
    pair.model(STARTED);
    assert_eq!(told(&pair), ["response.cancel resp_1"]);
    assert_eq!(cleared(&pair), 0);
}

#[test]
fn where_the_server_goes_on_a_response_that_begins_under_the_callers_words_is_cancelled() {
    let mut pair = with(|_| {}, off);
    pair.model(STARTED);
    pair.model(&created("resp_1"));
    assert_eq!(told(&pair), ["response.cancel resp_1"]);
    pair.model(&done("resp_1", "cancelled"));
    pair.model(STOPPED);
    // The answer to those words is none of them.
    pair.model(&created("resp_2"));
    pair.model(&audio_of("resp_2", "item_2", 200));
    assert_eq!(told(&pair), ["response.cancel resp_1"]);
    assert_eq!(pair.session.stats().outbound_bytes_sent, 1_600);
    // Where nobody would answer those words, nothing is taken away; and where nothing is to be broken off.
    let mut silent = with(
        |_| {},
        |s| {
            off(s);
            s.turn_detection.create_response = false;
        },
    );
    let mut deaf = with(|p| p.barge_in.enabled = false, off);
    let mut guarded = with(|p| p.barge_in.guard_ms = 5_000, off);
    for pair in [&mut silent, &mut deaf, &mut guarded] {
        pair.model(STARTED);
        pair.model(&created("resp_1"));
        assert_eq!(told(pair), [""; 0]);
    }
}

#[test]
fn a_turn_whose_answer_the_server_refused_itself_is_answered_afterwards() {
    let mut pair = with(|p| p.barge_in.enabled = false, off);
    pair.model(&created("resp_1"));
    pair.model(&delta("item_1", &audio(500)));
    pair.model(STARTED);
    pair.model(STOPPED);
    pair.model(COMMITTED);
    // The old answer goes on, and is no answer to this.
    pair.model(&delta("item_1", &audio(500)));
    pair.model(REFUSED);
    assert_eq!(told(&pair), [""; 0]);
    pair.model(&done("resp_1", "completed"));
    assert_eq!(told(&pair), ["response.create"]);
    // Another turn begins before: that one's answer is for both.
    let mut pair = with(|p| p.barge_in.enabled = false, off);
    pair.model(&created("resp_1"));
    pair.model(STARTED);
    pair.model(STOPPED);
    pair.model(REFUSED);
    pair.model(STARTED);
    pair.model(&done("resp_1", "completed"));
    assert_eq!(told(&pair), [""; 0]);
    // And without a turn nothing is owed.
    let mut pair = with(|_| {}, off);
    pair.model(&created("resp_1"));
    pair.model(REFUSED);
    pair.model(&done("resp_1", "completed"));
    assert_eq!(told(&pair), [""; 0]);
}

#[test]
fn in_the_guard_window_the_server_does_not_break_off_and_afterwards_it_does() {
    let mut pair = with(|p| p.barge_in.guard_ms = 1_000, |_| {});
    let first = pair.facts.iter().find_map(|fact| match fact {
        Fact::SessionReady { session_update, .. } => Some(session_update.clone()),
        _ => None,
    });
    assert!(first.unwrap().contains(r#""interrupt_response":false"#));
    pair.model(&created("resp_1"));
    pair.model(&delta("item_1", &audio(300)));
    pair.model(STARTED);
    pair.model(STOPPED);
    pair.model(COMMITTED);
    // Noise is not answered either.
    pair.model(REFUSED);
    pair.model(&delta("item_1", &audio(300)));
    assert_eq!(pair.session.stats().outbound_bytes_sent, 4_800);
    assert_eq!(pair.dropped(Drop::LateDelta), 0);
    assert_eq!(told(&pair), [""; 0]);
    pair.pass(1_000);
    assert_eq!(told(&pair), ["session.update"]);
    let patch = pair.model.texts().pop().unwrap().to_owned();
    assert!(patch.contains(r#""interrupt_response":true"#), "{patch}");
    assert!(patch.contains(r#""silence_duration_ms":500"#), "{patch}");
    pair.model(&done("resp_1", "completed"));
    assert_eq!(told(&pair), ["session.update"]);
    // Once that is confirmed, nobody needs our cancel.
    pair.model(UPDATED);
    pair.model(&created("resp_2"));
    pair.model(&audio_of("resp_2", "item_2", 300));
    pair.model(STARTED);
    assert_eq!(
        told(&pair)[1..],
        ["conversation.item.truncate item_2 0".to_owned()]
    );
}

#[test]
fn who_still_speaks_when_the_guard_window_ends_interrupts_with_a_cancel() {
    let mut pair = with(|p| p.barge_in.guard_ms = 1_000, |_| {});
    pair.model(&created("resp_1"));
    pair.model(&delta("item_1", &audio(5_000)));
    pair.model(STARTED);
    pair.pass(1_000);
    assert_eq!(
        told(&pair),
        [
            "response.cancel resp_1",
            "conversation.item.truncate item_1 1000",
            "session.update"
        ]
    );
}

#[test]
fn a_guard_window_that_ends_before_the_session_is_confirmed_is_patched_then_or_never_set() {
    for late in [false, true] {
        let mut policy = Policy::default();
        policy.barge_in.guard_ms = 1_000;
        let mut pair = Pair::with(crate::call::session::Setup {
            policy: std::sync::Arc::new(policy),
            ..setup()
        });
        pair.carrier(START);
        if late {
            pair.pass(1_000);
        }
        pair.connect();
        pair.model(CREATED);
        if !late {
            pair.pass(1_000);
        }
        pair.model(UPDATED);
        let updates = told(&pair);
        let updates = updates.iter().filter(|t| *t == "session.update");
        assert_eq!(updates.count(), 2 - usize::from(late));
        let last = pair.model.texts().pop().unwrap().to_owned();
        assert!(last.contains(r#""interrupt_response":true"#), "{last}");
    }
}

#[test]
fn an_item_past_the_ledgers_room_is_truncated_at_nothing() {
    let mut pair = with(|_| {}, |_| {});
    pair.model(&created("resp_1"));
    for n in 1..=65 {
        pair.model(&delta(&format!("item_{n}"), &audio(20)));
    }
    assert_eq!(
        told(&pair),
        [
            "conversation.item.truncate item_65 0",
            "response.cancel resp_1"
        ]
    );
    // Once, whatever still comes of it.
    pair.model(&delta("item_65", &audio(20)));
    pair.model(&delta("item_66", &audio(20)));
    assert_eq!(
        told(&pair)[2..],
        ["conversation.item.truncate item_66 0".to_owned()]
    );
}
