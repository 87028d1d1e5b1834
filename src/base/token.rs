//! The stream ticket: the signed, short-lived word that ties a webhook's answer to the stream that
//! follows (`<callId>.<expiry>.<mac>`).
//!
//! Core. The webhook mints it into the stream's URL, and repeats it as a parameter for whoever reads `start`; the desk
//! verifies it at the upgrade, and asks for it on every stream of a call that it announced. The parameter is not compared
//! again: the call compares the `callSid` of `start` with the announced one. That a ticket is used once only is the
//! desk's to remember, by `mac`.
//!
//! It is a path segment as it stands: `[A-Za-z0-9_.:-]`, at most 128 bytes. Call ids may hold dots, so
//! it is split from the right.

use super::id::CallId;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::fmt::Write as _;
use subtle::ConstantTimeEq;

/// The longest ticket, in bytes.
pub const TICKET_BYTES_MAX: usize = 128;
/// 128 bits, in hexadecimal digits.
const MAC_DIGITS: usize = 32;
/// Seconds since 1970 with one digit more than this would be past the year 33658.
const EXPIRY_DIGITS_MAX: usize = 12;
/// Part of what is signed, so that the key's other uses can never make a ticket.
const CONTEXT: &[u8] = b"voxrelay stream ticket 1\0";

/// A ticket that was found good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The call that it is for.
    pub call_id: CallId,
    /// Milliseconds since 1970; from then on it is refused.
    pub expires_unix_ms: u64,
    /// Its signature: what tells two tickets apart, for whoever remembers the used ones.
    pub mac: [u8; 16],
}

/// Why a text is no good ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TicketError {
    /// Not of the form.
    Shape,
    /// Not made with this key, or changed since.
    Signature,
    /// Made by us, but its time is over.
    Expired,
}

impl TicketError {
    /// A bounded metric label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Shape => "shape",
            Self::Signature => "signature",
            Self::Expired => "expired",
        }
    }
}

impl std::fmt::Display for TicketError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Shape => "not a stream ticket",
            Self::Signature => "a stream ticket with a wrong signature",
            Self::Expired => "an expired stream ticket",
        })
    }
}

impl std::error::Error for TicketError {}

/// Makes a ticket for `call_id` that is good until `expires_unix_s` (seconds since 1970).
///
/// An id that can't stand in a path segment (other characters than `[A-Za-z0-9_.:-]`) or that makes the
/// ticket longer than 128 bytes (ids above about 80) gives a text that `verify` refuses as `Shape`: mint
/// tickets for our own ids.
pub fn mint(key: &[u8; 32], call_id: &CallId, expires_unix_s: u64) -> String {
    let mut text = format!("{call_id}.{expires_unix_s}");
    let mac = sign(key, &text);
    text.push('.');
    for byte in mac {
        write!(text, "{byte:02x}").expect("a String takes every byte");
    }
    text
}

/// Checks a ticket, in this order: form, signature (constant time), expiry.
pub fn verify(key: &[u8; 32], text: &str, now_unix_ms: u64) -> Result<Ticket, TicketError> {
    let parts = split(text).ok_or(TicketError::Shape)?;
    let call_id = CallId::new(parts.call_id).ok_or(TicketError::Shape)?;
    if !bool::from(sign(key, parts.signed).ct_eq(&parts.mac)) {
        return Err(TicketError::Signature);
    }
    let expires_unix_ms = parts.expires_unix_s.saturating_mul(1000);
    if now_unix_ms >= expires_unix_ms {
        return Err(TicketError::Expired);
    }
    Ok(Ticket {
        call_id,
        expires_unix_ms,
        mac: parts.mac,
    })
}

/// Whether `text` has a ticket's form. Says nothing about who made it; costs no cryptography.
pub fn looks_like_ticket(text: &str) -> bool {
    split(text).is_some()
}

struct Parts<'a> {
    call_id: &'a str,
    expires_unix_s: u64,
    mac: [u8; 16],
    /// Call id and expiry with the dot between.
    signed: &'a str,
}

fn split(text: &str) -> Option<Parts<'_>> {
    if text.len() > TICKET_BYTES_MAX {
        return None;
    }
    let (signed, digits) = text.rsplit_once('.')?;
    let (call_id, expiry) = signed.rsplit_once('.')?;
    let is_segment = |byte: u8| byte.is_ascii_alphanumeric() || b"_.:-".contains(&byte);
    if call_id.is_empty() || !call_id.bytes().all(is_segment) {
        return None;
    }
    if expiry.len() > EXPIRY_DIGITS_MAX || !expiry.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(Parts {
        call_id,
        expires_unix_s: expiry.parse().ok()?,
        mac: hex(digits)?,
        signed,
    })
}

/// Lower case only, so that each ticket has one spelling.
fn hex(digits: &str) -> Option<[u8; 16]> {
    if digits.len() != MAC_DIGITS {
        return None;
    }
    let nibble = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut mac = [0; 16];
    for (byte, pair) in mac.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(mac)
}

