//! voxrelay: a voice relay between carrier media streams and a Realtime speech model, on io_uring.

pub mod base;
pub mod bus;
pub mod call;
pub mod cli;
pub mod config;
pub mod control;
pub mod outcall;
pub mod proto;
pub mod relay;
pub mod simulate;
pub mod telemetry;
pub mod transport;

/// The package's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The commit that was built, or `unknown` outside a repository.
pub const COMMIT: &str = env!("VOXRELAY_COMMIT");
