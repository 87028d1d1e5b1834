//! The command line of `voxrelay load`, and the plan that follows from it.

use crate::simulate::carrier::client::Target;
use crate::simulate::load::plan::{Churn, Plan, Profile};
use clap::{Args, ValueEnum};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// What the calls are made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LoadProfile {
    /// Every 20 ms frame its own message both ways; the model sends each one back
    #[default]
    Echo,
    /// Turns, answers that come faster than real time, callers who interrupt
    Talk,
    /// Every other call of each
    Mixed,
}

/// `voxrelay load`.
#[derive(Clone, Debug, Args)]
pub struct LoadArgs {
    /// Calls at the same time
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub calls: u32,
    /// New calls a second, as in 50 or 50/s
    #[arg(long, value_name = "RATE", default_value = "50/s", value_parser = parse_rate)]
    pub ramp: f64,
    /// How long to measure once all calls are up, as in 60s, 2m or 500ms
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_time)]
    pub hold: Duration,
    /// From the last call's dial until the measurement begins
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_time)]
    pub settle: Duration,
    /// What the calls are made of
    #[arg(long, value_enum, default_value_t)]
    pub profile: LoadProfile,
    /// Share of answers that the caller speaks over (talk), 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.3, value_parser = parse_share)]
    pub barge_in_rate: f64,
    /// Short calls, each replaced as it ends, at the rate of --ramp
    #[arg(long)]
    pub churn: bool,
    /// With --churn: how long each call speaks
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse_time, requires = "churn")]
    pub call_time: Duration,
    /// With --churn: end after so many calls, in place of --hold
    #[arg(long, value_name = "N", requires = "churn")]
    pub calls_total: Option<u64>,
    /// TLS between relay and model, with a certificate made on the spot
    #[arg(long)]
    pub tls: bool,
    /// How long the model takes for each echo, and from the end of speech to its answer
    #[arg(long, value_name = "MS", default_value_t = 0)]
    pub model_latency: u64,
    /// All calls' frames at the same moment, instead of each call at its own within the 20 ms
    #[arg(long)]
    pub aligned: bool,
    /// Frames that are due within this are due together; 0 gives each call its own moment and costs the generator more
    #[arg(long, value_name = "TIME", default_value = "200us", value_parser = parse_time)]
    pub slot: Duration,
    /// One run for each of these numbers of calls, to find the knee
    #[arg(long, value_name = "N,N,...", value_delimiter = ',', conflicts_with_all = ["churn", "against"])]
    pub step: Vec<u32>,

    /// A relay that runs elsewhere: its media stream, ws:// or wss:// [default: this program is started]
    #[arg(long, value_name = "URL", value_parser = parse_relay)]
    pub relay: Option<String>,
    /// With --relay: its process, for CPU and memory
    #[arg(long, value_name = "PID", requires = "relay")]
    pub relay_pid: Option<u32>,
    /// Where the model listens; with --relay the relay must be told [default: a free loopback port]
    #[arg(long, value_name = "ADDRESS")]
    pub model_listen: Option<SocketAddr>,
    /// Write the certificate to trust for --tls to this file
    #[arg(long, value_name = "FILE", requires = "tls")]
    pub ca_out: Option<PathBuf>,
    /// Ask this voice webhook for each call's stream; without a value, the started relay's own
    #[arg(long, value_name = "URL", num_args = 0..=1, default_missing_value = "own")]
    pub webhook: Option<String>,
    /// Sign upgrades and webhooks with this token
    #[arg(
        long,
        value_name = "TOKEN",
        env = "TWILIO_AUTH_TOKEN",
        hide_env_values = true
    )]
    pub auth_token: Option<String>,
    /// More roots to trust for a wss:// relay, PEM
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// Path of the media stream of started relays
    #[arg(long, value_name = "PATH", default_value = "/media-stream")]
    pub path: String,
    /// Configuration of the started relay [default: none]
    #[arg(long, value_name = "FILE", conflicts_with = "relay")]
    pub config: Option<PathBuf>,

    /// Another relay to compare with, NAME=COMMAND; {listen} {port} {model} {model_addr} {ca} {dir} are filled in
    #[arg(long, value_name = "NAME=COMMAND", value_parser = parse_against)]
    pub against: Vec<(String, String)>,
    /// Alternating runs of each relay
    #[arg(long, value_name = "N", default_value_t = 10, requires = "against", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub pairs: u32,

    /// Cores of the generator, as in 0 or 0,2; "any" does not pin [default: the first core, when there are two]
    #[arg(long, value_name = "LIST")]
    pub cpu_generator: Option<String>,
    /// Cores of the started relay; "any" does not pin [default: the second core, when there is one]
    #[arg(long, value_name = "LIST")]
    pub cpu_relay: Option<String>,
    /// A generator later than this (p99) makes a run void
    #[arg(long, value_name = "TIME", default_value = "1ms", value_parser = parse_time)]
    pub late_max: Duration,
    /// A void run does not fail: for machines that are shared, where content counts and times are only printed
    #[arg(long)]
    pub allow_late: bool,

    /// Write everything to this file as one JSON document; - is standard output, and the table goes to stderr
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Draw latency and CPU against calls
    #[arg(long, value_name = "FILE.svg")]
    pub plot: Option<PathBuf>,
    /// No progress bar
    #[arg(long)]
    pub quiet: bool,
    /// Seed of everything random
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
}