fn sign(key: &[u8; 32], signed: &str) -> [u8; 16] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes any key length");
    mac.update(CONTEXT);
    mac.update(signed.as_bytes());
    let full = mac.finalize().into_bytes();
    let mut short = [0; 16];
    short.copy_from_slice(&full[..16]);
    short
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: [u8; 32] = [7; 32];
    const EXPIRY: u64 = 1_800_000_000;
    const BEFORE: u64 = EXPIRY * 1000 - 1;

    fn id(text: &str) -> CallId {
        CallId::new(text).expect("short")
    }

    #[test]
    fn a_ticket_is_good_until_its_expiry_and_not_at_it() {
        let text = mint(&KEY, &id("call-1"), EXPIRY);
        assert!(text.starts_with("call-1.1800000000."));
        let ticket = verify(&KEY, &text, BEFORE).expect("fresh");
        assert_eq!(ticket.call_id, id("call-1"));
        assert_eq!(ticket.expires_unix_ms, EXPIRY * 1000);
        assert_eq!(
            verify(&KEY, &text, EXPIRY * 1000),
            Err(TicketError::Expired)
        );
    }

    #[test]
    fn the_signature_is_the_truncated_hmac_of_what_stands_before_it() {
        // Made with another implementation: HMAC-SHA256(07 * 32, context || "call-1.1800000000")[..16].
        assert_eq!(
            mint(&KEY, &id("call-1"), EXPIRY),
            "call-1.1800000000.15a3f2feaf21f8dc64c2125626b0da60"
        );
    }

    #[test]
    fn another_key_or_any_change_is_refused() {
        let text = mint(&KEY, &id("call-1"), EXPIRY);
        assert_eq!(verify(&[8; 32], &text, BEFORE), Err(TicketError::Signature));
        for at in 0..text.len() {
            for byte in *b"0a.Z" {
                let mut changed = text.clone().into_bytes();
                if changed[at] == byte {
                    continue;
                }
                changed[at] = byte;
                let changed = String::from_utf8(changed).expect("ASCII");
                assert!(verify(&KEY, &changed, BEFORE).is_err(), "{changed}");
            }
        }
        // Moving the dots moves nothing across: the whole front is signed.
        let a = mint(&KEY, &id("a.1"), 2);
        let b = mint(&KEY, &id("a"), 12);
        assert_ne!(a.rsplit('.').next(), b.rsplit('.').next());
    }

    #[test]
    fn expiry_does_not_show_before_the_signature_is_right() {
        let text = mint(&KEY, &id("call-1"), 1);
        assert_eq!(verify(&[8; 32], &text, BEFORE), Err(TicketError::Signature));
        assert_eq!(verify(&KEY, &text, BEFORE), Err(TicketError::Expired));
    }

    #[test]
    fn what_has_not_the_form_is_no_ticket() {
        let mac = "0".repeat(32);
        for text in [
            String::new(),
            ".".into(),
            "..".into(),
            "call-1".into(),
            format!("1800000000.{mac}"),
            format!(".1800000000.{mac}"),
            format!("a..{mac}"),
            format!("a.-1.{mac}"),
            format!("a.+1.{mac}"),
            format!("a.1e9.{mac}"),
            format!("a.1234567890123.{mac}"),
            format!("a/b.1800000000.{mac}"),
            format!("a%2e.1800000000.{mac}"),
            format!("é.1800000000.{mac}"),
            format!("a.1800000000.{mac}0"),
            format!("a.1800000000.{}", &mac[1..]),
            format!("a.1800000000.{}", "A".repeat(32)),
            format!("a.1800000000.{}", "é".repeat(16)),
            format!("{}.1800000000.{mac}", "a".repeat(85)),
        ] {
            assert!(!looks_like_ticket(&text), "{text}");
            assert_eq!(verify(&KEY, &text, 0), Err(TicketError::Shape), "{text}");
        }
    }

    #[test]
    fn ids_with_dots_and_the_longest_id_that_fits() {
        for name in ["a.b.c", "1.2", "...", &"x".repeat(84)] {
            let text = mint(&KEY, &id(name), EXPIRY);
            assert!(text.len() <= TICKET_BYTES_MAX);
            assert_eq!(verify(&KEY, &text, BEFORE).map(|t| t.call_id), Ok(id(name)));
        }
        let text = mint(&KEY, &id(&"x".repeat(85)), EXPIRY);
        assert_eq!(verify(&KEY, &text, BEFORE), Err(TicketError::Shape));
    }

    proptest! {
        #[test]
        fn every_id_of_ours_comes_back(name in "[A-Za-z0-9_.:-]{1,80}", expiry in 1..100_000_000_000_u64) {
            let text = mint(&KEY, &id(&name), expiry);
            prop_assert!(looks_like_ticket(&text));
            prop_assert!(text.len() <= TICKET_BYTES_MAX);
            prop_assert_eq!(verify(&KEY, &text, 0).map(|t| t.call_id), Ok(id(&name)));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,140}") {
            let _ = verify(&KEY, &text, 0);
        }
    }
}
