//! Proof of life of worker loops.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::Notify;

/// Lets the supervisor ask a worker loop whether it still turns. A loop opts in by calling
/// [`Pulse::beat`] in its `select!`; a loop that has opted in and does not answer within the
/// deadline has hung, and its component is restarted.
#[derive(Clone, Default)]
pub struct Pulse(Arc<Shared>);

#[derive(Default)]
struct Shared {
    joined: AtomicBool,
    asked: AtomicU64,
    answered: AtomicU64,
    wake: Notify,
}

impl Pulse {
    /// Resolves when the supervisor asks, and answers. Cancel-safe; call it again afterwards.
    pub async fn beat(&self) {
        self.0.joined.store(true, Ordering::Relaxed);
        loop {
            let asked = self.0.asked.load(Ordering::Acquire);
            if self.0.answered.swap(asked, Ordering::AcqRel) != asked {
                return;
            }
            self.0.wake.notified().await;
        }
    }

    /// Asks, unless a question is open. Returns whether the last question is still unanswered.
    pub(crate) fn ask(&self) -> bool {
        if !self.0.joined.load(Ordering::Relaxed) {
            return false;
        }
        let asked = self.0.asked.load(Ordering::Acquire);
        if self.0.answered.load(Ordering::Acquire) < asked {
            return true;
        }
        self.0.asked.store(asked + 1, Ordering::Release);
        self.0.wake.notify_one();
        false
    }
}

/// How often loops are asked, unless configured.
pub const DEFAULT_PULSE: Duration = Duration::from_millis(300);
