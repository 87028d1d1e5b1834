//! One connection of the load tester: TLS or none, an HTTP head, then WebSocket messages. Bytes in, bytes out; no socket.

use super::ring::Key;
use crate::base::limit;
use crate::proto::ws::Role;
use crate::proto::ws::close;
use crate::proto::ws::reader::{Message, Reader, Violation};
use crate::proto::ws::writer::{Kind, write_frame};
use crate::transport::tls::{Tls, TlsError};

/// One send carries at most this much plaintext.
const SEND_BYTES_MAX: usize = 64 * 1024;
/// A TLS record's plaintext (RFC 8446 section 5.1).
const RECORD_BYTES_MAX: usize = 16 * 1024;
/// What may wait for a peer that does not read; then the connection is given up.
pub const BACKLOG_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The longest message that we take.
const MESSAGE_BYTES_MAX: usize = 1024 * 1024;

/// Frames that wait to be sent.
#[derive(Debug)]
pub struct Outbox {
    bytes: Vec<u8>,
    /// A client's source of masking keys; `None` for a server, which must not mask.
    mask: Option<u64>,
}

impl Outbox {
    /// Empty; a client masks what it sends.
    pub fn new(role: Role, seed: u64) -> Self {
        Self {
            bytes: Vec::new(),
            mask: (role == Role::Client).then_some(seed | 1),
        }
    }

    fn key(&mut self) -> Option<[u8; 4]> {
        let state = self.mask.as_mut()?;
        // xorshift64: the peer is a relay under test and not an attacker, and a key costs two nanoseconds.
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        Some((*state as u32).to_le_bytes())
    }

    /// One text message, in parts.
    pub fn text(&mut self, parts: &[&[u8]]) {
        let key = self.key();
        write_frame(&mut self.bytes, Kind::Text, key, parts);
    }

    /// Answers a ping.
    pub fn pong(&mut self, payload: &[u8]) {
        let key = self.key();
        write_frame(&mut self.bytes, Kind::Pong, key, &[payload]);
    }

    /// A close frame; 1005 makes an empty one.
    pub fn close(&mut self, code: u16) {
        let (payload, len) = close::payload(code, "");
        let key = self.key();
        write_frame(&mut self.bytes, Kind::Close, key, &[&payload[..len]]);
    }

    /// Bytes as they are: an HTTP head.
    pub fn raw(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Bytes that wait.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// Where a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// TCP.
    Connecting,
    /// Accepted: the first byte tells TLS from plain.
    Unknown,
    /// TLS handshake.
    Handshake,
    /// HTTP head of the peer.
    Head,
    /// WebSocket messages.
    Open,
    /// We sent a close frame and wait for the peer's, or for its end.
    Closing,
    /// Shut down; completions are still to come.
    Over,
}

/// A connection without its socket.
pub struct Wire {
    /// Its place in the table.
    pub key: Key,
    /// Where it is.
    pub stage: Stage,
    /// What waits to be sent, plaintext.
    pub outbox: Outbox,
    /// A send is under way.
    pub sending: bool,
    /// A receive is armed.
    pub receiving: bool,
    /// In the list of those that have something to send.
    pub is_dirty: bool,
    tls: Option<Box<Tls>>,
    reader: Reader,
    /// The front of an incomplete record.
    ciphertext: Vec<u8>,
    /// Received and not used up.
    plain: Vec<u8>,
    /// TLS' own bytes; they go before anything sealed later.
    flight: Vec<u8>,
    /// The memory of the last send.
    spare: Vec<u8>,
}

impl Wire {
    /// A connection in `role`; `tls` when it speaks TLS for sure.
    pub fn new(key: Key, role: Role, tls: Option<Tls>, seed: u64, stage: Stage) -> Self {
        Self {
            key,
            stage,
            outbox: Outbox::new(role, seed),
            sending: false,
            receiving: false,
            is_dirty: false,
            tls: tls.map(Box::new),
            reader: Reader::new(role, MESSAGE_BYTES_MAX),
            ciphertext: Vec::new(),
            plain: Vec::new(),
            flight: Vec::new(),
            spare: Vec::new(),
        }
    }

    /// Turns TLS on: the first byte was a handshake record's.
    pub fn begin_tls(&mut self, tls: Tls) {
        self.tls = Some(Box::new(tls));
        self.stage = Stage::Handshake;
    }

