//! CPU time of a process, in nanoseconds, exact.
//!
//! `sum_exec_runtime` of every thread (first field of `schedstat`): user and system time, and the
//! softirqs that ran on its account. `utime` and `stime` come in ticks of 10 ms, which is too
//! coarse for a window of a second and a half.

use std::collections::HashMap;
use std::fs;

/// CPU time of each thread at one moment.
#[derive(Debug, Default)]
pub(crate) struct Snapshot(HashMap<u32, u64>);

impl Snapshot {
    /// Reads all threads of `pid`; empty when the process is gone.
    pub(crate) fn of(pid: u32) -> Self {
        let mut threads = HashMap::new();
        for entry in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let Some(tid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            if let Some(time) = read(&format!("/proc/{pid}/task/{tid}/schedstat")) {
                threads.insert(tid, time);
            }
        }
        Self(threads)
    }

    /// Seconds of CPU since `earlier`. What a thread used that ended in between is lost, which is
    /// nothing with programs that keep their threads.
    pub(crate) fn since(&self, earlier: &Snapshot) -> f64 {
        let used = |(tid, time): (&u32, &u64)| {
            time.saturating_sub(earlier.0.get(tid).copied().unwrap_or(0))
        };
        self.0.iter().map(used).sum::<u64>() as f64 / 1e9
    }

    /// Seconds of CPU since the process began.
    pub(crate) fn total(&self) -> f64 {
        self.0.values().sum::<u64>() as f64 / 1e9
    }
}

/// Seconds for which the calling thread ran, and for which it could have run but another did: on
/// a core of its own that is somebody else's work.
pub(crate) fn own() -> (f64, f64) {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let mut fields = text.split_whitespace().map(|field| field.parse().unwrap_or(0.0) / 1e9);
    (fields.next().unwrap_or(0.0), fields.next().unwrap_or(0.0))
}

fn read(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.split_whitespace().next()?.parse().ok()
}
