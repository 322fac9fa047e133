//! The forward pass, in chunks of tokens.

use std::ops::Range;
use std::sync::atomic::Ordering;

use longreach_simd::cache::{NON_TEMPORAL_ABOVE, PrefetchQueue, store_fence};
use longreach_simd::split::Part;
use longreach_simd::team::Scratch;
use longreach_simd::{Cx, Isa, Kernel, Lanes, math, memory};
use ndarray::{Array4, ArrayViewMut4};

use super::decay::{CumulativeDecay, DecayAxis, scale, scale_into, scale_twice_into};
use super::pass::{Carry, Independent, Prefetch, Step, run_pass};
use super::token::{One, is_one_token, one_token};
use super::{Dims, Inputs, Tokens};
use crate::Error;
use crate::one_token::read;
use crate::sequences::heads_per_task;

/// Tokens per chunk.
const TOKENS: usize = 64;

/// Returns the outputs, `[B, T, H, V]`. `state: [S, H, K, V]` is updated in place.
pub(super) fn forward(x: &Inputs<'_>, mut state: ArrayViewMut4<'_, f32>, cx: &Cx) -> Result<Array4<f32>, Error> {
    let input = Tokens::of(x, state.shape(), cx)?;
    let Dims { b, t, h, k, v, .. } = input.dims;
    let state = state.as_slice_mut().ok_or(Error::Layout { op: x.op, input: "state" })?;
    let before = if input.by_key && t > v { state.to_vec() } else { Vec::new() };
    let mut out = memory::unwritten(b * t * h * v);
    if is_one_token(&input) {
        one_token(&input, state, &mut out, cx);
        return Array4::from_shape_vec((b, t, h, v), out).map_err(|_| Error::Layout { op: x.op, input: "v" });
    }
    let numbers = out.len();
    let (mut states, mut rest) = (&mut state[..], &mut out[..]);
    let block = heads_per_task(input.ranges.len(), h, cx);
    let non_temporal = numbers > NON_TEMPORAL_ABOVE;
    let mut tasks = Vec::new();
    for range in input.ranges.iter() {
        let (mine, others) = std::mem::take(&mut rest).split_at_mut(range.len() * h * v);
        rest = others;
        for (n, out) in Part::whole(mine, h * v).columns(block * v).enumerate() {
            let heads = n * block..((n + 1) * block).min(h);
            let (states_of, others) = std::mem::take(&mut states).split_at_mut(heads.len() * k * v);
            states = others;
            tasks.push(Heads {
                x: &input,
                isa: cx.isa,
                range: range.clone(),
                heads,
                out,
                non_temporal,
                states: states_of,
            });
        }
    }
    // A sequence of one token among others has the same bits as alone.
    cx.team.for_each(tasks, |mut heads| match (heads.range.len(), heads.states.len()) {
        (_, 0) | (0 | 2.., _) => cx.isa.run(heads),
        (1, _) => {
            let (x, first, out) = (heads.x, heads.range.start * h + heads.heads.start, heads.out.row(0));
            cx.isa.run(One { x, first, out, states: heads.states });
        }
    });
    if input.positive_gate.load(Ordering::Relaxed) {
        state.copy_from_slice(&before);
        x.check(&x.state_shape())?;
    }
    Array4::from_shape_vec((b, t, h, v), out).map_err(|_| Error::Layout { op: x.op, input: "v" })
}

/// A task: consecutive heads of one sequence.
struct Heads<'a, 'o> {
    x: &'a Tokens<'a>,
    isa: Isa,
    range: Range<usize>,
    heads: Range<usize>,
    /// `[heads, V]` per token.
    out: Part<'o>,
    /// Whether `out` is written with non-temporal stores.
    non_temporal: bool,
    /// `[heads, K, V]`
    states: &'o mut [f32],
}

/// Prefetches the rows that the next pass gathers, and this pass's outputs.
struct NextRows<'a, 't, 'o> {
    x: &'a Tokens<'t>,
    first: usize,
    h: usize,
    /// The outputs of this pass, unless their stores are non-temporal: the row of its first token, and its columns.
    out: Option<(&'a Part<'o>, usize, Range<usize>)>,
}

