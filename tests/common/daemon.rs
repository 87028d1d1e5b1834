//! The real binary as a child process on a free port.

use super::tls::Authority;
use super::{BoxIo, http, metric, within};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::sync::Notify;

/// A key that must never appear in any output.
pub const SECRET_KEY: &str = "sk-test-7Hq2nVx9LmPz4RtY";

/// What the child is started with.
pub struct Launch {
    env: BTreeMap<String, String>,
    args: Vec<String>,
    /// Its working directory, with `config.toml` in it.
    pub dir: TempDir,
}

impl Launch {
    /// The daemon with nothing set but a place for its files: `OPENAI_API_KEY` is absent too.
    pub fn bare() -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        std::fs::write(dir.path().join("config.toml"), "").expect("config.toml");
        let launch = Self {
            env: BTreeMap::new(),
            args: Vec::new(),
            dir,
        };
        let store = launch.dir.path().join("data");
        launch.env("VOXRELAY__STORE__DIR", store.to_str().expect("utf-8"))
    }

    /// `serve` on a free loopback port, with a key, relaying to the model at `url`.
    pub fn serve(url: &str) -> Self {
        Self::bare()
            .env("VOXRELAY__LISTEN__PORT", "0")
            .env("VOXRELAY__REALTIME__URL", url)
            .env("VOXRELAY__RELAY__WORKERS", "1")
            // Many daemons run beside each other here, on a machine that is busy with them.
            .env("VOXRELAY__RELAY__PIN", "off")
            .env("VOXRELAY__RELAY__BUSY_MAX_PERCENT", "100")
            .env("VOXRELAY__RELAY__LAG_MAX_MS", "0")
            .env("OPENAI_API_KEY", SECRET_KEY)
            .arg("serve")
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    pub fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Writes `config.toml`.
    pub fn config(self, text: &str) -> Self {
        std::fs::write(self.dir.path().join("config.toml"), text).expect("config.toml");
        self
    }

    /// Writes a file into the working directory and returns its whole path.
    pub fn file(&self, name: &str, text: &str) -> String {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).expect("file");
        path.to_str().expect("utf-8").to_owned()
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_voxrelay"));
        command
            .args(&self.args)
            .env_clear()
            .envs(&self.env)
            .env("NO_COLOR", "1")
            .env("RUST_BACKTRACE", "1")
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        for kept in ["PATH", "HOME"] {
            if let Some(value) = std::env::var_os(kept) {
                command.env(kept, value);
            }
        }
        command
    }

    /// Starts it and waits until it says where it listens.
    pub async fn start(self) -> Daemon {
        let mut child = self.command().spawn().expect("the binary starts");
        let output = Output::default();
        output.follow(child.stdout.take().expect("piped"));
        output.follow(child.stderr.take().expect("piped"));
        let mut daemon = Daemon {
            child,
            output,
            addr: SocketAddr::from(([127, 0, 0, 1], 0)),
            dir: self.dir,
        };
        let addr = tokio::select! {
            addr = within("the bound address", daemon.output.find(bound_address)) => addr,
            status = daemon.child.wait() => panic!("the daemon ended at start: {status:?}"),
        };
        daemon.addr = addr;
        daemon
    }

    /// Runs it to its end.
    pub async fn run(self) -> Finished {
        let result = within("the command's end", self.command().output())
            .await
            .expect("the binary starts");
        Finished {
            code: result.status.code(),
            stdout: String::from_utf8_lossy(&result.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&result.stderr).into_owned(),
        }
    }
}

/// What a finished command left.
#[derive(Debug)]
pub struct Finished {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    /// Both streams.
    pub fn all(&self) -> String {
        format!("{}\n{}", self.stdout, self.stderr)
    }
}

/// `127.0.0.1:PORT` in a line that speaks of listening.
fn bound_address(text: &str) -> Option<SocketAddr> {
    let line = text
        .lines()
        .find(|line| line.contains("listening") && line.contains("127.0.0.1:"))?;
    let rest = &line[line.find("127.0.0.1:")?..];
    let end = rest
        .find(|c: char| !c.is_ascii_digit() && c != '.' && c != ':')
        .unwrap_or(rest.len());
    rest[..end]
        .parse()
        .ok()
        .filter(|addr: &SocketAddr| addr.port() != 0)
}

/// The child's output so far, both streams, whole lines.
#[derive(Clone, Default)]
pub struct Output(Arc<(Mutex<String>, Notify)>);

