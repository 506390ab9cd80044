//! A thread that notices when the runtime stops turning, which no task could.
//!
//! A hung component is found by the supervisor; this finds what would keep the supervisor itself from running: tasks
//! that block every worker.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::runtime::Handle;
use tracing::{error, warn};

use super::notify::Notifier;

/// How often to look when no service manager waits for it.
const INTERVAL: Duration = Duration::from_secs(5);

/// Starts the thread.
pub(super) fn spawn(runtime: &Handle, notifier: Arc<Notifier>) {
    // Twice within the manager's patience, as sd_watchdog_enabled(3) advises.
    let interval = notifier.watchdog().map_or(INTERVAL, |patience| patience / 2).min(INTERVAL);
    let runtime = runtime.clone();
    let watch = move || watch(&runtime, &notifier, interval);
    let thread = std::thread::Builder::new().name("watchdog".to_owned()).stack_size(128 << 10);
    if let Err(error) = thread.spawn(watch) {
        warn!("no watchdog: {error}");
    }
}

fn watch(runtime: &Handle, notifier: &Notifier, interval: Duration) {
    let mut probe = Probe::default();
    loop {
        let silent = probe.ask(runtime, interval);
        if silent.is_zero() {
            notifier.alive();
        } else {
            error!(
                "no worker has run a task for {silent:?}: something blocks the runtime; {}",
                match notifier.watchdog() {
                    Some(_) => "the service manager will restart the daemon",
                    None => "no service manager watches this daemon",
                }
            );
            notifier.status(&format!("the runtime has been blocked for {silent:?}"));
        }
    }
}

/// Asks the runtime for a sign of life.
#[derive(Default)]
struct Probe {
    asked: u64,
    answered: Arc<AtomicU64>,
    since: Option<Instant>,
}

impl Probe {
    /// Asks, unless the last question is still open, waits, and tells for how long there was no answer.
    fn ask(&mut self, runtime: &Handle, interval: Duration) -> Duration {
        if self.is_answered() {
            self.asked += 1;
            let (asked, answered) = (self.asked, self.answered.clone());
            self.since = Some(Instant::now());
            runtime.spawn(async move { answered.store(asked, Ordering::Release) });
        }
        std::thread::sleep(interval);
        match self.since {
            Some(since) if !self.is_answered() => since.elapsed(),
            _ => Duration::ZERO,
        }
    }

    fn is_answered(&self) -> bool {
        self.answered.load(Ordering::Acquire) == self.asked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_a_turning_runtime_from_a_blocked_one() {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let mut probe = Probe::default();
        let interval = Duration::from_millis(50);
        assert_eq!(probe.ask(runtime.handle(), interval), Duration::ZERO);
        let (release, block) = std::sync::mpsc::channel::<()>();
        runtime.spawn(async move { block.recv() });
        std::thread::sleep(interval);
        assert!(probe.ask(runtime.handle(), interval) >= interval);
        assert!(probe.ask(runtime.handle(), interval) >= 2 * interval);
        release.send(()).unwrap();
        let healed = (0..50).any(|_| probe.ask(runtime.handle(), interval).is_zero());
        assert!(healed);
    }
}
