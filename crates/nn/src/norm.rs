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
    /// Whether the weight is what is added to 1, as Gemma's models have it.
    plus_one: bool,
    /// ε, added to the mean square.
    pub eps: f64,
}

impl RmsNorm {
    /// The norm `name` of rows of width `d`.
    pub fn new(b: &mut Builder, name: &str, d: usize, eps: f64) -> Result<Self, Error> {
        Ok(Self { weight: b.vector(&format!("{name}.weight"), d, Init::Constant(1.0))?, plus_one: false, eps })
    }

    /// As [`RmsNorm::new`], with a weight that is added to 1.
    pub fn plus_one(b: &mut Builder, name: &str, d: usize, eps: f64) -> Result<Self, Error> {
        Ok(Self { weight: b.vector(&format!("{name}.weight"), d, Init::Constant(0.0))?, plus_one: true, eps })
    }

    /// What rows are multiplied with.
    fn factor(&self) -> Tensor<1> {
        if self.plus_one { self.weight.val().add_scalar(1.0) } else { self.weight.val() }
    }

    /// The norm of each row.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        ops::rms_norm(x, Some(self.factor()), self.eps as f32)
    }

    /// The norm of each row of `x ⊙ silu(z)`, in groups of `group`.
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
    /// The norm `name` of rows of width `d`.
    pub fn new(b: &mut Builder, name: &str, d: usize, eps: f64, bias: Bias) -> Result<Self, Error> {
        let weight = b.vector(&format!("{name}.weight"), d, Init::Constant(1.0))?;
        let bias = match bias {
            Bias::Yes => Some(b.vector(&format!("{name}.bias"), d, Init::Constant(0.0))?),
            Bias::No => None,
        };
        Ok(Self { weight, bias, eps })
    }

    /// The norm of each row.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        self.of(x, None)
    }

    fn of<const D: usize>(&self, x: Tensor<D>, more: Option<Tensor<D>>) -> Tensor<D> {
        let bias = self.bias.as_ref().map(|b| b.val());
        ops::layer_norm(x, more, self.weight.val(), bias, self.eps as f32)
    }
}

/// Which norm, and its ε.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum NormConfig {
    /// Of the root mean square.
    Rms(f64),
    /// Of the root mean square, with weights that are added to 1.
    RmsPlusOne(f64),
    /// Of mean and variance, with a bias or without.
    Layer(f64, Bias),
}

/// Where the norms stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// `x + f(norm(x))`
    Before,
    /// `norm(x + f(x))`
    Behind,
}

/// One or the other.
#[derive(Module, Debug)]
pub enum Norm {
    /// Of the root mean square.
    Rms(RmsNorm),
    /// Of mean and variance.
    Layer(LayerNorm),
}

impl Norm {
    /// The norm `name` of rows of width `d`.
    pub fn new(b: &mut Builder, name: &str, d: usize, c: NormConfig) -> Result<Self, Error> {
        Ok(match c {
            NormConfig::Rms(eps) => Norm::Rms(RmsNorm::new(b, name, d, eps)?),
            NormConfig::RmsPlusOne(eps) => Norm::Rms(RmsNorm::plus_one(b, name, d, eps)?),
            NormConfig::Layer(eps, bias) => Norm::Layer(LayerNorm::new(b, name, d, eps, bias)?),
        })
    }

    /// The norm of each row.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Norm::Rms(norm) => norm.forward(x),
            Norm::Layer(norm) => norm.forward(x),
        }
    }
    /// The norm of each row of `x + y`.
    pub fn of_sum<const D: usize>(&self, x: Tensor<D>, y: Tensor<D>) -> Tensor<D> {
        match self {
            Norm::Rms(norm) => norm.forward(ops::add(x, y)),
            Norm::Layer(norm) => norm.of(x, Some(y)),
        }
    }
}
