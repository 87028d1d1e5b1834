//! voxrelay: a voice relay between carrier media streams and a Realtime speech model, on io_uring.

pub mod base;
pub mod bus;
pub mod call;
pub mod cli;
pub mod config;
pub mod control;
pub mod proto;
pub mod relay;
pub mod simulate;
pub mod telemetry;
pub mod transport;
