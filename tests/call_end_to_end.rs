//! One whole call through the real binary, between peers that somebody else's WebSocket library runs.
//!
//! Method: the test drives both ends by hand and compares bytes. What must come is awaited; what must not
//! come is proven by what comes instead.

mod common;

use common::carrier::{Carrier, FRAME_BYTES, Got};
use common::daemon::{Daemon, Launch, SECRET_KEY};
use common::http::get;
use common::model::Model;
use common::pair::Pair;
use common::tls::Authority;
use common::{audio, base64, unbase64};
use serde_json::json;

/// Plays a call over connections that are already there: early audio, both directions, marks, stop.
async fn whole_call(mut carrier: Carrier, model: &mut Model) {
    carrier.start().await;
    // Before the model has said anything, the caller already speaks.
    let mut spoken = Vec::new();
    for n in 0..10 {
        let chunk = audio(n, FRAME_BYTES);
        carrier.media(&chunk).await;
        spoken.extend(chunk);
    }

    let mut model = model.accept().await;
    assert!(
        model.target.starts_with("/v1/realtime?") && model.target.contains("model=gpt-realtime"),
        "{}",
        model.target
    );
    assert_eq!(
        model.header("authorization"),
        Some(format!("Bearer {SECRET_KEY}").as_str())
    );
    assert_eq!(model.header("openai-beta"), None);

    // The update answers session.created, and no audio goes before session.updated: the update is the
    // first event, and what follows the confirmation starts with the first held byte.
    model.send_session_created().await;
    let update = model.event().await;
    assert_eq!(update["type"], "session.update", "{update}");
    let session = &update["session"];
    assert_eq!(session["type"], "realtime", "{update}");
    for side in ["input", "output"] {
        assert_eq!(
            session["audio"][side]["format"],
            json!({"type": "audio/pcmu"}),
            "{update}"
        );
    }
    let chunk = audio(10, FRAME_BYTES);
    carrier.media(&chunk).await;
    spoken.extend(chunk);
    // The relay has read that chunk (it answered a ping behind it) and sent nothing to the model.
    carrier.settle().await;
    model.settle().await;
    model.confirm().await;
    assert_eq!(model.appended(spoken.len()).await, spoken);

    // Live frames pass one by one, their text untouched.
    for n in 20..120 {
        let payload = carrier.media(&audio(n, FRAME_BYTES)).await;
        assert_eq!(model.append().await, payload);
    }

    // The model speaks: two items, ragged deltas, faster than real time.
    for item_number in 0..2 {
        let item = model.item();
        let marks_before = carrier.marks.len();
        let mut deltas = Vec::new();
        for n in 0..40 {
            let delta = base64(&audio(500 + item_number * 100 + n, 400 + 37 * n));
            model.delta(&item, &delta).await;
            deltas.push(delta);
        }
        model.audio_done(&item).await;
        let mut bytes = 0;
        for delta in deltas {
            assert_eq!(carrier.media_payload().await, delta);
            bytes += unbase64(&delta).len();
        }
        // One mark per 200 ms at most, at least one per 400 ms, and one behind the item's end.
        match carrier.next().await {
            Got::Message(message) if message["event"] == "mark" => {
                let name = message["mark"]["name"].as_str().expect("text");
                carrier.return_mark(name).await;
            }
            other => panic!("expected the item's last mark, got {other:?}"),
        }
        let marks = carrier.marks.len() - marks_before;
        let duration_ms = bytes / 8;
        assert!(
            marks <= duration_ms / 200 + 2,
            "{marks} marks in {duration_ms} ms"
        );
        assert!(
            marks >= duration_ms / 400,
            "{marks} marks in {duration_ms} ms"
        );
    }

    carrier.stop().await;
    assert_eq!(model.closed().await, Some(1000));
    assert_eq!(carrier.closed().await, Some(1000));
}

async fn daemon_for(model: &Model) -> Daemon {
    Launch::serve(&model.url).start().await
}

