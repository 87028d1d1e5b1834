//! HTTP that we start: tools now, outgoing webhooks later. Owns the HTTP client. Shell: one thread with a tokio
//! runtime of its own, so that a server that hangs never meets the path of audio.
//!
//! ```text
//! workers ──ToolRequest──► bounded queue ──► one task a request ──ToWorker::ToolResult──► the worker that asked
//! ```
//!
//! Bounds, each with its answer: requests waiting in the queue (full: the worker answers "too many" itself), requests
//! taken from it at once (the rest waits there), those of one call under way (the rest of them waits), each
//! request's time (the model is told), each answer's length (likewise).

pub mod request;
pub mod signature;
#[cfg(test)]
mod tests;

use crate::base::id::CallId;
use crate::base::limit;
use crate::base::rng::Rng;
use crate::base::time::Clock;
use crate::bus::command::{ToWorker, WorkerSender};
use crate::bus::tool::{ToolInbox, ToolRequest};
use crate::transport::ClientConfig;
use crate::transport::clock::SystemClock;
use reqwest::Client;
use std::collections::HashMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Requests under way at once, all calls together. Each is a connection and at most 256 KiB of answer.
pub const IN_FLIGHT_MAX: usize = 256;
/// And those of one call: one call's slow tools must not hold all places.
pub const IN_FLIGHT_PER_CALL: usize = 4;
/// Threads that look names up; a resolver that hangs holds one each.
const RESOLVERS_MAX: usize = 8;
/// Idle connections kept for each host.
const IDLE_PER_HOST: usize = 8;
/// How long requests may go on when the daemon stops.
const STOP_GRACE: Duration = Duration::from_secs(2);
/// A worker's queue that is full is tried again this often, this many times; then its own deadline answers the model.
const ANSWER_TRIES: (Duration, usize) = (Duration::from_millis(20), 50);

/// What the thread is given.
#[derive(Debug)]
pub struct Parts {
    /// The requests. It ends when all senders are gone.
    pub inbox: ToolInbox,
    /// Where answers go, by `WorkerId`.
    pub workers: Vec<WorkerSender>,
    /// Whom to trust.
    pub tls: Arc<ClientConfig>,
    /// The process's clock.
    pub clock: SystemClock,
}

/// The running thread.
#[derive(Debug)]
pub struct Outcall {
    thread: JoinHandle<()>,
}

impl Outcall {
    /// Waits for its end, which comes when all senders of its queue are gone.
    pub fn join(self) {
        // A panic was printed when it happened.
        let _ = self.thread.join();
    }
}

/// The client: TLS as configured, HTTP/1.1, no redirects, no proxy from the environment, no decompression (so that
/// a bound on bytes is one), no retries of its own.
pub fn client(tls: &ClientConfig) -> reqwest::Result<Client> {
    Client::builder()
        .tls_backend_preconfigured(tls.clone())
        .http1_only()
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .no_proxy()
        .connect_timeout(limit::CONNECT_DEADLINE)
        .pool_max_idle_per_host(IDLE_PER_HOST)
        .user_agent(concat!("voxrelay/", env!("CARGO_PKG_VERSION")))
        .build()
}

/// Starts the thread. Errs when the client or the runtime can't be made.
pub fn start(parts: Parts) -> std::io::Result<Outcall> {
    let client = client(&parts.tls).map_err(std::io::Error::other)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(RESOLVERS_MAX)
        .thread_name("outcall-resolver")
        .build()?;
    let thread = std::thread::Builder::new()
        .name("outcall".into())
        .spawn(move || {
            runtime.block_on(serve(parts, client));
            // A resolver that hangs must not hold up the daemon's end.
            runtime.shutdown_background();
        })?;
    Ok(Outcall { thread })
}

async fn serve(mut parts: Parts, client: Client) {
    let mut running: JoinSet<CallId> = JoinSet::new();
    let mut calls: HashMap<CallId, Lane> = HashMap::new();
    let mut seed = [0; 32];
    // Only pauses hang on it: without entropy they are the same in every process, which does no harm.
    let _ = getrandom::fill(&mut seed);
    let mut rng = Rng::from_seed(seed);
    loop {
        tokio::select! {
            request = parts.inbox.recv(), if running.len() < IN_FLIGHT_MAX => {
                let Some(request) = request else { break };
                let lane = calls.entry(request.call_id).or_default();
                lane.tasks += 1;
                let places = lane.places.clone();
                let (client, clock) = (client.clone(), parts.clock);
                let worker = parts.workers.get(usize::from(request.worker.0)).cloned();
                let rng = Rng::from_u64(rng.next_u64());
                running.spawn(async move {
                    let call_id = request.call_id;
                    // Never closed, so a place always comes; the request's own deadline runs meanwhile.
                    let _place = places.acquire_owned().await;
                    answer(client, clock, worker, request, rng).await;
                    call_id
                });
            }
            Some(ended) = running.join_next() => match ended {
                Ok(call_id) => leave(&mut calls, call_id),
                Err(error) => tracing::error!(%error, "a tool request failed inside"),
            }
        }
    }
    // Orders under way may still be carried out by their servers; give them a moment to be sent whole.
    let _ = tokio::time::timeout(STOP_GRACE, async {
        while running.join_next().await.is_some() {}
    })
    .await;
}

/// The requests of one call.
struct Lane {
    places: Arc<Semaphore>,
    tasks: usize,
}

impl Default for Lane {
    fn default() -> Self {
        Self {
            places: Arc::new(Semaphore::new(IN_FLIGHT_PER_CALL)),
            tasks: 0,
        }
    }
}

fn leave(calls: &mut HashMap<CallId, Lane>, call_id: CallId) {
    if let Some(lane) = calls.get_mut(&call_id) {
        lane.tasks -= 1;
        if lane.tasks == 0 {
            calls.remove(&call_id);
        }
    }
}

async fn answer(
    client: Client,
    clock: impl Clock,
    worker: Option<WorkerSender>,
    request: ToolRequest,
    mut rng: Rng,
) {
    let result = request::run(&client, &clock, &request.call_id, &request.call, &mut rng).await;
    let Some(worker) = worker else { return };
    let mut order = ToWorker::ToolResult {
        slot: request.slot,
        result,
    };
    let (pause, tries) = ANSWER_TRIES;
    for _ in 0..tries {
        match worker.send(order) {
            Ok(()) => return,
            Err(back) => order = back,
        }
        tokio::time::sleep(pause).await;
    }
    tracing::warn!(
        call = request.call_id.as_str(),
        "a tool's answer found its worker's queue full"
    );
}
