//! What a server may send to the carrier, checked field by field. Anything else is dropped and noted as
//! the carrier's own warning: 31950 for what is not text, 31951 for what is malformed. Pure.

use crate::proto::audio::base64;
use serde_json::{Map, Value};

/// Not text.
pub const UNSUPPORTED_MESSAGE: u16 = 31950;
/// Not JSON, an unknown event, a missing or extra field, another stream's id.
pub const MALFORMED_MESSAGE: u16 = 31951;

/// A message that the carrier takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Audio to play, base64 as it came, and how many bytes it is.
    Media {
        /// Base64.
        payload: String,
        /// PCMU bytes.
        bytes: u64,
    },
    /// To be echoed when the audio before it has played.
    Mark(String),
    /// Empties the queue.
    Clear,
}

/// Reads one text message for the stream `stream_sid`, or says what is wrong with it.
pub fn inspect(text: &[u8], stream_sid: &str) -> Result<Order, String> {
    let value: Value = serde_json::from_slice(text).map_err(|_| "not JSON".to_string())?;
    let message = value.as_object().ok_or("not an object")?;
    let event = text_of(message, "event")?;
    let allowed: &[&str] = match event {
        "media" => &["event", "streamSid", "media"],
        "mark" => &["event", "streamSid", "mark"],
        "clear" => &["event", "streamSid"],
        _ => return Err(format!("unknown event '{event}'")),
    };
    only(message, allowed)?;
    if text_of(message, "streamSid")? != stream_sid {
        return Err("streamSid of another stream".into());
    }
    let inner = |field: &str, name: &str| -> Result<String, String> {
        let inner = message.get(field).ok_or(format!("no '{field}'"))?;
        let inner = inner
            .as_object()
            .ok_or(format!("'{field}' is not an object"))?;
        only(inner, &[name])?;
        text_of(inner, name).map(String::from)
    };
    match event {
        "media" => {
            let payload = inner("media", "payload")?;
            if payload.is_empty() || !base64::is_valid(payload.as_bytes()) {
                return Err("payload is not base64".into());
            }
            let bytes = base64::decoded_len(payload.as_bytes()) as u64;
            Ok(Order::Media { payload, bytes })
        }
        "mark" => inner("mark", "name").map(Order::Mark),
        _ => Ok(Order::Clear),
    }
}

fn text_of<'a>(object: &'a Map<String, Value>, name: &str) -> Result<&'a str, String> {
    let value = object.get(name).ok_or(format!("no '{name}'"))?;
    value.as_str().ok_or(format!("'{name}' is not a string"))
}

fn only(object: &Map<String, Value>, allowed: &[&str]) -> Result<(), String> {
    match object.keys().find(|key| !allowed.contains(&key.as_str())) {
        Some(extra) => Err(format!("extra field '{extra}'")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        inspect(text.as_bytes(), "MZ1").expect_err("this must be refused")
    }

    #[test]
    fn the_three_orders_are_taken() {
        let take = |text: &str| inspect(text.as_bytes(), "MZ1");
        assert_eq!(
            take(r#"{"event":"media","streamSid":"MZ1","media":{"payload":"//8="}}"#),
            Ok(Order::Media {
                payload: "//8=".into(),
                bytes: 2
            })
        );
        assert_eq!(
            take(r#"{"event":"mark","streamSid":"MZ1","mark":{"name":"u1.2"}}"#),
            Ok(Order::Mark("u1.2".into()))
        );
        assert_eq!(
            take(r#"{"event":"clear","streamSid":"MZ1"}"#),
            Ok(Order::Clear)
        );
    }

    #[test]
    fn extra_fields_are_malformed() {
        assert_eq!(
            refused(
                r#"{"event":"media","streamSid":"MZ1","media":{"payload":"//8=","track":"outbound"}}"#
            ),
            "extra field 'track'"
        );
        assert_eq!(
            refused(r#"{"event":"clear","streamSid":"MZ1","sequenceNumber":"3"}"#),
            "extra field 'sequenceNumber'"
        );
    }

    #[test]
    fn missing_fields_other_streams_and_unknown_events_are_malformed() {
        for (text, reason) in [
            (r#"{"event":"media","streamSid":"MZ1"}"#, "no 'media'"),
            (
                r#"{"event":"mark","streamSid":"MZ1","mark":{}}"#,
                "no 'name'",
            ),
            (r#"{"event":"clear"}"#, "no 'streamSid'"),
            (
                r#"{"event":"clear","streamSid":"MZ2"}"#,
                "streamSid of another stream",
            ),
            (
                r#"{"event":"start","streamSid":"MZ1"}"#,
                "unknown event 'start'",
            ),
            (
                r#"{"event":"media","streamSid":"MZ1","media":{"payload":"//8"}}"#,
                "payload is not base64",
            ),
            (r#"[]"#, "not an object"),
            (r#"{"event":"#, "not JSON"),
        ] {
            assert_eq!(refused(text), reason);
        }
    }
}
