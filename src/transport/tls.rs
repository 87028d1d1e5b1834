//! TLS as a transformer of bytes, over rustls' unbuffered API. No socket, no wait.
//!
//! # What rustls allocates
//!
//! Opening decrypts in place and then moves each application record's plaintext into one `Vec` of its
//! own, which we copy out and drop: one allocation and one copy a record. Sealing builds each record in
//! one `Vec` and copies it to our buffer: again one allocation and one copy a record. We add none:
//! the caller's vectors keep their capacity.
//!
//! # A handshake message in several records
//!
//! While rustls holds the beginning of a handshake message it remembers *where in the caller's buffer*
//! that beginning lies, and it panics when it is then given a shorter buffer. A peer can bring that about at any
//! time, also long after the handshake (half a session ticket, half a key update). Such bytes are
//! therefore moved into the `Tls` (`held`) and handed to rustls with every call until the message is
//! whole, so that callers need to know nothing of it.

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use std::sync::Arc;

/// What may be held of one handshake message. rustls takes messages up to 64 KiB; the rest is what
/// sensible records add to that.
const HELD_BYTES_MAX: usize = 128 * 1024;
/// States visited without using up input, before we call it a loop. The longest real flight has about ten.
const IDLE_STATES_MAX: u32 = 64;
/// TLS record header: type, version, length (RFC 8446 section 5.1).
const RECORD_HEADER_BYTES: usize = 5;

/// Why a TLS connection cannot go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsError(pub String);

impl std::fmt::Display for TlsError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TlsError {}

impl From<rustls::Error> for TlsError {
    fn from(error: rustls::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<TlsError> for std::io::Error {
    fn from(error: TlsError) -> Self {
        std::io::Error::new(std::io::ErrorKind::InvalidData, error)
    }
}

/// What `Tls::open` did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Opened {
    /// Bytes used up from the front of the ciphertext; the rest is an incomplete record, to be given
    /// again with more behind it.
    pub consumed: usize,
    /// The peer sent close_notify: no more plaintext will come.
    pub peer_closed: bool,
}

/// Both roles behind one set of functions.
enum Side {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

/// A role of rustls' unbuffered connection: what `drive` and `seal_with` are generic over.
trait Connection {
    type Data;
    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
    /// Whether rustls has made a record that was not yet encoded.
    fn has_output(&self) -> bool;
}

impl Connection for UnbufferedClientConnection {
    type Data = ClientConnectionData;
    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(input)
    }
    fn has_output(&self) -> bool {
        self.wants_write()
    }
}

impl Connection for UnbufferedServerConnection {
    type Data = ServerConnectionData;
    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(input)
    }
    fn has_output(&self) -> bool {
        self.wants_write()
    }
}

/// One side of one TLS connection.
pub struct Tls {
    side: Side,
    /// The records of an unfinished handshake message, as rustls left them, and what follows. Empty on
    /// nearly every connection nearly always.
    held: Vec<u8>,
    peer_closed: bool,
    we_closed: bool,
    failed: Option<TlsError>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls")
            .field("client", &matches!(self.side, Side::Client(_)))
            .field("handshaking", &self.is_handshaking())
            .field("peer_closed", &self.peer_closed)
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}

impl Tls {
    /// A client that will verify `server_name`. Its first flight is made by the first `open`, which may be given no bytes.
    pub fn client(
        config: Arc<rustls::ClientConfig>,
        server_name: rustls_pki_types::ServerName<'static>,
    ) -> Result<Self, TlsError> {
        let connection = UnbufferedClientConnection::new(config, server_name)?;
        Ok(Self::new(Side::Client(connection)))
    }

    /// A server.
    pub fn server(config: Arc<rustls::ServerConfig>) -> Result<Self, TlsError> {
        let connection = UnbufferedServerConnection::new(config)?;
        Ok(Self::new(Side::Server(connection)))
    }

    fn new(side: Side) -> Self {
        Self {
            side,
            held: Vec::new(),
            peer_closed: false,
            we_closed: false,
            failed: None,
        }
    }

    /// Whether application data can't flow yet.
    pub fn is_handshaking(&self) -> bool {
        match &self.side {
            Side::Client(connection) => connection.is_handshaking(),
            Side::Server(connection) => connection.is_handshaking(),
        }
    }

    /// The negotiated version, once it is known; for logs.
    pub fn version(&self) -> Option<rustls::ProtocolVersion> {
        match &self.side {
            Side::Client(connection) => connection.protocol_version(),
            Side::Server(connection) => connection.protocol_version(),
        }
    }

    /// Whether the peer has sent close_notify.
    pub fn is_peer_closed(&self) -> bool {
        self.peer_closed
    }

