//! Q4_0: `d: f16`, sixteen bytes of nibbles; weight `i` is `d (c[i] - 8)`, with the low nibbles first and then the high ones.

use super::layout::{Layout, Wide, half_at, nibbles};
use super::round::small::{factor, raised};
use super::round::{Round, Weighting, put_half, put_nibbles};

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

impl Round for Q4_0 {
    fn round(x: &[f32], weighting: Weighting<'_>, block: &mut [u8]) {
        let d = factor(x, weighting, 8.0);
        put_half(block, 0, d);
        put_nibbles(&raised(x, d, 8), &mut block[2..18]);
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    //! The steps with AVX-512.

    use std::arch::x86_64::*;

    use super::super::avx512::Small;
    use super::super::avx512::unpack::nibbles;

    impl Small for super::Q4_0 {
        const OFFSET: i32 = 8;

        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
        unsafe fn codes(blocks: *const u8) -> [__m512i; 2] {
            // SAFETY: guaranteed by the caller.
            unsafe { nibbles::<18, 2>(blocks) }
        }
    }
}
