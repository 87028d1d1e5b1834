//! One connection as the shell sees it: its two directions, what the relay has not consumed, what is with the kernel.

use crate::carrier::{Act, Outgoing};
use crate::check::{Note, Seen};
use crate::dice::Dice;
use crate::net::{Pipe, Weather};
use crate::ws;
use std::collections::VecDeque;

/// A connection, with both of its directions and the relay's end of it.
pub struct Link {
    pub up: Pipe,
    pub down: Pipe,
    /// At the relay, not consumed.
    pub pending: Vec<u8>,
    pub notes: VecDeque<(u64, Note)>,
    pub pushed: u64,
    pub delivered: u64,
    pub reader: ws::Reader,
    pub seen: VecDeque<(u64, Seen)>,
    pub arrived: u64,
    /// A send that the peer's side has not taken: until when.
    pub in_flight: Option<u64>,
    /// Since when.
    pub taken_at: u64,
    pub late: bool,
    pub frozen: bool,
    pub open: bool,
    pub finishing: bool,
    pub close_sent: bool,
}

impl Link {
    pub fn new(weather: [Weather; 2], masked: bool) -> Self {
        Self {
            up: Pipe::new(weather[0]),
            down: Pipe::new(weather[1]),
            pending: Vec::new(),
            notes: VecDeque::new(),
            pushed: 0,
            delivered: 0,
            reader: ws::Reader::new(masked),
            seen: VecDeque::new(),
            arrived: 0,
            in_flight: None,
            taken_at: 0,
            late: false,
            frozen: false,
            open: true,
            finishing: false,
            close_sent: false,
        }
    }

    pub fn next(&self) -> Option<u64> {
        let in_flight = self.in_flight.filter(|at| *at < u64::MAX && self.open);
        let up = self.up.next().filter(|_| self.open);
        [up, self.down.next(), in_flight]
            .into_iter()
            .flatten()
            .min()
    }
}

/// Puts what a peer does on its way to the relay.
pub fn give(
    link: &mut Link,
    out: &mut Vec<Outgoing>,
    acts: impl Iterator<Item = Act>,
    now: u64,
    dice: &mut Dice,
    log: bool,
    who: &str,
) {
    for Outgoing { bytes, note, line } in out.drain(..) {
        if log && !matches!(note, Note::Caller(_)) {
            println!("                           {who} says {:.160}", line);
        }
        link.pushed += bytes.len() as u64;
        link.notes.push_back((link.pushed, note));
        link.up.push(&bytes, now, dice);
    }
    for act in acts {
        if log {
            println!("                           {who}: {act:?}");
        }
        match act {
            Act::Eof => link.up.close(false, now),
            Act::Reset => link.up.close(true, now),
            Act::Vanish => {
                link.up.black = true;
                link.frozen = true;
            }
        }
    }
}
