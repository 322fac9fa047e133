//! The product of many rows and bf16 weights on machines that multiply in bf16: `x` is rounded, the sums are f32.
//!
//! $$ y_{ij} = \sum_k \mathrm{bf16}(x_{ik})\, w_{jk} + b_j $$
//!
//! The weights are the left factor of the blocks, because tiles of a left factor are rows as they lie in memory; only
//! `x` is transposed, once, and the sums when they are done. A sum is one chain over `k` in ascending order, in steps of
//! 32 that depend on nothing but `k`; zeros fill the last one.

use half::bf16;

use super::Sizes;
use crate::norm::Rows;
use crate::team::Scratch;
use crate::tile::{Bf16Blocks, Part, SIDE, STEP, STEP_BF16, SUMS, Start, Sums, TILE, cuts, depth};
use crate::{Cx, Kernel, Lanes, split};

/// `x` in panels of 32 rows, rounded: `[panel][step][2 tiles][16][16 rows]`, where an element is a pair of bf16.
struct Packed {
    data: Scratch,
    steps: usize,
}

/// The product, where `open` prepares a thread to multiply blocks.
pub(super) fn linear<B: Bf16Blocks>(
    cx: &Cx,
    open: impl Fn() -> B + Sync,
    x: Rows<'_>,
    w: &[bf16],
    bias: Option<&[f32]>,
    out: &mut [f32],
) {
    let n = out.len() / x.count;
    let packed = pack(cx, x);
    let [rows, columns] = cuts(cx.team.threads(), x.count, n);
    let mut tasks = Vec::new();
    for (i, block) in out.chunks_mut(rows * n).enumerate() {
        let parts = split::columns(block, n, columns);
        tasks.extend(parts.into_iter().enumerate().map(|(j, part)| (i * rows, j * columns, part)));
    }
    cx.team.for_each(tasks, |(row, column, mut out)| {
        let size = Sizes { m: out.len(), n: out[0].len(), k: x.width };
        let panels = &packed.data[row / SIDE * packed.steps * STEP..];
        let w = &w[column * x.width..][..size.n * x.width];
        let bias = bias.map(|bias| &bias[column..][..size.n]);
        cx.isa.run(Task { size, blocks: &open(), x: panels, w, bias, out: &mut out });
    });
}

fn pack(cx: &Cx, x: Rows<'_>) -> Packed {
    let steps = x.width.div_ceil(STEP_BF16);
    let mut data = Scratch::new(x.count.div_ceil(SIDE) * steps * STEP);
    cx.team.for_each(data.chunks_mut(steps * STEP).enumerate(), |(i, panel)| {
        cx.isa.run(PackPanel { x, first: i * SIDE, panel });
    });
    Packed { data, steps }
}

/// Rounds the rows of `x` from `first` on and transposes them. Rows that do not exist become zero.
struct PackPanel<'a> {
    x: Rows<'a>,
    first: usize,
    panel: &'a mut [f32],
}

impl Kernel for PackPanel<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(self, s: S) {
        let Self { x, first, panel } = self;
        let width = panel.len() / STEP * TILE;
        let mut rounded = Scratch::new(TILE * width);
        for half in 0..2 {
            let from = first + half * TILE;
            let count = x.count.saturating_sub(from).min(TILE);
            for r in 0..count {
                round_row(x.row(from + r), &mut rounded.bytes_mut()[4 * r * width..4 * (r + 1) * width]);
            }
            rounded[count * width..].fill(0.0);
            for (step, tiles) in panel.chunks_exact_mut(STEP).enumerate() {
                let tile = &mut tiles[half * TILE * TILE..][..TILE * TILE];
                transpose_tile(s, &rounded[step * TILE..], width, tile, TILE);
            }
        }
    }
}

/// Rounds to bf16, ties to even; NaN stays NaN. Fills the rest with zeros.
#[inline(always)]
fn round_row(row: &[f32], to: &mut [u8]) {
    let (to, beyond) = to.split_at_mut(2 * row.len());
    for (x, to) in row.iter().zip(to.chunks_exact_mut(2)) {
        let bits = x.to_bits();
        let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
        let quiet = bits >> 16 | 0x40;
        let bits = if x.is_nan() { quiet } else { rounded };
        to.copy_from_slice(&(bits as u16).to_le_bytes());
    }
    beyond.fill(0);
}

/// Transposes 16 rows of 16, `ld` apart, into rows `to_ld` apart.
#[inline(always)]
fn transpose_tile<S: Lanes>(s: S, rows: &[f32], ld: usize, to: &mut [f32], to_ld: usize) {
    for i in (0..TILE).step_by(S::LANES) {
        for k in (0..TILE).step_by(S::LANES) {
            let mut tile = [s.splat(0.0); TILE];
            for (r, v) in tile.iter_mut().take(S::LANES).enumerate() {
                *v = s.load(&rows[(i + r) * ld + k..][..S::LANES]);
            }
            s.transpose(&tile[..S::LANES], &mut to[k * to_ld + i..], to_ld);
        }
    }
}

