//! The backward pass: that of the softmax kernel, then from the gradient of the position scores to the queries and the
//! table.

use longreach_simd::Cx;
use longreach_simd::product::{Accumulate, Matrix, Sizes, tile};
use longreach_simd::team::Scratch;
use longreach_simd::{Kernel, Lanes, math};
use ndarray::{Array2, Array3, Array4, Axis, s};

use super::chunk::position_scores;
use super::{Inputs, OP, pattern};
use crate::linear::fresh;
use crate::softmax::{self, Cotangent, OutputView};
use crate::{Error, error};

/// The gradients with respect to the inputs.
#[derive(Clone, Debug)]
pub struct Gradient {
    /// `[B, T, H, D]`
    pub q: Array4<f32>,
    /// `[B, S, H, D]`
    pub k: Array4<f32>,
    /// `[B, S, H, E]`
    pub v: Array4<f32>,
    /// `[R, H, D]`
    pub r: Array3<f32>,
    /// `[H, D]`; the sum of the gradient of `q` if there is no such bias
    pub u: Array2<f32>,
    /// `[H, D]`
    pub w: Array2<f32>,
}

/// The gradients, given those of the outputs, from what [`chunk`](super::chunk()) returned. Errors on wrong shapes.
pub fn backward(x: &Inputs<'_>, output: OutputView<'_>, d: &Cotangent<'_>, cx: &Cx) -> Result<Gradient, Error> {
    let memory = x.check()?;
    let ((b, t, h, width), e, all) = (x.q.dim(), x.v.dim().3, x.k.dim().1);
    error::shape(OP, "output", &[b, t, h, e], output.out.shape())?;
    error::shape(OP, "do", &[b, t, h, e], d.out.shape())?;
    let (table, pattern) = (x.table(), pattern(x.left));
    let mut to = Gradient {
        q: fresh(x.q.dim()),
        k: fresh(x.k.dim()),
        v: fresh(x.v.dim()),
        r: Array3::zeros(x.r.dim()),
        u: Array2::zeros((h, width)),
        w: Array2::zeros((h, width)),
    };
    let mut d_table = vec![0.0f32; table.len()];
    for block in x.blocks(memory) {
        let (n, keys) = (block.tokens, block.keys);
        let (q, by) = (x.queries(&block, &x.u), x.queries(&block, &x.w));
        let bias = position_scores(x, &block, &by, &table, cx);
        let tokens = s![.., block.first..block.first + n, .., ..];
        let part = OutputView {
            out: output.out.slice(tokens),
            lse: output.lse.slice(s![.., block.first..block.first + n, ..]),
        };
        let lse = d.lse.map(|lse| lse.slice_move(s![.., block.first..block.first + n, ..]));
        let given = Cotangent { out: d.out.slice(tokens), lse };
        let call = x.attention(&block, memory, &q, &bias);
        let got = softmax::backward(&call, &*pattern, part, &given, cx).map_err(|e| e.of(OP))?;
        let seen = s![.., block.low..block.low + keys, .., ..];
        let (mut dk, mut dv) = (to.k.slice_mut(seen), to.v.slice_mut(seen));
        dk += &got.k;
        dv += &got.v;
        to.u += &got.q.sum_axis(Axis(0)).sum_axis(Axis(0));
        // Per head, because the table's gradient sums over all sequences.
        let d_bias = got.bias.unwrap_or_else(|| Array4::zeros((b, h, n, keys)));
        let d_bias = d_bias.as_standard_layout();
        let (d_bias, queries) = (d_bias.as_slice().unwrap_or_default(), by.as_slice().unwrap_or_default());
        let mut d_by = vec![0.0f32; h * b * n * width];
        let parts = d_by.chunks_mut((b * n * width).max(1)).zip(d_table.chunks_mut((all * width).max(1)));
        cx.team.for_each(parts.enumerate(), |(head, (d_by, d_table))| {
            let at = (all - keys) * width;
            cx.isa.run(PositionBackward {
                d_bias,
                queries,
                table: &table[head * all * width + at..(head + 1) * all * width],
                shape: (b, h, head),
                sizes: Sizes { m: n, n: keys, k: width },
                scale: x.scale,
                d_by,
                d_table: &mut d_table[at..],
            });
        });
        let d_by = Array4::from_shape_vec((h, b, n, width), d_by).map_err(|_| Error::Layout { op: OP, input: "q" })?;
        let d_by = d_by.permuted_axes([1, 2, 0, 3]);
        to.w += &d_by.sum_axis(Axis(0)).sum_axis(Axis(0));
        to.q.slice_mut(tokens).assign(&(&got.q + &d_by));
    }
    for (h, table) in d_table.chunks((all * width).max(1)).enumerate() {
        for (n, row) in table.chunks(width.max(1)).rev().enumerate() {
            to.r.slice_mut(s![n, h, ..]).iter_mut().zip(row).for_each(|(to, row)| *to = *row);
        }
    }
    Ok(to)
}

/// The gradient of one head's position scores with respect to its queries and the table.
struct PositionBackward<'a> {
    /// `[B, H, tokens, keys]`
    d_bias: &'a [f32],
    /// `[B, tokens, H, D]`
    queries: &'a [f32],
    table: &'a [f32],
    /// The numbers of sequences and heads, and the head
    shape: (usize, usize, usize),
    sizes: Sizes,
    scale: f32,
    /// `[B, tokens, D]`
    d_by: &'a mut [f32],
    d_table: &'a mut [f32],
}

impl Kernel for PositionBackward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(self, s: S) {
        let (Sizes { m: n, n: keys, k: width }, (b, h, head)) = (self.sizes, self.shape);
        let products = &mut Scratch::new(n * keys);
        for b in 0..b {
            let plane = &self.d_bias[(b * h + head) * n * keys..][..n * keys];
            for (r, row) in plane.chunks(keys).enumerate() {
                let after = n - 1 - r;
                let (none, some) = products[r * keys..(r + 1) * keys].split_at_mut(after);
                none.fill(0.0);
                math::scale_into(s, self.scale, &row[..keys - after], some);
            }
            let d_by = &mut self.d_by[b * n * width..(b + 1) * n * width];
            let to_queries = Sizes { m: n, n: width, k: keys };
            let distances = Matrix::rows(self.table, width);
            tile(s, to_queries, Matrix::rows(products, keys), distances, Accumulate::Replace, d_by, width);
            let queries = Matrix::rows(&self.queries[(b * n * h + head) * width..], h * width);
            let to_table = Sizes { m: keys, n: width, k: n };
            tile(s, to_table, Matrix::rows(products, keys).t(), queries, Accumulate::Add, self.d_table, width);
        }
    }
}
