//! Attention with a feature map: the weights are `φ(q)ᵀ φ(k)` in place of `e^{qᵀk}`, so the sums over keys are shared
//! by all queries.
//!
//! $$ S = \sum_j \phi(k_j) v_j^\top, \quad z = \sum_j \phi(k_j), \quad o_i = \frac{s\,S^\top \phi(q_i)}{s\,z^\top \phi(q_i)} $$
//!
//! over all `j ≤ i`, by the scan with scalar gates, or over all `j`, by two matrix products. The denominator is one
//! more column of the state.

use longreach_simd::Cx;
use longreach_simd::product::{self, Accumulate, Matrix};
use ndarray::{Array3, Array4, ArrayView4, ArrayViewMut4, Axis, Zip, s};

use super::linear_attention::Map;
use super::scan;
use crate::fast_weights::{self, Erase, Gate, outer};
use crate::{Error, Form, Sequences, error};

mod denominator;
mod rows;
mod step;

use denominator::Times;
pub(crate) use rows::{OfRows, each, fresh, unwritten};
pub(super) use rows::{by_tokens, sum_of_tokens};

/// How the denominator is kept from zero.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Floor {
    /// Adds a number.
    Add(f64),
    /// Bounds it from below.
    AtLeast(f64),
}

impl Floor {
    #[inline(always)]
    pub(super) fn of(self, z: f32) -> f32 {
        match self {
            Self::Add(floor) => z + floor as f32,
            Self::AtLeast(floor) => z.max(floor as f32),
        }
    }
}

/// How an output is computed from features.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call<'a> {
    pub(super) op: &'static str,
    /// With a denominator, its floor.
    pub(super) floor: Option<Floor>,
    pub(super) causal: bool,
    pub(super) scale: f64,
    pub(super) sequences: Sequences<'a>,
}

