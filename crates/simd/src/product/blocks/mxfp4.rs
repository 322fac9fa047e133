//! MXFP4: an exponent `e: u8`, sixteen bytes of nibbles ordered as in Q4_0; weight `i` is `2^(e - 128) M[c[i]]`, with [`VALUES`] twice the four-bit floats of the OCP microscaling specification.

use super::layout::{Layout, Wide, nibbles};

/// The layout.
pub(super) struct Mxfp4;

impl Layout for Mxfp4 {
    const BLOCK: usize = 32;
    const BYTES: usize = 17;
    const SUB: usize = 32;
    const MINIMA: bool = false;

    #[inline(always)]
    fn read(block: &[u8], to: &mut Wide) {
        to.factor = power(block[0]);
        nibbles(&block[1..17], &mut to.codes, |_, c| VALUES[usize::from(c)]);
    }
}

/// `M`: one sign bit, two exponent bits and one bit of mantissa, doubled.
pub(super) const VALUES: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// `2^(e - 128)`, of which the two least are subnormal.
#[inline(always)]
pub(super) fn power(e: u8) -> f32 {
    f32::from_bits(if e < 2 { 0x0020_0000 << e } else { u32::from(e - 1) << 23 })
}
