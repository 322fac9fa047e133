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
        prefetch_line(first.wrapping_add(64 * line));
    }
}

/// Asks for the line of an address, which need not be anybody's.
#[inline(always)]
fn prefetch_line(at: *const i8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: SSE is part of the architecture; a prefetch reads nothing the program could see, and never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Rows that are wanted soon, asked for a line at a time: a processor has room for some twenty lines under way, and waits if more are asked for at once.
pub struct Soon {
    rows: [(*const i8, usize); Self::MOST],
    count: usize,
    row: usize,
    line: usize,
}

impl Soon {
    /// How many rows there is room for.
    pub const MOST: usize = 20;

    /// None yet.
    #[inline(always)]
    pub fn none() -> Self {
        Self { rows: [(std::ptr::null(), 0); Self::MOST], count: 0, row: 0, line: 0 }
    }

    /// A row more, if there is room.
    #[inline(always)]
    pub fn add<T>(&mut self, row: &[T]) {
        self.add_at(row.as_ptr().cast(), size_of_val(row));
    }

    /// As [`Soon::add`], for a row by its address and bytes.
    #[inline(always)]
    pub(crate) fn add_at(&mut self, row: *const i8, bytes: usize) {
        if self.count < Self::MOST && bytes > 0 {
            self.rows[self.count] = (row, bytes.div_ceil(64));
            self.count += 1;
        }
    }

    /// Asks for the next line, if there is one.
    #[inline(always)]
    pub fn ask(&mut self) {
        if self.row < self.count {
            let (start, lines) = self.rows[self.row];
            prefetch_line(start.wrapping_add(64 * self.line));
            self.line += 1;
            if self.line >= lines {
                (self.row, self.line) = (self.row + 1, 0);
            }
        }
    }
}
