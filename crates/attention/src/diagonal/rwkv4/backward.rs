//! The backward pass, from the last token to the first; the state before each token is saved by a forward pass.
//!
//! With `q_t` the exponent that normalised a token's output, the gradient of `A` is stored as `α e^r`, with `r` the
//! running maximum of exponents: `dA_{t-1} = e^w dA_t + e^{-q_t} do_t / D_t`, and likewise for `B` with `−o_t`. The
//! state's maximum exponent is a constant.

use std::ops::Range;

use longreach_simd::split::Part;
use longreach_simd::{Cx, Kernel, Lanes, math};
use ndarray::{Array1, Array2, Array3, ArrayView3, Axis};

use super::recurrent::{CHANNELS, Sums, Tokens};
use super::{Inputs, OP};
use crate::sequences::Rows;
use crate::{Error, error};

/// The gradients with respect to the inputs.
#[derive(Clone, Debug)]
pub struct Gradient {
    /// `[B, T, D]`
    pub k: Array3<f32>,
    /// `[B, T, D]`
    pub v: Array3<f32>,
    /// `[D]`
    pub w: Array1<f32>,
    /// `[D]`
    pub u: Array1<f32>,
    /// With respect to the initial state, `[S, 3, D]`; zero for its exponent
    pub state: Array3<f32>,
}

/// The gradients, given those of the output, `d_o: [B, T, D]`, and of the final state, `d_state`, whose third row is
/// ignored.
///
/// `state` is the initial state, as the forward call received it. Errors on wrong shapes.
pub fn backward(
    x: &Inputs<'_>,
    state: ArrayView3<'_, f32>,
    d_o: ArrayView3<'_, f32>,
    d_state: ArrayView3<'_, f32>,
    cx: &Cx,
) -> Result<Gradient, Error> {
    x.check(state.shape())?;
    error::shape(OP, "d o", x.k.shape(), d_o.shape())?;
    error::shape(OP, "d state", state.shape(), d_state.shape())?;
    let (b, t, d) = x.k.dim();
    let (rows, d_o) = (Tokens::of(x)?, Rows::of(OP, "d o", &d_o)?);
    let ranges = x.sequences.ranges(OP, b, t)?;
    let mut state = state.as_standard_layout().into_owned();
    let (mut dk, mut dv) = (Array3::zeros((b, t, d)), Array3::zeros((b, t, d)));
    let mut first = d_state.as_standard_layout().into_owned();
    // The gradients of `w` and `u`, per sequence.
    let mut shared = Array3::<f32>::zeros((ranges.len(), 2, d));
    {
        let mut tasks = Vec::new();
        let (mut rest_k, mut rest_v) = (dk.as_slice_mut().unwrap_or_default(), dv.as_slice_mut().unwrap_or_default());
        let mut states = state.as_slice_mut().unwrap_or_default().chunks_mut((3 * d).max(1));
        let mut firsts = first.as_slice_mut().unwrap_or_default().chunks_mut((3 * d).max(1));
        let mut both = shared.as_slice_mut().unwrap_or_default().chunks_mut((2 * d).max(1));
        for range in ranges {
            let (dk, others) = std::mem::take(&mut rest_k).split_at_mut(range.len() * d);
            rest_k = others;
            let (dv, others) = std::mem::take(&mut rest_v).split_at_mut(range.len() * d);
            rest_v = others;
            let mut of_state = Part::whole(states.next().unwrap_or_default(), d).columns(CHANNELS);
            let mut of_first = Part::whole(firsts.next().unwrap_or_default(), d).columns(CHANNELS);
            let mut of_both = Part::whole(both.next().unwrap_or_default(), d).columns(CHANNELS);
            for (n, (dk, dv)) in
                Part::whole(dk, d).columns(CHANNELS).zip(Part::whole(dv, d).columns(CHANNELS)).enumerate()
            {
                let channels = n * CHANNELS..((n + 1) * CHANNELS).min(d);
                let (Some(state), Some(first), Some(shared)) = (of_state.next(), of_first.next(), of_both.next())
                else {
                    continue;
                };
                tasks.push(Channels {
                    x: &rows,
                    d_o: &d_o,
                    range: range.clone(),
                    channels,
                    state,
                    first,
                    shared,
                    dk,
                    dv,
                });
            }
        }
        cx.team.for_each(tasks, |task| cx.isa.run(task));
    }
    let shared: Array2<f32> = shared.sum_axis(Axis(0));
    Ok(Gradient { k: dk, v: dv, w: shared.row(0).to_owned(), u: shared.row(1).to_owned(), state: first })
}

