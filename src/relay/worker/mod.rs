//! A worker: one thread, one ring, its calls from hand-over to end. Shell, and no async: nothing is lost by
//! cancellation, and the clock is read once per wake-up.
//!
//! ```text
//! loop {
//!     wait ── completions ──► receive: open, unmask, Session::handle_input      (every frame)
//!                             send done: Session::handle_sent
//!                             wake: orders from the inbox
//!     deadlines that are due: Session::handle_timeout
//!     every call that was touched, once: intents, sends, facts, next deadline
//! }
//! ```
//!
//! Because a touched call is served once per wake-up, frames that arrive together leave together: in one record
//! and one send per leg. A call's panic is caught here and ends that call alone; any other panic aborts.

mod buffer;
pub mod cores;
mod deadline;
mod echo;
mod idle;
mod leg;
mod pulse;
pub mod ring;
mod shared;
mod table;
#[cfg(test)]
mod tests;
mod upstream;

use crate::base::id::{CallId, SlotKey, WorkerId};
use crate::base::limit;
use crate::base::time::Clock;
use crate::bus::command::{CallTurns, DeskSender, ToDesk, ToWorker, WorkerInbox};
use crate::bus::report::ReportSender;
use crate::bus::tool::ToolSender;
use crate::call::session::{Closed, Command, Session};
use crate::call::{DialFailure, EndReason, Fact, Leg, Stats};
use crate::telemetry::allocation;
use crate::telemetry::meter::{WorkerMeter, WorkerStats};
use crate::transport::clock::SystemClock;
use deadline::Deadlines;
use echo::Echo;
use leg::{CarryPool, Phase, Sending};
use pulse::Pulse;
pub use pulse::Tuning;
use ring::{Completion, LegKey, Ring, Tag};
use shared::{Shared, index_of, leg_of};
use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::JoinHandle;
use std::time::Duration;
use table::{Driver, Life, Table};

/// Provided receive buffers for carrier legs: a 20 ms frame is 390 bytes, a burst of five fits one.
const CARRIER_BUFFERS: (u16, usize) = (2048, 2 * 1024);
/// And for model legs: one whole TLS record fits one.
const REALTIME_BUFFERS: (u16, usize) = (256, limit::TLS_RECORD_BYTES_MAX.next_multiple_of(1024));
/// How often totals are published.
const TICK: Duration = Duration::from_secs(1);
/// Sends that are measured in one turn without another allocation: every leg of a full worker.
const LEAVING: usize = 8 * 1024;
/// What a carrier leg may bring in one tick: 130 times real time. Past it, the leg is not read until the next tick, so
/// that a flood waits in its own socket and not in everybody's worker.
const CARRIER_BYTES_PER_TICK: usize = 1024 * 1024;
/// How long a finished leg waits for the peer's end.
const LINGER: Duration = Duration::from_secs(1);
/// How long a leg may take to send what was queued when it was told to finish.
const FINISH: Duration = limit::WRITE_STALL_DEADLINE;
/// What a worker that stops tells the calls that were not told before.
const STOPPED: Command = Command::HangUp(EndReason::Drained);

/// What a worker is given.
#[derive(Debug)]
pub struct Parts {
    /// Its number.
    pub id: WorkerId,
    /// Its orders.
    pub inbox: WorkerInbox,
    /// Where dials are asked for.
    pub desk: DeskSender,
    /// Where facts go.
    pub reports: ReportSender,
    /// Where tools are asked for.
    pub tools: ToolSender,
    /// The process's clock.
    pub clock: SystemClock,
    /// What its legs together may hold in grown buffers: this worker's part of `limit::GROWN_BYTES_BUDGET`.
    pub grown_bytes_max: usize,
    /// How it is run.
    pub tuning: Tuning,
}

/// Starts a worker's thread; returns once its ring is set up, or with the reason why it can't be.
pub fn start(parts: Parts) -> io::Result<JoinHandle<()>> {
    let (ready, is_ready) = std::sync::mpsc::sync_channel(1);
    let thread = std::thread::Builder::new()
        .name(format!("worker-{}", parts.id.0))
        .spawn(move || {
            if let Some(core) = parts.tuning.core
                && let Err(error) = cores::stay(&[core])
            {
                // Then the kernel places it, and calls go on.
                tracing::warn!(
                    worker = parts.id.0,
                    core,
                    "a worker can't be pinned: {error}"
                );
            }
            // The ring belongs to the thread that made it, so it is made here.
            let worker = match Worker::new(parts) {
                Ok(worker) => {
                    let _ = ready.send(Ok(()));
                    worker
                }
                Err(error) => {
                    let _ = ready.send(Err(error));
                    return;
                }
            };
            let id = worker.shared.id;
            let outcome = catch_unwind(AssertUnwindSafe(move || worker.run()));
            let cause = match outcome {
                Ok(Ok(())) => return,
                Ok(Err(error)) => format!("ring failed: {error}"),
                Err(_) => "panic outside a call".to_owned(),
            };
            // Its calls can't be served any more, and nobody else may touch their sockets: stop the process, so that
            // the service manager starts a whole one.
            tracing::error!(worker = id.0, cause, "worker failed; aborting");
            eprintln!("voxrelay: worker {} failed ({cause}); aborting", id.0);
            std::process::abort();
        })?;
    is_ready
        .recv()
        .map_err(|_| io::Error::other("the worker's thread ended at once"))??;
    Ok(thread)
}

