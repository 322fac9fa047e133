//! One token of each sequence.

use std::sync::atomic::Ordering;

use longreach_simd::team::Scratch;
use longreach_simd::{Cx, Kernel, Lanes, math};
use ndarray::ArrayViewMut4;

use super::decay::{above, scale_into};
use super::forward::{correct, forward};
use super::{Dims, Inputs, Tokens};
use crate::one_token::{OneToken, read};
use crate::sequences::for_each_head_block;
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
    let x = &input;
    for_each_head_block(cx, (out, v), (state, k * v), |first, out, states| cx.isa.run(One { x, first, out, states }));
    Ok(())
}

/// One token of some heads that follow one another.
pub(super) struct One<'a, 'o> {
    pub(super) x: &'a Tokens<'a>,
    /// The first, among those of all tokens.
    pub(super) first: usize,
    /// `[heads, V]`
    pub(super) out: &'o mut [f32],
    /// `[heads, K, V]`; of a size.
    pub(super) states: &'o mut [f32],
}

impl Kernel for One<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(self, s: S) {
        let Self { x, first, out, states } = self;
        let (k, v, gates) = (x.dims.k, x.dims.v, x.gate_width());
        let scratch = &mut Scratch::new(gates + 3 * k + 2 * v);
        let (left, rest) = scratch.split_at_mut(gates);
        let (row, rest) = rest.split_at_mut(k);
        let (into, rest) = rest.split_at_mut(k);
        let (let_in, rest) = rest.split_at_mut(k);
        let (erased, difference) = rest.split_at_mut(v);
        let mut grows = false;
        let end = first + out.len() / v;
        let all = states.chunks_exact_mut(k * v).zip(out.chunks_exact_mut(v));
        for (i, (state, out)) in (first..).zip(all) {
            let (t, h) = (i / x.dims.h, i % x.dims.h);
            grows |= !x.checked && above(s, x.gates(t, h));
            x.left(s, t, h, left);
            let (q, mut key, value, scale) = (x.q(t, h), x.k(t, h), x.v(t, h), x.scale);
            if x.let_in {
                x.key(s, t, h, &[], let_in);
                key = let_in;
            }
            let onward = x.erases() && i + 1 < end;
            if x.erases() {
                x.erasing_by(s, t, h, left, row);
                read(s, state, row, erased);
            }
            let left = &*left;
            if x.erase.is_some() {
                x.b(s, t, h, into);
                let (write, written) = ([key, &*into], [value, &*erased]);
                OneToken { left, write, written, read: q, read_first: false, prefetch_next: onward }
                    .pass(s, state, out);
            } else {
                let mut written = value;
                if x.beta.is_some() {
                    math::copy(s, value, difference);
                    correct(s, x.beta(t, h), erased, difference);
                    written = difference;
                }
                let early = x.bonus.is_some();
                OneToken { left, write: [key], written: [written], read: q, read_first: early, prefetch_next: onward }
                    .pass(s, state, out);
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
