//! The WebSocket upgrade in both roles (RFC 6455 section 4).
//!
//! Core, called by the desk (as server), the dialler and the simulators (as client). It knows nothing of routes
//! or signatures: whether this path may be upgraded is asked elsewhere. Extensions and subprotocols that a
//! client offers are left unanswered, which declines them; ones that a server answers with were never
//! offered, so they end the attempt.
//!
//! | what comes | error | status | label |
//! |---|---|---|---|
//! | no `Upgrade: websocket` | `NotAnUpgrade` | 426, `Upgrade: websocket` | `not_an_upgrade` |
//! | a method other than GET | `Method` | 405, `Allow: GET` | `upgrade_method` |
//! | HTTP/1.0 | `HttpVersion` | 400 | `upgrade_http_version` |
//! | `Connection` without `upgrade` | `Header` | 400 | `upgrade_header` |
//! | `Upgrade`, `Connection`, a `Sec-WebSocket-Key` or `-Version` twice | `Header` | 400 | `upgrade_header` |
//! | a body announced (its bytes would be read as frames) | `Header` | 400 | `upgrade_header` |
//! | `Sec-WebSocket-Version` missing or not 13 | `Version` | 426, `Sec-WebSocket-Version: 13` | `upgrade_version` |
//! | `Sec-WebSocket-Key` missing | `Header` | 400 | `upgrade_header` |
//! | `Sec-WebSocket-Key` not the base64 of 16 bytes | `Key` | 400 | `upgrade_key` |

use std::io::Write as _;

use sha1::{Digest as _, Sha1};

use super::head::{Headers, RequestHead, ResponseHead, write_headers};

/// RFC 6455 section 1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Why an upgrade is refused, as server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpgradeError {
    /// An ordinary request: no `Upgrade: websocket`. Answer 426.
    NotAnUpgrade,
    /// Not GET.
    Method,
    /// HTTP/1.0.
    HttpVersion,
    /// A needed header is missing, doubled or wrong.
    Header(&'static str),
    /// Another `Sec-WebSocket-Version`: 426 with `Sec-WebSocket-Version: 13`.
    Version,
    /// Not base64 of 16 bytes.
    Key,
}

impl UpgradeError {
    /// 400, 405 or 426.
    pub fn status(self) -> u16 {
        match self {
            UpgradeError::NotAnUpgrade | UpgradeError::Version => 426,
            UpgradeError::Method => 405,
            UpgradeError::HttpVersion | UpgradeError::Header(_) | UpgradeError::Key => 400,
        }
    }

    /// The header lines that the status calls for, for `head::write_response`.
    pub fn headers(self) -> &'static [(&'static str, &'static str)] {
        match self {
            // RFC 9110 section 15.5.22 wants the protocol, RFC 6455 section 4.4 the version.
            UpgradeError::NotAnUpgrade | UpgradeError::Version => {
                &[("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")]
            }
            UpgradeError::Method => &[("Allow", "GET")],
            UpgradeError::HttpVersion | UpgradeError::Header(_) | UpgradeError::Key => &[],
        }
    }

    /// A bounded metric label.
    pub fn label(self) -> &'static str {
        match self {
            UpgradeError::NotAnUpgrade => "not_an_upgrade",
            UpgradeError::Method => "upgrade_method",
            UpgradeError::HttpVersion => "upgrade_http_version",
            UpgradeError::Header(_) => "upgrade_header",
            UpgradeError::Version => "upgrade_version",
            UpgradeError::Key => "upgrade_key",
        }
    }
}

/// A valid upgrade request; its answer is `write_accept`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accept {
    key: [u8; 24],
}

impl Accept {
    /// The `Sec-WebSocket-Accept` value that answers this request.
    pub fn value(&self) -> String {
        accept_value(self.key)
    }
}

/// The `Sec-WebSocket-Accept` value for a `Sec-WebSocket-Key` as it was sent (RFC 6455 section 4.2.2).
pub fn accept_value(key: impl AsRef<[u8]>) -> String {
    let digest = Sha1::new()
        .chain_update(key.as_ref())
        .chain_update(GUID)
        .finalize();
    base64_simd::STANDARD.encode_to_string(digest)
}

/// The one value of `name`; `None` when it is absent.
fn one<'a>(headers: &Headers<'a>, name: &'static str) -> Result<Option<&'a [u8]>, &'static str> {
    let mut values = headers.all(name);
    let value = values.next();
    if values.next().is_some() {
        return Err(name);
    }
    Ok(value)
}

