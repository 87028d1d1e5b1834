//! Sockets that listen, and a connection's way through the desk: caps, TLS, head, door, hand-over.

use super::admit::{Refusal, Request, Rules, Signature};
use super::conn::{Conn, set_carrier_options};
use super::upgrade::{Answer, Door, StreamRequest, classify};
use super::{Desk, Place};
use crate::base::id::CallId;
use crate::base::route::StreamMode;
use crate::base::time::Clock as _;
use crate::base::token::{looks_like_ticket, verify};
use crate::bus::command::{AdmitAnswer, ToWorker};
use crate::bus::report::{HttpConnection, HttpPlace};
use crate::call::session::Setup;
use crate::config::{Secret, UnknownCall};
use crate::proto::carrier::signature::is_valid_upgrade;
use crate::proto::http::head::{HeadError, Parsed, parse_request};
use crate::proto::http::upgrade::{Accept, write_accept};
use crate::proto::ws::Role;
use crate::telemetry::desk_meter::DeskMeter;
use crate::telemetry::log::brief;
use crate::transport::Established;
use crate::transport::tls::Tls;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::Instant;
use tokio_uring::net::{TcpListener, TcpStream};

/// Connections that the kernel completes while we are busy.
const BACKLOG: i32 = 1024;
/// After an accept that found no descriptor: from, up to.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// Writing the 101.
const ANSWER_DEADLINE: Duration = Duration::from_secs(2);
/// Connections over the caps that are told so at once; each costs a descriptor for a moment.
const GOODBYES_MAX: usize = 64;
/// How long control may take to bring a connection that was admitted.
const ADMITTED_DEADLINE: Duration = Duration::from_secs(10);

/// Binds one address. IPv6 sockets take IPv6 only, so that `0.0.0.0` and `::` can stand side by side.
pub(super) fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    // Socket::new sets close-on-exec.
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&SockAddr::from(address))?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Connections that have not shown yet that they may be here: with the desk until they are calls, with control until
/// they end. A call leaves when its worker has it.
#[derive(Debug, Default)]
pub(super) struct Strangers {
    total: usize,
    /// Of `total`, those from this machine.
    local: usize,
    by_address: HashMap<IpAddr, usize>,
}

impl Strangers {
    /// Counts one in, or says which bound is reached. The bound of all is for the world alone: a crowd out there must
    /// not lock this machine's own probes and tunnels out, which the bound of each address holds.
    fn enter(&mut self, peer: IpAddr, per_address: usize, max: usize) -> Result<(), Refusal> {
        let peer = holder(peer);
        if !peer.is_loopback() && self.total - self.local >= max {
            return Err(Refusal::busy("connections_max", "too many connections"));
        }
        let count = self.by_address.entry(peer).or_default();
        if *count >= per_address {
            return Err(Refusal::busy(
                "connections_per_address",
                "too many connections from one address",
            ));
        }
        *count += 1;
        self.total += 1;
        self.local += usize::from(peer.is_loopback());
        Ok(())
    }

    /// Whether half of what this address may have, or half of all, is taken. Kept-alive connections stop here, so that
    /// they leave room for calls and webhooks from the same address.
    fn is_crowded(&self, peer: IpAddr, per_address: usize, max: usize) -> bool {
        let peer = holder(peer);
        let count = self.by_address.get(&peer).copied().unwrap_or(0);
        let over = |count: usize, bound: usize| count > bound.div_ceil(2);
        over(count, per_address) || !peer.is_loopback() && over(self.total - self.local, max)
    }

    fn leave(&mut self, peer: IpAddr) {
        let key = holder(peer);
        if let Some(count) = self.by_address.get_mut(&key) {
            *count -= 1;
            self.total -= 1;
            self.local -= usize::from(key.is_loopback());
            if *count == 0 {
                self.by_address.remove(&key);
            }
        }
    }
}

/// Who holds an address: all of an IPv6 /64 belong to one.
fn holder(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) if v6.is_loopback() => IpAddr::V6(v6),
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

/// A stranger's place, given back when it is dropped, on whichever thread.
struct Stranger {
    strangers: Arc<Mutex<Strangers>>,
    peer: IpAddr,
    per_address: usize,
    max: usize,
    meter: DeskMeter,
}

