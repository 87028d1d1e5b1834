//! Both roles in memory, cut at any byte; rustls' ordinary connections as the other side; hostile input.

use super::*;
use crate::transport::roots;
use proptest::prelude::*;
use rustls::{ClientConfig, ProtocolVersion, ServerConfig};
use rustls_pki_types::ServerName;
use std::io::{Read as _, Write as _};
use std::sync::OnceLock;

/// One certificate for all tests: making one is slow.
pub(in crate::transport) fn configs() -> (Arc<ClientConfig>, Arc<ServerConfig>) {
    static MADE: OnceLock<(Arc<ClientConfig>, Arc<ServerConfig>)> = OnceLock::new();
    MADE.get_or_init(|| {
        let (server, ca) = roots::self_signed(&["localhost", "127.0.0.1"]).unwrap();
        (roots::client_config_from_pem(&ca).unwrap(), server)
    })
    .clone()
}

fn client_of(version: ProtocolVersion) -> Arc<ClientConfig> {
    let mut config = (*configs().0).clone();
    if version == ProtocolVersion::TLSv1_2 {
        config = only_12();
    }
    Arc::new(config)
}

fn only_12() -> ClientConfig {
    static MADE: OnceLock<ClientConfig> = OnceLock::new();
    MADE.get_or_init(|| {
        // The same trust, one version: the verifier is taken over through the shared root.
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS12])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(TrustAll))
            .with_no_client_auth()
    })
    .clone()
}

/// The 1.2 client tests records, not trust; trust is tested with 1.3.
#[derive(Debug)]
struct TrustAll;

impl rustls::client::danger::ServerCertVerifier for TrustAll {
    fn verify_server_cert(
        &self,
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &[rustls_pki_types::CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls_pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::ring::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

fn name() -> ServerName<'static> {
    ServerName::try_from("localhost").unwrap()
}

const VERSIONS: [ProtocolVersion; 2] = [ProtocolVersion::TLSv1_3, ProtocolVersion::TLSv1_2];

/// One side with its buffers.
struct End {
    tls: Tls,
    /// Received and not yet consumed.
    waiting: Vec<u8>,
    plain: Vec<u8>,
    out: Vec<u8>,
}

impl End {
    fn new(tls: Tls) -> Self {
        Self {
            tls,
            waiting: Vec::new(),
            plain: Vec::new(),
            out: Vec::new(),
        }
    }

    fn open(&mut self) -> Result<Opened, TlsError> {
        let opened = self
            .tls
            .open(&mut self.waiting, &mut self.plain, &mut self.out)?;
        self.waiting.drain(..opened.consumed);
        Ok(opened)
    }

    /// Feeds `bytes` in pieces of `step`.
    fn feed(&mut self, bytes: &[u8], step: usize) -> Result<Opened, TlsError> {
        let mut last = Opened::default();
        for piece in bytes.chunks(step) {
            self.waiting.extend_from_slice(piece);
            last = self.open()?;
        }
        Ok(last)
    }

    fn seal(&mut self, plain: &[u8]) -> Vec<u8> {
        let mut out = vec![0; Tls::sealed_len_max(plain.len())];
        let len = self.tls.seal(plain, &mut out).unwrap();
        out.truncate(len);
        out
    }

    fn take_out(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }
}

fn pair(version: ProtocolVersion) -> (End, End) {
    (
        End::new(Tls::client(client_of(version), name()).unwrap()),
        End::new(Tls::server(configs().1).unwrap()),
    )
}

fn shake(client: &mut End, server: &mut End, step: usize) {
    client.open().unwrap();
    for _ in 0..10 {
        server.feed(&client.take_out(), step).unwrap();
        client.feed(&server.take_out(), step).unwrap();
    }
    assert!(!client.tls.is_handshaking());
    assert!(!server.tls.is_handshaking());
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 % 251) as u8).collect()
}

#[test]
fn data_flows_both_ways_in_both_versions_in_pieces_of_any_size() {
    for version in VERSIONS {
        for step in [1, 2, 5, 100, 1 << 20] {
            let (mut client, mut server) = pair(version);
            assert!(client.tls.is_handshaking());
            shake(&mut client, &mut server, step);
            assert_eq!(client.tls.version(), Some(version));
            for len in [1, 400, 2_900, 16_384, 16_385, 50_000] {
                let data = pattern(len);
                let sealed = client.seal(&data);
                server.feed(&sealed, step).unwrap();
                assert_eq!(std::mem::take(&mut server.plain), data);
                let sealed = server.seal(&data);
                client.feed(&sealed, step).unwrap();
                assert_eq!(std::mem::take(&mut client.plain), data);
            }
        }
    }
}

