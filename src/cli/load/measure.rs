//! One run: a relay, the generator on its own thread and core, and what both cost.

use super::options::LoadArgs;
use super::subject::{Model, Running, Subject};
use crate::simulate::carrier::client::Target;
use crate::simulate::load::driver::{self, Ran};
use crate::simulate::load::plan::Plan;
use crate::simulate::load::process::{self, Memory, Usage};
use crate::simulate::load::tally::{Live, Phase};
use crate::simulate::load::world::{Route, resolve};
use crate::transport::roots;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustls_pki_types::ServerName;
use std::io::IsTerminal as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How often the run is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// How often memory is read while calls come and go.
const MEMORY_EVERY: Duration = Duration::from_secs(2);
/// A generator that uses more of its core than this is not to be believed.
pub const CORE_MAX: f64 = 0.9;

/// The cores that the generator and a started relay run on; `None` leaves them where they are.
#[derive(Clone, Debug, Default)]
pub struct Cores {
    /// The generator's.
    pub generator: Option<Vec<usize>>,
    /// The relay's.
    pub relay: Option<Vec<usize>>,
}

/// What one run came to.
#[derive(Debug)]
pub struct Run {
    /// The relay's name.
    pub name: String,
    /// What was asked for.
    pub plan: Plan,
    /// What was counted.
    pub ran: Ran,
    /// What the relay cost in the measured time; `None` when its process is not known.
    pub cost: Option<Cost>,
    /// The generator's CPU time over the measured time, 1.0 is a core.
    pub generator_core: f64,
    /// Why its times are not to be believed.
    pub void: Option<String>,
    /// The relay ended by itself while it was under test: the end of its output.
    pub died: Option<String>,
}

/// What a relay cost.
#[derive(Clone, Debug)]
pub struct Cost {
    /// Wall time between the two readings.
    pub wall: Duration,
    /// In user mode, and in the kernel.
    pub user: Duration,
    /// See `user`.
    pub system: Duration,
    /// Frames that it relayed meanwhile, both directions.
    pub frames: u64,
    /// Its context switches.
    pub switches: u64,
    /// Its `io_uring_enter` calls, when it tells.
    pub enters: Option<u64>,
    /// Before the first call.
    pub idle: Memory,
    /// With all calls.
    pub loaded: Memory,
    /// Calls when `loaded` was read.
    pub calls: u32,
    /// Resident memory over time: calls ended so far, bytes.
    pub memory: Vec<(u32, u64)>,
}

impl Cost {
    /// CPU of a relayed frame, microseconds.
    pub fn micros_per_frame(&self) -> Option<f64> {
        (self.frames > 0)
            .then(|| (self.user + self.system).as_secs_f64() * 1e6 / self.frames as f64)
    }
}

/// Which cores there are, and who gets which.
pub fn cores(args: &LoadArgs) -> Result<Cores, String> {
    let set =
        sched_getaffinity(None).map_err(|error| format!("the cores of this process: {error}"))?;
    let all: Vec<usize> = (0..CpuSet::MAX_CPU)
        .filter(|core| set.is_set(*core))
        .collect();
    let choose = |text: &Option<String>, default: usize| match text {
        Some(text) => super::options::parse_cores(text),
        None if all.len() >= 2 => Ok(Some(vec![all[default]])),
        None => Ok(None),
    };
    let chosen = Cores {
        generator: choose(&args.cpu_generator, 0)?,
        relay: choose(&args.cpu_relay, 1)?,
    };
    for core in [&chosen.generator, &chosen.relay]
        .into_iter()
        .flatten()
        .flatten()
    {
        if !all.contains(core) {
            return Err(format!(
                "core {core} is not among this process's cores {all:?}"
            ));
        }
    }
    Ok(chosen)
}