impl Stranger {
    fn enter(desk: &Desk, peer: IpAddr) -> Result<Self, Refusal> {
        let listen = &desk.config.listen;
        let (per_address, max) = (listen.connections_per_address, listen.connections_max);
        let mut strangers = lock(&desk.strangers);
        strangers.enter(peer, per_address, max)?;
        desk.meter.accepted(strangers.total);
        Ok(Self {
            strangers: desk.strangers.clone(),
            peer,
            per_address,
            max,
            meter: desk.meter,
        })
    }

    fn is_crowded(&self) -> bool {
        lock(&self.strangers).is_crowded(self.peer, self.per_address, self.max)
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let mut strangers = lock(&self.strangers);
        strangers.leave(self.peer);
        self.meter.open(strangers.total);
    }
}

/// Counts stay whole whatever panicked beside them.
fn lock(strangers: &Mutex<Strangers>) -> MutexGuard<'_, Strangers> {
    strangers
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Says 503 to a connection over the caps, unless that would cost what the caps protect: a TLS handshake, or a place
/// among the few that may be told so at once. Those see a close.
fn turn_away(desk: &Rc<Desk>, refusal: Refusal, socket: TcpStream, peer: SocketAddr) {
    desk.meter.rejected_request(refusal.code);
    if desk.tls.borrow().is_some() || desk.goodbyes.get() >= GOODBYES_MAX {
        return;
    }
    desk.goodbyes.set(desk.goodbyes.get() + 1);
    let desk = desk.clone();
    super::spawn(async move {
        let conn = Conn::new(socket, Some(peer), &desk.sockets);
        let answer = Answer::from(refusal).write(&desk.next_request_id());
        conn.say_goodbye(&answer).await;
        desk.goodbyes.set(desk.goodbyes.get() - 1);
    });
}

/// Accepts until the desk stops (which shuts the listening socket down, so that the pending accept ends).
pub(super) async fn accept(desk: Rc<Desk>, listener: std::net::TcpListener) {
    let listener = TcpListener::from_std(listener);
    let mut back_off = BACK_OFF.0;
    while !desk.stopping.get() {
        match listener.accept().await {
            // Nobody would end its operations any more.
            Ok(_) if desk.stopping.get() => break,
            Ok((socket, peer)) => {
                back_off = BACK_OFF.0;
                match Stranger::enter(&desk, peer.ip()) {
                    Ok(stranger) => {
                        let desk = desk.clone();
                        super::spawn(serve(desk, stranger, socket, peer));
                    }
                    Err(refusal) => turn_away(&desk, refusal, socket, peer),
                }
            }
            Err(_) if desk.stopping.get() => break,
            Err(error) => {
                let reason = match error.raw_os_error() {
                    Some(libc::EMFILE | libc::ENFILE) => "descriptors",
                    Some(libc::ECONNABORTED) => "aborted",
                    _ => "other",
                };
                desk.meter.accept_error(reason);
                if reason != "aborted" {
                    tracing::warn!(
                        reason,
                        wait_ms = back_off.as_millis() as u64,
                        "accept failed: {error}"
                    );
                    tokio::time::sleep(back_off).await;
                    back_off = (back_off * 2).min(BACK_OFF.1);
                }
            }
        }
    }
}

/// One connection, from accept to hand-over or answer.
async fn serve(desk: Rc<Desk>, stranger: Stranger, socket: TcpStream, peer: SocketAddr) {
    if desk.stopping.get() {
        return;
    }
    let arrived = Instant::now();
    let mut conn = Conn::new(socket, Some(peer), &desk.sockets);
    if conn.set_leg_options(false).is_err() {
        return desk.meter.lost("gone");
    }
    let tls = desk.tls.borrow().clone();
    if let Some(config) = tls {
        let watchdog = conn.watch(desk.deadlines.tls_accept);
        let outcome = match Tls::server(config) {
            Ok(tls) => conn.handshake(tls).await,
            Err(error) => Err(error.into()),
        };
        if let Err(error) = outcome {
            let error = error.to_string();
            tracing::debug!(%peer, late = watchdog.fired(), error = &*brief(&error), "TLS accept failed");
            return desk.meter.lost(if watchdog.fired() {
                "tls_deadline"
            } else {
                "tls"
            });
        }
    }
    // Reading alone is ended: the 408 can still be written.
    let watchdog = conn.watch_reading(desk.deadlines.head.saturating_sub(arrived.elapsed()));
    let (door, len) = loop {
        match read_door(&desk, &conn.plaintext) {
            Ok(Some(found)) => break found,
            Ok(None) => {}
            Err(answer) => return refuse(&desk, conn, answer, peer).await,
        }
        let more = conn.read().await;
        if watchdog.fired() {
            let refusal = Refusal::new(408, "head_deadline", "the request head took too long");
            return refuse_request(&desk, conn, refusal, peer).await;
        }
        match more {
            Ok(true) => {}
            Ok(false) => return desk.meter.lost("closed"),
            Err(_) => return desk.meter.lost("broken"),
        }
    };
    drop(watchdog);
    match door {
        Door::Refuse(answer) => refuse(&desk, conn, answer, peer).await,
        Door::Control => to_control(&desk, conn, peer, stranger).await,
        Door::Echo(accept) => to_echo(&desk, conn, len, &accept, stranger).await,
        Door::Stream(request) => match admit(&desk, &request, Some(peer)) {
            Err(answer) => refuse(&desk, conn, answer, peer).await,
            Ok(admitted) => {
                to_worker(&desk, conn, peer, len, &request.accept, admitted, stranger).await
            }
        },
    }
}

