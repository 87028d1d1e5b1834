//! One connection while it is with the desk: ring reads and writes, TLS, deadlines, hand-over.
//!
//! A ring operation is never dropped: a dropped read would stay in the kernel, keep the socket open and eat
//! the next bytes. A deadline is therefore a task beside it (`Watchdog`) that shuts the socket down, which
//! completes the operation; no `select!` and no timeout stands around one.

use crate::transport::Established;
use crate::transport::tls::Tls;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::rc::{Rc, Weak};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_uring::net::TcpStream;

/// One read. A TLS record that is longer takes two.
const READ_BYTES: usize = 16 * 1024;
/// How long an answer may take to be written, and how long a refused peer may go on talking.
const GOODBYE_DEADLINE: Duration = Duration::from_secs(2);
/// What a refused peer may go on sending before we stop listening.
const GOODBYE_BYTES_MAX: usize = 64 * 1024;
/// Unacknowledged data on an established leg for this long means a dead peer.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(30);
/// A carrier leg's send buffer: what lies in it can't be cut by a barge-in. The kernel doubles the value.
const CARRIER_SEND_BUFFER: usize = 128 * 1024;
/// Not yet sent bytes above which a carrier leg counts as full.
const CARRIER_NOTSENT_LOWAT: u32 = 16 * 1024;

/// Every socket that has a ring operation somewhere, so that the end of the desk can complete them all.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    next: Cell<u64>,
    all: RefCell<HashMap<u64, Weak<TcpStream2>>>,
}

/// tokio-uring's stream with what `Debug` needs.
pub(super) struct TcpStream2(pub(super) TcpStream);

impl std::fmt::Debug for TcpStream2 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TcpStream({})", self.0.as_raw_fd())
    }
}

impl Sockets {
    /// Shuts every socket down: their pending operations complete, their tasks see an end.
    pub(super) fn shutdown_all(&self) {
        for socket in self.all.borrow().values() {
            if let Some(socket) = socket.upgrade() {
                let _ = socket.0.shutdown(Shutdown::Both);
            }
        }
    }

    /// How many are open.
    pub(super) fn len(&self) -> usize {
        self.all.borrow().len()
    }

    fn add(&self, socket: &Rc<TcpStream2>) -> u64 {
        let key = self.next.get();
        self.next.set(key + 1);
        self.all.borrow_mut().insert(key, Rc::downgrade(socket));
        key
    }

    fn remove(&self, key: u64) {
        self.all.borrow_mut().remove(&key);
    }
}

/// Shuts a socket down when time is up. Dropped, it does nothing any more.
#[derive(Debug)]
pub(super) struct Watchdog {
    task: JoinHandle<()>,
    fired: Rc<Cell<bool>>,
}

impl Watchdog {
    fn start(socket: &Rc<TcpStream2>, after: Duration, how: Shutdown) -> Self {
        let fired = Rc::new(Cell::new(false));
        let socket = Rc::downgrade(socket);
        let flag = fired.clone();
        let task = tokio_uring::spawn(async move {
            tokio::time::sleep(after).await;
            // Weak: a watchdog must not keep a socket open that has been handed on.
            if let Some(socket) = socket.upgrade() {
                flag.set(true);
                let _ = socket.0.shutdown(how);
            }
        });
        Self { task, fired }
    }