struct Worker {
    shared: Shared,
    table: Table,
    deadlines: Deadlines,
    inbox: WorkerInbox,
    clock: SystemClock,
    /// Calls touched in this wake-up.
    touched: Vec<SlotKey>,
    pulse: Pulse,
    stopping: bool,
}

impl Worker {
    fn new(parts: Parts) -> io::Result<Self> {
        let mut ring = Ring::new([CARRIER_BUFFERS, REALTIME_BUFFERS])?;
        ring.watch(parts.inbox.wake_fd())?;
        let now = parts.clock.now();
        Ok(Self {
            shared: Shared {
                id: parts.id,
                ring,
                scratch: Vec::with_capacity(2 * limit::TLS_RECORD_BYTES_MAX),
                pool: CarryPool::default(),
                desk: parts.desk,
                reports: parts.reports,
                tools: parts.tools,
                desk_waiting: VecDeque::new(),
                meter: WorkerMeter::new(parts.id),
                stats: WorkerStats::default(),
                ended: Stats::default(),
                now,
                starved: Vec::new(),
                leaving: Vec::with_capacity(LEAVING),
                grown_bytes: 0,
                idles: idle::Idles::default(),
                grown_bytes_max: parts.grown_bytes_max,
            },
            table: Table::default(),
            deadlines: Deadlines::default(),
            inbox: parts.inbox,
            clock: parts.clock,
            touched: Vec::new(),
            pulse: Pulse::new(parts.id, parts.tuning, now.mono),
            stopping: false,
        })
    }

    fn run(mut self) -> io::Result<()> {
        let mut completions: Vec<Completion> = Vec::with_capacity(4096);
        let mut next_tick = self.shared.now.mono + TICK;
        loop {
            let due = self
                .deadlines
                .next()
                .map_or(next_tick, |at| at.min(next_tick));
            let due = self.pulse.bound(due);
            self.note_leaving();
            let gather = self.pulse.gather();
            let timeout = due.since(self.shared.now.mono);
            self.shared.ring.wait(timeout, gather, &mut completions)?;
            self.shared.now = self.clock.now();
            self.pulse
                .woke(completions.len(), due, self.shared.now.mono);
            self.shared.stats.wakeups += 1;
            self.shared.stats.completions += completions.len() as u64;
            self.shared.stats.gathered_waits += u64::from(gather.is_some());
            for completion in completions.drain(..) {
                match completion.tag {
                    Tag::Receive(key) => self.on_receive(key, completion)?,
                    Tag::Send(key) => self.on_send(key, completion)?,
                    Tag::Wake => {
                        if !completion.more {
                            self.shared.ring.watch(self.inbox.wake_fd())?;
                        }
                        self.inbox.clear();
                        while let Some(order) = self.inbox.next() {
                            self.on_order(order);
                        }
                    }
                    Tag::Cancel => {}
                }
            }
            while let Some((at, key)) = self.deadlines.pop_due(self.shared.now.mono) {
                self.on_deadline(key, at);
            }
            for at in 0..self.touched.len() {
                self.serve(self.touched[at])?;
            }
            self.touched.clear();
            self.settle_idle()?;
            self.rearm_starved()?;
            self.inbox
                .load()
                .set_live(self.table.len() - self.shared.idles.lives);
            self.shared.flush_desk();
            if self.shared.now.mono >= next_tick {
                next_tick = self.shared.now.mono + TICK;
                self.publish();
            }
            if self.stopping && self.table.is_empty() {
                self.publish();
                debug_assert_eq!(self.shared.ring.slots().lent(), 0, "every slot is home");
                return Ok(());
            }
        }
    }

    /// What was put into sends in this turn is submitted by the wait that follows: how long each was with us. The clock is
    /// read once more for it, and only where there is something to measure.
    fn note_leaving(&mut self) {
        if self.shared.leaving.is_empty() {
            return;
        }
        let now = self.clock.now().mono;
        for (direction, since) in self.shared.leaving.drain(..) {
            self.pulse.left(direction, since, now);
        }
    }

