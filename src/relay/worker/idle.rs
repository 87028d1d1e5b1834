//! The worker's idle connections to the model, and how a call gets one. Shell.
//!
//! An idle connection has a slot of its own and an `Upstream` for a driver, so receiving, sending and closing are those of
//! every leg. A call that wants one gets the leg itself: the multishot receive is cancelled, and when that and the last send
//! have completed, the leg moves into the call's slot and is armed there. Until then the leg counts as paused, so that
//! nothing arms it again.
//!
//! ```text
//!   call: Intent::Dial ─▶ wanted ─┬─ dialled for it, or warm ─▶ moving: receive cancelled ─▶ leg moves, session reads what was kept
//!                                 │         ▲ it died meanwhile: the next one      │
//!                                 └─ none ──┴──────────▶ ToDesk::Dial ◀────────────┘
//! ```
//!
//! A connection that arrives for a call which waits for the desk already is that dial's answer: the desk leaves the `Dial`
//! unanswered when it has handed the call's connection on.

use super::leg::LegState;
use super::shared::{Shared, index_of};
use super::table::{Driver, Life};
use super::upstream::Upstream;
use super::{Worker, entropy};
use crate::base::id::{CallId, SlotKey};
use crate::base::limit;
use crate::bus::command::{IdleEnd, ToDesk};
use crate::call::{DialFailure, Leg};
use crate::transport::Established;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

/// Where the connection is in its own slot.
const PLACE: Leg = Leg::Realtime;

/// A call's first dial.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) slot: SlotKey,
    pub(super) call_id: CallId,
    pub(super) leg: Leg,
}

/// Idle connections that wait, and calls that want one.
#[derive(Debug, Default)]
pub(super) struct Idles {
    /// For announced calls.
    early: HashMap<CallId, SlotKey>,
    /// For anybody, oldest first.
    warm: VecDeque<SlotKey>,
    /// On their way to a call.
    moving: Vec<(SlotKey, Wanted)>,
    /// Dials that nobody has seen to yet.
    pub(super) wanted: VecDeque<Wanted>,
    /// Calls whose first dial is with the desk.
    asked: HashMap<CallId, SlotKey>,
    /// Slots that are no calls: all of these, and those that are being closed.
    pub(super) lives: usize,
}

impl Idles {
    /// Those for announced calls, and the warm ones.
    pub(super) fn waiting(&self) -> [u64; 2] {
        [self.early.len() as u64, self.warm.len() as u64]
    }

    /// The desk has answered the call's dial, or nobody waits for that any more.
    pub(super) fn answered(&mut self, call_id: CallId) {
        self.asked.remove(&call_id);
    }

    /// The call lives, and does not want to be connected any more.
    pub(super) fn give_up_dial(&mut self, slot: SlotKey, call_id: CallId) {
        self.answered(call_id);
        self.wanted.retain(|wanted| wanted.slot != slot);
        for (_, wanted) in self
            .moving
            .iter_mut()
            .filter(|(_, wanted)| wanted.slot == slot)
        {
            // Nobody's: what is on its way there waits on.
            wanted.slot = SlotKey {
                index: u32::MAX,
                generation: u32::MAX,
            };
        }
    }

    fn forget(&mut self, key: SlotKey, purpose: Option<CallId>) {
        match purpose {
            Some(call_id) if self.early.get(&call_id) == Some(&key) => {
                self.early.remove(&call_id);
            }
            Some(_) => {}
            None => self.warm.retain(|warm| *warm != key),
        }
    }
}

impl Shared {
    /// Counts and tells the end of a wait, once.
    pub(super) fn note_idle(&mut self, life: &mut Life) {
        let Driver::Idle(upstream) = &mut life.driver else {
            return;
        };
        self.stats.idle_dropped += upstream.take_dropped();
        if let Some(how) = upstream.poll_end() {
            let (origin, age) = (upstream.origin(), upstream.age(self.now));
            self.on_idle_end(life.key, origin, None, how, age);
        }
    }

    /// A bug of ours, at an idle connection: the desk counts it as lost.
    pub(super) fn note_idle_panic(&mut self, life: &Life) {
        if let Driver::Idle(upstream) = &life.driver
            && !upstream.is_over()
        {
            self.on_idle_end(
                life.key,
                upstream.origin(),
                None,
                IdleEnd::Lost,
                upstream.age(self.now),
            );
        }
    }

