//! RMS norm of rows, plain, grouped or gated, and its gradient; layer norm in [`layer()`].
//!
//! $$ y = w \odot x\,r, \quad r = \bigl(\tfrac1D \textstyle\sum_i x_i^2 + \varepsilon\bigr)^{-1/2} $$
//!
//! Zhang and Sennrich, 2019, eq. 4. Gated (Mamba-2, Dao and Gu 2024, §7.1): `x` is replaced by `x ⊙ silu(z)` first.
//! With groups, each group of a row is normalised on its own.

mod layer;

pub use layer::{Layer, LayerGradient, layer, layer_backward};

use crate::math::{dot, silu_lanes, silu_slope};
use crate::team::Scratch;
use crate::{Cx, Kernel, Lanes};

/// Rows of equal width, a fixed stride apart: a matrix whose rows are contiguous.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// The elements, at least up to the end of the last row.
    pub data: &'a [f32],
    /// The number of rows.
    pub count: usize,
    /// The number of elements of a row.
    pub width: usize,
    /// The distance between the starts of consecutive rows, in elements.
    pub stride: usize,
}

impl<'a> Rows<'a> {
    /// Contiguous rows; `data.len()` is a multiple of `width`.
    pub fn contiguous(data: &'a [f32], width: usize) -> Self {
        Self { data, count: data.len() / width.max(1), width, stride: width }
    }

    /// Row `i`.
    #[inline(always)]
    pub fn row(&self, i: usize) -> &'a [f32] {
        &self.data[i * self.stride..i * self.stride + self.width]
    }
}

/// An RMS norm's parameters.
#[derive(Clone, Copy, Debug)]
pub struct Rms<'a> {
    /// `w`, as long as a row, or `None` for a norm without a weight.
    pub weight: Option<&'a [f32]>,
    /// ε, added to the mean square.
    pub eps: f32,
    /// Elements per group; divides the row's width.
    pub group: usize,
}

/// Rows per task.
const ROWS: usize = 16;

/// Writes the norm of each row of `x`, times `silu(gate)` if given, to the contiguous rows of `out`.
pub fn rms(cx: &Cx, norm: Rms<'_>, x: Rows<'_>, gate: Option<Rows<'_>>, out: &mut [f32]) {
    assert_eq!(out.len(), x.count * x.width, "norm output");
    cx.team.for_each(out.chunks_mut(ROWS * x.width).enumerate(), |(i, out)| {
        cx.isa.run(Forward { norm, x, gate, first: i * ROWS, out });
    });
}

struct Forward<'a> {
    norm: Rms<'a>,
    x: Rows<'a>,
    gate: Option<Rows<'a>>,
    first: usize,
    out: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(self, s: S) {
        let group = self.norm.group;
        for (i, out) in self.out.chunks_mut(self.x.width).enumerate() {
            gated_row(s, self.x.row(self.first + i), self.gate.map(|g| g.row(self.first + i)), out);
            for (g, out) in out.chunks_mut(group).enumerate() {
                let r = inverse_rms(s, out, self.norm.eps);
                let weight = self.norm.weight.map(|w| &w[g * group..]);
                scale_row(s, out, r, weight);
            }
        }
    }
}

/// `out = x`, or `x ⊙ silu(z)`.
#[inline(always)]
fn gated_row<S: Lanes>(s: S, x: &[f32], z: Option<&[f32]>, out: &mut [f32]) {
    match z {
        None => out.copy_from_slice(x),
        Some(z) => {
            for ((x, z), out) in x.chunks(S::LANES).zip(z.chunks(S::LANES)).zip(out.chunks_mut(S::LANES)) {
                let v = s.mul(s.load_part(x), silu_lanes(s, s.load_part(z)));
                s.store_part(out, v);
            }
        }
    }
}

#[inline(always)]
fn inverse_rms<S: Lanes>(s: S, x: &[f32], eps: f32) -> f32 {
    1.0 / (dot(s, x, x) / x.len() as f32 + eps).sqrt()
}

/// `x ← x r`, and `⊙ w` where there is a weight.
#[inline(always)]
fn scale_row<S: Lanes>(s: S, x: &mut [f32], r: f32, weight: Option<&[f32]>) {
    let r = s.splat(r);
    let mut at = 0;
    for x in x.chunks_mut(S::LANES) {
        let n = x.len();
        let mut v = s.mul(s.load_part(x), r);
        if let Some(w) = weight {
            v = s.mul(v, s.load_part(&w[at..at + n]));
        }
        s.store_part(x, v);
        at += n;
    }
}

