//! Attention whose weights are products of features: `φ(q)ᵀ φ(k)` where softmax has `e^{qᵀk}`, and so a sum over keys that is made once.
//!
//! $$ S = \sum_j \phi(k_j) v_j^\top, \quad z = \sum_j \phi(k_j), \quad o_i = \frac{s\,S^\top \phi(q_i)}{s\,z^\top \phi(q_i)} $$
//!
//! over all `j ≤ i`, by the family's scan, or over all `j`, by two products. The denominator is one more column of the state.

use longreach_simd::product::{self, Into, Matrix};
use longreach_simd::split::Part;
use longreach_simd::{Cx, Isa, Kernel, Lanes, math, memory};
use ndarray::{Array3, Array4, ArrayView4, ArrayViewMut3, ArrayViewMut4, Axis, Zip, s};

use super::scan;
use crate::fast_weights::outer;
use crate::{Error, Form, Sequences, error};

/// What keeps the denominator from nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Floor {
    /// Added to it.
    Add(f64),
    /// The least it can be.
    AtLeast(f64),
}

impl Floor {
    fn of(self, z: f32) -> f32 {
        match self {
            Self::Add(floor) => z + floor as f32,
            Self::AtLeast(floor) => z.max(floor as f32),
        }
    }
}

/// How features become an output.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call<'a> {
    pub(super) op: &'static str,
    /// The denominator, where there is one.
    pub(super) floor: Option<Floor>,
    pub(super) causal: bool,
    pub(super) scale: f64,
    pub(super) sequences: Sequences<'a>,
}

