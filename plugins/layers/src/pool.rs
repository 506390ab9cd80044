//! Large buffers that belong to the thread: a stream takes one while bytes move and gives it back when there is
//! nothing in it, so that an idle connection holds none.

use std::cell::RefCell;

/// Size of an input buffer in bytes: the largest chunk of any protocol here, and a few more behind it.
pub const SIZE: usize = 80 * 1024;

/// Buffers of each kind that a thread keeps.
const KEPT: usize = 4;

thread_local! {
    static INPUT: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
    static OUTPUT: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
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

fn keep<T>(pool: &'static std::thread::LocalKey<RefCell<Vec<T>>>, buffer: T) {
    // The thread may be ending, and its pool be gone: then the buffer is freed.
    let _ = pool.try_with(|pool| {
        let mut pool = pool.borrow_mut();
        if pool.len() < KEPT {
            pool.push(buffer);
        }
    });
}
