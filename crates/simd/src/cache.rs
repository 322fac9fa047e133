//! Software prefetch, and the threshold above which outputs are written with non-temporal stores.

use std::mem::MaybeUninit;

/// Bytes of a cache line.
const LINE: usize = 64;

/// Outputs of more than this many f32 are written with non-temporal stores ([`Lanes::store_non_temporal`](crate::Lanes::store_non_temporal)):
/// they would be evicted before they are read, and a non-temporal store does not read the line before writing it.
pub const NON_TEMPORAL_ABOVE: usize = 2 << 20;

/// Prefetches every cache line of `x` into the first-level cache: for rows that are needed soon and whose stride is too
/// large for the hardware prefetcher.
#[inline(always)]
pub fn prefetch<T>(x: &[T]) {
    prefetch_ahead(x, 0);
}

/// As [`prefetch`], into the second-level cache, so that the working set of the first level is not evicted.
#[inline(always)]
pub fn prefetch_l2<T>(x: &[T]) {
    prefetch_l2_ahead(x, 0);
}

/// Prefetches as many bytes as `x` has, starting `ahead` bytes after its start. The address may be outside any
/// allocation.
#[inline(always)]
pub fn prefetch_ahead<T>(x: &[T], ahead: usize) {
    let first = x.as_ptr().cast::<i8>().wrapping_add(ahead);
    for line in 0..size_of_val(x).div_ceil(LINE) {
        prefetch_line_l1(first.wrapping_add(LINE * line));
    }
}

/// As [`prefetch_ahead`], into the second-level cache.
#[inline(always)]
pub fn prefetch_l2_ahead<T>(x: &[T], ahead: usize) {
    let first = x.as_ptr().cast::<i8>().wrapping_add(ahead);
    for line in 0..size_of_val(x).div_ceil(LINE) {
        prefetch_line_l2(first.wrapping_add(LINE * line));
    }
}

/// Prefetches the line of any address, valid or not, into the first-level cache.
#[inline(always)]
fn prefetch_line_l1(at: *const i8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: SSE is part of the architecture; a prefetch has no visible effect and never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// As [`prefetch_line_l1`], into the second-level cache.
#[inline(always)]
fn prefetch_line_l2(at: *const i8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: as in `prefetch_line_l1`.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// A store fence: orders this thread's non-temporal stores before its later stores, so that a thread that sees the later
/// ones sees these.
#[inline(always)]
pub fn store_fence() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE is part of the architecture; a fence writes nothing.
    unsafe {
        std::arch::x86_64::_mm_sfence()
    }
}

/// Rows to prefetch into the second-level cache, a few lines per step of a loop.
///
/// A core has some twenty line-fill buffers and stalls when more lines are prefetched at once.
pub struct PrefetchQueue {
    rows: [MaybeUninit<*const i8>; Self::CAPACITY],
    count: usize,
    /// The length of the longest row.
    bytes: usize,
}

impl PrefetchQueue {
    /// The most rows a queue holds; further rows are dropped.
    pub const CAPACITY: usize = 40;

    /// An empty queue.
    #[inline(always)]
    pub fn empty() -> Self {
        Self { rows: [const { MaybeUninit::uninit() }; Self::CAPACITY], count: 0, bytes: 0 }
    }

    /// Appends a row, unless the queue is full.
    #[inline(always)]
    pub fn add<T>(&mut self, row: &[T]) {
        self.add_at(row.as_ptr().cast(), size_of_val(row));
    }

    /// As [`PrefetchQueue::add`], for a row given by its address and length in bytes.
    #[inline(always)]
    pub(crate) fn add_at(&mut self, row: *const i8, bytes: usize) {
        if let Some(slot) = self.rows.get_mut(self.count) {
            slot.write(row);
            self.count += 1;
            self.bytes = self.bytes.max(bytes);
        }
    }

    /// Spreads the queued lines evenly over `steps` steps. Every row is prefetched to the length of the longest.
    #[inline(always)]
    pub fn schedule(&self, steps: usize) -> PrefetchSchedule<'_> {
        let lines = self.bytes.div_ceil(LINE).next_power_of_two();
        let lines_per_step = (self.count * lines).div_ceil(steps.max(1));
        PrefetchSchedule { rows: &self.rows[..self.count], shift: lines.trailing_zeros(), lines_per_step }
    }
}

/// The rows of a [`PrefetchQueue`], spread over the steps of a loop.
#[derive(Clone, Copy)]
pub struct PrefetchSchedule<'a> {
    rows: &'a [MaybeUninit<*const i8>],
    /// The binary logarithm of the number of lines of a row.
    shift: u32,
    lines_per_step: usize,
}

impl PrefetchSchedule<'_> {
    /// Prefetches the lines of step `n`.
    #[inline(always)]
    pub fn issue(&self, n: usize) {
        if self.lines_per_step == 1 {
            self.line(n);
        } else {
            for line in n * self.lines_per_step..(n + 1) * self.lines_per_step {
                self.line(line);
            }
        }
    }

    #[inline(always)]
    fn line(&self, line: usize) {
        if let Some(row) = self.rows.get(line >> self.shift) {
            // SAFETY: `schedule` passes only the rows that `add_at` has written.
            let row = unsafe { row.assume_init() };
            prefetch_line_l2(row.wrapping_add((line & ((1 << self.shift) - 1)) * LINE));
        }
    }
}
