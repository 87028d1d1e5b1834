//! Wire formats, pure: bytes to values and back. No I/O, no clock, no async, no policy.

pub mod audio;
pub mod carrier;
pub mod decode;
pub mod differential;
pub mod http;
pub mod realtime;
pub mod ws;
