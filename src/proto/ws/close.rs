//! Close codes (RFC 6455 section 7.4) and the close frame's payload.
//!
//! | code a peer sends | answer |
//! |---|---|
//! | none (empty payload) | taken as 1005, answered with an empty close frame |
//! | 1000–1003, 1007–1014, 3000–4999 | taken |
//! | 0–999, 1004–1006, 1015–2999, 5000 and up | `Violation::Close`, 1002 |
//! | payload of one byte | `Violation::Close`, 1002 |
//! | reason not UTF-8 | `Violation::Utf8`, 1007 |

use super::reader::Violation;
use crate::base::limit::CONTROL_PAYLOAD_MAX;

/// Normal end.
pub const NORMAL: u16 = 1000;
/// The endpoint goes away.
pub const GOING_AWAY: u16 = 1001;
/// A protocol error.
pub const PROTOCOL: u16 = 1002;
/// A kind of data that can't be taken.
pub const UNSUPPORTED: u16 = 1003;
/// Not on the wire: the close frame had no code.
pub const NO_STATUS: u16 = 1005;
/// Not UTF-8.
pub const INVALID_DATA: u16 = 1007;
/// Refused by policy.
pub const POLICY: u16 = 1008;
/// Too long.
pub const TOO_LARGE: u16 = 1009;
/// Our fault.
pub const INTERNAL: u16 = 1011;

/// Whether an endpoint may send `code` in a close frame.
pub fn may_be_sent(code: u16) -> bool {
    // RFC 6455 section 7.4.2, and the IANA registry for 1012 to 1014. 1004 is reserved; 1005, 1006 and
    // 1015 are never on the wire; 1016 to 2999 await a revision of the protocol.
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// The payload of a close frame: code and reason, cut to 123 bytes at a character's edge. The second
/// value is how much of the array counts.
///
/// A code that may not be on the wire (`NO_STATUS`, say, when a peer's empty close is answered) gives an
/// empty payload.
pub fn payload(code: u16, reason: &str) -> ([u8; CONTROL_PAYLOAD_MAX], usize) {
    let mut bytes = [0; CONTROL_PAYLOAD_MAX];
    if !may_be_sent(code) {
        return (bytes, 0);
    }
    let room = CONTROL_PAYLOAD_MAX - 2;
    let cut = &reason[..reason.floor_char_boundary(room)];
    bytes[..2].copy_from_slice(&code.to_be_bytes());
    bytes[2..2 + cut.len()].copy_from_slice(cut.as_bytes());
    (bytes, 2 + cut.len())
}

/// Code and reason of a peer's close frame, from its unmasked payload.
pub fn parse(payload: &[u8]) -> Result<(u16, &str), Violation> {
    match payload {
        [] => Ok((NO_STATUS, "")),
        // RFC 6455 section 5.5.1: the body, if there is one, starts with a two byte code.
        [_] => Err(Violation::Close),
        [high, low, reason @ ..] => {
            let code = u16::from_be_bytes([*high, *low]);
            if !may_be_sent(code) {
                return Err(Violation::Close);
            }
            let reason = std::str::from_utf8(reason).map_err(|_| Violation::Utf8)?;
            Ok((code, reason))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_reads_back_as_written() {
        let (bytes, len) = payload(NORMAL, "call ended");
        assert_eq!(parse(&bytes[..len]), Ok((NORMAL, "call ended")));
        let (bytes, len) = payload(4999, "");
        assert_eq!((len, parse(&bytes[..len])), (2, Ok((4999, ""))));
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let (bytes, len) = payload(POLICY, &"x".repeat(200));
        assert_eq!(len, 125);
        assert_eq!(parse(&bytes[..len]), Ok((POLICY, &*"x".repeat(123))));
        // 61 two-byte characters fill 122 bytes; half of the next would not be UTF-8.
        let (bytes, len) = payload(POLICY, &"é".repeat(100));
        assert_eq!(parse(&bytes[..len]), Ok((POLICY, &*"é".repeat(61))));
    }

    #[test]
    fn codes_that_are_never_on_the_wire_give_an_empty_payload() {
        for code in [0, NO_STATUS, 1006, 1015, 2000, 5000] {
            assert_eq!(payload(code, "why").1, 0, "{code}");
        }
        assert_eq!(parse(b""), Ok((NO_STATUS, "")));
    }

    #[test]
    fn exactly_the_codes_of_section_7_4_are_taken() {
        for code in 0..=u16::MAX {
            let expected = (1000..=1003).contains(&code)
                || (1007..=1014).contains(&code)
                || (3000..=4999).contains(&code);
            assert_eq!(parse(&code.to_be_bytes()).is_ok(), expected, "{code}");
        }
    }

    #[test]
    fn one_byte_and_bad_reasons_are_violations() {
        assert_eq!(parse(&[3]), Err(Violation::Close));
        assert_eq!(parse(&[3, 0xE8, 0xFF]), Err(Violation::Utf8));
        assert_eq!(parse(&[3, 0xE8, 0xE2, 0x82]), Err(Violation::Utf8));
    }
}
