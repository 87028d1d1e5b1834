//! Server voice detection from the audio's energy, on the clock of the stream. Pure.
//!
//! The real detector is a neural network; what a relay can see of it is the shape of its times: they
//! count the milliseconds written into the session, never the wall, and `audio_start_ms` lies the
//! prefix padding before the onset while `audio_end_ms` includes the silence that ended the turn.

/// Length of the windows whose energy is taken, ms of stream.
const WINDOW_MS: u64 = 20;
/// Loud windows in a row before speech has begun: a click is not a word.
const ONSET_WINDOWS: u64 = 3;

/// `audio.input.turn_detection` of type `server_vad`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// 0.0 to 1.0; higher needs louder speech.
    pub threshold: f64,
    /// Audio before the onset that belongs to the turn, ms.
    pub prefix_padding_ms: u64,
    /// Silence that ends a turn, ms.
    pub silence_duration_ms: u64,
}

/// What the detector noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edge {
    /// Speech began: stream time with the padding taken off.
    Started {
        /// ms of stream.
        audio_start_ms: u64,
    },
    /// Speech ended: stream time of the decision.
    Stopped {
        /// ms of stream.
        audio_end_ms: u64,
    },
}

/// One stream's detector.
#[derive(Debug, Default)]
pub struct Vad {
    /// Samples of the window that is filling; shorter than a window.
    window: Vec<i16>,
    /// Stream time at the end of the last whole window.
    position_ms: u64,
    loud_windows: u64,
    quiet_ms: u64,
    speaking: bool,
    /// Padding never reaches back into the turn before.
    last_end_ms: u64,
}

impl Vad {
    /// Whether a turn is open.
    pub fn is_speaking(&self) -> bool {
        self.speaking
    }

    /// Stream time at the end of the last whole window, ms.
    pub fn position_ms(&self) -> u64 {
        self.position_ms
    }

    /// Forgets an open turn (after `clear`, or when detection is switched off); time goes on.
    pub fn reset(&mut self) {
        self.loud_windows = 0;
        self.quiet_ms = 0;
        self.speaking = false;
        self.last_end_ms = self.position_ms;
    }

    /// Takes samples at `rate` Hz and says what changed, in order.
    pub fn push(&mut self, samples: &[i16], rate: u64, settings: &Settings) -> Vec<Edge> {
        let window_len = (rate * WINDOW_MS / 1000) as usize;
        let mut edges = Vec::new();
        let mut rest = samples;
        while !rest.is_empty() {
            // A change of the rate in mid-window (24 kHz to 8 kHz) leaves a window that is already full.
            let wanted = window_len.saturating_sub(self.window.len());
            let taken = wanted.min(rest.len());
            self.window.extend_from_slice(&rest[..taken]);
            rest = &rest[taken..];
            if self.window.len() >= window_len {
                let loud = score(&self.window) >= settings.threshold;
                self.window.clear();
                self.position_ms += WINDOW_MS;
                edges.extend(self.on_window(loud, settings));
            }
        }
        edges
    }

    fn on_window(&mut self, loud: bool, settings: &Settings) -> Option<Edge> {
        if loud {
            self.loud_windows += 1;
            self.quiet_ms = 0;
        } else {
            self.loud_windows = 0;
            self.quiet_ms += WINDOW_MS;
        }
        if !self.speaking && self.loud_windows >= ONSET_WINDOWS {
            self.speaking = true;
            let onset = self.position_ms - ONSET_WINDOWS * WINDOW_MS;
            let padded = onset.saturating_sub(settings.prefix_padding_ms);
            return Some(Edge::Started {
                audio_start_ms: padded.max(self.last_end_ms),
            });
        }
        if self.speaking && self.quiet_ms >= settings.silence_duration_ms.max(WINDOW_MS) {
            self.speaking = false;
            self.last_end_ms = self.position_ms;
            return Some(Edge::Stopped {
                audio_end_ms: self.position_ms,
            });
        }
        None
    }
}