#[test]
fn several_records_in_one_buffer_and_the_beginning_of_the_next() {
    for version in VERSIONS {
        let (mut client, mut server) = pair(version);
        shake(&mut client, &mut server, 1 << 20);
        let mut wire = client.seal(b"one");
        wire.extend(client.seal(b"two"));
        let third = client.seal(b"three");
        wire.extend_from_slice(&third[..third.len() - 1]);
        server.waiting.extend_from_slice(&wire);
        server.open().unwrap();
        assert_eq!(server.plain, b"onetwo");
        assert_eq!(server.waiting, third[..third.len() - 1]);
        server.feed(&third[third.len() - 1..], 1).unwrap();
        assert_eq!(server.plain, b"onetwothree");
    }
}

#[test]
fn data_that_comes_with_the_last_flight_is_not_lost() {
    for version in VERSIONS {
        let (mut client, mut server) = pair(version);
        client.open().unwrap();
        // Until the client may seal: its data follows its Finished directly.
        while client.tls.is_handshaking() {
            server.feed(&client.take_out(), 1 << 20).unwrap();
            client.feed(&server.take_out(), 1 << 20).unwrap();
        }
        let mut wire = client.take_out();
        wire.extend(client.seal(b"GET /"));
        server.feed(&wire, 1 << 20).unwrap();
        assert_eq!(server.plain, b"GET /");
    }
}

#[test]
fn what_is_sealed_fits_the_stated_bound() {
    for version in VERSIONS {
        let (mut client, mut server) = pair(version);
        shake(&mut client, &mut server, 1 << 20);
        for len in [0, 1, 16_383, 16_384, 16_385, 32_768, 65_536] {
            let sealed = client.seal(&pattern(len));
            assert!(sealed.len() <= Tls::sealed_len_max(len));
            server.feed(&sealed, 1 << 20).unwrap();
        }
        let mut small = [0; 10];
        assert!(client.tls.seal(b"0123456789", &mut small).is_err());
        // Too little room is the caller's mistake, not the connection's end.
        let sealed = client.seal(b"after");
        server.feed(&sealed, 3).unwrap();
    }
}

#[test]
fn sealing_before_the_handshake_is_over_is_an_error_and_harms_nothing() {
    let (mut client, mut server) = pair(ProtocolVersion::TLSv1_3);
    let mut out = [0; 100];
    assert!(client.tls.seal(b"x", &mut out).is_err() || client.tls.is_handshaking());
    assert!(server.tls.seal(b"x", &mut out).is_err());
}

#[test]
fn close_notify_ends_one_direction_and_is_seen_once_by_the_other() {
    for version in VERSIONS {
        let (mut client, mut server) = pair(version);
        shake(&mut client, &mut server, 1 << 20);
        let mut wire = client.seal(b"last");
        client.tls.close(&mut wire).unwrap();
        let len = wire.len();
        client.tls.close(&mut wire).unwrap();
        assert_eq!(wire.len(), len, "a second close says nothing");
        assert!(client.tls.seal(b"x", &mut [0; 100]).is_err());
        wire.extend_from_slice(b"rubbish after the end");
        let opened = server.feed(&wire, 1).unwrap();
        assert!(opened.peer_closed && server.tls.is_peer_closed());
        assert_eq!(server.plain, b"last");
        assert!(server.waiting.is_empty(), "nothing piles up after the end");
        // The other direction still flows until its own close.
        let mut wire = server.seal(b"bye");
        server.tls.close(&mut wire).unwrap();
        let opened = client.feed(&wire, 1 << 20).unwrap();
        assert_eq!(client.plain, b"bye");
        assert!(opened.peer_closed);
        assert!(client.open().unwrap().peer_closed);
    }
}

#[test]
fn garbage_is_an_error_with_an_alert_and_stays_one() {
    let (_, mut server) = pair(ProtocolVersion::TLSv1_3);
    let error = server
        .feed(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 1 << 20)
        .unwrap_err();
    assert!(!server.out.is_empty(), "an alert tells the peer");
    assert_eq!(server.open().unwrap_err(), error);
    assert!(server.tls.seal(b"x", &mut [0; 100]).is_err());
    assert!(server.tls.close(&mut Vec::new()).is_err());
}

#[test]
fn a_changed_byte_in_a_record_is_an_error() {
    for version in VERSIONS {
        let (mut client, mut server) = pair(version);
        shake(&mut client, &mut server, 1 << 20);
        let mut sealed = client.seal(b"hello");
        *sealed.last_mut().unwrap() ^= 1;
        assert!(server.feed(&sealed, 1 << 20).is_err());
        assert!(server.plain.is_empty());
    }
}

