//! The definition.

use super::{Masked, Row};

impl Masked {
    /// What query `t` of head `h` keeps.
    pub(super) fn row(&self, b: usize, h: usize, t: usize) -> &Row {
        &self.rows[((b % self.planes.0) * self.planes.1 + h % self.planes.1) * self.queries + t]
    }

    /// Whether it keeps key `j`.
    pub(super) fn keeps(&self, b: usize, h: usize, t: usize, j: usize) -> bool {
        self.row(b, h, t).get(j / 16) >> (j % 16) & 1 == 1
    }
}
