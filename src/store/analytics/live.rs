//! One call in numbers, while it goes on. Pure.
//!
//! Who spoke when is known from the model's detection (the caller) and from the playback ledger (the agent, as heard), so
//! nothing here looks at audio.

use crate::base::time::{Mono, Now};
use crate::call::fact::{Fact, Speaker};
use crate::store::record::analysis::{Analytics, Latency, bucket};
use crate::store::record::transcript::CallTime;
use std::collections::BTreeMap;

/// Stretches of speech kept a side; a call of a day has fewer.
const SPANS_MAX: usize = 50_000;
/// Answers that are measured.
const ANSWERS_MAX: usize = 50_000;

/// Speech, ms since the stream's start: start <= end.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Span {
    start: u64,
    end: u64,
}

/// The state between facts, of one call.
#[derive(Clone, Debug, Default)]
pub struct Live {
    time: CallTime,
    user: Vec<Span>,
    agent: Vec<Span>,
    /// The caller is speaking since then.
    speaks_since: Option<u64>,
    user_words: u64,
    agent_words: u64,
    interruptions_by_user: u64,
    latencies_ms: Vec<u32>,
}

impl Live {
    /// Takes the next fact.
    pub fn observe(&mut self, fact: &Fact, now: Now) {
        self.time.observe(fact, now.mono);
        let at = self.time.since_start(now.mono);
        match fact {
            Fact::SpeechStarted { audio_start_ms, .. } => {
                let start = self.time.of_model(*audio_start_ms, now.mono);
                self.speaks_since.get_or_insert(start);
            }
            Fact::SpeechStopped { audio_end_ms, .. } => {
                let end = self.time.of_model(*audio_end_ms, now.mono);
                self.stopped(end);
            }
            Fact::Transcript {
                speaker: Speaker::User,
                text,
                ..
            } => self.user_words += words(text),
            Fact::Heard { heard_ms, text, .. } => {
                self.agent_words += words(text);
                let start = at.saturating_sub(*heard_ms);
                keep(&mut self.agent, Span { start, end: at });
            }
            Fact::BargeIn { items, .. } if *items > 0 => self.interruptions_by_user += 1,
            Fact::Turn(turn) => {
                let latency = turn.first_byte.or(turn.first_delta);
                if let Some(latency) = latency
                    && self.latencies_ms.len() < ANSWERS_MAX
                {
                    let ms = u32::try_from(latency.as_millis()).unwrap_or(u32::MAX);
                    self.latencies_ms.push(ms);
                }
            }
            Fact::Ended { .. } => self.stopped(at),
            _ => {}
        }
    }

    fn stopped(&mut self, end: u64) {
        if let Some(start) = self.speaks_since.take() {
            let end = end.max(start);
            keep(&mut self.user, Span { start, end });
        }
    }

    /// The call as it stands at `now`; without a sentiment.
    pub fn analytics(&self, now: Mono) -> Analytics {
        let duration_ms = self.time.since_start(now);
        let mut speaking = self.user.clone();
        if let Some(start) = self.speaks_since {
            let end = duration_ms.max(start);
            speaking.push(Span { start, end });
        }
        let (user, agent) = (united(speaking), united(self.agent.clone()));
        let length = |spans: &[Span]| spans.iter().map(|span| span.end - span.start).sum::<u64>();
        let (user_talk_ms, agent_talk_ms) = (length(&user), length(&agent));
        let overlap_ms = overlap(&user, &agent);
        let spoken = user_talk_ms + agent_talk_ms - overlap_ms;
        Analytics {
            duration_ms,
            user_talk_ms,
            agent_talk_ms,
            overlap_ms,
            silence_ms: duration_ms.saturating_sub(spoken),
            interruptions_by_user: self.interruptions_by_user,
            interruptions_by_agent: began_within(&agent, &user),
            latency: latency(&self.latencies_ms),
            user_words_per_minute: per_minute(self.user_words, user_talk_ms),
            agent_words_per_minute: per_minute(self.agent_words, agent_talk_ms),
            sentiment: None,
        }
    }
}

fn keep(spans: &mut Vec<Span>, span: Span) {
    if span.end > span.start && spans.len() < SPANS_MAX {
        spans.push(span);
    }
}

