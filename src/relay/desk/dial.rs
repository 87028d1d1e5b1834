//! Dialling the model: resolve, connect, TLS, upgrade; which failures are tried again, and with which key.
//!
//! A call waits for this, so the whole has `UPSTREAM_DEADLINE`, and the same is tried three times at most. Which answers
//! are worth another try: developers.openai.com, "Realtime API" and the vendor's own clients (408, 429 without an exhausted quota,
//! 500, 502, 503, 504), besides anything that went wrong on the way.

use super::Desk;
use super::conn::{Conn, Plug, Sockets};
use super::early::{self, Taken};
use super::targets::Tried;
use crate::base::id::{CallId, SlotKey, WorkerId};
use crate::base::limit::{CONNECT_DEADLINE, HEAD_BYTES_MAX, UPSTREAM_DEADLINE};
use crate::bus::command::ToWorker;
use crate::call::{DialFailure, Leg};
use crate::proto::http::head::{HeadError, Parsed, parse_response};
use crate::proto::http::upgrade::{ResponseError, check_response, write_request};
use crate::proto::realtime::endpoint::{self, Endpoint};
use crate::proto::ws::close;
use crate::proto::ws::writer::{Kind, write_frame};
use crate::telemetry::log::brief;
use crate::transport::tls::Tls;
use crate::transport::{ClientConfig, Established, ServerName};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// Waits before the same is tried a second and a third time; each is varied by a fifth.
const RETRY_DELAYS_MS: [u64; 2] = [250, 750];
/// Attempts of one dial, other keys and endpoints included, which are tried at once.
const ATTEMPTS_MAX: usize = 16;
/// How often a worker whose queue is full is given its answer again, and for how long: a call waits for it.
const ANSWER_AGAIN: Duration = Duration::from_millis(20);
const ANSWER_DEADLINE: Duration = UPSTREAM_DEADLINE;
/// What is read of a refusal's body, to find the error's code.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// How long a refusal's body is waited for: the next attempt waits behind it.
const BODY_DEADLINE: Duration = Duration::from_millis(500);
/// What is kept of the vendor's error code, for the log.
const CODE_CHARS_MAX: usize = 64;

/// Why there is no connection. Its text never holds a key.
#[derive(Debug)]
pub enum DialError {
    /// The host has no address.
    Resolve(io::Error),
    /// No address answered; the last one's error.
    Connect(io::Error),
    /// The socket failed later.
    Io(io::Error),
    /// TLS: no trust, no common version, broken records; or no TLS configuration for a `wss` endpoint.
    Tls(String),
    /// Time was up, while doing this.
    Deadline(&'static str),
    /// The peer closed without a whole answer.
    Closed,
    /// Its answer is no HTTP.
    Head(HeadError),
    /// Its 101 is no WebSocket upgrade: the header that is wrong.
    Upgrade(&'static str),
    /// Another status than 101.
    Status(Refused),
    /// The call ended first.
    Cancelled,
}

/// What says that there is no money left: trying again changes nothing (reference, error codes).
const QUOTA: [&str; 3] = [
    "insufficient_quota",
    "credit_balance_exhausted",
    "billing_hard_limit_reached",
];

/// An answer other than 101.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Refused {
    /// HTTP status.
    pub status: u16,
    /// `error.code` (or `error.type`) of a JSON body, cut short.
    pub code: String,
    /// `Retry-After`, seconds.
    pub retry_after_secs: Option<u64>,
}

impl Refused {
    /// The account's quota is used up: trying again changes nothing (the status alone, 429, does not say so).
    pub fn is_quota(&self) -> bool {
        QUOTA.contains(&self.code.as_str())
    }

    /// The key is at fault, so another key may do better.
    fn is_about_the_key(&self) -> bool {
        matches!(self.status, 401 | 429) || self.is_quota()
    }
}

impl DialError {
    /// Whether the same thing may go better a moment later.
    pub fn may_retry(&self) -> bool {
        match self {
            Self::Resolve(_)
            | Self::Connect(_)
            | Self::Io(_)
            | Self::Deadline(_)
            | Self::Closed => true,
            Self::Tls(_) | Self::Head(_) | Self::Upgrade(_) | Self::Cancelled => false,
            Self::Status(refused) => match refused.status {
                _ if refused.is_quota() => false,
                status => matches!(status, 408 | 429 | 500 | 502 | 503 | 504),
            },
        }
    }

