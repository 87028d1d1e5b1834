//! `voxrelay simulate`: the simulators on their own.

use super::Outcome;
use super::args::SimulateArgs;

/// Runs it.
pub fn run(args: SimulateArgs) -> Outcome {
    let _ = args;
    Err("simulate is not built yet".into())
}
