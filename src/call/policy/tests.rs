use super::*;

fn keys(change: impl FnOnce(&mut Policy)) -> Vec<String> {
    let mut policy = Policy::default();
    change(&mut policy);
    let keys = policy.validate().into_iter().map(|(key, _)| key);
    keys.collect()
}

#[test]
fn the_defaults_have_no_problem() {
    assert_eq!(Policy::default().validate(), []);
}

#[test]
fn every_bound_is_inclusive_and_named() {
    type Field = fn(&mut Policy) -> &mut u32;
    let fields: &[(&str, Field, RangeInclusive<u32>)] = &[
        (
            "barge_in.guard_ms",
            |p| &mut p.barge_in.guard_ms,
            0..=30_000,
        ),
        (
            "barge_in.confirm_ms",
            |p| &mut p.barge_in.confirm_ms,
            0..=2_000,
        ),
        (
            "unplayed_ms_max",
            |p| &mut p.unplayed_ms_max,
            1_000..=600_000,
        ),
        (
            "silence.nudge_after_ms",
            |p| &mut p.silence.nudge_after_ms,
            0..=3_600_000,
        ),
        (
            "silence.hang_up_after_ms",
            |p| &mut p.silence.hang_up_after_ms,
            0..=3_600_000,
        ),
        (
            "max_duration_secs",
            |p| &mut p.max_duration_secs,
            31..=86_400,
        ),
        ("dtmf_pause_ms", |p| &mut p.dtmf_pause_ms, 100..=30_000),
        ("reconnect.tries", |p| &mut p.reconnect.tries, 0..=20),
        (
            "reconnect.outage_ms",
            |p| &mut p.reconnect.outage_ms,
            100..=120_000,
        ),
        (
            "reconnect.hold_ms",
            |p| &mut p.reconnect.hold_ms,
            0..=10_000,
        ),
        (
            "rollover_before_secs",
            |p| &mut p.rollover_before_secs,
            0..=3_000,
        ),
        (
            "tool_limits.in_flight_max",
            |p| &mut p.tool_limits.in_flight_max,
            1..=64,
        ),
        (
            "tool_limits.calls_max",
            |p| &mut p.tool_limits.calls_max,
            1..=10_000,
        ),
        (
            "tool_limits.arguments_bytes_max",
            |p| &mut p.tool_limits.arguments_bytes_max,
            64..=262_144,
        ),
    ];
    for (key, field, bounds) in fields {
        assert_eq!(keys(|p| *field(p) = *bounds.start()), [""; 0], "{key}");
        assert_eq!(keys(|p| *field(p) = *bounds.end()), [""; 0], "{key}");
        assert_eq!(keys(|p| *field(p) = bounds.end() + 1), [*key]);
        if *bounds.start() > 0 && *key != "max_duration_secs" {
            assert_eq!(keys(|p| *field(p) = bounds.start() - 1), [*key]);
        }
    }
    for (ms, good) in [(0, false), (1, true), (60_000, true), (60_001, false)] {
        let found = keys(|p| p.first_speaker = FirstSpeaker::AfterMs(ms));
        assert_eq!(found.is_empty(), good, "{ms}");
    }
}

#[test]
fn the_warning_comes_before_the_end_and_no_end_needs_none() {
    assert_eq!(
        keys(|p| p.max_duration_secs = 30),
        ["duration_warning_secs"]
    );
    assert_eq!(keys(|p| p.max_duration_secs = 0), [""; 0]);
    let short = keys(|p| {
        p.max_duration_secs = 1;
        p.duration_warning_secs = 0;
    });
    assert_eq!(short, [""; 0]);
}

#[test]
fn the_longest_wait_is_not_below_the_first() {
    let found = keys(|p| (p.reconnect.base_ms, p.reconnect.cap_ms) = (500, 499));
    assert_eq!(found, ["reconnect.cap_ms"]);
    let found = keys(|p| (p.reconnect.base_ms, p.reconnect.cap_ms) = (500, 500));
    assert_eq!(found, [""; 0]);
}

#[test]
fn the_stages_of_silence_follow_one_another() {
    let stages = |first, second, end| {
        keys(|p| {
            p.silence.nudge_after_ms = first;
            p.silence.second_nudge_after_ms = second;
            p.silence.hang_up_after_ms = end;
        })
    };
    assert_eq!(stages(10_000, 20_000, 30_000), [""; 0]);
    assert_eq!(stages(0, 0, 30_000), [""; 0]);
    assert_eq!(stages(10_000, 0, 30_000), [""; 0]);
    assert_eq!(stages(10_000, 0, 0), [""; 0]);
    assert_eq!(stages(10_000, 10_000, 0), ["silence.second_nudge_after_ms"]);
    assert_eq!(stages(10_000, 20_000, 15_000), ["silence.hang_up_after_ms"]);
    assert_eq!(stages(10_000, 0, 10_000), ["silence.hang_up_after_ms"]);
    assert_eq!(stages(0, 20_000, 0), ["silence.second_nudge_after_ms"]);
}

#[test]
fn a_stage_says_something_and_a_text_is_not_endless() {
    let found = keys(|p| {
        p.silence.nudge_after_ms = 1;
        p.silence.nudge_text.clear();
    });
    assert_eq!(found, ["silence.nudge_text"]);
    assert_eq!(keys(|p| p.silence.nudge_text.clear()), [""; 0]);
    assert_eq!(keys(|p| p.greeting = "x".repeat(4_096)), [""; 0]);
    assert_eq!(keys(|p| p.greeting = "x".repeat(4_097)), ["greeting"]);
    assert_eq!(keys(|p| p.greeting_exact = true), ["greeting_exact"]);
    for (what, key) in [
        (
            OnModelUnavailable::Message(String::new()),
            "unavailable_message",
        ),
        (
            OnModelUnavailable::Conference(String::new()),
            "unavailable_conference",
        ),
    ] {
        assert_eq!(keys(|p| p.on_model_unavailable = what), [key]);
    }
    assert_eq!(
        keys(|p| p.on_model_unavailable = OnModelUnavailable::HangUp),
        [""; 0]
    );
}

#[test]
fn a_greeting_keeps_the_persona() {
    let mut policy = Policy::default();
    assert_eq!(policy.greeting_instructions("You are Ann."), None);
    policy.greeting = "Hello, this is Ann.".into();
    let text = policy
        .greeting_instructions("You are Ann.")
        .expect("there is one");
    assert!(text.starts_with("You are Ann.\n\n"), "{text}");
    assert!(
        text.ends_with("Hello, this is Ann.") && !text.contains("exactly"),
        "{text}"
    );
    policy.greeting_exact = true;
    let text = policy.greeting_instructions("").expect("there is one");
    assert!(
        text.starts_with("Now") && text.contains("exactly these words"),
        "{text}"
    );
}

#[test]
fn it_is_read_strictly() {
    let policy: Policy = toml::from_str(
        r#"
        first_speaker = { after_ms = 1500 }
        dtmf = "ignore"
        on_model_unavailable = { conference = "desk" }
        [barge_in]
        confirm_ms = 300
        "#,
    )
    .expect("every key is known");
    assert_eq!(policy.first_speaker, FirstSpeaker::AfterMs(1_500));
    assert_eq!(policy.dtmf, Dtmf::Ignore);
    assert!(policy.barge_in.enabled);
    assert_eq!(
        policy.on_model_unavailable,
        OnModelUnavailable::Conference("desk".into())
    );
    assert!(toml::from_str::<Policy>("[barge_in]\nconfirm = 1").is_err());
}
