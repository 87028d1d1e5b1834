//! Both peers of a session, its clock, and the checks that hold after every step.

use crate::base::id::CallId;
use crate::base::time::{Mono, Now};
use crate::call::DialFailure;
use crate::call::fact::{Drop, EndReason, Fact, Leg, Stats};
use crate::call::policy::{Policy, Reconnect};
use crate::call::session::{Closed, Command, Intent, Session, Setup};
use crate::proto::audio::base64;
use crate::proto::realtime::settings::Settings;
use crate::proto::ws::Role;
use crate::proto::ws::reader::{Message, Reader};
use crate::proto::ws::writer::{Kind, write_frame};
use std::sync::Arc;
use std::time::Duration;

pub(super) const SID: &str = "MZ0a9b8c7d6e5f43210123456789abcdef";
pub(super) const START: &str = r#"{"event":"start","sequenceNumber":"1","start":{"accountSid":"AC1","streamSid":"MZ0a9b8c7d6e5f43210123456789abcdef","callSid":"CA1","tracks":["inbound"],"mediaFormat":{"encoding":"audio/x-mulaw","sampleRate":8000,"channels":1},"customParameters":{"tenant":"acme"}},"streamSid":"MZ0a9b8c7d6e5f43210123456789abcdef"}"#;
pub(super) const CREATED: &str = r#"{"type":"session.created","event_id":"event_1","session":{"type":"realtime","object":"realtime.session","id":"sess_1","audio":{"input":{"format":{"type":"audio/pcm","rate":24000}},"output":{"format":{"type":"audio/pcm","rate":24000}}}}}"#;
pub(super) const UPDATED: &str = r#"{"type":"session.updated","event_id":"event_2","session":{"type":"realtime","object":"realtime.session","id":"sess_1","audio":{"input":{"format":{"type":"audio/pcmu"}},"output":{"format":{"type":"audio/pcmu"}}}}}"#;

/// What a peer received.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Got {
    Text(String),
    Ping,
    Pong(Vec<u8>),
    Close(u16, String),
}

/// One peer: what it received, and its socket as the session sees it.
pub(super) struct Peer {
    reader: Reader,
    role: Role,
    partial: Vec<u8>,
    /// Sent by the peer, not consumed by the session.
    pending: Vec<u8>,
    pub(super) got: Vec<Got>,
    /// Takes what is sent at once; else a send stays in flight.
    pub(super) takes: bool,
    in_flight: bool,
    pub(super) socket_open: bool,
    pub(super) finishing: bool,
    pub(super) max: usize,
}

impl Peer {
    fn new(role: Role, open: bool) -> Self {
        Self {
            reader: Reader::new(role, 32 * 1024 * 1024),
            role,
            partial: Vec::new(),
            pending: Vec::new(),
            got: Vec::new(),
            takes: true,
            in_flight: false,
            socket_open: open,
            finishing: false,
            max: 16 * 1024,
        }
    }

    pub(super) fn texts(&self) -> Vec<&str> {
        self.got
            .iter()
            .filter_map(|got| match got {
                Got::Text(text) => Some(text.as_str()),
                _ => None,
            })
            .collect()
    }

    pub(super) fn close_code(&self) -> Option<u16> {
        let mut codes = self.got.iter().filter_map(|got| match got {
            Got::Close(code, _) => Some(*code),
            _ => None,
        });
        let code = codes.next();
        assert_eq!(codes.next(), None, "two close frames");
        code
    }
}

/// A session between two peers.
pub(super) struct Pair {
    pub(super) session: Session,
    pub(super) at_ms: u64,
    pub(super) carrier: Peer,
    pub(super) model: Peer,
    pub(super) facts: Vec<Fact>,
    pub(super) dials: u32,
    /// Connections that were of no use.
    pub(super) distrusted: u32,
    /// The leg of the last dial.
    pub(super) place: Leg,
    /// The other connection to the model.
    pub(super) standby: Peer,
    pub(super) stamp: u64,
    pub(super) chunk: u64,
}

pub(super) fn setup() -> Setup {
    Setup {
        call_id: CallId::new("call-1").unwrap(),
        settings: Arc::new(Settings {
            instructions: "Be \"brief\".".to_owned(),
            ..Settings::default()
        }),
        // What an end is, without tries to put it off: those have tests of their own.
        policy: Arc::new(Policy {
            reconnect: Reconnect {
                tries: 0,
                ..Reconnect::default()
            },
            ..Policy::default()
        }),
        expected_call_sid: None,
        mode: crate::base::route::StreamMode::Full,
        seed: [7; 32],
    }
}

