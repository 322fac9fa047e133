//! The gradient: four passes over the tokens of a head, two from the first to the last and two back, nothing kept of the states.
//!
//! With `D_t` the gradient to the state after token `t` and `w_t = S_{t-1}ᵀ a_t` what was erased:
//!
//! $$ D_t = e^{g_{t+1}} \odot D_{t+1} + a_{t+1}\, dw_{t+1}^\top + s\,q_t\, do_t^\top, \quad dv_t = D_t^\top k_t, \quad dw_t = D_t^\top b_t, $$
//! $$ dq_t = s\,S_t\, do_t, \quad da_t = S_{t-1} dw_t, \quad dk_t = D_t v_t, \quad db_t = D_t w_t. $$
//!
//! Reads along the keys are made of the transposed matrices, so that lanes never have to be summed. A gate acts through sums only:
//! `X_t = ⟨e^{g_t} S_{t-1}, D_t⟩` a row, its gradient, is `X_{t+1} + a_{t+1} ⊙ da_{t+1} + q_t ⊙ dq_t − b_t ⊙ db_t − k_t ⊙ dk_t`, from `⟨S_T, dS_T⟩` on;
//! Yang et al. 2024 (GLA), §C, has it without `a` and `b`.

use std::ops::Range;

use longreach_simd::cache::Soon;
use longreach_simd::split::Part;
use longreach_simd::team::Scratch;
use longreach_simd::{Cx, Kernel, Lanes, math, memory};
use ndarray::{Array2, Array3, Array4, ArrayView4, Axis};

use super::forward::{Correct, Move, correct};
use super::pass::{Ask, Carry, Nothing, Pass, TOKENS, gather, read, transpose};
use super::{Dims, Gradient, Inputs, Tokens};
use crate::sequences::tokens;
use crate::{Error, error};

/// A gate below this leaves less of the state than its rounding: its gradient is zero, and the sums that gates act through start anew, so that what
/// rounding has added to them stays behind.
const NOTHING_LEFT: f32 = -17.0;

/// Gradients given those of the output, `[B, T, H, V]`, and of the state after the last token. `state` is the one before the first.
pub(crate) fn backward(
    x: &Inputs<'_>,
    state: ArrayView4<'_, f32>,
    d_o: ArrayView4<'_, f32>,
    d_state: ArrayView4<'_, f32>,
    cx: &Cx,
) -> Result<Gradient, Error> {
    let (op, input) = (x.op, Tokens::of(x, state.shape(), cx)?);
    let Dims { b, t, g: groups, h: heads, k, v } = input.dims;
    error::shape(op, "d o", x.v.shape(), d_o.shape())?;
    error::shape(op, "d state", state.shape(), d_state.shape())?;
    let d_o = tokens(op, "d o", &d_o)?;
    let state: Vec<f32> = state.iter().copied().collect();
    let mut d_state: Vec<f32> = d_state.iter().copied().collect();
    let some = |there: bool, width: usize| memory::zeros(if there { b * t * heads * width } else { 0 });
    let general = input.erase.is_some();
    let mut by_head = ByHead {
        q: some(true, k),
        k: some(true, k),
        v: some(true, v),
        g: some(input.g.is_some(), input.gate_width()),
        beta: some(input.beta.is_some(), 1),
        a: some(general, k),
        b: some(general, k),
        bonus: memory::zeros(if input.bonus.is_some() { input.ranges.len() * heads * k } else { 0 }),
    };
    {
        let mut tasks = Vec::new();
        let mut parts = by_head.parts(&input);
        let mut states = state.chunks((k * v).max(1)).zip(d_state.chunks_mut((k * v).max(1)));
        for range in &input.ranges {
            for h in 0..heads {
                let (state, d_state) = states.next().unwrap_or((&[], &mut []));
                let Some(to) = parts.next() else { continue };
                tasks.push(Head { x: &input, d_o: &d_o, range: range.clone(), h, state, d_state, to });
            }
        }
        cx.team.for_each(tasks, |head| cx.isa.run(head));
    }
    let shaped = |x: Vec<f32>, width: usize| {
        let there = if x.is_empty() { 0 } else { t };
        Array4::from_shape_vec((b, there, heads, width), x).map_err(|_| Error::Layout { op, input: "d o" })
    };
    let gates = input.gate_width();
    let mut bonus = Array2::zeros((heads, if input.bonus.is_some() { k } else { 0 }));
    for (i, part) in by_head.bonus.chunks(k.max(1)).enumerate() {
        bonus.row_mut(i % heads).iter_mut().zip(part).for_each(|(sum, x)| *sum += x);
    }
    let there = if by_head.beta.is_empty() { 0 } else { t };
    Ok(Gradient {
        q: sum_groups(shaped(by_head.q, k)?, groups),
        k: sum_groups(shaped(by_head.k, k)?, groups),
        v: shaped(by_head.v, v)?,
        g: shaped(by_head.g, gates)?,
        beta: Array3::from_shape_vec((b, there, heads), by_head.beta)
            .map_err(|_| Error::Layout { op, input: "beta" })?,
        a: shaped(by_head.a, k)?,
        b: shaped(by_head.b, k)?,
        bonus,
        state: Array4::from_shape_vec((input.ranges.len(), heads, k, v), d_state)
            .map_err(|_| Error::Layout { op, input: "state" })?,
    })
}

