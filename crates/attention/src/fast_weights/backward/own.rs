//! The terms of the gradients that come from a token reading its own writes.
//!
//! With a gate, the passes over the transposed matrices leave these terms out, because no gate acts between a token's
//! write and its own read: in the gate's gradient they would be added and subtracted again, and under strong decay
//! their rounding would exceed the result.

use longreach_simd::{Lanes, math};

use super::head::nth;
use super::segment::{Segment, Shape};

/// Products of the values and erased vectors of two tokens with the gradient to the vector that the next token erases:
/// `v_t · dw_{t+1}` and `w_t · dw_{t+1}`.
#[derive(Clone, Copy, Default)]
pub(super) struct WriteProducts {
    /// `v_{t-1} · dw_t` and `w_{t-1} · dw_t`
    previous: [f32; 2],
    /// `v_t · dw_{t+1}` and `w_t · dw_{t+1}`
    current: [f32; 2],
}

impl WriteProducts {
    /// The products of token `r` of a segment, with erasure; `next` holds those of the segment's next token.
    #[inline(always)]
    pub(super) fn of<S: Lanes>(
        s: S,
        rows: &Segment<'_>,
        shape: Shape,
        erased: &[f32],
        r: usize,
        next: Option<WriteProducts>,
    ) -> Self {
        let previous = if r > 0 { read(s, rows, shape, erased, r - 1) } else { [0.0; 2] };
        let current = match next {
            Some(next) => next.previous,
            None => read(s, rows, shape, erased, r),
        };
        Self { previous, current }
    }

    /// `v_{t-1} · dw_t`
    pub(super) fn previous_value(self) -> f32 {
        self.previous[0]
    }
}

/// `v_r · dw_{r+1}` and `w_r · dw_{r+1}`, the second where what is erased goes to a key of its own.
#[inline(always)]
fn read<S: Lanes>(s: S, rows: &Segment<'_>, shape: Shape, erased: &[f32], r: usize) -> [f32; 2] {
    let (value, dw) = (nth(rows.v, r, shape.v), nth(rows.dw, r + 1, shape.v));
    match shape.general {
        true => dot_both(s, [value, nth(erased, r, shape.v)], dw),
        false => [math::dot(s, value, dw), 0.0],
    }
}

impl Segment<'_> {
    /// Adds to the gradients of token `r` the terms of its reads of its own writes, or, if queries `read_first`, of
    /// the next token's reads before that token's gate. With erasure it also adds those of the next token's erasure,
    /// which reads the state before the gate. `erased` is `w`, `[tokens, V]`.
    ///
    /// The first token's reads of the writes before it belong to another segment and are not added here.
    #[inline(always)]
    pub(super) fn add_own<S: Lanes>(
        &mut self,
        s: S,
        shape: Shape,
        r: usize,
        read_first: bool,
        products: WriteProducts,
        erased: &[f32],
    ) {
        let Shape { k, v, erases, general, .. } = shape;
        let reader = r + usize::from(read_first);
        let here = r * k..(r + 1) * k;
        let (key, query) = (nth(self.k, r, k), nth(self.q, reader, k));
        let (value, d_o) = (nth(self.v, r, v), nth(self.d_o, reader, v));
        let (dq, dk) = (&mut self.dq[here.clone()], &mut self.dk[here.clone()]);
        if !erases {
            let value_dot = math::dot(s, value, d_o);
            math::axpy(s, value_dot, query, dk);
            if !read_first {
                math::axpy(s, value_dot, key, dq);
            } else if r > 0 {
                let dot = math::dot(s, nth(self.v, r - 1, v), nth(self.d_o, r, v));
                math::axpy(s, dot, nth(self.k, r - 1, k), dq);
            }
            return;
        }
        let next_a = nth(self.a, r + 1, k);
        if !general {
            let value_dot = math::dot(s, value, d_o);
            axpy_both(s, [(value_dot, query), (products.current[0], next_a)], dk);
            math::axpy(s, value_dot, key, dq);
            if r > 0 {
                math::axpy(s, products.previous[0], nth(self.k, r - 1, k), &mut self.da[here]);
            }
            return;
        }
        let [value_dot, w_dot] = dot_both(s, [value, nth(erased, r, v)], d_o);
        axpy_both(s, [(value_dot, query), (products.current[0], next_a)], dk);
        axpy_both(s, [(value_dot, key), (w_dot, nth(self.b, r, k))], dq);
        axpy_both(s, [(w_dot, query), (products.current[1], next_a)], &mut self.db[here.clone()]);
        if r > 0 {
            let writes = [(products.previous[0], nth(self.k, r - 1, k)), (products.previous[1], nth(self.b, r - 1, k))];
            axpy_both(s, writes, &mut self.da[here]);
        }
    }
}

/// `a · x` and `b · x`
#[inline(always)]
fn dot_both<S: Lanes>(s: S, [a, b]: [&[f32]; 2], x: &[f32]) -> [f32; 2] {
    let (a, b) = (&a[..x.len()], &b[..x.len()]);
    let whole = x.len() / (2 * S::LANES) * (2 * S::LANES);
    let mut sums = [[s.splat(0.0); 2]; 2];
    for at in (0..whole).step_by(2 * S::LANES) {
        for (i, sum) in sums.iter_mut().enumerate() {
            let at = at + i * S::LANES;
            let x = s.load(&x[at..]);
            *sum = [s.fma(s.load(&a[at..]), x, sum[0]), s.fma(s.load(&b[at..]), x, sum[1])];
        }
    }
    for at in (whole..x.len()).step_by(S::LANES) {
        let x = s.load_part(&x[at..]);
        sums[0] = [s.fma(s.load_part(&a[at..]), x, sums[0][0]), s.fma(s.load_part(&b[at..]), x, sums[0][1])];
    }
    [s.sum(s.add(sums[0][0], sums[1][0])), s.sum(s.add(sums[0][1], sums[1][1]))]
}

/// `y += a x + b z`
#[inline(always)]
fn axpy_both<S: Lanes>(s: S, [(a, x), (b, z)]: [(f32, &[f32]); 2], y: &mut [f32]) {
    let (x, z) = (&x[..y.len()], &z[..y.len()]);
    let (a, b) = (s.splat(a), s.splat(b));
    let whole = math::whole::<S>(y.len());
    for at in (0..whole).step_by(S::LANES) {
        let sum = s.fma(a, s.load(&x[at..]), s.fma(b, s.load(&z[at..]), s.load(&y[at..])));
        s.store(&mut y[at..], sum);
    }
    if whole < y.len() {
        let (x, z) = (s.load_part(&x[whole..]), s.load_part(&z[whole..]));
        let sum = s.fma(a, x, s.fma(b, z, s.load_part(&y[whole..])));
        s.store_part(&mut y[whole..], sum);
    }
}
