//! Frames out: the header before the payload, the payload masked in the same pass that copies it.

/// Opcodes of what we send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Text message.
    Text,
    /// Binary message.
    Binary,
    /// Close frame.
    Close,
    /// Ping frame.
    Ping,
    /// Pong frame.
    Pong,
}

/// Appends one whole unfragmented frame whose payload is `parts` in order. `mask` is `Some` for a client.
/// Allocates only when `out` has to grow.
pub fn write_frame(out: &mut Vec<u8>, kind: Kind, mask: Option<[u8; 4]>, parts: &[&[u8]]) {
    let _ = (out, kind, mask, parts);
    unimplemented!()
}

/// Bytes that `write_frame` appends for a payload of `len` bytes.
pub fn frame_len(len: usize, masked: bool) -> usize {
    let _ = (len, masked);
    unimplemented!()
}
