//! A relay under test: started here as a child process, or running elsewhere.

use super::options::LoadArgs;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A started relay listens within this.
const START: Duration = Duration::from_secs(15);
/// From SIGTERM to SIGKILL.
const STOP: Duration = Duration::from_secs(8);
/// What is shown of a failed relay's output, bytes.
const TAIL: u64 = 2_000;
/// Only the simulated model takes it.
const API_KEY: &str = "sk-simulated";
/// An answer of `/metrics`.
const METRICS_DEADLINE: Duration = Duration::from_secs(2);

/// Which relay.
#[derive(Clone, Debug)]
pub enum Which {
    /// This program, as `serve`.
    Own,
    /// A command with places to fill in.
    Command(String),
    /// One that runs already.
    Elsewhere,
}

/// Which relay, and what it is called.
#[derive(Clone, Debug)]
pub struct Subject {
    /// In tables.
    pub name: String,
    /// How it is had.
    pub which: Which,
}

/// Where the relay finds the model.
#[derive(Clone, Debug)]
pub struct Model {
    /// `ws://` or `wss://`.
    pub url: String,
    /// The same without scheme and path.
    pub address: SocketAddr,
    /// The certificate to trust, when there is TLS.
    pub ca_file: Option<PathBuf>,
}

/// A relay that runs.
#[derive(Debug)]
pub struct Running {
    /// Its media stream.
    pub url: String,
    /// Its voice webhook, when it is asked.
    pub webhook: Option<String>,
    /// Its process, when it is known.
    pub pid: Option<u32>,
    /// Where its metrics are, when it is ours.
    pub metrics: Option<SocketAddr>,
    child: Option<Child>,
    log: PathBuf,
}

