//! The proven configuration: plain values that can't be wrong any more. `file` says what config.toml may hold.

pub mod file;

use crate::proto::realtime::settings::Settings;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// A value that is never printed.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(String);

impl Secret {
    /// Wraps it.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }
    /// The value itself: only for the wire and for comparisons.
    pub fn expose(&self) -> &str {
        &self.0
    }
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_empty() { "unset" } else { "set" })
    }
}

/// Everything, proven.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where we listen.
    pub listen: Listen,
    /// The carrier's secrets and policies.
    pub carrier: Carrier,
    /// The model's endpoint.
    pub realtime: Realtime,
    /// The embedded default agent.
    pub agent: Settings,
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
#[derive(Clone, Debug)]
pub struct Listen {
    /// Addresses, each bound with `port`.
    pub addresses: Vec<IpAddr>,
    /// 0 lets the system choose (tests).
    pub port: u16,
    /// Certificate and key: the port then speaks TLS.
    pub tls: Option<TlsFiles>,
    /// The admin listener (metrics, health), where there is one.
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
#[derive(Clone, Debug)]
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
#[derive(Clone, Debug)]
pub struct Realtime {
    /// `wss://host[:port]/path` or, for tests, `ws://…`; `model` is added.
    pub url: String,
    /// The model's name.
    pub model: String,
    /// Added to the URL when set (0 is a value).
    pub temperature: Option<f64>,
    /// Tried in turn; one that answers 401 or 429 is skipped for a while.
    pub api_keys: Vec<Secret>,
    /// More roots, PEM.
    pub ca_file: Option<PathBuf>,
    /// No key on a loopback bind: the built-in simulated model answers.
    pub simulated: bool,
}

/// `[relay]`
#[derive(Clone, Debug)]
pub struct Relay {
    /// Worker threads, one ring each.
    pub workers: usize,
    /// Calls at once, all workers together.
    pub calls_max: usize,
    /// How long SIGTERM waits for live calls.
    pub drain: Duration,
}

/// `[store]`
#[derive(Clone, Debug)]
pub struct Store {
    /// The data directory.
    pub dir: PathBuf,
    /// Where recordings will lie.
    pub recordings_dir: PathBuf,
}

/// `[log]`
#[derive(Clone, Debug)]
pub struct Log {
    /// error, warn, info, http, debug.
    pub level: String,
    /// text or json.
    pub json: bool,
}

/// `[dev]`
#[derive(Clone, Debug, Default)]
pub struct Dev {
    /// Allows the simulated model and unauthenticated streams on any bind.
    pub insecure: bool,
    /// `serve --conformance-echo`: opens `/conformance/echo`.
    pub conformance_echo: bool,
}
