//! The vocabulary that every other module shares: ids, units, bounds, time, the route table, the
//! stream ticket, secrets, money. Core: no I/O, no clock, no lock; it names nothing else of ours.

pub mod id;
pub mod limit;
pub mod money;
pub mod rng;
pub mod route;
pub mod secret;
pub mod time;
pub mod token;
pub mod unit;