    /// A bounded metric label.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Resolve(_) => "resolve",
            Self::Connect(_) => "connect",
            Self::Io(_) => "io",
            Self::Tls(_) => "tls",
            Self::Deadline(_) => "deadline",
            Self::Closed => "closed",
            Self::Head(_) => "head",
            Self::Upgrade(_) => "upgrade",
            Self::Cancelled => "cancelled",
            Self::Status(refused) => match refused.status {
                _ if refused.is_quota() => "quota",
                401 => "status_401",
                403 => "status_403",
                404 => "status_404",
                429 => "status_429",
                400..=499 => "status_4xx",
                500..=599 => "status_5xx",
                _ => "status_other",
            },
        }
    }
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resolve(error) => write!(f, "the host can't be resolved: {error}"),
            Self::Connect(error) => write!(f, "no connection: {error}"),
            Self::Io(error) => write!(f, "the connection failed: {error}"),
            Self::Tls(error) => write!(f, "TLS: {error}"),
            Self::Deadline(what) => write!(f, "time was up while {what}"),
            Self::Closed => f.write_str("closed without an answer"),
            Self::Cancelled => f.write_str("the call ended first"),
            Self::Head(error) => write!(f, "the answer is no HTTP ({})", error.label()),
            Self::Upgrade(what) => write!(f, "the 101 is no WebSocket upgrade: {what}"),
            Self::Status(refused) if refused.code.is_empty() => {
                write!(f, "refused with {}", refused.status)
            }
            Self::Status(refused) => {
                write!(f, "refused with {}, {}", refused.status, refused.code)
            }
        }
    }
}

impl std::error::Error for DialError {}

/// Connects and upgrades, once, within `UPSTREAM_DEADLINE`. Must run inside a tokio-uring runtime. `tls` is
/// needed for `wss` endpoints. `headers` go into the request as they are.
pub async fn connect(
    endpoint: &Endpoint,
    headers: &[(&str, &str)],
    tls: Option<Arc<ClientConfig>>,
) -> Result<Established, DialError> {
    let sockets = Rc::new(Sockets::default());
    connect_until(
        &sockets,
        endpoint,
        headers,
        tls,
        Instant::now() + UPSTREAM_DEADLINE,
        &Cancel::default(),
    )
    .await
}

pub(super) async fn connect_until(
    sockets: &Rc<Sockets>,
    endpoint: &Endpoint,
    headers: &[(&str, &str)],
    tls: Option<Arc<ClientConfig>>,
    deadline: Instant,
    cancel: &Cancel,
) -> Result<Established, DialError> {
    // Both tokio's own: dropping them leaves nothing in the ring.
    let socket = tokio::select! {
        socket = connect_tcp(endpoint, deadline) => socket?,
        () = cancel.ordered() => return Err(DialError::Cancelled),
    };
    let peer = socket.peer_addr().ok();
    let mut conn = Conn::new(tokio_uring::net::TcpStream::from_std(socket), peer, sockets);
    conn.set_leg_options(false).map_err(DialError::Io)?;
    let watchdog = conn.watch(deadline.saturating_duration_since(Instant::now()));
    cancel.shuts(&conn);
    let late = |what, error| match watchdog.fired() {
        true => DialError::Deadline(what),
        false => error,
    };
    if endpoint.tls {
        let config = tls.ok_or_else(|| DialError::Tls("no TLS configuration".into()))?;
        let name = ServerName::try_from(endpoint.host.clone())
            .map_err(|error| DialError::Tls(error.to_string()))?;
        let tls = Tls::client(config, name).map_err(|error| DialError::Tls(error.to_string()))?;
        conn.handshake(tls).await.map_err(|error| {
            let error = match error.kind() {
                io::ErrorKind::InvalidData => DialError::Tls(error.to_string()),
                io::ErrorKind::UnexpectedEof => DialError::Closed,
                _ => DialError::Io(error),
            };
            late("agreeing on TLS", error)
        })?;
    }
    let mut key = [0; 16];
    getrandom::fill(&mut key)
        .map_err(|error| DialError::Io(io::Error::other(error.to_string())))?;
    let mut request = Vec::new();
    write_request(
        &mut request,
        &endpoint.authority(),
        &endpoint.target,
        &key,
        headers,
    );
    let io_late = |error| late("sending the upgrade", DialError::Io(error));
    conn.write(&request).await.map_err(io_late)?;
    loop {
        match judge(&conn.plaintext, &key)? {
            Judged::More => {}
            Judged::Upgraded { len } => {
                conn.plaintext.drain(..len);
                drop(watchdog);
                return conn.into_established().map_err(DialError::Io);
            }
            Judged::Refused {
                len,
                body_len,
                mut refused,
            } => {
                // The body is wanted for its code only: whatever of it comes in time is good enough. Without a
                // length it is over when the code is there.
                let wanted = len + body_len.unwrap_or(BODY_BYTES_MAX).min(BODY_BYTES_MAX);
                let _late = conn.watch_reading(BODY_DEADLINE);
                while conn.plaintext.len() < wanted {
                    let ends = conn.plaintext.last() == Some(&b'}');
                    if ends && !error_code(&conn.plaintext[len..]).is_empty() {
                        break;
                    }
                    if !matches!(conn.read().await, Ok(true)) {
                        break;
                    }
                }
                let end = conn.plaintext.len().min(wanted);
                refused.code = error_code(&conn.plaintext[len.min(end)..end]);
                return Err(DialError::Status(refused));
            }
        }
        let more = conn.read().await;
        match more {
            Ok(true) => {}
            Ok(false) => return Err(late("waiting for the answer", DialError::Closed)),
            Err(error) => return Err(late("waiting for the answer", DialError::Io(error))),
        }
    }
}

