//! The simulated model's server: accepts, upgrades, and drives one [`Model`] per connection. Shell (tokio).

use super::options::Options;
use super::{Counts, Model, Output, upgrade};
use crate::base::limit;
use crate::base::time::{Clock as _, Mono};
use crate::proto::http::head::{Parsed, parse_request, write_response};
use crate::proto::http::upgrade::{check_request, write_accept};
use crate::proto::ws::Role;
use crate::simulate::Passed;
use crate::simulate::link::{Incoming, Link, read_head};
use crate::simulate::record::{Direction, Recorder};
use crate::transport::ServerConfig;
use crate::transport::clock::SystemClock;
use crate::transport::roots;
use crate::transport::stream::Stream;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A client that says nothing after its TCP handshake.
const TLS_DEADLINE: Duration = Duration::from_secs(10);
/// From our close frame to the client's.
const CLOSE_DEADLINE: Duration = Duration::from_secs(2);

/// What one session saw, kept when it has ended.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// What was counted.
    pub counts: Counts,
    /// Appended chunks, when audio is kept.
    pub appended: Vec<Passed>,
    /// Deltas, when audio is kept.
    pub sent: Vec<Passed>,
    /// When each turn of the caller began.
    pub speech_started: Vec<Mono>,
    /// When each turn of the caller ended.
    pub speech_stopped: Vec<Mono>,
    /// When the first `session.updated` was sent.
    pub ready_at: Option<Mono>,
    /// How the client ended the connection: its close code, `None` without one.
    pub closed: Option<u16>,
}

/// A server's certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Tls {
    /// Plain `ws://`.
    #[default]
    Off,
    /// Made on the spot, for `localhost` and the bound address.
    SelfSigned,
    /// Chain and key, PEM files.
    Files(PathBuf, PathBuf),
}

/// How a server is set up.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// What every session is told; each gets a seed of its own.
    pub options: Options,
    /// Speak TLS, and with what.
    pub tls: Tls,
    /// Writes down every event.
    pub recorder: Option<Recorder>,
    /// Keeps what each session saw, with all audio.
    pub keeps_audio: bool,
}

struct Shared {
    setup: Setup,
    clock: SystemClock,
    seen: Mutex<Vec<Seen>>,
}

/// A bound server. It serves while `run` is polled.
pub struct Server {
    listener: std::net::TcpListener,
    address: SocketAddr,
    tls: Option<Arc<ServerConfig>>,
    ca_pem: Option<String>,
    shared: Arc<Shared>,
}

/// What sessions saw, readable while the server runs.
#[derive(Clone)]
pub struct Sessions(Arc<Shared>);

impl Sessions {
    /// Takes what ended sessions saw.
    pub fn take(&self) -> Vec<Seen> {
        std::mem::take(
            &mut *self
                .0
                .seen
                .lock()
                .unwrap_or_else(|poisoned| poisoned.into_inner()),
        )
    }
}

