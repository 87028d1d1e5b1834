//! Standard base64 with padding (RFC 4648 section 4): validity and lengths without decoding.

/// Whether `text` is valid, padded, canonical-length base64 (length a multiple of 4, padding only at the
/// end, alphabet only). Empty is valid. Also proves that it needs no JSON escaping.
pub fn is_valid(text: &[u8]) -> bool {
    let _ = text;
    unimplemented!()
}

/// How many bytes valid `text` decodes to.
pub fn decoded_len(text: &[u8]) -> usize {
    let _ = text;
    unimplemented!()
}

/// Appends the decoded bytes; `false` (and nothing appended) when invalid.
pub fn decode_into(text: &[u8], out: &mut Vec<u8>) -> bool {
    let _ = (text, out);
    unimplemented!()
}

/// Appends the encoding of `bytes`.
pub fn encode_into(bytes: &[u8], out: &mut Vec<u8>) {
    let _ = (bytes, out);
    unimplemented!()
}
