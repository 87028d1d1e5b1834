//! From values to a proven `Config`: what the keys mean together, and the safety of defaults.
//!
//! A lost credential must never put callers on a simulator, nor strangers on a paid model: the simulated model and
//! unauthenticated streams are for a loopback bind or `dev.insecure` only.

use super::env::Vars;
use super::file::Values;
use super::schema::{REALTIME_URL, find};
use super::url::{Url, is_loopback_host};
use super::{
    Carrier, Config, Dev, EndpointConfig, Listen, Log, Pin, Problem, Realtime, Relay, Secret,
    Store, TlsFiles, UnknownCall,
};
use crate::proto::realtime::endpoint::{EndpointError, connect_url};
use std::io::IsTerminal;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The admin listener's port when `listen.admin` is "auto" and the main port is not on loopback.
const ADMIN_PORT: u16 = 9464;
/// What one file of secrets may hold, in bytes.
const SECRET_FILE_BYTES_MAX: u64 = 64 * 1024;

/// Proves `values`. The result is only good when no error was added to `problems`.
pub fn prove(values: &Values, vars: &Vars, problems: &mut Vec<Problem>) -> Config {
    let mut prover = Prover {
        values,
        vars,
        problems,
    };
    let insecure = values.bool("dev.insecure");
    let listen = prover.listen();
    let carrier = prover.carrier(&listen, insecure);
    let realtime = prover.realtime(&listen, insecure);
    if insecure && !listen.is_loopback() {
        prover.problems.push(Problem::warning(
            "dev.insecure",
            "checks of secrets are off although the port is not on loopback",
            "Never leave this on where strangers can connect.",
        ));
    }
    let relay = prover.relay();
    prover.warm_pool(&realtime, &relay);
    Config {
        listen,
        carrier,
        realtime,
        agent: prover.agent(insecure),
        policy: prover.policy(),
        relay,
        store: Store {
            dir: prover.path("store.dir"),
            recordings_dir: prover.path("store.recordings_dir"),
        },
        log: Log {
            level: values.text("log.level").to_owned(),
            json: match values.text("log.format") {
                "json" => true,
                "text" => false,
                // People read a terminal; whatever else takes our lines can take JSON.
                _ => !std::io::stderr().is_terminal(),
            },
        },
        dev: Dev {
            insecure,
            conformance_echo: false,
        },
    }
}

pub(super) struct Prover<'a> {
    pub(super) values: &'a Values,
    pub(super) vars: &'a Vars,
    pub(super) problems: &'a mut Vec<Problem>,
}

