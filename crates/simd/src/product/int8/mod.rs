//! `y = x Wᵀ` with 8-bit weights: one scale per row of `W`, and one per row of `x`, which is quantised dynamically.
//!
//! $$ y_{ij} \approx a_i\, c_j \sum_k \hat x_{ik} \hat w_{jk} + b_j, \qquad \hat x_{ik} = \mathrm{round}(x_{ik} / a_i), \quad a_i = \max_k |x_{ik}| / 127 $$
//!
//! The sums are exact integers: every instruction set, blocking and number of threads gives the same bits. This is the
//! vector-wise quantisation of LLM.int8(), without its outlier decomposition: Dettmers et al. 2022.

use crate::norm::Rows;
use crate::team::Scratch;
use crate::tile::Quads;
use crate::{Cx, Kernel, Lanes, split};

#[cfg(any(target_arch = "x86_64", test))]
pub(super) mod tiles;
#[cfg(target_arch = "x86_64")]
mod vnni;

/// Columns of a panel: two vectors of sixteen.
const NR: usize = 32;
/// Rows of a register tile.
const MR: usize = 12;
/// Bytes whose products one VNNI instruction adds to a lane.
const QUAD: usize = 4;
/// Columns of the product per task.
const BLOCK: usize = 4 * NR;
/// Rows of `x` multiplied by a panel before the next panel is loaded.
#[cfg(target_arch = "x86_64")]
const MC: usize = 192;

/// A matrix `[out, in]` quantised to 8 bits, packed in panels of 32 rows: `[panel][k / 4][row of the panel][4]`.
#[derive(Clone, Debug)]
pub struct Int8 {
    rows: usize,
    width: usize,
    /// One per row.
    scales: Vec<f32>,
    /// The sum of each row's integers, which corrects for the offset of 128 in `x`.
    sums: Vec<i32>,
    /// The quads of each panel, one after another.
    panels: Vec<Quads>,
}

impl Int8 {
    /// The widest row: a sum of this many products of an unsigned and a signed byte fits in 31 bits.
    pub const MAX_WIDTH: usize = 1 << 16;

    /// Quantises `w: [out, in]`, with rows of `width` numbers. Panics if `width` exceeds [`Int8::MAX_WIDTH`].
    pub fn new(cx: &Cx, w: &[f32], width: usize) -> Self {
        let rows = w.len().checked_div(width).unwrap_or(0);
        assert!(width <= Self::MAX_WIDTH, "rows of {width} numbers: their sums of bytes would not fit in 32 bits");
        let quads = width.div_ceil(QUAD);
        let mut panels = vec![Quads::ZERO; rows.div_ceil(NR) * quads];
        let (mut scales, mut sums) = (vec![0.0; rows.div_ceil(NR) * NR], vec![0; rows.div_ceil(NR) * NR]);
        let parts = panels.chunks_mut(quads.max(1)).zip(scales.chunks_mut(NR)).zip(sums.chunks_mut(NR));
        cx.team.for_each(parts.enumerate(), |(p, ((panel, scales), sums))| {
            for (j, row) in w.chunks_exact(width).skip(p * NR).take(NR).enumerate() {
                let (by, inverse) = scale_and_inverse(row.iter().fold(0.0, |most: f32, x| most.max(x.abs())), true);
                scales[j] = by;
                for (k, x) in row.iter().enumerate() {
                    let q = (x * inverse).round_ties_even() as i8;
                    sums[j] += i32::from(q);
                    panel[k / QUAD].0[j][k % QUAD] = q;
                }
            }
        });
        Self { rows, width, scales, sums, panels }
    }

