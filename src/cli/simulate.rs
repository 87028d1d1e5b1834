//! `voxrelay simulate model` and `voxrelay simulate carrier`: the simulators on their own.

use super::Outcome;
use super::args::{CarrierArgs, CarrierEnd, ModelArgs, ModelMode, ModelProfile};
use crate::simulate::carrier::client::{self, Target};
use crate::simulate::carrier::options::HangUp;
use crate::simulate::carrier::{Report, webhook};
use crate::simulate::model::options::{Mode, Profile};
use crate::simulate::model::server::{Server, Setup, Tls};
use crate::simulate::record::Recorder;
use crate::simulate::{CALLER_LINES, CALLER_WAV, carrier, model, wav};
use crate::transport::clock::SystemClock;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// The caller's voice: a file's, or the one that is built in.
pub fn voice(file: Option<&Path>) -> Result<Arc<[u8]>, String> {
    let (name, bytes) = match file {
        Some(path) => {
            let bytes =
                std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
            (path.display().to_string(), bytes)
        }
        None => ("the built-in voice".into(), CALLER_WAV.to_vec()),
    };
    let audio = wav::to_pcmu(&bytes).map_err(|error| format!("{name}: {error}"))?;
    Ok(audio.into())
}

fn runtime() -> Result<tokio::runtime::Runtime, String> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("no runtime: {error}"))
}

/// A recorder for `--record`.
pub fn recorder(path: Option<PathBuf>) -> Result<Option<Recorder>, String> {
    path.map(|path| Recorder::create(&path).map_err(|error| format!("{}: {error}", path.display())))
        .transpose()
}

/// Runs the simulated model.
pub fn model(args: ModelArgs) -> Outcome {
    let tls = match (args.plain, args.cert, args.key) {
        (true, _, _) => Tls::Off,
        (false, Some(cert), Some(key)) => Tls::Files(cert, key),
        _ => Tls::SelfSigned,
    };
    let setup = Setup {
        options: model::options::Options {
            mode: match args.mode {
                ModelMode::Talk => Mode::Talk,
                ModelMode::Echo => Mode::Echo,
            },
            profile: match args.profile {
                ModelProfile::Ms250 => Profile::Ms250,
                ModelProfile::Ms350 => Profile::Ms350,
            },
            seed: args.seed,
            heard: CALLER_LINES.map(String::from).to_vec(),
            api_key: args.api_key,
            slow: Duration::from_millis(args.slow_ms),
            session_life: Duration::from_secs(args.session_secs),
            unknown_every: args.unknown_every,
            obfuscation: args.obfuscation,
            refuse_upgrade: args.refuse,
            faults: args.fault,
            ..model::options::Options::default()
        },
        tls,
        recorder: recorder(args.record)?,
        keeps_audio: false,
    };
    runtime()?.block_on(async {
        let recorder = setup.recorder.clone();
        let server = Server::bind(args.listen, setup, SystemClock::new())
            .map_err(|error| format!("{}: {error}", args.listen))?;
        println!("simulated model listens on {}", server.url());
        if let Some(pem) = server.ca_pem() {
            let path = args.ca_out.unwrap_or_else(|| {
                std::env::temp_dir().join(format!("voxrelay-model-{}.pem", server.address().port()))
            });
            std::fs::write(&path, pem).map_err(|error| format!("{}: {error}", path.display()))?;
            println!("trust its certificate: {}", path.display());
        }
        tokio::select! {
            outcome = server.run() => outcome.map_err(|error| format!("{}: {error}", args.listen))?,
            _ = tokio::signal::ctrl_c() => {}
        }
        if let Some(recorder) = recorder {
            recorder.flush();
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// Runs the simulated carriers.
pub fn carrier(args: CarrierArgs) -> Outcome {
    let audio = voice(args.wav.as_deref())?;
    let mut parameters = Vec::new();
    for parameter in &args.parameter {
        let (name, value) = parameter
            .split_once('=')
            .ok_or_else(|| format!("--parameter {parameter}: expected NAME=VALUE"))?;
        parameters.push((name.to_string(), value.to_string()));
    }
    let options = carrier::options::Options {
        audio,
        duration: args.seconds.map(|s| Duration::from_secs(s.into())),
        hang_up: match args.end {
            CarrierEnd::Stop => HangUp::Stop,
            CarrierEnd::Close => HangUp::Close,
            CarrierEnd::Reset => HangUp::Reset,
        },
        parameters,
        keys: args.dtmf,
        unknown_mark: args.unknown_mark,
        gap_frames: args.gap_frames,
        burst: Duration::from_millis(args.burst_ms),
        ..carrier::options::Options::default()
    };
    let recorder = recorder(args.record)?;
    let clock = SystemClock::new();
    let outcomes = runtime()?.block_on(async {
        let mut calls = Vec::new();
        for number in 0..u64::from(args.calls) {
            let mut options = carrier::options::Options {
                seed: args.seed.wrapping_add(number),
                ..options.clone()
            };
            let url = match (&args.url, &args.webhook) {
                (Some(url), _) => url.clone(),
                (None, Some(url)) => {
                    let asked = webhook::ask(url, args.auth_token.as_deref(), options.seed).await?;
                    options.parameters.extend(asked.parameters);
                    options.call_sid = Some(asked.call_sid);
                    asked.stream_url
                }
                (None, None) => return Err("--url or --webhook is needed".into()),
            };
            let setup = client::Setup {
                target: Target::parse(&url)?,
                signed_url: url,
                ca_file: args.ca_file.clone(),
                auth_token: args.auth_token.clone(),
                recorder: recorder.clone(),
                progress: Arc::default(),
            };
            calls.push(tokio::spawn(async move {
                client::call(&setup, options, clock, number + 1).await
            }));
        }
        let mut outcomes = Vec::new();
        for call in calls {
            outcomes.push(call.await.map_err(|error| error.to_string())?);
        }
        Ok::<_, String>(outcomes)
    })?;
    let mut is_good = true;
    for (number, outcome) in outcomes.iter().enumerate() {
        match outcome {
            Ok(outcome) => {
                let report = &outcome.report;
                is_good &= report.warning_count == 0 && outcome.violation.is_none();
                println!("call {}: {}", number + 1, summary(report));
                for warning in &report.warnings {
                    println!("  warning {}: {}", warning.code, warning.reason);
                }
                if let Some(violation) = outcome.violation {
                    println!("  error 31924: {violation}");
                }
            }
            Err(error) => {
                is_good = false;
                println!("call {}: {error}", number + 1);
            }
        }
    }
    Ok(if is_good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn summary(report: &Report) -> String {
    let end = match report.closed_by_server {
        Some(code) => format!("the server closed with {code} (31921)"),
        None => "hung up".into(),
    };
    format!(
        "{} frames sent, {} received ({:.1} s heard of {:.1} s), marks {} of {}, {} clears, {} warnings, {end}",
        report.media_sent,
        report.media_received,
        report.bytes_heard as f64 / 8000.0,
        report.bytes_received as f64 / 8000.0,
        report.marks_returned,
        report.marks_received,
        report.clears,
        report.warning_count,
    )
}
