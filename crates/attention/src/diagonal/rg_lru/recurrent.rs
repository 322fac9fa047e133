//! Token by token; lanes are channels.

use std::borrow::Cow;
use std::ops::Range;

use longreach_simd::split::Part;
use longreach_simd::{Cx, Kernel, Lanes, math};
use ndarray::{Array3, ArrayView2, ArrayViewMut2};

use super::{Inputs, OP, SHARPNESS};
use crate::Error;
use crate::sequences::{Rows, contiguous};

/// Channels per task.
pub(super) const CHANNELS: usize = 64;

/// The outputs, `[B, T, D]`, of whole sequences or chunks of them. `state: [S, D]` is updated in place. Errors on wrong
/// shapes.
pub fn recurrent(x: &Inputs<'_>, mut state: ArrayViewMut2<'_, f32>, cx: &Cx) -> Result<Array3<f32>, Error> {
    x.check(state.shape())?;
    let (b, t, d) = x.x.dim();
    let rows = Tokens::of(x)?;
    let state = state.as_slice_mut().ok_or(Error::Layout { op: OP, input: "state" })?;
    let mut out = Array3::zeros((b, t, d));
    let mut rest = out.as_slice_mut().unwrap_or_default();
    let mut tasks = Vec::new();
    for (range, state) in x.sequences.ranges(OP, b, t)?.into_iter().zip(state.chunks_mut(d.max(1))) {
        let (mine, others) = std::mem::take(&mut rest).split_at_mut(range.len() * d);
        rest = others;
        for (n, (out, state)) in Part::whole(mine, d).columns(CHANNELS).zip(state.chunks_mut(CHANNELS)).enumerate() {
            tasks.push(Channels { rows: &rows, range: range.clone(), first: n * CHANNELS, out, state });
        }
    }
    cx.team.for_each(tasks, |task| cx.isa.run(task));
    Ok(out)
}

/// The inputs, split into one slice per token, and the parameters.
pub(super) struct Tokens<'a> {
    x: Rows<'a>,
    r: Rows<'a>,
    i: Rows<'a>,
    lambda: Cow<'a, [f32]>,
    reset: Option<ArrayView2<'a, f32>>,
}

impl<'a> Tokens<'a> {
    pub(super) fn of(x: &'a Inputs<'_>) -> Result<Self, Error> {
        Ok(Self {
            x: Rows::of(OP, "x", &x.x)?,
            r: Rows::of(OP, "r", &x.r)?,
            i: Rows::of(OP, "i", &x.i)?,
            lambda: contiguous(&x.lambda),
            reset: x.reset,
        })
    }

    /// The rates `−c softplus(λ)` of some channels.
    #[inline(always)]
    pub(super) fn rate<S: Lanes>(&self, s: S, at: Range<usize>) -> S::V {
        s.mul(s.splat(-SHARPNESS), math::softplus(s, s.load_part(&self.lambda[at])))
    }

    /// The gates of token `t` in some channels, given their rates.
    #[inline(always)]
    pub(super) fn token<S: Lanes>(&self, s: S, t: usize, at: Range<usize>, rate: S::V) -> Token<S::V> {
        let (one, two) = (s.splat(1.0), s.splat(2.0));
        let (x, i) = (s.load_part(&self.x.get(t)[at.clone()]), s.load_part(&self.i.get(t)[at.clone()]));
        let r = s.load_part(&self.r.get(t)[at]);
        let (r, i) = (math::sigmoid(s, r), math::sigmoid(s, i));
        let log_a = s.mul(rate, r);
        let mut token = Token { x, r, i, a: math::exp(s, log_a), left: one, root: one, begins: false };
        if self.begins(t) {
            (token.a, token.begins) = (s.splat(0.0), true);
        } else {
            token.left = s.sub(s.splat(0.0), math::exp_m1(s, s.mul(two, log_a)));
            token.root = s.sqrt(token.left);
        }
        token
    }

    /// Whether a text starts at token `t`.
    #[inline(always)]
    fn begins(&self, t: usize) -> bool {
        let Some(reset) = &self.reset else { return false };
        let tokens = reset.dim().1;
        reset[[t / tokens, t % tokens]] != 0.0
    }
}

/// The gates of a token.
pub(super) struct Token<V> {
    pub(super) x: V,
    /// The gates, after their sigmoids.
    pub(super) r: V,
    pub(super) i: V,
    pub(super) a: V,
    /// `1 − a²`, and its root.
    pub(super) left: V,
    pub(super) root: V,
    /// Whether a text starts here.
    pub(super) begins: bool,
}

/// A block of channels of a sequence.
pub(super) struct Channels<'a, 'o> {
    pub(super) rows: &'a Tokens<'a>,
    pub(super) range: Range<usize>,
    pub(super) first: usize,
    pub(super) out: Part<'o>,
    pub(super) state: &'o mut [f32],
}

impl Kernel for Channels<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(mut self, s: S) {
        for from in (0..self.state.len()).step_by(S::LANES) {
            let at = from..(from + S::LANES).min(self.state.len());
            let there = self.first + at.start..self.first + at.end;
            let mut h = s.load_part(&self.state[at.clone()]);
            let rate = self.rows.rate(s, there.clone());
            for t in self.range.clone() {
                let token = self.rows.token(s, t, there.clone(), rate);
                let written = s.mul(s.mul(token.root, token.i), token.x);
                h = if token.begins { written } else { s.fma(token.a, h, written) };
                s.store_part(&mut self.out.row(t - self.range.start)[at.clone()], h);
            }
            s.store_part(&mut self.state[at], h);
        }
    }
}
