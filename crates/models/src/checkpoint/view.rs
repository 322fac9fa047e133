//! Parts of stored tensors as strided views.

use std::ops::Range;

use super::rewrite::Values;

/// A step with its index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    Nth(usize, usize),
    Rows(Range<usize>, usize),
    Every(usize, usize),
    Within(usize, Range<usize>, usize),
    Paired(usize),
    Transposed,
    Stored(Vec<usize>),
    Values(Values),
}

/// A strided view of a contiguous tensor, in elements. It has more axes than its tensor where rows are grouped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct View {
    offset: usize,
    shape: Vec<usize>,
    strides: Vec<usize>,
}

impl View {
    pub(super) fn whole(shape: &[usize]) -> Self {
        let mut strides = vec![1; shape.len()];
        for axis in (1..shape.len()).rev() {
            strides[axis - 1] = strides[axis] * shape[axis];
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
            Taken::Paired(heads) => {
                let (rows, stride) = (*self.shape.first()?, *self.strides.first()?);
                let half = rows.checked_div(2 * heads).filter(|half| half * 2 * heads == rows)?;
                self.shape.splice(..1, [*heads, 2, half]);
                self.strides.splice(..1, [2 * half * stride, stride, 2 * stride]);
            }
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
        self.shape.iter().product()
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
