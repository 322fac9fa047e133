//! The scan, with the state in registers. Lanes are channels, so reading the state needs no horizontal sum.
//!
//! A task processes a block of channels of one sequence, a chunk of tokens at a time: first step sizes and inputs, then
//! the recurrence over all tokens of the chunk for a few of the `N` state rows at a time, then skip connection and
//! gate.

use std::borrow::Cow;

use longreach_simd::cache::prefetch;
use longreach_simd::team::Scratch;
use longreach_simd::{Cx, Kernel, Lanes, math, split};
use ndarray::{Array3, ArrayViewMut3};

use super::{Inputs, OP, step};
use crate::sequences::{Rows, contiguous};
use crate::{Error, error};

/// Tokens whose step sizes are computed together.
pub(super) const CHUNK: usize = 32;
/// Channels per task.
const BLOCK: usize = 64;
/// State rows kept in registers over a chunk, with the same rows of A.
const ROWS: usize = 8;

/// The scan of whole sequences or chunks of them. `state: [S, N, D]` is updated in place. Errors on wrong shapes.
pub fn recurrent(x: &Inputs<'_>, state: ArrayViewMut3<'_, f32>, cx: &Cx) -> Result<Array3<f32>, Error> {
    let mut out = Array3::from_elem(x.x.dim(), f32::NAN);
    recurrent_into(x, state, out.as_slice_mut().unwrap_or_default(), cx)?;
    Ok(out)
}

/// As [`recurrent`], into `out`, contiguous `[B, T, D]`.
pub fn recurrent_into(
    x: &Inputs<'_>,
    mut state: ArrayViewMut3<'_, f32>,
    out: &mut [f32],
    cx: &Cx,
) -> Result<(), Error> {
    x.check(state.shape())?;
    let (b, t, d, n) = x.dims();
    error::shape(OP, "out", &[b * t * d], &[out.len()])?;
    let input = Tokens::of(x)?;
    let ranges = x.sequences.ranges(OP, b, t)?;
    let state = state.as_slice_mut().ok_or(Error::Layout { op: OP, input: "state" })?;
    if d == 0 || n == 0 && t == 0 {
        return Ok(());
    }
    if t == 1 && ranges.len() == b && n > 0 {
        step::one(&input, [state, out], (d, n), cx);
        return Ok(());
    }
    let mut tasks = Vec::new();
    let mut rest = out;
    for (state, range) in state.chunks_mut((n * d).max(1)).zip(ranges) {
        let (mine, others) = rest.split_at_mut(range.len() * d);
        rest = others;
        if range.is_empty() {
            continue;
        }
        let parts = split::columns(mine, d, BLOCK).into_iter().zip(split::columns(state, d, BLOCK));
        for (i, (out, state)) in parts.enumerate() {
            tasks.push(Block { x: &input, first: range.start, c: i * BLOCK, out, state });
        }
    }
    cx.team.for_each(tasks, |block| cx.isa.run(block));
    Ok(())
}

/// The inputs, split into one slice per token.
pub(super) struct Tokens<'a> {
    pub(super) x: Rows<'a>,
    pub(super) dt: Rows<'a>,
    pub(super) b: Rows<'a>,
    pub(super) c: Rows<'a>,
    pub(super) z: Option<Rows<'a>>,
    pub(super) a: Cow<'a, [f32]>,
    pub(super) d: Cow<'a, [f32]>,
    pub(super) dt_bias: Cow<'a, [f32]>,
}

impl<'a> Tokens<'a> {
    pub(super) fn of(x: &'a Inputs<'_>) -> Result<Self, Error> {
        Ok(Self {
            x: Rows::of(OP, "x", &x.x)?,
            dt: Rows::of(OP, "dt", &x.dt)?,
            b: Rows::of(OP, "b", &x.b)?,
            c: Rows::of(OP, "c", &x.c)?,
            z: x.z.as_ref().map(|z| Rows::of(OP, "z", z)).transpose()?,
            a: contiguous(&x.a),
            d: contiguous(&x.d),
            dt_bias: contiguous(&x.dt_bias),
        })
    }
}

struct Block<'a, 'o> {
    x: &'a Tokens<'a>,
    /// The first token.
    first: usize,
    /// The first channel.
    c: usize,
    out: Vec<&'o mut [f32]>,
    state: Vec<&'o mut [f32]>,
}

