//! What one side of a relay sent against what the other side received: content, order, delay. Pure.

use super::Passed;
use crate::base::time::Mono;
use crate::proto::audio::base64;
use hdrhistogram::Histogram;
use std::time::Duration;

/// How far ahead a received chunk is looked for among those sent, when some were dropped.
const LOOK_AHEAD: usize = 2_000;

/// One direction of a call, compared.
#[derive(Clone, Debug)]
pub struct Direction {
    /// Chunks sent, and their bytes.
    pub sent_frames: u64,
    /// See `sent_frames`.
    pub sent_bytes: u64,
    /// Chunks received, and their bytes.
    pub received_frames: u64,
    /// See `received_frames`.
    pub received_bytes: u64,
    /// Received silence that nobody sent.
    pub filled_bytes: u64,
    /// Sent and never received.
    pub missing_bytes: u64,
    /// Received, not silence, and never sent: each is a fault of whoever is between.
    pub strange_frames: u64,
    /// Every received chunk was sent, byte for byte, wherever it stood.
    pub is_content_equal: bool,
    /// And they came in the order in which they were sent.
    pub is_in_order: bool,
    delay: Histogram<u64>,
}

impl Direction {
    /// The delay that this share (0.0 to 1.0) of the chunks stayed below; `None` when nothing was measured.
    pub fn delay(&self, share: f64) -> Option<Duration> {
        (!self.delay.is_empty()).then(|| Duration::from_nanos(self.delay.value_at_quantile(share)))
    }

    /// How many chunks the delay was measured of.
    pub fn measured(&self) -> u64 {
        self.delay.len()
    }
}

fn bytes_of(passed: &Passed) -> u64 {
    base64::decoded_len(passed.payload.as_bytes()) as u64
}

fn is_silence(passed: &Passed) -> bool {
    let mut bytes = Vec::new();
    base64::decode_into(passed.payload.as_bytes(), &mut bytes)
        && bytes.iter().all(|b| *b == 0xFF || *b == 0x7F)
}

/// Compares what was sent with what arrived. Chunks sent before `from` (held until a session was ready)
/// count for content and order, not for the delay.
pub fn compare(sent: &[Passed], received: &[Passed], from: Mono) -> Direction {
    let mut direction = Direction {
        sent_frames: sent.len() as u64,
        sent_bytes: sent.iter().map(bytes_of).sum(),
        received_frames: received.len() as u64,
        received_bytes: received.iter().map(bytes_of).sum(),
        filled_bytes: 0,
        missing_bytes: 0,
        strange_frames: 0,
        is_content_equal: true,
        is_in_order: true,
        // A microsecond to a minute, three digits: fits any relay that still works.
        delay: Histogram::new_with_bounds(1_000, 60_000_000_000, 3).expect("valid bounds"),
    };
    let mut next = 0;
    for chunk in received {
        let rest = &sent[next.min(sent.len())..];
        let ahead = rest.iter().take(LOOK_AHEAD);
        let silence = is_silence(chunk);
        let found = match rest.first() {
            Some(first) if first.payload == chunk.payload => Some(0),
            // Silence is not searched for: it may be a fill, and one silence is like another.
            _ if silence => None,
            _ => ahead.into_iter().position(|s| s.payload == chunk.payload),
        };
        match found {
            Some(skipped) => {
                direction.missing_bytes += rest[..skipped].iter().map(bytes_of).sum::<u64>();
                let origin = &rest[skipped];
                if origin.at >= from {
                    direction
                        .delay
                        .saturating_record(chunk.at.since(origin.at).as_nanos() as u64);
                }
                next += skipped + 1;
            }
            None if silence => direction.filled_bytes += bytes_of(chunk),
            None => {
                direction.strange_frames += 1;
                direction.is_in_order = false;
                let is_known = sent.iter().any(|s| s.payload == chunk.payload);
                direction.is_content_equal &= is_known;
            }
        }
    }
    let rest = &sent[next.min(sent.len())..];
    direction.missing_bytes += rest.iter().map(bytes_of).sum::<u64>();
    direction
}

