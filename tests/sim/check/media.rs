//! What the carrier is sent: the model's audio, exactly and in order, marks, clears; nothing of what was cleared.

use super::{Judge, Playback, SID, Seen, Stats, object, string};

impl Judge {
    pub(super) fn on_message(
        &mut self,
        text: &[u8],
        late: bool,
        playback: &Playback,
        stats: &Stats,
    ) -> Seen {
        let message = object(text);
        assert!(self.started, "a message before the stream's start");
        assert_eq!(message["streamSid"], SID, "every message names its stream");
        let keys: Vec<&str> = message.keys().map(String::as_str).collect();
        let only = |names: [&str; 2], what: &str| {
            assert!(
                keys.iter()
                    .all(|key| names.contains(key) || *key == "streamSid"),
                "{what} has members {keys:?}"
            );
        };
        match message["event"].as_str() {
            Some("media") => {
                only(["event", "media"], "media");
                let media = message["media"].as_object().expect("media is an object");
                assert_eq!(media.len(), 1, "media has the payload alone");
                let payload = base64_simd::STANDARD.decode_to_vec(string(media, "payload"));
                let payload = payload.expect("a payload is valid base64");
                self.on_media(&payload, late, stats)
            }
            Some("mark") => {
                only(["event", "mark"], "mark");
                let name = message["mark"]["name"]
                    .as_str()
                    .expect("a mark has a name")
                    .to_owned();
                assert!(
                    self.mark_names.insert(name.clone()),
                    "the mark {name} was sent before"
                );
                Seen::Mark(name)
            }
            Some("clear") => {
                only(["event", "event"], "clear");
                self.clears += 1;
                self.talk.audio_until = self.now;
                // A clear that had to wait may have been written for any of them, and was not for a later one.
                let known = match late {
                    true => self.known_at_speech.pop_front().unwrap_or(0),
                    false => *self
                        .known_at_speech
                        .back()
                        .unwrap_or(&self.known_before_step),
                };
                for item in &mut self.items {
                    if !self.reversible && item.known.is_some_and(|at| at <= known) {
                        item.dead.get_or_insert(self.clears);
                    }
                }
                self.clear_step = self.step;
                self.again = None;
                self.active_at_clear = self.at.iter().find_map(|at| at.active.clone());
                self.expect_clear = None;
                if self.calm && !late && self.barge_in {
                    let clear = Some(self.clears);
                    let unheard = self.items.iter().enumerate().any(|(n, item)| {
                        item.dead == clear && item.sent as u64 > playback.played(n)
                    });
                    assert!(unheard, "a clear where everything was heard");
                }
                Seen::Clear
            }
            _ => panic!("a message that is never due: {message:?}"),
        }
    }

    fn on_media(&mut self, payload: &[u8], late: bool, stats: &Stats) -> Seen {
        assert!(!payload.is_empty(), "media without audio");
        // What is due is looked at first: a few bytes are found anywhere.
        let due = self.deltas.front().is_some_and(|&(item, start, len)| {
            self.items[item].bytes[start..start + len] == *payload
        });
        if self.reversible
            && !due
            && let Some((item, start)) = self.sent_before(payload)
        {
            let (owner, len) = (&self.items[item], payload.len());
            assert!(
                owner.dead.is_none() || late,
                "audio of {} is sent again, and was truncated",
                owner.id
            );
            match self.again {
                // A few bytes are found anywhere, and what had to wait may belong to an earlier clear.
                _ if late || len < 16 || owner.tones => {}
                None => {
                    self.resumes += 1;
                    self.resumed.push((self.clears as usize, item, start));
                }
                Some((next, at)) => assert!(
                    self.behind(next, at) == Some((item, start)) || self.items[next].tones,
                    "what is sent again has a hole: item_{item} at {start}, after item_{next} at {at}"
                ),
            }
            self.again = match self.again {
                Some((item, start)) if len < 16 => Some((item, start + len)),
                _ if late => None,
                _ => Some((item, start + len)),
            };
            self.played_bytes += len as u64;
            self.talk_media(len as u64);
            return Seen::Media { item, len };
        }
        // What was delivered stands in order; what is passed over was dropped.
        loop {
            let Some((item, start, len)) = self.deltas.pop_front() else {
                panic!(
                    "audio that the model did not send, or sent earlier, or that was sent already"
                );
            };
            let owner = &mut self.items[item];
            // The same keys sound the same: tones that were cut are not these.
            let cut = owner.tones && owner.dead.is_some() && !late;
            if owner.bytes[start..start + len] == *payload && !cut {
                assert!(
                    owner.dead.is_none() || self.reversible && late,
                    "audio of {} behind its clear",
                    owner.id
                );
                owner.sent += len;
                if self.reversible {
                    self.line.push((item, start, len));
                }
                self.played_bytes += len as u64;
                self.talk_media(len as u64);
                return Seen::Media { item, len };
            }
            self.skipped_bytes += len as u64;
            if self.clears == 0 {
                assert!(
                    self.skipped_bytes <= stats.outbound_bytes_dropped,
                    "audio of {} was left out and not counted",
                    owner.id
                );
            }
        }
    }

    /// What was sent behind the byte of this item that lies before `at`.
    fn behind(&self, item: usize, at: usize) -> Option<(usize, usize)> {
        let holds =
            |&(n, start, len): &(usize, usize, usize)| n == item && start < at && at <= start + len;
        let n = self.line.iter().rposition(holds)?;
        let (_, start, len) = self.line[n];
        match at < start + len {
            true => Some((item, at)),
            false => self.line.get(n + 1).map(|&(item, start, _)| (item, start)),
        }
    }

    /// Where audio that was sent already stands.
    fn sent_before(&self, payload: &[u8]) -> Option<(usize, usize)> {
        if self.clears == 0 {
            return None;
        }
        // Where it is due, first: tones repeat themselves.
        if let Some((n, start)) = self.again
            && let Some(rest) = self.items[n].bytes.get(start..)
            && rest.starts_with(payload)
            && start + payload.len() <= self.items[n].sent
        {
            return Some((n, start));
        }
        self.items.iter().enumerate().rev().find_map(|(n, item)| {
            let sent = &item.bytes[..item.sent];
            let start = sent
                .windows(payload.len())
                .position(|part| part == payload)?;
            Some((n, start))
        })
    }

    /// The carrier has acted on a clear: what was played until then is what was heard.
    pub fn on_cleared(&mut self, playback: &Playback) {
        self.clears_arrived += 1;
        let played = (0..self.items.len()).map(|n| playback.played(n));
        self.played_at.push(played.collect());
        for (n, item) in self.items.iter_mut().enumerate() {
            if item.dead == Some(self.clears_arrived) {
                item.played_at_clear = Some(playback.played(n));
            }
        }
    }
}
