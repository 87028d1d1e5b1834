//! The whole command line.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;

/// `voxrelay --version`.
const VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (",
    env!("VOXRELAY_COMMIT"),
    ")"
);

/// A voice relay: carrier media streams to a Realtime speech model, on io_uring.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "voxrelay",
    version = VERSION,
    args_conflicts_with_subcommands = true,
    after_help = "Without a command the daemon is started (voxrelay serve).\n\nExamples:\n  \
        voxrelay demo                          one simulated call, start to end, nothing needed\n  \
        voxrelay check --config config.toml    what is wrong, all at once\n  \
        PORT=8080 voxrelay                     the daemon on another port"
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// `serve`'s own flags, for when no command is given.
    #[command(flatten)]
    pub serve: ServeArgs,
}

/// The commands.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Start the daemon (also what happens without a command)
    #[command(
        after_help = "Checks the configuration and the machine first; on an error nothing is bound and the \
        exit code is 1.\nSIGTERM waits for live calls (relay.drain_secs), SIGHUP reads the certificate again.\n\n\
        Examples:\n  voxrelay serve\n  OPENAI_API_KEY=sk-... voxrelay serve --config /etc/voxrelay/config.toml"
    )]
    Serve(ServeArgs),
    /// Check the configuration and the machine, and say everything that is wrong
    #[command(
        after_help = "Exit code 1 when there is an error, 0 with warnings only. Secrets are never shown.\n\n\
        Examples:\n  voxrelay check\n  voxrelay check --config /etc/voxrelay/config.toml"
    )]
    Check(CheckArgs),
    /// One whole call on this machine: daemon, simulated model, simulated caller
    #[command(
        after_help = "Needs no key, no service and no configuration; ends by itself in under half a minute. \
        Exit code 1 when a check of the call failed.\n\nExamples:\n  voxrelay demo\n  voxrelay demo --seed 7"
    )]
    Demo(DemoArgs),
    /// Hundreds of simulated calls against a relay: content checked, delay and cost measured
    #[command(
        after_help = "Starts this program's own relay, or takes one that runs (--relay), with simulated carriers on one \
        side and one simulated model on the other.\nEvery frame says whose it is and when it was due; one that is lost, \
        doubled, late in the order or of another call is named.\n\
        Exit code: 0 all right, 1 a fault or no relay, 2 wrong usage, 3 void (the generator was late).\n\nExamples:\n  \
        voxrelay load --calls 100 --hold 10s\n  \
        voxrelay load --tls --step 100,200,400,800 --plot knee.svg --json knee.json\n  \
        voxrelay load --profile talk --barge-in-rate 0.5 --calls 200\n  \
        voxrelay load --churn --calls 200 --ramp 500/s --call-time 300ms --calls-total 100000\n  \
        voxrelay load --relay ws://127.0.0.1:3000/media-stream --relay-pid 4711 --model-listen 127.0.0.1:8443 --tls --ca-out ca.pem\n  \
        voxrelay load --calls 500 --tls --pairs 10 --against haproxy=\"haproxy -db -f benches/baseline/haproxy.cfg\"\n  \
        voxrelay load --tls --against baseline=\"target/release/examples/baseline-tokio --listen {listen} --model {model} --ca {ca}\""
    )]
    Load(Box<super::load::options::LoadArgs>),
    /// A simulated model, carrier or echo client, for use against other programs
    Simulate(SimulateArgs),
}

/// `voxrelay serve`.
#[derive(Clone, Debug, Default, Args)]
pub struct ServeArgs {
    /// The configuration file; must exist when given [default: config.toml, if there is one]
    #[arg(long, value_name = "FILE", env = "VOXRELAY_CONFIG")]
    pub config: Option<PathBuf>,
    /// Open /conformance/echo, which sends every message back, for protocol test suites
    #[arg(long)]
    pub conformance_echo: bool,
}

/// `voxrelay check`.
#[derive(Clone, Debug, Default, Args)]
pub struct CheckArgs {
    /// The configuration file; must exist when given [default: config.toml, if there is one]
    #[arg(long, value_name = "FILE", env = "VOXRELAY_CONFIG")]
    pub config: Option<PathBuf>,
    /// Also ask DNS for the model's host; the only check that uses the network
    #[arg(long)]
    pub dns: bool,
}

/// `voxrelay demo`.
#[derive(Clone, Debug, Default, Args)]
pub struct DemoArgs {
    /// Seed of everything random in the simulators
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// A WAV file (8 kHz, mono, 16 bit or mu-law) that the caller speaks [default: one that is built in]
    #[arg(long, value_name = "FILE")]
    pub wav: Option<PathBuf>,
    /// Write every event between relay and model to this file, one JSON object a line
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// No progress bar and no live transcript, only the summary
    #[arg(long)]
    pub quiet: bool,
}

