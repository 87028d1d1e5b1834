//! What is worked out of calls: one call in numbers, how its caller sounded, and sums over hours, days and weeks.
//!
//! Pure: facts and rows in, numbers out. [`live`] follows one call as it goes on; [`sentiment`] reads its words; [`series`]
//! adds finished calls up, and takes them away again when they are erased, without reading any other call.

pub mod live;
pub mod sentiment;
pub mod series;