impl Kernel for Block<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(mut self, s: S) {
        let x = self.x;
        let channels = x.d.len();
        let width = self.out[0].len();
        let n = self.state.len();
        // The rows of the state and of A are strided, so the hardware prefetcher does not follow them.
        for (i, row) in self.state.iter().enumerate() {
            prefetch(row);
            prefetch(&x.a[i * channels + self.c..][..width]);
        }
        // Rows of the scratch buffer are padded to whole vectors.
        let padded = width.next_multiple_of(S::LANES);
        let scratch = &mut Scratch::new(3 * CHUNK * padded);
        let (delta, rest) = scratch.split_at_mut(CHUNK * padded);
        let (input, sum) = rest.split_at_mut(CHUNK * padded);
        let log2_e = s.splat(std::f32::consts::LOG2_E);
        for (chunk, out) in self.out.chunks_mut(CHUNK).enumerate() {
            let first = self.first + chunk * CHUNK;
            for (t, row) in out.iter().enumerate() {
                for at in (0..row.len()).step_by(S::LANES) {
                    let c = self.c + at..self.c + (at + S::LANES).min(width);
                    let u = s.add(s.load_part(&x.dt.get(first + t)[c.clone()]), s.load_part(&x.dt_bias[c.clone()]));
                    let step = math::softplus(s, u);
                    s.store(&mut delta[t * padded + at..], step);
                    s.store(&mut input[t * padded + at..], s.mul(step, s.load_part(&x.x.get(first + t)[c])));
                    s.store(&mut sum[t * padded + at..], s.splat(0.0));
                }
            }
            for at in (0..width).step_by(S::LANES) {
                let end = (at + S::LANES).min(width);
                let mut row = 0;
                while row < n {
                    let rows = ROWS.min(n - row);
                    let mut h = [s.splat(0.0); ROWS];
                    let mut a = [s.splat(0.0); ROWS];
                    for (i, (h, a)) in h.iter_mut().zip(&mut a).enumerate() {
                        if i < rows {
                            *h = s.load_part(&self.state[row + i][at..end]);
                            let from = (row + i) * channels + self.c;
                            *a = s.mul(s.load_part(&x.a[from + at..from + end]), log2_e);
                        }
                    }
                    for t in 0..out.len() {
                        let step = s.load(&delta[t * padded + at..]);
                        let input = s.load(&input[t * padded + at..]);
                        let mut y = s.load(&sum[t * padded + at..]);
                        let b = &x.b.get(first + t)[row..row + rows];
                        let c = &x.c.get(first + t)[row..row + rows];
                        if rows == ROWS {
                            let b: &[f32; ROWS] = b.try_into().expect("a full tile of rows");
                            let c: &[f32; ROWS] = c.try_into().expect("a full tile of rows");
                            for i in 0..ROWS {
                                let decay = math::exp2(s, s.mul(step, a[i]));
                                h[i] = s.fma(decay, h[i], s.mul(input, s.splat(b[i])));
                                y = s.fma(s.splat(c[i]), h[i], y);
                            }
                        } else {
                            for (i, h) in h.iter_mut().enumerate() {
                                if i < rows {
                                    let decay = math::exp2(s, s.mul(step, a[i]));
                                    *h = s.fma(decay, *h, s.mul(input, s.splat(b[i])));
                                    y = s.fma(s.splat(c[i]), *h, y);
                                }
                            }
                        }
                        s.store(&mut sum[t * padded + at..], y);
                    }
                    for (i, h) in h.into_iter().enumerate() {
                        if i < rows {
                            s.store_part(&mut self.state[row + i][at..end], h);
                        }
                    }
                    row += ROWS;
                }
            }
            for (t, row) in out.iter_mut().enumerate() {
                for at in (0..width).step_by(S::LANES) {
                    let end = (at + S::LANES).min(width);
                    let c = self.c + at..self.c + end;
                    let skip = s.load_part(&x.x.get(first + t)[c.clone()]);
                    let mut y = s.fma(s.load_part(&x.d[c.clone()]), skip, s.load(&sum[t * padded + at..]));
                    if let Some(z) = &x.z {
                        y = s.mul(y, math::silu_lanes(s, s.load_part(&z.get(first + t)[c])));
                    }
                    s.store_part(&mut row[at..end], y);
                }
            }
        }
    }
}
