//! Splits outputs into disjoint parts, so that tasks share no mutable memory.

use std::marker::PhantomData;
use std::ops::Range;

use crate::cache::PrefetchQueue;

/// A mutable view of some rows and columns of a row-major matrix, disjoint from every other part. It takes a few words,
/// where [`columns`] allocates a slice per row.
#[derive(Debug)]
pub struct Part<'a> {
    first: *mut f32,
    rows: usize,
    /// Distance between rows, in elements.
    stride: usize,
    width: usize,
    lives: PhantomData<&'a mut [f32]>,
}

// SAFETY: a part has exclusive access to its elements, as a mutable slice has.
unsafe impl Send for Part<'_> {}

impl<'a> Part<'a> {
    /// A whole contiguous matrix with rows of `width` elements; an incomplete last row is left out.
    pub fn whole(matrix: &'a mut [f32], width: usize) -> Self {
        let rows = matrix.len().checked_div(width).unwrap_or(0);
        Self { first: matrix.as_mut_ptr(), rows, stride: width, width, lives: PhantomData }
    }

    /// A part without rows.
    pub fn empty() -> Self {
        Self::whole(&mut [], 0)
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Splits the part into blocks of `block` columns; the last may be narrower.
    pub fn columns(self, block: usize) -> impl ExactSizeIterator<Item = Part<'a>> {
        let block = block.max(1);
        (0..self.width.div_ceil(block)).map(move |j| Part {
            // SAFETY: `j · block` is less than the width, so the address is inside the first row; it is not computed if
            // there are no rows.
            first: if self.rows == 0 { self.first } else { unsafe { self.first.add(j * block) } },
            width: block.min(self.width - j * block),
            ..self
        })
    }

    /// Splits off the first `n` rows, or all of them if there are fewer.
    pub fn take(&mut self, n: usize) -> Part<'a> {
        let n = n.min(self.rows);
        let taken = Part { rows: n, ..*self };
        self.rows -= n;
        if self.rows > 0 {
            // SAFETY: rows remain, and the first of them starts at this address.
            self.first = unsafe { self.first.add(n * self.stride) };
        }
        taken
    }

    /// Row `r`. Panics if out of range.
    #[inline(always)]
    pub fn row(&mut self, r: usize) -> &mut [f32] {
        assert!(r < self.rows, "row {r} of {}", self.rows);
        // SAFETY: the row exists; parts are disjoint, and this one is mutably borrowed.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(r * self.stride), self.width) }
    }

    /// Queues a prefetch of some columns of row `r`, which will be written soon.
    #[inline(always)]
    pub fn queue_prefetch(&self, r: usize, columns: Range<usize>, queue: &mut PrefetchQueue) {
        queue.add_at(self.first.wrapping_add(r * self.stride + columns.start).cast(), columns.len() * size_of::<f32>());
    }

    /// The addresses of the rows, for prefetching.
    #[inline(always)]
    pub fn addresses(&self) -> RowAddresses {
        RowAddresses { first: self.first, rows: self.rows, stride: self.stride, width: self.width }
    }

    /// The width of a row.
    pub fn width(&self) -> usize {
        self.width
    }
}

/// Contiguous matrices of one size, stored one after another, parts of which may be taken in any order and by any
/// thread.
pub(crate) struct Stack<'a> {
    first: *mut f32,
    pub(crate) count: usize,
    rows: usize,
    width: usize,
    lives: PhantomData<&'a mut [f32]>,
}

// SAFETY: `part` requires its caller to take disjoint parts.
unsafe impl Sync for Stack<'_> {}

impl<'a> Stack<'a> {
    /// Splits a buffer into matrices of `rows` by `width`; an incomplete last one is left out.
    pub(crate) fn of(matrices: &'a mut [f32], rows: usize, width: usize) -> Self {
        let count = matrices.len().checked_div(rows * width).unwrap_or(0);
        Self { first: matrices.as_mut_ptr(), count, rows, width, lives: PhantomData }
    }

