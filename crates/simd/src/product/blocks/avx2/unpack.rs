//! How the formats are unpacked with AVX2.

use std::arch::x86_64::*;

use super::super::layout::word_at;
use super::super::q4_k::scales_and_minima;
use super::super::{iq4_nl, iq4_xs, mxfp4, q2_k, q3_k, q4_0, q4_1, q4_k, q5_0, q5_1, q5_k, q6_k, q8_0};
use super::{COLUMNS, Unpack};

/// The low nibbles of sixteen bytes, and then the high ones.
///
/// # Safety
/// The CPU has the features, and there are sixteen bytes at the address.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn nibbles(bytes: *const u8) -> __m256i {
    // SAFETY: guaranteed by the caller.
    let bytes = unsafe { _mm_loadu_si128(bytes.cast()) };
    _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16::<4>(bytes), bytes), _mm256_set1_epi8(15))
}

/// The low nibbles of 32 bytes, and the high ones.
///
/// # Safety
/// The CPU has the features, and there are 32 bytes at the address.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn wide_nibbles(bytes: *const u8) -> [__m256i; 2] {
    // SAFETY: guaranteed by the caller.
    let bytes = unsafe { _mm256_loadu_si256(bytes.cast()) };
    let mask = _mm256_set1_epi8(15);
    [_mm256_and_si256(bytes, mask), _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), mask)]
}

/// `16` in the bytes whose bit of `bits` is set.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn fifth(bits: u32) -> __m256i {
    let of_bytes = _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303);
    let bytes = _mm256_shuffle_epi8(_mm256_set1_epi32(bits as i32), of_bytes);
    let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201u64 as i64);
    _mm256_and_si256(_mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit), bit), _mm256_set1_epi8(16))
}

/// A vector of codes, of a block that has no more.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn alone(codes: __m256i) -> [__m256i; 8] {
    let mut all = [_mm256_setzero_si256(); 8];
    all[0] = codes;
    all
}

/// The codes of a format with blocks of 32.
macro_rules! small {
    ($layout:ty, $signed:literal, $block:ident => $codes:expr) => {
        impl Unpack for $layout {
            const SIGNED: bool = $signed;

            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn codes($block: *const u8) -> [__m256i; 8] {
                // SAFETY: there is a block at the address, as the caller guarantees.
                alone(unsafe { $codes })
            }
        }
    };
}

/// The word at an offset.
///
/// # Safety
/// There are four bytes.
#[inline(always)]
unsafe fn word(block: *const u8, at: usize) -> u32 {
    // SAFETY: guaranteed by the caller.
    word_at(unsafe { std::slice::from_raw_parts(block.add(at), 4) }, 0)
}

small!(q8_0::Q8_0, true, block => _mm256_loadu_si256(block.add(2).cast()));
small!(q4_0::Q4_0, true, block => _mm256_sub_epi8(nibbles(block.add(2)), _mm256_set1_epi8(8)));
small!(q4_1::Q4_1, false, block => nibbles(block.add(4)));
small!(q5_0::Q5_0, true, block => {
    _mm256_sub_epi8(_mm256_or_si256(nibbles(block.add(6)), fifth(word(block, 2))), _mm256_set1_epi8(16))
});
small!(q5_1::Q5_1, false, block => _mm256_or_si256(nibbles(block.add(8)), fifth(word(block, 4))));
small!(iq4_nl::Iq4Nl, true, block => values(&iq4_nl::VALUES, nibbles(block.add(2))));

/// The values of a table at the places that are given.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn values(table: &[i8; 16], places: __m256i) -> __m256i {
    // SAFETY: there are sixteen bytes.
    let table = unsafe { _mm_loadu_si128(table.as_ptr().cast()) };
    _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), places)
}

