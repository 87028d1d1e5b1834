//! Frames out: the header before the payload, the payload masked in the same pass that copies it.
//!
//! Core. Every message leaves as one unfragmented frame. A payload may be given in parts (a prefix, the
//! audio's text, a suffix), so nothing has to be joined first; the mask runs on from one part to the next.

use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use super::mask;

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

impl From<Kind> for OpCode {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Text => OpCode::Data(Data::Text),
            Kind::Binary => OpCode::Data(Data::Binary),
            Kind::Close => OpCode::Control(Control::Close),
            Kind::Ping => OpCode::Control(Control::Ping),
            Kind::Pong => OpCode::Control(Control::Pong),
        }
    }
}

/// Appends one whole unfragmented frame whose payload is `parts` in order. `mask` is `Some` for a client.
/// Allocates only when `out` has to grow.
///
/// The caller keeps control payloads within `limit::CONTROL_PAYLOAD_MAX` and text valid UTF-8; both are
/// ours to keep, so they are asserted in debug builds alone.
pub fn write_frame(out: &mut Vec<u8>, kind: Kind, mask: Option<[u8; 4]>, parts: &[&[u8]]) {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    debug_assert!(
        matches!(kind, Kind::Text | Kind::Binary) || len <= crate::base::limit::CONTROL_PAYLOAD_MAX,
        "a control frame of {len} bytes"
    );
    let header = FrameHeader {
        opcode: kind.into(),
        mask,
        ..FrameHeader::default()
    };
    out.reserve(header.len(len as u64) + len);
    header
        .format(len as u64, out)
        .expect("writing to a Vec does not fail");
    match mask {
        None => parts.iter().for_each(|part| out.extend_from_slice(part)),
        Some(key) => {
            let mut offset = 0;
            for part in parts {
                mask::extend(out, part, key, offset);
                offset += part.len();
            }
        }
    }
}

/// Bytes that `write_frame` appends for a payload of `len` bytes.
pub fn frame_len(len: usize, masked: bool) -> usize {
    let header = FrameHeader {
        mask: masked.then_some([0; 4]),
        ..FrameHeader::default()
    };
    header.len(len as u64) + len
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

    fn frame(kind: Kind, mask: Option<[u8; 4]>, parts: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        write_frame(&mut out, kind, mask, parts);
        out
    }

    #[test]
    fn rfc_6455_section_5_7_examples() {
        assert_eq!(
            frame(Kind::Text, None, &[b"Hello"]),
            b"\x81\x05\x48\x65\x6c\x6c\x6f"
        );
        assert_eq!(
            frame(Kind::Text, Some(KEY), &[b"Hello"]),
            b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58"
        );
        assert_eq!(
            frame(Kind::Ping, None, &[b"Hello"]),
            b"\x89\x05\x48\x65\x6c\x6c\x6f"
        );
        assert_eq!(
            frame(Kind::Pong, Some(KEY), &[b"Hello"]),
            b"\x8a\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58"
        );
        let bytes = frame(Kind::Binary, None, &[&[7; 256]]);
        assert_eq!(bytes[..4], *b"\x82\x7E\x01\x00");
        let bytes = frame(Kind::Binary, None, &[&[7; 65_536]]);
        assert_eq!(bytes[..10], *b"\x82\x7F\x00\x00\x00\x00\x00\x01\x00\x00");
        assert_eq!(frame(Kind::Close, None, &[]), b"\x88\x00");
    }

    #[test]
    fn parts_make_the_same_frame_as_the_whole() {
        let payload: Vec<u8> = (0..300).map(|i| i as u8).collect();
        for mask in [None, Some(KEY)] {
            let whole = frame(Kind::Binary, mask, &[&payload]);
            for a in (0..=300).step_by(7) {
                for b in (a..=300).step_by(11) {
                    let parts: [&[u8]; 4] = [&payload[..a], &payload[a..b], b"", &payload[b..]];
                    assert_eq!(frame(Kind::Binary, mask, &parts), whole, "{a} {b}");
                }
            }
        }
    }

    #[test]
    fn the_stated_length_is_the_written_one() {
        for len in [0, 1, 125, 126, 127, 65_535, 65_536, 70_000] {
            for mask in [None, Some(KEY)] {
                let bytes = frame(Kind::Binary, mask, &[&vec![1; len]]);
                assert_eq!(bytes.len(), frame_len(len, mask.is_some()), "{len}");
            }
        }
    }

    #[test]
    fn a_frame_is_appended_without_growth_when_there_is_room() {
        let mut out = Vec::with_capacity(1_000);
        let home = out.as_ptr();
        write_frame(
            &mut out,
            Kind::Text,
            Some(KEY),
            &[b"{\"a\":\"", &[b'A'; 800], b"\"}"],
        );
        assert_eq!(out.as_ptr(), home);
        assert_eq!(out.len(), frame_len(808, true));
    }
}
