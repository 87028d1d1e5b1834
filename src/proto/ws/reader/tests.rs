//! The RFC's examples, each violation, and the reader against tungstenite's.

use proptest::prelude::*;

use super::*;
use crate::proto::ws::differential::{End, Seen, assert_agreement, ours};
use crate::proto::ws::writer::{Kind, write_frame};

const KEY: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];
const LIMIT: usize = 1 << 20;

/// A frame as the header's fields say, lengths in the shortest form.
fn raw(first: u8, mask: Option<[u8; 4]>, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    write_frame(&mut out, Kind::Binary, mask, &[payload]);
    out[0] = first;
    out
}

/// What the reader of a client (unmasked frames) makes of `bytes`.
fn read_all(bytes: &[u8]) -> (Vec<Seen>, End<Violation>) {
    ours(Role::Client, LIMIT, bytes, [bytes.len()])
}

fn text(text: &str) -> Seen {
    Seen::Text(text.as_bytes().to_vec())
}

/// Whole, byte by byte, and split at each offset, the outcome is the same.
fn assert_read(role: Role, bytes: &[u8], expected: (&[Seen], End<Violation>)) {
    let cuts = (0..=bytes.len()).map(|cut| vec![cut]);
    for pieces in cuts.chain([vec![1; bytes.len()]]) {
        let (seen, end) = ours(role, LIMIT, bytes, pieces.clone());
        assert_eq!((&*seen, end), expected, "pieces {pieces:?}");
    }
}

#[test]
fn rfc_6455_section_5_7_examples() {
    let hello = || vec![text("Hello")];
    let long: Vec<u8> = (0..=255).collect();
    let cases: &[(Role, &[u8], Vec<Seen>)] = &[
        (Role::Client, b"\x81\x05\x48\x65\x6c\x6c\x6f", hello()),
        (
            Role::Server,
            b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58",
            hello(),
        ),
        (
            Role::Client,
            b"\x01\x03\x48\x65\x6c\x80\x02\x6c\x6f",
            hello(),
        ),
        (
            Role::Client,
            b"\x89\x05\x48\x65\x6c\x6c\x6f",
            vec![Seen::Ping(b"Hello".to_vec())],
        ),
        (
            Role::Server,
            b"\x8a\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58",
            vec![Seen::Pong(b"Hello".to_vec())],
        ),
        (
            Role::Client,
            &[b"\x82\x7E\x01\x00", &*long].concat(),
            vec![Seen::Binary(long.clone())],
        ),
    ];
    for (role, bytes, seen) in cases {
        assert_read(*role, bytes, (seen, End::Waiting));
    }
    let huge = long.repeat(256);
    let bytes = [b"\x82\x7F\0\0\0\0\0\x01\0\0", &*huge].concat();
    assert_eq!(read_all(&bytes), (vec![Seen::Binary(huge)], End::Waiting));
}

#[test]
fn a_conversation_in_masked_frames_is_read_alike_however_it_is_cut() {
    let bytes = [
        raw(0x81, Some(KEY), "caf\u{e9}".as_bytes()),
        raw(0x01, Some(KEY), b"one \xE2"),
        raw(0x89, Some(KEY), b"between"),
        raw(0x00, Some(KEY), b""),
        raw(0x00, Some(KEY), b"\x82"),
        raw(0x8A, Some(KEY), b""),
        raw(0x80, Some(KEY), b"\xAC two"),
        raw(0x81, Some(KEY), b""),
        raw(0x82, Some(KEY), &[9; 130]),
        raw(0x02, Some(KEY), b"ab"),
        raw(0x80, Some(KEY), b"cd"),
        raw(0x88, Some(KEY), b"\x03\xE8bye"),
        raw(0x81, Some(KEY), b"after the close: discarded"),
    ]
    .concat();
    let expected = [
        text("caf\u{e9}"),
        Seen::Ping(b"between".to_vec()),
        Seen::Pong(Vec::new()),
        text("one \u{20AC} two"),
        text(""),
        Seen::Binary(vec![9; 130]),
        Seen::Binary(b"abcd".to_vec()),
        Seen::Close(1000),
    ];
    assert_read(Role::Server, &bytes, (&expected, End::Closed));
}

