//! Finds the entries in a file's bytes, also past damage. Core: windows of bytes in, steps out.
//!
//! In step, the scanner believes nothing but checksums and numbers: an entry must be the one after the last. Where that
//! fails it looks for the next whole header, whose number may leave out no more entries than the bytes between can have
//! held. Where a header is whole and only its body is not, exactly that entry is lost, and its number is known.
//!
//! ```text
//!   | 7 | 8 | 9 |#######| 12 | 13 |##body##| 15 |…torn
//!                damage,            damage,        damage to the end of the file: whether that is a torn tail is for
//!                10 to 11 lost      14 lost        whoever knows which file is the last
//! ```
//!
//! It makes progress with every step, keeps no bytes, and its work is linear in what it is given, whatever that is.

use super::entry::{self, HEADER_BYTES, Header, Parsed};
use super::seq::Seq;

/// What the window begins with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// A whole entry; take `entry_len` bytes off the window.
    Entry(Header),
    /// Damage; take so many bytes off the window. With a number: exactly this entry, whole but for its body.
    Damaged {
        /// At least 1.
        bytes: usize,
        /// The entry that was lost, where its header is whole.
        seq: Option<Seq>,
    },
    /// The window must hold at least so many bytes, more than it does. Never asked at the end of the file.
    More(usize),
    /// Nothing is left.
    End,
}

/// The state between windows.
#[derive(Clone, Copy, Debug)]
pub struct Scanner {
    salt: u64,
    /// The number of the last entry found, or the one before the file's first.
    last: Seq,
    /// Bytes of damage since `last`.
    skipped: u64,
    /// The next entry's place is not known.
    lost: bool,
}

impl Scanner {
    /// For the bytes behind a file's head.
    pub fn new(salt: u64, first: Seq) -> Self {
        Self {
            salt,
            last: first.before(),
            skipped: 0,
            lost: false,
        }
    }

    /// The number of the last entry whose header was found; the one before the file's first when there is none.
    pub fn last(&self) -> Seq {
        self.last
    }

    /// What `window` begins with. It starts where the step before ended; `at_end` says that the file ends with it.
    pub fn step(&mut self, window: &[u8], at_end: bool) -> Step {
        if window.is_empty() {
            return if at_end {
                Step::End
            } else {
                Step::More(HEADER_BYTES)
            };
        }
        let mut from = 0;
        if !self.lost {
            match self.header_at(window, 0) {
                Parsed::Header(header) => {
                    let total = header.entry_len();
                    if window.len() >= total {
                        self.found(header.seq);
                        if header.body_is_whole(window, self.salt) {
                            return Step::Entry(header);
                        }
                        // The header vouches for the length, so the next entry's place is known.
                        return Step::Damaged {
                            bytes: total,
                            seq: Some(header.seq),
                        };
                    }
                    if !at_end {
                        return Step::More(total);
                    }
                }
                Parsed::More(wanted) if !at_end => return Step::More(wanted),
                Parsed::More(_) | Parsed::Foreign => {}
            }
            self.lost = true;
            from = 1;
        }
        self.resync(window, from, at_end)
    }

    /// Skips to the next place where an entry may begin.
    fn resync(&mut self, window: &[u8], mut from: usize, at_end: bool) -> Step {
        while let Some(at) = memchr::memmem::find(&window[from..], &entry::MAGIC) {
            let at = from + at;
            match self.header_at(&window[at..], at as u64) {
                Parsed::Header(header) if !at_end || window.len() - at >= header.entry_len() => {
                    self.lost = false;
                    return if at == 0 {
                        self.step(window, at_end)
                    } else {
                        self.skip(at)
                    };
                }
                Parsed::More(wanted) if !at_end => {
                    return if at == 0 {
                        Step::More(wanted)
                    } else {
                        self.skip(at)
                    };
                }
                Parsed::Header(_) | Parsed::More(_) | Parsed::Foreign => from = at + 1,
            }
        }
        // The window's last bytes may be the beginning of a magic.
        let kept = if at_end { 0 } else { entry::MAGIC.len() - 1 };
        if window.len() <= kept {
            return Step::More(HEADER_BYTES);
        }
        self.skip(window.len() - kept)
    }

    fn skip(&mut self, bytes: usize) -> Step {
        self.skipped += bytes as u64;
        Step::Damaged { bytes, seq: None }
    }

    fn found(&mut self, seq: Seq) {
        self.last = seq;
        self.skipped = 0;
    }

