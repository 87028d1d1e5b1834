//! `X-Twilio-Signature` on webhooks and upgrades ("Webhooks Security", read 2026-11).

/// Whether `signature` fits any of `tokens` for `url` and the decoded form `params` (empty for GET, JSON and
/// upgrades). Tries the URL as it is, without the port, and with the standard port (`:443` for https and wss). Constant time.
pub fn is_valid(tokens: &[&str], url: &str, params: &[(String, String)], signature: &str) -> bool {
    let _ = (tokens, url, params, signature);
    unimplemented!()
}

/// The base64 signature of `url` and `params` with `token`.
pub fn sign(token: &str, url: &str, params: &[(String, String)]) -> String {
    let _ = (token, url, params);
    unimplemented!()
}

/// For a JSON body: the URL's `bodySHA256` equals the SHA-256 of the raw body. `None` when the URL has none.
pub fn body_hash_matches(url: &str, body: &[u8]) -> Option<bool> {
    let _ = (url, body);
    unimplemented!()
}

/// Whether an upgrade's signature fits: tries, for the configured public origin (`https://host[:port]` or `wss://…`) and the
/// raw request target, the schemes wss and https, the path with and without a trailing slash, and the port variants.
pub fn is_valid_upgrade(tokens: &[&str], public_url: &str, target: &str, signature: &str) -> bool {
    let _ = (tokens, public_url, target, signature);
    unimplemented!()
}
