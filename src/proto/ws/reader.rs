//! Frames in, read and unmasked in place; messages out.
//!
//! The reader keeps its place between calls: a frame that is only partly there is unmasked, and
//! checked for UTF-8, as far as it goes, so the caller must give the same bytes again with more behind them.
//!
//! ```text
//!            ┌ what earlier calls left: unmasked already ┐
//!  input:  [header][payload ............................|....still masked....][next frame ...
//!                  0                                   done              payload_len
//! ```
//!
//! A message in one frame costs no allocation: it is handed out where it lies. A fragment is copied inside as
//! it arrives and counts as used, so that a fragmented message is held once, here, never also by the caller.
//! What is held never passes the limit; a declared length that would is refused at the header.
//!
//! What a peer does wrong, and what it gets (RFC 6455 section 7.1.7; the connection is then done for):
//!
//! | violation | label | close code |
//! |---|---|---|
//! | reserved bit set | `reserved_bits` | 1002 |
//! | reserved opcode | `opcode` | 1002 |
//! | unmasked client frame, masked server frame | `masking` | 1002 |
//! | control frame fragmented or over 125 bytes | `control` | 1002 |
//! | continuation of nothing, new message inside one | `fragmentation` | 1002 |
//! | length not in its shortest form, or with the top bit set | `length` | 1002 |
//! | close frame of one byte, or with a code that may not be sent | `close` | 1002 |
//! | text or close reason not UTF-8 (at the first bad byte, also in a partial frame) | `utf8` | 1007 |
//! | message over the limit, or over 1024 empty fragments in one | `too_long` | 1009 |

use std::ops::Range;

use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use super::header::{self, Header};
use super::{Role, close, mask, utf8};

/// A held buffer up to this size is kept for the next fragmented message; a bigger one is freed.
const HELD_KEPT_MAX: usize = 4 * 1024;
/// Empty fragments in one message. They cost the peer two bytes and us no memory, but nothing honest
/// sends many, and the byte limit alone would let them go on for ever.
const EMPTY_FRAGMENTS_MAX: u32 = 1024;

