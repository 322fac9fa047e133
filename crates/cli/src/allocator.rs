//! The global allocator, and the option that makes it keep freed memory.

use libmimalloc_sys::{mi_option_set, mi_option_t, mi_option_use_numa_nodes};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The option `mi_option_purge_delay`: milliseconds until freed memory is returned to the system, never if negative. The binding does not name it; in the
/// headers of both versions of mimalloc it precedes the option named here.
const PURGE_DELAY: mi_option_t = mi_option_use_numa_nodes - 1;

/// Keeps freed memory for reuse until the program ends. Training allocates the same buffers in every step, and pages that were returned to the system would
/// have to be cleared again each time. `MIMALLOC_PURGE_DELAY`, if set, takes precedence.
pub(crate) fn keep_memory() {
    if std::env::var_os("MIMALLOC_PURGE_DELAY").is_none() {
        #[expect(unsafe_code, reason = "a call of the allocator's own")]
        // SAFETY: the call sets one integer option, which the allocator reads when memory is freed.
        unsafe {
            mi_option_set(PURGE_DELAY, -1)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_option_is_the_delay() {
        // The delay is at least 10 ms by default, and the NUMA node count that follows it is 0 (detect).
        #[expect(unsafe_code, reason = "a call of the allocator's own")]
        // SAFETY: the call reads one integer option.
        let get = |option| unsafe { libmimalloc_sys::mi_option_get(option) };
        if std::env::var_os("MIMALLOC_PURGE_DELAY").is_none() {
            assert!(get(PURGE_DELAY) >= 10, "{}", get(PURGE_DELAY));
            assert_eq!(get(PURGE_DELAY + 1), 0);
            keep_memory();
            assert_eq!(get(PURGE_DELAY), -1);
        }
    }
}
