//! A carrier's media stream on tokio-tungstenite, after "Media Streams - WebSocket Messages".

use super::daemon::Daemon;
pub use super::socket::Got;
use super::socket::Socket;
use super::{BoxIo, base64, within};
use serde_json::{Value, json};
use std::ops::{Deref, DerefMut};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue};

/// Milliseconds in one frame, and its bytes.
pub const FRAME_MS: u64 = 20;
pub const FRAME_BYTES: usize = 160;

/// One media stream. It sends by its `Socket`.
pub struct Carrier {
    socket: Socket,
    pub stream_sid: String,
    pub call_sid: String,
    sequence: u64,
    chunk: u64,
    /// The next frame's timestamp, ms.
    pub timestamp: u64,
    /// Names of the marks seen, in order.
    pub marks: Vec<String>,
}

/// Why an upgrade failed: the status of the answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused(pub u16);

impl Deref for Carrier {
    type Target = Socket;

    fn deref(&self) -> &Socket {
        &self.socket
    }
}

impl DerefMut for Carrier {
    fn deref_mut(&mut self) -> &mut Socket {
        &mut self.socket
    }
}

impl Carrier {
    /// Upgrades on `path`.
    pub async fn dial(daemon: &Daemon, path: &str) -> Self {
        Self::dial_over(daemon.connect().await, path, &[])
            .await
            .unwrap_or_else(|refused| panic!("{path}: {refused:?}"))
    }