/// For each moment at which the caller stopped, how long until the first audio arrived; turns that got
/// none before the next one are left out.
pub fn first_audio(stopped: &[Mono], received: &[Passed]) -> Vec<Option<Duration>> {
    stopped
        .iter()
        .enumerate()
        .map(|(turn, &at)| {
            let end = stopped.get(turn + 1).copied().unwrap_or(Mono(u64::MAX));
            received
                .iter()
                .find(|passed| passed.at >= at && passed.at < end)
                .map(|passed| passed.at.since(at))
        })
        .collect()
}

/// How many of these moments fell into audio that was still playing: everything received plays in order,
/// at real time, from its arrival on.
pub fn overlaps(started: &[Mono], received: &[Passed]) -> usize {
    let mut until = Mono(0);
    let spans: Vec<(Mono, Mono)> = received
        .iter()
        .map(|passed| {
            let from = until.max(passed.at);
            until = from + Duration::from_micros(bytes_of(passed) * 125);
            (from, until)
        })
        .collect();
    let is_inside = |at: &&Mono| spans.iter().any(|(from, until)| from <= *at && *at < until);
    started.iter().filter(is_inside).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(ms: u64, byte: u8) -> Passed {
        let mut payload = Vec::new();
        base64::encode_into(&[byte; 160], &mut payload);
        Passed {
            at: Mono(ms * 1_000_000),
            payload: String::from_utf8(payload).expect("ASCII").into(),
        }
    }

    #[test]
    fn equal_streams_are_equal_and_their_delay_is_measured() {
        let sent = [chunk(0, 1), chunk(20, 2), chunk(40, 3)];
        let received = [chunk(30, 1), chunk(30, 2), chunk(42, 3)];
        let direction = compare(&sent, &received, Mono(20_000_000));
        assert!(direction.is_content_equal && direction.is_in_order);
        assert_eq!((direction.measured(), direction.missing_bytes), (2, 0));
        let p99 = direction.delay(0.99).expect("measured");
        assert!((9_900..10_100).contains(&p99.as_micros()));
    }

    #[test]
    fn fills_and_drops_are_counted() {
        let sent = [chunk(0, 1), chunk(20, 2), chunk(40, 3)];
        let received = [chunk(1, 1), chunk(30, 0xFF), chunk(42, 3)];
        let direction = compare(&sent, &received, Mono(0));
        assert!(direction.is_content_equal && direction.is_in_order);
        assert_eq!(
            (direction.filled_bytes, direction.missing_bytes),
            (160, 160)
        );
    }

    #[test]
    fn a_changed_byte_is_noticed() {
        let direction = compare(&[chunk(0, 1)], &[chunk(1, 9)], Mono(0));
        assert!(!direction.is_content_equal && !direction.is_in_order);
        assert_eq!(direction.strange_frames, 1);
    }

    #[test]
    fn swapped_and_doubled_chunks_are_out_of_order() {
        let sent = [chunk(0, 1), chunk(20, 2)];
        for received in [[chunk(1, 2), chunk(2, 1)], [chunk(1, 1), chunk(2, 1)]] {
            let direction = compare(&sent, &received, Mono(0));
            assert!(direction.is_content_equal && !direction.is_in_order);
        }
    }

    #[test]
    fn speech_over_queued_audio_is_an_overlap() {
        // Two chunks of 20 ms that came together play from 100 to 140 ms.
        let received = [chunk(100, 1), chunk(100, 2), chunk(300, 3)];
        let at = |ms: u64| Mono(ms * 1_000_000);
        assert_eq!(overlaps(&[at(99), at(139), at(140), at(310)], &received), 2);
    }

    #[test]
    fn each_turn_gets_its_own_first_audio() {
        let stopped = [Mono(100_000_000), Mono(500_000_000), Mono(900_000_000)];
        let received = [chunk(50, 1), chunk(180, 1), chunk(200, 1), chunk(950, 1)];
        assert_eq!(
            first_audio(&stopped, &received),
            [
                Some(Duration::from_millis(80)),
                None,
                Some(Duration::from_millis(50))
            ]
        );
    }
}
