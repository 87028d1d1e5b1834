//! The machine, looked at before a port is bound: can this configuration run here?
//!
//! Shell. What only other modules can try (a ring, a certificate) comes in as `Probes`. Nothing is left behind:
//! a directory is tried with a file that is removed again. The network is left alone, but for `dns`, which only a
//! flag asks for.

use super::url::is_loopback_host;
use super::{Config, Problem, TlsFiles};
use crate::proto::realtime::endpoint::connect_url;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::fs::OpenOptions;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

/// A good thing in a few words, or a problem.
pub type Finding = Result<String, Problem>;

/// What is tried by those who alone may name the crates for it. Each answers in words, without secrets.
#[derive(Clone, Copy, Debug)]
pub struct Probes {
    /// Makes a ring as a worker does and names what the kernel offers.
    pub ring: fn() -> Result<String, String>,
    /// Loads certificate and key as the listener does and checks that they match.
    pub tls: fn(&TlsFiles) -> Result<String, String>,
    /// Loads roots as the dialler does.
    pub roots: fn(&Path) -> Result<String, String>,
}

/// The oldest kernel whose io_uring has what the workers need (multishot receive, buffer rings, DEFER_TASKRUN).
const KERNEL_MIN: (u32, u32) = (6, 1);
/// From here on a ring wait can gather for a while (`min_wait_usec`).
const KERNEL_MIN_WAIT: (u32, u32) = (6, 12);
/// Descriptors beside those of calls and of counted connections: listeners, rings, files, the admin listener's connections,
/// refusals being said, and for a moment the second descriptor of what changes hands.
const DESCRIPTORS_SLACK: u64 = 512;
/// Locked memory below which rings and their buffers may be refused, bytes.
const LOCKED_BYTES_MIN: u64 = 1024 * 1024;
/// 2026-01-01T00:00:00Z. A clock before it is not set: certificates and tickets would be judged by it.
const CLOCK_MIN_UNIX_MS: u64 = 1_767_225_600_000;

/// Looks at everything; `now_unix_ms` is the wall clock's reading.
pub fn machine(config: &Config, probes: &Probes, now_unix_ms: u64) -> Vec<Finding> {
    let mut findings = vec![kernel(&read_line("/proc/sys/kernel/osrelease"))];
    findings.push(ring(
        &read_line("/proc/sys/kernel/io_uring_disabled"),
        probes.ring,
    ));
    let limit = |resource| getrlimit(resource).maximum.unwrap_or(u64::MAX);
    findings.push(descriptors(
        limit(Resource::Nofile),
        config.relay.calls_max as u64 * sockets_per_call(config) + warm_sockets(config),
        // The bound of the world does not hold this machine's own, which have the bound of one address.
        (config.listen.connections_max + config.listen.connections_per_address) as u64,
    ));
    findings.push(locked_memory(limit(Resource::Memlock)));
    findings.push(directory("store.dir", &config.store.dir));
    findings.push(directory(
        "store.recordings_dir",
        &config.store.recordings_dir,
    ));
    if let Some(files) = &config.listen.tls {
        findings.push((probes.tls)(files).map_err(|why| {
            Problem::error(
                "listen.tls",
                format!("certificate and key cannot be used: {why}"),
                "Both must be PEM files that the daemon may read, and belong together.",
            )
        }));
    }
    if let Some(path) = &config.realtime.ca_file {
        findings.push((probes.roots)(path).map_err(|why| {
            Problem::error(
                "realtime.ca_file",
                format!("{} cannot be used: {why}", path.display()),
                "It must be a PEM file with at least one certificate.",
            )
        }));
    }
    findings.push(clock(now_unix_ms));
    findings
}

/// Resolves a host and port, and says how many addresses it has.
pub type Resolve = fn(&str, u16) -> std::io::Result<usize>;

