//! G.711 mu-law (ITU-T G.711): tables and silence.
//!
//! Core. A mu-law byte is sent inverted: sign (0x80 set means positive), three bits of segment, four of
//! step. The 14-bit values of the recommendation are given left-aligned in 16 bits, as every telephony
//! stack does, so full scale is ±32124.

/// Mu-law digital silence (positive zero). 0x00 is full-scale negative.
pub const SILENCE: u8 = 0xFF;

/// Added before the segment is looked for, so that every segment starts at a power of two.
const BIAS: i32 = 0x84;
/// The largest magnitude that still has a code, after which `BIAS` would carry out of 15 bits.
const CLIP: i32 = 32_635;

/// Every code's linear value; 512 bytes, so it stays in the first cache level.
static LINEAR: [i16; 256] = {
    let mut table = [0; 256];
    let mut code = 0;
    while code < 256 {
        table[code] = expand(code as u8);
        code += 1;
    }
    table
};

const fn expand(byte: u8) -> i16 {
    let code = !byte;
    let segment = (code >> 4) & 0x07;
    let step = (code & 0x0F) as i32;
    let magnitude = (((step << 3) + BIAS) << segment) - BIAS;
    if code & 0x80 != 0 {
        -magnitude as i16
    } else {
        magnitude as i16
    }
}

/// One mu-law byte as 16-bit linear PCM, -32124 to 32124.
pub fn to_linear(byte: u8) -> i16 {
    LINEAR[byte as usize]
}

/// 16-bit linear PCM as mu-law. Zero becomes `SILENCE`, never the negative zero 0x7F.
pub fn from_linear(sample: i16) -> u8 {
    let sample = i32::from(sample);
    let sign = if sample < 0 { 0x80 } else { 0 };
    let biased = sample.abs().min(CLIP) + BIAS;
    // 0x84 <= biased <= 0x7FFF, so the highest bit set is one of 7 to 14.
    let segment = 24 - biased.leading_zeros();
    let step = (biased >> (segment + 3)) & 0x0F;
    !(sign | (segment as u8) << 4 | step as u8)
}

/// Appends base64 text of `bytes` bytes of mu-law silence (all `/`, then the tail).
pub fn silence_base64_into(bytes: usize, out: &mut Vec<u8>) {
    // Three bytes 0xFF are the four sextets 63, which is `/`.
    out.resize(out.len() + bytes / 3 * 4, b'/');
    match bytes % 3 {
        1 => out.extend_from_slice(b"/w=="),
        2 => out.extend_from_slice(b"//8="),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::audio::base64;

    /// The encoder as it is usually published: a search for the segment's end.
    fn from_linear_by_search(sample: i16) -> u8 {
        const ENDS: [i32; 8] = [0xFF, 0x1FF, 0x3FF, 0x7FF, 0xFFF, 0x1FFF, 0x3FFF, 0x7FFF];
        let (magnitude, mask) = if sample < 0 {
            (-i32::from(sample), 0x7F)
        } else {
            (i32::from(sample), 0xFF)
        };
        let biased = magnitude.min(CLIP) + BIAS;
        let segment = ENDS.iter().position(|end| biased <= *end).expect("clipped");
        ((segment as u8) << 4 | ((biased >> (segment + 3)) & 0x0F) as u8) ^ mask
    }

    #[test]
    fn landmarks_of_the_recommendation() {
        assert_eq!(to_linear(0xFF), 0);
        assert_eq!(to_linear(0x7F), 0);
        assert_eq!(to_linear(0x00), -32_124);
        assert_eq!(to_linear(0x80), 32_124);
        // Table 2a: the first decision of each segment, 0 to 7 (in 16 bits).
        assert_eq!(
            [0xFF, 0xEF, 0xDF, 0xCF, 0xBF, 0xAF, 0x9F, 0x8F].map(to_linear),
            [0, 132, 396, 924, 1_980, 4_092, 8_316, 16_764]
        );
        assert_eq!(from_linear(0), SILENCE);
        assert_eq!(from_linear(i16::MAX), 0x80);
        assert_eq!(from_linear(i16::MIN), 0x00);
    }

    #[test]
    fn every_code_survives_the_way_there_and_back() {
        for code in 0..=255u8 {
            let back = from_linear(to_linear(code));
            // The two zeros are one value; the positive one is the code we write.
            let expected = if code == 0x7F { 0xFF } else { code };
            assert_eq!(back, expected, "{code:#04x}");
        }
    }

    #[test]
    fn codes_rise_within_a_sign_and_mirror_across_it() {
        for code in 0x80..=0xFEu8 {
            assert!(to_linear(code) > to_linear(code + 1), "{code:#04x}");
            assert_eq!(to_linear(code), -to_linear(code & 0x7F), "{code:#04x}");
        }
    }

    #[test]
    fn encoder_agrees_with_the_published_one_on_every_sample() {
        for sample in i16::MIN..=i16::MAX {
            assert_eq!(
                from_linear(sample),
                from_linear_by_search(sample),
                "{sample}"
            );
        }
    }

    #[test]
    fn silence_text_decodes_to_that_many_silent_bytes() {
        for bytes in 0..=500 {
            let mut text = b"x".to_vec();
            silence_base64_into(bytes, &mut text);
            let mut plain = Vec::new();
            assert!(base64::decode_into(&text[1..], &mut plain), "{bytes}");
            assert_eq!(plain, vec![SILENCE; bytes]);
        }
    }
}