impl Prefetch for NextRows<'_, '_, '_> {
    fn queue_rows(&self, i: usize, queue: &mut PrefetchQueue) {
        self.x.queue_rows(self.first + i, self.h, true, queue);
        if let Some((out, first, of_head)) = &self.out {
            out.queue_prefetch(first + i, of_head.clone(), queue);
        }
    }
}

/// The delta rule: the last read of a token is `w` of the next, whose write becomes `β (v − w)`.
pub(super) struct Correct<'a> {
    pub(super) beta: &'a [f32],
}

impl<const P: usize> Carry<1, P> for Correct<'_> {
    #[inline(always)]
    fn carry<S: Lanes>(&self, s: S, step: Step, written: &mut [&mut [f32]; 1], out: &[&mut [f32]; P]) {
        let Step { tokens: [_, next], columns: [from, to] } = step;
        correct(s, self.beta[next], &out[P - 1][from], &mut written[0][to]);
    }
}

/// `v ← β (v − w)`
#[inline(always)]
pub(super) fn correct<S: Lanes>(s: S, beta: f32, w: &[f32], v: &mut [f32]) {
    let (beta, w, whole) = (s.splat(beta), &w[..v.len()], math::whole::<S>(v.len()));
    for at in (0..whole).step_by(S::LANES) {
        let corrected = s.mul(beta, s.sub(s.load(&v[at..]), s.load(&w[at..])));
        s.store(&mut v[at..], corrected);
    }
    if whole < v.len() {
        let corrected = s.mul(beta, s.sub(s.load_part(&v[whole..]), s.load_part(&w[whole..])));
        s.store_part(&mut v[whole..], corrected);
    }
}

/// General erasure: the last read of a token is `w` of the next, which is its second write.
pub(super) struct Move;

impl<const P: usize> Carry<2, P> for Move {
    #[inline(always)]
    fn carry<S: Lanes>(&self, s: S, step: Step, written: &mut [&mut [f32]; 2], out: &[&mut [f32]; P]) {
        let [from, to] = step.columns;
        math::copy(s, &out[P - 1][from], &mut written[1][to]);
    }
}

