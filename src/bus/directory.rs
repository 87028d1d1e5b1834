//! What the desk must know to admit a stream: an immutable snapshot that control publishes and swaps.

use crate::base::id::{CallId, CallSid};
use crate::call::policy::Policy;
use crate::proto::realtime::settings::Settings;
use arc_swap::ArcSwap;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

/// A call that a webhook has announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// The carrier's id for it, which `start` must name.
    pub call_sid: Option<CallSid>,
    /// Milliseconds since 1970; forgotten after.
    pub expires_unix_ms: u64,
}

/// So many parts does `Announced` have: adding a call copies one of them, and a pointer to each.
const PARTS: usize = 256;

/// The calls that webhooks have announced, by our id. A snapshot's successor shares with it what did not change: at hundreds of
/// calls a second, which all stay here for a ticket's life, copying the whole for each would take a core.
#[derive(Clone, Debug, Default)]
pub struct Announced {
    /// Empty, or `PARTS` of them.
    parts: Vec<Arc<HashMap<CallId, Expected>>>,
    len: usize,
}

impl Announced {
    fn part(call_id: &CallId) -> usize {
        let mut hasher = DefaultHasher::new();
        call_id.hash(&mut hasher);
        hasher.finish() as usize % PARTS
    }

    /// A call that waits for its stream.
    pub fn get(&self, call_id: &CallId) -> Option<&Expected> {
        self.parts.get(Self::part(call_id))?.get(call_id)
    }

    /// Adds a call, or replaces what is known of it.
    pub fn insert(&mut self, call_id: CallId, expected: Expected) {
        if self.parts.is_empty() {
            self.parts = vec![Arc::default(); PARTS];
        }
        let part = Arc::make_mut(&mut self.parts[Self::part(&call_id)]);
        self.len += usize::from(part.insert(call_id, expected).is_none());
    }

    /// Takes out the calls whose time is over; parts without such calls are left alone.
    pub fn forget(&mut self, now_unix_ms: u64) {
        for part in &mut self.parts {
            let is_over = |expected: &Expected| expected.expires_unix_ms <= now_unix_ms;
            if part.values().any(is_over) {
                let before = part.len();
                let part = Arc::make_mut(part);
                part.retain(|_, expected| !is_over(expected));
                self.len -= before - part.len();
            }
        }
    }

    /// Every call, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&CallId, &Expected)> {
        self.parts.iter().flat_map(|part| part.iter())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// One snapshot.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    /// The default agent's settings.
    pub settings: Arc<Settings>,
    /// How the default agent leads its calls.
    pub policy: Arc<Policy>,
    /// Calls announced by webhooks, by our id.
    pub expected: Announced,
    /// Signs and checks stream tickets; 32 bytes, made at start.
    pub ticket_key: [u8; 32],
    /// No new calls: the daemon is about to stop.
    pub draining: bool,
}

/// The shared handle: readers `load`, control swaps with `rcu`.
pub type SharedDirectory = Arc<ArcSwap<Directory>>;

#[cfg(test)]
mod tests {
    use super::*;

    fn expected(expires_unix_ms: u64) -> Expected {
        Expected {
            call_sid: None,
            expires_unix_ms,
        }
    }

    #[test]
    fn calls_are_found_counted_and_forgotten_when_their_time_is_over() {
        let mut announced = Announced::default();
        assert!(announced.is_empty() && announced.iter().next().is_none());
        let id = |n: u64| CallId::new(&n.to_string()).expect("short");
        for n in 0..1_000 {
            announced.insert(id(n), expected(n));
            announced.insert(id(n), expected(n + 1));
        }
        assert_eq!((announced.len(), announced.iter().count()), (1_000, 1_000));
        announced.forget(600);
        assert_eq!((announced.len(), announced.iter().count()), (400, 400));
        assert_eq!(announced.get(&id(599)), None);
        assert_eq!(announced.get(&id(600)), Some(&expected(601)));
    }

    #[test]
    fn a_successor_shares_what_did_not_change() {
        let mut first = Announced::default();
        for n in 0..1_000u64 {
            first.insert(CallId::new(&n.to_string()).expect("short"), expected(1));
        }
        let mut next = first.clone();
        next.insert(CallId::new("one more").expect("short"), expected(1));
        next.forget(0);
        let parts = first.parts.iter().zip(&next.parts);
        assert_eq!(parts.filter(|(a, b)| !Arc::ptr_eq(a, b)).count(), 1);
        assert_eq!((first.len(), next.len()), (1_000, 1_001));
    }
}
