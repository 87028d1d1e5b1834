//! All calls, sessions and connections of a run, without the ring: what comes is handed in, what is to be sent is left in the
//! connections' outboxes. Shell, for the sockets that it opens and holds.

mod life;
mod setup;

pub use setup::resolve;

use super::caller::Caller;
use super::check::Kind;
use super::ledger::Ledger;
use super::plan::Plan;
use super::ring::Key;
use super::session::{Ledgers, Session};
use super::stamp::Blocks;
use super::tally::Tally;
use super::wire::{BACKLOG_BYTES_MAX, Outbox, Stage, Wire};
use crate::base::rng::Rng;
use crate::proto::ws::Role;
use crate::proto::ws::reader::{Message, Violation};
use crate::simulate::carrier::client::Target;
use crate::transport::tls::Tls;
use crate::transport::{ClientConfig, ServerConfig};
use rustls_pki_types::ServerName;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::sync::Arc;

/// Where a call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Its place is free.
    Free,
    /// The webhook is asked.
    Webhook,
    /// Dialled, not yet answered.
    Dialled,
    /// Audio flows.
    Live,
    /// No more frames; what is under way arrives.
    Draining,
    /// `stop` and close were sent.
    Closing,
}

struct Call {
    caller: Caller,
    ledger: Ledger,
    step: Step,
    wire: Option<Key>,
    session: Option<Key>,
    dialled: u64,
    deadline: u64,
    stop_at: u64,
    is_live: bool,
    has_first_frame: bool,
}

/// The calls, so that a session can be lent their ledgers while a connection is in use.
#[derive(Default)]
struct Calls {
    list: Vec<Call>,
    by_serial: HashMap<u32, usize>,
}

impl Ledgers for Calls {
    fn ledger(&mut self, call: u32) -> Option<&mut Ledger> {
        let slot = *self.by_serial.get(&call)?;
        Some(&mut self.list[slot].ledger)
    }
}

enum Owner {
    Webhook(usize),
    Carrier {
        slot: usize,
        key: [u8; 16],
    },
    Model {
        session: Option<Box<Session>>,
        /// For when a timer is set.
        timer: u64,
    },
}

/// A connection with its socket.
pub struct Conn {
    /// The socket; closed with this.
    pub fd: OwnedFd,
    /// The rest of it.
    pub wire: Wire,
    owner: Owner,
    ends_when_sent: bool,
}

#[derive(Default)]
struct Place {
    generation: u32,
    conn: Option<Conn>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// A call's 20 ms.
    Frame { slot: usize, serial: u32 },
    /// A session's next event.
    Session { index: u32, generation: u32 },
}

/// What the ring is to do.
#[derive(Clone, Copy, Debug)]
pub enum Order {
    /// Wait until the connect is over.
    Connect(RawFd, Key),
    /// Arm the receive.
    Receive(RawFd, Key),
}

/// Where calls go.
pub struct Route {
    /// The media stream.
    pub target: Target,
    /// Its address.
    pub address: SocketAddr,
    /// For `wss`.
    pub tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    /// The voice webhook, when it is asked.
    pub webhook: Option<(Target, SocketAddr)>,
}

/// A run without its ring.
pub struct World {
    /// What is to be done.
    pub plan: Plan,
    /// What was counted.
    pub tally: Tally,
    /// For the ring; taken by it.
    pub orders: Vec<Order>,
    /// Connections with something to send.
    pub dirty: Vec<u32>,
    /// Why the run can't go on.
    pub fatal: Option<String>,
    /// Calls whose audio flows.
    pub live: u32,
    route: Route,
    model_tls: Option<Arc<ServerConfig>>,
    blocks: Blocks,
    calls: Calls,
    places: Vec<Place>,
    free: Vec<u32>,
    timers: BinaryHeap<Reverse<(u64, Timer)>>,
    serial: u32,
    sessions: u64,
    free_slots: Vec<usize>,
    rng: Rng,
    unix_s: u64,
    addresses: HashMap<String, SocketAddr>,
}

