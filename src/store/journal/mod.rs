//! The journal: an append-only file of facts, in segments. It is the truth of the store; every index is built from it.
//!
//! | part | what it does | half |
//! |---|---|---|
//! | [`seq`], [`entry`], [`header`] | numbers, an entry's bytes, a file's head and name | core |
//! | [`scan`] | finds entries in bytes, past damage too | core |
//! | [`policy`] | when to commit | core |
//! | [`disk`] | the few calls to a file system, and the lock | shell |
//! | [`writer`] | [`writer::Journal`]: append, commit, open after a crash | shell |
//! | [`replay`], [`snapshot`], [`erase`] | entries in order, what stands for old ones, what removes a call's | shell |
//! | [`verify`], [`report`] | looks at everything, beside a writer too, and says what is damaged | shell |
//!
//! The core half is always built, so that the fuzzers reach it; the shell half is behind the feature `daemon`.
//!
//! # Promises
//!
//! - What `commit` called durable comes back after a crash at any moment: in order, once, with the bytes that were appended.
//! - What it did not may come back or not. What one opening did not find never comes back later.
//! - A damaged byte costs the entry that it lies in and no other, and it is told which number that was.
//! - Nothing on the disk makes it panic, loop, or take more memory than one entry and a window.
//!
//! A crash can tear entries out of the middle of the last commit, the one that nobody was told of; those after them are used all
//! the same, for the same bytes could also be a durable commit that was damaged later. The report says of each gap
//! which of the two is possible.
//!
//! # Files
//!
//! ```text
//! lock                       flock'ed by the writer; its process id as text
//! EEEEEE-IIIIIIII.seg        a segment: epoch and index in hexadecimal
//! EEEEEE-IIIIIIII.snap       a snapshot
//! *.tmp                      one of them that is not finished; the next opening removes it
//! ```
//!
//! Each process takes the next epoch and writes only files of its own epoch. That fences a process which was replaced, and later
//! lets two append at once during an upgrade. A file appears under its name only when its head (of a snapshot, or of a file
//! that was written anew: everything) is on the disk.
//!
//! # Format, version 1
//!
//! All numbers are little-endian. A file is a head of 1024 bytes and then entries without gaps between them. The head has
//! two copies of the same 64 bytes, at 0 and at 512 (another sector); the rest is nought.
//!
//! | offset | bytes | head copy |
//! |---|---|---|
//! | 0 | 8 | `VXRJRNL\n` |
//! | 8 | 2 | version, 1. A greater one is refused and left alone |
//! | 10 | 2 | length of the head, 1024 |
//! | 12 | 4 | flags: 1 snapshot, 2 written anew |
//! | 16 | 4 | epoch, from 1 |
//! | 20 | 4 | index of the file in its epoch, from 0 |
//! | 24 | 8 | number of the first entry |
//! | 32 | 8 | segment: the last entry that was durable when it was begun. Snapshot: the last entry that it stands for |
//! | 40 | 8 | when it was begun, ms since 1970 |
//! | 48 | 8 | salt, by chance |
//! | 56 | 4 | nought |
//! | 60 | 4 | CRC-32C of bytes 0 to 59 |
//!
//! | offset | bytes | entry |
//! |---|---|---|
//! | 0 | 4 | `FF 4A 45 FE`: no UTF-8 text holds it |
//! | 4 | 4 | CRC-32C of bytes 8 up to the body; it begins with the salt's lower half |
//! | 8 | 4 | CRC-32C of the body; it begins with the salt's upper half |
//! | 12 | 4 | length of the body, at most 16 MiB |
//! | 16 | 8 | number: epoch (24 bits) and count in the epoch (40 bits, from 1) |
//! | 24 | 8 | ms since 1970; orders nothing |
//! | 32 | 2 | kind, the owner's |
//! | 34 | 1 | version of the body's layout, the owner's |
//! | 35 | 1 | flags: 1 first of its commit, 2 erased, 4 lost, 8 end of a snapshot |
//! | 36 | 1 | length of the call's id, 0 to 128 |
//! | 37 | 3 | nought |
//! | 40 | … | the call's id, UTF-8, then the body |
//!
//! Entries of an epoch are numbered without gaps, over all its segments. Where a segment begins at a number that an earlier
//! one of its epoch also has, the later segment counts: a write failed, and was done again there. A snapshot numbers its
//! entries for itself and ends with one of flag 8, whose body is the count (8 bytes) of those before it.

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

#[cfg(feature = "daemon")]
pub use self::{
    error::JournalError,
    report::Report,
    writer::{Journal, inspect, read},
};
