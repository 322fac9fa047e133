//! The definition.

use super::Dilated;

impl Dilated {
    /// Whether query `i` of head `h` attends to key `j`.
    pub(super) fn sees(&self, h: usize, i: usize, j: usize) -> bool {
        let dilation = self.dilation[h % self.dilation.len()];
        let steps = if j <= i { self.left } else { self.right };
        i.abs_diff(j).is_multiple_of(dilation) && i.abs_diff(j) / dilation <= steps
    }
}
