//! The allocator of the program, and what it does with memory that nobody has at the moment.

use libmimalloc_sys::{mi_option_set, mi_option_t, mi_option_use_numa_nodes};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// After how many milliseconds memory goes back to the system; never, if negative. The binding has no name for it: in the header of both versions of
/// the allocator it comes before the one that is named here.
const PURGE_DELAY: mi_option_t = mi_option_use_numa_nodes - 1;

/// Keeps memory that was given back, for whoever asks next, as long as the program runs: for work whose steps ask for the same again and again, which
/// otherwise is cleared by the system with every step. `MIMALLOC_PURGE_DELAY` says otherwise if it is set.
pub(crate) fn keep_memory() {
    if std::env::var_os("MIMALLOC_PURGE_DELAY").is_none() {
        #[expect(unsafe_code, reason = "a call of the allocator's own")]
        // SAFETY: it sets a number that is read when memory is given back.
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
        // Its default is a delay in milliseconds, that of its neighbour a number of nodes: as many as there are.
        #[expect(unsafe_code, reason = "a call of the allocator's own")]
        // SAFETY: it reads a number.
        let get = |option| unsafe { libmimalloc_sys::mi_option_get(option) };
        if std::env::var_os("MIMALLOC_PURGE_DELAY").is_none() {
            assert!(get(PURGE_DELAY) >= 10, "{}", get(PURGE_DELAY));
            assert_eq!(get(PURGE_DELAY + 1), 0);
            keep_memory();
            assert_eq!(get(PURGE_DELAY), -1);
        }
    }
}