    /// The number of weights.
    pub fn len(&self) -> usize {
        self.rows * self.width
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// `[out, in]`
    pub fn shape(&self) -> [usize; 2] {
        [self.rows, self.width]
    }

    /// The size in bytes.
    pub fn bytes(&self) -> usize {
        size_of_val(&self.panels[..]) + size_of_val(&self.scales[..]) + size_of_val(&self.sums[..])
    }

    /// Writes the weights of row `i`, as many as the matrix is wide. Panics if there is no such row.
    pub fn dequantise_row(&self, i: usize, out: &mut [f32]) {
        assert!(i < self.rows, "row {i} of {}", self.rows);
        assert_eq!(out.len(), self.width, "dequantise: output");
        let panel = &self.panels[i / NR * self.quads()..];
        for (k, out) in out.iter_mut().enumerate() {
            *out = self.scales[i] * f32::from(panel[k / QUAD].0[i % NR][k % QUAD]);
        }
    }

    /// Quads of a row.
    fn quads(&self) -> usize {
        self.width.div_ceil(QUAD)
    }
}

/// `x` quantised to bytes, with an offset of 128 to make them unsigned, and the scale of each row.
struct Quantised {
    data: Scratch,
    /// Distance between rows, in bytes: at least as many as a row has quads.
    stride: usize,
    scales: Scratch,
}

/// Quantises `x` into `count` rows, of which those that `x` lacks keep arbitrary values.
fn quantised(cx: &Cx, x: Rows<'_>, count: usize, stride: usize) -> Quantised {
    let (mut data, mut scales) = (Scratch::new(count * stride / QUAD), Scratch::new(x.count));
    let rows = 16;
    let parts = data.bytes_mut().chunks_mut((rows * stride).max(1)).zip(scales.chunks_mut(rows));
    let fast = cx.isa.has_vnni();
    cx.team.for_each(parts.enumerate(), |(i, (data, scales))| {
        for (r, (data, scale)) in data.chunks_mut(stride.max(1)).zip(scales).enumerate() {
            let row = x.row(i * rows + r);
            let (data, beyond) = data.split_at_mut(x.width);
            beyond.fill(128);
            #[cfg(target_arch = "x86_64")]
            if fast {
                // SAFETY: `has_vnni` implies AVX-512.
                *scale = unsafe { vnni::quantise_row(row, data) };
                continue;
            }
            let _ = fast;
            *scale = cx.isa.run(QuantiseRow { row, data });
        }
    });
    Quantised { data, stride, scales }
}

/// The scale of a row whose largest magnitude is `most`, and its inverse; both are 0 for a row of zeros. The scale of a
/// row with a non-finite element is NaN, which makes all its outputs NaN.
#[inline(always)]
fn scale_and_inverse(most: f32, finite: bool) -> (f32, f32) {
    let by = most / 127.0;
    let inverse = if by > 0.0 && (1.0 / by).is_finite() { 1.0 / by } else { 0.0 };
    let by = if inverse == 0.0 { 0.0 } else { by };
    (if finite { by } else { f32::NAN }, inverse)
}

/// Quantises a row and returns its scale.
struct QuantiseRow<'a> {
    row: &'a [f32],
    data: &'a mut [u8],
}

impl Kernel for QuantiseRow<'_> {
    type Output = f32;
    #[inline(always)]
    fn run<S: Lanes>(self, s: S) -> f32 {
        let Self { row, data } = self;
        let buffer = &mut Scratch::new(row.len());
        let mut most = [0.0; 16];
        for part in row.chunks(S::LANES) {
            let v = s.load_part(part);
            let so_far = s.load_part(&most[..S::LANES]);
            // |x| is the larger of x and −x. Where x is NaN, `max` returns its second operand, the maximum so far.
            s.store_part(&mut most[..S::LANES], s.max(s.max(v, s.sub(s.splat(0.0), v)), so_far));
        }
        let most = most.iter().fold(0.0f32, |a, b| a.max(*b));
        let (by, inverse) = scale_and_inverse(most, row.iter().all(|x| x.is_finite()));
        let (inverse, shift) = (s.splat(inverse), s.splat(128.0));
        for (part, y) in row.chunks(S::LANES).zip(buffer.chunks_mut(S::LANES)) {
            s.store_part(y, s.add(s.round(s.mul(s.load_part(part), inverse)), shift));
        }
        for (byte, y) in data.iter_mut().zip(buffer.iter()) {
            *byte = *y as i32 as u8;
        }
        by
    }
}

