//! Norms as modules.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use longreach_burn as ops;

use crate::linear::Bias;
use crate::{Builder, Error, Init};

/// `w ⊙ x / rms(x)`, or `(1 + w) ⊙ x / rms(x)`.
#[derive(Module, Debug)]
pub struct RmsNorm {
    /// `[d]`
    pub weight: Param<Tensor<1>>,
    /// Whether 1 is added to the weight, as in Gemma's models.
    plus_one: bool,
    /// ε, added to the mean square.
    pub eps: f64,
}

impl RmsNorm {
    /// The norm `name` of rows of width `d`. Errors if a weight is missing or has another shape.
    pub fn new(b: &mut Builder, name: &str, d: usize, eps: f64) -> Result<Self, Error> {
        Ok(Self { weight: b.vector(&format!("{name}.weight"), d, Init::Constant(1.0))?, plus_one: false, eps })
    }

    /// As [`RmsNorm::new`], with 1 added to the weight.
    pub fn plus_one(b: &mut Builder, name: &str, d: usize, eps: f64) -> Result<Self, Error> {
        Ok(Self { weight: b.vector(&format!("{name}.weight"), d, Init::Constant(0.0))?, plus_one: true, eps })
    }

    /// The factor of normed rows.
    fn factor(&self) -> Tensor<1> {
        if self.plus_one { self.weight.val().add_scalar(1.0) } else { self.weight.val() }
    }

    /// Norms each row.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        ops::rms_norm(x, Some(self.factor()), self.eps as f32)
    }

    /// Norms each row, in groups of `group` channels.
    pub fn grouped(&self, x: Tensor<3>, group: usize) -> Tensor<3> {
        let [b, t, d] = x.dims();
        let normed: Tensor<4> = ops::rms_norm(x.reshape([b, t, d / group, group]), None, self.eps as f32);
        normed.reshape([b, t, d]) * self.factor().unsqueeze()
    }

    /// Norms each row of `x ⊙ silu(z)`, in groups of `group` channels.
    pub fn gated(&self, x: Tensor<3>, z: Tensor<3>, group: usize) -> Tensor<3> {
        ops::rms_norm_gated(x, z, self.factor(), group, self.eps as f32)
    }
}

/// `w ⊙ (x − mean(x)) / std(x) + b`. Ba et al. 2016.
#[derive(Module, Debug)]
pub struct LayerNorm {
    /// `[d]`
    pub weight: Param<Tensor<1>>,
    /// `[d]`
    pub bias: Option<Param<Tensor<1>>>,
    /// ε, added to the variance.
    pub eps: f64,
}

impl LayerNorm {
    /// The norm `name` of rows of width `d`. Errors if a weight is missing or has another shape.
    pub fn new(b: &mut Builder, name: &str, d: usize, eps: f64, bias: Bias) -> Result<Self, Error> {
        let weight = b.vector(&format!("{name}.weight"), d, Init::Constant(1.0))?;
        let bias = match bias {
            Bias::Yes => Some(b.vector(&format!("{name}.bias"), d, Init::Constant(0.0))?),
            Bias::No => None,
        };
        Ok(Self { weight, bias, eps })
    }

    /// Norms each row.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        self.of(x, None)
    }

    fn of<const D: usize>(&self, x: Tensor<D>, more: Option<Tensor<D>>) -> Tensor<D> {
        let bias = self.bias.as_ref().map(|b| b.val());
        ops::layer_norm(x, more, self.weight.val(), bias, self.eps as f32)
    }
}

/// The type of a norm, with its ε.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum NormConfig {
    /// RMS norm.
    Rms(f64),
    /// RMS norm with 1 added to the weight.
    RmsPlusOne(f64),
    /// Layer norm, with or without a bias.
    Layer(f64, Bias),
}

/// Whether norms are applied before or after the residual addition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Pre-norm: `x + f(norm(x))`
    Before,
    /// Post-norm: `norm(x + f(x))`
    Behind,
}

/// An RMS norm or a layer norm.
#[derive(Module, Debug)]
pub enum Norm {
    /// RMS norm.
    Rms(RmsNorm),
    /// Layer norm.
    Layer(LayerNorm),
}

impl Norm {
    /// The norm `name` of rows of width `d`. Errors if a weight is missing or has another shape.
    pub fn new(b: &mut Builder, name: &str, d: usize, c: NormConfig) -> Result<Self, Error> {
        Ok(match c {
            NormConfig::Rms(eps) => Norm::Rms(RmsNorm::new(b, name, d, eps)?),
            NormConfig::RmsPlusOne(eps) => Norm::Rms(RmsNorm::plus_one(b, name, d, eps)?),
            NormConfig::Layer(eps, bias) => Norm::Layer(LayerNorm::new(b, name, d, eps, bias)?),
        })
    }

    /// Norms each row.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Norm::Rms(norm) => norm.forward(x),
            Norm::Layer(norm) => norm.forward(x),
        }
    }
    /// Norms each row of `x + y`.
    pub fn of_sum<const D: usize>(&self, x: Tensor<D>, y: Tensor<D>) -> Tensor<D> {
        match self {
            Norm::Rms(norm) => norm.forward(ops::add(x, y)),
            Norm::Layer(norm) => norm.of(x, Some(y)),
        }
    }
}
