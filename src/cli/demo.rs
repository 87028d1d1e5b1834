//! `voxrelay demo`: one whole call on this machine.

use super::Outcome;
use super::args::DemoArgs;

/// Runs it.
pub fn run(args: DemoArgs) -> Outcome {
    let _ = args;
    Err("demo is not built yet".into())
}
