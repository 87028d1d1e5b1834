//! TwiML documents that a relay has to write ("TwiML: `Stream`", read 2026-11), escaped by an XML writer.
//!
//! Core; the voice webhook answers with these. The declaration stands at byte 0 (anything before it is a
//! parse failure at the vendor), attributes are escaped, and characters that XML 1.0 forbids are left out.

use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesText, Event};
use std::borrow::Cow;
use std::io;

/// Name and value of one `<Parameter>` together, in characters ("Custom parameters", read 2026-11).
pub const PARAMETER_CHARS_MAX: usize = 500;
/// Text of one `<Say>`, in characters; what is longer is cut.
pub const SAY_CHARS_MAX: usize = 4096;

/// Why a document can't be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TwimlError {
    /// A parameter's name and value have more than `PARAMETER_CHARS_MAX` characters together. Cutting it
    /// would hand over another value, so nothing is written.
    ParameterTooLong,
}

impl std::fmt::Display for TwimlError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::ParameterTooLong => write!(
                f,
                "a stream parameter's name and value are longer than {PARAMETER_CHARS_MAX} characters"
            ),
        }
    }
}

impl std::error::Error for TwimlError {}

/// What a refused caller hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum RejectReason {
    /// "Not in service."
    #[default]
    Rejected,
    /// The busy tone.
    Busy,
}

/// Connects the call to the media stream at `url` (`wss://…`, no query: the carrier drops it) with its
/// custom parameters. With `action`, the carrier asks there for more TwiML once the stream is over.
pub fn connect_stream(
    url: &str,
    parameters: &[(&str, &str)],
    action: Option<&str>,
) -> Result<String, TwimlError> {
    let is_long = |(name, value): &(&str, &str)| {
        name.chars().count() + value.chars().count() > PARAMETER_CHARS_MAX
    };
    if parameters.iter().any(is_long) {
        return Err(TwimlError::ParameterTooLong);
    }
    Ok(document(|response| {
        let mut connect = response.create_element("Connect");
        if let Some(action) = action {
            connect = connect.with_attribute(("action", clean(action)));
        }
        connect.write_inner_content(|connect| {
            connect
                .create_element("Stream")
                .with_attribute(("url", clean(url)))
                .write_inner_content(|stream| {
                    for (name, value) in parameters {
                        stream
                            .create_element("Parameter")
                            .with_attribute(("name", clean(name)))
                            .with_attribute(("value", clean(value)))
                            .write_empty()?;
                    }
                    Ok(())
                })?;
            Ok(())
        })?;
        Ok(())
    }))
}

/// Speaks `text` with the carrier's own voice and ends the call. `language` (`en-US`) may be empty.
pub fn say(text: &str, language: &str) -> String {
    let text: String = clean(text).chars().take(SAY_CHARS_MAX).collect();
    document(|response| {
        let mut say = response.create_element("Say");
        if !language.is_empty() {
            say = say.with_attribute(("language", clean(language)));
        }
        say.write_text_content(BytesText::new(&text))?;
        Ok(())
    })
}

/// The same, and says so: for a document that stands for what follows a stream.
pub fn say_and_hang_up(text: &str) -> String {
    let text: String = clean(text).chars().take(SAY_CHARS_MAX).collect();
    document(|response| {
        response
            .create_element("Say")
            .write_text_content(BytesText::new(&text))?;
        response.create_element("Hangup").write_empty()?;
        Ok(())
    })
}

/// Lets the call join the conference of this name, which is shared by the whole account.
pub fn conference(name: &str) -> String {
    let name = clean(name);
    document(|response| {
        response
            .create_element("Dial")
            .write_inner_content(|dial| {
                dial.create_element("Conference")
                    .write_text_content(BytesText::new(&name))?;
                Ok(())
            })?;
        Ok(())
    })
}

/// Nothing: the carrier goes on as if the document had come to its end.
pub fn nothing() -> String {
    document(|_| Ok(()))
}

/// Refuses the call before it is answered: it is not billed.
pub fn reject(reason: RejectReason) -> String {
    let reason = match reason {
        RejectReason::Rejected => "rejected",
        RejectReason::Busy => "busy",
    };
    document(|response| {
        response
            .create_element("Reject")
            .with_attribute(("reason", reason))
            .write_empty()?;
        Ok(())
    })
}

/// Ends the call.
pub fn hangup() -> String {
    document(|response| {
        response.create_element("Hangup").write_empty()?;
        Ok(())
    })
}

fn document(content: impl FnOnce(&mut Writer<Vec<u8>>) -> io::Result<()>) -> String {
    let mut writer = Writer::new(Vec::new());
    writer
        .write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))
        .and_then(|()| {
            writer
                .create_element("Response")
                .write_inner_content(content)?;
            Ok(())
        })
        .expect("a Vec takes every byte");
    String::from_utf8(writer.into_inner()).expect("written from strings only")
}

