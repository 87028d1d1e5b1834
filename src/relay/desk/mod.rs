//! The front desk: one tokio-uring thread that accepts, upgrades, dials and hands established legs on.
//!
//! Async code, because what happens here is rare and branches a lot; it never sees an audio frame. The rules of
//! its runtime stand in `conn`: a ring operation is awaited where it is made and never dropped, and
//! every deadline is a task that shuts the socket down.
//!
//! A panic here is outside every call, so nothing says what is still whole: it is logged and ends the process.

mod admit;
mod conn;
pub mod dial;
mod early;
mod listener;
mod targets;
mod upgrade;
mod warm;

use crate::base::id::{CallId, WorkerId};
use crate::base::limit::{HEAD_DEADLINE, TLS_ACCEPT_DEADLINE};
use crate::base::time::Clock as _;
use crate::bus::command::{DeskInbox, IdleEnd, ToDesk, WorkerSender};
use crate::bus::directory::SharedDirectory;
use crate::bus::report::HttpSender;
use crate::config::Config;
use crate::proto::realtime::endpoint::connect_url;
use crate::telemetry::desk_meter::DeskMeter;
use crate::transport::clock::SystemClock;
use crate::transport::{ClientConfig, ServerConfig, roots};
use admit::Admission;
use conn::Sockets;
use dial::Dials;
use listener::{Admitted, Strangers};
use std::cell::{Cell, RefCell, RefMut};
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use targets::{Target, Targets};
use tokio::task::JoinHandle;

/// Submission queue: one entry per operation between two parks of the runtime.
const SQ_ENTRIES: u32 = 1024;
/// Completion queue: every connection has at most one read or write under way, and a burst must not overflow it.
const CQ_ENTRIES: u32 = 16 * 1024;
/// How long the end of the desk waits for its connections to end, after they have been shut down.
const STOP_DEADLINE: Duration = Duration::from_secs(3);

/// A running desk.
#[derive(Debug)]
pub struct Running {
    /// The bound addresses, ports filled in.
    pub addresses: Vec<SocketAddr>,
    /// Ends after `ToDesk::Stop`.
    pub thread: std::thread::JoinHandle<()>,
}

/// From accept; both in `base::limit`, shorter in tests.
#[derive(Clone, Copy, Debug)]
struct Deadlines {
    tls_accept: Duration,
    head: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            tls_accept: TLS_ACCEPT_DEADLINE,
            head: HEAD_DEADLINE,
        }
    }
}

/// What the desk's tasks share; they all run on one thread.
struct Desk {
    config: Arc<Config>,
    deadlines: Deadlines,
    directory: SharedDirectory,
    workers: Vec<WorkerSender>,
    http: HttpSender,
    client_tls: Option<Arc<ClientConfig>>,
    /// The listener's certificate, replaced on reload.
    tls: RefCell<Option<Arc<ServerConfig>>>,
    /// Where the model is.
    targets: RefCell<Targets>,
    admission: RefCell<Admission>,
    strangers: Arc<Mutex<Strangers>>,
    /// Refusals over the caps that are being said.
    goodbyes: Cell<usize>,
    /// Admitted on control's behalf, by the number in the answer.
    admitted: RefCell<HashMap<u64, Admitted>>,
    next_ticket: Cell<u64>,
    dials: Dials,
    early: early::Early,
    warm: warm::Warm,
    sockets: Rc<Sockets>,
    stopping: Cell<bool>,
    /// Both make the ids of refused requests.
    started_unix_ms: u64,
    requests: Cell<u64>,
    clock: SystemClock,
    meter: DeskMeter,
}

impl Desk {
    /// Admission, with what the workers last said of themselves.
    fn admission_now(&self) -> RefMut<'_, Admission> {
        let mut admission = self.admission.borrow_mut();
        for (worker, sender) in self.workers.iter().enumerate() {
            admission.set_load(worker, sender.load());
        }
        admission
    }

    /// The same form as control's, and never the same id.
    fn next_request_id(&self) -> String {
        let number = self.requests.replace(self.requests.get() + 1);
        format!("{:x}-d{number:x}", self.started_unix_ms)
    }
}

/// A call's place at a worker, given back when it is dropped, unless the worker has the call.
struct Place {
    desk: Rc<Desk>,
    worker: Option<WorkerId>,
    /// Where the id came with the stream.
    call_id: Option<CallId>,
}

impl Place {
    fn keep(&mut self) {
        self.worker = None;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(worker) = self.worker {
            self.desk
                .admission
                .borrow_mut()
                .release(worker, self.call_id);
        }
    }
}

