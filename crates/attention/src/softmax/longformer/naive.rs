//! The definition.

use super::Longformer;

impl Longformer {
    /// Whether query `i` attends to key `j`.
    pub(super) fn sees(&self, b: usize, i: usize, j: usize) -> bool {
        if self.is_global(b, i) { !self.local } else { i.abs_diff(j) <= self.window || self.is_global(b, j) }
    }
}
