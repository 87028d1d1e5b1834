//! The whole daemon as one value: the desk, the workers and control, wired by the buses. `serve` runs it until a
//! signal; `demo` runs it for one call.

use crate::base::id::WorkerId;
use crate::base::limit;
use crate::bus::command::{DeskSender, ToDesk, ToWorker, WorkerSender, desk_queue, worker_queue};
use crate::bus::directory::{Directory, SharedDirectory};
use crate::bus::report::{http_queue, report_queue};
use crate::bus::tool::tool_queue;
use crate::call::session::Command;
use crate::call::{EndReason, Report};
use crate::config::Config;
use crate::control::{self, Control};
use crate::outcall::{self, Outcall};
use crate::relay::worker::Tuning;
use crate::relay::worker::cores::Plan;
use crate::relay::{desk, worker};
use crate::simulate::model;
use crate::telemetry::meter;
use crate::transport::clock::SystemClock;
use crate::transport::roots;
use arc_swap::ArcSwap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Orders that may wait for one worker: each live call can have two under way, and hang-ups come on top.
const WORKER_QUEUE: usize = 8 * 1024;
/// Orders that may wait for the desk.
const DESK_QUEUE: usize = 8 * 1024;
/// Facts that may wait for control.
const REPORT_QUEUE: usize = 16 * 1024;
/// Requests for tools that may wait; past it the model is told to try again later.
const TOOL_QUEUE: usize = 1024;
/// HTTP connections that may wait for control; past it the desk answers 503.
const HTTP_QUEUE: usize = 256;
/// How long ended calls may take for their closing handshakes.
const GOODBYE: Duration = Duration::from_secs(5);

/// A running daemon.
pub struct Daemon {
    addresses: Vec<SocketAddr>,
    directory: SharedDirectory,
    desk: DeskSender,
    desk_thread: JoinHandle<()>,
    workers: Vec<WorkerSender>,
    worker_threads: Vec<JoinHandle<()>>,
    control: Control,
    outcall: Outcall,
    /// The built-in simulated model, where there is no key.
    simulated: Option<model::server::Running>,
}

impl Daemon {
    /// Starts everything. `tap` gets a copy of every fact (the demo's live view).
    ///
    /// Errs with one sentence that says what to do; nothing is left running then but threads that end by themselves.
    pub fn start(mut config: Config, tap: Option<mpsc::Sender<Report>>) -> Result<Self, String> {
        let cores = Plan::of_process(config.relay.pin, config.relay.workers);
        // This thread starts all others; each worker then goes to its own core.
        if let Err(error) = cores.keep_off() {
            tracing::warn!("threads can't be kept off the workers' cores: {error}");
        }
        tracing::info!("{cores}");
        let prometheus = meter::install();
        let clock = SystemClock::new();
        let simulated = match config.realtime.simulated {
            true => Some(model::server::start_plain().map_err(|error| {
                format!("the simulated model can't listen on loopback: {error}")
            })?),
            false => None,
        };
        if let Some(model) = &simulated {
            config.realtime.url = model.url().to_owned();
        }
        let mut ticket_key = [0; 32];
        getrandom::fill(&mut ticket_key).map_err(|error| format!("no entropy: {error}"))?;
        let directory: SharedDirectory = Arc::new(ArcSwap::from_pointee(Directory {
            settings: Arc::new(config.agent.clone()),
            policy: Arc::new(config.policy.clone()),
            ticket_key,
            ..Directory::default()
        }));
        let config = Arc::new(config);
        let (desk, desk_inbox) = desk_queue(DESK_QUEUE);
        let (reports, report_inbox) = report_queue(REPORT_QUEUE);
        let (http, http_inbox) = http_queue(HTTP_QUEUE);

        let (tools, tool_inbox) = tool_queue(TOOL_QUEUE);
        let mut workers = Vec::new();
        let mut worker_threads = Vec::new();
        for number in 0..config.relay.workers {
            let (orders, inbox) =
                worker_queue(WORKER_QUEUE).map_err(|e| format!("no eventfd: {e}"))?;
            let parts = worker::Parts {
                id: WorkerId(number as u16),
                inbox,
                desk: desk.clone(),
                reports: reports.clone(),
                tools: tools.clone(),
                clock,
                grown_bytes_max: limit::GROWN_BYTES_BUDGET / config.relay.workers.max(1),
                tuning: Tuning::new(&config.relay, cores.workers.get(number).copied()),
            };
            let thread = worker::start(parts).map_err(|error| {
                format!("worker {number} can't set up its ring: {error}; run `voxrelay check`")
            })?;
            workers.push(orders);
            worker_threads.push(thread);
        }
        // Only the workers ask, so that its thread ends with the last of them.
        drop(tools);
        let outcall = outcall::start(outcall::Parts {
            inbox: tool_inbox,
            workers: workers.clone(),
            tls: roots::outcall_config().map_err(|error| format!("tools have no TLS: {error}"))?,
            clock,
        })
        .map_err(|error| format!("the HTTP client for tools can't start: {error}"))?;
        let running = desk::start(
            config.clone(),
            directory.clone(),
            desk_inbox,
            workers.clone(),
            http,
        )
        .map_err(|error| bind_error(&config, &error))?;
        let control = control::start(
            control::Parts {
                config: config.clone(),
                directory: directory.clone(),
                http: http_inbox,
                reports: report_inbox,
                desk: desk.clone(),
                workers: workers.clone(),
                tap,
            },
            prometheus,
        )
        .map_err(|error| format!("control can't start: {error}"))?;
        Ok(Self {
            addresses: running.addresses,
            directory,
            desk,
            desk_thread: running.thread,
            workers,
            worker_threads,
            control,
            outcall,
            simulated,
        })
    }

