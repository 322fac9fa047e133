//! The definition.

use super::{SparseTransformer, Which};

impl Which {
    /// Whether head `h` attends to the first set, and to the second.
    pub(super) fn of(self, h: usize) -> (bool, bool) {
        match self {
            Which::Merged => (true, true),
            Which::Near => (true, false),
            Which::Far => (false, true),
            Which::Alternating => (h.is_multiple_of(2), h % 2 == 1),
        }
    }
}

impl SparseTransformer {
    /// Whether query `i` of head `h` attends to key `j`.
    pub(super) fn sees(&self, h: usize, i: usize, j: usize) -> bool {
        let (near, far, which) = match *self {
            SparseTransformer::Strided { stride, which } => {
                (i.wrapping_sub(j) < stride, i.wrapping_sub(j).is_multiple_of(stride), which)
            }
            SparseTransformer::Fixed { stride, columns, positions, which } => {
                let last = stride - h % positions * columns;
                (i / stride == j / stride, (last - columns..last).contains(&(j % stride)), which)
            }
        };
        let (first, second) = which.of(h);
        j <= i && (first && near || second && far)
    }
}
