//! The backward pass: those of the two softmaxes, and between them that of the iterations.

use longreach_simd::Cx;
use ndarray::{Array2, Array4, ArrayView2, ArrayView4, s};

use super::chunk::{Landmarks, Sample, blank, line, read, samples};
use super::inverse::{inverse_backward, weights_backward};
use super::{ALL, Inputs, OP, Start, attention, conv, segments};
use crate::linear::fresh;
use crate::softmax::{self, Cotangent};
use crate::{Error, error};

/// The gradients with respect to the inputs.
#[derive(Clone, Debug)]
pub struct Gradient {
    /// `[B, T, H, D]`
    pub q: Array4<f32>,
    /// `[B, T, H, D]`
    pub k: Array4<f32>,
    /// `[B, T, H, E]`
    pub v: Array4<f32>,
    /// `[H, width]`, if there is a filter
    pub conv: Option<Array2<f32>>,
}

/// The gradients that a head's pseudoinverse receives.
#[derive(Clone, Default)]
struct InverseCotangent {
    a: Array2<f32>,
    c: f32,
}

/// The gradients, given that of the output, `d_o: [B, T, H, E]`. Errors on wrong shapes.
pub fn backward(x: &Inputs<'_>, d_o: ArrayView4<'_, f32>, cx: &Cx) -> Result<Gradient, Error> {
    x.check()?;
    error::shape(OP, "do", x.v.shape(), d_o.shape())?;
    let mut d_o = d_o.as_standard_layout().into_owned();
    blank(x, &mut d_o);
    let mut to = Gradient { q: fresh(x.q.dim()), k: fresh(x.k.dim()), v: fresh(x.v.dim()), conv: None };
    if let Some(filters) = x.conv {
        conv::add(&d_o, filters, true, &mut to.v, cx);
        blank(x, &mut to.v);
        to.conv = Some(conv::filters(&line(x), &d_o, filters.dim(), cx));
    }
    let samples = samples(x, cx)?;
    let heads = x.q.dim().2;
    // Sequences that share the maximal column sum wait until all gradients of it are known.
    let mut waiting = Vec::new();
    for (b, sample) in samples.iter().enumerate() {
        let mut given = Array4::zeros((1, sample.tokens.len(), heads, d_o.dim().3));
        for (i, t) in sample.tokens.iter().enumerate() {
            given.slice_mut(s![0, i, .., ..]).assign(&d_o.slice(s![b, *t, .., ..]));
        }
        let output = read(x, sample, cx)?;
        let d = Cotangent { out: given.view(), lse: None };
        let Some(of) = &sample.through else {
            let views = [sample.q.view(), sample.k.view(), sample.v.view()];
            let call = attention(views, sample.keep.as_ref(), x.scale);
            let got = softmax::backward(&call, &ALL, output.view(), &d, cx).map_err(|e| e.of(OP))?;
            add(&mut to, b, sample, [&got.q, &got.k, &got.v]);
            continue;
        };
        let call = attention([sample.q.view(), of.k.view(), of.values.view()], None, x.scale);
        let got = softmax::backward(&call, &ALL, output.view(), &d, cx).map_err(|e| e.of(OP))?;
        // Through `Z` times the output of the landmarks' attention.
        let mut inner = vec![InverseCotangent::default(); heads];
        let mut d_read = Array4::zeros(of.read.out.dim());
        let parts = inner.iter_mut().zip(d_read.axis_iter_mut(ndarray::Axis(2))).enumerate();
        cx.team.for_each(parts, |(h, (inner, mut d_read))| {
            let Some(z) = of.z[h].last() else { return };
            let d_values: ArrayView2<'_, f32> = got.v.slice(s![0, .., h, ..]);
            let read: ArrayView2<'_, f32> = of.read.out.slice(s![0, .., h, ..]);
            let product: Array2<f32> = z.t().dot(&d_values);
            d_read.slice_mut(s![0, .., ..]).assign(&product);
            let dz: Array2<f32> = d_values.dot(&read.t());
            let (a, c) = inverse_backward(&of.a[h], of.c[h], &of.z[h], dz);
            *inner = InverseCotangent { a, c };
        });
        waiting.push((b, inner, d_read, got.q, got.k));
    }
    share(x.start, &samples, &mut waiting.iter_mut().map(|(b, inner, ..)| (*b, inner)).collect::<Vec<_>>());
    for (b, inner, d_read, mut dq, mut dk_landmarks) in waiting {
        let sample = &samples[b];
        let Some(of) = &sample.through else { continue };
        let call = attention([of.q.view(), sample.k.view(), sample.v.view()], sample.keep.as_ref(), x.scale);
        let d = Cotangent { out: d_read.view(), lse: None };
        let mut got = softmax::backward(&call, &ALL, of.read.view(), &d, cx).map_err(|e| e.of(OP))?;
        for (h, inner) in inner.iter().enumerate() {
            let scores = weights_backward(&of.a[h], &inner.a, x.scale);
            let head = s![0, .., h, ..];
            let (to_q, to_k) = (scores.dot(&of.k.slice(head)), scores.t().dot(&of.q.slice(head)));
            let mut d = got.q.slice_mut(head);
            d += &to_q;
            let mut d = dk_landmarks.slice_mut(head);
            d += &to_k;
        }
        spread(&got.q, &mut dq);
        spread(&dk_landmarks, &mut got.k);
        add(&mut to, b, sample, [&dq, &got.k, &got.v]);
    }
    Ok(to)
}

