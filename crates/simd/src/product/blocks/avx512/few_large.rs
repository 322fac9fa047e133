//! Few rows by blocks of 256 where they lie.

use std::arch::x86_64::*;

use super::super::operand::SLOTS;
use super::{Large, Left, Task, moved, words};

/// The product of `M` rows of `x`.
///
/// # Safety
/// The CPU must have AVX-512 F, BW, DQ, VL and VNNI, and the left factor must be made by [`plan`](super::plan).
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
pub(super) unsafe fn product<F: Large, const M: usize>(task: &Task<'_>, out: &mut [&mut [f32]]) {
    assert_eq!(out.len(), M);
    let (columns, groups) = (task.columns(), task.x.groups);
    assert_eq!(task.row_bytes, groups * F::BYTES);
    let left: Left<M> = task.left(0, M, 0);
    // The hardware follows a row, but not to the next: the same place four rows further on is asked for.
    let ahead = 4 * task.row_bytes.max(1024);
    for j in (0..columns).step_by(4) {
        let rows: [*const u8; 4] = task.rows(j);
        let mut y = [_mm_setzero_ps(); M];
        for g in 0..groups {
            let blocks = moved(rows, g * F::BYTES);
            let x = moved(left.codes, g * 256);
            let s = moved(left.sums, g * SLOTS);
            // SAFETY: every row has `groups` blocks, and so has every row of the left factor.
            let (products, minima) = unsafe { group::<F, M>(blocks, x, s, ahead) };
            // SAFETY: as above.
            let d = unsafe { halves(blocks, F::FACTORS) };
            for i in 0..M {
                // SAFETY: as above.
                let a = _mm_set1_ps(unsafe { *left.factors[i].add(g) });
                y[i] = _mm_fmadd_ps(_mm_mul_ps(d, a), _mm_cvtepi32_ps(products[i]), y[i]);
                if F::MINIMA {
                    // SAFETY: as above; in a format with minima their factor follows.
                    let m = unsafe { halves(blocks, F::FACTORS + 2) };
                    y[i] = _mm_fnmadd_ps(_mm_mul_ps(m, a), _mm_cvtepi32_ps(minima[i]), y[i]);
                }
            }
        }
        finish(task, j, y, out);
    }
}

/// Adds the bias to four sums of each row and stores them.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
pub(super) fn finish<const M: usize>(task: &Task<'_>, j: usize, y: [__m128; M], out: &mut [&mut [f32]]) {
    for (y, out) in y.into_iter().zip(out) {
        let out = &mut out[j..];
        let n = out.len().min(4);
        let mut sums = [0.0; 4];
        // SAFETY: there is room for four.
        unsafe { _mm_storeu_ps(sums.as_mut_ptr(), y) };
        for (c, (to, y)) in out[..n].iter_mut().zip(sums).enumerate() {
            *to = task.bias.map_or(y, |bias| y + bias[j + c]);
        }
    }
}

/// The half-precision numbers at an offset of four blocks.
///
/// # Safety
/// The CPU has the features, and there are two bytes at the offset of each block.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
unsafe fn halves(blocks: [*const u8; 4], at: usize) -> __m128 {
    // SAFETY: guaranteed by the caller.
    _mm_maskz_cvtph_ps(0xf, _mm_cvtsi64_si128(unsafe { words(blocks, at) }))
}

