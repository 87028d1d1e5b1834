//! Who said what, when, and what was heard of it: a call's facts made into entries. Core.
//!
//! Facts come in the order in which the model knew things: the caller's words long after they were spoken, the agent's
//! long before they are heard. An entry is therefore reported again whenever more is known of it, whole each time and
//! under the same number, so that a journal may hold any of its states and the last one counts. While words trickle in, it
//! is reported at most once a second: that is what a `kill -9` may lose of it.
//!
//! Times are milliseconds since the stream's `start`. The caller's are the model's own (`audio_start_ms`), set on the
//! session's beginning; the agent's are the playback ledger's: an item that is over was heard until now.

use crate::base::time::{Mono, Now};
use crate::call::fact::{Fact, Speaker as Said};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::time::Duration;

/// One entry's text, bytes; what comes beyond is left out.
pub const TEXT_BYTES_MAX: usize = 256 * 1024;
/// Entries of a call that may still change.
const LIVE_MAX: usize = 64;
/// Between two reports of an entry that is still growing.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// Who spoke, as S4 spells it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Speaker {
    /// The caller.
    User,
    /// The agent.
    Assistant,
}

impl From<Said> for Speaker {
    fn from(said: Said) -> Self {
        match said {
            Said::User => Self::User,
            Said::Assistant => Self::Assistant,
        }
    }
}

/// One utterance.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Its number in the call, given when it began: what a later report of it replaces.
    pub n: u32,
    /// The model's id of the item, where there is one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub item_id: String,
    /// Who spoke.
    pub speaker: Speaker,
    /// What was said; of the agent: generated.
    pub text: String,
    /// What the caller heard of it. `None` while it is not over, and for the caller's own words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heard_text: Option<String>,
    /// It was cut off before it had been heard.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub interrupted: bool,
    /// The mean probability of the transcript's tokens, 0 to 1, four decimals. `None`: the model did not say.
    #[serde(default)]
    pub confidence: Option<f64>,
    /// When it began, ms since `start`.
    pub start_ms: u64,
    /// When it ended.
    #[serde(default)]
    pub end_ms: Option<u64>,
    /// Its text will not grow any more.
    #[serde(default)]
    pub complete: bool,
}

/// A call's entries.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Transcript(Vec<Entry>);

impl Transcript {
    /// Adds an entry, or puts it in the place of what was known of it.
    pub fn put(&mut self, entry: Entry) {
        match self.0.binary_search_by_key(&entry.n, |known| known.n) {
            Ok(at) => self.0[at] = entry,
            Err(at) => self.0.insert(at, entry),
        }
    }

    /// By when speech began; what began at once in the order of its numbers.
    pub fn chronological(&self) -> Vec<&Entry> {
        let mut entries: Vec<&Entry> = self.0.iter().collect();
        entries.sort_by_key(|entry| (entry.start_ms, entry.n));
        entries
    }

    /// By number.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.0.iter()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[derive(Clone, Debug)]
struct Live {
    entry: Entry,
    /// Something of it was not reported yet.
    dirty: bool,
    reported: Option<Mono>,
}

/// A call's own time, from its facts: milliseconds since the stream's `start`.
#[derive(Clone, Copy, Debug, Default)]
pub struct CallTime {
    /// When the stream began.
    zero: Option<Mono>,
    /// Sessions with the model that became ready.
    sessions: u32,
    /// Where the session's own time begins, ms since `start`.
    base_ms: u64,
}

impl CallTime {
    /// Takes the next fact.
    pub fn observe(&mut self, fact: &Fact, now: Mono) {
        match fact {
            Fact::Started { .. } => self.zero = Some(now),
            Fact::SessionReady { .. } => {
                // The first one hears the caller from `start` on; a later one from when it took over.
                let first = self.sessions == 0;
                self.base_ms = if first { 0 } else { self.since_start(now) };
                self.sessions = self.sessions.saturating_add(1);
            }
            _ => {}
        }
    }

    /// Milliseconds since the stream's start; 0 before it.
    pub fn since_start(&self, now: Mono) -> u64 {
        let zero = self.zero.unwrap_or(now);
        u64::try_from(now.since(zero).as_millis()).unwrap_or(u64::MAX)
    }

