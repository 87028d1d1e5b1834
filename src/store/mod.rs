//! What is recorded of calls. The journal is the truth; everything else is a view that can be built again from it.
//!
//! The journal's format ([`journal::entry`], [`journal::header`], [`journal::scan`]) and its commit policy are core and always
//! built, so that the fuzzers reach them; whatever touches a disk is behind the feature `daemon`.

pub mod journal;