impl Subject {
    /// Starts it, or takes it as it is. `dir` is for its files.
    pub fn start(
        &self,
        args: &LoadArgs,
        calls: u32,
        model: &Model,
        dir: &Path,
    ) -> Result<Running, String> {
        let log = dir.join("relay.log");
        if let Which::Elsewhere = self.which {
            return Ok(Running {
                url: args.relay.clone().unwrap_or_default(),
                webhook: args.webhook.clone(),
                pid: args.relay_pid,
                metrics: None,
                child: None,
                log,
            });
        }
        let listen = free_port()?;
        let mut command = match &self.which {
            Which::Command(template) => {
                let filled = fill(template, listen, model, dir);
                let mut command = Command::new("sh");
                // `exec`, so that the process measured is the relay and not the shell.
                command.arg("-c").arg(format!("exec {filled}"));
                command
            }
            _ => {
                let exe = std::env::current_exe()
                    .map_err(|error| format!("this program's own file: {error}"))?;
                let mut command = Command::new(exe);
                command.arg("serve").current_dir(dir);
                command
            }
        };
        environment(&mut command, args, calls, listen, model, dir)?;
        let output = || File::options().create(true).append(true).open(&log);
        let out = output().map_err(|error| format!("{}: {error}", log.display()))?;
        let err = output().map_err(|error| format!("{}: {error}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .map_err(|error| format!("{} can't be started: {error}", self.name))?;
        let is_own = matches!(self.which, Which::Own);
        let mut running = Running {
            url: format!("ws://{listen}{}", args.path),
            webhook: args.webhook.clone().map(|url| match url.as_str() {
                "own" => format!("http://{listen}/api/twilio/voice"),
                _ => url,
            }),
            pid: Some(child.id()),
            metrics: is_own.then_some(listen),
            child: Some(child),
            log,
        };
        running.wait(listen, &self.name)?;
        Ok(running)
    }
}

/// A loopback port that was free a moment ago.
fn free_port() -> Result<SocketAddr, String> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map_err(|error| format!("no free loopback port: {error}"))
}

fn fill(template: &str, listen: SocketAddr, model: &Model, dir: &Path) -> String {
    let ca = model.ca_file.as_deref().unwrap_or(Path::new(""));
    template
        .replace("{listen}", &listen.to_string())
        .replace("{port}", &listen.port().to_string())
        .replace("{model}", &model.url)
        .replace("{model_addr}", &model.address.to_string())
        .replace("{ca}", &ca.display().to_string())
        .replace("{dir}", &dir.display().to_string())
}

/// What voxrelay of any version understands, and the same for others under names of their own.
fn environment(
    command: &mut Command,
    args: &LoadArgs,
    calls: u32,
    listen: SocketAddr,
    model: &Model,
    dir: &Path,
) -> Result<(), String> {
    let config = match &args.config {
        Some(path) => {
            std::path::absolute(path).map_err(|error| format!("{}: {error}", path.display()))?
        }
        None => {
            let path = dir.join("config.toml");
            std::fs::write(&path, "").map_err(|error| format!("{}: {error}", path.display()))?;
            path
        }
    };
    let ca = model
        .ca_file
        .as_deref()
        .map(|path| path.display().to_string());
    let set = [
        ("VOXRELAY_CONFIG", config.display().to_string()),
        ("VOXRELAY__LISTEN__PORT", listen.port().to_string()),
        ("VOXRELAY__LISTEN__CONNECTIONS_PER_ADDRESS", "65536".into()),
        ("VOXRELAY__LISTEN__CONNECTIONS_MAX", "65536".into()),
        ("VOXRELAY__REALTIME__URL", model.url.clone()),
        (
            "VOXRELAY__REALTIME__CA_FILE",
            ca.clone().unwrap_or_default(),
        ),
        (
            "VOXRELAY__STORE__DIR",
            dir.join("data").display().to_string(),
        ),
        (
            "VOXRELAY__STORE__RECORDINGS_DIR",
            dir.join("recordings").display().to_string(),
        ),
        ("OPENAI_API_KEY", API_KEY.into()),
        ("NO_COLOR", "1".into()),
        ("LOAD_LISTEN", listen.to_string()),
        ("LOAD_PORT", listen.port().to_string()),
        ("LOAD_MODEL", model.url.clone()),
        ("LOAD_MODEL_ADDR", model.address.to_string()),
        ("LOAD_CA", ca.unwrap_or_default()),
    ];
    command.envs(set);
    // What the user has set stands: it may be what is to be measured.
    let defaults = [
        ("VOXRELAY__RELAY__WORKERS", "1".to_owned()),
        // With room, so that a call which is ending does not keep the next one out.
        ("VOXRELAY__RELAY__CALLS_MAX", (calls * 2 + 100).to_string()),
        ("VOXRELAY__LOG__LEVEL", "warn".to_owned()),
        // What is looked for is where it breaks; admission would stop before.
        ("VOXRELAY__RELAY__BUSY_MAX_PERCENT", "100".to_owned()),
        ("VOXRELAY__RELAY__LAG_MAX_MS", "0".to_owned()),
    ];
    for (name, value) in defaults {
        if std::env::var_os(name).is_none() {
            command.env(name, value);
        }
    }
    // A secret of the user's real account makes signatures needed, which only --auth-token can make.
    if args.auth_token.is_none() {
        command.env_remove("TWILIO_AUTH_TOKEN");
    }
    Ok(())
}

impl Running {
    /// Waits until it accepts connections.
    fn wait(&mut self, listen: SocketAddr, name: &str) -> Result<(), String> {
        let deadline = Instant::now() + START;
        loop {
            let ended = self.child.as_mut().map(Child::try_wait);
            if let Some(Ok(Some(status))) = ended {
                self.child = None;
                return Err(format!("{name} ended at once ({status}): {}", self.tail()));
            }
            if TcpStream::connect_timeout(&listen, Duration::from_millis(200)).is_ok() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let tail = self.tail();
                return Err(format!(
                    "{name} does not listen on {listen} after {} s: {tail}",
                    START.as_secs()
                ));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The end of its output.
    pub fn tail(&self) -> String {
        let read = || -> std::io::Result<String> {
            use std::io::{Seek as _, SeekFrom};
            let mut file = File::open(&self.log)?;
            let len = file.metadata()?.len();
            file.seek(SeekFrom::Start(len.saturating_sub(TAIL)))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
        };
        match read() {
            Ok(text) if !text.is_empty() => text,
            _ => "it said nothing".into(),
        }
    }

    /// Whether a started relay has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        match self.child.as_mut().map(Child::try_wait) {
            Some(Ok(status)) => status.is_some(),
            _ => false,
        }
    }

    /// Our own relay's `io_uring_enter` calls so far; `None` when it can't be asked.
    pub fn enters(&self) -> Option<u64> {
        let text = get(self.metrics?, "/metrics").ok()?;
        let sum: f64 = text
            .lines()
            .filter(|line| line.starts_with("voxrelay_worker_enters_total"))
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
            .sum();
        (sum > 0.0).then_some(sum as u64)
    }
}

/// The body (and head) of a plain GET.
fn get(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, METRICS_DEADLINE)?;
    stream.set_read_timeout(Some(METRICS_DEADLINE))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(child) = &mut self.child else { return };
        let deadline = Instant::now() + STOP;
        if let Some(pid) = rustix::process::Pid::from_raw(child.id() as i32) {
            // INT ends live calls at once, in order, where TERM would wait for them.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
        }
        while Instant::now() < deadline {
            if !matches!(child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = child.kill();
        let _ = child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_s_places_are_filled_in() {
        let model = Model {
            url: "wss://127.0.0.1:7/v1/realtime".into(),
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 7)),
            ca_file: Some("/x/ca.pem".into()),
        };
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
        let filled = fill(
            "r -l {listen} -p {port} -m {model} -a {model_addr} -c {ca} {dir}/f",
            listen,
            &model,
            Path::new("/d"),
        );
        assert_eq!(
            filled,
            "r -l 127.0.0.1:9 -p 9 -m wss://127.0.0.1:7/v1/realtime -a 127.0.0.1:7 -c /x/ca.pem /d/f"
        );
    }
}