    fn on_idle_end(
        &mut self,
        key: SlotKey,
        (call_id, endpoint): (Option<CallId>, u16),
        taken_by: Option<CallId>,
        how: IdleEnd,
        age: Duration,
    ) {
        self.idles.forget(key, call_id);
        self.stats.idle_ends[usize::from(call_id.is_none())][how as usize] += 1;
        self.tell_desk(ToDesk::IdleOver {
            worker: self.id,
            call_id,
            endpoint,
            taken_by,
            how,
            age,
        });
    }
}

impl Worker {
    /// `ToWorker::Idle`.
    pub(super) fn on_idle(
        &mut self,
        upstream: Established,
        call_id: Option<CallId>,
        endpoint: u16,
        life: Duration,
    ) {
        if let Some(call_id) = call_id
            && let Some(slot) = self.shared.idles.asked.remove(&call_id)
            && let Some(waiting) = self.table.find(slot)
            && waiting.dialling
            && !waiting.reported_end
        {
            let (leg, ciphertext) = LegState::new(upstream);
            let wanted = Wanted {
                slot,
                call_id,
                leg: Leg::Realtime,
            };
            self.shared.on_idle_end(
                slot,
                (Some(call_id), endpoint),
                None,
                IdleEnd::Adopted,
                Duration::ZERO,
            );
            self.adopt(wanted, leg, Vec::new(), ciphertext);
            return;
        }
        let name = call_id.unwrap_or_else(|| CallId::new("warm").expect("short"));
        let now = self.shared.now;
        let driver = Driver::Idle(Box::new(Upstream::new(
            (call_id, endpoint),
            life,
            entropy(),
            now,
        )));
        let life = self.table.insert(name, driver);
        // It is no call: nothing of it is reported as one.
        life.reported_end = true;
        life.is_idle = true;
        self.shared.idles.lives += 1;
        match call_id {
            Some(call_id) => {
                self.shared.idles.early.insert(call_id, life.key);
            }
            None => self.shared.idles.warm.push_back(life.key),
        }
        self.shared.install(life, PLACE, upstream);
        if self.stopping
            && let Driver::Idle(upstream) = &mut life.driver
        {
            upstream.give_up(IdleEnd::Drained);
        }
        Self::touch(&mut self.touched, life);
    }

    /// `ToWorker::DropIdle`.
    pub(super) fn drop_idle(&mut self, call_id: Option<CallId>) {
        let idles = &self.shared.idles;
        let (keys, end): (Vec<SlotKey>, _) = match call_id {
            Some(call_id) => (
                idles.early.get(&call_id).copied().into_iter().collect(),
                IdleEnd::Cancelled,
            ),
            None => {
                let waiting = idles.early.values().chain(&idles.warm);
                (waiting.copied().collect(), IdleEnd::Drained)
            }
        };
        for key in keys {
            if let Some(life) = self.table.find(key)
                && let Driver::Idle(upstream) = &mut life.driver
            {
                upstream.give_up(end);
                Self::touch(&mut self.touched, life);
            }
        }
    }

    /// After everything else of a wake-up: gives calls that want a connection one that waits, or asks the desk.
    pub(super) fn settle_idle(&mut self) -> io::Result<()> {
        loop {
            while let Some(wanted) = self.shared.idles.wanted.pop_front() {
                self.place(wanted)?;
            }
            for (key, wanted) in std::mem::take(&mut self.shared.idles.moving) {
                self.go_on(key, wanted)?;
            }
            if self.shared.idles.wanted.is_empty() {
                return Ok(());
            }
        }
    }

    /// The connection that was dialled for the call, else the oldest warm one, else the desk's.
    fn place(&mut self, wanted: Wanted) -> io::Result<()> {
        let caller = self.table.find(wanted.slot);
        let Some(dial) = caller
            .filter(|life| life.dialling && !life.reported_end)
            .map(|life| life.dials)
        else {
            return Ok(()); // It has ended since, and nobody would take its dial back.
        };
        let idles = &self.shared.idles;
        let own = idles.early.get(&wanted.call_id).copied();
        let candidates: Vec<SlotKey> = own.into_iter().chain(idles.warm.iter().copied()).collect();
        for key in candidates {
            let Some(life) = self.table.find(key) else {
                continue;
            };
            let Driver::Idle(upstream) = &life.driver else {
                continue;
            };
            let (purpose, ready) = (
                upstream.purpose(),
                upstream.is_quiet() && upstream.is_between_messages(),
            );
            let Some(leg) = &mut life.legs[index_of(PLACE)] else {
                continue;
            };
            // One with a send under way may be stuck; there is no time to find out.
            if !ready || leg.sending.is_some() || leg.eof {
                continue;
            }
            leg.paused_until = Some(self.shared.now.mono + limit::UPSTREAM_DEADLINE);
            if leg.receiving {
                // Whatever becomes of the call: how this receive ends says nothing of the connection.
                leg.cancelling = true;
                self.shared.ring.cancel_receive(Life::leg_key(key, PLACE))?;
            }
            self.shared.idles.forget(key, purpose);
            self.shared.idles.moving.push((key, wanted));
            return Ok(());
        }
        // Its own can't be used: the desk must know before it is asked, since it believes the call provided for.
        if let Some(key) = own {
            self.drop_idle(Some(wanted.call_id));
            self.serve(key)?;
        }
        self.shared.idles.asked.insert(wanted.call_id, wanted.slot);
        self.shared.tell_desk(ToDesk::Dial {
            worker: self.shared.id,
            slot: wanted.slot,
            call_id: wanted.call_id,
            leg: wanted.leg,
            dial,
            once: false,
        });
        Ok(())
    }