impl LoadArgs {
    /// The plan for so many calls; relay and webhook are filled in when they are known.
    pub fn plan(&self, calls: u32) -> Plan {
        Plan {
            calls,
            ramp: self.ramp,
            hold: self.hold,
            settle: self.settle,
            profile: match self.profile {
                LoadProfile::Echo => Profile::Echo,
                LoadProfile::Talk => Profile::Talk,
                LoadProfile::Mixed => Profile::Mixed,
            },
            barge_in_rate: self.barge_in_rate,
            churn: self.churn.then(|| Churn {
                call: self.call_time,
                total: self.calls_total.unwrap_or(0),
            }),
            model_latency: Duration::from_millis(self.model_latency),
            aligned: self.aligned,
            slot: self.slot,
            webhook: None,
            relay: String::new(),
            auth_token: self.auth_token.clone(),
            seed: self.seed,
        }
    }
}

fn parse_rate(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix("/s").unwrap_or(text);
    match number.parse::<f64>() {
        Ok(rate) if rate > 0.0 && rate <= 100_000.0 => Ok(rate),
        _ => Err("write calls a second, above 0, as in 50 or 50/s".into()),
    }
}

fn parse_share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("write a share from 0 to 1".into()),
    }
}

fn parse_time(text: &str) -> Result<Duration, String> {
    let units = [
        ("us", 0.000_001),
        ("ms", 0.001),
        ("s", 1.0),
        ("m", 60.0),
        ("h", 3600.0),
        ("", 1.0),
    ];
    let found = units
        .iter()
        .find_map(|(unit, seconds)| Some((text.strip_suffix(unit)?, seconds)));
    let seconds = found.and_then(|(number, unit)| Some(number.parse::<f64>().ok()? * unit));
    match seconds {
        Some(seconds) if (0.0..=86_400.0 * 7.0).contains(&seconds) => {
            Ok(Duration::from_secs_f64(seconds))
        }
        _ => Err("write a time, as in 60s, 500ms or 2m".into()),
    }
}

fn parse_relay(text: &str) -> Result<String, String> {
    Target::parse(text).map(|_| text.to_owned()).map_err(|_| {
        "write the relay's media stream, as in ws://127.0.0.1:3000/media-stream".into()
    })
}

fn parse_against(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, command)) if !name.trim().is_empty() && !command.trim().is_empty() => {
            Ok((name.trim().to_owned(), command.trim().to_owned()))
        }
        _ => Err("write NAME=COMMAND, as in old=\"./old/voxrelay serve\"".into()),
    }
}

/// A list of cores: `0`, `0,2`, `0-3`; `any` is nothing.
pub fn parse_cores(text: &str) -> Result<Option<Vec<usize>>, String> {
    if text == "any" {
        return Ok(None);
    }
    let wrong = || format!("{text}: write cores as in 0 or 0,2 or 0-3, or any");
    let mut cores = Vec::new();
    for part in text.split(',') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        match (from.parse::<usize>(), to.parse::<usize>()) {
            (Ok(from), Ok(to)) if from <= to && to < 1024 => cores.extend(from..=to),
            _ => return Err(wrong()),
        }
    }
    Ok(Some(cores))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::{Cli, Command};
    use clap::Parser as _;

    fn parse(line: &str) -> Result<LoadArgs, String> {
        let words = std::iter::once("voxrelay").chain(line.split_whitespace());
        match Cli::try_parse_from(words)
            .map_err(|error| error.to_string())?
            .command
        {
            Some(Command::Load(args)) => Ok(*args),
            _ => Err("another command".into()),
        }
    }

    #[test]
    fn the_issue_s_command_line_is_understood() {
        let args = parse(
            "load --calls 300 --ramp 50/s --hold 60s --profile mixed --barge-in-rate 0.5 --tls --model-latency 20 \
             --json - --plot out.svg --seed 7 --cpu-generator 0 --cpu-relay 1",
        )
        .expect("valid");
        let plan = args.plan(args.calls);
        assert_eq!((plan.calls, plan.ramp, plan.seed), (300, 50.0, 7));
        assert_eq!((plan.profile, plan.barge_in_rate), (Profile::Mixed, 0.5));
        assert_eq!(plan.hold, Duration::from_secs(60));
        assert_eq!(plan.model_latency, Duration::from_millis(20));
        assert_eq!(
            parse("load --step 100,200,400").expect("valid").step,
            [100, 200, 400]
        );
        let churn = parse("load --churn --call-time 500ms --calls-total 100000").expect("valid");
        let want = Churn {
            call: Duration::from_millis(500),
            total: 100_000,
        };
        assert_eq!(churn.plan(1).churn, Some(want));
        assert_eq!(
            parse("load --webhook").expect("valid").webhook.as_deref(),
            Some("own")
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for line in [
            "load --calls 0",
            "load --ramp 0",
            "load --ramp fast",
            "load --hold -1s",
            "load --hold soon",
            "load --barge-in-rate 1.5",
            "load --relay http://127.0.0.1:3000",
            "load --relay nonsense",
            "load --relay-pid 7",
            "load --calls-total 5",
            "load --pairs 3",
            "load --against haproxy",
            "load --step 1,2 --churn",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn times_and_cores_have_their_units() {
        for (text, ms) in [
            ("60s", 60_000),
            ("2m", 120_000),
            ("1.5s", 1_500),
            ("20ms", 20),
            ("3", 3_000),
        ] {
            assert_eq!(parse_time(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        assert_eq!(parse_cores("0,2-3"), Ok(Some(vec![0, 2, 3])));
        assert_eq!(parse_cores("any"), Ok(None));
        for bad in ["", "x", "3-1", "1,,2", "5000"] {
            assert!(parse_cores(bad).is_err(), "{bad}");
        }
    }
}