impl Server {
    /// Binds, and makes a certificate for `localhost` and the address when TLS is asked for.
    pub fn bind(address: SocketAddr, setup: Setup, clock: SystemClock) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (tls, ca_pem) = match &setup.tls {
            Tls::Off => (None, None),
            Tls::SelfSigned => {
                let ip = address.ip().to_string();
                let made = roots::self_signed(&["localhost", &ip]);
                let (config, pem) = made.map_err(|error| io::Error::other(error.0))?;
                (Some(config), Some(pem))
            }
            Tls::Files(cert, key) => {
                let config = roots::server_config(cert, key);
                (
                    Some(config.map_err(|error| io::Error::other(error.0))?),
                    None,
                )
            }
        };
        let shared = Arc::new(Shared {
            setup,
            clock,
            seen: Mutex::new(Vec::new()),
        });
        Ok(Self {
            listener,
            address,
            tls,
            ca_pem,
            shared,
        })
    }

    /// The bound address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The certificate that clients must trust, PEM; `None` without TLS.
    pub fn ca_pem(&self) -> Option<&str> {
        self.ca_pem.as_deref()
    }

    /// The URL for `realtime.url`.
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "wss" } else { "ws" };
        format!("{scheme}://{}{}", self.address, upgrade::PATH)
    }

    /// Where ended sessions leave what they saw.
    pub fn sessions(&self) -> Sessions {
        Sessions(self.shared.clone())
    }

    /// Accepts until it is dropped. Errs when the runtime can't take the listener.
    pub async fn run(self) -> io::Result<()> {
        let listener = TcpListener::from_std(self.listener)?;
        let mut conn = 0;
        loop {
            match listener.accept().await {
                Ok((tcp, _)) => {
                    conn += 1;
                    let (shared, tls) = (self.shared.clone(), self.tls.clone());
                    tokio::spawn(async move { serve(tcp, tls, shared, conn).await });
                }
                // Out of descriptors: wait for some to come back rather than spin.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }
}

async fn serve(tcp: TcpStream, tls: Option<Arc<ServerConfig>>, shared: Arc<Shared>, conn: u64) {
    let accepted = tokio::time::timeout(TLS_DEADLINE, Stream::accept(tcp, tls)).await;
    let Ok(Ok(mut stream)) = accepted else {
        return;
    };
    let mut bytes = Vec::with_capacity(2048);
    let options = &shared.setup.options;
    let head = read_head(&mut stream, &mut bytes, |bytes| {
        match parse_request(bytes) {
            Ok(Parsed::Complete { head, len }) => {
                let answer = match (check_request(&head), upgrade::check(&head, options)) {
                    (Ok(accept), Ok(opened)) => Ok((accept, opened)),
                    (_, Err(refused)) => Err((refused.status, refused.body.to_string())),
                    (Err(error), _) => Err((
                        error.status(),
                        "{\"error\":{\"message\":\"not an upgrade\"}}".into(),
                    )),
                };
                Some(Some((answer, len)))
            }
            Ok(Parsed::Partial) => Some(None),
            Err(_) => None,
        }
    });
    let Some((answer, len)) = head.await else {
        return;
    };
    let mut out = Vec::new();
    let (accept, opened) = match answer {
        Ok(answer) => answer,
        Err((status, body)) => {
            write_response(&mut out, status, &[], "application/json", body.as_bytes());
            let _ = stream.write_all(&out).await;
            let _ = stream.shutdown().await;
            return;
        }
    };
    write_accept(&mut out, &accept);
    if stream.write_all(&out).await.is_err() || stream.flush().await.is_err() {
        return;
    }
    bytes.drain(..len);
    let limit = limit::REALTIME_MESSAGE_BYTES_MAX + 5 * 1024 * 1024;
    let link = Link::new(stream, Role::Server, bytes, limit, conn);
    let options = Options {
        seed: options.seed.wrapping_add(conn),
        ..options.clone()
    };
    let model = Model::new(options, &opened, shared.clock.now());
    let seen = drive(link, model, &shared, conn).await;
    if let Some(recorder) = &shared.setup.recorder {
        recorder.flush();
    }
    if shared.setup.keeps_audio {
        let mut all = shared
            .seen
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        all.push(seen);
    }
}

/// Drives one session to its end.
async fn drive(mut link: Link<Stream>, mut model: Model, shared: &Shared, conn: u64) -> Seen {
    let mut seen = Seen::default();
    let record = |direction, text: &[u8]| {
        if let Some(recorder) = &shared.setup.recorder {
            recorder.write(conn, direction, text);
        }
    };
    model.keep_audio(shared.setup.keeps_audio);
    let mut resets = false;
    let mut closing = false;
    loop {
        while let Some(output) = model.poll_output() {
            match output {
                Output::Text(text) => {
                    record(Direction::Out, text.as_bytes());
                    if shared.setup.keeps_audio {
                        keep_sent(&mut seen, &text, shared.clock.now().mono);
                    }
                    link.text(&text);
                }
                Output::Raw(bytes) => link.raw(&bytes),
                Output::Close(code, reason) => {
                    link.close(code, &reason);
                    closing = true;
                }
                Output::Reset => resets = true,
            }
        }
        if resets || link.flush().await.is_err() {
            break;
        }
        if closing {
            wait_for_close(&mut link, &mut seen).await;
            link.shutdown().await;
            break;
        }
        let wait = match model.poll_timeout() {
            Some(at) => at.since(shared.clock.now().mono),
            None => Duration::from_secs(3600),
        };
        tokio::select! {
            incoming = link.next() => match incoming {
                Incoming::Text(text) => {
                    record(Direction::In, &text);
                    model.handle_text(&text, shared.clock.now());
                }
                Incoming::Binary => model.handle_binary(shared.clock.now()),
                Incoming::Ping(payload) => link.pong(&payload),
                Incoming::Pong => {}
                Incoming::Close(code) => {
                    seen.closed = Some(code);
                    // RFC 6455 section 5.5.1: the answer carries the same code; 1005 is never sent.
                    link.close(if code == 1005 { 1000 } else { code }, "");
                    let _ = link.flush().await;
                    link.shutdown().await;
                    break;
                }
                Incoming::Violation(violation) => {
                    link.close(violation.close_code(), violation.label());
                    let _ = link.flush().await;
                    link.shutdown().await;
                    break;
                }
                Incoming::Gone => break,
            },
            () = tokio::time::sleep(wait) => model.handle_timeout(shared.clock.now()),
        }
    }
    if resets {
        reset(link.into_inner());
    }
    let kept = model.into_kept();
    Seen {
        counts: kept.counts,
        appended: kept.appended,
        speech_started: kept.speech_started,
        speech_stopped: kept.speech_stopped,
        ..seen
    }
}

fn keep_sent(seen: &mut Seen, text: &str, at: Mono) {
    if text.starts_with("{\"type\":\"session.updated\"") {
        seen.ready_at.get_or_insert(at);
    }
    let audio = text
        .strip_prefix("{\"type\":\"response.output_audio.delta\"")
        .and_then(|rest| rest.rsplit_once("\"delta\":\""))
        .and_then(|(_, delta)| delta.split('"').next());
    if let Some(payload) = audio {
        let payload = payload.into();
        seen.sent.push(Passed { at, payload });
    }
}

async fn wait_for_close(link: &mut Link<Stream>, seen: &mut Seen) {
    let answer = async {
        loop {
            match link.next().await {
                Incoming::Close(code) => {
                    seen.closed = Some(code);
                    return;
                }
                Incoming::Gone | Incoming::Violation(_) => return,
                _ => {}
            }
        }
    };
    let _ = tokio::time::timeout(CLOSE_DEADLINE, answer).await;
}

/// Closes with RST: a linger time of zero throws away what is unsent.
pub fn reset(stream: Stream) {
    if let Ok(established) = stream.into_established() {
        let _ = socket2::SockRef::from(&established.fd).set_linger(Some(Duration::ZERO));
    }
}

/// A server on a thread of its own; dropping it ends the thread.
pub struct Running {
    address: SocketAddr,
    url: String,
    ca_pem: Option<String>,
    sessions: Sessions,
    _stop: watch::Sender<()>,
}

impl Running {
    /// The bound address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL for `realtime.url`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The certificate that clients must trust, PEM; `None` without TLS.
    pub fn ca_pem(&self) -> Option<&str> {
        self.ca_pem.as_deref()
    }

    /// Where ended sessions leave what they saw.
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }
}

/// Starts a server on a thread of its own.
pub fn start(address: SocketAddr, setup: Setup, clock: SystemClock) -> io::Result<Running> {
    let server = Server::bind(address, setup, clock)?;
    // Made here, so that a machine without descriptors is an error of this call.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (stop, mut stopped) = watch::channel(());
    let running = Running {
        address: server.address(),
        url: server.url(),
        ca_pem: server.ca_pem().map(String::from),
        sessions: server.sessions(),
        _stop: stop,
    };
    std::thread::Builder::new()
        .name("sim-model".into())
        .spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = server.run() => {}
                    // The other half is dropped with `Running`.
                    _ = stopped.changed() => {}
                }
            });
        })?;
    Ok(running)
}

/// The built-in simulated model of a daemon without a key: talk mode, plain, on a loopback port of the system's choice.
pub fn start_plain() -> io::Result<Running> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    start(address, Setup::default(), SystemClock::new())
}
