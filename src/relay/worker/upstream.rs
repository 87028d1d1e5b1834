//! A connection to the model that no call has yet: it was dialled for an announced call, or to be kept warm. Core in
//! style: bytes and `now` in, bytes, a deadline and an end out; no socket.
//!
//! ```text
//!            ┌── pings answered and sent, messages kept ──┐
//!   new ───▶ waiting ── adopted: into_kept ──▶ a call's leg, which reads what was kept as if it had just come
//!               │
//!               └─ peer's close, violation, silence, age, order ──▶ over: close frame (where one can go), Finish or Abort
//! ```
//!
//! The model speaks first (`session.created`), so what comes meanwhile is kept as frames of one piece each, up to
//! `KEPT_BYTES_MAX`; a message that finds no room is dropped and counted. The session that adopts the connection reads
//! them with its own reader, so nothing here looks into a message.

use crate::base::id::CallId;
use crate::base::limit;
use crate::base::rng::Rng;
use crate::base::time::{Mono, Now};
use crate::bus::command::IdleEnd;
use crate::call::Leg;
use crate::call::session::{Closed, Intent};
use crate::proto::ws::reader::{Message, Reader};
use crate::proto::ws::writer::{Kind, frame_len, write_frame};
use crate::proto::ws::{Role, close};
use std::time::Duration;

/// What is kept of the model's messages. A `session.created` is about 1 KiB.
pub(super) const KEPT_BYTES_MAX: usize = 16 * 1024;
/// One message; whoever sends longer ones to a session that has not said anything is no model.
const MESSAGE_BYTES_MAX: usize = limit::CARRIER_MESSAGE_BYTES_MAX;
/// Pongs that may wait to be sent. A peer that does not read them gets no more (RFC 6455 section 5.5.3).
const OUT_BYTES_MAX: usize = 4 * 1024;

/// One idle connection.
#[derive(Debug)]
pub(super) struct Upstream {
    /// The announced call that it waits for; `None`: whoever comes first.
    purpose: Option<CallId>,
    /// The desk's number of its endpoint.
    endpoint: u16,
    reader: Reader,
    rng: Rng,
    /// The model's messages, unmasked frames of one piece; at most `KEPT_BYTES_MAX`.
    kept: Vec<u8>,
    /// Messages that found no room since the last `take_dropped`.
    dropped: u64,
    out: Vec<u8>,
    /// Bytes of `out` already in a send; 0 <= taken <= out.len().
    taken: usize,
    since: Mono,
    /// Nobody has come until then: closed.
    until: Mono,
    ping_at: Mono,
    /// A ping is unanswered.
    pong_until: Option<Mono>,
    /// A send is with the kernel.
    stall_until: Option<Mono>,
    end: Option<IdleEnd>,
    end_told: bool,
    intent: Option<Intent>,
}

impl Upstream {
    /// A connection that is upgraded and waits for `purpose`, or for anybody, no longer than `life`.
    pub(super) fn new(
        (purpose, endpoint): (Option<CallId>, u16),
        life: Duration,
        seed: [u8; 32],
        now: Now,
    ) -> Self {
        Self {
            purpose,
            endpoint,
            reader: Reader::new(Role::Client, MESSAGE_BYTES_MAX),
            rng: Rng::from_seed(seed),
            kept: Vec::new(),
            dropped: 0,
            out: Vec::new(),
            taken: 0,
            since: now.mono,
            until: now.mono + life,
            ping_at: now.mono + limit::PING_INTERVAL,
            pong_until: None,
            stall_until: None,
            end: None,
            end_told: false,
            intent: None,
        }
    }

    pub(super) fn purpose(&self) -> Option<CallId> {
        self.purpose
    }

    /// For whom it waits, and the desk's number of its endpoint.
    pub(super) fn origin(&self) -> (Option<CallId>, u16) {
        (self.purpose, self.endpoint)
    }

    /// How long it has waited.
    pub(super) fn age(&self, now: Now) -> Duration {
        now.mono.since(self.since)
    }

