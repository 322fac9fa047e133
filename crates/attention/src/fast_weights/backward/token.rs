//! Completes the gradients of a token once the passes over the matrices of its segment are done.

use std::ops::Range;

use longreach_simd::{Lanes, math};

use super::head::{Head, nth};
use super::own::WriteProducts;
use super::segment::{GateGradient, GateTerms, Segment, Shape};
use crate::fast_weights::decay::{scale_twice_into_non_temporal, scaled_sum_non_temporal};

impl Head<'_, '_> {
    /// Completes the gradients of a token, `at` in the sequence and `r` in the segment: adds those of the gate,
    /// strength and bonus, undoes the scaling by the cumulative decay, and writes the results.
    #[inline(always)]
    #[allow(clippy::too_many_arguments, reason = "one place calls it")]
    pub(super) fn token<S: Lanes>(
        &mut self,
        s: S,
        shape: Shape,
        rows: &mut Segment<'_>,
        (at, r): (usize, usize),
        erased: &[f32],
        (gate_gradient, products): (&mut GateGradient, &mut Option<WriteProducts>),
    ) {
        let (x, h, non_temporal, Shape { k, v, erases, general, .. }) = (self.x, self.h, self.non_temporal, shape);
        let (of_key, of_value) = (r * k..(r + 1) * k, r * v..(r + 1) * v);
        let t = self.range.start + at;
        let (own, read_first) = (erases && !general, x.bonus.is_some());
        if x.g.is_some() {
            let own_reads =
                if erases { WriteProducts::of(s, rows, shape, erased, r, *products) } else { WriteProducts::default() };
            *products = Some(own_reads);
            let terms = GateTerms {
                read_first,
                last: at + 1 == self.range.len(),
                q: [nth(rows.q, r, k), nth(rows.dq, r, k)],
                k: [nth(rows.k, r, k), nth(rows.dk, r, k)],
                a: if erases { Some([nth(rows.a, r, k), nth(rows.da, r, k)]) } else { None },
                b: if general { Some([nth(rows.b, r, k), nth(rows.db, r, k)]) } else { None },
                own: if own { Some((own_reads.previous_value(), nth(rows.k, r.saturating_sub(1), k))) } else { None },
            };
            let gates = (x.gates(t, h), rows.decay.is_cut(r));
            gate_gradient.add_token(s, non_temporal, gates, terms, self.to.g.row(at));
            rows.add_own(s, shape, r, read_first, own_reads, erased);
            if read_first && r == 0 && at > 0 {
                // The preceding token is in another segment, so its rows are read unscaled from the inputs.
                let dot = math::dot(s, x.v(t - 1, h), &rows.d_o[..v]);
                math::axpy(s, dot, x.k(t - 1, h), &mut rows.dq[..k]);
            }
        }
        // The cumulative decay of each row is undone from here on.
        let (here, inverse, entry) = (rows.decay.cumulative(r), rows.decay.inverse(r), rows.decay.entry(r));
        let previous = r.checked_sub(1).map(|previous| (rows.decay.cumulative(previous), rows.decay.inverse(previous)));
        let (previous, previous_inverse) = previous.unwrap_or_default();
        let (dq, dk) = (&rows.dq[of_key.clone()], &rows.dk[of_key.clone()]);
        if let Some(bonus) = &x.bonus {
            let bonus_gradient = BonusGradient {
                u: &bonus[h * k..(h + 1) * k],
                k: [&rows.k[of_key.clone()], here],
                q: [&rows.q[of_key], previous_inverse],
                dq: [dq, previous],
                dk: [dk, inverse],
                scale: x.scale,
            };
            let (value, d_out) = (&rows.v[of_value.clone()], &rows.d_o[of_value.clone()]);
            let to = [self.to.q.row(at), self.to.k.row(at), self.to.bonus.row(0)];
            let key_read = bonus_gradient.complete(s, non_temporal, math::dot(s, value, d_out), to);
            math::axpy(s, key_read, d_out, &mut rows.dv[of_value.clone()]);
            return math::scale_into_non_temporal(s, non_temporal, 1.0, &rows.dv[of_value], self.to.v.row(at));
        }
        if self.defers_dq() {
            scale_twice_into_non_temporal(s, non_temporal, x.scale, here, dq, self.to.q.row(at));
        }
        let dv = &rows.dv[of_value.clone()];
        if own {
            // The key also enters through `a`.
            scaled_sum_non_temporal(s, non_temporal, [(inverse, dk), (entry, &rows.da[of_key])], self.to.k.row(at));
            math::scale_into_non_temporal(s, non_temporal, rows.beta[r], dv, self.to.v.row(at));
            // `dβ_t = dδ_t · (v_t − w_t)`
            self.to.beta.row(at)[0] = dot_difference(s, dv, x.v(t, h), &erased[of_value]);
            return;
        }
        scale_twice_into_non_temporal(s, non_temporal, 1.0, inverse, dk, self.to.k.row(at));
        math::scale_into_non_temporal(s, non_temporal, 1.0, dv, self.to.v.row(at));
        if general {
            scale_twice_into_non_temporal(s, non_temporal, 1.0, previous, &rows.da[of_key.clone()], self.to.a.row(at));
            scale_twice_into_non_temporal(s, non_temporal, 1.0, inverse, &rows.db[of_key], self.to.b.row(at));
        }
    }
}

