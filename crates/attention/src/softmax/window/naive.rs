//! The definition.

use super::Window;

impl Window {
    /// Whether query `i` attends to key `j`.
    pub(super) fn sees(&self, i: usize, j: usize) -> bool {
        if j <= i { i - j <= self.left } else { j - i <= self.right }
    }
}
