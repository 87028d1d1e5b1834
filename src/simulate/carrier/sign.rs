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

/// The header's value for a form POST to `url`: names in byte order, each with its value behind it.
pub fn signed_form(auth_token: &str, url: &str, form: &[(&str, &str)]) -> String {
    let mut form = form.to_vec();
    form.sort_unstable();
    form.dedup();
    let mut text = url.to_string();
    for (name, value) in form {
        text.push_str(name);
        text.push_str(value);
    }
    signature(auth_token, &text)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_vendor_s_vectors_come_out() {
        let url = "https://mycompany.com/myapp.php?foo=1&bar=2";
        let form = [
            ("To", "+18005551212"),
            ("CallSid", "CA1234567890ABCDE"),
            ("Digits", "1234"),
            ("Caller", "+14158675309"),
            ("From", "+14158675309"),
        ];
        assert_eq!(
            super::signed_form("12345", url, &form),
            "RSOYDt4T1cUTdK1PDd93/VVr8B8="
        );
        assert_eq!(
            super::signature("12345", url),
            "zYQTYrRWXE7LtzbG4PfP7/bkkGo="
        );
        assert_eq!(
            super::signature("12345", "wss://relay.example.net/media/twilio"),
            "gmW8z3udL4yZMhvE9UAqABjV6NE="
        );
    }

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
