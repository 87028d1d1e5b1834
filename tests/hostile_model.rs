//! A model endpoint that refuses, stalls, breaks the protocol or says what it should not.
//!
//! Method: as in `hostile_carrier.rs`. What ends a call must end it for the caller too, with a close frame; what makes
//! the connection useless must lead to another one; what does neither must leave the next frame each way intact.

mod common;

use common::carrier::{Carrier, FRAME_BYTES, frame};
use common::daemon::Launch;
use common::model::{Connection, Got, Model};
use common::pair::Stage;
use common::{audio, base64, metric};
use serde_json::json;

impl Stage {
    /// Another call, its model connected and not yet answering.
    async fn half(&mut self) -> (Carrier, Connection) {
        let mut carrier = Carrier::dial(&self.daemon, "/media-stream/half").await;
        carrier.start().await;
        (carrier, self.model.accept().await)
    }
}

/// The caller's end of a call that failed: a close frame, and not the one of a normal end.
async fn ended_for(carrier: &mut Carrier, what: &str) {
    let code = carrier.closed().await;
    assert!(
        matches!(code, Some(code) if code != 1000),
        "{what}: {code:?}"
    );
}

#[tokio::test]
async fn broken_framing_ends_the_connection_and_the_call_goes_on_with_another() {
    let mut stage = Stage::new().await;
    let event = br#"{"type":"rate_limits.updated","event_id":"e","rate_limits":[]}"#;
    for (what, code, bytes) in [
        (
            "a masked frame",
            1002,
            frame(0x81, Some([1, 2, 3, 4]), event),
        ),
        ("a reserved bit", 1002, frame(0xC1, None, event)),
        ("a reserved opcode", 1002, frame(0x84, None, event)),
        ("garbage", 1002, b"HTTP/1.1 200 OK\r\n\r\nsurprise".to_vec()),
        ("not UTF-8", 1007, frame(0x81, None, b"{\"type\":\"\xff\"}")),
        (
            "17 MiB announced",
            1009,
            vec![0x81, 127, 0, 0, 0, 0, 0x01, 0x10, 0, 0],
        ),
    ] {
        println!("case: {what}");
        let mut hostile = stage.pair().await;
        hostile.round_trip().await;
        hostile.model.send_raw(&bytes).await;
        assert_eq!(hostile.model.closed().await, Some(code), "{what}");
        hostile.model = stage.model.accept().await;
        hostile.model.set_up().await;
        hostile.round_trip().await;
        hostile.hang_up().await;
        stage.healthy.round_trip().await;
    }
}

#[tokio::test]
async fn a_loss_before_session_created_is_tried_again_and_not_for_ever() {
    let mut stage = Stage::new().await;
    let (mut carrier, mut model) = stage.half().await;
    model.close().await;
    stage.model.accept().await.drop_connection();
    let mut model = stage.model.accept().await;
    model.set_up().await;
    let said = audio(1, FRAME_BYTES);
    carrier.media(&said).await;
    assert_eq!(model.appended(said.len()).await, said);
    carrier.stop().await;
    assert_eq!(model.closed().await, Some(1000));
    let (mut carrier, mut model) = stage.half().await;
    for _ in 0..5 {
        model.close().await;
        model = stage.model.accept().await;
    }
    model.close().await;
    ended_for(&mut carrier, "closed each time").await;
    assert!(!stage.model.has_connection());
    stage.healthy.round_trip().await;
}

#[tokio::test]
async fn another_format_confirmed_twice_ends_the_call() {
    let mut stage = Stage::new().await;
    let (mut carrier, mut model) = stage.half().await;
    carrier.media(&audio(1, FRAME_BYTES)).await;
    for n in 0..2 {
        if n > 0 {
            model = stage.model.accept().await;
        }
        model.send_session_created().await;
        assert_eq!(model.event().await["type"], "session.update");
        model.confirm_pcm().await;
        // Not one byte of audio was sent in a format that the model reads as noise.
        while let Got::Message(event) = model.next().await {
            assert_ne!(event["type"], "input_audio_buffer.append", "{event}");
        }
    }
    ended_for(&mut carrier, "pcm").await;
    stage.healthy.round_trip().await;
}

#[tokio::test]
async fn a_refused_session_update_ends_the_call() {
    let mut stage = Stage::new().await;
    let (mut carrier, mut model) = stage.half().await;
    model.send_session_created().await;
    let update = model.event().await;
    model
        .send(json!({
            "type": "error", "event_id": "event_x",
            "error": {
                "type": "invalid_request_error", "code": "unknown_parameter", "param": "session.voice",
                "message": "Unknown parameter: 'session.voice'.", "event_id": update["event_id"]
            }
        }))
        .await;
    ended_for(&mut carrier, "refused").await;
    assert!(model.closed().await.is_some());
    stage.healthy.round_trip().await;
}

#[tokio::test]
async fn an_upgrade_refused_with_a_status_ends_the_call() {
    for status in [401, 403, 404, 429, 500, 503] {
        println!("case: {status}");
        let mut model = Model::refusing(status).await;
        let daemon = Launch::serve(&model.url).start().await;
        let mut carrier = Carrier::dial(&daemon, "/media-stream/CA1").await;
        carrier.start().await;
        model.contacted().await;
        ended_for(&mut carrier, "refused").await;
        assert_eq!(common::http::get(daemon.addr, "/health").await.status, 200);
    }
}

#[tokio::test]
async fn a_model_that_is_not_there_ends_the_call() {
    // A port that was free a moment ago.
    let port = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        listener.local_addr().expect("address").port()
    };
    let daemon = Launch::serve(&format!("ws://127.0.0.1:{port}/v1/realtime"))
        .start()
        .await;
    let mut carrier = Carrier::dial(&daemon, "/media-stream/CA1").await;
    carrier.start().await;
    ended_for(&mut carrier, "refused").await;
}

