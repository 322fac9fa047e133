//! Q6_K: 128 bytes of low nibbles, 64 bytes of high bits, `s: [i8; 16]`, `d: f16`; weight `i` is `d s[i/16] (c[i] - 32)`.
//! Weight `128 n + 32 j + l` has nibble `j / 2` of byte `64 n + 32 (j % 2) + l`, and bits `2 j` and `2 j + 1` of the
//! high byte `32 n + l`.

use super::layout::{Layout, Wide, half_at, nibbles};
use super::round::large::signed;
use super::round::{Round, Weighting, put_half};

/// The layout.
pub(super) struct Q6K;

impl Layout for Q6K {
    const BLOCK: usize = 256;
    const BYTES: usize = 210;
    const SUB: usize = 16;
    const MINIMA: bool = false;

    #[inline(always)]
    fn read(block: &[u8], to: &mut Wide) {
        to.factor = half_at(block, 208);
        for (to, s) in to.scales.iter_mut().zip(&block[192..208]) {
            *to = *s as i8;
        }
        for (n, codes) in to.codes.chunks_exact_mut(128).enumerate() {
            let high = &block[128 + 32 * n..][..32];
            nibbles(&block[64 * n..][..64], codes, |i, c| (c | (high[i % 32] >> (2 * (i / 32)) & 3) << 4) as i8 - 32);
        }
    }
}

impl Round for Q6K {
    fn round(x: &[f32], weighting: Weighting<'_>, block: &mut [u8]) {
        let rounded = signed(weighting.isa, x, 32.0, 128.0, |x, at| match weighting.importance {
            Some(w) => std::array::from_fn(|i| w[at + i]),
            None => x.map(|x| x * x),
        });
        put_half(block, 208, rounded.factor);
        for (byte, scale) in block[192..208].iter_mut().zip(rounded.scales) {
            *byte = scale as u8;
        }
        for (n, codes) in rounded.codes.chunks_exact(128).enumerate() {
            for l in 0..32 {
                let c: [u8; 4] = std::array::from_fn(|j| codes[32 * j + l]);
                block[64 * n + l] = c[0] & 15 | c[2] << 4;
                block[64 * n + 32 + l] = c[1] & 15 | c[3] << 4;
                block[128 + 32 * n + l] = c[0] >> 4 | c[1] >> 4 << 2 | c[2] >> 4 << 4 | c[3] >> 4 << 6;
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    //! The steps with AVX-512.

    use std::arch::x86_64::*;

    use super::super::avx512::Large;
    use super::super::avx512::unpack::{halves, wide_nibbles};

    impl Large for super::Q6K {
        const OFFSET: i32 = 32;
        const SIGNED: bool = true;
        const NARROW: bool = true;
        const HALVES: bool = false;
        const RUN: usize = 1;
        const PIECES: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
        const FACTORS: usize = 208;

        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
        unsafe fn codes(block: *const u8) -> [__m512i; 4] {
            // SAFETY: guaranteed by the caller.
            let (mut codes, high) = unsafe {
                let first = _mm512_broadcast_i64x4(_mm256_loadu_si256(block.add(128).cast()));
                let second = _mm512_broadcast_i64x4(_mm256_loadu_si256(block.add(160).cast()));
                (wide_nibbles(block), [first, second])
            };
            // Two bits of each byte are brought to bits 4 and 5, from different places in the two halves.
            let mask = _mm512_set1_epi8(0x30);
            for n in 0..2 {
                let low = _mm512_sllv_epi16(high[n], halves(4, 2));
                let top = _mm512_srlv_epi16(high[n], halves(0, 2));
                codes[2 * n] = _mm512_or_si512(codes[2 * n], _mm512_and_si512(low, mask));
                codes[2 * n + 1] = _mm512_or_si512(codes[2 * n + 1], _mm512_and_si512(top, mask));
            }
            codes
        }

        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
        unsafe fn scales(block: *const u8) -> (__m128i, __m128i) {
            // SAFETY: guaranteed by the caller.
            let scales = unsafe { _mm_loadu_si128(block.add(192).cast()) };
            (scales, scales)
        }
    }
}
