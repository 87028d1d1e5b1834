//! `X-Twilio-Signature` as the carrier computes it: HMAC-SHA1 over the URL of the TwiML, base64. Pure.
//!
//! Its own few lines, so that it can disagree with the relay's check.

use crate::proto::audio::base64;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha1::Sha1;

/// The header's value for an upgrade to `url`, which is signed as written, `wss://…`.
pub fn signature(auth_token: &str, url: &str) -> String {
    let mut mac =
        Hmac::<Sha1>::new_from_slice(auth_token.as_bytes()).expect("HMAC takes keys of any length");
    mac.update(url.as_bytes());
    let mut text = Vec::with_capacity(28);
    base64::encode_into(&mac.finalize().into_bytes(), &mut text);
    String::from_utf8(text).expect("base64 is ASCII")
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_signature_is_28_characters_and_depends_on_all() {
        let one = super::signature("token", "wss://example.com/media-stream");
        assert_eq!(one.len(), 28);
        assert_ne!(
            one,
            super::signature("other", "wss://example.com/media-stream")
        );
        assert_ne!(
            one,
            super::signature("token", "https://example.com/media-stream")
        );
    }
}
