//! `voxrelay simulate model` and `voxrelay simulate carrier`: the simulators on their own.

use super::Outcome;
use super::args::{CarrierArgs, ModelArgs};

/// Runs the simulated model.
pub fn model(args: ModelArgs) -> Outcome {
    let _ = args;
    Err("the simulated model is not built yet".into())
}

/// Runs the simulated carrier.
pub fn carrier(args: CarrierArgs) -> Outcome {
    let _ = args;
    Err("the simulated carrier is not built yet".into())
}