/// A dial that came to nothing for good.
pub(super) fn failed(text: &str) -> Result<(), DialFailure> {
    Err(DialFailure {
        text: text.to_owned(),
        retry: false,
    })
}

/// One frame as `role` sends it.
pub(super) fn frame(role: Role, kind: Kind, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mask = (role == Role::Client).then_some([0x1f, 0x2e, 0x3d, 0x4c]);
    write_frame(&mut bytes, kind, mask, &[payload]);
    bytes
}

pub(super) fn close_payload(code: u16) -> Vec<u8> {
    code.to_be_bytes().to_vec()
}

/// A frame's payload: 160 bytes that no other frame has.
pub(super) fn payload(n: u64) -> String {
    let mut bytes = vec![0x55; 160];
    bytes[..8].copy_from_slice(&n.to_be_bytes());
    encode(&bytes)
}

pub(super) fn encode(bytes: &[u8]) -> String {
    let mut text = Vec::new();
    base64::encode_into(bytes, &mut text);
    String::from_utf8(text).unwrap()
}

pub(super) fn media(stamp: u64, chunk: u64, payload: &str) -> String {
    format!(
        r#"{{"event":"media","sequenceNumber":"{}","media":{{"track":"inbound","chunk":"{chunk}","timestamp":"{stamp}","payload":"{payload}"}},"streamSid":"{SID}"}}"#,
        chunk + 1
    )
}

pub(super) fn delta(item: &str, payload: &str) -> String {
    format!(
        r#"{{"type":"response.output_audio.delta","event_id":"event_9","response_id":"resp_1","item_id":"{item}","output_index":0,"content_index":0,"delta":"{payload}"}}"#
    )
}

impl Pair {
    pub(super) fn new() -> Self {
        Self::with(setup())
    }

    pub(super) fn with(setup: Setup) -> Self {
        let at_ms = 1_000;
        Self {
            session: Session::new(setup, now(at_ms)),
            at_ms,
            carrier: Peer::new(Role::Client, true),
            model: Peer::new(Role::Server, false),
            facts: Vec::new(),
            dials: 0,
            distrusted: 0,
            place: Leg::Realtime,
            standby: Peer::new(Role::Server, false),
            stamp: 61,
            chunk: 1,
        }
    }

    /// Up to `start`.
    pub(super) fn started() -> Self {
        Self::started_with(setup())
    }

