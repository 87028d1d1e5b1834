use super::*;
use crate::base::id::ItemId;
use crate::call::playback::Playback;
use proptest::prelude::*;

/// A worker's pool and disk. Blocks that were given away come back only when told.
#[derive(Default)]
struct Disk {
    files: [Vec<u8>; 2],
    empty: usize,
    given: usize,
}

impl Disk {
    fn with(empty: usize) -> Self {
        Self {
            empty,
            ..Self::default()
        }
    }

    fn block(&mut self) -> Vec<u8> {
        Vec::with_capacity(BLOCK_BYTES)
    }
}

impl Blocks for Disk {
    fn exchange(&mut self, side: Side, full: Vec<u8>) -> Option<Vec<u8>> {
        assert!(
            full.len() <= BLOCK_BYTES && full.capacity() < 2 * BLOCK_BYTES,
            "the block never grows"
        );
        self.files[side as usize].extend_from_slice(&full);
        self.given += 1;
        (self.empty > 0).then(|| {
            self.empty -= 1;
            self.block()
        })
    }
}

fn recorder(disk: &mut Disk) -> Recorder {
    Recorder::new(Mono(0), disk.block(), disk.block())
}

fn at_ms(ms: u64) -> Mono {
    Mono(ms * 1_000_000)
}

fn text(audio: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    base64::encode_into(audio, &mut text);
    text
}

/// What a file says was heard: the plainest reader there is. Silence where nothing is said.
fn rendered(file: &[u8], length: usize) -> Vec<u8> {
    let mut line = vec![SILENCE; length];
    let mut rest = file;
    while !rest.is_empty() {
        let piece = Piece::decode(rest).expect("whole pieces only");
        rest = &rest[PIECE_BYTES..];
        match piece {
            Piece::Audio { at, len, crc } => {
                let (audio, later) = rest.split_at(len as usize);
                assert_eq!(crc32c::crc32c(audio), crc);
                rest = later;
                for (n, byte) in audio.iter().enumerate() {
                    if let Some(place) = line.get_mut(at as usize + n) {
                        *place = *byte;
                    }
                }
            }
            Piece::Cut { at } => {
                for place in line.iter_mut().skip(at as usize) {
                    *place = SILENCE;
                }
            }
        }
    }
    line
}

#[test]
fn a_head_survives_its_bytes_and_damage_is_seen() {
    for length in [None, Some(0), Some(SAMPLES_MAX)] {
        let head = Head {
            side: Side::Agent,
            began_unix_ms: 1_772_000_000_123,
            length,
        };
        let bytes = head.encode();
        assert_eq!(Head::decode(&bytes), Some(head));
        for at in 0..HEAD_BYTES {
            let mut damaged = bytes;
            damaged[at] ^= 0x10;
            assert_eq!(Head::decode(&damaged), None, "{at}");
            assert_eq!(Head::decode(&bytes[..at]), None);
        }
    }
}

#[test]
fn a_piece_survives_its_bytes_and_damage_is_seen() {
    for piece in [
        Piece::Audio {
            at: SAMPLES_MAX - 7,
            len: 7,
            crc: 0xDEAD_BEEF,
        },
        Piece::Cut { at: 5 },
    ] {
        let bytes = piece.encode();
        assert_eq!(Piece::decode(&bytes), Some(piece));
        for at in 0..PIECE_BYTES {
            let mut damaged = bytes;
            damaged[at] ^= 1;
            assert_eq!(Piece::decode(&damaged), None, "{at}");
            assert_eq!(Piece::decode(&bytes[..at]), None);
        }
    }
    let beyond = Piece::Audio {
        at: SAMPLES_MAX,
        len: 1,
        crc: 0,
    };
    assert_eq!(Piece::decode(&beyond.encode()), None);
}

