//! The gradient, chunk by chunk from the last to the first; the states before each chunk are computed once, forwards.
//!
//! With `D_ij = e^{G_i - G_j}` for `j ≤ i`, `P = (dO Ṽᵀ) ⊙ D`, `Ṽ = β ⊙ V` and `S` the state before the chunk:
//! $$ dQ = s(PK + e^{G} \odot dO\,S^\top), \quad dK = s\,P^\top Q + e^{G_C - G} \odot \tilde V dS'^\top, $$
//! $$ d\tilde V = s\,(QK^\top \odot D)^\top dO + e^{G_C - G} \odot K\,dS', \quad dS = s\,(e^{G} \odot Q)^\top dO + e^{G_C} dS' $$
//! The gate acts through sums only: `dg_t = Σ_{i ≥ t} (q_i · dq_i − k_i · dk_i) + ⟨S_T, dS_T⟩` (Yang et al. 2024, GLA, §C).

use longreach_simd::product::{Into, Matrix, Sizes, tile};
use longreach_simd::team::Scratch;
use longreach_simd::{Cx, Kernel, Lanes, math, split};
use ndarray::{Array1, Array3, Array4, ArrayView4};

use super::chunk::{CHUNK, Sums, gather, scale_rows};
use super::{Dims, Inputs, OP, Tokens};
use crate::fast_weights::NOTHING_LEFT;
use crate::sequences::tokens;
use crate::{Error, error};

/// Gradients to the inputs of the scan.
#[derive(Clone, Debug)]
pub struct Gradient {
    /// `[B, T, G, K]`
    pub q: Array4<f32>,
    /// `[B, T, G, K]`
    pub k: Array4<f32>,
    /// `[B, T, H, V]`
    pub v: Array4<f32>,
    /// `[B, T, H]`; what it would be at `g = 0` where there is no gate
    pub g: Array3<f32>,
    /// `[B, T, H]`; what it would be at `β = 1` where there is none
    pub beta: Array3<f32>,
    /// `[H]`
    pub skip: Array1<f32>,
    /// To the state before the first token, `[S, H, K, V]`
    pub state: Array4<f32>,
}

/// Gradients given those of the output, `d_o: [B, T, H, V]`, and of the state after the last token, `d_state`.
///
/// `state` is the one before the first token, as the forward call received it.
pub fn backward(
    x: &Inputs<'_>,
    state: ArrayView4<'_, f32>,
    d_o: ArrayView4<'_, f32>,
    d_state: ArrayView4<'_, f32>,
    cx: &Cx,
) -> Result<Gradient, Error> {
    x.check(state.shape())?;
    error::shape(OP, "d_o", x.v.shape(), d_o.shape())?;
    error::shape(OP, "d_state", state.shape(), d_state.shape())?;
    let input = Tokens::of(x)?;
    let d_o = tokens(OP, "d_o", &d_o)?;
    let Dims { b, t, g: groups, h: heads, k, v } = input.dims;
    let total = b * t;
    let state: Vec<f32> = state.iter().copied().collect();
    let mut ds: Vec<f32> = d_state.iter().copied().collect();
    let mut dv = vec![0.0; total * heads * v];
    // By sequence and head: [tokens, 2 K + 2] with dq, dk, dg and dβ side by side.
    let width = 2 * k + 2;
    let mut rows = vec![0.0; total * heads * width];
    let mut skips = vec![0.0; input.ranges.len() * heads];
    {
        let mut tasks = Vec::new();
        let mut skips = skips.iter_mut();
        let mut states = state.chunks((k * v).max(1)).zip(ds.chunks_mut((k * v).max(1)));
        let (mut rest_v, mut rest_rows) = (&mut dv[..], &mut rows[..]);
        for (s, range) in input.ranges.iter().enumerate() {
            let n = range.len();
            let (mine, others) = rest_v.split_at_mut(n * heads * v);
            rest_v = others;
            let mut dvs = split::columns(mine, heads * v, v).into_iter();
            for h in 0..heads {
                let (rows, others) = rest_rows.split_at_mut(n * width);
                rest_rows = others;
                let (state, ds) = states.next().unwrap_or((&[], &mut []));
                let Some(d_skip) = skips.next() else { continue };
                let dv = dvs.next().unwrap_or_default();
                tasks.push(HeadGradient { x: &input, d_o: &d_o, s, h, state, ds, dv, rows, d_skip });
            }
        }
        cx.team.for_each(tasks, |task| cx.isa.run(task));
    }
    let shaped = "sizes were computed from the same dimensions";
    let mut grad = Gradient {
        q: Array4::zeros((b, t, groups, k)),
        k: Array4::zeros((b, t, groups, k)),
        v: Array4::from_shape_vec((b, t, heads, v), dv).expect(shaped),
        g: Array3::zeros((b, t, heads)),
        beta: Array3::zeros((b, t, heads)),
        skip: Array1::zeros(heads),
        state: Array4::from_shape_vec((input.ranges.len(), heads, k, v), ds).expect(shaped),
    };
    let (dq, dk) = (grad.q.as_slice_mut().expect("fresh"), grad.k.as_slice_mut().expect("fresh"));
    let (dg, db) = (grad.g.as_slice_mut().expect("fresh"), grad.beta.as_slice_mut().expect("fresh"));
    let mut rows = rows.chunks(width);
    for range in &input.ranges {
        for h in 0..heads {
            for t in range.clone() {
                let Some(row) = rows.next() else { continue };
                let at = (t * groups + input.dims.group(h)) * k;
                dq[at..at + k].iter_mut().zip(&row[..k]).for_each(|(sum, x)| *sum += x);
                dk[at..at + k].iter_mut().zip(&row[k..2 * k]).for_each(|(sum, x)| *sum += x);
                dg[t * heads + h] = row[2 * k];
                db[t * heads + h] = row[2 * k + 1];
            }
        }
    }
    for (i, skip) in skips.into_iter().enumerate() {
        grad.skip[i % heads] += skip;
    }
    Ok(grad)
}