#[test]
fn a_handshake_message_cut_over_records_never_meets_a_shorter_buffer() {
    // The client's hello in records of one byte: rustls keeps positions into the buffer meanwhile, and
    // sealing or opening with another buffer would make it panic.
    let (mut client, mut server) = pair(ProtocolVersion::TLSv1_3);
    client.open().unwrap();
    let hello = client.take_out();
    let (header, body) = hello.split_at(RECORD_HEADER_BYTES);
    for (i, piece) in body.chunks(1).enumerate() {
        let mut record = header[..3].to_vec();
        record.extend_from_slice(&(piece.len() as u16).to_be_bytes());
        record.extend_from_slice(piece);
        server.feed(&record, 1 + i % 6).unwrap();
        assert!(server.tls.seal(b"too early", &mut [0; 200]).is_err() || i + 1 == body.len());
        assert!(server.waiting.is_empty() || server.tls.held.is_empty());
    }
    client.feed(&server.take_out(), 1 << 20).unwrap();
    server.feed(&client.take_out(), 1 << 20).unwrap();
    assert!(!server.tls.is_handshaking());
    assert!(server.tls.held.is_empty());
    let sealed = client.seal(b"data");
    server.feed(&sealed, 1).unwrap();
    assert_eq!(server.plain, b"data");
}

#[test]
fn sealing_between_the_records_of_a_session_ticket_works() {
    // A server whose records are tiny cuts its tickets over several; the client's data goes out between them.
    let mut config = (*configs().1).clone();
    config.max_fragment_size = Some(64);
    let mut theirs = rustls::ServerConnection::new(Arc::new(config)).unwrap();
    let mut ours = End::new(Tls::client(configs().0, name()).unwrap());
    ours.open().unwrap();
    let mut sent = 0;
    let mut sealed_while_held = 0;
    let mut got = Vec::new();
    for _ in 0..6 {
        let mut back = Vec::new();
        while theirs.wants_write() {
            theirs.write_tls(&mut back).unwrap();
        }
        let mut wire = ours.take_out();
        for byte in back {
            ours.feed(&[byte], 1).unwrap();
            wire.extend(ours.take_out());
            if !ours.tls.is_handshaking() {
                wire.extend(ours.seal(b"x"));
                sent += 1;
                sealed_while_held += usize::from(!ours.tls.held.is_empty());
            }
        }
        let mut wire = &wire[..];
        while !wire.is_empty() {
            theirs.read_tls(&mut wire).unwrap();
            theirs.process_new_packets().unwrap();
            let mut buffer = [0; 4096];
            while let Ok(len) = theirs.reader().read(&mut buffer) {
                got.extend_from_slice(&buffer[..len]);
            }
        }
    }
    assert!(sealed_while_held > 0, "the case is met");
    assert_eq!(got.len(), sent);
    assert!(ours.tls.held.is_empty());
}

#[test]
fn endless_handshake_fragments_are_bounded() {
    let (_, mut server) = pair(ProtocolVersion::TLSv1_3);
    // A ClientHello that claims 60,000 bytes, each record carrying one of them.
    let mut record = vec![22, 3, 1, 0, 4, 1, 0, 0xea, 0x60];
    let mut failed = None;
    for i in 0..60_000 {
        if let Err(error) = server.feed(&record, 1 << 20) {
            failed = Some((i, error));
            break;
        }
        assert!(server.tls.held.len() <= HELD_BYTES_MAX);
        record = vec![22, 3, 1, 0, 1, 0];
    }
    assert!(failed.is_some());
}

#[test]
fn ordinary_rustls_connections_understand_us() {
    for version in VERSIONS {
        // Ours as server.
        let mut theirs = rustls::ClientConnection::new(client_of(version), name()).unwrap();
        let mut ours = End::new(Tls::server(configs().1).unwrap());
        theirs.writer().write_all(b"from them").unwrap();
        exchange(&mut ours, &mut theirs.into());
        // Ours as client.
        let theirs = rustls::ServerConnection::new(configs().1).unwrap();
        let mut ours = End::new(Tls::client(client_of(version), name()).unwrap());
        let mut theirs: rustls::Connection = theirs.into();
        theirs.writer().write_all(b"from them").unwrap();
        exchange(&mut ours, &mut theirs);
    }
}

