//! `voxrelay check`: the configuration and the machine, everything that is wrong at once. `serve` runs the same
//! before it binds a port.

use super::Outcome;
use super::args::CheckArgs;
use crate::base::time::Clock;
use crate::config::check::{Finding, Probes, dns, machine, raise_descriptor_limit};
use crate::config::{Config, Loaded, Problem, Severity, env, load};
use crate::relay::worker::cores::Plan;
use crate::relay::worker::ring;
use crate::transport::clock::SystemClock;
use crate::transport::roots;
use std::io::{self, Write};
use std::net::ToSocketAddrs as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

/// How long `--dns` waits for an answer.
const DNS_DEADLINE: Duration = Duration::from_secs(3);

/// Runs it.
pub fn run(args: CheckArgs) -> Outcome {
    let mut examined = examine(args.config.as_deref(), &env::process_vars());
    if args.dns {
        let finding = dns(&examined.loaded.judged, resolve, DNS_DEADLINE);
        examined.findings.extend(finding);
    }
    // A reader that went away (`check | head`) is no fault of the configuration.
    let _ = examined.write(&mut io::stdout().lock());
    Ok(match examined.has_errors() {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    })
}

/// The same for `serve`: raises the descriptor limit, says on stderr what was found, and gives the configuration
/// when nothing forbids to start.
pub fn before_start(named: Option<&Path>) -> Result<Config, String> {
    raise_descriptor_limit();
    let examined = examine(named, &env::process_vars());
    let mut stderr = io::stderr().lock();
    for problem in examined.problems() {
        let _ = writeln!(stderr, "{} {problem}", mark(problem.severity));
    }
    let errors = examined.count(Severity::Error);
    match examined.loaded.config {
        Some(config) if errors == 0 => Ok(config),
        _ => Err(format!("not started: {}", counted(errors, "error"))),
    }
}

/// What was found.
#[derive(Debug)]
pub struct Examined {
    /// The configuration.
    pub loaded: Loaded,
    /// The machine.
    pub findings: Vec<Finding>,
}

/// Reads the configuration and looks at the machine: at all that could be proven, so that an error in one key hides
/// nothing that is wrong with the files of another.
pub fn examine(named: Option<&Path>, vars: &env::Vars) -> Examined {
    let loaded = load(named, vars);
    let now_unix_ms = SystemClock::new().now().unix_ms;
    let mut findings = machine(&loaded.judged, &probes(), now_unix_ms);
    let relay = &loaded.judged.relay;
    let cores = Plan::of_process(relay.pin, relay.workers);
    findings.push(Ok(format!("cores: {cores}")));
    Examined { findings, loaded }
}

fn resolve(host: &str, port: u16) -> io::Result<usize> {
    Ok((host, port).to_socket_addrs()?.count())
}

/// What the other modules try for us.
fn probes() -> Probes {
    Probes {
        ring: || ring::probe().map(|features| features_in_words(&features)),
        tls: |files| {
            let loaded = roots::server_config(&files.cert_file, &files.key_file);
            let name = files.cert_file.display();
            loaded
                .map(|_| format!("listen.tls: {name} and its key match"))
                .map_err(|error| error.to_string())
        },
        roots: |path| {
            let loaded = roots::client_config(Some(path));
            loaded
                .map(|_| format!("realtime.ca_file: {} is good", path.display()))
                .map_err(|error| error.to_string())
        },
    }
}

fn features_in_words(features: &ring::Features) -> String {
    let word = |there: bool| if there { "yes" } else { "no" };
    format!(
        "usable (deferred task runs: {}, gathering waits: {})",
        word(features.defer_taskrun),
        word(features.min_wait)
    )
}

impl Examined {
    fn problems(&self) -> impl Iterator<Item = &Problem> {
        let machine = self.findings.iter().filter_map(|f| f.as_ref().err());
        self.loaded.problems.iter().chain(machine)
    }

    fn count(&self, severity: Severity) -> usize {
        self.problems().filter(|p| p.severity == severity).count()
    }

    /// Whether anything forbids to start.
    pub fn has_errors(&self) -> bool {
        self.count(Severity::Error) > 0
    }

