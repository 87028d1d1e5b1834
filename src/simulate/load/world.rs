//! All calls, sessions and connections of a run, without the ring: what comes is handed in, what is to be sent is left in the
//! connections' outboxes. Shell, for the sockets that it opens and holds.

use super::caller::{Caller, phase};
use super::check::Kind;
use super::ledger::{BLOCK_NANOS, Ledger};
use super::plan::Plan;
use super::ring::Key;
use super::session::{Dialect, Ledgers, Session};
use super::stamp::Blocks;
use super::tally::Tally;
use super::wire::{BACKLOG_BYTES_MAX, Outbox, Stage, Wire};
use crate::base::rng::Rng;
use crate::proto::http::head::{Parsed, parse_request, parse_response};
use crate::proto::http::upgrade::{
    ResponseError, check_request, check_response, write_accept, write_request,
};
use crate::proto::ws::Role;
use crate::proto::ws::reader::{Message, Violation};
use crate::simulate::carrier::client::Target;
use crate::simulate::carrier::{sign, webhook};
use crate::simulate::model::upgrade::PATH;
use crate::transport::tls::Tls;
use crate::transport::{ClientConfig, ServerConfig};
use rustls_pki_types::ServerName;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::sync::Arc;

/// From the dial to the 101, webhook included.
const SETUP_NANOS: u64 = 10_000_000_000;
/// What is under way when a call ends arrives within this, on top of the model's own latency.
const DRAIN_NANOS: u64 = 3_000_000_000;
/// From `stop` and our close frame to the relay's.
const CLOSE_NANOS: u64 = 5_000_000_000;
/// An answer to a webhook, bytes.
const WEBHOOK_BYTES_MAX: usize = 64 * 1024;

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

    /// Places a call.
    pub fn place(&mut self, now: u64) {
        let serial = self.serial;
        self.serial += 1;
        self.tally.placed += 1;
        let slot = self.free_slots.pop().unwrap_or(self.calls.list.len());
        let caller = Caller::new(
            serial,
            self.plan.profile.echoes(serial),
            self.plan.barge_in_rate,
            self.plan.seed,
        );
        let call = Call {
            caller,
            ledger: Ledger::new(serial),
            step: Step::Dialled,
            wire: None,
            session: None,
            dialled: now,
            deadline: now + SETUP_NANOS,
            stop_at: u64::MAX,
            is_live: false,
            has_first_frame: false,
        };
        if slot == self.calls.list.len() {
            self.calls.list.push(call);
        } else {
            self.calls
                .by_serial
                .remove(&self.calls.list[slot].caller.call);
            self.calls.list[slot] = call;
        }
        self.calls.by_serial.insert(serial, slot);
        self.timers
            .push(Reverse((now + BLOCK_NANOS, Timer::Frame { slot, serial })));
        let outcome = match self.route.webhook.is_some() {
            true => self.ask_webhook(slot),
            false => self.dial(slot, None),
        };
        if let Err(why) = outcome {
            self.fail_setup(slot, why);
        }
    }

    fn ask_webhook(&mut self, slot: usize) -> Result<(), String> {
        let Some((target, address)) = &self.route.webhook else {
            return Ok(());
        };
        let caller = &self.calls.list[slot].caller;
        let url = self.plan.webhook.as_deref().unwrap_or_default();
        let token = self.plan.auth_token.as_deref();
        let request = webhook::request(target, url, token, &caller.call_sid, "AC0");
        let fd = connect(*address)?;
        self.calls.list[slot].step = Step::Webhook;
        let key = self.open(
            fd,
            Role::Client,
            None,
            Stage::Connecting,
            Owner::Webhook(slot),
        );
        if let Some(conn) = self.conn(key) {
            conn.wire.outbox.raw().extend_from_slice(request.as_bytes());
        }
        self.calls.list[slot].wire = Some(key);
        Ok(())
    }

    /// Dials the media stream: the plan's, or the one that the webhook named.
    fn dial(&mut self, slot: usize, url: Option<String>) -> Result<(), String> {
        let named = url.as_deref().map(Target::parse).transpose()?;
        let target = named.as_ref().unwrap_or(&self.route.target);
        let address = match &named {
            Some(target) => {
                let authority = target.host_header();
                match self.addresses.get(&authority) {
                    Some(address) => *address,
                    None => {
                        let address = resolve(target)?;
                        self.addresses.insert(authority, address);
                        address
                    }
                }
            }
            None => self.route.address,
        };
        let tls = match (&self.route.tls, target.is_tls) {
            (Some((config, name)), true) => {
                let tls = Tls::client(config.clone(), name.clone());
                Some(tls.map_err(|error| error.to_string())?)
            }
            (None, true) => {
                return Err("the webhook named a wss:// stream; use --relay wss://".into());
            }
            (_, false) => None,
        };
        let call_sid = &self.calls.list[slot].caller.call_sid;
        let path = target.path.replace("{call}", call_sid);
        let mut key = [0; 16];
        key[..8].copy_from_slice(&self.rng.next_u64().to_le_bytes());
        key[8..].copy_from_slice(&self.rng.next_u64().to_le_bytes());
        let mut headers = vec![("User-Agent", "Twilio.TmeWs/1.0")];
        let signature = self.plan.auth_token.as_deref().map(|token| {
            let signed = url.clone().unwrap_or_else(|| self.plan.relay.clone());
            sign::signature(token, &signed.replace("{call}", call_sid))
        });
        if let Some(signature) = &signature {
            headers.push(("X-Twilio-Signature", signature));
        }
        let mut head = Vec::new();
        write_request(&mut head, &target.host_header(), &path, &key, &headers);
        let fd = connect(address)?;
        let owner = Owner::Carrier { slot, key };
        let key = self.open(fd, Role::Client, tls, Stage::Connecting, owner);
        if let Some(conn) = self.conn(key) {
            *conn.wire.outbox.raw() = head;
        }
        let call = &mut self.calls.list[slot];
        call.step = Step::Dialled;
        call.wire = Some(key);
        Ok(())
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

    /// A connect is over.
    pub fn handle_connected(&mut self, key: Key) {
        let Some(conn) = self.conn(key) else { return };
        conn.wire.receiving = false;
        if conn.wire.stage == Stage::Over {
            return self.release(key);
        }
        let socket = socket2::SockRef::from(&conn.fd);
        let outcome = match socket.take_error() {
            Ok(None) => socket
                .set_nonblocking(false)
                .map_err(|error| error.to_string()),
            Ok(Some(error)) | Err(error) => Err(error.to_string()),
        };
        let outcome = outcome.and_then(|()| {
            conn.wire.stage = Stage::Head;
            if conn.wire.is_tls() {
                conn.wire.stage = Stage::Handshake;
                return conn.wire.start_tls().map_err(|error| error.to_string());
            }
            Ok(())
        });
        match outcome {
            Ok(()) => {
                conn.wire.receiving = true;
                let order = Order::Receive(conn.fd.as_raw_fd(), key);
                self.orders.push(order);
                self.mark_dirty(key);
            }
            Err(why) => self.fail(key, format!("no connection: {why}")),
        }
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

    fn on_webhook_bytes(&mut self, key: Key) {
        let Some(conn) = self.conn(key) else { return };
        let Owner::Webhook(slot) = conn.owner else {
            return;
        };
        let bytes = conn.wire.plain();
        if bytes.len() > WEBHOOK_BYTES_MAX {
            return self.fail(key, "the webhook's answer is too long".into());
        }
        let (status, body) = match parse_response(bytes) {
            Ok(Parsed::Partial) => return,
            Ok(Parsed::Complete { head, len }) => {
                let length = head
                    .headers
                    .first("content-length")
                    .and_then(|length| length.parse::<usize>().ok())
                    .unwrap_or(0);
                if bytes.len() < len + length {
                    return;
                }
                let body = String::from_utf8_lossy(&bytes[len..]).into_owned();
                (head.status, body)
            }
            Err(_) => return self.fail(key, "the webhook did not answer with HTTP".into()),
        };
        let found = webhook::find_stream(&body);
        self.shut(key);
        self.calls.list[slot].wire = None;
        let outcome = match (status, found) {
            (200, Some((url, parameters))) => {
                self.calls.list[slot].caller.parameters = parameters;
                self.dial(slot, Some(url))
            }
            (200, None) => Err("the webhook's answer has no <Connect><Stream url>".into()),
            (status, _) => Err(format!("the webhook answered {status}")),
        };
        if let Err(why) = outcome {
            self.fail_setup(slot, why);
        }
    }

    fn on_response_head(&mut self, key: Key, now: u64) {
        let Some(conn) = self.conn(key) else { return };
        let Owner::Carrier { slot, key: nonce } = conn.owner else {
            return;
        };
        let outcome = match parse_response(conn.wire.plain()) {
            Ok(Parsed::Partial) => return,
            Ok(Parsed::Complete { head, len }) => check_response(&head, &nonce).map(|()| len),
            Err(_) => Err(ResponseError::Header("HTTP")),
        };
        match outcome {
            Ok(len) => {
                conn.wire.consume(len);
                conn.wire.stage = Stage::Open;
            }
            Err(ResponseError::Status(status)) => {
                let hint = match status {
                    401 | 403 => ": it wants a signature (--auth-token) or a ticket (--webhook)",
                    404 | 405 | 426 | 200..=299 => {
                        ": this is not its media stream; check the path of --relay"
                    }
                    503 => ": it takes no more calls",
                    _ => "",
                };
                let why = format!("the upgrade was answered with {status}{hint}");
                return self.fail(key, why);
            }
            Err(ResponseError::Header(what)) => {
                let why = format!("the answer is no WebSocket upgrade ({what})");
                return self.fail(key, why);
            }
        }
        let period = BLOCK_NANOS;
        let phase = match self.plan.aligned {
            true => 0,
            false => phase(slot as u32).as_nanos() as u64,
        };
        let first = now - now % period + phase;
        let first = if first <= now { first + period } else { first };
        let call = &mut self.calls.list[slot];
        call.step = Step::Live;
        call.is_live = true;
        self.live += 1;
        self.tally.answered += 1;
        self.tally.setup.record(now - call.dialled);
        if let Some(churn) = self.plan.churn {
            call.stop_at = first + churn.call.as_nanos() as u64;
        }
        // The timer that watched the set-up goes on as the call's own; its old entry finds nothing due.
        let serial = call.caller.call;
        self.timers
            .push(Reverse((first, Timer::Frame { slot, serial })));
        let place = &mut self.places[key.index as usize];
        if let Some(conn) = &mut place.conn {
            call.caller.handle_open(first, &mut conn.wire.outbox);
        }
    }

    fn on_request_head(&mut self, key: Key) {
        let serial = self.sessions;
        let (latency, seed) = (self.plan.model_latency.as_nanos() as u64, self.plan.seed);
        let unix_s = self.unix_s;
        let Some(conn) = self.conn(key) else { return };
        let (accept, dialect, len) = match parse_request(conn.wire.plain()) {
            Ok(Parsed::Partial) => return,
            Ok(Parsed::Complete { head, len }) => {
                let path = head.target.split('?').next().unwrap_or_default();
                let dialect = match path == PATH {
                    true => Dialect::Realtime,
                    false => Dialect::Carrier,
                };
                match check_request(&head) {
                    Ok(accept) => (accept, dialect, len),
                    Err(error) => {
                        let why = format!("its request to the model is wrong: {}", error.label());
                        return self.fail(key, why);
                    }
                }
            }
            Err(error) => {
                let why = format!("its request to the model is wrong: {}", error.label());
                return self.fail(key, why);
            }
        };
        conn.wire.consume(len);
        conn.wire.stage = Stage::Open;
        write_accept(conn.wire.outbox.raw(), &accept);
        let made = Session::new(
            serial,
            dialect,
            latency,
            seed,
            unix_s,
            &mut conn.wire.outbox,
        );
        if let Owner::Model { session, .. } = &mut conn.owner {
            *session = Some(Box::new(made));
        }
        self.sessions += 1;
    }

    /// The peer sent a close frame.
    fn on_close(&mut self, key: Key, code: u16) {
        let Some(conn) = self.conn(key) else { return };
        // RFC 6455 section 5.5.1: the answer carries the same code; who has sent one sends no other.
        if conn.wire.stage != Stage::Closing {
            conn.wire.outbox.close(code);
        }
        conn.wire.stage = Stage::Closing;
        conn.ends_when_sent = true;
        match &conn.owner {
            Owner::Carrier { slot, .. } => {
                let slot = *slot;
                let step = self.calls.list[slot].step;
                if step != Step::Closing {
                    let call = self.calls.list[slot].caller.call;
                    let why = format!("the relay closed the carrier's stream with {code}");
                    self.tally.call_fault(Kind::End, call, why);
                }
                self.finish(slot);
            }
            Owner::Model {
                session: Some(session),
                ..
            } => {
                let call = session.call;
                self.on_session_end(call, &format!("closed the model's connection with {code}"));
            }
            _ => {}
        }
        self.mark_dirty(key);
        self.settle_end(key);
    }

    fn on_session_end(&mut self, call: Option<u32>, what: &str) {
        let Some(call) = call else { return };
        let Some(slot) = self.calls.by_serial.get(&call) else {
            return;
        };
        if matches!(self.calls.list[*slot].step, Step::Live | Step::Draining) {
            let why = format!("the relay {what} while the call went on");
            self.tally.call_fault(Kind::End, call, why);
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
        if conn.wire.stage == Stage::Closing {
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
        if let Some(conn) = self.conn(key)
            && conn.wire.stage != Stage::Over
        {
            conn.wire.receiving = true;
            let order = Order::Receive(conn.fd.as_raw_fd(), key);
            self.orders.push(order);
        }
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

    /// A connection can't go on.
    fn fail(&mut self, key: Key, why: String) {
        let Some(conn) = self.conn(key) else { return };
        let owner = match &conn.owner {
            Owner::Webhook(slot) | Owner::Carrier { slot, .. } => Ok(*slot),
            Owner::Model { session, .. } => Err(session.as_ref().and_then(|session| session.call)),
        };
        let stage = conn.wire.stage;
        self.shut(key);
        match owner {
            Ok(slot) => {
                let step = self.calls.list[slot].step;
                let call = self.calls.list[slot].caller.call;
                match step {
                    Step::Webhook | Step::Dialled => self.fail_setup(slot, why),
                    Step::Live | Step::Draining => {
                        self.tally.call_fault(Kind::End, call, why);
                        self.finish(slot);
                    }
                    Step::Closing => self.finish(slot),
                    Step::Free => {}
                }
            }
            Err(call) => {
                if stage == Stage::Open {
                    self.on_session_end(call, &format!("lost the model's connection ({why})"));
                } else if stage != Stage::Closing {
                    let why = format!("at the model: {why}");
                    self.tally.call_fault(Kind::Setup, call.unwrap_or(0), why);
                }
            }
        }
    }

    fn fail_setup(&mut self, slot: usize, why: String) {
        let call = self.calls.list[slot].caller.call;
        if self.tally.answered == 0 {
            // Nothing works yet: that is not a result, it is a wrong command line.
            self.fatal.get_or_insert(why.clone());
        }
        self.tally.call_fault(Kind::Setup, call, why);
        self.calls.list[slot].step = Step::Closing;
        self.finish(slot);
    }

    /// A call is over.
    fn finish(&mut self, slot: usize) {
        let call = &mut self.calls.list[slot];
        if call.step == Step::Free {
            return;
        }
        if std::mem::take(&mut call.is_live) {
            self.live -= 1;
            self.tally.ended += 1;
        }
        call.step = Step::Free;
        call.ledger.finish(&mut self.tally);
        self.free_slots.push(slot);
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

    /// Does what is due until `now`; `clock` tells how late each frame is.
    pub fn handle_timers(&mut self, now: u64, clock: impl Fn() -> u64) {
        while let Some(Reverse((at, timer))) = self.timers.peek().copied()
            && at <= now
        {
            self.timers.pop();
            match timer {
                Timer::Frame { slot, serial } => {
                    if let Some(next) = self.on_frame(slot, serial, at, &clock) {
                        self.timers.push(Reverse((next, timer)));
                    }
                }
                Timer::Session { index, generation } => {
                    self.on_session_timer(Key { index, generation }, now);
                }
            }
        }
    }

    /// A call's 20 ms; when the next are over.
    fn on_frame(
        &mut self,
        slot: usize,
        serial: u32,
        at: u64,
        clock: &impl Fn() -> u64,
    ) -> Option<u64> {
        let call = &mut self.calls.list[slot];
        if call.caller.call != serial {
            return None;
        }
        let now = clock();
        match call.step {
            Step::Free => None,
            Step::Webhook | Step::Dialled => {
                if at >= call.deadline {
                    let why = "the relay did not answer the upgrade within 10 s".to_owned();
                    match call.wire {
                        Some(key) => self.fail(key, why),
                        None => self.fail_setup(slot, why),
                    }
                    return None;
                }
                Some(at + BLOCK_NANOS)
            }
            // The watch of the set-up; the call's own timer is another.
            Step::Live if at != call.caller.due => None,
            Step::Live if at >= call.stop_at => {
                call.step = Step::Draining;
                call.deadline = now + DRAIN_NANOS + self.plan.model_latency.as_nanos() as u64;
                self.hush(slot);
                Some(at + BLOCK_NANOS / 4)
            }
            Step::Live => {
                self.tally.lateness.record(now.saturating_sub(at));
                let key = call.wire?;
                let place = &mut self.places[key.index as usize];
                let conn = place.conn.as_mut()?;
                call.caller.handle_due(
                    now,
                    &self.blocks,
                    &mut call.ledger,
                    &mut self.tally,
                    &mut conn.wire.outbox,
                );
                let due = call.caller.due;
                self.mark_dirty(key);
                Some(due)
            }
            Step::Draining => {
                let key = call.wire?;
                let session = call.session;
                let is_owed = self.owes(session);
                let call = &mut self.calls.list[slot];
                let place = &mut self.places[key.index as usize];
                let conn = place.conn.as_mut()?;
                call.caller
                    .return_marks(now, &mut self.tally, &mut conn.wire.outbox);
                if (call.ledger.is_complete() && !is_owed) || now >= call.deadline {
                    call.caller.handle_end(
                        &self.blocks,
                        &call.ledger,
                        &mut self.tally,
                        &mut conn.wire.outbox,
                    );
                    conn.wire.stage = Stage::Closing;
                    call.step = Step::Closing;
                    call.deadline = now + CLOSE_NANOS;
                }
                self.mark_dirty(key);
                Some(now + BLOCK_NANOS / 4)
            }
            Step::Closing => {
                if now < call.deadline {
                    return Some(now + BLOCK_NANOS);
                }
                let why = "the relay did not answer the close frame within 5 s";
                self.tally.call_fault(Kind::End, serial, why);
                if let Some(key) = call.wire {
                    self.shut(key);
                }
                self.finish(slot);
                None
            }
        }
    }

    /// Whether a session has echoes that are not due yet.
    fn owes(&mut self, session: Option<Key>) -> bool {
        let Some(conn) = session.and_then(|key| self.conn(key)) else {
            return false;
        };
        match &conn.owner {
            Owner::Model {
                session: Some(session),
                ..
            } => session.is_busy(),
            _ => false,
        }
    }

    /// The call ends: its session says no more.
    fn hush(&mut self, slot: usize) {
        let Some(key) = self.calls.list[slot].session else {
            return;
        };
        if let Some(conn) = self.conn(key)
            && conn.wire.stage == Stage::Open
            && let Owner::Model {
                session: Some(session),
                ..
            } = &mut conn.owner
        {
            session.hush(&mut conn.wire.outbox);
            self.mark_dirty(key);
        }
    }

    fn on_session_timer(&mut self, key: Key, now: u64) {
        let place = &mut self.places[key.index as usize];
        if place.generation != key.generation {
            return;
        }
        let Some(conn) = &mut place.conn else { return };
        if conn.wire.stage != Stage::Open {
            return;
        }
        let Owner::Model {
            session: Some(session),
            timer,
        } = &mut conn.owner
        else {
            return;
        };
        *timer = u64::MAX;
        session.handle_timeout(
            now,
            &self.blocks,
            &mut self.calls,
            &mut self.tally,
            &mut conn.wire.outbox,
        );
        self.after_read(key, Ok(()), None);
    }

    /// Ends every call at `at`: no frame is sent from then on.
    pub fn stop_at(&mut self, at: u64) {
        for call in &mut self.calls.list {
            call.stop_at = call.stop_at.min(at);
        }
    }

    /// Gives up what is still open, and judges it.
    pub fn give_up(&mut self) {
        for slot in 0..self.calls.list.len() {
            self.finish(slot);
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

/// A socket whose connect is under way.
fn connect(address: SocketAddr) -> Result<OwnedFd, String> {
    let open = || -> io::Result<OwnedFd> {
        let domain = socket2::Domain::for_address(address);
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        match socket.connect(&address.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(error) => return Err(error),
        }
        Ok(socket.into())
    };
    open().map_err(|error| match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE) => {
            format!("no more descriptors here ({error}): raise ulimit -n, or lower --calls")
        }
        _ => format!("no connection to {address}: {error}"),
    })
}

/// The first address of a URL's host.
pub fn resolve(target: &Target) -> Result<SocketAddr, String> {
    (target.host.as_str(), target.port)
        .to_socket_addrs()
        .map_err(|error| format!("{}: {error}", target.host))?
        .next()
        .ok_or_else(|| format!("{} has no address", target.host))
}
