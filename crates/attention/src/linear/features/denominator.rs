//! Denominators: the sum of what keys have of a query, token by token, and what the division does to gradients.

use longreach_simd::split::Part;
use longreach_simd::{Cx, Kernel, Lanes, math};
use ndarray::{Array3, Array4, ArrayView4, ArrayViewMut3, Axis, Zip, s};

use super::rows::{OfRows, each, fresh};
use super::{Call, Floor};
use crate::{Error, Form};

impl Call<'_> {
    /// `z' φ(q)`, `[B, T, H]`, where `z`, `[S, H, F]`, is the sum of the features of keys so far.
    pub(super) fn denominators(
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

    /// The gradient where the output is divided and the future hidden: that of the sums, and beside it that of the denominators, which are sums of
    /// keys alone.
    #[allow(clippy::too_many_arguments, reason = "one place calls it")]
    pub(super) fn quotient_backward(
        &self,
        [q, k]: [&Array4<f32>; 2],
        v: ArrayView4<'_, f32>,
        floor: Floor,
        state: ArrayView4<'_, f32>,
        d_o: ArrayView4<'_, f32>,
        d_state: ArrayView4<'_, f32>,
        cx: &Cx,
    ) -> Result<[Array4<f32>; 4], Error> {
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

/// Rows times a number each: those of an input, or of the output itself.
pub(super) struct Times<'a> {
    pub(super) by: &'a Array3<f32>,
    pub(super) own: bool,
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
