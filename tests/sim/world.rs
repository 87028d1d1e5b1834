//! One call: the session, its two peers, the network between them, a clock that jumps from event to event, and the shell's
//! part of the contract (`call::session`).

use crate::carrier::{self, Carrier};
use crate::check::{Judge, Note, Seen};
use crate::dice::Dice;
use crate::link::{Link, give};
use crate::model::Model;
use crate::net::{Arrival, Weather};
use crate::terms::Terms;
use crate::tools::Runner;
use crate::trouble::Script;
use std::sync::Arc;
use std::time::Duration;
use voxrelay::base::id::CallId;
use voxrelay::base::time::{Mono, Now};
use voxrelay::call::session::{Closed, Command, Intent, Session, Setup};
use voxrelay::call::{DialFailure, EndReason, Fact, Leg};

/// Once the relay was told that the carrier is gone: three closing deadlines of two seconds, and a little.
const FINISH_AFTER_TOLD: u64 = 7_000_000;
/// When nobody told it: a ping and its answer, 20 s each, and the closing.
const FINISH_AFTER_GONE: u64 = 60_000_000;
/// In the order in which the shell looks at them.
const LEGS: [Leg; 3] = [Leg::Realtime, Leg::Standby, Leg::Carrier];
/// The monotonic clock at the start of a call.
const BEGAN_NS: u64 = 1_000_000_000;
/// A send that nobody takes: the ten seconds that it may wait, and a little.
const STALL_NOTICED: u64 = 10_100_000;

/// What a course was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Course {
    pub reason: EndReason,
    /// Microseconds of the virtual clock.
    pub took: u64,
    pub steps: u64,
    /// Of all bytes that the relay sent, and when.
    pub digest: u64,
    pub clears: u32,
    pub truncates: u32,
    pub resumes: u32,
    pub connections: u32,
}

pub struct World {
    pub log: bool,
    now: u64,
    step: u64,
    dice: Dice,
    session: Session,
    judge: Judge,
    tools: Runner,
    tool_allowed: u64,
    carrier: Carrier,
    carrier_link: Link,
    /// By place: `Leg::Realtime`, and where a second connection goes.
    models: [Option<(Model, Link)>; 2],
    clean_model: bool,
    calm: bool,
    stalls: bool,
    send_max: usize,
    connections: u32,
    dial: Option<(u64, Leg, Script)>,
    command: Option<u64>,
    told: Option<u64>,
    ended: Option<EndReason>,
    digest: u64,
}

thread_local! {
    /// The step that is being taken, for whoever reports a failure.
    pub static STEP: std::cell::Cell<(u64, u64)> = const { std::cell::Cell::new((0, 0)) };
}

macro_rules! log {
    ($world:expr, $($args:tt)*) => {
        if $world.log {
            println!("{:>8} {:>10.3} ms  {}", $world.step, $world.now as f64 / 1_000.0, format_args!($($args)*));
        }
    };
}

impl World {
    pub fn new(seed: u64, log: bool) -> Self {
        let mut dice = Dice::new(seed);
        let calm = dice.percent(45);
        let script = carrier::Script::draw(&mut dice, calm);
        let weather = match calm {
            true => [Weather::calm(&mut dice), Weather::calm(&mut dice)],
            false => [Weather::any(&mut dice), Weather::any(&mut dice)],
        };
        let terms = Terms::draw(&mut dice);
        let mut key = [0; 32];
        for part in key.chunks_mut(8) {
            part.copy_from_slice(&dice.next().to_ne_bytes());
        }
        let setup = Setup {
            call_id: CallId::new("call-1").expect("short"),
            settings: Arc::new(terms.settings()),
            policy: Arc::new(terms.policy()),
            expected_call_sid: None,
            mode: voxrelay::base::route::StreamMode::Full,
            seed: key,
        };
        let judge = Judge::new(calm, script.even_stamps, terms.clone());
        if log {
            println!("calm {calm}, {terms:?}, {script:?}");
            println!("carrier link {weather:?}");
        }
        let command = dice.percent(4).then(|| dice.between(0, script.ends_at));
        let carrier = Carrier::new(script, Dice::new(dice.next()));
        Self {
            log,
            now: 0,
            step: 0,
            session: Session::new(setup, at(0)),
            judge,
            tools: Runner::new(Dice::new(dice.next())),
            tool_allowed: terms.tool_allowed,
            carrier,
            carrier_link: Link::new(weather, false),
            models: [None, None],
            clean_model: true,
            calm,
            stalls: !calm && dice.percent(40),
            send_max: dice.pick(&[16_384, 16_384, 16_384, 4_000, 700, 90]),
            connections: 0,
            dial: None,
            command,
            told: None,
            ended: None,
            digest: 0xcbf2_9ce4_8422_2325,
            dice,
        }
    }