/// One head of one sequence.
struct HeadGradient<'a, 'o> {
    x: &'a Tokens<'a>,
    d_o: &'a [&'a [f32]],
    s: usize,
    h: usize,
    /// The state before the first token, `[K, V]`.
    state: &'a [f32],
    /// On entry the gradient to the last state, on return to the first.
    ds: &'o mut [f32],
    dv: Vec<&'o mut [f32]>,
    /// `[tokens, 2 K + 2]`: dq, dk, dg, dβ.
    rows: &'o mut [f32],
    d_skip: &'o mut f32,
}

impl Kernel for HeadGradient<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(self, s: S) {
        let Self { x, d_o, s: sequence, h, state, ds, mut dv, rows, d_skip } = self;
        let (k, v) = (x.dims.k, x.dims.v);
        let width = 2 * k + 2;
        let range = x.ranges[sequence].clone();
        let chunks = range.len().div_ceil(CHUNK);
        let per_token = 4 * k + 3 * v + 3;
        let scratch = &mut Scratch::new((chunks + 1) * k * v + CHUNK * (2 * CHUNK + per_token));
        let (states, rest) = scratch.split_at_mut((chunks + 1) * k * v);
        let (scores, rest) = rest.split_at_mut(CHUNK * CHUNK);
        let (p, rest) = rest.split_at_mut(CHUNK * CHUNK);
        let (q, rest) = rest.split_at_mut(CHUNK * k);
        let (keys, rest) = rest.split_at_mut(CHUNK * k);
        let (dq, rest) = rest.split_at_mut(CHUNK * k);
        let (dk, rest) = rest.split_at_mut(CHUNK * k);
        let (values, rest) = rest.split_at_mut(CHUNK * v);
        let (dout, rest) = rest.split_at_mut(CHUNK * v);
        let (d_value, rest) = rest.split_at_mut(CHUNK * v);
        let (left, rest) = rest.split_at_mut(CHUNK);
        let (grown, beta) = rest.split_at_mut(CHUNK);
        let span = |i: usize| range.start + i * CHUNK..(range.start + (i + 1) * CHUNK).min(range.end);