    fn touch(touched: &mut Vec<SlotKey>, life: &mut Life) {
        if !life.touched {
            life.touched = true;
            touched.push(life.key);
        }
    }

    fn on_receive(&mut self, key: LegKey, completion: Completion) -> io::Result<()> {
        let shared = &mut self.shared;
        let found = self.table.find_leg(key);
        let Some(life) = found else {
            // A stale completion still brings its buffer home.
            if let Some(buffer) = completion.buffer {
                let group = shared.ring.group(key.leg);
                group.take(buffer, 0);
                group.give_back(buffer);
            }
            return Ok(());
        };
        shared.stats.receives += 1;
        let which = leg_of(key.leg);
        let leg = life.legs[key.leg as usize]
            .as_mut()
            .expect("found by its key");
        let mut was_cancelled = leg.paused_until.is_some();
        if !completion.more {
            leg.receiving = false;
            was_cancelled |= std::mem::take(&mut leg.cancelling);
        }
        if let Ok(bytes @ 1..) = usize::try_from(completion.result)
            && which == Leg::Carrier
            && matches!(life.driver, Driver::Call(_))
            && leg.is_flooding(bytes, shared.now.mono)
        {
            leg.paused_until = Some(shared.now.mono + TICK);
            shared.stats.legs_paused += 1;
            if leg.receiving {
                shared.ring.cancel_receive(key)?;
            }
        }
        let mut gone = None;
        if let Some(buffer) = completion.buffer {
            let len = completion.result.max(0) as usize;
            if leg.phase == Phase::Open && len > 0 {
                let bytes = shared.ring.group(key.leg).take(buffer, len);
                let (driver, now) = (&mut life.driver, shared.now);
                let outcome = catch_unwind(AssertUnwindSafe(|| {
                    leg.receive(bytes, &mut shared.scratch, &mut shared.pool, |plain| {
                        driver.handle_input(which, plain, now)
                    })
                }));
                match outcome {
                    Ok(Ok(received)) if received.closed => gone = Some(Closed::Eof),
                    Ok(Ok(_)) => {}
                    Ok(Err(error)) => {
                        shared.on_tls_error(life.call_id, which, &error);
                        gone = Some(Closed::Broken);
                    }
                    Err(_) => shared.on_panic(life),
                }
            } else {
                shared.ring.group(key.leg).take(buffer, 0);
            }
            shared.ring.group(key.leg).give_back(buffer);
        }
        match completion.result {
            0 => gone = Some(Closed::Eof),
            error if error < 0 => match -error {
                libc::ENOBUFS => {
                    // Only a want of all of them is worth a count.
                    let more = shared.ring.lend_more(key.leg);
                    shared.stats.buffers_exhausted += u64::from(!more);
                    shared.starved.push(key);
                }
                libc::EINTR | libc::EAGAIN => {}
                // We ended the receive ourselves: the leg brought too much at once, or a call wanted it.
                libc::ECANCELED if was_cancelled => {}
                _ => gone = Some(Closed::Broken),
            },
            _ => {}
        }
        if shared.is_over_budget(life, which) {
            tracing::warn!(call_id = %life.call_id, leg = ?which, "unfinished messages hold too much memory");
            gone = Some(Closed::Broken);
        }
        if let Some(how) = gone {
            shared.on_gone(life, which, how);
        }
        Self::touch(&mut self.touched, life);
        if life.driver.is_urgent() {
            let slot = life.key;
            self.hasten(slot)?;
        }
        Ok(())
    }

    fn on_send(&mut self, key: LegKey, completion: Completion) -> io::Result<()> {
        let shared = &mut self.shared;
        // A leg is freed only after its last completion, so a send always finds its leg.
        let Some(life) = self.table.find_leg(key) else {
            return Ok(());
        };
        let which = leg_of(key.leg);
        let leg = life.legs[key.leg as usize]
            .as_mut()
            .expect("found by its key");
        let sending = leg.sending.take().expect("one send in flight");
        let sent = completion.result;
        if sent > 0 && sending.start + (sent as usize) < sending.end && leg.phase != Phase::Retired
        {
            // A signal cut it short: the rest goes before anything else.
            let start = sending.start + sent as usize;
            shared
                .ring
                .send(leg.raw_fd(), key, sending.slot, start, sending.end - start)?;
            leg.sending = Some(Sending { start, ..sending });
            return Ok(());
        }
        shared.ring.slots().give_back(sending.slot);
        if sent <= 0 {
            shared.on_gone(life, which, Closed::Broken);
        } else if sending.of_session {
            let (driver, now) = (&mut life.driver, shared.now);
            if catch_unwind(AssertUnwindSafe(|| driver.handle_sent(which, now))).is_err() {
                shared.on_panic(life);
            }
        }
        Self::touch(&mut self.touched, life);
        if life.driver.is_urgent() {
            let slot = life.key;
            self.hasten(slot)?;
        }
        Ok(())
    }

