//! Events folded into rows. Core.
//!
//! [`apply`] is the only place that says what an event does. It is idempotent: each row knows the position of the last
//! entry that is in it, and an entry at or before that changes nothing. So the journal may be replayed from any point
//! before the last one applied, any number of times, and a row is what it would be had nothing ever failed.
//!
//! The index applies one row at a time ([`CallRecord::apply`], [`apply_agent`]); [`State`] is all of them in memory, for
//! tests and for a store that has no index.

use super::agent::{Agent, AgentRow};
use super::analysis::Analytics;
use super::call::{Call, NOTES_MAX, Note, TURNS_KEPT};
use super::event::{Ended, Event, Happened, RESTART, Recording};
use super::item::Items;
use super::status::Phase;
use super::transcript::Transcript;
use crate::base::id::CallId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Moments on one call's time line; the oldest stay.
pub const HAPPENED_MAX: usize = 2_000;

/// What an entry's header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp {
    /// Its position in the journal: rises strictly, from 1.
    pub seq: u64,
    /// When it was written, ms since 1970. May jump back.
    pub unix_ms: u64,
    /// Whose it is.
    pub call_id: Option<CallId>,
}

/// Everything of one call.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CallRecord {
    /// The row.
    pub call: Call,
    /// The conversation, verbatim.
    pub items: Items,
    /// The conversation, normalised.
    pub transcript: Transcript,
    /// Its time line.
    pub happened: Vec<Happened>,
    /// Its recordings.
    pub recordings: Vec<Recording>,
    /// What was worked out of it.
    pub analytics: Option<Analytics>,
}

/// All rows.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct State {
    /// By name.
    pub agents: BTreeMap<String, AgentRow>,
    /// By id.
    pub calls: BTreeMap<String, CallRecord>,
}

/// What an event belongs to: the row that is to be read before it is applied and written after it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Key<'e> {
    /// An agent, by name.
    Agent(&'e str),
    /// A call, by id.
    Call(CallId),
    /// Nothing: a call's event without a call. A damaged or foreign entry; it is left out.
    None,
}

/// The row of an event.
pub fn key<'e>(stamp: &Stamp, event: &'e Event) -> Key<'e> {
    match event {
        Event::AgentPut(agent) => Key::Agent(&agent.name),
        Event::AgentDeleted(deleted) => Key::Agent(&deleted.name),
        Event::AgentSnapshot(snapshot) => Key::Agent(&snapshot.name),
        _ => stamp.call_id.map_or(Key::None, Key::Call),
    }
}

/// Applies one entry. Returns whether it changed anything.
pub fn apply(state: &mut State, stamp: &Stamp, event: &Event) -> bool {
    match key(stamp, event) {
        Key::Agent(name) => {
            let row = state.agents.entry(name.to_owned()).or_default();
            apply_agent(row, stamp, event)
        }
        Key::Call(id) => {
            let record = state.calls.entry(id.as_str().to_owned()).or_default();
            record.apply(stamp, event)
        }
        Key::None => false,
    }
}

/// Applies one entry to the agent whose it is.
pub fn apply_agent(row: &mut AgentRow, stamp: &Stamp, event: &Event) -> bool {
    if let Event::AgentSnapshot(snapshot) = event {
        let is_news = snapshot.row.applied > row.applied;
        if is_news {
            *row = snapshot.row.clone();
        }
        return is_news;
    }
    if stamp.seq <= row.applied {
        return false;
    }
    match event {
        Event::AgentPut(agent) => {
            let version = agent.version();
            row.versions.insert(version.clone(), Agent::clone(agent));
            row.current = Some(version);
        }
        Event::AgentDeleted(_) => row.current = None,
        _ => return false,
    }
    if row.applied == 0 {
        row.created_ms = stamp.unix_ms;
    }
    row.applied = stamp.seq;
    row.updated_ms = row.updated_ms.max(stamp.unix_ms);
    true
}

impl CallRecord {
    /// Applies one entry of this call. Returns whether it changed anything.
    pub fn apply(&mut self, stamp: &Stamp, event: &Event) -> bool {
        if let Event::CallSnapshot(snapshot) = event {
            // It stands for everything up to its own position, whatever that of the entry which holds it.
            let is_news = snapshot.call.applied > self.call.applied;
            if is_news {
                *self = CallRecord::clone(snapshot);
                self.bound();
            }
            return is_news;
        }
        if stamp.seq <= self.call.applied {
            return false;
        }
        let call = &mut self.call;
        if call.applied == 0 {
            call.id = stamp
                .call_id
                .map_or(String::new(), |id| id.as_str().to_owned());
            call.created_ms = stamp.unix_ms;
        }
        call.applied = stamp.seq;
        if call.erased {
            // What is gone stays gone, also for entries that were on their way.
            return true;
        }
        let at = call.updated_ms.max(stamp.unix_ms);
        // The duration of a call that a crash ended goes to the entry before this one.
        let last = call.updated_ms;
        call.updated_ms = at;
        self.fold(event, at, last);
        self.bound();
        true
    }

