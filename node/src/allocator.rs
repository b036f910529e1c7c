//! Memory that is freed goes back: limits of the system's allocator, for programs that run nodes.
//!
//! glibc gives threads that allocate at the same time an arena each, up to eight for every
//! processor, and what is freed in one is of no use to another: a node's blocking threads take
//! megabytes in turn, so its arenas kept 390 MiB after a repair that never had half of it at a time.
//! And once a large block was freed, blocks of that size are no longer given back one by one; sled
//! takes 6 MiB for each open database, of which it hardly touches any.
//!
//! Deliberately not here: an allocator of our own. mimalloc kept as much, and five times as much
//! before anything was repaired.

/// Limits the allocator of this process. Called first in `main`, while there is one thread.
///
/// A limit that is not taken is no error: the process only uses more memory. Allocators of other
/// systems are left as they are.
pub fn limit() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    glibc::limit();
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod glibc {
    use libc::{M_ARENA_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, c_int, mallopt};

    /// Arenas: enough for threads that allocate at the same time on a few processors. Each keeps
    /// what it had at its fullest.
    const ARENAS_MAX: c_int = 2;
    /// Blocks of so many bytes are given back when they are freed: sled's tables of pages.
    const LARGE_BYTES: c_int = 2 << 20;
    /// So many free bytes at an arena's end are given back.
    const TRIMMED_BYTES: c_int = 8 << 20;

    #[expect(unsafe_code, reason = "there is no safe call that limits glibc's allocator")]
    pub(super) fn limit() {
        for (limit, value) in [
            (M_ARENA_MAX, ARENAS_MAX),
            (M_MMAP_THRESHOLD, LARGE_BYTES),
            (M_TRIM_THRESHOLD, TRIMMED_BYTES),
        ] {
            // SAFETY: takes two numbers, and changes how later allocations are served only.
            unsafe { mallopt(limit, value) };
        }
    }
}
