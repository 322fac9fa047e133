//! The backward pass.

use longreach_simd::Cx;
use ndarray::{Array2, Array3, ArrayView3, Axis};

use super::{Inputs, OP, One, like};
use crate::{Error, error};

/// The gradients with respect to the inputs.
#[derive(Clone, Debug)]
pub struct Gradient {
    /// `[B, Q, D]`
    pub s: Array3<f32>,
    /// `[B, N, D]`
    pub m: Array3<f32>,
    /// `[D, R]`
    pub wq: Array2<f32>,
    /// `[D, R]`
    pub wk: Array2<f32>,
}

/// The gradients, given that of the output, `d_o: [B, Q, D]`. Errors on wrong shapes.
pub fn backward(x: &Inputs<'_>, d_o: ArrayView3<'_, f32>, cx: &Cx) -> Result<Gradient, Error> {
    x.check()?;
    error::shape(OP, "do", x.s.shape(), d_o.shape())?;
    let mut to = Gradient {
        s: like(x),
        m: Array3::zeros(x.m.dim()),
        wq: Array2::zeros(x.wq.dim()),
        wk: Array2::zeros(x.wk.dim()),
    };
    let by = (x.wq.dim().1 as f32).powf(-0.5);
    // Each sequence's gradients of the projections, reduced in order.
    let mut shares = vec![(Array2::zeros((0, 0)), Array2::zeros((0, 0))); x.s.dim().0];
    let parts = to.s.axis_iter_mut(Axis(0)).zip(to.m.axis_iter_mut(Axis(0))).zip(&mut shares).enumerate();
    cx.team.for_each(parts, |(b, ((mut ds, mut dm), share))| {
        let of = One::of(x, b);
        let (s, m, d_o) = (x.s.index_axis(Axis(0), b), x.m.index_axis(Axis(0), b), d_o.index_axis(Axis(0), b));
        let d_weights: Array2<f32> = d_o.dot(&m.t());
        let mut d_scores = &of.weights * &d_weights;
        for (mut d, weights) in d_scores.rows_mut().into_iter().zip(of.weights.rows()) {
            let sum = d.sum();
            d.zip_mut_with(&weights, |d, w| *d = by * (*d - sum * w));
        }
        let (d_queries, d_keys): (Array2<f32>, Array2<f32>) = (d_scores.dot(&of.keys), d_scores.t().dot(&of.queries));
        let d_s: Array2<f32> = d_queries.dot(&x.wq.t());
        let (recalled, asked): (Array2<f32>, Array2<f32>) = (of.weights.t().dot(&d_o), d_keys.dot(&x.wk.t()));
        ds.assign(&d_s);
        dm.assign(&(recalled + asked));
        *share = (s.t().dot(&d_queries), m.t().dot(&d_keys));
    });
    for (dq, dk) in &shares {
        to.wq += dq;
        to.wk += dk;
    }
    Ok(to)
}
