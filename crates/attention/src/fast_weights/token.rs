//! One token of each sequence, in one pass over the states.

use std::sync::atomic::Ordering;

use longreach_simd::team::Scratch;
use longreach_simd::{Cx, Kernel, Lanes, math};

use super::Tokens;
use super::decay::{any_positive, scale_into};
use super::forward::correct;
use crate::one_token::{OneToken, read};
use crate::sequences::for_each_head_block;

/// Whether every sequence has exactly one token, and states are not empty: what [`one_token`] takes.
pub(super) fn is_one_token(x: &Tokens<'_>) -> bool {
    x.dims.t == 1 && x.ranges.len() == x.dims.b && x.dims.k * x.dims.v > 0
}

/// The outputs, `[B, H, V]`, of one token of each sequence; `states: [B, H, K, V]` is updated in place. Allocates nothing.
pub(super) fn one_token(x: &Tokens<'_>, states: &mut [f32], out: &mut [f32], cx: &Cx) {
    let (k, v) = (x.dims.k, x.dims.v);
    for_each_head_block(cx, (out, v), (states, k * v), |first, out, states| cx.isa.run(One { x, first, out, states }));
}

/// A task: one token of consecutive heads.
pub(super) struct One<'a, 'o> {
    pub(super) x: &'a Tokens<'a>,
    /// The index of the first head in `[B, H]`.
    pub(super) first: usize,
    /// `[heads, V]`
    pub(super) out: &'o mut [f32],
    /// `[heads, K, V]`, not empty.
    pub(super) states: &'o mut [f32],
}

impl Kernel for One<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(self, s: S) {
        let Self { x, first, out, states } = self;
        let (k, v, gates) = (x.dims.k, x.dims.v, x.gate_width());
        let scratch = &mut Scratch::new(gates + 3 * k + 2 * v);
        let (factors, rest) = scratch.split_at_mut(gates);
        let (row, rest) = rest.split_at_mut(k);
        let (b, rest) = rest.split_at_mut(k);
        let (tied_key, rest) = rest.split_at_mut(k);
        let (erased, difference) = rest.split_at_mut(v);
        let mut positive_gate = false;
        let end = first + out.len() / v;
        let all = states.chunks_exact_mut(k * v).zip(out.chunks_exact_mut(v));
        for (i, (state, out)) in (first..).zip(all) {
            let (t, h) = (i / x.dims.h, i % x.dims.h);
            positive_gate |= !x.gates_checked && any_positive(s, x.gates(t, h));
            x.gate_factors(s, t, h, factors);
            let (q, mut key, value, scale) = (x.q(t, h), x.k(t, h), x.v(t, h), x.scale);
            if x.tied_keys {
                x.key(s, t, h, &[], tied_key);
                key = tied_key;
            }
            let prefetch_next = x.erases() && i + 1 < end;
            if x.erases() {
                x.a_with(s, t, h, factors, row);
                read(s, state, row, erased);
            }
            let factors = &*factors;
            if x.erase.is_some() {
                x.b(s, t, h, b);
                let (write, written) = ([key, &*b], [value, &*erased]);
                OneToken { left: factors, write, written, read: q, read_first: false, prefetch_next }
                    .pass(s, state, out);
            } else {
                let mut written = value;
                if x.beta.is_some() {
                    math::copy(s, value, difference);
                    correct(s, x.beta(t, h), erased, difference);
                    written = difference;
                }
                let read_first = x.bonus.is_some();
                OneToken { left: factors, write: [key], written: [written], read: q, read_first, prefetch_next }
                    .pass(s, state, out);
            }
            if let Some(bonus) = &x.bonus {
                scale_into(s, key, &bonus[h * k..(h + 1) * k], row);
                math::axpy(s, math::dot(s, row, q), value, out);
            }
            math::scale(s, scale, out);
        }
        if positive_gate {
            x.positive_gate.store(true, Ordering::Relaxed);
        }
    }
}
