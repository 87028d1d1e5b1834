//! The desk over real sockets: tokio clients on one side, the workers' and control's queues on the other.

mod dial;
mod door;
mod early;
mod leak;

use super::*;
use crate::base::id::CallId;
use crate::bus::command::{DeskSender, ToWorker, WorkerInbox, desk_queue, worker_queue};
use crate::bus::directory::{Directory, Expected};
use crate::bus::report::{HttpInbox, http_queue};
use crate::config;
use crate::config::Secret;
use crate::transport::Established;
use crate::transport::stream::Stream;
use arc_swap::ArcSwap;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, RawFd};
use std::path::PathBuf;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// The headers of RFC 6455 section 1.3.
pub(super) const UPGRADE: &str = "Host: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

fn loopback_config() -> Config {
    Config {
        listen: config::Listen {
            addresses: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
            port: 0,
            tls: None,
            admin: None,
            public_url: None,
            connections_per_address: 1000,
            connections_max: 1000,
        },
        carrier: config::Carrier {
            account_sid: String::new(),
            auth_tokens: Vec::new(),
            unknown_call: config::UnknownCall::Create,
        },
        realtime: config::Realtime {
            url: "ws://127.0.0.1:1/v1/realtime".into(),
            model: "m".into(),
            temperature: None,
            api_keys: Vec::new(),
            endpoints: Vec::new(),
            prices: Default::default(),
            predial: true,
            warm_pool: 0,
            warm_max_age: Duration::from_secs(300),
            ca_file: None,
            simulated: false,
        },
        agent: Default::default(),
        policy: Default::default(),
        relay: config::Relay {
            workers: 2,
            calls_max: 100,
            drain: Duration::ZERO,
            ..Config::default().relay
        },
        store: config::Store {
            dir: PathBuf::new(),
            recordings_dir: PathBuf::new(),
        },
        log: config::Log {
            level: String::new(),
            json: false,
        },
        dev: config::Dev::default(),
    }
}

struct Wake(RawFd);

impl AsRawFd for Wake {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}

/// A worker's end of its queue.
struct Worker {
    wake: AsyncFd<Wake>,
    inbox: WorkerInbox,
}

impl Worker {
    fn new(inbox: WorkerInbox) -> Self {
        // The safe form is deprecated for not tying the descriptor's life to ours; here both are fields of one value.
        #[allow(deprecated)]
        let wake = AsyncFd::new(Wake(inbox.wake_fd())).unwrap();
        Self { wake, inbox }
    }

    async fn next(&self) -> ToWorker {
        loop {
            if let Some(order) = self.inbox.next() {
                return order;
            }
            let mut rung = self.wake.readable().await.unwrap();
            rung.clear_ready();
            self.inbox.clear();
        }
    }

    async fn adopted(&self) -> (CallId, Option<crate::base::id::CallSid>, Established) {
        match self.next().await {
            ToWorker::Adopt { setup, carrier } => {
                assert_ne!(setup.seed, [0; 32]);
                (setup.call_id, setup.expected_call_sid, *carrier)
            }
            other => panic!("{other:?}"),
        }
    }
}

/// A desk with everything around it. Ends the desk when it is dropped.
struct House {
    running: Option<Running>,
    orders: DeskSender,
    workers: Vec<Worker>,
    /// The desk's ends of the workers' queues.
    senders: Vec<WorkerSender>,
    http: HttpInbox,
    directory: SharedDirectory,
}

impl House {
    fn new(config: Config) -> Self {
        Self::with(config, Deadlines::default())
    }

    fn with(config: Config, deadlines: Deadlines) -> Self {
        let directory: SharedDirectory = Arc::new(ArcSwap::from_pointee(Directory {
            ticket_key: [9; 32],
            ..Directory::default()
        }));
        let (orders, inbox) = desk_queue(100);
        let (http_sender, http) = http_queue(2);
        let mut senders = Vec::new();
        let mut workers = Vec::new();
        for _ in 0..config.relay.workers {
            let (sender, inbox) = worker_queue(100).unwrap();
            senders.push(sender);
            workers.push(Worker::new(inbox));
        }
        let running = start_with(
            Arc::new(config),
            directory.clone(),
            inbox,
            senders.clone(),
            http_sender,
            deadlines,
        )
        .unwrap();
        Self {
            running: Some(running),
            orders,
            workers,
            senders,
            http,
            directory,
        }
    }

    fn address(&self) -> SocketAddr {
        self.running.as_ref().unwrap().addresses[0]
    }

    async fn connect(&self) -> tokio::net::TcpStream {
        tokio::net::TcpStream::connect(self.address())
            .await
            .unwrap()
    }

    /// Sends `request` and reads until the end.
    async fn ask(&self, request: &str) -> String {
        let mut client = self.connect().await;
        client.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        String::from_utf8(answer).unwrap()
    }

    /// Announces a call, as the webhook does.
    fn expect(&self, call_id: &str, call_sid: &str) {
        self.directory.rcu(|directory| {
            let mut directory = (**directory).clone();
            directory.expected.insert(
                CallId::new(call_id).unwrap(),
                Expected {
                    call_sid: crate::base::id::CallSid::new(call_sid),
                    expires_unix_ms: u64::MAX,
                },
            );
            directory
        });
    }
}

impl Drop for House {
    fn drop(&mut self) {
        let _ = self.orders.try_send(ToDesk::Stop);
        if let Some(running) = self.running.take() {
            running.thread.join().unwrap();
        }
    }
}

/// Reads a head from the connection, byte by byte so that nothing behind it is taken.
async fn read_head(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// The two ends talk: each sends a word and reads the other's.
async fn talk(
    one: &mut (impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin),
    other: Established,
) {
    let mut other = Stream::from_established(other).unwrap();
    one.write_all(b"ping").await.unwrap();
    one.flush().await.unwrap();
    let mut word = [0; 4];
    other.read_exact(&mut word).await.unwrap();
    assert_eq!(&word, b"ping");
    other.write_all(b"pong").await.unwrap();
    other.flush().await.unwrap();
    one.read_exact(&mut word).await.unwrap();
    assert_eq!(&word, b"pong");
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\n{UPGRADE}\r\n")
}
