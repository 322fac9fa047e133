//! The definition.
//!
//! Each function lists the blocks that a row of blocks attends to by one rule, as DeepSpeed's classes fill them in.

use std::ops::Range;

/// The window of `size` blocks that contains row `r` of `n`, with windows counted from `start`.
pub(super) fn stretch(r: usize, n: usize, start: usize, size: usize) -> Range<usize> {
    let first = start + (r - start) / size * size;
    first..first.saturating_add(size).min(n)
}

/// The window that contains row `r`, for windows of the given sizes, the last of which repeats.
pub(super) fn variable_stretch(r: usize, n: usize, sizes: &[usize]) -> Range<usize> {
    let mut start = 0;
    for size in sizes {
        if r - start < *size {
            return start..start.saturating_add(*size).min(n);
        }
        start += size;
    }
    stretch(r, n, start, sizes[sizes.len() - 1])
}

/// A sliding window of `size` blocks around row `r`.
pub(super) fn window(r: usize, n: usize, size: usize) -> Range<usize> {
    r.saturating_sub(size / 2)..(r + size / 2 + 1).min(n)
}

/// The global blocks of the fixed rule: `size` blocks of every whole window of `local`, starting at its block `first`;
/// in a partial window at the end, as late as they fit.
pub(super) fn fixed_globals(n: usize, local: usize, size: usize, first: usize) -> Vec<Range<usize>> {
    let whole = n - n % local;
    let mut globals: Vec<_> = (first..whole).step_by(local).map(|i| i..(i + size).min(n)).collect();
    if whole < n {
        let start = (whole + first).min(n.saturating_sub(size));
        globals.push(start..(start + size).min(n));
    }
    globals
}

/// Given global blocks: one per index, or ranges if their ends are given.
pub(super) fn given_globals(n: usize, indices: &[usize], ends: Option<&[usize]>) -> Vec<Range<usize>> {
    let end = |at: usize, i: usize| ends.map_or(i + 1, |ends| ends[at].min(n));
    indices.iter().enumerate().filter(|(_, i)| **i < n).map(|(at, i)| *i..end(at, *i)).collect()
}
