//! Rows of a pass's matrix: a few vectors of columns, of which a single one may be partial.

use std::ops::Range;

use longreach_simd::Lanes;

use super::{COLUMNS, WHOLE};

/// The end of `N` vectors of columns from `at` on. Only a single vector may be partial.
#[inline(always)]
pub(super) fn columns_end<S: Lanes, const N: usize>(at: usize, columns: usize) -> usize {
    if N == 1 { (at + S::LANES).min(columns) } else { at + N * S::LANES }
}

/// `N` vectors of a row, of which a single one may be partial. The slice has a length that is known at compile time,
/// so that loads and stores are not bounds-checked one by one and the loop over rows stays one block. Callers take
/// rows from `chunks_exact_mut` by hand: zipped with their index, each row would cost a multiplication.
#[inline(always)]
pub(super) fn cells<S: Lanes, const N: usize>(row: &mut [f32], from: usize, width: usize) -> &mut [f32] {
    &mut row[from..][..if N == 1 { width } else { N * S::LANES }]
}

/// Adds a token's writes to row `r`.
#[inline(always)]
pub(super) fn write<S: Lanes, const N: usize, const W: usize>(
    s: S,
    u: &[&[f32]; W],
    r: usize,
    y: &[[S::V; N]; W],
    x: &mut [S::V; N],
) {
    for m in 0..W {
        let u = s.splat(u[m][r]);
        for i in 0..N {
            x[i] = s.fma(u, y[m][i], x[i]);
        }
    }
}

/// Adds row `r` to a token's reads.
#[inline(always)]
pub(super) fn read<S: Lanes, const N: usize, const P: usize>(
    s: S,
    p: &[&[f32]; P],
    r: usize,
    x: &[S::V; N],
    sum: &mut [[S::V; N]; P],
) {
    for m in 0..P {
        let p = s.splat(p[m][r]);
        for i in 0..N {
            sum[m][i] = s.fma(p, x[i], sum[m][i]);
        }
    }
}

/// The factors of a block of columns, where they are the same for all rows.
#[inline(always)]
pub(super) fn factors<S: Lanes, const BY: u8, const N: usize>(s: S, by: &[f32], columns: Range<usize>) -> [S::V; N] {
    let mut factors = [s.splat(if BY == WHOLE { by[0] } else { 1.0 }); N];
    if BY == COLUMNS {
        load(s, &by[columns], &mut factors);
    }
    factors
}

/// Loads `N` vectors, of which a single one may be partial.
#[inline(always)]
pub(super) fn load<S: Lanes, const N: usize>(s: S, x: &[f32], v: &mut [S::V; N]) {
    if N == 1 {
        v[0] = s.load_part(x);
        return;
    }
    for (i, v) in v.iter_mut().enumerate() {
        *v = s.load(&x[i * S::LANES..]);
    }
}

/// Stores `N` vectors, of which a single one may be partial.
#[inline(always)]
pub(super) fn store<S: Lanes, const N: usize>(s: S, v: &[S::V; N], x: &mut [f32]) {
    if N == 1 {
        s.store_part(x, v[0]);
        return;
    }
    for (i, v) in v.iter().enumerate() {
        s.store(&mut x[i * S::LANES..], *v);
    }
}

/// The transpose of `[rows, columns]`.
#[inline(always)]
pub(in crate::fast_weights) fn transpose<S: Lanes>(s: S, matrix: &[f32], columns: usize, out: &mut [f32]) {
    let (rows, n) = (matrix.len() / columns.max(1), S::LANES);
    // Whole tiles first, then the remaining elements one by one.
    let (tall, wide) = (rows / n * n, columns / n * n);
    let mut tile = [s.splat(0.0); 16];
    for r in (0..tall).step_by(n) {
        for c in (0..wide).step_by(n) {
            for (i, row) in tile[..n].iter_mut().enumerate() {
                *row = s.load(&matrix[(r + i) * columns + c..]);
            }
            s.transpose(&tile[..n], &mut out[c * rows + r..], rows);
        }
    }
    for r in 0..rows {
        for c in if r < tall { wide } else { 0 }..columns {
            out[c * rows + r] = matrix[r * columns + c];
        }
    }
}
