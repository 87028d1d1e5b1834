//! The commands, one file each. `args` is the command line; here it is taken apart and handed on.

pub mod args;
pub mod check;
pub mod daemon;
pub mod demo;
pub mod serve;
pub mod simulate;

use args::{Cli, Command};
use clap::Parser;
use std::process::ExitCode;

/// How a command ends: its exit code, or one sentence for stderr and exit code 1.
pub type Outcome = Result<ExitCode, String>;

/// Reads the command line and runs the command. Wrong usage exits with 2 and help, as clap does.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        None => serve::run(cli.serve),
        Some(Command::Serve(args)) => serve::run(args),
        Some(Command::Check(args)) => check::run(args),
        Some(Command::Demo(args)) => demo::run(args),
        Some(Command::Simulate(args)) => simulate::run(args),
    };
    outcome.unwrap_or_else(|sentence| {
        eprintln!("voxrelay: {sentence}");
        ExitCode::FAILURE
    })
}
