//! Whole sessions between a scripted carrier and a scripted model, on a virtual clock.

mod audio;
mod barge_in;
mod ends;
mod harness;
mod hostile;
mod model;
mod sim;
mod start;
mod tools;
