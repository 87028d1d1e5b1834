//! What a simulated carrier is told: the caller's voice, the end, the quirks. Values only.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// How the carrier ends a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum HangUp {
    /// `stop`, then a close frame: the caller hung up, or the call was moved.
    #[default]
    Stop,
    /// A close frame without `stop`.
    Close,
    /// The connection is reset.
    Reset,
}

/// A key pressed by the caller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Key {
    /// `0` to `9`, `*`, `#`.
    pub digit: char,
    /// After `start`.
    pub at: Duration,
}

impl FromStr for Key {
    type Err = String;

    /// `DIGIT@SECONDS`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (digit, at) = text.split_once('@').ok_or("expected DIGIT@SECONDS")?;
        let mut digits = digit.chars();
        let digit = match (digits.next(), digits.next()) {
            (Some(digit @ ('0'..='9' | '*' | '#')), None) => digit,
            _ => return Err("one of 0 to 9, * and #".into()),
        };
        let seconds: f64 = at.parse().map_err(|_| "SECONDS must be a number")?;
        let at =
            Duration::try_from_secs_f64(seconds).map_err(|_| "SECONDS must not be negative")?;
        Ok(Self { digit, at })
    }
}

/// Everything that a simulated carrier may be told.
#[derive(Clone, Debug)]
pub struct Options {
    /// The caller's voice, PCMU. After its end the line carries silence.
    pub audio: Arc<[u8]>,
    /// When the caller hangs up, after `start`. `None`: when the voice is over and everything has played.
    pub duration: Option<Duration>,
    /// The latest end in any case.
    pub duration_max: Duration,
    /// How the stream ends.
    pub hang_up: HangUp,
    /// Seeds the SIDs.
    pub seed: u64,
    /// The call's id, when a webhook has announced it already.
    pub call_sid: Option<String>,
    /// `start.customParameters`.
    pub parameters: Vec<(String, String)>,
    /// Keys pressed.
    pub keys: Vec<Key>,
    /// Sends a mark that the server never sent, two seconds in.
    pub unknown_mark: bool,
    /// Leaves this many frames out, two seconds in; the timestamps tell.
    pub gap_frames: u32,
    /// Holds frames back for this long, three seconds in, then delivers them in one burst.
    pub burst: Duration,
    /// Leaves `customParameters` out when there are none, as some streams do.
    pub omit_empty_parameters: bool,
    /// Keeps every payload of both directions for comparison.
    pub keeps_audio: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            audio: Arc::from([]),
            duration: None,
            duration_max: Duration::from_secs(3600),
            hang_up: HangUp::default(),
            seed: 1,
            call_sid: None,
            parameters: Vec::new(),
            keys: Vec::new(),
            unknown_mark: false,
            gap_frames: 0,
            burst: Duration::ZERO,
            omit_empty_parameters: false,
            keeps_audio: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_read_as_they_are_written() {
        assert_eq!(
            "7@2.5".parse(),
            Ok(Key {
                digit: '7',
                at: Duration::from_millis(2500)
            })
        );
        for bad in ["", "7", "A@1", "77@1", "7@x", "7@-1"] {
            assert!(bad.parse::<Key>().is_err(), "{bad}");
        }
    }
}
