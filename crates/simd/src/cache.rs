//! Hints to the caches.

use std::mem::MaybeUninit;

/// An output of more numbers is better written past the caches ([`Lanes::store_past`](crate::Lanes::store_past)): they do not hold it until it is read,
/// and its memory need not be read before it is written.
pub const HELD: usize = 2 << 20;

/// Asks for the memory of `x` without waiting for it: for rows that are wanted soon and lie so far apart that the hardware
/// does not see them coming.
#[inline(always)]
pub fn prefetch<T>(x: &[T]) {
    prefetch_ahead(x, 0);
}

/// As [`prefetch`], for the second cache: what is worked on meanwhile stays in the first.
#[inline(always)]
pub fn prefetch_second<T>(x: &[T]) {
    for line in 0..size_of_val(x).div_ceil(64) {
        line_to_second(x.as_ptr().cast::<i8>().wrapping_add(64 * line));
    }
}

/// Asks for as much memory as `x` is long, from `ahead` bytes behind its start on; it need not be anybody's.
#[inline(always)]
pub fn prefetch_ahead<T>(x: &[T], ahead: usize) {
    let first = x.as_ptr().cast::<i8>().wrapping_add(ahead);
    for line in 0..size_of_val(x).div_ceil(64) {
        line_to_first(first.wrapping_add(64 * line));
    }
}

/// Asks for the line of an address, which need not be anybody's, for the first cache.
#[inline(always)]
fn line_to_first(at: *const i8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: SSE is part of the architecture; a prefetch reads nothing the program could see, and never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// As [`line_to_first`], for the second.
#[inline(always)]
fn line_to_second(at: *const i8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: as above.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Makes what this thread has written past the caches visible to others before whatever it writes next.
#[inline(always)]
pub fn settle() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE is part of the architecture; a fence writes nothing.
    unsafe {
        std::arch::x86_64::_mm_sfence()
    }
}

/// Lines that are wanted soon in the second cache, so that what is worked on stays in the first, to be asked for one after the other: a processor
/// has room for some twenty lines under way, and waits if more are asked for at once.
pub struct Soon {
    lines: [MaybeUninit<*const i8>; Self::MOST],
    count: usize,
}

impl Soon {
    /// How many lines there is room for.
    pub const MOST: usize = 320;

    /// None yet.
    #[inline(always)]
    pub fn none() -> Self {
        Self { lines: [const { MaybeUninit::uninit() }; Self::MOST], count: 0 }
    }

    /// A row more, or as much of it as there is room for.
    #[inline(always)]
    pub fn add<T>(&mut self, row: &[T]) {
        self.add_at(row.as_ptr().cast(), size_of_val(row));
    }

    /// As [`Soon::add`], for a row by its address and bytes.
    #[inline(always)]
    pub(crate) fn add_at(&mut self, row: *const i8, bytes: usize) {
        let room = &mut self.lines[self.count..];
        let lines = bytes.div_ceil(64).min(room.len());
        for (n, line) in room[..lines].iter_mut().enumerate() {
            line.write(row.wrapping_add(64 * n));
        }
        self.count += lines;
    }

    /// Ready to be asked for, a share each of so many times.
    #[inline(always)]
    pub fn ready(&self, times: usize) -> Asking<'_> {
        let each = self.count.div_ceil(times.max(1));
        Asking { lines: &self.lines[..self.count], each }
    }
}

/// What [`Soon`] has collected.
#[derive(Clone, Copy)]
pub struct Asking<'a> {
    lines: &'a [MaybeUninit<*const i8>],
    each: usize,
}

impl Asking<'_> {
    /// Asks for the `n`th share.
    #[inline(always)]
    pub fn ask(&self, n: usize) {
        let mut at = n * self.each;
        let end = (at + self.each).min(self.lines.len());
        while at < end {
            // SAFETY: `ready` gives the lines that `add_at` has written.
            line_to_second(unsafe { self.lines[at].assume_init() });
            at += 1;
        }
    }
}
