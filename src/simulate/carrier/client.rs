//! Places simulated calls: connects, upgrades with the carrier's headers, and drives one [`Carrier`]. Shell (tokio).

use super::options::Options;
use super::{Carrier, Output, Report, sign};
use crate::base::limit;
use crate::base::rng::Rng;
use crate::base::time::Clock as _;
use crate::proto::http::head::{Parsed, parse_response};
use crate::proto::http::upgrade::{ResponseError, check_response, write_request};
use crate::proto::ws::Role;
use crate::simulate::link::{Incoming, Link, read_head};
use crate::simulate::model::server::reset;
use crate::simulate::record::{Direction, Recorder};
use crate::transport::clock::SystemClock;
use crate::transport::roots;
use crate::transport::stream::Stream;
use rustls_pki_types::ServerName;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;

/// Connect and TLS handshake.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// From our close frame to the server's.
const CLOSE_DEADLINE: Duration = Duration::from_secs(3);

/// Where a stream goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// `wss`.
    pub is_tls: bool,
    /// For the connection, TLS and `Host`.
    pub host: String,
    /// 443 or 80 when the URL names none.
    pub port: u16,
    /// Path, never a query: the carrier drops it.
    pub path: String,
}

impl Target {
    /// From `ws://` or `wss://`. The query is dropped, as the carrier does.
    pub fn parse(url: &str) -> Result<Self, String> {
        let (is_tls, rest) = match (url.strip_prefix("wss://"), url.strip_prefix("ws://")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            _ => return Err(format!("{url}: must begin with ws:// or wss:// (31922)")),
        };
        let (authority, path) = match rest.find(['/', '?']) {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let path = path.split('?').next().unwrap_or("");
        let default = if is_tls { 443 } else { 80 };
        let (host, port) = match authority.rsplit_once(':') {
            // An IPv6 literal has colons of its own, all before the bracket.
            Some((host, port)) if !port.ends_with(']') => {
                let port = port.parse().map_err(|_| format!("{url}: bad port"))?;
                (host, port)
            }
            _ => (authority, default),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err(format!("{url}: no host"));
        }
        Ok(Self {
            is_tls,
            host: host.to_string(),
            port,
            path: if path.is_empty() { "/" } else { path }.to_string(),
        })
    }

    /// The authority, for `Host`.
    pub fn host_header(&self) -> String {
        let host = if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        };
        match (self.is_tls, self.port) {
            (true, 443) | (false, 80) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }
}

/// How calls are placed.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Where to.
    pub target: Target,
    /// The URL as the TwiML wrote it, for the signature.
    pub signed_url: String,
    /// More roots for TLS, PEM.
    pub ca_file: Option<PathBuf>,
    /// Signs the upgrade.
    pub auth_token: Option<String>,
    /// Writes down every message.
    pub recorder: Option<Recorder>,
    /// How much of the voice is sent, in thousandths, for a progress display.
    pub progress: Arc<AtomicU32>,
}

/// Why there was no call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallError {
    /// No connection or no TLS: the carrier's 31910.
    Connect(String),
    /// Another answer than 101: the carrier's 31920.
    Refused(u16),
    /// An answer that is not a right upgrade: 31920 as well.
    Handshake(&'static str),
}

impl std::fmt::Display for CallError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Connect(why) => write!(f, "31910: no connection: {why}"),
            Self::Refused(status) => write!(f, "31920: the upgrade was answered with {status}"),
            Self::Handshake(what) => write!(f, "31920: not a WebSocket upgrade: {what}"),
        }
    }
}

/// How a call went.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What the carrier saw.
    pub report: Report,
    /// The server's close code after ours; `None` when it only dropped the connection.
    pub close_answer: Option<u16>,
    /// The server broke the WebSocket protocol: the carrier's 31924.
    pub violation: Option<&'static str>,
}

/// Places one call and follows it to its end.
pub async fn call(
    setup: &Setup,
    options: Options,
    clock: SystemClock,
    conn: u64,
) -> Result<Outcome, CallError> {
    let seed = options.seed;
    let link = connect(setup, seed).await?;
    let carrier = Carrier::new(options, clock.now());
    Ok(drive(link, carrier, setup, clock, conn).await)
}

