//! TLS as a transformer of bytes, over rustls' unbuffered API. No socket, no wait.

use std::sync::Arc;

/// Why a TLS connection cannot go on.
#[derive(Debug)]
pub struct TlsError(pub String);

/// What `Tls::open` did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Opened {
    /// Bytes used up from the front of the ciphertext; the rest is an incomplete record.
    pub consumed: usize,
    /// The peer sent close_notify: no more plaintext will come.
    pub peer_closed: bool,
}

/// One side of one TLS connection.
pub struct Tls {
    _private: (),
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

impl Tls {
    /// A client that will verify `server_name`. Its first flight is made by the first `open`, which may be given no bytes.
    pub fn client(
        config: Arc<rustls::ClientConfig>,
        server_name: rustls_pki_types::ServerName<'static>,
    ) -> Result<Self, TlsError> {
        let _ = (config, server_name);
        unimplemented!()
    }

    /// A server.
    pub fn server(config: Arc<rustls::ServerConfig>) -> Result<Self, TlsError> {
        let _ = config;
        unimplemented!()
    }

    /// Whether application data can't flow yet.
    pub fn is_handshaking(&self) -> bool {
        unimplemented!()
    }

    /// Takes as many whole records as `ciphertext` holds. Plaintext is appended to `plain`; what TLS
    /// itself has to send (handshake flights, key updates, alerts) is appended to `out` and must be
    /// sent before anything sealed later. On an error `out` may hold the alert to send.
    pub fn open(
        &mut self,
        ciphertext: &mut [u8],
        plain: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<Opened, TlsError> {
        let _ = (ciphertext, plain, out);
        unimplemented!()
    }

    /// The most bytes that `seal` writes for `plain` bytes.
    pub const fn sealed_len_max(plain: usize) -> usize {
        plain + (plain / 16384 + 1) * 64
    }

    /// Seals `plain` into the front of `out` and returns the bytes written. `out` must hold
    /// `sealed_len_max(plain.len())`. Errs while handshaking or after our close_notify.
    pub fn seal(&mut self, plain: &[u8], out: &mut [u8]) -> Result<usize, TlsError> {
        let _ = (plain, out);
        unimplemented!()
    }

    /// Appends our close_notify to `out`; nothing can be sealed after it.
    pub fn close(&mut self, out: &mut Vec<u8>) -> Result<(), TlsError> {
        let _ = out;
        unimplemented!()
    }
}
