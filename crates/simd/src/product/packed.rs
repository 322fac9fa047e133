//! The packed product: the right factor is packed into panels that stay in cache, and multiplied with a register tile.
//!
//! The register tile has `MR` rows by `NV` vectors of columns. The left factor is read in place, one element broadcast
//! at a time; the right one is packed into panels of `NV` vectors by `KC` rows, which stay in the second-level cache
//! (Goto and van de Geijn, 2008).

use super::streamed::Stored;
use super::{Accumulate, Matrix, Sizes, Weights};
use crate::math::copy;
use crate::norm::Rows;
use crate::team::Scratch;
use crate::{Cx, Kernel, Lanes, split};

/// Rows of a panel.
const KC: usize = 1152;
/// Vectors of columns in a register tile.
const NV: usize = 2;
/// Rows of the left factor that are multiplied by a panel while they are in cache.
const MC: usize = 48;

/// With at least this many columns, packing an aliasing left factor pays off.
const PACK_LEFT_FROM: usize = 64;
/// Padding between packed rows of the left factor, which spreads them over the sets of the cache.
const ROW_PADDING: usize = 16;

/// Whether rows of the left factor alias in the first-level cache: at a stride that is a multiple of 2 KiB the lines of
/// a register tile fall into few sets.
#[inline(always)]
fn rows_alias(a: &Matrix<'_>) -> bool {
    a.col == 1 && a.row.is_multiple_of(512)
}

/// The lanes of the widest instruction set.
const MAX_LANES: usize = 16;

/// Columns of a panel.
const fn nr<S: Lanes>() -> usize {
    NV * S::LANES
}

/// Columns that are packed at once.
const NC: usize = 128;

/// Columns of weights that one task packs and multiplies.
const BLOCK: usize = NC;

pub(super) fn linear(cx: &Cx, x: Rows<'_>, w: Weights<'_>, bias: Option<&[f32]>, out: &mut [f32]) {
    let n = out.len() / x.count;
    let columns = n.div_ceil(BLOCK);
    // With few column blocks the rows are split too, so that every thread has work.
    let cuts = (4 * cx.team.threads()).div_ceil(columns).min(x.count.div_ceil(96)).max(1);
    let rows = x.count.div_ceil(cuts).next_multiple_of(12);
    let mut tasks = Vec::with_capacity(columns * cuts);
    for (i, block) in out.chunks_mut(rows * n).enumerate() {
        let parts = split::columns(block, n, BLOCK);
        tasks.extend(parts.into_iter().enumerate().map(|(j, part)| (i, j, part)));
    }
    cx.team.for_each(tasks, |(i, j, mut out)| {
        let size = Sizes { m: out.len(), n: out[0].len(), k: x.width };
        let a = Matrix { data: &x.data[i * rows * x.stride..], row: x.stride, col: 1 };
        let w_range = j * BLOCK * x.width..(j * BLOCK + size.n) * x.width;
        let bias = bias.map(|bias| &bias[j * BLOCK..][..size.n]);
        match w {
            Weights::F32(w) => cx.isa.run(LinearBlock { size, a, w: &w[w_range], bias, out: &mut out }),
            Weights::Bf16(w) => cx.isa.run(LinearBlock { size, a, w: &w[w_range], bias, out: &mut out }),
            Weights::Int8(_) | Weights::Blocks(_) => unreachable!("rounded weights have products of their own"),
        }
    });
}

struct LinearBlock<'a, 'o, W> {
    size: Sizes,
    a: Matrix<'a>,
    w: &'a [W],
    bias: Option<&'a [f32]>,
    out: &'a mut [&'o mut [f32]],
}

impl<W: Stored> Kernel for LinearBlock<'_, '_, W> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(self, s: S) {
        let Self { size, a, w, bias, out } = self;
        let panels = &mut Scratch::new(panel_scratch::<S>(size));
        let start = bias.map_or(Start::Zero, Start::Row);
        blocked(s, size, a, &PackWeights { w, size }, start, &mut RowList(out), panels);
    }
}

/// Size of the scratch buffer for the panels of a product.
pub(super) fn panel_scratch<S: Lanes>(size: Sizes) -> usize {
    size.n.min(NC).next_multiple_of(nr::<S>()) * depth(size.k)
}

#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "the operands of a product, as everywhere in linear algebra")]
pub(super) fn tile<S: Lanes>(
    s: S,
    size: Sizes,
    a: Matrix<'_>,
    b: Matrix<'_>,
    accumulate: Accumulate,
    out: &mut [f32],
    ld: usize,
    panels: &mut [f32],
) {
    let start = if accumulate == Accumulate::Add { Start::Output } else { Start::Zero };
    blocked(s, size, a, &PackMatrix { b, size }, start, &mut Strided { data: out, ld }, panels);
}

/// Packs a block of the right factor into a panel: rows `k .. k + kc` and the columns from `j` on.
trait Pack {
    fn pack<S: Lanes>(&self, s: S, k: usize, kc: usize, j: usize, panel: &mut [f32]);
}

