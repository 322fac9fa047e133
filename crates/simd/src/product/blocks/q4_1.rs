//! Q4_1: `d: f16`, `m: f16`, sixteen bytes of nibbles; weight `i` is `d c[i] + m`, with the low nibbles first and then the high ones.

use super::layout::{Layout, Wide, half_at, nibbles};

/// The layout.
pub(super) struct Q4_1;

impl Layout for Q4_1 {
    const BLOCK: usize = 32;
    const BYTES: usize = 20;
    const SUB: usize = 32;
    const MINIMA: bool = true;

    #[inline(always)]
    fn read(block: &[u8], to: &mut Wide) {
        to.factor = half_at(block, 0);
        to.base = half_at(block, 2);
        nibbles(&block[4..20], &mut to.codes, |_, c| c as i8);
    }
}
