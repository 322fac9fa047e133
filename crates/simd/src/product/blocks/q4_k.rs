//! Q4_K: `d: f16`, `m: f16`, twelve bytes of scales and minima, 128 bytes of nibbles; weight `i` is
//! `d s[i/32] c[i] - m n[i/32]`. Of each 32 bytes of nibbles the low ones are a sub-block and the high ones the next.

use super::layout::{Layout, Wide, half_at, nibbles, word_at};
use super::round::large::{WithMinima, with_minima};
use super::round::{Round, Weighting, put_half, put_nibbles};

/// The layout.
pub(super) struct Q4K;

impl Layout for Q4K {
    const BLOCK: usize = 256;
    const BYTES: usize = 144;
    const SUB: usize = 32;
    const MINIMA: bool = true;

    #[inline(always)]
    fn read(block: &[u8], to: &mut Wide) {
        to.factor = half_at(block, 0);
        to.base = -half_at(block, 2);
        let both = scales_and_minima(block);
        for k in 0..8 {
            to.scales[k] = both[k] as i8;
            to.minima[k] = both[8 + k] as i8;
        }
        for (bytes, codes) in block[16..144].chunks_exact(32).zip(to.codes.chunks_exact_mut(64)) {
            nibbles(bytes, codes, |_, c| c as i8);
        }
    }
}

/// The eight scales and the eight minima, six bits each. The first four of each are in the low bits of the first eight
/// bytes; of the others, the low nibbles are in the last four bytes and the high bits above those of the first four.
#[inline(always)]
pub(super) fn scales_and_minima(block: &[u8]) -> [u8; 16] {
    let [a, b, c] = [4, 8, 12].map(|at| word_at(block, at));
    let words = [
        a & 0x3f3f_3f3f,
        c & 0x0f0f_0f0f | a >> 2 & 0x3030_3030,
        b & 0x3f3f_3f3f,
        c >> 4 & 0x0f0f_0f0f | b >> 2 & 0x3030_3030,
    ];
    let mut both = [0; 16];
    for (word, to) in words.into_iter().zip(both.chunks_exact_mut(4)) {
        to.copy_from_slice(&word.to_le_bytes());
    }
    both
}

impl Round for Q4K {
    fn round(x: &[f32], weighting: Weighting<'_>, block: &mut [u8]) {
        let rounded = with_minima(x, weighting, 15.0, -1.0);
        put_head(&rounded, block);
        for (codes, bytes) in rounded.codes.chunks_exact(64).zip(block[16..144].chunks_exact_mut(32)) {
            put_nibbles(codes, bytes);
        }
    }
}

/// Writes the factors, scales and minima, see [`scales_and_minima`].
#[inline(always)]
pub(super) fn put_head(rounded: &WithMinima<8>, block: &mut [u8]) {
    let (s, n) = (&rounded.scales, &rounded.minima);
    put_half(block, 0, rounded.factors[0]);
    put_half(block, 2, rounded.factors[1]);
    for k in 0..4 {
        block[4 + k] = s[k] | s[4 + k] >> 4 << 6;
        block[8 + k] = n[k] | n[4 + k] >> 4 << 6;
        block[12 + k] = s[4 + k] & 15 | n[4 + k] << 4;
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    //! The steps with AVX-512.

    use std::arch::x86_64::*;

    use super::super::avx512::Large;
    use super::super::avx512::unpack::wide_nibbles;
    use super::scales_and_minima;

    impl Large for super::Q4K {
        const OFFSET: i32 = 0;
        const SIGNED: bool = false;
        const NARROW: bool = true;
        const HALVES: bool = true;
        const RUN: usize = 2;
        const PIECES: [u8; 16] = [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15];
        const FACTORS: usize = 0;

        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
        unsafe fn codes(block: *const u8) -> [__m512i; 4] {
            // SAFETY: guaranteed by the caller.
            unsafe { wide_nibbles(block.add(16)) }
        }

        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
        unsafe fn scales(block: *const u8) -> (__m128i, __m128i) {
            // SAFETY: guaranteed by the caller.
            let both = scales_and_minima(unsafe { std::slice::from_raw_parts(block, 144) });
            // SAFETY: there are sixteen bytes.
            let both = unsafe { _mm_loadu_si128(both.as_ptr().cast()) };
            (both, _mm_srli_si128::<8>(both))
        }
    }
}
