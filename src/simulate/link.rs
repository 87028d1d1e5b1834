//! WebSocket messages over any byte stream, for the simulators' drivers. Shell (tokio).

use crate::base::rng::Rng;
use crate::proto::ws::Role;
use crate::proto::ws::close;
use crate::proto::ws::reader::{Message, Reader, Violation};
use crate::proto::ws::writer::{Kind, write_frame};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// A peer that takes nothing for this long is gone.
const WRITE_DEADLINE: Duration = Duration::from_secs(30);
/// What one read may bring.
const READ_BYTES: usize = 16 * 1024;

/// What arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// A text message.
    Text(Vec<u8>),
    /// A binary message.
    Binary,
    /// A ping; answer with `pong`.
    Ping(Vec<u8>),
    /// A pong.
    Pong,
    /// A close frame with its code.
    Close(u16),
    /// The end of the stream without a close frame, or an error.
    Gone,
    /// The peer broke the protocol.
    Violation(Violation),
}

/// One upgraded connection.
#[derive(Debug)]
pub struct Link<S> {
    stream: S,
    role: Role,
    reader: Reader,
    /// Received and not yet read; before `start` it is used up.
    input: Vec<u8>,
    start: usize,
    /// Frames that wait for `flush`.
    out: Vec<u8>,
    rng: Rng,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Link<S> {
    /// Takes over a stream after the upgrade; `read_ahead` are bytes that came behind the head.
    pub fn new(stream: S, role: Role, read_ahead: Vec<u8>, limit: usize, seed: u64) -> Self {
        Self {
            stream,
            role,
            reader: Reader::new(role, limit),
            input: read_ahead,
            start: 0,
            out: Vec::new(),
            rng: Rng::from_u64(seed),
        }
    }

    /// The next message. May be dropped at any await without losing bytes.
    pub async fn next(&mut self) -> Incoming {
        loop {
            match self.reader.read(&mut self.input[self.start..]) {
                Ok((used, message)) => {
                    let incoming = message.map(owned);
                    self.start += used;
                    if let Some(incoming) = incoming {
                        return incoming;
                    }
                }
                Err(violation) => return Incoming::Violation(violation),
            }
            self.input.drain(..self.start);
            self.start = 0;
            self.input.reserve(READ_BYTES);
            match self.stream.read_buf(&mut self.input).await {
                Ok(0) | Err(_) => return Incoming::Gone,
                Ok(_) => {}
            }
        }
    }

    /// Queues a text message.
    pub fn text(&mut self, text: &str) {
        self.frame(Kind::Text, text.as_bytes());
    }

    /// Queues a pong.
    pub fn pong(&mut self, payload: &[u8]) {
        self.frame(Kind::Pong, payload);
    }

    /// Queues a close frame.
    pub fn close(&mut self, code: u16, reason: &str) {
        let (payload, len) = close::payload(code, reason);
        self.frame(Kind::Close, &payload[..len]);
    }

    /// Queues bytes below the frame layer.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// Sends what is queued.
    pub async fn flush(&mut self) -> io::Result<()> {
        if self.out.is_empty() {
            return Ok(());
        }
        let write = async {
            self.stream.write_all(&self.out).await?;
            self.stream.flush().await
        };
        let outcome = tokio::time::timeout(WRITE_DEADLINE, write).await;
        self.out.clear();
        outcome.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }

    /// After both close frames, or ours alone: ends the stream in order.
    pub async fn shutdown(&mut self) {
        let _ = tokio::time::timeout(Duration::from_secs(2), self.stream.shutdown()).await;
    }

    /// The stream itself.
    pub fn into_inner(self) -> S {
        self.stream
    }

    fn frame(&mut self, kind: Kind, payload: &[u8]) {
        let mask = match self.role {
            Role::Client => Some(self.rng.mask_key()),
            Role::Server => None,
        };
        write_frame(&mut self.out, kind, mask, &[payload]);
    }
}

fn owned(message: Message<'_>) -> Incoming {
    match message {
        Message::Text(text) => Incoming::Text(text.to_vec()),
        Message::Binary(_) => Incoming::Binary,
        Message::Ping(payload) => Incoming::Ping(payload.to_vec()),
        Message::Pong(_) => Incoming::Pong,
        Message::Close(code, _) => Incoming::Close(code),
    }
}

/// Reads from `stream` into `bytes` until `parse` finds a whole head; `None` when the stream ends, the
/// head is bad or takes longer than ten seconds.
pub async fn read_head<S: AsyncRead + Unpin, T>(
    stream: &mut S,
    bytes: &mut Vec<u8>,
    mut parse: impl FnMut(&[u8]) -> Option<Option<T>>,
) -> Option<T> {
    let read = async {
        loop {
            match parse(bytes) {
                Some(Some(head)) => return Some(head),
                Some(None) => {}
                None => return None,
            }
            match stream.read_buf(bytes).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    };
    let deadline = Duration::from_secs(10);
    tokio::time::timeout(deadline, read).await.unwrap_or(None)
}