    /// Up to `columns` columns of matrix `i`, starting at `column`.
    ///
    /// # Safety
    /// No other part that is alive contains any of these columns.
    pub(crate) unsafe fn part(&self, i: usize, column: usize, columns: usize) -> Part<'a> {
        assert!(
            i < self.count && column < self.width,
            "column {column} of {}, matrix {i} of {}",
            self.width,
            self.count
        );
        Part {
            // SAFETY: the address is inside matrix `i`, by the assertion above.
            first: unsafe { self.first.add(i * self.rows * self.width + column) },
            rows: self.rows,
            stride: self.width,
            width: columns.min(self.width - column),
            lives: PhantomData,
        }
    }
}

/// The addresses of the rows of a [`Part`]: they may be prefetched while another thread writes the rows, but not
/// dereferenced.
#[derive(Clone, Copy, Debug)]
pub struct RowAddresses {
    first: *const f32,
    rows: usize,
    stride: usize,
    width: usize,
}

impl RowAddresses {
    /// Queues a prefetch of row `r`, if it exists.
    #[inline(always)]
    pub fn queue_prefetch(&self, r: usize, queue: &mut PrefetchQueue) {
        if r < self.rows {
            queue.add_at(self.first.wrapping_add(r * self.stride).cast(), self.width * size_of::<f32>());
        }
    }
}

/// Splits a contiguous matrix into blocks of columns: part `j` holds, for every row, the slice of columns
/// `j · block .. (j + 1) · block` (the last block may be narrower).
pub fn columns(out: &mut [f32], width: usize, block: usize) -> Vec<Vec<&mut [f32]>> {
    if width == 0 || block == 0 {
        return Vec::new();
    }
    let rows = out.len() / width;
    let mut parts: Vec<Vec<&mut [f32]>> = (0..width.div_ceil(block)).map(|_| Vec::with_capacity(rows)).collect();
    for row in out.chunks_mut(width) {
        for (part, piece) in parts.iter_mut().zip(row.chunks_mut(block)) {
            part.push(piece);
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_a_matrix_once() {
        let mut matrix = vec![0.0; 7 * 10];
        let mut n = 0.0;
        for mut column in Part::whole(&mut matrix, 10).columns(4) {
            while column.rows() > 0 {
                let mut rows = column.take(3);
                for r in 0..rows.rows() {
                    for x in rows.row(r) {
                        n += 1.0;
                        *x += n;
                    }
                }
            }
        }
        assert_eq!(n, 70.0);
        let mut seen = matrix.clone();
        seen.sort_by(f32::total_cmp);
        assert_eq!(seen, (1..=70).map(|n| n as f32).collect::<Vec<f32>>());
        // Row 1 of the first block, and row 0 of the last.
        assert_eq!((matrix[10], matrix[8]), (5.0, 57.0));
    }

    #[test]
    fn parts_cover_a_stack_once() {
        let mut matrices = vec![0.0; 3 * 2 * 10 + 5];
        let stack = Stack::of(&mut matrices, 2, 10);
        for (i, column) in (0..stack.count).flat_map(|i| [0, 4, 8].map(|column| (i, column))) {
            // SAFETY: each part is dropped before the next is taken.
            let mut part = unsafe { stack.part(i, column, 4) };
            for r in 0..part.rows() {
                part.row(r).iter_mut().for_each(|x| *x += 1.0 + i as f32);
            }
        }
        let seen: Vec<f32> = [[1.0; 20], [2.0; 20], [3.0; 20]].concat();
        assert_eq!((&matrices[..60], &matrices[60..]), (&seen[..], &[0.0; 5][..]));
    }

    #[test]
    #[should_panic(expected = "row 2 of 2")]
    fn a_row_beyond_the_last_is_refused() {
        let mut matrix = vec![0.0; 6];
        Part::whole(&mut matrix, 3).row(2);
    }
}
