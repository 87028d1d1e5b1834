//! Decisions, pure: one conversation from `connected` to its one `EndReason`.

pub mod fact;
pub mod session;

pub use fact::{Drop, EndReason, Fact, Leg, Report, Side, Speaker, Stats};