/// `x · (a − b)`
#[inline(always)]
fn dot_difference<S: Lanes>(s: S, x: &[f32], a: &[f32], b: &[f32]) -> f32 {
    let (a, b, whole) = (&a[..x.len()], &b[..x.len()], math::whole::<S>(x.len()));
    let mut sum = s.splat(0.0);
    for at in (0..whole).step_by(S::LANES) {
        sum = s.fma(s.load(&x[at..]), s.sub(s.load(&a[at..]), s.load(&b[at..])), sum);
    }
    if whole < x.len() {
        let (a, b) = (s.load_part(&a[whole..]), s.load_part(&b[whole..]));
        sum = s.fma(s.load_part(&x[whole..]), s.sub(a, b), sum);
    }
    s.sum(sum)
}

/// The rows of width `K` that the bonus needs, each with the factor that undoes its scaling: none, one number, or one
/// per channel.
struct BonusGradient<'a> {
    u: &'a [f32],
    /// The key and its factor.
    k: [&'a [f32]; 2],
    q: [&'a [f32]; 2],
    dq: [&'a [f32]; 2],
    dk: [&'a [f32]; 2],
    /// The scale of `dq`.
    scale: f32,
}

impl BonusGradient<'_> {
    /// Completes `dq` and `dk` and adds to `du`, given `value_read`, the product of the value and the gradient to the
    /// output; returns `(u ⊙ k) · q`.
    #[inline(always)]
    fn complete<S: Lanes>(&self, s: S, non_temporal: bool, value_read: f32, [dq, dk, du]: [&mut [f32]; 3]) -> f32 {
        let (by, scale, mut key_read) = (s.splat(value_read), s.splat(self.scale), s.splat(0.0));
        let whole = self.u.len() / S::LANES * S::LANES;
        for at in (0..self.u.len()).step_by(S::LANES) {
            let here = at..(at + S::LANES).min(self.u.len());
            let u = s.load_part(&self.u[here.clone()]);
            let (k, q) = (scaled(s, self.k, here.clone()), scaled(s, self.q, here.clone()));
            let (u_k, by_q) = (s.mul(u, k), s.mul(by, q));
            key_read = s.fma(u_k, q, key_read);
            let of_query = s.mul(scale, s.fma(by, u_k, scaled(s, self.dq, here.clone())));
            let of_key = s.fma(by_q, u, scaled(s, self.dk, here.clone()));
            let of_bonus = s.fma(by_q, k, s.load_part(&du[here.clone()]));
            s.store_part(&mut du[here.clone()], of_bonus);
            for (to, x) in [(&mut *dq, of_query), (&mut *dk, of_key)] {
                match non_temporal && at < whole {
                    true => s.store_non_temporal(&mut to[at..], x),
                    false => s.store_part(&mut to[here.clone()], x),
                }
            }
        }
        s.sum(key_read)
    }
}

/// Loads a vector of a row, scaled.
#[inline(always)]
fn scaled<S: Lanes>(s: S, [x, by]: [&[f32]; 2], at: Range<usize>) -> S::V {
    let x = s.load_part(&x[at.clone()]);
    match by {
        [] => x,
        [by] => s.mul(s.splat(*by), x),
        _ => s.mul(s.load_part(&by[at]), x),
    }
}
