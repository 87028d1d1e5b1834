//! The WebSocket upgrade in both roles (RFC 6455 section 4).

use super::head::{RequestHead, ResponseHead};

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
        unimplemented!()
    }
    /// A bounded metric label.
    pub fn label(self) -> &'static str {
        unimplemented!()
    }
}

/// A valid upgrade request; its answer is `write_accept`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accept {
    key: [u8; 24],
}

/// Checks an upgrade request as server.
pub fn check_request(head: &RequestHead<'_>) -> Result<Accept, UpgradeError> {
    let _ = head;
    unimplemented!()
}

/// Writes the 101 response: no subprotocol, no extension.
pub fn write_accept(out: &mut Vec<u8>, accept: &Accept) {
    let _ = (out, accept);
    unimplemented!()
}

/// Writes a client's upgrade request. `key` is 16 random bytes; `headers` are added as they are.
pub fn write_request(
    out: &mut Vec<u8>,
    host: &str,
    target: &str,
    key: &[u8; 16],
    headers: &[(&str, &str)],
) {
    let _ = (out, host, target, key, headers);
    unimplemented!()
}

/// Why a server's answer is not a usable upgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseError {
    /// Another status than 101.
    Status(u16),
    /// A needed header is missing or wrong, or an extension or subprotocol that we did not offer.
    Header(&'static str),
}

/// Checks a server's answer to `write_request` with the same `key`.
pub fn check_response(head: &ResponseHead<'_>, key: &[u8; 16]) -> Result<(), ResponseError> {
    let _ = (head, key);
    unimplemented!()
}
