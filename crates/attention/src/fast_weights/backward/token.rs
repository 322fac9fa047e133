//! What is left to be done for a token of a segment, once the matrices have passed it.

use std::ops::Range;

use longreach_simd::{Lanes, math};

use super::head::{Head, nth};
use super::own::Told;
use super::segment::{Segment, Shape, Shares, Through};
use crate::fast_weights::decay::{scale_both_past, scale_twice_past};

impl Head<'_, '_> {
    /// What is left to be done for a token, `at` in the sequence and `r` in the segment: gates, strengths, bonus; and all goes where it belongs.
    #[inline(always)]
    #[allow(clippy::too_many_arguments, reason = "one place calls it")]
    pub(super) fn token<S: Lanes>(
        &mut self,
        s: S,
        shape: Shape,
        rows: &mut Segment<'_>,
        (at, r): (usize, usize),
        erased: &[f32],
        (through, told): (&mut Through, &mut Option<Told>),
    ) {
        let (x, h, past, Shape { k, v, erases, general, .. }) = (self.x, self.h, self.past, shape);
        let (of_key, of_value) = (r * k..(r + 1) * k, r * v..(r + 1) * v);
        let t = self.range.start + at;
        let (own, early) = (erases && !general, x.bonus.is_some());
        if x.g.is_some() {
            let own_reads = if erases { Told::of(s, rows, shape, erased, r, *told) } else { Told::default() };
            *told = Some(own_reads);
            let shares = Shares {
                early,
                last: at + 1 == self.range.len(),
                q: [nth(rows.q, r, k), nth(rows.dq, r, k)],
                k: [nth(rows.k, r, k), nth(rows.dk, r, k)],
                a: if erases { Some([nth(rows.a, r, k), nth(rows.da, r, k)]) } else { None },
                b: if general { Some([nth(rows.b, r, k), nth(rows.db, r, k)]) } else { None },
                own: if own { Some((own_reads.of_value_before(), nth(rows.k, r.saturating_sub(1), k))) } else { None },
            };
            let gates = (x.gates(t, h), rows.runs.is_cut(r));
            through.token(s, past, gates, shares, self.to.g.row(at));
            rows.add_own(s, shape, r, early, own_reads, erased);
            if early && r == 0 && at > 0 {
                // The token before it is in another segment, and is as it is.
                let told = math::dot(s, x.v(t - 1, h), &rows.d_o[..v]);
                math::axpy(s, told, x.k(t - 1, h), &mut rows.dq[..k]);
            }
        }
        // From here on all is as it is, not as it was scaled.
        let (here, grown, entry) = (rows.runs.left(r), rows.runs.grown(r), rows.runs.entry(r));
        let before = r.checked_sub(1).map(|before| (rows.runs.left(before), rows.runs.grown(before)));
        let (before, before_grown) = before.unwrap_or_default();
        let (dq, dk) = (&rows.dq[of_key.clone()], &rows.dk[of_key.clone()]);
        if let Some(bonus) = &x.bonus {
            let of_bonus = OfBonus {
                u: &bonus[h * k..(h + 1) * k],
                k: [&rows.k[of_key.clone()], here],
                q: [&rows.q[of_key], before_grown],
                dq: [dq, before],
                dk: [dk, grown],
                scale: x.scale,
            };
            let (value, d_out) = (&rows.v[of_value.clone()], &rows.d_o[of_value.clone()]);
            let to = [self.to.q.row(at), self.to.k.row(at), self.to.bonus.row(0)];
            let key_read = of_bonus.tell(s, past, math::dot(s, value, d_out), to);
            math::axpy(s, key_read, d_out, &mut rows.dv[of_value.clone()]);
            return math::scale_into_non_temporal(s, past, 1.0, &rows.dv[of_value], self.to.v.row(at));
        }
        if self.again() {
            scale_twice_past(s, past, x.scale, here, dq, self.to.q.row(at));
        }
        let found = &rows.dv[of_value.clone()];
        if own {
            // The own key also reads what is erased.
            scale_both_past(s, past, [(grown, dk), (entry, &rows.da[of_key])], self.to.k.row(at));
            math::scale_into_non_temporal(s, past, rows.beta[r], found, self.to.v.row(at));
            // Times what was written before the strength.
            self.to.beta.row(at)[0] = dot_difference(s, found, x.v(t, h), &erased[of_value]);
            return;
        }
        scale_twice_past(s, past, 1.0, grown, dk, self.to.k.row(at));
        math::scale_into_non_temporal(s, past, 1.0, found, self.to.v.row(at));
        if general {
            scale_twice_past(s, past, 1.0, before, &rows.da[of_key.clone()], self.to.a.row(at));
            scale_twice_past(s, past, 1.0, grown, &rows.db[of_key], self.to.b.row(at));
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

/// The rows of a key that a bonus has to do with, and what they are scaled by: none, one number, or one each.
struct OfBonus<'a> {
    u: &'a [f32],
    /// The key, and what makes it whole.
    k: [&'a [f32]; 2],
    q: [&'a [f32]; 2],
    dq: [&'a [f32]; 2],
    dk: [&'a [f32]; 2],
    /// Of the query's gradient.
    scale: f32,
}

impl OfBonus<'_> {
    /// What the bonus tells queries, keys and itself, `out`, given what the value reads of the gradient to the output; what queries read of keys.
    #[inline(always)]
    fn tell<S: Lanes>(&self, s: S, past: bool, value_read: f32, [dq, dk, du]: [&mut [f32]; 3]) -> f32 {
        let (by, scale, mut key_read) = (s.splat(value_read), s.splat(self.scale), s.splat(0.0));
        let whole = self.u.len() / S::LANES * S::LANES;
        for at in (0..self.u.len()).step_by(S::LANES) {
            let here = at..(at + S::LANES).min(self.u.len());
            let u = s.load_part(&self.u[here.clone()]);
            let (k, q) = (scaled(s, self.k, here.clone()), scaled(s, self.q, here.clone()));
            let (weighed, told) = (s.mul(u, k), s.mul(by, q));
            key_read = s.fma(weighed, q, key_read);
            let of_query = s.mul(scale, s.fma(by, weighed, scaled(s, self.dq, here.clone())));
            let of_key = s.fma(told, u, scaled(s, self.dk, here.clone()));
            let of_bonus = s.fma(told, k, s.load_part(&du[here.clone()]));
            s.store_part(&mut du[here.clone()], of_bonus);
            for (to, x) in [(&mut *dq, of_query), (&mut *dk, of_key)] {
                match past && at < whole {
                    true => s.store_non_temporal(&mut to[at..], x),
                    false => s.store_part(&mut to[here.clone()], x),
                }
            }
        }
        s.sum(key_read)
    }
}

/// Some numbers of a row, scaled.
#[inline(always)]
fn scaled<S: Lanes>(s: S, [x, by]: [&[f32]; 2], at: Range<usize>) -> S::V {
    let x = s.load_part(&x[at.clone()]);
    match by {
        [] => x,
        [by] => s.mul(s.splat(*by), x),
        _ => s.mul(s.load_part(&by[at]), x),
    }
}
