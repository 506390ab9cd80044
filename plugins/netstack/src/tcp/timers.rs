//! When flows want to be looked at though no packet comes: retransmissions, delayed acknowledgements, probes.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    sync::atomic::{AtomicU64, Ordering},
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Key;

/// No time at all.
pub(super) const NEVER: u64 = u64::MAX;

/// Times in microseconds of the stack's clock.
pub(super) struct Timers {
    heap: Mutex<BinaryHeap<Reverse<(u64, Ends)>>>,
    first: AtomicU64,
    notify: Notify,
}

/// A key with an order, for the heap; the order means nothing.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Ends(std::net::SocketAddr, std::net::SocketAddr);

impl Timers {
    pub(super) fn new() -> Self {
        Self {
            heap: Mutex::new(BinaryHeap::new()),
            first: AtomicU64::new(NEVER),
            notify: Notify::new(),
        }
    }

    /// Has a flow looked at, at that time.
    pub(super) fn add(&self, at: u64, key: Key) {
        let mut heap = self.heap.lock();
        heap.push(Reverse((at, Ends(key.local, key.remote))));
        if at < self.first.load(Ordering::Relaxed) {
            self.first.store(at, Ordering::Relaxed);
            drop(heap);
            self.notify.notify_one();
        }
    }

    /// When the next one is due.
    pub(super) fn first(&self) -> u64 {
        self.first.load(Ordering::Relaxed)
    }

    /// Waits until the next one is due earlier than it was.
    pub(super) async fn earlier(&self) {
        self.notify.notified().await;
    }

    /// Takes one that is due.
    pub(super) fn take(&self, now: u64) -> Option<Key> {
        let mut heap = self.heap.lock();
        let due = heap.peek().is_some_and(|Reverse((at, _))| *at <= now);
        let taken = if due { heap.pop() } else { None };
        let first = heap.peek().map_or(NEVER, |Reverse((at, _))| *at);
        self.first.store(first, Ordering::Relaxed);
        taken.map(|Reverse((_, ends))| Key { local: ends.0, remote: ends.1 })
    }
}
