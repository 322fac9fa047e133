//! The recurrent form: a tile of the state stays in registers for a chunk of tokens.
//!
//! Lanes run along the value; a tile is [`ROWS`] rows of the state by [`WIDE`] vectors. With `G` the cumulative sum of
//! `g` over a run of tokens, `e^{-G_t} S_t` is only added to, which takes two operations per cell and token instead of
//! three:
//! $$ e^{-G_t} S_t = e^{-G_{t-1}} S_{t-1} + k_t\,(e^{-G_t} \beta_t v_t)^\top, \qquad o_t = s\,e^{G_t} (e^{-G_t} S_t)^\top q_t. $$
//! A run ends before `-G` passes [`LIMIT`], so nothing overflows however strong the decay.

use std::ops::Range;

use longreach_simd::cache::{prefetch, store_fence};
use longreach_simd::team::Scratch;
use longreach_simd::{Cx, Kernel, Lanes, math};
use ndarray::{Array4, ArrayViewMut4};

use super::token::{Token, is_one_token, one_token};
use super::{Head, Inputs, OP, Tokens, heads};
use crate::linear::features::{Floor, unwritten};
use crate::linear::linear_attention::Map;
use crate::sequences::heads_per_task;
use crate::{Error, error};

mod decay;
mod prefetch_lines;

use decay::Decay;
use prefetch_lines::{Line, PrefetchLines};

/// Tokens that a tile is kept in registers for.
const CHUNK: usize = 64;
/// Rows of the state in a tile.
const ROWS: usize = 4;
/// Vectors of the value in a tile.
const WIDE: usize = 4;
/// The largest `-G` before the state is rescaled.
const LIMIT: f64 = 30.0;

/// The scan of whole sequences or segments of them. `state` `[S, H, K, V]` is updated in place.
pub fn recurrent(x: &Inputs<'_>, state: ArrayViewMut4<'_, f32>, cx: &Cx) -> Result<Array4<f32>, Error> {
    let mut out = unwritten(x.v.dim());
    recurrent_into(x, state, out.as_slice_mut().unwrap_or_default(), cx)?;
    Ok(out)
}

/// As [`recurrent`], into `out`, contiguous `[B, T, H, V]`.
pub fn recurrent_into(
    x: &Inputs<'_>,
    mut state: ArrayViewMut4<'_, f32>,
    out: &mut [f32],
    cx: &Cx,
) -> Result<(), Error> {
    x.check(state.shape())?;
    error::shape(OP, "out", &[x.v.len()], &[out.len()])?;
    let input = Tokens::of(x)?;
    if out.is_empty() {
        return Ok(());
    }
    let state = state.as_slice_mut().ok_or(Error::Layout { op: OP, input: "state" })?;
    if is_one_token(&input) {
        one_token(&input, state, out, cx);
        return Ok(());
    }
    cx.team.for_each(groups(&input, heads(&input, out, state), cx), |heads| cx.isa.run(heads));
    Ok(())
}

/// Groups consecutive heads of a sequence into tasks.
fn groups<'a, 'o>(x: &Tokens<'_>, heads: Vec<Head<'a, 'o>>, cx: &Cx) -> Vec<Heads<'a, 'o>> {
    let (all, block) = (x.dims.h, heads_per_task(x.ranges.len(), x.dims.h, cx));
    let mut groups = Vec::with_capacity(heads.len().div_ceil(block));
    let mut heads = heads.into_iter();
    while let Some(head) = heads.next() {
        // A task does not span sequences.
        let more = (block - 1).min(all - 1 - head.h);
        groups.push(Heads(std::iter::once(head).chain(heads.by_ref().take(more)).collect()));
    }
    groups
}

/// As [`recurrent`], with features of queries and keys; divided by `s φ(q)' Σ φ(k)` if there is a floor. `sums` is
/// `[S, H, K, 1]`, or empty without a floor.
pub(in crate::linear) fn featured(
    x: &Inputs<'_>,
    map: Map,
    floor: Option<Floor>,
    mut state: ArrayViewMut4<'_, f32>,
    mut sums: ArrayViewMut4<'_, f32>,
    cx: &Cx,
) -> Result<Array4<f32>, Error> {
    x.check(state.shape())?;
    let mut out = unwritten(x.v.dim());
    let input = Tokens::of(x)?;
    let state = state.as_slice_mut().ok_or(Error::Layout { op: OP, input: "state" })?;
    let sums = sums.as_slice_mut().ok_or(Error::Layout { op: OP, input: "state" })?;
    let mut sums = sums.chunks_mut(input.dims.k.max(1));
    let mut heads = heads(&input, out.as_slice_mut().unwrap_or_default(), state);
    for head in &mut heads {
        head.features = Some((map, floor, sums.next().unwrap_or_default()));
    }
    cx.team.for_each(groups(&input, heads, cx), |heads| cx.isa.run(heads));
    Ok(out)
}

