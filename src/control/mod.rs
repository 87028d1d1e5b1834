//! The control plane: axum on an ordinary tokio runtime, on a thread of its own. Never in the path of audio.
//!
//! Shell. Plain HTTP connections come from the desk as established connections, over TLS as well as plain; an admin
//! listener of its own where one is configured. `/api/routes` lists what is served:
//!
//! | path | methods | |
//! |---|---|---|
//! | `/health`, `/livez`, `/readyz` | GET | `status` |
//! | `/metrics` | GET | `status`; on the admin listener, and on a loopback main one |
//! | `/api/routes` | GET | `status` |
//! | `/api/calls/{callId}/turns` | GET | `status`; guarded like `/metrics` |
//! | `/api/twilio/voice`, `/api/twilio/incoming`, `/twilio/incoming-call` | GET, POST | `webhook` |
//! | `/api/twilio/incoming-call` | GET, POST | `webhook`, simple mode |
//! | `/api/twilio/after-stream` | GET, POST | `after_stream` |
//! | every alias of `base::route` | GET, POST | `stream` |

pub mod after_stream;
pub mod error;
pub mod report;
pub mod router;
pub mod status;
pub mod stream;
pub mod strict;
pub mod webhook;

use crate::base::limit::{HEAD_BYTES_MAX, HEAD_DEADLINE, HEADERS_MAX};
use crate::base::time::{Clock, Now};
use crate::bus::command::{DeskSender, WorkerSender};
use crate::bus::directory::{Directory, SharedDirectory};
use crate::bus::load::Overload;
use crate::bus::report::{HttpConnection, HttpInbox, ReportInbox, ReportSender};
use crate::config::Config;
use crate::transport::clock::SystemClock;
use crate::transport::stream::Stream;
use axum::Router;
use axum::http::header::{CONNECTION, UPGRADE};
use axum::http::{HeaderValue, StatusCode};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics_exporter_prometheus::PrometheusHandle;
use report::Calls;
use router::{BadHead, Peer};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use strict::StrictHeads;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, oneshot};
use tower::ServiceExt as _;

/// How often metrics and the directory are tidied.
const UPKEEP: Duration = Duration::from_secs(5);
/// Connections to the admin listener at once; more wait.
const ADMIN_CONNECTIONS_MAX: usize = 64;
/// How long requests under way may take to end at `stop`.
const STOP_DEADLINE: Duration = Duration::from_secs(1);

/// What control is given.
#[derive(Debug)]
pub struct Parts {
    /// The configuration.
    pub config: Arc<Config>,
    /// Control publishes it.
    pub directory: SharedDirectory,
    /// Plain HTTP connections from the desk.
    pub http: HttpInbox,
    /// Facts from the workers.
    pub reports: ReportInbox,
    /// Orders to the desk.
    pub desk: DeskSender,
    /// Orders to the workers.
    pub workers: Vec<WorkerSender>,
    /// Gets a copy of every report, where somebody watches; full, it misses some.
    pub tap: Option<ReportSender>,
}

/// A running control plane.
#[derive(Debug)]
pub struct Control {
    /// The admin listener's address, port filled in.
    pub admin: Option<SocketAddr>,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Control {
    /// Ends the thread. Requests under way have a second.
    pub fn stop(self) {
        let _ = self.stop.send(());
        if self.thread.join().is_err() {
            tracing::error!("the control thread panicked");
        }
    }
}

/// What every handler sees.
#[derive(Debug)]
pub struct Shared {
    config: Arc<Config>,
    directory: SharedDirectory,
    desk: DeskSender,
    workers: Vec<WorkerSender>,
    prometheus: PrometheusHandle,
    calls: Calls,
    clock: SystemClock,
    started: Now,
    requests: AtomicU64,
}

impl Shared {
    fn now(&self) -> Now {
        self.clock.now()
    }

    fn uptime(&self) -> Duration {
        self.now().mono.since(self.started.mono)
    }

    fn active_calls(&self) -> usize {
        self.workers.iter().map(WorkerSender::live).sum()
    }

    /// Why no worker takes new calls, when none does.
    fn overload(&self) -> Option<Overload> {
        let mut loads = self.workers.iter().map(|worker| worker.load().overload);
        let first = loads.next()?;
        loads.all(|overload| overload.is_some()).then_some(first)?
    }

    fn is_draining(&self) -> bool {
        self.directory.load().draining
    }