/// One whole message or control frame. Borrowed from the input, or from the reader when the message came in fragments.
#[derive(Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// Valid UTF-8 (checked); mutable, since simd-json parses in place. Whoever changes it must not care for UTF-8 after.
    Text(&'a mut [u8]),
    /// Any bytes.
    Binary(&'a mut [u8]),
    /// At most 125 bytes.
    Ping(&'a [u8]),
    /// At most 125 bytes.
    Pong(&'a [u8]),
    /// The peer closes: code (1005 when it gave none) and reason.
    Close(u16, &'a str),
}

/// Why the connection must be failed (RFC 6455 section 7.1.7). `close_code` is what to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// Reserved bit set without an extension.
    ReservedBits,
    /// Reserved opcode.
    Opcode,
    /// A client frame without mask, or a server frame with one.
    Masking,
    /// A fragmented, or longer than 125 bytes, control frame.
    Control,
    /// A continuation with nothing to continue, or a new message inside one.
    Fragmentation,
    /// The message is longer than the limit.
    TooLong,
    /// Text, or a close reason, that is not UTF-8 (1007).
    Utf8,
    /// A close frame with one byte or a bad code.
    Close,
    /// A length not in its shortest form, or with the top bit set.
    Length,
}

impl Violation {
    /// All of them.
    pub const ALL: [Violation; 9] = [
        Violation::ReservedBits,
        Violation::Opcode,
        Violation::Masking,
        Violation::Control,
        Violation::Fragmentation,
        Violation::TooLong,
        Violation::Utf8,
        Violation::Close,
        Violation::Length,
    ];

    /// 1002, 1007 or 1009.
    pub fn close_code(self) -> u16 {
        match self {
            Violation::Utf8 => close::INVALID_DATA,
            Violation::TooLong => close::TOO_LARGE,
            Violation::ReservedBits
            | Violation::Opcode
            | Violation::Masking
            | Violation::Control
            | Violation::Fragmentation
            | Violation::Close
            | Violation::Length => close::PROTOCOL,
        }
    }

    /// A bounded metric label.
    pub fn label(self) -> &'static str {
        match self {
            Violation::ReservedBits => "reserved_bits",
            Violation::Opcode => "opcode",
            Violation::Masking => "masking",
            Violation::Control => "control",
            Violation::Fragmentation => "fragmentation",
            Violation::TooLong => "too_long",
            Violation::Utf8 => "utf8",
            Violation::Close => "close",
            Violation::Length => "length",
        }
    }
}

impl From<utf8::Invalid> for Violation {
    fn from(_: utf8::Invalid) -> Self {
        Violation::Utf8
    }
}

/// Whether there is still something to read.
#[derive(Clone, Copy, Debug)]
enum Phase {
    Open,
    /// The peer's close frame was read: what follows is discarded (RFC 6455 section 5.5.1).
    Closed,
    Failed(Violation),
}

/// What a fragmented message will be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Text,
    Binary,
}

/// A frame whose header was read and whose payload is not all there.
#[derive(Clone, Copy, Debug)]
struct Open {
    header: Header,
    /// Payload bytes unmasked (and checked) so far; 0 <= done <= header.payload_len.
    done: usize,
    /// The bytes of header and payload at the front of the input that earlier calls have seen. For a
    /// fragment that is 0: its bytes were used up.
    seen: usize,
}

/// Where a message lies, before it is borrowed.
enum Found {
    Input(Shape, Range<usize>),
    Held(Shape),
    Control(Control, Range<usize>),
}

/// Reads one direction of one connection.
///
/// After a close message, `read` uses up and discards whatever it is given; after a violation it returns
/// that violation again.
#[derive(Debug)]
pub struct Reader {
    peer_masks: bool,
    limit: usize,
    phase: Phase,
    /// The frame at the front of the input, when an earlier call saw a part of it.
    open: Option<Open>,
    /// The message that fragments are collected for.
    assembling: Option<Shape>,
    /// Its bytes, unmasked; at most `limit`.
    held: Vec<u8>,
    /// `held` was handed out whole and is done with at the next call.
    held_lent: bool,
    empty_fragments: u32,
    utf8: utf8::Incremental,
}

impl Reader {
    /// A reader for frames that the *peer* of `role` sends; messages up to `limit` bytes inclusive.
    pub fn new(role: Role, limit: usize) -> Self {
        Self {
            peer_masks: role == Role::Server,
            limit,
            phase: Phase::Open,
            open: None,
            assembling: None,
            held: Vec::new(),
            held_lent: false,
            empty_fragments: 0,
            utf8: utf8::Incremental::default(),
        }
    }

    /// Takes at most one message from the front of `input`. `Ok((n, None))` means: `n` bytes are used up
    /// (fragments kept inside) and nothing whole is there yet; give the rest again with more behind it.
    /// `Ok((n, Some(message)))`: the message's frames are used up; call again with `&mut input[n..]`.
    pub fn read<'a>(
        &'a mut self,
        input: &'a mut [u8],
    ) -> Result<(usize, Option<Message<'a>>), Violation> {
        match self.phase {
            Phase::Open => {}
            Phase::Closed => return Ok((input.len(), None)),
            Phase::Failed(violation) => return Err(violation),
        }
        let (used, found) = match self.advance(input) {
            Ok((used, Some(found))) => (used, found),
            Ok((used, None)) => return Ok((used, None)),
            Err(violation) => return Err(self.fail(violation)),
        };
        let message = match found {
            Found::Input(Shape::Text, at) => Message::Text(&mut input[at]),
            Found::Input(Shape::Binary, at) => Message::Binary(&mut input[at]),
            Found::Held(Shape::Text) => Message::Text(&mut self.held),
            Found::Held(Shape::Binary) => Message::Binary(&mut self.held),
            Found::Control(Control::Ping, at) => Message::Ping(&input[at]),
            Found::Control(Control::Close, at) => match close::parse(&input[at]) {
                Ok((code, reason)) => {
                    self.phase = Phase::Closed;
                    self.held = Vec::new();
                    Message::Close(code, reason)
                }
                Err(violation) => return Err(self.fail(violation)),
            },
            // The header's parser lets no reserved opcode through.
            Found::Control(Control::Pong | Control::Reserved(_), at) => Message::Pong(&input[at]),
        };
        Ok((used, Some(message)))
    }

    /// Bytes kept inside for a fragmented message (counts against the process's budget).
    pub fn held_bytes(&self) -> usize {
        self.held.capacity()
    }

    /// No message in fragments is begun: a reader that starts anew with the bytes not used up reads the same.
    pub fn is_between_messages(&self) -> bool {
        self.assembling.is_none()
    }

    /// Bytes that the front frame still lacks, header excluded when it isn't whole; 0 when no frame is begun.
    /// For whoever has to choose a buffer's size.
    pub fn missing_bytes(&self) -> usize {
        self.open
            .map_or(0, |open| open.header.payload_len - open.done)
    }

    fn fail(&mut self, violation: Violation) -> Violation {
        self.phase = Phase::Failed(violation);
        self.held = Vec::new();
        violation
    }

    /// Goes from frame to frame until a message is whole or the input is at its end.
    fn advance(&mut self, input: &mut [u8]) -> Result<(usize, Option<Found>), Violation> {
        if self.held_lent {
            self.release_held();
        }
        let mut used = 0;
        loop {
            let rest = &mut input[used..];
            let frame = match self.open.take() {
                Some(open) => open,
                None => match header::parse(rest, self.peer_masks)? {
                    None => return Ok((used, None)),
                    Some(header) => {
                        self.admit(&header)?;
                        Open {
                            header,
                            done: 0,
                            seen: header.header_len,
                        }
                    }
                },
            };
            debug_assert!(rest.len() >= frame.seen, "bytes were not given again");
            match frame.header.opcode {
                OpCode::Control(control) => {
                    let start = frame.header.header_len;
                    let end = start + frame.header.payload_len;
                    // So short that it is left alone until it is whole.
                    if rest.len() < end {
                        self.open = Some(frame);
                        return Ok((used, None));
                    }
                    if let Some(key) = frame.header.mask {
                        mask::apply(&mut rest[start..end], key, 0);
                    }
                    return Ok((
                        used + end,
                        Some(Found::Control(control, used + start..used + end)),
                    ));
                }
                OpCode::Data(data) if frame.header.fin && data != Data::Continue => {
                    let shape = if data == Data::Text {
                        Shape::Text
                    } else {
                        Shape::Binary
                    };
                    return Ok(match self.in_place(frame, shape, rest)? {
                        None => (used, None),
                        Some(at) => (
                            used + at.end,
                            Some(Found::Input(shape, used + at.start..used + at.end)),
                        ),
                    });
                }
                OpCode::Data(_) => {
                    used += self.fragment(frame, rest)?;
                    if self.open.is_some() {
                        return Ok((used, None));
                    }
                    if frame.header.fin
                        && let Some(shape) = self.assembling.take()
                    {
                        if shape == Shape::Text {
                            self.utf8.finish()?;
                        }
                        self.held_lent = true;
                        return Ok((used, Some(Found::Held(shape))));
                    }
                }
            }
        }
    }

    /// Whether a frame with this header may come now, and fits.
    fn admit(&mut self, header: &Header) -> Result<(), Violation> {
        let data = match header.opcode {
            OpCode::Control(_) => return Ok(()),
            OpCode::Data(data) => data,
        };
        // RFC 6455 section 5.4: fragments of two messages never mix.
        if (data == Data::Continue) != self.assembling.is_some() {
            return Err(Violation::Fragmentation);
        }
        // 0 <= held.len() <= limit.
        if header.payload_len > self.limit - self.held.len() {
            return Err(Violation::TooLong);
        }
        if data == Data::Continue {
            if header.payload_len == 0 {
                self.empty_fragments += 1;
                if self.empty_fragments > EMPTY_FRAGMENTS_MAX {
                    return Err(Violation::TooLong);
                }
            }
        } else if !header.fin {
            self.assembling = Some(if data == Data::Text {
                Shape::Text
            } else {
                Shape::Binary
            });
            self.empty_fragments = 0;
        }
        Ok(())
    }

    /// A message in one frame: unmasks and checks what is new of it; its place once it is whole.
    fn in_place(
        &mut self,
        mut frame: Open,
        shape: Shape,
        rest: &mut [u8],
    ) -> Result<Option<Range<usize>>, Violation> {
        let Header {
            mask,
            header_len,
            payload_len,
            ..
        } = frame.header;
        let there = rest.len().saturating_sub(header_len).min(payload_len);
        let at = header_len..header_len + payload_len;
        let whole_at_once = frame.done == 0 && there == payload_len;
        // Empty when the caller broke the contract and gave less than before.
        let fresh = rest
            .get_mut(header_len + frame.done..header_len + there)
            .unwrap_or_default();
        if let Some(key) = mask {
            mask::apply(fresh, key, frame.done);
        }
        if shape == Shape::Text {
            if whole_at_once {
                simdutf8::basic::from_utf8(fresh).map_err(|_| Violation::Utf8)?;
            } else {
                self.utf8.feed(fresh)?;
                if there == payload_len {
                    self.utf8.finish()?;
                }
            }
        }
        if there == payload_len {
            return Ok(Some(at));
        }
        frame.done = frame.done.max(there);
        frame.seen = frame.seen.max(rest.len());
        self.open = Some(frame);
        Ok(None)
    }

    /// A part of a fragmented message: takes what is there of it inside; how many bytes that used up.
    /// Leaves `open` set when the frame has more to come.
    fn fragment(&mut self, mut frame: Open, rest: &mut [u8]) -> Result<usize, Violation> {
        // The header is used up with the first bytes, so later calls find payload at the front.
        let start = frame.seen;
        let missing = frame.header.payload_len - frame.done;
        let there = (rest.len() - start.min(rest.len())).min(missing);
        let fresh = &mut rest[start..start + there];
        if let Some(key) = frame.header.mask {
            mask::apply(fresh, key, frame.done);
        }
        if self.assembling == Some(Shape::Text) {
            self.utf8.feed(fresh)?;
        }
        hold(&mut self.held, fresh, self.limit);
        if there < missing {
            frame.done += there;
            frame.seen = 0;
            self.open = Some(frame);
        }
        Ok(start + there)
    }

    fn release_held(&mut self) {
        self.held_lent = false;
        self.held.clear();
        if self.held.capacity() > HELD_KEPT_MAX {
            self.held = Vec::new();
        }
    }
}

/// Appends to `held`, growing it by doubling but never past `limit`, which `held.len() + bytes.len()` keeps.
fn hold(held: &mut Vec<u8>, bytes: &[u8], limit: usize) {
    let need = held.len() + bytes.len();
    debug_assert!(need <= limit);
    if need > held.capacity() {
        let target = need.max((held.capacity() * 2).min(limit));
        held.reserve_exact(target - held.len());
    }
    held.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests;