impl Unpack for mxfp4::Mxfp4 {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn codes(block: *const u8) -> [__m256i; 8] {
        // SAFETY: guaranteed by the caller.
        alone(values(&mxfp4::VALUES, unsafe { nibbles(block.add(1)) }))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn factors([a, b, c, d]: [*const u8; COLUMNS]) -> __m128 {
        // SAFETY: guaranteed by the caller.
        let [a, b, c, d] = unsafe { [*a, *b, *c, *d] };
        _mm_setr_ps(mxfp4::power(a), mxfp4::power(b), mxfp4::power(c), mxfp4::power(d))
    }
}

/// The scales and minima of Q4_K and Q5_K.
///
/// # Safety
/// The CPU has the features, and there is a block at the address.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn six_bits(block: *const u8) -> [__m256i; 2] {
    // SAFETY: guaranteed by the caller: factors and scales are the first sixteen bytes.
    let both = scales_and_minima(unsafe { std::slice::from_raw_parts(block, 16) });
    // SAFETY: there are sixteen bytes.
    let both = unsafe { _mm_loadu_si128(both.as_ptr().cast()) };
    [_mm256_cvtepu8_epi16(both), _mm256_cvtepu8_epi16(_mm_srli_si128::<8>(both))]
}

impl Unpack for q4_k::Q4K {
    const SIGNED: bool = false;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn codes(block: *const u8) -> [__m256i; 8] {
        // SAFETY: guaranteed by the caller.
        let ([a, b], [c, d], [e, f], [g, h]) = unsafe {
            (
                wide_nibbles(block.add(16)),
                wide_nibbles(block.add(48)),
                wide_nibbles(block.add(80)),
                wide_nibbles(block.add(112)),
            )
        };
        [a, b, c, d, e, f, g, h]
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn scales(block: *const u8) -> [__m256i; 2] {
        // SAFETY: guaranteed by the caller.
        unsafe { six_bits(block) }
    }
}

impl Unpack for q5_k::Q5K {
    const SIGNED: bool = false;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn codes(block: *const u8) -> [__m256i; 8] {
        // SAFETY: guaranteed by the caller.
        let high = unsafe { _mm256_loadu_si256(block.add(16).cast()) };
        let mut codes = [_mm256_setzero_si256(); 8];
        for k in 0..4 {
            // SAFETY: guaranteed by the caller.
            let both = unsafe { wide_nibbles(block.add(48 + 32 * k)) };
            for (half, low) in both.into_iter().enumerate() {
                let bit = _mm256_set1_epi8((1u8 << (2 * k + half)) as i8);
                let set = _mm256_cmpeq_epi8(_mm256_and_si256(high, bit), bit);
                codes[2 * k + half] = _mm256_or_si256(low, _mm256_and_si256(set, _mm256_set1_epi8(16)));
            }
        }
        codes
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn scales(block: *const u8) -> [__m256i; 2] {
        // SAFETY: guaranteed by the caller.
        unsafe { six_bits(block) }
    }
}

impl Unpack for q6_k::Q6K {
    const FACTOR: usize = 208;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn codes(block: *const u8) -> [__m256i; 8] {
        let (mask, middle) = (_mm256_set1_epi8(0x30), _mm256_set1_epi8(32));
        let mut codes = [_mm256_setzero_si256(); 8];
        for n in 0..2 {
            // SAFETY: guaranteed by the caller.
            let ([a, c], [b, d], high) = unsafe {
                let high = _mm256_loadu_si256(block.add(128 + 32 * n).cast());
                (wide_nibbles(block.add(64 * n)), wide_nibbles(block.add(64 * n + 32)), high)
            };
            // Two bits of each byte are brought to bits 4 and 5.
            let tops = [_mm256_slli_epi16::<4>(high), _mm256_slli_epi16::<2>(high), high, _mm256_srli_epi16::<2>(high)];
            let lows = [a, b, c, d];
            for j in 0..4 {
                let code = _mm256_or_si256(lows[j], _mm256_and_si256(tops[j], mask));
                codes[4 * n + j] = _mm256_sub_epi8(code, middle);
            }
        }
        codes
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn scales(block: *const u8) -> [__m256i; 2] {
        // SAFETY: guaranteed by the caller.
        let scales = _mm256_cvtepi8_epi16(unsafe { _mm_loadu_si128(block.add(192).cast()) });
        [scales, _mm256_setzero_si256()]
    }
}

/// The pairs of bits of 64 bytes, from the lowest of the first 32 bytes to the highest of the last.
///
/// # Safety
/// The CPU has the features, and there are 64 bytes at the address.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn pairs(bytes: *const u8) -> [__m256i; 8] {
    let mut codes = [_mm256_setzero_si256(); 8];
    for n in 0..2 {
        // SAFETY: guaranteed by the caller.
        let bytes = unsafe { _mm256_loadu_si256(bytes.add(32 * n).cast()) };
        codes[4 * n] = bytes;
        codes[4 * n + 1] = _mm256_srli_epi16::<2>(bytes);
        codes[4 * n + 2] = _mm256_srli_epi16::<4>(bytes);
        codes[4 * n + 3] = _mm256_srli_epi16::<6>(bytes);
    }
    for codes in &mut codes {
        *codes = _mm256_and_si256(*codes, _mm256_set1_epi8(3));
    }
    codes
}

/// Sixteen bytes, less a number each, in 16 bits.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn less(bytes: [u8; 16], by: i16) -> __m256i {
    // SAFETY: there are sixteen bytes.
    let bytes = unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) };
    _mm256_sub_epi16(_mm256_cvtepu8_epi16(bytes), _mm256_set1_epi16(by))
}