    /// A time of the model's on the call's line. It can't lie after its report.
    pub fn of_model(&self, ms: Option<u64>, now: Mono) -> u64 {
        let at = self.since_start(now);
        ms.map_or(at, |ms| self.base_ms.saturating_add(ms).min(at))
    }
}

/// The state between facts, of one call.
#[derive(Clone, Debug, Default)]
pub struct Normalizer {
    time: CallTime,
    next: u32,
    /// Oldest first.
    live: VecDeque<Live>,
}

impl Normalizer {
    /// Takes the next fact, and hands out every entry of which more is known now.
    pub fn observe(&mut self, fact: &Fact, now: Now, mut out: impl FnMut(&Entry)) {
        self.time.observe(fact, now.mono);
        let at = self.time.since_start(now.mono);
        match fact {
            Fact::SpeechStarted {
                audio_start_ms,
                item_id,
            } => {
                let id = item_id.as_ref().map_or("", |id| id.as_str());
                let start = self.time.of_model(*audio_start_ms, now.mono);
                let live = self.begin(Speaker::User, id, start, &mut out);
                live.dirty = false; // nothing to tell without words
            }
            Fact::SpeechStopped {
                audio_end_ms,
                item_id,
            } => {
                let id = item_id.as_ref().map_or("", |id| id.as_str());
                let end = self.time.of_model(*audio_end_ms, now.mono);
                let open = |live: &&mut Live| {
                    let entry = &live.entry;
                    let same = id.is_empty() || entry.item_id.is_empty() || entry.item_id == id;
                    entry.speaker == Speaker::User && entry.end_ms.is_none() && same
                };
                if let Some(live) = self.live.iter_mut().rev().find(open) {
                    live.entry.end_ms = Some(end.max(live.entry.start_ms));
                    if live.entry.item_id.is_empty() {
                        live.entry.item_id = id.to_owned();
                    }
                    live.dirty = !live.entry.text.is_empty();
                }
            }
            Fact::TranscriptDelta {
                speaker,
                item_id,
                text,
            } => {
                let live = self.find_or_begin((*speaker).into(), item_id.as_str(), at, &mut out);
                if live.entry.complete {
                    return;
                }
                push(&mut live.entry.text, text);
                live.dirty = true;
                let last = *live.reported.get_or_insert(now.mono);
                if now.mono.since(last) >= REPORT_EVERY {
                    live.report(now.mono, &mut out);
                }
            }
            Fact::Transcript {
                speaker,
                item_id,
                text,
                confidence,
            } => {
                let live = self.find_or_begin((*speaker).into(), item_id.as_str(), at, &mut out);
                live.entry.text.clear();
                push(&mut live.entry.text, text);
                live.entry.complete = true;
                live.entry.confidence = confidence.map(rounded);
                live.report(now.mono, &mut out);
            }
            Fact::Heard {
                item_id,
                heard_ms,
                total_ms,
                text,
            } => {
                let id = item_id.as_str();
                let live = self.find_or_begin(Speaker::Assistant, id, at, &mut out);
                let entry = &mut live.entry;
                if entry.text.is_empty() {
                    push(&mut entry.text, text);
                }
                let mut heard = String::new();
                push(&mut heard, text);
                entry.heard_text = Some(heard);
                entry.interrupted = heard_ms < total_ms;
                entry.start_ms = at.saturating_sub(*heard_ms);
                entry.end_ms = Some(at);
                live.report(now.mono, &mut out);
            }
            Fact::Ended { .. } => {
                for live in &mut self.live {
                    if live.dirty {
                        live.report(now.mono, &mut out);
                    }
                }
                self.live.clear();
            }
            _ => {}
        }
    }

    fn begin(
        &mut self,
        speaker: Speaker,
        item_id: &str,
        start_ms: u64,
        out: &mut impl FnMut(&Entry),
    ) -> &mut Live {
        if self.live.len() == LIVE_MAX
            && let Some(mut oldest) = self.live.pop_front()
            && oldest.dirty
        {
            oldest.report(Mono::default(), out);
        }
        let n = self.next;
        self.next = self.next.saturating_add(1);
        self.live.push_back(Live {
            entry: Entry {
                n,
                item_id: item_id.to_owned(),
                speaker,
                text: String::new(),
                heard_text: None,
                interrupted: false,
                confidence: None,
                start_ms,
                end_ms: None,
                complete: false,
            },
            dirty: true,
            reported: None,
        });
        let newest = self.live.len() - 1;
        &mut self.live[newest]
    }

    /// The entry of this item. A caller's turn of which no item was known is the oldest one that has no words yet.
    fn find_or_begin(
        &mut self,
        speaker: Speaker,
        item_id: &str,
        at: u64,
        out: &mut impl FnMut(&Entry),
    ) -> &mut Live {
        let of_side = |live: &Live| live.entry.speaker == speaker;
        let by_id = |live: &Live| of_side(live) && live.entry.item_id == item_id;
        let waiting = |live: &Live| {
            let entry = &live.entry;
            of_side(live) && entry.item_id.is_empty() && !entry.complete
        };
        let found = match item_id {
            "" => self.live.iter().position(waiting),
            _ => self.live.iter().position(by_id).or_else(|| {
                let nameless = |live: &Live| waiting(live) && live.entry.text.is_empty();
                self.live.iter().position(nameless)
            }),
        };
        match found {
            Some(n) => {
                let live = &mut self.live[n];
                if live.entry.item_id.is_empty() {
                    live.entry.item_id = item_id.to_owned();
                }
                live
            }
            None => self.begin(speaker, item_id, at, out),
        }
    }
}

impl Live {
    fn report(&mut self, now: Mono, out: &mut impl FnMut(&Entry)) {
        self.dirty = false;
        self.reported = Some(now);
        out(&self.entry);
    }
}

/// Appends as much of `more` as there is room for, whole characters.
fn push(text: &mut String, more: &str) {
    let room = TEXT_BYTES_MAX.saturating_sub(text.len());
    text.push_str(&more[..more.floor_char_boundary(room)]);
}

/// A probability to four decimals. What is none is nought.
fn rounded(probability: f64) -> f64 {
    (probability.clamp(0.0, 1.0) * 1e4).round() / 1e4
}

#[cfg(test)]
#[path = "transcript_tests.rs"]
mod tests;
