//! `y = x Wᵀ` with 8-bit weights: one scale per row of `W`, and one per row of `x`, which is quantised dynamically.
//!
//! $$ y_{ij} \approx a_i\, c_j \sum_k \hat x_{ik} \hat w_{jk} + b_j, \qquad \hat x_{ik} = \mathrm{round}(x_{ik} / a_i), \quad a_i = \max_k |x_{ik}| / 127 $$
//!
//! The sums are exact integers: every instruction set, blocking and number of threads gives the same bits. This is the
//! vector-wise quantisation of LLM.int8(), without its outlier decomposition: Dettmers et al. 2022.

use crate::norm::Rows;
use crate::team::Scratch;
use crate::{Cx, Kernel, Lanes, split};

/// Columns of a panel: two vectors of sixteen.
const NR: usize = 32;
/// Rows of a register tile.
const MR: usize = 12;
/// Bytes whose products one VNNI instruction adds to a lane.
const QUAD: usize = 4;
/// Columns of the product per task.
const BLOCK: usize = 4 * NR;
/// Rows of `x` multiplied by a panel before the next panel is loaded.
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
    panels: Vec<i8>,
}

impl Int8 {
    /// The widest row: a sum of this many products of an unsigned and a signed byte fits in 31 bits.
    pub const MAX_WIDTH: usize = 1 << 16;

