use super::*;
use crate::base::id::ItemId;
use crate::call::fact::{EndReason, Stats};

/// A call whose facts come at given times, and every report made of them.
#[derive(Default)]
struct Told {
    normalizer: Normalizer,
    transcript: Transcript,
    reports: usize,
}

impl Told {
    fn started() -> Self {
        let mut told = Self::default();
        told.tell(
            0,
            Fact::Started {
                stream_sid: crate::base::id::StreamSid::new("MZ1").unwrap(),
                call_sid: None,
                parameters: vec![],
            },
        );
        told.ready(10);
        told
    }

    fn tell(&mut self, ms: u64, fact: Fact) {
        let now = Now {
            mono: Mono(5_000_000_000 + ms * 1_000_000),
            unix_ms: 0,
        };
        let (transcript, reports) = (&mut self.transcript, &mut self.reports);
        self.normalizer.observe(&fact, now, |entry| {
            transcript.put(entry.clone());
            *reports += 1;
        });
    }

    fn ready(&mut self, ms: u64) {
        self.tell(
            ms,
            Fact::SessionReady {
                session_id: String::new(),
                session_update: String::new(),
            },
        );
    }

    fn speech(&mut self, ms: (u64, u64), model: (u64, u64), id: &str) {
        let item_id = ItemId::new(id);
        let (audio_start_ms, audio_end_ms) = (Some(model.0), Some(model.1));
        self.tell(
            ms.0,
            Fact::SpeechStarted {
                audio_start_ms,
                item_id,
            },
        );
        self.tell(
            ms.1,
            Fact::SpeechStopped {
                audio_end_ms,
                item_id,
            },
        );
    }

    fn words(&mut self, ms: u64, speaker: Said, id: &str, text: &str, confidence: Option<f64>) {
        let item_id = ItemId::new(id).unwrap_or_default();
        let text = text.to_owned();
        self.tell(
            ms,
            Fact::Transcript {
                speaker,
                item_id,
                text,
                confidence,
            },
        );
    }

    fn heard(&mut self, ms: u64, id: &str, heard_ms: u64, total_ms: u64, text: &str) {
        let item_id = ItemId::new(id).unwrap_or_default();
        let text = text.to_owned();
        self.tell(
            ms,
            Fact::Heard {
                item_id,
                heard_ms,
                total_ms,
                text,
            },
        );
    }

    fn end(&mut self, ms: u64) {
        self.tell(
            ms,
            Fact::Ended {
                reason: EndReason::CallerHungUp,
                stats: Box::new(Stats::default()),
            },
        );
    }

    fn lines(&self) -> Vec<(u64, Option<u64>, &str)> {
        let entries = self.transcript.chronological();
        entries
            .into_iter()
            .map(|e| (e.start_ms, e.end_ms, &*e.text))
            .collect()
    }
}

#[test]
fn entries_stand_in_the_order_of_speech_and_not_of_words() {
    let mut told = Told::started();
    told.speech((1_000, 2_000), (900, 1_800), "u1");
    // The agent's words are there before the caller's transcript, and before they are heard.
    told.words(2_200, Said::Assistant, "a1", "いらっしゃいませ", None);
    told.words(2_500, Said::User, "u1", "もしもし", Some(0.91239));
    told.heard(3_900, "a1", 1_600, 1_600, "いらっしゃいませ");
    told.end(5_000);
    assert_eq!(
        told.lines(),
        [
            (900, Some(1_800), "もしもし"),
            (2_300, Some(3_900), "いらっしゃいませ")
        ]
    );
    let entries = told.transcript.chronological();
    assert_eq!(entries[0].confidence, Some(0.9124));
    assert_eq!(entries[0].heard_text, None);
    assert_eq!(entries[1].confidence, None);
    assert!(!entries[1].interrupted && entries[1].complete);
}

#[test]
fn an_interrupted_answer_says_what_was_heard_of_it() {
    let mut told = Told::started();
    told.words(100, Said::Assistant, "a1", "one two three four", None);
    told.heard(1_100, "a1", 900, 2_000, "one two");
    told.heard(1_100, "a2", 0, 500, "");
    let entries = told.transcript.chronological();
    assert_eq!(entries[0].text, "one two three four");
    assert_eq!(entries[0].heard_text.as_deref(), Some("one two"));
    assert!(entries[0].interrupted);
    assert_eq!((entries[0].start_ms, entries[0].end_ms), (200, Some(1_100)));
    // Generated and never heard at all.
    assert!(entries[1].interrupted);
    assert_eq!(entries[1].heard_text.as_deref(), Some(""));
}

