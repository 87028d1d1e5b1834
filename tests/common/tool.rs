//! A tool's server, on plain tokio and by hand: it says what it was asked, and the test answers.

use super::within;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// A listening server.
pub struct ToolServer {
    addr: SocketAddr,
    requests: mpsc::UnboundedReceiver<Asked>,
    connected: mpsc::UnboundedReceiver<()>,
}

/// One request, whole, and the connection that waits for its answer.
pub struct Asked {
    /// `POST /path HTTP/1.1`.
    pub request_line: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    stream: TcpStream,
}

impl ToolServer {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let addr = listener.local_addr().expect("address");
        let (asked, requests) = mpsc::unbounded_channel();
        let (contacted, connected) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = contacted.send(());
                let asked = asked.clone();
                tokio::spawn(async move {
                    if let Some(request) = read(stream).await {
                        let _ = asked.send(request);
                    }
                });
            }
        });
        Self {
            addr,
            requests,
            connected,
        }
    }

    /// The URL of a path on it.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    /// The next request.
    pub async fn asked(&mut self) -> Asked {
        within("a request to the tool", self.requests.recv())
            .await
            .expect("the server lives")
    }

    /// Whether anybody has ever connected.
    pub fn was_contacted(&mut self) -> bool {
        self.connected.try_recv().is_ok()
    }
}

async fn read(mut stream: TcpStream) -> Option<Asked> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break at;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let mut body = bytes.split_off(end + 4);
    let head = String::from_utf8(bytes).expect("a head in UTF-8");
    let mut lines = head.trim_end().split("\r\n").map(str::to_owned);
    let request_line = lines.next().expect("a request line");
    let headers: Vec<(String, String)> = lines
        .map(|line| {
            let (name, value) = line.split_once(':').expect("a header line");
            (name.to_ascii_lowercase(), value.trim().to_owned())
        })
        .collect();
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length: usize = length.expect("a length").1.parse().expect("a number");
    while body.len() < length {
        if stream.read_buf(&mut body).await.ok()? == 0 {
            return None;
        }
    }
    assert_eq!(body.len(), length, "more than the announced body");
    Some(Asked {
        request_line,
        headers,
        body,
        stream,
    })
}

impl Asked {
    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("a JSON body")
    }

    /// Answers 200 with this JSON, and closes.
    pub async fn answer(self, body: &str) {
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n{body}",
            body.len()
        );
        self.answer_raw(head.as_bytes()).await;
    }

    /// Answers with these bytes, and closes.
    pub async fn answer_raw(mut self, bytes: &[u8]) {
        // A client that has read enough may be gone.
        let _ = self.stream.write_all(bytes).await;
        let _ = self.stream.shutdown().await;
    }

    /// Sends `head` and then `piece` again and again, until the client closes; how many bytes it took.
    pub async fn answer_without_end(mut self, head: &str, piece: &[u8]) -> u64 {
        within("the client to have enough", async {
            let mut taken = 0;
            let _ = self.stream.write_all(head.as_bytes()).await;
            while let Ok(n @ 1..) = self.stream.write(piece).await {
                taken += n as u64;
            }
            taken
        })
        .await
    }

    /// Never answers; waits until the client gives up.
    pub async fn abandoned(self) {
        self.hang_after("").await;
    }

    /// Sends `head` and nothing more; waits until the client gives up.
    pub async fn hang_after(mut self, head: &str) {
        let _ = self.stream.write_all(head.as_bytes()).await;
        within("the client to give up", async {
            while let Ok(1..) = self.stream.read(&mut [0; 64]).await {}
        })
        .await;
    }
}
