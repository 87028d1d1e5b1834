//! A journal's life on a simulated disk: a random course of operations and faults, and the judge of what comes back.
//!
//! The judge knows what was appended, what was acknowledged and what was erased; it looks at replays only, and shares
//! nothing with the journal but its interface.

use super::super::disk::Disk;
use super::super::entry::{Content, Entry};
use super::super::error::JournalError;
use super::super::replay::Base;
use super::super::seq::Seq;
use super::super::sim_disk::{Fault, SimDisk};
use super::super::writer::{Journal, Options};
use crate::base::id::CallId;
use crate::base::rng::Rng;
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};

/// Small, so that a short life has many segments.
pub const SEGMENT_BYTES: u64 = 3_000;

pub fn options(seed: u64) -> Options {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    Options {
        segment_bytes: SEGMENT_BYTES,
        seed: bytes,
    }
}

pub fn call(number: u64) -> CallId {
    CallId::new(&format!("call-{number}")).expect("short")
}

/// What an entry says: its id, then filler that depends on it.
pub fn body(id: u64, len: usize) -> Vec<u8> {
    let mut body = id.to_le_bytes().to_vec();
    body.extend((0..len).map(|at| (id as usize * 31 + at * 7) as u8));
    body
}

#[derive(Clone, Copy)]
struct Known {
    seq: Seq,
    call: u64,
    len: usize,
}

/// What is known of a journal's life.
#[derive(Clone, Default)]
pub struct Judge {
    known: BTreeMap<u64, Known>,
    next_id: u64,
    /// Must come back.
    acknowledged: BTreeSet<u64>,
    /// Must never come back: a recovery was without them.
    gone: BTreeSet<u64>,
    /// May be gone: an erasure was begun.
    erasing: BTreeSet<u64>,
    /// Must be gone: an erasure was acknowledged.
    erased: BTreeSet<u64>,
    /// Numbers that were acknowledged, as an index might remember them.
    positions: Vec<Seq>,
}

impl Judge {
    /// Appends an entry of `call` to the journal.
    pub fn append<D: Disk>(
        &mut self,
        journal: &mut Journal<D>,
        call_number: u64,
        len: usize,
    ) -> Result<Seq, JournalError> {
        let id = self.next_id;
        let body = body(id, len);
        let seq = journal.append(&Entry {
            kind: 7,
            schema: 1,
            call_id: Some(call(call_number)),
            // The clock jumps about, also back: nothing may depend on it.
            unix_ms: (id * 7919) % 1000,
            body: &body,
        })?;
        if let Some((_, before)) = self.known.last_key_value() {
            assert!(seq > before.seq, "{seq} is not above {}", before.seq);
        }
        self.next_id += 1;
        self.known.insert(
            id,
            Known {
                seq,
                call: call_number,
                len,
            },
        );
        Ok(seq)
    }

    /// Commits; what was acknowledged must come back from then on.
    pub fn commit<D: Disk>(&mut self, journal: &mut Journal<D>) -> Result<Seq, JournalError> {
        let durable = journal.commit()?;
        self.acknowledge(durable);
        Ok(durable)
    }

    fn acknowledge(&mut self, durable: Seq) {
        self.positions.push(durable);
        for (id, known) in &self.known {
            if known.seq <= durable && !self.gone.contains(id) {
                self.acknowledged.insert(*id);
            }
        }
    }

    /// Erases a call. Entries that were appended before are of it.
    pub fn erase<D: Disk>(
        &mut self,
        journal: &mut Journal<D>,
        call_number: u64,
    ) -> Result<(), JournalError> {
        let ids = self.ids_of(call_number);
        self.erasing.extend(&ids);
        let result = journal.erase(&BTreeSet::from([call(call_number)]));
        // It commits first.
        self.acknowledge(journal.durable());
        result?;
        self.erased.extend(&ids);
        Ok(())
    }

    fn ids_of(&self, call_number: u64) -> Vec<u64> {
        self.known
            .iter()
            .filter(|(_, known)| known.call == call_number)
            .map(|(id, _)| *id)
            .collect()
    }

    /// Writes a snapshot of everything durable, and compacts.
    pub fn snapshot<D: Disk>(&mut self, journal: &mut Journal<D>) -> Result<(), JournalError> {
        let (ids, _) = replayed(journal, Seq::NONE)?;
        let mut writer = journal.begin_snapshot(journal.durable(), 5)?;
        for id in ids {
            let known = self.known[&id];
            writer.add(&Entry {
                kind: 8,
                schema: 1,
                call_id: Some(call(known.call)),
                unix_ms: 5,
                body: &body(id, known.len),
            })?;
        }
        let snapshot = writer.finish()?;
        journal.adopt(snapshot)?;
        Ok(())
    }

