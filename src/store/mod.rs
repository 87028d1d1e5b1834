//! What is recorded of calls. The journal is the truth; everything else is a view that can be built again from it.
//!
//! The journal's format ([`journal::entry`], [`journal::header`], [`journal::scan`]), its commit policy and what an entry says
//! ([`record`]) are core and always built, so that the fuzzers reach them; the rest is behind the feature `daemon`.

pub mod journal;
pub mod record;

#[cfg(feature = "daemon")]
pub mod analytics;
#[cfg(feature = "daemon")]
pub mod intake;
#[cfg(feature = "daemon")]
pub mod recording;