/// `S` and `M` of a block of each of four rows of weights, for each row of `x`.
///
/// # Safety
/// The CPU has the features; there are a block at each of `blocks`, 256 codes at each of `x` and 16 sums at each of `s`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
unsafe fn group<F: Large, const M: usize>(
    blocks: [*const u8; 4],
    x: [*const i8; M],
    s: [*const i16; M],
    ahead: usize,
) -> ([__m128i; M], [__m128i; M]) {
    let mut products = [[_mm512_setzero_si512(); 4]; M];
    let mut minima = [[_mm256_setzero_si256(); 4]; M];
    for r in 0..4 {
        for line in (0..F::BYTES).step_by(64) {
            _mm_prefetch::<_MM_HINT_T0>(blocks[r].wrapping_add(ahead + line).cast());
        }
        // SAFETY: guaranteed by the caller.
        let (codes, (scales, least)) = unsafe { (F::codes(blocks[r]), F::scales(blocks[r])) };
        // What the sums of x are multiplied by: the minima, or the scales, to take the offset off.
        let beside = _mm256_cvtepi8_epi16(if F::MINIMA { least } else { scales });
        let spread = spread::<F>(scales);
        for i in 0..M {
            let mut dots = [_mm512_setzero_si512(); 4];
            for v in 0..4 {
                // SAFETY: guaranteed by the caller.
                let x = unsafe { _mm512_loadu_si512(x[i].add(64 * v).cast()) };
                dots[v] = _mm512_dpbusd_epi32(dots[v], codes[v], x);
            }
            let mut sum = scaled::<F>(dots, &spread);
            // SAFETY: guaranteed by the caller.
            let sums = unsafe { _mm256_loadu_si256(s[i].cast()) };
            let beside = _mm256_madd_epi16(beside, sums);
            if F::MINIMA {
                minima[i][r] = beside;
            } else {
                let shift = _mm256_set1_epi32(F::OFFSET.trailing_zeros() as i32);
                sum = _mm512_sub_epi32(sum, _mm512_zextsi256_si512(_mm256_sllv_epi32(beside, shift)));
            }
            products[i][r] = sum;
        }
    }
    let mut sums = ([_mm_setzero_si128(); M], [_mm_setzero_si128(); M]);
    for i in 0..M {
        sums.0[i] = add_across(transposed(products[i]));
        if F::MINIMA {
            sums.1[i] = add_across_half(minima[i]);
        }
    }
    sums
}

/// The scales in the lanes of the sums they multiply: of 16 bits for pairs of vectors, of 32 bits for single ones.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
fn spread<F: Large>(scales: __m128i) -> [__m512i; 4] {
    let all = _mm512_broadcast_i32x4(scales);
    let mut spread = [all; 4];
    for pair in 0..2 {
        // SAFETY: a pattern has 64 bytes.
        let places = unsafe { _mm512_loadu_si512(const { &F::SPREAD }[pair].as_ptr().cast()) };
        let lanes = _mm512_shuffle_epi8(all, places);
        let lanes = if F::SIGNED { _mm512_srai_epi16::<8>(lanes) } else { lanes };
        if F::NARROW {
            spread[pair] = lanes;
            continue;
        }
        // In each quarter, four lanes are of the first vector and four of the second; they are extended to 32 bits.
        spread[2 * pair] = _mm512_srai_epi32::<16>(_mm512_unpacklo_epi16(lanes, lanes));
        spread[2 * pair + 1] = _mm512_srai_epi32::<16>(_mm512_unpackhi_epi16(lanes, lanes));
    }
    spread
}

/// The sum of four vectors of sums, each multiplied by its scale.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
fn scaled<F: Large>(dots: [__m512i; 4], spread: &[__m512i; 4]) -> __m512i {
    if F::NARROW {
        let first = _mm512_madd_epi16(_mm512_packs_epi32(dots[0], dots[1]), spread[0]);
        return _mm512_dpwssd_epi32(first, _mm512_packs_epi32(dots[2], dots[3]), spread[1]);
    }
    let mut sum = _mm512_setzero_si512();
    for v in 0..4 {
        sum = _mm512_add_epi32(sum, _mm512_mullo_epi32(dots[v], spread[v]));
    }
    sum
}

/// In each quarter, the sums of the quarters of four vectors.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
pub(super) fn transposed(v: [__m512i; 4]) -> __m512i {
    let a = _mm512_add_epi32(_mm512_unpacklo_epi32(v[0], v[1]), _mm512_unpackhi_epi32(v[0], v[1]));
    let b = _mm512_add_epi32(_mm512_unpacklo_epi32(v[2], v[3]), _mm512_unpackhi_epi32(v[2], v[3]));
    _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b))
}

/// The sum of the quarters.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
fn add_across(v: __m512i) -> __m128i {
    let half = _mm256_add_epi32(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64::<1>(v));
    _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256::<1>(half))
}

/// The sums of four vectors of eight lanes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
fn add_across_half(v: [__m256i; 4]) -> __m128i {
    let a = _mm256_add_epi32(_mm256_unpacklo_epi32(v[0], v[1]), _mm256_unpackhi_epi32(v[0], v[1]));
    let b = _mm256_add_epi32(_mm256_unpacklo_epi32(v[2], v[3]), _mm256_unpackhi_epi32(v[2], v[3]));
    let half = _mm256_add_epi32(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
    _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256::<1>(half))
}
