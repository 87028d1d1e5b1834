//! Bounded queues between threads. Every queue states what "full" means.

pub mod command;
pub mod directory;
pub mod load;
pub mod report;
pub mod tool;
