//! Drives a run: one thread, one ring, one reading of the clock for each wake-up. Shell.

use super::plan::Plan;
use super::ring::{Completion, Key, Ring};
use super::tally::{Live, Phase, Tally};
use super::world::{Order, Route, World};
use crate::transport::ServerConfig;
use rustix::time::{ClockId, clock_gettime};
use std::io;
use std::net::TcpListener;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The listener's key: no connection has this index.
const LISTENER: Key = Key {
    index: u32::MAX,
    generation: 0,
};
/// Without anything due, the loop looks around this often.
const TICK: Duration = Duration::from_millis(50);
/// Calls that end and close take at most this long; then they are given up.
const LAST_CALLS: Duration = Duration::from_secs(15);
/// How often the thread's own CPU time is read.
const CPU_EVERY: u64 = 100_000_000;
/// With so many calls arrivals are read in groups: else the generator's wake-ups cost more than its work.
const GATHER_CALLS: u32 = 300;
/// What that can add to a delay, at most; it counts against the relay.
const GATHER: Duration = Duration::from_micros(50);
/// Calls placed in one turn at most, so that a high rate does not keep frames waiting.
const PLACED_MAX: u32 = 16;

/// What a run came to.
#[derive(Debug)]
pub struct Ran {
    /// What was counted.
    pub tally: Tally,
    /// The measured time.
    pub window: Duration,
    /// `io_uring_enter` calls of the generator.
    pub enters: u64,
}

/// The calling thread's CPU time.
fn thread_cpu() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Runs a plan on the calling thread. `listener` is where relays find the model. Errs with one sentence when not even one
/// call could be set up, or when the ring fails.
pub fn run(
    plan: Plan,
    route: Route,
    listener: &TcpListener,
    model_tls: Option<Arc<ServerConfig>>,
    live: &Live,
) -> Result<Ran, String> {
    // Timers that may be fifty microseconds late would be most of what is measured. Refused: then so it is.
    let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
    let ring = Ring::new()
        .map_err(|error| format!("io_uring can't be set up: {error}; run `voxrelay check`"))?;
    let unix_s = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    listener
        .set_nonblocking(true)
        .map_err(|error| format!("the model's listener: {error}"))?;
    let mut driver = Driver {
        start: Instant::now(),
        ring,
        world: World::new(plan, route, model_tls, unix_s),
        listener,
        live,
        completions: Vec::with_capacity(1024),
        accept_again: None,
    };
    driver
        .go()
        .map_err(|error| format!("the generator's ring failed: {error}"))?;
    if let Some(why) = driver.world.fatal.take() {
        return Err(why);
    }
    let (from, to) = driver.world.tally.window;
    Ok(Ran {
        window: Duration::from_nanos(to.min(driver.now()).saturating_sub(from)),
        enters: driver.ring.enters,
        tally: driver.world.tally,
    })
}

/// The oldest and cheapest congestion control: a paced one (BBR) arms a timer for many sends, and loopback has no congestion.
pub(super) fn plain_congestion(socket: &socket2::Socket) {
    // Refused: then it is the system's own, and costs the generator more.
    let _ = socket.set_tcp_congestion(b"reno");
}

struct Driver<'a> {
    start: Instant,
    ring: Ring,
    world: World,
    listener: &'a TcpListener,
    live: &'a Live,
    completions: Vec<Completion>,
    /// No descriptors were left: the listener is asked again then.
    accept_again: Option<u64>,
}