/// Leaves out what XML 1.0 section 2.2 forbids, escaped or not.
fn clean(text: &str) -> Cow<'_, str> {
    let forbidden = |c: char| matches!(c, '\u{0}'..='\u{8}' | '\u{b}' | '\u{c}' | '\u{e}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}');
    if text.contains(forbidden) {
        Cow::Owned(text.replace(forbidden, ""))
    } else {
        Cow::Borrowed(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quick_xml::XmlVersion;
    use quick_xml::events::BytesStart;
    use quick_xml::reader::Reader;

    /// A document as lines: `Name key=value …`, `"text"` or `/Name`.
    fn parse(document: &str) -> Vec<String> {
        assert!(document.starts_with(r#"<?xml version="1.0" encoding="UTF-8"?><Response>"#));
        fn tag(start: &BytesStart<'_>) -> String {
            let mut line = start.name().as_ref().to_owned();
            for attribute in start.attributes() {
                let attribute = attribute.expect("well-formed");
                let value = attribute
                    .normalized_value(XmlVersion::Explicit1_0)
                    .expect("unescaped");
                line += &format!(" {}={value}", attribute.key.as_ref());
            }
            line
        }
        let mut reader = Reader::from_str(document);
        let mut lines: Vec<String> = Vec::new();
        let mut text = String::new();
        loop {
            let event = reader.read_event().expect("well-formed");
            match &event {
                Event::Text(part) => {
                    text += &part.xml10_content();
                    continue;
                }
                Event::GeneralRef(name) => {
                    let resolved = match name.resolve_char_ref().expect("a reference") {
                        Some(c) => c.to_string(),
                        None => quick_xml::escape::resolve_predefined_entity(name)
                            .expect("a predefined entity")
                            .to_owned(),
                    };
                    text += &resolved;
                    continue;
                }
                _ => {}
            }
            if !text.is_empty() {
                lines.push(format!("{:?}", std::mem::take(&mut text)));
            }
            match event {
                Event::Start(start) | Event::Empty(start) => lines.push(tag(&start)),
                Event::End(end) => lines.push(format!("/{}", end.name().as_ref())),
                Event::Eof => return lines,
                _ => {}
            }
        }
    }

    #[test]
    fn a_stream_with_parameters_and_an_action() {
        let document = connect_stream(
            "wss://relay.example.net/media-stream/call-1",
            &[("tenant", "acme"), ("ticket", "q7Zt1w")],
            Some("https://relay.example.net/after?a=1&b=2"),
        );
        assert_eq!(
            document.as_deref(),
            Ok(concat!(
                r#"<?xml version="1.0" encoding="UTF-8"?><Response>"#,
                r#"<Connect action="https://relay.example.net/after?a=1&amp;b=2">"#,
                r#"<Stream url="wss://relay.example.net/media-stream/call-1">"#,
                r#"<Parameter name="tenant" value="acme"/><Parameter name="ticket" value="q7Zt1w"/>"#,
                r#"</Stream></Connect></Response>"#,
            ))
        );
    }

    #[test]
    fn hostile_values_come_back_as_they_were_but_for_forbidden_characters() {
        let odd = "a&b<c>d\"e'f\tg\nh\ri é 日本 🎧";
        let document =
            connect_stream(odd, &[(odd, "\u{0}x\u{1f}\u{b}y\u{fffe}")], Some(odd)).expect("short");
        assert_eq!(
            parse(&document),
            [
                "Response".to_owned(),
                format!("Connect action={odd}"),
                format!("Stream url={odd}"),
                format!("Parameter name={odd} value=xy"),
                "/Stream".to_owned(),
                "/Connect".to_owned(),
                "/Response".to_owned(),
            ]
        );
        assert_eq!(
            parse(&say("</Say><Hangup/>&amp;\u{8}", "en\"US")),
            [
                "Response",
                "Say language=en\"US",
                "\"</Say><Hangup/>&amp;\"",
                "/Say",
                "/Response"
            ]
        );
    }

    #[test]
    fn what_follows_a_stream_is_said_dialled_or_nothing() {
        assert_eq!(
            parse(&say_and_hang_up("a & b\u{8} </Say><Dial>")),
            [
                "Response",
                "Say",
                "\"a & b </Say><Dial>\"",
                "/Say",
                "Hangup",
                "/Response"
            ]
        );
        assert_eq!(
            parse(&conference("A&B </Conference>\u{1f}")),
            [
                "Response",
                "Dial",
                "Conference",
                "\"A&B </Conference>\"",
                "/Conference",
                "/Dial",
                "/Response"
            ]
        );
        assert_eq!(parse(&nothing()), ["Response", "/Response"]);
    }

    #[test]
    fn a_parameter_may_have_500_characters_and_no_more() {
        let value = "ü".repeat(496);
        assert!(connect_stream("wss://h", &[("name", &value)], None).is_ok());
        let value = "ü".repeat(497);
        assert_eq!(
            connect_stream("wss://h", &[("ok", "ok"), ("name", &value)], None),
            Err(TwimlError::ParameterTooLong)
        );
    }

    #[test]
    fn a_long_announcement_is_cut() {
        let document = say(&"ü".repeat(5000), "");
        assert_eq!(document.matches('ü').count(), SAY_CHARS_MAX);
    }

    #[test]
    fn small_verbs() {
        let tail = |document: String| {
            document
                .strip_prefix(r#"<?xml version="1.0" encoding="UTF-8"?>"#)
                .map(str::to_owned)
        };
        for (document, expected) in [
            (hangup(), "<Response><Hangup/></Response>"),
            (
                reject(RejectReason::Busy),
                r#"<Response><Reject reason="busy"/></Response>"#,
            ),
            (
                reject(RejectReason::default()),
                r#"<Response><Reject reason="rejected"/></Response>"#,
            ),
            (say("Hi", ""), "<Response><Say>Hi</Say></Response>"),
        ] {
            assert_eq!(tail(document).as_deref(), Some(expected));
        }
    }
}