/// Addresses in turn, each within `CONNECT_DEADLINE`. tokio's own connect: it is cancel-safe, so a
/// time-out may stand around it.
async fn connect_tcp(
    endpoint: &Endpoint,
    deadline: Instant,
) -> Result<std::net::TcpStream, DialError> {
    let lookup = tokio::net::lookup_host((endpoint.host.as_str(), endpoint.port));
    let addresses = timeout_at(deadline, lookup)
        .await
        .map_err(|_| DialError::Deadline("resolving the host"))?
        .map_err(DialError::Resolve)?;
    let mut last = DialError::Resolve(io::ErrorKind::NotFound.into());
    for address in addresses {
        let until = deadline.min(Instant::now() + CONNECT_DEADLINE);
        last = match timeout_at(until, tokio::net::TcpStream::connect(address)).await {
            Ok(Ok(socket)) => {
                let blocking = socket.into_std().and_then(|socket| {
                    socket.set_nonblocking(false)?;
                    Ok(socket)
                });
                return blocking.map_err(DialError::Io);
            }
            Ok(Err(error)) => DialError::Connect(error),
            Err(_) if Instant::now() >= deadline => return Err(DialError::Deadline("connecting")),
            Err(_) => DialError::Deadline("connecting"),
        };
    }
    Err(last)
}

#[derive(Debug, PartialEq, Eq)]
enum Judged {
    More,
    Upgraded {
        len: usize,
    },
    Refused {
        len: usize,
        body_len: Option<usize>,
        refused: Refused,
    },
}

/// What the bytes so far say.
fn judge(bytes: &[u8], key: &[u8; 16]) -> Result<Judged, DialError> {
    // A body that fills the buffer is not a head that is too long.
    let window = &bytes[..bytes.len().min(HEAD_BYTES_MAX + 1)];
    let (head, len) = match parse_response(window).map_err(DialError::Head)? {
        Parsed::Partial => return Ok(Judged::More),
        Parsed::Complete { head, len } => (head, len),
    };
    match check_response(&head, key) {
        Ok(()) => Ok(Judged::Upgraded { len }),
        Err(ResponseError::Header(what)) => Err(DialError::Upgrade(what)),
        Err(ResponseError::Status(status)) => {
            let number = |name| {
                head.headers
                    .first(name)
                    .and_then(|text| text.trim().parse().ok())
            };
            Ok(Judged::Refused {
                len,
                body_len: number("content-length").map(|len: u64| len as usize),
                refused: Refused {
                    status,
                    code: String::new(),
                    retry_after_secs: number("retry-after"),
                },
            })
        }
    }
}

/// `error.code`, else `error.type`, of a JSON body; printable and short. The money is named by either.
fn error_code(body: &[u8]) -> String {
    let Ok(value) = serde_json::from_slice::<serde_json::Value>(body) else {
        return String::new();
    };
    let error = &value["error"];
    let [code, kind] = ["code", "type"].map(|name| error[name].as_str());
    let code = kind.filter(|kind| QUOTA.contains(kind)).or(code).or(kind);
    code.unwrap_or_default()
        .chars()
        .filter(char::is_ascii_graphic)
        .take(CODE_CHARS_MAX)
        .collect()
}

/// The order to give a dial up, and the socket that it stops.
#[derive(Debug, Default)]
pub(super) struct Cancel {
    given: Cell<bool>,
    told: Notify,
    socket: RefCell<Option<Plug>>,
}

impl Cancel {
    pub(super) fn give(&self) {
        self.given.set(true);
        self.told.notify_one();
        if let Some(plug) = self.socket.take() {
            plug.pull();
        }
    }