#[tokio::test]
async fn a_call_passes_over_plain_connections() {
    let mut model = Model::plain().await;
    let daemon = daemon_for(&model).await;
    let carrier = Carrier::dial(&daemon, "/media-stream/CA1").await;
    whole_call(carrier, &mut model).await;
}

#[tokio::test]
async fn a_call_passes_over_tls_on_both_sides() {
    let authority = Authority::new();
    let identity = authority.identity();
    let mut model = Model::tls(&authority.identity()).await;
    let launch = Launch::serve(&model.url);
    let ca = launch.file("ca.pem", &authority.pem);
    let cert = launch.file("cert.pem", &identity.cert);
    let key = launch.file("key.pem", &identity.key);
    let daemon = launch
        .env("VOXRELAY__REALTIME__CA_FILE", &ca)
        .env("VOXRELAY__LISTEN__TLS__CERT_FILE", &cert)
        .env("VOXRELAY__LISTEN__TLS__KEY_FILE", &key)
        .start()
        .await;
    for path in ["/media-stream", "/api/twilio/media-stream/call-1"] {
        let stream = daemon.connect_tls(&authority).await;
        let carrier = Carrier::dial_over(stream, path, &[])
            .await
            .expect("upgrade");
        whole_call(carrier, &mut model).await;
    }
}