    /// Takes as many whole records as `ciphertext` holds, changing them in place. Plaintext is appended to `plain`; what TLS
    /// itself has to send (handshake flights, key updates, alerts) is appended to `out` and must be
    /// sent before anything sealed later. On an error `out` may hold the alert to send; the error is
    /// final and every later call returns it again.
    pub fn open(
        &mut self,
        ciphertext: &mut [u8],
        plain: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<Opened, TlsError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let outcome = if self.held.is_empty() {
            self.open_lent(ciphertext, plain, out)
        } else {
            self.open_held(ciphertext, plain, out)
        };
        if let Err(error) = &outcome {
            self.failed = Some(error.clone());
            self.held = Vec::new();
        }
        outcome
    }

    fn open_lent(
        &mut self,
        ciphertext: &mut [u8],
        plain: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<Opened, TlsError> {
        let mut consumed = self.drive(ciphertext, plain, out)?;
        let rest = &ciphertext[consumed..];
        if starts_with_whole_record(rest) {
            // Taken in by rustls but not released: it is part of an unfinished handshake message.
            hold(&mut self.held, rest)?;
            consumed = ciphertext.len();
        }
        Ok(Opened {
            consumed,
            peer_closed: self.peer_closed,
        })
    }

    fn open_held(
        &mut self,
        ciphertext: &[u8],
        plain: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<Opened, TlsError> {
        let mut held = std::mem::take(&mut self.held);
        hold(&mut held, ciphertext)?;
        let used = self.drive(&mut held, plain, out)?;
        held.drain(..used);
        self.held = held;
        Ok(Opened {
            consumed: ciphertext.len(),
            peer_closed: self.peer_closed,
        })
    }

    fn drive(
        &mut self,
        input: &mut [u8],
        plain: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<usize, TlsError> {
        let closed = &mut self.peer_closed;
        match &mut self.side {
            Side::Client(connection) => drive(connection, input, plain, out, closed),
            Side::Server(connection) => drive(connection, input, plain, out, closed),
        }
    }

    /// The most bytes that `seal` writes for `plain` bytes: at most 49 a record (TLS 1.3: 22 for the record,
    /// 27 for a key update before it; TLS 1.2: 29).
    pub const fn sealed_len_max(plain: usize) -> usize {
        plain + (plain / 16384 + 1) * 64
    }

    /// Seals `plain` into the front of `out` and returns the bytes written. `out` must hold
    /// `sealed_len_max(plain.len())`. Errs while handshaking or after our close_notify.
    pub fn seal(&mut self, plain: &[u8], out: &mut [u8]) -> Result<usize, TlsError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        if self.we_closed {
            return Err(TlsError("sealed after close_notify".into()));
        }
        let held = &mut self.held;
        match &mut self.side {
            Side::Client(connection) => seal_with(connection, held, plain, out),
            Side::Server(connection) => seal_with(connection, held, plain, out),
        }
    }

    /// Appends our close_notify to `out`; nothing can be sealed after it. Repeated, it does nothing;
    /// during the handshake there is nothing to say.
    pub fn close(&mut self, out: &mut Vec<u8>) -> Result<(), TlsError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        if std::mem::replace(&mut self.we_closed, true) || self.is_handshaking() {
            return Ok(());
        }
        let held = &mut self.held;
        match &mut self.side {
            Side::Client(connection) => close_with(connection, held, out),
            Side::Server(connection) => close_with(connection, held, out),
        }
    }
}

/// Whether the front is a record with all of its bytes.
fn starts_with_whole_record(bytes: &[u8]) -> bool {
    let Some(&[_, _, _, high, low]) = bytes.first_chunk::<RECORD_HEADER_BYTES>() else {
        return false;
    };
    bytes.len() >= RECORD_HEADER_BYTES + usize::from(u16::from_be_bytes([high, low]))
}

fn hold(held: &mut Vec<u8>, bytes: &[u8]) -> Result<(), TlsError> {
    if held.len() + bytes.len() > HELD_BYTES_MAX {
        return Err(TlsError(
            "a handshake message is spread over too many records".into(),
        ));
    }
    held.extend_from_slice(bytes);
    Ok(())
}

/// Runs rustls over `input` until it wants more, and returns the bytes used up.
fn drive<C: Connection>(
    connection: &mut C,
    input: &mut [u8],
    plain: &mut Vec<u8>,
    out: &mut Vec<u8>,
    peer_closed: &mut bool,
) -> Result<usize, TlsError> {
    let mut consumed = 0;
    let mut idle_states = 0;
    loop {
        let UnbufferedStatus { discard, state, .. } = connection.process(&mut input[consumed..]);
        idle_states = if discard > 0 { 0 } else { idle_states + 1 };
        if idle_states > IDLE_STATES_MAX {
            return Err(TlsError("the TLS state does not advance".into()));
        }
        let more = match state {
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                while let Some(record) = traffic.next_record() {
                    let record = record?;
                    plain.extend_from_slice(record.payload);
                    consumed += record.discard;
                }
                true
            }
            Ok(ConnectionState::EncodeTlsData(mut data)) => {
                append(out, |room| data.encode(room))?;
                true
            }
            Ok(ConnectionState::TransmitTlsData(data)) => {
                // "Transmitted" means handed to our caller, who sends `out` in order.
                data.done();
                true
            }
            Ok(ConnectionState::PeerClosed) => {
                *peer_closed = true;
                true
            }
            Ok(ConnectionState::Closed) => {
                *peer_closed = true;
                false
            }
            Ok(ConnectionState::WriteTraffic(_) | ConnectionState::BlockedHandshake) => false,
            Ok(ConnectionState::ReadEarlyData(_)) => {
                return Err(TlsError("early data that was never offered".into()));
            }
            Ok(_) => return Err(TlsError("a TLS state that we do not know".into())),
            Err(error) => {
                consumed += discard;
                take_alerts(connection, &mut input[consumed..], out);
                return Err(error.into());
            }
        };
        consumed += discard;
        if !more {
            break;
        }
    }
    if *peer_closed {
        // Nothing after close_notify is read (RFC 8446 section 6.1); it must not pile up either.
        consumed = input.len();
    }
    Ok(consumed)
}

