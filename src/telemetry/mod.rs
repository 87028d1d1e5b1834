//! Metrics and logs. Each metric name stands once, in `name`.

pub mod allocation;
pub mod desk_meter;
pub mod http_meter;
pub mod latency;
pub mod log;
pub mod meter;
pub mod name;
