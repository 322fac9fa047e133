//! Layer norm of rows, or of the sum of two, and its gradient.
//!
//! $$ y = w \odot \frac{z - \bar z}{\sqrt{\overline{(z - \bar z)^2} + \varepsilon}} + b, \qquad z = x + r $$
//!
//! Ba et al. 2016. `r` is the residual branch of a post-norm block.

use super::Rows;
use crate::math::{axpy, dot};
use crate::team::Scratch;
use crate::{Cx, Kernel, Lanes};

/// A layer norm's parameters.
#[derive(Clone, Copy, Debug)]
pub struct Layer<'a> {
    /// `w`, as long as a row.
    pub weight: &'a [f32],
    /// `b`, as long as a row, or `None`.
    pub bias: Option<&'a [f32]>,
    /// ε, added to the variance.
    pub eps: f32,
}

/// Rows per task.
const ROWS: usize = 16;

/// Writes the norm of each row of `x`, or of `x + r`, to the contiguous rows of `out`.
pub fn layer(cx: &Cx, norm: Layer<'_>, x: Rows<'_>, r: Option<Rows<'_>>, out: &mut [f32]) {
    assert_eq!(out.len(), x.count * x.width, "norm output");
    cx.team.for_each(out.chunks_mut(ROWS * x.width.max(1)).enumerate(), |(i, out)| {
        cx.isa.run(Forward { norm, x, r, first: i * ROWS, out });
    });
}

struct Forward<'a> {
    norm: Layer<'a>,
    x: Rows<'a>,
    r: Option<Rows<'a>>,
    first: usize,
    out: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(self, s: S) {
        let Self { norm, x, r, first, out } = self;
        for (i, out) in out.chunks_mut(x.width).enumerate() {
            let scale = centred(s, x.row(first + i), r.map(|r| r.row(first + i)), norm.eps, out);
            let scale = s.splat(scale);
            let mut at = 0;
            for y in out.chunks_mut(S::LANES) {
                let part = at..at + y.len();
                let v = s.mul(s.mul(s.load_part(y), scale), s.load_part(&norm.weight[part.clone()]));
                let v = match norm.bias {
                    Some(bias) => s.add(v, s.load_part(&bias[part.clone()])),
                    None => v,
                };
                s.store_part(y, v);
                at = part.end;
            }
        }
    }
}

/// Writes `z − mean(z)` to `out` and returns the inverse standard deviation.
#[inline(always)]
fn centred<S: Lanes>(s: S, x: &[f32], r: Option<&[f32]>, eps: f32, out: &mut [f32]) -> f32 {
    let mut sum = s.splat(0.0);
    let mut at = 0;
    for y in out.chunks_mut(S::LANES) {
        let part = at..at + y.len();
        let mut v = s.load_part(&x[part.clone()]);
        if let Some(r) = r {
            v = s.add(v, s.load_part(&r[part.clone()]));
        }
        sum = s.add(sum, v);
        s.store_part(y, v);
        at = part.end;
    }
    let width = out.len() as f32;
    let mean = s.splat(s.sum(sum) / width);
    let mut squares = s.splat(0.0);
    let (mut whole, mut at) = (out.chunks_exact_mut(S::LANES), 0);
    for y in whole.by_ref() {
        let v = s.sub(s.load(y), mean);
        squares = s.fma(v, v, squares);
        s.store(y, v);
        at += S::LANES;
    }
    let rest = whole.into_remainder();
    let mut tail = 0.0;
    if !rest.is_empty() {
        // Only `rest` enters the sum: the lanes beyond its end hold minus the mean.
        s.store_part(rest, s.sub(s.load_part(rest), mean));
        tail = dot(s, rest, rest);
        at += rest.len();
    }
    debug_assert_eq!(at as f32, width);
    1.0 / ((s.sum(squares) + tail) / width + eps).sqrt()
}

/// The gradients of [`layer`].
#[derive(Debug)]
pub struct LayerGradient {
    /// With respect to `x`, in contiguous rows; the gradient with respect to `r` is the same.
    pub x: Vec<f32>,
    /// With respect to the weight.
    pub weight: Vec<f32>,
    /// With respect to the bias; computed even without one.
    pub bias: Vec<f32>,
}

/// The gradients of [`layer`], given `dy`, that of its output, in contiguous rows.
pub fn layer_backward(cx: &Cx, norm: Layer<'_>, x: Rows<'_>, r: Option<Rows<'_>>, dy: &[f32]) -> LayerGradient {
    let width = x.width;
    let mut dx = vec![0.0; x.count * width];
    // One partial sum per task, reduced in order, so that the result does not depend on the threads.
    let mut sums = vec![0.0; x.count.div_ceil(ROWS) * 2 * width];
    let tasks: Vec<_> = dx.chunks_mut(ROWS * width.max(1)).zip(sums.chunks_mut(2 * width.max(1))).enumerate().collect();
    cx.team.for_each(tasks, |(i, (dx, sums))| {
        let buffer = &mut Scratch::new(2 * width);
        cx.isa.run(Backward { norm, x, r, dy, first: i * ROWS, dx, sums, buffer });
    });
    let (mut weight, mut bias) = (vec![0.0; width], vec![0.0; width]);
    for partial in sums.chunks(2 * width.max(1)) {
        weight.iter_mut().zip(&partial[..width]).for_each(|(sum, p)| *sum += p);
        bias.iter_mut().zip(&partial[width..]).for_each(|(sum, p)| *sum += p);
    }
    LayerGradient { x: dx, weight, bias }
}

struct Backward<'a> {
    norm: Layer<'a>,
    x: Rows<'a>,
    r: Option<Rows<'a>>,
    dy: &'a [f32],
    first: usize,
    dx: &'a mut [f32],
    sums: &'a mut [f32],
    buffer: &'a mut [f32],
}

impl Kernel for Backward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(self, s: S) {
        let Self { norm, x, r, dy, first, dx, sums, buffer } = self;
        let width = x.width;
        let (u, g) = buffer.split_at_mut(width);
        let (dw, db) = sums.split_at_mut(width);
        let ones = s.splat(1.0);
        for (i, dx) in dx.chunks_mut(width).enumerate() {
            let dy = &dy[(first + i) * width..][..width];
            let scale = centred(s, x.row(first + i), r.map(|r| r.row(first + i)), norm.eps, u);
            // u: the normalised row before its weight; g: the gradient with respect to it
            let mut total = s.splat(0.0);
            let mut at = 0;
            for g in g.chunks_mut(S::LANES) {
                let part = at..at + g.len();
                let d = s.load_part(&dy[part.clone()]);
                let v = s.mul(s.load_part(&u[part.clone()]), s.splat(scale));
                s.store_part(&mut u[part.clone()], v);
                let sum = s.fma(d, v, s.load_part(&dw[part.clone()]));
                s.store_part(&mut dw[part.clone()], sum);
                let d = s.mul(d, s.load_part(&norm.weight[part.clone()]));
                total = s.fma(d, ones, total);
                s.store_part(g, d);
                at = part.end;
            }
            axpy(s, 1.0, dy, db);
            let mean = s.splat(s.sum(total) / width as f32);
            let along = s.splat(dot(s, g, u) / width as f32);
            let mut at = 0;
            for dx in dx.chunks_mut(S::LANES) {
                let part = at..at + dx.len();
                let v = s.sub(s.load_part(&g[part.clone()]), mean);
                let v = s.sub(v, s.mul(along, s.load_part(&u[part.clone()])));
                s.store_part(dx, s.mul(v, s.splat(scale)));
                at = part.end;
            }
        }
    }
}