/// A task: `m` rows of packed `x` by `n` rows of weights.
struct Task<'a, 'o, B> {
    size: Sizes,
    blocks: &'a B,
    x: &'a [f32],
    w: &'a [bf16],
    bias: Option<&'a [f32]>,
    out: &'a mut [&'o mut [f32]],
}

impl<B: Bf16Blocks> Kernel for Task<'_, '_, B> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(self, s: S) {
        let Self { size, blocks, x, w, bias, out } = self;
        let (panels, strips, steps) = (size.m.div_ceil(SIDE), size.n.div_ceil(SIDE), size.k.div_ceil(STEP_BF16));
        let deep = depth(steps);
        let mut left = Scratch::new(strips * deep * STEP);
        // Sums wait only if they are continued.
        let mut sums = Scratch::new(if steps > deep { panels * strips * SUMS } else { SUMS });
        for first in (0..steps).step_by(deep) {
            let count = deep.min(steps - first);
            copy_weights(w, size, first, count, &mut left);
            let start = if first == 0 { Start::Zero } else { Start::Sums };
            let done = first + count == steps;
            for i in 0..panels {
                let b = &x[(i * steps + first) * STEP..][..count * STEP];
                let columns = Part::with(size.m - i * SIDE);
                for (j, a) in left.chunks_exact(count * STEP).take(strips).enumerate() {
                    let at = if steps > deep { (i * strips + j) * SUMS } else { 0 };
                    let sums: &mut Sums = (&mut sums[at..at + SUMS]).try_into().expect("a block");
                    blocks.multiply(a, b, columns, start, sums);
                    if done {
                        let rows = i * SIDE..size.m.min((i + 1) * SIDE);
                        store(s, sums, j * SIDE, bias, &mut out[rows]);
                    }
                }
            }
        }
    }
}

/// Copies some steps of the weights in strips of 32 rows: `[strip][step][32 rows][16]`. Rows and columns that do not
/// exist become zero.
#[inline(always)]
fn copy_weights(w: &[bf16], size: Sizes, first: usize, count: usize, left: &mut Scratch) {
    let row_bytes = 4 * TILE;
    let (start, end) = (first * STEP_BF16, size.k.min((first + count) * STEP_BF16));
    for (j, strip) in left.bytes_mut().chunks_exact_mut(count * 4 * STEP).take(size.n.div_ceil(SIDE)).enumerate() {
        for r in 0..SIDE {
            let row = j * SIDE + r;
            let row = if row < size.n { bytes(&w[row * size.k..][start..end]) } else { &[] };
            for (step, tiles) in strip.chunks_exact_mut(4 * STEP).enumerate() {
                let to = &mut tiles[r * row_bytes..][..row_bytes];
                let from = &row[row.len().min(step * row_bytes)..];
                if let Some(from) = from.first_chunk::<{ 4 * TILE }>() {
                    to.copy_from_slice(from);
                } else {
                    to[..from.len()].copy_from_slice(from);
                    to[from.len()..].fill(0);
                }
            }
        }
    }
}

/// The weights as they lie in memory.
#[inline(always)]
fn bytes(w: &[bf16]) -> &[u8] {
    // SAFETY: these are the initialised bytes of a borrowed slice, and bytes need no alignment.
    unsafe { std::slice::from_raw_parts(w.as_ptr().cast(), size_of_val(w)) }
}

/// Writes the sums of a block, whose rows are columns of the product from `column` on, to rows of the product.
#[inline(always)]
fn store<S: Lanes>(s: S, sums: &Sums, column: usize, bias: Option<&[f32]>, out: &mut [&mut [f32]]) {
    let mut rows = Scratch::new(SUMS);
    for half in (0..SIDE).step_by(TILE).take(out.len().div_ceil(TILE)) {
        for j in (0..SIDE).step_by(TILE) {
            transpose_tile(s, &sums[j * SIDE + half..], SIDE, &mut rows[half * SIDE + j..], SIDE);
        }
    }
    for (out, row) in out.iter_mut().zip(rows.chunks_exact(SIDE)) {
        let width = SIDE.min(out.len() - column);
        let out = &mut out[column..column + width];
        for (at, out) in out.chunks_mut(S::LANES).enumerate() {
            let at = at * S::LANES;
            let mut y = s.load(&row[at..at + S::LANES]);
            if let Some(bias) = bias {
                y = s.add(y, s.load_part(&bias[column + at..][..out.len()]));
            }
            s.store_part(out, y);
        }
    }
}
