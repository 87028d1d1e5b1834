//! What is recorded of calls. The journal is the truth; everything else is a view that can be built again from it.

pub mod record;

#[cfg(feature = "daemon")]
pub mod analytics;
#[cfg(feature = "daemon")]
pub mod intake;
#[cfg(feature = "daemon")]
pub mod recording;
