//! Q5_1: `d: f16`, `m: f16`, 32 fifth bits, sixteen bytes of nibbles; weight `i` is `d c[i] + m`. The nibbles are ordered as in Q4_0.

use super::layout::{Layout, Wide, half_at, nibbles, word_at};
use super::round::small::{above, factor_and_minimum, fifth_bits};
use super::round::{Round, Weighting, put_half, put_nibbles};

/// The layout.
pub(super) struct Q5_1;

impl Layout for Q5_1 {
    const BLOCK: usize = 32;
    const BYTES: usize = 24;
    const SUB: usize = 32;
    const MINIMA: bool = true;

    #[inline(always)]
    fn read(block: &[u8], to: &mut Wide) {
        to.factor = half_at(block, 0);
        to.base = half_at(block, 2);
        let fifth = word_at(block, 4);
        nibbles(&block[8..24], &mut to.codes, |i, c| (c | ((fifth >> i & 1) << 4) as u8) as i8);
    }
}

impl Round for Q5_1 {
    fn round(x: &[f32], weighting: Weighting<'_>, block: &mut [u8]) {
        let (d, m) = factor_and_minimum(x, weighting, 31.0);
        let codes = above(x, d, m, 31);
        put_half(block, 0, d);
        put_half(block, 2, m);
        block[4..8].copy_from_slice(&fifth_bits(&codes));
        put_nibbles(&codes, &mut block[8..24]);
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    //! The steps with AVX-512.

    use std::arch::x86_64::*;

    use super::super::avx512::Small;
    use super::super::avx512::unpack::{fifth, nibbles};

    impl Small for super::Q5_1 {
        const OFFSET: i32 = 0;

        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
        unsafe fn codes(blocks: *const u8) -> [__m512i; 2] {
            // SAFETY: guaranteed by the caller.
            unsafe { fifth::<24, 4>(blocks, nibbles::<24, 8>(blocks)) }
        }
    }
}