    /// Quantises `w: [out, in]`, with rows of `width` numbers. Panics if `width` exceeds [`Int8::MAX_WIDTH`].
    pub fn new(cx: &Cx, w: &[f32], width: usize) -> Self {
        let rows = w.len().checked_div(width).unwrap_or(0);
        assert!(width <= Self::MAX_WIDTH, "rows of {width} numbers: their sums of bytes would not fit in 32 bits");
        let padded_width = width.div_ceil(QUAD) * QUAD;
        let mut panels = vec![0; rows.div_ceil(NR) * NR * padded_width];
        let (mut scales, mut sums) = (vec![0.0; rows.div_ceil(NR) * NR], vec![0; rows.div_ceil(NR) * NR]);
        let parts = panels.chunks_mut((NR * padded_width).max(1)).zip(scales.chunks_mut(NR)).zip(sums.chunks_mut(NR));
        cx.team.for_each(parts.enumerate(), |(p, ((panel, scales), sums))| {
            for (j, row) in w.chunks_exact(width).skip(p * NR).take(NR).enumerate() {
                let (by, inverse) = scale_and_inverse(row.iter().fold(0.0, |most: f32, x| most.max(x.abs())), true);
                scales[j] = by;
                for (k, x) in row.iter().enumerate() {
                    let q = (x * inverse).round_ties_even() as i8;
                    sums[j] += i32::from(q);
                    panel[(k / QUAD * NR + j) * QUAD + k % QUAD] = q;
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
        self.panels.len() + size_of_val(&self.scales[..]) + size_of_val(&self.sums[..])
    }

    /// Writes the weights of row `i`, as many as the matrix is wide. Panics if there is no such row.
    pub fn dequantise_row(&self, i: usize, out: &mut [f32]) {
        assert!(i < self.rows, "row {i} of {}", self.rows);
        assert_eq!(out.len(), self.width, "dequantise: output");
        let panel = &self.panels[i / NR * NR * self.padded_width()..];
        for (k, out) in out.iter_mut().enumerate() {
            *out = self.scales[i] * f32::from(panel[(k / QUAD * NR + i % NR) * QUAD + k % QUAD]);
        }
    }

    fn padded_width(&self) -> usize {
        self.width.div_ceil(QUAD) * QUAD
    }
}

/// `x` quantised to bytes, with an offset of 128 to make them unsigned, and the scale of each row.
struct Quantised {
    data: Scratch,
    scales: Scratch,
}

fn quantised(cx: &Cx, x: Rows<'_>, padded_width: usize) -> Quantised {
    let (mut data, mut scales) = (Scratch::new(x.count * padded_width / QUAD), Scratch::new(x.count));
    let rows = 16;
    let parts = data.bytes_mut().chunks_mut((rows * padded_width).max(1)).zip(scales.chunks_mut(rows));
    let fast = cx.isa.has_vnni();
    cx.team.for_each(parts.enumerate(), |(i, (data, scales))| {
        for (r, (data, scale)) in data.chunks_mut(padded_width).zip(scales).enumerate() {
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
    Quantised { data, scales }
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
    let padded_width = w.padded_width();
    let bytes = quantised(cx, x, padded_width);
    let columns = n.div_ceil(BLOCK);
    let cuts = (4 * cx.team.threads()).div_ceil(columns).min(x.count.div_ceil(96)).max(1);
    let rows = x.count.div_ceil(cuts).next_multiple_of(MR);
    let mut tasks = Vec::with_capacity(columns * cuts);
    for (i, block) in out.chunks_mut(rows * n).enumerate() {
        let parts = split::columns(block, n, BLOCK);
        tasks.extend(parts.into_iter().enumerate().map(|(j, part)| (i * rows, j * BLOCK, part)));
    }
    let fast = cx.isa.has_vnni();
    cx.team.for_each(tasks, |(row, column, mut out)| {
        let task = Task { bytes: &bytes, w, bias, padded_width, row, column };
        #[cfg(target_arch = "x86_64")]
        if fast {
            // SAFETY: `has_vnni` implies AVX-512 and VNNI.
            return unsafe { vnni::product(&task, &mut out) };
        }
        let _ = fast;
        cx.isa.run(Portable { task, out: &mut out });
    });
}

/// The block of the product that one task computes: rows from `row` on, columns from `column` on.
struct Task<'a> {
    bytes: &'a Quantised,
    w: &'a Int8,
    bias: Option<&'a [f32]>,
    padded_width: usize,
    row: usize,
    column: usize,
}

impl Task<'_> {
    /// The quantised row `i`.
    #[inline(always)]
    fn row(&self, i: usize) -> &[u8] {
        &self.bytes.data.bytes()[(self.row + i) * self.padded_width..][..self.padded_width]
    }

    /// The panel that starts at column `j`.
    #[inline(always)]
    fn panel(&self, j: usize) -> &[i8] {
        &self.w.panels[(self.column + j) * self.padded_width..][..NR * self.padded_width]
    }

    /// The scales and the integer sums of a panel's columns.
    #[inline(always)]
    fn columns(&self, j: usize) -> (&[f32], &[i32]) {
        let from = self.column + j;
        (&self.w.scales[from..from + NR], &self.w.sums[from..from + NR])
    }

    /// Dequantises the sums of row `i` over the columns from `j` on, adds the bias and stores them.
    #[inline(always)]
    fn finish(&self, i: usize, j: usize, sums: &[i32; NR], out: &mut [f32]) {
        let by = self.bytes.scales[self.row + i];
        let (scales, ones) = self.columns(j);
        let bias = self.bias.map(|bias| &bias[self.column + j..][..out.len()]);
        for (c, y) in out.iter_mut().enumerate() {
            let sum = (sums[c] - 128 * ones[c]) as f32 * (by * scales[c]);
            *y = sum + bias.map_or(0.0, |bias| bias[c]);
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
                for (x, w) in row.chunks_exact(QUAD).zip(task.panel(j).chunks_exact(NR * QUAD)) {
                    let x: [i16; QUAD] = std::array::from_fn(|q| i16::from(x[q]));
                    for (sum, w) in sums.iter_mut().zip(w.chunks_exact(QUAD)) {
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

#[cfg(target_arch = "x86_64")]
mod vnni {
    //! The product with VNNI, which multiplies four pairs of bytes and accumulates them in each lane with one
    //! instruction.

    use std::arch::x86_64::*;

    use super::{MC, MR, NR, QUAD, Task, scale_and_inverse};

    /// # Safety
    /// The CPU must have AVX-512 F, BW, DQ, VL and VNNI.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
    pub(super) unsafe fn product(task: &Task<'_>, out: &mut [&mut [f32]]) {
        let rows = out.len();
        let width = out.first().map_or(0, |row| row.len());
        for top in (0..rows).step_by(MC) {
            let bottom = rows.min(top + MC);
            for j in (0..width).step_by(NR) {
                for i in (top..bottom).step_by(MR) {
                    // SAFETY: the features are enabled in this function, as its caller guarantees.
                    unsafe { tile(task, i, &mut out[i..bottom.min(i + MR)], j) };
                }
            }
        }
    }

    /// Multiplies at most [`MR`] rows by a panel. Missing rows repeat the last one.
    ///
    /// # Safety
    /// As [`product`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
    unsafe fn tile(task: &Task<'_>, i: usize, out: &mut [&mut [f32]], j: usize) {
        let (m, panel) = (out.len(), task.panel(j));
        let quads = task.padded_width / QUAD;
        assert!((1..=MR).contains(&m) && panel.len() >= quads * NR * QUAD);
        let rows: [*const u8; MR] = std::array::from_fn(|r| task.row(i + r.min(m - 1)).as_ptr());
        let (scales, ones) = task.columns(j);
        let width = NR.min(out[0].len() - j);
        // The lanes of the two vectors that are inside the output.
        let masks = [0, 16].map(|first| (1u32 << width.saturating_sub(first).min(16)).wrapping_sub(1) as u16);
        // SAFETY: every row has `quads` groups of four bytes and the panel as many groups of 128 (asserted), and the
        // loads are unaligned; `scales` and `ones` have 32 elements each; the masks restrict accesses to the output and
        // the bias to existing columns.
        unsafe {
            let none = _mm512_setzero_si512();
            let starts = [0, 16].map(|at| {
                // Start at −128 Σ w, which cancels the offset of x.
                _mm512_sub_epi32(none, _mm512_slli_epi32::<7>(_mm512_loadu_si512(ones.as_ptr().add(at).cast())))
            });
            let mut acc = [starts; MR];
            let mut w = panel.as_ptr();
            for k in 0..quads {
                let b0 = _mm512_loadu_si512(w.cast());
                let b1 = _mm512_loadu_si512(w.add(64).cast());
                w = w.add(NR * QUAD);
                for r in 0..MR {
                    let x = _mm512_set1_epi32(rows[r].add(k * QUAD).cast::<i32>().read_unaligned());
                    acc[r][0] = _mm512_dpbusd_epi32(acc[r][0], x, b0);
                    acc[r][1] = _mm512_dpbusd_epi32(acc[r][1], x, b1);
                }
            }
            let scales = [0, 16].map(|at| _mm512_loadu_ps(scales.as_ptr().add(at)));
            let bias = task.bias.map(|bias| {
                let bias = bias[task.column + j..][..width].as_ptr();
                [0, 1].map(|v| _mm512_maskz_loadu_ps(masks[v], bias.wrapping_add(16 * v)))
            });
            for r in 0..MR {
                if r < m {
                    let by = _mm512_set1_ps(task.bytes.scales[task.row + i + r]);
                    let to = out[r][j..j + width].as_mut_ptr();
                    for v in 0..2 {
                        let sum = _mm512_mul_ps(_mm512_cvtepi32_ps(acc[r][v]), _mm512_mul_ps(by, scales[v]));
                        let y = bias.map_or(sum, |bias| _mm512_add_ps(sum, bias[v]));
                        _mm512_mask_storeu_ps(to.wrapping_add(16 * v), masks[v], y);
                    }
                }
            }
        }
    }

    /// As [`super::QuantiseRow`], with AVX-512.
    ///
    /// # Safety
    /// As [`product`].
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
    pub(super) unsafe fn quantise_row(row: &[f32], data: &mut [u8]) -> f32 {
        assert_eq!(row.len(), data.len());
        let mask = |at: usize| (1u32 << (row.len() - at).min(16)).wrapping_sub(1) as u16;
        let mut most = _mm512_setzero_ps();
        let mut finite = true;
        let limit = _mm512_set1_ps(f32::MAX);
        for at in (0..row.len()).step_by(16) {
            // SAFETY: the mask restricts the load to the row.
            let x = _mm512_abs_ps(unsafe { _mm512_maskz_loadu_ps(mask(at), row.as_ptr().add(at)) });
            finite &= _mm512_cmp_ps_mask::<_CMP_LE_OQ>(x, limit) == u16::MAX;
            // `max` returns its second operand, the maximum so far, where x is NaN.
            most = _mm512_max_ps(x, most);
        }
        let (by, inverse) = scale_and_inverse(_mm512_reduce_max_ps(most), finite);
        let (inverse, shift) = (_mm512_set1_ps(inverse), _mm512_set1_epi32(128));
        for at in (0..row.len()).step_by(16) {
            // SAFETY: as above, and `data` is as long as the row.
            unsafe {
                let x = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask(at), row.as_ptr().add(at)), inverse);
                let bytes = _mm512_cvtepi32_epi8(_mm512_add_epi32(_mm512_cvtps_epi32(x), shift));
                _mm_mask_storeu_epi8(data.as_mut_ptr().add(at).cast(), mask(at), bytes);
            }
        }
        by
    }
}
