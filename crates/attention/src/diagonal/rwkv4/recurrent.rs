//! Token by token; lanes are channels.

use std::borrow::Cow;
use std::ops::Range;

use longreach_simd::split::Part;
use longreach_simd::{Cx, Kernel, Lanes, math};
use ndarray::{Array3, ArrayViewMut3};

use super::{Inputs, OP};
use crate::Error;
use crate::sequences::{Rows, contiguous};

/// Channels per task.
pub(super) const CHANNELS: usize = 64;

/// The outputs, `[B, T, D]`, of whole sequences or chunks of them. `state: [S, 3, D]` is updated in place. Errors on
/// wrong shapes.
pub fn recurrent(x: &Inputs<'_>, mut state: ArrayViewMut3<'_, f32>, cx: &Cx) -> Result<Array3<f32>, Error> {
    x.check(state.shape())?;
    let (b, t, d) = x.k.dim();
    let rows = Tokens::of(x)?;
    let state = state.as_slice_mut().ok_or(Error::Layout { op: OP, input: "state" })?;
    let mut out = Array3::zeros((b, t, d));
    let mut rest = out.as_slice_mut().unwrap_or_default();
    let mut tasks = Vec::new();
    for (range, state) in x.sequences.ranges(OP, b, t)?.into_iter().zip(state.chunks_mut((3 * d).max(1))) {
        let (mine, others) = std::mem::take(&mut rest).split_at_mut(range.len() * d);
        rest = others;
        let parts = Part::whole(mine, d).columns(CHANNELS).zip(Part::whole(state, d).columns(CHANNELS));
        for (n, (out, state)) in parts.enumerate() {
            let channels = n * CHANNELS..((n + 1) * CHANNELS).min(d);
            tasks.push(Channels { x: &rows, range: range.clone(), channels, out, state });
        }
    }
    cx.team.for_each(tasks, |task| cx.isa.run(task));
    Ok(out)
}

/// The inputs, split into one slice per token, and the parameters.
pub(super) struct Tokens<'a> {
    pub(super) k: Rows<'a>,
    pub(super) v: Rows<'a>,
    pub(super) w: Cow<'a, [f32]>,
    pub(super) u: Cow<'a, [f32]>,
}

impl<'a> Tokens<'a> {
    pub(super) fn of(x: &'a Inputs<'_>) -> Result<Self, Error> {
        let (k, v) = (Rows::of(OP, "k", &x.k)?, Rows::of(OP, "v", &x.v)?);
        Ok(Self { k, v, w: contiguous(&x.w), u: contiguous(&x.u) })
    }
}

/// A block of channels of a sequence.
pub(super) struct Channels<'a, 'o> {
    pub(super) x: &'a Tokens<'a>,
    pub(super) range: Range<usize>,
    pub(super) channels: Range<usize>,
    pub(super) out: Part<'o>,
    /// `[3, channels]`
    pub(super) state: Part<'o>,
}

impl Kernel for Channels<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(mut self, s: S) {
        if self.range.is_empty() {
            return;
        }
        for first in self.channels.clone().step_by(S::LANES) {
            let there = first..(first + S::LANES).min(self.channels.end);
            let at = first - self.channels.start..there.end - self.channels.start;
            let (w, u) = (s.load_part(&self.x.w[there.clone()]), s.load_part(&self.x.u[there.clone()]));
            let mut sums = Sums::of(s, &mut self.state, at.clone());
            for t in self.range.clone() {
                let (k, v) = (self.x.k.get(t), self.x.v.get(t));
                let (k, v) = (s.load_part(&k[there.clone()]), s.load_part(&v[there.clone()]));
                let (num, den, _) = sums.with(s, s.add(u, k), v, s.splat(0.0));
                s.store_part(&mut self.out.row(t - self.range.start)[at.clone()], s.div(num, den));
                sums.next(s, w, k, v);
            }
            s.store_part(&mut self.state.row(0)[at.clone()], sums.num);
            s.store_part(&mut self.state.row(1)[at.clone()], sums.den);
            s.store_part(&mut self.state.row(2)[at.clone()], sums.top);
        }
    }
}

/// The state of some channels.
#[derive(Clone, Copy)]
pub(super) struct Sums<V> {
    pub(super) num: V,
    pub(super) den: V,
    pub(super) top: V,
}

/// The exponent of an empty past: less than any other, and finite, so that differences are not NaN.
const NOTHING: f32 = -1e38;

impl<V: Copy> Sums<V> {
    /// Loads some channels of a state `[3, channels]`. The exponent of an empty past is ignored: it may be 0.
    #[inline(always)]
    pub(super) fn of<S: Lanes<V = V>>(s: S, state: &mut Part<'_>, at: Range<usize>) -> Self {
        let [num, den, top] = [0, 1, 2].map(|n| s.load_part(&state.row(n)[at.clone()]));
        let (zero, nothing) = (s.splat(0.0), s.splat(NOTHING));
        let top = s.select_lt(den, zero, top, s.select_lt(zero, den, top, nothing));
        Self { num, den, top }
    }

    /// Numerator and denominator after decaying them by `e^decay` and adding a value with weight `e^by`, divided by `e`
    /// to the power of the third result.
    #[inline(always)]
    pub(super) fn with<S: Lanes<V = V>>(&self, s: S, by: V, value: V, decay: V) -> (V, V, V) {
        let old = s.add(self.top, decay);
        let top = s.max(old, by);
        let (old, new) = (math::exp(s, s.sub(old, top)), math::exp(s, s.sub(by, top)));
        (s.fma(old, self.num, s.mul(new, value)), s.fma(old, self.den, new), top)
    }

    /// Advances the state by a token.
    #[inline(always)]
    pub(super) fn next<S: Lanes<V = V>>(&mut self, s: S, w: V, k: V, value: V) {
        (self.num, self.den, self.top) = self.with(s, k, value, w);
    }
}
