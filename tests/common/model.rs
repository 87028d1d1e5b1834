//! A model endpoint on tokio-tungstenite. Each test drives its connections by hand; nothing is answered
//! that the test does not answer.

pub use super::socket::Got;
use super::socket::Socket;
use super::tls::Identity;
use super::{BoxIo, within};
use serde_json::{Value, json};
use std::io::Write as _;
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};

/// What the endpoint does with an upgrade request.
#[derive(Clone, Copy)]
enum Answer {
    Upgrade,
    Status(u16),
    Silence,
}

/// A listening endpoint.
pub struct Model {
    /// For `realtime.url`, without the `model` parameter.
    pub url: String,
    connections: mpsc::UnboundedReceiver<Connection>,
    requests: mpsc::UnboundedReceiver<()>,
}

impl Model {
    /// Speaks `ws://`.
    pub async fn plain() -> Self {
        Self::listen(None, Answer::Upgrade).await
    }

    /// Speaks `wss://` with this identity.
    pub async fn tls(identity: &Identity) -> Self {
        Self::listen(Some(identity.acceptor()), Answer::Upgrade).await
    }

    /// Answers every upgrade with this status.
    pub async fn refusing(status: u16) -> Self {
        Self::listen(None, Answer::Status(status)).await
    }

    /// Accepts connections and never answers.
    pub async fn silent() -> Self {
        Self::listen(None, Answer::Silence).await
    }

    /// Speaks `ws://` over connections that hold little: one that is not read from is full soon.
    pub async fn narrow() -> Self {
        let socket = TcpSocket::new_v4().expect("socket");
        socket.set_recv_buffer_size(4096).expect("buffer");
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        socket.bind(any).expect("bind");
        let listener = socket.listen(64).expect("listen");
        Self::listen_on(listener, None, Answer::Upgrade)
    }

    async fn listen(tls: Option<TlsAcceptor>, answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        Self::listen_on(listener, tls, answer)
    }

    fn listen_on(listener: TcpListener, tls: Option<TlsAcceptor>, answer: Answer) -> Self {
        let port = listener.local_addr().expect("address").port();
        let scheme = if tls.is_some() { "wss" } else { "ws" };
        let (connected, connections) = mpsc::unbounded_channel();
        let (requested, requests) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let _ = tcp.set_nodelay(true);
                let (tls, connected, requested) =
                    (tls.clone(), connected.clone(), requested.clone());
                tokio::spawn(async move {
                    let stream: BoxIo = match tls {
                        None => Box::new(tcp),
                        Some(acceptor) => match acceptor.accept(tcp).await {
                            Ok(stream) => Box::new(stream),
                            // A client that does not trust us: the test sees that no connection comes.
                            Err(_) => return,
                        },
                    };
                    let _ = requested.send(());
                    match answer {
                        Answer::Upgrade => {
                            if let Some(connection) = Connection::accept(stream).await {
                                let _ = connected.send(connection);
                            }
                        }
                        Answer::Status(status) => refuse(stream, status).await,
                        Answer::Silence => read_to_end(stream).await,
                    }
                });
            }
        });
        Self {
            url: format!("{scheme}://127.0.0.1:{port}/v1/realtime"),
            connections,
            requests,
        }
    }

    /// The next upgraded connection.
    pub async fn accept(&mut self) -> Connection {
        within("a connection to the model", self.connections.recv())
            .await
            .expect("the endpoint lives")
    }

    /// Waits until somebody has connected, upgraded or not.
    pub async fn contacted(&mut self) {
        within("a contact with the model", self.requests.recv())
            .await
            .expect("the endpoint lives");
    }

    /// Whether a connection is waiting to be accepted.
    pub fn has_connection(&mut self) -> bool {
        !self.connections.is_empty()
    }
}

async fn refuse(mut stream: BoxIo, status: u16) {
    let mut head = Vec::new();
    let mut chunk = [0; 1024];
    while !head.windows(4).any(|w| w == b"\r\n\r\n") {
        match stream.read(&mut chunk).await {
            Ok(n) if n > 0 => head.extend_from_slice(&chunk[..n]),
            _ => return,
        }
    }
    let body = r#"{"error":{"message":"refused by the test","type":"invalid_request_error"}}"#;
    let answer = format!(
        "HTTP/1.1 {status} Refused\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    );
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
    read_to_end(stream).await;
}

async fn read_to_end(mut stream: BoxIo) {
    let mut chunk = [0; 1024];
    while matches!(stream.read(&mut chunk).await, Ok(n) if n > 0) {}
}

/// One connection from the relay.
pub struct Connection {
    socket: Socket,
    /// The request target.
    pub target: String,
    /// The request's header lines, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Items made so far, for unique ids.
    items: usize,
    recording: Option<std::fs::File>,
}

/// With `REALTIME_RECORD_DIR` set, every event from the relay is kept there as JSON lines, a file a connection, for
/// a judge that somebody else wrote. What this endpoint sends is broken on purpose and not kept.
fn recording() -> Option<std::fs::File> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let folder = std::env::var_os("REALTIME_RECORD_DIR")?;
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("{}-{n}.jsonl", std::process::id());
    let path = std::path::Path::new(&folder).join(name);
    Some(std::fs::File::create(path).expect("REALTIME_RECORD_DIR is a folder"))
}

