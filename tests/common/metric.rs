//! The metric names that the tests read, as an operator would.

/// Messages not passed on, by `reason`.
pub const DROPPED: &str = "voxrelay_messages_dropped_total";
/// Silence sent for gaps in stream time.
pub const FILLED_BYTES: &str = "voxrelay_audio_filled_bytes_total";
/// Live calls.
pub const CALLS_ACTIVE: &str = "voxrelay_calls_active";
/// Model legs open.
pub const UPSTREAM_OPEN: &str = "voxrelay_upstream_open";
/// Requests refused at the door, by `reason`.
pub const REFUSED: &str = "voxrelay_rejected_upgrades_total";
/// Calls ended, by `reason` and `side`.
pub const CALLS_ENDED: &str = "voxrelay_calls_ended_total";
/// Calls of tools that were answered, by `outcome`.
pub const TOOL_CALLS: &str = "voxrelay_tool_calls_total";