    /// The start's time tells processes apart, the number requests.
    fn next_request_id(&self) -> String {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        format!("{:x}-{number:x}", self.started.unix_ms)
    }
}

/// Binds the admin listener, where there is one (in the caller's thread, so that a busy port is an error here),
/// then starts the thread.
pub fn start(parts: Parts, prometheus: PrometheusHandle) -> io::Result<Control> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let admin = match parts.config.listen.admin {
        Some(address) => {
            let listener = std::net::TcpListener::bind(address).map_err(|error| {
                io::Error::new(error.kind(), format!("listen.admin {address}: {error}"))
            })?;
            listener.set_nonblocking(true)?;
            Some(listener)
        }
        None => None,
    };
    let address = admin
        .as_ref()
        .map(|listener| listener.local_addr())
        .transpose()?;
    let (stop, stopped) = oneshot::channel();
    let thread = std::thread::Builder::new()
        .name("control".into())
        .spawn(move || {
            runtime.block_on(run(parts, prometheus, admin, stopped));
            runtime.shutdown_timeout(STOP_DEADLINE);
        })?;
    Ok(Control {
        admin: address,
        stop,
        thread,
    })
}

async fn run(
    parts: Parts,
    prometheus: PrometheusHandle,
    admin: Option<std::net::TcpListener>,
    stopped: oneshot::Receiver<()>,
) {
    let clock = SystemClock::new();
    let shared = Arc::new(Shared {
        config: parts.config,
        directory: parts.directory,
        desk: parts.desk,
        workers: parts.workers,
        prometheus,
        calls: Calls::default(),
        clock,
        started: clock.now(),
        requests: AtomicU64::new(0),
    });
    let (reports, tap) = (parts.reports, parts.tap);
    let of_reports = shared.clone();
    let drain = tokio::spawn(async move { report::drain(reports, &of_reports.calls, tap).await });
    tokio::spawn(upkeep(shared.clone()));
    match admin.map(TcpListener::from_std) {
        Some(Ok(listener)) => {
            tokio::spawn(serve_admin(listener, router::admin(shared.clone())));
        }
        Some(Err(error)) => tracing::error!(%error, "the admin listener is lost"),
        None => {}
    }
    tokio::spawn(serve_main(parts.http, shared));
    // A caller that drops its `Control` without `stop` leaves us running.
    if stopped.await.is_err() {
        std::future::pending::<()>().await;
    }
    // The workers are gone by now, so what they reported last is in the queue: let it be logged.
    let _ = tokio::time::timeout(STOP_DEADLINE, drain).await;
}

async fn upkeep(shared: Arc<Shared>) {
    let mut tick = tokio::time::interval(UPKEEP);
    loop {
        tick.tick().await;
        shared.prometheus.run_upkeep();
        let now = shared.now().unix_ms;
        shared.calls.after.forget_until(now);
        let is_over = |directory: &Directory| {
            let mut expected = directory.expected.iter();
            expected.any(|(_, expected)| expected.expires_unix_ms <= now)
        };
        if is_over(&shared.directory.load()) {
            shared.directory.rcu(|directory| {
                let mut next = Directory::clone(directory);
                next.expected.forget(now);
                next
            });
        }
    }
}

/// Serves connections that the desk hands over, which counts them until they end.
async fn serve_main(mut inbox: HttpInbox, shared: Arc<Shared>) {
    let router = router::main(shared);
    while let Some(connection) = inbox.recv().await {
        let HttpConnection {
            established,
            place,
            keep_alive,
        } = *connection;
        let stream = match Stream::from_established(established) {
            Ok(stream) => stream,
            Err(error) => {
                tracing::debug!(%error, "a connection from the desk could not be taken over");
                continue;
            }
        };
        let peer = stream.peer_addr();
        let router = router.clone();
        tokio::spawn(async move {
            serve_connection(stream, peer, router, keep_alive).await;
            drop(place);
        });
    }
}

async fn serve_admin(listener: TcpListener, router: Router) {
    let places = Arc::new(Semaphore::new(ADMIN_CONNECTIONS_MAX));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, peer)) => {
                let router = router.clone();
                tokio::spawn(async move {
                    serve_connection(stream, Some(peer), router, true).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the admin listener could not accept");
                // Out of descriptors, say: trying again at once would only burn the core.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// One connection, request after request, until it ends or is upgraded. Without `keep_alive` after the first.
async fn serve_connection<S>(stream: S, peer: Option<SocketAddr>, router: Router, keep_alive: bool)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let stream = StrictHeads::new(stream);
    let verdict = stream.verdict();
    let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(Peer(peer));
        if let Some(error) = verdict.of(request.uri().path()) {
            request.extensions_mut().insert(BadHead(error));
        }
        // Behind an upgrade that is refused nothing is read any more.
        let last = !keep_alive || request.headers().contains_key(UPGRADE);
        let router = router.clone();
        async move {
            let answered = router.oneshot(request).await;
            let mut response = answered.unwrap_or_else(|never| match never {});
            if last && response.status() != StatusCode::SWITCHING_PROTOCOLS {
                let connection = response.headers_mut().entry(CONNECTION);
                connection.or_insert(HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        // A client that has said all it wants may end its side and still be answered.
        .half_close(true)
        .max_headers(HEADERS_MAX)
        .max_header_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "an HTTP connection ended badly");
    }
}

#[cfg(test)]
mod tests;