struct PackWeights<'a, W> {
    w: &'a [W],
    size: Sizes,
}

impl<W: Stored> Pack for PackWeights<'_, W> {
    #[inline(always)]
    fn pack<S: Lanes>(&self, s: S, k: usize, kc: usize, j: usize, panel: &mut [f32]) {
        let Sizes { n, k: ld, .. } = self.size;
        pack_rows(s, &self.w[j * ld + k..], ld, (n - j).min(nr::<S>()), kc, panel);
    }
}

struct PackMatrix<'a> {
    b: Matrix<'a>,
    size: Sizes,
}

impl Pack for PackMatrix<'_> {
    #[inline(always)]
    fn pack<S: Lanes>(&self, s: S, k: usize, kc: usize, j: usize, panel: &mut [f32]) {
        let width = (self.size.n - j).min(nr::<S>());
        let b = self.b.from(k, j);
        if b.col == 1 {
            pack_columns(s, b, width, kc, panel);
        } else if b.row == 1 {
            pack_rows(s, b.data, b.col, width, kc, panel);
        } else {
            pack_any::<S>(b, width, kc, panel);
        }
    }
}

/// The initial value of a product's sums.
#[derive(Clone, Copy)]
enum Start<'a> {
    Zero,
    /// The same row for every row of the product: a bias.
    Row(&'a [f32]),
    /// The output's current value.
    Output,
}

/// The rows of the output.
trait Output {
    fn row(&mut self, i: usize) -> &mut [f32];
}

struct RowList<'a, 'o>(&'a mut [&'o mut [f32]]);

impl Output for RowList<'_, '_> {
    #[inline(always)]
    fn row(&mut self, i: usize) -> &mut [f32] {
        self.0[i]
    }
}

struct Strided<'a> {
    data: &'a mut [f32],
    ld: usize,
}

impl Output for Strided<'_> {
    #[inline(always)]
    fn row(&mut self, i: usize) -> &mut [f32] {
        &mut self.data[i * self.ld..]
    }
}

/// The loops around the register tile, for the tile's height.
#[inline(always)]
fn blocked<S: Lanes>(
    s: S,
    size: Sizes,
    a: Matrix<'_>,
    pack: &impl Pack,
    start: Start<'_>,
    out: &mut impl Output,
    panels: &mut [f32],
) {
    // The tallest register tile that leaves registers for the panel's vectors and one broadcast.
    match S::LANES {
        16 => blocked_by::<S, 12>(s, size, a, pack, start, out, panels),
        8 => blocked_by::<S, 6>(s, size, a, pack, start, out, panels),
        _ => blocked_by::<S, 8>(s, size, a, pack, start, out, panels),
    }
}

#[inline(always)]
fn blocked_by<S: Lanes, const MR: usize>(
    s: S,
    size: Sizes,
    a: Matrix<'_>,
    pack: &impl Pack,
    start: Start<'_>,
    out: &mut impl Output,
    panels: &mut [f32],
) {
    let nr = nr::<S>();
    if size.k == 0 {
        for i in 0..size.m {
            match start {
                Start::Zero => out.row(i)[..size.n].fill(0.0),
                Start::Row(row) => out.row(i)[..size.n].copy_from_slice(row),
                Start::Output => {}
            }
        }
    }
    let deep = depth(size.k);
    let packs_left = rows_alias(&a) && size.n >= PACK_LEFT_FROM;
    let left = &mut Scratch::new(if packs_left { MC.min(size.m) * (deep + ROW_PADDING) } else { 0 });
    for j0 in (0..size.n).step_by(NC) {
        let columns = j0..size.n.min(j0 + NC);
        for k in (0..size.k).step_by(deep) {
            let kc = deep.min(size.k - k);
            for j in columns.clone().step_by(nr) {
                pack.pack(s, k, kc, j, &mut panels[(j - j0) * kc..(j - j0 + nr) * kc]);
            }
            let start = if k == 0 { start } else { Start::Output };
            for i0 in (0..size.m).step_by(MC) {
                let rows = MC.min(size.m - i0);
                if packs_left {
                    for (r, row) in left.chunks_mut(deep + ROW_PADDING).take(rows).enumerate() {
                        copy(s, &a.from(i0 + r, k).data[..kc], &mut row[..kc]);
                    }
                }
                for j in columns.clone().step_by(nr) {
                    let panel = &panels[(j - j0) * kc..(j - j0 + nr) * kc];
                    let width = nr.min(size.n - j);
                    let mut i = i0;
                    while i < i0 + rows {
                        let m = MR.min(i0 + rows - i);
                        let mut acc = [[s.splat(0.0); NV]; MR];
                        match start {
                            Start::Zero => {}
                            Start::Row(row) => {
                                let row = &row[j..j + width];
                                acc = [[s.load_part(row), s.load_part(&row[S::LANES.min(width)..])]; MR];
                            }
                            Start::Output => {
                                for (r, acc) in acc.iter_mut().enumerate() {
                                    if r < m {
                                        let row = &out.row(i + r)[j..j + width];
                                        acc[0] = s.load_part(row);
                                        acc[1] = s.load_part(&row[S::LANES.min(width)..]);
                                    }
                                }
                            }
                        }
                        let rows = if packs_left {
                            Matrix::rows(&left[(i - i0) * (deep + ROW_PADDING)..], deep + ROW_PADDING)
                        } else {
                            a.from(i, k)
                        };
                        let acc = multiply::<S, MR>(s, rows, m, kc, panel, acc);
                        for (r, acc) in acc.into_iter().enumerate() {
                            if r < m {
                                let row = &mut out.row(i + r)[j..j + width];
                                s.store_part(row, acc[0]);
                                s.store_part(&mut row[S::LANES.min(width)..], acc[1]);
                            }
                        }
                        i += MR;
                    }
                }
            }
        }
    }
}

