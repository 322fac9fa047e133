//! Q2_K: sixteen bytes of scales (low nibble) and minima (high nibble), 64 bytes of codes, `d: f16`, `m: f16`; weight
//! `i` is `d s[i/16] c[i] - m n[i/16]`. Byte `32 n + l` of the codes has those of weights `128 n + 32 j + l`, the lowest
//! bits that of `j = 0`.

use super::layout::{Layout, Wide, half_at};
use super::round::fit::{Tries, positive, weights, with_minimum};
use super::round::large::finished;
use super::round::{Round, Weighting, put_half};

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

impl Round for Q2K {
    fn round(x: &[f32], weighting: Weighting<'_>, block: &mut [u8]) {
        let mean_square = x.iter().map(|x| x * x).sum::<f32>() / 256.0;
        let (mut fitted, mut minima, mut counts) = ([0.0; 16], [0.0; 16], [0.0; 16]);
        for (k, x) in x.as_chunks::<16>().0.iter().enumerate() {
            let importance = weighting.importance.map(|w| &w[16 * k..][..16]);
            let w = weights(x, importance, mean_square, f32::abs);
            let tries = match importance {
                Some(_) => Tries { from: -0.9, step: 0.05, count: 37, absolute: false },
                None => Tries { from: -0.5, step: 0.1, count: 16, absolute: true },
            };
            (fitted[k], minima[k]) = with_minimum(weighting.isa, x, &w, 3.0, tries);
            counts[k] = w.iter().sum();
        }
        let factor = |x: &[f32; 16]| match weighting.importance {
            Some(_) => positive(x, &counts, 15.0),
            None => x.iter().fold(0.0f32, |a, b| a.max(*b)) / 15.0,
        };
        let rounded = finished(x, [factor(&fitted), factor(&minima)], &fitted, &minima, 15.0, 3.0);
        for k in 0..16 {
            block[k] = rounded.scales[k] | rounded.minima[k] << 4;
        }
        put_pairs(&rounded.codes, &mut block[16..80]);
        put_half(block, 80, rounded.factors[0]);
        put_half(block, 82, rounded.factors[1]);
    }
}

/// Writes the two low bits of each of 256 codes, see [`pairs`].
#[inline(always)]
pub(super) fn put_pairs(codes: &[u8; 256], bytes: &mut [u8]) {
    for (codes, bytes) in codes.chunks_exact(128).zip(bytes.chunks_exact_mut(32)) {
        for (l, byte) in bytes.iter_mut().enumerate() {
            let c: [u8; 4] = std::array::from_fn(|j| codes[32 * j + l] & 3);
            *byte = c[0] | c[1] << 2 | c[2] << 4 | c[3] << 6;
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
        const HALVES: bool = true;
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
