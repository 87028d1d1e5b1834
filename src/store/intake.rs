//! From what a call reports to what is written of it: one of these for each live call. Pure.
//!
//! Facts go in with their times, events come out in the order in which they belong into the journal. Prices are those of
//! the table that is in force when a response is done. Nothing here can fail, and nothing waits: whatever a `kill -9` takes
//! is what was reported since the last group commit.

use crate::base::time::Now;
use crate::call::fact::{EndReason, Fact, Stats};
use crate::store::analytics::live::Live;
use crate::store::analytics::sentiment;
use crate::store::record::analysis::Analytics;
use crate::store::record::call::{Metadata, NoteSource, Turn};
use crate::store::record::event::{Ended, Event, Happened, Noted, Ready, Started, Used};
use crate::store::record::item::{Item, Raw};
use crate::store::record::money::{Counts, PriceTable, Usage};
use crate::store::record::transcript::{CallTime, Entry, Normalizer, Speaker, Transcript};
use std::sync::Arc;

/// The caller's words that are kept for the sentiment, bytes.
const WORDS_BYTES_MAX: usize = 256 * 1024;

/// The state of one live call.
#[derive(Clone, Debug)]
pub struct Intake {
    prices: Arc<PriceTable>,
    model: String,
    time: CallTime,
    normalizer: Normalizer,
    live: Live,
    /// The caller's entries alone.
    said: Transcript,
    said_bytes: usize,
    /// Items that will come because another session was told the conversation: they are in the record already.
    told: u32,
}

impl Intake {
    /// For a call that is answered by `model`.
    pub fn new(model: &str, prices: Arc<PriceTable>) -> Self {
        Self {
            prices,
            model: model.to_owned(),
            time: CallTime::default(),
            normalizer: Normalizer::default(),
            live: Live::default(),
            said: Transcript::default(),
            said_bytes: 0,
            told: 0,
        }
    }

    /// The call in numbers as it stands.
    pub fn analytics(&self, now: Now) -> Analytics {
        self.live.analytics(now.mono)
    }

    /// Takes the next fact and hands out what is to be written of it.
    pub fn observe(&mut self, fact: &Fact, now: Now, mut out: impl FnMut(Event)) {
        self.time.observe(fact, now.mono);
        self.live.observe(fact, now);
        let at_ms = self.time.since_start(now.mono);
        let mut entries = Vec::new();
        self.normalizer
            .observe(fact, now, |entry| entries.push(entry.clone()));
        for entry in entries {
            self.remember(&entry);
            out(entry.into());
        }
        let mut happened = |what: &str, detail: String| {
            let what = what.to_owned();
            out(Happened {
                at_ms,
                what,
                detail,
            }
            .into());
        };
        match fact {
            Fact::Started {
                stream_sid,
                call_sid,
                parameters,
            } => out(Started {
                stream_sid: stream_sid.as_str().to_owned(),
                call_sid: call_sid.map(|sid| sid.as_str().to_owned()),
                parameters: parameters.clone(),
            }
            .into()),
            Fact::SessionReady {
                session_id,
                session_update,
            } => out(Ready {
                model: (!self.model.is_empty()).then(|| self.model.clone()),
                session_id: session_id.clone(),
                session_update: Raw::new(session_update),
            }
            .into()),
            Fact::Item { .. } if self.told > 0 => self.told -= 1,
            Fact::Item { item_id, json } => {
                // The model's own text, so it is JSON; one that is too long for the journal is left out.
                if let Some(item) = Raw::new(json) {
                    let item_id = item_id.map_or(String::new(), |id| id.as_str().to_owned());
                    out(Item { item_id, item }.into());
                }
            }
            Fact::ResponseDone {
                response_id,
                usage: Some(usage),
                ..
            } => {
                let usage = Usage::from_counts(&Counts::from(usage));
                out(Used {
                    response_id: response_id.as_str().to_owned(),
                    model: self.model.clone(),
                    usage,
                    cost: self.prices.of(&self.model).map(|prices| usage.cost(prices)),
                }
                .into());
            }
            Fact::Note { text } => out(noted(text, NoteSource::System)),
            Fact::NoteTaken { text } => out(noted(text, NoteSource::Agent)),
            Fact::Turn(turn) => {
                let us = |time: Option<std::time::Duration>| {
                    time.map(|time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
                };
                out(Turn {
                    stopped_ms: self.time.since_start(turn.stopped),
                    created_us: us(turn.created),
                    first_delta_us: us(turn.first_delta),
                    first_byte_us: us(turn.first_byte),
                    first_mark_us: us(turn.first_mark),
                }
                .into());
            }
            Fact::BargeIn { unplayed_ms, items } => {
                happened(
                    "interrupted",
                    format!("{unplayed_ms} ms of {items} items were not heard"),
                );
            }
            Fact::Dtmf { digit } => happened("dtmf", digit.to_string()),
            Fact::RealtimeError { code, message } => {
                happened("realtime_error", format!("{code}: {message}"));
            }
            Fact::Reconnecting { attempt, cause, .. } => {
                happened("reconnecting", format!("try {attempt}: {cause}"));
            }
            Fact::Reconnected { gap_ms, items, .. } => {
                self.told = *items;
                happened("reconnected", format!("after {gap_ms} ms"));
            }
            Fact::RolledOver { items } => {
                self.told = *items;
                happened("rolled_over", String::new());
            }
            Fact::ModelUnavailable { action } => {
                happened("model_unavailable", action.label().to_owned());
            }
            Fact::Nudged { stage } => happened("nudged", stage.to_string()),
            Fact::Goodbye { reason } => happened("goodbye", reason.label().to_owned()),
            Fact::ToolFinished {
                name,
                outcome,
                took,
            } => {
                let ms = took.as_millis();
                happened("tool", format!("{name}: {} in {ms} ms", outcome.label()));
            }
            Fact::Ended { reason, stats } => {
                if let Some(word) = network_quality(stats) {
                    let network_quality = Some(word.to_owned());
                    out(Metadata {
                        network_quality,
                        ..Metadata::default()
                    }
                    .into());
                }
                self.end(*reason, now, &mut out);
            }
            _ => {}
        }
    }

    fn end(&mut self, reason: EndReason, now: Now, out: &mut impl FnMut(Event)) {
        let mut analytics = self.live.analytics(now.mono);
        analytics.sentiment = sentiment::of(self.said.iter().map(|entry| &*entry.text));
        let duration_ms = Some(analytics.duration_ms);
        out(analytics.into());
        let reason = reason.label().to_owned();
        // Last: what has ended is whole.
        out(Ended {
            reason,
            duration_ms,
        }
        .into());
    }

    fn remember(&mut self, entry: &Entry) {
        if entry.speaker == Speaker::User
            && entry.complete
            && self.said_bytes + entry.text.len() <= WORDS_BYTES_MAX
        {
            self.said_bytes += entry.text.len();
            self.said.put(entry.clone());
        }
    }
}

/// How well the caller's audio came in: by how much of it never came. `None` when none was expected.
fn network_quality(stats: &Stats) -> Option<&'static str> {
    let lost = stats.filled_bytes;
    match (stats.inbound_bytes, lost) {
        (0, _) => None,
        // One in a thousand is not heard; one in a hundred is, in speech.
        (all, lost) if lost * 1_000 <= all => Some("good"),
        (all, lost) if lost * 100 <= all => Some("fair"),
        _ => Some("poor"),
    }
}