    /// An interruption does not wait for what else this wake-up brought: the call is served, and its `clear` is submitted, now.
    /// Behind a send that is under way it goes with that one's completion.
    fn hasten(&mut self, key: SlotKey) -> io::Result<()> {
        let carrier = |life: &mut Life| {
            let leg = life.legs[index_of(Leg::Carrier)].as_ref();
            leg.is_some_and(|leg| leg.sending.is_none())
        };
        if self.table.find(key).is_some_and(carrier) {
            self.serve(key)?;
            self.shared.ring.submit()?;
        }
        Ok(())
    }

    fn on_deadline(&mut self, key: SlotKey, at: crate::base::time::Mono) {
        let Some(life) = self.table.find(key) else {
            return;
        };
        if life.armed != Some(at) {
            return;
        }
        life.armed = None;
        let now = self.shared.now;
        for leg in life.legs.iter_mut().flatten() {
            if leg.phase.until().is_some_and(|until| until <= now.mono) {
                leg.phase = Phase::Retired;
                leg.shut_both();
            }
            leg.paused_until = leg.paused_until.filter(|until| *until > now.mono);
        }
        let driver = &mut life.driver;
        if catch_unwind(AssertUnwindSafe(|| driver.handle_timeout(now))).is_err() {
            self.shared.on_panic(life);
        }
        Self::touch(&mut self.touched, life);
    }

    fn on_order(&mut self, order: ToWorker) {
        let now = self.shared.now;
        match order {
            ToWorker::Adopt { setup, carrier } => {
                let (call_id, mode) = (setup.call_id, setup.mode);
                let life = self
                    .table
                    .insert(call_id, Driver::Call(Box::new(Session::new(*setup, now))));
                let admitted = Fact::Admitted { mode };
                let reported_end = &mut life.reported_end;
                self.shared.send_report(call_id, admitted, reported_end);
                self.shared.install(life, Leg::Carrier, *carrier);
                if self.stopping {
                    // It was admitted at the last moment: nobody else would end it.
                    life.driver.handle_command(STOPPED, now);
                }
                Self::touch(&mut self.touched, life);
            }
            ToWorker::Echo { leg, role, done } => {
                let echo = Echo::new(role, entropy(), done);
                let Some(call_id) = CallId::new("echo") else {
                    return;
                };
                let life = self.table.insert(call_id, Driver::Echo(Box::new(echo)));
                self.shared.install(life, Leg::Carrier, *leg);
                Self::touch(&mut self.touched, life);
            }
            ToWorker::Upstream {
                slot,
                leg,
                dial,
                outcome,
            } => {
                // The call may have ended while the desk dialled, or given the dial up, or have asked for another since: then
                // the desk closes the leg, in order.
                let wanted =
                    |life: &&mut Life| !life.reported_end && life.dialling && life.dials == dial;
                let Some(life) = self.table.find(slot).filter(wanted) else {
                    self.shared.stats.dials_stale += 1;
                    if let Ok(upstream) = outcome {
                        self.shared.tell_desk(ToDesk::Discard { upstream });
                    }
                    return;
                };
                life.dialling = false;
                self.shared.idles.answered(life.call_id);
                let index = index_of(leg);
                let (mut answer, mut connection) = match outcome {
                    Ok(connection) => (Ok(()), Some(connection)),
                    Err(why) => (Err(why), None),
                };
                if let (Some(_), Some(old)) = (&connection, &mut life.legs[index]) {
                    // What is closed there takes its time: no more of it, and the call tries again.
                    old.phase = Phase::Retired;
                    old.shut_both();
                    connection = None;
                    answer = Err(DialFailure {
                        text: "its place is taken".to_owned(),
                        retry: true,
                    });
                }
                let driver = &mut life.driver;
                if catch_unwind(AssertUnwindSafe(|| driver.handle_upstream(answer, now))).is_err() {
                    self.shared.on_panic(life);
                } else if let Some(connection) = connection
                    && !life.driver.is_finished()
                {
                    self.shared.install(life, leg, *connection);
                }
                Self::touch(&mut self.touched, life);
            }
            ToWorker::Idle {
                upstream,
                call_id,
                endpoint,
                life,
            } => self.on_idle(*upstream, call_id, endpoint, life),
            ToWorker::DropIdle { call_id } => self.drop_idle(call_id),
            ToWorker::ToolResult { slot, result } => {
                // The call may have ended meanwhile.
                let Some(life) = self.table.find(slot) else {
                    return;
                };
                let driver = &mut life.driver;
                let outcome = AssertUnwindSafe(|| driver.handle_tool_result(result, now));
                if catch_unwind(outcome).is_err() {
                    self.shared.on_panic(life);
                }
                Self::touch(&mut self.touched, life);
            }
            ToWorker::Call { call_id, command } => {
                for life in self.table.lives().filter(|life| life.call_id == call_id) {
                    life.driver.handle_command(command, now);
                    Self::touch(&mut self.touched, life);
                }
            }
            ToWorker::All { command } => {
                for life in self.table.lives() {
                    life.driver.handle_command(command, now);
                    Self::touch(&mut self.touched, life);
                }
            }
            ToWorker::Turns { call_id, answer } => {
                let turns = self
                    .table
                    .lives()
                    .filter(|life| life.call_id == call_id)
                    .find_map(|life| life.driver.turns());
                // Whoever asked may have given up.
                let _ = answer.send(turns.map(|turns| CallTurns { at: now, turns }));
            }
            ToWorker::Stop => {
                self.stopping = true;
                for life in self.table.lives() {
                    life.driver.handle_command(STOPPED, now);
                    Self::touch(&mut self.touched, life);
                }
            }
        }
    }