#[test]
fn words_that_come_after_the_cut_do_not_undo_it() {
    let mut told = Told::started();
    told.heard(1_100, "a1", 900, 2_000, "one");
    told.words(1_200, Said::Assistant, "a1", "one two three", None);
    let entry = told.transcript.chronological()[0].clone();
    assert_eq!(
        (&*entry.text, entry.heard_text.as_deref()),
        ("one two three", Some("one"))
    );
    assert!(entry.interrupted);
    assert_eq!(told.transcript.len(), 1);
}

#[test]
fn turns_without_ids_are_matched_in_their_order() {
    let mut told = Told::started();
    told.speech((1_000, 2_000), (900, 1_800), "");
    told.speech((3_000, 4_000), (2_900, 3_800), "");
    told.words(4_100, Said::User, "u1", "first", None);
    told.words(4_200, Said::User, "u2", "second", None);
    assert_eq!(
        told.lines(),
        [(900, Some(1_800), "first"), (2_900, Some(3_800), "second")]
    );
}

#[test]
fn the_time_of_a_later_session_is_set_on_where_it_began() {
    let mut told = Told::started();
    told.ready(60_000);
    told.speech((62_000, 63_000), (1_500, 2_500), "u1");
    told.words(63_100, Said::User, "u1", "again", None);
    assert_eq!(told.lines(), [(61_500, Some(62_500), "again")]);
    // Nor can a model's clock that runs ahead put speech after its report.
    told.speech((65_000, 66_000), (900_000, 900_001), "u2");
    told.words(66_000, Said::User, "u2", "ahead", None);
    assert_eq!(told.lines()[1], (65_000, Some(66_000), "ahead"));
}

#[test]
fn growing_words_are_reported_once_a_second_and_at_the_end() {
    let mut told = Told::started();
    for n in 0..50 {
        let item_id = ItemId::new("a1").unwrap();
        let text = "あ".to_owned();
        let speaker = Said::Assistant;
        told.tell(
            100 + n * 50,
            Fact::TranscriptDelta {
                speaker,
                item_id,
                text,
            },
        );
    }
    // From 100 ms to 2,550 ms: at 1,100 and at 2,100.
    assert_eq!(told.reports, 2);
    assert_eq!(told.lines()[0].2.chars().count(), 41);
    told.end(3_000);
    assert_eq!(told.reports, 3);
    assert_eq!(told.lines()[0].2.chars().count(), 50);
    assert!(!told.transcript.chronological()[0].complete);
}

#[test]
fn speech_without_words_leaves_no_entry() {
    let mut told = Told::started();
    told.speech((1_000, 1_100), (900, 1_000), "u1");
    told.end(2_000);
    assert!(told.transcript.is_empty());
}

#[test]
fn memory_is_bounded_and_nothing_that_was_said_is_forgotten() {
    let mut told = Told::started();
    for n in 0..1_000 {
        let item_id = ItemId::new(&format!("a{n}")).unwrap();
        let (speaker, text) = (Said::Assistant, format!("word {n}"));
        told.tell(
            n,
            Fact::TranscriptDelta {
                speaker,
                item_id,
                text,
            },
        );
    }
    assert_eq!(told.normalizer.live.len(), LIVE_MAX);
    told.end(2_000);
    assert_eq!(told.transcript.len(), 1_000);
    let mut told = Told::started();
    told.words(1, Said::User, "u", &"日本".repeat(TEXT_BYTES_MAX), None);
    let length = told.lines()[0].2.len();
    assert!(length <= TEXT_BYTES_MAX && length > TEXT_BYTES_MAX - 3);
}

#[test]
fn an_entry_survives_its_json() {
    let mut told = Told::started();
    told.words(10, Said::User, "u1", "「はい」\u{0}\n🎌", Some(1.0 / 3.0));
    let text = serde_json::to_string(&told.transcript).unwrap();
    let back: Transcript = serde_json::from_str(&text).unwrap();
    assert_eq!(back, told.transcript);
}