#[test]
fn a_caller_that_never_pauses_is_one_piece_a_block() {
    let mut disk = Disk::with(9);
    let mut recorder = recorder(&mut disk);
    let mut said = Vec::new();
    for n in 0..500u64 {
        let frame = vec![n as u8; 160];
        // Stamps that jitter by a few milliseconds, frames that come late and together.
        let stamp = n * 20 + [0, 3, 0, 7][n as usize % 4];
        recorder.caller(
            Some(stamp),
            &text(&frame),
            at_ms(n / 10 * 200 + 200),
            &mut disk,
        );
        said.extend_from_slice(&frame);
    }
    let (length, counts) = recorder.finish(at_ms(10_200), &mut disk);
    assert_eq!((length, counts), (81_600, Counts::default()));
    let file = &disk.files[0];
    // 80,000 bytes in 5 blocks: what does not fit the last group of three goes into the next.
    assert_eq!(file.len(), 80_000 + 5 * PIECE_BYTES);
    // The first frame came 200 ms after the start, and there it lies.
    let heard = rendered(file, length as usize);
    assert!(heard[..1_600].iter().all(|byte| *byte == SILENCE));
    assert!(heard[1_600..] == said);
}

#[test]
fn a_gap_in_stream_time_is_silence_of_its_length() {
    let mut disk = Disk::with(9);
    let mut recorder = recorder(&mut disk);
    let frame = [1u8; 160];
    for stamp in [0, 20, 1_020, 1_040] {
        recorder.caller(Some(stamp), &text(&frame), at_ms(stamp), &mut disk);
    }
    let (length, counts) = recorder.finish(at_ms(1_060), &mut disk);
    assert_eq!(counts.gaps, 1);
    let heard = rendered(&disk.files[0], length as usize);
    let spoken: Vec<usize> = (0..heard.len()).filter(|n| heard[*n] == 1).collect();
    let expected: Vec<usize> = (0..320).chain(8_160..8_480).collect();
    assert_eq!(spoken, expected);
}

#[test]
fn stamps_that_mean_nothing_do_not_stretch_the_timeline() {
    for stamps in [
        [0, 1_000_000, 2_000_000, 3_000_000],
        [5_000_000_000, 20, 0, u64::MAX],
        [7, 7, 7, 7],
    ] {
        let mut disk = Disk::with(9);
        let mut recorder = recorder(&mut disk);
        for (n, stamp) in stamps.into_iter().enumerate() {
            recorder.caller(
                Some(stamp),
                &text(&[1; 160]),
                at_ms(n as u64 * 20),
                &mut disk,
            );
        }
        recorder.caller(None, &text(&[1; 160]), at_ms(80), &mut disk);
        let (length, _) = recorder.finish(at_ms(100), &mut disk);
        assert_eq!(length, 800, "{stamps:?}");
        let heard = rendered(&disk.files[0], length as usize);
        assert_eq!(heard, vec![1; 800]);
    }
}

#[test]
fn what_a_clear_took_back_is_not_on_the_track_and_what_follows_is() {
    let mut disk = Disk::with(9);
    let mut recorder = recorder(&mut disk);
    // A second is sent at once, 100 ms in; 400 ms of it are heard.
    recorder.agent(0, &text(&[1; 8_000]), at_ms(100), &mut disk);
    recorder.cut(3_200, at_ms(500), &mut disk);
    recorder.cut(3_200, at_ms(500), &mut disk);
    recorder.agent(8_000, &text(&[2; 800]), at_ms(600), &mut disk);
    let (length, counts) = recorder.finish(at_ms(1_000), &mut disk);
    assert_eq!((length, counts.cuts), (8_000, 1));
    let heard = rendered(&disk.files[1], length as usize);
    let expected = [
        (SILENCE, 800),
        (1, 3_200),
        (SILENCE, 800),
        (2, 800),
        (SILENCE, 2_400),
    ];
    let expected: Vec<u8> = expected
        .iter()
        .flat_map(|(byte, n)| vec![*byte; *n])
        .collect();
    assert!(heard == expected);
}

