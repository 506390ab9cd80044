//! Packet batches that belong to the thread.

use std::cell::RefCell;

use crate::flow::Batch;

/// Batches kept per thread: one for each direction of the association that runs.
const KEPT: usize = 2;

thread_local! {
    static POOL: RefCell<Vec<Batch>> = const { RefCell::new(Vec::new()) };
}

/// Takes an empty batch from the thread's pool, or makes one. Give it back with [`give_batch`] before
/// the task sleeps, unless packets are left in it that could not be sent yet.
pub fn take_batch() -> Batch {
    POOL.with_borrow_mut(Vec::pop).unwrap_or_default()
}

/// Gives a batch back; what is left in it is forgotten.
pub fn give_batch(mut batch: Batch) {
    batch.clear();
    // The thread may be ending, and its pool be gone: then the batch is freed.
    let _ = POOL.try_with(|pool| {
        let mut pool = pool.borrow_mut();
        if pool.len() < KEPT {
            pool.push(batch);
        }
    });
}