    /// The header that `bytes` begin with, if its number can follow `last` after `more` further bytes of damage.
    fn header_at(&self, bytes: &[u8], more: u64) -> Parsed {
        match entry::parse(bytes, self.salt) {
            Parsed::Header(header) => {
                let between = (self.skipped + more) / HEADER_BYTES as u64;
                let next = self.last.next();
                let follows = next.is_some_and(|next| {
                    let count = next.through(header.seq);
                    count >= 1 && count - 1 <= between
                });
                if follows {
                    Parsed::Header(header)
                } else {
                    Parsed::Foreign
                }
            }
            other => other,
        }
    }
}

/// For the fuzzer and the tests: properties of any bytes, in any pieces.
pub mod property {
    use super::super::header::{self, FileHeader, Opened};
    use super::*;

    /// Scans `bytes` whole and in pieces: the same entries at the same places, every byte accounted for, numbers rising.
    ///
    /// The first bytes choose the pieces and the file's salt, so that a fuzzer finds both.
    pub fn assert_scan_is_sound(input: &[u8]) {
        let Some((choice, bytes)) = input.split_at_checked(2) else {
            return;
        };
        if let Opened::Header { header, .. } = FileHeader::decode(bytes) {
            let again = FileHeader::decode(&header.encode());
            let damaged = false;
            assert_eq!(again, Opened::Header { header, damaged });
            assert!(header::parse_name(&header.name()).is_some());
        }
        let salt = u64::from(choice[0] & 1);
        let piece = usize::from(choice[1]) + 1;
        let mut sealed = bytes.to_vec();
        if choice[0] & 2 != 0 {
            reseal(&mut sealed, salt);
        }
        let whole = scan(&sealed, usize::MAX, salt);
        let pieces = scan(&sealed, piece, salt);
        assert_eq!(whole, pieces, "pieces of {piece}");
        let mut last = Seq::first_of(1).before();
        for (at, header) in whole {
            assert!(
                header.seq > last,
                "{} at {at} is not above {last}",
                header.seq
            );
            last = header.seq;
            // What was read can be written again, and is then the same bytes.
            let body = &sealed[at + header.body_at()..at + header.entry_len()];
            let mut again = Vec::new();
            let entry = entry::Entry {
                kind: header.kind,
                schema: header.schema,
                call_id: header.call_id,
                unix_ms: header.unix_ms,
                body,
            };
            entry::encode(
                &mut again,
                header.seq,
                header.opens_batch,
                header.content,
                &entry,
            );
            entry::seal(&mut again, salt);
            assert_eq!(again, &sealed[at..at + header.entry_len()]);
        }
    }

    /// All whole entries with their offsets, the file lying in windows that grow by `piece`.
    pub fn scan(bytes: &[u8], piece: usize, salt: u64) -> Vec<(usize, Header)> {
        let mut scanner = Scanner::new(salt, Seq::first_of(1));
        let (mut at, mut end, mut found) = (0, piece.min(bytes.len()), Vec::new());
        loop {
            match scanner.step(&bytes[at..end], end == bytes.len()) {
                Step::Entry(header) => {
                    found.push((at, header));
                    at += header.entry_len();
                }
                Step::Damaged { bytes, .. } => {
                    assert!(bytes > 0, "a step without progress");
                    at += bytes;
                }
                Step::More(wanted) => {
                    assert!(wanted > end - at, "asked for what is there");
                    assert!(end < bytes.len(), "asked for more than the file holds");
                    end = (end + piece.max(1)).min(bytes.len());
                }
                Step::End => {
                    assert_eq!(at, bytes.len(), "bytes that nobody accounts for");
                    return found;
                }
            }
            assert!(at <= end, "a step beyond the window");
        }
    }

