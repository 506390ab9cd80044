//! Large buffers that belong to the thread: a stream takes one while bytes move and gives it back when there is
//! nothing in it, so that an idle connection holds none.

use std::{
    cell::{Cell, RefCell},
    sync::atomic::{AtomicUsize, Ordering},
};

/// Size of an input buffer in bytes: the largest chunk of any protocol here, and a few more behind it.
pub const SIZE: usize = 80 * 1024;

/// Capacity of a wide output buffer in bytes: all that the relay has at once (256 KiB), sealed. Each write of a piece wakes
/// the other side.
pub const WIDE: usize = 272 * 1024;

/// Wide buffers that may exist at once: where peers are slow, each stream that waits for one keeps its buffer.
const WIDE_MAX: usize = 64;

/// Buffers of each kind that a thread keeps, beside a wide one.
const KEPT: usize = 4;

static WIDE_COUNT: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static INPUT: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
    static OUTPUT: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
    static WIDE_OUTPUT: Cell<Option<Vec<u8>>> = const { Cell::new(None) };
}

/// A buffer of [`SIZE`] to read into; what is in it is of no interest.
pub fn input() -> Box<[u8]> {
    let pooled = INPUT.try_with(|pool| pool.borrow_mut().pop()).ok().flatten();
    pooled.unwrap_or_else(|| vec![0; SIZE].into_boxed_slice())
}

/// Gives a buffer back. Those of another size are freed.
pub fn give_input(buffer: Box<[u8]>) {
    if buffer.len() == SIZE {
        keep(&INPUT, buffer);
    }
}

/// An empty buffer to write from.
pub fn output() -> Vec<u8> {
    let pooled = OUTPUT.try_with(|pool| pool.borrow_mut().pop()).ok().flatten();
    pooled.unwrap_or_else(|| Vec::with_capacity(SIZE))
}

/// Gives a buffer back. Small or very large ones are freed.
pub fn give_output(mut buffer: Vec<u8>) {
    if (SIZE..=4 * SIZE).contains(&buffer.capacity()) {
        buffer.clear();
        keep(&OUTPUT, buffer);
    }
}

/// An empty buffer of capacity [`WIDE`] to write from; `None` when there are too many of them. It is to come back to
/// [`give_wide`].
pub fn wide() -> Option<Vec<u8>> {
    if let Some(buffer) = WIDE_OUTPUT.try_with(Cell::take).ok().flatten() {
        return Some(buffer);
    }
    if WIDE_COUNT.fetch_add(1, Ordering::Relaxed) >= WIDE_MAX {
        WIDE_COUNT.fetch_sub(1, Ordering::Relaxed);
        return None;
    }
    Some(Vec::with_capacity(WIDE))
}

/// Gives a buffer of [`wide`] back.
pub fn give_wide(mut buffer: Vec<u8>) {
    buffer.clear();
    let before = WIDE_OUTPUT.try_with(|pool| pool.replace(Some(buffer)));
    if !matches!(before, Ok(None)) {
        WIDE_COUNT.fetch_sub(1, Ordering::Relaxed);
    }
}

fn keep<T>(pool: &'static std::thread::LocalKey<RefCell<Vec<T>>>, buffer: T) {
    // The thread may be ending, and its pool be gone: then the buffer is freed.
    let _ = pool.try_with(|pool| {
        let mut pool = pool.borrow_mut();
        if pool.len() < KEPT {
            pool.push(buffer);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_buffers_are_counted() {
        let mut taken: Vec<_> = (0..2 * WIDE_MAX).map_while(|_| wide()).collect();
        assert!(taken.len() <= WIDE_MAX && wide().is_none());
        taken.pop().into_iter().for_each(give_wide);
        let again = wide().unwrap();
        assert!(again.is_empty() && again.capacity() >= WIDE);
        taken.push(again);
        taken.into_iter().for_each(give_wide);
        // One stays with this thread.
        assert_eq!(WIDE_COUNT.load(Ordering::Relaxed), 1);
    }
}