/// The gradients of [`rms`].
#[derive(Debug)]
pub struct RmsGradient {
    /// With respect to `x`, in contiguous rows.
    pub x: Vec<f32>,
    /// With respect to the gate, in contiguous rows; empty without one.
    pub gate: Vec<f32>,
    /// With respect to the weight; empty without one.
    pub weight: Vec<f32>,
}

/// The gradients of [`rms`], given `dy`, that of its output, in contiguous rows.
pub fn rms_backward(cx: &Cx, norm: Rms<'_>, x: Rows<'_>, gate: Option<Rows<'_>>, dy: &[f32]) -> RmsGradient {
    let width = x.width;
    let mut dx = vec![0.0; x.count * width];
    let mut dgate = vec![0.0; if gate.is_some() { x.count * width } else { 0 }];
    let tasks = x.count.div_ceil(ROWS);
    // One partial sum per task, reduced in order, so that the result does not depend on the threads.
    let mut dw = vec![0.0; if norm.weight.is_some() { tasks * width } else { 0 }];
    let mut gates = dgate.chunks_mut(ROWS * width);
    let mut partials = dw.chunks_mut(width);
    let items: Vec<_> =
        (dx.chunks_mut(ROWS * width).enumerate()).map(|(i, dx)| (i, dx, gates.next(), partials.next())).collect();
    cx.team.for_each(items, |(i, dx, dgate, dw)| {
        let first = i * ROWS;
        let buffer = &mut Scratch::new(2 * width);
        cx.isa.run(BackwardRows { norm, x, gate, dy, first, dx, dgate, dw, buffer });
    });
    let mut weight = vec![0.0; if norm.weight.is_some() { width } else { 0 }];
    for partial in dw.chunks(width) {
        weight.iter_mut().zip(partial).for_each(|(sum, p)| *sum += p);
    }
    RmsGradient { x: dx, gate: dgate, weight }
}

struct BackwardRows<'a> {
    norm: Rms<'a>,
    x: Rows<'a>,
    gate: Option<Rows<'a>>,
    dy: &'a [f32],
    first: usize,
    dx: &'a mut [f32],
    dgate: Option<&'a mut [f32]>,
    dw: Option<&'a mut [f32]>,
    buffer: &'a mut [f32],
}

impl Kernel for BackwardRows<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(self, s: S) {
        let Self { norm, x, gate, dy, first, dx, mut dgate, mut dw, buffer } = self;
        let width = x.width;
        let (u, v) = buffer.split_at_mut(width);
        for (i, dx) in dx.chunks_mut(width).enumerate() {
            let row = first + i;
            let dy = &dy[row * width..(row + 1) * width];
            let z = gate.map(|g| g.row(row));
            gated_row(s, x.row(row), z, u); // u: the input of the norm
            for g in (0..width).step_by(norm.group) {
                let part = g..g + norm.group;
                let (u, dy, v) = (&u[part.clone()], &dy[part.clone()], &mut v[part.clone()]);
                let r = inverse_rms(s, u, norm.eps);
                if let Some(dw) = dw.as_deref_mut() {
                    for ((dw, u), dy) in dw[part.clone()].iter_mut().zip(u).zip(dy) {
                        *dw += dy * u * r;
                    }
                }
                v.copy_from_slice(dy);
                scale_row(s, v, 1.0, norm.weight.map(|w| &w[g..]));
                // du = r v − u r³ (u·v) / D
                let c = s.splat(-r * r * r * dot(s, u, v) / norm.group as f32);
                for (v, u) in v.chunks_mut(S::LANES).zip(u.chunks(S::LANES)) {
                    let du = s.fma(c, s.load_part(u), s.mul(s.splat(r), s.load_part(v)));
                    s.store_part(v, du);
                }
            }
            match (z, dgate.as_deref_mut()) {
                (Some(z), Some(dgate)) => {
                    let x = x.row(row);
                    let dz = &mut dgate[i * width..(i + 1) * width];
                    for at in (0..width).step_by(S::LANES) {
                        let end = (at + S::LANES).min(width);
                        let du = s.load_part(&v[at..end]);
                        let z = s.load_part(&z[at..end]);
                        s.store_part(&mut dx[at..end], s.mul(du, silu_lanes(s, z)));
                        let slope = s.mul(s.load_part(&x[at..end]), silu_slope(s, z));
                        s.store_part(&mut dz[at..end], s.mul(du, slope));
                    }
                }
                _ => dx.copy_from_slice(v),
            }
        }
    }
}
