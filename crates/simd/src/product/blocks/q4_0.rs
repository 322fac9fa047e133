//! Q4_0: `d: f16`, sixteen bytes of nibbles; weight `i` is `d (c[i] - 8)`, with the low nibbles first and then the high ones.

use super::layout::{Layout, Wide, half_at, nibbles};

/// The layout.
pub(super) struct Q4_0;

impl Layout for Q4_0 {
    const BLOCK: usize = 32;
    const BYTES: usize = 18;
    const SUB: usize = 32;
    const MINIMA: bool = false;

    #[inline(always)]
    fn read(block: &[u8], to: &mut Wide) {
        to.factor = half_at(block, 0);
        nibbles(&block[2..18], &mut to.codes, |_, c| c as i8 - 8);
    }
}
