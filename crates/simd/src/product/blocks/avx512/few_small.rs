//! Few rows by blocks of 32 where they lie, four blocks at a time.

use std::arch::x86_64::*;

use super::super::operand::SLOTS;
use super::few_large::{finish, transposed};
use super::{Small, Task};

/// Blocks of a group.
const GROUP: usize = 4;
/// Bytes of the longest group.
const MOST: usize = GROUP * 34;

/// The product of `M` rows of `x`.
///
/// # Safety
/// The CPU must have AVX-512 F, BW, DQ, VL and VNNI, and the left factor must be made by [`plan`](super::plan).
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
pub(super) unsafe fn product<F: Small, const M: usize>(task: &Task<'_>, out: &mut [&mut [f32]]) {
    assert_eq!(out.len(), M);
    let (columns, blocks) = (task.columns(), task.row_bytes / F::BYTES);
    assert!(task.x.groups == blocks.div_ceil(GROUP) && GROUP * F::BYTES <= MOST);
    let x: [Row; M] = std::array::from_fn(|i| Row {
        codes: task.x.codes(task.row + i).as_ptr(),
        sums: task.x.sums(task.row + i).as_ptr(),
        starts: task.x.starts(task.row + i).as_ptr(),
        factors: task.x.factors(task.row + i).as_ptr(),
    });
    let ahead = 4 * task.row_bytes.max(1024);
    for j in (0..columns).step_by(4) {
        let rows: [*const u8; 4] = task.rows(j);
        let mut y = [_mm_setzero_ps(); M];
        for g in 0..blocks / GROUP {
            let at = rows.map(|row| row.wrapping_add(g * GROUP * F::BYTES));
            for row in at {
                for line in (0..GROUP * F::BYTES).step_by(64) {
                    _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(ahead + line).cast());
                }
            }
            // SAFETY: there are four blocks at each address, and a group of every row of the left factor.
            y = unsafe { group::<F, M>(at, &x, g, GROUP, y) };
        }
        if blocks % GROUP > 0 {
            // The last group is copied to where it may be read beyond its end.
            let first = blocks / GROUP * GROUP;
            let mut room = [[0; MOST]; 4];
            for (r, room) in room.iter_mut().enumerate() {
                let row = (j + r).min(columns - 1);
                let rest = &task.w[row * task.row_bytes..][..task.row_bytes][first * F::BYTES..];
                room[..rest.len()].copy_from_slice(rest);
            }
            // SAFETY: there is room for four blocks, and the left factor is filled up.
            y = unsafe {
                group::<F, M>(room.each_ref().map(|room| room.as_ptr()), &x, first / GROUP, blocks - first, y)
            };
        }
        finish(task, j, y, out);
    }
}

/// Where a row of the left factor is.
struct Row {
    codes: *const i8,
    sums: *const i16,
    starts: *const i32,
    factors: *const f32,
}

/// Adds the products with `count` blocks of each of four rows of weights.
///
/// # Safety
/// The CPU has the features; there are four blocks at each of `blocks`, and group `g` of each of `x`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
unsafe fn group<F: Small, const M: usize>(
    blocks: [*const u8; 4],
    x: &[Row; M],
    g: usize,
    count: usize,
    mut y: [__m128; M],
) -> [__m128; M] {
    let mut products = [[_mm512_setzero_si512(); 4]; M];
    for r in 0..4 {
        // SAFETY: guaranteed by the caller.
        let codes = unsafe { F::codes(blocks[r]) };
        for (products, x) in products.iter_mut().zip(x) {
            // SAFETY: guaranteed by the caller; with an offset there are as many starts as slots.
            unsafe {
                let start = match F::OFFSET {
                    0 => _mm512_setzero_si512(),
                    _ => _mm512_loadu_si512(x.starts.add(g * SLOTS).cast()),
                };
                let halves = [0, 64].map(|at| _mm512_loadu_si512(x.codes.add(128 * g + at).cast()));
                products[r] = _mm512_dpbusd_epi32(start, codes[0], halves[0]);
                products[r] = _mm512_dpbusd_epi32(products[r], codes[1], halves[1]);
            }
        }
    }
    // SAFETY: guaranteed by the caller.
    let factors = unsafe { F::widen(quarters(|b, r| F::factor(blocks[r].add(b * F::BYTES)))) };
    let minima = match F::MINIMA {
        // SAFETY: as above; in a format with minima they follow the factor.
        true => {
            _mm512_cvtph_ps(quarters(|b, r| unsafe { blocks[r].add(b * F::BYTES + 2).cast::<u16>().read_unaligned() }))
        }
        false => _mm512_setzero_ps(),
    };
    let quarter = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    for (i, x) in x.iter().enumerate() {
        // SAFETY: there are four factors for each group.
        let a = unsafe { _mm_loadu_ps(x.factors.add(GROUP * g)) };
        let a = _mm512_permutexvar_ps(quarter, _mm512_castps128_ps512(a));
        let sums = _mm512_cvtepi32_ps(transposed(products[i]));
        let (sums, by) = (lanes(sums), lanes(_mm512_mul_ps(factors, a)));
        if !F::MINIMA {
            for b in 0..count {
                y[i] = _mm_fmadd_ps(by[b], sums[b], y[i]);
            }
            continue;
        }
        // SAFETY: there are as many sums as slots.
        let of_x = unsafe { _mm_cvtepi16_epi32(_mm_loadl_epi64(x.sums.add(g * SLOTS).cast())) };
        let of_x = _mm512_castps128_ps512(_mm_cvtepi32_ps(of_x));
        let of_x = lanes(_mm512_permutexvar_ps(quarter, of_x));
        let base = lanes(_mm512_mul_ps(minima, a));
        for b in 0..count {
            y[i] = _mm_fmadd_ps(base[b], of_x[b], _mm_fmadd_ps(by[b], sums[b], y[i]));
        }
    }
    y
}

/// Sixteen halves: block `b` of row `r` at `4 b + r`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
fn quarters(f: impl Fn(usize, usize) -> u16) -> __m256i {
    let word = |b| {
        let bits: [u64; 4] = std::array::from_fn(|r| u64::from(f(b, r)));
        (bits[0] | bits[1] << 16 | bits[2] << 32 | bits[3] << 48) as i64
    };
    _mm256_setr_epi64x(word(0), word(1), word(2), word(3))
}

/// The quarters of a vector.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
fn lanes(v: __m512) -> [__m128; 4] {
    [
        _mm512_castps512_ps128(v),
        _mm512_extractf32x4_ps::<1>(v),
        _mm512_extractf32x4_ps::<2>(v),
        _mm512_extractf32x4_ps::<3>(v),
    ]
}
