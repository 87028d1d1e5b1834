//! Whole sessions between a scripted carrier and a scripted model, on a virtual clock.

mod answers;
mod audio;
mod barge_in;
mod coalesce;
mod ends;
mod everywhere;
mod goodbye;
mod harness;
mod heard;
mod hostile;
mod interrupt;
mod life;
mod loss;
mod model;
mod outage;
mod start;
mod tools;
