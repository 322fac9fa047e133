//! Q5_0: `d: f16`, 32 fifth bits, sixteen bytes of nibbles; weight `i` is `d (c[i] - 16)`. The nibbles are ordered as in Q4_0.

use super::layout::{Layout, Wide, half_at, nibbles, word_at};

/// The layout.
pub(super) struct Q5_0;

impl Layout for Q5_0 {
    const BLOCK: usize = 32;
    const BYTES: usize = 22;
    const SUB: usize = 32;
    const MINIMA: bool = false;

    #[inline(always)]
    fn read(block: &[u8], to: &mut Wide) {
        to.factor = half_at(block, 0);
        let fifth = word_at(block, 2);
        nibbles(&block[6..22], &mut to.codes, |i, c| (c | ((fifth >> i & 1) << 4) as u8) as i8 - 16);
    }
}