pub(super) fn linear(cx: &Cx, x: Rows<'_>, w: &Int8, bias: Option<&[f32]>, out: &mut [f32]) {
    let n = w.rows;
    if x.count == 0 || n == 0 {
        return;
    }
    #[cfg(target_arch = "x86_64")]
    if let Some(amx) = cx.isa.amx() {
        return tiles::linear(cx, || amx.configure(), x, w, bias, out);
    }
    let bytes = quantised(cx, x, x.count, w.quads() * QUAD);
    let columns = n.div_ceil(BLOCK);
    let cuts = (4 * cx.team.threads()).div_ceil(columns).min(x.count.div_ceil(96)).max(1);
    let rows = x.count.div_ceil(cuts).next_multiple_of(MR);
    let fast = cx.isa.has_vnni();
    cx.team.for_each(tasks(out, n, rows, BLOCK), |(row, column, mut out)| {
        let task = Task { bytes: &bytes, w, bias, row, column };
        #[cfg(target_arch = "x86_64")]
        if fast {
            // SAFETY: `has_vnni` implies AVX-512 and VNNI.
            return unsafe { vnni::product(&task, &mut out) };
        }
        let _ = fast;
        cx.isa.run(Portable { task, out: &mut out });
    });
}

/// Cuts the output into blocks of `rows` by `columns`: the first row and column of each, and its rows.
fn tasks(out: &mut [f32], n: usize, rows: usize, columns: usize) -> Vec<(usize, usize, Vec<&mut [f32]>)> {
    let mut tasks = Vec::new();
    for (i, block) in out.chunks_mut(rows * n).enumerate() {
        let parts = split::columns(block, n, columns);
        tasks.extend(parts.into_iter().enumerate().map(|(j, part)| (i * rows, j * columns, part)));
    }
    tasks
}

/// The block of the product that one task computes: rows from `row` on, columns from `column` on.
struct Task<'a> {
    bytes: &'a Quantised,
    w: &'a Int8,
    bias: Option<&'a [f32]>,
    row: usize,
    column: usize,
}

impl Task<'_> {
    /// The quantised row `i`.
    #[inline(always)]
    fn row(&self, i: usize) -> &[u8] {
        &self.bytes.data.bytes()[(self.row + i) * self.bytes.stride..][..self.w.quads() * QUAD]
    }

    /// The panel that starts at column `j`.
    #[inline(always)]
    fn panel(&self, j: usize) -> &[Quads] {
        let quads = self.w.quads();
        &self.w.panels[(self.column + j) / NR * quads..][..quads]
    }

    /// The scales and the integer sums of a panel's columns.
    #[inline(always)]
    fn columns(&self, j: usize) -> (&[f32; NR], &[i32; NR]) {
        let from = self.column + j;
        let (scales, sums) = (&self.w.scales[from..], &self.w.sums[from..]);
        (scales.first_chunk().expect("a panel"), sums.first_chunk().expect("a panel"))
    }

    /// Dequantises the sums of row `i` over the columns from `j` on, adds the bias and stores them.
    #[inline(always)]
    fn finish(&self, i: usize, j: usize, sums: &[i32; NR], out: &mut [f32]) {
        let by = self.bytes.scales[self.row + i];
        let (scales, ones) = self.columns(j);
        let mut y = [0.0; NR];
        for ((y, sum), (scale, one)) in y.iter_mut().zip(sums).zip(scales.iter().zip(ones)) {
            *y = (sum - 128 * one) as f32 * (by * scale);
        }
        if let Some(bias) = self.bias {
            let bias = &bias[self.column + j..][..out.len()];
            y.iter_mut().zip(bias).for_each(|(y, bias)| *y += bias);
        }
        match <&mut [f32; NR]>::try_from(&mut *out) {
            Ok(out) => *out = y,
            Err(_) => out.copy_from_slice(&y[..out.len()]),
        }
    }
}

/// The product in portable Rust, for instruction sets without VNNI.
struct Portable<'a, 'o> {
    task: Task<'a>,
    out: &'a mut [&'o mut [f32]],
}

impl Kernel for Portable<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(self, _: S) {
        let Self { task, out } = self;
        let width = out.first().map_or(0, |row| row.len());
        for (i, out) in out.iter_mut().enumerate() {
            let row = task.row(i);
            for j in (0..width).step_by(NR) {
                let mut sums = [0i32; NR];
                for (x, w) in row.chunks_exact(QUAD).zip(task.panel(j)) {
                    let x: [i16; QUAD] = std::array::from_fn(|q| i16::from(x[q]));
                    for (sum, w) in sums.iter_mut().zip(&w.0) {
                        let mut quad = 0i32;
                        for q in 0..QUAD {
                            quad += i32::from(x[q]) * i32::from(w[q]);
                        }
                        *sum += quad;
                    }
                }
                let n = NR.min(width - j);
                task.finish(i, j, &sums, &mut out[j..j + n]);
            }
        }
    }
}
