//! `voxrelay load`: simulated calls by the hundred against a relay, its content checked and its cost measured.

pub mod measure;
pub mod options;
mod pairs;
mod report;
mod subject;

use super::Outcome;
use crate::simulate::load::check::Kind;
use crate::simulate::load::plot;
use measure::{Cores, Cost, Run};
use options::LoadArgs;
use pairs::Compared;
use serde_json::{Value, json};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use subject::{Subject, Which};
use tokio::signal::unix::{SignalKind, signal};

/// Something was lost, altered or otherwise wrong.
const FAILED: u8 = 1;
/// The times are not to be believed.
const VOID: u8 = 3;

/// What no load excuses.
const CORRUPT: [Kind; 4] = [
    Kind::Duplicated,
    Kind::Reordered,
    Kind::Foreign,
    Kind::Altered,
];

/// A signal came: the run ends in order, and the relay that was started with it.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Whether a signal asked for the end.
pub(super) fn is_interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Waits for signals on a thread of its own; the second one ends the process at once.
fn watch_signals() -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("no runtime: {error}"))?;
    let wait = move || {
        runtime.block_on(async {
            let mut terminate = signal(SignalKind::terminate()).ok()?;
            loop {
                tokio::select! {
                    _ = tokio::signal::ctrl_c() => {}
                    _ = terminate.recv() => {}
                }
                if INTERRUPTED.swap(true, Ordering::Relaxed) {
                    std::process::exit(130);
                }
            }
        })
    };
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            // Without handlers a signal ends the process as ever.
            let _: Option<()> = wait();
        })
        .map_err(|error| format!("no thread for signals: {error}"))?;
    Ok(())
}