/// Adds the gradient of `c` to the column whose sum it is: each head's own, or the largest of all.
fn share(start: Start, samples: &[Sample<'_>], inner: &mut [(usize, &mut Vec<InverseCotangent>)]) {
    let of = |b: usize| samples[b].through.as_ref();
    if start == Start::Own {
        for (b, inner) in inner {
            let Some(of) = of(*b) else { continue };
            for (inner, column) in inner.iter_mut().zip(&of.column) {
                let c = inner.c;
                inner.a.column_mut(*column).mapv_inplace(|d| d + c);
            }
        }
        return;
    }
    let sum: f32 = inner.iter().flat_map(|(_, inner)| inner.iter().map(|inner| inner.c)).sum();
    let own = |of: &Landmarks, h: usize| of.a[h].column(of.column[h]).sum();
    let mut best = (f32::NEG_INFINITY, 0, 0);
    for (i, (b, inner)) in inner.iter().enumerate() {
        for h in 0..inner.len() {
            let sum = of(*b).map_or(f32::NEG_INFINITY, |of| own(of, h));
            best = if sum > best.0 { (sum, i, h) } else { best };
        }
    }
    let (_, i, h) = best;
    if let Some((b, inner)) = inner.get_mut(i)
        && let Some(of) = of(*b)
    {
        inner[h].a.column_mut(of.column[h]).mapv_inplace(|d| d + sum);
    }
}

/// Distributes the gradients of the landmarks to the tokens of their segments.
fn spread(d: &Array4<f32>, to: &mut Array4<f32>) {
    for (j, tokens) in segments(to.dim().1, d.dim().1).enumerate() {
        let by = 1.0 / tokens.len() as f32;
        for t in tokens {
            to.slice_mut(s![0, t, .., ..]).scaled_add(by, &d.slice(s![0, j, .., ..]));
        }
    }
}

/// Adds a sequence's gradients at the positions of its tokens.
fn add(to: &mut Gradient, b: usize, sample: &Sample<'_>, got: [&Array4<f32>; 3]) {
    for (to, got) in [&mut to.q, &mut to.k, &mut to.v].into_iter().zip(got) {
        for (i, t) in sample.tokens.iter().enumerate() {
            let mut row = to.slice_mut(s![b, *t, .., ..]);
            row += &got.slice(s![0, i, .., ..]);
        }
    }
}
