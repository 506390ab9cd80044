//! Buffers that frames are made in. They belong to the thread, and hold zeroes from the start: payload is masked on its
//! way into them, in one pass.

use std::{
    cell::Cell,
    sync::atomic::{AtomicUsize, Ordering},
};

use crate::pool;

/// Size of a wide buffer in bytes: all that the relay has at once (256 KiB), in frames. One write wakes the other side
/// once.
const WIDE: usize = 272 * 1024;

/// Wide buffers that may exist at once: where peers are slow, each stream that waits for one keeps its buffer.
const WIDE_MAX: usize = 64;

static WIDE_COUNT: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static KEPT: Cell<Option<Wide>> = const { Cell::new(None) };
}

/// A wide buffer, counted.
struct Wide(Box<[u8]>);

impl Drop for Wide {
    fn drop(&mut self) {
        WIDE_COUNT.fetch_sub(1, Ordering::Relaxed);
    }
}

enum Space {
    /// Of the common pool.
    Narrow(Box<[u8]>),
    Wide(Wide),
}

/// A buffer of 80 KiB at least.
pub(super) struct Buffer(Option<Space>);

impl Buffer {
    /// One for so many bytes of payload, as far as there are such.
    pub(super) fn take(payload: usize) -> Self {
        let wide = if payload > pool::SIZE { Self::wide() } else { None };
        let space = wide.map_or_else(|| Space::Narrow(pool::input()), Space::Wide);
        Self(Some(space))
    }

    fn wide() -> Option<Wide> {
        if let Some(kept) = KEPT.try_with(Cell::take).ok().flatten() {
            return Some(kept);
        }
        if WIDE_COUNT.fetch_add(1, Ordering::Relaxed) >= WIDE_MAX {
            WIDE_COUNT.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Wide(vec![0; WIDE].into_boxed_slice()))
    }

    /// What is in it.
    pub(super) fn bytes(&self) -> &[u8] {
        match &self.0 {
            Some(Space::Narrow(bytes) | Space::Wide(Wide(bytes))) => bytes,
            None => &[],
        }
    }

    /// The same, to change.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        match &mut self.0 {
            Some(Space::Narrow(bytes) | Space::Wide(Wide(bytes))) => bytes,
            None => &mut [],
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        match self.0.take() {
            Some(Space::Narrow(bytes)) => pool::give_input(bytes),
            // The thread may be ending, and its place be gone: then the buffer is freed.
            Some(Space::Wide(wide)) => drop(KEPT.try_with(|kept| kept.set(Some(wide)))),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(Buffer::take(1).bytes().len(), pool::SIZE);
        let (one, other) = (Buffer::take(256 * 1024), Buffer::take(256 * 1024));
        assert_eq!((one.bytes().len(), other.bytes().len()), (WIDE, WIDE));
    }
}
