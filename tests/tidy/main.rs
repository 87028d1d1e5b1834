//! The house rules that a compiler does not know, kept true by reading the sources.
//!
//! Which module may name which, what the pure core must never touch, where `unsafe` may stand, that each module
//! says what it is for, and how long a file may be. The rules are the tables below; `rules_can_fail` feeds each of
//! them a text that breaks it.

mod rust;

use rust::Source;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// One row of the arrows table: a module and what of ours it may name.
struct Arrow {
    /// The module, as a path below the crate.
    module: &'static str,
    /// Path prefixes it may name. Its own tree is always allowed unless a longer row says otherwise.
    may: &'static [&'static str],
}

/// `call::fact` and what `call` re-exports of it.
const FACTS: &[&str] = &[
    "call::fact",
    "call::Drop",
    "call::EndReason",
    "call::Fact",
    "call::Leg",
    "call::Report",
    "call::Side",
    "call::Speaker",
    "call::Stats",
    "call::DROP_REASONS",
];

/// What the data plane may name; its two halves never name each other.
const DATA_PLANE: &[&str] = &[
    "base",
    "proto",
    "call",
    "transport",
    "bus",
    "config",
    "telemetry",
];

/// The longest matching row decides.
const ARROWS: &[Arrow] = &[
    Arrow {
        module: "base",
        may: &[],
    },
    Arrow {
        module: "proto",
        may: &["base", "proto"],
    },
    Arrow {
        module: "proto::audio",
        may: &["base"],
    },
    Arrow {
        module: "proto::http",
        may: &["base"],
    },
    Arrow {
        module: "proto::ws",
        may: &["base"],
    },
    Arrow {
        module: "proto::carrier",
        may: &["base", "proto::audio", "proto::decode"],
    },
    Arrow {
        module: "proto::realtime",
        may: &["base", "proto::audio", "proto::decode"],
    },
    // The call decides about messages and events; frames and heads are the session's.
    Arrow {
        module: "call",
        may: &[
            "base",
            "call",
            "proto::audio",
            "proto::carrier",
            "proto::decode",
            "proto::realtime",
        ],
    },
    Arrow {
        module: "call::session",
        may: &["base", "call", "proto"],
    },
    Arrow {
        module: "transport",
        may: &["base"],
    },
    // An order to a worker carries an upgraded leg, so the bus names `proto` (the leg's role, an agent's settings).
    Arrow {
        module: "bus",
        may: &["base", "call", "proto", "transport"],
    },
    Arrow {
        module: "config",
        may: &["base", "call", "proto"],
    },
    Arrow {
        module: "telemetry",
        may: &["base", "call"],
    },
    Arrow {
        module: "store",
        may: &[
            "base",
            "call::fact",
            "call::track",
            "bus",
            "config",
            "telemetry",
        ],
    },
    Arrow {
        module: "relay",
        may: DATA_PLANE,
    },
    Arrow {
        module: "relay::worker",
        may: DATA_PLANE,
    },
    Arrow {
        module: "relay::desk",
        may: DATA_PLANE,
    },
    Arrow {
        module: "outcall",
        // It is handed a tool's definition and gives back what the model is told; TLS as everybody has it.
        may: &[
            "base",
            "call::fact",
            "call::tools",
            "proto::realtime::tool",
            "transport",
            "bus",
            "config",
            "telemetry",
        ],
    },
    Arrow {
        module: "telephony",
        may: &[
            "base",
            "call::fact",
            "outcall",
            "bus",
            "config",
            "telemetry",
            "store",
        ],
    },
    Arrow {
        module: "control",
        may: &[
            "base",
            "proto::carrier",
            // Every head of a kept-alive connection passes the same strict parser as at the door.
            "proto::http",
            "transport",
            "bus",
            "config",
            "telemetry",
            "store",
            "telephony",
            "outcall",
            "web",
            "@facts",
        ],
    },
    // Written against the vendors' references: it must be able to disagree with the relay.
    Arrow {
        module: "simulate",
        may: &[
            "base",
            "proto::http",
            "proto::ws",
            "proto::audio",
            "transport",
            "config",
        ],
    },
    Arrow {
        module: "web",
        may: &["base"],
    },
    Arrow {
        module: "cli",
        may: &["*"],
    },
    Arrow {
        module: "",
        may: &["*"],
    },
];

