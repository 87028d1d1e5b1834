//! Which core each worker stays on. Shell.
//!
//! A worker that moves between cores leaves its caches behind, and one that shares its core waits for others. So,
//! where the process has more cores than workers, each worker gets one of its own and all other threads share
//! what is left. Only cores that the process was started with are used (taskset, cpuset): those who run it may have
//! given the rest to somebody else.

use crate::config::Pin;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::io;

/// Who runs where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Each worker's core; empty: wherever the kernel likes.
    pub workers: Vec<usize>,
    /// The cores of every other thread; empty: any.
    pub others: Vec<usize>,
}

impl Plan {
    /// For so many workers, on the cores that this process may use.
    pub fn of_process(pin: Pin, workers: usize) -> Self {
        // Where nobody can say, nothing is pinned.
        let cores = sched_getaffinity(None).map_or(Vec::new(), |set| {
            (0..CpuSet::MAX_CPU)
                .filter(|core| set.is_set(*core))
                .collect()
        });
        Self::of(pin, workers, &cores)
    }

    /// The last cores go to the workers: interrupts are mostly served by the first.
    fn of(pin: Pin, workers: usize, cores: &[usize]) -> Self {
        let is_spare = workers < cores.len();
        match pin {
            Pin::Auto if is_spare => {}
            Pin::On if !cores.is_empty() => {}
            _ => return Self::default(),
        }
        if is_spare {
            let (others, own) = cores.split_at(cores.len() - workers);
            return Self {
                workers: own.to_vec(),
                others: others.to_vec(),
            };
        }
        Self {
            workers: cores.iter().copied().cycle().take(workers).collect(),
            others: Vec::new(),
        }
    }

    /// Keeps the calling thread, and every thread that it starts, off the workers' cores.
    pub fn keep_off(&self) -> io::Result<()> {
        match self.others.is_empty() {
            true => Ok(()),
            false => stay(&self.others),
        }
    }
}

impl std::fmt::Display for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let list = |cores: &[usize]| {
            let words: Vec<String> = cores.iter().map(usize::to_string).collect();
            words.join(", ")
        };
        if self.workers.is_empty() {
            return f.write_str("workers are not pinned to cores");
        }
        write!(f, "workers are pinned to core {}", list(&self.workers))?;
        match self.others.is_empty() {
            true => f.write_str("; there is none left for other threads alone"),
            false => write!(f, "; other threads use core {}", list(&self.others)),
        }
    }
}

/// Keeps the calling thread on these cores.
pub(super) fn stay(cores: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    for core in cores {
        set.set(*core);
    }
    Ok(sched_setaffinity(None, &set)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_get_the_last_cores_and_the_rest_is_for_others() {
        let plan = Plan::of(Pin::Auto, 2, &[0, 2, 5, 7]);
        assert_eq!(
            (&plan.workers[..], &plan.others[..]),
            (&[5, 7][..], &[0, 2][..])
        );
        assert_eq!(
            plan.to_string(),
            "workers are pinned to core 5, 7; other threads use core 0, 2"
        );
    }

    #[test]
    fn nothing_is_pinned_where_a_worker_would_have_to_share_unless_it_is_wanted() {
        for cores in [&[][..], &[0], &[0, 1]] {
            assert_eq!(Plan::of(Pin::Auto, 2, cores), Plan::default());
            assert_eq!(Plan::of(Pin::Off, 1, cores), Plan::default());
        }
        let plan = Plan::of(Pin::On, 3, &[4, 6]);
        assert_eq!((plan.workers, plan.others), (vec![4, 6, 4], vec![]));
        assert_eq!(Plan::of(Pin::On, 1, &[]), Plan::default());
    }

    #[test]
    fn a_thread_stays_where_it_is_put_and_so_do_those_it_starts() {
        let seen = std::thread::spawn(|| {
            let before = sched_getaffinity(None).expect("an affinity");
            let core = (0..CpuSet::MAX_CPU).find(|core| before.is_set(*core));
            let core = core.expect("a core");
            let plan = Plan {
                workers: vec![core],
                others: vec![core],
            };
            plan.keep_off().expect("allowed");
            let inner = std::thread::spawn(|| sched_getaffinity(None).expect("an affinity"));
            let set = inner.join().expect("ended");
            (
                core,
                (0..CpuSet::MAX_CPU)
                    .filter(|c| set.is_set(*c))
                    .collect::<Vec<_>>(),
            )
        });
        let (core, cores) = seen.join().expect("ended");
        assert_eq!(cores, [core]);
    }
}
