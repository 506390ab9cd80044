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

/// Asks the allocator to take blocks of more than 300 KiB straight from the system, always, and to return them at once:
/// then a large buffer costs the memory of the pages that were written to.
///
/// glibc begins with 128 KiB and raises the limit to the largest block that was freed; such blocks come from the heap from
/// then on, and are cleared before they are used again (mallopt(3)). Elsewhere this does nothing.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code)]
pub fn large_blocks_apart() {
    // SAFETY: mallopt takes no pointer and is safe to call from any thread (mallopt(3)).
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 300 * 1024);
        // What would have been raised with it: else the end of the heap comes and goes.
        libc::mallopt(libc::M_TRIM_THRESHOLD, 512 * 1024);
    }
}

/// Asks the allocator to keep large blocks apart; there is nothing to ask for here.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn large_blocks_apart() {}