/// A task: consecutive heads of one sequence, a chunk of each in turn. Their rows are contiguous in memory for each
/// token.
struct Heads<'a, 'o>(Vec<Head<'a, 'o>>);

/// The scratch memory of a chunk.
struct ChunkScratch<'m> {
    /// `e^{-G} β v` and the outputs, as blocks of the columns of a tile, `[blocks, CHUNK, WIDE · LANES]`.
    value: &'m mut [f32],
    sum: &'m mut [f32],
    /// The features of queries and keys, `[CHUNK, K]`; empty without a map.
    of_queries: &'m mut [f32],
    of_keys: &'m mut [f32],
}

impl Kernel for Heads<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(self, s: S) {
        let Self(mut heads) = self;
        let Some(&Head { x, s: sequence, non_temporal, ref features, .. }) = heads.first() else { return };
        let tokens = x.ranges.get(sequence);
        if tokens.len() == 1 && features.is_none() {
            let written = &mut Scratch::new(x.dims.v);
            for Head { h, out, state, .. } in &mut heads {
                Token { x, t: tokens.start, h: *h, state, out: out.row(0) }.pass(s, written);
            }
            return;
        }
        let padded = x.dims.v.next_multiple_of(WIDE * S::LANES);
        let mapped = if features.is_some() { CHUNK * x.dims.k } else { 0 };
        let scratch = &mut Scratch::new(2 * CHUNK * padded + 2 * mapped);
        let (value, rest) = scratch.split_at_mut(CHUNK * padded);
        let (sum, rest) = rest.split_at_mut(CHUNK * padded);
        let (of_queries, of_keys) = rest.split_at_mut(mapped);
        let scratch = &mut ChunkScratch { value, sum, of_queries, of_keys };
        for first in tokens.clone().step_by(CHUNK) {
            let (current, following) = (first..(first + CHUNK).min(tokens.end), (first + CHUNK).min(tokens.end));
            let following = following..(following + CHUNK).min(tokens.end);
            for i in 0..heads.len() {
                // Next are the same tokens of the next head, or the next tokens of the first head.
                let next = heads.get(i + 1).map_or((heads[0].h, following.clone()), |head| (head.h, current.clone()));
                heads[i].chunk(s, current.clone(), scratch, next);
            }
        }
        if non_temporal {
            store_fence();
        }
    }
}

impl Head<'_, '_> {
    /// Processes a chunk of tokens; `next` is the head and the tokens to prefetch.
    #[inline(always)]
    fn chunk<S: Lanes>(
        &mut self,
        s: S,
        tokens: Range<usize>,
        scratch: &mut ChunkScratch<'_>,
        next: (usize, Range<usize>),
    ) {
        let x = self.x;
        let (k, v) = (x.dims.k, x.dims.v);
        let padded = v.next_multiple_of(WIDE * S::LANES);
        let ChunkScratch { value, sum, of_queries, of_keys } = scratch;
        let first = tokens.start;
        let mut out = self.out.take(CHUNK);
        let n = out.rows();
        let decay = Decay::of(s, x, self.h, first, n);
        for i in 0..n {
            let (t, h) = (first + i, self.h);
            let strength = s.splat(decay.inverse[i] * x.beta(t, h));
            let row = x.v(t, h);
            for at in (0..padded).step_by(S::LANES) {
                let row = &row[at.min(v)..];
                let part = if row.len() < S::LANES { s.load_part(row) } else { s.load(row) };
                s.store(&mut value[block_offset::<S>(i, at)..], s.mul(strength, part));
            }
        }
        if k == 0 {
            sum.fill(0.0);
        }
        let (mut q, mut keys) = ([&[][..]; CHUNK], [&[][..]; CHUNK]);
        let mut inverse_denominator = [1.0; CHUNK];
        if let Some((map, floor, sums)) = &mut self.features {
            for i in 0..n {
                let (q, key) = (&mut of_queries[i * k..(i + 1) * k], &mut of_keys[i * k..(i + 1) * k]);
                map.of_row(s, x.q(first + i, self.h), q);
                map.of_row(s, x.k(first + i, self.h), key);
                if let Some(floor) = floor {
                    math::axpy(s, 1.0, key, sums);
                    inverse_denominator[i] = 1.0 / floor.of(x.scale * math::dot(s, q, sums));
                }
            }
        }
        for i in 0..n {
            (q[i], keys[i]) = match self.features {
                Some(_) => (&of_queries[i * k..(i + 1) * k], &of_keys[i * k..(i + 1) * k]),
                None => (x.q(first + i, self.h), x.k(first + i, self.h)),
            };
        }
        let chunk = Chunk { q: &q[..n], k: &keys[..n], v, decay: &decay };
        let mut output_rows = 0..if self.non_temporal { 0 } else { n };
        let mut lines = PrefetchLines::of(x, next);
        let blocks = value.chunks_exact(CHUNK * WIDE * S::LANES).zip(sum.chunks_exact_mut(CHUNK * WIDE * S::LANES));
        for ((value, sum), at) in blocks.zip((0..v).step_by(WIDE * S::LANES)) {
            let mut row = 0;
            while row + ROWS <= k {
                // Prefetches the chunk's output rows, a few per tile.
                for i in output_rows.by_ref().take((CHUNK * ROWS).div_ceil(k)) {
                    prefetch(out.row(i));
                }
                chunk.tile::<S, ROWS>(s, row, at, self.state, value, sum, &lines.next());
                row += ROWS;
            }
            while row < k {
                chunk.tile::<S, 1>(s, row, at, self.state, value, sum, &Line::NONE);
                row += 1;
            }
        }
        let skip = s.splat(x.skip(self.h));
        for i in 0..n {
            let (value, out) = (x.v(first + i, self.h), out.row(i));
            let scale = s.splat(x.scale * decay.cumulative[i] * inverse_denominator[i]);
            for at in (0..v).step_by(S::LANES) {
                let (value, out) = (&value[at..], &mut out[at..]);
                let y = s.mul(scale, s.load(&sum[block_offset::<S>(i, at)..]));
                match value.len() < S::LANES {
                    true => s.store_part(out, s.fma(skip, s.load_part(value), y)),
                    false if self.non_temporal => s.store_non_temporal(out, s.fma(skip, s.load(value), y)),
                    false => s.store(out, s.fma(skip, s.load(value), y)),
                }
            }
        }
    }
}