    fn started_with(setup: Setup) -> Self {
        let mut pair = Self::with(setup);
        pair.carrier(r#"{"event":"connected","protocol":"Call","version":"1.0.0"}"#);
        pair.carrier(START);
        assert_eq!(pair.dials, 1);
        pair
    }

    /// Up to a confirmed session.
    pub(super) fn ready() -> Self {
        Self::ready_with(setup())
    }

    pub(super) fn ready_with(setup: Setup) -> Self {
        let mut pair = Self::started_with(setup);
        pair.connect();
        pair.model(CREATED);
        pair.model(UPDATED);
        assert!(
            matches!(pair.facts.last(), Some(Fact::SessionReady { .. })),
            "{:?}",
            pair.facts
        );
        pair.carrier.got.clear();
        pair.model.got.clear();
        pair
    }

    pub(super) fn connect(&mut self) {
        self.dials = 0;
        let place = self.place;
        *self.peer(place) = Peer::new(Role::Server, true);
        self.session.handle_upstream(Ok(()), now(self.at_ms));
        self.pump();
    }

    /// The dial fails.
    pub(super) fn refuse(&mut self, retry: bool) {
        self.dials = 0;
        let text = "refused with 503".to_owned();
        self.session
            .handle_upstream(Err(DialFailure { text, retry }), now(self.at_ms));
        self.pump();
    }

    /// Text from the model on the connection that was dialled last.
    pub(super) fn newest(&mut self, text: &str) {
        let place = self.place;
        self.feed(place, &frame(Role::Server, Kind::Text, text.as_bytes()));
    }

    pub(super) fn carrier(&mut self, text: &str) {
        self.feed(
            Leg::Carrier,
            &frame(Role::Client, Kind::Text, text.as_bytes()),
        );
    }

    pub(super) fn model(&mut self, text: &str) {
        self.feed(
            Leg::Realtime,
            &frame(Role::Server, Kind::Text, text.as_bytes()),
        );
    }

    /// The next 20 ms of the caller's voice; returns its payload.
    pub(super) fn speak(&mut self) -> String {
        let payload = payload(self.chunk);
        self.carrier(&media(self.stamp, self.chunk, &payload));
        self.stamp += 20;
        self.chunk += 1;
        payload
    }

    /// Bytes from a peer, in one piece.
    pub(super) fn feed(&mut self, leg: Leg, bytes: &[u8]) {
        self.give(leg, bytes);
        self.pump();
    }

    /// Bytes from a peer; nothing else is done.
    pub(super) fn give(&mut self, leg: Leg, bytes: &[u8]) {
        let peer = match leg {
            Leg::Carrier => &mut self.carrier,
            Leg::Realtime => &mut self.model,
            Leg::Standby => &mut self.standby,
        };
        if !peer.socket_open {
            return;
        }
        peer.pending.extend_from_slice(bytes);
        let used = self
            .session
            .handle_input(leg, &mut peer.pending, now(self.at_ms));
        assert!(used <= peer.pending.len());
        peer.pending.drain(..used);
    }

    pub(super) fn close(&mut self, leg: Leg, code: u16) {
        let role = match leg {
            Leg::Carrier => Role::Client,
            Leg::Realtime | Leg::Standby => Role::Server,
        };
        self.feed(leg, &frame(role, Kind::Close, &close_payload(code)));
    }

    pub(super) fn gone(&mut self, leg: Leg, how: Closed) {
        let peer = self.peer(leg);
        if !peer.socket_open || peer.finishing {
            return;
        }
        peer.socket_open = false;
        self.session.handle_closed(leg, how, now(self.at_ms));
        self.pump();
    }

    pub(super) fn hang_up(&mut self, reason: EndReason) {
        self.session
            .handle_command(Command::HangUp(reason), now(self.at_ms));
        self.pump();
    }

    pub(super) fn peer(&mut self, leg: Leg) -> &mut Peer {
        match leg {
            Leg::Carrier => &mut self.carrier,
            Leg::Realtime => &mut self.model,
            Leg::Standby => &mut self.standby,
        }
    }

    /// Lets time pass, stopping at every deadline on the way.
    pub(super) fn pass(&mut self, ms: u64) {
        let until = self.at_ms + ms;
        let mut steps = 0;
        while let Some(due) = self.session.poll_timeout() {
            let due_ms = due.0.div_ceil(1_000_000);
            if due_ms > until {
                break;
            }
            self.at_ms = self.at_ms.max(due_ms);
            self.session.handle_timeout(now(self.at_ms));
            self.pump();
            steps += 1;
            assert!(steps < 100_000, "deadlines without end");
        }
        self.at_ms = until;
        self.session.handle_timeout(now(self.at_ms));
        self.pump();
    }

    /// Does what the shell does after each `handle_*`, and checks what must always hold.
    pub(super) fn pump(&mut self) {
        loop {
            let mut acted = false;
            while let Some(intent) = self.session.poll_intent() {
                acted = true;
                match intent {
                    Intent::Dial => {
                        self.dials += 1;
                        self.place = Leg::Realtime;
                    }
                    Intent::Redial(leg) => {
                        self.dials += 1;
                        self.place = leg;
                    }
                    Intent::CancelDial => self.dials = 0,
                    Intent::Distrust => self.distrusted += 1,
                    Intent::Finish(leg) => {
                        let peer = self.peer(leg);
                        assert!(peer.socket_open && !peer.finishing);
                        peer.finishing = true;
                    }
                    Intent::Abort(leg) => {
                        let peer = self.peer(leg);
                        assert!(peer.socket_open);
                        peer.socket_open = false;
                    }
                }
            }
            for leg in [Leg::Realtime, Leg::Standby, Leg::Carrier] {
                let peer = match leg {
                    Leg::Carrier => &mut self.carrier,
                    Leg::Realtime => &mut self.model,
                    Leg::Standby => &mut self.standby,
                };
                if peer.in_flight && peer.takes {
                    peer.in_flight = false;
                    self.session.handle_sent(leg, now(self.at_ms));
                    acted = true;
                }
                if !peer.socket_open || peer.in_flight {
                    assert!(peer.socket_open || self.session.poll_transmit(leg, 1).is_empty());
                    continue;
                }
                let bytes = self.session.poll_transmit(leg, peer.max);
                assert!(bytes.len() <= peer.max);
                if bytes.is_empty() {
                    continue;
                }
                acted = true;
                let len = bytes.len();
                peer.partial.extend_from_slice(bytes);
                self.session.handle_taken(leg, len, now(self.at_ms));
                peer.in_flight = true;
                peer.receive();
            }
            if !acted {
                break;
            }
        }
        while let Some(fact) = self.session.poll_fact() {
            assert!(self.end().is_none(), "a fact after the end: {fact:?}");
            self.facts.push(fact);
        }
        self.check();
    }

    fn check(&self) {
        let stats = self.session.stats();
        assert_eq!(
            stats.inbound_bytes,
            stats.inbound_bytes_sent + stats.inbound_bytes_dropped + self.session.held_bytes()
        );
        assert_eq!(
            stats.outbound_bytes,
            stats.outbound_bytes_sent + stats.outbound_bytes_dropped + self.session.paused_bytes()
        );
        if let Some((_, last)) = self.end() {
            assert_eq!(last, stats, "counted after the end");
            assert_eq!(self.session.held_bytes(), 0);
        }
        if self.session.is_finished() {
            assert!(self.end().is_some());
            assert_eq!(self.session.poll_timeout(), None);
        }
    }

    /// How it ended.
    pub(super) fn end(&self) -> Option<(EndReason, &Stats)> {
        self.facts.iter().find_map(|fact| match fact {
            Fact::Ended { reason, stats } => Some((*reason, &**stats)),
            _ => None,
        })
    }

    pub(super) fn reason(&self) -> Option<EndReason> {
        self.end().map(|(reason, _)| reason)
    }

    pub(super) fn dropped(&self, reason: Drop) -> u64 {
        self.session.stats().dropped(reason)
    }

    /// Both peers answer close frames and close their sockets as they should; the session must finish.
    pub(super) fn wind_up(&mut self) -> EndReason {
        for leg in [Leg::Realtime, Leg::Standby, Leg::Carrier] {
            if let Some(code) = self.peer(leg).close_code() {
                self.close(leg, if code == 1005 { 1000 } else { code });
            }
        }
        self.gone(Leg::Realtime, Closed::Eof);
        self.gone(Leg::Standby, Closed::Eof);
        self.gone(Leg::Carrier, Closed::Eof);
        self.pass(0);
        assert!(self.session.is_finished());
        self.reason().expect("an end")
    }

    /// The base64 payloads of what the model was given, in order.
    pub(super) fn appended(&self) -> Vec<String> {
        self.model
            .texts()
            .into_iter()
            .filter_map(|text| {
                let audio =
                    text.strip_prefix(r#"{"type":"input_audio_buffer.append","audio":""#)?;
                Some(audio.strip_suffix(r#""}"#).unwrap().to_owned())
            })
            .collect()
    }
}

impl Peer {
    /// Reads what arrived at the peer.
    fn receive(&mut self) {
        loop {
            let mut bytes = std::mem::take(&mut self.partial);
            let (used, more) = match self.reader.read(&mut bytes) {
                Err(violation) => panic!("the session broke the protocol: {violation:?}"),
                Ok((used, None)) => (used, false),
                Ok((used, Some(message))) => {
                    self.got.push(match message {
                        Message::Text(text) => Got::Text(String::from_utf8(text.to_vec()).unwrap()),
                        Message::Ping(_) => Got::Ping,
                        Message::Pong(payload) => Got::Pong(payload.to_vec()),
                        Message::Close(code, reason) => Got::Close(code, reason.to_owned()),
                        Message::Binary(_) => panic!("binary from the session"),
                    });
                    (used, true)
                }
            };
            bytes.drain(..used);
            self.partial = bytes;
            if !more {
                break;
            }
        }
    }

    pub(super) fn role(&self) -> Role {
        self.role
    }
}

pub(super) fn now(ms: u64) -> Now {
    Now {
        mono: Mono(0) + Duration::from_millis(ms),
        unix_ms: 1_700_000_000_000 + ms,
    }
}
