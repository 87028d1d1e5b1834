//! What the carrier's and the model's ends have in common: one WebSocket of the relay's, on tokio-tungstenite.

use super::{BoxIo, within};
use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::{Error, Message};

/// One connection with the relay.
pub struct Socket {
    ws: WebSocketStream<BoxIo>,
    /// The last message, as it came.
    pub text: String,
}

/// What came from the relay.
#[derive(Debug)]
pub enum Got {
    Message(Value),
    Close(Option<(u16, String)>),
    Gone,
}

impl Got {
    /// The code of a close frame, 1005 when it had none; `Some(None)` when the connection broke without one, and
    /// `None` when it goes on.
    pub fn end(self) -> Option<Option<u16>> {
        match self {
            Self::Message(_) => None,
            Self::Close(frame) => Some(Some(frame.map_or(1005, |(code, _)| code))),
            Self::Gone => Some(None),
        }
    }
}

impl Socket {
    pub fn new(ws: WebSocketStream<BoxIo>) -> Self {
        Self {
            ws,
            text: String::new(),
        }
    }

    /// Sends a message.
    pub async fn send(&mut self, message: Value) {
        self.send_text(&message.to_string()).await;
    }

    /// Sends text as it is.
    pub async fn send_text(&mut self, text: &str) {
        self.send_message(Message::text(text)).await;
    }

    /// Sends a binary message.
    pub async fn send_binary(&mut self, bytes: &[u8]) {
        self.send_message(Message::binary(bytes.to_vec())).await;
    }

    async fn send_message(&mut self, message: Message) {
        within("the relay to read", self.ws.send(message))
            .await
            .expect("send to the relay");
    }

    /// Sends bytes below the WebSocket layer. The relay may already have closed: what it says counts.
    pub async fn send_raw(&mut self, bytes: &[u8]) {
        let stream = self.ws.get_mut();
        let _ = stream.write_all(bytes).await;
        let _ = stream.flush().await;
    }

    /// Ends the stream without a close frame.
    pub async fn shut(&mut self) {
        // A relay that closes at once may be faster than our end.
        let _ = self.ws.get_mut().shutdown().await;
    }

    /// Closes in order.
    pub async fn close(&mut self) {
        let _ = self.ws.close(None).await;
    }

    /// The next thing from the relay, pings and pongs aside.
    pub async fn receive(&mut self) -> Got {
        within("the relay's next message", async {
            loop {
                match self.ws.next().await {
                    Some(Ok(Message::Text(text))) => {
                        self.text = text.as_str().to_owned();
                        return Got::Message(serde_json::from_str(&text).expect("valid JSON"));
                    }
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                    Some(Ok(Message::Close(frame))) => {
                        return Got::Close(
                            frame.map(|frame| (u16::from(frame.code), frame.reason.to_string())),
                        );
                    }
                    Some(Ok(other)) => panic!("the relay sent {other:?}"),
                    Some(Err(
                        Error::ConnectionClosed
                        | Error::Io(_)
                        | Error::AlreadyClosed
                        | Error::Protocol(ProtocolError::ResetWithoutClosingHandshake),
                    ))
                    | None => return Got::Gone,
                    Some(Err(error)) => panic!("the relay broke the protocol: {error}"),
                }
            }
        })
        .await
    }

    /// Waits until the relay has read everything sent so far: it answers pings in order. What it sent before that.
    pub async fn settled(&mut self) -> Vec<Value> {
        self.send_message(Message::Ping(b"settle".to_vec().into()))
            .await;
        within("a pong", async {
            let mut before = Vec::new();
            loop {
                match self.ws.next().await {
                    Some(Ok(Message::Pong(payload))) if payload.as_ref() == b"settle" => {
                        return before;
                    }
                    Some(Ok(Message::Text(text))) => {
                        before.push(serde_json::from_str(&text).expect("valid JSON"));
                    }
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                    other => panic!("expected a pong, got {other:?}"),
                }
            }
        })
        .await
    }
}
