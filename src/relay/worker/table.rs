//! A worker's calls by slot: an index and a generation, so that a late completion or order finds nothing instead
//! of the wrong call.

use super::echo::Echo;
use super::leg::LegState;
use super::ring::{GENERATION_MASK, LegKey};
use super::shared::index_of;
use super::upstream::Upstream;
use crate::base::id::{CallId, SlotKey};
use crate::base::time::{Mono, Now};
use crate::bus::command::IdleEnd;
use crate::call::session::{Closed, Command, Intent, Session};
use crate::call::tools::{ToolCall, ToolResult};
use crate::call::trace::Turn;
use crate::call::{DialFailure, Fact, Leg};

/// What drives a slot's legs.
#[derive(Debug)]
pub(super) enum Driver {
    /// A call.
    Call(Box<Session>),
    /// A connection to the model that no call has yet.
    Idle(Box<Upstream>),
    /// A conformance echo.
    Echo(Box<Echo>),
    /// A call that panicked: only its sockets are left.
    Dead,
    /// Panics at the first byte: the planted fault of the tests.
    #[cfg(test)]
    Planted,
}

impl Driver {
    pub(super) fn handle_input(&mut self, leg: Leg, input: &mut [u8], now: Now) -> usize {
        match self {
            Self::Call(session) => session.handle_input(leg, input, now),
            Self::Echo(echo) => echo.handle_input(input),
            Self::Idle(upstream) => upstream.handle_input(input),
            Self::Dead => input.len(),
            #[cfg(test)]
            Self::Planted => panic!("planted"),
        }
    }

    pub(super) fn handle_closed(&mut self, leg: Leg, how: Closed, now: Now) {
        match self {
            Self::Call(session) => session.handle_closed(leg, how, now),
            Self::Echo(echo) => echo.handle_gone(),
            Self::Idle(upstream) => upstream.handle_closed(how),
            _ => {}
        }
    }

    pub(super) fn handle_upstream(&mut self, outcome: Result<(), DialFailure>, now: Now) {
        if let Self::Call(session) = self {
            session.handle_upstream(outcome, now);
        }
    }