/// Checks an upgrade request as server (RFC 6455 section 4.2.1). The head's own rules (one `Host`, say) are
/// `parse_request`'s.
pub fn check_request(head: &RequestHead<'_>) -> Result<Accept, UpgradeError> {
    let headers = &head.headers;
    if !headers.has_token("upgrade", "websocket") {
        return Err(UpgradeError::NotAnUpgrade);
    }
    if head.method != "GET" {
        return Err(UpgradeError::Method);
    }
    if head.minor_version != 1 {
        return Err(UpgradeError::HttpVersion);
    }
    // Lists could be spread over lines by the letter of RFC 9110, yet no client does so, and a line that was
    // put in by somebody on the way is a reason to stop.
    one(headers, "upgrade").map_err(UpgradeError::Header)?;
    one(headers, "connection").map_err(UpgradeError::Header)?;
    if !headers.has_token("connection", "upgrade") {
        return Err(UpgradeError::Header("connection"));
    }
    if headers.all("transfer-encoding").next().is_some() {
        return Err(UpgradeError::Header("transfer-encoding"));
    }
    if headers.all("content-length").any(|length| length != b"0") {
        return Err(UpgradeError::Header("content-length"));
    }
    if one(headers, "sec-websocket-version").map_err(UpgradeError::Header)? != Some(b"13") {
        return Err(UpgradeError::Version);
    }
    let key = one(headers, "sec-websocket-key")
        .map_err(UpgradeError::Header)?
        .ok_or(UpgradeError::Header("sec-websocket-key"))?;
    let key: [u8; 24] = key.try_into().map_err(|_| UpgradeError::Key)?;
    // 24 characters are 16 to 18 bytes; two of padding make it 16. The check also refuses set bits behind
    // the last byte, so the text is the canonical one.
    if !key.ends_with(b"==") || base64_simd::STANDARD.check(&key).is_err() {
        return Err(UpgradeError::Key);
    }
    Ok(Accept { key })
}

/// Writes the 101 response: no subprotocol, no extension.
pub fn write_accept(out: &mut Vec<u8>, accept: &Accept) {
    out.extend_from_slice(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ",
    );
    out.extend_from_slice(accept.value().as_bytes());
    out.extend_from_slice(b"\r\n\r\n");
}

/// The key as its header has it.
fn key_text(key: &[u8; 16]) -> String {
    base64_simd::STANDARD.encode_to_string(key)
}

/// Writes a client's upgrade request. `key` is 16 random bytes; `headers` are added as they are.
///
/// `host` is the authority, with the port when it is not the scheme's own; `target` begins with `/`. Both and
/// the headers are ours: a CR or LF in one is our bug.
pub fn write_request(
    out: &mut Vec<u8>,
    host: &str,
    target: &str,
    key: &[u8; 16],
    headers: &[(&str, &str)],
) {
    debug_assert!(
        target.starts_with('/') && !target.contains([' ', '\r', '\n']),
        "{target}"
    );
    debug_assert!(!host.contains([' ', '\r', '\n']), "{host}");
    write!(
        out,
        "GET {target} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {}\r\n",
        key_text(key),
    )
    .expect("writing to a Vec does not fail");
    write_headers(out, headers);
    out.extend_from_slice(b"\r\n");
}

/// Why a server's answer is not a usable upgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseError {
    /// Another status than 101.
    Status(u16),
    /// A needed header is missing or wrong, or an extension or subprotocol that we did not offer.
    Header(&'static str),
}

/// Checks a server's answer to `write_request` with the same `key` (RFC 6455 section 4.1).
pub fn check_response(head: &ResponseHead<'_>, key: &[u8; 16]) -> Result<(), ResponseError> {
    if head.status != 101 {
        return Err(ResponseError::Status(head.status));
    }
    // HTTP/1.0 has no Upgrade, whatever the status says.
    if head.minor_version != 1 {
        return Err(ResponseError::Header("version"));
    }
    let headers = &head.headers;
    let upgrade = one(headers, "upgrade").map_err(ResponseError::Header)?;
    if !upgrade.is_some_and(|value| value.eq_ignore_ascii_case(b"websocket")) {
        return Err(ResponseError::Header("upgrade"));
    }
    if !headers.has_token("connection", "upgrade") {
        return Err(ResponseError::Header("connection"));
    }
    let accept = one(headers, "sec-websocket-accept").map_err(ResponseError::Header)?;
    if accept != Some(accept_value(key_text(key)).as_bytes()) {
        return Err(ResponseError::Header("sec-websocket-accept"));
    }
    for uninvited in ["sec-websocket-extensions", "sec-websocket-protocol"] {
        if headers.all(uninvited).next().is_some() {
            return Err(ResponseError::Header(uninvited));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
