//! One token, for decoding.

use longreach_simd::team::Scratch;
use longreach_simd::{Cx, Kernel, Lanes, math};
use ndarray::{Array4, ArrayView3, ArrayViewMut4};

use super::{Inputs, OP, scan};
use crate::{Error, error};

/// One token of each sequence, `x: [S, 1, H, P]`.
pub fn step(x: &Inputs<'_>, state: ArrayViewMut4<'_, f32>, cx: &Cx) -> Result<Array4<f32>, Error> {
    let mut out = Array4::zeros(x.x.dim());
    step_into(x, state, out.as_slice_mut().unwrap_or_default(), cx)?;
    Ok(out)
}

/// As [`step`], into `out`, contiguous `[S, 1, H, P]`. Allocates nothing.
pub fn step_into(x: &Inputs<'_>, state: ArrayViewMut4<'_, f32>, out: &mut [f32], cx: &Cx) -> Result<(), Error> {
    x.check()?;
    let (b, t, h, p) = x.x.dim();
    error::shape(OP, "x", &[b, 1, h, p], &[b, t, h, p])?;
    let scratch = &mut Scratch::new(2 * b * h);
    let (delta, g) = scratch.split_at_mut(b * h);
    for ((delta, dt), i) in delta.iter_mut().zip(x.dt).zip(0..) {
        *delta = dt + x.dt_bias[i % h];
    }
    cx.isa.run(Softplus(delta));
    let (low, high) = x.dt_limit;
    for ((delta, g), i) in delta.iter_mut().zip(&mut *g).zip(0..) {
        *delta = delta.max(low).min(high);
        *g = *delta * x.a[i % h];
    }
    let view =
        |of_heads| ArrayView3::from_shape((b, 1, h), of_heads).map_err(|_| Error::Layout { op: OP, input: "dt" });
    scan::step_into(&x.scan(view(&*delta)?, view(&*g)?), state, out, cx).map_err(|e| e.of(OP))
}

/// `ln(1 + eˣ)` in place, on one thread.
struct Softplus<'a>(&'a mut [f32]);

impl Kernel for Softplus<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(self, s: S) {
        for x in self.0.chunks_mut(S::LANES) {
            s.store_part(x, math::softplus(s, s.load_part(x)));
        }
    }
}
