//! Q5_K: `d: f16`, `m: f16`, twelve bytes of scales and minima as in Q4_K, 32 bytes of fifth bits, 128 bytes of nibbles
//! ordered as in Q4_K; weight `i` is `d s[i/32] c[i] - m n[i/32]`. The fifth bit of weight `32 k + l` is bit `k` of byte
//! `l`.

use super::layout::{Layout, Wide, half_at, nibbles};
use super::q4_k::{put_head, scales_and_minima};
use super::round::large::with_minima;
use super::round::{Round, Weighting, put_nibbles};

/// The layout.
pub(super) struct Q5K;

impl Layout for Q5K {
    const BLOCK: usize = 256;
    const BYTES: usize = 176;
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
        let fifth = &block[16..48];
        for (n, (bytes, codes)) in block[48..176].chunks_exact(32).zip(to.codes.chunks_exact_mut(64)).enumerate() {
            nibbles(bytes, codes, |i, c| (c | (fifth[i % 32] >> (2 * n + i / 32) & 1) << 4) as i8);
        }
    }
}

impl Round for Q5K {
    fn round(x: &[f32], weighting: Weighting<'_>, block: &mut [u8]) {
        let rounded = with_minima(x, weighting, 31.0, -0.5);
        put_head(&rounded, block);
        block[16..48].fill(0);
        for (k, codes) in rounded.codes.chunks_exact(32).enumerate() {
            for (byte, code) in block[16..48].iter_mut().zip(codes) {
                *byte |= code >> 4 << k;
            }
        }
        for (codes, bytes) in rounded.codes.chunks_exact(64).zip(block[48..176].chunks_exact_mut(32)) {
            put_nibbles(codes, bytes);
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    //! The steps with AVX-512.

    use std::arch::x86_64::*;

    use super::super::avx512::Large;
    use super::super::avx512::unpack::{wide_bits, wide_nibbles};
    use super::scales_and_minima;

    impl Large for super::Q5K {
        const OFFSET: i32 = 0;
        const SIGNED: bool = false;
        const NARROW: bool = true;
        const HALVES: bool = false;
        const RUN: usize = 2;
        const PIECES: [u8; 16] = [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15];
        const FACTORS: usize = 0;

        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
        unsafe fn codes(block: *const u8) -> [__m512i; 4] {
            // The bits of the sub-blocks in the halves of each vector.
            const BITS: [[u8; 2]; 4] = [[1, 4], [2, 8], [16, 64], [32, 128]];
            // SAFETY: guaranteed by the caller.
            unsafe { wide_bits(block.add(16), wide_nibbles(block.add(48)), BITS, 16) }
        }

        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
        unsafe fn scales(block: *const u8) -> (__m128i, __m128i) {
            // SAFETY: guaranteed by the caller.
            let both = scales_and_minima(unsafe { std::slice::from_raw_parts(block, 176) });
            // SAFETY: there are sixteen bytes.
            let both = unsafe { _mm_loadu_si128(both.as_ptr().cast()) };
            (both, _mm_srli_si128::<8>(both))
        }
    }
}
