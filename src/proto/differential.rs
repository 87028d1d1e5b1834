//! The strict scanners held against the slow path, and the slow path against `serde_json`, over the same
//! bytes: for tests and fuzzing. Both functions panic where two of them disagree.
//!
//! - What a scanner takes, the slow path reads equally and without unknown fields.
//! - `decode` answers what its two halves answer, and says which it was.
//! - What the slow path takes is JSON to `serde_json` too. (Not the reverse: the slow path also refuses
//!   what is nested too deep and integers beyond 64 bits.)

use super::carrier::{Message, twilio};
use super::decode::{DecodeError, Noticed};
use super::realtime::server_event::{self, ServerEvent};

const FALLBACK: Noticed = Noticed {
    fallback: true,
    unknown_fields: 0,
};

/// Twilio messages. Returns whether the scanner took the bytes.
pub fn assert_twilio_paths_agree(bytes: &[u8]) -> bool {
    let mut scratch = twilio::Scratch::default();
    let scanned = twilio::scan_media(bytes).map(Message::Media);
    let mut slow_copy = bytes.to_vec();
    let slow = twilio::decode_json(&mut slow_copy, &mut scratch);
    let mut copy = bytes.to_vec();
    let decoded = twilio::decode(&mut copy, &mut scratch);
    match &scanned {
        Some(message) => {
            assert_eq!(slow, Ok((message.clone(), FALLBACK)), "{}", shown(bytes));
            let expected = Ok((message.clone(), Noticed::default()));
            assert_eq!(decoded, expected, "{}", shown(bytes));
        }
        None => assert_eq!(decoded, slow, "{}", shown(bytes)),
    }
    assert_serde_json_agrees(bytes, slow.map(drop));
    scanned.is_some()
}

/// Realtime events. Returns whether the scanner took the bytes.
pub fn assert_realtime_paths_agree(bytes: &[u8]) -> bool {
    let mut scratch = server_event::Scratch::default();
    let scanned = server_event::scan_audio_delta(bytes).map(ServerEvent::AudioDelta);
    let mut slow_copy = bytes.to_vec();
    let slow = server_event::decode_json(&mut slow_copy, &mut scratch);
    let mut copy = bytes.to_vec();
    let decoded = server_event::decode(&mut copy, &mut scratch);
    match &scanned {
        Some(event) => {
            assert_eq!(slow, Ok((event.clone(), FALLBACK)), "{}", shown(bytes));
            let expected = Ok((event.clone(), Noticed::default()));
            assert_eq!(decoded, expected, "{}", shown(bytes));
        }
        None => assert_eq!(decoded, slow, "{}", shown(bytes)),
    }
    assert_serde_json_agrees(bytes, slow.map(drop));
    scanned.is_some()
}

fn assert_serde_json_agrees(bytes: &[u8], slow: Result<(), DecodeError>) {
    // A missing field and a doubled key are found only in what was JSON.
    let was_json = !matches!(slow, Err(DecodeError::Syntax | DecodeError::TooDeep));
    if was_json {
        let judged: Result<serde::de::IgnoredAny, _> = serde_json::from_slice(bytes);
        assert!(judged.is_ok(), "{judged:?}: {}", shown(bytes));
    }
}

fn shown(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}