    /// As `Session::handle_input`.
    pub(super) fn handle_input(&mut self, input: &mut [u8]) -> usize {
        let mut used = 0;
        while self.end.is_none() {
            let message = match self.reader.read(&mut input[used..]) {
                Ok((n, None)) => return used + n,
                Ok((n, Some(message))) => {
                    used += n;
                    message
                }
                Err(violation) => {
                    self.close(violation.close_code(), IdleEnd::Lost);
                    break;
                }
            };
            self.pong_until = None;
            match message {
                Message::Text(bytes) => keep(&mut self.kept, &mut self.dropped, Kind::Text, bytes),
                Message::Binary(bytes) => {
                    keep(&mut self.kept, &mut self.dropped, Kind::Binary, bytes);
                }
                Message::Ping(payload) => {
                    if self.out.len() + frame_len(payload.len(), true) <= OUT_BYTES_MAX {
                        let mask = self.rng.mask_key();
                        write_frame(&mut self.out, Kind::Pong, Some(mask), &[payload]);
                    }
                }
                Message::Pong(_) => {}
                Message::Close(code, _) => {
                    // RFC 6455 section 7.4.1: 1005 says that there was none, and is never sent.
                    let code = match code {
                        close::NO_STATUS => close::NORMAL,
                        code => code,
                    };
                    self.close(code, IdleEnd::Lost);
                }
            }
        }
        input.len()
    }

    /// The socket is gone.
    pub(super) fn handle_closed(&mut self, _how: Closed) {
        self.end.get_or_insert(IdleEnd::Lost);
    }

    /// A deadline may have passed.
    pub(super) fn handle_timeout(&mut self, now: Now) {
        if self.end.is_some() {
            return;
        }
        let passed = |at: Option<Mono>| at.is_some_and(|at| at <= now.mono);
        if passed(self.pong_until) || passed(self.stall_until) {
            // Nobody is there to take a close frame.
            self.end = Some(IdleEnd::Lost);
            self.intent = Some(Intent::Abort(Leg::Realtime));
        } else if self.until <= now.mono {
            self.close(close::NORMAL, IdleEnd::Expired);
        } else if self.ping_at <= now.mono {
            self.ping_at = now.mono + limit::PING_INTERVAL;
            self.pong_until
                .get_or_insert(now.mono + limit::PONG_DEADLINE);
            let mask = self.rng.mask_key();
            write_frame(&mut self.out, Kind::Ping, Some(mask), &[]);
        }
    }

    /// Not wanted any more.
    pub(super) fn give_up(&mut self, end: IdleEnd) {
        let code = match end {
            IdleEnd::Drained => close::GOING_AWAY,
            _ => close::NORMAL,
        };
        self.close(code, end);
    }

    fn close(&mut self, code: u16, end: IdleEnd) {
        if self.end.is_some() {
            return;
        }
        self.end = Some(end);
        let (payload, len) = close::payload(code, "");
        let mask = self.rng.mask_key();
        write_frame(&mut self.out, Kind::Close, Some(mask), &[&payload[..len]]);
        self.intent = Some(Intent::Finish(Leg::Realtime));
    }

    pub(super) fn poll_intent(&mut self) -> Option<Intent> {
        self.intent.take()
    }

    /// Why it is over, once.
    pub(super) fn poll_end(&mut self) -> Option<IdleEnd> {
        let end = self.end?;
        (!std::mem::replace(&mut self.end_told, true)).then_some(end)
    }

    pub(super) fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }

    pub(super) fn poll_transmit(&self, max: usize) -> &[u8] {
        let waiting = &self.out[self.taken..];
        &waiting[..waiting.len().min(max)]
    }

    pub(super) fn handle_taken(&mut self, len: usize, now: Now) {
        self.taken += len;
        debug_assert!(self.taken <= self.out.len());
        if self.taken == self.out.len() {
            self.out.clear();
            self.taken = 0;
        }
        self.stall_until
            .get_or_insert(now.mono + limit::WRITE_STALL_DEADLINE);
    }

    pub(super) fn handle_sent(&mut self) {
        self.stall_until = None;
    }

    pub(super) fn held_bytes(&self) -> usize {
        self.reader.held_bytes()
    }

    /// The earliest deadline; none once it is over, when the shell has its own.
    pub(super) fn poll_timeout(&self) -> Option<Mono> {
        if self.end.is_some() {
            return None;
        }
        let own = [Some(self.until), Some(self.ping_at)];
        let peer = [self.pong_until, self.stall_until];
        own.into_iter().chain(peer).flatten().min()
    }

    pub(super) fn is_over(&self) -> bool {
        self.end.is_some()
    }

    /// Nothing of ours is on its way, so that the next byte sent can be the session's.
    pub(super) fn is_quiet(&self) -> bool {
        self.end.is_none() && self.out.is_empty() && self.stall_until.is_none()
    }

    /// The next byte received begins a message, or belongs to a frame that the shell still has from its beginning: another
    /// reader can go on. Not so in the middle of a message in fragments, which no model sends.
    pub(super) fn is_between_messages(&self) -> bool {
        self.reader.is_between_messages()
    }

    /// What the session that adopts the connection is to read first.
    pub(super) fn into_kept(self) -> Vec<u8> {
        self.kept
    }
}

