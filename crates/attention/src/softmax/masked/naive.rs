//! The definition.

use super::{Masked, Row};

impl Masked {
    /// The row of query `t` of head `h`.
    pub(super) fn row(&self, b: usize, h: usize, t: usize) -> &Row {
        &self.rows[((b % self.planes.0) * self.planes.1 + h % self.planes.1) * self.queries + t]
    }

    /// Whether it attends to key `j`.
    pub(super) fn keeps(&self, b: usize, h: usize, t: usize, j: usize) -> bool {
        self.row(b, h, t).get(j / 16) >> (j % 16) & 1 == 1
    }
}
