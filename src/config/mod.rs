//! The proven configuration: plain values that can't be wrong any more.
//!
//! Shell: it reads the file, the environment and the files of secrets, once, before a port is bound. `schema` is
//! the table of keys, `file` reads config.toml, `env` lays the environment over it, `prove` decides what the values
//! mean together, `check` looks at the machine. Every problem is found in one go, each with its fix; no secret is
//! ever shown.

mod agent;
pub mod check;
pub mod env;
pub mod file;
pub mod prove;
pub mod schema;
pub mod stored;
pub mod url;

pub use crate::base::secret::Secret;

use crate::base::money::PriceTable;
use crate::call::policy::Policy;
use crate::proto::realtime::settings::Settings;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where the configuration lies when nobody says otherwise; it need not exist.
pub const DEFAULT_FILE: &str = "config.toml";

/// How bad a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing at start.
    Note,
    /// It will run, but perhaps not as meant.
    Warning,
    /// It must not run.
    Error,
}

/// One thing found in the configuration or the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// How bad.
    pub severity: Severity,
    /// File and line, variable, or part of the machine; may be empty.
    pub place: String,
    /// What is wrong, without a full stop. Never holds a secret.
    pub what: String,
    /// What to do about it: whole sentences. May be empty.
    pub fix: String,
}

impl Problem {
    fn new(severity: Severity, place: &str, what: impl Into<String>, fix: &str) -> Self {
        Self {
            severity,
            place: place.to_owned(),
            what: what.into(),
            fix: fix.to_owned(),
        }
    }

    /// An error.
    pub fn error(place: &str, what: impl Into<String>, fix: &str) -> Self {
        Self::new(Severity::Error, place, what, fix)
    }

    /// A warning.
    pub fn warning(place: &str, what: impl Into<String>, fix: &str) -> Self {
        Self::new(Severity::Warning, place, what, fix)
    }

    /// A note.
    pub fn note(place: &str, what: impl Into<String>, fix: &str) -> Self {
        Self::new(Severity::Note, place, what, fix)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.place.is_empty() {
            write!(f, "{}: ", self.place)?;
        }
        write!(f, "{}.", self.what)?;
        if !self.fix.is_empty() {
            write!(f, " {}", self.fix)?;
        }
        Ok(())
    }
}

/// Whether any of these is an error.
pub fn has_errors(problems: &[Problem]) -> bool {
    problems.iter().any(|p| p.severity == Severity::Error)
}

/// What reading the configuration gave.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// Proven, unless there was an error.
    pub config: Option<Config>,
    /// What could be proven, with defaults in place of what is wrong: to judge the machine by, never to run with.
    pub judged: Config,
    /// Everything found, in order: syntax, then unknown keys and kinds, then what does not fit together.
    pub problems: Vec<Problem>,
    /// Every key, its value as it may be shown, and where it came from.
    pub shown: Vec<(&'static str, String, file::Source)>,
    /// The file that was read, where there was one.
    pub file: Option<PathBuf>,
}

/// Reads everything. `named` is the file that the user asked for, which must exist; else `DEFAULT_FILE` is read if it is there.
pub fn load(named: Option<&Path>, vars: &env::Vars) -> Loaded {
    let path = named.unwrap_or(Path::new(DEFAULT_FILE));
    let mut problems = Vec::new();
    let text = match std::fs::read_to_string(path) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && named.is_none() => None,
        Err(error) => {
            problems.push(Problem::error(
                &path.display().to_string(),
                format!("the configuration file cannot be read: {error}"),
                "Correct the path given with --config, or the file's permissions.",
            ));
            None
        }
    };
    let file = text.is_some().then(|| path.to_owned());
    let mut loaded = load_text(text.as_deref(), &path.display().to_string(), vars);
    problems.append(&mut loaded.problems);
    if has_errors(&problems) {
        loaded.config = None;
    }
    Loaded {
        problems,
        file,
        ..loaded
    }
}

/// `load` for a text that is already read, or for none: `name` is how messages call it.
pub fn load_text(text: Option<&str>, name: &str, vars: &env::Vars) -> Loaded {
    let mut values = file::Values::defaults();
    let mut problems = Vec::new();
    if let Some(text) = text {
        file::apply(&mut values, name, text, &mut problems);
    }
    env::apply(&mut values, vars, &mut problems);
    let config = prove::prove(&values, vars, &mut problems);
    Loaded {
        config: (!has_errors(&problems)).then(|| config.clone()),
        judged: config,
        problems,
        shown: values.shown(),
        file: None,
    }
}

impl Default for Config {
    /// What an empty file and an empty environment mean.
    fn default() -> Self {
        load_text(None, DEFAULT_FILE, &env::Vars::new())
            .config
            .expect("a test proves that the defaults fit together")
    }
}

/// Everything, proven.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where we listen.
    pub listen: Listen,
    /// The carrier's secrets and policies.
    pub carrier: Carrier,
    /// The model's endpoint.
    pub realtime: Realtime,
    /// The embedded default agent: what the model is told.
    pub agent: Settings,
    /// The embedded default agent: how the call itself is led.
    pub policy: Policy,
    /// The data plane.
    pub relay: Relay,
    /// The store's place.
    pub store: Store,
    /// Logs.
    pub log: Log,
    /// Development switches.
    pub dev: Dev,
}