fn keep(kept: &mut Vec<u8>, dropped: &mut u64, kind: Kind, bytes: &[u8]) {
    if kept.len() + frame_len(bytes.len(), false) > KEPT_BYTES_MAX {
        *dropped += 1;
    } else {
        write_frame(kept, kind, None, &[bytes]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn now(ms: u64) -> Now {
        Now {
            mono: Mono(ms * 1_000_000),
            unix_ms: ms,
        }
    }

    fn warm() -> Upstream {
        Upstream::new((None, 0), Duration::from_secs(300), [1; 32], now(0))
    }

    fn frame(kind: Kind, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        write_frame(&mut out, kind, None, &[payload]);
        out
    }

    /// Gives `input` in pieces of `step` bytes as a leg does: what is not used comes again.
    fn feed(upstream: &mut Upstream, input: &[u8], step: usize) -> Vec<u8> {
        let mut carried = Vec::new();
        for piece in input.chunks(step) {
            carried.extend_from_slice(piece);
            let used = upstream.handle_input(&mut carried);
            carried.drain(..used);
        }
        carried
    }

    /// What it sends, frame by frame, read as the model would.
    fn sent(upstream: &mut Upstream) -> Vec<(char, Vec<u8>)> {
        let mut bytes = upstream.poll_transmit(usize::MAX).to_vec();
        upstream.handle_taken(bytes.len(), now(0));
        upstream.handle_sent();
        let mut reader = Reader::new(Role::Server, 1024);
        let mut frames = Vec::new();
        let mut at = 0;
        while let Ok((n, Some(message))) = reader.read(&mut bytes[at..]) {
            frames.push(match message {
                Message::Ping(payload) => ('i', payload.to_vec()),
                Message::Pong(payload) => ('o', payload.to_vec()),
                Message::Close(code, _) => ('c', code.to_be_bytes().to_vec()),
                other => panic!("{other:?}"),
            });
            at += n;
        }
        frames
    }

    #[test]
    fn messages_are_kept_and_pings_answered_whatever_the_split() {
        let created = frame(Kind::Text, br#"{"type":"session.created"}"#);
        let more = frame(Kind::Text, &[b'x'; 300]);
        let begun = &frame(Kind::Text, b"not whole yet")[..6];
        let ping = frame(Kind::Ping, b"are you there");
        let input = [&created[..], &ping, &more, &frame(Kind::Pong, b""), begun].concat();
        for step in 1..=input.len() {
            let mut upstream = warm();
            let carried = feed(&mut upstream, &input, step);
            assert_eq!(carried, begun, "step {step}");
            assert_eq!(
                sent(&mut upstream),
                [('o', b"are you there".to_vec())],
                "step {step}"
            );
            assert!(upstream.is_quiet() && upstream.is_between_messages());
            assert_eq!(upstream.into_kept(), [&created[..], &more].concat());
        }
    }

    #[test]
    fn a_message_in_fragments_is_kept_in_one_piece_and_can_t_be_left_in_its_middle() {
        let mut upstream = warm();
        // RFC 6455 section 5.7: "Hel", then "lo".
        assert!(feed(&mut upstream, b"\x01\x03Hel", 1).is_empty());
        assert!(!upstream.is_between_messages());
        assert!(feed(&mut upstream, b"\x80\x02lo", 1).is_empty());
        assert!(upstream.is_between_messages());
        assert_eq!(upstream.into_kept(), b"\x81\x05Hello");
    }

    #[test]
    fn what_finds_no_room_is_dropped_whole_and_counted() {
        let mut upstream = warm();
        let big = frame(Kind::Text, &[b'a'; 10_000]);
        let small = frame(Kind::Binary, &[7; 50]);
        let mut input = [&big[..], &big, &small, &big].concat();
        assert_eq!(upstream.handle_input(&mut input), input.len());
        assert_eq!((upstream.take_dropped(), upstream.take_dropped()), (2, 0));
        assert!(!upstream.is_over());
        assert_eq!(upstream.into_kept(), [&big[..], &small].concat());
    }

    #[test]
    fn a_close_is_answered_with_its_own_code_and_nothing_after_it_counts() {
        for (code, answer) in [(Some(1001u16), 1001u16), (None, 1000)] {
            let mut upstream = warm();
            let payload = code.map(u16::to_be_bytes);
            let close = frame(
                Kind::Close,
                payload.as_ref().map_or(&[], |bytes| &bytes[..]),
            );
            let mut input = [&close[..], &frame(Kind::Ping, b"late")].concat();
            assert_eq!(upstream.handle_input(&mut input), input.len());
            assert_eq!(upstream.poll_end(), Some(IdleEnd::Lost));
            assert_eq!(upstream.poll_end(), None, "told once");
            assert_eq!(upstream.poll_intent(), Some(Intent::Finish(Leg::Realtime)));
            assert_eq!(sent(&mut upstream), [('c', answer.to_be_bytes().to_vec())]);
            assert_eq!(upstream.poll_timeout(), None);
        }
    }

    #[test]
    fn a_peer_that_breaks_the_protocol_or_sends_too_much_is_closed() {
        let masked = b"\x81\x81\x01\x02\x03\x04x".to_vec();
        let endless = vec![0x82, 0x7f, 0, 0, 0, 0, 0, 1, 0, 1];
        for (mut input, code) in [(masked, 1002u16), (endless, 1009)] {
            let mut upstream = warm();
            upstream.handle_input(&mut input);
            assert_eq!(upstream.poll_end(), Some(IdleEnd::Lost));
            assert_eq!(sent(&mut upstream), [('c', code.to_be_bytes().to_vec())]);
        }
    }

    #[test]
    fn silence_is_asked_into_and_then_is_the_end() {
        let mut upstream = warm();
        assert_eq!(upstream.poll_timeout(), Some(now(20_000).mono));
        upstream.handle_timeout(now(19_999));
        assert!(sent(&mut upstream).is_empty());
        upstream.handle_timeout(now(20_000));
        assert_eq!(sent(&mut upstream), [('i', Vec::new())]);
        // An answer, of whatever kind, and the next round.
        upstream.handle_input(&mut frame(Kind::Pong, b""));
        upstream.handle_timeout(now(40_000));
        assert!(!upstream.is_over());
        upstream.handle_timeout(now(60_000));
        assert_eq!(upstream.poll_end(), Some(IdleEnd::Lost));
        assert_eq!(upstream.poll_intent(), Some(Intent::Abort(Leg::Realtime)));
    }

    #[test]
    fn a_send_that_nobody_takes_is_the_end_and_forbids_adoption_before() {
        let mut upstream = warm();
        upstream.handle_input(&mut frame(Kind::Ping, b"x"));
        let len = upstream.poll_transmit(usize::MAX).len();
        upstream.handle_taken(len, now(5));
        assert!(!upstream.is_quiet());
        upstream.handle_timeout(now(10_004));
        assert!(!upstream.is_over());
        upstream.handle_timeout(now(10_005));
        assert_eq!(upstream.poll_end(), Some(IdleEnd::Lost));
    }

    #[test]
    fn pings_that_are_not_read_pile_up_to_a_bound() {
        let mut upstream = warm();
        for _ in 0..10_000 {
            upstream.handle_input(&mut frame(Kind::Ping, &[1; 125]));
        }
        assert!(upstream.out.len() <= OUT_BYTES_MAX);
        assert!(!upstream.is_over());
    }

    #[test]
    fn age_and_orders_close_it_in_order() {
        let mut upstream = warm();
        upstream.handle_timeout(now(300_000));
        assert_eq!(upstream.poll_end(), Some(IdleEnd::Expired));
        assert_eq!(upstream.age(now(300_000)), Duration::from_secs(300));
        assert_eq!(sent(&mut upstream), [('c', 1000u16.to_be_bytes().to_vec())]);
        for (end, code) in [(IdleEnd::Drained, 1001u16), (IdleEnd::Cancelled, 1000)] {
            let mut upstream = warm();
            upstream.give_up(end);
            upstream.give_up(IdleEnd::Expired);
            assert_eq!(upstream.poll_end(), Some(end));
            assert_eq!(sent(&mut upstream), [('c', code.to_be_bytes().to_vec())]);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic_it_and_what_it_holds_is_bounded(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..40),
        ) {
            let mut upstream = warm();
            let mut carried = Vec::new();
            for piece in pieces {
                carried.extend_from_slice(&piece);
                let used = upstream.handle_input(&mut carried);
                prop_assert!(used <= carried.len());
                carried.drain(..used);
                prop_assert!(upstream.kept.len() <= KEPT_BYTES_MAX);
                prop_assert!(upstream.out.len() <= OUT_BYTES_MAX + 131);
                prop_assert!(upstream.held_bytes() <= 2 * MESSAGE_BYTES_MAX);
            }
        }
    }
}