    fn fold(&mut self, event: &Event, at: u64, last: u64) {
        let call = &mut self.call;
        match event {
            Event::Opened(opened) => {
                call.direction = opened.direction;
                set(&mut call.caller, &opened.caller);
                set(&mut call.called, &opened.called);
                some(&mut call.agent, &opened.agent);
                some(&mut call.agent_version, &opened.agent_version);
                call.seed = opened.seed.or(call.seed);
                some(&mut call.call_sid, &opened.call_sid);
                call.phase = call.phase.advance(opened.phase);
                call.metadata.merge(opened.metadata.clone());
            }
            Event::Progress(progress) => {
                call.phase = call.phase.advance(progress.phase);
                some(&mut call.carrier_status, &progress.carrier_status);
                if call.phase.is_over() && call.end_ms.is_none() {
                    call.end_ms = Some(at);
                }
            }
            Event::Started(started) => {
                call.phase = call.phase.advance(Phase::Answered);
                call.stream_sid = Some(started.stream_sid.clone());
                some(&mut call.call_sid, &started.call_sid);
                call.start_ms.get_or_insert(at);
                for (name, value) in &started.parameters {
                    let value = serde_json::Value::String(value.clone());
                    call.metadata.custom.insert(name.clone(), value);
                }
            }
            Event::Ready(ready) => {
                some(&mut call.model, &ready.model);
                call.session_id = Some(ready.session_id.clone());
                if ready.session_update.is_some() {
                    call.session_update.clone_from(&ready.session_update);
                }
            }
            Event::Item(item) => self.items.put(super::item::Item::clone(item)),
            Event::Entry(entry) => self.transcript.put(super::transcript::Entry::clone(entry)),
            Event::Used(used) => call.account.add(&used.usage, used.cost),
            Event::Noted(noted) => call.note_log.push(Note {
                at_ms: at,
                text: noted.text.clone(),
                source: noted.source,
            }),
            Event::Metadata(patch) => call.metadata.merge(super::call::Metadata::clone(patch)),
            Event::Turn(turn) => call.turns.push(**turn),
            Event::Ended(ended) => self.end(ended, at, last),
            Event::Recording(recording) => {
                let mut known = self.recordings.iter_mut();
                match known.find(|known| known.id == recording.id) {
                    Some(known) => *known = Recording::clone(recording),
                    None => self.recordings.push(Recording::clone(recording)),
                }
            }
            Event::Analytics(analytics) => self.analytics = Some(Analytics::clone(analytics)),
            Event::Erased(_) => {
                let (id, applied) = (std::mem::take(&mut call.id), call.applied);
                *self = CallRecord::default();
                self.call = Call {
                    id,
                    applied,
                    erased: true,
                    phase: Phase::Completed,
                    ..Call::default()
                };
            }
            Event::Edited(edited) => call.notes.clone_from(&edited.notes),
            Event::Happened(happened) => self.happened.push(Happened::clone(happened)),
            Event::AgentPut(_)
            | Event::AgentDeleted(_)
            | Event::AgentSnapshot(_)
            | Event::CallSnapshot(_) => {}
        }
    }

    fn end(&mut self, ended: &Ended, at: u64, last: u64) {
        let call = &mut self.call;
        if call.end_reason.is_some() {
            return; // the first one counts
        }
        call.phase = call.phase.end(&ended.reason);
        call.end_reason = Some(ended.reason.clone());
        let start = call.start_ms;
        // What a crash ended was over when the last thing was heard of it, and not when somebody noticed.
        let end = if ended.reason == RESTART { last } else { at };
        call.duration_ms = match (ended.duration_ms, start) {
            (Some(ms), _) => Some(ms),
            (None, Some(start)) => Some(end.saturating_sub(start)),
            (None, None) => Some(0),
        };
        call.end_ms = match (start, call.duration_ms) {
            // One clock for all of it: the wall's may have jumped during the call.
            (Some(start), Some(ms)) => Some(start.saturating_add(ms)),
            _ => Some(end),
        };
    }

    fn bound(&mut self) {
        let turns = &mut self.call.turns;
        turns.drain(..turns.len().saturating_sub(TURNS_KEPT));
        self.call.note_log.truncate(NOTES_MAX);
        self.happened.truncate(HAPPENED_MAX);
    }
}

fn set(known: &mut String, new: &str) {
    if !new.is_empty() {
        new.clone_into(known);
    }
}

fn some(known: &mut Option<String>, new: &Option<String>) {
    if new.is_some() {
        known.clone_from(new);
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
