//! Few rows by blocks of 32 where they lie, four blocks at a time.

use std::arch::x86_64::*;

use super::super::operand::SLOTS;
use super::few_large::{finish, transposed};
use super::{Left, Small, Task, factors, moved, words};

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
    let left: Left<M> = task.left(0, M, 0);
    let ahead = 4 * task.row_bytes.max(1024);
    for j in (0..columns).step_by(4) {
        let rows: [*const u8; 4] = task.rows(j);
        let mut y = [_mm_setzero_ps(); M];
        for g in 0..blocks / GROUP {
            let at = moved(rows, g * GROUP * F::BYTES);
            for row in at {
                for line in (0..GROUP * F::BYTES).step_by(64) {
                    _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(ahead + line).cast());
                }
            }
            // SAFETY: there are four blocks at each address, and a group of every row of the left factor.
            y = unsafe { group::<F, M>(at, &left, g, GROUP, y) };
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
            y = unsafe { group::<F, M>(addresses(&room), &left, first / GROUP, blocks - first, y) };
        }
        finish(task, j, y, out);
    }
}

/// Adds the products with `count` blocks of each of four rows of weights.
///
/// # Safety
/// The CPU has the features; there are four blocks at each of `blocks`, and group `g` of each row of `left`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
unsafe fn group<F: Small, const M: usize>(
    blocks: [*const u8; 4],
    left: &Left<M>,
    g: usize,
    count: usize,
    mut y: [__m128; M],
) -> [__m128; M] {
    let mut products = [[_mm512_setzero_si512(); 4]; M];
    for r in 0..4 {
        // SAFETY: guaranteed by the caller.
        let codes = unsafe { F::codes(blocks[r]) };
        for i in 0..M {
            // SAFETY: guaranteed by the caller; with an offset there are as many starts as slots.
            unsafe {
                let start = match F::OFFSET {
                    0 => _mm512_setzero_si512(),
                    _ => _mm512_loadu_si512(left.starts[i].add(g * SLOTS).cast()),
                };
                let first = _mm512_dpbusd_epi32(start, codes[0], _mm512_loadu_si512(left.codes[i].add(128 * g).cast()));
                let second = _mm512_loadu_si512(left.codes[i].add(128 * g + 64).cast());
                products[i][r] = _mm512_dpbusd_epi32(first, codes[1], second);
            }
        }
    }
    let (mut d, mut m) = ([0; GROUP], [0; GROUP]);
    for b in 0..GROUP {
        // SAFETY: guaranteed by the caller; in a format with minima they follow the factor.
        unsafe {
            d[b] = factors::<F>(blocks, b * F::BYTES);
            if F::MINIMA {
                m[b] = words(blocks, b * F::BYTES + 2);
            }
        }
    }
    // SAFETY: guaranteed by the caller.
    let d = unsafe { F::widen(_mm256_setr_epi64x(d[0], d[1], d[2], d[3])) };
    let m = _mm512_cvtph_ps(_mm256_setr_epi64x(m[0], m[1], m[2], m[3]));
    let quarter = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    for i in 0..M {
        // SAFETY: there are four factors for each group.
        let a = unsafe { _mm_loadu_ps(left.factors[i].add(GROUP * g)) };
        let a = _mm512_permutexvar_ps(quarter, _mm512_castps128_ps512(a));
        let sums = _mm512_cvtepi32_ps(transposed(products[i]));
        let (sums, by) = (lanes(sums), lanes(_mm512_mul_ps(d, a)));
        if !F::MINIMA {
            for b in 0..count {
                y[i] = _mm_fmadd_ps(by[b], sums[b], y[i]);
            }
            continue;
        }
        // SAFETY: there are as many sums as slots.
        let of_x = unsafe { _mm_cvtepi16_epi32(_mm_loadl_epi64(left.sums[i].add(g * SLOTS).cast())) };
        let of_x = _mm512_castps128_ps512(_mm_cvtepi32_ps(of_x));
        let of_x = lanes(_mm512_permutexvar_ps(quarter, of_x));
        let base = lanes(_mm512_mul_ps(m, a));
        for b in 0..count {
            y[i] = _mm_fmadd_ps(base[b], of_x[b], _mm_fmadd_ps(by[b], sums[b], y[i]));
        }
    }
    y
}

/// The addresses of four buffers.
#[inline(always)]
fn addresses(rooms: &[[u8; MOST]; 4]) -> [*const u8; 4] {
    rooms.each_ref().map(|room| room.as_ptr())
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
