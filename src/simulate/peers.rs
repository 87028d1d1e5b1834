//! The simulators against peers that somebody else wrote (tungstenite), over loopback, plain and TLS.
//!
//! With `VOXRELAY_RECORD=FILE` the model's session is also written down, for `.ci/judge_realtime.py`.

use super::carrier::client::{self, CallError, Target};
use super::carrier::options::Options as CarrierOptions;
use super::model::options::{Fault, Mode, Options};
use super::model::server::{Running, Setup, Tls, start};
use super::record::Recorder;
use super::{CALLER_WAV, wav};
use crate::proto::audio::base64;
use crate::transport::clock::SystemClock;
use crate::transport::roots;
use futures_util::{SinkExt as _, StreamExt as _};
use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async, client_async};

/// A test that waits longer has hung.
const DEADLINE: Duration = Duration::from_secs(30);

const LOCALHOST: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

trait Bytes: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Bytes for T {}
type Socket = WebSocketStream<Box<dyn Bytes>>;

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future)
        .await
        .expect("a peer hangs")
}

/// Connects to a simulated model with somebody else's client.
async fn connect(model: &Running, path: &str, key: Option<&str>) -> Result<Socket, Error> {
    let tcp = TcpStream::connect(model.address()).await?;
    let stream: Box<dyn Bytes> = match model.ca_pem() {
        Some(pem) => {
            let config = roots::client_config_from_pem(pem).expect("our own certificate");
            let name = ServerName::try_from("localhost").expect("a name");
            Box::new(
                tokio_rustls::TlsConnector::from(config)
                    .connect(name, tcp)
                    .await?,
            )
        }
        None => Box::new(tcp),
    };
    let mut request = format!("ws://{}{path}", model.address()).into_client_request()?;
    if let Some(key) = key {
        let value = format!("Bearer {key}").parse().expect("a header value");
        request.headers_mut().insert("Authorization", value);
    }
    Ok(client_async(request, stream).await?.0)
}

async fn send(socket: &mut Socket, event: Value) {
    let text = event.to_string();
    within(socket.send(Message::text(text)))
        .await
        .expect("sent");
}

/// Events up to and with the first of this type.
async fn until(socket: &mut Socket, kind: &str) -> Vec<Value> {
    let mut events = Vec::new();
    loop {
        match within(socket.next()).await {
            Some(Ok(Message::Text(text))) => {
                let event: Value = serde_json::from_str(&text).expect("the model sends JSON");
                let is_last = event["type"] == kind;
                events.push(event);
                if is_last {
                    return events;
                }
            }
            Some(Ok(_)) => {}
            other => panic!("{kind} was due, got {other:?}"),
        }
    }
}

fn model(tls: Tls, options: Options, recorder: Option<Recorder>) -> Running {
    let setup = Setup {
        options,
        tls,
        recorder,
        keeps_audio: true,
    };
    start(LOCALHOST, setup, SystemClock::new()).expect("a loopback port")
}

fn telephone() -> Value {
    json!({"type": "session.update", "session": {"type": "realtime", "instructions": "Be short.",
        "audio": {
            "input": {"format": {"type": "audio/pcmu"}, "noise_reduction": null,
                "transcription": {"model": "gpt-4o-mini-transcribe"},
                "turn_detection": {"type": "server_vad", "threshold": 0.5, "prefix_padding_ms": 300,
                    "silence_duration_ms": 500, "create_response": true, "interrupt_response": true}},
            "output": {"format": {"type": "audio/pcmu"}, "voice": "marin"}}}})
}

const GOOD_PATH: &str = "/v1/realtime?model=gpt-realtime";