/// Moves the calling thread, and with it what it starts from now on.
fn pin(cores: Option<&[usize]>) -> Result<(), String> {
    let Some(cores) = cores else { return Ok(()) };
    let mut set = CpuSet::new();
    cores.iter().for_each(|core| set.set(*core));
    sched_setaffinity(None, &set).map_err(|error| format!("cores {cores:?}: {error}"))
}

/// Descriptors for so many calls, as far as the hard limit goes.
pub fn raise_descriptors(calls: u32) -> Result<(), String> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    let need = u64::from(calls) * 2 + 64;
    limit.current = limit.maximum;
    // Refused: what there is may still be enough.
    let _ = setrlimit(Resource::Nofile, limit);
    match getrlimit(Resource::Nofile).current {
        Some(current) if current < need => Err(format!(
            "{calls} calls need {need} descriptors, and this process may have {current}: raise ulimit -n, or lower --calls"
        )),
        _ => Ok(()),
    }
}

/// Runs one subject once.
pub fn run(
    subject: &Subject,
    args: &LoadArgs,
    calls: u32,
    cores: &Cores,
    dir: &Path,
) -> Result<Run, String> {
    let listen = args
        .model_listen
        .unwrap_or_else(|| SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let listener = bind(listen)?;
    let address = listener
        .local_addr()
        .map_err(|error| format!("the model's listener: {error}"))?;
    let (tls, ca_file) = match args.tls {
        true => {
            let ip = address.ip().to_string();
            let (config, pem) = roots::self_signed(&["localhost", &ip]).map_err(|error| error.0)?;
            let path = args.ca_out.clone().unwrap_or_else(|| dir.join("ca.pem"));
            std::fs::write(&path, pem).map_err(|error| format!("{}: {error}", path.display()))?;
            (Some(config), Some(path))
        }
        false => (None, None),
    };
    let scheme = if tls.is_some() { "wss" } else { "ws" };
    let model = Model {
        url: format!("{scheme}://{address}/v1/realtime"),
        address,
        ca_file,
    };
    pin(cores.relay.as_deref())?;
    let started = subject.start(args, calls, &model, dir);
    pin(cores.generator.as_deref())?;
    let mut relay = started?;
    let mut plan = args.plan(calls);
    plan.relay = relay.url.clone();
    plan.webhook = relay.webhook.clone();
    let route = route(&plan, args)?;
    let live = Arc::new(Live::default());
    let thread = {
        let (plan, live) = (plan.clone(), live.clone());
        std::thread::Builder::new()
            .name("load".into())
            .spawn(move || driver::run(plan, route, &listener, tls, &live))
            .map_err(|error| format!("the generator's thread: {error}"))?
    };
    let watched = watch(&thread, &live, &mut relay, &plan, args.quiet, &subject.name);
    let ran = thread
        .join()
        .map_err(|_| "the generator panicked".to_owned())?
        .map_err(|why| explain(&relay.url, why))?;
    let (cost, generator_core) = watched;
    let died = relay.has_ended().then(|| relay.tail());
    let late = ran.tally.lateness.quantiles().p99;
    let void = if super::is_interrupted() {
        Some("it was interrupted".to_owned())
    } else if ran.tally.up.quantiles().count == 0 {
        Some("nothing was measured".to_owned())
    } else if generator_core > CORE_MAX {
        Some(format!(
            "the generator used {:.0} % of its core",
            generator_core * 100.0
        ))
    } else if late > args.late_max {
        Some(format!(
            "the generator was late: p99 {:.1} ms",
            late.as_secs_f64() * 1e3
        ))
    } else {
        None
    };
    Ok(Run {
        name: subject.name.clone(),
        plan,
        ran,
        cost,
        generator_core,
        void,
        died,
    })
}

fn explain(url: &str, why: String) -> String {
    let hint = if why.contains("refused") {
        ": nothing listens there; start the relay, or check --relay"
    } else if why.contains("UnknownIssuer") {
        ": its certificate is signed by nobody known; name the root with --ca-file"
    } else if why.contains("TLS") {
        ": check that the port speaks TLS and that the certificate is for this name"
    } else if why.contains("no WebSocket upgrade") || why.contains("without a close frame") {
        ": is this a relay's media stream? Check --relay"
    } else {
        ""
    };
    format!("{url}: {why}{hint}")
}

fn bind(address: SocketAddr) -> Result<TcpListener, String> {
    let open = || -> std::io::Result<TcpListener> {
        let domain = socket2::Domain::for_address(address);
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        // A ramp of hundreds a second must not find a full queue.
        socket.listen(4096)?;
        Ok(socket.into())
    };
    open().map_err(|error| format!("the model can't listen on {address}: {error}"))
}

fn route(plan: &Plan, args: &LoadArgs) -> Result<Route, String> {
    let target = Target::parse(&plan.relay)?;
    let tls = match target.is_tls {
        true => {
            let config = roots::client_config(args.ca_file.as_deref()).map_err(|error| error.0)?;
            let name = ServerName::try_from(target.host.clone())
                .map_err(|_| format!("{}: not a server's name", target.host))?;
            Some((config, name))
        }
        false => None,
    };
    let webhook = match &plan.webhook {
        Some(url) => {
            let rest = url
                .strip_prefix("http://")
                .ok_or_else(|| format!("--webhook {url}: must begin with http://"))?;
            let target = Target::parse(&format!("ws://{rest}"))?;
            let address = resolve(&target)?;
            Some((target, address))
        }
        None => None,
    };
    Ok(Route {
        address: resolve(&target)?,
        target,
        tls,
        webhook,
    })
}

struct Reading {
    usage: Usage,
    frames: u64,
}

fn read(pid: u32, live: &Live) -> Option<Reading> {
    // Frames on both sides of the slow reading: their middle belongs to it.
    let before = live.frames();
    let usage = process::usage(pid).ok()?;
    Some(Reading {
        usage,
        frames: (before + live.frames()) / 2,
    })
}

/// Follows the run to its end: the bar, and the relay's cost in the measured time.
fn watch<T>(
    thread: &std::thread::JoinHandle<T>,
    live: &Live,
    relay: &mut Running,
    plan: &Plan,
    is_quiet: bool,
    name: &str,
) -> (Option<Cost>, f64) {
    let bar = Bar::new(plan, is_quiet, name);
    let pid = relay.pid;
    let idle = pid
        .and_then(|pid| process::memory(pid).ok())
        .unwrap_or_default();
    let mut begin: Option<(Option<Reading>, u64, Instant, Option<u64>)> = None;
    let mut end: Option<(Option<Reading>, u64, Instant)> = None;
    let mut loaded = None;
    // A churn may be over long before its hold would be.
    let loaded_after = match plan.churn {
        Some(_) => (plan.hold / 2).min(Duration::from_secs(1)),
        None => plan.hold / 2,
    };
    let mut memory = Vec::new();
    let mut memory_at = Instant::now();
    while !thread.is_finished() {
        let phase = live.phase();
        if phase == Phase::Hold && begin.is_none() {
            let enters = relay.enters();
            let reading = pid.and_then(|pid| read(pid, live));
            begin = Some((
                reading,
                live.cpu.load(Ordering::Relaxed),
                Instant::now(),
                enters,
            ));
        }
        if phase >= Phase::Drain && begin.is_some() && end.is_none() {
            let reading = pid.and_then(|pid| read(pid, live));
            end = Some((reading, live.cpu.load(Ordering::Relaxed), Instant::now()));
        }
        if let Some((.., began, _)) = &begin
            && let Some(pid) = pid
            && loaded.is_none()
            && (began.elapsed() >= loaded_after || phase > Phase::Hold)
        {
            loaded = process::memory(pid)
                .ok()
                .map(|memory| (memory, live.calls.load(Ordering::Relaxed)));
        }
        if plan.churn.is_some()
            && let Some(pid) = pid
            && memory_at.elapsed() >= MEMORY_EVERY
        {
            memory_at = Instant::now();
            if let Ok(now) = process::memory(pid) {
                memory.push((live.ended.load(Ordering::Relaxed), now.rss));
            }
        }
        if super::is_interrupted() {
            live.stop.store(true, Ordering::Relaxed);
        }
        bar.show(live);
        std::thread::sleep(LOOK);
    }
    if begin.is_some() && end.is_none() {
        // The end was over between two looks.
        let reading = pid.and_then(|pid| read(pid, live));
        end = Some((reading, live.cpu.load(Ordering::Relaxed), Instant::now()));
    }
    bar.finish();
    let enters_after = relay.enters();
    let (Some((from, cpu_from, at_from, enters)), Some((to, cpu_to, at_to))) = (begin, end) else {
        return (None, 0.0);
    };
    let wall = at_to.duration_since(at_from).as_secs_f64().max(1e-9);
    let generator_core = cpu_to.saturating_sub(cpu_from) as f64 / 1e9 / wall;
    let (loaded, calls) = loaded.unwrap_or((idle, 0));
    let cost = from.zip(to).map(|(from, to)| Cost {
        wall: to.usage.at.duration_since(from.usage.at),
        user: to.usage.user.saturating_sub(from.usage.user),
        system: to.usage.system.saturating_sub(from.usage.system),
        frames: to.frames.saturating_sub(from.frames),
        switches: to.usage.switches.saturating_sub(from.usage.switches),
        enters: enters_after
            .zip(enters)
            .map(|(after, before)| after - before),
        idle,
        loaded,
        calls,
        memory,
    });
    (cost, generator_core)
}

/// The live figures.
struct Bar {
    bar: ProgressBar,
    calls: u32,
    hold: Duration,
    began: std::cell::Cell<Option<Instant>>,
    last: std::cell::Cell<(Instant, u64)>,
}

impl Bar {
    fn new(plan: &Plan, is_quiet: bool, name: &str) -> Self {
        let bar = if is_quiet || !std::io::stderr().is_terminal() {
            ProgressBar::hidden()
        } else {
            ProgressBar::with_draw_target(Some(1000), ProgressDrawTarget::stderr_with_hz(5))
        };
        let style = ProgressStyle::with_template("{prefix} {bar:30} {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_prefix(name.to_owned());
        Self {
            bar,
            calls: plan.calls,
            hold: plan.hold,
            began: std::cell::Cell::new(None),
            last: std::cell::Cell::new((Instant::now(), 0)),
        }
    }

    fn show(&self, live: &Live) {
        let (at, before) = self.last.get();
        let since = at.elapsed().as_secs_f64();
        if self.bar.is_hidden() || since < 0.25 {
            return;
        }
        let frames = live.frames();
        self.last.set((Instant::now(), frames));
        let rate = frames.saturating_sub(before) as f64 / since;
        let calls = live.calls.load(Ordering::Relaxed);
        let (word, share) = match live.phase() {
            Phase::Ramp => ("ramp", f64::from(calls) / f64::from(self.calls) * 0.2),
            Phase::Hold => {
                let began = self.began.get().unwrap_or_else(Instant::now);
                self.began.set(Some(began));
                let share = began.elapsed().as_secs_f64() / self.hold.as_secs_f64().max(0.001);
                ("hold", 0.2 + 0.8 * share.min(1.0))
            }
            Phase::Drain | Phase::Done => ("drain", 1.0),
        };
        self.bar.set_position((share * 1000.0) as u64);
        self.bar.set_message(format!(
            "{word}: {calls} calls, {rate:.0} frames/s, {} ended, {} faults, generator late p99 {:.2} ms",
            live.ended.load(Ordering::Relaxed),
            live.faults.load(Ordering::Relaxed),
            live.late.load(Ordering::Relaxed) as f64 / 1e6
        ));
    }

    fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
