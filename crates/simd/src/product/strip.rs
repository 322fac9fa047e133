//! The register tile on its own, for kernels with their own cache blocking: `R` rows by two vectors of columns.

use super::Matrix;
use super::streamed::Cached;
use crate::Lanes;

/// `acc[r] += Σ_i a[r, i] (b₀[i], b₁[i])` for `i < k`, ascending: `R` rows of `a` by two vectors of columns.
///
/// Row `i` of the right factor is the vector at `b₀[i · step]` and the one at `b₁[i · step]`. Panics if an operand is
/// too short.
#[inline(always)]
pub fn strip<S: Lanes, const R: usize>(
    s: S,
    a: Matrix<'_>,
    k: usize,
    b: [&[f32]; 2],
    step: usize,
    mut acc: [[S::V; 2]; R],
) -> [[S::V; 2]; R] {
    if k == 0 {
        return acc;
    }
    assert!(a.data.len() > (R - 1) * a.row + (k - 1) * a.col);
    assert!(b.iter().all(|b| b.len() >= (k - 1) * step + S::LANES));
    for i in 0..k {
        // SAFETY: i < k, and the assertion above.
        let [b0, b1] = b.map(|b| s.load(unsafe { b.get_unchecked(i * step..i * step + S::LANES) }));
        for (r, acc) in acc.iter_mut().enumerate() {
            // SAFETY: r < R and i < k, and the assertion above.
            let x = s.splat(unsafe { *a.data.get_unchecked(r * a.row + i * a.col) });
            acc[0] = s.fma(x, b0, acc[0]);
            acc[1] = s.fma(x, b1, acc[1]);
        }
    }
    acc
}

/// Packs up to [`Lanes::LANES`] rows of `k` elements as the columns of a panel `[k, LANES]`; missing rows are zero.
#[inline(always)]
pub fn pack_transposed<S: Lanes, W: Cached>(s: S, rows: &[&[W]], k: usize, panel: &mut [f32]) {
    let mut at = 0;
    if rows.len() == S::LANES && S::LANES > 1 {
        while at + S::LANES <= k {
            let mut tile = [s.splat(0.0); 16];
            for (tile, row) in tile.iter_mut().zip(rows) {
                *tile = W::load_at(s, row, at);
            }
            s.transpose(&tile[..S::LANES], &mut panel[at * S::LANES..], S::LANES);
            at += S::LANES;
        }
    }
    for i in at..k {
        let column = &mut panel[i * S::LANES..(i + 1) * S::LANES];
        for (r, place) in column.iter_mut().enumerate() {
            *place = if r < rows.len() { W::number(rows[r], i) } else { 0.0 };
        }
    }
}

/// Widens a row to f32.
#[inline(always)]
pub fn widen<S: Lanes, W: Cached>(s: S, row: &[W], out: &mut [f32]) {
    let width = row.len() * W::NUMBERS;
    let whole = width / S::LANES * S::LANES;
    for at in (0..whole).step_by(S::LANES) {
        s.store(&mut out[at..], W::load_at(s, row, at));
    }
    for (at, place) in out[..width].iter_mut().enumerate().skip(whole) {
        *place = W::number(row, at);
    }
}
