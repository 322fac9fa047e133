//! The attention-reconstruction loss of the Compressive Transformer.

use longreach_simd::Cx;
use ndarray::{Array1, Array2, Array3, Array4, ArrayView2, ArrayView3, ArrayView4};

use super::{Compression, Inputs, OP, backward, chunk};
use crate::softmax::dense::Dense;
use crate::softmax::{self, Cotangent};
use crate::{Error, error};

/// The loss and its gradient with respect to the compression.
#[derive(Clone, Debug)]
pub struct Reconstruction {
    /// The mean of `(attend(q, old) − attend(q, compressed))²`
    pub loss: f32,
    /// `[C, C, taps]`
    pub w: Array3<f32>,
    /// `[C]`
    pub b: Array1<f32>,
}

/// Compares attention of `q: [B, T, H, D]` over the memories `x` with attention over the compressed memories. The
/// projections `wk: [C, H D]` and `wv: [C, H E]` to keys and values, the queries and the memories are constants: no
/// gradient flows to them. The compression must be a convolution. Rae et al. 2020.
pub fn reconstruction(
    x: &Inputs<'_>,
    q: ArrayView4<'_, f32>,
    wk: ArrayView2<'_, f32>,
    wv: ArrayView2<'_, f32>,
    cx: &Cx,
) -> Result<Reconstruction, Error> {
    let ((batch, _, c), (b, _, h, d)) = (x.x.dim(), q.dim());
    let convolves = matches!(x.by, Compression::Conv { .. });
    error::parameter(OP, "kind", convolves, "one without parameters", "a convolution: nothing else learns")?;
    error::parameter(OP, "q", b == batch, q.shape(), format!("{batch} sequences, as there are memories of"))?;
    error::shape(OP, "wk", &[c, h * d], wk.shape())?;
    let e = wv.dim().1 / h.max(1);
    error::shape(OP, "wv", &[c, h * e], wv.shape())?;
    let compressed = chunk(x, cx)?;
    let rows = |x: ArrayView3<'_, f32>, by: ArrayView2<'_, f32>, width: usize| -> Array4<f32> {
        let (b, n, c) = x.dim();
        let flat = x.as_standard_layout().into_owned().into_shape_with_order((b * n, c));
        let product: Array2<f32> = flat.unwrap_or_else(|_| Array2::zeros((b * n, c))).dot(&by);
        product.into_shape_with_order((b, n, h, width)).unwrap_or_else(|_| Array4::zeros((b, n, h, width)))
    };
    let all = Dense { causal: false };
    let (old_k, old_v) = (rows(x.x, wk, d), rows(x.x, wv, e));
    let (new_k, new_v) = (rows(compressed.view(), wk, d), rows(compressed.view(), wv, e));
    let old = softmax::chunk(&softmax::Inputs::new(q, old_k.view(), old_v.view()), &all, cx).map_err(|e| e.of(OP))?;
    let call = softmax::Inputs::new(q, new_k.view(), new_v.view());
    let new = softmax::chunk(&call, &all, cx).map_err(|e| e.of(OP))?;
    let gap = &new.out - &old.out;
    let count = gap.len().max(1) as f32;
    let loss = (gap.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / f64::from(count)) as f32;
    let d_out = gap * (2.0 / count);
    let got = softmax::backward(&call, &all, new.view(), &Cotangent { out: d_out.view(), lse: None }, cx)
        .map_err(|e| e.of(OP))?;
    let back = |d: Array4<f32>, by: ArrayView2<'_, f32>| -> Array2<f32> {
        let (b, n, h, width) = d.dim();
        let flat = d.into_shape_with_order((b * n, h * width)).unwrap_or_else(|_| Array2::zeros((b * n, h * width)));
        flat.dot(&by.t())
    };
    let d_compressed = back(got.k, wk) + back(got.v, wv);
    let shape = compressed.dim();
    let d_compressed = d_compressed.into_shape_with_order(shape).unwrap_or_else(|_| Array3::zeros(shape));
    let g = backward(x, d_compressed.view(), cx)?;
    Ok(Reconstruction { loss, w: g.w.unwrap_or_default(), b: g.b.unwrap_or_default() })
}
