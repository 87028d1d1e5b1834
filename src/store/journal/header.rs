//! The head of a segment or snapshot file, and the names of such files. Core; the layout stands in the doc of [`super`].

use super::entry::{le32, le64};
use super::seq::Seq;

/// The head's length: two sectors, each with a copy, so that one damaged sector does not make a file unreadable.
pub const FILE_HEADER_BYTES: usize = 1024;
/// The second copy's offset.
const COPY_AT: usize = 512;
/// One copy.
const COPY_BYTES: usize = 64;
/// Opens each copy.
const MAGIC: [u8; 8] = *b"VXRJRNL\n";
/// The version that this program writes, and the newest that it reads.
pub const VERSION: u16 = 1;

const SNAPSHOT: u32 = 1;
const REWRITTEN: u32 = 2;

/// What the head of a file says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileHeader {
    /// A snapshot, or a segment.
    pub snapshot: bool,
    /// Written anew by an erasure.
    pub rewritten: bool,
    /// The process that wrote it.
    pub epoch: u32,
    /// The how-manieth file of that process it is.
    pub index: u32,
    /// The number of its first entry, whether or not one was ever written.
    pub first: Seq,
    /// Of a segment: the last entry that was durable when it was begun; all up to it stand in earlier files. Of a
    /// snapshot: the last entry that it stands for.
    pub prior: Seq,
    /// When it was begun, for people: milliseconds since 1970.
    pub unix_ms: u64,
    /// Where the checksums of its entries begin: drawn by chance for each file.
    pub salt: u64,
}

/// What the first bytes of a file are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Opened {
    /// A head that was read; `damaged` says that one of its copies is not whole.
    Header {
        /// What it says.
        header: FileHeader,
        /// One copy could not be read.
        damaged: bool,
    },
    /// A whole head of a version above [`VERSION`].
    Newer(u16),
    /// No copy is whole.
    Unreadable,
}

impl FileHeader {
    /// Its bytes, `FILE_HEADER_BYTES` long.
    pub fn encode(&self) -> Vec<u8> {
        let mut copy = Vec::with_capacity(COPY_BYTES);
        copy.extend_from_slice(&MAGIC);
        copy.extend_from_slice(&VERSION.to_le_bytes());
        copy.extend_from_slice(&(FILE_HEADER_BYTES as u16).to_le_bytes());
        let flags =
            if self.snapshot { SNAPSHOT } else { 0 } | if self.rewritten { REWRITTEN } else { 0 };
        copy.extend_from_slice(&flags.to_le_bytes());
        copy.extend_from_slice(&self.epoch.to_le_bytes());
        copy.extend_from_slice(&self.index.to_le_bytes());
        copy.extend_from_slice(&self.first.bits().to_le_bytes());
        copy.extend_from_slice(&self.prior.bits().to_le_bytes());
        copy.extend_from_slice(&self.unix_ms.to_le_bytes());
        copy.extend_from_slice(&self.salt.to_le_bytes());
        copy.extend_from_slice(&[0; 4]);
        let crc = crc32c::crc32c(&copy);
        copy.extend_from_slice(&crc.to_le_bytes());
        debug_assert_eq!(copy.len(), COPY_BYTES);
        let mut bytes = vec![0; FILE_HEADER_BYTES];
        bytes[..COPY_BYTES].copy_from_slice(&copy);
        bytes[COPY_AT..COPY_AT + COPY_BYTES].copy_from_slice(&copy);
        bytes
    }

    /// Reads the head from a file's first bytes: any number of them, of any form.
    pub fn decode(bytes: &[u8]) -> Opened {
        let first = decode_copy(bytes);
        let second = decode_copy(bytes.get(COPY_AT..).unwrap_or_default());
        match (first, second) {
            (Ok(header), Ok(second)) if header == second => Opened::Header {
                header,
                damaged: false,
            },
            (Ok(header), _) | (Err(_), Ok(header)) => Opened::Header {
                header,
                damaged: true,
            },
            (Err(Some(version)), _) | (_, Err(Some(version))) => Opened::Newer(version),
            (Err(None), Err(None)) => Opened::Unreadable,
        }
    }

    /// The name of the file that it stands in.
    pub fn name(&self) -> String {
        let kind = if self.snapshot {
            Kind::Snapshot
        } else {
            Kind::Segment
        };
        name(kind, self.epoch, self.index)
    }
}

/// `Err(Some(version))`: whole, but newer than we are. In every version a copy's first ten bytes and its last four
/// mean the same.
fn decode_copy(bytes: &[u8]) -> Result<FileHeader, Option<u16>> {
    let Some(copy) = bytes.get(..COPY_BYTES) else {
        return Err(None);
    };
    if copy[..8] != MAGIC || crc32c::crc32c(&copy[..60]) != le32(copy, 60) {
        return Err(None);
    }
    let version = u16::from_le_bytes([copy[8], copy[9]]);
    if version > VERSION {
        return Err(Some(version));
    }
    let flags = le32(copy, 12);
    let header = FileHeader {
        snapshot: flags & SNAPSHOT != 0,
        rewritten: flags & REWRITTEN != 0,
        epoch: le32(copy, 16),
        index: le32(copy, 20),
        first: Seq::from_bits(le64(copy, 24)),
        prior: Seq::from_bits(le64(copy, 32)),
        unix_ms: le64(copy, 40),
        salt: le64(copy, 48),
    };
    // What no writer of ours makes.
    if version == 0
        || header.epoch == 0
        || header.first.epoch() != header.epoch
        || header.first.count() == 0
        || header.prior >= header.first && !header.snapshot
    {
        return Err(None);
    }
    Ok(header)
}

