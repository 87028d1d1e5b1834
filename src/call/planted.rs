//! Bugs on purpose, to prove that the simulation's checkers find such bugs. Exists under the feature `planted-bugs`
//! alone, which is a compile error without debug assertions; `tests/sim` switches one on at a time.

use std::cell::Cell;

/// One bug. Each is one line at its place in `call`, behind the feature.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Planted {
    /// A gap in stream time is counted as filled, and no silence is sent.
    FillMissing,
    /// Held audio goes out newest first.
    EarlyReversed,
    /// `Fact::Ended` twice.
    EndedTwice,
    /// A lost model ends the call without `Fact::Ended`.
    EndUnsaid,
    /// The caller hangs up, and the model's connection stays open.
    UpstreamLeftOpen,
    /// Frames go out behind the close frame.
    TalksAfterClose,
    /// A delta of the model's is sent twice.
    DeltaDoubled,
    /// A delta that found no room or no session is not counted as dropped.
    DropUncounted,
    /// A send that the peer never takes is waited for without end.
    StallUnnoticed,
    /// Pings are not answered.
    PongForgotten,
    /// The mark at an item's end has a name that was used before.
    MarkNameReused,
    /// Late audio of what the caller interrupted is played.
    LateDelta,
    /// The caller speaks, and the carrier is not told.
    ClearForgotten,
    /// What waits on the carrier's leg stays there behind a clear.
    QueueUncut,
    /// A server that does not break off by itself is not told to.
    CancelForgotten,
    /// An item is truncated at what was sent of it.
    TruncatedAtSent,
    /// An item is truncated twice.
    TruncatedTwice,
    /// Heard runs ahead of the ear by a quarter.
    ClockTooFast,
    /// A response is asked for while one is active.
    CreateTooEarly,
    /// A response is asked for twice.
    CreateTwice,
    /// What was cleared for nothing goes on 100 ms behind what was heard.
    ResumedLate,
    /// Audio of a session that was left is played.
    LeftAudioPlayed,
    /// Audio of a session that was left is not counted.
    LeftAudioUncounted,
    /// The call ends before its goodbye was heard.
    HungUpUnheard,
    /// The call ends for silence before the goodbye is generated.
    GoodbyeUnsaid,
    /// A tool's answer is told twice.
    OutputTwice,
    /// Tools' answers go out as they come.
    OutputsUnordered,
    /// A response is asked for before the last answer of a tool.
    ToolsTooEarly,
    /// The answers of tools bring no response.
    ToolsUnasked,
    /// A tool is asked twice.
    ToolAskedTwice,
    /// Keys that were pressed are told twice.
    KeysTwice,
    /// The first of several keys is not told.
    KeyLost,
    /// Tones of keys are taken for a part of what the model says.
    TonesOfTheModels,
    /// A silence counts from when audio was generated, not from when it was heard.
    NudgeTooEarly,
    /// Nobody says anything, and the model is not told.
    NudgeForgotten,
    /// The agent greets again where the first response was refused or done.
    GreetingTwice,
    /// The agent begins though the caller has spoken.
    GreetingIntoSpeech,
    /// A call lasts as long as it likes.
    DurationForgotten,
    /// The model is told twice that time is nearly up.
    WarningTwice,
}

impl Planted {
    /// All of them.
    pub const ALL: &[Planted] = &[
        Planted::FillMissing,
        Planted::EarlyReversed,
        Planted::EndedTwice,
        Planted::EndUnsaid,
        Planted::UpstreamLeftOpen,
        Planted::TalksAfterClose,
        Planted::DeltaDoubled,
        Planted::DropUncounted,
        Planted::StallUnnoticed,
        Planted::PongForgotten,
        Planted::MarkNameReused,
        Planted::LateDelta,
        Planted::ClearForgotten,
        Planted::QueueUncut,
        Planted::CancelForgotten,
        Planted::TruncatedAtSent,
        Planted::TruncatedTwice,
        Planted::ClockTooFast,
        Planted::CreateTooEarly,
        Planted::CreateTwice,
        Planted::ResumedLate,
        Planted::LeftAudioPlayed,
        Planted::LeftAudioUncounted,
        Planted::HungUpUnheard,
        Planted::GoodbyeUnsaid,
        Planted::OutputTwice,
        Planted::OutputsUnordered,
        Planted::ToolsTooEarly,
        Planted::ToolsUnasked,
        Planted::ToolAskedTwice,
        Planted::KeysTwice,
        Planted::KeyLost,
        Planted::TonesOfTheModels,
        Planted::NudgeTooEarly,
        Planted::NudgeForgotten,
        Planted::GreetingTwice,
        Planted::GreetingIntoSpeech,
        Planted::DurationForgotten,
        Planted::WarningTwice,
    ];
}

thread_local! {
    static ACTIVE: Cell<Option<Planted>> = const { Cell::new(None) };
}

/// Switches one bug on in this thread, or all off.
pub fn set(bug: Option<Planted>) {
    ACTIVE.set(bug);
}

/// Whether this bug is on.
pub fn is(bug: Planted) -> bool {
    ACTIVE.get() == Some(bug)
}
