//! cosFormer: ReLU features, with weights that fall with the cosine of the distance.

use std::f64::consts::FRAC_PI_2;

use longreach_attention::Sequences;

use super::features::{Call, Floor};
use crate::convert::{narrowed_to, widened};
use crate::device::Device;
use crate::error::{Error, shape};
use crate::formula::{Access, Formula, Sizes, formula};
use crate::view::View;

pub use super::linear_attention::Gradient;

const OP: &str = "cosformer";
/// `ε`
const FLOOR: f32 = 1e-6;

/// The inputs, as in [`longreach_attention::linear::cosformer`].
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// `[B, T, G, K]`
    pub q: &'a View,
    /// `[B, T, G, K]`
    pub k: &'a View,
    /// `[B, T, H, V]`
    pub v: &'a View,
    /// The position of each token, `[B, T]`, from 1 on, in f32
    pub positions: &'a View,
    /// The largest position.
    pub length: f64,
    /// Whether attention is causal.
    pub causal: bool,
    /// How tokens form sequences.
    pub sequences: Sequences<'a>,
}

impl Inputs<'_> {
    fn call(&self) -> Call<'_> {
        let floor = Some(Floor::AtLeast(FLOOR));
        Call { op: OP, floor, causal: self.causal, scale: 1.0, sequences: self.sequences }
    }

    /// The axes of `x`, and the angle of a token, from input 1.
    fn angle(&self, x: &View) -> Result<([usize; 3], Formula), Error> {
        let &[b, t, g, k] = x.shape() else {
            return Err(Error::Shape { op: OP, input: "q", want: vec![0; 4], found: x.shape().to_vec() });
        };
        shape(OP, "positions", &[b, t], self.positions.shape())?;
        let position = Access { token: 1, ..Access::one(1) }.get();
        Ok(([b * t, g, k], position * (FRAC_PI_2 / self.length) as f32))
    }

    /// Maps `[B, T, G, K]` to the features `[B, T, G, 2 K]`.
    fn apply(&self, device: &Device, name: &'static str, x: &View) -> Result<View, Error> {
        let ([tokens, g, k], angle) = self.angle(x)?;
        let positive = Access::rows(0, g, k).get().max(0.0);
        let of = positive * Formula::below(k, angle.clone().sin(), angle.cos());
        let shape = [&x.shape()[..3], &[2 * k]].concat();
        let wide = widened(OP, device, name, x)?;
        formula(OP, device, &[&wide, self.positions], &of, Sizes::new(tokens, g, 2 * k), &shape)
    }

    /// The gradient to `x`, given that to its features.
    fn slope(&self, device: &Device, name: &'static str, x: &View, d: &View) -> Result<View, Error> {
        let ([tokens, g, k], angle) = self.angle(x)?;
        let of_d = Access { modulus: k.max(1), ..Access::rows(2, g, 2 * k) };
        let through = angle.clone().sin() * of_d.get() + angle.cos() * Access { offset: k, ..of_d }.get();
        let of = Access::rows(0, g, k).get().positive(through, 0.0);
        let wide = widened(OP, device, name, x)?;
        let d = formula(OP, device, &[&wide, self.positions, d], &of, Sizes::new(tokens, g, k), x.shape())?;
        narrowed_to(OP, device, &d, x.dtype())
    }
}

/// Returns the outputs, `[B, T, H, V]`, and the states after the last tokens.
pub fn forward(device: &Device, x: &Inputs<'_>, state: &View) -> Result<(View, View), Error> {
    let (q, k) = (x.apply(device, "q", x.q)?, x.apply(device, "k", x.k)?);
    x.call().forward(device, [&q, &k], x.v, state)
}

/// Returns the gradients: those of the scan, then through the division and the features.
pub fn backward(device: &Device, x: &Inputs<'_>, state: &View, d_o: &View, d_state: &View) -> Result<Gradient, Error> {
    let (q, k) = (x.apply(device, "q", x.q)?, x.apply(device, "k", x.k)?);
    let [dq, dk, v, state] = x.call().backward(device, [&q, &k], x.v, state, [d_o, d_state])?;
    let (q, k) = (x.slope(device, "q", x.q, &dq)?, x.slope(device, "k", x.k, &dk)?);
    Ok(Gradient { q, k, v, state })
}
