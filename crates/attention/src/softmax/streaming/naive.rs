//! The definition.

use super::Streaming;

impl Streaming {
    /// Whether query `i` attends to key `j`.
    pub(super) fn sees(&self, i: usize, j: usize) -> bool {
        j <= i && (j < self.sinks || i - j < self.recent)
    }
}