/// Whether DNS knows the model's host. `None` where there is nothing to ask: the simulated model, an address, a name of
/// this machine. A warning at most: the name may be good once calls come.
pub fn dns(config: &Config, resolve: Resolve, deadline: Duration) -> Option<Finding> {
    let realtime = &config.realtime;
    if realtime.simulated {
        return None;
    }
    let endpoint = connect_url(&realtime.url, &realtime.model, realtime.temperature).ok()?;
    let (host, port) = (endpoint.host, endpoint.port);
    if is_loopback_host(&host) || host.parse::<IpAddr>().is_ok() {
        return None;
    }
    let (answer, answered) = std::sync::mpsc::channel();
    let asked = host.clone();
    // The system's resolver has no deadline; a thread that waits too long is left to the end of the process.
    std::thread::spawn(move || answer.send(resolve(&asked, port)));
    let why = match answered.recv_timeout(deadline) {
        Ok(Ok(addresses @ 1..)) => {
            return Some(Ok(format!("dns: {host} is known ({addresses} addresses)")));
        }
        Ok(Ok(0)) => "it has no address".to_owned(),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer in {} s", deadline.as_secs_f32()),
    };
    Some(Err(Problem::warning(
        "dns",
        format!("{host} can't be resolved: {why}"),
        "Correct realtime.url, or this machine's resolver (/etc/resolv.conf).",
    )))
}

/// Raises the soft descriptor limit to the hard one and returns it. A refusal leaves what there was.
pub fn raise_descriptor_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let now = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => raised,
        Err(_) => limit,
    };
    now.current.unwrap_or(u64::MAX)
}

fn read_line(path: &str) -> String {
    std::fs::read_to_string(path).map_or(String::new(), |text| text.trim().to_owned())
}

fn kernel(release: &str) -> Finding {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map_while(|part| part.parse::<u32>().ok());
    let (Some(major), Some(minor)) = (numbers.next(), numbers.next()) else {
        return Err(Problem::warning(
            "kernel",
            format!("its version {release:?} is not understood"),
            "Linux 6.1 or newer is needed.",
        ));
    };
    if (major, minor) < KERNEL_MIN {
        return Err(Problem::warning(
            "kernel",
            format!("Linux {release} is older than 6.1, the oldest that is supported"),
            "Install a newer kernel.",
        ));
    }
    Ok(if (major, minor) < KERNEL_MIN_WAIT {
        format!("Linux {release} (waits gather without min_wait_usec, which came with 6.12)")
    } else {
        format!("Linux {release}")
    })
}

fn ring(disabled: &str, probe: fn() -> Result<String, String>) -> Finding {
    // The file came with Linux 6.6; without it nothing is said. 1 leaves it to a group, so only a try can tell.
    if disabled == "2" {
        return Err(Problem::error(
            "io_uring",
            "it is switched off on this machine (kernel.io_uring_disabled = 2)",
            "Run: sysctl -w kernel.io_uring_disabled=0",
        ));
    }
    // The probe's sentence says what to do as well.
    probe()
        .map(|text| format!("io_uring: {text}"))
        .map_err(|why| Problem::error("io_uring", why, ""))
}

/// The carrier's leg and the model's; the simulated model has its own end of that in the same process.
fn sockets_per_call(config: &Config) -> u64 {
    if config.realtime.simulated { 3 } else { 2 }
}

/// Connections that wait for calls; the simulated model has its own end of each.
fn warm_sockets(config: &Config) -> u64 {
    let pool = (config.realtime.warm_pool * config.relay.workers) as u64;
    pool * (sockets_per_call(config) - 1)
}

/// `sockets` of calls, and `connections` that are no calls (yet), with the desk or with control.
fn descriptors(hard: u64, sockets: u64, connections: u64) -> Finding {
    let needed = sockets + DESCRIPTORS_SLACK;
    if hard < needed {
        return Err(Problem::error(
            "descriptors",
            format!("the limit is {hard}, and relay.calls_max needs {needed}"),
            "Raise it (LimitNOFILE= in the unit, ulimit -Hn) or lower relay.calls_max.",
        ));
    }
    if hard < needed + connections {
        return Err(Problem::warning(
            "descriptors",
            format!(
                "the limit is {hard}: calls may take {needed}, which leaves no room for {connections} more connections"
            ),
            "Raise it (LimitNOFILE= in the unit) or lower listen.connections_max or listen.connections_per_address.",
        ));
    }
    Ok(format!(
        "descriptors: {} allowed, {needed} needed for calls",
        amount(hard)
    ))
}