/// What the head asks for, and its length; `None` while it is incomplete.
fn read_door(desk: &Desk, bytes: &[u8]) -> Result<Option<(Door, usize)>, Answer> {
    match parse_request(bytes) {
        Ok(Parsed::Partial) => Ok(None),
        Ok(Parsed::Complete { head, len }) => Ok(Some((
            classify(&head, desk.config.dev.conformance_echo),
            len,
        ))),
        Err(error) => Err(head_refusal(error).into()),
    }
}

fn head_refusal(error: HeadError) -> Refusal {
    Refusal::new(error.status(), error.label(), error.message())
}

async fn refuse(desk: &Desk, conn: Conn, answer: Answer, peer: SocketAddr) {
    let Refusal { status, code, .. } = answer.refusal;
    desk.meter.rejected(code);
    tracing::debug!(%peer, status, code, "refused");
    conn.say_goodbye(&answer.write(&desk.next_request_id()))
        .await;
}

/// The same for what nobody knows to be an upgrade.
async fn refuse_request(desk: &Desk, conn: Conn, refusal: Refusal, peer: SocketAddr) {
    let Refusal { status, code, .. } = refusal;
    desk.meter.rejected_request(code);
    tracing::debug!(%peer, status, code, "refused");
    let answer = Answer::from(refusal).write(&desk.next_request_id());
    conn.say_goodbye(&answer).await;
}

/// What a peer is told whose connection can't be given away.
fn no_descriptors(desk: &Desk, error: &io::Error) -> Refusal {
    lost_at_hand_over(desk, error);
    Refusal::busy("descriptors", "no descriptors are left")
}

async fn to_control(desk: &Desk, mut conn: Conn, peer: SocketAddr, stranger: Stranger) {
    if let Err(error) = conn.prepare_hand_over() {
        let refusal = no_descriptors(desk, &error);
        return refuse_request(desk, conn, refusal, peer).await;
    }
    match desk.http.try_reserve() {
        Ok(permit) => match conn.into_established() {
            // The head goes along as it came: control's own server parses it again.
            Ok(established) => {
                let keep_alive = !stranger.is_crowded();
                permit.send(Box::new(HttpConnection {
                    established,
                    place: HttpPlace::new(stranger),
                    keep_alive,
                }));
            }
            Err(error) => lost_at_hand_over(desk, &error),
        },
        Err(TrySendError::Full(())) => {
            desk.meter.queue_full("http");
            let refusal = Refusal::busy("busy", "too many requests are waiting");
            refuse_request(desk, conn, refusal, peer).await;
        }
        Err(TrySendError::Closed(())) => desk.meter.lost("no_control"),
    }
}

async fn to_echo(desk: &Desk, mut conn: Conn, len: usize, accept: &Accept, stranger: Stranger) {
    if !answer_101(&mut conn, len, accept).await {
        return desk.meter.lost("answer");
    }
    match conn.into_established() {
        Ok(leg) => {
            drop(stranger);
            let echo = ToWorker::Echo {
                leg: Box::new(leg),
                role: Role::Server,
                done: None,
            };
            if let Some(worker) = desk.workers.first()
                && worker.send(echo).is_err()
            {
                desk.meter.queue_full("worker");
            }
        }
        Err(error) => lost_at_hand_over(desk, &error),
    }
}