impl World {
    /// A run in which nothing has happened.
    pub fn new(
        plan: Plan,
        route: Route,
        model_tls: Option<Arc<ServerConfig>>,
        unix_s: u64,
    ) -> Self {
        Self {
            rng: Rng::from_u64(plan.seed),
            plan,
            tally: Tally::default(),
            orders: Vec::new(),
            dirty: Vec::new(),
            fatal: None,
            live: 0,
            route,
            model_tls,
            blocks: Blocks::default(),
            calls: Calls::default(),
            places: Vec::new(),
            free: Vec::new(),
            timers: BinaryHeap::new(),
            serial: 0,
            sessions: 0,
            free_slots: Vec::new(),
            unix_s,
            addresses: HashMap::new(),
        }
    }

    /// When the next timer is due.
    pub fn next_timer(&self) -> Option<u64> {
        self.timers.peek().map(|Reverse((at, _))| *at)
    }

    /// Calls that are not over.
    pub fn open_calls(&self) -> usize {
        self.calls
            .list
            .iter()
            .filter(|call| call.step != Step::Free)
            .count()
    }

    /// Whether a call can be placed without more than `plan.calls` at once.
    pub fn has_room(&self) -> bool {
        !self.free_slots.is_empty() || self.calls.list.len() < self.plan.calls as usize
    }

    /// Calls that are being set up.
    pub fn pending(&self) -> usize {
        self.calls
            .list
            .iter()
            .filter(|call| matches!(call.step, Step::Dialled | Step::Webhook))
            .count()
    }