/// The shipped caller, all at once: the detector's clock is the stream, so three turns come out.
async fn whole_session(tls: Tls) {
    let recorder = std::env::var_os("VOXRELAY_RECORD")
        .map(|path| Recorder::create(Path::new(&path)).expect("a file"));
    let model = model(tls, Options::default(), recorder);
    let mut socket = within(connect(&model, GOOD_PATH, None)).await.expect("101");
    assert_eq!(until(&mut socket, "session.created").await.len(), 1);
    send(&mut socket, telephone()).await;
    until(&mut socket, "session.updated").await;
    let voice = wav::to_pcmu(CALLER_WAV).expect("our own file");
    let mut sent = Vec::new();
    for frame in voice.chunks(160) {
        let mut payload = Vec::new();
        base64::encode_into(frame, &mut payload);
        let payload = String::from_utf8(payload).expect("ASCII");
        send(
            &mut socket,
            json!({"type": "input_audio_buffer.append", "audio": payload}),
        )
        .await;
        sent.push(payload);
    }
    let mut events = Vec::new();
    for _turn in 0..3 {
        events.extend(until(&mut socket, "response.done").await);
    }
    let stopped = events
        .iter()
        .filter(|event| event["type"] == "input_audio_buffer.speech_stopped");
    assert_eq!(stopped.count(), 3, "turns of the shipped caller");
    send(
        &mut socket,
        json!({"type": "response.cancel", "event_id": "c1"}),
    )
    .await;
    send(&mut socket, json!({"type": "response.create"})).await;
    let events = until(&mut socket, "response.output_audio.done").await;
    let item = &events[events.len() - 1]["item_id"];
    for end in [0, 600_000] {
        send(
            &mut socket,
            json!({"type": "conversation.item.truncate", "item_id": item,
            "content_index": 0, "audio_end_ms": end}),
        )
        .await;
    }
    send(
        &mut socket,
        json!({"type": "conversation.item.create", "item": {"type": "message",
        "role": "user", "content": [{"type": "input_text", "text": "Hello"}]}}),
    )
    .await;
    send(
        &mut socket,
        json!({"type": "conversation.item.create", "item": {"type": "function_call_output",
        "call_id": "call_1", "output": "{}"}}),
    )
    .await;
    send(
        &mut socket,
        json!({"type": "response.create", "response": {"output_modalities": ["text"],
        "conversation": "none", "metadata": {"purpose": "summary"}}}),
    )
    .await;
    until(&mut socket, "response.output_text.done").await;
    until(&mut socket, "rate_limits.updated").await;
    within(socket.close(None)).await.expect("closed");
    while let Some(Ok(_)) = within(socket.next()).await {}
    let seen = within(async {
        loop {
            if let Some(seen) = model.sessions().take().pop() {
                return seen;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    let appended: Vec<&str> = seen.appended.iter().map(|p| &*p.payload).collect();
    assert_eq!(appended, sent);
    assert!(seen.ready_at.is_some() && !seen.sent.is_empty());
    // The cancel of nothing, and the truncation beyond the end.
    assert_eq!(seen.counts.errors, 2);
}

#[tokio::test]
async fn a_session_in_clear() {
    whole_session(Tls::Off).await;
}

#[tokio::test]
async fn a_session_over_tls() {
    whole_session(Tls::SelfSigned).await;
}

#[tokio::test]
async fn upgrades_are_refused_with_their_status() {
    let options = |refuse_upgrade| Options {
        api_key: Some("sk-1".into()),
        refuse_upgrade,
        ..Options::default()
    };
    let status = async |refuse, path: &str, key: Option<&str>| {
        let model = model(Tls::Off, options(refuse), None);
        match within(connect(&model, path, key)).await {
            Err(Error::Http(response)) => response.status().as_u16(),
            Ok(_) => 101,
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(status(None, GOOD_PATH, Some("sk-1")).await, 101);
    assert_eq!(status(None, GOOD_PATH, Some("sk-2")).await, 401);
    assert_eq!(status(None, GOOD_PATH, None).await, 401);
    assert_eq!(status(None, "/v1/realtime", Some("sk-1")).await, 400);
    assert_eq!(status(None, "/elsewhere?model=m", Some("sk-1")).await, 404);
    assert_eq!(status(Some(429), GOOD_PATH, Some("sk-1")).await, 429);
    assert_eq!(status(Some(500), GOOD_PATH, Some("sk-1")).await, 500);
}

#[tokio::test]
async fn a_reset_and_a_close_code_reach_the_client() {
    let faulty = |fault: &str| {
        let faults = vec![fault.parse::<Fault>().expect("a fault")];
        let options = Options {
            mode: Mode::Echo,
            faults,
            ..Options::default()
        };
        model(Tls::Off, options, None)
    };
    let closing = faulty("close:4000@1");
    let mut socket = within(connect(&closing, GOOD_PATH, None))
        .await
        .expect("101");
    until(&mut socket, "session.created").await;
    match within(socket.next()).await {
        Some(Ok(Message::Close(Some(frame)))) => assert_eq!(u16::from(frame.code), 4000),
        other => panic!("a close was due, got {other:?}"),
    }
    let resetting = faulty("reset@0");
    let mut socket = within(connect(&resetting, GOOD_PATH, None))
        .await
        .expect("101");
    assert!(matches!(within(socket.next()).await, Some(Err(_)) | None));
}

/// A server of somebody else's that answers each frame with one of its own, then a mark.
async fn echo_server(
    listener: TcpListener,
    tls: Option<tokio_rustls::TlsAcceptor>,
) -> (Vec<Value>, Vec<String>) {
    let (tcp, _) = listener.accept().await.expect("a caller");
    let stream: Box<dyn Bytes> = match tls {
        Some(tls) => Box::new(tls.accept(tcp).await.expect("TLS")),
        None => Box::new(tcp),
    };
    let mut headers = Vec::new();
    #[allow(clippy::result_large_err)] // the callback's type is the library's
    let look = |request: &Request, response: Response| {
        headers.extend(
            request
                .headers()
                .iter()
                .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap_or_default())),
        );
        Ok(response)
    };
    let mut socket = accept_hdr_async(stream, look).await.expect("an upgrade");
    let mut messages = Vec::new();
    while let Some(Ok(message)) = socket.next().await {
        let Message::Text(text) = message else {
            continue;
        };
        let message: Value = serde_json::from_str(&text).expect("the carrier sends JSON");
        if message["event"] == "media" {
            let sid = &message["streamSid"];
            let payload = &message["media"]["payload"];
            let media = json!({"event": "media", "streamSid": sid, "media": {"payload": payload}});
            let mark = json!({"event": "mark", "streamSid": sid, "mark": {"name": message["media"]["chunk"]}});
            let sent = async {
                socket.send(Message::text(media.to_string())).await?;
                socket.send(Message::text(mark.to_string())).await
            };
            sent.await.expect("sent");
        }
        messages.push(message);
    }
    (messages, headers)
}

async fn whole_call(is_tls: bool) {
    let listener = TcpListener::bind(LOCALHOST).await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let made = tempfile::tempdir().expect("a directory");
    let ca_file = made.path().join("ca.pem");
    let acceptor = is_tls.then(|| {
        let (config, pem) = roots::self_signed(&["localhost"]).expect("a certificate");
        std::fs::write(&ca_file, pem).expect("written");
        tokio_rustls::TlsAcceptor::from(config)
    });
    let scheme = if is_tls { "wss" } else { "ws" };
    let url = format!("{scheme}://localhost:{port}/media-stream/x");
    let setup = client::Setup {
        target: Target::parse(&url).expect("a URL"),
        signed_url: url,
        ca_file: is_tls.then_some(ca_file),
        auth_token: Some("12345".into()),
        recorder: None,
        progress: Arc::default(),
    };
    let options = CarrierOptions {
        audio: Arc::from([0x2A; 8_000]),
        duration: Some(Duration::from_millis(600)),
        keeps_audio: true,
        ..CarrierOptions::default()
    };
    let call = client::call(&setup, options, SystemClock::new(), 1);
    let (outcome, (messages, headers)) =
        within(async { tokio::join!(call, echo_server(listener, acceptor)) }).await;
    let report = outcome.expect("a call").report;
    assert_eq!(messages[0]["event"], "connected");
    assert_eq!(messages[1]["event"], "start");
    assert_eq!(messages[messages.len() - 1]["event"], "stop");
    let media = messages.iter().filter(|m| m["event"] == "media").count();
    assert_eq!(media as u64, report.media_sent);
    assert!(report.media_received > 0 && report.marks_returned > 0);
    assert_eq!((report.warning_count, report.closed_by_server), (0, None));
    let first: Vec<&str> = report.received.iter().map(|p| &*p.payload).collect();
    let sent: Vec<&str> = report.sent.iter().map(|p| &*p.payload).collect();
    assert_eq!(first, sent[..first.len()]);
    let signed = headers
        .iter()
        .any(|h| h.starts_with("x-twilio-signature: "));
    assert!(signed, "{headers:?}");
}

#[tokio::test]
async fn a_call_in_clear() {
    whole_call(false).await;
}

#[tokio::test]
async fn a_call_over_tls() {
    whole_call(true).await;
}

#[tokio::test]
async fn an_answer_that_is_not_101_is_31920() {
    let model = model(Tls::Off, Options::default(), None);
    let url = format!("ws://{}/elsewhere", model.address());
    let setup = client::Setup {
        target: Target::parse(&url).expect("a URL"),
        signed_url: url,
        ca_file: None,
        auth_token: None,
        recorder: None,
        progress: Arc::default(),
    };
    let call = client::call(&setup, CarrierOptions::default(), SystemClock::new(), 1);
    let error = within(call).await.expect_err("no such path");
    assert_eq!(error, CallError::Refused(404));
    assert!(error.to_string().starts_with("31920"));
}
