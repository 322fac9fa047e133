//! Q2_K: sixteen bytes of scales (low nibble) and minima (high nibble), 64 bytes of codes, `d: f16`, `m: f16`; weight
//! `i` is `d s[i/16] c[i] - m n[i/16]`. Byte `32 n + l` of the codes has those of weights `128 n + 32 j + l`, the lowest
//! bits that of `j = 0`.

use super::layout::{Layout, Wide, half_at};

/// The layout.
pub(super) struct Q2K;

impl Layout for Q2K {
    const BLOCK: usize = 256;
    const BYTES: usize = 84;
    const SUB: usize = 16;
    const MINIMA: bool = true;

    #[inline(always)]
    fn read(block: &[u8], to: &mut Wide) {
        to.factor = half_at(block, 80);
        to.base = -half_at(block, 82);
        for k in 0..16 {
            to.scales[k] = (block[k] & 15) as i8;
            to.minima[k] = (block[k] >> 4) as i8;
        }
        pairs(&block[16..80], &mut to.codes, |_, c| c as i8);
    }
}

/// Writes 256 codes of two bits, each through `f`, which is also given the place of the code.
#[inline(always)]
pub(super) fn pairs(bytes: &[u8], codes: &mut [i8; 256], f: impl Fn(usize, u8) -> i8) {
    for (n, bytes) in bytes.chunks_exact(32).enumerate() {
        for j in 0..4 {
            for (l, byte) in bytes.iter().enumerate() {
                let i = 128 * n + 32 * j + l;
                codes[i] = f(i, byte >> (2 * j) & 3);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    //! The steps with AVX-512.

    use std::arch::x86_64::*;

    use super::super::avx512::Large;
    use super::super::avx512::unpack::wide_pairs;

    impl Large for super::Q2K {
        const OFFSET: i32 = 0;
        const SIGNED: bool = false;
        const NARROW: bool = true;
        const RUN: usize = 1;
        const PIECES: [u8; 16] = [0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15];
        const FACTORS: usize = 80;

        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
        unsafe fn codes(block: *const u8) -> [__m512i; 4] {
            // SAFETY: guaranteed by the caller.
            unsafe { wide_pairs(block.add(16)) }
        }

        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
        unsafe fn scales(block: *const u8) -> (__m128i, __m128i) {
            let nibble = _mm_set1_epi8(15);
            // SAFETY: guaranteed by the caller.
            let both = unsafe { _mm_loadu_si128(block.cast()) };
            (_mm_and_si128(both, nibble), _mm_and_si128(_mm_srli_epi16::<4>(both), nibble))
        }
    }
}
