//! Hints to the caches.

/// Asks for the memory of `x` without waiting for it: for rows that are wanted soon and lie so far apart that the hardware
/// does not see them coming.
#[inline(always)]
pub fn prefetch<T>(x: &[T]) {
    prefetch_ahead(x, 0);
}

/// Asks for as much memory as `x` is long, from `ahead` bytes behind its start on; it need not be anybody's.
#[inline(always)]
pub fn prefetch_ahead<T>(x: &[T], ahead: usize) {
    let first = x.as_ptr().cast::<i8>().wrapping_add(ahead);
    for line in 0..size_of_val(x).div_ceil(64) {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            // SAFETY: SSE is part of the architecture; a prefetch reads nothing the program could see, and never faults.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(first.wrapping_add(64 * line)) }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (first, line);
    }
}
