//! Rotates all tokens, in parallel over blocks of tokens.

use longreach_simd::product::{Stored, widen};
use longreach_simd::{Cx, Kernel, Lanes};
use ndarray::{Array4, ArrayView4};

use super::{Angles, OP};
use crate::{Error, sequences};

/// Tokens per task.
const TOKENS: usize = 32;

/// Returns `x: [B, T, H, D]` rotated by the angles.
pub fn chunk<T: Stored>(x: ArrayView4<'_, T>, angles: &Angles, cx: &Cx) -> Result<Array4<f32>, Error> {
    rotate(x, angles, 1.0, cx)
}

/// Rotates by the angles, or back if `sign` is −1.
pub(super) fn rotate<T: Stored>(
    x: ArrayView4<'_, T>,
    angles: &Angles,
    sign: f32,
    cx: &Cx,
) -> Result<Array4<f32>, Error> {
    let (b, t, h, d) = x.dim();
    angles.check(x.shape())?;
    let tokens = sequences::tokens(OP, "x", &x)?;
    let mut out = Array4::zeros((b, t, h, d));
    let rows = out.as_slice_mut().unwrap_or_default().chunks_mut((TOKENS * h * d).max(1));
    let tasks: Vec<_> = rows
        .zip(tokens.chunks(TOKENS))
        .enumerate()
        .map(|(n, (out, x))| Task { x, out, first: n * TOKENS, length: t, width: d, angles, sign })
        .collect();
    cx.team.for_each(tasks, |task| cx.isa.run(task));
    Ok(out)
}

struct Task<'a, 'o, T> {
    x: &'a [&'a [T]],
    out: &'o mut [f32],
    /// The index of the first token in the batch.
    first: usize,
    /// Tokens per sequence.
    length: usize,
    /// Channels per head.
    width: usize,
    angles: &'a Angles,
    sign: f32,
}

impl<T: Stored> Kernel for Task<'_, '_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(self, s: S) {
        let per_token = self.out.len() / self.x.len().max(1);
        for (n, (x, out)) in self.x.iter().zip(self.out.chunks_exact_mut(per_token.max(1))).enumerate() {
            let at = self.first + n;
            let (cos, sin) = self.angles.row(at / self.length, at % self.length, self.length);
            widen(s, x, out);
            for head in out.chunks_exact_mut(self.width) {
                if self.angles.interleaved {
                    for ((pair, cos), sin) in head.chunks_exact_mut(2).zip(cos).zip(sin) {
                        let (a, b, sin) = (pair[0], pair[1], self.sign * sin);
                        pair[0] = a * cos - b * sin;
                        pair[1] = b * cos + a * sin;
                    }
                } else {
                    let (first, second) = head.split_at_mut(cos.len());
                    let halves = first.chunks_mut(S::LANES).zip(second[..cos.len()].chunks_mut(S::LANES));
                    for ((a, b), (cos, sin)) in halves.zip(cos.chunks(S::LANES).zip(sin.chunks(S::LANES))) {
                        let (x, y) = (s.load_part(a), s.load_part(b));
                        let (cos, sin) = (s.load_part(cos), s.mul(s.splat(self.sign), s.load_part(sin)));
                        s.store_part(a, s.sub(s.mul(x, cos), s.mul(y, sin)));
                        s.store_part(b, s.fma(y, cos, s.mul(x, sin)));
                    }
                }
            }
        }
    }
}
