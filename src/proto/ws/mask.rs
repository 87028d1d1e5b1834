//! XOR with the masking key (RFC 6455 section 5.3).

/// Unmasks (or masks) `bytes` in place; `offset` is how far into the payload `bytes` starts.
pub fn apply(bytes: &mut [u8], key: [u8; 4], offset: usize) {
    let _ = (bytes, key, offset);
    unimplemented!()
}

/// Appends `bytes` to `out`, masked; `offset` as above.
pub fn extend(out: &mut Vec<u8>, bytes: &[u8], key: [u8; 4], offset: usize) {
    let _ = (out, bytes, key, offset);
    unimplemented!()
}
