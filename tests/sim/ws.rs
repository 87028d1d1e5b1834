//! WebSocket frames, written and read by this test's own code (RFC 6455 section 5.2), strict about what it reads.

/// A frame of the relay's, as a peer reads it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Frame {
    Text(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(u16, String),
}

pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// One frame to the relay; `mask` as a client.
pub fn write(opcode: u8, payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
    write_part(opcode, true, payload, mask)
}

/// One fragment.
pub fn write_part(opcode: u8, fin: bool, payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
    let mut bytes = vec![opcode | if fin { 0x80 } else { 0 }];
    let bit = if mask.is_some() { 0x80 } else { 0 };
    match payload.len() {
        n @ 0..126 => bytes.push(bit | n as u8),
        n @ 126..65536 => {
            bytes.push(bit | 126);
            bytes.extend_from_slice(&(n as u16).to_be_bytes());
        }
        n => {
            bytes.push(bit | 127);
            bytes.extend_from_slice(&(n as u64).to_be_bytes());
        }
    }
    if let Some(key) = mask {
        bytes.extend_from_slice(&key);
        bytes.extend(payload.iter().zip(key.iter().cycle()).map(|(b, k)| b ^ k));
    } else {
        bytes.extend_from_slice(payload);
    }
    bytes
}

/// Reads what the relay wrote on one leg; anything but whole, plain, minimal frames is a fault of the relay's.
pub struct Reader {
    masked: bool,
    bytes: Vec<u8>,
    /// Of all bytes given so far, those before `bytes`.
    offset: u64,
    closed: bool,
}

impl Reader {
    /// `masked`: the relay is the client of this leg.
    pub fn new(masked: bool) -> Self {
        Self {
            masked,
            bytes: Vec::new(),
            offset: 0,
            closed: false,
        }
    }

    /// Takes bytes; gives each whole frame with the offset of its end.
    pub fn read(&mut self, bytes: &[u8]) -> Vec<(u64, Frame)> {
        self.bytes.extend_from_slice(bytes);
        let mut frames = Vec::new();
        let mut at = 0;
        while let Some((len, frame)) = self.one(at) {
            assert!(!self.closed, "a frame follows the close frame: {frame:?}");
            self.closed |= matches!(frame, Frame::Close(..));
            at += len;
            frames.push((self.offset + at as u64, frame));
        }
        assert!(
            !self.closed || at == self.bytes.len(),
            "bytes follow the close frame"
        );
        self.bytes.drain(..at);
        self.offset += at as u64;
        frames
    }

    fn one(&self, at: usize) -> Option<(usize, Frame)> {
        let bytes = &self.bytes[at..];
        let (&first, &second) = (bytes.first()?, bytes.get(1)?);
        assert_eq!(first & 0x70, 0, "a reserved bit is set: {first:#x}");
        assert_eq!(first & 0x80, 0x80, "the relay never fragments");
        assert_eq!(second & 0x80 != 0, self.masked, "masks: only a client's");
        let (len, mut head) = match second & 0x7f {
            126 => {
                let len = u16::from_be_bytes(bytes.get(2..4)?.try_into().unwrap()) as usize;
                assert!(len >= 126, "a length is not written in the shortest way");
                (len, 4)
            }
            127 => {
                let len = u64::from_be_bytes(bytes.get(2..10)?.try_into().unwrap()) as usize;
                assert!(len >= 65536, "a length is not written in the shortest way");
                (len, 10)
            }
            len => (len as usize, 2),
        };
        let opcode = first & 0x0f;
        assert!(
            opcode < 8 || len <= 125,
            "a control frame is too long: {len}"
        );
        let mut key = [0; 4];
        if self.masked {
            key.copy_from_slice(bytes.get(head..head + 4)?);
            head += 4;
        }
        let mut payload = bytes.get(head..head + len)?.to_vec();
        if self.masked {
            for part in payload.chunks_mut(4) {
                for (byte, key) in part.iter_mut().zip(key) {
                    *byte ^= key;
                }
            }
        }
        let frame = match opcode {
            TEXT => Frame::Text(payload),
            PING => Frame::Ping(payload),
            PONG => Frame::Pong(payload),
            CLOSE if payload.is_empty() => Frame::Close(1005, String::new()),
            CLOSE => {
                assert!(payload.len() >= 2, "a close frame of one byte");
                let code = u16::from_be_bytes([payload[0], payload[1]]);
                assert!(
                    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999),
                    "a close code that must not be sent: {code}"
                );
                let reason = String::from_utf8(payload.split_off(2)).expect("a reason is UTF-8");
                Frame::Close(code, reason)
            }
            _ => panic!("an opcode that is never due: {opcode}"),
        };
        Some((head + len, frame))
    }
}