fn locked_memory(hard: u64) -> Finding {
    if hard < LOCKED_BYTES_MIN {
        return Err(Problem::warning(
            "locked memory",
            format!("the limit is {hard} bytes; rings may be refused"),
            "Raise it (LimitMEMLOCK= in the unit, ulimit -Hl) to 8 MiB or more.",
        ));
    }
    Ok(format!("locked memory: {} bytes allowed", amount(hard)))
}

fn amount(limit: u64) -> String {
    match limit {
        u64::MAX => "any number of".into(),
        limit => limit.to_string(),
    }
}

/// Whether `path` is a directory that can be written to, or one could be made there.
fn directory(key: &str, path: &Path) -> Finding {
    // Of a path that is not there yet, the nearest ancestor that is decides.
    let relative = Path::new(".");
    let existing = path
        .ancestors()
        .map(|p| {
            if p.as_os_str().is_empty() {
                relative
            } else {
                p
            }
        })
        .find(|p| p.symlink_metadata().is_ok())
        .unwrap_or(relative);
    let refused = |why: String| {
        Problem::error(
            key,
            why,
            "Give the daemon's user the right to write there, or choose another directory.",
        )
    };
    if !existing.is_dir() {
        return Err(refused(format!(
            "{} is not a directory",
            existing.display()
        )));
    }
    let probe = existing.join(format!(".voxrelay-check-{}", std::process::id()));
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&probe)
        .and_then(|_| std::fs::remove_file(&probe));
    written.map_err(|error| {
        refused(format!(
            "{} cannot be written to: {error}",
            existing.display()
        ))
    })?;
    Ok(match existing == path {
        true => format!("{key}: {} is writable", path.display()),
        false => format!("{key}: {} can be made", path.display()),
    })
}

