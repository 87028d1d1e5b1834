//! What a relay's processes cost, from `/proc`: CPU, memory, context switches of a process and all its descendants. Shell.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::time::{Duration, Instant};

/// What a process tree has used so far.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// When it was read.
    pub at: Instant,
    /// CPU time in user mode.
    pub user: Duration,
    /// CPU time in the kernel.
    pub system: Duration,
    /// Context switches, of its own accord and not.
    pub switches: u64,
}

impl Usage {
    /// User and system.
    pub fn cpu(&self) -> Duration {
        self.user + self.system
    }
}

/// What a process tree holds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// Resident, bytes.
    pub rss: u64,
    /// Resident, shared pages divided among their users; bytes. `None` where the kernel does not tell.
    pub pss: Option<u64>,
}

/// The process and all its descendants.
fn tree(root: u32) -> io::Result<Vec<u32>> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // A process may end between the two reads.
        if let Some(stat) = stat(pid) {
            children.entry(stat.parent).or_default().push(pid);
        }
    }
    let mut all = vec![root];
    let mut at = 0;
    while let Some(pid) = all.get(at) {
        all.extend(children.remove(pid).unwrap_or_default());
        at += 1;
    }
    Ok(all)
}

struct Stat {
    parent: u32,
    user_ticks: u64,
    system_ticks: u64,
}

fn stat(pid: u32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// `proc_pid_stat(5)`: the name in brackets may hold anything, so the fields are counted from the last bracket.
fn parse_stat(text: &str) -> Option<Stat> {
    let rest = &text[text.rfind(')')? + 1..];
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some(Stat {
        parent: number(1)? as u32,
        user_ticks: number(11)?,
        system_ticks: number(12)?,
    })
}

/// The number behind `name:` in a file of `/proc`.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let value = line.strip_prefix(name)?.strip_prefix(':')?;
        value.split_ascii_whitespace().next()?.parse().ok()
    })
}

/// What the tree has used. Errs when the process is gone.
pub fn usage(root: u32) -> io::Result<Usage> {
    let tick = Duration::from_secs(1) / rustix::param::clock_ticks_per_second() as u32;
    let gone = || io::Error::new(io::ErrorKind::NotFound, format!("process {root} is gone"));
    stat(root).ok_or_else(gone)?;
    let mut usage = Usage {
        at: Instant::now(),
        user: Duration::ZERO,
        system: Duration::ZERO,
        switches: 0,
    };
    for pid in tree(root)? {
        let Some(stat) = stat(pid) else { continue };
        usage.user += tick * stat.user_ticks as u32;
        usage.system += tick * stat.system_ticks as u32;
        let threads = fs::read_dir(format!("/proc/{pid}/task"));
        for thread in threads.into_iter().flatten().flatten() {
            let text = fs::read_to_string(thread.path().join("status")).unwrap_or_default();
            for name in ["voluntary_ctxt_switches", "nonvoluntary_ctxt_switches"] {
                usage.switches += field(&text, name).unwrap_or(0);
            }
        }
    }
    Ok(usage)
}

/// What the tree holds. Errs when the process is gone.
pub fn memory(root: u32) -> io::Result<Memory> {
    let mut memory = Memory {
        rss: 0,
        pss: Some(0),
    };
    for pid in tree(root)? {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        memory.rss += field(&status, "VmRSS").unwrap_or(0) * 1024;
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok();
        let pss = rollup
            .and_then(|text| field(&text, "Pss"))
            .map(|kib| kib * 1024);
        memory.pss = memory.pss.zip(pss).map(|(sum, one)| sum + one);
    }
    Ok(memory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_and_spaces_does_not_shift_the_fields() {
        let line = "7 (a) (b c) S 3 7 7 0 -1 4194560 100 0 0 0 12 34 0 0 20 0 1 0 5 6 7";
        let stat = parse_stat(line).expect("a stat line");
        assert_eq!(
            (stat.parent, stat.user_ticks, stat.system_ticks),
            (3, 12, 34)
        );
        assert!(parse_stat("7 (x").is_none());
    }

    #[test]
    fn this_process_can_be_measured_and_a_missing_one_is_an_error() {
        let me = std::process::id();
        assert!(usage(me).expect("our own").switches > 0);
        assert!(memory(me).expect("our own").rss > 1024 * 1024);
        // Above the kernel's highest process number.
        assert!(usage(u32::MAX).is_err());
    }
}
