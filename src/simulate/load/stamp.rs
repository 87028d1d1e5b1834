//! Audio that says whose it is: 160 bytes (20 ms) with call, number and intended send time inside. Pure.
//!
//! ```text
//!   0   2   3   4     8     12        20      24      28                   160
//!   ├VX─┼dir┼fl─┼call─┼seq──┼at (ns)──┼check──┼spare──┼─ pattern ───────────┤
//! ```
//!
//! The pattern follows from call and number, so that every byte of a block is known to whoever reads it, and a block
//! is rebuilt from its stamp alone. The first 48 bytes are 64 characters of base64 with nothing left over; what follows
//! is one of 64 texts that are made once. Sending a frame encodes 48 bytes.

use crate::proto::audio::base64;

/// Bytes of a block: 20 ms of PCMU.
pub const BLOCK_BYTES: usize = 160;
/// Characters of a block in base64.
pub const BLOCK_CHARS: usize = 216;
/// What is encoded for each block; a multiple of three.
const HEAD_BYTES: usize = 48;
const PATTERN_AT: usize = 28;
const PATTERNS: usize = 64;
const MAGIC: [u8; 2] = *b"VX";

/// Which way a block goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Caller to model.
    Up,
    /// Model to caller.
    Down,
}

impl Way {
    /// For people.
    pub fn label(self) -> &'static str {
        match self {
            Way::Up => "carrier to model",
            Way::Down => "model to carrier",
        }
    }
}

/// Somebody speaks in this block.
pub const SPEECH: u8 = 1;
/// The block's call is of the echo profile: the model sends it back.
pub const ECHO: u8 = 2;

/// What a block says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Which way it goes.
    pub way: Way,
    /// `SPEECH`, `ECHO`.
    pub flags: u8,
    /// Serial number of the call in this run.
    pub call: u32,
    /// Number of the block in its direction of its call, from 0.
    pub seq: u32,
    /// When it was meant to be sent, nanoseconds of the run's monotonic clock.
    pub at: u64,
}

/// Why a block is not one of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// Nothing but PCMU silence.
    Silence,
    /// No stamp in it.
    Foreign,
    /// The stamp is right or nearly so, and other bytes are not.
    Altered,
}

impl Stamp {
    fn head(&self) -> [u8; PATTERN_AT] {
        let mut head = [0; PATTERN_AT];
        head[..2].copy_from_slice(&MAGIC);
        head[2] = match self.way {
            Way::Up => 0,
            Way::Down => 1,
        };
        head[3] = self.flags;
        head[4..8].copy_from_slice(&self.call.to_le_bytes());
        head[8..12].copy_from_slice(&self.seq.to_le_bytes());
        head[12..20].copy_from_slice(&self.at.to_le_bytes());
        let check = check(&head[..20]);
        head[20..24].copy_from_slice(&check.to_le_bytes());
        head
    }

    fn pattern(&self) -> usize {
        (self.call.wrapping_mul(7).wrapping_add(self.seq) as usize) % PATTERNS
    }
}

/// Thirty-two bits of a multiplicative hash: enough to tell a changed byte from a right one.
fn check(bytes: &[u8]) -> u32 {
    let mixed = bytes.iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (mixed ^ (mixed >> 32)) as u32
}

/// The patterns and their texts, made once.
pub struct Blocks {
    patterns: Vec<[u8; BLOCK_BYTES - PATTERN_AT]>,
    tails: Vec<Vec<u8>>,
}

impl Default for Blocks {
    fn default() -> Self {
        let mut state = 0x9E37_79B9_7F4A_7C15u64;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u8
        };
        let patterns: Vec<[u8; BLOCK_BYTES - PATTERN_AT]> = (0..PATTERNS)
            .map(|_| std::array::from_fn(|_| next()))
            .collect();
        let tails = patterns
            .iter()
            .map(|pattern| {
                let mut text = Vec::new();
                base64::encode_into(&pattern[HEAD_BYTES - PATTERN_AT..], &mut text);
                text
            })
            .collect();
        Self { patterns, tails }
    }
}

