use super::*;
use crate::store::record::state::CallRecord;
use proptest::prelude::*;
use serde_json::json;

/// One event of each kind, with Japanese in every text.
pub(crate) fn samples() -> Vec<Event> {
    let agent: Agent = serde_json::from_value(json!({
        "name": "a", "description": "受付", "lists": {"l": ["はい"]}, "settings": {"instructions": "{{pick l}}"},
    }))
    .unwrap();
    let record = CallRecord {
        call: crate::store::record::call::Call {
            id: "call".into(),
            applied: 7,
            notes: Some("メモ".into()),
            ..Default::default()
        },
        ..CallRecord::default()
    };
    vec![
        agent.clone().into(),
        AgentDeleted { name: "a".into() }.into(),
        AgentSnapshot {
            name: "a".into(),
            row: AgentRow {
                applied: 3,
                ..AgentRow::default()
            },
        }
        .into(),
        Opened {
            caller: "+81312345678".into(),
            agent: Some("受付".into()),
            ..Opened::default()
        }
        .into(),
        Progress {
            phase: Phase::Ringing,
            carrier_status: Some("ringing".into()),
        }
        .into(),
        Started {
            stream_sid: "MZ1".into(),
            call_sid: Some("CA1".into()),
            parameters: vec![("名前".into(), "田中".into())],
        }
        .into(),
        Ready {
            model: Some("gpt-realtime".into()),
            session_id: "sess_1".into(),
            session_update: Raw::new(r#"{ "type":"session.update", "z":1.50 }"#),
        }
        .into(),
        Item {
            item_id: "item_1".into(),
            item: Raw::new(r#"{"id":"item_1","t":"もしもし","n":1.10}"#).unwrap(),
        }
        .into(),
        Entry {
            n: 0,
            item_id: "item_1".into(),
            speaker: crate::store::record::transcript::Speaker::Assistant,
            text: "ご用件を伺います".into(),
            heard_text: Some("ご用件を".into()),
            interrupted: true,
            confidence: Some(0.9371),
            start_ms: 900,
            end_ms: Some(1_800),
            complete: true,
        }
        .into(),
        Used {
            response_id: "resp_1".into(),
            model: "gpt-realtime".into(),
            usage: Usage {
                audio_input: 100,
                ..Usage::default()
            },
            cost: Some(Nano(3_200_000)),
        }
        .into(),
        Noted {
            text: "折り返し希望".into(),
            source: NoteSource::Agent,
        }
        .into(),
        serde_json::from_value::<Metadata>(json!({"language": "ja", "custom": {"鍵": "値"}}))
            .unwrap()
            .into(),
        Turn {
            stopped_ms: 5,
            created_us: Some(1),
            ..Turn::default()
        }
        .into(),
        Ended {
            reason: "caller_hung_up".into(),
            duration_ms: Some(61_234),
        }
        .into(),
        Recording {
            id: "r1".into(),
            files: vec!["2026/03/通話.caller".into()],
            ..Recording::default()
        }
        .into(),
        Analytics {
            duration_ms: 5,
            ..Analytics::default()
        }
        .into(),
        Erased {
            reason: "request".into(),
        }
        .into(),
        Edited {
            notes: Some("了解".into()),
        }
        .into(),
        Happened {
            at_ms: 4,
            what: "reconnected".into(),
            detail: "再接続".into(),
        }
        .into(),
        record.into(),
    ]
}

#[test]
fn every_kind_survives_its_bytes() {
    let samples = samples();
    let kinds: Vec<u16> = samples.iter().map(Event::kind).collect();
    assert_eq!(kinds, Event::KINDS, "a sample of every kind, in order");
    for event in samples {
        let mut body = Vec::new();
        event.encode(&mut body);
        assert_eq!(
            Event::decode(event.kind(), event.schema(), &body),
            Ok(event)
        );
    }
}

#[test]
fn an_item_is_the_same_bytes_after_the_journal() {
    let text = r#"{ "id" : "i", "n": 1.10, "big": 123456789012345678901234567890, "esc": "\u3042\/", "a":1, "a":2 }"#;
    let event = Event::from(Item {
        item_id: "i".into(),
        item: Raw::new(text).unwrap(),
    });
    let mut body = Vec::new();
    event.encode(&mut body);
    match Event::decode(20, 1, &body) {
        Ok(Event::Item(item)) => assert_eq!(item.item.as_str(), text),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_number_with_a_fraction_is_the_same_after_the_journal() {
    let mut rng = crate::base::rng::Rng::from_u64(1);
    for _ in 0..2_000 {
        let number = f64::from_bits(rng.next_u64());
        let body = format!(r#"{{"custom":{{"n":{number:?}}}}}"#);
        let Ok(event) = Event::decode(24, 1, body.as_bytes()) else {
            assert!(!number.is_finite());
            continue;
        };
        let mut written = Vec::new();
        event.encode(&mut written);
        assert_eq!(Event::decode(24, 1, &written).as_ref(), Ok(&event));
        match event {
            Event::Metadata(metadata) => assert_eq!(metadata.custom["n"].as_f64(), Some(number)),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn what_a_newer_program_wrote_is_told_apart_from_damage() {
    assert_eq!(
        Event::decode(9_999, 1, b"{}"),
        Err(DecodeError::UnknownKind(9_999))
    );
    assert_eq!(
        Event::decode(26, 2, b"{}"),
        Err(DecodeError::UnknownSchema {
            kind: 26,
            schema: 2
        })
    );
    assert_eq!(Event::decode(26, 1, b"{"), Err(DecodeError::Malformed(26)));
    assert_eq!(Event::decode(26, 1, b""), Err(DecodeError::Malformed(26)));
    // A member that came later has its default, and one that we do not know is left out.
    let event = Event::decode(26, 1, br#"{"reason":"silence","mood":"good"}"#).unwrap();
    assert_eq!(
        event,
        Ended {
            reason: "silence".into(),
            duration_ms: None
        }
        .into()
    );
}

/// A kind that changed twice: what each kind will look like once it has.
#[derive(PartialEq, Debug, Serialize, Deserialize)]
struct Grown {
    milliseconds: u64,
    who: String,
}

impl Payload for Grown {
    const SCHEMA: u8 = 3;

    fn older(schema: u8, body: &[u8]) -> Option<Result<Self, serde_json::Error>> {
        #[derive(Deserialize)]
        struct V1 {
            seconds: u64,
        }
        #[derive(Deserialize)]
        struct V2 {
            milliseconds: u64,
        }
        let who = || "nobody".to_owned();
        match schema {
            1 => Some(serde_json::from_slice(body).map(|old: V1| Self {
                milliseconds: old.seconds.saturating_mul(1_000),
                who: who(),
            })),
            2 => Some(serde_json::from_slice(body).map(|old: V2| Self {
                milliseconds: old.milliseconds,
                who: who(),
            })),
            _ => None,
        }
    }
}

#[test]
fn older_layouts_are_read_as_the_newest() {
    let grown = |schema, body: &[u8]| read::<Grown>(9, schema, body);
    let of = |milliseconds, who: &str| {
        Ok(Grown {
            milliseconds,
            who: who.into(),
        })
    };
    assert_eq!(grown(1, br#"{"seconds":2}"#), of(2_000, "nobody"));
    assert_eq!(grown(2, br#"{"milliseconds":2}"#), of(2, "nobody"));
    assert_eq!(grown(3, br#"{"milliseconds":2,"who":"me"}"#), of(2, "me"));
    assert_eq!(grown(1, b"{}"), Err(DecodeError::Malformed(9)));
    for schema in [0, 4] {
        assert_eq!(
            grown(schema, b"{}"),
            Err(DecodeError::UnknownSchema { kind: 9, schema })
        );
    }
}

#[test]
fn bodies_that_were_written_once_are_read_for_ever() {
    // A line a body: kind, layout, JSON. Lines are only ever added.
    let kept = include_str!("../../../tests/data/store/events.txt");
    let mut kinds = std::collections::BTreeSet::new();
    for line in kept.lines() {
        let mut parts = line.splitn(3, ' ');
        let mut number = || parts.next().unwrap().parse::<u16>().unwrap();
        let (kind, schema) = (number(), number() as u8);
        let body = parts.next().unwrap().as_bytes();
        let event = Event::decode(kind, schema, body);
        assert!(event.is_ok(), "{line}: {event:?}");
        kinds.insert(kind);
    }
    // Today's layouts are among them.
    let mut missing = String::new();
    for event in samples() {
        let mut body = Vec::new();
        event.encode(&mut body);
        let body = String::from_utf8(body).unwrap();
        let line = format!("{} {} {body}", event.kind(), event.schema());
        if !kept.lines().any(|known| known == line) {
            missing.push_str(&line);
            missing.push('\n');
        }
    }
    assert_eq!(
        missing, "",
        "add to tests/data/store/events.txt:\n{missing}"
    );
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), Event::KINDS);
}

#[test]
fn small_entries_are_small() {
    let mut sizes = Vec::new();
    for event in samples() {
        let mut body = Vec::new();
        event.encode(&mut body);
        sizes.push((event.kind(), body.len()));
    }
    let of = |kind: u16| sizes.iter().find(|(k, _)| *k == kind).unwrap().1;
    // Decision 0014 states these.
    assert!(of(17) <= 64, "{sizes:?}");
    assert!(of(21) <= 256, "{sizes:?}");
}

proptest! {
    #[test]
    fn no_bytes_break_the_decoder(bytes: Vec<u8>) {
        assert_decoder(&bytes);
    }

    #[test]
    fn a_damaged_body_is_read_or_refused_and_never_breaks(
        sample in 0..Event::KINDS.len(), at: prop::sample::Index, byte: u8, cut: bool,
    ) {
        let event = &samples()[sample];
        let mut bytes = vec![sample as u8, 0, 0];
        event.encode(&mut bytes);
        let at = 3 + at.index(bytes.len() - 3);
        if cut {
            bytes.truncate(at);
        } else {
            bytes[at] = byte;
        }
        assert_decoder(&bytes);
    }
}
