//! An established connection as a value: a descriptor, the TLS state, the bytes already read.
//!
//! Shell. rustls' unbuffered API from the first byte on both sides, as a transformer of bytes, so
//! that one connection can go from the desk to a worker or, behind `stream`, to axum.

pub mod clock;
pub mod roots;
pub mod stream;
pub mod tls;

/// What users of this module need of rustls, so that they need not name it.
pub use rustls::{ClientConfig, ServerConfig};
pub use rustls_pki_types::ServerName;

use std::os::fd::OwnedFd;

/// A connection that has been set up and can change hands. Whoever holds it owns the descriptor.
#[derive(Debug)]
pub struct Established {
    /// The socket, close-on-exec and in blocking mode: on a non-blocking socket io_uring answers EAGAIN
    /// instead of waiting. `stream` sets and clears the mode for tokio.
    pub fd: OwnedFd,
    /// `None` on a plain connection.
    pub tls: Option<Box<tls::Tls>>,
    /// Received and not yet opened: whole or partial TLS records, to go in front of what is received
    /// next. Empty on a plain connection.
    pub ciphertext: Vec<u8>,
    /// Opened (or, on a plain connection, received) and not yet consumed.
    pub plaintext: Vec<u8>,
    /// The peer's address, for logs and limits.
    pub peer: Option<std::net::SocketAddr>,
}
