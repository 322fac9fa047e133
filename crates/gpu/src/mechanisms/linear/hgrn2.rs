//! HGRN2: gated linear attention with keys tied to the gate, `k = 1 − e^g`.

use longreach_attention::Sequences;

use super::gla;
use crate::convert::{narrowed_to, widened};
use crate::device::Device;
use crate::error::{Error, shape};
use crate::fast_weights;
use crate::formula::{Access, Formula, Sizes, formula};
use crate::view::View;

const OP: &str = "hgrn2";

/// The inputs, as in [`longreach_attention::linear::hgrn2`].
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// `[B, T, H, K]`
    pub q: &'a View,
    /// The gate's logarithm, `[B, T, H, K]`
    pub g: &'a View,
    /// `[B, T, H, V]`
    pub v: &'a View,
    /// `s`
    pub scale: f32,
    /// How tokens form sequences.
    pub sequences: Sequences<'a>,
}

/// Gradients to the inputs.
#[derive(Clone, Debug)]
pub struct Gradient {
    /// `[B, T, H, K]`
    pub q: View,
    /// `[B, T, H, K]`
    pub g: View,
    /// `[B, T, H, V]`
    pub v: View,
    /// To the state before the first token
    pub state: View,
}

/// The number of an input of the shape of `g`.
fn number(n: usize) -> Formula {
    Access { token: 1, ..Access::one(n) }.get()
}

impl Inputs<'_> {
    /// The gate in f32, and the keys.
    fn keys(&self, device: &Device) -> Result<[View; 2], Error> {
        shape(OP, "g", self.q.shape(), self.g.shape())?;
        let g = widened(OP, device, "g", self.g)?;
        let of = Formula::from(0.0) - number(0).exp_m1();
        let k = formula(OP, device, &[&g], &of, Sizes::new(g.len(), 1, 1), g.shape())?;
        Ok([g, k])
    }

    fn gla<'s>(&'s self, g: &'s View, k: &'s View) -> gla::Inputs<'s> {
        gla::Inputs { q: self.q, k, v: self.v, g, scale: self.scale, sequences: self.sequences }
    }
}

/// Returns the outputs, `[B, T, H, V]`, and the states after the last tokens.
pub fn forward(device: &Device, x: &Inputs<'_>, state: &View) -> Result<(View, View), Error> {
    let [g, k] = x.keys(device)?;
    fast_weights::forward(device, &x.gla(&g, &k), state)
}

/// Returns the gradients: those of GLA, with `dg −= e^g ⊙ dk`.
pub fn backward(device: &Device, x: &Inputs<'_>, state: &View, d_o: &View, d_state: &View) -> Result<Gradient, Error> {
    let [g, k] = x.keys(device)?;
    let d = fast_weights::backward(device, &x.gla(&g, &k), state, d_o, d_state)?;
    let of = number(0) - number(1).exp() * number(2);
    let dg = d.g.unwrap_or_else(|| d.k.clone());
    let dg = formula(OP, device, &[&dg, &g, &d.k], &of, Sizes::new(g.len(), 1, 1), g.shape())?;
    Ok(Gradient { q: d.q, g: narrowed_to(OP, device, &dg, x.g.dtype())?, v: d.v, state: d.state })
}
