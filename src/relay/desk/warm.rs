//! The warm pool: so many connections to the model wait at each worker for calls that nobody announced, or whose own
//! connection is not there yet (`realtime.warm_pool`).
//!
//! `Pool` decides and knows no socket; the task beside it dials and hands on. What a worker reports as over is dialled anew:
//! a bounded number at a time, after a failure one at a time and with doubling waits under full jitter. A refusal that
//! lasts (key, quota, unknown model) stops everything for a minute, or until the next reload. A connection that dies young
//! counts as a failure too: an endpoint that accepts and then closes must not be dialled in a loop.

use super::Desk;
use super::dial::{Cancel, DialError, attempts, discard};
use crate::base::id::{CallId, WorkerId};
use crate::bus::command::{IdleEnd, ToWorker};
use crate::transport::Established;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Dials under way at once, all workers together: a pool of 64 is full again within a few round trips.
const PARALLEL: usize = 8;
/// After the first failure; doubled with each that follows.
const WAIT_MIN: Duration = Duration::from_millis(500);
const WAIT_MAX: Duration = Duration::from_secs(30);
/// After a refusal that lasts.
const REFUSED_WAIT: Duration = Duration::from_secs(60);
/// A connection that the model ends before this age was never any good.
pub(super) const YOUNG: Duration = Duration::from_secs(30);
/// So long without a failure and the count of them begins anew.
const FORGIVEN: Duration = Duration::from_secs(60);

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// Dial for this worker; `on_dialled` or `on_failed` follows.
    Dial(WorkerId),
    /// Nothing before then.
    Wait(Instant),
    /// Nothing until something happens.
    Rest,
}

/// How a dial came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    Passing,
    Lasting,
}

#[derive(Clone, Copy, Debug, Default)]
struct Stock {
    waiting: usize,
    dialling: usize,
}

/// Who has how many, and when the next may be dialled.
#[derive(Debug)]
struct Pool {
    /// For each worker.
    target: usize,
    stocks: Vec<Stock>,
    failures: u32,
    failed_at: Option<Instant>,
    not_before: Option<Instant>,
    draining: bool,
}

impl Pool {
    fn new(target: usize, workers: usize) -> Self {
        Self {
            target,
            stocks: vec![Stock::default(); workers],
            failures: 0,
            failed_at: None,
            not_before: None,
            draining: false,
        }
    }

    fn next(&mut self, now: Instant) -> Next {
        let lacks = |stock: &&Stock| stock.waiting + stock.dialling < self.target;
        if self.draining || !self.stocks.iter().any(|stock| lacks(&stock)) {
            return Next::Rest;
        }
        if let Some(at) = self.not_before.filter(|at| *at > now) {
            return Next::Wait(at);
        }
        if self.failed_at.is_some_and(|at| now >= at + FORGIVEN) {
            self.forgive();
        }
        let dialling: usize = self.stocks.iter().map(|stock| stock.dialling).sum();
        let parallel = if self.failures > 0 { 1 } else { PARALLEL };
        if dialling >= parallel {
            return Next::Rest;
        }
        // The emptiest first, so that no worker waits for another's last.
        let emptiest = (0..self.stocks.len())
            .min_by_key(|&i| self.stocks[i].waiting + self.stocks[i].dialling);
        let Some(index) = emptiest else {
            return Next::Rest;
        };
        self.stocks[index].dialling += 1;
        Next::Dial(WorkerId(index as u16))
    }

    fn stock(&mut self, worker: WorkerId) -> &mut Stock {
        &mut self.stocks[usize::from(worker.0)]
    }

    fn on_dialled(&mut self, worker: WorkerId) {
        let stock = self.stock(worker);
        stock.dialling -= 1;
        stock.waiting += 1;
    }

    /// `dice`: any number.
    fn on_failed(&mut self, worker: WorkerId, failure: Failure, now: Instant, dice: u32) {
        self.stock(worker).dialling -= 1;
        self.back_off(failure, now, dice);
    }