#[test]
fn each_violation_has_its_label_and_close_code() {
    let cases: &[(&[u8], Violation, u16, &str)] = &[
        (b"\xC1\x00", Violation::ReservedBits, 1002, "reserved_bits"),
        (b"\x83\x00", Violation::Opcode, 1002, "opcode"),
        (b"\x8B\x00", Violation::Opcode, 1002, "opcode"),
        (b"\x81\x80abcd", Violation::Masking, 1002, "masking"),
        (b"\x09\x00", Violation::Control, 1002, "control"),
        (b"\x89\x7e\x00\x7e", Violation::Control, 1002, "control"),
        (b"\x80\x00", Violation::Fragmentation, 1002, "fragmentation"),
        (
            b"\x01\x00\x81\x00",
            Violation::Fragmentation,
            1002,
            "fragmentation",
        ),
        (
            b"\x01\x00\x02\x00",
            Violation::Fragmentation,
            1002,
            "fragmentation",
        ),
        (
            b"\x82\x7f\0\0\0\0\0\x10\0\x01",
            Violation::TooLong,
            1009,
            "too_long",
        ),
        (b"\x81\x01\xFF", Violation::Utf8, 1007, "utf8"),
        (b"\x81\x02\xE2\x82", Violation::Utf8, 1007, "utf8"),
        (b"\x01\x01\xE2\x80\x01\x82", Violation::Utf8, 1007, "utf8"),
        (b"\x88\x01\x03", Violation::Close, 1002, "close"),
        (b"\x88\x02\x03\xED", Violation::Close, 1002, "close"),
        (b"\x88\x03\x03\xE8\xFF", Violation::Utf8, 1007, "utf8"),
        (b"\x82\x7e\x00\x01x", Violation::Length, 1002, "length"),
        (
            b"\x82\x7f\xff\xff\xff\xff\xff\xff\xff\xff",
            Violation::Length,
            1002,
            "length",
        ),
    ];
    for (bytes, violation, code, label) in cases {
        assert_read(Role::Client, bytes, (&[], End::Failed(*violation)));
        assert_eq!((violation.close_code(), violation.label()), (*code, *label));
    }
    assert_read(
        Role::Server,
        b"\x81\x00",
        (&[], End::Failed(Violation::Masking)),
    );
}

#[test]
fn a_message_in_one_frame_is_handed_out_where_it_lies() {
    let mut input = raw(0x81, Some(KEY), b"{\"event\":\"media\"}");
    let home = input.as_ptr_range();
    let mut reader = Reader::new(Role::Server, LIMIT);
    let (used, message) = reader.read(&mut input).unwrap();
    let Some(Message::Text(text)) = message else {
        panic!("{message:?}");
    };
    assert!(home.contains(&text.as_ptr()));
    assert_eq!((used, &*text), (23, &b"{\"event\":\"media\"}"[..]));
    assert_eq!(reader.held_bytes(), 0);
}

#[test]
fn bytes_given_again_are_not_unmasked_again() {
    let whole = raw(0x81, Some(KEY), b"twice the same");
    let mut input = whole.clone();
    let mut reader = Reader::new(Role::Server, LIMIT);
    for there in [3, 6, 7, 7, 10, 10, 15, 19] {
        assert_eq!(reader.read(&mut input[..there]), Ok((0, None)), "{there}");
    }
    assert_eq!(reader.missing_bytes(), 1);
    let (used, message) = reader.read(&mut input).unwrap();
    assert_eq!(used, whole.len());
    assert_eq!(
        message,
        Some(Message::Text(&mut b"twice the same".to_vec()))
    );
    assert_eq!(reader.missing_bytes(), 0);
}

#[test]
fn text_fails_at_its_first_bad_byte_while_the_frame_is_still_partial() {
    // Autobahn 6.4.3: the bad byte is inside a frame that never ends.
    let good = "\u{3ba}\u{1f79}".as_bytes();
    for mask in [None, Some(KEY)] {
        let role = if mask.is_some() {
            Role::Server
        } else {
            Role::Client
        };
        let mut input = raw(0x81, mask, &[good, b"\xF4\x90\x80\x80 and so on"].concat());
        let header = input.len() - good.len() - 14;
        let mut reader = Reader::new(role, LIMIT);
        let upto = header + good.len() + 1;
        assert_eq!(reader.read(&mut input[..upto]), Ok((0, None)));
        assert_eq!(reader.read(&mut input[..upto + 1]), Err(Violation::Utf8));
        // And in a fragment likewise.
        let mut input = raw(0x01, mask, &[good, b"\xF4\x90\x80\x80 and so on"].concat());
        let mut reader = Reader::new(role, LIMIT);
        let (used, _) = reader.read(&mut input[..upto]).unwrap();
        assert_eq!(used, upto);
        assert_eq!(
            reader.read(&mut input[used..upto + 1]),
            Err(Violation::Utf8)
        );
    }
}

#[test]
fn the_limit_is_inclusive_and_checked_at_the_header() {
    let limit = 300;
    let read = |bytes: &[u8]| ours(Role::Client, limit, bytes, [bytes.len()]);
    assert_eq!(
        read(&raw(0x82, None, &[1; 300])),
        (vec![Seen::Binary(vec![1; 300])], End::Waiting)
    );
    let too_long = (vec![], End::Failed(Violation::TooLong));
    assert_eq!(read(&raw(0x82, None, &[1; 301])[..4]), too_long);
    let fragments = [raw(0x02, None, &[1; 200]), raw(0x80, None, &[1; 100])].concat();
    assert_eq!(
        read(&fragments),
        (vec![Seen::Binary(vec![1; 300])], End::Waiting)
    );
    let fragments = [raw(0x02, None, &[1; 200]), raw(0x80, None, &[1; 101])].concat();
    assert_eq!(read(&fragments[..fragments.len() - 101]), too_long);
}

