//! What a token reads of its own writes.
//!
//! Where there is a gate, the passes over the transposed matrices leave it out, as no gate acts between a token's write and its own read: in the gate's
//! gradient it would be added and subtracted again, and under strong decay it is all that rounding lets one see.

use longreach_simd::{Lanes, math};

use super::head::nth;
use super::segment::{Segment, Shape};

/// What values read of the gradients to outputs and to what was erased.
#[derive(Clone, Copy)]
pub(super) struct Told {
    /// `v_{t-1} · dw_t`
    pub(super) before: f32,
    /// `v_t · dw_{t+1}`
    pub(super) after: f32,
}

impl Told {
    pub(super) const NOTHING: Self = Self { before: 0.0, after: 0.0 };

    /// Of token `r` of a segment, where something is erased.
    #[inline(always)]
    pub(super) fn of<S: Lanes>(s: S, rows: &Segment<'_>, v: usize, r: usize) -> Self {
        let before = if r > 0 { math::dot(s, nth(rows.v, r - 1, v), nth(rows.dw, r, v)) } else { 0.0 };
        Self { before, after: math::dot(s, nth(rows.v, r, v), nth(rows.dw, r + 1, v)) }
    }
}

impl Segment<'_> {
    /// Adds to the gradients of token `r` what it reads of its own writes, if queries do so `early`, before the next token's gate; and what the erasing
    /// reads that follow the writes of a token at once, before the gate, take up of them. `erased` is `w`, `[tokens, V]`.
    ///
    /// What the segment's first token reads of writes of the token before it lies in another segment.
    #[inline(always)]
    pub(super) fn add_own<S: Lanes>(&mut self, s: S, shape: Shape, r: usize, early: bool, told: Told, erased: &[f32]) {
        let Shape { k, v, erases, general, .. } = shape;
        let reader = r + usize::from(early);
        let here = r * k..(r + 1) * k;
        let (key, query) = (nth(self.k, r, k), nth(self.q, reader, k));
        let value_told = math::dot(s, nth(self.v, r, v), nth(self.d_o, reader, v));
        let (dq, dk) = (&mut self.dq[here.clone()], &mut self.dk[here.clone()]);
        if !erases {
            math::axpy(s, value_told, query, dk);
            if !early {
                math::axpy(s, value_told, key, dq);
            } else if r > 0 {
                let told = math::dot(s, nth(self.v, r - 1, v), nth(self.d_o, r, v));
                math::axpy(s, told, nth(self.k, r - 1, k), dq);
            }
            return;
        }
        let after = nth(self.a, r + 1, k);
        axpy_both(s, [(value_told, query), (told.after, after)], dk);
        if !general {
            math::axpy(s, value_told, key, dq);
            if r > 0 {
                math::axpy(s, told.before, nth(self.k, r - 1, k), &mut self.da[here]);
            }
            return;
        }
        let w = nth(erased, r, v);
        let (w_told, w_after) = (math::dot(s, w, nth(self.d_o, r, v)), math::dot(s, w, nth(self.dw, r + 1, v)));
        axpy_both(s, [(value_told, key), (w_told, nth(self.b, r, k))], dq);
        axpy_both(s, [(w_told, query), (w_after, after)], &mut self.db[here.clone()]);
        if r > 0 {
            let w_before = math::dot(s, nth(erased, r - 1, v), nth(self.dw, r, v));
            let writes = [(told.before, nth(self.k, r - 1, k)), (w_before, nth(self.b, r - 1, k))];
            axpy_both(s, writes, &mut self.da[here]);
        }
    }
}

/// `y += a x + a' x'`
#[inline(always)]
fn axpy_both<S: Lanes>(s: S, [(a, x), (b, z)]: [(f32, &[f32]); 2], y: &mut [f32]) {
    let (of_x, of_z) = (s.splat(a), s.splat(b));
    for ((x, z), y) in x.chunks(S::LANES).zip(z.chunks(S::LANES)).zip(y.chunks_mut(S::LANES)) {
        match y.len() == S::LANES {
            true => s.store(y, s.fma(of_x, s.load(x), s.fma(of_z, s.load(z), s.load(y)))),
            false => s.store_part(y, s.fma(of_x, s.load_part(x), s.fma(of_z, s.load_part(z), s.load_part(y)))),
        }
    }
}