async fn to_worker(
    desk: &Rc<Desk>,
    mut conn: Conn,
    peer: SocketAddr,
    len: usize,
    accept: &Accept,
    admitted: Admitted,
    stranger: Stranger,
) {
    if let Err(error) = conn.prepare_hand_over() {
        drop(admitted);
        let refusal = no_descriptors(desk, &error);
        return refuse(desk, conn, refusal.into(), peer).await;
    }
    // A failure here gives the place back by dropping `admitted`.
    if conn.set_leg_options(true).is_err() || !answer_101(&mut conn, len, accept).await {
        return desk.meter.lost("answer");
    }
    match conn.into_established() {
        Ok(carrier) => {
            drop(stranger);
            adopt(desk, admitted, carrier);
        }
        Err(error) => lost_at_hand_over(desk, &error),
    }
}

/// Writes the 101 and takes the head off; what was read behind it stays for the new owner.
async fn answer_101(conn: &mut Conn, len: usize, accept: &Accept) -> bool {
    conn.plaintext.drain(..len);
    let mut answer = Vec::new();
    write_accept(&mut answer, accept);
    let watchdog = conn.watch(ANSWER_DEADLINE);
    conn.write(&answer).await.is_ok() && !watchdog.fired()
}

fn lost_at_hand_over(desk: &Desk, error: &io::Error) {
    desk.meter.lost("hand_over");
    tracing::warn!("a connection was lost at its hand-over: {error}");
}

/// A granted stream on its way to a worker.
pub(super) struct Admitted {
    setup: Box<Setup>,
    place: Place,
}

/// Admission of a well-formed upgrade request.
fn admit(
    desk: &Rc<Desk>,
    request: &StreamRequest,
    peer: Option<SocketAddr>,
) -> Result<Admitted, Answer> {
    if request.repaired {
        desk.meter.repaired();
    }
    let now_unix_ms = desk.clock.now().unix_ms;
    let directory = desk.directory.load();
    let id = request.id.as_deref();
    let ticket = [id, request.token.as_deref()]
        .into_iter()
        .flatten()
        .find(|text| looks_like_ticket(text));
    let asked = Request {
        id: id.filter(|id| ticket != Some(id)),
        ticket: ticket.map(|text| verify(&directory.ticket_key, text, now_unix_ms)),
        signature: signature(desk, request, peer),
    };
    let rules = Rules {
        calls_max: desk.config.relay.calls_max,
        unknown_call: desk.config.carrier.unknown_call,
    };
    let grant = desk
        .admission_now()
        .decide(&asked, rules, &directory, now_unix_ms)?;
    let place = Place {
        desk: desk.clone(),
        worker: Some(grant.worker),
        call_id: grant.call_id,
    };
    let entropy = || -> Result<_, getrandom::Error> {
        let (mut seed, mut id) = ([0; 32], [0; 16]);
        getrandom::fill(&mut seed)?;
        getrandom::fill(&mut id)?;
        Ok((seed, u128::from_ne_bytes(id)))
    };
    let no_id = || Answer::from(Refusal::new(500, "entropy", "no entropy"));
    let (seed, id) = entropy().map_err(|_| no_id())?;
    let call_id = match grant.call_id {
        Some(call_id) => call_id,
        None => CallId::new(&format!("{id:032x}")).ok_or_else(no_id)?,
    };
    // A call that nobody announced and that is only to be looked at leaves no record, whatever its path.
    let mode = match rules.unknown_call {
        UnknownCall::Debug if grant.is_unknown => StreamMode::Simple,
        _ => request.alias.mode,
    };
    tracing::info!(
        call_id = %call_id, mode = mode.label(), alias = request.alias.pattern, worker = grant.worker.0,
        peer = peer.map(tracing::field::display), repaired = request.repaired, "stream admitted"
    );
    Ok(Admitted {
        setup: Box::new(Setup {
            call_id,
            settings: directory.settings.clone(),
            policy: directory.policy.clone(),
            expected_call_sid: grant.expected_call_sid,
            mode,
            seed,
        }),
        place,
    })
}

