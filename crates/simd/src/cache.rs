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
    prefetch_second_ahead(x, 0);
}

/// Asks for as much memory as `x` is long, from `ahead` bytes behind its start on; it need not be anybody's.
#[inline(always)]
pub fn prefetch_ahead<T>(x: &[T], ahead: usize) {
    let first = x.as_ptr().cast::<i8>().wrapping_add(ahead);
    for line in 0..size_of_val(x).div_ceil(64) {
        line_to_first(first.wrapping_add(64 * line));
    }
}

/// As [`prefetch_ahead`], for the second cache.
#[inline(always)]
pub fn prefetch_second_ahead<T>(x: &[T], ahead: usize) {
    let first = x.as_ptr().cast::<i8>().wrapping_add(ahead);
    for line in 0..size_of_val(x).div_ceil(64) {
        line_to_second(first.wrapping_add(64 * line));
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

/// Rows that are wanted soon in the second cache, so that what is worked on stays in the first, to be asked for a line at a time: a processor
/// has room for some twenty lines under way, and waits if more are asked for at once.
pub struct Soon {
    rows: [MaybeUninit<*const i8>; Self::MOST],
    count: usize,
    /// The longest of them.
    bytes: usize,
}

impl Soon {
    /// How many rows there is room for.
    pub const MOST: usize = 40;

    /// None yet.
    #[inline(always)]
    pub fn none() -> Self {
        Self { rows: [const { MaybeUninit::uninit() }; Self::MOST], count: 0, bytes: 0 }
    }

    /// A row more, if there is room for it.
    #[inline(always)]
    pub fn add<T>(&mut self, row: &[T]) {
        self.add_at(row.as_ptr().cast(), size_of_val(row));
    }

    /// As [`Soon::add`], for a row by its address and bytes.
    #[inline(always)]
    pub(crate) fn add_at(&mut self, row: *const i8, bytes: usize) {
        if let Some(place) = self.rows.get_mut(self.count) {
            place.write(row);
            self.count += 1;
            self.bytes = self.bytes.max(bytes);
        }
    }

    /// Ready to be asked for, a share each of so many times. As much is asked for of each row as of the longest.
    #[inline(always)]
    pub fn ready(&self, times: usize) -> Asking<'_> {
        let lines = self.bytes.div_ceil(64).next_power_of_two();
        let each = (self.count * lines).div_ceil(times.max(1));
        Asking { rows: &self.rows[..self.count], shift: lines.trailing_zeros(), each }
    }
}

/// What [`Soon`] has collected.
#[derive(Clone, Copy)]
pub struct Asking<'a> {
    rows: &'a [MaybeUninit<*const i8>],
    /// The logarithm of the lines of a row.
    shift: u32,
    each: usize,
}

impl Asking<'_> {
    /// Asks for the `n`th share.
    #[inline(always)]
    pub fn ask(&self, n: usize) {
        if self.each == 1 {
            self.line(n);
        } else {
            for line in n * self.each..(n + 1) * self.each {
                self.line(line);
            }
        }
    }

    #[inline(always)]
    fn line(&self, line: usize) {
        if let Some(row) = self.rows.get(line >> self.shift) {
            // SAFETY: `ready` gives the rows that `add_at` has written.
            let row = unsafe { row.assume_init() };
            line_to_second(row.wrapping_add((line & ((1 << self.shift) - 1)) * 64));
        }
    }
}