#[test]
fn a_frame_without_audio_leaves_no_trace() {
    let mut disk = Disk::with(9);
    let mut recorder = recorder(&mut disk);
    recorder.caller(Some(900), b"", at_ms(900), &mut disk);
    recorder.agent(0, &text(&[1; 800]), at_ms(0), &mut disk);
    for line in [800, 800, 800, 800, 800] {
        recorder.agent(line, b"", at_ms(10), &mut disk);
    }
    recorder.cut(400, at_ms(50), &mut disk);
    let (length, counts) = recorder.finish(at_ms(100), &mut disk);
    assert_eq!((length, counts.gaps, counts.cuts), (800, 0, 1));
    let heard = rendered(&disk.files[1], length as usize);
    assert_eq!(heard.iter().filter(|byte| **byte == 1).count(), 400);
    assert!(disk.files[0].is_empty());
}

#[test]
fn what_was_never_heard_at_the_end_is_cut() {
    let mut disk = Disk::with(9);
    let mut recorder = recorder(&mut disk);
    recorder.agent(0, &text(&[1; 80_000]), at_ms(0), &mut disk);
    let (length, _) = recorder.finish(at_ms(50), &mut disk);
    assert_eq!(length, 400);
    // Also for a reader that does not know the length.
    let heard = rendered(&disk.files[1], 80_000);
    assert_eq!(heard.iter().filter(|byte| **byte == 1).count(), 400);
}

#[test]
fn nothing_waits_longer_than_a_second_and_a_quiet_line_writes_nothing() {
    let mut disk = Disk::with(99);
    let mut recorder = recorder(&mut disk);
    assert_eq!(recorder.due(), None);
    let mut written = 0;
    for n in 0..500u64 {
        recorder.caller(Some(n * 20), &text(&[1; 160]), at_ms(n * 20), &mut disk);
        assert!(recorder.due().unwrap() >= at_ms(n * 20));
        recorder.flush(at_ms(n * 20), &mut disk);
        let held = 160 * (n as usize + 1) - (disk.files[0].len() - disk.given * PIECE_BYTES);
        assert!(held <= 8_000 + 160, "{held}");
        written = disk.given;
    }
    assert_eq!(written, 9);
    recorder.flush(at_ms(20_000), &mut disk);
    assert_eq!((recorder.due(), disk.given), (None, 10));
    recorder.flush(at_ms(30_000), &mut disk);
    assert_eq!(disk.given, 10);
}

#[test]
fn without_a_block_audio_is_left_out_and_its_place_stays_silent() {
    let mut disk = Disk::with(0);
    let mut recorder = recorder(&mut disk);
    recorder.agent(0, &text(&[1; 40_000]), at_ms(0), &mut disk);
    // One block's worth was kept, with room for a cut.
    let kept = (BLOCK_BYTES - 2 * PIECE_BYTES) / 3 * 3;
    recorder.agent(40_000, &text(&[2; 300]), at_ms(10), &mut disk);
    // Cut where there is still no block to say so.
    recorder.cut(8_000, at_ms(1_000), &mut disk);
    let block = disk.block();
    assert_eq!(recorder.lend(Side::Agent, block), None);
    assert!(recorder.lend(Side::Agent, Vec::new()).is_some());
    recorder.agent(40_300, &text(&[3; 800]), at_ms(1_100), &mut disk);
    let (length, counts) = recorder.finish(at_ms(1_300), &mut disk);
    assert_eq!(counts.lost_bytes, 40_000 - kept as u64 + 300);
    let heard = rendered(&disk.files[1], length as usize);
    let expected = [(1, 8_000), (SILENCE, 800), (3, 800), (SILENCE, 800)];
    let expected: Vec<u8> = expected
        .iter()
        .flat_map(|(byte, n)| vec![*byte; *n])
        .collect();
    assert!(heard == expected);
}

#[test]
fn a_recording_ends_where_its_numbers_do() {
    let mut disk = Disk::with(9);
    let mut recorder = recorder(&mut disk);
    let late = Mono(SAMPLES_MAX * 125_000);
    recorder.agent(0, &text(&[1; 800]), late, &mut disk);
    recorder.caller(None, &text(&[1; 8_000]), late, &mut disk);
    let (length, counts) = recorder.finish(Mono(u64::MAX), &mut disk);
    assert_eq!(length, SAMPLES_MAX);
    assert_eq!(counts.lost_bytes, 8_800);
}

