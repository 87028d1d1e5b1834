//! `X-Twilio-Signature` on webhooks and upgrades ("Webhooks Security", read 2026-11).
//!
//! Core. Two things are delicate. The URL is the one that the carrier was given, so the caller builds it
//! from the configured public origin and the raw request target, never from `Host` or forwarded headers;
//! and the carrier's back ends disagree about writing the standard port, so both forms are tried. All
//! candidates name the same endpoint under the same key: taking any of them opens nothing.

use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use subtle::{Choice, ConstantTimeEq};

/// Whether `signature` fits any of `tokens` for `url` and the decoded form `params` (empty for GET, JSON and
/// upgrades). Tries the URL as it is, without the port, and with the standard port (`:443` for https and wss),
/// each also with the query in the vendor's legacy encoding. Constant time in the signature.
///
/// A JSON body is not covered by this alone: `body_hash_matches` must be `Some(true)` besides.
pub fn is_valid(tokens: &[&str], url: &str, params: &[(String, String)], signature: &str) -> bool {
    let mut urls = Vec::new();
    for variant in port_variants(url) {
        if let Some(encoded) = legacy_encoding(&variant) {
            urls.push(encoded);
        }
        urls.push(variant);
    }
    any_fits(tokens, &urls, params, signature)
}

/// The base64 signature of `url` and `params` with `token`. The fragment is no part of what is signed.
pub fn sign(token: &str, url: &str, params: &[(String, String)]) -> String {
    let mac = hmac(token, url, &appended(params));
    base64_simd::STANDARD.encode_to_string(mac)
}

/// For a JSON body: the URL's `bodySHA256` equals the SHA-256 of the raw body. `None` when the URL has none.
/// With several, all must match: nobody can smuggle a second one in.
pub fn body_hash_matches(url: &str, body: &[u8]) -> Option<bool> {
    let (_, query) = without_fragment(url).split_once('?')?;
    let mut hashes = query
        .split('&')
        .filter_map(|pair| pair.strip_prefix("bodySHA256="))
        .peekable();
    hashes.peek()?;
    let mut expected = String::with_capacity(64);
    for byte in Sha256::digest(body) {
        write!(expected, "{byte:02x}").expect("a String takes every byte");
    }
    // The hash is no secret: whoever knows the body knows it.
    Some(hashes.all(|hash| hash == expected))
}

/// Whether an upgrade's signature fits: tries, for the configured public origin (`https://host[:port]` or `wss://…`) and the
/// raw request target, the schemes wss and https, the path with and without a trailing slash, the target with and
/// without its query, and the port variants.
pub fn is_valid_upgrade(tokens: &[&str], public_url: &str, target: &str, signature: &str) -> bool {
    let Some((_, origin)) = public_url.split_once("://") else {
        return false;
    };
    if !target.starts_with('/') {
        return false;
    }
    let origin = origin.trim_end_matches('/');
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    let other = match path.strip_suffix('/') {
        Some(shorter) => shorter.to_owned(),
        None => format!("{path}/"),
    };
    let mut urls = Vec::new();
    for scheme in ["wss", "https"] {
        for path in [path, &other] {
            // The carrier drops a query before it connects; if one arrives, either form may be signed.
            let bare = format!("{scheme}://{origin}{path}");
            if let Some(query) = query {
                urls.extend(port_variants(&format!("{bare}?{query}")));
            }
            urls.extend(port_variants(&bare));
        }
    }
    any_fits(tokens, &urls, &[], signature)
}

/// A form body's fields, decoded, in order: what `is_valid` wants. Bytes that are no UTF-8 are replaced,
/// so that the signature can't fit.
pub fn parse_form(body: &[u8]) -> Vec<(String, String)> {
    form_urlencoded::parse(body).into_owned().collect()
}

/// Compares with every candidate and never stops early, so that the time says nothing about which fits.
fn any_fits(
    tokens: &[&str],
    urls: &[String],
    params: &[(String, String)],
    signature: &str,
) -> bool {
    let params = appended(params);
    let mut fits = Choice::from(0);
    for token in tokens.iter().filter(|token| !token.is_empty()) {
        for url in urls {
            let expected = base64_simd::STANDARD.encode_to_string(hmac(token, url, &params));
            fits |= expected.as_bytes().ct_eq(signature.as_bytes());
        }
    }
    fits.into()
}

fn hmac(token: &str, url: &str, params: &str) -> [u8; 20] {
    let mut mac =
        Hmac::<Sha1>::new_from_slice(token.as_bytes()).expect("HMAC takes any key length");
    mac.update(without_fragment(url).as_bytes());
    mac.update(params.as_bytes());
    mac.finalize().into_bytes().into()
}

/// Names and values one after the other: sorted by name, then value (never by both joined), each pair once.
fn appended(params: &[(String, String)]) -> String {
    let mut pairs: Vec<_> = params.iter().collect();
    pairs.sort_unstable();
    pairs.dedup();
    pairs
        .into_iter()
        .flat_map(|(name, value)| [name.as_str(), value.as_str()])
        .collect()
}

/// The fragment holds the carrier's connection settings (`#rc=2`) and is never sent.
fn without_fragment(url: &str) -> &str {
    url.split_once('#').map_or(url, |(url, _)| url)
}

/// The URL as it is, without its port, and with its scheme's standard port; each once.
fn port_variants(url: &str) -> Vec<String> {
    let mut variants = vec![url.to_owned()];
    let Some((scheme, rest)) = url.split_once("://") else {
        return variants;
    };
    let (authority, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let host_at = authority.rfind('@').map_or(0, |at| at + 1);
    // An IPv6 address has colons of its own, inside its brackets.
    let bracket = authority.rfind(']').map_or(host_at, |at| at + 1);
    let bare = match authority[bracket..].find(':') {
        Some(colon) => &authority[..bracket + colon],
        None => authority,
    };
    let port = match scheme {
        "http" | "ws" => 80,
        _ => 443,
    };
    for variant in [
        format!("{scheme}://{bare}{tail}"),
        format!("{scheme}://{bare}:{port}{tail}"),
    ] {
        if !variants.contains(&variant) {
            variants.push(variant);
        }
    }
    variants
}

/// The query as the vendor's URL class writes it (WHATWG URL, the special-query percent-encode set);
/// `None` where that changes nothing. Requests signed so have been seen with a literal apostrophe here.
fn legacy_encoding(url: &str) -> Option<String> {
    let (front, query) = url.split_once('?')?;
    let is_encoded =
        |byte: u8| byte <= b' ' || byte >= 0x7f || matches!(byte, b'"' | b'<' | b'>' | b'\'');
    if !query.bytes().any(is_encoded) {
        return None;
    }
    let mut out = format!("{front}?");
    for byte in query.bytes() {
        match is_encoded(byte) {
            true => write!(out, "%{byte:02X}").expect("a String takes every byte"),
            false => out.push(char::from(byte)),
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests;
