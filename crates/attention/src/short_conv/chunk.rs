//! All tokens at once: channels in lanes, blocks of tokens shared among threads.

use longreach_simd::{Cx, Kernel, Lanes, math};
use ndarray::{Array3, ArrayViewMut3};

use super::{Activation, Inputs, OP};
use crate::sequences::tokens;
use crate::{Error, error};

/// Tokens a task convolves.
const BLOCK: usize = 64;

/// The convolution of whole sequences or chunks of them. `state` `[S, W - 1, D]` is read and left for the next chunk.
pub fn chunk(x: &Inputs<'_>, state: ArrayViewMut3<'_, f32>, cx: &Cx) -> Result<Array3<f32>, Error> {
    let mut out = Array3::from_elem(x.x.dim(), f32::NAN);
    chunk_into(x, state, out.as_slice_mut().unwrap_or_default(), cx)?;
    Ok(out)
}

/// As [`chunk`], into `out`, contiguous `[B, T, D]`.
pub fn chunk_into(x: &Inputs<'_>, mut state: ArrayViewMut3<'_, f32>, out: &mut [f32], cx: &Cx) -> Result<(), Error> {
    x.check(state.shape())?;
    let (b, t, d, w) = x.dims();
    error::shape(OP, "out", &[b * t * d], &[out.len()])?;
    if d == 0 {
        return Ok(());
    }
    let rows = tokens(OP, "x", &x.x)?;
    let taps = x.w.as_standard_layout();
    let taps: Vec<&[f32]> = taps.as_slice().unwrap_or_default().chunks(d).collect();
    let bias = x.bias.map(|b| b.to_vec());
    let before = state.to_owned();
    let before: Vec<&[f32]> = before.as_slice().unwrap_or_default().chunks(d).collect();

    let mut tasks = Vec::new();
    let mut rest = out;
    for (s, range) in x.sequences.ranges(OP, b, t)?.into_iter().enumerate() {
        let past = &before[s * (w - 1)..(s + 1) * (w - 1)];
        let (mine, others) = rest.split_at_mut(range.len() * d);
        rest = others;
        let rows = &rows[range];
        for (i, out) in mine.chunks_mut(BLOCK * d).enumerate() {
            tasks.push(Block {
                past,
                rows,
                taps: &taps,
                bias: bias.as_deref(),
                act: x.activation,
                first: i * BLOCK,
                out,
            });
        }
        for j in 0..w - 1 {
            // Position j of the new past is token T - (W - 1) + j, or one of the old past.
            let at = rows.len() + j;
            let row = if at < w - 1 { past[at] } else { rows[at - (w - 1)] };
            state.slice_mut(ndarray::s![s, j, ..]).iter_mut().zip(row).for_each(|(s, x)| *s = *x);
        }
    }
    cx.team.for_each(tasks, |block| cx.isa.run(block));
    Ok(())
}

struct Block<'a> {
    past: &'a [&'a [f32]],
    rows: &'a [&'a [f32]],
    taps: &'a [&'a [f32]],
    bias: Option<&'a [f32]>,
    act: Activation,
    first: usize,
    out: &'a mut [f32],
}

impl Kernel for Block<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(self, s: S) {
        let w = self.taps.len();
        let d = self.taps[0].len();
        for (i, out) in self.out.chunks_mut(d).enumerate() {
            // Token t meets tap j at position t + j of (past, tokens).
            let t = self.first + i;
            for c in (0..d).step_by(S::LANES) {
                let end = (c + S::LANES).min(d);
                let mut sum = self.bias.map_or(s.splat(0.0), |b| s.load_part(&b[c..end]));
                for (j, tap) in self.taps.iter().enumerate() {
                    let at = t + j;
                    let row = if at < w - 1 { self.past[at] } else { self.rows[at - (w - 1)] };
                    sum = s.fma(s.load_part(&tap[c..end]), s.load_part(&row[c..end]), sum);
                }
                let y = match self.act {
                    Activation::None => sum,
                    Activation::Silu => math::silu_lanes(s, sum),
                };
                s.store_part(&mut out[c..end], y);
            }
        }
    }
}
