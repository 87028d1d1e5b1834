//! The carrier's messages: shapes, quirks, and both paths' agreement.

use super::*;
use crate::proto::differential::assert_twilio_paths_agree as assert_paths_agree;
use proptest::prelude::*;

const MEDIA: &str = r#"{"event":"media","sequenceNumber":"4","media":{"track":"inbound","chunk":"3","timestamp":"61","payload":"fn5+f35//39+"},"streamSid":"MZ0a9b8c7d6e5f43210123456789abcdef"}"#;

/// Runs the slow path on a copy and hands the result over as owned debug text and equality.
fn json<T>(text: &[u8], check: impl FnOnce(Result<(Message<'_>, Noticed), DecodeError>) -> T) -> T {
    let mut copy = text.to_vec();
    let mut scratch = Scratch::default();
    check(decode_json(&mut copy, &mut scratch))
}

fn message<T>(text: &str, check: impl FnOnce(Message<'_>, Noticed) -> T) -> T {
    json(text.as_bytes(), |result| {
        let (message, noticed) = result.unwrap_or_else(|error| panic!("{error}: {text}"));
        check(message, noticed)
    })
}

fn error(text: &str) -> DecodeError {
    json(text.as_bytes(), |result| result.expect_err(text))
}

#[test]
fn the_scanner_takes_the_documented_media_message() {
    let media = scan_media(MEDIA.as_bytes()).expect("the documented shape");
    assert_eq!(
        media.stream_sid.as_deref(),
        Some("MZ0a9b8c7d6e5f43210123456789abcdef")
    );
    assert_eq!(media.track.as_deref(), Some("inbound"));
    assert_eq!(media.chunk, Some(3));
    assert_eq!(media.timestamp, Some(61));
    assert_eq!(media.sequence_number, Some(4));
    assert_eq!(&*media.payload, b"fn5+f35//39+");
    assert!(assert_paths_agree(MEDIA.as_bytes()));
}

#[test]
fn the_scanner_takes_any_key_order_white_space_and_bare_integers() {
    for text in [
        r#" { "streamSid" : "MZ1" , "media" : { "payload" : "AAAA" , "timestamp" : 0 , "chunk" : 18446744073709551615 } , "event" : "media" } "#,
        "{\t\"media\":\r\n{\"payload\":\"\"},\"event\":\"media\"}\n",
        r#"{"event":"media","media":{"payload":"AA=="},"sequenceNumber":"007"}"#,
    ] {
        assert!(assert_paths_agree(text.as_bytes()), "{text}");
    }
}

#[test]
fn the_scanner_refuses_every_other_shape() {
    for text in [
        "",
        "{}",
        "[]",
        "null",
        r#"{"event":"media"}"#,
        r#"{"event":"media","media":{}}"#,
        r#"{"event":"mark","media":{"payload":"AAAA"}}"#,
        r#"{"media":{"payload":"AAAA"}}"#,
        // Something behind it, or not all of it.
        r#"{"event":"media","media":{"payload":"AAAA"}}x"#,
        r#"{"event":"media","media":{"payload":"AAAA"}}{}"#,
        r#"{"event":"media","media":{"payload":"AAAA"}"#,
        r#"{"event":"media","media":{"payload":"AAAA"},}"#,
        // Twice.
        r#"{"event":"media","event":"media","media":{"payload":"AAAA"}}"#,
        r#"{"event":"media","media":{"payload":"AAAA","payload":"AAAA"}}"#,
        r#"{"event":"media","media":{"payload":"AAAA"},"media":{"payload":"AAAA"}}"#,
        // Unknown fields have to be counted.
        r#"{"event":"media","media":{"payload":"AAAA"},"more":"x"}"#,
        r#"{"event":"media","media":{"payload":"AAAA","more":1}}"#,
        // Escapes, control characters, other alphabets.
        r#"{"event":"media","media":{"payload":"AA\/A"}}"#,
        r#"{"event":"medi\u0061","media":{"payload":"AAAA"}}"#,
        "{\"event\":\"media\",\"media\":{\"payload\":\"AA\nA\"}}",
        "{\"event\":\"media\",\"media\":{\"payload\":\"AA\u{e9}\"}}",
        // Numbers that are none of ours.
        r#"{"event":"media","media":{"payload":"AAAA","chunk":01}}"#,
        r#"{"event":"media","media":{"payload":"AAAA","chunk":-1}}"#,
        r#"{"event":"media","media":{"payload":"AAAA","chunk":1.0}}"#,
        r#"{"event":"media","media":{"payload":"AAAA","chunk":1e3}}"#,
        r#"{"event":"media","media":{"payload":"AAAA","chunk":""}}"#,
        r#"{"event":"media","media":{"payload":"AAAA","chunk":"1 "}}"#,
        r#"{"event":"media","media":{"payload":"AAAA","chunk":18446744073709551616}}"#,
        r#"{"event":"media","media":{"payload":"AAAA","chunk":null}}"#,
        r#"{"event":"media","media":{"payload":"AAAA"},"streamSid":null}"#,
        r#"{"event":"media","media":{"payload":7}}"#,
        r#"{"event":"media","media":[{"payload":"AAAA"}]}"#,
    ] {
        assert_eq!(scan_media(text.as_bytes()), None, "{text}");
    }
}

#[test]
fn a_media_message_cut_anywhere_is_no_message() {
    for end in 0..MEDIA.len() {
        let cut = &MEDIA.as_bytes()[..end];
        assert_eq!(scan_media(cut), None);
        json(cut, |result| assert_eq!(result, Err(DecodeError::Syntax)));
    }
}

#[test]
fn the_slow_path_reads_what_the_scanner_leaves() {
    let text = r#"{"event":"media","streamSid":77,"sequenceNumber":4.0,"extra":[1,{"a":2}],"media":{"payload":"A\u0041\/A","chunk":"x","timestamp":-5,"track":"in\tbound","more":null}}"#;
    assert_eq!(scan_media(text.as_bytes()), None);
    message(text, |message, noticed| {
        assert_eq!(
            noticed,
            Noticed {
                fallback: true,
                unknown_fields: 2
            }
        );
        assert_eq!(
            message,
            Message::Media(Media {
                stream_sid: Some("77".into()),
                track: Some("in\tbound".into()),
                chunk: None,
                timestamp: None,
                sequence_number: Some(4),
                payload: Cow::Borrowed(b"AA/A"),
            })
        );
    });
}

#[test]
fn the_payload_stays_borrowed_on_both_paths() {
    let mut scratch = Scratch::default();
    for text in [MEDIA.to_owned(), MEDIA.replace("fn5", r"f\u006e5")] {
        let mut text = text.into_bytes();
        match decode(&mut text, &mut scratch) {
            Ok((Message::Media(media), _)) => {
                assert!(matches!(media.payload, Cow::Borrowed(b"fn5+f35//39+")));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn decode_says_which_path_it_took() {
    let mut scratch = Scratch::default();
    let mut hot = MEDIA.as_bytes().to_vec();
    assert_eq!(
        decode(&mut hot, &mut scratch).map(|found| found.1),
        Ok(Noticed::default())
    );
    let mut odd = MEDIA.replace("\"61\"", "61.0").into_bytes();
    assert_eq!(
        decode(&mut odd, &mut scratch).map(|found| found.1.fallback),
        Ok(true)
    );
    // Not a hot message: nothing fell back.
    let mut stop = br#"{"event":"stop"}"#.to_vec();
    assert_eq!(
        decode(&mut stop, &mut scratch).map(|found| found.1.fallback),
        Ok(false)
    );
}

#[test]
fn connected_with_and_without_its_fields() {
    message(
        r#"{"event":"connected","protocol":"Call","version":"1.0.0"}"#,
        |message, noticed| {
            assert_eq!(noticed, Noticed::default());
            assert_eq!(
                message,
                Message::Connected {
                    protocol: Some("Call".into()),
                    version: Some("1.0.0".into()),
                }
            );
        },
    );
    message(r#"{"event":"connected"}"#, |message, _| {
        assert!(matches!(
            message,
            Message::Connected {
                protocol: None,
                version: None
            }
        ));
    });
}

#[test]
fn start_as_documented() {
    let text = r#"{"event":"start","sequenceNumber":"1","start":{"accountSid":"AC7d","streamSid":"MZ0a","callSid":"CA5d","tracks":["inbound","outbound"],"mediaFormat":{"encoding":"audio/x-mulaw","sampleRate":8000,"channels":1},"customParameters":{"tenant":"acme","ticket":"q7Zt1w"}},"streamSid":"MZ0a"}"#;
    message(text, |message, noticed| {
        assert_eq!(noticed, Noticed::default());
        assert_eq!(
            message,
            Message::Start(Box::new(Start {
                stream_sid: Some("MZ0a".into()),
                call_sid: Some("CA5d".into()),
                account_sid: Some("AC7d".into()),
                tracks: vec!["inbound".into(), "outbound".into()],
                media_format: Some(MediaFormat {
                    encoding: "audio/x-mulaw".into(),
                    sample_rate: 8000,
                    channels: 1,
                }),
                parameters: vec![
                    ("tenant".into(), "acme".into()),
                    ("ticket".into(), "q7Zt1w".into()),
                ],
            }))
        );
    });
}

#[test]
fn start_as_compatible_carriers_send_it() {
    let text = r#"{"start":{"streamSid":"MZ1","callSid":12,"tracks":"inbound","mediaFormat":{"encoding":"audio/x-mulaw","sampleRate":"8000"},"customParameters":{"n":1,"f":1.5,"b":true,"z":null,"o":{"k":["v",2]},"s":"\u00fc"},"new":0},"event":"start"}"#;
    message(text, |message, noticed| {
        assert_eq!(noticed.unknown_fields, 1);
        let Message::Start(start) = message else {
            panic!("{message:?}")
        };
        assert_eq!(start.stream_sid.as_deref(), Some("MZ1"));
        assert_eq!(start.call_sid.as_deref(), Some("12"));
        assert_eq!(start.tracks, ["inbound"]);
        let format = start.media_format.expect("given");
        assert_eq!((format.sample_rate, format.channels), (8000, 1));
        let parameters: Vec<_> = start
            .parameters
            .iter()
            .map(|(name, value)| (&**name, &**value))
            .collect();
        assert_eq!(
            parameters,
            [
                ("n", "1"),
                ("f", "1.5"),
                ("b", "true"),
                ("z", "null"),
                ("o", r#"{"k":["v",2]}"#),
                ("s", "ü"),
            ]
        );
    });
}

#[test]
fn start_without_anything_in_it() {
    for text in [
        r#"{"event":"start"}"#,
        r#"{"event":"start","start":{}}"#,
        r#"{"event":"start","start":{"mediaFormat":{},"customParameters":{},"tracks":[]}}"#,
        r#"{"event":"start","start":{"mediaFormat":null,"customParameters":null,"tracks":null}}"#,
    ] {
        message(text, |message, _| {
            assert_eq!(message, Message::Start(Box::default()), "{text}");
        });
    }
    assert_eq!(
        error(r#"{"event":"start","start":[]}"#),
        DecodeError::Shape("start")
    );
}

#[test]
fn an_unreadable_media_format_is_not_mistaken_for_ours() {
    for format in [
        r#"{"sampleRate":16000}"#,
        r#"{"encoding":"audio/x-mulaw","sampleRate":"fast"}"#,
        r#"{"encoding":"audio/x-mulaw","sampleRate":-8000}"#,
        r#"{"encoding":"audio/x-mulaw","sampleRate":4294975296}"#,
        r#"{"encoding":"audio/x-mulaw","channels":[]}"#,
        r#"{"encoding":null,"channels":1}"#,
    ] {
        let text = format!(r#"{{"event":"start","start":{{"mediaFormat":{format}}}}}"#);
        message(&text, |message, _| {
            let Message::Start(start) = message else {
                panic!("{message:?}")
            };
            let ours = MediaFormat {
                encoding: "audio/x-mulaw".into(),
                sample_rate: 8000,
                channels: 1,
            };
            assert!(start.media_format.is_some_and(|found| found != ours));
        });
    }
}

#[test]
fn dtmf_mark_and_stop() {
    let sid = || Some(Cow::Borrowed("MZ1"));
    for (text, expected, unknown) in [
        (
            r##"{"event":"dtmf","streamSid":"MZ1","sequenceNumber":"57","dtmf":{"track":"inbound_track","digit":"#"}}"##,
            Message::Dtmf {
                stream_sid: sid(),
                digit: Some('#'),
            },
            0,
        ),
        (
            r#"{"event":"dtmf","dtmf":{"digit":7,"duration":"90"}}"#,
            Message::Dtmf {
                stream_sid: None,
                digit: Some('7'),
            },
            1,
        ),
        (
            r#"{"event":"dtmf","dtmf":{"digit":"12"}}"#,
            Message::Dtmf {
                stream_sid: None,
                digit: None,
            },
            0,
        ),
        (
            r#"{"event":"mark","sequenceNumber":"88","streamSid":"MZ1","mark":{"name":"u12.3"}}"#,
            Message::Mark {
                stream_sid: sid(),
                name: Some("u12.3".into()),
            },
            0,
        ),
        (
            r#"{"event":"mark","mark":{}}"#,
            Message::Mark {
                stream_sid: None,
                name: None,
            },
            0,
        ),
        (
            r#"{"event":"mark"}"#,
            Message::Mark {
                stream_sid: None,
                name: None,
            },
            0,
        ),
        (
            r#"{"event":"stop","sequenceNumber":"912","stop":{"accountSid":"AC7","callSid":"CA5"},"streamSid":"MZ1"}"#,
            Message::Stop { stream_sid: sid() },
            0,
        ),
        (
            r#"{"event":"stop","stop":{"why":"x"},"media":{}}"#,
            Message::Stop { stream_sid: None },
            2,
        ),
    ] {
        message(text, |found, noticed| {
            assert_eq!(found, expected, "{text}");
            assert_eq!(noticed.unknown_fields, unknown, "{text}");
        });
    }
}

#[test]
fn an_unknown_event_keeps_a_bounded_name() {
    message(r#"{"event":"Media","media":{}}"#, |message, noticed| {
        assert_eq!(noticed, Noticed::default());
        assert_eq!(
            message,
            Message::Unknown {
                event: "Media".into()
            }
        );
    });
    let long = format!(r#"{{"event":"{}"}}"#, "ü".repeat(5000));
    message(&long, |message, _| {
        assert_eq!(
            message,
            Message::Unknown {
                event: "ü".repeat(32).into()
            }
        );
    });
}

#[test]
fn what_is_no_message_says_why() {
    for text in [
        "",
        " ",
        "{",
        "nul",
        "{}}",
        r#"{"event":"stop"} x"#,
        "\u{feff}{}",
    ] {
        assert_eq!(error(text), DecodeError::Syntax, "{text}");
    }
    for text in ["[]", "1", "null", r#""media""#] {
        assert_eq!(error(text), DecodeError::Shape("object"), "{text}");
    }
    for text in ["{}", r#"{"event":1}"#, r#"{"event":null}"#] {
        assert_eq!(error(text), DecodeError::Shape("event"), "{text}");
    }
    for text in [
        r#"{"event":"media"}"#,
        r#"{"event":"media","media":{"payload":null}}"#,
        r#"{"event":"media","media":"AAAA"}"#,
    ] {
        assert_eq!(error(text), DecodeError::Shape("media.payload"), "{text}");
    }
    for text in [
        r#"{"event":"stop","event":"stop"}"#,
        r#"{"event":"stop","streamSid":"MZ1","streamSid":"MZ2"}"#,
        r#"{"event":"media","media":{"payload":"AAAA","payload":"BBBB"}}"#,
        r#"{"event":"start","start":{"callSid":"CA1","callSid":"CA2"}}"#,
        // An escape does not hide it.
        r#"{"event":"stop","streamSid":"MZ1","stream\u0053id":"MZ2"}"#,
    ] {
        assert_eq!(error(text), DecodeError::DuplicateKey, "{text}");
    }
}

#[test]
fn deep_nesting_is_refused_without_using_the_stack() {
    let nested = |depth: usize| {
        let (open, close) = ("[".repeat(depth), "]".repeat(depth));
        format!(r#"{{"event":"stop","x":{open}{close}}}"#)
    };
    assert!(json(nested(63).as_bytes(), |result| result.is_ok()));
    assert_eq!(error(&nested(64)), DecodeError::TooDeep);
    assert_eq!(error(&nested(10_000)), DecodeError::TooDeep);
    assert_eq!(error(&"[".repeat(10_000)), DecodeError::TooDeep);
    assert_eq!(error(&r#"{"a":"#.repeat(10_000)), DecodeError::TooDeep);
}

#[test]
fn one_scratch_serves_message_after_message() {
    let mut scratch = Scratch::default();
    for round in 0..50 {
        let mut good = MEDIA.replace("\"61\"", &format!("{round}.0")).into_bytes();
        match decode(&mut good, &mut scratch) {
            Ok((Message::Media(media), _)) => assert_eq!(media.timestamp, Some(round)),
            other => panic!("{other:?}"),
        }
        let mut cut = MEDIA.as_bytes()[..round as usize].to_vec();
        assert_eq!(decode(&mut cut, &mut scratch), Err(DecodeError::Syntax));
        let mut large = format!(r#"{{"event":"x","a":[{}0]}}"#, "0,".repeat(30_000)).into_bytes();
        assert!(decode(&mut large, &mut scratch).is_ok());
    }
}

#[test]
fn outbound_messages_have_the_documented_bytes() {
    // "Media Streams - WebSocket Messages": no other field, or Twilio answers with warning 31951.
    let encoder = Encoder::new("MZ0a9b8c7d6e5f43210123456789abcdef");
    let (prefix, suffix) = encoder.media();
    assert_eq!(
        [prefix, b"fn5+", suffix].concat(),
        br#"{"event":"media","streamSid":"MZ0a9b8c7d6e5f43210123456789abcdef","media":{"payload":"fn5+"}}"#
    );
    let mut out = b"x".to_vec();
    encoder.mark("u12.3", &mut out);
    assert_eq!(
        out,
        br#"x{"event":"mark","streamSid":"MZ0a9b8c7d6e5f43210123456789abcdef","mark":{"name":"u12.3"}}"#
    );
    out.clear();
    encoder.clear(&mut out);
    assert_eq!(
        out,
        br#"{"event":"clear","streamSid":"MZ0a9b8c7d6e5f43210123456789abcdef"}"#
    );
}

#[test]
fn a_hostile_stream_id_or_mark_name_cannot_break_out_of_its_string() {
    let sid = "a\"},\"b\\\u{1}ü";
    let encoder = Encoder::new(sid);
    let mut out = Vec::new();
    encoder.mark("\"\n", &mut out);
    let value: serde_json::Value = serde_json::from_slice(&out).expect("JSON");
    assert_eq!(
        value,
        serde_json::json!({"event": "mark", "streamSid": sid, "mark": {"name": "\"\n"}})
    );
}

/// A JSON value for one of our keys: mostly right, sometimes odd.
fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[A-Za-z0-9+/]{0,40}=?".prop_map(|text| format!("\"{text}\"")),
        4 => any::<u32>().prop_map(|n| n.to_string()),
        2 => any::<u64>().prop_map(|n| format!("\"{n}\"")),
        1 => Just("null".to_owned()),
        1 => Just("-0".to_owned()),
        1 => Just("1e2".to_owned()),
        1 => Just("[{}]".to_owned()),
        1 => Just(r#""\u0041\n""#.to_owned()),
        1 => ".{0,6}".prop_map(|text| serde_json::to_string(&text).expect("a string")),
    ]
}

fn object(keys: &'static [&'static str]) -> impl Strategy<Value = String> {
    let member = (proptest::sample::select(keys), value(), "[ \t\n]{0,2}")
        .prop_map(|(key, value, space)| format!("{space}\"{key}\"{space}:{space}{value}{space}"));
    proptest::collection::vec(member, 0..5).prop_map(|members| members.join(","))
}

/// Something like a media message, its members shuffled.
fn media_like() -> impl Strategy<Value = String> {
    (
        object(&["sequenceNumber", "streamSid", "streamSid", "protocol", "x"]),
        object(&["track", "chunk", "timestamp", "x"]),
        "[A-Za-z0-9+/]{0,300}",
        any::<[bool; 3]>(),
    )
        .prop_map(|(top, inner, payload, [first, last, comma])| {
            let inner = match (inner.is_empty(), first) {
                (true, _) => format!("\"payload\":\"{payload}\""),
                (_, true) => format!("{inner},\"payload\":\"{payload}\""),
                (_, false) => format!("\"payload\":\"{payload}\",{inner}"),
            };
            let top = if top.is_empty() || comma {
                String::new()
            } else {
                format!("{top},")
            };
            if last {
                format!("{{{top}\"media\":{{{inner}}},\"event\":\"media\"}}")
            } else {
                format!("{{\"event\":\"media\",{top}\"media\":{{{inner}}}}}")
            }
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn both_paths_agree_on_shuffled_and_mutated_messages(
        text in prop_oneof![media_like(), Just(MEDIA.to_owned())],
        edits in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>(), 0..3_u8), 0..3),
    ) {
        let mut bytes = text.into_bytes();
        assert_paths_agree(&bytes);
        for (index, byte, kind) in edits {
            let at = index.index(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => { bytes.remove(at); }
                _ => bytes.insert(at, b"\"\\{}[]:, 0"[usize::from(byte) % 10]),
            }
            if bytes.is_empty() { break; }
            assert_paths_agree(&bytes);
        }
    }

    #[test]
    fn no_bytes_panic_either_path(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        assert_paths_agree(&bytes);
    }
}
