//! The commands, one file each. `args` is the command line; here it is taken apart and handed on.

pub mod args;
pub mod check;
pub mod daemon;
pub mod demo;
pub mod echo_client;
pub mod load;
pub mod serve;
pub mod simulate;

use crate::telemetry::log;
use args::{Cli, Command, EchoClientArgs, ServeArgs, Simulate};
use clap::Parser;
use std::process::ExitCode;

/// How a command ends: its exit code, or one sentence for stderr and exit code 1.
pub type Outcome = Result<ExitCode, String>;

/// Reads the command line and runs the command. Wrong usage exits with 2 and help, as clap does.
pub fn main() -> ExitCode {
    // The allocator asks for huge pages, and an idle daemon then holds 24 MiB of which 21 were never written. Where the
    // kernel refuses, it holds them.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    let cli = Cli::parse();
    let outcome = match cli.command {
        None => serve(cli.serve),
        Some(Command::Serve(args)) => serve(args),
        Some(Command::Check(args)) => check::run(args),
        Some(Command::Demo(args)) => demo::run(args),
        Some(Command::Load(args)) => load::run(*args),
        Some(Command::Simulate(args)) => match args.who {
            Simulate::Model(args) => simulate::model(args),
            Simulate::Carrier(args) => simulate::carrier(args),
            // Not a simulator: the client code that talks to the model, under test.
            Simulate::EchoClient(args) => echo_client(args),
        },
    };
    outcome.unwrap_or_else(|sentence| {
        eprintln!("voxrelay: {sentence}");
        ExitCode::FAILURE
    })
}

/// Proves the configuration and the machine, starts the log, and runs the daemon.
fn serve(args: ServeArgs) -> Outcome {
    let mut config = check::before_start(args.config.as_deref())?;
    config.dev.conformance_echo = args.conformance_echo;
    let _log = log::init(&config.log.level, config.log.json)
        .map_err(|error| format!("the log can't be started: {error}"))?;
    serve::run(config)?;
    Ok(ExitCode::SUCCESS)
}

fn echo_client(args: EchoClientArgs) -> Outcome {
    echo_client::run(&args.url, &args.agent, args.cases)?;
    Ok(ExitCode::SUCCESS)
}