#[tokio::test]
async fn plain_http_is_answered_on_the_tls_port_too() {
    let authority = Authority::new();
    let identity = authority.identity();
    let model = Model::plain().await;
    let launch = Launch::serve(&model.url);
    let cert = launch.file("cert.pem", &identity.cert);
    let key = launch.file("key.pem", &identity.key);
    let daemon = launch
        .env("VOXRELAY__LISTEN__TLS__CERT_FILE", &cert)
        .env("VOXRELAY__LISTEN__TLS__KEY_FILE", &key)
        .start()
        .await;
    let mut client = common::http::Client::over(daemon.connect_tls(&authority).await);
    for _ in 0..2 {
        client
            .send(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .await;
        let answer = client.response().await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json();
    }
}

#[tokio::test]
async fn a_model_that_our_roots_do_not_vouch_for_is_not_talked_to() {
    let authority = Authority::new();
    let mut model = Model::tls(&Authority::new().identity()).await;
    let launch = Launch::serve(&model.url);
    let ca = launch.file("ca.pem", &authority.pem);
    let daemon = launch.env("VOXRELAY__REALTIME__CA_FILE", &ca).start().await;
    let mut carrier = Carrier::dial(&daemon, "/media-stream/CA1").await;
    carrier.start().await;
    assert!(matches!(carrier.closed().await, Some(code) if code != 1000));
    assert!(!model.has_connection());
}

#[tokio::test]
async fn every_alias_carries_a_call() {
    let mut model = Model::plain().await;
    let daemon = daemon_for(&model).await;
    for path in [
        "/api/twilio/media-stream/3f2b7a10-77aa-4b1e-9a55-0d6c1c1f2e3d",
        "/api/twilio/media-stream-simple",
        "/media-stream",
        "/media-stream/CA5d0c1e7a9b3f42c68e71d20a4b95f3e6",
        "/api/voice/stream",
        "/streams",
    ] {
        let mut pair = Pair::new(&daemon, &mut model, path).await;
        pair.round_trip().await;
        pair.round_trip().await;
        pair.hang_up().await;
    }
}

#[tokio::test]
async fn two_calls_at_once_do_not_mix() {
    let mut model = Model::plain().await;
    let daemon = Launch::serve(&model.url)
        .env("VOXRELAY__RELAY__WORKERS", "2")
        .start()
        .await;
    let mut pairs = Vec::new();
    for n in 0..6 {
        pairs.push(Pair::new(&daemon, &mut model, &format!("/media-stream/call-{n}")).await);
    }
    for _ in 0..20 {
        for pair in &mut pairs {
            pair.round_trip().await;
        }
    }
    for pair in pairs {
        pair.hang_up().await;
    }
}

#[tokio::test]
async fn held_audio_past_its_bound_loses_the_oldest() {
    let mut model = Model::plain().await;
    let daemon = daemon_for(&model).await;
    let mut carrier = Carrier::dial(&daemon, "/media-stream/CA1").await;
    carrier.start().await;
    let mut model = model.accept().await;
    // Seven seconds into a bound of five.
    let mut spoken = Vec::new();
    for n in 0..350 {
        let chunk = audio(n, FRAME_BYTES);
        carrier.media(&chunk).await;
        spoken.extend(chunk);
    }
    // The daemon has read all of it once a later message of the same connection had its effect: the
    // pong to a ping behind it.
    carrier.settle().await;
    model.set_up().await;
    let held = 5_000 * 8;
    assert_eq!(model.appended(held).await, spoken[spoken.len() - held..]);
    // And nothing of the dropped part comes later: the next append is the next frame.
    let payload = carrier.media(&audio(999, FRAME_BYTES)).await;
    assert_eq!(model.append().await, payload);
}

#[tokio::test]
async fn without_a_key_on_loopback_the_simulated_model_answers() {
    let daemon = Launch::bare()
        .env("VOXRELAY__LISTEN__PORT", "0")
        .arg("serve")
        .start()
        .await;
    let mut carrier = Carrier::dial(&daemon, "/media-stream/CA1").await;
    carrier.start().await;
    // The set-up shows in the health report: the call is live, and nobody closed it.
    let health = common::http::get(daemon.addr, "/health").await;
    assert_eq!(health.status, 200, "{health:?}");
    for n in 0..50 {
        carrier.media(&audio(n, FRAME_BYTES)).await;
    }
    carrier.stop().await;
    assert_eq!(carrier.closed().await, Some(1000));
    assert!(
        daemon.output.text().to_lowercase().contains("simulated"),
        "the simulated model was not announced"
    );
}

#[tokio::test]
async fn the_turns_of_a_live_call_can_be_seen() {
    let mut model = Model::plain().await;
    let daemon = daemon_for(&model).await;
    let mut pair = Pair::new(&daemon, &mut model, "/media-stream/CA1").await;
    let health = get(daemon.addr, "/health").await.json();
    let call_id = health["calls"][0]["callId"].as_str().expect("listed");
    let path = format!("/api/calls/{call_id}/turns");
    let before = get(daemon.addr, &path).await;
    assert_eq!(before.status, 200);
    assert_eq!(before.json(), json!({"callId": call_id, "turns": []}));

    for event in [
        json!({"type": "input_audio_buffer.speech_started", "event_id": "e", "audio_start_ms": 0, "item_id": "u"}),
        json!({"type": "input_audio_buffer.speech_stopped", "event_id": "e", "audio_end_ms": 9, "item_id": "u"}),
        json!({"type": "response.created", "event_id": "e", "response": {"id": "resp_1"}}),
    ] {
        pair.model.send(event).await;
    }
    let delta = base64(&audio(1, 1_600));
    pair.model.delta("item_1", &delta).await;
    assert_eq!(pair.carrier.media_payload().await, delta);
    let Got::Message(mark) = pair.carrier.next().await else {
        panic!("expected a mark");
    };
    let name = mark["mark"]["name"].as_str().expect("a mark");
    pair.carrier.return_mark(name).await;
    pair.carrier.settle().await;

    let told = get(daemon.addr, &path).await.json();
    let turn = &told["turns"][0];
    assert_eq!(told["turns"].as_array().map(Vec::len), Some(1), "{told}");
    let stages = ["createdMs", "firstDeltaMs", "firstByteMs", "firstMarkMs"];
    let ms = stages.map(|stage| {
        turn[stage]
            .as_u64()
            .unwrap_or_else(|| panic!("{stage}: {told}"))
    });
    assert!(ms.is_sorted(), "{told}");
    assert!(
        turn["stoppedUnixMs"].as_u64() > Some(1_600_000_000_000),
        "{told}"
    );

    let unknown = get(daemon.addr, "/api/calls/nobody/turns").await;
    assert_eq!(unknown.status, 404);
    pair.hang_up().await;
    daemon.settled().await;
    assert_eq!(get(daemon.addr, &path).await.status, 404, "it is over");
}