fn noted(text: &str, source: NoteSource) -> Event {
    let text = text.to_owned();
    Noted { text, source }.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::{CallId, ItemId, ResponseId, StreamSid};
    use crate::base::time::Mono;
    use crate::call::fact::Speaker as Said;
    use crate::store::record::analysis::Mood;
    use crate::store::record::money::{Nano, Price, Prices};
    use crate::store::record::state::{Stamp, State, apply};
    use crate::store::record::status::Phase;

    fn at(ms: u64) -> Now {
        Now {
            mono: Mono(ms * 1_000_000),
            unix_ms: 1_000 + ms,
        }
    }

    /// A short call, as its facts come.
    fn call() -> Vec<(u64, Fact)> {
        let item = |id: &str| ItemId::new(id).unwrap();
        let usage = crate::call::fact::Usage {
            input_tokens: 100,
            input_audio_tokens: 100,
            output_tokens: 10,
            output_audio_tokens: 10,
            ..Default::default()
        };
        vec![
            (
                0,
                Fact::Started {
                    stream_sid: StreamSid::new("MZ1").unwrap(),
                    call_sid: None,
                    parameters: vec![("lang".into(), "ja".into())],
                },
            ),
            (
                300,
                Fact::SessionReady {
                    session_id: "sess".into(),
                    session_update: r#"{"type":"session.update"}"#.into(),
                },
            ),
            (
                1_200,
                Fact::SpeechStarted {
                    audio_start_ms: Some(1_000),
                    item_id: Some(item("u")),
                },
            ),
            (
                2_200,
                Fact::SpeechStopped {
                    audio_end_ms: Some(2_000),
                    item_id: Some(item("u")),
                },
            ),
            (
                2_400,
                Fact::Transcript {
                    speaker: Said::User,
                    item_id: item("u"),
                    text: "Thanks, this is wonderful".into(),
                    confidence: Some(0.9),
                },
            ),
            (
                2_500,
                Fact::Transcript {
                    speaker: Said::Assistant,
                    item_id: item("a"),
                    text: "どういたしまして".into(),
                    confidence: None,
                },
            ),
            (
                2_600,
                Fact::ResponseDone {
                    response_id: ResponseId::new("resp").unwrap(),
                    status: "completed".into(),
                    detail: None,
                    usage: Some(usage),
                },
            ),
            (
                2_700,
                Fact::NoteTaken {
                    text: "満足".into(),
                },
            ),
            (
                3_600,
                Fact::Heard {
                    item_id: item("a"),
                    heard_ms: 1_000,
                    total_ms: 1_000,
                    text: "どういたしまして".into(),
                },
            ),
            (
                5_000,
                Fact::Ended {
                    reason: EndReason::CallerHungUp,
                    stats: Box::new(Stats::default()),
                },
            ),
        ]
    }

    fn prices() -> Arc<PriceTable> {
        let prices = Prices {
            audio_input: Price::parse("32").unwrap(),
            audio_output: Price::parse("64").unwrap(),
            ..Prices::default()
        };
        Arc::new(PriceTable::new(vec![("gpt-realtime*".into(), prices)]))
    }

    #[test]
    fn a_calls_facts_become_its_record() {
        let mut intake = Intake::new("gpt-realtime", prices());
        let mut state = State::default();
        let mut seq = 0;
        for (ms, fact) in call() {
            intake.observe(&fact, at(ms), |event| {
                // Through its bytes, as in life.
                let mut body = Vec::new();
                event.encode(&mut body);
                let event = Event::decode(event.kind(), event.schema(), &body).unwrap();
                seq += 1;
                let stamp = Stamp {
                    seq,
                    unix_ms: at(ms).unix_ms,
                    call_id: CallId::new("call"),
                };
                assert!(apply(&mut state, &stamp, &event));
            });
        }
        let record = &state.calls["call"];
        let row = &record.call;
        assert_eq!(
            (row.phase, row.duration_ms, row.start_ms),
            (Phase::Completed, Some(5_000), Some(1_000))
        );
        assert_eq!(row.account.cost, Nano(100 * 32_000 + 10 * 64_000));
        assert_eq!(row.notes().as_deref(), Some("満足"));
        let said: Vec<_> = record.transcript.chronological();
        assert_eq!((said[0].start_ms, said[1].start_ms), (1_000, 2_600));
        assert_eq!(said[1].heard_text.as_deref(), Some("どういたしまして"));
        let analytics = record.analytics.as_ref().unwrap();
        assert_eq!(
            (analytics.user_talk_ms, analytics.agent_talk_ms),
            (1_000, 1_000)
        );
        let mood = analytics.sentiment.as_ref().unwrap();
        assert_eq!((mood.label, &*mood.source), (Mood::Positive, "vader-3.3.2"));
        assert_eq!(
            row.session_update.as_ref().unwrap().as_str(),
            r#"{"type":"session.update"}"#
        );
    }

    #[test]
    fn items_are_kept_as_they_came_and_those_that_a_new_session_was_told_are_not() {
        let item = |id: &str| Fact::Item {
            item_id: ItemId::new(id),
            json: format!(r#"{{ "id":"{id}", "content":["はい"] }}"#),
        };
        let reconnected = Fact::Reconnected {
            gap_ms: 5,
            attempts: 1,
            items: 2,
        };
        let facts = [
            item("a"),
            item("b"),
            reconnected,
            item("c"),
            item("d"),
            item("e"),
        ];
        let mut intake = Intake::new("", prices());
        let mut kept = Vec::new();
        for fact in facts {
            intake.observe(&fact, at(5), |event| {
                if let Event::Item(item) = event {
                    kept.push(item.item.as_str().to_owned());
                }
            });
        }
        let expected =
            ["a", "b", "e"].map(|id| format!(r#"{{ "id":"{id}", "content":["はい"] }}"#));
        assert_eq!(kept, expected);
    }

    #[test]
    fn a_model_without_a_price_leaves_the_cost_open() {
        let mut intake = Intake::new("other", prices());
        let mut used = Vec::new();
        for (ms, fact) in call() {
            intake.observe(&fact, at(ms), |event| {
                if let Event::Used(event) = event {
                    used.push(event);
                }
            });
        }
        assert_eq!(used.len(), 1);
        assert_eq!((used[0].cost, used[0].usage.total()), (None, 110));
    }

    #[test]
    fn the_networks_quality_is_what_never_came() {
        let of = |inbound_bytes, filled_bytes| {
            network_quality(&Stats {
                inbound_bytes,
                filled_bytes,
                ..Stats::default()
            })
        };
        assert_eq!(of(0, 0), None);
        assert_eq!((of(1_000, 1), of(1_000, 2)), (Some("good"), Some("fair")));
        assert_eq!((of(1_000, 10), of(1_000, 11)), (Some("fair"), Some("poor")));
    }

    #[test]
    fn the_end_is_the_last_event() {
        let mut intake = Intake::new("", prices());
        let mut kinds = Vec::new();
        for (ms, fact) in call() {
            intake.observe(&fact, at(ms), |event| kinds.push(event.kind()));
        }
        assert_eq!(kinds.first(), Some(&18));
        assert_eq!(kinds[kinds.len() - 2..], [28, 26]);
    }
}
