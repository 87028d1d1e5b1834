//! How an agent leads a call: who speaks first, what interrupts, what silence leads to, how long it lasts, what
//! happens when the model is gone. None of it is sent to the model as settings.
//!
//! Core. Like `Settings` it is part of the `[agent]` section, proven at load and shared by all calls of an agent.

use serde::Deserialize;
use std::fmt::Write as _;
use std::ops::RangeInclusive;

/// A text that the model is told or says at some moment, bytes.
pub const TEXT_BYTES_MAX: usize = 4 * 1024;
/// `FirstSpeaker::AfterMs`: later than that nobody is there any more.
pub const AFTER_MS: RangeInclusive<u32> = 1..=60_000;
/// `BargeIn::guard_ms`, at most.
pub const GUARD_MS_MAX: u32 = 30_000;
/// `BargeIn::confirm_ms`, at most: the caller hears nothing meanwhile.
pub const CONFIRM_MS_MAX: u32 = 2_000;
/// `Policy::unplayed_ms_max`. 4,096 tokens, the longest response, are about 200 s and 1.6 MB.
pub const UNPLAYED_MS: RangeInclusive<u32> = 1_000..=600_000;
/// A stage of silence, at most.
pub const SILENCE_MS_MAX: u32 = 3_600_000;
/// `Policy::max_duration_secs`, at most: a day.
pub const DURATION_SECS_MAX: u32 = 86_400;
/// `Policy::duration_warning_secs`, at most.
pub const WARNING_SECS_MAX: u32 = 600;
/// `Policy::dtmf_pause_ms`.
pub const DTMF_PAUSE_MS: RangeInclusive<u32> = 100..=30_000;
/// `Policy::rollover_before_secs`, at most: of the 60 minutes that a session lives.
pub const ROLLOVER_SECS_MAX: u32 = 3_000;
/// `Reconnect::tries`, at most.
pub const TRIES_MAX: u32 = 20;
/// `Reconnect::base_ms` and `cap_ms`.
pub const BACKOFF_MS: RangeInclusive<u32> = 10..=60_000;
/// `Reconnect::outage_ms`.
pub const OUTAGE_MS: RangeInclusive<u32> = 100..=120_000;
/// `Reconnect::hold_ms`, at most: 80,000 bytes a call.
pub const HOLD_MS_MAX: u32 = 10_000;
/// `ToolLimits::in_flight_max`.
pub const IN_FLIGHT: RangeInclusive<u32> = 1..=64;
/// `ToolLimits::calls_max`.
pub const TOOL_CALLS: RangeInclusive<u32> = 1..=10_000;
/// `ToolLimits::arguments_bytes_max`.
pub const ARGUMENTS_BYTES: RangeInclusive<u32> = 64..=256 * 1024;

/// How a call is led.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// Who begins.
    pub first_speaker: FirstSpeaker,
    /// What the agent's first response is about; empty leaves it to the instructions.
    pub greeting: String,
    /// `greeting` is to be said in exactly these words.
    pub greeting_exact: bool,
    /// When the caller's speech breaks off the agent's.
    pub barge_in: BargeIn,
    /// How much generated audio may wait to be heard, ms. Past it the response is cancelled.
    pub unplayed_ms_max: u32,
    /// What silence leads to.
    pub silence: Silence,
    /// The longest call, seconds from the carrier's `start`; 0 is no bound.
    pub max_duration_secs: u32,
    /// How long before that the model is told, seconds; 0: it is not.
    pub duration_warning_secs: u32,
    /// What becomes of keys that the caller presses.
    pub dtmf: Dtmf,
    /// Keys pressed within this of each other are one text, ms; `#` ends it at once.
    pub dtmf_pause_ms: u32,
    /// What is tried when the model's connection is lost.
    pub reconnect: Reconnect,
    /// What happens when that was in vain.
    pub on_model_unavailable: OnModelUnavailable,
    /// How long before a session expires the next one takes over, seconds; 0: never.
    pub rollover_before_secs: u32,
    /// Bounds on what the model may ask of tools.
    pub tool_limits: ToolLimits,
    /// How long caller audio may wait to share a send with what follows it, ms; 0: not at all. The daemon's
    /// (`relay.coalesce_ms`), not an agent's own.
    #[serde(skip)]
    pub coalesce_ms: u32,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            first_speaker: FirstSpeaker::Caller,
            greeting: String::new(),
            greeting_exact: false,
            barge_in: BargeIn::default(),
            unplayed_ms_max: 120_000,
            silence: Silence::default(),
            max_duration_secs: 3_600,
            duration_warning_secs: 30,
            dtmf: Dtmf::Text,
            dtmf_pause_ms: 1_500,
            reconnect: Reconnect::default(),
            on_model_unavailable: OnModelUnavailable::default(),
            rollover_before_secs: 180,
            tool_limits: ToolLimits::default(),
            coalesce_ms: 0,
        }
    }
}