/// `voxrelay simulate`.
#[derive(Clone, Debug, Args)]
pub struct SimulateArgs {
    /// Who is simulated.
    #[command(subcommand)]
    pub who: Simulate,
}

/// The simulators.
#[derive(Clone, Debug, Subcommand)]
pub enum Simulate {
    /// A Realtime endpoint that hears, answers and echoes
    #[command(
        after_help = "Examples:\n  voxrelay simulate model --listen 127.0.0.1:8443 --ca-out ca.pem\n  \
        voxrelay simulate model --plain --mode echo"
    )]
    Model(ModelArgs),
    /// A carrier that places calls to a media-stream address
    #[command(
        after_help = "Examples:\n  voxrelay simulate carrier --url ws://127.0.0.1:3000/media-stream\n  \
        voxrelay simulate carrier --webhook http://127.0.0.1:3000/api/twilio/voice --calls 3"
    )]
    Carrier(CarrierArgs),
    /// A WebSocket client that sends every message back, for protocol test suites
    #[command(
        after_help = "Runs every case of an Autobahn fuzzing server over the client code that talks to the \
        model.\n\nExample:\n  voxrelay simulate echo-client --url ws://127.0.0.1:9001 --agent voxrelay"
    )]
    EchoClient(EchoClientArgs),
}

/// How the simulated model answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ModelMode {
    /// Turns with audio and transcript, after the caller spoke
    #[default]
    Talk,
    /// Every appended chunk back at once
    Echo,
}

/// Sizes and pace of the simulated model's audio.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ModelProfile {
    /// 250 ms a delta, four times faster than real time (gpt-realtime)
    #[default]
    #[value(name = "250ms")]
    Ms250,
    /// 330 to 400 ms a delta, twelve times faster (gpt-realtime-2.1-mini)
    #[value(name = "350ms")]
    Ms350,
}

/// How a simulated carrier ends its calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum CarrierEnd {
    /// `stop`, then a close frame
    #[default]
    Stop,
    /// A close frame without `stop`
    Close,
    /// The connection is reset
    Reset,
}

/// `voxrelay simulate model`.
#[derive(Clone, Debug, Args)]
pub struct ModelArgs {
    /// Address and port to listen on; port 0 lets the system choose
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8443")]
    pub listen: SocketAddr,
    /// How it answers
    #[arg(long, value_enum, default_value_t)]
    pub mode: ModelMode,
    /// No TLS
    #[arg(long, alias = "no-tls", conflicts_with_all = ["cert", "key", "ca_out"])]
    pub plain: bool,
    /// Certificate chain, PEM [default: made on the spot]
    #[arg(long, value_name = "FILE", requires = "key")]
    pub cert: Option<PathBuf>,
    /// Its private key, PEM
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,
    /// Write the certificate that was made, for realtime.ca_file
    #[arg(long, value_name = "FILE", conflicts_with = "cert")]
    pub ca_out: Option<PathBuf>,
    /// Sizes and pace of its audio
    #[arg(long, value_enum, default_value_t)]
    pub profile: ModelProfile,
    /// The key that clients must send [default: any]
    #[arg(long, value_name = "KEY")]
    pub api_key: Option<String>,
    /// Write every event of every session to this file, one JSON object a line
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// Add an unknown field and an unknown event to one event in so many; 0 is never
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub unknown_every: u64,
    /// Add the random `obfuscation` field that the real endpoint adds to text deltas
    #[arg(long)]
    pub obfuscation: bool,
    /// End each session after so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    pub session_secs: u64,
    /// Send each event this much later
    #[arg(long, value_name = "MS", default_value_t = 0)]
    pub slow_ms: u64,
    /// Answer every upgrade with this HTTP status
    #[arg(long, value_name = "STATUS", value_parser = clap::value_parser!(u16).range(400..=599))]
    pub refuse: Option<u16>,
    /// Something that goes wrong after so many events of a session: `stall[:MS]@N`, `reset@N`, `close:CODE@N`, `garbage@N`, `frame@N`, `fail@N`
    #[arg(long, value_name = "HARM@N")]
    pub fault: Vec<crate::simulate::model::options::Fault>,
    /// Seed of everything random
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
}

