//! IQ4_XS: `d: f16`, the high bits of the scales `u16`, four bytes of their low nibbles, 128 bytes of nibbles; weight `i`
//! is `d (s[i/32] - 32) K[c[i]]`, with the values of IQ4_NL. Of each sixteen bytes of nibbles the low ones are the first
//! half of a sub-block and the high ones the second.

use super::iq4_nl::{VALUES, places};
use super::layout::{Layout, Wide, half_at, nibbles, word_at};
use super::round::fit::{largest, tabled, weights_at};
use super::round::{Round, Weighting, as_half, inverse, put_half, put_nibbles};

/// The layout.
pub(super) struct Iq4Xs;

impl Layout for Iq4Xs {
    const BLOCK: usize = 256;
    const BYTES: usize = 136;
    const SUB: usize = 32;
    const MINIMA: bool = false;

    #[inline(always)]
    fn read(block: &[u8], to: &mut Wide) {
        to.factor = half_at(block, 0);
        for (to, s) in to.scales.iter_mut().zip(scales(block)) {
            *to = s as i8 - 32;
        }
        for (bytes, codes) in block[8..136].chunks_exact(16).zip(to.codes.chunks_exact_mut(32)) {
            nibbles(bytes, codes, |_, c| VALUES[usize::from(c)]);
        }
    }
}

/// The eight scales, from 0 to 63.
#[inline(always)]
pub(super) fn scales(block: &[u8]) -> [u8; 8] {
    // Nibbles, and pairs of bits, are moved apart in halves, quarters and eighths.
    let (low, high) = (u64::from(word_at(block, 4)), u64::from(word_at(block, 0) >> 16));
    let low = (low | low << 16) & 0x0000_ffff_0000_ffff;
    let low = (low | low << 8) & 0x00ff_00ff_00ff_00ff;
    let low = (low | low << 4) & 0x0f0f_0f0f_0f0f_0f0f;
    let high = (high | high << 24) & 0x0000_00ff_0000_00ff;
    let high = (high | high << 12) & 0x000f_000f_000f_000f;
    let high = (high | high << 6) & 0x0303_0303_0303_0303;
    (low | high << 4).to_le_bytes()
}

impl Round for Iq4Xs {
    fn round(x: &[f32], weighting: Weighting<'_>, block: &mut [u8]) {
        let parts = x.as_chunks::<32>().0;
        let mut fitted = [0.0; 8];
        for (k, x) in parts.iter().enumerate() {
            fitted[k] = tabled(weighting.isa, x, &weights_at(x, weighting, 32 * k, |x| x * x), &VALUES);
        }
        let factor = largest(&fitted) / -32.0;
        let (by, d) = (inverse(factor), as_half(factor));
        let (mut low, mut high) = (0u32, 0u32);
        for (k, x) in parts.iter().enumerate() {
            let scale = (fitted[k] * by).round_ties_even().clamp(-32.0, 31.0);
            let stored = (scale + 32.0) as u32;
            low |= (stored & 15) << (4 * k);
            high |= stored >> 4 << (2 * k);
            put_nibbles(&places(x, d * scale), &mut block[8 + 16 * k..][..16]);
        }
        put_half(block, 0, factor);
        block[2..4].copy_from_slice(&high.to_le_bytes()[..2]);
        block[4..8].copy_from_slice(&low.to_le_bytes());
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    //! The steps with AVX-512.

    use std::arch::x86_64::*;

    use super::super::avx512::Large;
    use super::super::avx512::unpack::{table, wide_nibbles};
    use super::super::iq4_nl::VALUES;
    use super::scales;

    impl Large for super::Iq4Xs {
        const OFFSET: i32 = 128;
        const SIGNED: bool = true;
        const NARROW: bool = false;
        const HALVES: bool = false;
        const RUN: usize = 1;
        const PIECES: [u8; 16] = [0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15];
        const FACTORS: usize = 0;

        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
        unsafe fn codes(block: *const u8) -> [__m512i; 4] {
            let values = table(&VALUES, Self::OFFSET);
            // SAFETY: guaranteed by the caller.
            let mut codes = unsafe { wide_nibbles(block.add(8)) };
            for codes in &mut codes {
                *codes = _mm512_shuffle_epi8(values, *codes);
            }
            codes
        }

        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
        unsafe fn scales(block: *const u8) -> (__m128i, __m128i) {
            // SAFETY: guaranteed by the caller.
            let scales = scales(unsafe { std::slice::from_raw_parts(block, 136) });
            let scales = _mm_sub_epi8(_mm_cvtsi64_si128(i64::from_le_bytes(scales)), _mm_set1_epi8(32));
            // Each is that of two pieces.
            let scales = _mm_unpacklo_epi8(scales, scales);
            (scales, scales)
        }
    }
}
