//! What stands in front of hyper: each request of a connection passes the same strict head parser as the first did at
//! the door. hyper is lenient where two servers in a row could disagree about where a request ends (RFC 9112 section
//! 11.2).
//!
//! Bytes of a request are let through once its head is good, and as many as its framing says. In the place of a bad head
//! hyper gets a request of our own to a path that no client can know, so that the refusal comes in its turn, in the one
//! shape, and with the end of the connection. Behind an upgrade nothing is let through: it is another protocol's.

use crate::proto::http::chunked::Chunked;
use crate::proto::http::head::{HeadError, Parsed, RequestHead, parse_request};
use crate::telemetry::desk_meter::DeskMeter;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// One read.
const READ_BYTES: usize = 8 * 1024;

/// Which request of ours stands for a bad head, and what was bad. One for each connection.
#[derive(Clone, Debug)]
pub struct Verdict {
    path: Arc<str>,
    error: Arc<OnceLock<HeadError>>,
}

impl Verdict {
    /// Without entropy there is a guessable path, and guessing it is answered 404 like any other.
    fn new() -> Self {
        let mut secret = [0; 16];
        let _ = getrandom::fill(&mut secret);
        Self {
            path: format!("/{:032x}", u128::from_ne_bytes(secret)).into(),
            error: Arc::default(),
        }
    }

    /// The refusal that a request to `path` stands for.
    pub fn of(&self, path: &str) -> Option<HeadError> {
        self.error
            .get()
            .copied()
            .filter(|_| path == self.path.as_ref())
    }
}

/// What comes next from the peer.
#[derive(Debug)]
enum Next {
    Head,
    Length(u64),
    Chunks(Chunked),
    /// An upgrade was asked for: the rest is not hyper's.
    Held,
    /// Nothing that we would read.
    Over,
}

/// A stream whose reading side shows whole, unambiguous requests.
#[derive(Debug)]
pub struct StrictHeads<S> {
    inner: S,
    /// Received and not judged.
    raw: Vec<u8>,
    /// Judged; `ready[taken..]` is not yet read.
    ready: Vec<u8>,
    taken: usize,
    next: Next,
    verdict: Verdict,
}

impl<S> StrictHeads<S> {
    /// In front of a connection's first request.
    pub fn new(inner: S) -> Self {
        Self {
            inner,
            raw: Vec::new(),
            ready: Vec::new(),
            taken: 0,
            next: Next::Head,
            verdict: Verdict::new(),
        }
    }

    /// Tells our request from the peer's.
    pub fn verdict(&self) -> Verdict {
        self.verdict.clone()
    }

    /// The stream, and what was received and not read yet.
    pub fn into_parts(mut self) -> (S, Vec<u8>) {
        self.ready.drain(..self.taken);
        self.ready.append(&mut self.raw);
        (self.inner, self.ready)
    }

    fn let_through(&mut self, len: usize) {
        self.ready.extend(self.raw.drain(..len));
    }

    /// Judges what lies in `raw`; `ready` stays empty when that is not enough.
    fn judge(&mut self) {
        match &mut self.next {
            Next::Held | Next::Over => {}
            Next::Head => match parse_request(&self.raw) {
                Ok(Parsed::Partial) => {}
                Ok(Parsed::Complete { head, len }) => {
                    self.next = after(&head);
                    self.let_through(len);
                }
                Err(error) => self.refuse(error),
            },
            Next::Length(left) => {
                let here = (*left).min(self.raw.len() as u64);
                *left -= here;
                if *left == 0 {
                    self.next = Next::Head;
                }
                self.let_through(here as usize);
            }
            Next::Chunks(chunks) => match chunks.take(&self.raw) {
                Ok(here) => {
                    if chunks.is_done() {
                        self.next = Next::Head;
                    }
                    self.let_through(here);
                }
                Err(_) => {
                    // hyper may be lenient with it: it finds a body that is cut instead, and so does whoever reads it.
                    DeskMeter.rejected_request("body_chunks");
                    self.next = Next::Over;
                    self.raw.clear();
                }
            },
        }
    }