impl Call<'_> {
    /// Checks keys, values and the state; `features` of a key.
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
        error::shape(self.op, "state", &self.state_shape(q, v, features), state)
    }

    /// The shape of the state: `[S, H, features, V]`, and a column more with a denominator.
    pub(super) fn state_shape<F>(&self, q: &ArrayView4<'_, F>, v: &ArrayView4<'_, F>, features: usize) -> [usize; 4] {
        let ((b, ..), (_, _, h, width)) = (q.dim(), v.dim());
        [self.sequences.count(b), h, features, width + usize::from(self.floor.is_some())]
    }

    /// The definition, from features: token by token, in f64.
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

    /// The output, `[B, T, H, V]`, from features; the state is read and left for the next tokens.
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
            let mut out = fresh(v.dim());
            by_tokens(cx, &mut out, |t, out| {
                let sums = sums.slice(s![.., t, .., ..]);
                Zip::from(out.rows_mut()).and(sums.rows()).for_each(|mut out, sums| {
                    let by = 1.0 / floor.of(sums[width]);
                    Zip::from(&mut out).and(&sums.slice(s![..width])).for_each(|out, sum| *out = by * sum);
                });
            });
            return Ok(out);
        }
        // The denominator by itself: a column more would be a vector more.
        let mut state = state;
        let mut of_values = state.slice(s![.., .., .., ..width]).as_standard_layout().into_owned();
        let mut of_ones = state.slice(s![.., .., .., width]).as_standard_layout().into_owned();
        let mut out = self.sums([q, k], v, form, of_values.view_mut(), cx)?;
        let by = self.denominators([q, k], of_ones.view_mut(), v.dim().2, cx)?;
        let by = by.mapv(|z| 1.0 / floor.of(self.scale as f32 * z));
        each(cx, &Times { by: &by, own: true }, [], &mut out);
        state.slice_mut(s![.., .., .., ..width]).assign(&of_values);
        state.slice_mut(s![.., .., .., width]).assign(&of_ones);
        Ok(out)
    }

    /// `z' φ(q)`, `[B, T, H]`, where `z`, `[S, H, F]`, is the sum of the features of keys so far.
    fn denominators(
        &self,
        [q, k]: [&Array4<f32>; 2],
        mut sums: ArrayViewMut3<'_, f32>,
        heads: usize,
        cx: &Cx,
    ) -> Result<Array3<f32>, Error> {
        let (b, t, g, features) = q.dim();
        let layout = |input| Error::Layout { op: self.op, input };
        let (q, k) = (q.as_slice().ok_or(layout("q"))?, k.as_slice().ok_or(layout("k"))?);
        let mut out = Array3::zeros((b, t, heads));
        let mut rest = out.as_slice_mut().unwrap_or_default();
        let mut tasks = Vec::new();
        let mut sums = sums.as_slice_mut().ok_or(layout("state"))?.chunks_mut(features.max(1));
        for range in self.sequences.ranges(self.op, b, t)? {
            let (mine, others) = std::mem::take(&mut rest).split_at_mut(range.len() * heads);
            rest = others;
            for (h, out) in Part::whole(mine, heads).columns(1).enumerate() {
                let at = (range.start * g + h * g / heads) * features;
                let sum = sums.next().unwrap_or_default();
                tasks.push(Denominator {
                    q: &q[at.min(q.len())..],
                    k: &k[at.min(k.len())..],
                    stride: g * features,
                    sum,
                    out,
                });
            }
        }
        cx.team.for_each(tasks, |task| cx.isa.run(task));
        Ok(out)
    }

    /// `s S' φ(q)`
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
                product::matmul(cx, size, keys.t(), values, Into::Add, state, width);
                let size = product::Sizes { m: range.len(), n: width, k: features };
                let queries = Matrix::rows(&q[of_key..], g * features);
                let out = &mut outs[of_value..];
                product::matmul(cx, size, queries, Matrix::rows(state, width), Into::Set, out, h * width);
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

    /// Gradients to the features of queries and of keys, to the values, and to the state before the first token.
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
        let (width, (_, _, groups, features), heads) = (v.dim().3, q.dim(), v.dim().2);
        let cut = |x: &ArrayView4<'_, f32>| {
            let [values, ones] = [s![.., .., .., ..width], s![.., .., .., width..]].map(|at| x.slice(at));
            (values.as_standard_layout().into_owned(), ones.as_standard_layout().into_owned())
        };
        let ((of_values, of_ones), (d_values, mut d_ones)) = (cut(&state), cut(&d_state));
        let z = self.denominators([q, k], of_ones.clone().index_axis_move(Axis(3), 0).view_mut(), heads, cx)?;
        let by = z.mapv(|z| 1.0 / floor.of(self.scale as f32 * z));
        let mut d_sums = fresh(v.dim());
        each(cx, &Times { by: &by, own: false }, [d_o], &mut d_sums);
        let [mut dq, mut dk, dv, d_values] =
            self.sums_backward([q, k], v, of_values.view(), d_sums.view(), d_values.view(), cx)?;
        // What the outputs say to the sums they were divided: `⟨do / z, s S' φ(q)⟩`, which is also `⟨φ(q), dφ(q)⟩`, if nobody shares the query.
        let mut d_z = Array3::zeros(z.dim());
        let products = |rows: [ArrayView4<'_, f32>; 2], out: &mut Array3<f32>| {
            let mut sums = fresh((out.dim().0, out.dim().1, out.dim().2, 1));
            each(cx, &Dot, rows, &mut sums);
            out.assign(&sums.index_axis(Axis(3), 0));
        };
        if groups == heads {
            products([q.view(), dq.view()], &mut d_z);
        } else {
            let sums = self.sums([q, k], v, Form::Recurrent, of_values.clone().view_mut(), cx)?;
            products([d_sums.view(), sums.view()], &mut d_z);
        }
        let scale = self.scale as f32;
        Zip::from(&mut d_z).and(&z).and(&by).for_each(|d, z, by| {
            let free = matches!(floor, Floor::Add(_)) || floor.of(scale * z) == scale * z;
            *d = if free { -scale * by * *d } else { 0.0 };
        });
        let (b, t) = (q.dim().0, q.dim().1);
        let d_z = d_z.as_slice().unwrap_or_default();
        let mut parts = Vec::new();
        let (mut dq_rest, mut dk_rest) = (dq.as_slice_mut().unwrap_or_default(), dk.as_slice_mut().unwrap_or_default());
        let mut states = d_ones.as_slice_mut().unwrap_or_default().chunks_mut((heads / groups * features).max(1));
        let mut firsts = of_ones.as_slice().unwrap_or_default().chunks((heads / groups * features).max(1));
        for range in self.sequences.ranges(self.op, b, t)? {
            let n = range.len() * groups * features;
            let (dq, dk);
            (dq, dq_rest) = std::mem::take(&mut dq_rest).split_at_mut(n);
            (dk, dk_rest) = std::mem::take(&mut dk_rest).split_at_mut(n);
            let columns = Part::whole(dq, groups * features).columns(features);
            for (group, (dq, dk)) in columns.zip(Part::whole(dk, groups * features).columns(features)).enumerate() {
                parts.push(OfDenominator {
                    q: &q.as_slice().unwrap_or_default()[range.start * groups * features..],
                    k: &k.as_slice().unwrap_or_default()[range.start * groups * features..],
                    group,
                    shape: (groups, heads, features),
                    first: firsts.next().unwrap_or_default(),
                    d_state: states.next().unwrap_or_default(),
                    d_z: &d_z[range.start * heads..],
                    dq,
                    dk,
                });
            }
        }
        cx.team.for_each(parts, |part| cx.isa.run(part));
        let d_state = ndarray::concatenate![Axis(3), d_values, d_ones];
        Ok([dq, dk, dv, d_state])
    }

    /// The gradient through the division, with the denominator as one column more.
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
        let mut d_sums = fresh(sums.dim());
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
            let g = scan::backward(&self.scan([q, k], v), state, d_o, d_state, cx).map_err(|e| e.of(self.op))?;
            return Ok([g.q, g.k, g.v, g.state]);
        }
        // The sums over all keys, which every query reads.
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

