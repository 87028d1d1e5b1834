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
    let plain_streams = plain_streams(&config);
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
            tracing::info!(
                path = alias.pattern,
                mode = alias.mode.label(),
                "stream route"
            );
        }
        for route in crate::control::router::ROUTES {
            let methods = route.methods.join(", ");
            tracing::info!(path = route.path, methods, does = route.does, "http route");
        }
        if let Some(warning) = plain_streams {
            tracing::warn!("{warning}");
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

/// What to say where a webhook could answer with a `ws` URL, which no carrier takes.
fn plain_streams(config: &Config) -> Option<&'static str> {
    let listen = &config.listen;
    let is_plain = listen.public_url.is_none() && listen.tls.is_none() && !listen.is_loopback();
    is_plain.then_some(
        "without listen.public_url (PUBLIC_URL) webhooks answer with the Host that they were asked by, as ws:// for a \
         loopback name, and carriers take wss:// only",
    )
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
            // Live calls may outlast a certificate, and the listener still answers.
            _ = signals.hangup.recv() => daemon.reload_tls(),
            _ = signals.interrupt.recv() => return,
            _ = signals.terminate.recv() => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bind_to_the_world_without_a_public_url_is_worth_a_warning() {
        let mut config = Config::default();
        assert!(plain_streams(&config).is_none(), "loopback");
        config.listen.addresses = vec!["0.0.0.0".parse().expect("an address")];
        assert!(plain_streams(&config).is_some());
        config.listen.public_url = Some("https://voice.example.com".into());
        assert!(plain_streams(&config).is_none());
    }
}