    fn key_for(&mut self) -> Key {
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place::default());
            self.places.len() as u32 - 1
        });
        Key {
            index,
            generation: self.places[index as usize].generation,
        }
    }

    fn conn(&mut self, key: Key) -> Option<&mut Conn> {
        let place = self.places.get_mut(key.index as usize)?;
        if place.generation != key.generation {
            return None;
        }
        place.conn.as_mut()
    }

    fn mark_dirty(&mut self, key: Key) {
        if let Some(conn) = self.conn(key)
            && !conn.wire.is_dirty
        {
            conn.wire.is_dirty = true;
            self.dirty.push(key.index);
        }
    }

    /// The connection at this place, for sending.
    pub fn at(&mut self, index: u32) -> Option<&mut Conn> {
        self.places[index as usize].conn.as_mut()
    }

    fn open(
        &mut self,
        fd: OwnedFd,
        role: Role,
        tls: Option<Tls>,
        stage: Stage,
        owner: Owner,
    ) -> Key {
        let key = self.key_for();
        let seed = self.rng.next_u64();
        let mut wire = Wire::new(key, role, tls, seed, stage);
        wire.receiving = true;
        let order = match stage {
            Stage::Connecting => Order::Connect(fd.as_raw_fd(), key),
            _ => Order::Receive(fd.as_raw_fd(), key),
        };
        self.orders.push(order);
        self.places[key.index as usize].conn = Some(Conn {
            fd,
            wire,
            owner,
            ends_when_sent: false,
        });
        key
    }

    /// A relay connected to the model.
    pub fn accept(&mut self, fd: OwnedFd) {
        let stage = match self.model_tls {
            Some(_) => Stage::Unknown,
            None => Stage::Head,
        };
        let owner = Owner::Model {
            session: None,
            timer: u64::MAX,
        };
        self.open(fd, Role::Server, None, stage, owner);
    }

    /// Bytes came.
    pub fn handle_bytes(&mut self, key: Key, bytes: &mut [u8], now: u64) {
        let place = &mut self.places[key.index as usize];
        if place.generation != key.generation {
            return;
        }
        let Some(conn) = &mut place.conn else { return };
        if conn.wire.stage == Stage::Over || bytes.is_empty() {
            return;
        }
        if conn.wire.reads_in_place() {
            let mut desk = Desk {
                calls: &mut self.calls,
                tally: &mut self.tally,
                blocks: &self.blocks,
                now,
                closed: None,
            };
            let owner = &mut conn.owner;
            let outcome = conn.wire.read_in_place(bytes, |message, outbox| {
                desk.message(owner, message, outbox);
            });
            let closed = desk.closed;
            return self.after_read(key, outcome, closed);
        }
        if conn.wire.stage == Stage::Unknown {
            // RFC 8446 section 5.1: a handshake record is of type 22; no HTTP method begins so.
            match &self.model_tls {
                Some(config) if bytes[0] == 22 => match Tls::server(config.clone()) {
                    Ok(tls) => conn.wire.begin_tls(tls),
                    Err(error) => return self.fail(key, error.to_string()),
                },
                _ => conn.wire.stage = Stage::Head,
            }
        }
        if let Err(error) = conn.wire.feed(bytes) {
            // What TLS has to say of it goes out still.
            self.mark_dirty(key);
            return self.fail(key, format!("TLS: {error}"));
        }
        self.advance(key, now);
        self.mark_dirty(key);
    }

    /// Heads, then messages.
    fn advance(&mut self, key: Key, now: u64) {
        let Some(conn) = self.conn(key) else { return };
        if conn.wire.stage == Stage::Head {
            match &conn.owner {
                Owner::Webhook(_) => return self.on_webhook_bytes(key),
                Owner::Carrier { .. } => self.on_response_head(key, now),
                Owner::Model { .. } => self.on_request_head(key),
            }
        }
        let place = &mut self.places[key.index as usize];
        let Some(conn) = &mut place.conn else { return };
        if !matches!(conn.wire.stage, Stage::Open | Stage::Closing) {
            return;
        }
        let mut desk = Desk {
            calls: &mut self.calls,
            tally: &mut self.tally,
            blocks: &self.blocks,
            now,
            closed: None,
        };
        let owner = &mut conn.owner;
        let outcome = conn
            .wire
            .read(|message, outbox| desk.message(owner, message, outbox));
        let closed = desk.closed;
        self.after_read(key, outcome, closed);
    }

    fn after_read(&mut self, key: Key, outcome: Result<(), Violation>, closed: Option<u16>) {
        if let Err(violation) = outcome {
            return self.fail(key, format!("WebSocket: {}", violation.label()));
        }
        if let Some(code) = closed {
            return self.on_close(key, code);
        }
        let place = &mut self.places[key.index as usize];
        let Some(conn) = &mut place.conn else { return };
        match &mut conn.owner {
            Owner::Model {
                session: Some(session),
                timer,
            } => {
                if let Some(at) = session.poll_timeout()
                    && at < *timer
                {
                    *timer = at;
                    let (index, generation) = (key.index, key.generation);
                    self.timers
                        .push(Reverse((at, Timer::Session { index, generation })));
                }
                if let Some(call) = session.call
                    && let Some(slot) = self.calls.by_serial.get(&call)
                {
                    self.calls.list[*slot].session.get_or_insert(key);
                }
            }
            Owner::Carrier { slot, .. } => {
                let call = &mut self.calls.list[*slot];
                if let Some(at) = call.caller.first_frame
                    && !std::mem::replace(&mut call.has_first_frame, true)
                {
                    self.tally
                        .first_frame
                        .record(at.saturating_sub(call.dialled));
                }
            }
            _ => {}
        }
        if conn.wire.outbox.len() > BACKLOG_BYTES_MAX {
            return self.fail(key, "the relay does not read what is sent to it".into());
        }
        if !conn.wire.outbox.is_empty() {
            self.mark_dirty(key);
        }
    }

    /// The receive is over: the peer's end (0) or a negated errno.
    pub fn handle_ended(&mut self, key: Key, result: i32) {
        let Some(conn) = self.conn(key) else { return };
        conn.wire.receiving = false;
        if conn.wire.stage == Stage::Over {
            return self.release(key);
        }
        if result == -libc::ENOBUFS {
            return self.rearm(key);
        }
        let is_probe = matches!(conn.owner, Owner::Model { session: None, .. })
            && matches!(conn.wire.stage, Stage::Unknown | Stage::Head)
            && conn.wire.plain().is_empty();
        // Somebody looked whether we listen: a proxy does that, also for our own look at it.
        if conn.wire.stage == Stage::Closing || is_probe {
            return self.shut(key);
        }
        let why = match result {
            0 => "the relay ended the connection without a close frame".to_owned(),
            errno => format!(
                "the connection broke: {}",
                io::Error::from_raw_os_error(-errno)
            ),
        };
        self.fail(key, why);
    }

    /// Arms the receive again.
    pub fn rearm(&mut self, key: Key) {
        let Some(conn) = self.conn(key) else { return };
        if conn.wire.stage == Stage::Over {
            conn.wire.receiving = false;
            return self.release(key);
        }
        conn.wire.receiving = true;
        let order = Order::Receive(conn.fd.as_raw_fd(), key);
        self.orders.push(order);
    }

    /// A send is over.
    pub fn handle_sent(&mut self, key: Key, memory: Vec<u8>, error: i32) {
        let Some(conn) = self.conn(key) else { return };
        conn.wire.sent(memory);
        if conn.wire.stage == Stage::Over {
            return self.release(key);
        }
        if error != 0 {
            let error = io::Error::from_raw_os_error(-error);
            return self.fail(key, format!("the connection broke: {error}"));
        }
        self.mark_dirty(key);
        self.settle_end(key);
    }

    /// Shuts a connection down whose last bytes have gone.
    fn settle_end(&mut self, key: Key) {
        if let Some(conn) = self.conn(key)
            && conn.ends_when_sent
            && !conn.wire.sending
            && !conn.wire.can_send()
        {
            self.shut(key);
        }
    }

    /// Shuts the socket down; the place is free after its last completion.
    fn shut(&mut self, key: Key) {
        let Some(conn) = self.conn(key) else { return };
        conn.wire.stage = Stage::Over;
        // Already gone: all the better.
        let _ = socket2::SockRef::from(&conn.fd).shutdown(std::net::Shutdown::Both);
        self.release(key);
    }

    fn release(&mut self, key: Key) {
        let place = &mut self.places[key.index as usize];
        if let Some(conn) = &place.conn
            && conn.wire.stage == Stage::Over
            && !conn.wire.sending
            && !conn.wire.receiving
        {
            place.conn = None;
            place.generation = key.next().generation;
            self.free.push(key.index);
        }
    }
}

/// What a message needs, while its connection is borrowed.
struct Desk<'a> {
    calls: &'a mut Calls,
    tally: &'a mut Tally,
    blocks: &'a Blocks,
    now: u64,
    closed: Option<u16>,
}

impl Desk<'_> {
    fn message(&mut self, owner: &mut Owner, message: Message<'_>, outbox: &mut Outbox) {
        match (message, owner) {
            (Message::Text(text), Owner::Carrier { slot, .. }) => {
                let call = &mut self.calls.list[*slot];
                call.caller
                    .handle_text(text, self.now, self.blocks, &mut call.ledger, self.tally);
            }
            (
                Message::Text(text),
                Owner::Model {
                    session: Some(session),
                    ..
                },
            ) => {
                session.handle_text(text, self.now, self.blocks, self.calls, self.tally, outbox);
            }
            (Message::Binary(_), Owner::Carrier { slot, .. }) => {
                let call = self.calls.list[*slot].caller.call;
                self.tally
                    .call_fault(Kind::Message, call, "binary message to the carrier");
            }
            (Message::Ping(payload), _) => outbox.pong(payload),
            (Message::Close(code, _), _) => self.closed = Some(code),
            _ => {}
        }
    }
}
