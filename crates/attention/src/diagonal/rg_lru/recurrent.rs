//! Token by token; lanes are channels.

use std::ops::Range;

use longreach_simd::split::Part;
use longreach_simd::{Cx, Kernel, Lanes, math};
use ndarray::{Array3, ArrayViewMut2};

use super::{Inputs, OP, SHARPNESS};
use crate::Error;
use crate::sequences::tokens;

/// Channels of a task.
pub(super) const CHANNELS: usize = 64;

/// The outputs, `[B, T, D]`, of whole sequences or parts of them. `state` `[S, D]` is read and left for the next tokens.
pub fn recurrent(x: &Inputs<'_>, mut state: ArrayViewMut2<'_, f32>, cx: &Cx) -> Result<Array3<f32>, Error> {
    x.check(state.shape())?;
    let (b, t, d) = x.x.dim();
    let rows = Rows::of(x)?;
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

/// The inputs as rows, and what is shared by all tokens.
pub(super) struct Rows<'a> {
    x: Vec<&'a [f32]>,
    r: Vec<&'a [f32]>,
    i: Vec<&'a [f32]>,
    /// `−c softplus(λ)`
    rate: Vec<f32>,
    reset: Option<Vec<bool>>,
}

impl<'a> Rows<'a> {
    pub(super) fn of(x: &'a Inputs<'_>) -> Result<Self, Error> {
        let softplus = |x: f32| x.max(0.0) + (-x.abs()).exp().ln_1p();
        Ok(Self {
            x: tokens(OP, "x", &x.x)?,
            r: tokens(OP, "r", &x.r)?,
            i: tokens(OP, "i", &x.i)?,
            rate: x.lambda.iter().map(|x| -SHARPNESS * softplus(*x)).collect(),
            reset: x.reset.map(|reset| reset.iter().map(|x| *x != 0.0).collect()),
        })
    }

    /// `−c softplus(λ)` of some channels.
    #[inline(always)]
    pub(super) fn rate(&self, at: Range<usize>) -> &[f32] {
        &self.rate[at]
    }

    /// What token `t` does to some channels.
    #[inline(always)]
    pub(super) fn token<S: Lanes>(&self, s: S, t: usize, at: Range<usize>) -> Token<S::V> {
        let (one, two) = (s.splat(1.0), s.splat(2.0));
        let (x, i) = (s.load_part(&self.x[t][at.clone()]), s.load_part(&self.i[t][at.clone()]));
        let (r, rate) = (s.load_part(&self.r[t][at.clone()]), s.load_part(&self.rate[at]));
        let (r, i) = (math::sigmoid(s, r), math::sigmoid(s, i));
        let log_a = s.mul(rate, r);
        let mut token = Token { x, r, i, a: math::exp(s, log_a), left: one, root: one, begins: false };
        if self.reset.as_ref().is_some_and(|reset| reset[t]) {
            (token.a, token.begins) = (s.splat(0.0), true);
        } else {
            token.left = s.sub(s.splat(0.0), math::exp_m1(s, s.mul(two, log_a)));
            token.root = root(s, token.left);
        }
        token
    }
}

/// A token's gates.
pub(super) struct Token<V> {
    pub(super) x: V,
    /// The gates, after their sigmoids.
    pub(super) r: V,
    pub(super) i: V,
    pub(super) a: V,
    /// `1 − a²`, and its root.
    pub(super) left: V,
    pub(super) root: V,
    /// Whether a text begins with it.
    pub(super) begins: bool,
}

/// The square root.
#[inline(always)]
pub(super) fn root<S: Lanes>(s: S, x: S::V) -> S::V {
    let mut lanes = [0.0f32; 16];
    s.store(&mut lanes, x);
    for x in &mut lanes {
        *x = x.sqrt();
    }
    s.load(&lanes)
}

/// Some channels of a sequence.
struct Channels<'a, 'o> {
    rows: &'a Rows<'a>,
    range: Range<usize>,
    first: usize,
    out: Part<'o>,
    state: &'o mut [f32],
}

impl Kernel for Channels<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(mut self, s: S) {
        for from in (0..self.state.len()).step_by(S::LANES) {
            let at = from..(from + S::LANES).min(self.state.len());
            let there = self.first + at.start..self.first + at.end;
            let mut h = s.load_part(&self.state[at.clone()]);
            for t in self.range.clone() {
                let token = self.rows.token(s, t, there.clone());
                let written = s.mul(s.mul(token.root, token.i), token.x);
                h = if token.begins { written } else { s.fma(token.a, h, written) };
                s.store_part(&mut self.out.row(t - self.range.start)[at.clone()], h);
            }
            s.store_part(&mut self.state[at], h);
        }
    }
}
