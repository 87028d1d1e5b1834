//! The network: a connection has two directions, each of which keeps order and delays, splits, stalls, bursts and breaks.

use crate::dice::Dice;
use std::collections::VecDeque;

/// How a direction behaves, drawn once per connection.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// One way, microseconds.
    pub delay: u64,
    /// On top, up to.
    pub jitter: u64,
    /// So many sends of a thousand are followed by a stall, and what waits comes in a burst.
    pub stalls: u64,
    /// Sends are cut into pieces, at any byte.
    pub splits: bool,
    /// The connection breaks behind so many bytes of this direction.
    pub breaks_after: Option<u64>,
}

impl Weather {
    /// Constant delay and nothing else: what the ledger is measured in.
    pub fn calm(dice: &mut Dice) -> Self {
        Self {
            delay: dice.millis(0, 120),
            jitter: 0,
            stalls: 0,
            splits: true,
            breaks_after: None,
        }
    }

    pub fn any(dice: &mut Dice) -> Self {
        Self {
            delay: dice.millis(0, 150),
            jitter: dice.pick(&[0, 1_000, 20_000, 90_000]),
            stalls: dice.pick(&[0, 0, 2, 10]),
            splits: !dice.percent(30),
            breaks_after: dice.percent(5).then(|| dice.between(1, 150_000)),
        }
    }
}

/// What comes out of a direction.
pub enum Arrival {
    Bytes(Vec<u8>),
    /// The end: in order, or not.
    End {
        broken: bool,
    },
}

/// One direction.
pub struct Pipe {
    weather: Weather,
    queue: VecDeque<(u64, Vec<u8>)>,
    end: Option<(u64, bool)>,
    last: u64,
    entered: u64,
    /// Nothing comes out any more, and nobody is told.
    pub black: bool,
}

impl Pipe {
    pub fn new(weather: Weather) -> Self {
        Self {
            weather,
            queue: VecDeque::new(),
            end: None,
            last: 0,
            entered: 0,
            black: false,
        }
    }

    pub fn push(&mut self, mut bytes: &[u8], now: u64, dice: &mut Dice) {
        if self.end.is_some() || self.black {
            return;
        }
        let weather = self.weather;
        let mut breaks = false;
        if let Some(limit) = weather.breaks_after {
            let room = limit.saturating_sub(self.entered) as usize;
            if bytes.len() >= room {
                bytes = &bytes[..room];
                breaks = true;
            }
        }
        self.entered += bytes.len() as u64;
        while !bytes.is_empty() {
            let n = match weather.splits && dice.percent(25) {
                true => dice.between(1, bytes.len() as u64) as usize,
                false => bytes.len(),
            };
            let jitter = match weather.jitter {
                0 => 0,
                most => dice.between(0, most),
            };
            if dice.next() % 1_000 < weather.stalls {
                self.last = self.last.max(now) + dice.millis(50, 2_500);
            }
            self.last = self.last.max(now + weather.delay + jitter);
            self.queue.push_back((self.last, bytes[..n].to_vec()));
            bytes = &bytes[n..];
        }
        if breaks {
            self.end = Some((self.last.max(now + weather.delay), true));
        }
    }

    /// The end of this direction, behind all that was pushed, or (`broken`) in place of it.
    pub fn close(&mut self, broken: bool, now: u64) {
        if self.end.is_some() || self.black {
            return;
        }
        let at = now + self.weather.delay;
        if broken {
            self.queue.retain(|(arrives, _)| *arrives <= at);
        }
        self.end = Some((if broken { at } else { self.last.max(at) }, broken));
    }

    pub fn next(&self) -> Option<u64> {
        if self.black {
            return None;
        }
        match self.queue.front() {
            Some((at, _)) => Some(*at),
            None => self.end.map(|(at, _)| at),
        }
    }

    pub fn pop(&mut self, now: u64) -> Option<Arrival> {
        if self.next()? > now {
            return None;
        }
        if let Some((_, bytes)) = self.queue.pop_front() {
            return Some(Arrival::Bytes(bytes));
        }
        // Told once.
        let (_, broken) = self.end?;
        self.black = true;
        Some(Arrival::End { broken })
    }
}