impl Output {
    fn follow(&self, stream: impl AsyncRead + Send + Unpin + 'static) {
        let output = self.clone();
        tokio::spawn(async move {
            let mut lines = BufReader::new(stream).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let mut text = output.0.0.lock().expect("output");
                text.push_str(&line);
                text.push('\n');
                drop(text);
                output.0.1.notify_waiters();
            }
        });
    }

    /// All of it.
    pub fn text(&self) -> String {
        self.0.0.lock().expect("output").clone()
    }

    /// Waits until `look` finds something in it.
    pub async fn find<T>(&self, look: impl Fn(&str) -> Option<T>) -> T {
        loop {
            let more = self.0.1.notified();
            tokio::pin!(more);
            // Registered before the look, so that a line between the two is not missed.
            more.as_mut().enable();
            if let Some(found) = look(&self.text()) {
                return found;
            }
            more.await;
        }
    }
}

/// A running daemon. Killed when dropped; its output is shown when the test fails.
pub struct Daemon {
    child: Child,
    pub output: Output,
    pub addr: SocketAddr,
    pub dir: TempDir,
}

impl Daemon {
    /// A plain connection to it.
    pub async fn connect(&self) -> BoxIo {
        let tcp = TcpStream::connect(self.addr).await.expect("connect");
        tcp.set_nodelay(true).expect("nodelay");
        Box::new(tcp)
    }

    /// A TLS connection to it.
    pub async fn connect_tls(&self, authority: &Authority) -> BoxIo {
        authority.connect(self.addr.port()).await.expect("TLS").0
    }

    /// Sends it a signal by name, e.g. `TERM`.
    pub async fn signal(&self, name: &str) {
        let pid = self.child.id().expect("still running");
        let status = Command::new("sh")
            .arg("-c")
            .arg(format!("kill -{name} {pid}"))
            .status()
            .await
            .expect("sh");
        assert!(status.success(), "kill -{name} {pid}");
    }

    /// Waits for its end.
    pub async fn ended(&mut self) -> ExitStatus {
        within("the daemon's end", self.child.wait())
            .await
            .expect("wait")
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("wait").is_none()
    }

    /// Waits until it knows of no live call and no open model leg.
    pub async fn settled(&self) {
        super::within("the calls to be over", async {
            loop {
                let text = self.metrics().await;
                let live =
                    sum(&text, metric::CALLS_ACTIVE, &[]) + sum(&text, metric::UPSTREAM_OPEN, &[]);
                let known =
                    text.contains(metric::CALLS_ACTIVE) && text.contains(metric::UPSTREAM_OPEN);
                if known && live == 0.0 {
                    return;
                }
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        })
        .await;
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id().expect("still running")
    }

    /// How many descriptors it has open.
    pub fn descriptors(&self) -> usize {
        let pid = self.child.id().expect("still running");
        std::fs::read_dir(format!("/proc/{pid}/fd"))
            .expect("/proc")
            .count()
    }

    /// The text of `/metrics`.
    pub async fn metrics(&self) -> String {
        let answer = http::get(self.addr, "/metrics").await;
        assert_eq!(answer.status, 200, "/metrics: {answer:?}");
        answer.text()
    }

    /// Waits until the sum of `name`'s series that carry all of `labels` is at least `least`. Workers
    /// publish on their tick, so this asks again until then.
    pub async fn counted(&self, name: &str, labels: &[(&str, &str)], least: f64) {
        let mut last = String::new();
        let wait = async {
            loop {
                last = self.metrics().await;
                if sum(&last, name, labels) >= least {
                    return;
                }
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        };
        if tokio::time::timeout(super::PATIENCE, wait).await.is_err() {
            let near: Vec<&str> = last.lines().filter(|line| !line.starts_with('#')).collect();
            panic!(
                "{name}{labels:?} did not reach {least}; metrics:\n{}",
                near.join("\n")
            );
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the daemon's output ---\n{}---", self.output.text());
        }
    }
}

/// Sums a metric's series in Prometheus' text format.
pub fn sum(text: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let (found, rest) = series.split_once('{').unwrap_or((series, ""));
            let fits = found == name
                && labels
                    .iter()
                    .all(|(key, value)| rest.contains(&format!("{key}=\"{value}\"")));
            fits.then(|| value.parse::<f64>().ok()).flatten()
        })
        .sum()
}
