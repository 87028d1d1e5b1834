use super::super::event::tests::samples;
use super::super::event::{Ended, Erased, Event, Noted, Opened, Progress, Started, Used};
use super::*;
use crate::store::record::call::NoteSource;
use crate::store::record::money::Nano;
use proptest::prelude::*;

fn stamp(seq: u64, unix_ms: u64, call: &str) -> Stamp {
    Stamp {
        seq,
        unix_ms,
        call_id: CallId::new(call),
    }
}

fn folded(journal: &[(Stamp, Event)]) -> State {
    let mut state = State::default();
    for (stamp, event) in journal {
        apply(&mut state, stamp, event);
    }
    state
}

fn ended(reason: &str, duration_ms: Option<u64>) -> Event {
    let reason = reason.to_owned();
    Ended {
        reason,
        duration_ms,
    }
    .into()
}

fn progress(phase: Phase) -> Event {
    Progress {
        phase,
        carrier_status: None,
    }
    .into()
}

/// A journal of a few calls, of events of all kinds in any order, with clocks that jump.
fn journals() -> impl Strategy<Value = Vec<(Stamp, Event)>> {
    let phases = (0..Phase::ALL.len()).prop_map(|n| progress(Phase::ALL[n]));
    let others = (0..samples().len()).prop_map(|n| samples().swap_remove(n));
    let event = prop_oneof![3 => others, 2 => phases];
    let entry = (event, 0..3u8, 0..5_000u64, 1..4u64);
    prop::collection::vec(entry, 0..40).prop_map(|entries| {
        let mut seq = 0;
        let mut journal = Vec::new();
        for (event, call, unix_ms, step) in entries {
            seq += step;
            journal.push((stamp(seq, unix_ms, &format!("call{call}")), event));
        }
        journal
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn any_replay_gives_what_one_pass_gave(
        journal in journals(),
        restarts in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
    ) {
        let once = folded(&journal);
        // Twice from the start, and from any place before the end.
        let mut state = folded(&journal);
        for at in restarts {
            let from = at.index(journal.len() + 1);
            for (stamp, event) in &journal[from..] {
                prop_assert!(!apply(&mut state, stamp, event));
            }
            prop_assert_eq!(&state, &once);
        }
    }

    #[test]
    fn a_beginning_and_then_all_of_it_is_all_of_it(journal in journals(), at: prop::sample::Index) {
        let end = at.index(journal.len() + 1);
        let mut state = folded(&journal[..end]);
        for (stamp, event) in &journal {
            apply(&mut state, stamp, event);
        }
        prop_assert_eq!(state, folded(&journal));
    }

    #[test]
    fn a_snapshot_stands_for_everything_before_it(journal in journals(), at: prop::sample::Index) {
        let end = at.index(journal.len() + 1);
        let before = folded(&journal[..end]);
        let mut state = State::default();
        for (id, record) in &before.calls {
            apply(&mut state, &stamp(1, 0, id), &record.clone().into());
        }
        for (name, row) in &before.agents {
            let snapshot = super::super::event::AgentSnapshot { name: name.clone(), row: row.clone() };
            apply(&mut state, &stamp(1, 0, "x"), &snapshot.into());
        }
        // The part that the snapshot stands for may come again.
        for (stamp, event) in &journal[end / 2..] {
            apply(&mut state, stamp, event);
        }
        prop_assert_eq!(state, folded(&journal));
    }

    #[test]
    fn a_status_never_goes_backward_and_time_neither(journal in journals()) {
        let mut state = State::default();
        for (stamp, event) in &journal {
            let before = state.clone();
            apply(&mut state, stamp, event);
            for (id, record) in &before.calls {
                let (old, new) = (&record.call, &state.calls[id].call);
                let reset = matches!(event, Event::CallSnapshot(_)) || new.erased;
                prop_assert!(reset || new.phase >= old.phase);
                prop_assert!(reset || !old.phase.is_over() || new.phase == old.phase);
                prop_assert!(reset || new.updated_ms >= old.updated_ms);
                prop_assert!(new.applied >= old.applied);
            }
        }
    }

    #[test]
    fn rows_survive_their_json(journal in journals()) {
        for record in folded(&journal).calls.values() {
            let text = serde_json::to_string(record).unwrap();
            let back: CallRecord = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(&back, record);
        }
    }
}

#[test]
fn a_whole_call_reads_as_it_was() {
    let mut seq = 0;
    let mut journal = Vec::new();
    let mut tell = |unix_ms, event: Event| {
        seq += 1;
        journal.push((stamp(seq, unix_ms, "call"), event));
    };
    let opened = Opened {
        caller: "+81312345678".into(),
        agent: Some("受付".into()),
        phase: Phase::Ringing,
        ..Opened::default()
    };
    tell(1_000, opened.into());
    let started = Started {
        stream_sid: "MZ1".into(),
        parameters: vec![("lang".into(), "日本語".into())],
        ..Started::default()
    };
    tell(2_000, started.into());
    for cost in [Some(Nano(5)), None] {
        let used = Used {
            cost,
            ..Used::default()
        };
        tell(2_500, used.into());
    }
    // A callback that is late.
    tell(2_600, progress(Phase::Ringing));
    tell(63_500, ended("caller_hung_up", Some(61_234)));
    tell(63_600, ended("internal", None));
    tell(63_700, progress(Phase::Failed));
    let state = folded(&journal);
    let call = &state.calls["call"].call;
    assert_eq!(
        (call.phase, call.end_reason.as_deref()),
        (Phase::Completed, Some("caller_hung_up"))
    );
    assert_eq!((call.start_ms, call.end_ms), (Some(2_000), Some(63_234)));
    assert_eq!((call.account.cost, call.account.unpriced), (Nano(5), 1));
    assert_eq!(call.metadata.custom["lang"], "日本語");
    let view = serde_json::to_value(call.view()).unwrap();
    assert_eq!(
        (&view["duration"], &view["status"]),
        (&61.into(), &"completed".into())
    );
    assert_eq!(view["agent"], "受付");
}

#[test]
fn a_call_that_a_crash_left_open_ends_with_its_last_entry() {
    let note = Noted {
        text: "x".into(),
        source: NoteSource::System,
    };
    let journal = [
        (stamp(1, 1_000, "call"), Started::default().into()),
        (stamp(2, 31_000, "call"), note.into()),
        (stamp(3, 900_000, "call"), ended(RESTART, None)),
    ];
    let call = folded(&journal).calls["call"].call.clone();
    assert_eq!(
        (call.duration_ms, call.end_ms),
        (Some(30_000), Some(31_000))
    );
    assert_eq!(call.phase, Phase::Failed);
    assert!(call.phase.is_over());
}

#[test]
fn a_wall_clock_that_jumps_back_neither_ages_nor_shortens_a_call() {
    let journal = [
        (stamp(1, 50_000, "call"), Started::default().into()),
        (stamp(2, 10_000, "call"), ended("silence", Some(7_000))),
    ];
    let call = folded(&journal).calls["call"].call.clone();
    assert_eq!(
        (call.duration_ms, call.end_ms, call.updated_ms),
        (Some(7_000), Some(57_000), 50_000)
    );
}

#[test]
fn what_was_erased_stays_so_whatever_comes_after() {
    let opened = Opened {
        caller: "+15550100".into(),
        ..Opened::default()
    };
    let erased = Erased {
        reason: "request".into(),
    };
    let entry = samples().swap_remove(8);
    assert!(matches!(entry, Event::Entry(_)));
    let journal = [
        (stamp(1, 1, "call"), opened.into()),
        (stamp(2, 2, "call"), entry.clone()),
        (stamp(3, 3, "call"), erased.into()),
        (stamp(4, 4, "call"), entry),
    ];
    let record = folded(&journal).calls["call"].clone();
    assert!(record.call.erased && record.transcript.is_empty());
    assert_eq!((&*record.call.caller, &*record.call.id), ("", "call"));
    // And a replay of what the tombstones in the journal left does not bring it back.
    let mut state = folded(&journal);
    for (stamp, event) in &journal {
        apply(&mut state, stamp, event);
    }
    assert_eq!(state.calls["call"], record);
}

#[test]
fn an_agents_versions_stay_for_the_calls_that_ran_with_them() {
    let put = |voice: &str| -> Event {
        let agent = serde_json::json!({"name": "a", "settings": {"voice": voice}});
        serde_json::from_value::<Agent>(agent).unwrap().into()
    };
    let deleted = super::super::event::AgentDeleted { name: "a".into() };
    let journal = [
        (stamp(1, 1, "-"), put("marin")),
        (stamp(2, 2, "-"), put("cedar")),
        (stamp(3, 3, "-"), put("marin")),
        (stamp(4, 4, "-"), deleted.into()),
    ];
    let now = |n| folded(&journal[..n]).agents["a"].clone();
    assert_eq!(now(3).versions.len(), 2);
    assert_eq!(now(3).current, now(1).current);
    assert_eq!((now(4).agent(), now(4).versions.len()), (None, 2));
    assert_eq!((now(4).created_ms, now(4).updated_ms), (1, 4));
}

#[test]
fn lists_in_a_row_are_bounded() {
    let mut record = CallRecord::default();
    let samples = samples();
    for seq in 1..=9_000 {
        let event = &samples[[10, 12, 18][seq % 3]];
        record.apply(&stamp(seq as u64, 0, "call"), event);
    }
    assert_eq!(record.call.note_log.len(), NOTES_MAX);
    assert_eq!(record.call.turns.len(), TURNS_KEPT);
    assert_eq!(record.happened.len(), HAPPENED_MAX);
}

#[test]
fn a_calls_event_without_a_call_is_left_out() {
    let mut state = State::default();
    let stamp = Stamp {
        seq: 1,
        unix_ms: 0,
        call_id: None,
    };
    assert!(!apply(&mut state, &stamp, &progress(Phase::Answered)));
    assert_eq!(state, State::default());
}
