//! The chunked form: causal attention within a chunk, and the state between chunks.
//!
//! With `G` the running sum of `g` inside the chunk:
//! $$ o_i = s\,e^{G_i} S^\top q_i + \sum_{j \le i} s\,(q_i^\top k_j)\, e^{G_i - G_j}\, \beta_j v_j, \qquad
//!    S' = e^{G_C} S + \sum_j e^{G_C - G_j}\, k_j (\beta_j v_j)^\top $$
//! Only differences `≤ 0` are exponentiated, so nothing overflows however strong the decay.

use longreach_simd::product::{Accumulate, Matrix, Sizes, tile};
use longreach_simd::team::Scratch;
use longreach_simd::{Cx, Kernel, Lanes, math};
use ndarray::{Array4, ArrayViewMut4};

use super::{Head, Inputs, OP, Tokens, heads, recurrent_into};
use crate::linear::features::fresh;
use crate::{Error, error};

/// Tokens in a chunk.
pub const CHUNK: usize = 64;

/// The scan of whole sequences or segments of them. `state` `[S, H, K, V]` is updated in place.
pub fn chunk(x: &Inputs<'_>, state: ArrayViewMut4<'_, f32>, cx: &Cx) -> Result<Array4<f32>, Error> {
    let mut out = fresh(x.v.dim());
    chunk_into(x, state, out.as_slice_mut().unwrap_or_default(), cx)?;
    Ok(out)
}

/// As [`chunk`], into `out`, contiguous `[B, T, H, V]`.
pub fn chunk_into(x: &Inputs<'_>, mut state: ArrayViewMut4<'_, f32>, out: &mut [f32], cx: &Cx) -> Result<(), Error> {
    x.check(state.shape())?;
    error::shape(OP, "out", &[x.v.len()], &[out.len()])?;
    let input = Tokens::of(x)?;
    if input.dims.k == 0 || out.is_empty() {
        return recurrent_into(x, state, out, cx);
    }
    let state = state.as_slice_mut().ok_or(Error::Layout { op: OP, input: "state" })?;
    // The scores q kᵀ are computed once per group and shared by its heads.
    let first: Vec<usize> =
        input.ranges.iter().scan(0, |at, r| Some(std::mem::replace(at, *at + r.len().div_ceil(CHUNK)))).collect();
    let chunks: usize = input.ranges.iter().map(|r| r.len().div_ceil(CHUNK)).sum();
    let mut scores = vec![0.0; chunks * input.dims.g * CHUNK * CHUNK];
    let mut chunk_tokens = Vec::with_capacity(chunks);
    for range in input.ranges.iter() {
        chunk_tokens.extend(range.clone().step_by(CHUNK).map(|t| t..(t + CHUNK).min(range.end)));
    }
    let groups = input.dims.g;
    cx.team.for_each(scores.chunks_mut(CHUNK * CHUNK).enumerate(), |(i, out)| {
        cx.isa.run(Scores { x: &input, group: i % groups, tokens: chunk_tokens[i / groups].clone(), out });
    });
    cx.team.for_each(heads(&input, out, state), |head| {
        let scores = &scores[first[head.s] * groups * CHUNK * CHUNK..];
        cx.isa.run(Chunks { head, scores });
    });
    Ok(())
}

/// The scores `scale · q kᵀ` of one chunk and group.
struct Scores<'a> {
    x: &'a Tokens<'a>,
    group: usize,
    tokens: std::ops::Range<usize>,
    out: &'a mut [f32],
}

impl Kernel for Scores<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(self, s: S) {
        let k = self.x.dims.k;
        let n = self.tokens.len();
        let head = self.group * self.x.dims.h / self.x.dims.g;
        let scratch = &mut Scratch::new(2 * n * k);
        let (q, keys) = scratch.split_at_mut(n * k);
        gather(self.tokens.clone().map(|t| self.x.q(t, head)), q);
        gather(self.tokens.clone().map(|t| self.x.k(t, head)), keys);
        q.iter_mut().for_each(|q| *q *= self.x.scale);
        tile(
            s,
            Sizes { m: n, n, k },
            Matrix::rows(q, k),
            Matrix::rows(keys, k).t(),
            Accumulate::Replace,
            self.out,
            CHUNK,
        );
    }
}

/// Copies rows to contiguous memory.
#[inline(always)]
pub(super) fn gather<'a>(rows: impl Iterator<Item = &'a [f32]>, out: &mut [f32]) {
    let mut at = 0;
    for row in rows {
        out[at..at + row.len()].copy_from_slice(row);
        at += row.len();
    }
}

/// Multiplies each row `i` of width `width` by `by[i]`.
#[inline(always)]
pub(super) fn scale_rows<S: Lanes>(s: S, x: &mut [f32], width: usize, by: &[f32]) {
    for (row, by) in x.chunks_mut(width).zip(by) {
        let by = s.splat(*by);
        for x in row.chunks_mut(S::LANES) {
            let v = s.mul(by, s.load_part(x));
            s.store_part(x, v);
        }
    }
}

/// The cumulative sums of the gate over a chunk, each as a rounded f32 and the remainder: after many strong gates the
/// sums are large, but their differences need all digits.
pub(super) struct CumulativeSums {
    high: [f32; CHUNK],
    low: [f32; CHUNK],
}