/// Heads that share keys share their gradient.
fn sum_groups(x: Array4<f32>, groups: usize) -> Array4<f32> {
    let (b, t, h, k) = x.dim();
    if h == groups {
        return x;
    }
    let heads = h / groups;
    let mut out = Array4::zeros((b, t, groups, k));
    for h in 0..h {
        let mut group = out.index_axis_mut(Axis(2), h / heads);
        group += &x.index_axis(Axis(2), h);
    }
    out
}

/// Gradients `[B T, H, …]`; empty where there is nothing to be told.
struct ByHead<T> {
    q: T,
    k: T,
    v: T,
    g: T,
    beta: T,
    a: T,
    b: T,
    /// A row for each sequence and head.
    bonus: T,
}

impl ByHead<Vec<f32>> {
    /// What each head of each sequence writes.
    fn parts<'a>(&'a mut self, x: &Tokens<'_>) -> impl Iterator<Item = ByHead<Part<'a>>> {
        let Dims { h, k, v, .. } = x.dims;
        let ranges = &x.ranges;
        let all = |memory: &'a mut Vec<f32>, width: usize| {
            let there = !memory.is_empty();
            let mut rest = &mut memory[..];
            let mut parts = Vec::with_capacity(ranges.len() * h);
            for range in ranges {
                let (mine, others) = rest.split_at_mut(if there { range.len() * h * width } else { 0 });
                rest = others;
                match there {
                    true => parts.extend(Part::whole(mine, h * width).columns(width)),
                    false => parts.extend((0..h).map(|_| Part::empty())),
                }
            }
            parts.into_iter()
        };
        let (mut q, mut dk, mut dv) = (all(&mut self.q, k), all(&mut self.k, k), all(&mut self.v, v));
        let (mut g, mut beta) = (all(&mut self.g, x.gate_width()), all(&mut self.beta, 1));
        let (mut a, mut b) = (all(&mut self.a, k), all(&mut self.b, k));
        let mut bonus = self.bonus.chunks_mut(k.max(1));
        std::iter::from_fn(move || {
            Some(ByHead {
                q: q.next()?,
                k: dk.next()?,
                v: dv.next()?,
                g: g.next()?,
                beta: beta.next()?,
                a: a.next()?,
                b: b.next()?,
                bonus: bonus.next().map_or_else(Part::empty, |row| Part::whole(row, k)),
            })
        })
    }
}

/// One head of one sequence.
struct Head<'a, 'o> {
    x: &'a Tokens<'a>,
    d_o: &'a [&'a [f32]],
    range: Range<usize>,
    h: usize,
    /// Before the first token, `[K, V]`.
    state: &'a [f32],
    /// On entry the gradient to the last state, on return to the first.
    d_state: &'o mut [f32],
    to: ByHead<Part<'o>>,
}

/// The gradient to what was erased goes to the token before: by the own key, it is that to the value, times `−β`.
struct Back<'a> {
    beta: &'a [f32],
}

