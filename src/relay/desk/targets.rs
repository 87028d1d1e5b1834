//! Where a dial may go: the model's endpoints with their weights and health, and the API keys of each.
//!
//! A dial tries each endpoint with each of its keys at most once at once. An endpoint that failed, or whose connection was of
//! no use to a call, comes last for a while; so does a key that was refused.

use crate::base::id::CallId;
use crate::config::Secret;
use crate::proto::realtime::endpoint::Endpoint;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;
use tokio::time::Instant;

/// A key that was refused or is over its rate stays unused for this long, as long as there is another.
pub(super) const KEY_PAUSE: Duration = Duration::from_secs(60);
/// An endpoint that failed is used only when no other is left, for so long.
pub(super) const ENDPOINT_PAUSE: Duration = Duration::from_secs(30);
/// Connections that are remembered with their calls: a call that finds its own useless says so within seconds.
const GIVEN_MAX: usize = 1024;

/// One of the model's endpoints.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) endpoint: Rc<Endpoint>,
    pub(super) keys: KeyRing,
    /// Its share among the healthy ones; 0: only when no other is left.
    pub(super) weight: u32,
    pub(super) failed_until: Option<Instant>,
}

impl Target {
    pub(super) fn new(endpoint: Endpoint, keys: Vec<Secret>, weight: u32) -> Self {
        Self {
            endpoint: Rc::new(endpoint),
            keys: KeyRing::new(keys),
            weight,
            failed_until: None,
        }
    }
}

/// What one dial has tried.
#[derive(Debug, Default)]
pub(super) struct Tried {
    /// Endpoints that are not worth another attempt.
    endpoints: Vec<usize>,
    /// Keys that were refused, with their endpoints.
    keys: Vec<(usize, usize)>,
}

/// The model's endpoints, with their health.
#[derive(Debug)]
pub(super) struct Targets {
    pub(super) all: Vec<Target>,
    /// Which call got a connection to which endpoint, newest last.
    given: VecDeque<(CallId, usize)>,
}

impl Targets {
    pub(super) fn new(all: Vec<Target>) -> Self {
        Self {
            all,
            given: VecDeque::new(),
        }
    }

    /// The endpoint and the key for the next attempt. `None` without endpoints.
    pub(super) fn next(
        &mut self,
        tried: &Tried,
        dice: u32,
        now: Instant,
    ) -> Option<(usize, Option<usize>)> {
        let at = self.pick(&tried.endpoints, dice, now)?;
        let is_tried = |key: usize| tried.keys.contains(&(at, key));
        Some((at, self.all[at].keys.pick(is_tried, now)))
    }

    /// An attempt failed; `key_refused`: for its key. Whether there is another key or endpoint that this dial has not tried:
    /// then it is worth an attempt at once, whatever this one's answer was.
    pub(super) fn failed(
        &mut self,
        (at, key): (usize, Option<usize>),
        key_refused: bool,
        tried: &mut Tried,
        now: Instant,
    ) -> bool {
        if let Some(key) = key.filter(|_| key_refused) {
            let keys = &mut self.all[at].keys;
            keys.pause(key, now);
            tried.keys.push((at, key));
            if (0..keys.keys.len()).any(|key| !tried.keys.contains(&(at, key))) {
                return true;
            }
        }
        self.all[at].failed_until = Some(now + ENDPOINT_PAUSE);
        tried.endpoints.push(at);
        (0..self.all.len()).any(|i| !tried.endpoints.contains(&i))
    }

    /// An attempt succeeded, for this call.
    pub(super) fn gave(&mut self, at: usize, call_id: CallId) {
        self.all[at].failed_until = None;
        self.note(at, call_id);
    }

    /// The endpoint, by number, that was given last under this name.
    pub(super) fn endpoint_of(&self, call_id: CallId) -> u16 {
        let given = self.given.iter().rfind(|(given, _)| *given == call_id);
        // A name that is forgotten means nobody's, and so does a number that there is none of.
        given.map_or(u16::MAX, |(_, at)| u16::try_from(*at).unwrap_or(u16::MAX))
    }

    /// A call has a connection to this endpoint that was dialled under another name.
    pub(super) fn taken(&mut self, endpoint: u16, call_id: CallId) {
        let at = usize::from(endpoint);
        if at < self.all.len() {
            self.note(at, call_id);
        }
    }

    /// A connection to this endpoint was lost before anybody had any use of it.
    pub(super) fn lost_early(&mut self, endpoint: u16, now: Instant) {
        if let Some(target) = self.all.get_mut(usize::from(endpoint)) {
            target.failed_until = Some(now + ENDPOINT_PAUSE);
        }
    }