        states[..k * v].copy_from_slice(state);
        for i in 0..chunks {
            let tokens = span(i);
            let n = tokens.len();
            let (before, after) = states[i * k * v..].split_at_mut(k * v);
            let after = &mut after[..k * v];
            after.copy_from_slice(before);
            let sums = Sums::of(x, h, tokens.clone());
            gather(tokens.clone().map(|t| x.k(t, h)), keys);
            gather(tokens.clone().map(|t| x.v(t, h)), values);
            sums.remaining(s, n - 1, left);
            left[..n].iter_mut().zip(tokens).for_each(|(left, t)| *left *= x.beta(t, h));
            scale_rows(s, &mut values[..n * v], v, left);
            scale_rows(s, after, k * v, &[sums.left_of_state(s, n - 1)]);
            let size = Sizes { m: k, n: v, k: n };
            tile(s, size, Matrix::rows(keys, k).t(), Matrix::rows(values, v), Into::Add, after, v);
        }
        // ⟨S_T, dS_T⟩, what every gate contributes through the final state; then q·dq − k·dk is summed backwards.
        let mut gate: f64 = states[chunks * k * v..].iter().zip(&*ds).map(|(a, b)| *a as f64 * *b as f64).sum();
        let skip = x.skip[h];
        for i in (0..chunks).rev() {
            let tokens = span(i);
            let n = tokens.len();
            let before = &states[i * k * v..(i + 1) * k * v];
            let sums = Sums::of(x, h, tokens.clone());
            gather(tokens.clone().map(|t| x.q(t, h)), q);
            gather(tokens.clone().map(|t| x.k(t, h)), keys);
            gather(tokens.clone().map(|t| x.v(t, h)), values);
            gather(tokens.clone().map(|t| &d_o[t][h * v..(h + 1) * v]), dout);
            for r in 0..n {
                let row = r * v..(r + 1) * v;
                *d_skip += math::dot(s, &dout[row.clone()], &values[row]);
            }
            tokens.clone().zip(&mut *beta).for_each(|(t, beta)| *beta = x.beta(t, h));
            scale_rows(s, &mut values[..n * v], v, beta);
            sums.remaining(s, n - 1, left);
            sums.of_state(s, x.scale, &mut grown[..n]);

            // scores = s (q kᵀ) ⊙ D and p = s (dO Ṽᵀ) ⊙ D, causal.
            let square = Sizes { m: n, n, k };
            tile(s, square, Matrix::rows(q, k), Matrix::rows(keys, k).t(), Into::Set, scores, CHUNK);
            let square = Sizes { m: n, n, k: v };
            tile(s, square, Matrix::rows(dout, v), Matrix::rows(values, v).t(), Into::Set, p, CHUNK);
            for r in 0..n {
                let decay = &mut beta[..r + 1]; // free until dβ below, which reads x.beta again
                sums.remaining(s, r, decay);
                for (matrix, by) in [(&mut *scores, x.scale), (&mut *p, x.scale)] {
                    let row = &mut matrix[r * CHUNK..(r + 1) * CHUNK];
                    row[..r + 1].iter_mut().zip(&*decay).for_each(|(x, decay)| *x *= by * decay);
                    row[r + 1..].fill(0.0);
                }
            }
            // dṼ = scoresᵀ dO + e^{G_C - G} ⊙ K dS'
            let size = Sizes { m: n, n: v, k };
            tile(s, size, Matrix::rows(keys, k), Matrix::rows(ds, v), Into::Set, d_value, v);
            scale_rows(s, &mut d_value[..n * v], v, left);
            let size = Sizes { m: n, n: v, k: n };
            tile(s, size, Matrix::rows(scores, CHUNK).t(), Matrix::rows(dout, v), Into::Add, d_value, v);
            // dQ = p K + s e^{G} ⊙ dO Sᵀ
            let size = Sizes { m: n, n: k, k: v };
            tile(s, size, Matrix::rows(dout, v), Matrix::rows(before, v).t(), Into::Set, dq, k);
            scale_rows(s, &mut dq[..n * k], k, grown);
            let size = Sizes { m: n, n: k, k: n };
            tile(s, size, Matrix::rows(p, CHUNK), Matrix::rows(keys, k), Into::Add, dq, k);
            // dK = pᵀ Q + e^{G_C - G} ⊙ Ṽ dS'ᵀ
            let size = Sizes { m: n, n: k, k: v };
            tile(s, size, Matrix::rows(values, v), Matrix::rows(ds, v).t(), Into::Set, dk, k);
            scale_rows(s, &mut dk[..n * k], k, left);
            let size = Sizes { m: n, n: k, k: n };
            tile(s, size, Matrix::rows(p, CHUNK).t(), Matrix::rows(q, k), Into::Add, dk, k);

            let first = i * CHUNK;
            for r in (0..n).rev() {
                let t = tokens.start + r;
                let keys = r * k..(r + 1) * k;
                let (dq, dk) = (&dq[keys.clone()], &dk[keys.clone()]);
                // The gate at t reaches what is read from t on, less what is written from t on.
                gate += math::dot(s, &q[keys.clone()], dq) as f64 - math::dot(s, x.k(t, h), dk) as f64;
                if x.g(t, h) < NOTHING_LEFT {
                    gate = 0.0;
                }
                let row = &mut rows[(first + r) * width..(first + r + 1) * width];
                row[..k].copy_from_slice(dq);
                row[k..2 * k].copy_from_slice(dk);
                row[2 * k] = gate as f32;
                let d_value = &d_value[r * v..(r + 1) * v];
                row[2 * k + 1] = math::dot(s, d_value, x.v(t, h));
                let dv = &mut dv[first + r];
                dv.fill(0.0);
                math::axpy(s, x.beta(t, h), d_value, dv);
                math::axpy(s, skip, &dout[r * v..(r + 1) * v], dv);
            }
            // dS = s (e^{G} ⊙ Q)ᵀ dO + e^{G_C} dS'
            scale_rows(s, ds, k * v, &[sums.left_of_state(s, n - 1)]);
            scale_rows(s, &mut q[..n * k], k, grown);
            let size = Sizes { m: k, n: v, k: n };
            tile(s, size, Matrix::rows(q, k).t(), Matrix::rows(dout, v), Into::Add, ds, v);
        }
    }
}
