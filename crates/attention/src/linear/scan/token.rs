//! One token of each sequence, in one pass over the states.

use longreach_simd::team::Scratch;
use longreach_simd::{Cx, Kernel, Lanes, math};

use super::{Dims, Tokens};
use crate::one_token::OneToken;
use crate::sequences::for_each_head_block;

/// Whether every sequence has exactly one token, and states are not empty: what [`one_token`] takes.
pub(super) fn is_one_token(x: &Tokens<'_>) -> bool {
    let Dims { b, t, k, v, .. } = x.dims;
    t == 1 && x.ranges.len() == b && k * v > 0
}

/// The outputs, `[B, H, V]`, of one token of each sequence; `states: [B, H, K, V]` is updated in place. Allocates nothing.
pub(super) fn one_token(x: &Tokens<'_>, states: &mut [f32], out: &mut [f32], cx: &Cx) {
    let Dims { k, v, .. } = x.dims;
    for_each_head_block(cx, (out, v), (states, k * v), |first, out, states| {
        cx.isa.run(Heads { x, first, out, states })
    });
}

/// A task: consecutive heads, which may be of several sequences.
struct Heads<'a, 'o> {
    x: &'a Tokens<'a>,
    /// The index of the first head in `[B, H]`.
    first: usize,
    /// `[heads, V]`
    out: &'o mut [f32],
    /// `[heads, K, V]`, not empty.
    states: &'o mut [f32],
}

impl Kernel for Heads<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(self, s: S) {
        let Self { x, first, out, states } = self;
        let Dims { h, k, v, .. } = x.dims;
        let written = &mut Scratch::new(v);
        for (i, (out, state)) in (first..).zip(out.chunks_exact_mut(v).zip(states.chunks_exact_mut(k * v))) {
            let t = x.ranges.get(i / h).start;
            Token { x, t, h: i % h, state, out }.pass(s, written);
        }
    }
}

/// One head of a sequence of one token.
pub(super) struct Token<'a, 'o> {
    pub(super) x: &'a Tokens<'a>,
    pub(super) t: usize,
    pub(super) h: usize,
    pub(super) state: &'o mut [f32],
    pub(super) out: &'o mut [f32],
}

impl Token<'_, '_> {
    /// Updates the state and writes the output. `written` is scratch of the width of a value.
    #[inline(always)]
    pub(super) fn pass<S: Lanes>(self, s: S, written: &mut [f32]) {
        let Self { x, t, h, state, out } = self;
        let (value, read, write, mut decay) = (x.v(t, h), x.q(t, h), [x.k(t, h)], [1.0]);
        if x.g.is_some() {
            s.store_part(&mut decay, math::exp(s, s.splat(x.g(t, h))));
        }
        if x.beta.is_some() {
            math::scale_into(s, x.beta(t, h), value, written);
        }
        let decay = if x.g.is_some() { &decay[..] } else { &[] };
        let written = [if x.beta.is_some() { &*written } else { value }];
        OneToken { left: decay, write, written, read, read_first: false, prefetch_next: false }.pass(s, state, out);
        math::scale(s, x.scale, out);
        if x.skip.is_some() {
            math::axpy(s, x.skip(h), value, out);
        }
    }
}