impl Call<'_> {
    /// Checks the inputs and the state; `features` is the number of features of a key.
    pub(super) fn check<F>(
        &self,
        q: &ArrayView4<'_, F>,
        k: &ArrayView4<'_, F>,
        v: &ArrayView4<'_, F>,
        features: usize,
        state: &[usize],
    ) -> Result<(), Error> {
        let ((b, t, g, width), (_, _, h, _)) = (q.dim(), v.dim());
        error::shape(self.op, "k", &[b, t, g, width], k.shape())?;
        error::shape(self.op, "v", &[b, t, h, v.dim().3], v.shape())?;
        if g == 0 || h % g != 0 {
            return Err(Error::Groups { op: self.op, heads: h, groups: g });
        }
        for (input, x) in [("q", q), ("k", k), ("v", v)] {
            if x.len_of(Axis(3)) > 1 && x.strides()[3] != 1 && !x.is_empty() {
                return Err(Error::Layout { op: self.op, input });
            }
        }
        error::number(self.op, "scale", self.scale)?;
        if let Some(Floor::Add(floor) | Floor::AtLeast(floor)) = self.floor {
            error::number(self.op, "epsilon", floor)?;
            error::parameter(self.op, "epsilon", floor >= 0.0, floor, "0 or more")?;
        }
        error::shape(self.op, "state", &self.state_shape(q, v, features), state)
    }

    /// The shape of the state: `[S, H, features, V]`, with one more column for a denominator.
    pub(super) fn state_shape<F>(&self, q: &ArrayView4<'_, F>, v: &ArrayView4<'_, F>, features: usize) -> [usize; 4] {
        let ((b, ..), (_, _, h, width)) = (q.dim(), v.dim());
        [self.sequences.count(b), h, features, width + usize::from(self.floor.is_some())]
    }

    /// The definition, given features, in f64.
    pub(super) fn naive(
        &self,
        [q, k]: [&Array4<f64>; 2],
        v: ArrayView4<'_, f64>,
        mut state: ArrayViewMut4<'_, f64>,
    ) -> Result<Array4<f64>, Error> {
        let ((b, t, g, _), (_, _, h, width)) = (q.dim(), v.dim());
        let mut o = Array4::zeros(v.dim());
        for (s, range) in self.sequences.ranges(self.op, b, t)?.into_iter().enumerate() {
            let write = |state: &mut ArrayViewMut4<'_, f64>, i: usize, h: usize| {
                let mut value = v.slice(s![i / t, i % t, h, ..]).to_vec();
                value.extend(self.floor.map(|_| 1.0));
                let mut state = state.slice_mut(s![s, h, .., ..]);
                state += &outer(k.slice(s![i / t, i % t, h * g / v.dim().2, ..]), value[..].into());
            };
            for h in 0..h {
                if !self.causal {
                    range.clone().for_each(|i| write(&mut state, i, h));
                }
                for i in range.clone() {
                    if self.causal {
                        write(&mut state, i, h);
                    }
                    let q = q.slice(s![i / t, i % t, h * g / v.dim().2, ..]);
                    let sums = self.scale * state.slice(s![s, h, .., ..]).t().dot(&q);
                    let by = match self.floor {
                        None => 1.0,
                        Some(Floor::Add(floor)) => sums[width] + floor,
                        Some(Floor::AtLeast(floor)) => sums[width].max(floor),
                    };
                    o.slice_mut(s![i / t, i % t, h, ..]).assign(&(&sums.slice(s![..width]) / by));
                }
            }
        }
        Ok(o)
    }

    /// Returns the outputs, `[B, T, H, V]`, given features; the state is updated in place.
    pub(super) fn forward(
        &self,
        [q, k]: [&Array4<f32>; 2],
        v: ArrayView4<'_, f32>,
        form: Form,
        state: ArrayViewMut4<'_, f32>,
        cx: &Cx,
    ) -> Result<Array4<f32>, Error> {
        let Some(floor) = self.floor else {
            return self.sums([q, k], v, form, state, cx);
        };
        let width = v.dim().3;
        if !self.causal {
            let sums = self.sums([q, k], with_ones(v, cx).view(), form, state, cx)?;
            let mut out = unwritten(v.dim());
            by_tokens(cx, &mut out, |t, out| {
                let sums = sums.slice(s![.., t, .., ..]);
                Zip::from(out.rows_mut()).and(sums.rows()).for_each(|mut out, sums| {
                    let by = 1.0 / floor.of(sums[width]);
                    Zip::from(&mut out).and(&sums.slice(s![..width])).for_each(|out, sum| *out = by * sum);
                });
            });
            return Ok(out);
        }
        // The denominator is computed separately: one more column of the state would take one more vector per row.
        let mut state = state;
        let mut of_values = state.slice(s![.., .., .., ..width]).as_standard_layout().into_owned();
        let mut of_ones = state.slice(s![.., .., .., width]).as_standard_layout().into_owned();
        let mut out = self.sums([q, k], v, form, of_values.view_mut(), cx)?;
        let by = self.denominators([q, k], of_ones.view_mut(), v.dim().2, cx)?;
        let by = by.mapv(|z| 1.0 / floor.of(self.scale as f32 * z));
        each(cx, &Times(&by), [], &mut out);
        state.slice_mut(s![.., .., .., ..width]).assign(&of_values);
        state.slice_mut(s![.., .., .., width]).assign(&of_ones);
        Ok(out)
    }

    /// As [`Call::forward`], given queries and keys, for maps with one feature per channel: the features are computed
    /// as the scan gathers rows. Causal only.
    pub(super) fn fused(
        &self,
        [q, k]: [ArrayView4<'_, f32>; 2],
        map: Map,
        v: ArrayView4<'_, f32>,
        mut state: ArrayViewMut4<'_, f32>,
        cx: &Cx,
    ) -> Result<Array4<f32>, Error> {
        let width = v.dim().3;
        let mut of_values = state.slice(s![.., .., .., ..width]).as_standard_layout().into_owned();
        let mut of_ones = state.slice(s![.., .., .., width..]).as_standard_layout().into_owned();
        let scale = self.scale as f32;
        // The scan requires contiguous tokens.
        let is_contiguous = |x: ArrayView4<'_, f32>| x.is_empty() || x.slice(s![0, 0, .., ..]).is_standard_layout();
        let [of_q, of_k] = [q, k].map(|x| (!is_contiguous(x)).then(|| x.as_standard_layout().into_owned()));
        let (q, k) = (of_q.as_ref().map_or(q, |q| q.view()), of_k.as_ref().map_or(k, |k| k.view()));
        let scan = scan::Inputs { q, k, v, g: None, beta: None, skip: None, scale, sequences: self.sequences };
        let out = scan::featured(&scan, map, self.floor, of_values.view_mut(), of_ones.view_mut(), cx);
        state.slice_mut(s![.., .., .., ..width]).assign(&of_values);
        state.slice_mut(s![.., .., .., width..]).assign(&of_ones);
        out.map_err(|e| e.of(self.op))
    }

    /// The numerators `s S' φ(q)`.
    fn sums(
        &self,
        [q, k]: [&Array4<f32>; 2],
        v: ArrayView4<'_, f32>,
        form: Form,
        mut state: ArrayViewMut4<'_, f32>,
        cx: &Cx,
    ) -> Result<Array4<f32>, Error> {
        if self.causal {
            let scan = self.scan([q, k], v);
            let out = match form {
                Form::Chunk => scan::chunk(&scan, state, cx),
                _ => scan::recurrent(&scan, state, cx),
            };
            return out.map_err(|e| e.of(self.op));
        }
        let (op, (b, t, g, features), (_, _, h, width)) = (self.op, q.dim(), v.dim());
        let values = v.as_standard_layout();
        let layout = |input| Error::Layout { op, input };
        let values = values.as_slice().ok_or(layout("v"))?;
        let (q, k) = (q.as_slice().ok_or(layout("q"))?, k.as_slice().ok_or(layout("k"))?);
        let states = state.as_slice_mut().ok_or(layout("state"))?;
        let mut out = fresh((b, t, h, width));
        let outs = out.as_slice_mut().unwrap_or_default();
        for (s, range) in self.sequences.ranges(op, b, t)?.into_iter().enumerate() {
            for head in 0..h {
                let state = &mut states[(s * h + head) * features * width..][..features * width];
                let (of_key, of_value) =
                    ((range.start * g + head * g / h) * features, (range.start * h + head) * width);
                if range.is_empty() {
                    continue;
                }
                let keys = Matrix::rows(&k[of_key..], g * features);
                let values = Matrix::rows(&values[of_value..], h * width);
                let size = product::Sizes { m: features, n: width, k: range.len() };
                product::matmul(cx, size, keys.t(), values, Accumulate::Add, state, width);
                let size = product::Sizes { m: range.len(), n: width, k: features };
                let queries = Matrix::rows(&q[of_key..], g * features);
                let out = &mut outs[of_value..];
                product::matmul(cx, size, queries, Matrix::rows(state, width), Accumulate::Replace, out, h * width);
            }
        }
        out.mapv_inplace(|x| self.scale as f32 * x);
        Ok(out)
    }

    fn scan<'x>(&'x self, [q, k]: [&'x Array4<f32>; 2], v: ArrayView4<'x, f32>) -> scan::Inputs<'x> {
        scan::Inputs {
            q: q.view(),
            k: k.view(),
            v,
            g: None,
            beta: None,
            skip: None,
            scale: self.scale as f32,
            sequences: self.sequences,
        }
    }

    /// Returns the gradients to the features of queries and keys, to the values, and to the state before the first
    /// token.
    pub(super) fn backward(
        &self,
        [q, k]: [&Array4<f32>; 2],
        v: ArrayView4<'_, f32>,
        state: ArrayView4<'_, f32>,
        d_o: ArrayView4<'_, f32>,
        d_state: ArrayView4<'_, f32>,
        cx: &Cx,
    ) -> Result<[Array4<f32>; 4], Error> {
        error::shape(self.op, "d o", v.shape(), d_o.shape())?;
        error::shape(self.op, "d state", state.shape(), d_state.shape())?;
        let Some(floor) = self.floor else {
            return self.sums_backward([q, k], v, state, d_o, d_state, cx);
        };
        if !self.causal {
            return self.divided_backward([q, k], v, floor, state, d_o, d_state, cx);
        }
        self.quotient_backward([q, k], v, floor, state, d_o, d_state, cx)
    }

    /// The gradient through the division, with the denominator as one more column of the values.
    #[allow(clippy::too_many_arguments, reason = "one place calls it")]
    fn divided_backward(
        &self,
        [q, k]: [&Array4<f32>; 2],
        v: ArrayView4<'_, f32>,
        floor: Floor,
        state: ArrayView4<'_, f32>,
        d_o: ArrayView4<'_, f32>,
        d_state: ArrayView4<'_, f32>,
        cx: &Cx,
    ) -> Result<[Array4<f32>; 4], Error> {
        let values = with_ones(v, cx);
        let sums = self.sums([q, k], values.view(), Form::Chunk, state.to_owned().view_mut(), cx)?;
        let width = v.dim().3;
        let mut d_sums = unwritten(sums.dim());
        by_tokens(cx, &mut d_sums, |t, d_sums| {
            let rows = sums.slice(s![.., t.clone(), .., ..]);
            let d_o = d_o.slice(s![.., t, .., ..]);
            Zip::from(d_sums.rows_mut()).and(rows.rows()).and(d_o.rows()).for_each(|mut d, sums, d_o| {
                let by = 1.0 / floor.of(sums[width]);
                let free = matches!(floor, Floor::Add(_)) || floor.of(sums[width]) == sums[width];
                d[width] = if free { -by * by * d_o.dot(&sums.slice(s![..width])) } else { 0.0 };
                Zip::from(&mut d.slice_mut(s![..width])).and(&d_o).for_each(|d, d_o| *d = by * d_o);
            });
        });
        let [dq, dk, dv, d_first] = self.sums_backward([q, k], values.view(), state, d_sums.view(), d_state, cx)?;
        Ok([dq, dk, dv.slice(s![.., .., .., ..width]).as_standard_layout().into_owned(), d_first])
    }

    /// The gradient of the scan; the gradient to its output is `d_o.0`, times `d_o.1`, a factor per token and head, if
    /// given.
    fn scan_backward(
        &self,
        [q, k]: [&Array4<f32>; 2],
        v: ArrayView4<'_, f32>,
        state: ArrayView4<'_, f32>,
        d_o: (ArrayView4<'_, f32>, Option<&Array3<f32>>),
        d_state: ArrayView4<'_, f32>,
        cx: &Cx,
    ) -> Result<[Array4<f32>; 4], Error> {
        let call = fast_weights::Inputs {
            op: self.op,
            q: q.view(),
            k: k.view(),
            v,
            gate: Gate::None,
            erase: Erase::None,
            bonus: None,
            scale: self.scale as f32,
            sequences: self.sequences,
        };
        let g = fast_weights::gradient_times(&call, state, d_o, d_state, cx)?;
        Ok([g.q, g.k, g.v, g.state])
    }

    fn sums_backward(
        &self,
        [q, k]: [&Array4<f32>; 2],
        v: ArrayView4<'_, f32>,
        state: ArrayView4<'_, f32>,
        d_o: ArrayView4<'_, f32>,
        d_state: ArrayView4<'_, f32>,
        cx: &Cx,
    ) -> Result<[Array4<f32>; 4], Error> {
        if self.causal {
            return self.scan_backward([q, k], v, state, (d_o, None), d_state, cx);
        }
        // The state after all keys, which every query reads.
        let mut end = state.to_owned();
        self.sums([q, k], v, Form::Chunk, end.view_mut(), cx)?;
        let mut d = d_state.as_standard_layout().into_owned();
        let (mut dq, mut dk, mut dv) = (Array4::zeros(q.dim()), Array4::zeros(k.dim()), Array4::zeros(v.dim()));
        let (b, t, g, _) = q.dim();
        let h = v.dim().2;
        let by = self.scale as f32;
        for (s, range) in self.sequences.ranges(self.op, b, t)?.into_iter().enumerate() {
            for (h, group) in (0..h).map(|head| (head, head * g / h)) {
                for i in range.clone() {
                    let (b, t) = (i / t, i % t);
                    let d_o = d_o.slice(s![b, t, h, ..]);
                    let mut dq = dq.slice_mut(s![b, t, group, ..]);
                    dq.scaled_add(by, &end.slice(s![s, h, .., ..]).dot(&d_o));
                    let q = q.slice(s![b, t, group, ..]);
                    let mut d = d.slice_mut(s![s, h, .., ..]);
                    Zip::from(d.rows_mut()).and(&q).for_each(|mut d, q| d.scaled_add(by * q, &d_o));
                }
                for i in range.clone() {
                    let (b, t) = (i / t, i % t);
                    let d = d.slice(s![s, h, .., ..]);
                    let mut dk = dk.slice_mut(s![b, t, group, ..]);
                    dk += &d.dot(&v.slice(s![b, t, h, ..]));
                    dv.slice_mut(s![b, t, h, ..]).assign(&d.t().dot(&k.slice(s![b, t, group, ..])));
                }
            }
        }
        Ok([dq, dk, dv, d])
    }
}

/// Appends a column of ones to the values; its sum is the denominator.
fn with_ones(v: ArrayView4<'_, f32>, cx: &Cx) -> Array4<f32> {
    let (b, t, h, width) = v.dim();
    let mut out = unwritten((b, t, h, width + 1));
    by_tokens(cx, &mut out, |t, out| {
        out.slice_mut(s![.., .., .., ..width]).assign(&v.slice(s![.., t, .., ..]));
        out.slice_mut(s![.., .., .., width]).fill(1.0);
    });
    out
}