    /// Judges what a journal that was just opened holds. From then on that is the truth.
    pub fn judge<D: Disk>(&mut self, journal: &Journal<D>, rng: &mut Rng) -> Result<(), String> {
        let fail = |error: JournalError| format!("replay: {error}");
        let (ids, base) = replayed(journal, Seq::NONE).map_err(fail)?;
        let found: BTreeSet<u64> = ids.iter().copied().collect();
        if found.len() != ids.len() || !ids.is_sorted() {
            return Err(format!("not in order, or not once: {ids:?}"));
        }
        for id in &found {
            if !self.known.contains_key(id) {
                return Err(format!("entry {id} was never appended"));
            }
            if self.gone.contains(id) {
                return Err(format!("entry {id} was gone and is back"));
            }
            if self.erased.contains(id) {
                return Err(format!("entry {id} was erased and is back"));
            }
        }
        for id in self.acknowledged.difference(&self.erasing) {
            if !found.contains(id) {
                let seq = self.known[id].seq;
                return Err(format!(
                    "entry {id} ({seq}) was durable and is lost; {base:?}, {} found",
                    found.len()
                ));
            }
        }
        for id in self.known.keys() {
            if !found.contains(id) && !self.erasing.contains(id) {
                self.gone.insert(*id);
            }
        }
        self.acknowledged.extend(found.difference(&self.erasing));
        // An index that stands anywhere gets exactly the rest.
        if !self.positions.is_empty() {
            let at = rng.next_u64() as usize % self.positions.len();
            let after = self.positions[at];
            let (mut rest, base) = replayed(journal, after).map_err(fail)?;
            let mut expected = ids;
            if base == Base::Entries {
                expected.retain(|id| self.known[id].seq > after);
            }
            // An erasure that was cut off may have reached the segments and not the snapshots.
            rest.retain(|id| !self.erasing.contains(id));
            expected.retain(|id| !self.erasing.contains(id));
            if rest != expected {
                return Err(format!(
                    "after {after} ({base:?}): {rest:?} instead of {expected:?}"
                ));
            }
        }
        Ok(())
    }
}

/// The ids that a replay hands out, whole entries only; each body is checked.
pub fn replayed<D: Disk>(
    journal: &Journal<D>,
    after: Seq,
) -> Result<(Vec<u64>, Base), JournalError> {
    let mut replay = journal.replay(after);
    let (mut ids, mut last) = (Vec::new(), Seq::NONE);
    while let Some(stored) = replay.next()? {
        if !stored.in_snapshot {
            assert!(stored.seq > last, "{} after {last}", stored.seq);
            last = stored.seq;
        }
        if stored.content != Content::Whole {
            assert!(stored.body.is_empty() && stored.call_id.is_none());
            continue;
        }
        let id = u64::from_le_bytes(stored.body[..8].try_into().expect("8"));
        assert_eq!(stored.body, body(id, stored.body.len() - 8), "{id}");
        ids.push(id);
    }
    Ok((ids, replay.base()))
}

/// A whole life: several processes one after the other, each ended by a kill or a loss of power, with errors in
/// between. `wrap` may put something between the journal and the disk.
pub fn live<D: Disk>(seed: u64, wrap: impl Fn(SimDisk) -> D) -> Result<(), String> {
    let mut rng = Rng::from_u64(seed);
    let mut disk = SimDisk::new(seed ^ 0x5eed);
    let mut judge = Judge::default();
    let processes = 2 + rng.next_u64() % 4;
    for process in 0..=processes {
        let faults = if process == processes {
            Vec::new()
        } else {
            draw_faults(&mut rng)
        };
        disk.plan(&faults);
        match Journal::open(wrap(disk.clone()), options(rng.next_u64())) {
            Ok((mut journal, report)) => {
                if report.gaps.iter().any(|gap| gap.proven) {
                    return Err(format!("durable entries are called lost: {report}"));
                }
                match judge.judge(&journal, &mut rng) {
                    Err(_) if disk.is_off() => {}
                    judged => judged.map_err(|e| format!("process {process}: {e}; {report}"))?,
                }
                if process < processes {
                    run(&mut journal, &mut judge, &mut rng);
                }
            }
            Err(error) if process == processes => {
                return Err(format!("it does not open: {error}"));
            }
            Err(_) => {}
        }
        disk = if rng.next_u64().is_multiple_of(3) {
            disk.kill()
        } else {
            disk.crash(rng.next_u64())
        };
    }
    Ok(())
}

fn draw_faults(rng: &mut Rng) -> Vec<Fault> {
    let mut faults = Vec::new();
    if rng.next_u64().is_multiple_of(2) {
        let errno = [Errno::IO, Errno::NOSPC, Errno::ROFS][rng.next_u64() as usize % 3];
        let from = rng.next_u64() % 60;
        let until = from + [1, 1, 2, 8][rng.next_u64() as usize % 4];
        faults.push(Fault::Errors(from, until, errno));
    }
    if rng.next_u64().is_multiple_of(2) {
        faults.push(Fault::PowerOff(rng.next_u64() % 120));
    }
    faults
}

/// What one process does. Errors are what they are: it goes on.
fn run<D: Disk>(journal: &mut Journal<D>, judge: &mut Judge, rng: &mut Rng) {
    for _ in 0..rng.next_u64() % 40 {
        match rng.next_u64() % 16 {
            0..=6 => {
                for _ in 0..1 + rng.next_u64() % 5 {
                    let len = match rng.next_u64() % 12 {
                        0 => 2_000,
                        1 => 700,
                        _ => rng.next_u64() as usize % 120,
                    };
                    let _ = judge.append(journal, rng.next_u64() % 6, len);
                }
            }
            7..=13 => {
                let _ = judge.commit(journal);
            }
            14 => {
                let _ = judge.snapshot(journal);
            }
            _ => {
                let _ = judge.erase(journal, rng.next_u64() % 6);
            }
        }
    }
}