/// Rows of a panel for a sum over `k`: `k` is split evenly into blocks of whole vectors and of at most [`KC`] rows.
fn depth(k: usize) -> usize {
    k.div_ceil(k.div_ceil(KC).max(1)).next_multiple_of(MAX_LANES).min(k).max(1)
}

/// The register tile: `acc[r] += Σ_k a[r, k] panel[k]`, `k` ascending. Rows from `m` on repeat row `m - 1`.
#[inline(always)]
fn multiply<S: Lanes, const MR: usize>(
    s: S,
    a: Matrix<'_>,
    m: usize,
    kc: usize,
    panel: &[f32],
    mut acc: [[S::V; NV]; MR],
) -> [[S::V; NV]; MR] {
    let nr = nr::<S>();
    assert!(m > 0 && kc > 0 && panel.len() >= kc * nr);
    assert!(a.data.len() > (m - 1) * a.row + (kc - 1) * a.col);
    let mut rows = [a.data.as_ptr(); MR];
    for (r, row) in rows.iter_mut().enumerate() {
        // SAFETY: row min(r, m - 1) starts inside `a`, by the assertion above.
        *row = unsafe { a.data.as_ptr().add(r.min(m - 1) * a.row) };
    }
    let mut at = 0;
    for k in 0..kc {
        // SAFETY: k < kc, and the panel has kc · nr elements, by the assertion above.
        let b = unsafe { panel.get_unchecked(k * nr..k * nr + nr) };
        let b0 = s.load(&b[..S::LANES]);
        let b1 = s.load(&b[S::LANES..]);
        for (acc, row) in acc.iter_mut().zip(&rows) {
            // SAFETY: element (r, k) is inside `a`, by the assertion above.
            let x = s.splat(unsafe { *row.add(at) });
            acc[0] = s.fma(x, b0, acc[0]);
            acc[1] = s.fma(x, b1, acc[1]);
        }
        at += a.col;
    }
    acc
}

/// Packs `width` rows of `w`, each `kc` long and `ld` apart, as the columns of a panel; missing columns are zero.
#[inline(always)]
fn pack_rows<S: Lanes, W: Stored>(s: S, w: &[W], ld: usize, width: usize, kc: usize, panel: &mut [f32]) {
    let nr = nr::<S>();
    for first in (0..nr).step_by(S::LANES) {
        let rows = width.saturating_sub(first).min(S::LANES);
        let mut k = 0;
        if rows == S::LANES {
            while k + S::LANES <= kc {
                let mut tile = [s.splat(0.0); MAX_LANES];
                for (i, row) in tile.iter_mut().take(S::LANES).enumerate() {
                    *row = W::load(s, &w[(first + i) * ld + k..][..S::LANES]);
                }
                s.transpose(&tile[..S::LANES], &mut panel[k * nr + first..], nr);
                k += S::LANES;
            }
        }
        for k in k..kc {
            let out = &mut panel[k * nr + first..][..S::LANES];
            out[rows..].fill(0.0);
            for (i, out) in out[..rows].iter_mut().enumerate() {
                *out = w[(first + i) * ld + k].widen();
            }
        }
    }
}

/// Packs `kc` contiguous rows of `width` elements; missing columns are zero.
#[inline(always)]
fn pack_columns<S: Lanes>(s: S, b: Matrix<'_>, width: usize, kc: usize, panel: &mut [f32]) {
    for (k, out) in panel.chunks_mut(nr::<S>()).take(kc).enumerate() {
        let row = &b.data[k * b.row..k * b.row + width];
        if width == out.len() {
            for (out, row) in out.chunks_exact_mut(S::LANES).zip(row.chunks_exact(S::LANES)) {
                s.store(out, s.load(row));
            }
        } else {
            out[..width].copy_from_slice(row);
            out[width..].fill(0.0);
        }
    }
}

/// Packs a matrix with arbitrary strides.
#[inline(always)]
fn pack_any<S: Lanes>(b: Matrix<'_>, width: usize, kc: usize, panel: &mut [f32]) {
    for (k, out) in panel.chunks_mut(nr::<S>()).take(kc).enumerate() {
        for (j, out) in out.iter_mut().enumerate() {
            *out = if j < width { b.data[k * b.row + j * b.col] } else { 0.0 };
        }
    }
}
