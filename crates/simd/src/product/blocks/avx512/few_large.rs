//! Few rows by blocks of 256 where they lie.

use std::arch::x86_64::*;

use super::super::operand::SLOTS;
use super::{Large, Task};

/// The product of `M` rows of `x`.
///
/// # Safety
/// The CPU must have AVX-512 F, BW, DQ, VL and VNNI, and the left factor must be made by [`plan`](super::plan).
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
pub(super) unsafe fn product<F: Large, const M: usize>(task: &Task<'_>, out: &mut [&mut [f32]]) {
    assert_eq!(out.len(), M);
    let (columns, groups) = (task.columns(), task.x.groups);
    assert_eq!(task.row_bytes, groups * F::BYTES);
    let codes: [*const i8; M] = std::array::from_fn(|i| task.x.codes(task.row + i).as_ptr());
    let sums: [*const i16; M] = std::array::from_fn(|i| task.x.sums(task.row + i).as_ptr());
    let factors: [&[f32]; M] = std::array::from_fn(|i| task.x.factors(task.row + i));
    // The hardware follows a row, but not to the next: the same place four rows further on is asked for.
    let ahead = 4 * task.row_bytes.max(1024);
    for j in (0..columns).step_by(4) {
        let rows: [*const u8; 4] = task.rows(j);
        let mut y = [_mm_setzero_ps(); M];
        for g in 0..groups {
            let blocks = rows.map(|row| row.wrapping_add(g * F::BYTES));
            let x = std::array::from_fn(|i| codes[i].wrapping_add(g * 256));
            let s = std::array::from_fn(|i| sums[i].wrapping_add(g * SLOTS));
            // SAFETY: every row has `groups` blocks, and so has every row of the left factor.
            let (products, minima) = unsafe { group::<F, M>(blocks, x, s, ahead) };
            // SAFETY: as above.
            let d = unsafe { halves(blocks, F::FACTORS) };
            for i in 0..M {
                let a = _mm_set1_ps(factors[i][g]);
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
    // SAFETY: guaranteed by the caller; the loads are unaligned.
    let bits = blocks.map(|block| u64::from(unsafe { block.add(at).cast::<u16>().read_unaligned() }));
    let all = bits[0] | bits[1] << 16 | bits[2] << 32 | bits[3] << 48;
    _mm_maskz_cvtph_ps(0xf, _mm_cvtsi64_si128(all as i64))
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
            // SAFETY: guaranteed by the caller.
            let dots: [__m512i; 4] = std::array::from_fn(|v| unsafe {
                let x = _mm512_loadu_si512(x[i].add(64 * v).cast());
                _mm512_dpbusd_epi32(_mm512_setzero_si512(), codes[v], x)
            });
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
    (products.map(|products| add_across(transposed(products))), minima.map(|minima| add_across_half(minima)))
}

/// The scales in the lanes of the sums they multiply: of 16 bits for pairs of vectors, of 32 bits for single ones.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
fn spread<F: Large>(scales: __m128i) -> [__m512i; 4] {
    let all = _mm512_broadcast_i32x4(scales);
    let narrow = F::SPREAD.each_ref().map(|places| {
        // SAFETY: a pattern has 64 bytes.
        let lanes = _mm512_shuffle_epi8(all, unsafe { _mm512_loadu_si512(places.as_ptr().cast()) });
        if F::SIGNED { _mm512_srai_epi16::<8>(lanes) } else { lanes }
    });
    let [a, b] = narrow;
    if F::NARROW {
        return [a, b, a, b];
    }
    // In each quarter, four lanes of the first vector and four of the second, all alike: two of either are unpacked.
    let first = |lanes| _mm512_srai_epi32::<16>(_mm512_unpacklo_epi16(lanes, lanes));
    let second = |lanes| _mm512_srai_epi32::<16>(_mm512_unpackhi_epi16(lanes, lanes));
    [first(a), second(a), first(b), second(b)]
}

/// The sum of four vectors of sums, each multiplied by its scale.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
fn scaled<F: Large>(dots: [__m512i; 4], spread: &[__m512i; 4]) -> __m512i {
    if F::NARROW {
        let first = _mm512_madd_epi16(_mm512_packs_epi32(dots[0], dots[1]), spread[0]);
        return _mm512_dpwssd_epi32(first, _mm512_packs_epi32(dots[2], dots[3]), spread[1]);
    }
    let products: [__m512i; 4] = std::array::from_fn(|v| _mm512_mullo_epi32(dots[v], spread[v]));
    _mm512_add_epi32(_mm512_add_epi32(products[0], products[1]), _mm512_add_epi32(products[2], products[3]))
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
