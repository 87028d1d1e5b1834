//! What every call of a worker shares, and what is done to one call with it: install a leg, obey an intent, send,
//! settle, report. The loop is in the module above. Shell.

use super::buffer::SlotId;
use super::idle::{Idles, Wanted};
use super::leg::{CarryPool, LegState, Phase, Sending};
use super::ring::{LegKey, Ring};
use super::table::{Driver, Life};
use super::{FINISH, LINGER};
use crate::base::id::{CallId, WorkerId};
use crate::base::limit;
use crate::base::time::{Mono, Now};
use crate::bus::command::{DeskSender, ToDesk};
use crate::bus::report::ReportSender;
use crate::bus::tool::{ToolRequest, ToolSender};
use crate::call::session::{Closed, Intent};
use crate::call::tools::ToolResult;
use crate::call::{EndReason, Fact, Leg, Report, Stats};
use crate::telemetry::log::brief;
use crate::telemetry::meter::{WorkerMeter, WorkerStats};
use crate::transport::Established;
use crate::transport::tls::{Tls, TlsError};
use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What a leg may hold without counting against the budget: every carrier message, and every ordinary event.
const ORDINARY_BYTES: usize = limit::CARRIER_MESSAGE_BYTES_MAX;

/// What every call of a worker shares. Apart from the table, so that one call and this can be borrowed together.
pub(super) struct Shared {
    pub(super) id: WorkerId,
    pub(super) ring: Ring,
    pub(super) scratch: Vec<u8>,
    pub(super) pool: CarryPool,
    pub(super) desk: DeskSender,
    pub(super) reports: ReportSender,
    pub(super) tools: ToolSender,
    /// Orders to the desk that found its queue full.
    pub(super) desk_waiting: VecDeque<ToDesk>,
    pub(super) meter: WorkerMeter,
    pub(super) stats: WorkerStats,
    /// The sum over ended calls.
    pub(super) ended: Stats,
    pub(super) now: Now,
    /// Legs whose receive ended for want of buffers.
    pub(super) starved: Vec<LegKey>,
    /// Sends of this turn: 0 to the carrier, 1 to the model, and since when their oldest frame has been here.
    pub(super) leaving: Vec<(usize, Mono)>,
    /// What legs hold beyond their ordinary buffers, and how much that may be.
    pub(super) grown_bytes: usize,
    /// Connections that no call has yet.
    pub(super) idles: Idles,
    pub(super) grown_bytes_max: usize,
}

impl Shared {
    /// Puts an established connection into a call and gives it what was read ahead.
    pub(super) fn install(&mut self, life: &mut Life, which: Leg, connection: Established) {
        let (leg, ciphertext) = LegState::new(connection);
        self.install_leg(life, which, leg, ciphertext);
    }

