//! The journal.
pub mod entry;
pub mod header;
pub mod policy;
pub mod scan;
pub mod seq;
