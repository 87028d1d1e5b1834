//! `voxrelay demo`: one whole call on this machine, and what can be said of it afterwards.
//!
//! The daemon, the simulated model (TLS, a certificate made on the spot) and one simulated caller, all on
//! loopback. Whatever the two simulators saw at their ends is compared byte for byte; what the daemon
//! counted in between must add up. Every check has a name; one that fails makes the exit code 1.

mod summary;

use super::Outcome;
use super::args::DemoArgs;
use super::daemon::Daemon;
use super::simulate::{recorder, voice};
use crate::base::time::{Clock as _, Mono};
use crate::call::{EndReason, Fact, Report, Speaker, Stats};
use crate::config::{Config, Listen, Pin, Secret};
use crate::simulate::CALLER_LINES;
use crate::simulate::carrier::client::{self, Target};
use crate::simulate::carrier::{self};
use crate::simulate::model::options::Options;
use crate::simulate::model::server::{Seen, Setup, Tls, start};
use crate::transport::clock::SystemClock;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;

/// The call is hung up after this long in any case.
const CALL_MAX: Duration = Duration::from_secs(24);
/// After the carrier's end: for the daemon's last fact, and for the model's.
const LAST_FACT_DEADLINE: Duration = Duration::from_secs(3);
/// Facts that may wait for the display.
const TAP_QUEUE: usize = 4096;
/// Only the simulated model takes it.
const API_KEY: &str = "sk-simulated";

/// Everything that the summary is made of.
struct Evidence {
    /// The shipped caller has three turns; a file of one's own at least one.
    turns_min: usize,
    carrier: carrier::Report,
    violation: Option<&'static str>,
    model: Seen,
    sessions: usize,
    end: Option<(EndReason, Box<Stats>)>,
}

/// A directory that is gone when this is.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> std::io::Result<Self> {
        let mut entropy = [0; 8];
        getrandom::fill(&mut entropy).map_err(|error| std::io::Error::other(error.to_string()))?;
        let name = format!("voxrelay-demo-{:016x}", u64::from_ne_bytes(entropy));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Left behind, it is a few kilobytes in the system's own temporary directory.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs it.
