//! The signature on requests that we start, so that a server can tell them from anybody else's.
//!
//! `X-Voxrelay-Signature: t=<unix seconds>,v1=<hex>`, where `v1` is HMAC-SHA256 (RFC 2104, FIPS 180-4) under the shared
//! secret over `t`, a dot, and the body's bytes. The time inside the signed text lets a server refuse what
//! is replayed later.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::fmt::Write as _;

/// The header's name.
pub const HEADER: &str = "x-voxrelay-signature";

/// The header's value for a body sent at `unix_secs`.
pub fn sign(secret: &str, unix_secs: u64, body: &[u8]) -> String {
    // RFC 2104 section 2: keys of any length are taken.
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("any length is a key");
    mac.update(unix_secs.to_string().as_bytes());
    mac.update(b".");
    mac.update(body);
    let mut value = format!("t={unix_secs},v1=");
    for byte in mac.finalize().into_bytes() {
        let _ = write!(value, "{byte:02x}");
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_what_another_implementation_makes() {
        // printf '1700000000.{"a":1}' | openssl dgst -sha256 -hmac whsec_test
        assert_eq!(
            sign("whsec_test", 1_700_000_000, b"{\"a\":1}"),
            "t=1700000000,v1=38877139021993b830af32feea6e18a8da83eb2f6e49ee50bd9e4cf4ca4d3789"
        );
    }

    #[test]
    fn time_body_and_secret_are_all_in_it() {
        let one = sign("s", 1, b"x");
        assert_ne!(one, sign("t", 1, b"x"));
        assert_ne!(one[4..], sign("s", 2, b"x")[4..]);
        assert_ne!(one, sign("s", 1, b"y"));
        // The dot keeps time and body apart.
        assert_ne!(sign("s", 1, b"1.x")[4..], sign("s", 11, b".x")[4..]);
    }
}