/// A block of channels of a sequence.
struct Channels<'a, 'o> {
    x: &'a Tokens<'a>,
    d_o: &'a Rows<'a>,
    range: Range<usize>,
    channels: Range<usize>,
    state: Part<'o>,
    /// On entry the gradient of the final state, on return that of the initial one.
    first: Part<'o>,
    shared: Part<'o>,
    dk: Part<'o>,
    dv: Part<'o>,
}

impl Kernel for Channels<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(mut self, s: S) {
        let zero = s.splat(0.0);
        let mut before = Vec::with_capacity(self.range.len());
        for first in self.channels.clone().step_by(S::LANES) {
            let there = first..(first + S::LANES).min(self.channels.end);
            let at = first - self.channels.start..there.end - self.channels.start;
            let (w, u) = (s.load_part(&self.x.w[there.clone()]), s.load_part(&self.x.u[there.clone()]));
            let mut sums = Sums::of(s, &mut self.state, at.clone());
            let start = sums.top;
            before.clear();
            for t in self.range.clone() {
                before.push(sums);
                let (k, v) = (self.x.k.get(t), self.x.v.get(t));
                sums.next(s, w, s.load_part(&k[there.clone()]), s.load_part(&v[there.clone()]));
            }
            // The gradients of A and B are α e^r and β e^r.
            let mut alpha = s.load_part(&self.first.row(0)[at.clone()]);
            let mut beta = s.load_part(&self.first.row(1)[at.clone()]);
            let mut r = s.sub(zero, sums.top);
            let (mut dw, mut du) = (zero, zero);
            for (row, t) in self.range.clone().enumerate().rev() {
                let (k, v, d) = (self.x.k.get(t), self.x.v.get(t), self.d_o.get(t));
                let (k, v) = (s.load_part(&k[there.clone()]), s.load_part(&v[there.clone()]));
                let d = s.load_part(&d[there.clone()]);
                let sums = before[row];
                let (num, den, q) = sums.with(s, s.add(u, k), v, zero);
                let out = s.div(num, den);
                let d = s.div(d, den);
                let own = s.mul(math::exp(s, s.sub(s.add(u, k), q)), d);
                let kept = math::exp(s, s.add(k, r));
                let through = s.mul(own, s.sub(v, out));
                let dk = s.fma(kept, s.fma(alpha, v, beta), through);
                let dv = s.fma(kept, alpha, own);
                s.store_part(&mut self.dk.row(row)[at.clone()], dk);
                s.store_part(&mut self.dv.row(row)[at.clone()], dv);
                du = s.add(du, through);
                let decayed = math::exp(s, s.add(s.add(w, r), sums.top));
                dw = s.fma(decayed, s.fma(alpha, sums.num, s.mul(beta, sums.den)), dw);
                // The gradients before this token.
                let (later, now) = (s.add(w, r), s.sub(zero, q));
                let top = s.max(later, now);
                let (later, now) = (math::exp(s, s.sub(later, top)), s.mul(math::exp(s, s.sub(now, top)), d));
                alpha = s.fma(later, alpha, now);
                beta = s.sub(s.mul(later, beta), s.mul(now, out));
                r = top;
            }
            let back = math::exp(s, s.add(r, start));
            s.store_part(&mut self.first.row(0)[at.clone()], s.mul(back, alpha));
            s.store_part(&mut self.first.row(1)[at.clone()], s.mul(back, beta));
            s.store_part(&mut self.first.row(2)[at.clone()], zero);
            s.store_part(&mut self.shared.row(0)[at.clone()], dw);
            s.store_part(&mut self.shared.row(1)[at.clone()], du);
        }
    }
}
