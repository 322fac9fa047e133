//! Q8_0: `d: f16`, `c: [i8; 32]`; weight `i` is `d c[i]`.

use super::layout::{Layout, Wide, half_at};

/// The layout.
pub(super) struct Q8_0;

impl Layout for Q8_0 {
    const BLOCK: usize = 32;
    const BYTES: usize = 34;
    const SUB: usize = 32;
    const MINIMA: bool = false;

    #[inline(always)]
    fn read(block: &[u8], to: &mut Wide) {
        to.factor = half_at(block, 0);
        for (code, byte) in to.codes.iter_mut().zip(&block[2..34]) {
            *code = *byte as i8;
        }
    }
}
