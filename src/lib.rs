//! voxrelay: a voice relay between carrier media streams and a Realtime speech model, on io_uring.
//!
//! # The map
//!
//! A pure core inside a thin shell. The core takes bytes and the time, and gives back bytes, a deadline and facts.
//!
//! | module | what it is | half |
//! |---|---|---|
//! | [`base`] | the vocabulary: ids, units, bounds, time, the route table, the stream ticket | core |
//! | [`proto`] | wire formats: HTTP heads, WebSocket frames, the carrier's messages, the model's events, audio | core |
//! | [`call`] | one conversation: decisions in `Call`, two legs of bytes around it in `Session` | core |
//! | [`transport`] | an established connection as a value: descriptor, TLS state, bytes read ahead | shell |
//! | [`bus`] | bounded queues between threads | shell |
//! | [`config`] | what may be said, proven before a port is bound | shell |
//! | [`telemetry`] | metric names and handles, the log | shell |
//! | [`relay`] | the data plane: the desk (accept, upgrade, dial) and the workers (one ring each) | shell |
//! | [`control`] | the control plane: webhooks, health, metrics, on axum | shell |
//! | [`outcall`] | HTTP that we start: tools | shell |
//! | [`store`] | what is kept of calls: the journal (codec: core; disk: shell), records (core), recordings, sums (shell) | both |
//! | [`simulate`] | simulated carriers and model, which share no message code with the relay | shell |
//! | [`cli`] | the commands; may name everything | shell |
//!
//! Arrows point one way: `base` ← `proto` ← `call`; `transport` ← `bus`, `config`, `telemetry`; those ← `relay`, `control`,
//! `outcall`; `relay` and `control` never name each other and meet on `bus`. A test (`tests/tidy`) keeps this true.
//!
//! # The life of a call
//!
//! The carrier's webhook reaches `control`, which announces the call in the `bus::directory` and answers with a stream
//! address that carries a ticket. The carrier connects: the desk accepts, checks signature and ticket, answers 101 and
//! hands the socket to a worker. There a [`call::session::Session`] reads `start` and asks for the model; the desk dials and
//! hands that socket over too. From then on the worker's ring alone moves audio, until one side ends the call and
//! exactly one [`call::EndReason`] says why.
//!
//! Without the feature `daemon` (on by default) only the core is built, with a fifth of the dependencies.

#[cfg(all(feature = "planted-bugs", not(debug_assertions)))]
compile_error!(
    "`planted-bugs` breaks the relay on purpose; it is for tests with debug assertions alone"
);

pub mod base;
pub mod call;
pub mod proto;
pub mod store;

#[cfg(feature = "daemon")]
pub mod bus;
#[cfg(feature = "daemon")]
pub mod cli;
#[cfg(feature = "daemon")]
pub mod config;
#[cfg(feature = "daemon")]
pub mod control;
#[cfg(feature = "daemon")]
pub mod outcall;
#[cfg(feature = "daemon")]
pub mod relay;
#[cfg(feature = "daemon")]
pub mod simulate;
#[cfg(feature = "daemon")]
pub mod telemetry;
#[cfg(feature = "daemon")]
pub mod transport;

/// The package's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The commit that was built, or `unknown` outside a repository.
pub const COMMIT: &str = env!("VOXRELAY_COMMIT");