fn clock(now_unix_ms: u64) -> Finding {
    if now_unix_ms < CLOCK_MIN_UNIX_MS {
        return Err(Problem::error(
            "clock",
            "it stands before 2026, so certificates and tickets would be misjudged",
            "Set the clock, and let it be kept (timedatectl set-ntp true).",
        ));
    }
    Ok("clock: set".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Severity;

    fn severity(finding: &Finding) -> Option<Severity> {
        finding.as_ref().err().map(|problem| problem.severity)
    }

    #[test]
    fn kernels_are_told_apart() {
        assert_eq!(severity(&kernel("6.18.44-generic")), None);
        assert!(kernel("6.1.0-18-amd64").is_ok_and(|text| text.contains("6.12")));
        assert_eq!(severity(&kernel("5.15.0")), Some(Severity::Warning));
        assert_eq!(severity(&kernel("")), Some(Severity::Warning));
    }

    #[test]
    fn a_switched_off_or_refused_ring_is_an_error() {
        assert_eq!(
            severity(&ring("2", || Ok(String::new()))),
            Some(Severity::Error)
        );
        assert_eq!(
            severity(&ring("", || Err("EPERM".into()))),
            Some(Severity::Error)
        );
        assert_eq!(severity(&ring("0", || Ok("all there".into()))), None);
    }

    #[test]
    fn warm_connections_count_for_every_worker() {
        let mut config = Config::default();
        config.realtime.simulated = false;
        config.relay.workers = 3;
        assert_eq!(warm_sockets(&config), 0);
        config.realtime.warm_pool = 5;
        assert_eq!(warm_sockets(&config), 15);
        config.realtime.simulated = true;
        assert_eq!(warm_sockets(&config), 30);
    }

    #[test]
    fn descriptors_must_do_for_the_calls_and_should_for_the_rest() {
        assert_eq!(
            severity(&descriptors(2_511, 2_000, 100)),
            Some(Severity::Error)
        );
        assert_eq!(
            severity(&descriptors(2_512, 2_000, 100)),
            Some(Severity::Warning)
        );
        assert_eq!(severity(&descriptors(2_612, 2_000, 100)), None);
        assert_eq!(severity(&descriptors(u64::MAX, 200_000, 65_536)), None);
    }

    #[test]
    fn directories_are_tried_and_left_as_they_were() {
        let dir = tempfile::tempdir().expect("a directory");
        let deep = dir.path().join("a/b/c");
        assert!(directory("store.dir", &deep).is_ok_and(|text| text.contains("can be made")));
        assert!(directory("store.dir", dir.path()).is_ok_and(|text| text.contains("writable")));
        assert_eq!(std::fs::read_dir(dir.path()).expect("readable").count(), 0);
        let file = dir.path().join("file");
        std::fs::write(&file, "x").expect("written");
        for path in [file.clone(), file.join("below")] {
            assert_eq!(
                severity(&directory("store.dir", &path)),
                Some(Severity::Error)
            );
        }
    }

    #[test]
    fn a_clock_that_was_never_set_is_an_error() {
        assert_eq!(severity(&clock(0)), Some(Severity::Error));
        assert_eq!(severity(&clock(CLOCK_MIN_UNIX_MS)), None);
    }

    #[test]
    fn dns_is_asked_for_names_of_others_alone_and_only_warns() {
        let ask = |url: &str, simulated, resolve| {
            let mut config = Config::default();
            config.realtime.url = url.into();
            config.realtime.simulated = simulated;
            dns(&config, resolve, Duration::from_secs(60))
        };
        let never: Resolve = |host, _| panic!("asked for {host}");
        for url in [
            "ws://localhost:1/x",
            "wss://192.0.2.1",
            "wss://[2001:db8::1]/",
        ] {
            assert_eq!(ask(url, false, never), None, "{url}");
        }
        assert_eq!(ask("wss://model.example", true, never), None);
        let finding = ask("wss://model.example", false, |host, port| {
            assert_eq!((host, port), ("model.example", 443));
            Ok(2)
        });
        assert!(finding.is_some_and(|f| f.is_ok_and(|text| text.contains("model.example"))));
        let refusals: [Resolve; 2] = [|_, _| Ok(0), |_, _| Err(std::io::Error::other("no"))];
        for resolve in refusals {
            let finding = ask("wss://model.example", false, resolve).expect("asked");
            assert_eq!(severity(&finding), Some(Severity::Warning));
        }
        // One that never answers.
        let mut config = Config::default();
        config.realtime.url = "wss://model.example".into();
        config.realtime.simulated = false;
        let never: Resolve = |_, _| loop {
            std::thread::park();
        };
        let finding = dns(&config, never, Duration::from_millis(1)).expect("asked");
        assert_eq!(severity(&finding), Some(Severity::Warning));
    }

    #[test]
    fn probes_are_asked_only_for_what_is_configured() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut config = Config::default();
        config.store.dir = dir.path().join("data");
        config.store.recordings_dir = dir.path().join("recordings");
        let refuse = Probes {
            ring: || Ok("all there".into()),
            tls: |_| Err("they do not match".into()),
            roots: |_| Err("no certificate".into()),
        };
        let errors = |config: &Config| {
            let findings = machine(config, &refuse, 0);
            findings
                .into_iter()
                .filter_map(Result::err)
                .filter(|problem| problem.severity == Severity::Error)
                .map(|problem| problem.place)
                .collect::<Vec<_>>()
        };
        assert_eq!(errors(&config), ["clock"]);
        config.realtime.ca_file = Some("ca.pem".into());
        config.listen.tls = Some(TlsFiles {
            cert_file: "c.pem".into(),
            key_file: "k.pem".into(),
        });
        assert_eq!(errors(&config), ["listen.tls", "realtime.ca_file", "clock"]);
    }
}