    fn refuse(&mut self, error: HeadError) {
        DeskMeter.rejected_request(error.label());
        let _ = self.verdict.error.set(error);
        let path = &self.verdict.path;
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        self.ready.extend_from_slice(request.as_bytes());
        self.raw.clear();
        self.next = Next::Over;
    }
}

/// What follows a good head.
fn after(head: &RequestHead<'_>) -> Next {
    if head.headers.has_token("upgrade", "websocket") {
        return Next::Held;
    }
    if head.headers.all("transfer-encoding").next().is_some() {
        return Next::Chunks(Chunked::default());
    }
    // The parser has seen to it that it is one number that fits.
    let length = head.headers.first("content-length");
    match length.and_then(|length| length.parse().ok()) {
        None | Some(0) => Next::Head,
        Some(length) => Next::Length(length),
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for StrictHeads<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if this.taken == this.ready.len() {
                this.ready.clear();
                this.taken = 0;
                this.judge();
            }
            if this.taken < this.ready.len() {
                let len = buf.remaining().min(this.ready.len() - this.taken);
                buf.put_slice(&this.ready[this.taken..this.taken + len]);
                this.taken += len;
                return Poll::Ready(Ok(()));
            }
            match this.next {
                // No one wakes this: the answer, which is on its way, ends hyper's part of the connection.
                Next::Held => return Poll::Pending,
                Next::Over => return Poll::Ready(Ok(())),
                Next::Head | Next::Length(_) | Next::Chunks(_) => {}
            }
            let mut bytes = [0; READ_BYTES];
            let mut more = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut this.inner).poll_read(cx, &mut more))?;
            if more.filled().is_empty() {
                this.next = Next::Over;
            }
            this.raw.extend_from_slice(more.filled());
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for StrictHeads<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt as _;

    async fn seen(bytes: &[u8]) -> (String, Verdict) {
        let mut strict = StrictHeads::new(bytes);
        let mut text = String::new();
        strict.read_to_string(&mut text).await.expect("text");
        (text, strict.verdict())
    }

    #[tokio::test]
    async fn good_requests_pass_as_they_are() {
        let text = "GET /a HTTP/1.1\r\nHost: x\r\n\r\nPOST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc\
                    POST /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\nGET /d HTTP/1.0\r\n\r\n";
        let (passed, verdict) = seen(text.as_bytes()).await;
        assert_eq!(passed, text);
        assert_eq!(verdict.of(&verdict.path), None);
    }

    #[tokio::test]
    async fn in_a_bad_head_s_place_stands_our_request_and_nothing_behind_it() {
        let good = "POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc";
        for bad in [
            "GET / HTTP/1.1\nHost: x\n\n",
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na",
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\na",
        ] {
            let (passed, verdict) = seen(format!("{good}{bad}{good}").as_bytes()).await;
            let ours = passed.strip_prefix(good).expect("the good one");
            let path = ours
                .strip_prefix("GET ")
                .and_then(|line| line.split(' ').next());
            assert_eq!(path, Some(&*verdict.path));
            assert_eq!(ours.matches("HTTP/1.1").count(), 1, "{ours}");
            assert!(verdict.of(&verdict.path).is_some());
            assert_eq!(verdict.of("/b"), None);
        }
    }

    #[tokio::test]
    async fn what_follows_an_upgrade_is_kept_for_its_protocol() {
        let head = "GET /s HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\r\n";
        let all = format!("{head}frames");
        let mut strict = StrictHeads::new(all.as_bytes());
        let mut bytes = vec![0; head.len()];
        strict.read_exact(&mut bytes).await.expect("the head");
        let (_, rest) = strict.into_parts();
        assert_eq!(
            (bytes.as_slice(), rest.as_slice()),
            (head.as_bytes(), &b"frames"[..])
        );
    }
}