    /// The whole call.
    pub fn run(mut self) -> Course {
        self.wake("begin", |_| {});
        while !self.session.is_finished() {
            let next = [
                self.session
                    .poll_timeout()
                    .map(|at| (at.0.saturating_sub(BEGAN_NS)).div_ceil(1_000)),
                self.carrier_link.next(),
                self.models().filter_map(|(_, link)| link.next()).min(),
                self.carrier.next(),
                self.models().filter_map(|(model, _)| model.next()).min(),
                self.dial.as_ref().map(|(at, ..)| *at),
                self.command,
                self.tools.next(),
            ]
            .into_iter()
            .flatten()
            .min()
            .expect("nothing will ever happen, and the session is not finished");
            self.now = self.now.max(next);
            for leg in LEGS {
                let now = self.now;
                if let Some(link) = self.link(leg)
                    && link.open
                    && link.in_flight.is_some()
                {
                    assert!(
                        now <= link.taken_at + STALL_NOTICED,
                        "{leg:?} takes nothing, and the session waits"
                    );
                }
            }
            if let Some(told) = self.told {
                assert!(
                    self.now <= told + FINISH_AFTER_TOLD,
                    "the carrier is gone and the session does not finish"
                );
            }
            assert!(
                self.now <= self.carrier.script.ends_at + FINISH_AFTER_GONE,
                "both peers are gone and the session does not finish"
            );
            self.turn();
        }
        self.finish()
    }

    fn finish(self) -> Course {
        let reason = self.ended.expect("a finished session has said why");
        assert!(
            !self.carrier_link.open || self.carrier_link.finishing,
            "finished, and the carrier's socket is open"
        );
        let mut clean_model = self.clean_model;
        for (_, link) in self.models() {
            assert!(
                !link.open || link.finishing,
                "finished, and the model's socket is open"
            );
            clean_model &= link.close_sent;
        }
        self.judge.at_end(
            self.session.stats(),
            clean_model,
            self.carrier_link.close_sent,
        );
        if self.log {
            println!("ended: {reason:?}\n{:#?}", self.session.stats());
        }
        Course {
            reason,
            took: self.now,
            steps: self.step,
            digest: self.digest,
            clears: self.judge.clears,
            truncates: self.judge.truncates,
            resumes: self.judge.resumes,
            connections: self.connections,
        }
    }

    /// All that is due now, each event as a wake-up of its own.
    fn turn(&mut self) {
        for leg in LEGS {
            self.arrivals(leg);
        }
        if self.command.is_some_and(|at| at <= self.now) {
            self.command = None;
            let reason = self
                .dice
                .pick(&[EndReason::HungUpByOperator, EndReason::Drained]);
            self.wake("an order to hang up", |world| {
                let now = at(world.now);
                world.session.handle_command(Command::HangUp(reason), now);
            });
        }
        while let Some(result) = self.tools.pop(self.now) {
            self.wake("a tool answers", |world| {
                world
                    .judge
                    .on_tool_answered(result.tool_call_id.as_str(), &result.output);
                world.session.handle_tool_result(result, at(world.now));
            });
        }
        if self.dial.as_ref().is_some_and(|(at, ..)| *at <= self.now) {
            self.dialled();
        }
        for leg in LEGS {
            self.sent(leg);
        }
        if self.is_due() {
            self.wake("a deadline", |world| {
                world.session.handle_timeout(at(world.now));
            });
            assert!(!self.is_due(), "a deadline stands that has passed");
        }
        self.peers();
    }