    fn note(&mut self, at: usize, call_id: CallId) {
        if self.given.len() == GIVEN_MAX {
            self.given.pop_front();
        }
        self.given.push_back((call_id, at));
    }

    /// The connection that this call was given last was of no use. The endpoint, where it is known.
    pub(super) fn distrust(&mut self, call_id: CallId, now: Instant) -> Option<&Endpoint> {
        let last = self.given.iter().rfind(|(given, _)| *given == call_id)?.1;
        let target = &mut self.all[last];
        target.failed_until = Some(now + ENDPOINT_PAUSE);
        Some(&target.endpoint)
    }

    /// The next to try: by weight among those that are healthy and were not tried in this dial, then those that
    /// were not tried, then any. `dice`: any number.
    pub(super) fn pick(&self, tried: &[usize], dice: u32, now: Instant) -> Option<usize> {
        let fresh = |i: &usize| !tried.contains(i);
        let healthy = |i: &usize| self.all[*i].failed_until.is_none_or(|until| until <= now);
        let all = 0..self.all.len();
        let mut left: u64 = all
            .clone()
            .filter(|i| fresh(i) && healthy(i))
            .map(|i| u64::from(self.all[i].weight))
            .sum();
        if left > 0 {
            left = u64::from(dice) % left;
            for i in all.clone().filter(|i| fresh(i) && healthy(i)) {
                match left.checked_sub(u64::from(self.all[i].weight)) {
                    Some(rest) => left = rest,
                    None => return Some(i),
                }
            }
        }
        let soonest = |i: &usize| (self.all[*i].failed_until, *i);
        all.clone()
            .filter(fresh)
            .min_by_key(soonest)
            .or_else(|| all.min_by_key(soonest))
    }
}

/// The API keys in turn.
#[derive(Debug)]
pub(super) struct KeyRing {
    pub(super) keys: Vec<Secret>,
    paused_until: Vec<Option<Instant>>,
    next: usize,
}

impl KeyRing {
    pub(super) fn new(keys: Vec<Secret>) -> Self {
        Self {
            paused_until: vec![None; keys.len()],
            keys,
            next: 0,
        }
    }

    /// The next key that is not paused; when all are, the one whose pause ends first; one that is tried comes after all
    /// others. `None` without keys.
    pub(super) fn pick(&mut self, is_tried: impl Fn(usize) -> bool, now: Instant) -> Option<usize> {
        let count = self.keys.len();
        let turn = (0..count).map(|step| (self.next + step) % count);
        let fresh = |i: &usize| !is_tried(*i);
        let usable = turn
            .clone()
            .filter(fresh)
            .find(|&i| !self.is_paused(i, now));
        let soonest = |i: &usize| self.paused_until[*i];
        let index = usable
            .or_else(|| turn.clone().filter(fresh).min_by_key(soonest))
            .or_else(|| turn.min_by_key(soonest))?;
        self.next = (index + 1) % count;
        Some(index)
    }

    fn is_paused(&self, index: usize, now: Instant) -> bool {
        self.paused_until[index].is_some_and(|until| until > now)
    }