impl Prover<'_> {
    pub(super) fn error(&mut self, key: &str, what: impl Into<String>, fix: &str) {
        // The place is where the value was written, so that it can be found there.
        let place = format!("{key} ({})", self.values.source(key));
        self.problems.push(Problem::error(&place, what, fix));
    }

    /// A path that must not be empty.
    fn path(&mut self, key: &str) -> PathBuf {
        let text = self.values.text(key);
        if text.is_empty() {
            self.error(
                key,
                "the path is empty",
                "Write a path or leave the key out.",
            );
            let default = find(key).and_then(|key| key.default);
            return PathBuf::from(default.unwrap_or("."));
        }
        PathBuf::from(text)
    }

    fn optional_path(&self, key: &str) -> Option<PathBuf> {
        let text = self.values.text(key);
        (!text.is_empty()).then(|| PathBuf::from(text))
    }

    fn listen(&mut self) -> Listen {
        let addresses = self.addresses();
        let is_loopback = addresses.iter().all(IpAddr::is_loopback);
        let port = self.values.integer("listen.port") as u16;
        let tls = match (
            self.optional_path("listen.tls.cert_file"),
            self.optional_path("listen.tls.key_file"),
        ) {
            (Some(cert_file), Some(key_file)) => Some(TlsFiles {
                cert_file,
                key_file,
            }),
            (None, None) => None,
            (cert, _) => {
                let missing = match cert {
                    Some(_) => "listen.tls.key_file",
                    None => "listen.tls.cert_file",
                };
                self.error(
                    missing,
                    "TLS needs both a certificate and a key, and this one is missing",
                    "Set both files, or neither.",
                );
                None
            }
        };
        Listen {
            admin: self.admin(is_loopback, port, &addresses),
            public_url: self.public_url(),
            connections_per_address: self.values.integer("listen.connections_per_address") as usize,
            connections_max: self.values.integer("listen.connections_max") as usize,
            addresses,
            port,
            tls,
        }
    }

    fn addresses(&mut self) -> Vec<IpAddr> {
        let key = "listen.addresses";
        let mut addresses = Vec::new();
        for text in self.values.list(key) {
            let bare = text.trim_start_matches('[').trim_end_matches(']');
            match bare.parse::<IpAddr>() {
                Ok(address) if addresses.contains(&address) => {}
                Ok(address) => addresses.push(address),
                Err(_) => self.error(
                    key,
                    format!("{text:?} is not an IP address"),
                    "Write addresses such as \"127.0.0.1\", \"0.0.0.0\" or \"::\"; the port stands in listen.port.",
                ),
            }
        }
        if self.values.list(key).is_empty() {
            self.error(
                key,
                "there is no address to listen on",
                "Write at least one, such as \"127.0.0.1\".",
            );
        }
        addresses
    }

    fn admin(&mut self, is_loopback: bool, port: u16, addresses: &[IpAddr]) -> Option<SocketAddr> {
        let key = "listen.admin";
        let admin = match self.values.text(key) {
            "" | "none" => return None,
            "auto" if is_loopback => return None,
            "auto" => SocketAddr::from((Ipv4Addr::LOCALHOST, ADMIN_PORT)),
            text => match text.parse() {
                Ok(admin) => admin,
                Err(_) => {
                    self.error(
                        key,
                        "this is not an address with a port",
                        "Write for example \"127.0.0.1:9464\", \"auto\" or \"none\".",
                    );
                    return None;
                }
            },
        };
        if admin.port() == port && port != 0 && addresses.contains(&admin.ip()) {
            self.error(
                key,
                format!("{admin} is the main port as well"),
                "Choose another port.",
            );
        }
        if !admin.ip().is_loopback() {
            self.problems.push(Problem::warning(
                key,
                format!("metrics are open to everybody who can reach {admin}"),
                "Bind it to loopback or to a private network.",
            ));
        }
        Some(admin)
    }

    fn public_url(&mut self) -> Option<String> {
        let key = "listen.public_url";
        let text = self.values.text(key);
        if text.is_empty() {
            return None;
        }
        let fix = "Write the origin that carriers reach, such as \"https://voice.example.com\".";
        let url = match Url::parse(text) {
            Ok(url) => url,
            Err(why) => {
                self.error(key, format!("this is not a URL: {why}"), fix);
                return None;
            }
        };
        if !matches!(url.scheme.as_str(), "http" | "https") {
            self.error(key, "its scheme is not http or https", fix);
        }
        if !matches!(url.target.as_str(), "" | "/") {
            self.error(
                key,
                "it holds a path or a query; only the origin may stand here",
                fix,
            );
        }
        if url.scheme == "http" {
            let what = if is_loopback_host(&url.host) {
                "streams would be asked for with ws://, which Twilio refuses (error 31922)"
            } else {
                "webhooks would be unencrypted, and their signatures are over an http:// address"
            };
            self.problems.push(Problem::warning(
                key,
                what,
                "Use an https:// address for real carriers.",
            ));
        }
        Some(url.origin())
    }

    fn carrier(&mut self, listen: &Listen, insecure: bool) -> Carrier {
        let auth_tokens = self.secrets(
            "carrier.auth_token",
            "carrier.auth_tokens",
            "carrier.auth_token_file",
            "twilio_auth_token",
        );
        if auth_tokens.is_empty() {
            if !listen.is_loopback() && !insecure {
                self.error(
                    "carrier.auth_token",
                    "the carrier's secret is missing and the port is not on loopback, so strangers could start calls",
                    "Set TWILIO_AUTH_TOKEN, or bind to 127.0.0.1, or set dev.insecure = true on a closed network.",
                );
            }
        } else if listen.public_url.is_none() && self.values.text("listen.public_url").is_empty() {
            self.error(
                "listen.public_url",
                "signatures can't be checked without the address that the carrier was given",
                "Set PUBLIC_URL, such as https://voice.example.com.",
            );
        }
        Carrier {
            account_sid: self.values.text("carrier.account_sid").to_owned(),
            auth_tokens,
            unknown_call: match self.values.text("carrier.unknown_call") {
                "reject" => UnknownCall::Reject,
                "debug" => UnknownCall::Debug,
                _ => UnknownCall::Create,
            },
        }
    }

    fn realtime(&mut self, listen: &Listen, insecure: bool) -> Realtime {
        let api_keys = self.secrets(
            "realtime.api_key",
            "realtime.api_keys",
            "realtime.api_key_file",
            "openai_api_key",
        );
        let url = self.values.text("realtime.url").to_owned();
        let host = self.realtime_host("realtime.url", &url, insecure);
        let endpoints = self.endpoints(host.as_deref(), &api_keys, insecure);
        let mut simulated = false;
        // Where endpoints are listed, each is asked for its own keys.
        if api_keys.is_empty() && endpoints.is_empty() {
            let fix = "Set OPENAI_API_KEY (or OPENAI_REALTIME_API_KEY).";
            if !listen.is_loopback() && !insecure {
                self.error(
                    "realtime.api_key",
                    "the model's key is missing and the port is not on loopback, where no caller may meet a simulator",
                    fix,
                );
            } else if url == REALTIME_URL {
                simulated = true;
                self.problems.push(Problem::note(
                    "realtime",
                    "no OPENAI_API_KEY: the built-in simulated model answers every call",
                    "Set the key to talk to the real one.",
                ));
            } else if host
                .is_some_and(|host| host == "api.openai.com" || host.ends_with(".openai.com"))
            {
                self.error(
                    "realtime.api_key",
                    "the endpoint needs a key and there is none",
                    fix,
                );
            }
        }
        Realtime {
            endpoints,
            prices: self.prices(),
            predial: self.values.bool("realtime.predial"),
            warm_pool: self.values.integer("realtime.warm_pool") as usize,
            warm_max_age: Duration::from_secs(self.values.integer("realtime.warm_max_age_secs")),
            model: self.values.text("realtime.model").to_owned(),
            temperature: self.values.number("realtime.temperature"),
            ca_file: self.optional_path("realtime.ca_file"),
            url,
            api_keys,
            simulated,
        }
    }

    /// Proves the endpoint's URL and returns its host.
    fn realtime_host(&mut self, key: &str, text: &str, insecure: bool) -> Option<String> {
        let model = self.values.text("realtime.model");
        let endpoint = match connect_url(text, model, self.values.number("realtime.temperature")) {
            Ok(endpoint) => endpoint,
            Err(EndpointError::Model) => {
                self.error(
                    "realtime.model",
                    "the model has no name",
                    "Write for example \"gpt-realtime\".",
                );
                return None;
            }
            Err(why) => {
                self.error(
                    key,
                    format!("the URL {why}"),
                    "Write for example \"wss://api.openai.com/v1/realtime\".",
                );
                return None;
            }
        };
        if !endpoint.tls && !is_loopback_host(&endpoint.host) && !insecure {
            self.error(
                key,
                "the key and the callers' audio would cross the network unencrypted",
                "Use wss://; ws:// is for loopback hosts, or with dev.insecure = true.",
            );
        }
        Some(endpoint.host)
    }

    /// `[[realtime.endpoints]]`. `host` and `api_keys` are `realtime.url`'s.
    fn endpoints(
        &mut self,
        host: Option<&str>,
        api_keys: &[Secret],
        insecure: bool,
    ) -> Vec<EndpointConfig> {
        let values = self.values;
        let mut endpoints = Vec::new();
        for (n, table) in values.tables("realtime.endpoints").iter().enumerate() {
            if table.is_broken {
                continue;
            }
            let key = |name: &str| format!("realtime.endpoints.{n}.{name}");
            let url = table.text("url").to_owned();
            let Some(its_host) = self.realtime_host(&key("url"), &url, insecure) else {
                continue;
            };
            let mut found = vec![table.text("api_key").to_owned()];
            found.extend(table.list("api_keys").iter().cloned());
            let file = table.text("api_key_file");
            if !file.is_empty() {
                found.extend(self.secret_file(&key("api_key_file"), Path::new(file)));
            }
            let mut own = self.proven_secrets(&key("api_key"), found);
            // A key never goes to another host than the one that it was written for.
            if own.is_empty() && Some(its_host.as_str()) == host {
                own = api_keys.to_vec();
            }
            if own.is_empty() && !is_loopback_host(&its_host) && !insecure {
                self.error(
                    &key("api_key"),
                    "the endpoint has no key",
                    "Write api_key, or use realtime.url's host, whose keys then count here too.",
                );
            }
            endpoints.push(EndpointConfig {
                url,
                weight: table.integer("weight") as u32,
                api_keys: own,
            });
        }
        if !endpoints.is_empty() && endpoints.iter().all(|endpoint| endpoint.weight == 0) {
            self.error(
                "realtime.endpoints",
                "no endpoint has a weight above 0, so none would be used first",
                "Give at least one a weight of 1.",
            );
        }
        endpoints
    }

    /// More than the calls that there may be would never all be used.
    fn warm_pool(&mut self, realtime: &Realtime, relay: &Relay) {
        let pool = realtime.warm_pool * relay.workers;
        if pool > relay.calls_max {
            self.error(
                "realtime.warm_pool",
                format!(
                    "{pool} connections would be kept warm ({} for each of {} workers), and relay.calls_max is {}",
                    realtime.warm_pool, relay.workers, relay.calls_max
                ),
                "Lower it, or raise relay.calls_max.",
            );
        }
    }

    fn relay(&mut self) -> Relay {
        let workers = match self.values.integer("relay.workers") as usize {
            // Only the cores we may run on count; one is left to the desk, control and the rest of the machine.
            0 => std::thread::available_parallelism()
                .map_or(1, |cores| cores.get().saturating_sub(1).max(1)),
            workers => workers,
        };
        let coalesce_ms = self.values.integer("relay.coalesce_ms") as u32;
        if !coalesce_ms.is_multiple_of(20) {
            self.error(
                "relay.coalesce_ms",
                "audio comes in frames of 20 ms, so other values would only delay it",
                "Set 0, 20 or 40.",
            );
        }
        Relay {
            workers,
            calls_max: self.values.integer("relay.calls_max") as usize,
            drain: Duration::from_secs(self.values.integer("relay.drain_secs")),
            pin: match self.values.text("relay.pin") {
                "on" => Pin::On,
                "off" => Pin::Off,
                _ => Pin::Auto,
            },
            gather: Duration::from_micros(self.values.integer("relay.gather_us")),
            gather_from_rate: self.values.integer("relay.gather_from_rate"),
            coalesce_ms,
            busy_max_percent: self.values.integer("relay.busy_max_percent") as u32,
            lag_max: Duration::from_millis(self.values.integer("relay.lag_max_ms")),
        }
    }

    /// Everything that names one kind of secret, without doubles: the single key first, then the list, then the
    /// file's lines; a systemd credential only where nothing else is said.
    fn secrets(&mut self, one: &str, many: &str, file: &str, credential: &str) -> Vec<Secret> {
        let mut found = Vec::new();
        found.push(self.values.text(one).to_owned());
        found.extend(self.values.list(many).iter().cloned());
        if let Some(path) = self.optional_path(file) {
            found.extend(self.secret_file(file, &path));
        }
        found.retain(|secret| !secret.is_empty());
        if found.is_empty()
            && let Some(dir) = self.vars.get("CREDENTIALS_DIRECTORY")
        {
            let path = Path::new(dir).join(credential);
            if path.exists() {
                found = self.secret_file(one, &path);
            }
        }
        self.proven_secrets(one, found)
    }

    /// Those of `found` that are not empty, without doubles.
    fn proven_secrets(&mut self, one: &str, mut found: Vec<String>) -> Vec<Secret> {
        found.retain(|secret| !secret.is_empty());
        let mut secrets: Vec<Secret> = Vec::new();
        for secret in found {
            // It goes into a header line or a MAC: a blank or a control character is a copying mistake at best.
            if !secret.bytes().all(|byte| byte.is_ascii_graphic()) {
                self.error(
                    one,
                    "a secret holds a blank or a character that is not printable ASCII",
                    "Copy it again, without quotes or line breaks.",
                );
                continue;
            }
            let secret = Secret::new(secret);
            if !secrets.contains(&secret) {
                secrets.push(secret);
            }
        }
        secrets
    }

    /// The lines of a file of secrets, trimmed; empty ones and those that begin with `#` are left out.
    fn secret_file(&mut self, key: &str, path: &Path) -> Vec<String> {
        let text = std::fs::metadata(path).and_then(|meta| {
            if meta.len() > SECRET_FILE_BYTES_MAX {
                return Err(std::io::Error::other("it is longer than 64 KiB"));
            }
            std::fs::read_to_string(path)
        });
        match text {
            Ok(text) => text
                .lines()
                .map(str::trim)
                .filter(|line| !line.is_empty() && !line.starts_with('#'))
                .map(str::to_owned)
                .collect(),
            Err(error) => {
                self.error(
                    key,
                    format!("the file {} cannot be read: {error}", path.display()),
                    "Correct the path or the file's permissions.",
                );
                Vec::new()
            }
        }
    }
}

#[cfg(test)]
#[path = "prove_tests.rs"]
mod tests;
