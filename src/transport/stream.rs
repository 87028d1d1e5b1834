//! An `AsyncRead`/`AsyncWrite` over an `Established`, for axum and for the simulators (tokio).
//!
//! One task may read while another writes (`tokio::io::split`): reading never registers interest in
//! writing, so neither can lose the other's wake-up.

use super::Established;
use super::tls::{Tls, TlsError};
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::ServerName;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpStream, ToSocketAddrs};

/// Plaintext sealed at once: one TLS record.
const CHUNK_BYTES: usize = 16 * 1024;
/// One read from the socket.
const READ_BYTES: usize = 16 * 1024;

/// A connection, plain or TLS, on a tokio runtime.
#[derive(Debug)]
pub struct Stream {
    tcp: TcpStream,
    tls: Option<Box<Tls>>,
    peer: Option<SocketAddr>,
    /// Not yet opened.
    ciphertext: Vec<u8>,
    /// Opened; `plaintext[taken..]` is not yet read.
    plaintext: Vec<u8>,
    taken: usize,
    /// Sealed; `out[sent..]` is not yet written.
    out: Vec<u8>,
    sent: usize,
    /// No more will come: close_notify, or the end of a plain stream.
    ended: bool,
}

impl Stream {
    /// Takes over a connection. Needs a running tokio runtime with I/O.
    pub fn from_established(established: Established) -> io::Result<Self> {
        let tcp = std::net::TcpStream::from(established.fd);
        tcp.set_nonblocking(true)?;
        let mut stream = Self::plain(TcpStream::from_std(tcp)?)?;
        stream.ended = established
            .tls
            .as_ref()
            .is_some_and(|tls| tls.is_peer_closed());
        stream.tls = established.tls;
        stream.ciphertext = established.ciphertext;
        stream.plaintext = established.plaintext;
        stream.peer = established.peer.or(stream.peer);
        Ok(stream)
    }

    /// Gives the connection away. Everything written must have been flushed; otherwise this errs
    /// (and the connection closes), since a TLS record must not be torn.
    pub fn into_established(mut self) -> io::Result<Established> {
        if self.sent < self.out.len() {
            return Err(io::Error::other("the connection has unflushed output"));
        }
        self.plaintext.drain(..self.taken);
        let tcp = self.tcp.into_std()?;
        tcp.set_nonblocking(false)?;
        Ok(Established {
            fd: tcp.into(),
            tls: self.tls,
            ciphertext: self.ciphertext,
            plaintext: self.plaintext,
            peer: self.peer,
        })
    }

    fn plain(tcp: TcpStream) -> io::Result<Self> {
        // Frames are small and late ones are worthless: never wait for more to fill a segment.
        tcp.set_nodelay(true)?;
        let peer = tcp.peer_addr().ok();
        Ok(Self {
            tcp,
            tls: None,
            peer,
            ciphertext: Vec::new(),
            plaintext: Vec::new(),
            taken: 0,
            out: Vec::new(),
            sent: 0,
            ended: false,
        })
    }

    /// Connects, and completes the TLS handshake where one is asked for. No deadline of its own.
    pub async fn connect(
        address: impl ToSocketAddrs,
        tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    ) -> io::Result<Self> {
        let mut stream = Self::plain(TcpStream::connect(address).await?)?;
        if let Some((config, name)) = tls {
            stream.handshake(Tls::client(config, name)?).await?;
        }
        Ok(stream)
    }

    /// Takes over an accepted socket, and completes the TLS handshake where one is asked for. No
    /// deadline of its own.
    pub async fn accept(tcp: TcpStream, tls: Option<Arc<ServerConfig>>) -> io::Result<Self> {
        let mut stream = Self::plain(tcp)?;
        if let Some(config) = tls {
            stream.handshake(Tls::server(config)?).await?;
        }
        Ok(stream)
    }

