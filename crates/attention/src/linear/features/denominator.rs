//! The denominators of normalised attention, and the gradient through the division.

use longreach_simd::split::Part;
use longreach_simd::{Cx, Kernel, Lanes, math};
use ndarray::{Array3, Array4, ArrayView4, ArrayViewMut3, Axis, Zip, s};

use super::rows::{OfRows, each, fresh};
use super::{Call, Floor};
use crate::{Error, Form};

impl Call<'_> {
    /// Returns `z' φ(q)`, `[B, T, H]`, and adds to `z`, `[S, H, F]`, the cumulative sum of the features of keys.
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
        let mut sums = sums.as_slice_mut().ok_or(layout("state"))?;
        let block = heads.div_ceil(cx.team.threads());
        for range in self.sequences.ranges(self.op, b, t)? {
            let (mine, others) = std::mem::take(&mut rest).split_at_mut(range.len() * heads);
            rest = others;
            for (n, out) in Part::whole(mine, heads).columns(block).enumerate() {
                let first = n * block;
                let (mine, others) = std::mem::take(&mut sums).split_at_mut(out.width() * features);
                sums = others;
                let at = (range.start * g * features).min(q.len());
                let (q, k) = (&q[at..], &k[at..]);
                tasks.push(Denominator { q, k, first, shape: (g, heads, features), sums: mine, out });
            }
        }
        cx.team.for_each(tasks, |task| cx.isa.run(task));
        Ok(out)
    }

    /// The gradient of causal attention with a denominator: that of the numerators by the scan, plus that of the
    /// denominators.
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
        let [mut dq, mut dk, dv, d_values] =
            self.scan_backward([q, k], v, of_values.view(), (d_o, Some(&by)), d_values.view(), cx)?;
        // With `by = 1 / denominator`, the gradient to `z' φ(q)` is `−s by ⟨by do, s S' φ(q)⟩`, and the inner product
        // equals `⟨φ(q), dφ(q)⟩` if no other head shares the query. `d_z` is the factor before the product, which is
        // multiplied in while the query is processed, or below if heads share queries.
        let scale = self.scale as f32;
        let mut d_z = Zip::from(&by).and(&z).map_collect(|by, z| {
            let free = matches!(floor, Floor::Add(_)) || floor.of(scale * z) == scale * z;
            if free { -scale * by } else { 0.0 }
        });
        let shared = heads > groups;
        if shared {
            let sums = self.sums([q, k], v, Form::Recurrent, of_values.clone().view_mut(), cx)?;
            let mut products = fresh((z.dim().0, z.dim().1, z.dim().2, 1));
            each(cx, &Dot, [d_o, sums.view()], &mut products);
            Zip::from(&mut d_z)
                .and(&by)
                .and(&products.index_axis(Axis(3), 0))
                .for_each(|d, by, product| *d *= by * product);
        }
        let (b, t) = (q.dim().0, q.dim().1);
        let d_z = d_z.as_slice().unwrap_or_default();
        let (q, k) = (q.as_slice().unwrap_or_default(), k.as_slice().unwrap_or_default());
        let mut parts = Vec::new();
        let (mut dq_rest, mut dk_rest) = (dq.as_slice_mut().unwrap_or_default(), dk.as_slice_mut().unwrap_or_default());
        let mut d_sums = d_ones.as_slice_mut().unwrap_or_default();
        let mut sums = of_ones.as_slice().unwrap_or_default();
        let block = groups.div_ceil(cx.team.threads());
        for range in self.sequences.ranges(self.op, b, t)? {
            let n = range.len() * groups * features;
            let (dq, dk);
            (dq, dq_rest) = std::mem::take(&mut dq_rest).split_at_mut(n);
            (dk, dk_rest) = std::mem::take(&mut dk_rest).split_at_mut(n);
            let columns = Part::whole(dq, groups * features).columns(block * features);
            for (i, (dq, dk)) in columns.zip(Part::whole(dk, groups * features).columns(block * features)).enumerate() {
                let of_block = dq.width() * (heads / groups);
                let (mine, others) = std::mem::take(&mut d_sums).split_at_mut(of_block);
                let before;
                (before, sums) = sums.split_at(of_block);
                d_sums = others;
                let at = (range.start * groups * features).min(q.len());
                parts.push(OfDenominator {
                    q: &q[at..],
                    k: &k[at..],
                    first: i * block,
                    shape: (groups, heads, features),
                    before,
                    d_sums: mine,
                    d_z: &d_z[range.start * heads..],
                    shared,
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

/// A task: the denominators of consecutive heads of one sequence.
struct Denominator<'a, 'o> {
    /// `[T, G, F]`, from the sequence's first token on.
    q: &'a [f32],
    k: &'a [f32],
    /// The first head.
    first: usize,
    /// Groups, heads, features
    shape: (usize, usize, usize),
    /// `z` per head, `[heads, F]`
    sums: &'o mut [f32],
    out: Part<'o>,
}

impl Kernel for Denominator<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(mut self, s: S) {
        let (groups, heads, features) = self.shape;
        for t in 0..self.out.rows() {
            let out = self.out.row(t);
            for (h, sum) in self.sums.chunks_exact_mut(features.max(1)).enumerate() {
                let at = (t * groups + (self.first + h) * groups / heads) * features;
                math::axpy(s, 1.0, &self.k[at..at + features], sum);
                out[h] = math::dot(s, &self.q[at..at + features], sum);
            }
        }
    }
}

/// A task: the gradient through the denominators of consecutive groups of one sequence.
struct OfDenominator<'a, 'o> {
    /// `[T, G, F]`, from the sequence's first token on.
    q: &'a [f32],
    k: &'a [f32],
    /// The first group.
    first: usize,
    /// Groups, heads, features
    shape: (usize, usize, usize),
    /// `z` before the first token, per head.
    before: &'a [f32],
    /// On entry the gradient to `z` after the last token; on return, before the first.
    d_sums: &'o mut [f32],
    /// `[T, H]`: the gradient to `z' φ(q)` if heads share queries, otherwise its factor, to be multiplied by
    /// `⟨φ(q), dφ(q)⟩`.
    d_z: &'a [f32],
    shared: bool,
    dq: Part<'o>,
    dk: Part<'o>,
}

impl Kernel for OfDenominator<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(mut self, s: S) {
        let (groups, heads, features) = self.shape;
        let (each, tokens, of_block) = (heads / groups, self.dq.rows(), self.dq.width());
        let mut sums = self.before.to_vec();
        let mut d_denominators = vec![0.0; tokens * sums.len().checked_div(features).unwrap_or(0)];
        let of_token = d_denominators.len().checked_div(tokens).unwrap_or(0);
        let block = |t: usize| (t * groups + self.first) * features..(t * groups + self.first) * features + of_block;
        for t in 0..tokens {
            let (q, k, dq) = (&self.q[block(t)], &self.k[block(t)], self.dq.row(t));
            for (h, sum) in sums.chunks_exact_mut(features.max(1)).enumerate() {
                let of_group = h / each * features..(h / each + 1) * features;
                math::axpy(s, 1.0, &k[of_group.clone()], sum);
                let mut d_z = self.d_z[t * heads + self.first * each + h];
                let dq = &mut dq[of_group.clone()];
                if !self.shared {
                    d_z *= math::dot(s, &q[of_group], dq);
                }
                d_denominators[t * of_token + h] = d_z;
                math::axpy(s, d_z, sum, dq);
            }
        }
        for t in (0..tokens).rev() {
            let (q, dk) = (&self.q[block(t)], self.dk.row(t));
            for (h, d) in self.d_sums.chunks_exact_mut(features.max(1)).enumerate() {
                let of_group = h / each * features..(h / each + 1) * features;
                math::axpy(s, d_denominators[t * of_token + h], &q[of_group.clone()], d);
                math::axpy(s, 1.0, d, &mut dk[of_group]);
            }
        }
    }
}

/// Multiplies each row by a number.
pub(super) struct Times<'a>(pub(super) &'a Array3<f32>);

impl OfRows<0> for Times<'_> {
    #[inline(always)]
    fn row<S: Lanes>(&self, s: S, i: usize, _: [&[f32]; 0], out: &mut [f32]) {
        math::scale(s, self.0.as_slice().map_or(1.0, |by| by[i]), out);
    }
}

/// The inner product of two rows.
struct Dot;

impl OfRows<2> for Dot {
    #[inline(always)]
    fn row<S: Lanes>(&self, s: S, _: usize, rows: [&[f32]; 2], out: &mut [f32]) {
        out[0] = math::dot(s, rows[0], rows[1]);
    }
}
