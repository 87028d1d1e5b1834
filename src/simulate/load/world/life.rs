//! The course of calls: their frames, their ends, and what is wrong on the way.

use super::{Owner, Step, Timer, World};
use crate::simulate::load::check::Kind;
use crate::simulate::load::ledger::BLOCK_NANOS;
use crate::simulate::load::ring::Key;
use crate::simulate::load::wire::Stage;
use std::cmp::Reverse;

/// What is under way when a call ends arrives within this, on top of the model's own latency.
const DRAIN_NANOS: u64 = 3_000_000_000;
/// From `stop` and our close frame to the relay's.
const CLOSE_NANOS: u64 = 5_000_000_000;

impl World {
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
    pub(super) fn on_frame(
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
    pub(super) fn owes(&mut self, session: Option<Key>) -> bool {
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
    pub(super) fn hush(&mut self, slot: usize) {
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

    pub(super) fn on_session_timer(&mut self, key: Key, now: u64) {
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

    /// The peer sent a close frame.
    pub(super) fn on_close(&mut self, key: Key, code: u16) {
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

    pub(super) fn on_session_end(&mut self, call: Option<u32>, what: &str) {
        let Some(call) = call else { return };
        let Some(slot) = self.calls.by_serial.get(&call) else {
            return;
        };
        if matches!(self.calls.list[*slot].step, Step::Live | Step::Draining) {
            let why = format!("the relay {what} while the call went on");
            self.tally.call_fault(Kind::End, call, why);
        }
    }

    /// A connection can't go on.
    pub(super) fn fail(&mut self, key: Key, why: String) {
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

    /// A call is over.
    pub(super) fn finish(&mut self, slot: usize) {
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