impl Driver<'_> {
    fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    fn go(&mut self) -> io::Result<()> {
        self.ring
            .watch(self.listener.as_raw_fd(), LISTENER, false)?;
        let gap = (1e9 / self.world.plan.ramp.max(0.001)) as u64;
        let mut next_place = 0;
        let mut phase = Phase::Ramp;
        let mut phase_until = u64::MAX;
        let mut cpu_at = 0;
        self.world.tally.window = (u64::MAX, u64::MAX);
        loop {
            let now = self.now();
            if self.world.fatal.is_some() {
                break;
            }
            if phase < Phase::Drain {
                let mut placed = 0;
                while next_place <= now && self.may_place() && placed < PLACED_MAX {
                    self.world.place(now);
                    placed += 1;
                    next_place = next_place.max(now.saturating_sub(gap * 20)) + gap;
                }
            }
            let start = self.start;
            self.world
                .handle_timers(now, || start.elapsed().as_nanos() as u64);
            self.flush()?;
            if now >= cpu_at {
                cpu_at = now + CPU_EVERY;
                self.live.cpu.store(thread_cpu(), Ordering::Relaxed);
                let p99 = self.world.tally.lateness.quantiles().p99;
                self.live
                    .late
                    .store(p99.as_nanos() as u64, Ordering::Relaxed);
            }
            if self.live.stop.load(Ordering::Relaxed) && phase < Phase::Drain {
                phase_until = now;
                phase = Phase::Hold;
            }
            match phase {
                Phase::Ramp if self.is_up() => {
                    if phase_until == u64::MAX {
                        phase_until = now + self.world.plan.settle.as_nanos() as u64;
                    } else if now >= phase_until {
                        phase = Phase::Hold;
                        phase_until = now + self.world.plan.hold.as_nanos() as u64;
                        let end = match self.world.plan.churn {
                            Some(churn) if churn.total > 0 => {
                                phase_until = u64::MAX;
                                u64::MAX
                            }
                            Some(_) => phase_until,
                            None => {
                                self.world.stop_at(phase_until);
                                phase_until
                            }
                        };
                        self.world.tally.window = (now, end);
                        self.live.enter(phase);
                    }
                }
                Phase::Hold if now >= phase_until || self.is_churned() => {
                    let (from, to) = self.world.tally.window;
                    self.world.tally.window = (from.min(now), to.min(now));
                    self.world.stop_at(now);
                    phase = Phase::Drain;
                    phase_until = now + LAST_CALLS.as_nanos() as u64;
                    self.live.enter(phase);
                }
                Phase::Drain if self.world.open_calls() == 0 || now >= phase_until => break,
                _ => {}
            }
            self.publish();
            let mut wait = TICK;
            let dues = [
                self.world.next_timer(),
                (phase < Phase::Drain && self.may_place()).then_some(next_place),
                (phase_until < u64::MAX).then_some(phase_until),
                self.accept_again,
            ];
            if let Some(due) = dues.into_iter().flatten().min() {
                wait = wait.min(Duration::from_nanos(due.saturating_sub(self.now())));
            }
            self.turn(wait)?;
        }
        self.world.give_up();
        // Close frames and shutdowns that were just queued go out.
        self.flush()?;
        self.turn(Duration::ZERO)?;
        self.live.cpu.store(thread_cpu(), Ordering::Relaxed);
        self.publish();
        self.live.enter(Phase::Done);
        Ok(())
    }

    /// Whether another call is to be placed, now or soon.
    fn may_place(&self) -> bool {
        let placed = self.world.tally.placed;
        self.world.has_room()
            && match self.world.plan.churn {
                Some(churn) => churn.total == 0 || placed < churn.total,
                None => placed < u64::from(self.world.plan.calls),
            }
    }

    /// Whether all calls are placed and answered; with churn, whether the first wave is.
    fn is_up(&self) -> bool {
        let placed = self.world.tally.placed;
        let is_placed = placed >= u64::from(self.world.plan.calls);
        match self.world.plan.churn {
            Some(churn) => is_placed || !self.world.has_room() || placed == churn.total,
            None => is_placed && self.world.pending() == 0,
        }
    }

    /// Whether all calls of a churn with a total are over.
    fn is_churned(&self) -> bool {
        let total = self.world.plan.churn.map_or(0, |churn| churn.total);
        total > 0 && self.world.tally.placed >= total && self.world.open_calls() == 0
    }

    fn publish(&self) {
        let tally = &self.world.tally;
        self.live.calls.store(self.world.live, Ordering::Relaxed);
        self.live
            .placed
            .store(tally.placed as u32, Ordering::Relaxed);
        self.live.ended.store(tally.ended as u32, Ordering::Relaxed);
        self.live.up.store(tally.up_received, Ordering::Relaxed);
        self.live.down.store(tally.down_received, Ordering::Relaxed);
        self.live
            .faults
            .store(tally.faults.total(), Ordering::Relaxed);
    }

    /// Waits, and handles what came.
    fn turn(&mut self, wait: Duration) -> io::Result<()> {
        let mut completions = std::mem::take(&mut self.completions);
        let gather = (self.world.live >= GATHER_CALLS).then_some(GATHER);
        self.ring.wait(wait, gather, &mut completions)?;
        // All of these were there when the wait returned: that is when they arrived.
        let now = self.now();
        for completion in completions.drain(..) {
            match completion {
                Completion::Ready(LISTENER) => self.accept(now)?,
                Completion::Ready(key) => self.world.handle_connected(key),
                Completion::Received {
                    key,
                    buffer,
                    len,
                    more,
                } => {
                    let bytes = self.ring.take(buffer, len);
                    self.world.handle_bytes(key, bytes, now);
                    self.ring.give_back(buffer);
                    if !more {
                        self.world.rearm(key);
                    }
                }
                Completion::Ended(key, result) => self.world.handle_ended(key, result),
                Completion::Sent { key, bytes, error } => {
                    self.world.handle_sent(key, bytes, error);
                }
            }
        }
        self.completions = completions;
        if self.accept_again.is_some_and(|at| at <= now) {
            self.accept_again = None;
            self.accept(now)?;
        }
        self.flush()
    }

    fn accept(&mut self, now: u64) -> io::Result<()> {
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    // Without it each event waits for the peer's acknowledgement; nobody would believe such times.
                    stream.set_nodelay(true)?;
                    plain_congestion(&socket2::SockRef::from(&stream));
                    self.world.accept(stream.into());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    self.accept_again = Some(now + TICK.as_nanos() as u64);
                    return Ok(());
                }
            }
        }
    }

    /// Arms what is to be armed and submits what is to be sent.
    fn flush(&mut self) -> io::Result<()> {
        for order in std::mem::take(&mut self.world.orders) {
            match order {
                Order::Connect(fd, key) => self.ring.watch(fd, key, true)?,
                Order::Receive(fd, key) => self.ring.receive(fd, key)?,
            }
        }
        let mut dirty = std::mem::take(&mut self.world.dirty);
        for index in dirty.drain(..) {
            let Some(conn) = self.world.at(index) else {
                continue;
            };
            conn.wire.is_dirty = false;
            if !conn.wire.can_send() {
                continue;
            }
            // A connection whose TLS failed has said so when its bytes were read.
            if let Ok(bytes) = conn.wire.take_send() {
                let (fd, key) = (conn.fd.as_raw_fd(), conn.wire.key);
                self.ring.send(fd, key, bytes)?;
            }
        }
        self.world.dirty = dirty;
        Ok(())
    }
}
