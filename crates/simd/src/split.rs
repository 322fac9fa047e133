//! Cutting outputs into disjoint parts, so that tasks share nothing.

use std::marker::PhantomData;
use std::ops::Range;

use crate::cache::Soon;

/// Some rows and columns of a matrix, to be written to by nobody else: of any size in a few words, where [`columns`] keeps a slice a row.
#[derive(Debug)]
pub struct Part<'a> {
    first: *mut f32,
    rows: usize,
    /// From one row to the next.
    stride: usize,
    width: usize,
    lives: PhantomData<&'a mut [f32]>,
}

// SAFETY: a part is the only way to its numbers, as a mutable slice would be.
unsafe impl Send for Part<'_> {}

impl<'a> Part<'a> {
    /// The whole of a contiguous matrix with rows of `width`; what is left of an incomplete row is left out.
    pub fn whole(matrix: &'a mut [f32], width: usize) -> Self {
        let rows = matrix.len().checked_div(width).unwrap_or(0);
        Self { first: matrix.as_mut_ptr(), rows, stride: width, width, lives: PhantomData }
    }

    /// A part without rows.
    pub fn empty() -> Self {
        Self::whole(&mut [], 0)
    }

    /// How many rows it has.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Its columns, `block` at a time; the last may be fewer.
    pub fn columns(self, block: usize) -> impl ExactSizeIterator<Item = Part<'a>> {
        let block = block.max(1);
        (0..self.width.div_ceil(block)).map(move |j| Part {
            // SAFETY: within the row if there is one, whose width is more than `j · block`; nobody looks if there is none.
            first: if self.rows == 0 { self.first } else { unsafe { self.first.add(j * block) } },
            width: block.min(self.width - j * block),
            ..self
        })
    }

    /// Its first rows, taken off it: `n` of them, or what there are.
    pub fn take(&mut self, n: usize) -> Part<'a> {
        let n = n.min(self.rows);
        let taken = Part { rows: n, ..*self };
        self.rows -= n;
        if self.rows > 0 {
            // SAFETY: there are rows left, and they begin here.
            self.first = unsafe { self.first.add(n * self.stride) };
        }
        taken
    }

    /// A row. Panics if there is none.
    #[inline(always)]
    pub fn row(&mut self, r: usize) -> &mut [f32] {
        assert!(r < self.rows, "row {r} of {}", self.rows);
        // SAFETY: the row is there; parts are disjoint, and this one is borrowed.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(r * self.stride), self.width) }
    }

    /// Wants some columns of row `r`, which will be written soon.
    #[inline(always)]
    pub fn soon(&self, r: usize, columns: Range<usize>, soon: &mut Soon) {
        soon.add_at(self.first.wrapping_add(r * self.stride + columns.start).cast(), columns.len() * size_of::<f32>());
    }

    /// Where its rows lie.
    #[inline(always)]
    pub fn place(&self) -> Place {
        Place { first: self.first, rows: self.rows, stride: self.stride, width: self.width }
    }

    /// How wide a row is.
    pub fn width(&self) -> usize {
        self.width
    }
}

/// Contiguous matrices of one size, one behind the other, whose parts are taken in any order and by any thread.
pub(crate) struct Stack<'a> {
    first: *mut f32,
    pub(crate) count: usize,
    rows: usize,
    width: usize,
    lives: PhantomData<&'a mut [f32]>,
}

// SAFETY: who takes a part promises that nobody else does.
unsafe impl Sync for Stack<'_> {}

impl<'a> Stack<'a> {
    /// Matrices of so many rows and columns; what is left of an incomplete one is left out.
    pub(crate) fn of(matrices: &'a mut [f32], rows: usize, width: usize) -> Self {
        let count = matrices.len().checked_div(rows * width).unwrap_or(0);
        Self { first: matrices.as_mut_ptr(), count, rows, width, lives: PhantomData }
    }

    /// Columns of matrix `i`, from `column` on, so many or what there are.
    ///
    /// # Safety
    /// Nobody else takes any of them while the part lives.
    pub(crate) unsafe fn part(&self, i: usize, column: usize, columns: usize) -> Part<'a> {
        assert!(
            i < self.count && column < self.width,
            "column {column} of {}, matrix {i} of {}",
            self.width,
            self.count
        );
        Part {
            // SAFETY: within the matrix.
            first: unsafe { self.first.add(i * self.rows * self.width + column) },
            rows: self.rows,
            stride: self.width,
            width: columns.min(self.width - column),
            lives: PhantomData,
        }
    }
}

/// Where the rows of a [`Part`] lie: they can be asked for, while others write them, but not touched.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    first: *const f32,
    rows: usize,
    stride: usize,
    width: usize,
}

impl Place {
    /// Wants row `r`, if there is such a one.
    #[inline(always)]
    pub fn soon(&self, r: usize, soon: &mut Soon) {
        if r < self.rows {
            soon.add_at(self.first.wrapping_add(r * self.stride).cast(), self.width * size_of::<f32>());
        }
    }
}

/// The columns of a contiguous matrix in blocks: part `j` holds, for every row, the slice of columns
/// `j · block .. (j + 1) · block` (the last may be shorter).
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
        // The first column's second row, and the last column's first.
        assert_eq!((matrix[10], matrix[8]), (5.0, 57.0));
    }

    #[test]
    fn parts_cover_a_stack_once() {
        let mut matrices = vec![0.0; 3 * 2 * 10 + 5];
        let stack = Stack::of(&mut matrices, 2, 10);
        for (i, column) in (0..stack.count).flat_map(|i| [0, 4, 8].map(|column| (i, column))) {
            // SAFETY: one at a time.
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
