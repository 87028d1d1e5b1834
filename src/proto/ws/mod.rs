//! WebSocket frames in both roles (RFC 6455 section 5), on tungstenite's frame types.
//!
//! Core. `reader` takes frames apart in the receive buffer, `writer` puts them together in the send
//! buffer; neither answers a ping nor echoes a close, which is for whoever owns the leg. Extensions are
//! never negotiated, so a reserved bit is always a violation.

pub mod close;
#[cfg(any(test, fuzzing))]
pub mod differential;
pub mod header;
pub mod mask;
pub mod reader;
pub mod utf8;
pub mod writer;

/// Which side of the connection we are: a client masks what it sends, a server must not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// We sent the upgrade request.
    Client,
    /// We answered it.
    Server,
}