    pub(super) async fn ordered(&self) {
        while !self.given.get() {
            self.told.notified().await;
        }
    }

    /// From now on the order shuts this connection, which ends whatever waits on it.
    fn shuts(&self, conn: &Conn) {
        *self.socket.borrow_mut() = Some(conn.plug());
    }
}

/// Dials under way, by who waits for them.
#[derive(Debug, Default)]
pub(super) struct Dials(RefCell<HashMap<(WorkerId, SlotKey), Rc<Cancel>>>);

impl Dials {
    /// `ToDesk::CancelDial`. The answer to a dial may already be on its way; that one finds its call gone.
    pub(super) fn cancel(&self, worker: WorkerId, slot: SlotKey) {
        if let Some(cancel) = self.0.borrow_mut().remove(&(worker, slot)) {
            cancel.give();
        }
    }
}

/// `ToDesk::Discard`: a leg that came after its call's end. The model has seen its upgrade, so it gets a close
/// frame, not just the end of the stream.
pub(super) async fn discard(desk: Rc<Desk>, upstream: Established) {
    let mut mask = [0; 4];
    let Ok(conn) = Conn::from_established(upstream, &desk.sockets) else {
        return;
    };
    if getrandom::fill(&mut mask).is_err() {
        return;
    }
    let (payload, len) = close::payload(close::NORMAL, "");
    let mut frame = Vec::new();
    write_frame(&mut frame, Kind::Close, Some(mask), &[&payload[..len]]);
    conn.say_goodbye(&frame).await;
}

/// What a dial is for; see `ToDesk::Dial`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) worker: WorkerId,
    pub(super) slot: SlotKey,
    pub(super) call_id: CallId,
    pub(super) leg: Leg,
    pub(super) dial: u32,
    pub(super) once: bool,
}

/// `ToDesk::Dial`. What the worker says next may be of this dial (that it is given up, that the announced call's connection
/// has arrived) and be read in the same wake-up, before a task begins: so all that must be known by then is done here.
pub(super) fn begin(desk: &Rc<Desk>, asked: Asked) {
    if !asked.once && early::is_handed(desk, asked.call_id) {
        return;
    }
    let cancel = Rc::new(Cancel::default());
    let key = (asked.worker, asked.slot);
    desk.dials.0.borrow_mut().insert(key, cancel.clone());
    super::spawn(run(desk.clone(), asked, cancel));
}

/// Answers `ToDesk::Dial`, unless it is cancelled.
async fn run(desk: Rc<Desk>, asked: Asked, cancel: Rc<Cancel>) {
    let Asked {
        worker,
        slot,
        call_id,
        leg,
        dial,
        once,
    } = asked;
    let early = match once {
        true => Taken::Nothing,
        false => early::take(&desk, call_id, &cancel).await,
    };
    let outcome = match early {
        Taken::Here(upstream) => Ok(upstream),
        Taken::Nothing if cancel.given.get() => Err(DialError::Cancelled),
        Taken::Nothing => attempts(&desk, call_id, once, &cancel).await,
        Taken::OnItsWay => {
            desk.dials.0.borrow_mut().remove(&(worker, slot));
            return;
        }
    };
    if cancel.given.get() {
        desk.meter.dial_error(DialError::Cancelled.label());
        tracing::info!(call_id = %call_id, "dial given up: the call ended first");
        if let Ok(upstream) = outcome {
            discard(desk, upstream).await;
        }
        return;
    }
    let order = ToWorker::Upstream {
        slot,
        leg,
        dial,
        outcome: outcome.map(Box::new).map_err(|error| DialFailure {
            text: error.to_string(),
            retry: error.may_retry(),
        }),
    };
    let unsent = answer(&desk, worker, order, &cancel).await;
    if !cancel.given.get() {
        desk.dials.0.borrow_mut().remove(&(worker, slot));
    }
    // The session's own deadline ends its wait.
    if let Some(ToWorker::Upstream { outcome, .. }) = unsent {
        tracing::error!(call_id = %call_id, worker = worker.0, "the worker takes no orders: upstream dropped");
        if let Ok(upstream) = outcome {
            discard(desk, *upstream).await;
        }
    }
}

/// Gives a worker its answer, again and again while its queue is full: without it a call would wait in silence. The answer,
/// where nobody took it.
async fn answer(
    desk: &Desk,
    worker: WorkerId,
    order: ToWorker,
    cancel: &Cancel,
) -> Option<ToWorker> {
    let Some(sender) = desk.workers.get(usize::from(worker.0)) else {
        return Some(order);
    };
    let mut order = sender.send(order).err()?;
    desk.meter.queue_full("worker");
    let deadline = Instant::now() + ANSWER_DEADLINE;
    while Instant::now() < deadline && !desk.stopping.get() {
        tokio::select! {
            () = tokio::time::sleep(ANSWER_AGAIN) => {}
            () = cancel.ordered() => break,
        }
        order = sender.send(order).err()?;
    }
    Some(order)
}

