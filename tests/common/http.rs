//! A raw HTTP/1.1 client: it sends exactly the bytes it is given and reads answers by the book.

use super::{BoxIo, within};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// One answer.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// Whether a header holds `token`.
    pub fn has_token(&self, name: &str, token: &str) -> bool {
        self.headers
            .iter()
            .filter(|(key, _)| key.eq_ignore_ascii_case(name))
            .flat_map(|(_, value)| value.split(','))
            .any(|part| part.trim().eq_ignore_ascii_case(token))
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).expect("UTF-8 body")
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("{e}: {:?}", String::from_utf8_lossy(&self.body)))
    }
}

/// One connection.
pub struct Client {
    pub stream: BoxIo,
    buffer: Vec<u8>,
}

impl Client {
    pub async fn connect(addr: SocketAddr) -> Self {
        let tcp = TcpStream::connect(addr).await.expect("connect");
        tcp.set_nodelay(true).expect("nodelay");
        Self::over(Box::new(tcp))
    }

    pub fn over(stream: BoxIo) -> Self {
        Self {
            stream,
            buffer: Vec::new(),
        }
    }

    /// Sends bytes as they are. A peer that has already closed is no failure: its answer counts.
    pub async fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).await;
        let _ = self.stream.flush().await;
    }

    /// The next answer to a request that has a body in its answer.
    pub async fn response(&mut self) -> Response {
        within("an HTTP answer", self.read(false)).await
    }

    /// The next answer to a HEAD.
    pub async fn head_response(&mut self) -> Response {
        within("an HTTP answer", self.read(true)).await
    }

    /// The connection and what was read beyond the answers.
    pub fn into_parts(self) -> (BoxIo, Vec<u8>) {
        (self.stream, self.buffer)
    }

    /// Waits for the end of the connection; data before it is returned.
    pub async fn end(&mut self) -> Vec<u8> {
        within("the end of the connection", async {
            while self.fill().await > 0 {}
            std::mem::take(&mut self.buffer)
        })
        .await
    }

    async fn fill(&mut self) -> usize {
        let mut chunk = [0; 4096];
        // A reset is an end too: some refusals leave unread bytes behind.
        let n = self.stream.read(&mut chunk).await.unwrap_or(0);
        self.buffer.extend_from_slice(&chunk[..n]);
        n
    }

    async fn read(&mut self, is_head: bool) -> Response {
        let head_len = loop {
            if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                break at + 4;
            }
            assert!(
                self.fill().await > 0,
                "the connection ended inside a head: {:?}",
                String::from_utf8_lossy(&self.buffer)
            );
        };
        let head: Vec<u8> = self.buffer.drain(..head_len).collect();
        let head = String::from_utf8(head).expect("UTF-8 head");
        let mut lines = head.trim_end().split("\r\n");
        let status_line = lines.next().expect("status line");
        assert!(status_line.starts_with("HTTP/1."), "{status_line}");
        let status: u16 = status_line[9..12].parse().expect("status");
        let headers: Vec<(String, String)> = lines
            .map(|line| {
                let (name, value) = line.split_once(':').expect("header line");
                (name.to_owned(), value.trim().to_owned())
            })
            .collect();
        let mut response = Response {
            status,
            headers,
            body: Vec::new(),
        };
        if is_head || status < 200 || status == 204 || status == 304 {
            return response;
        }
        if let Some(len) = response.header("content-length") {
            let len: usize = len.parse().expect("length");
            while self.buffer.len() < len {
                assert!(self.fill().await > 0, "the connection ended inside a body");
            }
            response.body = self.buffer.drain(..len).collect();
        } else if response.has_token("transfer-encoding", "chunked") {
            loop {
                let line = self.line().await;
                let len = usize::from_str_radix(&line, 16).expect("chunk size");
                while self.buffer.len() < len + 2 {
                    assert!(self.fill().await > 0, "the connection ended inside a chunk");
                }
                response.body.extend(self.buffer.drain(..len));
                self.buffer.drain(..2);
                if len == 0 {
                    break;
                }
            }
        } else {
            while self.fill().await > 0 {}
            response.body = std::mem::take(&mut self.buffer);
        }
        response
    }

    async fn line(&mut self) -> String {
        loop {
            if let Some(at) = find(&self.buffer, b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..at + 2).collect();
                return String::from_utf8_lossy(&line[..at]).into_owned();
            }
            assert!(self.fill().await > 0, "the connection ended inside a line");
        }
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|w| w == needle)
}

/// Sends `request` on a fresh connection and returns the first answer.
pub async fn exchange(addr: SocketAddr, request: &[u8]) -> Response {
    let mut client = Client::connect(addr).await;
    client.send(request).await;
    client.response().await
}

/// A GET on a fresh connection that closes after it.
pub async fn get(addr: SocketAddr, target: &str) -> Response {
    exchange(
        addr,
        format!("GET {target} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n").as_bytes(),
    )
    .await
}

/// A form POST on a fresh connection, with more header lines.
pub async fn post_form(
    addr: SocketAddr,
    target: &str,
    form: &[(&str, &str)],
    headers: &[(&str, &str)],
) -> Response {
    let body = form
        .iter()
        .map(|(name, value)| format!("{}={}", escape(name), escape(value)))
        .collect::<Vec<_>>()
        .join("&");
    let more: String = headers
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    let request = format!(
        "POST {target} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\
         Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n{more}\r\n{body}",
        body.len()
    );
    exchange(addr, request.as_bytes()).await
}

fn escape(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' => (b as char).to_string(),
            _ => format!("%{b:02X}"),
        })
        .collect()
}

/// A correct upgrade request for `target`, with more header lines.
pub fn upgrade(addr: SocketAddr, target: &str, more: &str) -> String {
    format!(
        "GET {target} HTTP/1.1\r\nHost: {addr}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{more}\r\n"
    )
}
