//! Close codes (RFC 6455 section 7.4) and the close frame's payload.

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

/// The payload of a close frame: code and reason, cut to 123 bytes at a character's edge.
pub fn payload(code: u16, reason: &str) -> ([u8; 125], usize) {
    let _ = (code, reason);
    unimplemented!()
}
