//! Q3_K: 32 bytes of third bits, 64 bytes of codes ordered as in Q2_K, twelve bytes of scales, `d: f16`; weight `i` is
//! `d (s[i/16] - 32) (c[i] - 4)`. The third bit of weight `32 t + l` is bit `t` of byte `l`. The low nibbles of the first
//! eight bytes of scales are the low bits of the first eight scales, the high nibbles those of the others; byte `8 + t` has
//! the two high bits of scales `t`, `t + 4`, `t + 8` and `t + 12`.

use super::layout::{Layout, Wide, half_at, word_at};
use super::q2_k::{pairs, put_pairs};
use super::round::fit::weights_at;
use super::round::large::signed;
use super::round::{Round, Weighting, put_half};

/// The layout.
pub(super) struct Q3K;

impl Layout for Q3K {
    const BLOCK: usize = 256;
    const BYTES: usize = 110;
    const SUB: usize = 16;
    const MINIMA: bool = false;

    #[inline(always)]
    fn read(block: &[u8], to: &mut Wide) {
        to.factor = half_at(block, 108);
        for (to, s) in to.scales.iter_mut().zip(scales(block)) {
            *to = s as i8 - 32;
        }
        pairs(&block[32..96], &mut to.codes, |i, c| (c | (block[i % 32] >> (i / 32) & 1) << 2) as i8 - 4);
    }
}

/// The sixteen scales, from 0 to 63.
#[inline(always)]
pub(super) fn scales(block: &[u8]) -> [u8; 16] {
    let [low, middle, high] = [96, 100, 104].map(|at| word_at(block, at));
    let nibbles = [low, middle, low >> 4, middle >> 4];
    let mut scales = [0; 16];
    for (t, to) in scales.chunks_exact_mut(4).enumerate() {
        let word = nibbles[t] & 0x0f0f_0f0f | (high >> (2 * t) & 0x0303_0303) << 4;
        to.copy_from_slice(&word.to_le_bytes());
    }
    scales
}

impl Round for Q3K {
    fn round(x: &[f32], weighting: Weighting<'_>, block: &mut [u8]) {
        let rounded = signed(weighting.isa, x, 4.0, 32.0, |x, at| weights_at(x, weighting, at, |x| x * x));
        put_half(block, 108, rounded.factor);
        block[..32].fill(0);
        for (i, code) in rounded.codes.iter().enumerate() {
            block[i % 32] |= code >> 2 << (i / 32);
        }
        put_pairs(&rounded.codes, &mut block[32..96]);
        block[96..108].fill(0);
        for (t, scale) in rounded.scales.iter().enumerate() {
            let scale = (scale + 32) as u8;
            block[96 + t % 8] |= (scale & 15) << (4 * (t / 8));
            block[104 + t % 4] |= scale >> 4 << (2 * (t / 4));
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    //! The steps with AVX-512.

    use std::arch::x86_64::*;

    use super::super::avx512::Large;
    use super::super::avx512::unpack::{wide_bits, wide_pairs};
    use super::scales;

    impl Large for super::Q3K {
        const OFFSET: i32 = 4;
        const SIGNED: bool = true;
        const NARROW: bool = true;
        const HALVES: bool = true;
        const RUN: usize = 1;
        const PIECES: [u8; 16] = [0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15];
        const FACTORS: usize = 108;

        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
        unsafe fn codes(block: *const u8) -> [__m512i; 4] {
            // The bits of the two halves of each vector.
            const BITS: [[u8; 2]; 4] = [[1, 16], [2, 32], [4, 64], [8, 128]];
            // SAFETY: guaranteed by the caller.
            unsafe { wide_bits(block, wide_pairs(block.add(32)), BITS, 4) }
        }

        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
        unsafe fn scales(block: *const u8) -> (__m128i, __m128i) {
            // SAFETY: guaranteed by the caller.
            let scales = scales(unsafe { std::slice::from_raw_parts(block, 110) });
            // SAFETY: there are sixteen bytes.
            let scales = unsafe { _mm_loadu_si128(scales.as_ptr().cast()) };
            let scales = _mm_sub_epi8(scales, _mm_set1_epi8(32));
            (scales, scales)
        }
    }
}