    /// Whether TLS is on.
    pub fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Takes what the socket brought. What of it is plaintext lies in `plain_mut` afterwards.
    pub fn feed(&mut self, bytes: &mut [u8]) -> Result<(), TlsError> {
        let Some(tls) = &mut self.tls else {
            self.plain.extend_from_slice(bytes);
            return Ok(());
        };
        let outcome = if self.ciphertext.is_empty() {
            let opened = tls.open(bytes, &mut self.plain, &mut self.flight)?;
            self.ciphertext.extend_from_slice(&bytes[opened.consumed..]);
            opened
        } else {
            self.ciphertext.extend_from_slice(bytes);
            let opened = tls.open(&mut self.ciphertext, &mut self.plain, &mut self.flight)?;
            self.ciphertext.drain(..opened.consumed);
            opened
        };
        if self.stage == Stage::Handshake && !tls.is_handshaking() {
            self.stage = Stage::Head;
        }
        let _ = outcome.peer_closed; // The socket's end says the same.
        Ok(())
    }

    /// Starts a client's handshake: its first flight is ready afterwards.
    pub fn start_tls(&mut self) -> Result<(), TlsError> {
        self.feed(&mut [])
    }

    /// Received plaintext that is not used up.
    pub fn plain(&self) -> &[u8] {
        &self.plain
    }

    /// The head's bytes are used up.
    pub fn consume(&mut self, len: usize) {
        self.plain.drain(..len);
    }

    /// Whether received bytes can be read as messages where they are, without a copy.
    pub fn reads_in_place(&self) -> bool {
        self.tls.is_none() && self.plain.is_empty() && self.stage == Stage::Open
    }

    /// Reads messages from `bytes` in place; what is left of them is kept.
    pub fn read_in_place(
        &mut self,
        bytes: &mut [u8],
        mut found: impl FnMut(Message<'_>, &mut Outbox),
    ) -> Result<(), Violation> {
        let used = read(&mut self.reader, bytes, &mut self.outbox, &mut found)?;
        self.plain.extend_from_slice(&bytes[used..]);
        Ok(())
    }

    /// Reads messages from what `feed` brought.
    pub fn read(
        &mut self,
        mut found: impl FnMut(Message<'_>, &mut Outbox),
    ) -> Result<(), Violation> {
        let used = read(
            &mut self.reader,
            &mut self.plain,
            &mut self.outbox,
            &mut found,
        )?;
        if used == self.plain.len() {
            self.plain.clear();
        } else {
            self.plain.drain(..used);
        }
        Ok(())
    }

    /// Whether there is something to send and no send is under way.
    pub fn can_send(&self) -> bool {
        !self.sending
            && (!self.flight.is_empty() || (!self.outbox.is_empty() && self.is_past_handshake()))
    }

    fn is_past_handshake(&self) -> bool {
        self.tls.as_ref().is_none_or(|tls| !tls.is_handshaking())
    }

    /// The next send's bytes; give the memory back by `sent`.
    pub fn take_send(&mut self) -> Result<Vec<u8>, TlsError> {
        let mut bytes = std::mem::take(&mut self.spare);
        bytes.clear();
        std::mem::swap(&mut bytes, &mut self.flight);
        let is_ready = self.is_past_handshake();
        let Some(tls) = &mut self.tls else {
            // Without TLS there is no flight: the two vectors take turns.
            std::mem::swap(&mut bytes, &mut self.outbox.bytes);
            self.sending = true;
            return Ok(bytes);
        };
        if is_ready {
            let len = self.outbox.bytes.len().min(SEND_BYTES_MAX);
            for chunk in self.outbox.bytes[..len].chunks(RECORD_BYTES_MAX) {
                let start = bytes.len();
                bytes.resize(start + Tls::sealed_len_max(chunk.len()), 0);
                let sealed = tls.seal(chunk, &mut bytes[start..])?;
                bytes.truncate(start + sealed);
            }
            self.outbox.bytes.drain(..len);
        }
        self.sending = true;
        Ok(bytes)
    }

    /// The send is over.
    pub fn sent(&mut self, memory: Vec<u8>) {
        self.sending = false;
        self.spare = memory;
    }
}

fn read(
    reader: &mut Reader,
    bytes: &mut [u8],
    outbox: &mut Outbox,
    found: &mut impl FnMut(Message<'_>, &mut Outbox),
) -> Result<usize, Violation> {
    let mut at = 0;
    loop {
        let (used, message) = reader.read(&mut bytes[at..])?;
        at += used;
        match message {
            Some(message) => found(message, outbox),
            None => return Ok(at),
        }
    }
}

const _: () = assert!(RECORD_BYTES_MAX <= limit::TLS_RECORD_BYTES_MAX);