/// Crates with one home: everything else goes through it.
const HOMES: &[(&str, &[&str])] = &[
    ("httparse", &["proto"]),
    ("simd_json", &["proto"]),
    ("base64_simd", &["proto"]),
    ("tungstenite", &["proto"]),
    // Whoever makes or holds a configuration names its type; handshakes and records are `transport`'s alone.
    (
        "rustls",
        &["transport", "relay::desk", "simulate::model", "cli"],
    ),
    ("metrics", &["telemetry"]),
    // Control renders the handle that telemetry made.
    ("metrics_exporter_prometheus", &["telemetry", "control"]),
    ("tokio_uring", &["relay::desk", "cli"]),
    // The load tester drives a ring of its own, so that it shares none of the relay's faults.
    ("io_uring", &["relay::worker", "simulate::load"]),
    ("plotters", &["simulate::load"]),
    ("axum", &["control"]),
    ("tower_http", &["control"]),
    ("hdrhistogram", &["simulate"]),
    ("sled", &["store"]),
    ("crc32c", &["store", "call::track"]),
    ("rubato", &["store::recording"]),
    ("vader_parity", &["store::analytics"]),
    ("clap", &["cli", ""]),
    ("mimalloc", &[""]),
    ("reqwest", &["outcall"]),
];

/// Modules without I/O, clock, lock, log or chance.
const PURE: &[&str] = &[
    "base",
    "proto",
    "call",
    // The journal's format and its policy: built, and fuzzed, without the disk.
    "store::journal::entry",
    "store::journal::header",
    "store::journal::policy",
    "store::journal::scan",
    "store::journal::seq",
    "store::record",
];

/// Words that no pure module may hold, and why.
const BANNED_WORDS: &[(&str, &str)] = &[
    ("async", "the core is plain functions"),
    ("await", "the core is plain functions"),
    ("Instant", "time is handed in as `Now`"),
    ("SystemTime", "time is handed in as `Now`"),
    ("Mutex", "one worker owns a call: no lock"),
    ("RwLock", "one worker owns a call: no lock"),
    ("Condvar", "one worker owns a call: no lock"),
    ("RandomState", "the same seed must replay the same call"),
    ("DefaultHasher", "the same seed must replay the same call"),
    ("getrandom", "entropy is handed in as a seed"),
    ("println", "the core reports facts and counts"),
    ("eprintln", "the core reports facts and counts"),
];

/// Paths that no pure module may name, and why.
const BANNED_PATHS: &[(&str, &str)] = &[
    ("std::net", "the core never sees a socket"),
    ("std::fs", "the core never sees a file"),
    ("std::thread", "the core is driven by its caller"),
    ("std::env", "configuration is handed in"),
    ("std::process", "an end is the shell's"),
    ("tokio", "the core is plain functions"),
    ("tracing", "the core reports facts and counts"),
    ("log", "the core reports facts and counts"),
    ("metrics", "the core reports facts and counts"),
    ("HashMap::new", "seeded by chance: hand a hasher in"),
    ("HashMap::default", "seeded by chance: hand a hasher in"),
    (
        "HashMap::with_capacity",
        "seeded by chance: hand a hasher in",
    ),
    ("HashSet::new", "seeded by chance: hand a hasher in"),
    ("HashSet::default", "seeded by chance: hand a hasher in"),
];

/// What of `std::net` is a value and not a socket.
const ADDRESSES: &[&str] = &["IpAddr", "Ipv4Addr", "Ipv6Addr", "SocketAddr"];

/// Facts of the build, at the crate's root: everyone may name them.
const BUILD: &[&str] = &["COMMIT", "VERSION"];

/// Files that may hold `unsafe`, and what for. Each block needs its `// SAFETY:` besides.
const UNSAFE_FILES: &[(&str, &str)] = &[
    ("src/relay/worker/ring.rs", "submissions and completions"),
    ("src/relay/worker/buffer.rs", "memory lent to the kernel"),
    (
        "src/simulate/load/ring.rs",
        "the load tester's submissions, completions and lent memory",
    ),
    ("src/proto/ws/mask.rs", "wide loads, where measured"),
    ("src/bus/command.rs", "eventfd, which nothing wraps"),
    ("src/telemetry/allocation.rs", "an allocator's own trait"),
    (
        "src/relay/desk/conn.rs",
        "tokio-uring's stream lends its descriptor as a number only",
    ),
];