/// The two kinds of files.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// Entries as they were appended.
    Segment,
    /// Entries that stand for all before them.
    Snapshot,
}

impl Kind {
    fn suffix(self) -> &'static str {
        match self {
            Self::Segment => ".seg",
            Self::Snapshot => ".snap",
        }
    }
}

/// What a file is called while it is being written: nobody reads such a file, and the next opening removes it.
pub const TEMPORARY: &str = ".tmp";

/// The name of a file: sorted by name, files of a kind are in the order in which they were begun.
pub fn name(kind: Kind, epoch: u32, index: u32) -> String {
    format!("{epoch:06x}-{index:08x}{}", kind.suffix())
}

/// Kind, epoch and index of a file of ours; `None` for every other name, temporary ones among them.
pub fn parse_name(text: &str) -> Option<(Kind, u32, u32)> {
    let (stem, kind) = [Kind::Segment, Kind::Snapshot]
        .into_iter()
        .find_map(|kind| text.strip_suffix(kind.suffix()).map(|stem| (stem, kind)))?;
    let (epoch, index) = stem.split_once('-')?;
    let (epoch, index) = (
        u32::from_str_radix(epoch, 16).ok()?,
        u32::from_str_radix(index, 16).ok()?,
    );
    // One spelling each, so that two names never mean one file.
    ((1..=Seq::EPOCH_MAX).contains(&epoch) && name(kind, epoch, index) == text)
        .then_some((kind, epoch, index))
}

/// Whether it is the temporary name of a file of ours.
pub fn is_temporary(text: &str) -> bool {
    text.strip_suffix(TEMPORARY)
        .is_some_and(|stem| parse_name(stem).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> FileHeader {
        FileHeader {
            snapshot: false,
            rewritten: true,
            epoch: 3,
            index: 9,
            first: Seq::from_bits(3 << 40 | 77),
            prior: Seq::from_bits(3 << 40 | 76),
            unix_ms: 1_795_000_000_000,
            salt: 0xfeed_beef_0123_4567,
        }
    }

    #[test]
    fn a_head_survives_the_loss_of_either_copy_and_every_flipped_bit() {
        let bytes = sample().encode();
        let whole = |damaged| Opened::Header {
            header: sample(),
            damaged,
        };
        assert_eq!(FileHeader::decode(&bytes), whole(false));
        for bit in (0..64 * 8).chain(512 * 8..576 * 8) {
            let mut bent = bytes.clone();
            bent[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(FileHeader::decode(&bent), whole(true), "bit {bit}");
        }
        let mut bent = bytes.clone();
        bent[..512].fill(0xAA);
        assert_eq!(FileHeader::decode(&bent), whole(true));
        bent[512..].fill(0);
        assert_eq!(FileHeader::decode(&bent), Opened::Unreadable);
        for cut in 0..64 {
            assert_eq!(FileHeader::decode(&bytes[..cut]), Opened::Unreadable);
        }
    }

    #[test]
    fn a_newer_version_is_told_from_damage() {
        let mut bytes = sample().encode();
        for at in [0, 512] {
            bytes[at + 8] = 2;
            let crc = crc32c::crc32c(&bytes[at..at + 60]);
            bytes[at + 60..at + 64].copy_from_slice(&crc.to_le_bytes());
        }
        assert_eq!(FileHeader::decode(&bytes), Opened::Newer(2));
        bytes[0] ^= 1;
        assert_eq!(FileHeader::decode(&bytes), Opened::Newer(2));
    }

    #[test]
    fn names_have_one_spelling_and_sort_as_they_were_begun() {
        let text = name(Kind::Segment, 3, 9);
        assert_eq!(text, "000003-00000009.seg");
        assert_eq!(parse_name(&text), Some((Kind::Segment, 3, 9)));
        assert!(name(Kind::Segment, 3, u32::MAX) < name(Kind::Segment, 4, 0));
        assert!(name(Kind::Segment, 9, 0) < name(Kind::Segment, Seq::EPOCH_MAX, 0));
        assert!(is_temporary("000003-00000009.snap.tmp"));
        for foreign in [
            "",
            "lock",
            "3-9.seg",
            "000003-0000000G.seg",
            "000000-00000001.seg",
            "000003-00000009.seg.tmp",
            "+00003-00000009.seg",
            "1000003-00000009.seg",
            "00000A-00000009.seg",
        ] {
            assert_eq!(parse_name(foreign), None, "{foreign}");
        }
        assert!(!is_temporary("notes.tmp"));
    }
}
