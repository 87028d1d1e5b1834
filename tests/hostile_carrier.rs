//! A carrier that breaks the WebSocket protocol, or sends messages that no carrier should.
//!
//! Method: each hostile stream runs beside a healthy call on the same worker, which must relay byte for byte
//! before and after. What a call survives is proven by its next frame; what is counted shows on `/metrics`.

mod common;

use common::carrier::{Carrier, FRAME_BYTES, frame};
use common::pair::{Pair, Stage};
use common::{audio, base64, metric};
use serde_json::json;

const KEY: Option<[u8; 4]> = Some([0x37, 0xfa, 0x21, 0x3d]);

impl Stage {
    /// Sends each piece of raw bytes on a call of its own; the carrier leg must be closed with the code, the
    /// model's leg in order, and the healthy call must not notice.
    async fn ends_with(&mut self, cases: &[(&str, u16, Vec<u8>)]) {
        for (what, code, bytes) in cases {
            println!("case: {what}");
            let mut hostile = self.pair().await;
            hostile.round_trip().await;
            hostile.carrier.send_raw(bytes).await;
            assert_eq!(hostile.carrier.closed().await, Some(*code), "{what}");
            assert!(
                hostile.model.closed().await.is_some(),
                "{what}: the model's leg"
            );
            self.healthy.round_trip().await;
        }
        let broken = [("reason", "carrier_protocol"), ("side", "carrier")];
        self.daemon
            .counted(metric::CALLS_ENDED, &broken, cases.len() as f64)
            .await;
    }

    /// Sends each text on one call; the call must survive it and the reason must be counted.
    async fn survives(&mut self, reason: &str, texts: &[(&str, String)]) {
        let mut hostile = self.pair().await;
        hostile.round_trip().await;
        for (what, text) in texts {
            println!("case: {what}");
            hostile.carrier.send_text(text).await;
            hostile.round_trip().await;
            self.healthy.round_trip().await;
        }
        self.daemon
            .counted(metric::DROPPED, &[("reason", reason)], texts.len() as f64)
            .await;
    }
}

#[tokio::test]
async fn broken_framing_is_1002() {
    let mut stage = Stage::new().await;
    let text = br#"{"event":"x"}"#;
    stage
        .ends_with(&[
            ("reserved bit 1", 1002, frame(0xC1, KEY, text)),
            ("reserved bit 2", 1002, frame(0xA1, KEY, text)),
            ("reserved bit 3", 1002, frame(0x91, KEY, text)),
            ("reserved data opcode", 1002, frame(0x83, KEY, text)),
            ("reserved control opcode", 1002, frame(0x8B, KEY, text)),
            ("an unmasked frame", 1002, frame(0x81, None, text)),
            ("a fragmented ping", 1002, frame(0x09, KEY, b"")),
            ("a ping of 126 bytes", 1002, frame(0x89, KEY, &[0; 126])),
            ("nothing to continue", 1002, frame(0x80, KEY, text)),
            (
                "a message inside a message",
                1002,
                [frame(0x01, KEY, b"{"), frame(0x81, KEY, text)].concat(),
            ),
            (
                "a length not in its shortest form",
                1002,
                vec![0x81, 0xFE, 0, 5, 0, 0, 0, 0, b'h', b'e', b'l', b'l', b'o'],
            ),
            (
                "a length with the top bit set",
                1002,
                vec![0x81, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, b'h'],
            ),
            ("a close frame of one byte", 1002, frame(0x88, KEY, &[3])),
            (
                "a close code that nobody may send",
                1002,
                frame(0x88, KEY, &[0x03, 0xED]),
            ),
        ])
        .await;
}

