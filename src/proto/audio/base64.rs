//! Standard base64 with padding (RFC 4648 section 4): validity and lengths without decoding.
//!
//! Core, used by the carrier's and the model's codecs. Valid means: a length that is a multiple of
//! 4, the standard alphabet alone, padding (one or two `=`) only at the end, and zero bits behind the
//! last whole byte (RFC 4648 section 3.5: a decoder may refuse anything else; ours does, so that
//! one run of bytes has exactly one text). `is_valid` and `decode_into` are the same judge: whatever
//! the first accepts, the second decodes. Valid text holds none of `"`, `\` and the controls, so it goes
//! into a JSON string as it is.

use base64_simd::STANDARD;

/// Whether `text` is valid, padded, canonical-length base64 (length a multiple of 4, padding only at the
/// end, alphabet only). Empty is valid. Also proves that it needs no JSON escaping.
pub fn is_valid(text: &[u8]) -> bool {
    STANDARD.check(text).is_ok()
}

/// How many bytes valid `text` decodes to. For text that is not valid the number means nothing.
pub fn decoded_len(text: &[u8]) -> usize {
    let padding = match text {
        [.., b'=', b'='] => 2,
        [.., b'='] => 1,
        _ => 0,
    };
    (text.len() / 4 * 3).saturating_sub(padding)
}

/// Appends the decoded bytes; `false` (and nothing appended) when invalid.
pub fn decode_into(text: &[u8], out: &mut Vec<u8>) -> bool {
    // The crate reserves exactly; doing it first lets the buffer double instead.
    out.reserve(decoded_len(text));
    STANDARD.decode_append(text, out).is_ok()
}

/// Appends the encoding of `bytes`.
pub fn encode_into(bytes: &[u8], out: &mut Vec<u8>) {
    out.reserve(bytes.len().div_ceil(3) * 4);
    STANDARD.encode_append(bytes, out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 4648 section 10.
    const VECTORS: &[(&str, &str)] = &[
        ("", ""),
        ("f", "Zg=="),
        ("fo", "Zm8="),
        ("foo", "Zm9v"),
        ("foob", "Zm9vYg=="),
        ("fooba", "Zm9vYmE="),
        ("foobar", "Zm9vYmFy"),
    ];

    /// The plain twin of `is_valid`, from the RFC's words.
    fn is_valid_naive(text: &[u8]) -> bool {
        if !text.len().is_multiple_of(4) {
            return false;
        }
        let value = |b: u8| match b {
            b'A'..=b'Z' => Some(b - b'A'),
            b'a'..=b'z' => Some(b - b'a' + 26),
            b'0'..=b'9' => Some(b - b'0' + 52),
            b'+' => Some(62),
            b'/' => Some(63),
            _ => None,
        };
        let padding = text.iter().rev().take_while(|b| **b == b'=').count();
        if padding > 2 {
            return false;
        }
        let body = &text[..text.len() - padding];
        if !body.iter().all(|b| value(*b).is_some()) {
            return false;
        }
        let last = body.last().and_then(|b| value(*b)).unwrap_or(0);
        match padding {
            1 => last & 0b11 == 0,
            2 => last & 0b1111 == 0,
            _ => true,
        }
    }

    #[test]
    fn rfc_4648_section_10_vectors_both_ways() {
        for (plain, text) in VECTORS {
            assert!(is_valid(text.as_bytes()), "{text}");
            assert_eq!(decoded_len(text.as_bytes()), plain.len());
            let mut out = b"kept".to_vec();
            encode_into(plain.as_bytes(), &mut out);
            assert_eq!(out, [b"kept", text.as_bytes()].concat());
            let mut out = b"kept".to_vec();
            assert!(decode_into(text.as_bytes(), &mut out));
            assert_eq!(out, [b"kept", plain.as_bytes()].concat());
        }
    }

    #[test]
    fn wrong_shapes_are_refused_and_leave_the_output_alone() {
        for text in [
            "Z",
            "Zg",
            "Zg=",
            "=",
            "==",
            "===",
            "====",
            "Z===",
            "Zg==Zg==",
            "Zg=v",
            "Zm9v\n",
            "Zm9\"",
            "Zm-_",
            "Zm9vZm9vZm9vZm9vZm9vZm9vZm9vZm9vZm9vZm9vZm9v\\A==",
            "Zh==",
            "Zm9=",
        ] {
            assert!(!is_valid(text.as_bytes()), "{text}");
            let mut out = b"kept".to_vec();
            assert!(!decode_into(text.as_bytes(), &mut out), "{text}");
            assert_eq!(out, b"kept", "{text}");
        }
    }

    proptest! {
        #[test]
        fn checker_decoder_and_naive_twin_agree(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            cut in 0usize..4,
            hit in proptest::option::of((any::<prop::sample::Index>(), any::<u8>())),
        ) {
            let mut text = Vec::new();
            encode_into(&bytes, &mut text);
            text.truncate(text.len().saturating_sub(cut));
            if let (Some((at, byte)), false) = (hit, text.is_empty()) {
                let at = at.index(text.len());
                text[at] = byte;
            }
            let valid = is_valid(&text);
            prop_assert_eq!(valid, is_valid_naive(&text));
            let mut out = Vec::new();
            prop_assert_eq!(decode_into(&text, &mut out), valid);
            if valid {
                prop_assert_eq!(out.len(), decoded_len(&text));
                let mut again = Vec::new();
                encode_into(&out, &mut again);
                prop_assert_eq!(again, text);
            }
        }
    }
}
