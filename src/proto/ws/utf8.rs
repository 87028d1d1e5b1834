//! UTF-8 checked as it arrives: the first byte that can't belong is an error at once, a character cut by
//! the end of what is there is not.

/// What is known of a text so far: valid, but for at most three bytes of an unfinished character.
#[derive(Clone, Copy, Debug, Default)]
pub struct Incremental {
    /// The unfinished character's bytes, valid as a beginning. 0 <= pending_len <= 3.
    pending: [u8; 4],
    pending_len: usize,
}

/// Not UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invalid;

impl Incremental {
    /// Takes the next bytes of the text.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<(), Invalid> {
        while self.pending_len > 0 {
            let [first, rest @ ..] = bytes else {
                return Ok(());
            };
            bytes = rest;
            self.pending[self.pending_len] = *first;
            self.pending_len += 1;
            match std::str::from_utf8(&self.pending[..self.pending_len]) {
                Ok(_) => self.pending_len = 0,
                // No length: the bytes are a good beginning, at most three of them.
                Err(error) if error.error_len().is_none() => {}
                Err(_) => return Err(Invalid),
            }
        }
        match simdutf8::compat::from_utf8(bytes) {
            Ok(_) => Ok(()),
            Err(error) if error.error_len().is_none() => {
                let rest = &bytes[error.valid_up_to()..];
                self.pending[..rest.len()].copy_from_slice(rest);
                self.pending_len = rest.len();
                Ok(())
            }
            Err(_) => Err(Invalid),
        }
    }

    /// Ends the text, and starts the next: an unfinished character is an error now.
    pub fn finish(&mut self) -> Result<(), Invalid> {
        match std::mem::take(&mut self.pending_len) {
            0 => Ok(()),
            _ => Err(Invalid),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn whole(pieces: &[&[u8]]) -> Result<(), Invalid> {
        let mut check = Incremental::default();
        pieces.iter().try_for_each(|piece| check.feed(piece))?;
        check.finish()
    }

    #[test]
    fn a_byte_that_cannot_follow_is_an_error_at_once() {
        // Table 3-7 of the Unicode standard: what the second byte may be depends on the first.
        for (good, bad) in [
            (&b"\xF4"[..], 0x90),
            (b"\xED", 0xA0),
            (b"\xE0", 0x9F),
            (b"\xF0", 0x8F),
            (b"\xE2\x82", 0x28),
            (b"", 0xC0),
            (b"", 0xF5),
            (b"", 0x80),
        ] {
            let mut check = Incremental::default();
            assert_eq!(check.feed(good), Ok(()));
            assert_eq!(check.feed(&[bad]), Err(Invalid), "{good:02x?} {bad:02x}");
        }
    }

    #[test]
    fn an_unfinished_character_is_an_error_only_at_the_end() {
        for text in ["é", "€", "😀"] {
            for cut in 1..text.len() {
                assert_eq!(whole(&[&text.as_bytes()[..cut]]), Err(Invalid));
                assert_eq!(
                    whole(&[&text.as_bytes()[..cut], &text.as_bytes()[cut..]]),
                    Ok(())
                );
            }
        }
    }

    proptest! {
        #[test]
        fn pieces_are_judged_as_the_whole(
            pieces in proptest::collection::vec(
                prop_oneof![
                    any::<String>().prop_map(String::into_bytes),
                    proptest::collection::vec(any::<u8>(), 0..4),
                ],
                0..6,
            ),
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let text = pieces.concat();
            let mut at: Vec<usize> = cuts.iter().map(|c| c.index(text.len() + 1)).collect();
            at.extend([0, text.len()]);
            at.sort_unstable();
            let parts: Vec<&[u8]> = at.windows(2).map(|w| &text[w[0]..w[1]]).collect();
            prop_assert_eq!(whole(&parts).is_ok(), std::str::from_utf8(&text).is_ok());
        }
    }
}