/// What happens in a call, as the property tests draw it.
#[derive(Clone, Debug)]
enum Step {
    /// Time goes by, ms.
    Wait(u64),
    /// The model sends audio of one byte, so many times.
    Speak(u8, usize),
    /// The caller interrupts.
    Clear,
    /// A frame of the caller's is lost.
    Lose,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1..400u64).prop_map(Step::Wait),
        4 => (1..100u8, 1..12_000usize).prop_map(|(byte, n)| Step::Speak(byte, n)),
        1 => Just(Step::Clear),
        1 => Just(Step::Lose),
    ];
    prop::collection::vec(step, 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// A carrier that plays what it is sent at 8 bytes a millisecond, and forgets it when told to.
    #[test]
    fn the_agents_track_is_what_a_carrier_played(steps in steps()) {
        let mut disk = Disk::with(usize::MAX);
        let mut recorder = recorder(&mut disk);
        let mut ledger = Playback::default();
        let mut item = 0u32;
        let (mut now, mut line) = (0u64, 0u64);
        let mut queue = std::collections::VecDeque::new();
        let (mut played, mut said) = (Vec::new(), Vec::new());
        let mut lost = false;
        for step in steps {
            match step {
                Step::Wait(ms) => {
                    for _ in 0..ms {
                        for _ in 0..8 {
                            played.push(queue.pop_front().unwrap_or(SILENCE));
                        }
                        now += 1;
                        if now % 20 == 0 {
                            let byte = (now / 20 % 90) as u8;
                            if std::mem::take(&mut lost) {
                                said.extend([SILENCE; 160]);
                            } else {
                                // A frame holds the 20 ms before it.
                                recorder.caller(Some(now - 20), &text(&[byte; 160]), at_ms(now), &mut disk);
                                said.extend([byte; 160]);
                            }
                        }
                        recorder.flush(at_ms(now), &mut disk);
                    }
                }
                Step::Speak(byte, bytes) => {
                    let audio = vec![byte; bytes];
                    item += 1;
                    ledger.advance(at_ms(now));
                    // More items than the ledger holds are the call's matter.
                    if !ledger.begin(ItemId::new(&format!("i{item}")), None, 0) {
                        continue;
                    }
                    ledger.queue(bytes as u64);
                    ledger.on_sent(bytes as u64, at_ms(now));
                    ledger.on_item_done(Some(&format!("i{item}")), 0);
                    recorder.agent(line, &text(&audio), at_ms(now), &mut disk);
                    line += bytes as u64;
                    queue.extend(audio);
                    while ledger.take_settled().is_some() {}
                }
                Step::Clear => {
                    ledger.advance(at_ms(now));
                    let heard = ledger.offsets().0;
                    recorder.cut(heard, at_ms(now), &mut disk);
                    while ledger.take_cut().is_some() {}
                    queue.clear();
                }
                Step::Lose => lost = true,
            }
        }
        let (length, counts) = recorder.finish(at_ms(now), &mut disk);
        prop_assert_eq!(counts.lost_bytes, 0);
        let agent = rendered(&disk.files[1], length as usize);
        prop_assert!(agent[..played.len()] == played[..], "as heard");
        prop_assert!(agent[played.len()..].iter().all(|byte| *byte == SILENCE));
        // The caller's: the first frame lies where it came, so everything is 20 ms late, if the first was not lost.
        let caller = rendered(&disk.files[0], length as usize);
        let first = said.iter().position(|byte| *byte != SILENCE).unwrap_or(said.len());
        let shift = 160.min(caller.len());
        if first == 0 && !said.is_empty() {
            let end = said.len().min(caller.len() - shift);
            prop_assert!(caller[shift..shift + end] == said[..end]);
        }
    }

    #[test]
    fn no_bytes_break_the_readers(bytes: Vec<u8>) {
        let _ = Head::decode(&bytes);
        let _ = Piece::decode(&bytes);
    }
}