impl Unpack for q2_k::Q2K {
    const SIGNED: bool = false;
    const FACTOR: usize = 80;
    const BASE: usize = 82;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn codes(block: *const u8) -> [__m256i; 8] {
        // SAFETY: guaranteed by the caller.
        unsafe { pairs(block.add(16)) }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn scales(block: *const u8) -> [__m256i; 2] {
        // SAFETY: guaranteed by the caller.
        let both = _mm256_cvtepu8_epi16(unsafe { _mm_loadu_si128(block.cast()) });
        [_mm256_and_si256(both, _mm256_set1_epi16(15)), _mm256_srli_epi16::<4>(both)]
    }
}

impl Unpack for q3_k::Q3K {
    const FACTOR: usize = 108;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn codes(block: *const u8) -> [__m256i; 8] {
        // SAFETY: guaranteed by the caller.
        let (mut codes, high) = unsafe { (pairs(block.add(32)), _mm256_loadu_si256(block.cast())) };
        for (v, codes) in codes.iter_mut().enumerate() {
            // 4 is taken off where the third bit is not set.
            let bit = _mm256_set1_epi8((1u8 << v) as i8);
            let missing = _mm256_cmpeq_epi8(_mm256_and_si256(high, bit), _mm256_setzero_si256());
            *codes = _mm256_sub_epi8(*codes, _mm256_and_si256(missing, _mm256_set1_epi8(4)));
        }
        codes
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn scales(block: *const u8) -> [__m256i; 2] {
        // SAFETY: guaranteed by the caller.
        let scales = q3_k::scales(unsafe { std::slice::from_raw_parts(block, 110) });
        [less(scales, 32), _mm256_setzero_si256()]
    }
}

impl Unpack for iq4_xs::Iq4Xs {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn codes(block: *const u8) -> [__m256i; 8] {
        let mut codes = [_mm256_setzero_si256(); 8];
        for (k, codes) in codes.iter_mut().enumerate() {
            // SAFETY: guaranteed by the caller.
            *codes = values(&iq4_nl::VALUES, unsafe { nibbles(block.add(8 + 16 * k)) });
        }
        codes
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn scales(block: *const u8) -> [__m256i; 2] {
        let mut scales = [32; 16];
        // SAFETY: guaranteed by the caller.
        scales[..8].copy_from_slice(&iq4_xs::scales(unsafe { std::slice::from_raw_parts(block, 136) }));
        [less(scales, 32), _mm256_setzero_si256()]
    }
}
