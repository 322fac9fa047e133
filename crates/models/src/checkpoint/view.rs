//! Strided views of contiguous tensors: where the elements of a part lie.

use std::ops::Range;

use super::rewrite::Taken;

/// A strided view of a contiguous tensor, in elements. It has more axes than its tensor where rows are grouped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct View {
    offset: usize,
    shape: Vec<usize>,
    strides: Vec<usize>,
}

impl View {
    /// All elements, in order.
    pub(super) fn whole(shape: &[usize]) -> Self {
        let mut strides = vec![1usize; shape.len()];
        for axis in (1..shape.len()).rev() {
            strides[axis - 1] = strides[axis].saturating_mul(shape[axis]);
        }
        Self { offset: 0, shape: shape.to_vec(), strides }
    }

    pub(super) fn step(mut self, step: &Taken) -> Option<Self> {
        match step {
            Taken::Nth(i, _) => {
                self.offset += i * self.strides.first()?;
                self.shape.remove(0);
                self.strides.remove(0);
            }
            Taken::Rows(rows, count) if rows.end <= *count => {
                self.offset += rows.start * self.strides.first()?;
                *self.shape.first_mut()? = rows.len();
            }
            Taken::Rows(..) => return None,
            Taken::Every(first, of) => {
                self.offset += first * self.strides.first()?;
                *self.shape.first_mut()? /= of;
                *self.strides.first_mut()? *= of;
            }
            Taken::Within(groups, rows, of) if rows.end <= *of => {
                let stride = *self.strides.first()?;
                self.offset += rows.start * stride;
                *self.shape.first_mut()? = rows.len();
                self.shape.insert(0, *groups);
                self.strides.insert(0, of * stride);
            }
            Taken::Within(..) => return None,
            Taken::Paired(width) => {
                let (rows, stride) = (*self.shape.first()?, *self.strides.first()?);
                if *width == 0 || !width.is_multiple_of(2) || !rows.is_multiple_of(*width) {
                    return None;
                }
                self.shape.splice(0..1, [rows / width, 2, width / 2]);
                self.strides.splice(0..1, [width * stride, stride, 2 * stride]);
            }
            Taken::Beside(count) if self.shape.first() == Some(count) && self.shape.len() == 3 => {
                self.shape.swap(0, 1);
                self.strides.swap(0, 1);
            }
            Taken::Beside(_) => return None,
            Taken::Transposed => {
                let n = self.shape.len();
                if n < 2 {
                    return None;
                }
                self.shape.swap(n - 2, n - 1);
                self.strides.swap(n - 2, n - 1);
            }
            Taken::Values(_) => {}
            // It comes before all other steps: see [`Part::view`].
            Taken::Stored(_) => return None,
        }
        Some(self)
    }

    /// The number of elements.
    pub(crate) fn len(&self) -> usize {
        count(&self.shape)
    }

    /// The range of the stored tensor that contains all elements.
    pub(crate) fn bounds(&self) -> Range<usize> {
        if self.len() == 0 {
            return self.offset..self.offset;
        }
        let last: usize = self.shape.iter().zip(&self.strides).map(|(n, stride)| (n - 1) * stride).sum();
        self.offset..self.offset + last + 1
    }

    /// Whether the elements lie one behind another.
    pub(crate) fn is_contiguous(&self) -> bool {
        let whole = Self::whole(&self.shape).strides;
        self.shape.iter().zip(&self.strides).zip(&whole).all(|((n, stride), whole)| *n == 1 || stride == whole)
    }

    /// The indices of the rows of the stored tensor, which has rows of `width`, that are those of the view; `None` unless
    /// it consists of whole rows.
    pub(crate) fn rows(&self, width: usize) -> Option<Vec<usize>> {
        let ([shape @ .., last], [strides @ .., 1]) = (&self.shape[..], &self.strides[..]) else { return None };
        let whole = |stride: &usize| stride.is_multiple_of(width);
        if *last != width || width == 0 || !whole(&self.offset) || !strides.iter().all(whole) {
            return None;
        }
        let firsts = Self { offset: self.offset, shape: shape.to_vec(), strides: strides.to_vec() };
        let mut rows = Vec::with_capacity(firsts.len());
        firsts.each(|at| rows.push(at / width));
        Some(rows)
    }

    /// Calls `visit` with the place in the stored tensor of each element, in order.
    pub(crate) fn each(&self, mut visit: impl FnMut(usize)) {
        fn walk(shape: &[usize], strides: &[usize], at: usize, visit: &mut impl FnMut(usize)) {
            match (shape, strides) {
                ([n, shape @ ..], [stride, strides @ ..]) => {
                    (0..*n).for_each(|i| walk(shape, strides, at + i * stride, visit));
                }
                _ => visit(at),
            }
        }
        walk(&self.shape, &self.strides, self.offset, &mut visit);
    }
}

/// The number of elements of a shape; the largest number if it is larger.
pub(super) fn count(shape: &[usize]) -> usize {
    shape.iter().fold(1, |n, of| n.saturating_mul(*of))
}
