//! The backward pass, from the last token to the first; states are recomputed.
//!
//! With `D_t` the gradient of `h_t`: `D_{t-1} = do_{t-1} + a_t D_t`, and that of the logarithm of the decay is
//! `D_t (a_t h_{t-1} − σ(i_t) x_t a_t² / √(1 − a_t²))`, where the slope of the root is bounded as in the authors' code.

use std::ops::Range;

use longreach_simd::split::Part;
use longreach_simd::{Cx, Kernel, Lanes};
use ndarray::{Array1, Array2, Array3, ArrayView2, ArrayView3, Axis};

use super::recurrent::{CHANNELS, Tokens, recurrent};
use super::{Inputs, OP, SHARPNESS};
use crate::sequences::tokens;
use crate::{Error, error};

/// The root's slope is `1 / √max(4 (1 − a²), BOUND)`: at most 1000.
const BOUND: f32 = 1e-6;

/// The gradients with respect to the inputs.
#[derive(Clone, Debug)]
pub struct Gradient {
    /// `[B, T, D]`
    pub x: Array3<f32>,
    /// `[B, T, D]`
    pub r: Array3<f32>,
    /// `[B, T, D]`
    pub i: Array3<f32>,
    /// `[D]`
    pub lambda: Array1<f32>,
    /// With respect to the initial state, `[S, D]`
    pub state: Array2<f32>,
}

/// The gradients, given those of the output, `d_o: [B, T, D]`, and of the final state, `d_state`.
///
/// `state` is the initial state, as the forward call received it. Errors on wrong shapes.
pub fn backward(
    x: &Inputs<'_>,
    state: ArrayView2<'_, f32>,
    d_o: ArrayView3<'_, f32>,
    d_state: ArrayView2<'_, f32>,
    cx: &Cx,
) -> Result<Gradient, Error> {
    x.check(state.shape())?;
    error::shape(OP, "d o", x.x.shape(), d_o.shape())?;
    error::shape(OP, "d state", state.shape(), d_state.shape())?;
    let (b, t, d) = x.x.dim();
    let h = recurrent(x, state.to_owned().view_mut(), cx)?;
    let h = h.view();
    let (rows, h, d_o) = (Tokens::of(x)?, tokens(OP, "h", &h)?, tokens(OP, "d o", &d_o)?);
    let ranges = x.sequences.ranges(OP, b, t)?;
    let state = state.as_standard_layout();
    let mut grad = [(); 3].map(|()| Array3::<f32>::zeros((b, t, d)));
    let mut first = d_state.as_standard_layout().into_owned();
    // The gradient of the rates, per sequence.
    let mut rates = Array2::<f32>::zeros((ranges.len(), d));
    {
        let mut tasks = Vec::new();
        let mut rest = grad.each_mut().map(|grad| grad.as_slice_mut().unwrap_or_default());
        let states = state.as_slice().unwrap_or_default().chunks(d.max(1));
        let firsts = first.as_slice_mut().unwrap_or_default().chunks_mut(d.max(1));
        let rates = rates.as_slice_mut().unwrap_or_default().chunks_mut(d.max(1));
        for (((range, state), first), rates) in ranges.into_iter().zip(states).zip(firsts).zip(rates) {
            let mut parts = rest.each_mut().map(|rest| {
                let (mine, others) = std::mem::take(rest).split_at_mut(range.len() * d);
                *rest = others;
                Part::whole(mine, d).columns(CHANNELS)
            });
            let shared = state.chunks(CHANNELS).zip(first.chunks_mut(CHANNELS)).zip(rates.chunks_mut(CHANNELS));
            for (n, ((state, first), rates)) in shared.enumerate() {
                let to = parts.each_mut().map(|parts| parts.next().unwrap_or(Part::empty()));
                let (rows, h, d_o, range) = (&rows, &h[..], &d_o[..], range.clone());
                tasks.push(Channels { rows, h, d_o, range, channel: n * CHANNELS, state, first, rates, to });
            }
        }
        cx.team.for_each(tasks, |task| cx.isa.run(task));
    }
    let [dx, dr, di] = grad;
    let sigmoid = |x: f32| 1.0 / (1.0 + (-x).exp());
    let lambda = rates.sum_axis(Axis(0)) * &x.lambda.mapv(|x| -SHARPNESS * sigmoid(x));
    Ok(Gradient { x: dx, r: dr, i: di, lambda, state: first })
}

/// A block of channels of a sequence.
struct Channels<'a, 'o> {
    rows: &'a Tokens<'a>,
    h: &'a [&'a [f32]],
    d_o: &'a [&'a [f32]],
    range: Range<usize>,
    channel: usize,
    state: &'a [f32],
    /// On entry the gradient of the final state, on return that of the initial one.
    first: &'o mut [f32],
    rates: &'o mut [f32],
    /// The gradients of `x`, `r` and `i`.
    to: [Part<'o>; 3],
}

impl Kernel for Channels<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(mut self, s: S) {
        let (one, zero) = (s.splat(1.0), s.splat(0.0));
        for from in (0..self.first.len()).step_by(S::LANES) {
            let at = from..(from + S::LANES).min(self.first.len());
            let there = self.channel + at.start..self.channel + at.end;
            let mut d = s.load_part(&self.first[at.clone()]);
            let (mut rates, rate) = (zero, self.rows.rate(s, there.clone()));
            for (row, t) in self.range.clone().enumerate().rev() {
                let token = self.rows.token(s, t, there.clone(), rate);
                d = s.add(d, s.load_part(&self.d_o[t][there.clone()]));
                let before = match row {
                    0 => s.load_part(&self.state[at.clone()]),
                    _ => s.load_part(&self.h[t - 1][there.clone()]),
                };
                let gated = s.mul(token.i, token.x);
                let d_gated = s.mul(d, token.root);
                let mut d_log = zero;
                if !token.begins {
                    let slope = s.div(one, s.sqrt(s.max(s.mul(s.splat(4.0), token.left), s.splat(BOUND))));
                    let of_root = s.mul(s.mul(s.splat(-2.0), s.mul(token.a, token.a)), slope);
                    d_log = s.mul(d, s.fma(token.a, before, s.mul(gated, of_root)));
                }
                rates = s.fma(d_log, token.r, rates);
                let dr = s.mul(s.mul(d_log, rate), s.mul(token.r, s.sub(one, token.r)));
                let di = s.mul(s.mul(d_gated, token.x), s.mul(token.i, s.sub(one, token.i)));
                s.store_part(&mut self.to[0].row(row)[at.clone()], s.mul(d_gated, token.i));
                s.store_part(&mut self.to[1].row(row)[at.clone()], dr);
                s.store_part(&mut self.to[2].row(row)[at.clone()], di);
                d = s.mul(token.a, d);
            }
            s.store_part(&mut self.rates[at.clone()], rates);
            s.store_part(&mut self.first[at], d);
        }
    }
}