/// A file past this has two subjects.
const LINES_MAX: usize = 700;

fn below(path: &str, prefix: &str) -> bool {
    path == prefix
        || path
            .strip_prefix(prefix)
            .is_some_and(|rest| rest.starts_with("::"))
}

/// The row for a module: the longest prefix.
fn arrow(module: &str) -> Option<&'static Arrow> {
    ARROWS
        .iter()
        .filter(|arrow| {
            if arrow.module.is_empty() {
                module.is_empty()
            } else {
                below(module, arrow.module)
            }
        })
        .max_by_key(|arrow| arrow.module.len())
}

fn may_name(arrow: &Arrow, target: &str) -> bool {
    let own = !arrow.module.is_empty() && below(target, arrow.module);
    own || arrow.may.iter().any(|prefix| match *prefix {
        "*" => true,
        "@facts" => FACTS.iter().any(|fact| below(target, fact)),
        prefix => below(target, prefix),
    })
}

/// A file that only tests are built from, by its name, or the build script: no module of the crate.
fn is_beside(file: &str) -> bool {
    file.ends_with("/tests.rs") || file.ends_with("_tests.rs") || file == "src/build.rs"
}

/// Everything wrong with one file, a line each.
fn judge(file: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let mut fault = |what: String| faults.push(format!("{file}: {what}"));
    let source = Source::read(file, text);

    if !is_beside(file) && !text.trim_start().starts_with("//!") {
        fault("the file does not open by saying what it is for (`//!`)".into());
    }
    let lines = text.lines().count();
    if lines > LINES_MAX {
        fault(format!(
            "{lines} lines; split it by subject (at most {LINES_MAX})"
        ));
    }

    if is_beside(file) {
        return faults;
    }
    match arrow(&source.module) {
        None => fault(format!(
            "module `{}` has no row in the arrows table",
            source.module
        )),
        Some(arrow) => {
            for path in &source.paths {
                let Some(target) = path.strip_prefix("crate::") else {
                    continue;
                };
                if !may_name(arrow, target) && !BUILD.contains(&target) {
                    fault(format!("`{}` may not name `{target}`", source.module));
                }
            }
        }
    }
    for path in &source.paths {
        let root = path.split("::").next().unwrap_or(path);
        if let Some((_, homes)) = HOMES.iter().find(|(name, _)| *name == root) {
            let at_home = homes.iter().any(|home| {
                if home.is_empty() {
                    source.module.is_empty()
                } else {
                    below(&source.module, home)
                }
            });
            if !at_home {
                fault(format!("`{root}` is named outside of {homes:?}"));
            }
        }
    }

    if PURE.iter().any(|module| below(&source.module, module)) {
        for (word, why) in BANNED_WORDS {
            if source.words.iter().any(|found| found == word) {
                fault(format!("`{word}` in the core: {why}"));
            }
        }
        for (banned, why) in BANNED_PATHS {
            let hit = source.paths.iter().any(|path| is_banned(path, banned));
            if hit {
                fault(format!("`{banned}` in the core: {why}"));
            }
        }
    }

    if source.words.iter().any(|word| word == "unsafe") {
        if !UNSAFE_FILES.iter().any(|(name, _)| *name == file) {
            fault("`unsafe` outside of the files that may hold it".into());
        }
        for line in unproven(text) {
            fault(format!(
                "line {line}: `unsafe` without a `// SAFETY:` above it"
            ));
        }
    }
    faults.sort();
    faults.dedup();
    faults
}

fn is_banned(path: &str, banned: &str) -> bool {
    if banned == "std::net" {
        return below(path, banned) && !path.split("::").any(|part| ADDRESSES.contains(&part));
    }
    below(path, banned) || banned.starts_with("Hash") && path.ends_with(&format!("::{banned}"))
}

