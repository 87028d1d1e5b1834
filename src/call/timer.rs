//! Named deadlines; the earliest wins, and we can say which it was. Core; one table for the call and one for each leg.

use crate::base::time::Mono;

/// What a deadline is for. Where two fall on the same instant, the one named first here is due first: a
/// mute peer is found before it is pinged again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum Deadline {
    /// The carrier's `start` (`limit::START_DEADLINE`).
    Start,
    /// From the dial to a confirmed session (`limit::UPSTREAM_DEADLINE`).
    Upstream,
    /// The next try of an outage.
    Redial,
    /// From a try's connection to its confirmed session.
    Setup,
    /// Another session is to take over.
    Rollover,
    /// From its dial to its confirmed session.
    Standby,
    /// The agent begins, when the caller has not.
    FirstWords,
    /// The next stage of silence.
    Silence,
    /// The model is told that time is nearly up.
    Warning,
    /// The call is as long as it may be.
    Duration,
    /// The goodbye was heard, or had time enough.
    Goodbye,
    /// The keys pressed so far are one text.
    Keys,
    /// Silence for a caller who went mute in mid-speech (`limit::SILENCE_PAD_AFTER`).
    Pad,
    /// The first mark's return (`limit::FIRST_MARK_DEADLINE`).
    FirstMark,
    /// The end of the guard window (`Policy::barge_in.guard_ms`).
    Guard,
    /// An interruption can no longer be taken back (`Policy::barge_in.confirm_ms`).
    Confirm,
    /// The model's answer to `response.create` (`limit::RESPONSE_DEADLINE`).
    Response,
    /// The server's answer to the caller's turn (`limit::RESPONSE_DEADLINE`).
    Answer,
    /// A response that failed is asked for again.
    Again,
    /// The peer's sign of life after our ping (`limit::PONG_DEADLINE`).
    Pong,
    /// Our next ping (`limit::PING_INTERVAL`).
    Ping,
    /// Audio has waited long enough to share a send (`Policy::coalesce_ms`).
    Join,
    /// The kernel's taking of a send (`limit::WRITE_STALL_DEADLINE`).
    Stall,
    /// The next step of the closing handshake (`limit::CLOSE_DEADLINE`).
    Close,
}

const ALL: [Deadline; 24] = [
    Deadline::Start,
    Deadline::Upstream,
    Deadline::Redial,
    Deadline::Setup,
    Deadline::Rollover,
    Deadline::Standby,
    Deadline::FirstWords,
    Deadline::Silence,
    Deadline::Warning,
    Deadline::Duration,
    Deadline::Goodbye,
    Deadline::Keys,
    Deadline::Pad,
    Deadline::FirstMark,
    Deadline::Guard,
    Deadline::Confirm,
    Deadline::Response,
    Deadline::Answer,
    Deadline::Again,
    Deadline::Pong,
    Deadline::Ping,
    Deadline::Join,
    Deadline::Stall,
    Deadline::Close,
];

const _: () = assert!(ALL.len() <= u32::BITS as usize, "a bit for each");

/// At most one point in time for each `Deadline`.
#[derive(Clone, Debug, Default)]
pub struct Timers {
    /// A bit for each that is set. Every frame asks for the earliest, and of twenty-one one to four are set.
    set: u32,
    /// Meaningful where the bit is set.
    at: [u64; ALL.len()],
}

impl Timers {
    /// Sets a deadline, in place of the one of that name.
    pub fn set(&mut self, name: Deadline, at: Mono) {
        self.at[name as usize] = at.0;
        self.set |= 1 << name as u32;
    }

    /// Takes a deadline away.
    pub fn clear(&mut self, name: Deadline) {
        self.set &= !(1 << name as u32);
    }

    /// Takes all of them away.
    pub fn clear_all(&mut self) {
        *self = Self::default();
    }

    /// Whether a deadline is set.
    pub fn is_set(&self, name: Deadline) -> bool {
        self.set & 1 << name as u32 != 0
    }

    /// When a deadline is due, where it is set.
    pub fn at(&self, name: Deadline) -> Option<Mono> {
        self.is_set(name).then(|| Mono(self.at[name as usize]))
    }

    /// The earliest, with its name.
    pub fn earliest(&self) -> Option<(Mono, Deadline)> {
        let mut left = self.set;
        let mut best: Option<(u64, usize)> = None;
        while left != 0 {
            let name = left.trailing_zeros() as usize;
            left &= left - 1;
            let at = self.at[name];
            // In the order of the names, so that the first of equals stays.
            if best.is_none_or(|(least, _)| at < least) {
                best = Some((at, name));
            }
        }
        best.map(|(at, name)| (Mono(at), ALL[name]))
    }

    /// The earliest that is due at `now`, taken away. `None` when none is.
    pub fn take_due(&mut self, now: Mono) -> Option<Deadline> {
        let (at, name) = self.earliest()?;
        if at > now {
            return None;
        }
        self.clear(name);
        Some(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_earliest_comes_first_and_says_its_name() {
        let mut timers = Timers::default();
        assert_eq!(timers.earliest(), None);
        timers.set(Deadline::Ping, Mono(20));
        timers.set(Deadline::Stall, Mono(10));
        assert_eq!(timers.earliest(), Some((Mono(10), Deadline::Stall)));
        assert_eq!(timers.take_due(Mono(9)), None);
        assert_eq!(timers.take_due(Mono(10)), Some(Deadline::Stall));
        assert_eq!(timers.take_due(Mono(19)), None);
        assert_eq!(timers.take_due(Mono(50)), Some(Deadline::Ping));
        assert_eq!(timers.take_due(Mono(50)), None);
    }

    proptest! {
        #[test]
        fn it_is_what_a_plain_list_says(
            steps in proptest::collection::vec((0..ALL.len(), proptest::option::of(0u64..20)), 0..200)
        ) {
            let mut timers = Timers::default();
            let mut list: Vec<Option<u64>> = vec![None; ALL.len()];
            for (n, at) in steps {
                prop_assert_eq!(ALL[n] as usize, n, "its place in the list is its bit");
                match at {
                    Some(at) => timers.set(ALL[n], Mono(at)),
                    None => timers.clear(ALL[n]),
                }
                list[n] = at;
                let least = list.iter().zip(ALL).filter_map(|(at, name)| Some(((*at)?, name)));
                let least = least.min_by_key(|(at, _)| *at);
                prop_assert_eq!(timers.earliest(), least.map(|(at, name)| (Mono(at), name)));
                prop_assert_eq!(timers.is_set(ALL[n]), at.is_some());
            }
        }
    }

    #[test]
    fn a_mute_peer_is_found_before_it_is_pinged_again() {
        let mut timers = Timers::default();
        timers.set(Deadline::Ping, Mono(7));
        timers.set(Deadline::Pong, Mono(7));
        assert_eq!(timers.take_due(Mono(7)), Some(Deadline::Pong));
        assert_eq!(timers.take_due(Mono(7)), Some(Deadline::Ping));
    }

    #[test]
    fn setting_again_moves_a_deadline() {
        let mut timers = Timers::default();
        timers.set(Deadline::Pad, Mono(5));
        timers.set(Deadline::Pad, Mono(9));
        assert_eq!(timers.take_due(Mono(5)), None);
        assert!(timers.is_set(Deadline::Pad));
        assert_eq!(timers.at(Deadline::Pad), Some(Mono(9)));
        assert_eq!(timers.at(Deadline::Ping), None);
        timers.clear(Deadline::Pad);
        assert_eq!(timers.earliest(), None);
    }
}
