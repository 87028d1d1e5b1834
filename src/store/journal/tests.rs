//! The journal on a simulated disk and on a real one.

mod crash;
mod damage;
mod fault;
mod life;
mod real;
mod snapshot;