/// Lines with an `unsafe` block or impl whose preceding comment lines hold no `SAFETY:`.
fn unproven(text: &str) -> Vec<usize> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let code = line.split("//").next().unwrap_or(line);
        if !(code.contains("unsafe {") || code.contains("unsafe impl")) {
            continue;
        }
        // The comment stands directly above the statement, which may begin a few lines earlier.
        let near = lines[at.saturating_sub(8)..=at]
            .iter()
            .any(|line| line.contains("SAFETY:"));
        if !near {
            found.push(at + 1);
        }
    }
    found
}

/// Files below `folder` that end in `.rs`, in order.
fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let Ok(entries) = std::fs::read_dir(folder) else {
        return files;
    };
    for entry in entries {
        let path = entry.expect("directory entry").path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

fn report(faults: &[String]) -> String {
    let mut text = format!("{} faults:\n", faults.len());
    for fault in faults {
        let _ = writeln!(text, "  {fault}");
    }
    text
}

#[test]
fn the_sources_keep_the_house_rules() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = rust_files(&root.join("src"));
    assert!(files.len() > 40, "only {} files were read", files.len());
    let mut faults = Vec::new();
    for path in files {
        let name = path
            .strip_prefix(root)
            .expect("below the root")
            .to_str()
            .expect("UTF-8")
            .to_owned();
        faults.extend(judge(&name, &std::fs::read_to_string(&path).expect("read")));
    }
    assert!(faults.is_empty(), "{}", report(&faults));
}

#[test]
fn tests_and_benches_stay_short_and_say_what_they_show() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut faults = Vec::new();
    for folder in ["tests", "benches", "fuzz/fuzz_targets"] {
        for path in rust_files(&root.join(folder)) {
            let text = std::fs::read_to_string(&path).expect("read");
            let opens = text
                .lines()
                .find(|line| !line.is_empty() && !line.starts_with("#!"));
            if !opens.is_some_and(|line| line.starts_with("//!")) {
                faults.push(format!("{}: no `//!` at the top", path.display()));
            }
            if text.lines().count() > LINES_MAX {
                faults.push(format!("{}: longer than {LINES_MAX} lines", path.display()));
            }
        }
    }
    assert!(faults.is_empty(), "{}", report(&faults));
}

