//! What a simulated model is told: mode, pace, texts, faults. Values only.

use std::str::FromStr;
use std::time::Duration;

/// What the model does with audio.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    /// Detects turns and answers each with spoken-like audio and a transcript.
    #[default]
    Talk,
    /// Sends every appended chunk back at once, unchanged, as one long response.
    Echo,
}

/// Delta sizes and pace, as seen of two model families.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Profile {
    /// gpt-realtime: 250 ms a delta, four times faster than real time.
    #[default]
    Ms250,
    /// gpt-realtime-2.1-mini: 330 to 400 ms a delta, twelve times faster.
    Ms350,
}

impl Profile {
    /// How many times faster than real time.
    pub fn speed(self) -> f64 {
        match self {
            Self::Ms250 => 4.0,
            Self::Ms350 => 12.0,
        }
    }
}

/// Something that goes wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Harm {
    /// Nothing is sent for this long; `None` is for ever.
    Stall(Option<Duration>),
    /// The connection is reset.
    Reset,
    /// A close frame with this code.
    Close(u16),
    /// A text message that is not JSON.
    Garbage,
    /// Bytes that are not a WebSocket frame.
    BadFrame,
    /// The response that runs, or else the next, ends as `failed` with `rate_limit_exceeded`.
    FailResponse,
}

/// A harm and its moment: when this many events have been sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// What.
    pub harm: Harm,
    /// After how many sent events; 0 is before the first.
    pub after_events: u64,
}

impl FromStr for Fault {
    type Err = String;

    /// `stall[:MS]@N`, `reset@N`, `close:CODE@N`, `garbage@N`, `frame@N`, `fail@N`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (what, count) = text.split_once('@').ok_or("expected HARM@EVENTS")?;
        let after_events = count.parse().map_err(|_| "EVENTS must be a number")?;
        let (name, value) = match what.split_once(':') {
            Some((name, value)) => {
                let value: u64 = value.parse().map_err(|_| "the value must be a number")?;
                (name, Some(value))
            }
            None => (what, None),
        };
        let harm = match (name, value) {
            ("stall", ms) => Harm::Stall(ms.map(Duration::from_millis)),
            ("reset", None) => Harm::Reset,
            ("close", Some(code @ 1000..=4999)) => Harm::Close(code as u16),
            ("garbage", None) => Harm::Garbage,
            ("frame", None) => Harm::BadFrame,
            ("fail", None) => Harm::FailResponse,
            _ => return Err("one of stall[:MS], reset, close:CODE, garbage, frame, fail".into()),
        };
        Ok(Self { harm, after_events })
    }
}

/// Everything that a simulated model may be told. The default is a healthy gpt-realtime.
#[derive(Clone, Debug)]
pub struct Options {
    /// Talk or echo.
    pub mode: Mode,
    /// Delta sizes and pace.
    pub profile: Profile,
    /// Seeds ids, jitter and voice.
    pub seed: u64,
    /// What the model says, one per response, in a circle. Not empty.
    pub lines: Vec<String>,
    /// What it says it heard, one per turn; past the end a line that says so.
    pub heard: Vec<String>,
    /// The key that `Authorization` must carry; `None` takes any.
    pub api_key: Option<String>,
    /// From `session.update` to `session.updated`.
    pub update_latency: Duration,
    /// From `response.created` to the first audio, the median of a log-normal.
    pub first_audio: Duration,
    /// Each event is sent this much later.
    pub slow: Duration,
    /// A session's life.
    pub session_life: Duration,
    /// One event in this many gets an unknown field or is followed by an unknown event; 0 is never.
    pub unknown_every: u64,
    /// Adds the random `obfuscation` field that the real one adds to text deltas. The published types do not list it.
    pub obfuscation: bool,
    /// Answers every upgrade with this status.
    pub refuse_upgrade: Option<u16>,
    /// What goes wrong, and when.
    pub faults: Vec<Fault>,
}

impl Default for Options {
    fn default() -> Self {
        let lines = [
            "Good morning, this is the bicycle workshop. How can I help you?",
            "Yes, we are open on Saturday, from nine until one.",
            "Of course. I have put you down for Friday at half past ten.",
            "Thank you for calling, goodbye.",
        ];
        Self {
            mode: Mode::default(),
            profile: Profile::default(),
            seed: 1,
            lines: lines.map(String::from).to_vec(),
            heard: Vec::new(),
            api_key: None,
            update_latency: Duration::from_millis(67),
            first_audio: Duration::from_millis(450),
            slow: Duration::ZERO,
            session_life: Duration::from_secs(3600),
            unknown_every: 0,
            obfuscation: false,
            refuse_upgrade: None,
            faults: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_read_as_they_are_written() {
        let fault = |text: &str| text.parse::<Fault>();
        assert_eq!(
            fault("close:1011@50"),
            Ok(Fault {
                harm: Harm::Close(1011),
                after_events: 50
            })
        );
        assert_eq!(fault("stall@0").map(|f| f.harm), Ok(Harm::Stall(None)));
        assert_eq!(
            fault("stall:20@3").map(|f| f.harm),
            Ok(Harm::Stall(Some(Duration::from_millis(20))))
        );
        for bad in [
            "",
            "reset",
            "close@1",
            "close:99@1",
            "reset:3@1",
            "x@1",
            "reset@x",
        ] {
            assert!(fault(bad).is_err(), "{bad}");
        }
    }
}