async fn connect(setup: &Setup, seed: u64) -> Result<Link<Stream>, CallError> {
    let target = &setup.target;
    let tls = if target.is_tls {
        let config = roots::client_config(setup.ca_file.as_deref())
            .map_err(|error| CallError::Connect(error.0))?;
        let name = ServerName::try_from(target.host.clone())
            .map_err(|_| CallError::Connect(format!("{}: not a server name", target.host)))?;
        Some((config, name))
    } else {
        None
    };
    let address = (target.host.as_str(), target.port);
    let connecting = tokio::time::timeout(CONNECT_DEADLINE, Stream::connect(address, tls));
    let mut stream = match connecting.await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(CallError::Connect(error.to_string())),
        Err(_) => return Err(CallError::Connect("timed out".into())),
    };
    let mut rng = Rng::from_u64(seed);
    let mut key = [0; 16];
    key[..8].copy_from_slice(&rng.next_u64().to_le_bytes());
    key[8..].copy_from_slice(&rng.next_u64().to_le_bytes());
    let signature = setup
        .auth_token
        .as_deref()
        .map(|token| sign::signature(token, &setup.signed_url));
    let mut headers = vec![("User-Agent", "Twilio.TmeWs/1.0")];
    if let Some(signature) = &signature {
        headers.push(("X-Twilio-Signature", signature));
    }
    let mut out = Vec::new();
    write_request(
        &mut out,
        &target.host_header(),
        &target.path,
        &key,
        &headers,
    );
    let sent = async {
        stream.write_all(&out).await?;
        stream.flush().await
    };
    sent.await
        .map_err(|error| CallError::Connect(error.to_string()))?;
    let mut bytes = Vec::with_capacity(1024);
    let head = read_head(&mut stream, &mut bytes, |bytes| {
        match parse_response(bytes) {
            Ok(Parsed::Complete { head, len }) => Some(Some((check_response(&head, &key), len))),
            Ok(Parsed::Partial) => Some(None),
            Err(_) => None,
        }
    });
    match head.await {
        Some((Ok(()), len)) => {
            bytes.drain(..len);
            let limit = limit::REALTIME_MESSAGE_BYTES_MAX;
            Ok(Link::new(stream, Role::Client, bytes, limit, seed))
        }
        Some((Err(ResponseError::Status(status)), _)) => Err(CallError::Refused(status)),
        Some((Err(ResponseError::Header(what)), _)) => Err(CallError::Handshake(what)),
        None => Err(CallError::Handshake("no answer")),
    }
}

async fn drive(
    mut link: Link<Stream>,
    mut carrier: Carrier,
    setup: &Setup,
    clock: SystemClock,
    conn: u64,
) -> Outcome {
    let record = |direction, text: &[u8]| {
        if let Some(recorder) = &setup.recorder {
            recorder.write(conn, direction, text);
        }
    };
    let mut close_answer = None;
    let mut violation = None;
    loop {
        let (mut closes, mut resets) = (false, false);
        while let Some(output) = carrier.poll_output() {
            match output {
                Output::Text(text) => {
                    record(Direction::Out, text.as_bytes());
                    link.text(&text);
                }
                Output::Close(code) => {
                    link.close(code, "");
                    closes = true;
                }
                Output::Reset => resets = true,
            }
        }
        let progress = (carrier.progress() * 1000.0) as u32;
        setup.progress.store(progress, Ordering::Relaxed);
        if link.flush().await.is_err() {
            carrier.handle_closed(None, clock.now());
        }
        if resets {
            let report = carrier.into_report(clock.now());
            reset(link.into_inner());
            return Outcome {
                report,
                close_answer,
                violation,
            };
        }
        if closes {
            let answer = async {
                loop {
                    match link.next().await {
                        Incoming::Close(code) => return Some(code),
                        Incoming::Gone | Incoming::Violation(_) => return None,
                        Incoming::Text(text) => record(Direction::In, &text),
                        _ => {}
                    }
                }
            };
            let answer = tokio::time::timeout(CLOSE_DEADLINE, answer).await;
            close_answer = answer.unwrap_or(None);
            link.shutdown().await;
        }
        let Some(due) = carrier.poll_timeout() else {
            break;
        };
        let wait = due.since(clock.now().mono);
        tokio::select! {
            incoming = link.next() => match incoming {
                Incoming::Text(text) => {
                    record(Direction::In, &text);
                    carrier.handle_text(&text, clock.now());
                }
                Incoming::Binary => carrier.handle_binary(clock.now()),
                Incoming::Ping(payload) => link.pong(&payload),
                Incoming::Pong => {}
                Incoming::Close(code) => {
                    carrier.handle_closed(Some(code), clock.now());
                    link.close(if code == 1005 { 1000 } else { code }, "");
                    let _ = link.flush().await;
                    link.shutdown().await;
                }
                Incoming::Violation(broken) => {
                    violation = Some(broken.label());
                    carrier.handle_closed(None, clock.now());
                    link.close(broken.close_code(), "");
                    let _ = link.flush().await;
                }
                Incoming::Gone => carrier.handle_closed(None, clock.now()),
            },
            () = tokio::time::sleep(wait) => carrier.handle_timeout(clock.now()),
        }
    }
    if let Some(recorder) = &setup.recorder {
        recorder.flush();
    }
    Outcome {
        report: carrier.into_report(clock.now()),
        close_answer,
        violation,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_lose_their_query_and_keep_their_port() {
        let target = |url: &str| Target::parse(url);
        let plain = target("ws://127.0.0.1:8080/media-stream?x=1").expect("a URL");
        assert_eq!((plain.port, plain.path.as_str()), (8080, "/media-stream"));
        assert_eq!(plain.host_header(), "127.0.0.1:8080");
        let secure = target("wss://example.com").expect("a URL");
        assert_eq!((secure.port, secure.path.as_str()), (443, "/"));
        assert_eq!(secure.host_header(), "example.com");
        let six = target("ws://[::1]:9000/x").expect("a URL");
        assert_eq!((six.host.as_str(), six.port), ("::1", 9000));
        assert_eq!(six.host_header(), "[::1]:9000");
        for bad in ["http://x/", "ws://", "ws://x:99999/", "ws:///x"] {
            assert!(target(bad).is_err(), "{bad}");
        }
    }
}