/// Who begins to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FirstSpeaker {
    /// The agent, as soon as the session is ready.
    Agent,
    /// The caller; the agent waits.
    #[default]
    Caller,
    /// The agent, when the caller has said nothing for so many ms after `start`.
    AfterMs(u32),
}

/// When the caller's speech breaks off the agent's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BargeIn {
    /// Whether it ever does.
    pub enabled: bool,
    /// Not within so many ms of `start`: connection noise is no speech. Till then the server is told not to break off either.
    pub guard_ms: u32,
    /// Above 0: what was cleared is kept, and goes on from where it was heard when the speech was shorter than this, ms. With
    /// a server VAD that is known only `silence_duration_ms` after its end.
    pub confirm_ms: u32,
}

impl Default for BargeIn {
    fn default() -> Self {
        Self {
            enabled: true,
            guard_ms: 0,
            confirm_ms: 0,
        }
    }
}

/// What silence leads to. Every time counts from when the line fell silent: nobody spoke and nothing was left to
/// be heard. 0 is off.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Silence {
    /// The first nudge, ms.
    pub nudge_after_ms: u32,
    /// What the model is told to do then.
    pub nudge_text: String,
    /// The second nudge, ms.
    pub second_nudge_after_ms: u32,
    /// What the model is told to do then.
    pub second_nudge_text: String,
    /// The end, ms: goodbye, and hang up when it was heard.
    pub hang_up_after_ms: u32,
    /// What the model is told to say then; empty: nothing is said.
    pub goodbye_text: String,
}

/// What the model is told at the first stage when nobody said otherwise.
pub const NUDGE_TEXT: &str =
    "The caller has been silent. Ask briefly whether they are still there.";
/// Likewise at the second.
pub const SECOND_NUDGE_TEXT: &str =
    "The caller is still silent. Say that you can't hear them, and ask them to speak.";
/// Likewise at the end.
pub const GOODBYE_TEXT: &str =
    "The caller is gone. Say in one short sentence that the call ends now, and goodbye.";

impl Default for Silence {
    fn default() -> Self {
        Self {
            nudge_after_ms: 0,
            nudge_text: NUDGE_TEXT.to_owned(),
            second_nudge_after_ms: 0,
            second_nudge_text: SECOND_NUDGE_TEXT.to_owned(),
            hang_up_after_ms: 0,
            goodbye_text: GOODBYE_TEXT.to_owned(),
        }
    }
}

/// What becomes of keys that the caller presses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dtmf {
    /// They are reported and otherwise ignored.
    Ignore,
    /// The model reads them as a text of the caller's, and answers.
    #[default]
    Text,
}

/// What is tried when the model's connection is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Reconnect {
    /// Tries in one outage; 0: none.
    pub tries: u32,
    /// The longest wait before the first try, ms; it doubles each time. The wait itself is drawn from 0 to that.
    pub base_ms: u32,
    /// What it doubles up to, ms.
    pub cap_ms: u32,
    /// All tries of one outage together, ms.
    pub outage_ms: u32,
    /// The caller's audio that is kept meanwhile, ms; older audio is dropped and counted.
    pub hold_ms: u32,
}

impl Default for Reconnect {
    fn default() -> Self {
        Self {
            tries: 5,
            base_ms: 250,
            cap_ms: 4_000,
            outage_ms: 10_000,
            hold_ms: 1_000,
        }
    }
}

