//! Workers that decrypt beside the task that receives, if the configuration asks for more than one. All messages of one peer
//! go through one worker, so that they stay in order. By default the task that receives does all of it: what goes out is
//! sealed by the tasks of the flows anyway, on every core, and a batch that changes cores costs CPU (measured with two
//! cores: eight flows become some 15 % faster at the same cost, one flow slower, a datagram a quarter dearer).

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use crosspoint_kernel::{
    flow::Batch,
    relay::{give_batch, take_batch},
};
use crosspoint_netstack::Packets;
use parking_lot::Mutex;
use tokio::{sync::mpsc, task::JoinHandle};

use crate::{
    device::{Inward, receiver_of},
    outer::Sink,
};

/// Batches that may wait for a worker; what comes beyond waits in the socket.
const WAITING: usize = 16;
/// A batch of fewer messages is not worth waking another task.
const FEW: usize = 4;

/// Where batches go: to a worker, or straight on when they are small and nothing is before them.
pub(crate) struct Workers<F> {
    own: Inward<F>,
    queues: Vec<Queue>,
}

struct Queue {
    sender: mpsc::Sender<Batch>,
    /// Batches that the worker has emptied: a new one is two megabytes of the system's, to be cleared page by page.
    empty: Arc<Mutex<Vec<Batch>>>,
    /// Batches that the worker has not finished.
    busy: Arc<AtomicUsize>,
}

impl<F: FnMut(&Packets) + Clone + Send + Sync + 'static> Workers<F> {
    /// `count` workers that do what `own` does, and their tasks. One alone is none: the receiving task does the work.
    pub(crate) fn new(own: Inward<F>, count: usize) -> (Self, Vec<JoinHandle<()>>) {
        let mut tasks = Vec::new();
        let count = if count > 1 { count } else { 0 };
        let queues = (0..count).map(|_| {
            let (sender, mut receiver) = mpsc::channel::<Batch>(WAITING);
            let busy = Arc::new(AtomicUsize::new(0));
            let mut inward = own.another();
            let left = busy.clone();
            let empty = Arc::new(Mutex::new(Vec::new()));
            let emptied = empty.clone();
            tasks.push(tokio::spawn(async move {
                while let Some(mut batch) = receiver.recv().await {
                    inward.open_all(&mut batch);
                    batch.clear();
                    // There are never more than wait, the one here, and the one that is filled.
                    emptied.lock().push(batch);
                    left.fetch_sub(1, Ordering::Release);
                }
            }));
            Queue { sender, empty, busy }
        });
        let queues = queues.collect();
        (Self { own, queues }, tasks)
    }

    fn worker(&self, message: &[u8]) -> usize {
        let peer = receiver_of(message).unwrap_or(0);
        usize::try_from(peer).unwrap_or(0) % self.queues.len()
    }

    async fn give(&self, worker: usize, batch: Batch) {
        let Queue { sender, busy, .. } = &self.queues[worker];
        busy.fetch_add(1, Ordering::Relaxed);
        // A worker ends with the device only.
        let _ = sender.send(batch).await;
    }
}

impl<F: FnMut(&Packets) + Clone + Send + Sync + 'static> Sink for Workers<F> {
    async fn take(&mut self, batch: &mut Batch) {
        if self.queues.is_empty() || batch.is_empty() {
            return self.own.open_all(batch);
        }
        let first = self.worker(batch.payload(0));
        if (1..batch.len()).all(|at| self.worker(batch.payload(at)) == first) {
            let idle = self.queues[first].busy.load(Ordering::Acquire) == 0;
            if idle && batch.len() < FEW {
                return self.own.open_all(batch);
            }
            let next = self.queues[first].empty.lock().pop().unwrap_or_else(take_batch);
            return self.give(first, std::mem::replace(batch, next)).await;
        }
        // Of several peers: rare enough to copy.
        for worker in 0..self.queues.len() {
            let mut part = self.queues[worker].empty.lock().pop().unwrap_or_else(take_batch);
            for at in 0..batch.len() {
                if self.worker(batch.payload(at)) == worker {
                    part.push(batch.payload(at), batch.peer(at).clone());
                }
            }
            if part.is_empty() {
                give_batch(part);
            } else {
                self.give(worker, part).await;
            }
        }
    }
}
