//! Memory that the allocator keeps after a burst of connections.

/// Asks the allocator to return free memory to the system. May take milliseconds: call it on a
/// thread that may block, and rarely.
///
/// glibc returns only the end of its heap by itself; after thousands of connections have come and
/// gone, one block that stays keeps all pages below it. Elsewhere this does nothing.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code)]
pub fn give_memory_back() {
    // SAFETY: malloc_trim takes no pointer and is safe to call from any thread (malloc_trim(3)).
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Asks the allocator to return free memory to the system; there is nothing to ask for here.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn give_memory_back() {}
