//! What a run is to do: plain values.

use std::time::Duration;

/// What the calls are made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// Every 20 ms frame its own message both ways: the model sends each one back.
    #[default]
    Echo,
    /// Turns: the caller speaks, the model answers faster than real time, callers interrupt.
    Talk,
    /// Every other call of each.
    Mixed,
}

impl Profile {
    /// For the JSON document.
    pub fn label(self) -> &'static str {
        match self {
            Profile::Echo => "echo",
            Profile::Talk => "talk",
            Profile::Mixed => "mixed",
        }
    }

    /// Whether the call with this number is of the echo profile.
    pub fn echoes(self, call: u32) -> bool {
        match self {
            Profile::Echo => true,
            Profile::Talk => false,
            Profile::Mixed => call.is_multiple_of(2),
        }
    }
}

/// Short calls, replaced as they end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Churn {
    /// How long each call sends audio.
    pub call: Duration,
    /// How many calls are placed in all; the run then ends. 0: until `hold` is over.
    pub total: u64,
}

/// One run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Calls at the same time.
    pub calls: u32,
    /// New calls a second.
    pub ramp: f64,
    /// How long the measured time lasts.
    pub hold: Duration,
    /// From the last call's dial to the measured time.
    pub settle: Duration,
    /// What the calls are made of.
    pub profile: Profile,
    /// Share of answers that the caller speaks over, 0 to 1.
    pub barge_in_rate: f64,
    /// Short calls, replaced as they end.
    pub churn: Option<Churn>,
    /// How long the model takes: each echo, and from the end of speech to the first audio.
    pub model_latency: Duration,
    /// All frames of all calls at the same moment, instead of each call at its own.
    pub aligned: bool,
    /// Frames due within this are due together: a wake-up of the generator for each frame would cost more than the frame.
    pub slot: Duration,
    /// Ask this webhook for each call's stream, as a carrier does: `http://host:port/path`.
    pub webhook: Option<String>,
    /// The media stream, `ws://` or `wss://`. A `{call}` in it becomes the call's SID.
    pub relay: String,
    /// Signs upgrades and webhooks.
    pub auth_token: Option<String>,
    /// Seed of everything random.
    pub seed: u64,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            calls: 500,
            ramp: 50.0,
            hold: Duration::from_secs(60),
            settle: Duration::from_secs(1),
            profile: Profile::Echo,
            barge_in_rate: 0.3,
            churn: None,
            model_latency: Duration::ZERO,
            aligned: false,
            slot: Duration::from_micros(200),
            webhook: None,
            relay: String::new(),
            auth_token: None,
            seed: 1,
        }
    }
}
