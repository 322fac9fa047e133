//! The definition.

use super::Dense;

impl Dense {
    /// Whether query `i` attends to key `j`.
    pub(super) fn sees(&self, i: usize, j: usize) -> bool {
        !self.causal || j <= i
    }
}