impl Deref for Connection {
    type Target = Socket;

    fn deref(&self) -> &Socket {
        &self.socket
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut Socket {
        &mut self.socket
    }
}

impl Connection {
    #[allow(clippy::result_large_err)] // tungstenite's own callback type
    async fn accept(stream: BoxIo) -> Option<Self> {
        let mut target = String::new();
        let mut headers = Vec::new();
        let look = |request: &Request, response: Response| {
            target = request.uri().to_string();
            headers = request
                .headers()
                .iter()
                .map(|(name, value)| {
                    let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
                    (name.as_str().to_owned(), value)
                })
                .collect();
            Ok(response)
        };
        let ws = tokio_tungstenite::accept_hdr_async(stream, look)
            .await
            .ok()?;
        Some(Self {
            socket: Socket::new(ws),
            target,
            headers,
            items: 0,
            recording: recording(),
        })
    }

    /// The first value of a request header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// Breaks the connection without a close frame.
    pub fn drop_connection(self) {}

    /// `session.created`, as the vendor sends it: its own defaults, 24 kHz PCM.
    pub async fn send_session_created(&mut self) {
        self.send(session(
            "session.created",
            json!({"type": "audio/pcm", "rate": 24000}),
        ))
        .await;
    }

    /// The normal set-up: created, update awaited and returned, updated with both formats confirmed.
    pub async fn set_up(&mut self) -> Value {
        self.send_session_created().await;
        let update = self.event().await;
        assert_eq!(update["type"], "session.update", "{update}");
        self.confirm().await;
        update
    }

    /// `session.updated` with PCMU both ways.
    pub async fn confirm(&mut self) {
        self.send(session("session.updated", json!({"type": "audio/pcmu"})))
            .await;
    }

    /// `session.updated` with another format: the relay must not bridge it.
    pub async fn confirm_pcm(&mut self) {
        let pcm = json!({"type": "audio/pcm", "rate": 24000});
        self.send(session("session.updated", pcm)).await;
    }

    /// A new item's id.
    pub fn item(&mut self) -> String {
        self.items += 1;
        format!("item_{}", self.items)
    }

    /// One audio delta.
    pub async fn delta(&mut self, item: &str, audio: &str) {
        self.send(json!({
            "type": "response.output_audio.delta", "event_id": "event_d", "response_id": "resp_1",
            "item_id": item, "output_index": 0, "content_index": 0, "delta": audio
        }))
        .await;
    }

    /// The end of an item's audio.
    pub async fn audio_done(&mut self, item: &str) {
        self.send(json!({
            "type": "response.output_audio.done", "event_id": "event_e", "response_id": "resp_1",
            "item_id": item, "output_index": 0, "content_index": 0
        }))
        .await;
    }

    /// The next thing from the relay, pings and pongs aside.
    pub async fn next(&mut self) -> Got {
        let got = self.socket.receive().await;
        if let (Got::Message(_), Some(file)) = (&got, &mut self.recording) {
            let event = &self.socket.text;
            writeln!(file, r#"{{"conn":1,"dir":"in","event":{event}}}"#).expect("write");
        }
        got
    }

    /// The next event; anything else fails the test.
    pub async fn event(&mut self) -> Value {
        match self.next().await {
            Got::Message(event) => event,
            other => panic!("expected an event from the relay, got {other:?}"),
        }
    }

    /// The next event must be an append: its audio, as text.
    pub async fn append(&mut self) -> String {
        let event = self.event().await;
        assert_eq!(event["type"], "input_audio_buffer.append", "{event}");
        event["audio"].as_str().expect("audio is text").to_owned()
    }

    /// The audio of the next appends, decoded, until `len` bytes are there.
    pub async fn appended(&mut self, len: usize) -> Vec<u8> {
        let mut audio = Vec::new();
        while audio.len() < len {
            audio.extend(super::unbase64(&self.append().await));
        }
        audio
    }

    /// Waits for the relay's close frame past any events; its code, 1005 when it had none. `None` when the
    /// connection broke without one.
    pub async fn closed(&mut self) -> Option<u16> {
        loop {
            if let Some(end) = self.next().await.end() {
                return end;
            }
        }
    }

    /// Waits until the relay has read everything sent so far, and fails if it sent an event first: it
    /// answers pings in order, behind what already waits.
    pub async fn settle(&mut self) {
        let before = self.socket.settled().await;
        assert!(before.is_empty(), "events before a pong: {before:?}");
    }
}

fn session(kind: &str, format: Value) -> Value {
    json!({
        "type": kind, "event_id": "event_s",
        "session": {
            "type": "realtime", "object": "realtime.session", "id": "sess_test", "model": "gpt-realtime",
            "output_modalities": ["audio"], "expires_at": 4_102_444_800_u64, "instructions": "",
            "audio": {
                "input": {"format": format, "turn_detection": {"type": "server_vad"}},
                "output": {"format": format, "voice": "marin", "speed": 1.0}
            }
        }
    })
}