/// How much like speech a window is, 0.0 to 1.0, from its level: 0.5 is -38 dB below full scale, which
/// lies between line noise (-50 and less) and telephone speech (-15 to -30).
fn score(window: &[i16]) -> f64 {
    let power: f64 = window
        .iter()
        .map(|&s| f64::from(s) * f64::from(s))
        .sum::<f64>()
        / window.len() as f64;
    let level_db = 10.0 * (power / (32768.0 * 32768.0)).max(1e-12).log10();
    ((level_db + 60.0) / 44.0).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: Settings = Settings {
        threshold: 0.5,
        prefix_padding_ms: 300,
        silence_duration_ms: 500,
    };

    fn tone(ms: usize, amplitude: i16) -> Vec<i16> {
        (0..ms * 8)
            .map(|i| {
                if (i / 10) % 2 == 0 {
                    amplitude
                } else {
                    -amplitude
                }
            })
            .collect()
    }

    fn turn() -> Vec<i16> {
        [tone(1000, 0), tone(400, 8000), tone(1000, 20)].concat()
    }

    #[test]
    fn times_count_the_stream_with_padding_and_silence() {
        let edges = Vad::default().push(&turn(), 8000, &SETTINGS);
        assert_eq!(
            edges,
            [
                Edge::Started {
                    audio_start_ms: 700
                },
                Edge::Stopped { audio_end_ms: 1900 }
            ]
        );
    }

    #[test]
    fn the_size_of_the_pieces_does_not_matter() {
        for size in [1, 7, 160, 161, 4000] {
            let mut vad = Vad::default();
            let mut edges = Vec::new();
            for piece in turn().chunks(size) {
                edges.extend(vad.push(piece, 8000, &SETTINGS));
            }
            assert_eq!(edges, Vad::default().push(&turn(), 8000, &SETTINGS));
        }
    }

    #[test]
    fn noise_and_clicks_are_not_speech() {
        let mut audio = tone(2000, 100);
        audio.extend(tone(40, 20_000));
        audio.extend(tone(2000, 100));
        assert_eq!(Vad::default().push(&audio, 8000, &SETTINGS), []);
    }

    #[test]
    fn a_pause_shorter_than_the_silence_keeps_the_turn_open() {
        let audio = [tone(400, 8000), tone(400, 0), tone(400, 8000)].concat();
        let mut vad = Vad::default();
        assert_eq!(vad.push(&audio, 8000, &SETTINGS).len(), 1);
        assert!(vad.is_speaking());
        let quick = Settings {
            silence_duration_ms: 200,
            ..SETTINGS
        };
        assert_eq!(Vad::default().push(&audio, 8000, &quick).len(), 3);
    }

    #[test]
    fn a_higher_threshold_needs_louder_speech() {
        let strict = Settings {
            threshold: 0.9,
            ..SETTINGS
        };
        let audio = tone(400, 2000);
        assert_eq!(Vad::default().push(&audio, 8000, &SETTINGS).len(), 1);
        assert_eq!(Vad::default().push(&audio, 8000, &strict), []);
    }

    #[test]
    fn padding_does_not_reach_into_the_turn_before() {
        let audio = [tone(400, 8000), tone(520, 0), tone(400, 8000)].concat();
        let edges = Vad::default().push(&audio, 8000, &SETTINGS);
        assert_eq!(edges[0], Edge::Started { audio_start_ms: 0 });
        assert_eq!(edges[1], Edge::Stopped { audio_end_ms: 900 });
        assert_eq!(
            edges[2],
            Edge::Started {
                audio_start_ms: 900
            }
        );
    }

    #[test]
    fn silence_that_never_comes_never_ends_the_turn() {
        // Trap: a carrier that stops sending. No samples, no time, no `speech_stopped`.
        let mut vad = Vad::default();
        assert_eq!(vad.push(&tone(400, 8000), 8000, &SETTINGS).len(), 1);
        assert_eq!(vad.push(&[], 8000, &SETTINGS), []);
        assert!(vad.is_speaking());
    }
}
