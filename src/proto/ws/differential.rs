//! The reader held against tungstenite's own over the same bytes, for tests and fuzzing.
//!
//! They must hand out the same messages and agree on whether the peer broke the protocol. Where we differ on
//! purpose:
//!
//! - A length that is not in its shortest form is a violation here; tungstenite takes it.
//! - We fail as soon as the bytes are there (header, bad UTF-8 in a partial frame); tungstenite waits for the frame.
//! - Code 1014 is registered and taken here; tungstenite calls it bad. A code that may not be sent is a
//!   violation here; tungstenite hands it out as a close frame.

use std::io::{self, Read, Write};

use tungstenite::protocol::{self, WebSocket, WebSocketConfig};

use super::Role;
use super::reader::{Message, Reader, Violation};

/// A message, copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Text.
    Text(Vec<u8>),
    /// Binary.
    Binary(Vec<u8>),
    /// Ping.
    Ping(Vec<u8>),
    /// Pong.
    Pong(Vec<u8>),
    /// Close, with its code.
    Close(u16),
}

/// How a run over some bytes ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End<V> {
    /// Nothing more is whole.
    Waiting,
    /// The peer closed.
    Closed,
    /// The peer broke the protocol.
    Failed(V),
}

/// Runs our reader over `bytes` cut into pieces of the lengths in `pieces`, in turn (the rest at once).
pub fn ours(
    role: Role,
    limit: usize,
    bytes: &[u8],
    pieces: impl IntoIterator<Item = usize>,
) -> (Vec<Seen>, End<Violation>) {
    let mut reader = Reader::new(role, limit);
    let mut seen = Vec::new();
    let mut kept = Vec::new();
    let mut bytes = bytes;
    let mut pieces = pieces.into_iter();
    while !bytes.is_empty() {
        let take = pieces.next().unwrap_or(bytes.len()).clamp(1, bytes.len());
        let (piece, rest) = bytes.split_at(take);
        bytes = rest;
        kept.extend_from_slice(piece);
        let mut used = 0;
        loop {
            let (n, message) = match reader.read(&mut kept[used..]) {
                Ok(read) => read,
                Err(violation) => return (seen, End::Failed(violation)),
            };
            used += n;
            match message {
                None => break,
                Some(Message::Text(text)) => {
                    assert!(std::str::from_utf8(text).is_ok(), "text that is not UTF-8");
                    assert!(text.len() <= limit, "a message over the limit");
                    seen.push(Seen::Text(text.to_vec()));
                }
                Some(Message::Binary(bytes)) => {
                    assert!(bytes.len() <= limit, "a message over the limit");
                    seen.push(Seen::Binary(bytes.to_vec()));
                }
                Some(Message::Ping(bytes)) => seen.push(Seen::Ping(bytes.to_vec())),
                Some(Message::Pong(bytes)) => seen.push(Seen::Pong(bytes.to_vec())),
                Some(Message::Close(code, _)) => {
                    seen.push(Seen::Close(code));
                    return (seen, End::Closed);
                }
            }
        }
        assert!(
            reader.held_bytes() <= limit.max(64),
            "holds more than the limit"
        );
        // Panics if more was used up than there was.
        kept.drain(..used);
    }
    (seen, End::Waiting)
}

/// The bytes as a socket that has nothing more for now, and takes whatever is written.
struct Tape<'a>(&'a [u8]);

impl Read for Tape<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer)? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            n => Ok(n),
        }
    }
}

impl Write for Tape<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Runs tungstenite over `bytes`.
pub fn theirs(role: Role, limit: usize, bytes: &[u8]) -> (Vec<Seen>, End<()>) {
    let role = match role {
        Role::Client => protocol::Role::Client,
        Role::Server => protocol::Role::Server,
    };
    let config = WebSocketConfig::default()
        .read_buffer_size(4096)
        .max_message_size(Some(limit))
        .max_frame_size(Some(limit));
    let mut socket = WebSocket::from_raw_socket(Tape(bytes), role, Some(config));
    let mut seen = Vec::new();
    loop {
        match socket.read() {
            Ok(protocol::Message::Text(text)) => {
                seen.push(Seen::Text(text.as_str().as_bytes().to_vec()));
            }
            Ok(protocol::Message::Binary(bytes)) => seen.push(Seen::Binary(bytes.to_vec())),
            Ok(protocol::Message::Ping(bytes)) => seen.push(Seen::Ping(bytes.to_vec())),
            Ok(protocol::Message::Pong(bytes)) => seen.push(Seen::Pong(bytes.to_vec())),
            Ok(protocol::Message::Close(frame)) => {
                seen.push(Seen::Close(frame.map_or(1005, |frame| frame.code.into())));
                return (seen, End::Closed);
            }
            Ok(protocol::Message::Frame(_)) => unreachable!("never read as a raw frame"),
            Err(tungstenite::Error::Io(e)) if e.kind() == io::ErrorKind::WouldBlock => {
                return (seen, End::Waiting);
            }
            Err(_) => return (seen, End::Failed(())),
        }
    }
}

/// Asserts that both read `bytes` alike, ours both whole and in pieces. `limit` is at least 125, since
/// tungstenite holds control frames to it too.
pub fn assert_agreement(
    role: Role,
    limit: usize,
    bytes: &[u8],
    pieces: impl IntoIterator<Item = usize>,
) {
    let (seen, end) = ours(role, limit, bytes, [bytes.len()]);
    let in_pieces = ours(role, limit, bytes, pieces);
    assert_eq!(
        (&seen, end),
        (&in_pieces.0, in_pieces.1),
        "the pieces matter"
    );
    let (theirs, their_end) = theirs(role, limit, bytes);
    match end {
        // Ours stopped first, knowingly.
        End::Failed(Violation::Length) => {
            assert!(theirs.starts_with(&seen), "{seen:?} {theirs:?}");
        }
        End::Failed(Violation::Close) => {
            assert!(theirs.starts_with(&seen), "{seen:?} {theirs:?}");
            assert_ne!(their_end, End::Waiting, "{seen:?}");
        }
        End::Failed(_) => {
            assert_eq!(seen, theirs, "{end:?}");
            // Waiting: for the rest of a frame that we need not see.
            assert_ne!(their_end, End::Closed, "{end:?}");
        }
        End::Waiting => {
            assert_eq!(seen, theirs);
            assert_eq!(their_end, End::Waiting);
        }
        End::Closed => {
            assert_eq!(their_end, End::Closed);
            let last = seen.len() - 1;
            assert_eq!(seen[..last], theirs[..last]);
            assert!(
                seen[last] == theirs[last] || seen[last] == Seen::Close(1014),
                "{seen:?} {theirs:?}"
            );
        }
    }
}

/// `assert_agreement` for a fuzzer: the first byte chooses role, limit and how many of the next bytes are lengths
/// of pieces; the rest is the stream.
pub fn assert_agreement_of(bytes: &[u8]) {
    let Some((first, rest)) = bytes.split_first() else {
        return;
    };
    let role = if first & 1 == 0 {
        Role::Server
    } else {
        Role::Client
    };
    let limit = if first & 2 == 0 { 1 << 16 } else { 130 };
    let (pieces, stream) = rest.split_at(usize::from(first >> 4).min(rest.len()));
    let pieces = pieces.iter().map(|len| usize::from(*len));
    assert_agreement(role, limit, stream, pieces);
}
