//! G.711 mu-law (ITU-T G.711): tables and silence.

/// Mu-law digital silence (positive zero). 0x00 is full-scale negative.
pub const SILENCE: u8 = 0xFF;

/// One mu-law byte as 16-bit linear PCM.
pub fn to_linear(byte: u8) -> i16 {
    let _ = byte;
    unimplemented!()
}

/// 16-bit linear PCM as mu-law.
pub fn from_linear(sample: i16) -> u8 {
    let _ = sample;
    unimplemented!()
}

/// Appends base64 text of `bytes` bytes of mu-law silence (all `/`, then the tail).
pub fn silence_base64_into(bytes: usize, out: &mut Vec<u8>) {
    let _ = (bytes, out);
    unimplemented!()
}
