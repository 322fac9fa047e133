//! IQ4_XS: `d: f16`, the high bits of the scales `u16`, four bytes of their low nibbles, 128 bytes of nibbles; weight `i`
//! is `d (s[i/32] - 32) K[c[i]]`, with the values of IQ4_NL. Of each sixteen bytes of nibbles the low ones are the first
//! half of a sub-block and the high ones the second.

use super::iq4_nl::VALUES;
use super::layout::{Layout, Wide, half_at, nibbles, word_at};

/// The layout.
pub(super) struct Iq4Xs;

impl Layout for Iq4Xs {
    const BLOCK: usize = 256;
    const BYTES: usize = 136;
    const SUB: usize = 32;
    const MINIMA: bool = false;

    #[inline(always)]
    fn read(block: &[u8], to: &mut Wide) {
        to.factor = half_at(block, 0);
        for (to, s) in to.scales.iter_mut().zip(scales(block)) {
            *to = s as i8 - 32;
        }
        for (bytes, codes) in block[8..136].chunks_exact(16).zip(to.codes.chunks_exact_mut(32)) {
            nibbles(bytes, codes, |_, c| VALUES[usize::from(c)]);
        }
    }
}

/// The eight scales, from 0 to 63.
#[inline(always)]
pub(super) fn scales(block: &[u8]) -> [u8; 8] {
    let (high, low) = (word_at(block, 0) >> 16, word_at(block, 4));
    std::array::from_fn(|k| (low >> (4 * k) & 15 | (high >> (2 * k) & 3) << 4) as u8)
}
