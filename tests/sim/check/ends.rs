//! What must hold once a call is over: sums, and what was heard.

use super::{HEARD_TOLERANCE_MS, Judge, Stats};

impl Judge {
    /// The call is over. `clean`: each leg took all that was queued for it.
    pub fn at_end(&self, stats: &Stats, clean_model: bool, clean_carrier: bool) {
        assert_eq!(
            stats.inbound_bytes,
            stats.inbound_bytes_sent + stats.inbound_bytes_dropped,
            "the caller's audio does not add up"
        );
        assert_eq!(
            stats.outbound_bytes,
            stats.outbound_bytes_sent + stats.outbound_bytes_dropped,
            "the model's audio does not add up"
        );
        // All of the model's audio is counted, whatever became of it and of the connection that it came on. What came in the
        // call's last step may lie behind its end.
        let [before, last] = self.audio_bytes;
        assert!(
            (before..=before + last).contains(&stats.outbound_bytes),
            "{} bytes of the model's audio are counted, where {before} and then {last} came",
            stats.outbound_bytes
        );
        assert!(stats.inbound_bytes <= self.delivered_caller_bytes);
        assert!(self.caller_bytes <= stats.inbound_bytes_sent);
        assert!(self.silence_bytes <= stats.filled_bytes + stats.padded_bytes);
        assert!(self.played_bytes <= stats.outbound_bytes_sent + stats.resent_bytes);
        if clean_model && self.connections == 1 {
            assert_eq!(self.caller_bytes, stats.inbound_bytes_sent, "appended");
            assert_eq!(
                self.silence_bytes,
                stats.filled_bytes + stats.padded_bytes,
                "silence"
            );
        }
        if clean_carrier {
            assert_eq!(
                self.played_bytes + stats.outbound_bytes_cut,
                stats.outbound_bytes_sent + stats.resent_bytes,
                "played"
            );
        }
        if clean_carrier && self.clears == 0 {
            assert_eq!(
                self.mark_names.len() as u64,
                stats.marks_sent,
                "marks sent and marks counted"
            );
        }
        if self.calm && clean_carrier && clean_model && self.connections == 1 {
            self.truncations_are_true();
        }
    }

    fn truncations_are_true(&self) {
        for &(clear, item, start) in &self.resumed {
            let played = self.played_at[clear - 1].get(item).copied().unwrap_or(0);
            assert!(
                (start as u64).abs_diff(played) / 8 <= HEARD_TOLERANCE_MS,
                "item_{item} goes on at {} ms, where {} ms were played",
                start / 8,
                played / 8
            );
        }
        for item in &self.items {
            let Some(played) = item.played_at_clear else {
                continue;
            };
            if item.tones {
                continue;
            }
            let Some(ms) = item.truncated_ms else {
                let unheard = (item.sent as u64).saturating_sub(played) / 8;
                assert!(
                    !self.barge_in || item.dead.is_none() || item.deleted || unheard <= 250,
                    "{} was cleared {unheard} ms before its end and never truncated",
                    item.id
                );
                continue;
            };
            assert!(
                ms.abs_diff(played / 8) <= HEARD_TOLERANCE_MS,
                "{} is truncated at {ms} ms, where {} ms were played",
                item.id,
                played / 8
            );
        }
    }
}