pub fn run(args: DemoArgs) -> Outcome {
    let audio = voice(args.wav.as_deref())?;
    let (turns_min, heard) = match args.wav {
        Some(_) => (1, Vec::new()),
        None => (CALLER_LINES.len(), CALLER_LINES.map(String::from).to_vec()),
    };
    let scratch = Scratch::new().map_err(|error| format!("no temporary directory: {error}"))?;
    let clock = SystemClock::new();
    let model = start(
        SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        Setup {
            options: Options {
                seed: args.seed,
                heard,
                api_key: Some(API_KEY.into()),
                ..Options::default()
            },
            tls: Tls::SelfSigned,
            recorder: recorder(args.record)?,
            keeps_audio: true,
        },
        clock,
    )
    .map_err(|error| format!("the simulated model can't listen on loopback: {error}"))?;
    let ca_file = scratch.0.join("ca.pem");
    std::fs::write(&ca_file, model.ca_pem().unwrap_or_default())
        .map_err(|error| format!("{}: {error}", ca_file.display()))?;

    let (tap, mut facts) = mpsc::channel(TAP_QUEUE);
    let config = config(model.url(), ca_file, &scratch);
    let daemon = Daemon::start(config, Some(tap))?;
    let address = *daemon
        .addresses()
        .first()
        .ok_or("the daemon did not bind")?;
    let url = format!("ws://{address}/media-stream/demo");
    let mut screen = Screen::new(args.quiet, clock);
    screen.line(format!("model    {} (simulated, TLS)", model.url()));
    screen.line(format!("carrier  {url} (simulated)"));

    let setup = client::Setup {
        target: Target::parse(&url)?,
        signed_url: url,
        ca_file: None,
        auth_token: None,
        recorder: None,
        progress: Arc::default(),
    };
    let options = carrier::options::Options {
        audio,
        duration_max: CALL_MAX,
        seed: args.seed,
        keeps_audio: true,
        ..carrier::options::Options::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("no runtime: {error}"))?;
    let call = runtime.block_on(async {
        let call = client::call(&setup, options, clock, 1);
        follow(call, &mut facts, &setup.progress, &mut screen).await
    });
    let evidence = call.map(|(outcome, end)| {
        let mut sessions = runtime.block_on(last_sessions(model.sessions()));
        Evidence {
            turns_min,
            carrier: outcome.report,
            violation: outcome.violation,
            sessions: sessions.len(),
            model: sessions.pop().unwrap_or_default(),
            end,
        }
    });
    screen.finish();
    daemon.stop();
    let is_good = summary::print(&evidence?);
    Ok(if is_good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// A daemon on loopback that knows the simulated model and keeps its things in `scratch`.
fn config(url: &str, ca_file: PathBuf, scratch: &Scratch) -> Config {
    let mut config = Config::default();
    config.listen = Listen {
        addresses: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
        port: 0,
        tls: None,
        admin: None,
        public_url: None,
        ..config.listen
    };
    config.realtime.url = url.into();
    config.realtime.api_keys = vec![Secret::new(API_KEY)];
    config.realtime.ca_file = Some(ca_file);
    config.realtime.simulated = false;
    config.relay.workers = 1;
    // The two simulators run in this process as well.
    config.relay.pin = Pin::Off;
    config.store.dir = scratch.0.join("data");
    config.store.recordings_dir = scratch.0.join("recordings");
    // The wide margin keeps the short pauses inside a sentence from ending the caller's turn.
    config.agent.turn_detection.silence_duration_ms = 500;
    config.agent.transcription_model = "gpt-4o-mini-transcribe".into();
    config
}

type Ended = Option<(EndReason, Box<Stats>)>;

/// Follows the call: shows what the daemon reports until both the carrier and the daemon are done.
async fn follow(
    call: impl Future<Output = Result<client::Outcome, client::CallError>>,
    facts: &mut mpsc::Receiver<Report>,
    progress: &AtomicU32,
    screen: &mut Screen,
) -> Result<(client::Outcome, Ended), String> {
    let mut ended = None;
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    let mut call = std::pin::pin!(call);
    let outcome = loop {
        tokio::select! {
            outcome = &mut call => break outcome.map_err(|error| error.to_string())?,
            Some(report) = facts.recv() => screen.fact(report, &mut ended),
            _ = tick.tick() => screen.progress(progress.load(Ordering::Relaxed)),
        }
    };
    let rest = async {
        while ended.is_none()
            && let Some(report) = facts.recv().await
        {
            screen.fact(report, &mut ended);
        }
    };
    let _ = tokio::time::timeout(LAST_FACT_DEADLINE, rest).await;
    Ok((outcome, ended))
}

/// What the model's sessions saw, once the last of them has ended.
async fn last_sessions(sessions: &crate::simulate::model::server::Sessions) -> Vec<Seen> {
    let wait = async {
        loop {
            let seen = sessions.take();
            if !seen.is_empty() {
                return seen;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LAST_FACT_DEADLINE, wait)
        .await
        .unwrap_or_default()
}

/// The bar and the live transcript; plain lines when nobody watches.
struct Screen {
    bar: ProgressBar,
    is_quiet: bool,
    clock: SystemClock,
    began: Mono,
}

impl Screen {
    fn new(is_quiet: bool, clock: SystemClock) -> Self {
        let bar = if is_quiet || !std::io::stdout().is_terminal() {
            ProgressBar::hidden()
        } else {
            ProgressBar::with_draw_target(Some(1000), ProgressDrawTarget::stdout())
        };
        let style = ProgressStyle::with_template("{spinner} [{elapsed_precise}] {bar:40} {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_message("the call runs");
        Self {
            bar,
            is_quiet,
            clock,
            began: clock.now().mono,
        }
    }

    fn line(&self, line: String) {
        if self.is_quiet {
        } else if self.bar.is_hidden() {
            println!("{line}");
        } else {
            self.bar.println(line);
        }
    }

    fn progress(&self, thousandths: u32) {
        self.bar.set_position(thousandths.into());
        if thousandths >= 1000 {
            self.bar.set_message("the last answer plays");
        }
        self.bar.tick();
    }

    fn fact(&mut self, report: Report, ended: &mut Ended) {
        let at = self.clock.now().mono.since(self.began).as_secs_f64();
        match report.fact {
            Fact::Started { stream_sid, .. } => self.line(format!("{at:5.1}s  start {stream_sid}")),
            Fact::SessionReady { session_id, .. } => {
                self.line(format!("{at:5.1}s  model ready {session_id}"));
            }
            Fact::SpeechStarted { .. } => self.line(format!("{at:5.1}s  the caller speaks")),
            Fact::Transcript { speaker, text, .. } => {
                let who = match speaker {
                    Speaker::User => "caller",
                    Speaker::Assistant => "agent ",
                };
                self.line(format!("{at:5.1}s  [simulated] {who}: {text}"));
            }
            Fact::RealtimeError { code, message } => {
                self.line(format!("{at:5.1}s  model error {code}: {message}"));
            }
            Fact::Note { text } => self.line(format!("{at:5.1}s  {text}")),
            Fact::Ended { reason, stats } => {
                self.line(format!("{at:5.1}s  ended: {reason:?}"));
                *ended = Some((reason, stats));
            }
            _ => {}
        }
    }

    fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