    /// Whether time was up.
    pub(super) fn fired(&self) -> bool {
        self.fired.get()
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Shuts a socket down for whoever does not own the connection. Keeps nothing open.
#[derive(Debug)]
pub(super) struct Plug(Weak<TcpStream2>);

impl Plug {
    /// Both directions end; pending operations complete.
    pub(super) fn pull(&self) {
        if let Some(socket) = self.0.upgrade() {
            let _ = socket.0.shutdown(Shutdown::Both);
        }
    }
}

/// A connection that the desk owns.
#[derive(Debug)]
pub(super) struct Conn {
    socket: Rc<TcpStream2>,
    sockets: Rc<Sockets>,
    key: u64,
    tls: Option<Box<Tls>>,
    ciphertext: Vec<u8>,
    /// Read and not yet consumed.
    pub(super) plaintext: Vec<u8>,
    /// The read's buffer, which goes to the kernel and comes back.
    lent: Vec<u8>,
    /// The peer.
    pub(super) peer: Option<SocketAddr>,
    ended: bool,
    /// The descriptor that whoever gets the connection will have, once there is one.
    duplicate: Option<OwnedFd>,
}

impl Drop for Conn {
    fn drop(&mut self) {
        self.sockets.remove(self.key);
    }
}

impl Conn {
    /// Takes over a connected socket in blocking mode.
    pub(super) fn new(socket: TcpStream, peer: Option<SocketAddr>, sockets: &Rc<Sockets>) -> Self {
        let socket = Rc::new(TcpStream2(socket));
        let key = sockets.add(&socket);
        Self {
            socket,
            sockets: sockets.clone(),
            key,
            tls: None,
            ciphertext: Vec::new(),
            plaintext: Vec::new(),
            lent: Vec::new(),
            peer,
            ended: false,
            duplicate: None,
        }
    }

    /// Takes a connection back that had been given away.
    pub(super) fn from_established(
        established: Established,
        sockets: &Rc<Sockets>,
    ) -> io::Result<Self> {
        let socket = std::net::TcpStream::from(established.fd);
        socket.set_nonblocking(false)?;
        let mut conn = Self::new(TcpStream::from_std(socket), established.peer, sockets);
        conn.tls = established.tls;
        conn.ciphertext = established.ciphertext;
        conn.plaintext = established.plaintext;
        Ok(conn)
    }

    /// A handle that can end both directions at any time.
    pub(super) fn plug(&self) -> Plug {
        Plug(Rc::downgrade(&self.socket))
    }

    /// Ends both directions after `after`.
    pub(super) fn watch(&self, after: Duration) -> Watchdog {
        Watchdog::start(&self.socket, after, Shutdown::Both)
    }

    /// Ends reading after `after`; an answer can still be written.
    pub(super) fn watch_reading(&self, after: Duration) -> Watchdog {
        Watchdog::start(&self.socket, after, Shutdown::Read)
    }

    /// Runs a TLS handshake to its end. An alert that is due has been sent when this errs.
    pub(super) async fn handshake(&mut self, tls: Tls) -> io::Result<()> {
        self.tls = Some(Box::new(tls));
        loop {
            self.open().await?;
            if self.tls.as_ref().is_none_or(|tls| !tls.is_handshaking()) {
                return Ok(());
            }
            if self.ended || !self.receive().await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Reads once; `false` at the end of the stream. `plaintext` has grown otherwise, unless TLS had only
    /// business of its own.
    pub(super) async fn read(&mut self) -> io::Result<bool> {
        if self.ended || !self.receive().await? {
            return Ok(false);
        }
        self.open().await?;
        // What came with close_notify is still to be read.
        Ok(true)
    }

    /// One read from the socket, into `ciphertext` or `plaintext`.
    async fn receive(&mut self) -> io::Result<bool> {
        let mut lent = std::mem::take(&mut self.lent);
        lent.clear();
        lent.reserve(READ_BYTES);
        let (result, lent) = self.socket.0.read(lent).await;
        self.lent = lent;
        let len = result?;
        let into = if self.tls.is_some() {
            &mut self.ciphertext
        } else {
            &mut self.plaintext
        };
        into.extend_from_slice(&self.lent[..len]);
        self.ended |= len == 0;
        Ok(len > 0)
    }

    /// Opens what lies in `ciphertext` and sends what TLS has to say.
    async fn open(&mut self) -> io::Result<()> {
        let Some(tls) = &mut self.tls else {
            return Ok(());
        };
        let mut out = Vec::new();
        let outcome = tls.open(&mut self.ciphertext, &mut self.plaintext, &mut out);
        if let Ok(opened) = &outcome {
            self.ciphertext.drain(..opened.consumed);
            self.ended |= opened.peer_closed;
        }
        let sent = self.send(out).await;
        outcome?;
        sent
    }

    /// Writes plaintext: all of it, or an error. Bounded only by a `Watchdog`.
    pub(super) async fn write(&mut self, plain: &[u8]) -> io::Result<()> {
        let out = match &mut self.tls {
            None => plain.to_vec(),
            Some(tls) => {
                let mut out = vec![0; Tls::sealed_len_max(plain.len())];
                let len = tls.seal(plain, &mut out)?;
                out.truncate(len);
                out
            }
        };
        self.send(out).await
    }

    async fn send(&mut self, out: Vec<u8>) -> io::Result<()> {
        if out.is_empty() {
            return Ok(());
        }
        self.socket.0.write_all(out).await.0
    }

    /// Writes a last answer and closes so that the peer gets it: a close with unread input would send a reset,
    /// which may overtake the answer. So: write, end our side, drain a bounded amount, close.
    pub(super) async fn say_goodbye(mut self, answer: &[u8]) {
        let watchdog = self.watch(GOODBYE_DEADLINE);
        if self.write(answer).await.is_err() {
            return;
        }
        if let Some(tls) = &mut self.tls {
            let mut out = Vec::new();
            if tls.close(&mut out).is_ok() && self.send(out).await.is_err() {
                return;
            }
        }
        let _ = self.socket.0.shutdown(Shutdown::Write);
        drop(watchdog);
        let watchdog = self.watch(GOODBYE_DEADLINE);
        let mut drained = 0;
        // Past TLS: what still comes is thrown away unread.
        self.tls = None;
        while drained < GOODBYE_BYTES_MAX && !watchdog.fired() {
            self.plaintext.clear();
            match self.receive().await {
                Ok(true) => drained += self.plaintext.len(),
                _ => return,
            }
        }
    }

    /// Makes sure that the connection can be given away, before the peer is told so: descriptors may be used up.
    pub(super) fn prepare_hand_over(&mut self) -> io::Result<()> {
        self.duplicate = Some(duplicate(&self.socket.0)?);
        Ok(())
    }

    /// Gives the connection away. No ring operation is under way, since each is awaited where it is made;
    /// the descriptor is duplicated and the desk's own closed.
    pub(super) fn into_established(mut self) -> io::Result<Established> {
        let fd = match self.duplicate.take() {
            Some(fd) => fd,
            None => duplicate(&self.socket.0)?,
        };
        Ok(Established {
            fd,
            tls: self.tls.take(),
            ciphertext: std::mem::take(&mut self.ciphertext),
            plaintext: std::mem::take(&mut self.plaintext),
            peer: self.peer,
        })
    }

    /// The options of every leg, and those of a carrier's.
    pub(super) fn set_leg_options(&self, carrier: bool) -> io::Result<()> {
        let fd = borrow(&self.socket.0);
        leg_options(&socket2::SockRef::from(&fd), carrier)
    }
}

/// The options of every established leg; a carrier's in addition keeps little unsent in the kernel.
fn leg_options(socket: &socket2::SockRef<'_>, carrier: bool) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_user_timeout(Some(TCP_USER_TIMEOUT))?;
    if carrier {
        socket.set_send_buffer_size(CARRIER_SEND_BUFFER)?;
        socket.set_tcp_notsent_lowat(CARRIER_NOTSENT_LOWAT)?;
    }
    Ok(())
}

/// The same for a connection that comes back from control.
pub(super) fn set_carrier_options(established: &Established) -> io::Result<()> {
    leg_options(&socket2::SockRef::from(&established.fd), true)
}

#[allow(unsafe_code)] // tokio-uring's stream implements AsRawFd only
fn borrow(socket: &TcpStream) -> BorrowedFd<'_> {
    // SAFETY: the stream owns the descriptor and outlives the borrow.
    unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) }
}

/// A second descriptor of the same socket, close-on-exec.
fn duplicate(socket: &TcpStream) -> io::Result<OwnedFd> {
    borrow(socket).try_clone_to_owned()
}