/// The same time in spans that neither touch nor overlap, in order.
fn united(mut spans: Vec<Span>) -> Vec<Span> {
    spans.sort_unstable();
    let mut united: Vec<Span> = Vec::with_capacity(spans.len());
    for span in spans {
        match united.last_mut() {
            Some(last) if span.start <= last.end => last.end = last.end.max(span.end),
            _ => united.push(span),
        }
    }
    united
}

/// The time that is in both. Each side is `united`.
fn overlap(a: &[Span], b: &[Span]) -> u64 {
    let (mut i, mut j, mut sum) = (0, 0, 0);
    while let (Some(one), Some(two)) = (a.get(i), b.get(j)) {
        let both = one
            .end
            .min(two.end)
            .saturating_sub(one.start.max(two.start));
        sum += both;
        if one.end <= two.end {
            i += 1;
        } else {
            j += 1;
        }
    }
    sum
}

/// How many of `a` began while one of `b` was going on. Each side is `united`.
fn began_within(a: &[Span], b: &[Span]) -> u64 {
    let inside = a.iter().filter(|span| {
        let after = b.partition_point(|other| other.start < span.start);
        after > 0 && b[after - 1].end > span.start
    });
    inside.count() as u64
}

fn latency(times_ms: &[u32]) -> Latency {
    let mut sorted = times_ms.to_vec();
    sorted.sort_unstable();
    // Nearest rank: the smallest time that so many are not above.
    let rank = |percent: usize| {
        let rank = (sorted.len() * percent).div_ceil(100);
        sorted.get(rank.saturating_sub(1)).copied()
    };
    let mut buckets = BTreeMap::new();
    for ms in &sorted {
        *buckets.entry(bucket(*ms)).or_insert(0) += 1;
    }
    Latency {
        count: sorted.len() as u32,
        p50_ms: rank(50),
        p95_ms: rank(95),
        max_ms: sorted.last().copied(),
        buckets: buckets.into_iter().collect(),
    }
}

fn per_minute(words: u64, talk_ms: u64) -> Option<u32> {
    // Below a second of speech the number says nothing.
    (talk_ms >= 1_000 && words > 0).then(|| (words * 60_000 / talk_ms).min(u32::MAX.into()) as u32)
}

/// Words of a text. Where a script has no spaces (Han, kana) two characters count as one.
pub fn words(text: &str) -> u64 {
    let (mut words, mut unspaced, mut inside) = (0, 0, false);
    for c in text.chars() {
        if is_unspaced(c) {
            unspaced += 1;
            inside = false;
        } else if c.is_alphanumeric() {
            words += u64::from(!inside);
            inside = true;
        } else if c.is_whitespace() || !matches!(c, '\'' | '’' | '-' | '.') {
            inside = false;
        }
    }
    words + u64::div_ceil(unspaced, 2)
}