fn signature(desk: &Desk, request: &StreamRequest, peer: Option<SocketAddr>) -> Signature {
    let tokens: Vec<&str> = desk
        .config
        .carrier
        .auth_tokens
        .iter()
        .map(Secret::expose)
        .collect();
    if tokens.is_empty() {
        return Signature::NotNeeded;
    }
    // The configuration has proven that a token comes with a public URL.
    let origin = desk.config.listen.public_url.as_deref().unwrap_or_default();
    let verdict = match &request.signature {
        None => Signature::Missing,
        Some(text) if is_valid_upgrade(&tokens, origin, &request.target, text) => Signature::Valid,
        Some(_) => Signature::Wrong,
    };
    if verdict != Signature::Valid {
        // What the carrier should have signed: a wrong public URL shows here.
        let url = format!("{}{}", as_wss(origin), without_secret(&request.target));
        tracing::warn!(
            url = &*brief(&url),
            verdict = ?verdict, peer = peer.map(tracing::field::display), "upgrade without a fitting signature"
        );
    }
    verdict
}

fn as_wss(origin: &str) -> String {
    match origin.split_once("://") {
        Some(("https", rest)) => format!("wss://{rest}"),
        Some(("http", rest)) => format!("ws://{rest}"),
        _ => origin.to_owned(),
    }
}

/// A target for the log: without its query, and a ticket without its seal.
fn without_secret(target: &str) -> String {
    let path = target.split('?').next().unwrap_or_default();
    match path.rsplit_once('/') {
        Some((parent, last)) if looks_like_ticket(last) => {
            let open = last.rsplit_once('.').map_or("", |(open, _)| open);
            format!("{parent}/{open}.***")
        }
        _ => path.to_owned(),
    }
}

/// Hands a carrier leg to its worker.
fn adopt(desk: &Desk, admitted: Admitted, carrier: Established) {
    let Admitted { setup, mut place } = admitted;
    let Some(worker) = place.worker else { return };
    let call_id = setup.call_id;
    let order = ToWorker::Adopt {
        setup,
        carrier: Box::new(carrier),
    };
    let sent = match desk.workers.get(usize::from(worker.0)) {
        Some(sender) => sender.send(order),
        None => Err(order),
    };
    match sent {
        Ok(()) => {
            // From here the worker's `Ended` gives the place back.
            place.keep();
            desk.meter.admitted();
        }
        Err(_) => {
            desk.meter.queue_full("worker");
            tracing::error!(call_id = %call_id, worker = worker.0, "the worker takes no orders: stream dropped");
        }
    }
}

/// `ToDesk::Admit`: the same door and the same admission for a connection that is with control.
pub(super) fn admit_from_control(
    desk: &Rc<Desk>,
    head: &[u8],
    peer: Option<SocketAddr>,
    request_id: &str,
) -> AdmitAnswer {
    let outcome = match read_door(desk, head) {
        Ok(Some((Door::Stream(request), _))) => {
            admit(desk, &request, peer).map(|admitted| (request, admitted))
        }
        Ok(Some((Door::Refuse(answer), _))) | Err(answer) => Err(answer),
        Ok(Some((Door::Control | Door::Echo(_), _))) | Ok(None) => {
            Err(Refusal::new(404, "unknown_path", "no media stream has this path").into())
        }
    };
    match outcome {
        Ok((request, admitted)) => {
            let ticket = desk.next_ticket.get();
            desk.next_ticket.set(ticket + 1);
            desk.admitted.borrow_mut().insert(ticket, admitted);
            // A connection that never comes must not hold its place for ever.
            let late = desk.clone();
            super::spawn(async move {
                tokio::time::sleep(ADMITTED_DEADLINE).await;
                if late.admitted.borrow_mut().remove(&ticket).is_some() {
                    late.meter.lost("admitted_deadline");
                }
            });
            AdmitAnswer::Accept {
                accept: request.accept.value(),
                ticket,
            }
        }
        Err(answer) => {
            desk.meter.rejected(answer.refusal.code);
            AdmitAnswer::Refuse {
                status: answer.refusal.status,
                headers: answer.headers(),
                body: answer.body(request_id),
            }
        }
    }
}

/// `ToDesk::Admitted`.
pub(super) fn admitted_from_control(desk: &Desk, ticket: u64, connection: Established) {
    let admitted = desk.admitted.borrow_mut().remove(&ticket);
    match admitted {
        Some(admitted) => match set_carrier_options(&connection) {
            Ok(()) => adopt(desk, admitted, connection),
            Err(error) => lost_at_hand_over(desk, &error),
        },
        None => desk.meter.lost("admitted_unknown"),
    }
}
