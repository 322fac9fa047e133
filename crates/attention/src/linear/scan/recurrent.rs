//! Token by token, a tile of the state in registers over a chunk of tokens.
//!
//! Lanes run along a value; a tile is [`ROWS`] rows of the state by [`WIDE`] vectors. As many operations as the chunk form
//! at the sizes of Mamba-2, no more memory, and cutting a sequence changes no bit.

use longreach_simd::team::Scratch;
use longreach_simd::{Cx, Kernel, Lanes};
use ndarray::{Array4, ArrayViewMut4};

use super::{Head, Inputs, OP, Tokens, heads};
use crate::{Error, error};

/// Tokens a tile of the state sees before it goes back to memory.
const CHUNK: usize = 64;
/// State rows in a tile.
const ROWS: usize = 4;
/// Vectors of a value in a tile.
const WIDE: usize = 4;

/// The scan of whole sequences or chunks of them. `state` `[S, H, K, V]` is read and left for the next chunk.
pub fn recurrent(x: &Inputs<'_>, state: ArrayViewMut4<'_, f32>, cx: &Cx) -> Result<Array4<f32>, Error> {
    let mut out = Array4::from_elem(x.v.dim(), f32::NAN);
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
    let state = state.as_slice_mut().ok_or(Error::Layout { op: OP, input: "state" })?;
    cx.team.for_each(heads(&input, out, state), |head| cx.isa.run(head));
    Ok(())
}

impl Kernel for Head<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(mut self, s: S) {
        let x = self.x;
        let (k, v) = (x.dims.k, x.dims.v);
        // β v, then the output of a chunk, rows padded to whole tiles.
        let padded = v.next_multiple_of(WIDE * S::LANES);
        let scratch = &mut Scratch::new(2 * CHUNK * padded + CHUNK);
        let (value, rest) = scratch.split_at_mut(CHUNK * padded);
        let (sum, decay) = rest.split_at_mut(CHUNK * padded);
        let first = x.ranges[self.s].start;
        for (chunk, out) in self.out.chunks_mut(CHUNK).enumerate() {
            let first = first + chunk * CHUNK;
            for i in 0..out.len() {
                let (t, h) = (first + i, self.h);
                decay[i] = x.g(t, h);
                let beta = s.splat(x.beta(t, h));
                let row = x.v(t, h);
                for at in (0..padded).step_by(S::LANES) {
                    let part = s.load_part(&row[at.min(v)..]);
                    s.store(&mut value[i * padded + at..], s.mul(beta, part));
                    s.store(&mut sum[i * padded + at..], s.splat(0.0));
                }
            }
            for part in decay[..out.len()].chunks_mut(S::LANES) {
                let e = longreach_simd::math::exp(s, s.load_part(part));
                s.store_part(part, e);
            }
            let chunk = Chunk { x, h: self.h, first, len: out.len(), padded, value, decay };
            for at in (0..v).step_by(WIDE * S::LANES) {
                if chunk.len == 1 && at + WIDE * S::LANES <= v {
                    chunk.token(s, at, self.state, sum);
                    continue;
                }
                let mut row = 0;
                while row + ROWS <= k {
                    chunk.tile::<S, ROWS>(s, row, at, self.state, sum);
                    row += ROWS;
                }
                while row < k {
                    chunk.tile::<S, 1>(s, row, at, self.state, sum);
                    row += 1;
                }
            }
            let (scale, skip) = (s.splat(x.scale), s.splat(x.skip[self.h]));
            for (i, out) in out.iter_mut().enumerate() {
                let value = x.v(first + i, self.h);
                for at in (0..v).step_by(S::LANES) {
                    let end = (at + S::LANES).min(v);
                    let y = s.mul(scale, s.load(&sum[i * padded + at..]));
                    s.store_part(&mut out[at..end], s.fma(skip, s.load_part(&value[at..end]), y));
                }
            }
        }
    }
}

/// A chunk of one head's tokens.
struct Chunk<'a> {
    x: &'a Tokens<'a>,
    h: usize,
    first: usize,
    len: usize,
    padded: usize,
    value: &'a [f32],
    decay: &'a [f32],
}

impl Chunk<'_> {
    /// All rows of the state, the vectors from column `at` on, through the one token there is: the state streams by and
    /// the output stays in registers. The same operations in the same order as by tiles.
    #[inline(always)]
    fn token<S: Lanes>(&self, s: S, at: usize, state: &mut [f32], sum: &mut [f32]) {
        let lanes = S::LANES;
        let (v, decay) = (self.x.dims.v, s.splat(self.decay[0]));
        let mut value = [s.splat(0.0); WIDE];
        for (w, value) in value.iter_mut().enumerate() {
            *value = s.load(&self.value[at + w * lanes..]);
        }
        let mut out = [s.splat(0.0); WIDE];
        let (q, k) = (self.x.q(self.first, self.h), self.x.k(self.first, self.h));
        for ((row, q), k) in state.chunks_exact_mut(v).zip(q).zip(k) {
            let (q, k) = (s.splat(*q), s.splat(*k));
            let row = &mut row[at..at + WIDE * lanes];
            for w in 0..WIDE {
                let cell = &mut row[w * lanes..(w + 1) * lanes];
                let new = s.fma(decay, s.load(cell), s.mul(k, value[w]));
                s.store(cell, new);
                out[w] = s.fma(q, new, out[w]);
            }
        }
        for (w, out) in out.into_iter().enumerate() {
            s.store(&mut sum[at + w * lanes..], out);
        }
    }

    /// `R` rows of the state from `row` on, the vectors from column `at` on, through all tokens of the chunk.
    #[inline(always)]
    fn tile<S: Lanes, const R: usize>(&self, s: S, row: usize, at: usize, state: &mut [f32], sum: &mut [f32]) {
        let v = self.x.dims.v;
        let lanes = S::LANES;
        let mut tile = [[s.splat(0.0); WIDE]; R];
        for (r, tile) in tile.iter_mut().enumerate() {
            for (w, tile) in tile.iter_mut().enumerate() {
                let from = (at + w * lanes).min(v);
                *tile = s.load_part(&state[(row + r) * v + from..(row + r) * v + (from + lanes).min(v)]);
            }
        }
        for i in 0..self.len {
            let decay = s.splat(self.decay[i]);
            let from = i * self.padded + at;
            let value = &self.value[from..from + WIDE * lanes];
            let sum = &mut sum[from..from + WIDE * lanes];
            let q = &self.x.q(self.first + i, self.h)[row..row + R];
            let k = &self.x.k(self.first + i, self.h)[row..row + R];
            let mut out = [s.splat(0.0); WIDE];
            for (w, out) in out.iter_mut().enumerate() {
                *out = s.load(&sum[w * lanes..(w + 1) * lanes]);
            }
            for r in 0..R {
                let (q, k) = (s.splat(q[r]), s.splat(k[r]));
                for w in 0..WIDE {
                    let written = s.mul(k, s.load(&value[w * lanes..(w + 1) * lanes]));
                    tile[r][w] = s.fma(decay, tile[r][w], written);
                    out[w] = s.fma(q, tile[r][w], out[w]);
                }
            }
            for (w, out) in out.into_iter().enumerate() {
                s.store(&mut sum[w * lanes..(w + 1) * lanes], out);
            }
        }
        for (r, tile) in tile.into_iter().enumerate() {
            for (w, tile) in tile.into_iter().enumerate() {
                let from = (at + w * lanes).min(v);
                s.store_part(&mut state[(row + r) * v + from..(row + r) * v + (from + lanes).min(v)], tile);
            }
        }
    }
}