    /// Upgrades on `path` over a connection, with more header lines.
    pub async fn dial_over(
        stream: BoxIo,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Self, Refused> {
        let mut request = format!("ws://localhost{path}")
            .into_client_request()
            .expect("request");
        for (name, value) in headers {
            request.headers_mut().insert(
                HeaderName::try_from(*name).expect("name"),
                HeaderValue::try_from(*value).expect("value"),
            );
        }
        let upgrade = tokio_tungstenite::client_async(request, stream);
        match within("the upgrade", upgrade).await {
            Ok((ws, response)) => {
                assert_eq!(response.status(), 101);
                for refused in ["sec-websocket-extensions", "sec-websocket-protocol"] {
                    assert!(response.headers().get(refused).is_none(), "{response:?}");
                }
                Ok(Self::on(ws))
            }
            Err(Error::Http(response)) => Err(Refused(response.status().as_u16())),
            Err(error) => panic!("{path}: {error}"),
        }
    }

    /// Takes over a connection that a test has upgraded itself.
    pub async fn after_upgrade(stream: BoxIo, read_ahead: Vec<u8>) -> Self {
        let role = tokio_tungstenite::tungstenite::protocol::Role::Client;
        Self::on(WebSocketStream::from_partially_read(stream, read_ahead, role, None).await)
    }

    fn on(ws: WebSocketStream<BoxIo>) -> Self {
        // Unique within a test run, in the vendor's shape.
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
        let n = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Self {
            socket: Socket::new(ws),
            stream_sid: format!("MZ{n:032x}"),
            call_sid: format!("CA{n:032x}"),
            sequence: 1,
            chunk: 1,
            timestamp: 0,
            marks: Vec::new(),
        }
    }

    /// The number of the next message.
    pub fn next_sequence(&mut self) -> String {
        let n = self.sequence;
        self.sequence += 1;
        n.to_string()
    }

    /// `connected` and `start`.
    pub async fn start(&mut self) {
        self.start_with(json!({})).await;
    }

    /// The same with `customParameters`.
    pub async fn start_with(&mut self, parameters: Value) {
        self.send(json!({"event": "connected", "protocol": "Call", "version": "1.0.0"}))
            .await;
        let start = self.start_message(parameters);
        self.send(start).await;
    }

    /// A `start` message of this stream.
    pub fn start_message(&mut self, parameters: Value) -> Value {
        json!({
            "event": "start", "sequenceNumber": self.next_sequence(), "streamSid": self.stream_sid,
            "start": {
                "accountSid": "AC00000000000000000000000000000001",
                "streamSid": self.stream_sid, "callSid": self.call_sid, "tracks": ["inbound"],
                "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
                "customParameters": parameters
            }
        })
    }

    /// One `media` message as text, numbered; the payload is put in as it is.
    pub fn media_text(&mut self, payload: &str) -> String {
        let text = format!(
            r#"{{"event":"media","sequenceNumber":"{}","media":{{"track":"inbound","chunk":"{}","timestamp":"{}","payload":"{payload}"}},"streamSid":"{}"}}"#,
            self.sequence, self.chunk, self.timestamp, self.stream_sid
        );
        self.sequence += 1;
        self.chunk += 1;
        self.timestamp += FRAME_MS;
        text
    }

    /// Sends one frame of audio; returns its payload.
    pub async fn media(&mut self, audio: &[u8]) -> String {
        let payload = base64(audio);
        let text = self.media_text(&payload);
        self.send_text(&text).await;
        payload
    }

    /// Sends `stop`.
    pub async fn stop(&mut self) {
        let message = json!({
            "event": "stop", "sequenceNumber": self.next_sequence(), "streamSid": self.stream_sid,
            "stop": {"accountSid": "AC00000000000000000000000000000001", "callSid": self.call_sid}
        });
        self.send(message).await;
    }

    /// Returns a mark, as the vendor does when the audio before it was played.
    pub async fn return_mark(&mut self, name: &str) {
        let message = json!({
            "event": "mark", "sequenceNumber": self.next_sequence(), "streamSid": self.stream_sid,
            "mark": {"name": name}
        });
        self.send(message).await;
    }

    /// The next thing from the relay, pings and pongs aside.
    pub async fn next(&mut self) -> Got {
        let got = self.socket.receive().await;
        if let Got::Message(message) = &got {
            self.judge(message);
        }
        got
    }

    /// The vendor drops a message with a field too few or too many (warning 31951): so does this peer, loudly.
    fn judge(&mut self, message: &Value) {
        let object = message.as_object().expect("an object");
        let keys = |value: &Value| -> Vec<String> {
            let mut keys: Vec<String> = value
                .as_object()
                .expect("an object")
                .keys()
                .cloned()
                .collect();
            keys.sort();
            keys
        };
        assert_eq!(object["streamSid"], self.stream_sid.as_str(), "{message}");
        match object["event"].as_str().expect("event is text") {
            "media" => {
                assert_eq!(keys(message), ["event", "media", "streamSid"], "{message}");
                assert_eq!(keys(&object["media"]), ["payload"], "{message}");
            }
            "mark" => {
                assert_eq!(keys(message), ["event", "mark", "streamSid"], "{message}");
                assert_eq!(keys(&object["mark"]), ["name"], "{message}");
                let name = object["mark"]["name"]
                    .as_str()
                    .expect("name is text")
                    .to_owned();
                assert!(name.len() < 64 && name.is_ascii(), "{name}");
                assert!(!self.marks.contains(&name), "the mark {name} came twice");
                self.marks.push(name);
            }
            "clear" => assert_eq!(keys(message), ["event", "streamSid"], "{message}"),
            other => panic!("the relay sent the event {other}"),
        }
    }

    /// The payload of the next `media`; marks before it are kept in `marks`.
    pub async fn media_payload(&mut self) -> String {
        loop {
            match self.next().await {
                Got::Message(message) if message["event"] == "media" => {
                    return message["media"]["payload"]
                        .as_str()
                        .expect("text")
                        .to_owned();
                }
                Got::Message(message) if message["event"] == "mark" => {}
                other => panic!("expected media from the relay, got {other:?}"),
            }
        }
    }

    /// Waits for the relay's close frame past any messages; its code, 1005 when it had none. `None` when the
    /// connection broke without one.
    pub async fn closed(&mut self) -> Option<u16> {
        loop {
            if let Some(end) = self.next().await.end() {
                return end;
            }
        }
    }

    /// Waits until the relay has read everything sent so far.
    pub async fn settle(&mut self) {
        for message in self.socket.settled().await {
            self.judge(&message);
        }
    }

    /// Breaks the connection without a close frame.
    pub fn drop_connection(self) {}
}

/// A client frame as raw bytes: the first byte as given, masked unless `mask` is `None`.
pub fn frame(first: u8, mask: Option<[u8; 4]>, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    let masked = if mask.is_some() { 0x80 } else { 0 };
    match payload.len() {
        len @ 0..=125 => bytes.push(masked | len as u8),
        len @ 126..=65_535 => {
            bytes.push(masked | 126);
            bytes.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            bytes.push(masked | 127);
            bytes.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    match mask {
        Some(key) => {
            bytes.extend_from_slice(&key);
            bytes.extend(payload.iter().enumerate().map(|(i, b)| b ^ key[i % 4]));
        }
        None => bytes.extend_from_slice(payload),
    }
    bytes
}
