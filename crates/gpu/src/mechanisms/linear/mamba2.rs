//! Mamba-2 (SSD): the scan with `q = C`, `k = B`, `v = x`, `β = Δ`, `g = ΔA` and a skip `D`.
//!
//! $$ \Delta_t = \mathrm{clamp}(\mathrm{softplus}(dt_t + b)) $$

use longreach_attention::Sequences;

use super::scan;
use crate::convert::{narrowed_to, widened};
use crate::device::Device;
use crate::error::{Error, shape};
use crate::fast_weights;
use crate::formula::{Access, Formula, Sizes, formula, sum_of_tokens};
use crate::view::View;

const OP: &str = "mamba2";

/// The inputs, as in [`longreach_attention::linear::mamba2`].
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// `[B, T, H, P]`
    pub x: &'a View,
    /// The step before softplus, `[B, T, H]`
    pub dt: &'a View,
    /// Added to `dt`, `[H]`
    pub dt_bias: &'a View,
    /// Bounds of the step after softplus
    pub dt_limit: (f32, f32),
    /// `[H]`
    pub a: &'a View,
    /// `[B, T, G, N]`
    pub b: &'a View,
    /// `[B, T, G, N]`
    pub c: &'a View,
    /// `[H]`
    pub d: &'a View,
    /// How tokens form sequences.
    pub sequences: Sequences<'a>,
}

/// Gradients to the inputs, of their shapes.
#[derive(Clone, Debug)]
pub struct Gradient {
    /// `[B, T, H, P]`
    pub x: View,
    /// To `dt` before softplus, `[B, T, H]`
    pub dt: View,
    /// `[H]`
    pub dt_bias: View,
    /// `[H]`
    pub a: View,
    /// `[B, T, G, N]`
    pub b: View,
    /// `[B, T, G, N]`
    pub c: View,
    /// `[H]`
    pub d: View,
    /// To the state before the first token, `[S, H, N, P]`
    pub state: View,
}

/// What is computed of the steps.
struct Gates {
    heads: usize,
    /// `[B, T, H]`
    dt: View,
    /// `[H]`
    bias: View,
    /// `[H]`
    a: View,
    /// `Δ`, `[B, T, H]`
    delta: View,
    /// `ΔA`, `[B, T, H]`
    g: View,
}

impl Inputs<'_> {
    fn gates(&self, device: &Device) -> Result<Gates, Error> {
        let &[b, t, heads, _] = self.x.shape() else {
            return Err(Error::Shape { op: OP, input: "x", want: vec![0; 4], found: self.x.shape().to_vec() });
        };
        shape(OP, "dt", &[b, t, heads], self.dt.shape())?;
        shape(OP, "dt_bias", &[heads], self.dt_bias.shape())?;
        shape(OP, "a", &[heads], self.a.shape())?;
        let dt = widened(OP, device, "dt", self.dt)?;
        let (bias, a) = (widened(OP, device, "dt_bias", self.dt_bias)?, widened(OP, device, "a", self.a)?);
        let (low, high) = (self.dt_limit.0, self.dt_limit.1.min(f32::MAX));
        let sizes = Sizes::new(b * t, heads, 1);
        let step = before(heads).softplus().max(low).min(high);
        let delta = formula(OP, device, &[&dt, &bias], &step, sizes, dt.shape())?;
        let product = Access::heads(0, heads).get() * Access::heads(1, heads).shared().get();
        let g = formula(OP, device, &[&delta, &a], &product, sizes, dt.shape())?;
        Ok(Gates { heads, dt, bias, a, delta, g })
    }

    fn scan<'s>(&'s self, gates: &'s Gates) -> scan::Inputs<'s> {
        let (g, beta) = (Some(&gates.g), Some(&gates.delta));
        let sequences = self.sequences;
        scan::Inputs { q: self.c, k: self.b, v: self.x, g, beta, skip: Some(self.d), scale: 1.0, sequences }
    }
}

/// The step before softplus, of `dt` and the bias.
fn before(heads: usize) -> Formula {
    Access::heads(0, heads).get() + Access::heads(1, heads).shared().get()
}

/// Returns the outputs, `[B, T, H, P]`, and the states after the last tokens.
pub fn forward(device: &Device, x: &Inputs<'_>, state: &View) -> Result<(View, View), Error> {
    fast_weights::forward(device, &x.scan(&x.gates(device)?), state)
}

/// Returns the gradients: those of the scan, then `dΔ = A dg + dβ`, zero where the step was clamped, times the slope of
/// softplus.
pub fn backward(device: &Device, x: &Inputs<'_>, state: &View, d_o: &View, d_state: &View) -> Result<Gradient, Error> {
    let gates = x.gates(device)?;
    let (heads, tokens, shape) = (gates.heads, gates.dt.len() / gates.heads.max(1), gates.dt.shape());
    let scan = fast_weights::backward(device, &x.scan(&gates), state, d_o, d_state)?;
    let (dg, d_beta) = (scan.g.unwrap_or_else(|| gates.g.clone()), scan.beta.unwrap_or_else(|| gates.g.clone()));
    let sizes = Sizes::new(tokens, heads, 1);
    let row = |n| Access::heads(n, heads).get();
    let of_a = formula(OP, device, &[&dg, &gates.delta], &(row(0) * row(1)), sizes, shape)?;
    let (low, high) = (x.dt_limit.0, x.dt_limit.1.min(f32::MAX));
    // Where the step is strictly between its bounds.
    let inside = (row(2) - low).positive((Formula::from(high) - row(2)).positive(1.0, 0.0), 0.0);
    let through = row(3) * Access::heads(4, heads).shared().get() + row(5);
    let of = inside * before(heads).sigmoid() * through;
    let dt = formula(OP, device, &[&gates.dt, &gates.bias, &gates.delta, &dg, &gates.a, &d_beta], &of, sizes, shape)?;
    let of_heads = |d: &View, of: &View| -> Result<View, Error> {
        narrowed_to(OP, device, &sum_of_tokens(OP, device, d, tokens, heads, &[heads])?, of.dtype())
    };
    Ok(Gradient {
        x: scan.v,
        dt_bias: of_heads(&dt, x.dt_bias)?,
        a: of_heads(&of_a, x.a)?,
        dt: narrowed_to(OP, device, &dt, x.dt.dtype())?,
        b: scan.k,
        c: scan.q,
        d: scan.skip.unwrap_or_else(|| gates.a.clone()),
        state: scan.state,
    })
}