/// The denominators of a head.
struct Denominator<'a, 'o> {
    q: &'a [f32],
    k: &'a [f32],
    stride: usize,
    sum: &'o mut [f32],
    out: Part<'o>,
}

impl Kernel for Denominator<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(mut self, s: S) {
        for t in 0..self.out.rows() {
            let at = t * self.stride..t * self.stride + self.sum.len();
            math::axpy(s, 1.0, &self.k[at.clone()], self.sum);
            self.out.row(t)[0] = math::dot(s, &self.q[at], self.sum);
        }
    }
}

/// What the denominators say to the features of a group's queries and keys.
struct OfDenominator<'a, 'o> {
    q: &'a [f32],
    k: &'a [f32],
    group: usize,
    /// Groups, heads, features
    shape: (usize, usize, usize),
    /// The sums before the first token, of each head of the group.
    first: &'a [f32],
    /// On entry the gradient to the last sums, on return to the first.
    d_state: &'o mut [f32],
    /// `[T, H]`
    d_z: &'a [f32],
    dq: Part<'o>,
    dk: Part<'o>,
}

impl Kernel for OfDenominator<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(mut self, s: S) {
        let (groups, heads, features) = self.shape;
        let (shared, stride) = (heads / groups, groups * features);
        let mut sums = self.first.to_vec();
        for t in 0..self.dq.rows() {
            let key = &self.k[t * stride + self.group * features..][..features];
            for (h, sum) in sums.chunks_mut(features.max(1)).enumerate() {
                math::axpy(s, 1.0, key, sum);
                math::axpy(s, self.d_z[t * heads + self.group * shared + h], sum, self.dq.row(t));
            }
        }
        for t in (0..self.dk.rows()).rev() {
            let query = &self.q[t * stride + self.group * features..][..features];
            for (h, d) in self.d_state.chunks_mut(features.max(1)).enumerate() {
                math::axpy(s, self.d_z[t * heads + self.group * shared + h], query, d);
                math::axpy(s, 1.0, d, self.dk.row(t));
            }
        }
    }
}

/// What becomes of rows, one at a time.
pub(super) trait OfRows<const N: usize>: Sync {
    /// Row `i` of the output from that of each input.
    fn row<S: Lanes>(&self, s: S, i: usize, rows: [&[f32]; N], out: &mut [f32]);
}