    /// Moves the leg once nothing of it is with the kernel any more.
    fn go_on(&mut self, key: SlotKey, wanted: Wanted) -> io::Result<()> {
        let caller = self.table.find(wanted.slot);
        let is_wanted = caller.is_some_and(|life| life.dialling && !life.reported_end);
        let Some(life) = self.table.find(key) else {
            return self.want_again(wanted, is_wanted);
        };
        let (Driver::Idle(upstream), Some(leg)) =
            (&mut life.driver, &mut life.legs[index_of(PLACE)])
        else {
            return self.want_again(wanted, is_wanted);
        };
        if upstream.is_over() {
            return self.want_again(wanted, is_wanted);
        }
        if !is_wanted {
            // The call has ended first. A warm one waits on; one that was dialled for this call has no use.
            leg.paused_until = None;
            match upstream.purpose() {
                Some(_) => upstream.give_up(IdleEnd::Cancelled),
                None => self.shared.idles.warm.push_front(key),
            }
            return self.serve(key);
        }
        if leg.receiving || leg.sending.is_some() || leg.has_tls_out() || !upstream.is_quiet() {
            self.shared.idles.moving.push((key, wanted));
            return Ok(());
        }
        if !upstream.is_between_messages() {
            upstream.give_up(IdleEnd::Lost);
            self.serve(key)?;
            return self.want_again(wanted, is_wanted);
        }
        let (origin, age) = (upstream.origin(), upstream.age(self.shared.now));
        let (purpose, _) = origin;
        let leg = life.legs[index_of(PLACE)].take().expect("just seen");
        let driver = std::mem::replace(&mut life.driver, Driver::Dead);
        self.shared.grown_bytes -= leg.grown_bytes;
        self.shared.idles.lives -= 1;
        self.table.remove(key);
        let taken_by = purpose.is_none().then_some(wanted.call_id);
        self.shared
            .on_idle_end(key, origin, taken_by, IdleEnd::Adopted, age);
        if purpose.is_none() {
            // What the desk may still be dialling for this call is not needed.
            let call_id = wanted.call_id;
            self.shared.tell_desk(ToDesk::Forget { call_id });
        }
        let kept = match driver {
            Driver::Idle(upstream) => upstream.into_kept(),
            _ => Vec::new(),
        };
        self.adopt(wanted, leg, kept, Vec::new());
        self.serve(wanted.slot)
    }

    fn want_again(&mut self, wanted: Wanted, is_wanted: bool) -> io::Result<()> {
        if is_wanted {
            self.shared.idles.wanted.push_back(wanted);
        }
        Ok(())
    }

    /// Gives a leg to the call that waits for it, with what was kept for the session to read.
    fn adopt(&mut self, wanted: Wanted, mut leg: LegState, kept: Vec<u8>, ciphertext: Vec<u8>) {
        let Some(life) = self.table.find(wanted.slot) else {
            return;
        };
        life.dialling = false;
        let index = index_of(wanted.leg);
        let now = self.shared.now;
        let driver = &mut life.driver;
        if life.legs[index].is_some() {
            // Its first dial, so nothing can be there; if it is, the call goes on without this one.
            let answer = Err(DialFailure {
                text: "its place is taken".to_owned(),
                retry: true,
            });
            driver.handle_upstream(answer, now);
        } else if catch_unwind(AssertUnwindSafe(|| driver.handle_adopted(now))).is_err() {
            self.shared.on_panic(life);
        } else if !life.driver.is_finished() {
            leg.paused_until = None;
            leg.grown_bytes = 0;
            leg.put_first(kept);
            self.shared.install_leg(life, wanted.leg, leg, ciphertext);
        }
        Self::touch(&mut self.touched, life);
    }
}

#[cfg(test)]
mod tests;
