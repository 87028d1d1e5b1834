//! Frame headers (RFC 6455 section 5.2), over tungstenite's parser, with the checks that need no state.

use std::io::Cursor;

use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::OpCode;

use super::reader::Violation;
use crate::base::limit::CONTROL_PAYLOAD_MAX;

/// A frame header that is valid by itself; whether it may come now is the reader's question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The message's last frame.
    pub fin: bool,
    /// What the frame is; never a reserved one.
    pub opcode: OpCode,
    /// `Some` exactly when the peer is a client.
    pub mask: Option<[u8; 4]>,
    /// Bytes of the header itself, 2 to 14.
    pub header_len: usize,
    /// Bytes of payload that follow.
    pub payload_len: usize,
}

/// Parses a header from the front of `input`; `None` when it is not whole yet. `peer_masks`: the peer is a
/// client.
pub fn parse(input: &[u8], peer_masks: bool) -> Result<Option<Header>, Violation> {
    let mut cursor = Cursor::new(input);
    // Over a slice the only error is a reserved opcode.
    let Some((header, len)) = FrameHeader::parse(&mut cursor).map_err(|_| Violation::Opcode)?
    else {
        return Ok(None);
    };
    let header_len = cursor.position() as usize;
    if header.rsv1 | header.rsv2 | header.rsv3 {
        return Err(Violation::ReservedBits);
    }
    // RFC 6455 section 5.1: a client masks every frame, a server none.
    if header.mask.is_some() != peer_masks {
        return Err(Violation::Masking);
    }
    // RFC 6455 section 5.2: the shortest form there is (`len` tells it), and the top bit clear.
    if header.len(len) != header_len || len > i64::MAX as u64 {
        return Err(Violation::Length);
    }
    // RFC 6455 section 5.5: control frames are short and whole.
    if matches!(header.opcode, OpCode::Control(_))
        && (!header.is_final || len > CONTROL_PAYLOAD_MAX as u64)
    {
        return Err(Violation::Control);
    }
    Ok(Some(Header {
        fin: header.is_final,
        opcode: header.opcode,
        mask: header.mask,
        header_len,
        payload_len: usize::try_from(len).map_err(|_| Violation::TooLong)?,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tungstenite::protocol::frame::coding::{Control, Data};

    #[test]
    fn each_length_form_is_read_and_only_the_shortest_is_taken() {
        for (bytes, expected) in [
            (&b"\x82\x00"[..], Ok(0)),
            (b"\x82\x7d", Ok(125)),
            (b"\x82\x7e\x00\x7e", Ok(126)),
            (b"\x82\x7e\xff\xff", Ok(65_535)),
            (b"\x82\x7f\0\0\0\0\0\x01\0\0", Ok(65_536)),
            (b"\x82\x7e\x00\x7d", Err(Violation::Length)),
            (b"\x82\x7f\0\0\0\0\0\0\xff\xff", Err(Violation::Length)),
            (b"\x82\x7f\x80\0\0\0\0\x01\0\0", Err(Violation::Length)),
        ] {
            let parsed = parse(bytes, false).map(|h| h.expect("whole").payload_len);
            assert_eq!(parsed, expected, "{bytes:02x?}");
        }
    }

    #[test]
    fn every_first_byte_has_its_answer() {
        for first in 0..=255u8 {
            let expected = if matches!(first & 0x0F, 3..=7 | 11..) {
                Err(Violation::Opcode)
            } else if first & 0x70 != 0 {
                Err(Violation::ReservedBits)
            } else if first & 0x08 != 0 && first & 0x80 == 0 {
                Err(Violation::Control)
            } else {
                Ok(OpCode::from(first & 0x0F))
            };
            let parsed = parse(&[first, 0], false).map(|h| h.expect("whole").opcode);
            assert_eq!(parsed, expected, "{first:#04x}");
        }
    }

    #[test]
    fn a_header_cut_anywhere_is_not_there_yet() {
        let whole = b"\x81\xff\0\0\0\0\0\x01\0\0\x37\xfa\x21\x3d";
        for cut in 0..whole.len() {
            assert_eq!(parse(&whole[..cut], true), Ok(None), "{cut}");
        }
        let header = parse(whole, true).unwrap().unwrap();
        assert_eq!((header.header_len, header.payload_len), (14, 65_536));
        assert_eq!(header.opcode, OpCode::Data(Data::Text));
        assert_eq!(header.mask, Some([0x37, 0xfa, 0x21, 0x3d]));
    }

    #[test]
    fn masking_is_due_from_a_client_alone() {
        assert_eq!(parse(b"\x81\x00", true), Err(Violation::Masking));
        assert_eq!(parse(b"\x81\x80abcd", false), Err(Violation::Masking));
    }

    #[test]
    fn a_control_frame_holds_125_bytes_at_most() {
        let ping = parse(b"\x89\x7d", false).unwrap().unwrap();
        assert_eq!(ping.opcode, OpCode::Control(Control::Ping));
        assert_eq!(parse(b"\x89\x7e\x00\x7e", false), Err(Violation::Control));
    }
}