    /// As `handle_upstream`, with a connection that had waited.
    pub(super) fn handle_adopted(&mut self, now: Now) {
        if let Self::Call(session) = self {
            session.handle_adopted(now);
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Now) {
        match self {
            Self::Call(session) => session.handle_timeout(now),
            Self::Idle(upstream) => upstream.handle_timeout(now),
            _ => {}
        }
    }

    pub(super) fn handle_command(&mut self, command: Command, now: Now) {
        match self {
            Self::Call(session) => session.handle_command(command, now),
            Self::Echo(echo) => echo.go_away(),
            Self::Idle(upstream) => upstream.give_up(IdleEnd::Drained),
            _ => {}
        }
    }

    pub(super) fn handle_panic(&mut self, now: Now) {
        if let Self::Call(session) = self {
            session.handle_panic(now);
        }
    }

    pub(super) fn handle_sent(&mut self, leg: Leg, now: Now) {
        match self {
            Self::Call(session) => session.handle_sent(leg, now),
            Self::Idle(upstream) => upstream.handle_sent(),
            _ => {}
        }
    }

    pub(super) fn handle_taken(&mut self, leg: Leg, len: usize, now: Now) {
        match self {
            Self::Call(session) => session.handle_taken(leg, len, now),
            Self::Echo(echo) => echo.handle_taken(len),
            Self::Idle(upstream) => upstream.handle_taken(len, now),
            _ => {}
        }
    }

    /// See `Session::is_urgent`.
    pub(super) fn is_urgent(&self) -> bool {
        matches!(self, Self::Call(session) if session.is_urgent())
    }

    /// Bytes kept inside for a message in fragments.
    pub(super) fn held_bytes(&self, leg: Leg) -> usize {
        match self {
            Self::Call(session) => session.fragment_bytes(leg),
            Self::Echo(echo) => echo.fragment_bytes(),
            Self::Idle(upstream) => upstream.held_bytes(),
            _ => 0,
        }
    }

    pub(super) fn poll_intent(&mut self) -> Option<Intent> {
        match self {
            Self::Call(session) => session.poll_intent(),
            Self::Idle(upstream) => upstream.poll_intent(),
            Self::Echo(echo) => echo.wants_finish().then_some(Intent::Finish(Leg::Carrier)),
            _ => None,
        }
    }

    pub(super) fn poll_transmit(&mut self, leg: Leg, max: usize) -> &[u8] {
        match self {
            Self::Call(session) => session.poll_transmit(leg, max),
            Self::Echo(echo) => echo.poll_transmit(max),
            Self::Idle(upstream) => upstream.poll_transmit(max),
            _ => &[],
        }
    }

    pub(super) fn handle_tool_result(&mut self, result: ToolResult, now: Now) {
        if let Self::Call(session) = self {
            session.handle_tool_result(result, now);
        }
    }

    pub(super) fn poll_tool(&mut self) -> Option<ToolCall> {
        match self {
            Self::Call(session) => session.poll_tool(),
            _ => None,
        }
    }

    pub(super) fn poll_fact(&mut self) -> Option<Fact> {
        match self {
            Self::Call(session) => session.poll_fact(),
            _ => None,
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Mono> {
        match self {
            Self::Call(session) => session.poll_timeout(),
            Self::Idle(upstream) => upstream.poll_timeout(),
            _ => None,
        }
    }

    /// A call's latest turns.
    pub(super) fn turns(&self) -> Option<Vec<Turn>> {
        match self {
            Self::Call(session) => Some(session.turns().copied().collect()),
            _ => None,
        }
    }

    pub(super) fn is_finished(&self) -> bool {
        match self {
            Self::Call(session) => session.is_finished(),
            Self::Idle(upstream) => upstream.is_over(),
            // An echo has nothing but its socket: it is over when that is closed.
            _ => true,
        }
    }
}

/// One live call with its sockets.
#[derive(Debug)]
pub(super) struct Life {
    pub(super) key: SlotKey,
    pub(super) call_id: CallId,
    pub(super) driver: Driver,
    /// Carrier, realtime, standby.
    pub(super) legs: [Option<LegState>; 3],
    /// The earliest entry in `Deadlines` that stands for this call.
    pub(super) armed: Option<Mono>,
    /// On the list of this wake-up.
    pub(super) touched: bool,
    /// `Fact::Ended` went out.
    pub(super) reported_end: bool,
    /// The desk has been told to dial and has not answered.
    pub(super) dialling: bool,
    /// Dials so far: the number of the newest.
    pub(super) dials: u32,
    /// No call: an idle connection, or what is left of one.
    pub(super) is_idle: bool,
}

impl Life {
    /// The leg of the slot `key` in the ring's terms.
    pub(super) fn leg_key(key: SlotKey, which: Leg) -> LegKey {
        LegKey {
            index: key.index,
            generation: key.generation,
            leg: index_of(which) as u8,
        }
    }
}

#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    life: Option<Box<Life>>,
}

/// All calls of a worker.
#[derive(Debug, Default)]
pub(super) struct Table {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

impl Table {
    /// A new call in a free slot.
    pub(super) fn insert(&mut self, call_id: CallId, driver: Driver) -> &mut Life {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            self.slots.len() as u32 - 1
        });
        let slot = &mut self.slots[index as usize];
        let key = SlotKey {
            index,
            generation: slot.generation,
        };
        slot.life.insert(Box::new(Life {
            key,
            call_id,
            driver,
            legs: [None, None, None],
            armed: None,
            touched: false,
            reported_end: false,
            dialling: false,
            dials: 0,
            is_idle: false,
        }))
    }

    pub(super) fn find(&mut self, key: SlotKey) -> Option<&mut Life> {
        let slot = self.slots.get_mut(key.index as usize)?;
        if slot.generation != key.generation {
            None
        } else {
            slot.life.as_deref_mut()
        }
    }

    /// The call of a leg that is still there.
    pub(super) fn find_leg(&mut self, key: LegKey) -> Option<&mut Life> {
        let life = self.find(SlotKey {
            index: key.index,
            generation: key.generation,
        })?;
        life.legs[key.leg as usize].is_some().then_some(life)
    }

    /// Frees a slot; its key finds nothing any more.
    pub(super) fn remove(&mut self, key: SlotKey) {
        let Some(slot) = self.slots.get_mut(key.index as usize) else {
            return;
        };
        if slot.generation == key.generation && slot.life.take().is_some() {
            slot.generation = slot.generation.wrapping_add(1) & GENERATION_MASK;
            self.free.push(key.index);
        }
    }

    pub(super) fn lives(&mut self) -> impl Iterator<Item = &mut Life> {
        self.slots
            .iter_mut()
            .filter_map(|slot| slot.life.as_deref_mut())
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_key_finds_nothing_when_its_slot_is_used_again() {
        let mut table = Table::default();
        let id = CallId::new("a").expect("short");
        let old = table.insert(id, Driver::Dead).key;
        table.remove(old);
        assert!(table.is_empty());
        let new = table.insert(id, Driver::Dead).key;
        assert_eq!(new.index, old.index);
        assert!(table.find(old).is_none());
        assert!(table.find(new).is_some());
        assert_eq!(table.len(), 1);
    }
}
