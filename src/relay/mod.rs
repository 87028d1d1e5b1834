//! The data plane: the io_uring shell. The desk does what is rare, the workers what happens for every frame.

pub mod desk;
pub mod worker;