    /// The bound addresses, ports filled in.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Calls live on all workers.
    pub fn live_calls(&self) -> usize {
        self.workers.iter().map(WorkerSender::live).sum()
    }

    /// Takes no new calls from now on; live ones go on.
    pub fn drain(&self) {
        self.directory.rcu(|directory| Directory {
            draining: true,
            ..(**directory).clone()
        });
        // A full queue at this moment: the directory says the same, the order only makes it immediate.
        let _ = self.desk.try_send(ToDesk::Drain);
    }

    /// Reads the listener's certificate again.
    pub fn reload_tls(&self) {
        if self.desk.try_send(ToDesk::ReloadTls).is_err() {
            tracing::error!("the desk is too busy to reload its certificate; send SIGHUP again");
        }
    }

    /// Ends every call in order and stops all threads.
    pub fn stop(self) {
        self.drain();
        hang_up_all(&self.workers, Instant::now() + GOODBYE);
        for worker in &self.workers {
            let _ = worker.send(ToWorker::Stop);
        }
        // Calls whose peers never answer are cut by their own closing deadlines, which are shorter than this.
        for thread in self.worker_threads {
            let _ = thread.join();
        }
        let _ = self.desk.blocking_send(ToDesk::Stop);
        let _ = self.desk_thread.join();
        self.control.stop();
        self.outcall.join();
        // Last: calls that were ended above still said goodbye to it. It stops when nobody holds it.
        drop(self.simulated);
    }
}

/// Tells every worker once to end its calls, and waits until none lives, at the latest until `deadline`.
fn hang_up_all(workers: &[WorkerSender], deadline: Instant) {
    let mut untold: Vec<&WorkerSender> = workers.iter().collect();
    loop {
        // An order that finds no room is given again in the next turn.
        untold.retain(|worker| {
            let command = Command::HangUp(EndReason::Drained);
            worker.send(ToWorker::All { command }).is_err()
        });
        let live: usize = workers.iter().map(WorkerSender::live).sum();
        if live == 0 && untold.is_empty() || Instant::now() >= deadline {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn bind_error(config: &Config, error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => format!(
            "port {} is taken: stop the other process or set listen.port (or PORT)",
            config.listen.port
        ),
        std::io::ErrorKind::PermissionDenied => format!(
            "port {} needs a privilege: use a port above 1023, or give the service CAP_NET_BIND_SERVICE",
            config.listen.port
        ),
        std::io::ErrorKind::AddrNotAvailable => {
            format!("an address of listen.addresses is not this machine's: {error}")
        }
        _ => format!("the listener can't start: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::command::WorkerInbox;

    /// The next order, which must be to end all calls.
    fn hang_up_is_ordered(inbox: &WorkerInbox) {
        let patience = Instant::now() + Duration::from_secs(20);
        let order = loop {
            match inbox.next() {
                Some(order) => break order,
                None => assert!(Instant::now() < patience, "no order came"),
            }
            std::thread::yield_now();
        };
        let command = Command::HangUp(EndReason::Drained);
        assert!(matches!(order, ToWorker::All { command: told } if told == command));
    }

    #[test]
    fn a_hang_up_that_finds_a_full_queue_is_given_again_and_others_hear_it_once() {
        let (full, full_inbox) = worker_queue(1).expect("an eventfd");
        let (free, free_inbox) = worker_queue(4).expect("an eventfd");
        assert!(full.send(ToWorker::Stop).is_ok(), "room for one");
        let workers = [full, free];
        std::thread::scope(|scope| {
            let telling =
                scope.spawn(|| hang_up_all(&workers, Instant::now() + Duration::from_secs(60)));
            // The first was asked before the second, and had no room then.
            hang_up_is_ordered(&free_inbox);
            assert!(!telling.is_finished(), "no call lives, and one is not told");
            assert!(matches!(full_inbox.next(), Some(ToWorker::Stop)));
            hang_up_is_ordered(&full_inbox);
        });
        assert!(full_inbox.next().is_none() && free_inbox.next().is_none());
    }

    #[test]
    fn calls_that_do_not_end_are_not_waited_for_past_the_deadline() {
        let (worker, inbox) = worker_queue(1).expect("an eventfd");
        inbox.load().set_live(1);
        hang_up_all(&[worker], Instant::now());
        hang_up_is_ordered(&inbox);
    }
}
