//! One entry's bytes. Core: the layout in full stands in the module doc of [`super`].
//!
//! An entry is written in two steps: `encode` when it is appended, with empty checksums, and `seal` when it goes to a
//! file. The checksums begin with the file's salt, so that bytes inside a body that look like an entry (an old file's, or
//! made by whoever chose the text) are none.

use super::seq::Seq;
use crate::base::id::CallId;
use crate::base::limit::JOURNAL_BODY_BYTES_MAX;

/// The fixed part of an entry; the call's id and the body follow it.
pub const HEADER_BYTES: usize = 40;
/// Opens each entry. The first and last of these bytes occur in no UTF-8 text, so no text holds it.
pub const MAGIC: [u8; 4] = [0xFF, b'J', b'E', 0xFE];

/// The first entry of a group commit.
const FIRST: u8 = 1;
/// The content was erased.
const ERASED: u8 = 2;
/// The content was damaged when the file was written anew.
const LOST: u8 = 4;
/// The last entry of a snapshot: its body is the number of entries before it.
const END: u8 = 8;

/// What the writer gives.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// What the body is. The journal does not look at it.
    pub kind: u16,
    /// The version of the body's layout, of that kind.
    pub schema: u8,
    /// The call that it belongs to; `Journal::erase` goes by it.
    pub call_id: Option<CallId>,
    /// When, in milliseconds since 1970. It orders nothing: a clock may jump.
    pub unix_ms: u64,
    /// At most `JOURNAL_BODY_BYTES_MAX` bytes, of whatever form.
    pub body: &'a [u8],
}

/// What stands where an entry was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Content {
    /// The entry.
    #[default]
    Whole,
    /// A tombstone: its call was erased. Kind, call, time and body are gone.
    Erased,
    /// A tombstone: it was damaged, and the file has since been written anew.
    Lost,
    /// The end of a snapshot; no reader hands it on.
    End,
}

impl Content {
    fn flag(self) -> u8 {
        match self {
            Self::Whole => 0,
            Self::Erased => ERASED,
            Self::Lost => LOST,
            Self::End => END,
        }
    }
}

/// An entry's header, checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Its number.
    pub seq: Seq,
    /// See [`Entry::unix_ms`].
    pub unix_ms: u64,
    /// See [`Entry::kind`].
    pub kind: u16,
    /// See [`Entry::schema`].
    pub schema: u8,
    /// Whether it is the entry or what replaced it.
    pub content: Content,
    /// Whether a group commit begins with it.
    pub opens_batch: bool,
    /// See [`Entry::call_id`].
    pub call_id: Option<CallId>,
    /// The body's length in bytes.
    pub body_len: usize,
    body_crc: u32,
}

impl Header {
    /// The body's offset in the entry.
    pub fn body_at(&self) -> usize {
        HEADER_BYTES + self.call_id.map_or(0, |id| id.as_str().len())
    }

    /// The whole entry's length.
    pub fn entry_len(&self) -> usize {
        self.body_at() + self.body_len
    }

    /// Whether `entry`, the bytes that this header was read from, holds the body that was written.
    /// False also when it is shorter than the entry.
    pub fn body_is_whole(&self, entry: &[u8], salt: u64) -> bool {
        entry
            .get(self.body_at()..self.entry_len())
            .is_some_and(|body| body_crc(body, salt) == self.body_crc)
    }
}

/// What the bytes at some place are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Parsed {
    /// A header with a right checksum.
    Header(Header),
    /// Perhaps one: so many bytes are needed to tell.
    More(usize),
    /// No entry begins here.
    Foreign,
}

/// Appends the entry's bytes to `out`, with empty checksums: `seal` fills them.
///
/// Panics when the body is longer than `JOURNAL_BODY_BYTES_MAX`; the journal refuses it before.
pub fn encode(out: &mut Vec<u8>, seq: Seq, opens_batch: bool, content: Content, entry: &Entry<'_>) {
    assert!(
        entry.body.len() <= JOURNAL_BODY_BYTES_MAX,
        "refused at append"
    );
    let call = entry.call_id.as_ref().map_or("", |id| id.as_str());
    out.reserve(HEADER_BYTES + call.len() + entry.body.len());
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&(entry.body.len() as u32).to_le_bytes());
    out.extend_from_slice(&seq.bits().to_le_bytes());
    out.extend_from_slice(&entry.unix_ms.to_le_bytes());
    out.extend_from_slice(&entry.kind.to_le_bytes());
    out.push(entry.schema);
    out.push(content.flag() | if opens_batch { FIRST } else { 0 });
    out.push(call.len() as u8);
    out.extend_from_slice(&[0; 3]);
    out.extend_from_slice(call.as_bytes());
    out.extend_from_slice(entry.body);
}