/// `[listen]`
#[derive(Clone, Debug, PartialEq)]
pub struct Listen {
    /// Addresses, each bound with `port`.
    pub addresses: Vec<IpAddr>,
    /// 0 lets the system choose (tests).
    pub port: u16,
    /// Certificate and key: the port then speaks TLS.
    pub tls: Option<TlsFiles>,
    /// The admin listener (metrics, health), where there is one. `listen.admin = "auto"` is decided here.
    pub admin: Option<SocketAddr>,
    /// The public origin, e.g. `https://voice.example.com`, without a trailing slash.
    pub public_url: Option<String>,
    /// Unauthenticated connections from one address.
    pub connections_per_address: usize,
    /// Unauthenticated connections in all.
    pub connections_max: usize,
}

impl Listen {
    /// Whether every address is a loopback address.
    pub fn is_loopback(&self) -> bool {
        self.addresses.iter().all(IpAddr::is_loopback)
    }
}

/// Certificate chain and key, PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The chain.
    pub cert_file: PathBuf,
    /// The key.
    pub key_file: PathBuf,
}

/// `[carrier]`
#[derive(Clone, Debug, PartialEq)]
pub struct Carrier {
    /// The account that webhooks come from; empty accepts any.
    pub account_sid: String,
    /// Every token whose signature is accepted.
    pub auth_tokens: Vec<Secret>,
    /// What to do with a stream for a call nobody announced.
    pub unknown_call: UnknownCall,
}

/// What happens to a stream whose call id is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum UnknownCall {
    /// Make a call for it.
    #[default]
    Create,
    /// 404.
    Reject,
    /// Relay it, keep nothing.
    Debug,
}

/// `[realtime]`
#[derive(Clone, Debug, PartialEq)]
pub struct Realtime {
    /// `wss://host[:port]/path` or, for tests, `ws://…`; `model` is added. `url::Url::parse` takes it apart.
    pub url: String,
    /// The model's name.
    pub model: String,
    /// Added to the URL when set (0 is a value) and the agent has none of its own.
    pub temperature: Option<f64>,
    /// Tried in turn; one that answers 401 or 429 is skipped for a while.
    pub api_keys: Vec<Secret>,
    /// Endpoints beside or instead of `url`, as configured; `endpoints_in_force` is what to dial.
    pub endpoints: Vec<EndpointConfig>,
    /// Whether the model is dialled as soon as a webhook announces a call.
    pub predial: bool,
    /// What the models cost; what is not in it has no price.
    pub prices: PriceTable,
    /// Connections to the model that each worker keeps for calls to come.
    pub warm_pool: usize,
    /// They are replaced by fresh ones at this age.
    pub warm_max_age: Duration,
    /// More roots, PEM.
    pub ca_file: Option<PathBuf>,
    /// No key on a loopback bind: the built-in simulated model answers.
    pub simulated: bool,
}

impl Realtime {
    /// The endpoints to dial: those of `endpoints`, else the one of `url`. Never empty. Made anew at each call,
    /// because `url` is replaced where a simulated model answers.
    pub fn endpoints_in_force(&self) -> Vec<EndpointConfig> {
        if self.endpoints.is_empty() {
            return vec![EndpointConfig {
                url: self.url.clone(),
                weight: 1,
                api_keys: self.api_keys.clone(),
            }];
        }
        self.endpoints.clone()
    }

    /// The temperature for an agent's URL: its own wins.
    pub fn temperature_for(&self, agent: &Settings) -> Option<f64> {
        agent.temperature.or(self.temperature)
    }
}

/// One of `[[realtime.endpoints]]`, or what `realtime.url` means.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointConfig {
    /// As `Realtime::url`.
    pub url: String,
    /// Its share of the calls among healthy endpoints; 0 is used only when no other is left.
    pub weight: u32,
    /// As `Realtime::api_keys`.
    pub api_keys: Vec<Secret>,
}

/// `[relay]`
#[derive(Clone, Debug, PartialEq)]
pub struct Relay {
    /// Worker threads, one ring each; at least 1 (`relay.workers = 0` is decided here).
    pub workers: usize,
    /// Calls at once, all workers together.
    pub calls_max: usize,
    /// How long SIGTERM waits for live calls.
    pub drain: Duration,
    /// Whether workers have cores of their own.
    pub pin: Pin,
    /// How long a worker under load waits for more to come along before it serves what came; zero: not at all.
    pub gather: Duration,
    /// Completions a second and worker from which on it gathers; below half of it, it stops.
    pub gather_from_rate: u64,
    /// How long caller audio may wait to share a send with what follows it, ms: 0, 20 or 40. `Policy` has it too.
    pub coalesce_ms: u32,
    /// A worker that is busier takes no new calls, percent of a core; 100: it always does.
    pub busy_max_percent: u32,
    /// A worker that acts later than it should takes no new calls; zero: it always does.
    pub lag_max: Duration,
}

/// `relay.pin`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Pin {
    /// Where the process has more cores than workers.
    #[default]
    Auto,
    /// Always; with fewer cores than workers several share one.
    On,
    /// Never: the kernel chooses.
    Off,
}

/// `[store]`
#[derive(Clone, Debug, PartialEq)]
pub struct Store {
    /// The data directory.
    pub dir: PathBuf,
    /// Where recordings will lie.
    pub recordings_dir: PathBuf,
}

/// `[log]`
#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// error, warn, info, http, debug.
    pub level: String,
    /// text or json.
    pub json: bool,
}

/// `[dev]`
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Dev {
    /// Allows the simulated model and unauthenticated streams on any bind.
    pub insecure: bool,
    /// `serve --conformance-echo`: opens `/conformance/echo`.
    pub conformance_echo: bool,
}