#[tokio::test]
async fn a_model_that_never_answers_the_upgrade_ends_the_call_in_time() {
    let model = Model::silent().await;
    let daemon = Launch::serve(&model.url).start().await;
    let mut carrier = Carrier::dial(&daemon, "/media-stream/CA1").await;
    carrier.start().await;
    ended_for(&mut carrier, "silent").await;
}

#[tokio::test]
async fn a_model_that_never_confirms_ends_the_call_in_time() {
    let mut stage = Stage::new().await;
    let (mut carrier, mut model) = stage.half().await;
    model.send_session_created().await;
    assert_eq!(model.event().await["type"], "session.update");
    ended_for(&mut carrier, "unconfirmed").await;
    stage.healthy.round_trip().await;
}

#[tokio::test]
async fn big_events_pass_without_harm() {
    let mut stage = Stage::new().await;
    let mut pair = stage.pair().await;
    let audio = "A".repeat(2 * 1024 * 1024);
    pair.model
        .send(json!({
            "type": "conversation.item.retrieved", "event_id": "event_r",
            "item": {"id": "item_1", "type": "message", "role": "user",
                     "content": [{"type": "input_audio", "audio": audio}]}
        }))
        .await;
    pair.round_trip().await;
    stage.healthy.round_trip().await;
}

#[tokio::test]
async fn a_big_delta_is_relayed_whole() {
    let mut stage = Stage::new().await;
    let mut pair = stage.pair().await;
    // Longer than a provided buffer, a record and one send.
    for len in [3_000, 20_000, 100_000] {
        let delta = base64(&audio(len, len));
        pair.model.delta("item_big", &delta).await;
        assert!(
            pair.carrier.media_payload().await == delta,
            "a delta of {len} bytes was changed"
        );
    }
    pair.round_trip().await;
    stage.healthy.round_trip().await;
}

#[tokio::test]
async fn a_delta_in_fragments_is_relayed() {
    let mut stage = Stage::new().await;
    let mut pair = stage.pair().await;
    let delta = base64(&audio(9, 800));
    let text = json!({"type": "response.output_audio.delta", "event_id": "e", "response_id": "r",
        "item_id": "i", "output_index": 0, "content_index": 0, "delta": delta})
    .to_string();
    let text = text.as_bytes();
    let mut bytes = frame(0x01, None, &text[..10]);
    bytes.extend(frame(0x89, None, b"between"));
    bytes.extend(frame(0x80, None, &text[10..]));
    pair.model.send_raw(&bytes).await;
    assert_eq!(pair.carrier.media_payload().await, delta);
    pair.round_trip().await;
}

#[tokio::test]
async fn unknown_and_beta_events_are_survived() {
    let mut stage = Stage::new().await;
    let mut pair = stage.pair().await;
    for event in [
        json!({"type": "response.weather.delta", "event_id": "e", "rain": [1, {"a": null}]}),
        json!({"type": ""}),
        json!({"no": "type"}),
        json!({"type": 7}),
        json!(["not", "an", "object"]),
        json!({"type": "conversation.item.input_audio_transcription.failed", "item_id": "i",
               "content_index": 0, "error": {"type": "transcription_error", "message": "no"}}),
        json!({"type": "error", "event_id": "e", "error": {"type": "invalid_request_error",
               "code": "response_cancel_not_active", "message": "Cancellation failed", "param": null,
               "event_id": null}}),
        json!({"type": "response.done", "event_id": "e", "response": {"id": "r", "status": "failed",
               "status_details": {"type": "failed", "error": {"type": "server_error", "code": null}}}}),
    ] {
        println!("case: {event}");
        pair.model.send(event).await;
        pair.round_trip().await;
    }
    for text in [
        "",
        "hello",
        r#"{"type":"response.output_audio.delta","delta":"#,
    ] {
        pair.model.send_text(text).await;
        pair.round_trip().await;
    }
    pair.model.send_binary(b"\x00\x01").await;
    pair.round_trip().await;
    stage.healthy.round_trip().await;
}

#[tokio::test]
async fn a_delta_that_is_not_base64_is_dropped_and_counted() {
    let mut stage = Stage::new().await;
    let mut pair = stage.pair().await;
    for bad in ["AAA", "AA=A", "AAA*", "AA-_", "\u{e9}AAA"] {
        pair.model.delta("item_bad", bad).await;
        pair.round_trip().await;
    }
    // A delta that is not even text.
    pair.model
        .send(json!({"type": "response.output_audio.delta", "item_id": "i", "delta": 7}))
        .await;
    pair.round_trip().await;
    stage.healthy.round_trip().await;
    stage
        .daemon
        .counted(metric::DROPPED, &[("reason", "bad_base64")], 5.0)
        .await;
}

#[tokio::test]
async fn escapes_in_a_delta_are_undone() {
    let mut stage = Stage::new().await;
    let mut pair = stage.pair().await;
    let plain = base64(&[0xff; 480]);
    let escaped = plain.replace('/', r"\/");
    pair.model
        .send_text(&format!(
            r#"{{"type":"response.output_audio.delta","event_id":"e","response_id":"r","item_id":"i","output_index":0,"content_index":0,"delta":"{escaped}"}}"#
        ))
        .await;
    assert_eq!(pair.carrier.media_payload().await, plain);
}

#[tokio::test]
async fn pings_are_answered_on_both_legs() {
    let mut stage = Stage::new().await;
    let mut pair = stage.pair().await;
    pair.model.settle().await;
    pair.carrier.settle().await;
    pair.round_trip().await;
}
