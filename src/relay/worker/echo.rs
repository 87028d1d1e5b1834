//! An echo on the production path, for conformance suites: the same reader, writer and ring as a call,
//! and nothing between them. Core in style: bytes in, bytes out, no socket.

use crate::base::limit;
use crate::base::rng::Rng;
use crate::bus::command::EchoOutcome;
use crate::proto::ws::reader::{Message, Reader};
use crate::proto::ws::writer::{Kind, write_frame};
use crate::proto::ws::{Role, close};
use tokio::sync::oneshot;

/// How much of the last text is kept for whoever asked.
const LAST_TEXT_MAX: usize = 64 * 1024;

/// One echo connection.
#[derive(Debug)]
pub(super) struct Echo {
    role: Role,
    reader: Reader,
    rng: Rng,
    out: Vec<u8>,
    /// Bytes of `out` already taken; 0 <= taken <= out.len().
    taken: usize,
    /// Our close frame is written: nothing is read or written after it.
    closed: bool,
    /// The shell has been told to finish.
    finishing: bool,
    outcome: EchoOutcome,
    done: Option<oneshot::Sender<EchoOutcome>>,
}

impl Echo {
    pub(super) fn new(
        role: Role,
        seed: [u8; 32],
        done: Option<oneshot::Sender<EchoOutcome>>,
    ) -> Self {
        Self {
            role,
            reader: Reader::new(role, limit::REALTIME_MESSAGE_BYTES_MAX),
            rng: Rng::from_seed(seed),
            out: Vec::new(),
            taken: 0,
            closed: false,
            finishing: false,
            outcome: EchoOutcome::default(),
            done,
        }
    }

    /// As `Session::handle_input`.
    pub(super) fn handle_input(&mut self, input: &mut [u8]) -> usize {
        let mut used = 0;
        while !self.closed {
            match self.reader.read(&mut input[used..]) {
                Ok((n, message)) => {
                    used += n;
                    let Some(message) = message else { return used };
                    let mask = (self.role == Role::Client).then(|| self.rng.mask_key());
                    match message {
                        Message::Text(bytes) => {
                            self.outcome.messages += 1;
                            self.outcome.last_text.clear();
                            self.outcome
                                .last_text
                                .extend_from_slice(&bytes[..bytes.len().min(LAST_TEXT_MAX)]);
                            write_frame(&mut self.out, Kind::Text, mask, &[bytes]);
                        }
                        Message::Binary(bytes) => {
                            self.outcome.messages += 1;
                            write_frame(&mut self.out, Kind::Binary, mask, &[bytes]);
                        }
                        Message::Ping(bytes) => {
                            write_frame(&mut self.out, Kind::Pong, mask, &[bytes])
                        }
                        Message::Pong(_) => {}
                        Message::Close(code, _) => {
                            let code = if code == close::NO_STATUS {
                                close::NORMAL
                            } else {
                                code
                            };
                            self.close(code);
                        }
                    }
                }
                Err(violation) => self.close(violation.close_code()),
            }
        }
        // After the close frame nothing of the peer's matters (RFC 6455 section 1.4).
        input.len()
    }

    fn close(&mut self, code: u16) {
        let mask = (self.role == Role::Client).then(|| self.rng.mask_key());
        let (payload, len) = close::payload(code, "");
        write_frame(&mut self.out, Kind::Close, mask, &[&payload[..len]]);
        self.closed = true;
    }

    pub(super) fn fragment_bytes(&self) -> usize {
        self.reader.held_bytes()
    }

    pub(super) fn poll_transmit(&self, max: usize) -> &[u8] {
        let waiting = &self.out[self.taken..];
        &waiting[..waiting.len().min(max)]
    }

    pub(super) fn handle_taken(&mut self, len: usize) {
        self.taken += len;
        debug_assert!(self.taken <= self.out.len());
        if self.taken == self.out.len() {
            self.out.clear();
            self.taken = 0;
        }
    }

    /// The peer's side has ended: what is queued may still go, nothing more is said.
    pub(super) fn handle_gone(&mut self) {
        self.closed = true;
        self.finishing = true;
    }

    /// The daemon stops.
    pub(super) fn go_away(&mut self) {
        if !self.closed {
            self.close(close::GOING_AWAY);
        }
    }

    /// Once, when our close frame is queued: send, then close the socket.
    pub(super) fn wants_finish(&mut self) -> bool {
        self.closed && !std::mem::replace(&mut self.finishing, true)
    }

    /// The connection is over: tells whoever waits.
    pub(super) fn finish(&mut self) {
        if let Some(done) = self.done.take() {
            // Whoever asked may have gone away; then nobody needs the outcome.
            let _ = done.send(std::mem::take(&mut self.outcome));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_comes_back_and_a_close_is_answered_once() {
        let mut echo = Echo::new(Role::Server, [1; 32], None);
        let mut input = Vec::new();
        write_frame(&mut input, Kind::Text, Some([1, 2, 3, 4]), &[b"hello"]);
        let (payload, len) = close::payload(1000, "bye");
        write_frame(
            &mut input,
            Kind::Close,
            Some([9, 2, 3, 4]),
            &[&payload[..len]],
        );
        let total = input.len();
        assert_eq!(echo.handle_input(&mut input), total);
        assert_eq!(
            echo.poll_transmit(usize::MAX),
            b"\x81\x05hello\x88\x02\x03\xe8"
        );
        assert!(echo.wants_finish());
        assert_eq!(echo.poll_transmit(3), b"\x81\x05h");
        echo.handle_taken(11);
        assert!(echo.poll_transmit(100).is_empty());
    }
}