pub(super) async fn attempts(
    desk: &Desk,
    call_id: CallId,
    once: bool,
    cancel: &Cancel,
) -> Result<Established, DialError> {
    let started = Instant::now();
    // One that is part of an outage's schedule must leave time for the others, and has its own waits.
    let (deadline, mut delays) = match once {
        true => (started + CONNECT_DEADLINE, [].iter()),
        false => (started + UPSTREAM_DEADLINE, RETRY_DELAYS_MS.iter()),
    };
    let mut tried = Tried::default();
    let mut wait = Duration::ZERO;
    // What may go better a moment later, if everything else is refused for good.
    let mut passing = None;
    for attempt in 1.. {
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = cancel.ordered() => return Err(DialError::Cancelled),
        }
        let now = Instant::now();
        let next = desk.targets.borrow_mut().next(&tried, dice(), now);
        let Some((at, key)) = next else { break };
        let (endpoint, headers) = {
            let target = &desk.targets.borrow().all[at];
            let headers = key.and_then(|i| endpoint::headers(target.keys.keys[i].expose()));
            (target.endpoint.clone(), headers)
        };
        let headers: Vec<(&str, &str)> = headers
            .iter()
            .flatten()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        desk.meter.dial_attempt();
        let tls = desk.client_tls.clone();
        let dialled = connect_until(&desk.sockets, &endpoint, &headers, tls, deadline, cancel);
        let error = match dialled.await {
            Ok(established) => {
                let ms = started.elapsed().as_millis() as u64;
                desk.targets.borrow_mut().gave(at, call_id);
                tracing::info!(call_id = %call_id, attempt, ms, host = endpoint.host, "upstream connected");
                return Ok(established);
            }
            // Whatever the shut socket said.
            Err(_) if cancel.given.get() => return Err(DialError::Cancelled),
            Err(error) => error,
        };
        desk.meter.dial_error(error.label());
        let refused = matches!(&error, DialError::Status(refused) if refused.is_about_the_key());
        let now = Instant::now();
        // What one key or endpoint is refused for good another may get, and at once.
        let other = desk
            .targets
            .borrow_mut()
            .failed((at, key), refused, &mut tried, now);
        let delay = match other {
            true => Some(Duration::ZERO),
            false if error.may_retry() => delays.next().map(|ms| next_delay(*ms, &error)),
            false => None,
        };
        let left = deadline.saturating_duration_since(now);
        let retry = delay.filter(|delay| *delay < left && attempt < ATTEMPTS_MAX);
        // The endpoint has a say in what is wrong with it: its certificate, its code.
        let sentence = error.to_string();
        tracing::warn!(
            call_id = %call_id, attempt, host = endpoint.host, cause = error.label(),
            key = key.map(|i| i + 1), retry = retry.is_some(), error = &*brief(&sentence),
            "upstream attempt failed"
        );
        match retry {
            Some(delay) => wait = delay,
            None if error.may_retry() => return Err(error),
            None => return Err(passing.unwrap_or(error)),
        }
        if error.may_retry() {
            passing = Some(error);
        }
    }
    // Only without an endpoint.
    Err(DialError::Resolve(io::ErrorKind::NotFound.into()))
}

/// `Retry-After` is the peer's number, so it is bounded before anything is added to it; past the deadline there is no other
/// attempt anyway.
fn next_delay(ms: u64, error: &DialError) -> Duration {
    let asked = match error {
        DialError::Status(refused) => refused.retry_after_secs.unwrap_or(0),
        _ => 0,
    };
    jitter(ms).max(Duration::from_secs(asked).min(UPSTREAM_DEADLINE))
}

fn dice() -> u32 {
    let mut bytes = [0; 4];
    // Without entropy it is always the first: no reason to fail.
    let _ = getrandom::fill(&mut bytes);
    u32::from_ne_bytes(bytes)
}

/// `ms`, a fifth more or less, so that calls that failed together don't return together.
fn jitter(ms: u64) -> Duration {
    let mut byte = [128];
    // Without entropy there is no jitter, which is no reason to fail.
    let _ = getrandom::fill(&mut byte);
    Duration::from_millis(ms * (800 + u64::from(byte[0]) * 400 / 255) / 1000)
}

#[cfg(test)]
mod tests;
