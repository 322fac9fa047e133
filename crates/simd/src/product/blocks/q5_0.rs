//! Q5_0: `d: f16`, 32 fifth bits, sixteen bytes of nibbles; weight `i` is `d (c[i] - 16)`. The nibbles are ordered as in Q4_0.

use super::layout::{Layout, Wide, half_at, nibbles, word_at};
use super::round::small::{factor, fifth_bits, raised};
use super::round::{Round, Weighting, put_half, put_nibbles};

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

impl Round for Q5_0 {
    fn round(x: &[f32], weighting: Weighting<'_>, block: &mut [u8]) {
        let d = factor(x, weighting, 16.0);
        let codes = raised(x, d, 16);
        put_half(block, 0, d);
        block[2..6].copy_from_slice(&fifth_bits(&codes));
        put_nibbles(&codes, &mut block[6..22]);
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    //! The steps with AVX-512.

    use std::arch::x86_64::*;

    use super::super::avx512::Small;
    use super::super::avx512::unpack::{fifth, nibbles};

    impl Small for super::Q5_0 {
        const OFFSET: i32 = 16;

        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
        unsafe fn codes(blocks: *const u8) -> [__m512i; 2] {
            // SAFETY: guaranteed by the caller.
            unsafe { fifth::<22, 2>(blocks, nibbles::<22, 6>(blocks)) }
        }
    }
}