    /// The same with a leg.
    pub(super) fn install_leg(
        &mut self,
        life: &mut Life,
        which: Leg,
        mut leg: LegState,
        mut ciphertext: Vec<u8>,
    ) {
        let index = index_of(which);
        let (driver, now) = (&mut life.driver, self.now);
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            leg.replay(&mut self.pool, |plain| {
                driver.handle_input(which, plain, now)
            });
            if ciphertext.is_empty() {
                return Ok(false);
            }
            leg.receive(
                &mut ciphertext,
                &mut self.scratch,
                &mut self.pool,
                |plain| driver.handle_input(which, plain, now),
            )
            .map(|received| received.closed)
        }));
        life.legs[index] = Some(leg);
        match outcome {
            Ok(Ok(false)) => {}
            Ok(Ok(true)) => self.on_gone(life, which, Closed::Eof),
            Ok(Err(error)) => {
                self.on_tls_error(life.call_id, which, &error);
                self.on_gone(life, which, Closed::Broken);
            }
            Err(_) => self.on_panic(life),
        }
    }

    /// Counts what a leg holds for an unfinished message. True when it grew past what all legs together may hold: the
    /// leg that asks for more is the one that pays.
    pub(super) fn is_over_budget(&mut self, life: &mut Life, which: Leg) -> bool {
        let held = life.driver.held_bytes(which);
        let Some(leg) = &mut life.legs[index_of(which)] else {
            return false;
        };
        let grown = (leg.carry_bytes() + held).saturating_sub(ORDINARY_BYTES);
        let grows = grown > leg.grown_bytes;
        self.grown_bytes = self.grown_bytes - leg.grown_bytes + grown;
        leg.grown_bytes = grown;
        grows && self.grown_bytes > self.grown_bytes_max && leg.phase == Phase::Open
    }

    /// A leg's connection is over, by the peer or by an error.
    pub(super) fn on_gone(&mut self, life: &mut Life, which: Leg, how: Closed) {
        let Some(leg) = &mut life.legs[index_of(which)] else {
            return;
        };
        let before = leg.phase;
        leg.phase = match (how, before) {
            // What was queued before the peer's end, its close frame's answer above all, may still reach it.
            (Closed::Eof, Phase::Open) => Phase::Finishing {
                until: self.now.mono + FINISH,
            },
            (Closed::Eof, Phase::Finishing { .. }) => before,
            // A TLS failure has left its alert: the peer learns why.
            (Closed::Broken, Phase::Open) if leg.has_tls_out() => Phase::Finishing {
                until: self.now.mono + FINISH,
            },
            _ => Phase::Retired,
        };
        leg.eof = true;
        if leg.phase == Phase::Retired {
            leg.shut_both();
        }
        if before == Phase::Open {
            let (driver, now) = (&mut life.driver, self.now);
            if catch_unwind(AssertUnwindSafe(|| driver.handle_closed(which, how, now))).is_err() {
                self.on_panic(life);
            }
        }
    }

    pub(super) fn on_tls_error(&mut self, call_id: CallId, leg: Leg, error: &TlsError) {
        self.stats.tls_errors += 1;
        // Certificates, and so the peer, have a say in these sentences.
        tracing::warn!(%call_id, ?leg, error = &*brief(&error.0), "TLS failed");
    }

    /// A session panicked: that call ends, everything else goes on.
    pub(super) fn on_panic(&mut self, life: &mut Life) {
        self.stats.panics += 1;
        tracing::error!(call_id = %life.call_id, "a call panicked and is ended; please report this");
        let (driver, now) = (&mut life.driver, self.now);
        let told = catch_unwind(AssertUnwindSafe(|| {
            driver.handle_panic(now);
            let mut facts = Vec::new();
            while let Some(fact) = driver.poll_fact() {
                facts.push(fact);
            }
            facts
        }));
        for fact in told.unwrap_or_default() {
            self.send_report(life.call_id, fact, &mut life.reported_end);
        }
        if !life.reported_end {
            let fact = Fact::Ended {
                reason: EndReason::Internal,
                stats: Box::default(),
            };
            self.send_report(life.call_id, fact, &mut life.reported_end);
        }
        self.note_idle_panic(life);
        life.driver = Driver::Dead;
        for leg in life.legs.iter_mut().flatten() {
            leg.phase = Phase::Retired;
            leg.shut_both();
        }
    }

    pub(super) fn obey(&mut self, life: &mut Life) {
        while let Some(intent) = life.driver.poll_intent() {
            match intent {
                Intent::Dial => {
                    life.dialling = true;
                    life.dials += 1;
                    self.idles.wanted.push_back(Wanted {
                        slot: life.key,
                        call_id: life.call_id,
                        leg: Leg::Realtime,
                    });
                }
                Intent::Redial(leg) => self.dial(life, leg, true),
                Intent::CancelDial => {
                    self.idles.give_up_dial(life.key, life.call_id);
                    if std::mem::take(&mut life.dialling) {
                        self.tell_desk(ToDesk::CancelDial {
                            worker: self.id,
                            slot: life.key,
                        });
                    }
                }
                Intent::Distrust => self.tell_desk(ToDesk::Distrust {
                    call_id: life.call_id,
                }),
                Intent::Finish(which) => {
                    if let Some(leg) = &mut life.legs[index_of(which)]
                        && leg.phase == Phase::Open
                    {
                        leg.phase = Phase::Finishing {
                            until: self.now.mono + FINISH,
                        };
                    }
                }
                Intent::Abort(which) => {
                    if let Some(leg) = &mut life.legs[index_of(which)] {
                        leg.phase = Phase::Retired;
                        leg.shut_both();
                    }
                }
            }
        }
    }

    fn dial(&mut self, life: &mut Life, leg: Leg, once: bool) {
        life.dialling = true;
        life.dials += 1;
        self.tell_desk(ToDesk::Dial {
            worker: self.id,
            slot: life.key,
            call_id: life.call_id,
            leg,
            dial: life.dials,
            once,
        });
    }

    /// Asks for the tools that a call wants. Without room the model is told so at once.
    pub(super) fn ask_tools(&mut self, life: &mut Life) {
        while let Some(call) = life.driver.poll_tool() {
            let tool_call_id = call.tool_call_id;
            let request = ToolRequest {
                worker: self.id,
                slot: life.key,
                call_id: life.call_id,
                call,
            };
            if self.tools.try_send(request).is_err() {
                let busy = ToolResult::busy(tool_call_id);
                life.driver.handle_tool_result(busy, self.now);
            }
        }
    }

    /// Starts the leg's next send, if none is in flight and something waits.
    pub(super) fn transmit(&mut self, life: &mut Life, index: usize) -> io::Result<()> {
        let key = LegKey {
            index: life.key.index,
            generation: life.key.generation,
            leg: index as u8,
        };
        let Life { driver, legs, .. } = life;
        let Some(leg) = &mut legs[index] else {
            return Ok(());
        };
        if !matches!(leg.phase, Phase::Open | Phase::Finishing { .. }) {
            return Ok(());
        }
        if leg.sending.is_some() {
            if leg.waiting_since.is_none() && !driver.poll_transmit(leg_of(key.leg), 1).is_empty() {
                leg.waiting_since = Some(self.now.mono);
            }
            return Ok(());
        }
        let mut slot = None;
        let mut of_session = false;
        let mut len;
        if leg.has_tls_out() {
            len = self.take_tls_out(leg, &mut slot);
        } else {
            let now = self.now;
            let (ring, lent) = (&mut self.ring, &mut slot);
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                let plain = driver.poll_transmit(leg_of(key.leg), limit::SEND_BYTES_MAX);
                if plain.is_empty() {
                    return Ok((0, 0));
                }
                let slot = ring.slots().take(Tls::sealed_len_max(plain.len()));
                *lent = Some(slot);
                let sealed = leg.seal(plain, ring.slots().bytes_mut(slot))?;
                let taken = plain.len();
                driver.handle_taken(leg_of(key.leg), taken, now);
                let since = leg.waiting_since.take().unwrap_or(now.mono);
                if !driver.poll_transmit(leg_of(key.leg), 1).is_empty() {
                    leg.waiting_since = Some(since);
                }
                self.leaving.push((index.min(1), since));
                Ok((sealed, taken))
            }));
            match outcome {
                Ok(Ok((sealed, taken))) => {
                    len = sealed;
                    of_session = taken > 0;
                }
                failed => {
                    if let Some(slot) = slot {
                        self.ring.slots().give_back(slot);
                    }
                    match failed {
                        Ok(Err(error)) => {
                            self.on_tls_error(life.call_id, leg_of(key.leg), &error);
                            self.on_gone(life, leg_of(key.leg), Closed::Broken);
                        }
                        _ => self.on_panic(life),
                    }
                    return Ok(());
                }
            }
            if len == 0 && matches!(leg.phase, Phase::Finishing { .. }) {
                if leg.queue_close_notify() {
                    len = self.take_tls_out(leg, &mut slot);
                } else if leg.eof {
                    leg.phase = Phase::Retired;
                    leg.shut_both();
                } else {
                    leg.shut_write();
                    leg.phase = Phase::Lingering {
                        until: self.now.mono + LINGER,
                    };
                }
            }
        }
        let Some(slot) = slot else {
            return Ok(());
        };
        self.stats.sends += 1;
        self.ring.send(leg.raw_fd(), key, slot, 0, len)?;
        leg.sending = Some(Sending {
            slot,
            start: 0,
            end: len,
            of_session,
        });
        Ok(())
    }

    /// TLS's own records into a slot; how many bytes.
    fn take_tls_out(&mut self, leg: &mut LegState, slot: &mut Option<SlotId>) -> usize {
        let slots = self.ring.slots();
        let lent = slots.take(leg.tls_out_len());
        *slot = Some(lent);
        leg.take_tls_out(slots.bytes_mut(lent))
    }

    /// Arms a leg's receive, or closes a leg that nothing holds any more.
    pub(super) fn settle(&mut self, life: &mut Life, index: usize) -> io::Result<()> {
        let key = LegKey {
            index: life.key.index,
            generation: life.key.generation,
            leg: index as u8,
        };
        let Some(leg) = &mut life.legs[index] else {
            return Ok(());
        };
        match leg.phase {
            Phase::Retired if leg.is_idle() => {
                let leg = life.legs[index].take().expect("just seen");
                self.grown_bytes -= leg.grown_bytes;
                leg.release(&mut self.pool);
            }
            Phase::Retired if !leg.cancelled => {
                leg.cancelled = true;
                self.ring.cancel(leg.raw_fd())?;
            }
            Phase::Retired => {}
            _ if !leg.receiving && !leg.eof && leg.paused_until.is_none() => {
                self.ring.receive(leg.raw_fd(), key)?;
                leg.receiving = true;
            }
            _ => {}
        }
        Ok(())
    }

    pub(super) fn report(&mut self, life: &mut Life) {
        while let Some(fact) = life.driver.poll_fact() {
            self.send_report(life.call_id, fact, &mut life.reported_end);
        }
        // Nobody waits for the model any more.
        if life.reported_end && std::mem::take(&mut life.dialling) {
            self.idles.answered(life.call_id);
            self.tell_desk(ToDesk::CancelDial {
                worker: self.id,
                slot: life.key,
            });
        }
    }

    pub(super) fn send_report(&mut self, call_id: CallId, fact: Fact, reported_end: &mut bool) {
        if let Fact::Turn(turn) = &fact {
            self.meter.turn(turn);
        }
        if let Fact::ToolFinished { outcome, took, .. } = &fact {
            self.meter.tool(*outcome, *took);
        }
        if let Fact::Ended { reason, stats } = &fact {
            *reported_end = true;
            self.meter.ended(*reason);
            self.ended.add(stats);
            self.tell_desk(ToDesk::Ended {
                worker: self.id,
                call_id,
            });
        }
        if self
            .reports
            .try_send(Report {
                call_id,
                at: self.now,
                fact,
            })
            .is_err()
        {
            self.stats.reports_dropped += 1;
        }
    }

    pub(super) fn on_ended(&mut self, life: &mut Life) {
        if let Driver::Echo(echo) = &mut life.driver {
            echo.finish();
        }
        self.idles.lives -= usize::from(life.is_idle);
    }

    pub(super) fn tell_desk(&mut self, order: ToDesk) {
        self.desk_waiting.push_back(order);
    }

    /// The desk's queue may be full for a moment; orders wait here in order. Their number is bounded by the calls.
    pub(super) fn flush_desk(&mut self) {
        use tokio::sync::mpsc::error::TrySendError;
        while let Some(order) = self.desk_waiting.pop_front() {
            match self.desk.try_send(order) {
                Ok(()) => {}
                Err(TrySendError::Full(order)) => {
                    self.desk_waiting.push_front(order);
                    return;
                }
                // Without a desk the daemon is stopping; its deadline for set-up ends the calls that wait.
                Err(TrySendError::Closed(_)) => self.desk_waiting.clear(),
            }
        }
    }
}

pub(super) fn leg_of(index: u8) -> Leg {
    match index {
        0 => Leg::Carrier,
        1 => Leg::Realtime,
        _ => Leg::Standby,
    }
}

pub(super) fn index_of(leg: Leg) -> usize {
    match leg {
        Leg::Carrier => 0,
        Leg::Realtime => 1,
        Leg::Standby => 2,
    }
}