    /// Gives whatever looks like an entry right checksums, so that a fuzzer gets past them.
    fn reseal(bytes: &mut [u8], salt: u64) {
        let mut from = 0;
        while let Some(at) = memchr::memmem::find(&bytes[from..], &entry::MAGIC) {
            let at = from + at;
            let rest = &bytes[at..];
            let total = (rest.len() >= HEADER_BYTES)
                .then(|| HEADER_BYTES + usize::from(rest[36]) + entry::le32(rest, 12) as usize)
                .filter(|total| *total <= rest.len());
            if let Some(total) = total {
                entry::seal(&mut bytes[at..at + total], salt);
            }
            from = at + total.unwrap_or(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::property::{assert_scan_is_sound, scan};
    use super::*;
    use crate::store::journal::entry::{Content, Entry, encode, seal};
    use proptest::prelude::*;

    const SALT: u64 = 77;

    /// `bodies` as entries 1.1, 1.2, …
    fn file(bodies: &[&[u8]]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut seq = Seq::first_of(1);
        for body in bodies {
            let entry = Entry {
                kind: 1,
                schema: 1,
                call_id: None,
                unix_ms: 5,
                body,
            };
            encode(&mut bytes, seq, false, Content::Whole, &entry);
            seq = seq.next().expect("few");
        }
        seal(&mut bytes, SALT);
        bytes
    }

    fn counts(bytes: &[u8]) -> Vec<u64> {
        let whole = scan(bytes, usize::MAX, SALT);
        for piece in [1, 2, 3, 7, 39, 40, 41, 100] {
            assert_eq!(scan(bytes, piece, SALT), whole, "pieces of {piece}");
        }
        whole
            .into_iter()
            .map(|(_, header)| header.seq.count())
            .collect()
    }

    #[test]
    fn whole_bytes_give_every_entry() {
        assert_eq!(counts(&file(&[b"a", b"", b"ccc"])), [1, 2, 3]);
        assert_eq!(counts(&[]), [0; 0]);
    }

    #[test]
    fn a_flipped_bit_costs_one_entry_and_no_other() {
        let bytes = file(&[b"first", b"second", b"third", b"fourth"]);
        for bit in 0..bytes.len() * 8 {
            let mut bent = bytes.clone();
            bent[bit / 8] ^= 1 << (bit % 8);
            let found = scan(&bent, usize::MAX, SALT);
            assert_eq!(found.len(), 3, "bit {bit}");
        }
    }

    #[test]
    fn a_cut_file_gives_what_is_whole_before_the_cut() {
        let bytes = file(&[b"first", b"second", b"third"]);
        for cut in 0..bytes.len() {
            let whole = [45, 45 + 46, 45 + 46 + 45]
                .iter()
                .filter(|end| **end <= cut)
                .count();
            assert_eq!(counts(&bytes[..cut]).len(), whole, "{cut}");
        }
    }

    #[test]
    fn entries_inside_a_body_are_not_found_when_the_body_is_whole() {
        let inner = file(&[b"x", b"y"]);
        assert_eq!(counts(&file(&[b"a", &inner, b"c"])), [1, 2, 3]);
    }

    #[test]
    fn entries_of_another_file_inside_a_damaged_one_are_not_found() {
        // The text of a call holds a copy of an entry, with the number that would fit, but cannot hold the salt.
        let mut inner = Vec::new();
        let entry = Entry {
            kind: 1,
            schema: 1,
            call_id: None,
            unix_ms: 5,
            body: b"forged",
        };
        let forged = Seq::from_bits(1 << 40 | 3);
        encode(&mut inner, forged, false, Content::Whole, &entry);
        seal(&mut inner, SALT ^ 0xff);
        let mut bytes = file(&[b"a", &inner, b"c"]);
        bytes[41 + 5] ^= 1;
        assert_eq!(counts(&bytes), [1, 3]);
    }

    #[test]
    fn numbers_that_go_back_repeat_or_leap_are_damage() {
        let bytes = file(&[b"a", b"b", b"c"]);
        let entry = |at: usize| &bytes[at * 41..(at + 1) * 41];
        assert_eq!(counts(&[entry(0), entry(0), entry(1)].concat()), [1, 2]);
        assert_eq!(
            counts(&[entry(0), entry(1), entry(0), entry(2)].concat()),
            [1, 2, 3]
        );
        // Without a byte between there can be no entry between.
        assert_eq!(counts(&[entry(0), entry(2)].concat()), [1]);
        assert_eq!(counts(&[entry(0), &[0; 40][..], entry(2)].concat()), [1, 3]);
    }

    #[test]
    fn a_length_that_reaches_past_the_end_does_not_hide_what_follows() {
        let bytes = file(&[b"aaaa", &[7; 500], b"c"]);
        // The second entry's middle is gone, so that the third stands where its body should be.
        let short = [&bytes[..44 + 100], &bytes[44 + 540..]].concat();
        assert_eq!(counts(&short), [1, 3]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_scanned_alike_whole_and_in_pieces(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..400),
            places in proptest::collection::vec((0..400_usize, 0..60_u8), 0..6),
        ) {
            // Headers that nearly fit, over random bytes.
            for (at, len) in places {
                if at + 40 <= bytes.len() {
                    bytes[at..at + 4].copy_from_slice(&entry::MAGIC);
                    bytes[at + 12..at + 16].copy_from_slice(&u32::from(len).to_le_bytes());
                    bytes[at + 16..at + 24].copy_from_slice(&((1_u64 << 40) | (at as u64 / 40 + 1)).to_le_bytes());
                    bytes[at + 35] = len % 3;
                    bytes[at + 36..at + 40].fill(0);
                }
            }
            assert_scan_is_sound(&bytes);
        }
    }
}