impl Carry<2, 1> for Back<'_> {
    #[inline(always)]
    fn carry<S: Lanes>(
        &self,
        s: S,
        t: usize,
        [here, next]: [Range<usize>; 2],
        written: &mut [&mut [f32]; 2],
        out: &[&mut [f32]; 1],
    ) {
        math::scale_into(s, -self.beta[t], &out[0][here], &mut written[1][next]);
    }
}

/// The rows of the next pass over the tokens of a head, forwards or backwards.
struct Following<'a, 't, 'o> {
    x: &'a Tokens<'t>,
    d_o: &'a [&'a [f32]],
    h: usize,
    token: usize,
    back: bool,
    /// Where what this pass finds goes, and the row of its first token.
    out: [Option<&'a Part<'o>>; 2],
    at: usize,
}

impl Ask for Following<'_, '_, '_> {
    #[inline(always)]
    fn rows(&self, t: usize, soon: &mut Soon) {
        for out in self.out.iter().flatten() {
            let r = if self.back { self.at.wrapping_sub(t) } else { self.at + t };
            out.soon(r, 0..out.width(), soon);
        }
        let t = if self.back { self.token.wrapping_sub(t) } else { self.token + t };
        self.x.rows(t, self.h, soon);
        if let Some(d) = self.d_o.get(t) {
            let v = self.x.dims.v;
            soon.add(&d[self.h * v..(self.h + 1) * v]);
        }
    }
}