/// Binds the listeners (in the caller's thread, so that a busy port is an error here), then starts the desk's thread.
///
/// Errs as well when the certificate, the model's URL or its roots can't be used, and where io_uring is forbidden.
pub fn start(
    config: Arc<Config>,
    directory: SharedDirectory,
    inbox: DeskInbox,
    workers: Vec<WorkerSender>,
    http: HttpSender,
) -> io::Result<Running> {
    start_with(
        config,
        directory,
        inbox,
        workers,
        http,
        Deadlines::default(),
    )
}

fn start_with(
    config: Arc<Config>,
    directory: SharedDirectory,
    inbox: DeskInbox,
    workers: Vec<WorkerSender>,
    http: HttpSender,
    deadlines: Deadlines,
) -> io::Result<Running> {
    let tls = match &config.listen.tls {
        Some(files) => Some(roots::server_config(&files.cert_file, &files.key_file)?),
        None => None,
    };
    let realtime = &config.realtime;
    let mut endpoints = Vec::new();
    for configured in realtime.endpoints_in_force() {
        let endpoint = connect_url(
            &configured.url,
            &realtime.model,
            realtime.temperature_for(&config.agent),
        )
        .map_err(|error| {
            io::Error::new(io::ErrorKind::InvalidInput, format!("realtime.url {error}"))
        })?;
        endpoints.push((endpoint, configured.api_keys, configured.weight));
    }
    let client_tls = match endpoints.iter().any(|(endpoint, ..)| endpoint.tls) {
        true => Some(roots::client_config(realtime.ca_file.as_deref())?),
        false => None,
    };
    let mut listeners = Vec::new();
    let mut addresses = Vec::new();
    let mut port = config.listen.port;
    for address in &config.listen.addresses {
        let listener = listener::bind(SocketAddr::new(*address, port))?;
        let bound = listener.local_addr()?;
        // The system chooses once; the other addresses get the same port.
        port = bound.port();
        addresses.push(bound);
        listeners.push(listener);
    }
    let (warm_pool, worker_count) = (config.realtime.warm_pool, workers.len());
    let (ready, started) = std::sync::mpsc::channel();
    let build = move || Desk {
        targets: RefCell::new(Targets::new(
            endpoints
                .into_iter()
                .map(|(endpoint, keys, weight)| Target::new(endpoint, keys, weight))
                .collect(),
        )),
        admission: RefCell::new(Admission::new(workers.len())),
        config,
        deadlines,
        directory,
        workers,
        http,
        client_tls,
        tls: RefCell::new(tls),
        strangers: Arc::default(),
        goodbyes: Cell::new(0),
        started_unix_ms: SystemClock::new().now().unix_ms,
        requests: Cell::new(0),
        admitted: RefCell::default(),
        next_ticket: Cell::new(1),
        dials: Dials::default(),
        early: early::Early::default(),
        warm: warm::Warm::new(warm_pool, worker_count),
        sockets: Rc::default(),
        stopping: Cell::new(false),
        clock: SystemClock::new(),
        meter: DeskMeter,
    };
    let thread = std::thread::Builder::new()
        .name("desk".into())
        .spawn(move || {
            let _guard = AbortOnPanic;
            match runtime() {
                Ok(runtime) => {
                    let _ = ready.send(Ok(()));
                    runtime.block_on(run(Rc::new(build()), inbox, listeners));
                }
                Err(error) => {
                    let _ = ready.send(Err(error));
                }
            }
        })?;
    started
        .recv()
        .unwrap_or_else(|_| Err(io::Error::other("the desk's thread ended")))?;
    Ok(Running { addresses, thread })
}

fn runtime() -> io::Result<tokio_uring::Runtime> {
    // Single-issuer and deferred task-run would make this runtime accept nothing.
    let mut ring = tokio_uring::uring_builder();
    ring.setup_cqsize(CQ_ENTRIES).setup_coop_taskrun();
    tokio_uring::Runtime::new(
        tokio_uring::builder()
            .entries(SQ_ENTRIES)
            .uring_builder(&ring),
    )
}

/// Logs and ends the process when it is dropped by a panic.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!("the desk panicked: aborting");
            std::process::abort();
        }
    }
}

/// A task of the desk. The runtime would swallow its panic; the guard inside does not.
fn spawn(task: impl Future<Output = ()> + 'static) -> JoinHandle<()> {
    tokio_uring::spawn(async move {
        let _guard = AbortOnPanic;
        task.await;
    })
}

