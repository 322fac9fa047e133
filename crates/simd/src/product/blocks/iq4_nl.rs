//! IQ4_NL: `d: f16`, sixteen bytes of nibbles ordered as in Q4_0; weight `i` is `d K[c[i]]`, with the unevenly spaced values [`VALUES`].

use super::layout::{Layout, Wide, half_at, nibbles};

/// The layout.
pub(super) struct Iq4Nl;

impl Layout for Iq4Nl {
    const BLOCK: usize = 32;
    const BYTES: usize = 18;
    const SUB: usize = 32;
    const MINIMA: bool = false;

    #[inline(always)]
    fn read(block: &[u8], to: &mut Wide) {
        to.factor = half_at(block, 0);
        nibbles(&block[2..18], &mut to.codes, |_, c| VALUES[usize::from(c)]);
    }
}

/// `K`: denser around zero, where most weights of a bell-shaped distribution are.
pub(super) const VALUES: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
