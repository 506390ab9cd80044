//! CPU time of a process, in nanoseconds, exact.
//!
//! `sum_exec_runtime` of every thread (first field of `schedstat`): user and system time, and the
//! softirqs that ran on its account. `utime` and `stime` come in ticks of 10 ms, which is too
//! coarse for a window of a second and a half.

use std::collections::HashMap;
use std::fs;

/// CPU time of each thread at one moment: seconds it ran, and seconds it waited for its core.
#[derive(Debug, Default)]
pub(crate) struct Snapshot(HashMap<u32, (f64, f64)>);

impl Snapshot {
    /// Reads all threads of several processes.
    pub(crate) fn of_all(pids: impl Iterator<Item = u32>) -> Self {
        Self(pids.flat_map(|pid| Self::of(pid).0).collect())
    }

    /// Reads all threads of `pid`; empty when the process is gone.
    pub(crate) fn of(pid: u32) -> Self {
        let mut threads = HashMap::new();
        for entry in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let Some(tid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            threads.insert(tid, read(&format!("/proc/{pid}/task/{tid}/schedstat")));
        }
        Self(threads)
    }

    /// Seconds of CPU since `earlier`. What a thread used that ended in between is lost, which is
    /// nothing with programs that keep their threads.
    pub(crate) fn since(&self, earlier: &Snapshot) -> f64 {
        self.grown(earlier, |(ran, _)| ran)
    }

    /// Seconds since `earlier` for which threads could have run and did not.
    pub(crate) fn waited_since(&self, earlier: &Snapshot) -> f64 {
        self.grown(earlier, |(_, waited)| waited)
    }

    /// Seconds of CPU since the process began.
    pub(crate) fn total(&self) -> f64 {
        self.0.values().map(|(ran, _)| ran).sum()
    }

    fn grown(&self, earlier: &Snapshot, field: impl Fn((f64, f64)) -> f64) -> f64 {
        let before = |tid| field(earlier.0.get(tid).copied().unwrap_or_default());
        self.0.iter().map(|(tid, now)| (field(*now) - before(tid)).max(0.0)).sum()
    }
}

/// As in a [`Snapshot`], of the calling thread.
pub(crate) fn own() -> (f64, f64) {
    read("/proc/thread-self/schedstat")
}

/// Seconds for which a core was busy since the machine started, in steps of 10 ms.
pub(crate) fn busy(core: usize) -> f64 {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let name = format!("cpu{core}");
    let line = text.lines().find(|line| line.split(' ').next() == Some(&name)).unwrap_or_default();
    let fields: Vec<f64> =
        line.split_whitespace().skip(1).map(|field| field.parse().unwrap_or(0.0)).collect();
    // user nice system idle iowait irq softirq
    [0, 1, 2, 5, 6].iter().filter_map(|&at| fields.get(at)).sum::<f64>() / 100.0
}

fn read(path: &str) -> (f64, f64) {
    let text = fs::read_to_string(path).unwrap_or_default();
    let mut fields = text.split_whitespace().map(|field| field.parse().unwrap_or(0.0) / 1e9);
    (fields.next().unwrap_or(0.0), fields.next().unwrap_or(0.0))
}
