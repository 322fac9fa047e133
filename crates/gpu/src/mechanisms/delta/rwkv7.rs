//! RWKV-7: a removal key erases what it reads, with a rate per channel. The general transition with `a = κ̂` and
//! `b = −κ̂ ⊙ a`.

use longreach_attention::Sequences;

use super::dplr;
use crate::convert::{narrowed_to, widened};
use crate::device::Device;
use crate::error::{Error, shape};
use crate::fast_weights;
use crate::formula::{Access, Formula, Sizes, formula};
use crate::view::View;

const OP: &str = "rwkv7";

/// The inputs, as in [`longreach_attention::delta::rwkv7`].
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// `[B, T, H, K]`
    pub q: &'a View,
    /// `[B, T, H, K]`
    pub k: &'a View,
    /// `[B, T, H, V]`
    pub v: &'a View,
    /// The gate's logarithm, `[B, T, H, K]`
    pub g: &'a View,
    /// `κ̂`, the removal key, `[B, T, H, K]`
    pub kappa: &'a View,
    /// The rate of erasure, `[B, T, H, K]`
    pub a: &'a View,
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
    pub k: View,
    /// `[B, T, H, V]`
    pub v: View,
    /// `[B, T, H, K]`
    pub g: View,
    /// `[B, T, H, K]`
    pub kappa: View,
    /// `[B, T, H, K]`
    pub a: View,
    /// To the state before the first token
    pub state: View,
}

/// The number of an input of the shape of `q`.
fn number(n: usize) -> Formula {
    Access { token: 1, ..Access::one(n) }.get()
}

impl<'a> Inputs<'a> {
    /// `κ̂`, the rate and `−κ̂ ⊙ a`, in f32.
    fn erased(&self, device: &Device) -> Result<[View; 3], Error> {
        shape(OP, "kappa", self.q.shape(), self.kappa.shape())?;
        shape(OP, "a", self.q.shape(), self.a.shape())?;
        let (kappa, a) = (widened(OP, device, "kappa", self.kappa)?, widened(OP, device, "a", self.a)?);
        let of = Formula::from(0.0) - number(0) * number(1);
        let b = formula(OP, device, &[&kappa, &a], &of, Sizes::new(a.len(), 1, 1), a.shape())?;
        Ok([kappa, a, b])
    }

    fn general<'s>(&'s self, a: &'s View, b: &'s View) -> dplr::Inputs<'s> {
        let Self { q, k, v, g, scale, sequences, .. } = *self;
        dplr::Inputs { q, k, v, a, b, g, scale, sequences }
    }
}

/// Returns the outputs, `[B, T, H, V]`, and the states after the last tokens.
pub fn forward(device: &Device, x: &Inputs<'_>, state: &View) -> Result<(View, View), Error> {
    let [kappa, _, b] = x.erased(device)?;
    fast_weights::forward(device, &x.general(&kappa, &b), state)
}

/// Returns the gradients: `da_rate = −κ̂ ⊙ db` and `dκ̂ = da − a ⊙ db`, with `a` and `b` those of the general transition.
pub fn backward(device: &Device, x: &Inputs<'_>, state: &View, d_o: &View, d_state: &View) -> Result<Gradient, Error> {
    let [kappa, rate, b] = x.erased(device)?;
    let d = fast_weights::backward(device, &x.general(&kappa, &b), state, d_o, d_state)?;
    let (da, db) = (d.a.unwrap_or_else(|| kappa.clone()), d.b.unwrap_or_else(|| kappa.clone()));
    let sizes = Sizes::new(rate.len(), 1, 1);
    let a = formula(OP, device, &[&kappa, &db], &(Formula::from(0.0) - number(0) * number(1)), sizes, rate.shape())?;
    let of = number(0) - number(1) * number(2);
    let kappa = formula(OP, device, &[&da, &rate, &db], &of, sizes, rate.shape())?;
    let g = d.g.unwrap_or_else(|| a.clone());
    let (kappa, a) = (narrowed_to(OP, device, &kappa, x.kappa.dtype())?, narrowed_to(OP, device, &a, x.a.dtype())?);
    Ok(Gradient { q: d.q, k: d.k, v: d.v, g, kappa, a, state: d.state })
}