/// Appends a tombstone: a number, and nothing of what was there.
pub fn encode_tombstone(out: &mut Vec<u8>, seq: Seq, opens_batch: bool, content: Content) {
    let nothing = Entry {
        kind: 0,
        schema: 0,
        call_id: None,
        unix_ms: 0,
        body: &[],
    };
    encode(out, seq, opens_batch, content, &nothing);
}

/// Fills in the checksums of all entries in `bytes`, which hold whole entries made by `encode` and nothing else.
/// May be done again with another salt.
pub fn seal(mut bytes: &mut [u8], salt: u64) {
    while !bytes.is_empty() {
        let call_len = usize::from(bytes[36]);
        let body_at = HEADER_BYTES + call_len;
        let total = body_at + le32(bytes, 12) as usize;
        let (entry, rest) = bytes.split_at_mut(total);
        let crc = body_crc(&entry[body_at..], salt);
        entry[8..12].copy_from_slice(&crc.to_le_bytes());
        let crc = header_crc(&entry[8..body_at], salt);
        entry[4..8].copy_from_slice(&crc.to_le_bytes());
        bytes = rest;
    }
}

/// Reads a header. Takes any bytes and never panics; looks at no body.
pub fn parse(bytes: &[u8], salt: u64) -> Parsed {
    let seen = bytes.len().min(MAGIC.len());
    if bytes[..seen] != MAGIC[..seen] {
        return Parsed::Foreign;
    }
    if bytes.len() < HEADER_BYTES {
        return Parsed::More(HEADER_BYTES);
    }
    let body_len = le32(bytes, 12) as usize;
    let flags = bytes[35];
    let call_len = usize::from(bytes[36]);
    if body_len > JOURNAL_BODY_BYTES_MAX || call_len > CallId::MAX || bytes[37..40] != [0; 3] {
        return Parsed::Foreign;
    }
    let body_at = HEADER_BYTES + call_len;
    if bytes.len() < body_at {
        return Parsed::More(body_at);
    }
    if header_crc(&bytes[8..body_at], salt) != le32(bytes, 4) {
        return Parsed::Foreign;
    }
    // From here on only a writer of ours could have made it, or a forger: checked all the same.
    let content = match flags & !FIRST {
        0 => Content::Whole,
        ERASED => Content::Erased,
        LOST => Content::Lost,
        END => Content::End,
        _ => return Parsed::Foreign,
    };
    let call_id = match std::str::from_utf8(&bytes[HEADER_BYTES..body_at]) {
        Ok("") => None,
        Ok(text) => CallId::new(text),
        Err(_) => return Parsed::Foreign,
    };
    Parsed::Header(Header {
        seq: Seq::from_bits(le64(bytes, 16)),
        unix_ms: le64(bytes, 24),
        kind: u16::from_le_bytes([bytes[32], bytes[33]]),
        schema: bytes[34],
        content,
        opens_batch: flags & FIRST != 0,
        call_id,
        body_len,
        body_crc: le32(bytes, 8),
    })
}

fn header_crc(bytes: &[u8], salt: u64) -> u32 {
    crc32c::crc32c_append(salt as u32, bytes)
}

fn body_crc(bytes: &[u8], salt: u64) -> u32 {
    crc32c::crc32c_append((salt >> 32) as u32, bytes)
}

