//! The model's connection is lost, or its session's time runs out, and the call goes on.
//!
//! Method: the real daemon between a scripted carrier and a scripted endpoint. What another session is told is read
//! from its connection, event by event.

mod common;

use common::carrier::{Carrier, FRAME_BYTES};
use common::daemon::{Daemon, Launch};
use common::model::{Connection, Model};
use common::pair::Pair;
use common::{audio, base64};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// One frame each way, byte for byte. An item of its own each time: another session's ids are its own.
async fn relays(pair: &mut Pair) {
    static ITEMS: AtomicUsize = AtomicUsize::new(1);
    let n = ITEMS.fetch_add(1, Ordering::Relaxed);
    let up = audio(n, FRAME_BYTES);
    pair.carrier.media(&up).await;
    assert_eq!(pair.model.appended(up.len()).await, up);
    let down = base64(&audio(1_000 + n, FRAME_BYTES));
    pair.model.delta(&format!("item_{n}"), &down).await;
    assert_eq!(pair.carrier.media_payload().await, down);
}

async fn talk(model: &mut Connection) {
    for event in [
        json!({"type": "input_audio_buffer.speech_started", "event_id": "e", "item_id": "item_u",
               "audio_start_ms": 0}),
        json!({"type": "input_audio_buffer.speech_stopped", "event_id": "e", "item_id": "item_u",
               "audio_end_ms": 20}),
        json!({"type": "input_audio_buffer.committed", "event_id": "e", "item_id": "item_u",
               "previous_item_id": null}),
        json!({"type": "conversation.item.input_audio_transcription.completed", "event_id": "e",
               "item_id": "item_u", "content_index": 0, "transcript": "When do you open?"}),
        json!({"type": "response.created", "event_id": "e",
               "response": {"id": "resp_1", "object": "realtime.response", "status": "in_progress"}}),
        json!({"type": "response.output_audio_transcript.done", "event_id": "e", "response_id": "resp_1",
               "item_id": "item_pair", "output_index": 0, "content_index": 0, "transcript": "At nine."}),
    ] {
        model.send(event).await;
    }
}

async fn done(model: &mut Connection) {
    model
        .send(json!({"type": "response.done", "event_id": "e",
            "response": {"id": "resp_1", "object": "realtime.response", "status": "completed"}}))
        .await;
}

async fn pair() -> (Daemon, Model, Pair) {
    let mut model = Model::plain().await;
    let daemon = Launch::serve(&model.url).start().await;
    let mut pair = Pair::new(&daemon, &mut model, "/media-stream/CA1").await;
    talk(&mut pair.model).await;
    relays(&mut pair).await;
    (daemon, model, pair)
}

/// What an item says.
fn text(event: &Value) -> (&str, &str) {
    assert_eq!(event["type"], "conversation.item.create", "{event}");
    let item = &event["item"];
    (
        item["role"].as_str().expect("a role"),
        item["content"][0]["text"].as_str().expect("text"),
    )
}

#[tokio::test]
async fn a_model_lost_in_mid_call_is_dialled_again_and_told_the_conversation() {
    for way in 0..3 {
        println!("case: {way}");
        let (daemon, mut model, mut pair) = pair().await;
        done(&mut pair.model).await;
        relays(&mut pair).await;
        match way {
            0 => pair.model.close().await,
            1 => {
                pair.model
                    .send(json!({"type": "error", "event_id": "e", "error": {
                        "type": "invalid_request_error", "code": "session_expired", "param": null,
                        "message": "Your session hit the maximum duration of 60 minutes.",
                        "event_id": null}}))
                    .await;
            }
            // Bytes that end in the middle of a frame, then the end of the stream.
            _ => pair.model.shut().await,
        }
        pair.model = model.accept().await;
        pair.model.set_up().await;
        assert_eq!(
            text(&pair.model.event().await),
            ("user", "When do you open?")
        );
        assert_eq!(text(&pair.model.event().await), ("assistant", "At nine."));
        assert_eq!(text(&pair.model.event().await).0, "system");
        // Nothing was owed, so the next thing is the caller.
        relays(&mut pair).await;
        daemon
            .counted("voxrelay_upstream_reconnects_total", &[], 1.0)
            .await;
        pair.hang_up().await;
    }
}

#[tokio::test]
async fn an_answer_that_was_under_way_is_asked_for_again() {
    let (_daemon, mut model, mut pair) = pair().await;
    pair.model.close().await;
    pair.model = model.accept().await;
    pair.model.set_up().await;
    for _ in 0..3 {
        text(&pair.model.event().await);
    }
    assert_eq!(pair.model.event().await["type"], "response.create");
    relays(&mut pair).await;
    pair.hang_up().await;
}

#[tokio::test]
async fn a_session_is_rolled_over_before_it_expires() {
    let mut model = Model::plain().await;
    let daemon = Launch::serve(&model.url)
        .config("[agent]\nrollover_before_secs = 3000\n")
        .start()
        .await;
    let mut pair = Pair::new(&daemon, &mut model, "/media-stream/CA1").await;
    talk(&mut pair.model).await;
    done(&mut pair.model).await;
    relays(&mut pair).await;
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970");
    let pcmu = json!({"format": {"type": "audio/pcmu"}});
    pair.model
        .send(
            json!({"type": "session.updated", "event_id": "e", "session": {
            "type": "realtime", "object": "realtime.session", "id": "sess_1",
            "expires_at": now.as_secs() + 3_002, "audio": {"input": pcmu, "output": pcmu}}}),
        )
        .await;
    let mut next = model.accept().await;
    next.set_up().await;
    assert_eq!(text(&next.event().await), ("user", "When do you open?"));
    assert_eq!(text(&next.event().await), ("assistant", "At nine."));
    assert_eq!(pair.model.closed().await, Some(1000));
    pair.model = next;
    relays(&mut pair).await;
    daemon
        .counted("voxrelay_upstream_rollovers_total", &[], 1.0)
        .await;
    pair.hang_up().await;
}

#[tokio::test]
async fn an_endpoint_that_accepts_and_drops_is_left_for_the_other() {
    let mut models = [Model::plain().await, Model::plain().await];
    let endpoints: String = models
        .iter()
        .map(|model| format!("[[realtime.endpoints]]\nurl = \"{}\"\n", model.url))
        .collect();
    let daemon = Launch::serve(&models[0].url)
        .config(&endpoints)
        .start()
        .await;
    let mut useless = None;
    for n in 0..4 {
        let mut carrier = Carrier::dial(&daemon, &format!("/media-stream/CA{n}")).await;
        carrier.start().await;
        let [first, second] = &mut models;
        let (at, mut model) = tokio::select! {
            model = first.accept() => (0, model),
            model = second.accept() => (1, model),
        };
        match useless {
            // The first call comes to whichever it likes.
            None => {
                model.send_session_created().await;
                model.close().await;
                useless = Some(at);
                model = models[1 - at].accept().await;
            }
            Some(useless) => assert_ne!(at, useless, "call {n}"),
        }
        model.set_up().await;
        let said = audio(n, FRAME_BYTES);
        carrier.media(&said).await;
        assert_eq!(model.appended(said.len()).await, said);
        carrier.stop().await;
        assert_eq!(model.closed().await, Some(1000));
    }
    daemon
        .counted("voxrelay_upstream_reconnects_total", &[], 1.0)
        .await;
}