impl Kernel for Heads<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(mut self, s: S) {
        let Self { x, isa, ref range, ref heads, non_temporal, .. } = self;
        let (k, v, gates) = (x.dims.k, x.dims.v, x.gate_width());
        let max_tokens = TOKENS.min(range.len());
        let numbers = max_tokens * (4 * k + 4 * v + 1) + CumulativeDecay::size(max_tokens, gates) + k + heads.len() * v;
        let scratch = &mut Scratch::new(numbers);
        let (q, rest) = scratch.split_at_mut(max_tokens * k);
        let (keys, rest) = rest.split_at_mut(max_tokens * k);
        let (values, rest) = rest.split_at_mut(max_tokens * v);
        let (out, rest) = rest.split_at_mut(max_tokens * v);
        let (a_rows, rest) = rest.split_at_mut(max_tokens * k);
        let (b_rows, rest) = rest.split_at_mut(max_tokens * k);
        let (moved, rest) = rest.split_at_mut(max_tokens * v);
        let (erased, rest) = rest.split_at_mut(max_tokens * v);
        let (beta, mut rest) = rest.split_at_mut(max_tokens);
        let mut decay = CumulativeDecay::new(max_tokens, gates, &mut rest);
        let (row, carries) = rest.split_at_mut(k);
        let (read_first, general) = (x.bonus.is_some(), x.erase.is_some());
        if range.is_empty() {
            return;
        }
        for (first, at) in range.clone().step_by(TOKENS).flat_map(|first| (0..heads.len()).map(move |at| (first, at))) {
            let h = heads.start + at;
            let state = &mut self.states[at * k * v..(at + 1) * k * v];
            let carried = &mut carries[at * v..(at + 1) * v];
            // The first token reads the state before the chunk: for its output if there is a bonus, else for its
            // erasure.
            if first == range.start && (read_first || x.erases()) {
                match read_first {
                    true => math::scale_into(s, x.scale, x.q(first, h), row),
                    false => x.a(s, first, h, row),
                }
                read(s, state, row, carried);
            }
            let of_head = at * v..(at + 1) * v;
            let tokens = first..(first + TOKENS).min(range.end);
            let n = tokens.len();
            decay.clear();
            for (r, t) in tokens.clone().enumerate() {
                decay.push(s, x.gates(t, h));
                x.key(s, t, h, decay.inverse(r), &mut keys[r * k..(r + 1) * k]);
                math::copy(s, x.v(t, h), &mut values[r * v..(r + 1) * v]);
                let q = &mut q[r * k..(r + 1) * k];
                if read_first && t + 1 == range.end {
                    q.fill(0.0);
                } else {
                    scale_twice_into(s, x.scale, decay.cumulative(r), x.q(t + usize::from(read_first), h), q);
                }
                if x.erases() {
                    beta[r] = x.beta(t, h);
                    if r > 0 {
                        let a_rows = &mut a_rows[(r - 1) * k..r * k];
                        x.a_with(s, t, h, decay.entry(r), a_rows);
                        if general {
                            scale(s, decay.cumulative(r - 1), a_rows);
                        }
                    }
                }
                if general {
                    x.b(s, t, h, &mut b_rows[r * k..(r + 1) * k]);
                    scale(s, decay.inverse(r), &mut b_rows[r * k..(r + 1) * k]);
                }
            }
            if x.erases() {
                let a_rows = &mut a_rows[(n - 1) * k..n * k];
                if tokens.end == range.end {
                    a_rows.fill(0.0)
                } else {
                    x.a(s, tokens.end, h, a_rows);
                    scale(s, decay.cumulative(n - 1), a_rows);
                }
            }
            decay.end();
            let cuts = decay.cuts(DecayAxis::Rows);
            // The next pass takes the same tokens of the next head, or the next tokens of the first head.
            let next = if at + 1 < heads.len() { (first, h + 1) } else { (first + TOKENS, heads.start) };
            let out_of = Some((&self.out, first - range.start, of_head.clone())).filter(|_| !non_temporal);
            let prefetch = &NextRows { x, first: next.0, h: next.1, out: out_of };
            let pass = (n, k, v, false);
            if general {
                moved[..v].copy_from_slice(carried);
                let (write, written) = ([&*keys, &*b_rows], [&mut *values, &mut *moved]);
                let (read, out) = ([&*q, &*a_rows], [&mut *out, &mut *erased]);
                run_pass(isa, pass, state, cuts, write, written, read, out, Move, prefetch);
            } else if x.beta.is_some() {
                correct(s, beta[0], carried, &mut values[..v]);
                let (read, out) = ([&*q, &*a_rows], [&mut *out, &mut *erased]);
                run_pass(isa, pass, state, cuts, [&*keys], [&mut *values], read, out, Correct { beta }, prefetch);
            } else {
                run_pass(isa, pass, state, cuts, [&*keys], [&mut *values], [&*q], [&mut *out], Independent, prefetch);
            }
            for (r, t) in tokens.enumerate() {
                let to = &mut self.out.row(t - range.start)[of_head.clone()];
                let Some(bonus) = &x.bonus else {
                    math::scale_into_non_temporal(s, non_temporal, 1.0, &out[r * v..(r + 1) * v], to);
                    continue;
                };
                scale_into(s, x.k(t, h), &bonus[h * k..(h + 1) * k], row);
                let weight = math::dot(s, row, x.q(t, h));
                let read = if r == 0 { &mut *carried } else { &mut out[(r - 1) * v..r * v] };
                math::axpy(s, x.scale * weight, x.v(t, h), read);
                math::scale_into_non_temporal(s, non_temporal, 1.0, read, to);
            }
            let last = (n - 1) * v..n * v;
            carried.copy_from_slice(if read_first { &out[last] } else { &erased[last] });
        }
        if decay.positive_gate {
            x.positive_gate.store(true, Ordering::Relaxed);
        }
        if non_temporal {
            store_fence();
        }
    }
}
