//! Q4_1: `d: f16`, `m: f16`, sixteen bytes of nibbles; weight `i` is `d c[i] + m`, with the low nibbles first and then the high ones.

use super::layout::{Layout, Wide, half_at, nibbles};
use super::round::small::{above, factor_and_minimum};
use super::round::{Round, Weighting, put_half, put_nibbles};

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

impl Round for Q4_1 {
    fn round(x: &[f32], weighting: Weighting<'_>, block: &mut [u8]) {
        let (d, m) = factor_and_minimum(x, weighting, 15.0);
        put_half(block, 0, d);
        put_half(block, 2, m);
        put_nibbles(&above(x, d, m, 15), &mut block[4..20]);
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    //! The steps with AVX-512.

    use std::arch::x86_64::*;

    use super::super::avx512::Small;
    use super::super::avx512::unpack::nibbles;

    impl Small for super::Q4_1 {
        const OFFSET: i32 = 0;

        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
        unsafe fn codes(blocks: *const u8) -> [__m512i; 2] {
            // SAFETY: guaranteed by the caller.
            unsafe { nibbles::<20, 4>(blocks) }
        }
    }
}