    /// The peer's address.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// Whether TLS is spoken.
    pub fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    async fn handshake(&mut self, mut tls: Tls) -> io::Result<()> {
        let mut out = Vec::new();
        loop {
            let outcome = tls.open(&mut self.ciphertext, &mut self.plaintext, &mut out);
            // An alert is sent as well as it goes; the error stands either way.
            let written = self.tcp.write_all(&out).await;
            out.clear();
            let opened = outcome?;
            written?;
            self.ciphertext.drain(..opened.consumed);
            if !tls.is_handshaking() {
                self.ended = opened.peer_closed;
                self.tls = Some(Box::new(tls));
                return Ok(());
            }
            if opened.peer_closed || self.tcp.read_buf(&mut self.ciphertext).await? == 0 {
                return Err(truncated());
            }
        }
    }

    /// Opens what lies in `ciphertext`.
    fn open(&mut self) -> Result<(), TlsError> {
        let Some(tls) = &mut self.tls else {
            return Ok(());
        };
        let opened = tls.open(&mut self.ciphertext, &mut self.plaintext, &mut self.out)?;
        self.ciphertext.drain(..opened.consumed);
        self.ended |= opened.peer_closed;
        Ok(())
    }

    /// Sends what TLS itself has to say, as far as the socket takes it now. What is left goes with the
    /// next write: the reading task must not register for writing.
    fn send_now(&mut self) {
        while self.sent < self.out.len() {
            match self.tcp.try_write(&self.out[self.sent..]) {
                Ok(len) if len > 0 => self.sent += len,
                _ => return,
            }
        }
        self.out.clear();
        self.sent = 0;
    }

    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.out.len() {
            let len = ready!(Pin::new(&mut self.tcp).poll_write(cx, &self.out[self.sent..]))?;
            if len == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += len;
        }
        self.out.clear();
        self.sent = 0;
        Poll::Ready(Ok(()))
    }
}

fn truncated() -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "the connection ended without close_notify",
    )
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            let waiting = &this.plaintext[this.taken..];
            if !waiting.is_empty() {
                let len = waiting.len().min(buf.remaining());
                buf.put_slice(&waiting[..len]);
                this.taken += len;
                if this.taken == this.plaintext.len() {
                    this.plaintext.clear();
                    this.taken = 0;
                }
                return Poll::Ready(Ok(()));
            }
            if this.ended {
                return Poll::Ready(Ok(()));
            }
            if this.tls.is_none() {
                return Pin::new(&mut this.tcp).poll_read(cx, buf);
            }
            // What came with a hand-over may hold whole records, so open before reading.
            let outcome = this.open();
            this.send_now();
            outcome?;
            if !this.plaintext.is_empty() || this.ended {
                continue;
            }
            let start = this.ciphertext.len();
            this.ciphertext.resize(start + READ_BYTES, 0);
            let mut room = ReadBuf::new(&mut this.ciphertext[start..]);
            let polled = Pin::new(&mut this.tcp).poll_read(cx, &mut room);
            let len = room.filled().len();
            this.ciphertext.truncate(start + len);
            ready!(polled)?;
            if len == 0 {
                return Poll::Ready(Err(truncated()));
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        // Sealed bytes go in order and completely before anything new is sealed: at most one
        // chunk waits here.
        ready!(this.poll_out(cx))?;
        let Some(tls) = &mut this.tls else {
            return Pin::new(&mut this.tcp).poll_write(cx, buf);
        };
        let len = buf.len().min(CHUNK_BYTES);
        this.out.resize(Tls::sealed_len_max(len), 0);
        let sealed = tls.seal(&buf[..len], &mut this.out);
        this.out.truncate(*sealed.as_ref().unwrap_or(&0));
        sealed?;
        if let Poll::Ready(Err(error)) = this.poll_out(cx) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(len))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_out(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(tls) = &mut this.tls {
            // After a fatal error there is nothing left to say; the socket is shut all the same.
            let _ = tls.close(&mut this.out);
        }
        ready!(this.poll_out(cx))?;
        Pin::new(&mut this.tcp).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