async fn run(desk: Rc<Desk>, mut inbox: DeskInbox, listeners: Vec<TcpListener>) {
    // A second descriptor each, to end the pending accepts with.
    let mut doors = Vec::new();
    for listener in listeners {
        match listener.try_clone() {
            Ok(handle) => {
                doors.push((handle, spawn(listener::accept(desk.clone(), listener))));
            }
            Err(error) => {
                tracing::error!("a listener that can't be stopped is not opened: {error}")
            }
        }
    }
    if desk.config.realtime.warm_pool > 0 {
        spawn(warm::keep(desk.clone()));
    }
    while let Some(order) = inbox.recv().await {
        match order {
            ToDesk::Dial {
                worker,
                slot,
                call_id,
                leg,
                dial,
                once,
            } => {
                let asked = dial::Asked {
                    worker,
                    slot,
                    call_id,
                    leg,
                    dial,
                    once,
                };
                dial::begin(&desk, asked);
            }
            ToDesk::CancelDial { worker, slot } => desk.dials.cancel(worker, slot),
            ToDesk::Distrust { call_id } => {
                let now = tokio::time::Instant::now();
                if let Some(endpoint) = desk.targets.borrow_mut().distrust(call_id, now) {
                    tracing::warn!(%call_id, host = endpoint.host, "a connection was of no use: the endpoint is left alone a while");
                }
            }
            ToDesk::Discard { upstream } => {
                spawn(dial::discard(desk.clone(), *upstream));
            }
            ToDesk::Predial { call_id } => {
                if desk.config.realtime.predial {
                    spawn(early::predial(desk.clone(), call_id));
                }
            }
            ToDesk::Forget { call_id } => early::forget(&desk, call_id),
            ToDesk::IdleOver {
                worker,
                call_id,
                endpoint,
                taken_by,
                how,
                age,
            } => {
                if let Some(call_id) = taken_by {
                    desk.targets.borrow_mut().taken(endpoint, call_id);
                }
                if how == IdleEnd::Lost && age < warm::YOUNG {
                    let now = tokio::time::Instant::now();
                    desk.targets.borrow_mut().lost_early(endpoint, now);
                }
                match call_id {
                    Some(call_id) => early::on_over(&desk, call_id),
                    None => desk.warm.on_over(worker, how, age),
                }
            }
            ToDesk::Ended { worker, call_id } => {
                early::forget(&desk, call_id);
                desk.admission.borrow_mut().release(worker, Some(call_id));
            }
            ToDesk::Admit {
                head,
                peer,
                request_id,
                answer,
            } => {
                // Whoever asked may be gone by now; the place then falls back by its deadline.
                let decided = listener::admit_from_control(&desk, &head, peer, &request_id);
                let _ = answer.send(decided);
            }
            ToDesk::Admitted { ticket, connection } => {
                listener::admitted_from_control(&desk, ticket, *connection);
            }
            ToDesk::ReloadTls => {
                reload(&desk);
                desk.warm.reload();
            }
            ToDesk::Drain => {
                desk.admission.borrow_mut().drain();
                desk.warm.drain();
                early::drain(&desk);
            }
            ToDesk::Stop => break,
        }
    }
    stop(&desk, doors).await;
}

/// New connections get the new certificate; one that can't be used changes nothing.
fn reload(desk: &Desk) {
    let Some(files) = &desk.config.listen.tls else {
        return tracing::info!("no certificate to reload: listen.tls is not set");
    };
    match roots::server_config(&files.cert_file, &files.key_file) {
        Ok(config) => {
            *desk.tls.borrow_mut() = Some(config);
            tracing::info!(cert_file = %files.cert_file.display(), "certificate reloaded");
        }
        Err(error) => tracing::error!("the old certificate stays: {error}"),
    }
}

/// Ends every ring operation, since the runtime's end waits for them.
async fn stop(desk: &Desk, doors: Vec<(TcpListener, JoinHandle<()>)>) {
    desk.stopping.set(true);
    desk.warm.drain();
    for (listener, accepting) in doors {
        // Its pending accept ends with an error, and so does every later one.
        let _ = socket2::SockRef::from(&listener).shutdown(Shutdown::Both);
        let _ = accepting.await;
    }
    let deadline = tokio::time::Instant::now() + STOP_DEADLINE;
    loop {
        // Again each time: a task may have opened another socket meanwhile.
        desk.sockets.shutdown_all();
        if desk.sockets.len() == 0 || tokio::time::Instant::now() >= deadline {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[cfg(test)]
mod tests;
