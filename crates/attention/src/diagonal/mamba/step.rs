//! One decoding step: the state is read and written once, row by row in memory order.

use longreach_simd::cache::prefetch_l2_ahead;
use longreach_simd::split::Part;
use longreach_simd::team::Scratch;
use longreach_simd::{Cx, Kernel, Lanes, math};
use ndarray::{Array3, ArrayViewMut3};

use super::recurrent::Tokens;
use super::{Inputs, OP, recurrent_into};
use crate::diagonal::channels_per_task;
use crate::{Error, error};

/// Prefetch distance in the state, in bytes. Every cell costs an exponential, so the hardware prefetcher does not run
/// far enough ahead.
const PREFETCH_DISTANCE: usize = 4096;

/// One token of each sequence, `x: [S, 1, D]`. `state` is updated in place. Errors on wrong shapes.
pub fn step(x: &Inputs<'_>, state: ArrayViewMut3<'_, f32>, cx: &Cx) -> Result<Array3<f32>, Error> {
    let mut out = Array3::zeros(x.x.dim());
    step_into(x, state, out.as_slice_mut().unwrap_or_default(), cx)?;
    Ok(out)
}

/// As [`step`], into `out`, contiguous `[S, 1, D]`, without allocating.
pub fn step_into(x: &Inputs<'_>, mut state: ArrayViewMut3<'_, f32>, out: &mut [f32], cx: &Cx) -> Result<(), Error> {
    let (b, t, d, n) = x.dims();
    error::shape(OP, "x", &[b, 1, d], &[b, t, d])?;
    x.check(state.shape())?;
    error::shape(OP, "out", &[b * d], &[out.len()])?;
    if x.sequences.cut(OP, b, t)?.len() != b || n == 0 {
        return recurrent_into(x, state, out, cx);
    }
    let state = state.as_slice_mut().ok_or(Error::Layout { op: OP, input: "state" })?;
    one(&Tokens::of(x)?, [state, out], (d, n), cx);
    Ok(())
}

/// One token of each sequence: the states `[S, N, D]`, and the outputs.
pub(super) fn one(x: &Tokens<'_>, [state, out]: [&mut [f32]; 2], (d, n): (usize, usize), cx: &Cx) {
    let block = channels_per_task(state.len() / n, cx);
    cx.team.for_each_columns([(out, 1), (state, n)], (d, block), |t, first, out, state| {
        cx.isa.run(Channels { x, t, first, out, state });
    });
}

/// A block of channels of a token.
struct Channels<'a, 'o> {
    x: &'a Tokens<'a>,
    t: usize,
    first: usize,
    /// One row.
    out: Part<'o>,
    /// `[N, channels]`
    state: Part<'o>,
}

impl Kernel for Channels<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(mut self, s: S) {
        let (x, t) = (self.x, self.t);
        let (width, all) = (self.out.width(), x.d.len());
        let there = self.first..self.first + width;
        let scratch = &mut Scratch::new(2 * width);
        let (steps, inputs) = scratch.split_at_mut(width);
        let out = self.out.row(0);
        let (dt, bias, token) = (&x.dt.get(t)[there.clone()], &x.dt_bias[there.clone()], &x.x.get(t)[there.clone()]);
        for at in (0..width).step_by(S::LANES) {
            let end = (at + S::LANES).min(width);
            let step = math::softplus(s, s.add(s.load_part(&dt[at..end]), s.load_part(&bias[at..end])));
            s.store_part(&mut steps[at..end], step);
            s.store_part(&mut inputs[at..end], s.mul(step, s.load_part(&token[at..end])));
        }
        let (b, c) = (x.b.get(t), x.c.get(t));
        for n in 0..self.state.rows() {
            let (state, a) = (self.state.row(n), &x.a[n * all..(n + 1) * all][there.clone()]);
            row(s, [a, steps, inputs], [b[n], c[n]], n == 0, state, out);
        }
        for at in (0..width).step_by(S::LANES) {
            let here = at..(at + S::LANES).min(width);
            let skip = s.load_part(&x.d[there.clone()][here.clone()]);
            let mut y = s.fma(skip, s.load_part(&token[here.clone()]), s.load_part(&out[here.clone()]));
            if let Some(z) = &x.z {
                y = s.mul(y, math::silu_lanes(s, s.load_part(&z.get(t)[there.clone()][here.clone()])));
            }
            s.store_part(&mut out[here], y);
        }
    }
}

/// Updates a row of the state and adds its contribution to the output.
#[inline(always)]
fn row<S: Lanes>(
    s: S,
    [a, steps, inputs]: [&[f32]; 3],
    [b, c]: [f32; 2],
    first: bool,
    state: &mut [f32],
    out: &mut [f32],
) {
    let by = [s.splat(b), s.splat(c)];
    let width = state.len();
    let whole = width / S::LANES * S::LANES;
    for at in (0..whole).step_by(S::LANES) {
        let sum = if first { s.splat(0.0) } else { s.load(&out[at..]) };
        prefetch_l2_ahead(&state[at..at + S::LANES], PREFETCH_DISTANCE);
        let rows = [s.load(&a[at..]), s.load(&steps[at..]), s.load(&inputs[at..])];
        let (h, sum) = cells(s, rows, s.load(&state[at..]), sum, by);
        s.store(&mut state[at..], h);
        s.store(&mut out[at..], sum);
    }
    if whole < width {
        let sum = if first { s.splat(0.0) } else { s.load_part(&out[whole..]) };
        let rows = [s.load_part(&a[whole..]), s.load_part(&steps[whole..]), s.load_part(&inputs[whole..])];
        let (h, sum) = cells(s, rows, s.load_part(&state[whole..]), sum, by);
        s.store_part(&mut state[whole..], h);
        s.store_part(&mut out[whole..], sum);
    }
}

/// Updates cells of a row and adds their contribution to the output's sums.
#[inline(always)]
fn cells<S: Lanes>(s: S, [a, step, input]: [S::V; 3], h: S::V, sum: S::V, [b, c]: [S::V; 2]) -> (S::V, S::V) {
    let decay = math::exp2(s, s.mul(step, s.mul(a, s.splat(std::f32::consts::LOG2_E))));
    let h = s.fma(decay, h, s.mul(input, b));
    (h, s.fma(c, h, sum))
}
