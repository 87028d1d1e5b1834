use super::super::render::tests::file;
use super::*;
use crate::call::track::Side;
use proptest::prelude::*;

fn cut(at: u64) -> Vec<u8> {
    Piece::Cut { at }.encode().to_vec()
}

fn line(bytes: &Vec<u8>, length: usize) -> Vec<u8> {
    let index = Index::scan(bytes, false).unwrap();
    let mut out = vec![0; length];
    index.read(bytes, 0, &mut out).unwrap();
    out
}

#[test]
fn a_file_cut_anywhere_is_read_up_to_its_last_whole_piece() {
    let pieces = [(0, vec![1; 50]), (60, vec![2; 40]), (100, vec![3; 30])];
    let bytes = file(Side::Caller, None, &pieces);
    let ends = [
        HEAD_BYTES,
        HEAD_BYTES + 70,
        HEAD_BYTES + 130,
        HEAD_BYTES + 180,
    ];
    for length in 0..=bytes.len() {
        let torn = bytes[..length].to_vec();
        let index = Index::scan(&torn, true).unwrap();
        let whole = ends.iter().rposition(|end| *end <= length);
        assert_eq!(index.head.is_some(), length >= HEAD_BYTES);
        assert_eq!(
            index.end(),
            [0, 50, 100, 130][whole.unwrap_or(0)],
            "{length}"
        );
        assert_eq!(index, Index::scan(&torn, false).unwrap());
        if let Some(whole) = whole {
            assert_eq!(index.whole_bytes, ends[whole] as u64);
        }
    }
}

#[test]
fn damage_costs_the_pieces_that_it_touches() {
    let pieces: Vec<_> = (0..10u8)
        .map(|n| (u64::from(n) * 100, vec![n + 1; 100]))
        .collect();
    let bytes = file(Side::Agent, Some(1_000), &pieces);
    for at in HEAD_BYTES..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0xFF;
        let index = Index::scan(&damaged, true).unwrap();
        let touched = (at - HEAD_BYTES) / 120;
        let mut out = vec![0; 1_000];
        index.read(&damaged, 0, &mut out).unwrap();
        for (n, byte) in out.iter().enumerate() {
            let expected = if n / 100 == touched {
                SILENCE
            } else {
                (n / 100) as u8 + 1
            };
            assert_eq!(*byte, expected, "{at} {n}");
        }
        let last = touched == 9 && (at - HEAD_BYTES) % 120 < 20;
        assert_eq!(index.damaged, u64::from(!last), "{at}");
    }
}

#[test]
fn audio_that_looks_like_a_piece_is_audio() {
    let inner = file(Side::Caller, None, &[(7_000, vec![9; 10])])[HEAD_BYTES..].to_vec();
    let bytes = file(Side::Caller, None, &[(0, inner.clone())]);
    let index = Index::scan(&bytes, true).unwrap();
    assert_eq!((index.end(), index.damaged), (inner.len() as u64, 0));
}

#[test]
fn a_cut_takes_what_is_before_it_in_the_file_and_behind_it_in_time() {
    let mut bytes = file(Side::Agent, None, &[(0, vec![1; 100]), (150, vec![2; 100])]);
    bytes.extend(cut(50));
    bytes.extend_from_slice(&file(Side::Agent, None, &[(80, vec![3; 100])])[HEAD_BYTES..]);
    let heard = line(&bytes, 300);
    let expected = [(1u8, 50), (SILENCE, 30), (3, 100), (SILENCE, 120)];
    let expected: Vec<u8> = expected.iter().flat_map(|(b, n)| vec![*b; *n]).collect();
    assert_eq!(heard, expected);
}

proptest! {
    #[test]
    fn stretches_lie_as_a_plain_line_of_bytes_says(
        steps in prop::collection::vec((any::<bool>(), 0..400u64, 1..120usize), 0..30),
        at in 0..500u64,
    ) {
        let mut bytes = file(Side::Agent, None, &[]);
        let mut naive = vec![SILENCE; 600];
        for (n, (is_cut, place, len)) in steps.into_iter().enumerate() {
            if is_cut && n % 3 == 0 {
                bytes.extend(cut(place));
                naive[place as usize..].fill(SILENCE);
            } else {
                let audio: Vec<u8> = (0..len).map(|k| (n * 7 + k) as u8).collect();
                bytes.extend_from_slice(&file(Side::Agent, None, &[(place, audio.clone())])[HEAD_BYTES..]);
                naive[place as usize..place as usize + len].copy_from_slice(&audio);
            }
        }
        let index = Index::scan(&bytes, true).unwrap();
        let mut out = vec![0; 600 - at as usize];
        index.read(&bytes, at, &mut out).unwrap();
        prop_assert!(out == naive[at as usize..]);
    }

    #[test]
    fn no_bytes_break_the_scan(bytes: Vec<u8>, with_head: bool) {
        let mut file = if with_head { file(Side::Caller, None, &[(0, vec![1; 5])]) } else { vec![] };
        file.extend(bytes);
        let index = Index::scan(&file, true).unwrap();
        prop_assert!(index.whole_bytes <= file.len() as u64);
    }
}