impl CumulativeSums {
    #[inline(always)]
    pub(super) fn of(x: &Tokens<'_>, h: usize, tokens: std::ops::Range<usize>) -> Self {
        let mut sums = Self { high: [0.0; CHUNK], low: [0.0; CHUNK] };
        let mut sum = 0.0f64;
        for (i, t) in tokens.enumerate() {
            sum += x.g(t, h) as f64;
            sums.high[i] = sum as f32;
            sums.low[i] = (sum - sum as f32 as f64) as f32;
        }
        sums
    }

    /// Writes `e^{G_to - G_i}` for each `i ≤ to`: the decay from token `i` to token `to`.
    #[inline(always)]
    pub(super) fn decay_to<S: Lanes>(&self, s: S, to: usize, out: &mut [f32]) {
        let (high, low) = (s.splat(self.high[to]), s.splat(self.low[to]));
        for (i, out) in out[..to + 1].chunks_mut(S::LANES).enumerate() {
            let at = i * S::LANES..i * S::LANES + out.len();
            let coarse = s.sub(high, s.load_part(&self.high[at.clone()]));
            let fine = s.sub(low, s.load_part(&self.low[at]));
            s.store_part(out, math::exp(s, s.add(coarse, fine)));
        }
    }

    /// Writes `scale · e^{G_i}` for each `i < out.len()`: the decay of the state before the chunk up to token `i`.
    #[inline(always)]
    pub(super) fn decay_from_start<S: Lanes>(&self, s: S, scale: f32, out: &mut [f32]) {
        for (i, out) in out.chunks_mut(S::LANES).enumerate() {
            let e = math::exp(s, s.load_part(&self.high[i * S::LANES..i * S::LANES + out.len()]));
            s.store_part(out, s.mul(s.splat(scale), e));
        }
    }

    /// `e^{G_i}` for one `i`.
    #[inline(always)]
    pub(super) fn total_decay<S: Lanes>(&self, s: S, i: usize) -> f32 {
        s.sum(math::exp(s, s.splat(self.high[i]))) / S::LANES as f32
    }
}

/// All chunks of one head, in order.
struct Chunks<'a, 'o> {
    head: Head<'a, 'o>,
    /// The scores from this sequence's first chunk on, `[chunk, G, CHUNK, CHUNK]`.
    scores: &'a [f32],
}

impl Kernel for Chunks<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(self, s: S) {
        let Head { x, s: sequence, h, mut out, state, .. } = self.head;
        let (k, v) = (x.dims.k, x.dims.v);
        let group = x.dims.group(h);
        let scratch = &mut Scratch::new(CHUNK * (CHUNK + 2 * k + 2 * v + 1));
        let (weights, rest) = scratch.split_at_mut(CHUNK * CHUNK);
        let (q, rest) = rest.split_at_mut(CHUNK * k);
        let (keys, rest) = rest.split_at_mut(CHUNK * k);
        let (values, rest) = rest.split_at_mut(CHUNK * v);
        let (sum, factors) = rest.split_at_mut(CHUNK * v);
        let range = x.ranges.get(sequence);
        for (i, first) in range.clone().step_by(CHUNK).enumerate() {
            let mut out = out.take(CHUNK);
            let n = out.rows();
            if n == 0 {
                // `V` is 0.
                break;
            }
            let tokens = first..first + n;
            let sums = CumulativeSums::of(x, h, tokens.clone());
            gather(tokens.clone().map(|t| x.q(t, h)), q);
            gather(tokens.clone().map(|t| x.k(t, h)), keys);
            gather(tokens.clone().map(|t| x.v(t, h)), values);
            if x.beta.is_some() {
                tokens.clone().zip(&mut *factors).for_each(|(t, factor)| *factor = x.beta(t, h));
                scale_rows(s, &mut values[..n * v], v, factors);
            }
            // The contribution of the state before the chunk: s e^{G_i} Sᵀ q_i.
            let between = Sizes { m: n, n: v, k };
            tile(s, between, Matrix::rows(q, k), Matrix::rows(state, v), Accumulate::Replace, sum, v);
            sums.decay_from_start(s, x.scale, &mut factors[..n]);
            scale_rows(s, &mut sum[..n * v], v, factors);
            // The contribution of the chunk: decayed causal scores times values.
            let scores = &self.scores[(i * x.dims.g + group) * CHUNK * CHUNK..][..CHUNK * CHUNK];
            for r in 0..n {
                let row = &mut weights[r * CHUNK..(r + 1) * CHUNK];
                sums.decay_to(s, r, row);
                for (w, score) in row[..r + 1].iter_mut().zip(&scores[r * CHUNK..]) {
                    *w *= score;
                }
                row[r + 1..].fill(0.0);
            }
            let inside = Sizes { m: n, n: v, k: n };
            tile(s, inside, Matrix::rows(weights, CHUNK), Matrix::rows(values, v), Accumulate::Add, sum, v);
            let skip = x.skip(h);
            for r in 0..n {
                let out = out.row(r);
                out.copy_from_slice(&sum[r * v..(r + 1) * v]);
                if skip != 0.0 {
                    math::axpy(s, skip, x.v(first + r, h), out);
                }
            }
            // The new state: the old one and all values of the chunk, decayed to its end.
            sums.decay_to(s, n - 1, factors);
            scale_rows(s, &mut values[..n * v], v, factors);
            scale_rows(s, state, k * v, &[sums.total_decay(s, n - 1)]);
            let into_state = Sizes { m: k, n: v, k: n };
            tile(s, into_state, Matrix::rows(keys, k).t(), Matrix::rows(values, v), Accumulate::Add, state, v);
        }
    }
}
