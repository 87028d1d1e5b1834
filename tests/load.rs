//! `voxrelay load` against the real relay, against relays with a planted fault, and against what is no relay at all.
//!
//! Method: the command runs to its end and its exit code, table and document are read. The faulty relay is a message-wise
//! proxy that does one thing wrong to one frame; that the same proxy without a fault passes shows that the fault is what is
//! found. Times are not asserted: the machine may be busy (`--allow-late`).

mod common;

use common::daemon::{Finished, Launch};
use common::tls::Authority;
use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;

/// Runs `voxrelay load` with these words.
async fn load(words: &str) -> Finished {
    let mut launch = Launch::bare().arg("load").arg("--quiet");
    for word in words.split_whitespace() {
        launch = launch.arg(word);
    }
    launch.run().await
}

/// A loopback port that nothing listens on now.
async fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    listener.local_addr().expect("address").port()
}

fn document(finished: &Finished) -> Value {
    serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("{error}: {finished:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_echo_calls_over_tls_come_through_whole() {
    let ran = load("--calls 20 --ramp 100/s --hold 3s --tls --allow-late --json -").await;
    assert_eq!(ran.code, Some(0), "{}", ran.all());
    let document = document(&ran);
    let run = &document["runs"][0];
    assert_eq!(run["faults"]["total"], 0, "{document}");
    assert_eq!(run["calls"]["ended"], 20);
    let frames = &run["frames"];
    // Three seconds of fifty frames each way are the least that twenty calls have sent.
    assert!(frames["up_sent"].as_u64() >= Some(20 * 150), "{frames}");
    for name in ["up_received", "down_sent", "down_received"] {
        assert_eq!(frames[name], frames["up_sent"], "{name}");
    }
    for way in ["carrier_to_model", "model_to_carrier"] {
        assert!(run["delay"][way]["p99_us"].as_f64() > Some(0.0), "{run}");
    }
    assert!(run["relay_cost"]["frames"].as_u64() > Some(0), "{run}");
    assert!(ran.stderr.contains("content right"), "{}", ran.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_talking_calls_with_interruptions_come_through_whole() {
    let words = "--calls 20 --ramp 100/s --hold 9s --profile talk --barge-in-rate 1 --allow-late --json - --seed 3";
    let ran = load(words).await;
    assert_eq!(ran.code, Some(0), "{}", ran.all());
    let document = document(&ran);
    let run = &document["runs"][0];
    assert_eq!(run["faults"]["total"], 0, "{document}");
    let barge_ins = run["barge_ins"]["count"].as_u64();
    assert!(barge_ins > Some(0), "{document}");
    assert!(run["barge_ins"]["clears"].as_u64() > Some(0), "{document}");
    assert!(run["marks"]["returned"].as_u64() > Some(0), "{document}");
}

#[tokio::test(flavor = "multi_thread")]
async fn short_calls_announced_by_webhook_are_replaced_until_all_are_done() {
    let words = "--churn --calls 10 --ramp 100/s --call-time 200ms --calls-total 60 --webhook --allow-late --json -";
    let ran = load(words).await;
    assert_eq!(ran.code, Some(0), "{}", ran.all());
    let calls = &document(&ran)["runs"][0]["calls"];
    for name in ["placed", "answered", "ended"] {
        assert_eq!(calls[name], 60, "{calls}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_and_the_picture_are_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let svg = folder.path().join("knee.svg");
    let json = folder.path().join("knee.json");
    let words = format!(
        "--step 2,4 --ramp 100/s --hold 500ms --allow-late --plot {} --json {}",
        svg.display(),
        json.display()
    );
    let ran = load(&words).await;
    assert_eq!(ran.code, Some(0), "{}", ran.all());
    let document: Value =
        serde_json::from_str(&std::fs::read_to_string(json).expect("written")).expect("JSON");
    let calls = |at: usize| &document["runs"][at]["plan"]["calls"];
    assert_eq!((calls(0), calls(1)), (&Value::from(2), &Value::from(4)));
    assert!(
        std::fs::read_to_string(svg)
            .expect("written")
            .contains("up p99")
    );
    assert!(ran.stdout.contains("knee"), "{}", ran.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_relays_are_compared_in_turns() {
    let words = "--calls 4 --ramp 100/s --hold 1s --allow-late --pairs 2 --json -";
    let mut launch = Launch::bare().arg("load").arg("--quiet");
    for word in words.split_whitespace() {
        launch = launch.arg(word);
    }
    let same = format!("again={} serve", env!("CARGO_BIN_EXE_voxrelay"));
    let ran = launch.arg("--against").arg(&same).run().await;
    assert_eq!(ran.code, Some(0), "{}", ran.all());
    let document = document(&ran);
    let runs = document["runs"].as_array().expect("runs");
    let names: Vec<&Value> = runs.iter().map(|run| &run["relay"]).collect();
    assert_eq!(names, ["voxrelay", "again", "again", "voxrelay"]);
    assert_eq!(document["comparisons"][0]["against"], "again", "{document}");
}

/// What the faulty relay does to one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plant {
    Nothing,
    Drop,
    Double,
    Swap,
    Alter,
    Silence,
    /// The caller's own audio goes back to it, past the model.
    LoopBack,
    /// The second call is sent a frame of the first.
    Mix,
    /// The stream is closed in the middle.
    Close,
}

/// The frame that it is done to.
const FRAME: u32 = 30;

/// A relay that passes messages on as they are, but for one. It mirrors at the model: no session, no appends.
async fn faulty_relay(plant: Plant, model_port: u16) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let port = listener.local_addr().expect("address").port();
    let (calls, stolen) = (AtomicU32::new(0), Arc::new(Mutex::new(None)));
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let call = calls.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(pass(tcp, plant, model_port, call, stolen.clone()));
        }
    });
    port
}

async fn pass(
    tcp: TcpStream,
    plant: Plant,
    model_port: u16,
    call: u32,
    stolen: Arc<Mutex<Option<String>>>,
) {
    // The load tester looks whether somebody listens, and hangs up.
    let Ok(carrier) = tokio_tungstenite::accept_async(tcp).await else {
        return;
    };
    let url = format!("ws://127.0.0.1:{model_port}/mirror");
    let (model, _) = tokio_tungstenite::connect_async(url)
        .await
        .expect("the model");
    let (mut to_carrier, mut from_carrier) = carrier.split();
    let (mut to_model, mut from_model) = model.split();
    let (loop_back, mut looped) = tokio::sync::mpsc::unbounded_channel();
    let up = async {
        let (mut frame, mut held) = (0, None);
        while let Some(Ok(message)) = from_carrier.next().await {
            let Message::Text(text) = &message else {
                let _ = to_model.send(message).await;
                continue;
            };
            let is_media = text.contains("\"event\":\"media\"");
            let is_hit = is_media && frame == FRAME;
            if is_media {
                if call == 0 && frame == 5 {
                    *stolen.lock().expect("lock") = Some(text.to_string());
                }
                frame += 1;
            }
            match plant {
                Plant::Drop if is_hit => continue,
                Plant::Double if is_hit => {
                    let _ = to_model.send(message.clone()).await;
                }
                Plant::Swap if is_hit => {
                    held = Some(message);
                    continue;
                }
                Plant::Mix if is_hit && call == 1 => {
                    let text = stolen
                        .lock()
                        .expect("lock")
                        .clone()
                        .expect("call 0 came first");
                    let _ = to_model.send(Message::text(text)).await;
                    continue;
                }
                Plant::LoopBack if is_hit => {
                    let _ = loop_back.send(text.to_string());
                }
                Plant::Close if is_hit => break,
                _ => {}
            }
            let _ = to_model.send(message).await;
            if let Some(held) = held.take_if(|_| is_media) {
                let _ = to_model.send(held).await;
            }
        }
        let _ = to_model.close().await;
    };
    let down = async {
        let mut frame = 0;
        loop {
            let message = tokio::select! {
                message = from_model.next() => message,
                Some(text) = looped.recv() => {
                    let _ = to_carrier.send(Message::text(as_the_server_says(&text))).await;
                    continue;
                }
            };
            let Some(Ok(message)) = message else { break };
            let Message::Text(text) = &message else {
                continue;
            };
            frame += 1;
            let text = match plant {
                Plant::Alter if frame - 1 == FRAME => with_payload(text, |payload| {
                    let at = payload.len() - 20;
                    let other = if payload[at..].starts_with('A') {
                        "B"
                    } else {
                        "A"
                    };
                    payload.replace_range(at..=at, other);
                }),
                Plant::Silence if frame - 1 == FRAME => with_payload(text, |payload| {
                    *payload = "//////////////////////////////////////////////////8=".into();
                }),
                _ => text.to_string(),
            };
            let _ = to_carrier.send(Message::text(text)).await;
        }
        let _ = to_carrier.close().await;
    };
    tokio::join!(up, down);
}

fn with_payload(text: &str, change: impl FnOnce(&mut String)) -> String {
    let mut message: Value = serde_json::from_str(text).expect("JSON");
    let mut payload = message["media"]["payload"]
        .as_str()
        .expect("media")
        .to_owned();
    change(&mut payload);
    message["media"]["payload"] = payload.into();
    message.to_string()
}

/// The caller's frame in the shape that a server may send.
fn as_the_server_says(text: &str) -> String {
    let message: Value = serde_json::from_str(text).expect("JSON");
    serde_json::json!({"event": "media", "streamSid": message["streamSid"],
        "media": {"payload": message["media"]["payload"]}})
    .to_string()
}

async fn against_faulty(plant: Plant) -> Finished {
    let model_port = free_port().await;
    let relay_port = faulty_relay(plant, model_port).await;
    load(&format!(
        "--relay ws://127.0.0.1:{relay_port}/media --model-listen 127.0.0.1:{model_port} \
         --calls 2 --ramp 10/s --hold 500ms --settle 500ms --allow-late"
    ))
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_without_a_fault_passes() {
    let ran = against_faulty(Plant::Nothing).await;
    assert_eq!(ran.code, Some(0), "{}", ran.all());
    assert!(ran.stdout.contains("content right"), "{}", ran.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_planted_fault_is_found_and_named() {
    // Both calls are hit by most of them; the order in which they are named is that of their ends.
    for (plant, expected) in [
        (Plant::Drop, "carrier to model, frame 30: lost"),
        (Plant::Double, "carrier to model, frame 30: duplicated"),
        (Plant::Swap, "carrier to model, frame 30: reordered"),
        (Plant::Alter, "model to carrier, frame 30: altered"),
        (
            Plant::Mix,
            "call 1, carrier to model, frame 5: foreign (it is call 0's",
        ),
        (
            Plant::Silence,
            "model to carrier, frame 30: foreign (Silence",
        ),
        (
            Plant::LoopBack,
            "model to carrier, frame 30: foreign (it is call ",
        ),
        (Plant::Close, ": end (the relay closed"),
    ] {
        let ran = against_faulty(plant).await;
        assert_eq!(ran.code, Some(1), "{plant:?}: {}", ran.all());
        let found = ran
            .stdout
            .lines()
            .any(|line| line.contains("FAULT  call ") && line.contains(expected));
        assert!(found, "{plant:?}: expected {expected:?} in {}", ran.all());
    }
}

/// A server that reads a head (or not), answers this and closes.
async fn answering(answer: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let port = listener.local_addr().expect("address").port();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = [0; 4096];
                let _ = tcp.read(&mut head).await;
                let _ = tcp.write_all(answer).await;
                let _ = tcp.shutdown().await;
            });
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_url_that_is_none_is_an_error_that_says_what_to_do() {
    let nobody = free_port().await;
    let missing = answering(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await;
    let page = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").await;
    let closes = answering(b"").await;
    let other = answering(b"220 mail.example.com ESMTP\r\n").await;
    let forbidden = answering(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n").await;
    for (url, code, expected) in [
        ("nonsense".to_owned(), 2, "ws://127.0.0.1:3000/media-stream"),
        (
            format!("http://127.0.0.1:{page}/"),
            2,
            "ws://127.0.0.1:3000/media-stream",
        ),
        (
            format!("ws://127.0.0.1:{nobody}/"),
            1,
            "nothing listens there; start the relay",
        ),
        (
            format!("ws://127.0.0.1:{missing}/"),
            1,
            "answered with 404: this is not its media stream; check the path",
        ),
        (
            format!("ws://127.0.0.1:{page}/"),
            1,
            "answered with 200: this is not its media stream; check the path",
        ),
        (
            format!("ws://127.0.0.1:{closes}/"),
            1,
            "is this a relay's media stream? Check --relay",
        ),
        (
            format!("ws://127.0.0.1:{other}/"),
            1,
            "is this a relay's media stream? Check --relay",
        ),
        (
            format!("ws://127.0.0.1:{forbidden}/"),
            1,
            "a signature (--auth-token) or a ticket (--webhook)",
        ),
        (format!("wss://127.0.0.1:{closes}/"), 1, "wss://127.0.0.1"),
        (
            format!("wss://127.0.0.1:{page}/"),
            1,
            "check that the port speaks TLS",
        ),
    ] {
        let ran = load(&format!("--relay {url} --calls 2 --hold 1s")).await;
        assert_eq!(ran.code, Some(code), "{url}: {}", ran.all());
        assert!(
            ran.stderr.contains(expected),
            "{url}: expected {expected:?} in {}",
            ran.stderr
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_nobody_vouches_for_is_named() {
    let authority = Authority::new();
    let acceptor = authority.identity().acceptor();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let port = listener.local_addr().expect("address").port();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let _ = acceptor.accept(tcp).await;
            });
        }
    });
    let ran = load(&format!(
        "--relay wss://127.0.0.1:{port}/ --calls 2 --hold 1s"
    ))
    .await;
    assert_eq!(ran.code, Some(1), "{}", ran.all());
    assert!(ran.stderr.contains("--ca-file"), "{}", ran.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_runs_elsewhere_with_tls_is_tested_like_our_own() {
    let authority = Authority::new();
    let identity = authority.identity();
    let model_port = free_port().await;
    let launch = Launch::serve(&format!("ws://127.0.0.1:{model_port}/v1/realtime"));
    let cert = launch.file("cert.pem", &identity.cert);
    let key = launch.file("key.pem", &identity.key);
    let ca = launch.file("ca.pem", &authority.pem);
    let daemon = launch
        .env("VOXRELAY__LISTEN__TLS__CERT_FILE", &cert)
        .env("VOXRELAY__LISTEN__TLS__KEY_FILE", &key)
        .start()
        .await;
    let port = daemon.addr.port();
    let ran = load(&format!(
        "--relay wss://127.0.0.1:{port}/media-stream/{{call}} --ca-file {ca} --model-listen 127.0.0.1:{model_port} \
         --calls 3 --ramp 50/s --hold 1s --allow-late --json -"
    ))
    .await;
    assert_eq!(ran.code, Some(0), "{}", ran.all());
    let run = &document(&ran)["runs"][0];
    assert_eq!(run["calls"]["ended"], 3, "{run}");
    assert_eq!(
        run["relay_cost"],
        Value::Null,
        "nobody said which process it is"
    );
}