/// What happens to a call whose model can't be reached.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnModelUnavailable {
    /// This is said to the caller, then the call ends.
    Message(String),
    /// The caller joins this conference.
    Conference(String),
    /// The call ends.
    HangUp,
}

/// What a caller hears when nobody said otherwise.
pub const UNAVAILABLE_MESSAGE: &str =
    "We are sorry, we can't take your call right now. Please try again later. Goodbye.";

impl OnModelUnavailable {
    /// Its name, without what it holds.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Message(_) => "message",
            Self::Conference(_) => "conference",
            Self::HangUp => "hang_up",
        }
    }
}

impl Default for OnModelUnavailable {
    fn default() -> Self {
        Self::Message(UNAVAILABLE_MESSAGE.to_owned())
    }
}

/// Bounds on what the model may ask of tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ToolLimits {
    /// Tools that run at once in one call; one more is refused at once, in words for the model.
    pub in_flight_max: u32,
    /// Tools called in one phone call; one more is refused likewise.
    pub calls_max: u32,
    /// The arguments of one, bytes of JSON; longer ones are refused likewise.
    pub arguments_bytes_max: u32,
}

impl Default for ToolLimits {
    fn default() -> Self {
        Self {
            in_flight_max: 8,
            calls_max: 500,
            arguments_bytes_max: 16 * 1024,
        }
    }
}

impl Policy {
    /// The instructions of the greeting's response; `None` leaves it to the session's. Instructions of one response
    /// replace the session's, so those stand in front, or the agent would be somebody else for its first words.
    pub fn greeting_instructions(&self, session: &str) -> Option<String> {
        if self.greeting.is_empty() {
            return None;
        }
        let now = match self.greeting_exact {
            true => "Now greet the caller. Say exactly these words and nothing else:",
            false => "Now greet the caller:",
        };
        Some(instructions(session, now, &self.greeting))
    }

    /// All problems at once, as `Settings::validate` gives them.
    pub fn validate(&self) -> Vec<(String, String)> {
        let mut problems = Vec::new();
        if let FirstSpeaker::AfterMs(ms) = self.first_speaker {
            within(&mut problems, "first_speaker_after_ms", ms, AFTER_MS);
        }
        let mut texts = vec![
            ("greeting", &self.greeting),
            ("silence.nudge_text", &self.silence.nudge_text),
            ("silence.second_nudge_text", &self.silence.second_nudge_text),
            ("silence.goodbye_text", &self.silence.goodbye_text),
        ];
        match &self.on_model_unavailable {
            OnModelUnavailable::Message(text) => {
                texts.push(("unavailable_message", text));
                if text.is_empty() {
                    problem(
                        &mut problems,
                        "unavailable_message",
                        "is empty; write what the caller is to hear, or on_model_unavailable = \"hang_up\"",
                    );
                }
            }
            OnModelUnavailable::Conference(name) => {
                texts.push(("unavailable_conference", name));
                if name.is_empty() {
                    problem(
                        &mut problems,
                        "unavailable_conference",
                        "is empty; write the conference's name, or on_model_unavailable = \"hang_up\"",
                    );
                }
            }
            OnModelUnavailable::HangUp => {}
        }
        for (key, text) in texts {
            if text.len() > TEXT_BYTES_MAX {
                let length = text.len();
                problem(
                    &mut problems,
                    key,
                    &format!("{length} bytes long; shorten to at most {TEXT_BYTES_MAX}"),
                );
            }
        }
        if self.greeting_exact && self.greeting.is_empty() {
            problem(
                &mut problems,
                "greeting_exact",
                "has no use without words; write greeting or leave this out",
            );
        }
        self.silence.prove(&mut problems);
        let reconnect = &self.reconnect;
        for (key, value, bounds) in [
            (
                "barge_in.guard_ms",
                self.barge_in.guard_ms,
                0..=GUARD_MS_MAX,
            ),
            (
                "barge_in.confirm_ms",
                self.barge_in.confirm_ms,
                0..=CONFIRM_MS_MAX,
            ),
            ("unplayed_ms_max", self.unplayed_ms_max, UNPLAYED_MS),
            (
                "max_duration_secs",
                self.max_duration_secs,
                0..=DURATION_SECS_MAX,
            ),
            (
                "duration_warning_secs",
                self.duration_warning_secs,
                0..=WARNING_SECS_MAX,
            ),
            ("dtmf_pause_ms", self.dtmf_pause_ms, DTMF_PAUSE_MS),
            ("reconnect.tries", reconnect.tries, 0..=TRIES_MAX),
            ("reconnect.base_ms", reconnect.base_ms, BACKOFF_MS),
            ("reconnect.cap_ms", reconnect.cap_ms, BACKOFF_MS),
            ("reconnect.outage_ms", reconnect.outage_ms, OUTAGE_MS),
            ("reconnect.hold_ms", reconnect.hold_ms, 0..=HOLD_MS_MAX),
            (
                "rollover_before_secs",
                self.rollover_before_secs,
                0..=ROLLOVER_SECS_MAX,
            ),
            (
                "tool_limits.in_flight_max",
                self.tool_limits.in_flight_max,
                IN_FLIGHT,
            ),
            (
                "tool_limits.calls_max",
                self.tool_limits.calls_max,
                TOOL_CALLS,
            ),
            (
                "tool_limits.arguments_bytes_max",
                self.tool_limits.arguments_bytes_max,
                ARGUMENTS_BYTES,
            ),
        ] {
            within(&mut problems, key, value, bounds);
        }
        if reconnect.cap_ms < reconnect.base_ms {
            problem(
                &mut problems,
                "reconnect.cap_ms",
                "is below reconnect.base_ms; write at least that",
            );
        }
        if self.max_duration_secs != 0 && self.duration_warning_secs >= self.max_duration_secs {
            problem(
                &mut problems,
                "duration_warning_secs",
                "is not before the end of the call; write less than max_duration_secs, or 0",
            );
        }
        problems
    }
}