/// Memory for the rows of a chunk, in whatever roles a pass has.
struct Rows<'m> {
    left: &'m mut [f32],
    write: [&'m mut [f32]; 2],
    written: [&'m mut [f32]; 2],
    read: [&'m mut [f32]; 2],
    out: [&'m mut [f32]; 2],
    beta: &'m mut [f32],
}

impl Rows<'_> {
    /// Runs a pass: one write and one read without erasing, a second of each as the rule of erasing has them.
    #[inline(always)]
    #[allow(clippy::too_many_arguments, reason = "five places call it, each with all of them")]
    fn pass<S: Lanes, const W: usize, const P: usize>(
        &mut self,
        s: S,
        x: &Tokens<'_>,
        (tokens, rows, columns): (usize, usize, usize),
        transposed: bool,
        matrix: &mut [f32],
        carry: &impl Carry<W, P>,
        ask: &impl Ask,
    ) {
        let decay = x.decay(&self.left[..tokens * x.gate_width()], transposed);
        let [w0, w1] = &self.write;
        let [y0, y1] = &mut self.written;
        let [p0, p1] = &self.read;
        let [o0, o1] = &mut self.out;
        let (write, read) = ([&**w0, &**w1], [&**p0, &**p1]);
        let (mut written, mut out) = ([&mut **y0, &mut **y1].into_iter(), [&mut **o0, &mut **o1].into_iter());
        let written = std::array::from_fn(|_| written.next().unwrap_or_default());
        let out = std::array::from_fn(|_| out.next().unwrap_or_default());
        let (write, read) = (std::array::from_fn(|m| write[m]), std::array::from_fn(|m| read[m]));
        Pass { tokens, rows, columns, decay, write, written, read, out }.run(s, matrix, carry, ask);
    }
}

impl Kernel for Head<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(mut self, s: S) {
        let Self { x, d_o, h, state, .. } = self;
        let (range, total) = (self.range.clone(), self.range.len());
        let (k, v, gates) = (x.dims.k, x.dims.v, x.gate_width());
        if total == 0 {
            return;
        }
        let (early, own, general) = (x.bonus.is_some(), x.beta.is_some(), x.erase.is_some());
        let erases = own || general;
        let (most, wide) = (TOKENS.min(total), k.max(v));
        let of_erasing = if erases { total * (2 * v + k) } else { 0 };
        let scratch = &mut Scratch::new(of_erasing + 2 * k * v + most * (8 * wide + gates + 1) + 5 * wide);
        let (w, rest) = scratch.split_at_mut(if erases { total * v } else { 0 });
        let (dw, rest) = rest.split_at_mut(if erases { total * v } else { 0 });
        let (da, rest) = rest.split_at_mut(if erases { total * k } else { 0 });
        let (matrix, rest) = rest.split_at_mut(k * v);
        let (last, rest) = rest.split_at_mut(k * v);
        let (left, rest) = rest.split_at_mut(most * gates);
        let (write0, rest) = rest.split_at_mut(most * wide);
        let (write1, rest) = rest.split_at_mut(most * wide);
        let (written0, rest) = rest.split_at_mut(most * wide);
        let (written1, rest) = rest.split_at_mut(most * wide);
        let (read0, rest) = rest.split_at_mut(most * wide);
        let (read1, rest) = rest.split_at_mut(most * wide);
        let (out0, rest) = rest.split_at_mut(most * wide);
        let (out1, rest) = rest.split_at_mut(most * wide);
        let (beta, rest) = rest.split_at_mut(most);
        let (row, rest) = rest.split_at_mut(wide);
        let (carried, rest) = rest.split_at_mut(wide);
        let (held, rest) = rest.split_at_mut(wide);
        let (product, _) = rest.split_at_mut(wide);
        let mut rows = Rows {
            left,
            write: [write0, write1],
            written: [written0, written1],
            read: [read0, read1],
            out: [out0, out1],
            beta,
        };
        let dout = |t: usize| &d_o[t][h * v..(h + 1) * v];
        let of_b = |t: usize| x.erase.as_ref().map_or(&[][..], |[_, b]| &b[t][h * k..(h + 1) * k]);
        let forwards = |first: usize| range.start + first..(range.start + first + TOKENS).min(range.end);

        // What each token erased.
        if erases {
            matrix.copy_from_slice(state);
            x.erasing(s, range.start, h, &mut row[..k]);
            read(s, matrix, &row[..k], &mut carried[..v]);
        }
        for first in (0..if erases { total } else { 0 }).step_by(TOKENS) {
            let tokens = forwards(first);
            let n = tokens.len();
            let ask =
                Following { x, d_o, h, token: range.start + first + TOKENS, back: false, out: [None; 2], at: first };
            for (r, t) in tokens.clone().enumerate() {
                rows.write[0][r * k..(r + 1) * k].copy_from_slice(x.k(t, h));
                rows.written[0][r * v..(r + 1) * v].copy_from_slice(x.v(t, h));
                x.left(s, t, h, &mut rows.left[r * gates..(r + 1) * gates]);
                let read = &mut rows.read[0][r * k..(r + 1) * k];
                if t + 1 == range.end {
                    read.fill(0.0)
                } else {
                    x.erasing(s, t + 1, h, read)
                }
                rows.beta[r] = x.beta(t, h);
            }
            w[first * v..(first + 1) * v].copy_from_slice(&carried[..v]);
            let beta = std::mem::take(&mut rows.beta);
            if general {
                gather(tokens.map(of_b), rows.write[1]);
                rows.written[1][..v].copy_from_slice(&carried[..v]);
                rows.pass::<S, 2, 1>(s, x, (n, k, v), false, matrix, &Move, &ask);
            } else {
                correct(s, beta[0], &carried[..v], &mut rows.written[0][..v]);
                rows.pass::<S, 1, 1>(s, x, (n, k, v), false, matrix, &Correct { beta }, &ask);
            }
            rows.beta = beta;
            carried[..v].copy_from_slice(&rows.out[0][(n - 1) * v..n * v]);
            w[(first + 1) * v..(first + n) * v].copy_from_slice(&rows.out[0][..(n - 1) * v]);
        }

        // From the last token to the first: the values, and what was erased.
        transpose(self.d_state, v, last);
        carried.fill(0.0);
        for first in (0..total).step_by(TOKENS) {
            let n = TOKENS.min(total - first);
            let ask = Following {
                x,
                d_o,
                h,
                token: range.end.wrapping_sub(1 + first + TOKENS),
                back: true,
                out: [Some(&self.to.v), None],
                at: total - 1 - first,
            };
            for r in 0..n {
                let t = range.end - 1 - first - r;
                let next = (t + 1 < range.end).then_some(t + 1);
                let read_with = if early { next } else { Some(t) };
                let left = &mut rows.left[r * gates..(r + 1) * gates];
                match next {
                    Some(t) => x.left(s, t, h, left),
                    None => left.fill(1.0),
                }
                let (write, written) = (&mut rows.write[0][r * k..][..k], &mut rows.written[0][r * v..][..v]);
                put(s, x.scale, read_with.map(|t| x.q(t, h)), write);
                put(s, 1.0, read_with.map(dout), written);
                rows.read[0][r * k..][..k].copy_from_slice(x.k(t, h));
                if erases {
                    let write = &mut rows.write[1][r * k..][..k];
                    match next {
                        Some(t) => x.erasing(s, t, h, write),
                        None => write.fill(0.0),
                    }
                }
                if general {
                    rows.read[1][r * k..][..k].copy_from_slice(of_b(t));
                }
                rows.beta[r] = x.beta(t, h);
            }
            let beta = std::mem::take(&mut rows.beta);
            rows.written[1][..v].copy_from_slice(&carried[..v]);
            match (own, general) {
                (true, _) => rows.pass::<S, 2, 1>(s, x, (n, k, v), false, self.d_state, &Back { beta }, &ask),
                (_, true) => rows.pass::<S, 2, 2>(s, x, (n, k, v), false, self.d_state, &Move, &ask),
                _ => rows.pass::<S, 1, 1>(s, x, (n, k, v), false, self.d_state, &Nothing, &ask),
            }
            rows.beta = beta;
            for r in 0..n {
                let t = range.end - 1 - first - r;
                let at = t - range.start;
                let found = &rows.out[0][r * v..(r + 1) * v];
                let beta = rows.beta[r];
                math::scale_into(s, beta, found, self.to.v.row(at));
                if erases {
                    let dw = &mut dw[at * v..(at + 1) * v];
                    match own {
                        true => math::scale_into(s, -beta, found, dw),
                        false => dw.copy_from_slice(&rows.out[1][r * v..(r + 1) * v]),
                    }
                    carried[..v].copy_from_slice(dw);
                }
                if own {
                    let mut sum = 0.0;
                    for ((d, value), w) in found.iter().zip(x.v(t, h)).zip(&w[at * v..(at + 1) * v]) {
                        sum += d * (value - w);
                    }
                    self.to.beta.row(at)[0] = sum;
                }
            }
        }
        // The first token's own decay and what it erased, which no token before it takes up.
        let first = range.start;
        x.left(s, first, h, &mut rows.left[..gates]);
        for (i, d) in self.d_state.chunks_mut(v).enumerate() {
            let by = rows.left[if gates == 1 { 0 } else { i }];
            math::scale(s, by, d);
        }
        if erases {
            x.erasing(s, first, h, &mut row[..k]);
            add_outer(s, &row[..k], &dw[..v], self.d_state);
        }
        if early {
            math::scale_into(s, x.scale, x.q(first, h), &mut row[..k]);
            add_outer(s, &row[..k], dout(first), self.d_state);
        }

        // From the first to the last, transposed: the queries, and what reads what is erased.
        transpose(state, v, matrix);
        if early {
            read(s, matrix, dout(first), &mut carried[..k]);
        } else if erases {
            read(s, matrix, &dw[..v], &mut carried[..k]);
        }
        for first in (0..total).step_by(TOKENS) {
            let tokens = forwards(first);
            let n = tokens.len();
            let ask = Following {
                x,
                d_o,
                h,
                token: range.start + first + TOKENS,
                back: false,
                out: [Some(&self.to.q), None],
                at: first,
            };
            for (r, t) in tokens.clone().enumerate() {
                rows.written[0][r * k..(r + 1) * k].copy_from_slice(x.k(t, h));
                rows.write[0][r * v..(r + 1) * v].copy_from_slice(x.v(t, h));
                let (at, next) = (t - range.start, (t + 1 < range.end).then_some(t + 1));
                let read_with = if early { next } else { Some(t) };
                x.left(s, t, h, &mut rows.left[r * gates..(r + 1) * gates]);
                if own {
                    correct(s, x.beta(t, h), &w[at * v..(at + 1) * v], &mut rows.write[0][r * v..][..v]);
                }
                if general {
                    rows.write[1][r * v..][..v].copy_from_slice(&w[at * v..(at + 1) * v]);
                    rows.written[1][r * k..][..k].copy_from_slice(of_b(t));
                }
                put(s, 1.0, read_with.map(dout), &mut rows.read[0][r * v..][..v]);
                if erases {
                    let of = |t: usize| &dw[(t - range.start) * v..(t - range.start + 1) * v];
                    put(s, 1.0, next.map(of), &mut rows.read[1][r * v..][..v]);
                }
            }
            match (own, general) {
                (true, _) => rows.pass::<S, 1, 2>(s, x, (n, v, k), true, matrix, &Nothing, &ask),
                (_, true) => rows.pass::<S, 2, 2>(s, x, (n, v, k), true, matrix, &Nothing, &ask),
                _ => rows.pass::<S, 1, 1>(s, x, (n, v, k), true, matrix, &Nothing, &ask),
            }
            for (r, t) in tokens.enumerate() {
                let at = t - range.start;
                let shifted =
                    |out: &[f32], r: usize| r.checked_sub(1).map(|r| r * k..(r + 1) * k).filter(|_| !out.is_empty());
                let dq = match shifted(rows.out[0], if early { r } else { r + 1 }) {
                    Some(there) => &rows.out[0][there],
                    None => &carried[..k],
                };
                math::scale_into(s, x.scale, dq, self.to.q.row(at));
                if erases {
                    let from = match shifted(rows.out[1], r) {
                        Some(there) => &rows.out[1][there],
                        None => &carried[..k],
                    };
                    da[at * k..(at + 1) * k].copy_from_slice(from);
                }
            }
            let of = (n - 1) * k..n * k;
            carried[..k].copy_from_slice(if early { &rows.out[0][of] } else { &rows.out[1][of] });
        }
        let mut gate = vec![0.0f64; k];
        for (state, d) in matrix.chunks_exact(k).zip(last.chunks_exact(k)) {
            for ((gate, state), d) in gate.iter_mut().zip(state).zip(d) {
                *gate += f64::from(*state) * f64::from(*d);
            }
        }

        // And back, transposed: the keys, where the erased goes, and the gates.
        held.fill(0.0);
        for first in (0..total).step_by(TOKENS) {
            let n = TOKENS.min(total - first);
            let ask = Following {
                x,
                d_o,
                h,
                token: range.end.wrapping_sub(1 + first + TOKENS),
                back: true,
                out: [Some(&self.to.k), x.g.as_ref().map(|_| &self.to.g)],
                at: total - 1 - first,
            };
            for r in 0..n {
                let t = range.end - 1 - first - r;
                let (at, next) = (t - range.start, (t + 1 < range.end).then_some(t + 1));
                let read_with = if early { next } else { Some(t) };
                let left = &mut rows.left[r * gates..(r + 1) * gates];
                match next {
                    Some(t) => x.left(s, t, h, left),
                    None => left.fill(1.0),
                }
                put(s, 1.0, read_with.map(dout), &mut rows.write[0][r * v..][..v]);
                put(s, x.scale, read_with.map(|t| x.q(t, h)), &mut rows.written[0][r * k..][..k]);
                let read = &mut rows.read[0][r * v..][..v];
                read.copy_from_slice(x.v(t, h));
                if own {
                    correct(s, x.beta(t, h), &w[at * v..(at + 1) * v], read);
                }
                if erases {
                    let of = |t: usize| &dw[(t - range.start) * v..(t - range.start + 1) * v];
                    put(s, 1.0, next.map(of), &mut rows.write[1][r * v..][..v]);
                    let written = &mut rows.written[1][r * k..][..k];
                    match next {
                        Some(t) => x.erasing(s, t, h, written),
                        None => written.fill(0.0),
                    }
                }
                if general {
                    rows.read[1][r * v..][..v].copy_from_slice(&w[at * v..(at + 1) * v]);
                }
            }
            match (own, general) {
                (true, _) => rows.pass::<S, 2, 1>(s, x, (n, v, k), true, last, &Nothing, &ask),
                (_, true) => rows.pass::<S, 2, 2>(s, x, (n, v, k), true, last, &Nothing, &ask),
                _ => rows.pass::<S, 1, 1>(s, x, (n, v, k), true, last, &Nothing, &ask),
            }
            for r in 0..n {
                let t = range.end - 1 - first - r;
                let at = t - range.start;
                let [dk, db] = &mut rows.out;
                let dk = &mut dk[r * k..(r + 1) * k];
                let (q, key) = (x.q(t, h), x.k(t, h));
                let dq = self.to.q.row(at);
                if x.g.is_some() {
                    // `held` is what the token after this one leaves to be counted here.
                    let held = &mut held[..k];
                    less(&mut gate, key, dk);
                    for (gate, held) in gate.iter_mut().zip(&*held) {
                        *gate += f64::from(*held);
                    }
                    if early {
                        times(q, dq, held);
                    } else {
                        for ((gate, q), dq) in gate.iter_mut().zip(q).zip(&*dq) {
                            *gate += f64::from(*q) * f64::from(*dq);
                        }
                    }
                }
                if erases {
                    let da = &da[at * k..(at + 1) * k];
                    if general {
                        let db = &db[r * k..(r + 1) * k];
                        x.erasing(s, t, h, &mut row[..k]);
                        less(&mut gate, of_b(t), db);
                        times(&row[..k], da, &mut held[..k]);
                        self.to.a.row(at).copy_from_slice(da);
                        self.to.b.row(at).copy_from_slice(db);
                    } else {
                        x.left(s, t, h, &mut product[..gates]);
                        if gates == 1 {
                            let by = product[0];
                            math::scale_into(s, by, da, &mut product[..k]);
                        } else {
                            for (product, da) in product[..k].iter_mut().zip(da) {
                                *product *= da;
                            }
                        }
                        for (((gate, key), by_key), dk) in
                            gate.iter_mut().zip(key).zip(&product[..k]).zip(dk.iter_mut())
                        {
                            *gate += f64::from(*key) * f64::from(*by_key);
                            *dk += by_key;
                        }
                    }
                }
                if let Some(g) = &x.g {
                    let g = &g[t][h * gates..(h + 1) * gates];
                    if gates > 1 {
                        for (gate, g) in gate.iter_mut().zip(g) {
                            *gate = if *g < NOTHING_LEFT { 0.0 } else { *gate };
                        }
                    } else if g[0] < NOTHING_LEFT {
                        gate.fill(0.0);
                    }
                    let dg = self.to.g.row(at);
                    match gates {
                        1 => dg[0] = gate.iter().sum::<f64>() as f32,
                        _ => dg.iter_mut().zip(&gate).for_each(|(d, gate)| *d = *gate as f32),
                    }
                }
                if let Some(bonus) = &x.bonus {
                    let u = bonus.row(h).to_slice().unwrap_or_default();
                    let (value, d) = (x.v(t, h), dout(t));
                    let through = x.scale * math::dot(s, value, d);
                    let du = self.to.bonus.row(0);
                    let weighed = &mut product[..k];
                    times(u, key, weighed);
                    let read = math::dot(s, weighed, q);
                    math::axpy(s, through, weighed, dq);
                    times(u, q, weighed);
                    math::axpy(s, through, weighed, dk);
                    for ((du, q), key) in du.iter_mut().zip(q).zip(key) {
                        *du += through * q * key;
                    }
                    math::axpy(s, x.scale * read, d, self.to.v.row(at));
                }
                self.to.k.row(at).copy_from_slice(dk);
            }
        }
    }
}

/// A row times a number, or zeros where there is no such token.
#[inline(always)]
fn put<S: Lanes>(s: S, by: f32, row: Option<&[f32]>, out: &mut [f32]) {
    match row {
        Some(row) => math::scale_into(s, by, row, out),
        None => out.fill(0.0),
    }
}

/// `a ⊙ b`
#[inline(always)]
pub(super) fn times(a: &[f32], b: &[f32], out: &mut [f32]) {
    for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
        *out = a * b;
    }
}

/// `x −= a ⊙ b` in f64
#[inline(always)]
fn less(x: &mut [f64], a: &[f32], b: &[f32]) {
    for ((x, a), b) in x.iter_mut().zip(a).zip(b) {
        *x -= f64::from(*a) * f64::from(*b);
    }
}

/// `X += u yᵀ`
#[inline(always)]
fn add_outer<S: Lanes>(s: S, u: &[f32], y: &[f32], matrix: &mut [f32]) {
    for (row, u) in matrix.chunks_exact_mut(y.len().max(1)).zip(u) {
        math::axpy(s, *u, y, row);
    }
}