#[test]
fn fragments_without_end_are_bounded() {
    let start = raw(0x01, None, b"");
    let most = EMPTY_FRAGMENTS_MAX as usize;
    let bytes = [
        start.clone(),
        raw(0x00, None, b"").repeat(most),
        raw(0x80, None, b"x"),
    ]
    .concat();
    assert_eq!(read_all(&bytes), (vec![text("x")], End::Waiting));
    // Counted for each message anew.
    assert_eq!(
        read_all(&bytes.repeat(2)),
        (vec![text("x"), text("x")], End::Waiting)
    );
    let bytes = [start, raw(0x00, None, b"").repeat(most + 1)].concat();
    assert_eq!(read_all(&bytes), (vec![], End::Failed(Violation::TooLong)));
}

#[test]
fn a_big_fragmented_message_is_freed_once_it_was_handed_out() {
    let mut reader = Reader::new(Role::Client, LIMIT);
    let mut first = raw(0x02, None, &[1; 50_000]);
    assert_eq!(reader.read(&mut first), Ok((50_004, None)));
    assert!((50_000..=LIMIT).contains(&reader.held_bytes()));
    let mut last = raw(0x80, None, &[2; 10]);
    let (_, message) = reader.read(&mut last).unwrap();
    assert!(matches!(message, Some(Message::Binary(bytes)) if bytes.len() == 50_010));
    assert_eq!(reader.read(&mut []), Ok((0, None)));
    assert_eq!(reader.held_bytes(), 0);
}

#[test]
fn after_a_close_everything_is_discarded_and_after_a_violation_nothing_is_read() {
    let mut reader = Reader::new(Role::Client, LIMIT);
    assert_eq!(
        reader.read(&mut b"\x88\x00".to_vec()),
        Ok((2, Some(Message::Close(1005, ""))))
    );
    assert_eq!(reader.read(&mut b"\x81\x01x".to_vec()), Ok((3, None)));

    let mut reader = Reader::new(Role::Client, LIMIT);
    assert_eq!(
        reader.read(&mut b"\xF1\x00".to_vec()),
        Err(Violation::ReservedBits)
    );
    assert_eq!(
        reader.read(&mut b"\x81\x01x".to_vec()),
        Err(Violation::ReservedBits)
    );
}

/// Frames that are right one by one, mostly; in any order, so fragmentation is often wrong.
fn frame(masked: bool) -> impl Strategy<Value = Vec<u8>> {
    let payload = prop_oneof![
        4 => "[a-z\u{e9}\u{20ac}\u{1f600}]{0,12}".prop_map(String::into_bytes),
        2 => proptest::collection::vec(any::<u8>(), 0..6),
        1 => (120usize..135, any::<u8>()).prop_map(|(len, byte)| vec![byte & 0x7F; len]),
        1 => (65_530usize..65_540).prop_map(|len| vec![b'x'; len]),
        1 => (any::<u16>(), "[a-z]{0,5}")
            .prop_map(|(code, why)| [&code.to_be_bytes(), why.as_bytes()].concat()),
        1 => (990u16..1020, Just("ok")).prop_map(|(code, why)| [&code.to_be_bytes(), why.as_bytes()].concat()),
    ];
    let first = prop_oneof![
        8 => prop::sample::select(vec![0x81u8, 0x82, 0x01, 0x02, 0x00, 0x00, 0x80, 0x80, 0x89, 0x8A]),
        1 => Just(0x88),
        1 => any::<u8>(),
    ];
    (first, payload, any::<[u8; 4]>(), 0..40u8).prop_map(move |(first, payload, key, flip)| {
        // Now and then on the wrong side of the masking rule.
        let mask = (masked != (flip == 0)).then_some(key);
        raw(first, mask, &payload)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn agrees_with_tungstenite_on_any_frames_cut_anywhere(
        (server, frames) in any::<bool>().prop_flat_map(|server| {
            (Just(server), proptest::collection::vec(frame(server), 1..8))
        }),
        hit in proptest::option::of((any::<prop::sample::Index>(), any::<u8>())),
        tail in any::<prop::sample::Index>(),
        pieces in proptest::collection::vec(prop_oneof![1usize..9, 1usize..400], 0..200),
        limit in prop_oneof![Just(200usize), Just(LIMIT)],
    ) {
        let mut bytes = frames.concat();
        if let Some((at, byte)) = hit {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(bytes.len() - tail.index(bytes.len().min(4)));
        let role = if server { Role::Server } else { Role::Client };
        assert_agreement(role, limit, &bytes, pieces);
    }

    #[test]
    fn agrees_with_tungstenite_on_any_bytes(
        bytes in proptest::collection::vec(any::<u8>(), 0..64),
        pieces in proptest::collection::vec(1usize..9, 0..64),
        server in any::<bool>(),
    ) {
        let role = if server { Role::Server } else { Role::Client };
        assert_agreement(role, 1000, &bytes, pieces);
    }
}
