//! Frames in, read and unmasked in place; messages out.
//!
//! The reader keeps its place between calls: a frame that is only partly there is unmasked, and
//! checked for UTF-8, as far as it goes, so the caller must give the same bytes again with more behind them.

use super::Role;

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
    /// Text that is not UTF-8 (1007).
    Utf8,
    /// A close frame with one byte, a bad code, or a reason that is not UTF-8.
    Close,
    /// A length not in its shortest form, or with the top bit set.
    Length,
}

impl Violation {
    /// 1002, 1007 or 1009.
    pub fn close_code(self) -> u16 {
        unimplemented!()
    }
    /// A bounded metric label.
    pub fn label(self) -> &'static str {
        unimplemented!()
    }
}

/// Reads one direction of one connection.
#[derive(Debug)]
pub struct Reader {
    _private: (),
}

impl Reader {
    /// A reader for frames that the *peer* of `role` sends; messages up to `limit` bytes inclusive.
    pub fn new(role: Role, limit: usize) -> Self {
        let _ = (role, limit);
        unimplemented!()
    }

    /// Takes at most one message from the front of `input`. `Ok((n, None))` means: `n` bytes are used up
    /// (fragments kept inside) and nothing whole is there yet; give the rest again with more behind it.
    /// `Ok((n, Some(message)))`: the message's frames are used up; call again with `&mut input[n..]`.
    pub fn read<'a>(
        &'a mut self,
        input: &'a mut [u8],
    ) -> Result<(usize, Option<Message<'a>>), Violation> {
        let _ = input;
        unimplemented!()
    }

    /// Bytes kept inside for a fragmented message (counts against the process's budget).
    pub fn held_bytes(&self) -> usize {
        unimplemented!()
    }
}
