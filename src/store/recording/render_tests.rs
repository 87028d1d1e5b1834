use super::*;
use crate::call::track::{Head, Piece, Side};
use proptest::prelude::*;

/// A track file of these pieces of audio.
pub(in crate::store::recording) fn file(
    side: Side,
    length: Option<u64>,
    pieces: &[(u64, Vec<u8>)],
) -> Vec<u8> {
    let head = Head {
        side,
        began_unix_ms: 7,
        length,
    };
    let mut bytes = head.encode().to_vec();
    for (at, audio) in pieces {
        let piece = Piece::Audio {
            at: *at,
            len: audio.len() as u32,
            crc: crc32c::crc32c(audio),
        };
        bytes.extend_from_slice(&piece.encode());
        bytes.extend_from_slice(audio);
    }
    bytes
}

fn track(bytes: Vec<u8>) -> Track<Vec<u8>> {
    Some((Index::scan(&bytes, true).unwrap(), bytes))
}

fn noise(n: usize, seed: u64) -> Vec<u8> {
    let mut rng = crate::base::rng::Rng::from_u64(seed);
    (0..n).map(|_| rng.next_u32() as u8).collect()
}

fn recording(samples: u64, format: Format) -> Rendering<Vec<u8>> {
    let caller = file(
        Side::Caller,
        None,
        &[
            (0, noise(samples as usize / 2, 1)),
            (samples / 2 + 7, noise(samples as usize / 4, 2)),
        ],
    );
    let agent = file(
        Side::Agent,
        None,
        &[(samples / 3, noise(samples as usize / 3, 3))],
    );
    Rendering::new(track(caller), track(agent), samples, format)
}

fn formats() -> impl Iterator<Item = Format> {
    let encodings = [Encoding::Wav16k, Encoding::Wav8k, Encoding::Ulaw];
    let channels = [
        Channels::Stereo,
        Channels::Mono,
        Channels::Caller,
        Channels::Agent,
    ];
    encodings
        .into_iter()
        .flat_map(move |encoding| channels.map(|channels| Format { encoding, channels }))
}