    /// The whole list, for people.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "voxrelay {} ({})\n", crate::VERSION, crate::COMMIT)?;
        match &self.loaded.file {
            Some(file) => writeln!(out, "Configuration ({})", file.display())?,
            None => writeln!(out, "Configuration (no file; defaults and environment)")?,
        }
        for (key, value, source) in &self.loaded.shown {
            writeln!(out, "    {key:<42} {value:<28} {source}")?;
        }
        for problem in &self.loaded.problems {
            writeln!(out, "  {} {problem}", mark(problem.severity))?;
        }
        writeln!(out, "\nMachine")?;
        for finding in &self.findings {
            match finding {
                Ok(text) => writeln!(out, "  \u{2713} {text}")?,
                Err(problem) => writeln!(out, "  {} {problem}", mark(problem.severity))?,
            }
        }
        let (errors, warnings) = (self.count(Severity::Error), self.count(Severity::Warning));
        let (errors, warnings) = (counted(errors, "error"), counted(warnings, "warning"));
        writeln!(out, "\n{errors}, {warnings}")
    }
}

fn mark(severity: Severity) -> char {
    match severity {
        Severity::Note => '\u{00b7}',
        Severity::Warning => '!',
        Severity::Error => '\u{2717}',
    }
}

fn counted(n: usize, what: &str) -> String {
    let plural = if n == 1 { "" } else { "s" };
    format!("{n} {what}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn examined(vars: &[(&str, &str)]) -> (Examined, String) {
        let vars = vars
            .iter()
            .map(|(k, v)| (k.to_string(), v.to_string()))
            .collect();
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("c.toml");
        std::fs::write(&file, "[realtime]\napi_keys = [\"hidden-file\"]\n").expect("written");
        let examined = examine(Some(&file), &vars);
        let mut out = Vec::new();
        examined.write(&mut out).expect("a Vec takes it");
        (examined, String::from_utf8(out).expect("text"))
    }

    #[test]
    fn the_list_shows_values_and_sources_but_no_secret() {
        let (_, text) = examined(&[
            ("PORT", "3999"),
            ("TWILIO_AUTH_TOKEN", "hidden-env"),
            ("PUBLIC_URL", "https://voice.example.com"),
        ]);
        assert!(!text.contains("hidden"), "{text}");
        let line = |key: &str| {
            let line = text.lines().find(|l| l.trim_start().starts_with(key));
            line.unwrap_or_else(|| panic!("{key} is missing in {text}"))
                .to_owned()
        };
        assert!(line("listen.port").contains("3999") && line("listen.port").contains("PORT"));
        assert!(line("carrier.auth_token ").contains("set"));
        assert!(line("realtime.api_keys").contains("file, line 2"));
    }

    #[test]
    fn credentials_in_urls_are_shown_nowhere() {
        for url in [
            "wss://h.example/x?api_key=hunter2",
            "wss://user:hunter2@h.example",
            "ws://h.example:99999/x?token=hunter2",
            "hunter2@h.example",
        ] {
            for name in ["VOXRELAY__REALTIME__URL", "PUBLIC_URL"] {
                let (_, text) = examined(&[(name, url), ("OPENAI_API_KEY", "sk-x")]);
                assert!(text.contains("h.example"), "{text}");
                assert!(!text.contains("hunter2"), "{text}");
            }
        }
    }

    #[test]
    fn an_error_in_one_key_hides_no_other_s() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("file");
        std::fs::write(&file, "no PEM").expect("written");
        let path = file.to_str().expect("text");
        let wrong = [
            ("VOXRELAY__STORE__DIR", path),
            ("VOXRELAY__LISTEN__TLS__CERT_FILE", path),
            ("VOXRELAY__LISTEN__TLS__KEY_FILE", path),
            ("VOXRELAY__REALTIME__CA_FILE", path),
        ];
        let places = |examined: &Examined| {
            let errors = examined.findings.iter().filter_map(|f| f.as_ref().err());
            errors.map(|p| p.place.clone()).collect::<Vec<_>>()
        };
        let (alone, _) = examined(&wrong);
        let mut all = vec![("PORT", "x"), ("PUBLIC_URL", "nonsense")];
        all.extend(wrong);
        let (together, _) = examined(&all);
        assert!(together.loaded.config.is_none() && alone.loaded.config.is_some());
        assert_eq!(places(&together), places(&alone));
        for place in ["store.dir", "listen.tls", "realtime.ca_file"] {
            assert!(places(&together).iter().any(|p| p == place), "{place}");
        }
    }

    #[test]
    fn problems_of_configuration_and_machine_come_together() {
        let (examined, text) = examined(&[
            ("PORT", "x"),
            ("PUBLIC_URL", "nonsense"),
            ("VOXRELAY__STORE__DIR", ""),
        ]);
        assert!(examined.has_errors());
        assert!(!examined.findings.is_empty());
        assert_eq!(
            text.matches('\u{2717}').count(),
            examined.count(Severity::Error),
            "{text}"
        );
        assert!(examined.count(Severity::Error) >= 3, "{text}");
    }
}