/// After an error rustls may still have an alert to send. Asked only while it has: it must not
/// look at the bad input a second time (it asserts that it alerts once).
fn take_alerts<C: Connection>(connection: &mut C, input: &mut [u8], out: &mut Vec<u8>) {
    while connection.has_output() {
        let Ok(ConnectionState::EncodeTlsData(mut data)) = connection.process(input).state else {
            return;
        };
        if append(out, |room| data.encode(room)).is_err() {
            return;
        }
    }
}

/// Lets `write` append to `out`, growing it by what `write` says it needs.
fn append(
    out: &mut Vec<u8>,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
) -> Result<(), TlsError> {
    let start = out.len();
    match write(&mut []) {
        Err(EncodeError::InsufficientSize(size)) => {
            out.resize(start + size.required_size, 0);
            let written = write(&mut out[start..]).map_err(|error| TlsError(error.to_string()));
            out.truncate(start + *written.as_ref().unwrap_or(&0));
            written.map(|_| ())
        }
        Err(error) => Err(TlsError(error.to_string())),
        Ok(_) => Ok(()),
    }
}

fn seal_with<C: Connection>(
    connection: &mut C,
    held: &mut Vec<u8>,
    plain: &[u8],
    out: &mut [u8],
) -> Result<usize, TlsError> {
    let mut written = 0;
    // `open` has left nothing pending, so the first turn normally ends this; what TLS may still
    // have to say goes before the data.
    for _ in 0..IDLE_STATES_MAX {
        let UnbufferedStatus { discard, state, .. } = connection.process(held);
        match state? {
            ConnectionState::WriteTraffic(mut traffic) => {
                return match traffic.encrypt(plain, &mut out[written..]) {
                    Ok(len) => Ok(written + len),
                    Err(EncryptError::InsufficientSize(size)) => Err(TlsError(format!(
                        "{} bytes are too few to seal {}: {} are needed",
                        out.len(),
                        plain.len(),
                        size.required_size + written
                    ))),
                    Err(error) => Err(TlsError(error.to_string())),
                };
            }
            ConnectionState::EncodeTlsData(mut data) => {
                written += data
                    .encode(&mut out[written..])
                    .map_err(|error| TlsError(error.to_string()))?;
            }
            ConnectionState::TransmitTlsData(data) => data.done(),
            ConnectionState::PeerClosed => {}
            ConnectionState::Closed => return Err(TlsError("sealed after the close".into())),
            _ => return Err(TlsError("sealed before the handshake was over".into())),
        }
        held.drain(..discard);
    }
    Err(TlsError("the TLS state does not advance".into()))
}

fn close_with<C: Connection>(
    connection: &mut C,
    held: &mut Vec<u8>,
    out: &mut Vec<u8>,
) -> Result<(), TlsError> {
    for _ in 0..IDLE_STATES_MAX {
        let UnbufferedStatus { discard, state, .. } = connection.process(held);
        match state? {
            ConnectionState::WriteTraffic(mut traffic) => {
                let start = out.len();
                let mut room = 64;
                loop {
                    out.resize(start + room, 0);
                    match traffic.queue_close_notify(&mut out[start..]) {
                        Ok(written) => {
                            out.truncate(start + written);
                            return Ok(());
                        }
                        Err(EncryptError::InsufficientSize(size)) if size.required_size > room => {
                            room = size.required_size;
                        }
                        Err(error) => {
                            out.truncate(start);
                            return Err(TlsError(error.to_string()));
                        }
                    }
                }
            }
            ConnectionState::EncodeTlsData(mut data) => append(out, |room| data.encode(room))?,
            ConnectionState::TransmitTlsData(data) => data.done(),
            ConnectionState::PeerClosed => {}
            _ => return Ok(()),
        }
        held.drain(..discard);
    }
    Err(TlsError("the TLS state does not advance".into()))
}

#[cfg(test)]
mod tests;