impl Silence {
    fn prove(&self, problems: &mut Vec<(String, String)>) {
        let stages = [
            ("silence.nudge_after_ms", self.nudge_after_ms),
            ("silence.second_nudge_after_ms", self.second_nudge_after_ms),
            ("silence.hang_up_after_ms", self.hang_up_after_ms),
        ];
        let mut before = 0;
        for (key, ms) in stages {
            within(problems, key, ms, 0..=SILENCE_MS_MAX);
            if ms != 0 && ms <= before {
                problem(
                    problems,
                    key,
                    "is not after the stage before it; all count from when the line fell silent",
                );
            }
            before = before.max(ms);
        }
        if self.second_nudge_after_ms != 0 && self.nudge_after_ms == 0 {
            problem(
                problems,
                "silence.second_nudge_after_ms",
                "has no first one before it; write silence.nudge_after_ms as well",
            );
        }
        for (key, ms, text) in [
            ("silence.nudge_text", self.nudge_after_ms, &self.nudge_text),
            (
                "silence.second_nudge_text",
                self.second_nudge_after_ms,
                &self.second_nudge_text,
            ),
        ] {
            if ms != 0 && text.is_empty() {
                problem(
                    problems,
                    key,
                    "is empty; write what the model is to do, or switch the stage off",
                );
            }
        }
    }
}

/// Instructions for one response: the session's, then what this one is for.
pub fn instructions(session: &str, now: &str, text: &str) -> String {
    let mut whole = String::with_capacity(session.len() + now.len() + text.len() + 3);
    if !session.is_empty() {
        let _ = write!(whole, "{session}\n\n");
    }
    whole.push_str(now);
    if !now.is_empty() && !text.is_empty() {
        whole.push(' ');
    }
    whole.push_str(text);
    whole
}

fn problem(problems: &mut Vec<(String, String)>, key: &str, sentence: &str) {
    problems.push((key.to_owned(), sentence.to_owned()));
}

fn within(
    problems: &mut Vec<(String, String)>,
    key: &str,
    value: u32,
    bounds: RangeInclusive<u32>,
) {
    if !bounds.contains(&value) {
        let (start, end) = bounds.into_inner();
        problems.push((
            key.to_owned(),
            format!("{value} is out of bounds; write {start} to {end}"),
        ));
    }
}

#[cfg(test)]
#[path = "policy/tests.rs"]
mod tests;
