//! Whole sessions between a scripted carrier and a scripted model, on a virtual clock.

mod audio;
mod ends;
mod harness;
mod hostile;
mod life;
mod model;
mod outage;
mod sim;
mod start;