    fn is_due(&self) -> bool {
        self.session
            .poll_timeout()
            .is_some_and(|due| due <= at(self.now).mono)
    }

    /// One wake-up, then whatever it leads to.
    fn wake(&mut self, what: &str, f: impl FnOnce(&mut Self)) {
        self.step += 1;
        STEP.set((self.step, self.now));
        self.judge.begin_step(self.step, self.now);
        log!(self, "{what}");
        self.carrier_link.late |= self.carrier_link.in_flight.is_some();
        for (_, link) in self.models.iter_mut().flatten() {
            link.late |= link.in_flight.is_some();
        }
        f(self);
        self.drive();
        let blocked = self.carrier_link.in_flight.is_some()
            || !self.carrier_link.open
            || self.ended.is_some();
        let model_blocked = [Leg::Realtime, Leg::Standby].map(|leg| {
            let link = self.models[place(leg)].as_ref().map(|(_, link)| link);
            link.is_none_or(|link| link.in_flight.is_some() || !link.open || link.close_sent)
        });
        self.judge.end_step(blocked, model_blocked);
        // C17: the model's connection costs money.
        if self.told.is_some() {
            for (_, link) in self.models() {
                assert!(
                    !link.open || link.in_flight.is_some() || link.close_sent,
                    "the carrier is gone and the model's connection is not closed at once"
                );
            }
        }
        if self.ended.is_none() {
            for leg in LEGS {
                if self
                    .link(leg)
                    .is_some_and(|link| link.open && link.in_flight.is_none() && !link.close_sent)
                {
                    self.judge.pings_answered(leg);
                }
            }
        }
        assert!(
            self.session.held_bytes() <= 40_000,
            "more than 5 s of the caller are held"
        );
    }

    fn models(&self) -> impl Iterator<Item = &(Model, Link)> {
        self.models.iter().flatten()
    }

    fn link(&mut self, leg: Leg) -> Option<&mut Link> {
        match leg {
            Leg::Carrier => Some(&mut self.carrier_link),
            _ => self.models[place(leg)].as_mut().map(|(_, link)| link),
        }
    }

    fn arrivals(&mut self, leg: Leg) {
        let now = self.now;
        while let Some(link) = self.link(leg)
            && link.open
            && !link.finishing
            && let Some(arrival) = link.up.pop(now)
        {
            match arrival {
                Arrival::Bytes(bytes) => {
                    let what = format!("{} bytes from {leg:?}", bytes.len());
                    self.wake(&what, |world| world.input(leg, &bytes));
                }
                Arrival::End { broken } => {
                    link.open = false;
                    self.judge.on_left(leg);
                    let how = if broken { Closed::Broken } else { Closed::Eof };
                    self.wake(&format!("{leg:?} ends: {how:?}"), |world| {
                        if leg == Leg::Carrier {
                            world.told.get_or_insert(now);
                        }
                        world.session.handle_closed(leg, how, at(now));
                    });
                }
            }
        }
    }

    fn input(&mut self, leg: Leg, bytes: &[u8]) {
        self.carrier.catch_up(self.now);
        let waits = self.carrier.playback.waiting();
        let now = self.now;
        let link = match leg {
            Leg::Carrier => &mut self.carrier_link,
            _ => &mut self.models[place(leg)].as_mut().expect("its bytes came").1,
        };
        link.pending.extend_from_slice(bytes);
        link.delivered += bytes.len() as u64;
        while link
            .notes
            .front()
            .is_some_and(|(end, _)| *end <= link.delivered)
        {
            let (_, note) = link.notes.pop_front().expect("there is one");
            if matches!(note, Note::Gone) {
                self.told.get_or_insert(now);
            }
            let left = leg != Leg::Carrier && link.close_sent;
            self.judge.on_delivered(leg, &note, waits, left);
        }
        let used = self.session.handle_input(leg, &mut link.pending, at(now));
        assert!(used <= link.pending.len());
        link.pending.drain(..used);
    }

