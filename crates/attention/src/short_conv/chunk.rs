//! All tokens at once: lanes are channels, and blocks of tokens run in parallel.

use longreach_simd::{Cx, Kernel, Lanes, math};
use ndarray::{Array3, ArrayViewMut3};

use super::{Activation, Inputs, OP};
use crate::sequences::{contiguous, tokens};
use crate::{Error, error};

/// Tokens per task.
const BLOCK: usize = 64;
/// Channels per task, for a single token.
const CHANNELS: usize = 512;

/// The convolution of whole sequences or chunks of them. `state: [S, W - 1, D]` is updated in place. Errors on wrong
/// shapes.
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
    let ranges = x.sequences.ranges(OP, b, t)?;
    let taps = contiguous(&x.w);
    let taps: Vec<&[f32]> = taps.chunks(d).collect();
    let bias = x.bias.as_ref().map(contiguous);
    let state = state.as_slice_mut().ok_or(Error::Layout { op: OP, input: "state" })?;

    let past: Vec<&[f32]> = state.chunks(d).collect();
    let mut tasks = Vec::new();
    let mut rest = out;
    for (s, range) in ranges.iter().enumerate() {
        let (mine, others) = rest.split_at_mut(range.len() * d);
        rest = others;
        // Many tokens are split into blocks of tokens, a single token into blocks of channels.
        let (size, width) = if range.len() == 1 { (CHANNELS, CHANNELS) } else { (BLOCK * d, d) };
        for (i, out) in mine.chunks_mut(size).enumerate() {
            let (first, channel) = if range.len() == 1 { (0, i * CHANNELS) } else { (i * BLOCK, 0) };
            tasks.push(Block {
                past: &past[s * (w - 1)..(s + 1) * (w - 1)],
                rows: &rows[range.clone()],
                taps: &taps,
                bias: bias.as_deref(),
                act: x.activation,
                first,
                channel,
                width: width.min(out.len()),
                out,
            });
        }
    }
    cx.team.for_each(tasks, |block| cx.isa.run(block));

    // The new state: the last W - 1 rows of the old state and the tokens.
    if w > 1 {
        for (past, range) in state.chunks_mut((w - 1) * d).zip(ranges) {
            let new = range.len().min(w - 1);
            past.copy_within(new * d.., 0);
            for (past, row) in past.chunks_mut(d).skip(w - 1 - new).zip(&rows[range.end - new..range.end]) {
                past.copy_from_slice(row);
            }
        }
    }
    Ok(())
}

struct Block<'a> {
    past: &'a [&'a [f32]],
    rows: &'a [&'a [f32]],
    taps: &'a [&'a [f32]],
    bias: Option<&'a [f32]>,
    act: Activation,
    /// The first token.
    first: usize,
    /// The first channel.
    channel: usize,
    /// The number of channels.
    width: usize,
    out: &'a mut [f32],
}

impl Kernel for Block<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(self, s: S) {
        let w = self.taps.len();
        for (i, out) in self.out.chunks_mut(self.width).enumerate() {
            // Tap j of token t is at position t + j of (state, tokens).
            let t = self.first + i;
            for at in (0..self.width).step_by(S::LANES) {
                let end = (at + S::LANES).min(self.width);
                let c = self.channel + at..self.channel + end;
                let mut sum = match self.bias {
                    Some(bias) => s.load_part(&bias[c.clone()]),
                    None => s.splat(0.0),
                };
                for (j, tap) in self.taps.iter().enumerate() {
                    let place = t + j;
                    let row = if place < w - 1 { self.past[place] } else { self.rows[place - (w - 1)] };
                    sum = s.fma(s.load_part(&tap[c.clone()]), s.load_part(&row[c.clone()]), sum);
                }
                let y = match self.act {
                    Activation::None => sum,
                    Activation::Silu => math::silu_lanes(s, sum),
                };
                s.store_part(&mut out[at..end], y);
            }
        }
    }
}
