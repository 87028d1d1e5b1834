//! XOR with the masking key (RFC 6455 section 5.3).
//!
//! Core, the one thing that touches every byte of a masked payload, so it works on machine words; the
//! plain twin is in the tests, and they are held against each other at every length, alignment and phase.

/// Bytes handled at once: a cache line, so that the compiler makes vector code of the inner loop and the
/// growth check of `extend` costs one branch a line.
const BLOCK: usize = 64;

/// The key as a word, turned so that its first byte in memory belongs to payload byte `offset`.
fn word(key: [u8; 4], offset: usize) -> u64 {
    let turned: [u8; 8] = std::array::from_fn(|i| key[(offset.wrapping_add(i)) & 3]);
    u64::from_ne_bytes(turned)
}

/// Unmasks (or masks) `bytes` in place; `offset` is how far into the payload `bytes` starts.
pub fn apply(bytes: &mut [u8], key: [u8; 4], offset: usize) {
    let word = word(key, offset);
    let (words, tail) = bytes.as_chunks_mut::<8>();
    for chunk in words {
        *chunk = (u64::from_ne_bytes(*chunk) ^ word).to_ne_bytes();
    }
    // Whole words keep the phase, so the tail starts with the word's first byte again.
    for (byte, key) in tail.iter_mut().zip(word.to_ne_bytes()) {
        *byte ^= key;
    }
}

/// Appends `bytes` to `out`, masked; `offset` as above. One pass: each byte is read once and written once.
pub fn extend(out: &mut Vec<u8>, bytes: &[u8], key: [u8; 4], offset: usize) {
    let word = word(key, offset);
    out.reserve(bytes.len());
    let (blocks, rest) = bytes.as_chunks::<BLOCK>();
    for block in blocks {
        let mut masked = *block;
        for chunk in masked.as_chunks_mut::<8>().0 {
            *chunk = (u64::from_ne_bytes(*chunk) ^ word).to_ne_bytes();
        }
        out.extend_from_slice(&masked);
    }
    let (words, tail) = rest.as_chunks::<8>();
    for chunk in words {
        out.extend_from_slice(&(u64::from_ne_bytes(*chunk) ^ word).to_ne_bytes());
    }
    let mut masked = word.to_ne_bytes();
    for (key, byte) in masked.iter_mut().zip(tail) {
        *key ^= byte;
    }
    out.extend_from_slice(&masked[..tail.len()]);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The plain twin: the RFC's formula, octet by octet.
    fn apply_naive(bytes: &mut [u8], key: [u8; 4], offset: usize) {
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte ^= key[(offset + i) % 4];
        }
    }

    fn payload(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i * 131 + 17) as u8).collect()
    }

    const KEY: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

    #[test]
    fn in_place_agrees_with_the_twin_at_each_length_alignment_and_offset() {
        for len in 0..200 {
            for start in 0..16 {
                for offset in [0, 1, 2, 3, 4, 7, 126, 65_535] {
                    let mut fast = payload(len + start);
                    let mut plain = fast.clone();
                    apply(&mut fast[start..], KEY, offset);
                    apply_naive(&mut plain[start..], KEY, offset);
                    assert_eq!(fast, plain, "len {len} start {start} offset {offset}");
                }
            }
        }
    }

    #[test]
    fn appending_agrees_with_the_twin_at_each_length_alignment_and_offset() {
        for len in 0..200 {
            for start in 0..9 {
                for offset in 0..4 {
                    let source = payload(len + start);
                    let mut fast = vec![0xAA; start];
                    extend(&mut fast, &source[start..], KEY, offset);
                    let mut plain = source[start..].to_vec();
                    apply_naive(&mut plain, KEY, offset);
                    assert_eq!(fast[..start], vec![0xAA; start]);
                    assert_eq!(
                        fast[start..],
                        plain,
                        "len {len} start {start} offset {offset}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_payload_masked_in_pieces_is_the_payload_masked_at_once() {
        let mut whole = payload(150);
        apply(&mut whole, KEY, 0);
        for cut in 0..=150 {
            let mut pieces = payload(150);
            let (front, back) = pieces.split_at_mut(cut);
            apply(front, KEY, 0);
            apply(back, KEY, cut);
            assert_eq!(pieces, whole, "{cut}");
        }
    }

    #[test]
    fn an_offset_at_the_end_of_the_number_range_does_not_overflow() {
        let mut bytes = payload(8);
        apply(&mut bytes, KEY, usize::MAX);
        let mut plain = payload(8);
        apply_naive(&mut plain, KEY, 3);
        assert_eq!(bytes, plain);
    }
}
