//! The whole control plane over loopback sockets: the test is the client, the desk and the workers.

mod after_stream;
mod http;
mod upgrade;
mod webhook;

use super::*;
use crate::bus::command::{DeskInbox, WorkerInbox, desk_queue, worker_queue};
use crate::bus::report::{
    HttpPlace, HttpSender, ReportSender as Reports, http_queue, report_queue,
};
use crate::transport::Established;
use arc_swap::ArcSwap;
use metrics_exporter_prometheus::PrometheusBuilder;
use std::io::{Read, Write};
use std::net::{TcpListener as StdListener, TcpStream};

const KEY: [u8; 32] = [9; 32];

/// A control plane and everything around it.
struct Rig {
    control: Option<Control>,
    http: HttpSender,
    directory: SharedDirectory,
    desk: DeskInbox,
    worker: WorkerInbox,
    reports: Reports,
}

impl Rig {
    fn new(config: Config) -> Self {
        Self::try_new(config).expect("control starts")
    }

    fn try_new(config: Config) -> io::Result<Self> {
        let directory: SharedDirectory = Arc::new(ArcSwap::from_pointee(Directory {
            ticket_key: KEY,
            ..Directory::default()
        }));
        let (http, http_inbox) = http_queue(8);
        let (reports, report_inbox) = report_queue(8);
        let (desk_sender, desk) = desk_queue(8);
        let (worker_sender, worker) = worker_queue(8)?;
        let parts = Parts {
            config: Arc::new(config),
            directory: directory.clone(),
            http: http_inbox,
            reports: report_inbox,
            desk: desk_sender,
            workers: vec![worker_sender],
            tap: None,
        };
        let prometheus = PrometheusBuilder::new().build_recorder().handle();
        Ok(Self {
            control: Some(start(parts, prometheus)?),
            http,
            directory,
            desk,
            worker,
            reports,
        })
    }

    /// A connection, as the desk hands it over with `read_ahead` already read.
    fn connect_with(&self, read_ahead: &[u8]) -> Client {
        self.connect_as(read_ahead, HttpPlace::uncounted(), true)
    }

    fn connect_as(&self, read_ahead: &[u8], place: HttpPlace, keep_alive: bool) -> Client {
        let listener = StdListener::bind("127.0.0.1:0").expect("a port");
        let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
        let (server, peer) = listener.accept().expect("accepted");
        let established = Established {
            fd: server.into(),
            tls: None,
            ciphertext: Vec::new(),
            plaintext: read_ahead.to_vec(),
            peer: Some(peer),
        };
        self.http
            .blocking_send(Box::new(HttpConnection {
                established,
                place,
                keep_alive,
            }))
            .expect("control takes it");
        Client::new(client)
    }

    fn connect(&self) -> Client {
        self.connect_with(b"")
    }

    /// One GET on a connection of its own.
    fn get(&self, path: &str) -> Answer {
        self.connect().get(path)
    }

    fn drain(&self) {
        self.directory.rcu(|directory| Directory {
            draining: true,
            ..Directory::clone(directory)
        });
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // Reports end with their senders; ours goes first so that stopping need not wait.
        let (closed, _) = report_queue(1);
        self.reports = closed;
        if let Some(control) = self.control.take() {
            control.stop();
        }
    }
}

/// A client that speaks HTTP by hand.
struct Client {
    stream: TcpStream,
    read: Vec<u8>,
}

#[derive(Debug)]
struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Answer {
    fn of_head(head: &str) -> Self {
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().expect("a status line");
        let status = status.strip_prefix("HTTP/1.1 ").expect("HTTP/1.1");
        let header = |line: &str| {
            let (name, value) = line.split_once(": ").expect("a header line");
            (name.to_owned(), value.to_owned())
        };
        Self {
            status: status[..3].parse().expect("a number"),
            headers: lines.map(header).collect(),
            body: Vec::new(),
        }
    }

    fn header(&self, name: &str) -> &str {
        let found = self
            .headers
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map_or("", |(_, value)| value)
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text")
    }

    fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.text()))
    }

    fn code(&self) -> String {
        self.json()["error"]["code"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }
}

impl Client {
    fn new(stream: TcpStream) -> Self {
        // A test that waits this long has failed.
        let limit = Some(Duration::from_secs(20));
        stream.set_read_timeout(limit).expect("set");
        Self {
            stream,
            read: Vec::new(),
        }
    }

    fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).expect("sent");
    }

    fn fill(&mut self) -> usize {
        let mut chunk = [0; 4096];
        let n = self.stream.read(&mut chunk).expect("an answer in time");
        self.read.extend_from_slice(&chunk[..n]);
        n
    }

    /// The next answer. `has_body` is false after HEAD, and for a 101.
    fn answer(&mut self, has_body: bool) -> Answer {
        loop {
            let end = self
                .read
                .windows(4)
                .position(|window| window == b"\r\n\r\n");
            if let Some(end) = end {
                let head: Vec<u8> = self.read.drain(..end + 4).collect();
                let mut answer = Answer::of_head(std::str::from_utf8(&head).expect("text"));
                if has_body && answer.status != 101 {
                    let length: usize = answer.header("content-length").parse().expect("a length");
                    while self.read.len() < length {
                        assert_ne!(self.fill(), 0, "the body is cut");
                    }
                    answer.body = self.read.drain(..length).collect();
                }
                return answer;
            }
            assert_ne!(self.fill(), 0, "closed before an answer");
        }
    }

    fn get(&mut self, path: &str) -> Answer {
        self.request("GET", path, &[], b"")
    }

    fn request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        let mut head = format!("{method} {path} HTTP/1.1\r\n");
        if !headers.iter().any(|(name, _)| *name == "Host") {
            head += "Host: localhost:3000\r\n";
        }
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        if !body.is_empty() {
            head += &format!("Content-Length: {}\r\n", body.len());
        }
        self.send(head + "\r\n");
        self.send(body);
        self.answer(method != "HEAD")
    }

    /// Whether the other side closes without another byte.
    fn is_closed(&mut self) -> bool {
        self.read.is_empty() && self.fill() == 0
    }
}

/// What handlers see, without a thread or a socket.
pub(super) fn shared() -> Arc<Shared> {
    let (desk, _) = desk_queue(1);
    let clock = SystemClock::new();
    Arc::new(Shared {
        config: Arc::new(Config::default()),
        directory: Arc::new(ArcSwap::from_pointee(Directory::default())),
        desk,
        workers: Vec::new(),
        prometheus: PrometheusBuilder::new().build_recorder().handle(),
        calls: Calls::default(),
        clock,
        started: clock.now(),
        requests: AtomicU64::new(0),
    })
}