/// Every row of `out`, over all threads.
pub(super) fn each<R: OfRows<N>, const N: usize>(
    cx: &Cx,
    of: &R,
    inputs: [ArrayView4<'_, f32>; N],
    out: &mut Array4<f32>,
) {
    const ROWS: usize = 512;
    struct Some<'a, 'o, R, const N: usize> {
        of: &'a R,
        first: usize,
        inputs: [&'a [f32]; N],
        widths: [usize; N],
        out: &'o mut [f32],
        width: usize,
    }
    impl<R: OfRows<N>, const N: usize> Kernel for Some<'_, '_, R, N> {
        type Output = ();
        #[inline(always)]
        fn run<S: Lanes>(self, s: S) {
            for (i, out) in self.out.chunks_mut(self.width).enumerate() {
                let mut rows = [&[][..]; N];
                for n in 0..N {
                    rows[n] = &self.inputs[n][(self.first + i) * self.widths[n]..][..self.widths[n]];
                }
                self.of.row(s, self.first + i, rows, out);
            }
        }
    }
    let width = out.dim().3.max(1);
    let widths = inputs.each_ref().map(|x| x.dim().3);
    let inputs = inputs.each_ref().map(|x| x.as_standard_layout());
    let inputs = inputs.each_ref().map(|x| x.as_slice().unwrap_or_default());
    let parts = out.as_slice_mut().unwrap_or_default().chunks_mut(ROWS * width).enumerate();
    cx.team.for_each(parts, |(i, out)| cx.isa.run(Some { of, first: i * ROWS, inputs, widths, out, width }));
}

/// Rows times a number each: those of an input, or of the output itself.
struct Times<'a> {
    by: &'a Array3<f32>,
    own: bool,
}

impl<const N: usize> OfRows<N> for Times<'_> {
    #[inline(always)]
    fn row<S: Lanes>(&self, s: S, i: usize, rows: [&[f32]; N], out: &mut [f32]) {
        let by = self.by.as_slice().map_or(1.0, |by| by[i]);
        if self.own { math::scale(s, by, out) } else { math::scale_into(s, by, rows[0], out) }
    }
}

/// The product of two rows.
struct Dot;

impl OfRows<2> for Dot {
    #[inline(always)]
    fn row<S: Lanes>(&self, s: S, _: usize, rows: [&[f32]; 2], out: &mut [f32]) {
        out[0] = math::dot(s, rows[0], rows[1]);
    }
}

/// A column of ones after the values: its sum is that of the keys' features.
fn with_ones(v: ArrayView4<'_, f32>, cx: &Cx) -> Array4<f32> {
    let (b, t, h, width) = v.dim();
    let mut out = fresh((b, t, h, width + 1));
    by_tokens(cx, &mut out, |t, out| {
        out.slice_mut(s![.., .., .., ..width]).assign(&v.slice(s![.., t, .., ..]));
        out.slice_mut(s![.., .., .., width]).fill(1.0);
    });
    out
}

/// An array to be written by several threads: its memory comes where it is first touched.
pub(crate) fn fresh(shape: (usize, usize, usize, usize)) -> Array4<f32> {
    let (a, b, c, d) = shape;
    Array4::from_shape_vec(shape, memory::zeros(a * b * c * d)).expect("as many numbers as the shape has")
}

/// Some tokens at a time, over all threads.
pub(crate) fn by_tokens(
    cx: &Cx,
    out: &mut Array4<f32>,
    each: impl Fn(std::ops::Range<usize>, &mut ArrayViewMut4<'_, f32>) + Sync,
) {
    const TOKENS: usize = 64;
    let parts: Vec<_> = out.axis_chunks_iter_mut(Axis(1), TOKENS).enumerate().collect();
    cx.team.for_each(parts, |(i, mut out)| {
        let tokens = i * TOKENS..i * TOKENS + out.len_of(Axis(1));
        each(tokens, &mut out);
    });
}

/// Exponentials in place.
pub(super) fn exponentials(isa: Isa, x: &mut [f32]) {
    struct Exp<'a>(&'a mut [f32]);
    impl Kernel for Exp<'_> {
        type Output = ();
        #[inline(always)]
        fn run<S: Lanes>(self, s: S) {
            for x in self.0.chunks_mut(S::LANES) {
                s.store_part(x, math::exp(s, s.load_part(x)));
            }
        }
    }
    isa.run(Exp(x));
}