    fn sent(&mut self, leg: Leg) {
        let now = self.now;
        if let Some(link) = self.link(leg)
            && link.in_flight.is_some_and(|at| at <= now)
        {
            link.in_flight = None;
            if link.open {
                self.wake(&format!("{leg:?} has taken its send"), |world| {
                    world.session.handle_sent(leg, at(now));
                });
            }
        }
    }

    fn dialled(&mut self) {
        let (_, leg, script) = self.dial.take().expect("it is due");
        let now = self.now;
        if script.refuses_dial {
            self.wake("the dial fails", |world| {
                let outcome = Err(DialFailure {
                    text: "Refused.".to_owned(),
                    retry: script.refusal_passes,
                });
                world.session.handle_upstream(outcome, at(now));
            });
            return;
        }
        let weather = match self.calm {
            true => [Weather::calm(&mut self.dice), Weather::calm(&mut self.dice)],
            false => [Weather::any(&mut self.dice), Weather::any(&mut self.dice)],
        };
        log!(self, "model {script:?}, {weather:?}");
        let dice = Dice::new(self.dice.next());
        let model = Model::new(script, self.connections, dice, now, at(now).unix_ms);
        let slot = &mut self.models[place(leg)];
        if let Some((_, old)) = slot {
            assert!(!old.open, "two connections in one place");
            self.clean_model &= old.close_sent;
        }
        *slot = Some((model, Link::new(weather, true)));
        self.judge.on_connected(place(leg), self.connections);
        self.wake("connected to the model", |world| {
            world.session.handle_upstream(Ok(()), at(now));
        });
    }

    /// The shell's part: obeys, sends, reports, until nothing is left.
    fn drive(&mut self) {
        loop {
            let mut did = false;
            while let Some(intent) = self.session.poll_intent() {
                did = true;
                self.obey(intent);
            }
            while let Some(call) = self.session.poll_tool() {
                did = true;
                let (allowed, now) = (self.tool_allowed, self.now);
                self.tools.ask(&call, allowed, now, &mut self.judge);
            }
            for leg in LEGS {
                while self.transmit(leg) {
                    did = true;
                }
            }
            while let Some(fact) = self.session.poll_fact() {
                did = true;
                assert!(self.ended.is_none(), "a fact behind the end: {fact:?}");
                log!(self, "    {fact:?}");
                self.judge.on_fact(&fact);
                if let Fact::Ended { reason, stats } = fact {
                    assert_eq!(*stats, *self.session.stats(), "counts change after the end");
                    self.ended = Some(reason);
                    self.judge.on_ended(reason);
                }
            }
            if !did {
                return;
            }
        }
    }

    fn obey(&mut self, intent: Intent) {
        log!(self, "    {intent:?}");
        let now = self.now;
        match intent {
            Intent::Dial => self.dial(Leg::Realtime),
            Intent::Redial(leg) => self.dial(leg),
            Intent::CancelDial => self.dial = None,
            Intent::Distrust => {}
            Intent::Finish(leg) => {
                let link = self.link(leg).expect("a leg that exists is finished");
                assert!(link.open && !link.finishing, "{leg:?} is finished twice");
                link.finishing = true;
            }
            Intent::Abort(leg) => {
                let link = self.link(leg).expect("a leg that exists is aborted");
                assert!(link.open, "{leg:?} is aborted and was gone");
                link.open = false;
                link.in_flight = None;
                link.down.close(true, now);
                link.up.black = true;
            }
        }
    }

    fn dial(&mut self, leg: Leg) {
        assert!(self.dial.is_none(), "a dial on top of a dial");
        self.connections += 1;
        let mut dice = Dice::new(self.dice.next());
        let script = Script::draw(&mut dice, self.calm, self.connections > 1);
        if !script.never_answers_dial {
            self.dial = Some((self.now + script.dial_takes, leg, script));
        }
    }

