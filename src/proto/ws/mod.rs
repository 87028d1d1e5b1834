//! WebSocket frames in both roles (RFC 6455 section 5), on tungstenite's frame types.

pub mod close;
pub mod mask;
pub mod reader;
pub mod writer;

/// Which side of the connection we are: a client masks what it sends, a server must not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// We sent the upgrade request.
    Client,
    /// We answered it.
    Server,
}