impl Blocks {
    /// Appends the block's 160 bytes.
    pub fn write_bytes(&self, stamp: &Stamp, out: &mut Vec<u8>) {
        out.extend_from_slice(&stamp.head());
        out.extend_from_slice(&self.patterns[stamp.pattern()]);
    }

    /// The block as base64, in two parts: what was encoded now, and what was ready.
    pub fn text<'a>(&'a self, stamp: &Stamp, head: &'a mut Vec<u8>) -> [&'a [u8]; 2] {
        let mut bytes = [0; HEAD_BYTES];
        bytes[..PATTERN_AT].copy_from_slice(&stamp.head());
        let pattern = stamp.pattern();
        bytes[PATTERN_AT..].copy_from_slice(&self.patterns[pattern][..HEAD_BYTES - PATTERN_AT]);
        head.clear();
        base64::encode_into(&bytes, head);
        [head, &self.tails[pattern]]
    }

    /// Reads one block of `BLOCK_BYTES`; every byte of it is compared.
    pub fn read(&self, block: &[u8]) -> Result<Stamp, Damage> {
        let Some((head, rest)) = block.split_first_chunk::<PATTERN_AT>() else {
            return Err(Damage::Foreign);
        };
        if head[..2] != MAGIC {
            return Err(self.judge(block));
        }
        let word =
            |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let stamp = Stamp {
            way: if head[2] == 0 { Way::Up } else { Way::Down },
            flags: head[3],
            call: word(4),
            seq: word(8),
            at: u64::from(word(12)) | u64::from(word(16)) << 32,
        };
        if *head != stamp.head() || rest != self.patterns[stamp.pattern()] {
            return Err(Damage::Altered);
        }
        Ok(stamp)
    }

    /// Whether these bytes begin as a block does.
    pub fn begins(bytes: &[u8]) -> bool {
        bytes.starts_with(&MAGIC)
    }

    /// What audio without our first bytes is.
    pub fn judge(&self, block: &[u8]) -> Damage {
        if block.iter().all(|byte| *byte == 0xFF || *byte == 0x7F) {
            return Damage::Silence;
        }
        let rest = block.get(PATTERN_AT..).unwrap_or_default();
        if self.patterns.iter().any(|pattern| rest == pattern) {
            Damage::Altered
        } else {
            Damage::Foreign
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(call: u32, seq: u32) -> Stamp {
        Stamp {
            way: Way::Up,
            flags: SPEECH,
            call,
            seq,
            at: 0x0123_4567_89AB_CDEF,
        }
    }

    #[test]
    fn a_stamp_reads_back_from_bytes_and_from_text() {
        let blocks = Blocks::default();
        for (call, seq) in [(0, 0), (1, 63), (7, 64), (u32::MAX, u32::MAX)] {
            for way in [Way::Up, Way::Down] {
                let stamp = Stamp {
                    way,
                    ..stamp(call, seq)
                };
                let mut bytes = Vec::new();
                blocks.write_bytes(&stamp, &mut bytes);
                assert_eq!(bytes.len(), BLOCK_BYTES);
                assert_eq!(blocks.read(&bytes), Ok(stamp));
                let mut head = Vec::new();
                let text = blocks.text(&stamp, &mut head).concat();
                assert_eq!(text.len(), BLOCK_CHARS);
                let mut decoded = Vec::new();
                assert!(base64::decode_into(&text, &mut decoded));
                assert_eq!(decoded, bytes);
            }
        }
    }

    #[test]
    fn a_change_of_any_byte_is_noticed() {
        let blocks = Blocks::default();
        let mut bytes = Vec::new();
        blocks.write_bytes(&stamp(5, 9), &mut bytes);
        for at in 0..BLOCK_BYTES {
            let mut changed = bytes.clone();
            changed[at] ^= 0x10;
            assert_eq!(blocks.read(&changed), Err(Damage::Altered), "byte {at}");
        }
    }

    #[test]
    fn silence_and_strange_audio_are_told_apart() {
        let blocks = Blocks::default();
        assert_eq!(blocks.read(&[0xFF; BLOCK_BYTES]), Err(Damage::Silence));
        assert_eq!(blocks.read(&[0x11; BLOCK_BYTES]), Err(Damage::Foreign));
        assert_eq!(blocks.read(&[0x11; 3]), Err(Damage::Foreign));
    }
}