    /// After everything that arrived for a call: obeys its intents, sends, reports, arms its next deadline.
    fn serve(&mut self, key: SlotKey) -> io::Result<()> {
        let Some(life) = self.table.find(key) else {
            return Ok(());
        };
        life.touched = false;
        let shared = &mut self.shared;
        shared.note_idle(life);
        shared.obey(life);
        shared.ask_tools(life);
        for index in 0..life.legs.len() {
            shared.transmit(life, index)?;
        }
        shared.report(life);
        for index in 0..life.legs.len() {
            shared.settle(life, index)?;
        }
        if life.driver.is_finished() && life.legs.iter().all(Option::is_none) {
            shared.on_ended(life);
            self.table.remove(key);
            return Ok(());
        }
        let legs = life.legs.iter().flatten();
        let own = legs.flat_map(|leg| [leg.phase.until(), leg.paused_until]);
        let at = own.flatten().chain(life.driver.poll_timeout()).min();
        let mut armed = life.armed;
        self.deadlines.arm(key, at, &mut armed);
        life.armed = armed;
        Ok(())
    }

    fn rearm_starved(&mut self) -> io::Result<()> {
        for at in 0..self.shared.starved.len() {
            let key = self.shared.starved[at];
            if let Some(life) = self.table.find_leg(key) {
                self.shared.settle(life, key.leg as usize)?;
            }
        }
        self.shared.starved.clear();
        Ok(())
    }

    fn publish(&mut self) {
        let mut sum = self.shared.ended.clone();
        let stats = &mut self.shared.stats;
        stats.calls_active = 0;
        stats.upstream_open = 0;
        stats.carry_bytes = 0;
        stats.idle_now = self.shared.idles.waiting();
        for life in self.table.lives() {
            if let Driver::Call(session) = &life.driver {
                sum.add(session.stats());
                stats.calls_active += 1;
                stats.upstream_open += life.legs[1..].iter().flatten().count() as u64;
            }
            stats.carry_bytes += life
                .legs
                .iter()
                .flatten()
                .map(|leg| leg.carry_bytes() as u64)
                .sum::<u64>();
        }
        stats.enters = self.shared.ring.enters;
        let live = self.table.len() - self.shared.idles.lives;
        let load = self.pulse.tick(live, self.shared.now.mono);
        self.inbox.load().set_measured(&load);
        stats.busy_permille = u64::from(load.busy_permille);
        stats.overloaded = u64::from(load.overload.is_some());
        (stats.allocations, stats.tls_allocations) = allocation::of_thread();
        let frames = sum.carrier_messages_out + sum.realtime_messages_out;
        stats.measure_joining(frames);
        stats.buffers_free = (0..2)
            .map(|id| self.shared.ring.group(id).lent as u64)
            .sum();
        self.shared.meter.publish(&self.shared.stats, &sum);
    }
}

/// 32 bytes from the system.
fn entropy() -> [u8; 32] {
    let mut seed = [0; 32];
    // Without entropy no mask key is safe; the kernel has had some since early boot.
    getrandom::fill(&mut seed).expect("the kernel's random source");
    seed
}