    fn transmit(&mut self, leg: Leg) -> bool {
        let now = self.now;
        let link = match leg {
            Leg::Carrier => &mut self.carrier_link,
            _ => match &mut self.models[place(leg)] {
                Some((_, link)) => link,
                None => return false,
            },
        };
        if !link.open || link.in_flight.is_some() {
            return false;
        }
        let waiting = self.session.poll_transmit(leg, usize::MAX).len();
        self.judge.on_backlog(leg, waiting);
        let bytes = self.session.poll_transmit(leg, self.send_max);
        if bytes.is_empty() {
            link.late = false;
            if link.finishing {
                link.open = false;
                link.down.close(false, now);
                link.up.black = true;
            }
            return false;
        }
        let bytes = bytes.to_vec();
        assert!(bytes.len() <= self.send_max);
        self.session.handle_taken(leg, bytes.len(), at(now));
        link.taken_at = now;
        if link.frozen {
            link.in_flight = Some(u64::MAX);
        } else if self.stalls && self.dice.next().is_multiple_of(300) {
            link.in_flight = Some(now + self.dice.millis(1, 4_000));
        } else {
            self.session.handle_sent(leg, at(now));
        }
        for byte in bytes.iter().chain(&now.to_le_bytes()[..4]) {
            self.digest = (self.digest ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
        link.down.push(&bytes, now, &mut self.dice);
        self.carrier.catch_up(now);
        for (end, frame) in link.reader.read(&bytes) {
            let late = link.late;
            let playback = &self.carrier.playback;
            let stats = self.session.stats();
            let seen = self.judge.on_frame(leg, frame, late, playback, stats);
            if self.log && !matches!(seen, Seen::Append) {
                println!("                           to {leg:?}: {seen:?}");
            }
            if matches!(seen, Seen::Close(_)) {
                link.close_sent = true;
                self.judge.on_left(leg);
            }
            link.seen.push_back((end, seen));
        }
        true
    }

    /// The peers read what came, and do what their scripts say.
    fn peers(&mut self) {
        let now = self.now;
        let mut out = Vec::new();
        let link = &mut self.carrier_link;
        while let Some(arrival) = link.down.pop(now) {
            match arrival {
                Arrival::Bytes(bytes) => link.arrived += bytes.len() as u64,
                Arrival::End { broken: true } => link.up.close(true, now),
                Arrival::End { broken: false } => link.up.black = true,
            }
            while link
                .seen
                .front()
                .is_some_and(|(end, _)| *end <= link.arrived)
            {
                let (_, seen) = link.seen.pop_front().expect("there is one");
                self.carrier.handle(seen, now, &mut self.judge, &mut out);
            }
        }
        self.carrier.act(now, &mut self.judge, &mut out);
        give(
            link,
            &mut out,
            self.carrier.acts.drain(..),
            now,
            &mut self.dice,
            self.log,
            "carrier",
        );
        for (model, link) in self.models.iter_mut().flatten() {
            while let Some(arrival) = link.down.pop(now) {
                match arrival {
                    Arrival::Bytes(bytes) => link.arrived += bytes.len() as u64,
                    Arrival::End { broken: true } => link.up.close(true, now),
                    Arrival::End { broken: false } => link.up.black = true,
                }
                while link
                    .seen
                    .front()
                    .is_some_and(|(end, _)| *end <= link.arrived)
                {
                    let (_, seen) = link.seen.pop_front().expect("there is one");
                    model.handle(seen, now, &mut self.judge, &mut out);
                }
            }
            model.act(now, &mut self.judge, &mut out);
            give(
                link,
                &mut out,
                model.acts.drain(..),
                now,
                &mut self.dice,
                self.log,
                "model",
            );
        }
    }
}

/// Where a connection to the model stands.
fn place(leg: Leg) -> usize {
    match leg {
        Leg::Realtime => 0,
        _ => 1,
    }
}

fn at(us: u64) -> Now {
    Now {
        mono: Mono(BEGAN_NS) + Duration::from_micros(us),
        unix_ms: 1_700_000_000_000 + us / 1_000,
    }
}
