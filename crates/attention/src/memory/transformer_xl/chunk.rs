//! Blocks of queries: products with the table, shifted to the keys they belong to (the relative shift), then the
//! softmax kernel.

use longreach_simd::product::{Accumulate, Matrix, Sizes, tile};
use longreach_simd::team::Scratch;
use longreach_simd::{Cx, Kernel, Lanes, math};
use ndarray::{Array3, Array4, s};

use super::{Block, Inputs, OP, pattern};
use crate::Error;
use crate::linear::fresh;
use crate::softmax::{self, Output};

/// Attention of all queries. Errors on wrong shapes.
pub fn chunk(x: &Inputs<'_>, cx: &Cx) -> Result<Output, Error> {
    let memory = x.check()?;
    let ((b, t, h, _), e) = (x.q.dim(), x.v.dim().3);
    let (table, pattern) = (x.table(), pattern(x.left));
    let mut all = Output { out: fresh((b, t, h, e)), lse: Array3::zeros((b, t, h)) };
    for block in x.blocks(memory) {
        let q = x.queries(&block, &x.u);
        let bias = position_scores(x, &block, &x.queries(&block, &x.w), &table, cx);
        let got = softmax::chunk(&x.attention(&block, memory, &q, &bias), &*pattern, cx).map_err(|e| e.of(OP))?;
        let tokens = block.first..block.first + block.tokens;
        all.out.slice_mut(s![.., tokens.clone(), .., ..]).assign(&got.out);
        all.lse.slice_mut(s![.., tokens, ..]).assign(&got.lse);
    }
    Ok(all)
}

/// The position scores of a block, `[B, H, tokens, keys]`, which are added to the content scores; zero for future keys.
pub(super) fn position_scores(x: &Inputs<'_>, block: &Block, q: &Array4<f32>, table: &[f32], cx: &Cx) -> Array4<f32> {
    let ((b, n, h, d), keys, all) = (q.dim(), block.keys, x.k.dim().1);
    let mut bias = fresh((b, h, n, keys));
    let queries = q.as_slice().unwrap_or_default();
    let planes = bias.as_slice_mut().unwrap_or_default().chunks_mut((n * keys).max(1)).enumerate();
    cx.team.for_each(planes, |(i, out)| {
        let (b, head) = (i / h, i % h);
        cx.isa.run(PositionScores {
            // The tokens of one head.
            q: Matrix::rows(&queries[(b * n * h + head) * d..], h * d),
            table: &table[((head + 1) * all - keys) * d..(head + 1) * all * d],
            sizes: Sizes { m: n, n: keys, k: d },
            scale: x.scale,
            out,
        });
    });
    bias
}

/// The position scores of one head of one sequence.
struct PositionScores<'a> {
    q: Matrix<'a>,
    /// From the largest distance to zero, one row each.
    table: &'a [f32],
    sizes: Sizes,
    scale: f32,
    out: &'a mut [f32],
}

impl Kernel for PositionScores<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(self, s: S) {
        let Sizes { m: n, n: keys, k: d } = self.sizes;
        let products = &mut Scratch::new(n * keys);
        tile(s, self.sizes, self.q, Matrix::rows(self.table, d).t(), Accumulate::Replace, products, keys);
        for (r, out) in self.out.chunks_mut(keys).enumerate() {
            // The last query starts at the largest distance, the one before it at the second largest.
            let after = n - 1 - r;
            let (seen, future) = out.split_at_mut(keys - after);
            math::scale_into(s, self.scale, &products[r * keys + after..(r + 1) * keys], seen);
            future.fill(0.0);
        }
    }
}