fn whole(mut rendering: Rendering<Vec<u8>>) -> Vec<u8> {
    let mut bytes = Vec::new();
    rendering.read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn every_format_is_as_long_as_it_said() {
    for format in formats() {
        for samples in [0, 1, 2, 159, STRETCH as u64, STRETCH as u64 + 1, 20_001] {
            let rendering = recording(samples, format);
            let length = rendering.len();
            let bytes = whole(rendering);
            assert_eq!(bytes.len() as u64, length, "{format:?} {samples}");
            let says = u32::from_le_bytes(bytes[4..8].try_into().unwrap());
            assert_eq!(u64::from(says) + 8, length);
        }
    }
}

#[test]
fn an_independent_reader_takes_pcm_and_finds_the_stored_samples() {
    let rendering = recording(10_000, Format::parse("wav8k").unwrap());
    let bytes = whole(rendering);
    let mut reader = hound::WavReader::new(&bytes[..]).unwrap();
    let spec = reader.spec();
    assert_eq!(
        (spec.channels, spec.sample_rate, spec.bits_per_sample),
        (2, 8_000, 16)
    );
    let samples: Vec<i16> = reader.samples().map(Result::unwrap).collect();
    assert_eq!(samples.len(), 20_000);
    let (said, heard) = (noise(5_000, 1), noise(3_333, 3));
    for n in 0..5_000 {
        assert_eq!(samples[2 * n], to_linear(said[n]));
    }
    for n in 0..10_000usize {
        let byte = n.checked_sub(3_333).and_then(|n| heard.get(n));
        assert_eq!(samples[2 * n + 1], byte.map_or(0, |byte| to_linear(*byte)));
    }
    let doubled = whole(recording(10_000, Format::default()));
    let mut reader = hound::WavReader::new(&doubled[..]).unwrap();
    assert_eq!(
        (reader.spec().sample_rate, reader.duration()),
        (16_000, 20_000)
    );
    assert_eq!(reader.samples::<i16>().count(), 40_000);
}

#[test]
fn mu_law_is_as_stored_with_the_head_that_its_format_needs() {
    let bytes = whole(recording(4_001, Format::parse("ulaw,caller").unwrap()));
    assert_eq!(&bytes[12..16], b"fmt ");
    assert_eq!(u16::from_le_bytes([bytes[20], bytes[21]]), 7);
    assert_eq!(&bytes[38..42], b"fact");
    assert_eq!(u32::from_le_bytes(bytes[46..50].try_into().unwrap()), 4_001);
    assert_eq!(&bytes[50..54], b"data");
    assert_eq!(bytes[58..58 + 2_000], noise(2_000, 1));
    // An odd number of bytes has one behind it.
    assert_eq!((bytes.len(), bytes[58 + 4_001]), (58 + 4_002, 0));
    let both = whole(recording(4_001, Format::parse("ulaw").unwrap()));
    assert_eq!(both[58], noise(1, 1)[0]);
    assert_eq!(both[59], SILENCE);
}

#[test]
fn mono_is_the_sum_and_does_not_wrap() {
    let loud = |side| track(file(side, None, &[(0, vec![0x80; 100])]));
    let rendering = Rendering::new(
        loud(Side::Caller),
        loud(Side::Agent),
        100,
        Format::parse("wav8k,mono").unwrap(),
    );
    let bytes = whole(rendering);
    assert_eq!(bytes[44..46], i16::MAX.to_le_bytes());
}

#[test]
fn a_tone_has_its_level_and_place_after_doubling() {
    let tone: Vec<u8> = (0..16_000)
        .map(|n| {
            let angle = std::f64::consts::TAU * 1_000.0 * f64::from(n) / 8_000.0;
            from_linear((angle.sin() * 16_000.0) as i16)
        })
        .collect();
    let caller = track(file(Side::Caller, None, &[(0, tone.clone())]));
    let bytes = whole(Rendering::new(caller, None, 16_000, Format::default()));
    let sample = |n: usize| i16::from_le_bytes(bytes[44 + 4 * n..46 + 4 * n].try_into().unwrap());
    // Every second sample is one that was stored; μ-law's own steps are up to 512 here, the filter takes what is above 4 kHz of them.
    let mut error = 0.0;
    for n in 200..15_800 {
        let stored = f64::from(to_linear(tone[n]));
        error += (f64::from(sample(2 * n)) - stored).powi(2);
        assert_eq!(
            i16::from_le_bytes(bytes[46 + 8 * n..48 + 8 * n].try_into().unwrap()),
            0
        );
    }
    let rms = (error / 15_600.0).sqrt();
    assert!(rms < 160.0, "{rms}");
}

#[test]
fn what_lies_behind_the_end_is_not_rendered() {
    let caller = track(file(Side::Caller, Some(100), &[(0, vec![0x80; 200])]));
    assert_eq!(Rendering::length_of(&caller, &None), 100);
    let rendering = Rendering::new(caller, None, 100, Format::parse("ulaw,caller").unwrap());
    assert_eq!(rendering.len(), 158);
    // Nor does it ring into the last samples.
    let caller = track(file(Side::Caller, Some(100), &[(100, vec![0x80; 200])]));
    let rendering = Rendering::new(caller, None, 100, Format::default());
    assert!(whole(rendering)[44..].iter().all(|byte| *byte == 0));
}

#[test]
fn a_missing_side_is_silent_and_a_missing_recording_empty() {
    let nothing: Rendering<Vec<u8>> = Rendering::new(None, None, 0, Format::default());
    assert_eq!(nothing.len(), 44);
    assert_eq!(whole(nothing).len(), 44);
}

#[test]
fn unknown_words_are_named() {
    assert_eq!(Format::parse("wav8k,loud"), Err("loud"));
    assert_eq!(Format::parse(""), Ok(Format::default()));
    assert_eq!(
        Format::parse(" ulaw , mono "),
        Ok(Format {
            encoding: Encoding::Ulaw,
            channels: Channels::Mono
        })
    );
}

#[test]
fn a_days_recording_says_the_largest_length_there_is() {
    let samples = 24 * 3_600 * 8_000;
    let head = wav_head(Format::default(), samples);
    assert_eq!(head[4..8], [0xFF; 4]);
    assert_eq!(head[40..44], [0xFF; 4]);
    let rendering: Rendering<Vec<u8>> = Rendering::new(None, None, samples, Format::default());
    assert_eq!(rendering.len(), 44 + 86_400 * 64_000);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_range_is_the_same_bytes_as_the_whole(
        encoding in 0..3usize, channels in 0..4usize, samples in 0..12_000u64,
        from: prop::sample::Index, length in 0..40_000u64, step in 1..5_000usize,
    ) {
        let format = formats().nth(encoding * 4 + channels).unwrap();
        let all = whole(recording(samples, format));
        let from = from.index(all.len() + 1) as u64;
        let mut rendering = recording(samples, format);
        rendering.set_range(from..from + length);
        let expected = &all[from as usize..(from + length).min(all.len() as u64) as usize];
        prop_assert_eq!(rendering.remaining(), expected.len() as u64);
        let mut bytes = Vec::new();
        let mut piece = vec![0; step];
        loop {
            let n = rendering.read(&mut piece).unwrap();
            if n == 0 {
                break;
            }
            bytes.extend_from_slice(&piece[..n]);
        }
        prop_assert!(bytes == expected);
    }
}
