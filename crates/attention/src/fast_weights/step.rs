//! One token of each sequence.

use std::ops::Range;
use std::sync::atomic::Ordering;

use longreach_simd::team::Scratch;
use longreach_simd::{Cx, Kernel, Lanes, math};
use ndarray::ArrayViewMut4;

use super::decay::{above, scale_into};
use super::forward::{correct, forward};
use super::{Dims, Inputs, Tokens};
use crate::one_token::{OneToken, read};
use crate::sequences::together;
use crate::{Error, error};

/// One token of each sequence, into `out`, contiguous `[B, H, V]`: the one thing that decoding does, and nothing is allocated.
pub(crate) fn step(x: &Inputs<'_>, mut state: ArrayViewMut4<'_, f32>, out: &mut [f32], cx: &Cx) -> Result<(), Error> {
    let input = Tokens::of(x, state.shape(), cx)?;
    let Dims { b, t, g, h, k, v } = input.dims;
    error::shape(x.op, "q", &[b, 1, g, k], &[b, t, g, k])?;
    error::shape(x.op, "out", &[b * h * v], &[out.len()])?;
    if input.ranges.len() != b || k * v == 0 {
        // Some sequences have no token, or states no numbers.
        out.copy_from_slice(forward(x, state, cx)?.as_slice().unwrap_or_default());
        return Ok(());
    }
    let state = state.as_slice_mut().ok_or(Error::Layout { op: x.op, input: "state" })?;
    // Heads of one sequence go together.
    let most = together(b * h, k * v, cx).min(h);
    let block = (1..=most).rev().find(|n| h.is_multiple_of(*n)).unwrap_or(1);
    cx.team.for_each_pieces((out, block * v), (state, block * k * v), |i, out, states| {
        let (token, first) = (i * block / h, i * block % h);
        cx.isa.run(One { x: &input, token, heads: first..first + block, out, states });
    });
    Ok(())
}

/// A token of some heads of one sequence.
pub(super) struct One<'a, 'o> {
    pub(super) x: &'a Tokens<'a>,
    pub(super) token: usize,
    pub(super) heads: Range<usize>,
    /// `[heads, V]`
    pub(super) out: &'o mut [f32],
    /// `[heads, K, V]`; of a size.
    pub(super) states: &'o mut [f32],
}

impl Kernel for One<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(self, s: S) {
        let Self { x, token: t, heads, out, states } = self;
        let (k, v, gates) = (x.dims.k, x.dims.v, x.gate_width());
        let scratch = &mut Scratch::new(gates + 3 * k + 2 * v);
        let (left, rest) = scratch.split_at_mut(gates);
        let (row, rest) = rest.split_at_mut(k);
        let (into, rest) = rest.split_at_mut(k);
        let (let_in, rest) = rest.split_at_mut(k);
        let (erased, difference) = rest.split_at_mut(v);
        let mut grows = false;
        let all = states.chunks_exact_mut(k * v).zip(out.chunks_exact_mut(v));
        for (h, (state, out)) in heads.clone().zip(all) {
            grows |= above(s, x.gates(t, h));
            x.left(s, t, h, left);
            let (q, mut key, value, scale) = (x.q(t, h), x.k(t, h), x.v(t, h), x.scale);
            if x.let_in {
                x.key(s, t, h, &[], let_in);
                key = let_in;
            }
            let onward = x.erases() && h + 1 < heads.end;
            if x.erases() {
                x.erasing_by(s, t, h, left, row);
                read(s, state, row, erased);
            }
            let left = &*left;
            if x.erase.is_some() {
                x.b(s, t, h, into);
                let (write, written) = ([key, &*into], [value, &*erased]);
                OneToken { left, write, written, read: q, early: false, onward }.pass(s, state, out);
            } else {
                let mut written = value;
                if x.beta.is_some() {
                    math::copy(s, value, difference);
                    correct(s, x.beta(t, h), erased, difference);
                    written = difference;
                }
                let early = x.bonus.is_some();
                OneToken { left, write: [key], written: [written], read: q, early, onward }.pass(s, state, out);
            }
            if let Some(bonus) = &x.bonus {
                scale_into(s, key, &bonus[h * k..(h + 1) * k], row);
                math::axpy(s, math::dot(s, row, q), value, out);
            }
            math::scale(s, scale, out);
        }
        if grows {
            x.above.store(true, Ordering::Relaxed);
        }
    }
}
