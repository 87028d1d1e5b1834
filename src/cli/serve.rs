//! `voxrelay serve`: the daemon.

use super::Outcome;
use super::args::ServeArgs;

/// Runs it.
pub fn run(args: ServeArgs) -> Outcome {
    let _ = args;
    Err("serve is not built yet".into())
}
