//! The allocator, the command line, the exit code.

use voxrelay::telemetry::allocation::Counting;

#[global_allocator]
static ALLOCATOR: Counting<mimalloc::MiMalloc> = Counting(mimalloc::MiMalloc);

fn main() -> std::process::ExitCode {
    voxrelay::cli::main()
}