    fn back_off(&mut self, failure: Failure, now: Instant, dice: u32) {
        let wait = match failure {
            Failure::Lasting => REFUSED_WAIT,
            Failure::Passing => {
                let bound = WAIT_MIN
                    .saturating_mul(1 << self.failures.min(16))
                    .min(WAIT_MAX);
                // Half of it at least, so that a dead endpoint is not asked at once by chance.
                bound / 2 + (bound / 2).mul_f64(f64::from(dice) / f64::from(u32::MAX))
            }
        };
        self.failures += 1;
        self.failed_at = Some(now);
        let at = now + wait;
        self.not_before = Some(self.not_before.map_or(at, |standing| standing.max(at)));
    }

    /// A wait for a call is over.
    fn on_over(&mut self, worker: WorkerId, how: IdleEnd, age: Duration, now: Instant, dice: u32) {
        let Some(stock) = self.stocks.get_mut(usize::from(worker.0)) else {
            return;
        };
        stock.waiting = stock.waiting.saturating_sub(1);
        match how {
            IdleEnd::Lost if age < YOUNG => self.back_off(Failure::Passing, now, dice),
            IdleEnd::Adopted | IdleEnd::Expired | IdleEnd::Lost => {}
            IdleEnd::Cancelled | IdleEnd::Drained => {}
        }
    }

    fn forgive(&mut self) {
        self.failures = 0;
        self.failed_at = None;
        self.not_before = None;
    }
}

/// The pool, and who is told when it changes.
#[derive(Debug)]
pub(super) struct Warm {
    pool: RefCell<Pool>,
    changed: Notify,
    cancels: RefCell<Vec<Rc<Cancel>>>,
}

impl Warm {
    pub(super) fn new(target: usize, workers: usize) -> Self {
        Self {
            pool: RefCell::new(Pool::new(target, workers)),
            changed: Notify::new(),
            cancels: RefCell::default(),
        }
    }

    /// `ToDesk::IdleOver` of a warm connection.
    pub(super) fn on_over(&self, worker: WorkerId, how: IdleEnd, age: Duration) {
        let mut pool = self.pool.borrow_mut();
        pool.on_over(worker, how, age, Instant::now(), dice());
        self.changed.notify_one();
    }

    /// A reload: what was refused may be right now.
    pub(super) fn reload(&self) {
        self.pool.borrow_mut().forgive();
        self.changed.notify_one();
    }

    /// Nothing more is dialled.
    pub(super) fn drain(&self) {
        self.pool.borrow_mut().draining = true;
        for cancel in self.cancels.take() {
            cancel.give();
        }
        self.changed.notify_one();
    }
}

/// Keeps the pool full until the daemon drains.
pub(super) async fn keep(desk: Rc<Desk>) {
    loop {
        let warm = &desk.warm;
        let next = warm.pool.borrow_mut().next(Instant::now());
        match next {
            Next::Dial(worker) => {
                super::spawn(dial(desk.clone(), worker));
            }
            Next::Wait(at) => {
                tokio::select! {
                    () = tokio::time::sleep_until(at) => {}
                    () = warm.changed.notified() => {}
                }
            }
            Next::Rest if warm.pool.borrow().draining || desk.stopping.get() => return,
            Next::Rest => warm.changed.notified().await,
        }
    }
}

async fn dial(desk: Rc<Desk>, worker: WorkerId) {
    let cancel = Rc::new(Cancel::default());
    desk.warm.cancels.borrow_mut().push(cancel.clone());
    // For the log.
    let name = CallId::new("warm").expect("short");
    let outcome = attempts(&desk, name, true, &cancel).await;
    let is_other = |other: &Rc<Cancel>| !Rc::ptr_eq(other, &cancel);
    desk.warm.cancels.borrow_mut().retain(is_other);
    let (failure, unwanted) = match outcome {
        Ok(upstream) if desk.warm.pool.borrow().draining => (Failure::Passing, Some(upstream)),
        Ok(upstream) => {
            let order = ToWorker::Idle {
                upstream: Box::new(upstream),
                call_id: None,
                // Nothing was awaited since it was given: the latest of this name.
                endpoint: desk.targets.borrow().endpoint_of(name),
                life: life(desk.config.realtime.warm_max_age),
            };
            // Before the worker can say that it is over.
            desk.warm.pool.borrow_mut().on_dialled(worker);
            match send_idle(&desk, worker, order) {
                None => {
                    desk.meter.warm_dial("ok");
                    desk.warm.changed.notify_one();
                    return;
                }
                refused => {
                    desk.warm.pool.borrow_mut().stock(worker).waiting -= 1;
                    desk.warm.pool.borrow_mut().stock(worker).dialling += 1;
                    (Failure::Passing, refused)
                }
            }
        }
        Err(error) => (failure(&error), None),
    };
    desk.meter.warm_dial(match failure {
        Failure::Passing => "failed",
        Failure::Lasting => "refused",
    });
    if failure == Failure::Lasting {
        tracing::warn!(
            wait_secs = REFUSED_WAIT.as_secs(),
            "the model refuses connections that are to be kept warm: none for a while, or until a reload"
        );
    }
    let now = Instant::now();
    desk.warm
        .pool
        .borrow_mut()
        .on_failed(worker, failure, now, dice());
    desk.warm.changed.notify_one();
    if let Some(upstream) = unwanted {
        discard(desk, upstream).await;
    }
}

