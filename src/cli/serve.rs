//! `voxrelay serve`: checks, starts the daemon, and waits for signals.
//!
//! SIGTERM drains: no new calls, live ones go on for `relay.drain_secs`, then they are ended in order. SIGINT (a
//! person at the terminal) ends them at once, in order. A second signal ends the process. SIGHUP reads the
//! listener's certificate again.

use super::daemon::Daemon;
use crate::config::Config;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

/// How often a drain says how far it is.
const PROGRESS: Duration = Duration::from_secs(5);

/// Runs the daemon until it is told to stop. Errs with one sentence before a port is bound, or when one can't be.
pub fn run(config: Config) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("no runtime: {error}"))?;
    let drain = config.relay.drain;
    let scheme = if config.listen.tls.is_some() {
        "https"
    } else {
        "http"
    };
    runtime.block_on(async {
        // Before the port is open: a signal that comes early is not lost.
        let mut signals = Signals::new().map_err(|error| format!("no signal handlers: {error}"))?;
        let daemon = Daemon::start(config, None)?;
        for alias in crate::base::route::STREAM_ALIASES {
            tracing::info!(path = alias.pattern, mode = ?alias.mode, "stream route");
        }
        for address in daemon.addresses() {
            tracing::info!(address = %format_args!("{scheme}://{address}"), "listening");
        }
        loop {
            tokio::select! {
                _ = signals.hangup.recv() => daemon.reload_tls(),
                _ = signals.interrupt.recv() => {
                    tracing::info!(calls = daemon.live_calls(), "interrupted: ending live calls");
                    break;
                }
                _ = signals.terminate.recv() => {
                    daemon.drain();
                    drained(&daemon, drain, &mut signals).await;
                    break;
                }
            }
        }
        tokio::task::spawn_blocking(move || daemon.stop())
            .await
            .map_err(|error| format!("stopping failed: {error}"))?;
        tracing::info!("stopped");
        Ok(())
    })
}

struct Signals {
    hangup: Signal,
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }
}

/// Waits until no call lives, the drain time is over, or somebody is impatient.
async fn drained(daemon: &Daemon, drain: Duration, signals: &mut Signals) {
    let deadline = Instant::now() + drain;
    let mut next_word = Instant::now();
    while daemon.live_calls() > 0 && Instant::now() < deadline {
        if Instant::now() >= next_word {
            next_word += PROGRESS;
            let left = deadline.duration_since(Instant::now()).as_secs();
            tracing::info!(calls = daemon.live_calls(), seconds_left = left, "draining");
        }
        tokio::select! {
            _ = tokio::time::sleep(Duration::from_millis(50)) => {}
            _ = signals.interrupt.recv() => return,
            _ = signals.terminate.recv() => return,
        }
    }
}