    pub(super) fn pause(&mut self, index: usize, now: Instant) {
        self.paused_until[index] = Some(now + KEY_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::realtime::endpoint;

    #[test]
    fn keys_take_turns_and_paused_ones_are_skipped() {
        let now = Instant::now();
        assert_eq!(KeyRing::new(Vec::new()).pick(|_| false, now), None);
        let mut ring = KeyRing::new(["a", "b", "c"].map(Secret::new).to_vec());
        let turns = |ring: &mut KeyRing, now| [0; 4].map(|_| ring.pick(|_| false, now).unwrap());
        assert_eq!(turns(&mut ring, now), [0, 1, 2, 0]);
        ring.pause(1, now);
        assert_eq!(turns(&mut ring, now), [2, 0, 2, 0]);
        ring.pause(0, now + Duration::from_secs(1));
        ring.pause(2, now + Duration::from_secs(2));
        assert_eq!(
            turns(&mut ring, now),
            [1, 1, 1, 1],
            "the first to come back"
        );
        let later = now + KEY_PAUSE;
        assert_eq!(
            ring.pick(|key| key == 2, later),
            Some(1),
            "it is over for that one"
        );
        assert_eq!(
            ring.pick(|key| key != 0, later),
            Some(0),
            "not tried, though paused"
        );
        assert!(ring.pick(|_| true, later).is_some());
    }

    #[test]
    fn no_text_of_an_error_names_a_key() {
        let ring = KeyRing::new(vec![Secret::new("sk-very-secret")]);
        assert!(!format!("{ring:?}").contains("very"));
    }

    fn targets(weights: &[u32]) -> Targets {
        let target = |weight: &u32| {
            let endpoint = endpoint::connect_url("ws://127.0.0.1:9", "m", None).expect("a URL");
            Target::new(endpoint, Vec::new(), *weight)
        };
        Targets::new(weights.iter().map(target).collect())
    }

    #[test]
    fn endpoints_share_by_weight_and_the_last_resort_comes_last() {
        let (targets, now) = (targets(&[1, 3, 0]), Instant::now());
        let mut counts = [0; 3];
        for dice in 0..400 {
            counts[targets.pick(&[], dice, now).expect("one")] += 1;
        }
        assert_eq!(counts, [100, 300, 0]);
        assert_eq!(targets.pick(&[0, 1], 7, now), Some(2));
        assert!(targets.pick(&[0, 1, 2], 7, now).is_some());
    }

    #[test]
    fn an_endpoint_that_failed_is_left_alone_for_a_while() {
        let (mut targets, now) = (targets(&[1, 1]), Instant::now());
        targets.all[0].failed_until = Some(now + ENDPOINT_PAUSE);
        for dice in 0..10 {
            assert_eq!(targets.pick(&[], dice, now), Some(1));
            assert_eq!(targets.pick(&[1], dice, now), Some(0), "the only one left");
        }
        let later = now + ENDPOINT_PAUSE;
        let picked: Vec<_> = (0..2).map(|dice| targets.pick(&[], dice, later)).collect();
        assert_eq!(picked, [Some(0), Some(1)]);
    }

    #[test]
    fn a_refused_key_leads_to_the_next_one_and_then_to_the_next_endpoint() {
        let now = Instant::now();
        let mut targets = targets(&[1, 0]);
        targets.all[0].keys = KeyRing::new(["a", "b"].map(Secret::new).to_vec());
        // Somebody else's dial was refused with it: tried all the same, and last.
        targets.all[0].keys.pause(0, now);
        let mut tried = Tried::default();
        let mut course = Vec::new();
        loop {
            let attempt = targets.next(&tried, 5, now).expect("one");
            course.push(attempt);
            if !targets.failed(attempt, true, &mut tried, now) {
                break;
            }
        }
        assert_eq!(course, [(0, Some(1)), (0, Some(0)), (1, None)]);
    }

    #[test]
    fn an_endpoint_whose_connection_was_of_no_use_is_left_alone_for_a_while() {
        let now = Instant::now();
        let mut targets = targets(&[1, 1]);
        let call = |n: usize| CallId::new(&format!("c{n}")).expect("fits");
        targets.gave(0, call(1));
        targets.gave(1, call(1));
        targets.gave(0, call(2));
        assert!(targets.distrust(call(1), now).is_some());
        assert!(targets.distrust(call(3), now).is_none());
        for dice in 0..10 {
            assert_eq!(targets.pick(&[], dice, now), Some(0));
        }
        assert_eq!(targets.pick(&[], 1, now + ENDPOINT_PAUSE), Some(1));
        for n in 0..2 * GIVEN_MAX {
            targets.gave(0, call(n));
        }
        assert_eq!(targets.given.len(), GIVEN_MAX);
    }

    #[test]
    fn an_endpoint_is_known_by_whoever_took_its_connection_and_by_a_number() {
        let (mut targets, now) = (targets(&[1, 1]), Instant::now());
        let [warm, call] = ["warm", "call"].map(|name| CallId::new(name).expect("short"));
        targets.gave(1, warm);
        let number = targets.endpoint_of(warm);
        assert_eq!((number, targets.endpoint_of(call)), (1, u16::MAX));
        assert!(targets.distrust(call, now).is_none());
        targets.taken(number, call);
        assert!(targets.distrust(call, now).is_some());
        assert_eq!(targets.all[1].failed_until, Some(now + ENDPOINT_PAUSE));
        assert_eq!(targets.all[0].failed_until, None);
        targets.lost_early(0, now);
        assert_eq!(targets.all[0].failed_until, Some(now + ENDPOINT_PAUSE));
        // A number that there is none of is nobody's.
        targets.lost_early(u16::MAX, now);
        targets.taken(u16::MAX, call);
        assert_eq!(targets.endpoint_of(call), 1);
    }
}
