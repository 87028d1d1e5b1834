//! What the model is given: the caller's bytes in order, and silence where stream time has a hole.

use super::{Judge, Stats};

impl Judge {
    pub(super) fn on_append(&mut self, place: usize, bytes: &[u8], stats: &Stats) {
        let here = &mut self.at[place];
        assert!(here.updated, "audio before the session was confirmed");
        assert!(!bytes.is_empty(), "an append without audio");
        let mut at = 0;
        while at < bytes.len() {
            if let Some((n, done)) = here.appends.inside {
                let frame = &self.frames[n].bytes;
                let take = (frame.len() - done).min(bytes.len() - at);
                assert!(
                    frame[done..done + take] == bytes[at..at + take],
                    "the audio of the caller's frame {n} is not what the caller said"
                );
                at += take;
                self.caller_bytes += take as u64;
                here.appends.position += take as u64;
                here.appends.inside = (done + take < frame.len()).then_some((n, done + take));
                continue;
            }
            if bytes[at] == 0xff {
                let run = bytes[at..].iter().take_while(|&&b| b == 0xff).count();
                at += run;
                self.silence_bytes += run as u64;
                here.appends.position += run as u64;
                continue;
            }
            let head = bytes
                .get(at..at + 4)
                .expect("a frame begins with its number");
            let n = head.iter().fold(0, |n, &b| n << 7 | usize::from(b));
            assert!(
                n >= here.next_frame && n < self.delivered_caller,
                "the caller's frame {n} where {} or later was due (of {})",
                here.next_frame,
                self.delivered_caller
            );
            assert!(self.given.insert(n), "frame {n} is given a second time");
            let stamp = self.frames[n].stamp_ms;
            if self.even_stamps && self.connections == 1 && stats.inbound_bytes_dropped == 0 {
                assert_eq!(n, here.next_frame, "a frame is missing and not counted");
                let position = here.appends.position;
                let (first, origin) = *here.appends.origin.get_or_insert((stamp, position));
                let due = (stamp - first) * 8;
                let is = position - origin;
                assert!(
                    is >= due && is <= due + stats.padded_bytes,
                    "frame {n} stands at {is} bytes of the model's time, where {due} is its place"
                );
            }
            here.next_frame = n + 1;
            here.appends.inside = Some((n, 0));
        }
    }
}
