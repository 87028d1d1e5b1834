//! The journal.
pub mod entry;
pub mod header;
pub mod policy;
pub mod scan;
pub mod seq;

#[cfg(feature = "daemon")]
pub mod disk;
#[cfg(feature = "daemon")]
pub mod erase;
#[cfg(feature = "daemon")]
pub mod error;
#[cfg(feature = "daemon")]
mod file;
#[cfg(feature = "daemon")]
mod read;
#[cfg(feature = "daemon")]
pub mod replay;
#[cfg(feature = "daemon")]
pub mod report;
#[cfg(feature = "daemon")]
pub mod snapshot;
#[cfg(feature = "daemon")]
pub mod verify;
#[cfg(feature = "daemon")]
pub mod writer;

#[cfg(test)]
mod sim_disk;
#[cfg(test)]
mod tests;
