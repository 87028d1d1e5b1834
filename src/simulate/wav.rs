//! WAV files as the simulated caller's voice: 8 kHz mono, mu-law or 16-bit PCM, to PCMU bytes. Pure.

use crate::proto::audio::g711;

/// Why a file can't be a caller's voice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WavError {
    /// Not RIFF/WAVE, or cut.
    NotWav,
    /// No `fmt ` chunk before the data, or no data.
    Incomplete,
    /// Not 8 kHz mono, or neither mu-law nor 16-bit PCM.
    Unsupported,
}

impl std::fmt::Display for WavError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NotWav => "not a WAV file, or cut short",
            Self::Incomplete => "the WAV file has no format or no data",
            Self::Unsupported => {
                "only 8 kHz mono mu-law or 16-bit PCM; convert with `sox IN -r 8000 -c 1 -e u-law OUT.wav`"
            }
        })
    }
}

const FORMAT_PCM: u16 = 1;
const FORMAT_MULAW: u16 = 7;

/// The file's audio as PCMU bytes (8 bytes are 1 ms).
pub fn to_pcmu(file: &[u8]) -> Result<Vec<u8>, WavError> {
    if file.len() < 12 || &file[..4] != b"RIFF" || &file[8..12] != b"WAVE" {
        return Err(WavError::NotWav);
    }
    let mut rest = &file[12..];
    let mut format = None;
    while rest.len() >= 8 {
        let len = u32::from_le_bytes([rest[4], rest[5], rest[6], rest[7]]) as usize;
        let (name, body) = (&rest[..4], &rest[8..]);
        // A recorder that was stopped leaves a data length of 0 or 2^32-1: take what is there.
        let chunk = body.get(..len).unwrap_or(body);
        match name {
            b"fmt " => {
                if chunk.len() < 16 {
                    return Err(WavError::NotWav);
                }
                let u16_at = |at: usize| u16::from_le_bytes([chunk[at], chunk[at + 1]]);
                let rate = u32::from_le_bytes([chunk[4], chunk[5], chunk[6], chunk[7]]);
                format = match (u16_at(0), u16_at(2), rate, u16_at(14)) {
                    (kind @ FORMAT_PCM, 1, 8000, 16) | (kind @ FORMAT_MULAW, 1, 8000, 8) => {
                        Some(kind)
                    }
                    _ => return Err(WavError::Unsupported),
                };
            }
            b"data" => {
                return match format {
                    _ if chunk.is_empty() => Err(WavError::Incomplete),
                    Some(FORMAT_MULAW) => Ok(chunk.to_vec()),
                    Some(_) => Ok(chunk
                        .chunks_exact(2)
                        .map(|b| g711::from_linear(i16::from_le_bytes([b[0], b[1]])))
                        .collect()),
                    None => Err(WavError::Incomplete),
                };
            }
            _ => {}
        }
        // Chunks are padded to an even length.
        let next = 8 + len.saturating_add(len & 1);
        rest = rest.get(next..).unwrap_or(&[]);
    }
    Err(WavError::Incomplete)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hound::{SampleFormat, WavSpec, WavWriter};
    use std::io::Cursor;

    fn pcm(rate: u32, samples: &[i16]) -> Vec<u8> {
        let mut file = Cursor::new(Vec::new());
        let spec = WavSpec {
            channels: 1,
            sample_rate: rate,
            bits_per_sample: 16,
            sample_format: SampleFormat::Int,
        };
        let mut writer = WavWriter::new(&mut file, spec).expect("a spec that hound knows");
        for &sample in samples {
            writer.write_sample(sample).expect("memory takes it");
        }
        writer.finalize().expect("memory takes it");
        file.into_inner()
    }

    #[test]
    fn a_file_that_hound_wrote_is_read() {
        let samples = [0, 1000, -1000, i16::MAX, i16::MIN];
        let want: Vec<u8> = samples.iter().map(|&s| g711::from_linear(s)).collect();
        assert_eq!(to_pcmu(&pcm(8000, &samples)), Ok(want));
    }

    #[test]
    fn other_rates_are_refused_with_the_fix() {
        assert_eq!(to_pcmu(&pcm(16000, &[1, 2])), Err(WavError::Unsupported));
    }

    #[test]
    fn a_file_cut_anywhere_never_panics() {
        let file = pcm(8000, &[1, 2, 3, 4]);
        for len in 0..file.len() {
            let _ = to_pcmu(&file[..len]);
        }
        assert_eq!(to_pcmu(&file[..11]), Err(WavError::NotWav));
        assert_eq!(to_pcmu(&file[..40]), Err(WavError::Incomplete));
    }

    #[test]
    fn the_shipped_caller_speaks_for_at_most_20_seconds() {
        let audio = to_pcmu(crate::simulate::CALLER_WAV).expect("our own file");
        assert!((10_000 * 8..=20_000 * 8).contains(&audio.len()));
    }
}