fn failure(error: &DialError) -> Failure {
    match error {
        // Cancelled is the drain, after which nobody asks.
        DialError::Cancelled => Failure::Passing,
        error if error.may_retry() => Failure::Passing,
        _ => Failure::Lasting,
    }
}

/// An eighth less at most, so that a pool that was filled at once does not grow old at once.
fn life(max_age: Duration) -> Duration {
    max_age - (max_age / 8).mul_f64(f64::from(dice()) / f64::from(u32::MAX))
}

fn dice() -> u32 {
    let mut bytes = [0; 4];
    // Without entropy there is no jitter, which is no reason to fail.
    let _ = getrandom::fill(&mut bytes);
    u32::from_ne_bytes(bytes)
}

/// Hands an idle connection on; gives it back when the worker takes no orders.
pub(super) fn send_idle(desk: &Desk, worker: WorkerId, order: ToWorker) -> Option<Established> {
    let sent = match desk.workers.get(usize::from(worker.0)) {
        Some(sender) => sender.send(order),
        None => Err(order),
    };
    match sent {
        Ok(()) => None,
        Err(ToWorker::Idle { upstream, .. }) => {
            desk.meter.queue_full("worker");
            Some(*upstream)
        }
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: u32 = u32::MAX;

    fn dials(pool: &mut Pool, now: Instant) -> Vec<u16> {
        std::iter::from_fn(|| match pool.next(now) {
            Next::Dial(worker) => Some(worker.0),
            _ => None,
        })
        .collect()
    }

    #[test]
    fn every_worker_is_filled_in_turn_with_a_bounded_number_under_way() {
        let now = Instant::now();
        let mut pool = Pool::new(5, 2);
        assert_eq!(dials(&mut pool, now), [0, 1, 0, 1, 0, 1, 0, 1]);
        assert_eq!(pool.next(now), Next::Rest);
        for worker in [0, 1, 0, 1, 0, 1, 0, 1] {
            pool.on_dialled(WorkerId(worker));
        }
        assert_eq!(dials(&mut pool, now), [0, 1]);
        pool.on_dialled(WorkerId(0));
        pool.on_dialled(WorkerId(1));
        assert_eq!(pool.next(now), Next::Rest);
        // One that a call took, and one that grew old, are replaced where they were.
        pool.on_over(WorkerId(1), IdleEnd::Adopted, Duration::ZERO, now, FULL);
        assert_eq!(dials(&mut pool, now), [1]);
        pool.on_over(WorkerId(0), IdleEnd::Expired, FORGIVEN, now, FULL);
        assert_eq!(dials(&mut pool, now), [0]);
    }

    #[test]
    fn failures_make_it_slow_and_one_at_a_time_up_to_a_bound() {
        let mut now = Instant::now();
        let mut pool = Pool::new(2, 1);
        assert_eq!(dials(&mut pool, now), [0, 0]);
        let mut waits = Vec::new();
        pool.on_failed(WorkerId(0), Failure::Passing, now, FULL);
        pool.on_dialled(WorkerId(0));
        for _ in 0..8 {
            let Next::Wait(at) = pool.next(now) else {
                panic!("no wait");
            };
            waits.push((at - now).as_millis());
            now = at;
            assert_eq!(dials(&mut pool, now), [0]);
            pool.on_failed(WorkerId(0), Failure::Passing, now, FULL);
        }
        assert_eq!(waits, [500, 1000, 2000, 4000, 8000, 16000, 30000, 30000]);
        // The least wait is half of it.
        let mut pool = Pool::new(1, 1);
        assert_eq!(dials(&mut pool, now), [0]);
        pool.on_failed(WorkerId(0), Failure::Passing, now, 0);
        assert_eq!(pool.next(now), Next::Wait(now + WAIT_MIN / 2));
    }

    #[test]
    fn with_failures_only_one_is_dialled_at_a_time_until_they_are_forgiven() {
        let now = Instant::now();
        let mut pool = Pool::new(4, 1);
        assert_eq!(dials(&mut pool, now).len(), 4);
        for _ in 0..4 {
            pool.on_failed(WorkerId(0), Failure::Passing, now, FULL);
        }
        let later = now + WAIT_MAX;
        assert_eq!(dials(&mut pool, later), [0]);
        pool.on_dialled(WorkerId(0));
        assert_eq!(dials(&mut pool, later), [0]);
        pool.on_dialled(WorkerId(0));
        assert_eq!(dials(&mut pool, now + FORGIVEN), [0, 0]);
    }

    #[test]
    fn a_refusal_that_lasts_stops_it_for_a_minute_or_until_a_reload() {
        let now = Instant::now();
        let mut pool = Pool::new(1, 1);
        assert_eq!(dials(&mut pool, now), [0]);
        pool.on_failed(WorkerId(0), Failure::Lasting, now, FULL);
        assert_eq!(pool.next(now), Next::Wait(now + REFUSED_WAIT));
        // A connection lost meanwhile does not make the wait shorter.
        pool.on_over(WorkerId(0), IdleEnd::Lost, Duration::ZERO, now, 0);
        assert_eq!(pool.next(now), Next::Wait(now + REFUSED_WAIT));
        pool.forgive();
        assert_eq!(dials(&mut pool, now), [0]);
    }

    #[test]
    fn connections_that_die_young_are_failures_and_old_ones_are_not() {
        let now = Instant::now();
        let mut pool = Pool::new(1, 1);
        assert_eq!(dials(&mut pool, now), [0]);
        pool.on_dialled(WorkerId(0));
        pool.on_over(WorkerId(0), IdleEnd::Lost, YOUNG, now, FULL);
        assert_eq!(dials(&mut pool, now), [0]);
        pool.on_dialled(WorkerId(0));
        pool.on_over(WorkerId(0), IdleEnd::Lost, Duration::ZERO, now, FULL);
        assert_eq!(pool.next(now), Next::Wait(now + WAIT_MIN));
    }

    #[test]
    fn a_drain_ends_it() {
        let now = Instant::now();
        let mut pool = Pool::new(3, 1);
        assert_eq!(dials(&mut pool, now).len(), 3);
        pool.draining = true;
        pool.on_failed(WorkerId(0), Failure::Passing, now, FULL);
        assert_eq!(pool.next(now + WAIT_MAX), Next::Rest);
    }

    #[test]
    fn lives_differ_and_are_never_longer_than_asked_for() {
        let max = Duration::from_secs(300);
        for _ in 0..1000 {
            let life = life(max);
            assert!(life <= max && life >= max * 7 / 8, "{life:?}");
        }
    }

    #[test]
    fn what_lasts_is_told_from_what_passes() {
        use super::super::dial::Refused;
        let status = |status, code: &str| {
            DialError::Status(Refused {
                status,
                code: code.to_owned(),
                retry_after_secs: None,
            })
        };
        for (error, expected) in [
            (status(401, ""), Failure::Lasting),
            (status(404, ""), Failure::Lasting),
            (status(429, "insufficient_quota"), Failure::Lasting),
            (status(429, ""), Failure::Passing),
            (status(503, ""), Failure::Passing),
            (DialError::Closed, Failure::Passing),
            (DialError::Cancelled, Failure::Passing),
        ] {
            assert_eq!(failure(&error), expected, "{error}");
        }
    }
}