/// The offset of column `at` of token `i` in blocks of the columns of a tile.
#[inline(always)]
fn block_offset<S: Lanes>(i: usize, at: usize) -> usize {
    let wide = WIDE * S::LANES;
    (at / wide * CHUNK + i) * wide + at % wide
}
/// The tokens of a chunk of one head.
struct Chunk<'a> {
    q: &'a [&'a [f32]],
    k: &'a [&'a [f32]],
    /// The width of a value.
    v: usize,
    decay: &'a Decay,
}

impl Chunk<'_> {
    /// Passes all tokens of the chunk over a tile of the state: `R` rows from `row` on, and the vectors from column
    /// `at` on.
    #[inline(always)]
    #[allow(clippy::too_many_arguments, reason = "two places call it")]
    fn tile<S: Lanes, const R: usize>(
        &self,
        s: S,
        row: usize,
        at: usize,
        state: &mut [f32],
        values: &[f32],
        sums: &mut [f32],
        line: &Line<'_>,
    ) {
        let v = self.v;
        let lanes = S::LANES;
        let mut tile = [[s.splat(0.0); WIDE]; R];
        for (r, tile) in tile.iter_mut().enumerate() {
            for (w, tile) in tile.iter_mut().enumerate() {
                let from = (at + w * lanes).min(v);
                *tile = s.load_part(&state[(row + r) * v + from..(row + r) * v + (from + lanes).min(v)]);
            }
        }
        let mut first = 0;
        for run in 0..self.decay.runs {
            let end = self.decay.end[run];
            scale(s, &mut tile, self.decay.entry[run]);
            let run = first * WIDE * lanes..end * WIDE * lanes;
            let rows = self.q[first..end].iter().zip(&self.k[first..end]);
            let value = values[run.clone()].chunks_exact(WIDE * lanes);
            let sums = sums[run].chunks_exact_mut(WIDE * lanes);
            for (i, (((q, k), value), sum)) in rows.zip(value).zip(sums).enumerate() {
                line.prefetch(first + i);
                let (q, k) = (&q[row..row + R], &k[row..row + R]);
                let mut out = [s.splat(0.0); WIDE];
                // The first tile of rows starts the sums.
                if row > 0 {
                    for (w, out) in out.iter_mut().enumerate() {
                        *out = s.load(&sum[w * lanes..(w + 1) * lanes]);
                    }
                }
                for r in 0..R {
                    let (q, k) = (s.splat(q[r]), s.splat(k[r]));
                    for w in 0..WIDE {
                        tile[r][w] = s.fma(k, s.load(&value[w * lanes..(w + 1) * lanes]), tile[r][w]);
                        out[w] = s.fma(q, tile[r][w], out[w]);
                    }
                }
                for (w, out) in out.into_iter().enumerate() {
                    s.store(&mut sum[w * lanes..(w + 1) * lanes], out);
                }
            }
            scale(s, &mut tile, self.decay.cumulative[end - 1]);
            first = end;
        }
        for (r, tile) in tile.into_iter().enumerate() {
            for (w, tile) in tile.into_iter().enumerate() {
                let from = (at + w * lanes).min(v);
                s.store_part(&mut state[(row + r) * v + from..(row + r) * v + (from + lanes).min(v)], tile);
            }
        }
    }
}

/// Multiplies a tile.
#[inline(always)]
fn scale<S: Lanes, const R: usize>(s: S, tile: &mut [[S::V; WIDE]; R], by: f32) {
    let by = s.splat(by);
    for row in tile {
        for cell in row {
            *cell = s.mul(by, *cell);
        }
    }
}
