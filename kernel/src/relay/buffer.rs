//! Copy buffers that belong to the thread. A direction takes one for the moment of one read and
//! write; it keeps it only while the other side does not take the bytes.
//!
//! What several reads of a busy source bring is gathered in one large buffer and goes out in one write. A chain
//! of small buffers and a vectored write would need as many writes and more reads: one of 256 KiB is cheaper
//! than eight of 32 KiB (parity/perf.md §2), and a layer that seals (TLS, AEAD) takes the bytes in one piece.

use std::{
    cell::Cell,
    sync::atomic::{AtomicUsize, Ordering},
};

/// Buffer size by how busy a direction is: a read that fills its buffer raises the level, so bulk
/// needs few system calls and an occasional message little cache. 64 KiB is missing on purpose: it is
/// slower than 32 and 256 KiB (parity/perf.md §2).
pub(super) const SIZES: [usize; 3] = [8 * 1024, 32 * 1024, 256 * 1024];

/// Largest buffers that may exist at once; under back-pressure each stalled direction keeps one.
const LARGEST_MAX: usize = 128;

static LARGEST: AtomicUsize = AtomicUsize::new(0);

/// A buffer of one of [`SIZES`].
pub(super) struct Buffer {
    bytes: Box<[u8]>,
    level: u8,
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.level == 2 {
            LARGEST.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl std::ops::Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl std::ops::DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

thread_local! {
    // One of each size and thread is enough: a task gives its buffer back before another one runs,
    // and of buffers that were kept under back-pressure the one that comes back second is freed.
    static POOL: [Cell<Option<Buffer>>; 3] =
        const { [Cell::new(None), Cell::new(None), Cell::new(None)] };
}

/// Takes the thread's buffer of that level, or makes one.
pub(super) fn take(level: u8) -> Buffer {
    let mut level = level.min(2);
    if let Some(buffer) = POOL.with(|pool| pool[usize::from(level)].take()) {
        return buffer;
    }
    if level == 2 && LARGEST.fetch_add(1, Ordering::Relaxed) >= LARGEST_MAX {
        LARGEST.fetch_sub(1, Ordering::Relaxed);
        level = 1;
    }
    Buffer { bytes: vec![0; SIZES[usize::from(level)]].into_boxed_slice(), level }
}

/// Gives a buffer back.
pub(super) fn give(buffer: Buffer) {
    // The thread may be ending, and its pool be gone: then the buffer is freed.
    let _ = POOL.try_with(|pool| pool[usize::from(buffer.level)].set(Some(buffer)));
}