/// A directory that is gone when this is.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> std::io::Result<Self> {
        let mut entropy = [0; 8];
        getrandom::fill(&mut entropy).map_err(|error| std::io::Error::other(error.to_string()))?;
        let name = format!("voxrelay-load-{:016x}", u64::from_ne_bytes(entropy));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path)?;
        Ok(Self(path))
    }

    /// A folder of its own for each run: one run's files are no help to the next.
    fn run(&self, number: usize) -> Result<PathBuf, String> {
        let path = self.0.join(number.to_string());
        std::fs::create_dir_all(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Left behind, it is a few kilobytes in the system's own temporary directory.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs it. Exit code 1 for a fault, 3 for a run whose times are void.
pub fn run(args: LoadArgs) -> Outcome {
    let cores = measure::cores(&args)?;
    watch_signals()?;
    let scratch = Scratch::new().map_err(|error| format!("no temporary directory: {error}"))?;
    let own = Subject {
        name: if args.relay.is_some() {
            "relay"
        } else {
            "voxrelay"
        }
        .into(),
        which: if args.relay.is_some() {
            Which::Elsewhere
        } else {
            Which::Own
        },
    };
    let most = args.step.iter().copied().max().unwrap_or(args.calls);
    measure::raise_descriptors(most)?;
    let mut session = Session {
        args: &args,
        cores,
        scratch,
        runs: Vec::new(),
        to_stderr: args.json.as_deref() == Some(Path::new("-")),
    };
    let mut comparisons = Vec::new();
    if !args.against.is_empty() {
        for (name, command) in &args.against {
            let other = Subject {
                name: name.clone(),
                which: Which::Command(command.clone()),
            };
            comparisons.push((name.clone(), session.alternate(&own, &other)?));
        }
    } else if args.step.is_empty() {
        session.once(&own, args.calls)?;
    } else {
        for calls in &args.step {
            session.once(&own, *calls)?;
        }
        session.say(&report::steps(&session.runs));
    }
    for (name, compared) in &comparisons {
        if let Some(compared) = compared {
            session.say(&compared_line(&own.name, name, compared));
        }
    }
    session.write(&comparisons)?;
    Ok(session.verdict())
}

fn compared_line(ours: &str, theirs: &str, compared: &Compared) -> String {
    let interval = match compared.interval {
        Some((from, to)) => format!("95 % interval {from:.3} to {to:.3}"),
        None => "too few pairs for an interval".into(),
    };
    format!(
        "CPU per frame, {ours} / {theirs}: median {:.3} of {} pairs, {interval}\n",
        compared.median,
        compared.ratios.len()
    )
}

struct Session<'a> {
    args: &'a LoadArgs,
    cores: Cores,
    scratch: Scratch,
    runs: Vec<Run>,
    to_stderr: bool,
}

impl Session<'_> {
    fn say(&self, text: &str) {
        // A closed pipe is no reason to lose the run's verdict.
        let _ = match self.to_stderr {
            true => write!(std::io::stderr(), "{text}"),
            false => write!(std::io::stdout(), "{text}"),
        };
    }

    fn once(&mut self, subject: &Subject, calls: u32) -> Result<&Run, String> {
        if is_interrupted() {
            return Err("interrupted".into());
        }
        let dir = self.scratch.run(self.runs.len())?;
        let run = measure::run(subject, self.args, calls, &self.cores, &dir)?;
        self.say(&report::table(&run));
        self.runs.push(run);
        self.runs.last().ok_or_else(|| "no run".into())
    }

    /// Runs two relays in turns; each goes first in every other pair.
    fn alternate(&mut self, ours: &Subject, theirs: &Subject) -> Result<Option<Compared>, String> {
        let mut pairs = Vec::new();
        for pair in 0..self.args.pairs {
            let ours_first = pair % 2 == 0;
            let order = if ours_first {
                [ours, theirs]
            } else {
                [theirs, ours]
            };
            let mut costs = Vec::new();
            for subject in order {
                let allow_late = self.args.allow_late;
                let run = self.once(subject, self.args.calls)?;
                let is_valid = run.void.is_none() || allow_late;
                let cost = run.cost.as_ref().and_then(Cost::micros_per_frame);
                costs.push(cost.filter(|_| is_valid));
            }
            if let [Some(first), Some(second)] = costs[..] {
                pairs.push(if ours_first {
                    (first, second)
                } else {
                    (second, first)
                });
            }
        }
        Ok(pairs::compare(&pairs))
    }

    fn write(&self, comparisons: &[(String, Option<Compared>)]) -> Result<(), String> {
        if let Some(path) = &self.args.plot {
            plot::draw(path, &report::charts(&self.runs))?;
        }
        let Some(path) = &self.args.json else {
            return Ok(());
        };
        let compared: Vec<Value> = comparisons
            .iter()
            .map(|(name, compared)| {
                json!({"against": name, "cpu_per_frame_ratio": compared.as_ref().map(|compared| json!({
                    "median": compared.median, "interval": compared.interval, "ratios": compared.ratios,
                }))})
            })
            .collect();
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpu
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
            .map(|(_, name)| name.trim());
        let document = json!({
            "voxrelay": {"version": crate::VERSION, "commit": crate::COMMIT},
            "machine": {
                "kernel": kernel.trim(), "cpu": model,
                "cores": std::thread::available_parallelism().map_or(0, usize::from),
                "generator_cores": self.cores.generator, "relay_cores": self.cores.relay,
            },
            "tls": self.args.tls,
            "runs": self.runs.iter().map(report::json).collect::<Vec<Value>>(),
            "comparisons": compared,
        });
        let text = format!("{document:#}\n");
        if path == Path::new("-") {
            print!("{text}");
            return Ok(());
        }
        std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
    }

    fn verdict(&self) -> ExitCode {
        let is_wrong = |run: &Run| run.ran.tally.faults.total() > 0 || run.died.is_some();
        // In a search for the knee the steps beyond it are meant to fail: with calls refused or frames late, never with
        // other audio than was sent.
        let is_corrupt = |run: &Run| {
            let faults = &run.ran.tally.faults;
            run.died.is_some() || CORRUPT.iter().any(|kind| faults.count(*kind) > 0)
        };
        let (first, beyond) = match self.args.step.is_empty() {
            true => (self.runs.as_slice(), &[][..]),
            false => self.runs.split_at(1.min(self.runs.len())),
        };
        if first.iter().any(is_wrong) || beyond.iter().any(is_corrupt) {
            ExitCode::from(FAILED)
        } else if first.iter().any(|run| run.void.is_some()) && !self.args.allow_late {
            ExitCode::from(VOID)
        } else {
            ExitCode::SUCCESS
        }
    }
}