fn exchange(ours: &mut End, theirs: &mut rustls::Connection) {
    ours.open().unwrap();
    let mut sent = false;
    let mut refreshed = false;
    let mut got = Vec::new();
    for _ in 0..20 {
        let mut wire = ours.take_out();
        if !ours.tls.is_handshaking() && !sent {
            wire.extend(ours.seal(b"from us"));
            sent = true;
        }
        let mut wire = &wire[..];
        while !wire.is_empty() {
            theirs.read_tls(&mut wire).unwrap();
            theirs.process_new_packets().unwrap();
        }
        let mut buffer = [0; 100];
        if let Ok(len) = theirs.reader().read(&mut buffer) {
            got.extend_from_slice(&buffer[..len]);
        }
        if !got.is_empty()
            && !refreshed
            && theirs.protocol_version() == Some(ProtocolVersion::TLSv1_3)
        {
            // A key update, which we must answer with our next data.
            theirs.refresh_traffic_keys().unwrap();
            refreshed = true;
            sent = false;
        }
        let mut back = Vec::new();
        while theirs.wants_write() {
            theirs.write_tls(&mut back).unwrap();
        }
        ours.feed(&back, 1).unwrap();
    }
    assert_eq!(ours.plain, b"from them");
    assert!(got.starts_with(b"from us"));
    assert_eq!(got.len() % 7, 0);
    if refreshed {
        assert!(got.len() > 7, "data after the key update arrives");
    }
    theirs.send_close_notify();
    let mut back = Vec::new();
    theirs.write_tls(&mut back).unwrap();
    assert!(ours.feed(&back, 1).unwrap().peer_closed);
}

#[test]
fn an_untrusted_server_is_refused_with_an_alert() {
    let (other, _) = roots::self_signed(&["localhost"]).unwrap();
    let mut client = End::new(Tls::client(configs().0, name()).unwrap());
    let mut server = End::new(Tls::server(other).unwrap());
    client.open().unwrap();
    server.feed(&client.take_out(), 1 << 20).unwrap();
    let error = client.feed(&server.take_out(), 1 << 20).unwrap_err();
    assert!(error.0.contains("certificate"), "{error}");
    assert!(
        server.feed(&client.take_out(), 1 << 20).is_err(),
        "the alert arrives"
    );
}

#[test]
fn a_wrong_name_is_refused() {
    let name = ServerName::try_from("example.com").unwrap();
    let mut client = End::new(Tls::client(configs().0, name).unwrap());
    let mut server = End::new(Tls::server(configs().1).unwrap());
    client.open().unwrap();
    server.feed(&client.take_out(), 1 << 20).unwrap();
    assert!(client.feed(&server.take_out(), 1 << 20).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_cutting_gives_the_same_plaintext(
        sizes in prop::collection::vec(1usize..4000, 1..8),
        cuts in prop::collection::vec(1usize..3000, 1..12),
        tls12 in any::<bool>(),
    ) {
        let (mut client, mut server) = pair(VERSIONS[usize::from(tls12)]);
        shake(&mut client, &mut server, 1 << 20);
        let mut wire = Vec::new();
        let mut expected = Vec::new();
        for size in sizes {
            let data = pattern(size);
            wire.extend(client.seal(&data));
            expected.extend(data);
        }
        let mut rest = &wire[..];
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, behind) = rest.split_at((*cut).min(rest.len()));
            server.feed(piece, 1 << 20).unwrap();
            rest = behind;
        }
        prop_assert_eq!(&server.plain, &expected);
        prop_assert!(server.waiting.is_empty());
    }

    #[test]
    fn any_bytes_at_any_time_end_in_an_error_or_nothing(
        garbage in prop::collection::vec(any::<u8>(), 0..600),
        established in any::<bool>(),
        step in 1usize..50,
    ) {
        let (mut client, mut server) = pair(ProtocolVersion::TLSv1_3);
        if established {
            shake(&mut client, &mut server, 1 << 20);
        }
        let _ = server.feed(&garbage, step);
        let _ = server.feed(&garbage, 1 << 20);
        prop_assert!(server.plain.is_empty());
    }

    #[test]
    fn a_damaged_server_flight_never_panics_the_client(at in 0usize..2000, bit in 0u8..8, step in 1usize..700) {
        let (mut client, mut server) = pair(ProtocolVersion::TLSv1_3);
        client.open().unwrap();
        server.feed(&client.take_out(), 1 << 20).unwrap();
        let mut flight = server.take_out();
        let at = at % flight.len();
        flight[at] ^= 1 << bit;
        if client.feed(&flight, step).is_ok() {
            // Only padding or unread bytes may be changed unnoticed; the handshake then isn't over.
            let _ = client.tls.seal(b"x", &mut [0; 100]);
        }
    }
}
