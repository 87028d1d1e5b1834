//! The load tester: hundreds of simulated calls and one simulated model around a relay, on one thread and one ring.
//!
//! ```text
//!   carriers ══ media ══► relay under test ══ appends ══► model
//!      ▲ │                                               │ ▲
//!      │ └──────────── one thread, one ring, one clock ──┘ │
//!      └── stamps inside the audio: whose, which, when ────┘
//! ```
//!
//! Content is checked, not only time: each frame carries its call, its number and the moment at which it was meant to be
//! sent, so that whoever receives it knows what it is without asking. Latency is the relay's own share of the way; a
//! generator that is late sends its frames with the moments at which they were due, so that its lateness is never left out.
//!
//! - [`stamp`], [`check`], [`ledger`]: what a frame says, what may not happen to a call's frames, what both ends know.
//! - [`caller`], [`session`], [`talk`]: lean simulators, sans-IO: messages and the time in, frames out.
//! - [`process`]: what the relay's processes cost. [`plot`]: figures against calls.
//! - [`wire`], [`world`]: connections, calls, timers. [`ring`], [`driver`]: the thread that moves the bytes.

pub mod caller;
pub mod check;
pub mod driver;
pub mod ledger;
pub mod plan;
pub mod plot;
pub mod process;
pub mod ring;
pub mod scan;
pub mod session;
pub mod stamp;
pub mod talk;
pub mod tally;
pub mod wire;
pub mod world;