#[tokio::test]
async fn too_long_a_message_is_1009() {
    let mut stage = Stage::new().await;
    let too_long = vec![b' '; 64 * 1024 + 1];
    let mut endless = frame(0x01, KEY, &[b' '; 1000]);
    for _ in 0..70 {
        endless.extend(frame(0x00, KEY, &[b' '; 1000]));
    }
    stage
        .ends_with(&[
            ("one byte over", 1009, frame(0x81, KEY, &too_long)),
            ("fragments without end", 1009, endless),
            // Refused by its header: no room is made for it.
            (
                "a terabyte announced",
                1009,
                vec![0x81, 0xFF, 0, 0, 1, 0, 0, 0, 0, 0, 1, 2, 3, 4],
            ),
        ])
        .await;
}

#[tokio::test]
async fn a_message_of_64_kib_is_taken() {
    let mut stage = Stage::new().await;
    let mut hostile = stage.pair().await;
    let shell = r#"{"event":"later","filler":""}"#;
    let filler = "a".repeat(64 * 1024 - shell.len());
    let text = format!(r#"{{"event":"later","filler":"{filler}"}}"#);
    assert_eq!(text.len(), 64 * 1024);
    hostile.carrier.send_text(&text).await;
    hostile.round_trip().await;
    stage.healthy.round_trip().await;
}

#[tokio::test]
async fn text_that_is_not_utf8_is_1007() {
    let mut stage = Stage::new().await;
    stage
        .ends_with(&[
            (
                "a lone byte",
                1007,
                frame(0x81, KEY, b"{\"event\":\"\xff\"}"),
            ),
            ("a surrogate", 1007, frame(0x81, KEY, b"\xed\xa0\x80")),
            ("an overlong slash", 1007, frame(0x81, KEY, b"\xc0\xaf")),
            ("a cut character", 1007, frame(0x81, KEY, b"{}\xe2\x82")),
            (
                "a reason that is not UTF-8",
                1007,
                frame(0x88, KEY, b"\x03\xe8\xff"),
            ),
        ])
        .await;
}

#[tokio::test]
async fn a_frame_in_many_pieces_passes() {
    let mut stage = Stage::new().await;
    let mut pair = stage.pair().await;
    // Byte by byte, then as fragments with a ping in between.
    for fragmented in [false, true] {
        let chunk = audio(7, FRAME_BYTES);
        let text = pair.carrier.media_text(&base64(&chunk));
        let text = text.as_bytes();
        if fragmented {
            let mut bytes = frame(0x01, KEY, &text[..100]);
            bytes.extend(frame(0x89, KEY, b"ping"));
            bytes.extend(frame(0x00, KEY, &text[100..101]));
            bytes.extend(frame(0x00, KEY, b""));
            bytes.extend(frame(0x80, KEY, &text[101..]));
            pair.carrier.send_raw(&bytes).await;
        } else {
            for byte in frame(0x81, KEY, text) {
                pair.carrier.send_raw(&[byte]).await;
                tokio::task::yield_now().await;
            }
        }
        assert_eq!(pair.model.appended(chunk.len()).await, chunk);
    }
    pair.round_trip().await;
}

#[tokio::test]
async fn messages_that_do_not_parse_are_dropped_and_counted() {
    let mut stage = Stage::new().await;
    let deep = format!("{}{}{}", "[".repeat(10_000), "1", "]".repeat(10_000));
    stage
        .survives(
            "malformed",
            &[
                ("cut JSON", r#"{"event":"media","media":{"payl"#.into()),
                ("no JSON", "hello".into()),
                ("nothing", String::new()),
                ("an array", "[1,2,3]".into()),
                ("no event", r#"{"streamSid":"MZ1"}"#.into()),
                ("an event that is a number", r#"{"event":7}"#.into()),
                ("10,000 levels", deep.clone()),
                (
                    "10,000 levels in a field",
                    format!(r#"{{"event":"mark","mark":{deep}}}"#),
                ),
                (
                    "a key twice",
                    r#"{"event":"media","event":"mark","media":{"payload":"AAAA"}}"#.into(),
                ),
                (
                    "a payload twice",
                    r#"{"event":"media","media":{"payload":"AAAA","payload":"BBBB"}}"#.into(),
                ),
                ("media without media", r#"{"event":"media"}"#.into()),
            ],
        )
        .await;
}

#[tokio::test]
async fn unknown_events_are_counted_and_never_fatal() {
    let mut stage = Stage::new().await;
    stage
        .survives(
            "unknown_event",
            &[
                (
                    "a new event",
                    r#"{"event":"weather","streamSid":"x","rain":true}"#.into(),
                ),
                ("an empty name", r#"{"event":""}"#.into()),
                (
                    "a long name",
                    format!(r#"{{"event":"{}"}}"#, "e".repeat(5000)),
                ),
            ],
        )
        .await;
}

#[tokio::test]
async fn binary_messages_are_dropped_and_counted() {
    let mut stage = Stage::new().await;
    let mut hostile = stage.pair().await;
    for bytes in [&b""[..], b"\x00\xff", br#"{"event":"stop"}"#] {
        hostile.carrier.send_binary(bytes).await;
        hostile.round_trip().await;
    }
    stage.healthy.round_trip().await;
    stage
        .daemon
        .counted(metric::DROPPED, &[("reason", "binary")], 3.0)
        .await;
}

#[tokio::test]
async fn a_payload_that_is_not_base64_is_dropped_and_counted() {
    let mut stage = Stage::new().await;
    let mut hostile = stage.pair().await;
    hostile.round_trip().await;
    let bad = [
        "AAA",
        "AA=A",
        "A===",
        "AAA*",
        "AA AA",
        "AA-_",
        "====",
        "AAAA\u{e9}AAA",
        "%%%%",
    ];
    for payload in bad {
        println!("case: {payload}");
        let text = hostile.carrier.media_text(payload);
        // The stamp is used again by the next frame, so that no gap appears.
        hostile.carrier.timestamp -= 20;
        hostile.carrier.send_text(&text).await;
        hostile.round_trip().await;
    }
    stage.healthy.round_trip().await;
    stage
        .daemon
        .counted(
            metric::DROPPED,
            &[("reason", "bad_base64")],
            bad.len() as f64,
        )
        .await;
}

#[tokio::test]
async fn escapes_in_the_payload_are_undone() {
    let mut stage = Stage::new().await;
    let mut pair = stage.pair().await;
    let chunk = vec![0xff; FRAME_BYTES]; // all slashes and one padded end in base64
    let plain = base64(&chunk);
    for escaped in [plain.replace('/', r"\/"), plain.replace('/', r"\u002f")] {
        let text = pair.carrier.media_text(&escaped);
        pair.carrier.send_text(&text).await;
        assert_eq!(pair.model.append().await, plain);
    }
    pair.round_trip().await;
}

#[tokio::test]
async fn other_spellings_of_the_same_message_are_relayed_alike() {
    let mut stage = Stage::new().await;
    let mut pair = stage.pair().await;
    let sid = pair.carrier.stream_sid.clone();
    let chunk = base64(&audio(3, FRAME_BYTES));
    let spellings = [
        // Numbers as numbers, fields in another order, white space, fields that nobody knows.
        format!(
            r#"{{"streamSid":"{sid}","event":"media","media":{{"payload":"{chunk}","timestamp":0,"chunk":1,"track":"inbound"}},"sequenceNumber":2}}"#
        ),
        format!(
            "{{\n \"event\" : \"media\" ,\n \"streamSid\" : \"{sid}\" ,\n \"media\" : {{ \"timestamp\" : \"20\" , \"payload\" : \"{chunk}\" }} }}\n"
        ),
        format!(
            r#"{{"event":"media","streamSid":"{sid}","new":{{"a":[1,{{"b":null}}]}},"media":{{"track":"inbound","timestamp":"40","payload":"{chunk}","codec":"x"}}}}"#
        ),
        format!(
            r#"{{"\u0065vent":"media","streamSid":"{sid}","media":{{"timestamp":"60","payload":"{chunk}"}}}}"#
        ),
    ];
    for text in spellings {
        println!("case: {text}");
        pair.carrier.send_text(&text).await;
        assert_eq!(pair.model.append().await, chunk);
    }
}

#[tokio::test]
async fn media_before_start_is_dropped_and_counted() {
    let mut stage = Stage::new().await;
    let mut carrier = Carrier::dial(&stage.daemon, "/media-stream/early").await;
    for n in 0..5 {
        carrier.media(&audio(n, FRAME_BYTES)).await;
    }
    let mut pair = Pair::with(carrier, &mut stage.model).await;
    // Nothing of it was kept: what comes first is the first frame after `start`.
    pair.round_trip().await;
    stage.healthy.round_trip().await;
    stage
        .daemon
        .counted(metric::DROPPED, &[("reason", "before_start")], 5.0)
        .await;
}

#[tokio::test]
async fn three_messages_of_another_stream_close_with_1008() {
    let mut stage = Stage::new().await;
    let mut hostile = stage.pair().await;
    let own = hostile.carrier.stream_sid.clone();
    for n in 0..3 {
        // Up to here the call goes on.
        hostile.round_trip().await;
        hostile.carrier.stream_sid = "MZforeign".into();
        let text = hostile.carrier.media_text(&base64(&audio(n, FRAME_BYTES)));
        hostile.carrier.timestamp -= 20;
        hostile.carrier.stream_sid = own.clone();
        hostile.carrier.send_text(&text).await;
    }
    assert_eq!(hostile.carrier.closed().await, Some(1008));
    assert!(hostile.model.closed().await.is_some());
    stage.healthy.round_trip().await;
    stage
        .daemon
        .counted(metric::DROPPED, &[("reason", "foreign_stream")], 3.0)
        .await;
}

#[tokio::test]
async fn a_second_start_changes_nothing_and_is_counted() {
    let mut stage = Stage::new().await;
    let mut hostile = stage.pair().await;
    hostile.round_trip().await;
    let again = hostile
        .carrier
        .start_message(json!({"other": "parameters"}));
    hostile.carrier.send(again).await;
    hostile.round_trip().await;
    stage.healthy.round_trip().await;
    stage
        .daemon
        .counted(metric::DROPPED, &[("reason", "second_start")], 1.0)
        .await;
}

#[tokio::test]
async fn a_gap_in_stream_time_is_filled_with_silence() {
    let mut stage = Stage::new().await;
    let mut pair = stage.pair().await;
    pair.round_trip().await;
    // Five frames are missing.
    pair.carrier.timestamp += 100;
    let chunk = audio(77, FRAME_BYTES);
    pair.carrier.media(&chunk).await;
    let mut expected = vec![0xFF; 100 * 8];
    expected.extend(&chunk);
    assert_eq!(pair.model.appended(expected.len()).await, expected);
    pair.round_trip().await;
    stage.daemon.counted(metric::FILLED_BYTES, &[], 800.0).await;
}

#[tokio::test]
async fn a_jump_in_stream_time_fills_a_bounded_length() {
    let mut stage = Stage::new().await;
    let mut hostile = stage.pair().await;
    hostile.round_trip().await;
    hostile.carrier.timestamp = u64::MAX / 2;
    let chunk = audio(78, FRAME_BYTES);
    hostile.carrier.media(&chunk).await;
    let mut silence = 0;
    loop {
        let audio = common::unbase64(&hostile.model.append().await);
        if audio == chunk {
            break;
        }
        assert!(
            audio.iter().all(|byte| *byte == 0xFF),
            "neither silence nor the frame"
        );
        silence += audio.len();
        assert!(silence <= 10_000 * 8, "{silence} bytes of silence");
    }
    // And back: a stamp of the past is no gap.
    hostile.carrier.timestamp = 0;
    hostile.round_trip().await;
    stage.healthy.round_trip().await;
}

#[tokio::test]
async fn the_carriers_own_outbound_track_is_ignored() {
    let mut stage = Stage::new().await;
    let mut pair = stage.pair().await;
    let sid = pair.carrier.stream_sid.clone();
    let payload = base64(&audio(5, FRAME_BYTES));
    for n in 0..3 {
        pair.carrier
            .send(json!({
                "event": "media", "sequenceNumber": "9", "streamSid": sid,
                "media": {"track": "outbound", "chunk": "1", "timestamp": (n * 20).to_string(), "payload": payload}
            }))
            .await;
        pair.round_trip().await;
    }
}

#[tokio::test]
async fn keys_and_unknown_marks_pass_without_harm() {
    let mut stage = Stage::new().await;
    let mut pair = stage.pair().await;
    let sid = pair.carrier.stream_sid.clone();
    for message in [
        json!({"event": "dtmf", "streamSid": sid, "sequenceNumber": "5", "dtmf": {"track": "inbound_track", "digit": "7"}}),
        json!({"event": "mark", "streamSid": sid, "sequenceNumber": "6", "mark": {"name": "never-sent"}}),
        json!({"event": "mark", "streamSid": sid, "sequenceNumber": "7", "mark": {}}),
        json!({"event": "mark", "streamSid": sid, "sequenceNumber": "8"}),
    ] {
        pair.carrier.send(message).await;
        pair.round_trip().await;
    }
    stage.healthy.round_trip().await;
}

#[tokio::test]
async fn endless_garbage_ends_the_call() {
    let mut stage = Stage::new().await;
    let mut hostile = stage.pair().await;
    let garbage = frame(0x81, KEY, b"garbage").repeat(200);
    hostile.carrier.send_raw(&garbage).await;
    let code = hostile.carrier.closed().await;
    assert!(matches!(code, Some(code) if code != 1000), "{code:?}");
    assert!(hostile.model.closed().await.is_some());
    stage.healthy.round_trip().await;
}

#[tokio::test]
async fn another_audio_format_is_refused() {
    let mut stage = Stage::new().await;
    for format in [
        json!({"encoding": "audio/x-l16", "sampleRate": 8000, "channels": 1}),
        json!({"encoding": "audio/x-mulaw", "sampleRate": 16000, "channels": 1}),
        json!({"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 2}),
    ] {
        let mut carrier = Carrier::dial(&stage.daemon, "/media-stream/format").await;
        let mut start = carrier.start_message(json!({}));
        start["start"]["mediaFormat"] = format.clone();
        carrier.send(start).await;
        let code = carrier.closed().await;
        assert!(
            matches!(code, Some(code) if code != 1000),
            "{format}: {code:?}"
        );
    }
    stage.healthy.round_trip().await;
}

#[tokio::test]
async fn a_stream_that_never_starts_is_closed() {
    let mut stage = Stage::new().await;
    let mut mute = Carrier::dial(&stage.daemon, "/media-stream/mute").await;
    let code = mute.closed().await;
    assert!(matches!(code, Some(code) if code != 1000), "{code:?}");
    stage.healthy.round_trip().await;
}

#[tokio::test]
async fn a_carrier_that_vanishes_ends_its_call_only() {
    let mut stage = Stage::new().await;
    let Pair {
        carrier, mut model, ..
    } = stage.pair().await;
    carrier.drop_connection();
    assert!(model.closed().await.is_some());
    stage.healthy.round_trip().await;
}

#[tokio::test]
async fn a_close_without_stop_is_a_hang_up() {
    let mut stage = Stage::new().await;
    let mut pair = stage.pair().await;
    pair.carrier
        .send_raw(&frame(0x88, KEY, &[0x03, 0xE8]))
        .await;
    assert_eq!(pair.model.closed().await, Some(1000));
    assert_eq!(pair.carrier.closed().await, Some(1000));
    stage.healthy.round_trip().await;
}