/// `voxrelay simulate carrier`.
#[derive(Clone, Debug, Args)]
pub struct CarrierArgs {
    /// The media-stream address, ws:// or wss://
    #[arg(long, value_name = "URL", required_unless_present = "webhook")]
    pub url: Option<String>,
    /// Ask this voice webhook for the media-stream address, as a carrier does
    #[arg(long, value_name = "URL", conflicts_with = "url")]
    pub webhook: Option<String>,
    /// A WAV file (8 kHz, mono, 16 bit or mu-law) that the caller speaks [default: one that is built in]
    #[arg(long, value_name = "FILE")]
    pub wav: Option<PathBuf>,
    /// Calls at the same time
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub calls: u32,
    /// End each call after so many seconds [default: at the end of the WAV file]
    #[arg(long, value_name = "SECONDS")]
    pub seconds: Option<u32>,
    /// How each call ends
    #[arg(long, value_enum, default_value_t)]
    pub end: CarrierEnd,
    /// Press a key: DIGIT@SECONDS
    #[arg(long, value_name = "DIGIT@SECONDS")]
    pub dtmf: Vec<crate::simulate::carrier::options::Key>,
    /// A custom parameter of `start`
    #[arg(long, value_name = "NAME=VALUE")]
    pub parameter: Vec<String>,
    /// Return a mark that was never sent, two seconds in
    #[arg(long)]
    pub unknown_mark: bool,
    /// Leave so many frames out, two seconds in
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub gap_frames: u32,
    /// Hold frames back for so long, three seconds in, then send them in one burst
    #[arg(long, value_name = "MS", default_value_t = 0)]
    pub burst_ms: u64,
    /// Write every message of every call to this file, one JSON object a line
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// More roots to trust for wss://, PEM
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// Sign upgrades and webhooks with this token
    #[arg(
        long,
        value_name = "TOKEN",
        env = "TWILIO_AUTH_TOKEN",
        hide_env_values = true
    )]
    pub auth_token: Option<String>,
    /// Seed of everything random
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
}

/// `voxrelay simulate echo-client`.
#[derive(Clone, Debug, Args)]
pub struct EchoClientArgs {
    /// The fuzzing server, ws:// or wss://
    #[arg(long, value_name = "URL")]
    pub url: String,
    /// The name under which the server files its report
    #[arg(long, value_name = "NAME", default_value = "voxrelay")]
    pub agent: String,
    /// Run these cases only, as in 3 or 1-16 [default: all]
    #[arg(long, value_name = "FROM-TO", value_parser = parse_cases)]
    pub cases: Option<RangeInclusive<u64>>,
}

fn parse_cases(text: &str) -> Result<RangeInclusive<u64>, String> {
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    match (from.parse(), to.parse()) {
        (Ok(from), Ok(to)) if 1 <= from && from <= to => Ok(from..=to),
        _ => Err("write a case's number, or the first and the last as in 1-16".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(args: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once(&"voxrelay").chain(args))
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn no_command_is_serve_with_its_flags() {
        let cli = parse(&["--conformance-echo", "--config", "x.toml"]).expect("valid");
        assert!(cli.command.is_none() && cli.serve.conformance_echo);
        assert_eq!(cli.serve.config, Some(PathBuf::from("x.toml")));
        let cli = parse(&["serve", "--config", "x.toml"]).expect("valid");
        assert!(matches!(cli.command, Some(Command::Serve(args)) if args.config.is_some()));
    }

    #[test]
    fn every_command_explains_itself_with_an_example() {
        fn walk(command: &clap::Command) {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            let has_children = command.get_subcommands().next().is_some();
            let help = command.get_after_help().map(ToString::to_string);
            assert!(
                help.is_some_and(|help| help.contains("xample")) || has_children,
                "{}",
                command.get_name()
            );
            command.get_subcommands().for_each(walk);
        }
        walk(&Cli::command());
    }

    #[test]
    fn the_version_names_the_commit() {
        let error = parse(&["--version"]).expect_err("clap ends with it");
        assert!(error.to_string().contains(crate::COMMIT));
    }

    #[test]
    fn the_issue_s_command_lines_are_understood() {
        for line in [
            "demo",
            "check",
            "serve --conformance-echo",
            "simulate model",
            "simulate carrier --url ws://127.0.0.1:3000/media-stream",
            "simulate echo-client --url ws://127.0.0.1:9001 --agent voxrelay",
            "simulate echo-client --url ws://127.0.0.1:9001 --cases 3-9",
        ] {
            let args: Vec<_> = line.split(' ').collect();
            assert!(parse(&args).is_ok(), "{line}");
        }
        assert!(parse(&["simulate", "carrier"]).is_err(), "no address");
        assert!(parse(&["sevre"]).is_err());
        assert_eq!(parse_cases("7"), Ok(7..=7));
        for bad in ["", "0", "9-3", "a", "1-"] {
            assert!(parse_cases(bad).is_err(), "{bad}");
        }
    }
}