/// A file that breaks one rule, and what must be said about it.
#[test]
fn rules_can_fail() {
    let broken: &[(&str, &str, &str)] = &[
        (
            "src/base/x.rs",
            "//! X.\nuse crate::proto::ws;\n",
            "may not name `proto::ws`",
        ),
        (
            "src/proto/http/x.rs",
            "//! X.\nuse crate::proto::ws::Role;\n",
            "may not name `proto::ws::Role`",
        ),
        (
            "src/proto/http/x.rs",
            "//! X.\nuse super::super::ws::Role;\n",
            "may not name `proto::ws::Role`",
        ),
        (
            "src/call/state.rs",
            "//! X.\nuse crate::proto::{audio, ws};\n",
            "may not name `proto::ws`",
        ),
        (
            "src/simulate/x.rs",
            "//! X.\nfn f() { crate::call::session::go(); }\n",
            "may not name `call::session::go`",
        ),
        (
            "src/simulate/x.rs",
            "//! X.\nuse crate::{base::id, relay};\n",
            "may not name `relay`",
        ),
        (
            "src/relay/worker/x.rs",
            "//! X.\nuse crate::relay::desk;\n",
            "may not name `relay::desk`",
        ),
        (
            "src/relay/desk/x.rs",
            "//! X.\nuse crate::control;\n",
            "may not name `control`",
        ),
        (
            "src/control/x.rs",
            "//! X.\nuse crate::relay::desk::Desk;\n",
            "may not name `relay::desk::Desk`",
        ),
        (
            "src/control/x.rs",
            "//! X.\nuse crate::call::session::Session;\n",
            "may not name `call::session::Session`",
        ),
        ("src/nowhere/x.rs", "//! X.\n", "has no row"),
        (
            "src/control/x.rs",
            "//! X.\nuse rustls::ServerConfig;\n",
            "`rustls` is named outside",
        ),
        (
            "src/relay/worker/x.rs",
            "//! X.\nuse tokio_uring::net;\n",
            "`tokio_uring` is named outside",
        ),
        (
            "src/call/x.rs",
            "//! X.\nuse std::time::{Duration, Instant};\n",
            "`Instant` in the core",
        ),
        (
            "src/call/x.rs",
            "//! X.\nasync fn f() {}\n",
            "`async` in the core",
        ),
        (
            "src/call/x.rs",
            "//! X.\nuse std::sync::{Arc, Mutex};\n",
            "`Mutex` in the core",
        ),
        (
            "src/proto/x.rs",
            "//! X.\nuse std::net::{IpAddr, TcpStream};\n",
            "`std::net` in the core",
        ),
        (
            "src/proto/x.rs",
            "//! X.\nfn f() { tracing::info!(\"x\"); }\n",
            "`tracing` in the core",
        ),
        (
            "src/base/x.rs",
            "//! X.\nfn f() { metrics::counter!(\"x\"); }\n",
            "`metrics` in the core",
        ),
        (
            "src/base/x.rs",
            "//! X.\nfn f() { let m = std::collections::HashMap::<u8, u8>::new(); }\n",
            "`HashMap::new` in the core",
        ),
        (
            "src/base/x.rs",
            "//! X.\nfn f() { let m: M = HashMap::new(); }\n",
            "`HashMap::new` in the core",
        ),
        (
            "src/control/x.rs",
            "//! X.\nfn f() { unsafe { g() } }\n",
            "`unsafe` outside",
        ),
        (
            "src/relay/worker/ring.rs",
            "//! X.\nfn f() {\n unsafe { g() }\n}\n",
            "line 3: `unsafe` without",
        ),
        (
            "src/base/x.rs",
            "use std::fmt;\n",
            "does not open by saying",
        ),
    ];
    for (file, text, expected) in broken {
        let faults = judge(file, text);
        assert!(
            faults.iter().any(|fault| fault.contains(expected)),
            "{file}: {text:?}: expected {expected:?} in {faults:?}"
        );
    }
    let long = format!("//! X.\n{}", "\n".repeat(LINES_MAX));
    assert!(
        judge("src/base/x.rs", &long)
            .iter()
            .any(|fault| fault.contains("split it"))
    );
}

#[test]
fn rules_do_not_fire_on_what_is_right() {
    let good: &[(&str, &str)] = &[
        (
            "src/base/x.rs",
            "//! Says Instant, async and crate::relay in a comment.\n",
        ),
        (
            "src/base/x.rs",
            "//! X.\nconst S: &str = \"crate::relay Mutex unsafe { }\";\n",
        ),
        (
            "src/base/x.rs",
            "//! X.\nconst S: &str = r#\"crate::relay \"async\" \"#;\nconst C: char = '\"';\n",
        ),
        (
            "src/call/session/x.rs",
            "//! X.\nuse crate::proto::ws::reader::Reader;\nuse super::super::fact::Fact;\n",
        ),
        (
            "src/call/x.rs",
            "//! X.\n#[cfg(test)]\nmod tests {\n use std::time::Instant;\n fn f() { crate::relay::x(); }\n}\n",
        ),
        (
            "src/control/x.rs",
            "//! X.\nuse crate::call::{Fact, fact::Stats};\nuse axum::Router;\n",
        ),
        (
            "src/cli/x.rs",
            "//! X.\nuse crate::{relay, control, simulate};\nuse clap::Parser;\n",
        ),
        (
            "src/relay/worker/ring.rs",
            "//! X.\nfn f() {\n // SAFETY: the buffer outlives the call.\n unsafe { g() }\n}\n",
        ),
        (
            "src/call/x.rs",
            "//! X.\nfn f<'a>(x: &'a str) -> f64 { 2.0_f64.log(10.0) }\n",
        ),
        (
            "src/main.rs",
            "//! X.\nuse voxrelay::cli;\n#[global_allocator]\nstatic A: mimalloc::MiMalloc = mimalloc::MiMalloc;\n",
        ),
    ];
    for (file, text) in good {
        let faults = judge(file, text);
        assert!(faults.is_empty(), "{file}: {text:?}: {faults:?}");
    }
}
