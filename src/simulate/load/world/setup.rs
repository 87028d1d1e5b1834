//! Calls placed and connections set up: webhook, dial, heads on both sides.

use super::{Call, Order, Owner, Step, Timer, World};
use crate::proto::http::head::{Parsed, parse_request, parse_response};
use crate::proto::http::upgrade::{
    ResponseError, check_request, check_response, write_accept, write_request,
};
use crate::proto::ws::Role;
use crate::simulate::carrier::client::Target;
use crate::simulate::carrier::{sign, webhook};
use crate::simulate::load::caller::{Caller, phase};
use crate::simulate::load::check::Kind;
use crate::simulate::load::driver::plain_congestion;
use crate::simulate::load::ledger::{BLOCK_NANOS, Ledger};
use crate::simulate::load::ring::Key;
use crate::simulate::load::session::{Dialect, Session};
use crate::simulate::load::wire::Stage;
use crate::simulate::model::upgrade::PATH;
use crate::transport::tls::Tls;
use std::cmp::Reverse;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::os::fd::{AsRawFd as _, OwnedFd};

/// From the dial to the 101, webhook included.
const SETUP_NANOS: u64 = 10_000_000_000;
/// An answer to a webhook, bytes.
const WEBHOOK_BYTES_MAX: usize = 64 * 1024;

impl World {
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

    pub(super) fn ask_webhook(&mut self, slot: usize) -> Result<(), String> {
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
    pub(super) fn dial(&mut self, slot: usize, url: Option<String>) -> Result<(), String> {
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

    pub(super) fn on_webhook_bytes(&mut self, key: Key) {
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

    pub(super) fn on_response_head(&mut self, key: Key, now: u64) {
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
            false => phase(slot as u32, self.plan.slot).as_nanos() as u64,
        };
        let first = now - now % period + phase;
        let first = if first <= now { first + period } else { first };
        let call = &mut self.calls.list[slot];
        call.step = Step::Live;
        call.is_live = true;
        self.live += 1;
        self.tally.answered += 1;
        self.tally.answered_measured += u64::from(self.tally.measures(now));
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

    pub(super) fn on_request_head(&mut self, key: Key) {
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

    pub(super) fn fail_setup(&mut self, slot: usize, why: String) {
        let call = self.calls.list[slot].caller.call;
        if self.tally.answered == 0 {
            // Nothing works yet: that is not a result, it is a wrong command line.
            self.fatal.get_or_insert(why.clone());
        }
        self.tally.call_fault(Kind::Setup, call, why);
        self.calls.list[slot].step = Step::Closing;
        self.finish(slot);
    }
}

/// A socket whose connect is under way.
fn connect(address: SocketAddr) -> Result<OwnedFd, String> {
    let open = || -> io::Result<OwnedFd> {
        let domain = socket2::Domain::for_address(address);
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        plain_congestion(&socket);
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