fn is_unspaced(c: char) -> bool {
    matches!(c, '\u{3041}'..='\u{30FF}' | '\u{31F0}'..='\u{31FF}' | '\u{3400}'..='\u{4DBF}' | '\u{4E00}'..='\u{9FFF}'
        | '\u{F900}'..='\u{FAFF}' | '\u{FF66}'..='\u{FF9D}' | '\u{20000}'..='\u{3FFFF}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::{ItemId, StreamSid};
    use crate::call::fact::Turn;
    use proptest::prelude::*;
    use std::time::Duration;

    fn now(ms: u64) -> Now {
        Now {
            mono: Mono(ms * 1_000_000),
            unix_ms: 0,
        }
    }

    fn started() -> Live {
        let mut live = Live::default();
        let fact = Fact::Started {
            stream_sid: StreamSid::new("MZ").unwrap(),
            call_sid: None,
            parameters: vec![],
        };
        live.observe(&fact, now(0));
        live
    }

    fn user(live: &mut Live, start: u64, end: u64) {
        let audio_start_ms = Some(start);
        live.observe(
            &Fact::SpeechStarted {
                audio_start_ms,
                item_id: None,
            },
            now(start + 10),
        );
        let audio_end_ms = Some(end);
        live.observe(
            &Fact::SpeechStopped {
                audio_end_ms,
                item_id: None,
            },
            now(end + 10),
        );
    }

    fn agent(live: &mut Live, start: u64, end: u64, text: &str) {
        let fact = Fact::Heard {
            item_id: ItemId::new("a").unwrap(),
            heard_ms: end - start,
            total_ms: end - start + 500,
            text: text.to_owned(),
        };
        live.observe(&fact, now(end));
    }

    #[test]
    fn times_add_up() {
        let mut live = started();
        user(&mut live, 1_000, 3_000);
        agent(&mut live, 2_500, 5_000, "one two three");
        user(&mut live, 7_000, 8_000);
        agent(&mut live, 8_000, 9_000, "four");
        let a = live.analytics(Mono(10_000_000_000));
        assert_eq!(
            (
                a.duration_ms,
                a.user_talk_ms,
                a.agent_talk_ms,
                a.overlap_ms,
                a.silence_ms
            ),
            (10_000, 3_000, 3_500, 500, 4_000)
        );
        // At 2.5 s the agent began within the caller's words, at 8 s just behind them.
        assert_eq!(a.interruptions_by_agent, 1);
        assert_eq!(a.agent_words_per_minute, Some(4 * 60_000 / 3_500));
        assert_eq!(a.user_words_per_minute, None);
    }

    #[test]
    fn only_a_barge_in_that_cut_something_is_an_interruption() {
        let mut live = started();
        for items in [0, 1, 2] {
            let unplayed_ms = 5;
            live.observe(&Fact::BargeIn { unplayed_ms, items }, now(5));
        }
        assert_eq!(live.analytics(Mono(1)).interruptions_by_user, 2);
    }

    #[test]
    fn a_live_call_is_seen_as_it_stands() {
        let mut live = started();
        live.observe(
            &Fact::SpeechStarted {
                audio_start_ms: Some(100),
                item_id: None,
            },
            now(200),
        );
        let at = |ms: u64| live.analytics(Mono(ms * 1_000_000));
        assert_eq!((at(600).user_talk_ms, at(600).silence_ms), (500, 100));
        assert_eq!(at(1_100).user_talk_ms, 1_000);
    }

    #[test]
    fn latency_is_by_nearest_rank() {
        let mut live = started();
        assert_eq!(live.analytics(Mono(0)).latency, Latency::default());
        for ms in (1..=100).rev() {
            let turn = Turn {
                first_byte: Some(Duration::from_millis(ms * 10)),
                ..Turn::default()
            };
            live.observe(&Fact::Turn(turn), now(5));
        }
        // A turn without an answer is not measured.
        live.observe(&Fact::Turn(Turn::default()), now(5));
        let latency = live.analytics(Mono(0)).latency;
        assert_eq!(
            (
                latency.count,
                latency.p50_ms,
                latency.p95_ms,
                latency.max_ms
            ),
            (100, Some(500), Some(950), Some(1_000))
        );
        assert_eq!(latency.buckets.iter().map(|(_, n)| n).sum::<u32>(), 100);
    }

    #[test]
    fn words_are_counted_with_and_without_spaces() {
        for (text, count) in [
            ("", 0),
            ("Hello, world!", 2),
            ("don't stop – it's 3.50", 4),
            ("よろしくお願いします", 5),
            ("私はTokyoに住む", 4),
            ("...", 0),
        ] {
            assert_eq!(words(text), count, "{text}");
        }
    }

    proptest! {
        #[test]
        fn sums_are_those_of_a_plain_line_of_milliseconds(
            user in prop::collection::vec((0..300u64, 0..60u64), 0..8),
            agent in prop::collection::vec((0..300u64, 0..60u64), 0..8),
        ) {
            let spans = |list: &[(u64, u64)]| {
                united(list.iter().map(|(start, len)| Span { start: *start, end: start + len }).filter(|s| s.end > s.start).collect())
            };
            let (u, a) = (spans(&user), spans(&agent));
            let on = |list: &[(u64, u64)], ms: u64| list.iter().any(|(start, len)| (*start..start + len).contains(&ms));
            let both = (0..400).filter(|ms| on(&user, *ms) && on(&agent, *ms)).count() as u64;
            let one = (0..400).filter(|ms| on(&user, *ms)).count() as u64;
            prop_assert_eq!(overlap(&u, &a), both);
            prop_assert_eq!(overlap(&a, &u), both);
            prop_assert_eq!(u.iter().map(|s| s.end - s.start).sum::<u64>(), one);
            let began = (1..400).filter(|ms| {
                on(&agent, *ms) && !on(&agent, ms - 1) && on(&user, *ms) && on(&user, ms - 1)
            }).count() as u64;
            prop_assert_eq!(began_within(&a, &u), began);
        }
    }
}