/// Four bytes at `at`, which the caller knows to be there.
pub(super) fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// Eight bytes at `at`, which the caller knows to be there.
pub(super) fn le64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SALT: u64 = 0x0123_4567_89ab_cdef;

    fn sealed(entry: &Entry<'_>, seq: Seq, first: bool) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode(&mut bytes, seq, first, Content::Whole, entry);
        seal(&mut bytes, SALT);
        bytes
    }

    fn sample() -> Entry<'static> {
        Entry {
            kind: 513,
            schema: 2,
            call_id: CallId::new("CA12"),
            unix_ms: 1_795_000_000_123,
            body: b"hello",
        }
    }

    #[test]
    fn the_layout_is_the_documented_one() {
        let bytes = sealed(&sample(), Seq::first_of(3), true);
        assert_eq!(bytes.len(), 40 + 4 + 5);
        assert_eq!(bytes[..4], MAGIC);
        assert_eq!(bytes[12..16], [5, 0, 0, 0]);
        assert_eq!(bytes[16..24], [1, 0, 0, 0, 0, 3, 0, 0]);
        assert_eq!(bytes[24..32], 1_795_000_000_123_u64.to_le_bytes());
        assert_eq!(bytes[32..40], [1, 2, 2, 1, 4, 0, 0, 0]);
        assert_eq!(&bytes[40..], b"CA12hello");
        // CRC-32C as others compute it: crc32c("hello") with a seed of nought is 0x9a71bb4c.
        assert_eq!(body_crc(b"hello", 0), 0x9a71_bb4c);
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let bytes = sealed(&sample(), Seq::first_of(1), false);
        for bit in 0..bytes.len() * 8 {
            let mut bent = bytes.clone();
            bent[bit / 8] ^= 1 << (bit % 8);
            match parse(&bent, SALT) {
                Parsed::Header(header) => assert!(!header.body_is_whole(&bent, SALT), "bit {bit}"),
                Parsed::Foreign | Parsed::More(_) => {}
            }
        }
    }

    #[test]
    fn an_entry_of_another_file_is_foreign() {
        let bytes = sealed(&sample(), Seq::first_of(1), false);
        assert!(matches!(parse(&bytes, SALT), Parsed::Header(_)));
        assert_eq!(parse(&bytes, SALT ^ 1), Parsed::Foreign);
    }

    #[test]
    fn the_beginning_of_an_entry_asks_for_more_at_each_offset() {
        let bytes = sealed(&sample(), Seq::first_of(1), false);
        for cut in 0..44 {
            let wanted = if cut < 40 { 40 } else { 44 };
            assert_eq!(parse(&bytes[..cut], SALT), Parsed::More(wanted), "{cut}");
        }
        for cut in 44..bytes.len() {
            let Parsed::Header(header) = parse(&bytes[..cut], SALT) else {
                panic!("a whole header at {cut}");
            };
            assert!(!header.body_is_whole(&bytes[..cut], SALT));
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            kind: u16, schema: u8, unix_ms: u64, bits: u64, first: bool,
            call in proptest::option::of("[ -~é]{1,64}"),
            body in proptest::collection::vec(any::<u8>(), 0..300),
            salt: u64, other: u64,
        ) {
            let call_id = call.as_deref().and_then(CallId::new);
            let entry = Entry { kind, schema, call_id, unix_ms, body: &body };
            let mut bytes = Vec::new();
            encode(&mut bytes, Seq::from_bits(bits), first, Content::Whole, &entry);
            // Sealing again, as a second file asks for it, leaves nothing of the first salt.
            seal(&mut bytes, other);
            seal(&mut bytes, salt);
            let Parsed::Header(header) = parse(&bytes, salt) else {
                return Err(TestCaseError::fail("no header"));
            };
            prop_assert!(header.body_is_whole(&bytes, salt));
            prop_assert_eq!(header.entry_len(), bytes.len());
            prop_assert_eq!(&bytes[header.body_at()..], &body[..]);
            prop_assert_eq!(
                (header.kind, header.schema, header.unix_ms, header.call_id, header.seq.bits(), header.opens_batch),
                (kind, schema, unix_ms, call_id, bits, first)
            );
        }

        #[test]
        fn no_bytes_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..120), salt: u64) {
            let _ = parse(&bytes, salt);
            let seen = bytes.len().min(4);
            bytes[..seen].copy_from_slice(&MAGIC[..seen]);
            let _ = parse(&bytes, salt);
        }
    }
}
