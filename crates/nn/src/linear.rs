//! Linear maps and the embedding table.

use std::sync::Arc;

use burn::module::{Module, Param};
use burn::tensor::{DType, Tensor};
use longreach_burn as ops;
use longreach_simd::product::Int8;

use crate::{Builder, Error, Init, Layout, Precision};

/// `y = x Wᵀ + b`, with `W: [out, in]` in f32, bf16, or, for inference only, int8.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[out, in]`
    pub weight: Param<Tensor<2>>,
    /// `[out]`
    pub bias: Option<Param<Tensor<1>>>,
    /// The int8 copy of the weight, which is used instead of it if present.
    #[module(skip)]
    rounded: Option<Arc<Int8>>,
}

/// Whether a layer has a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bias {
    /// With a bias.
    Yes,
    /// Without a bias.
    No,
}

impl From<bool> for Bias {
    fn from(yes: bool) -> Self {
        if yes { Bias::Yes } else { Bias::No }
    }
}

impl Linear {
    /// The layer `name` from `inputs` to `outputs`. Errors if a weight is missing or has another shape.
    pub fn new(b: &mut Builder, name: &str, inputs: usize, outputs: usize, bias: Bias) -> Result<Self, Error> {
        Self::with_init(b, name, [outputs, inputs], bias, Init::Uniform(-bound(inputs), bound(inputs)))
    }

    /// As [`Linear::new`] for `[outputs, inputs]`, starting from `init`.
    pub fn with_init(b: &mut Builder, name: &str, shape: [usize; 2], bias: Bias, init: Init) -> Result<Self, Error> {
        Self::build(b, name, shape, bias, init, Layout::Same)
    }

    /// As [`Linear::new`] for `[outputs, inputs]`, with the given layout in the file.
    pub fn with_layout(
        b: &mut Builder,
        name: &str,
        shape: [usize; 2],
        bias: Bias,
        layout: Layout,
    ) -> Result<Self, Error> {
        Self::build(b, name, shape, bias, Init::Uniform(-bound(shape[1]), bound(shape[1])), layout)
    }

    fn build(
        b: &mut Builder,
        name: &str,
        shape: [usize; 2],
        bias: Bias,
        init: Init,
        layout: Layout,
    ) -> Result<Self, Error> {
        b.scope(name, |b| {
            let (weight, rounded) = b.matrix("weight", shape, layout, init)?;
            let bias = match bias {
                Bias::Yes => Some(b.vector("bias", shape[0], Init::Constant(0.0))?),
                Bias::No => None,
            };
            Ok(Self { weight, bias, rounded })
        })
    }

    /// The weight in f32.
    pub(crate) fn full_weight(&self) -> Tensor<2> {
        let weight = self.weight.val();
        if weight.dtype() == DType::F32 { weight } else { weight.cast(DType::F32) }
    }

    /// Computes the outputs `outputs` only, `[.., in]` → `[.., n]`. Returns `None` for int8 weights, which cannot be
    /// sliced.
    pub(crate) fn some<const D: usize>(&self, x: Tensor<D>, outputs: std::ops::Range<usize>) -> Option<Tensor<D>> {
        if self.rounded.is_some() {
            return None;
        }
        let (from, n) = (outputs.start, outputs.len());
        let bias = self.bias.as_ref().map(|b| b.val().narrow(0, from, n));
        Some(ops::linear(x, self.weight.val().narrow(0, from, n), bias))
    }

    /// `[.., in]` → `[.., out]`
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let bias = self.bias.as_ref().map(|b| b.val());
        match &self.rounded {
            Some(rounded) => ops::linear_int8(x, rounded, bias),
            None => ops::linear(x, self.weight.val(), bias),
        }
    }
}

/// The usual bound of a uniform initialisation: `1 / √in`.
fn bound(inputs: usize) -> f32 {
    (inputs as f32).powf(-0.5)
}

/// An embedding table, `[vocabulary, d]`.
#[derive(Module, Debug)]
pub struct Embedding {
    /// The table.
    pub weight: Param<Tensor<2>>,
}

impl Embedding {
    /// The table `name`. Errors if the weight is missing or has another shape.
    pub fn new(b: &mut Builder, name: &str, vocabulary: usize, d: usize) -> Result<Self, Error> {
        let init = Init::Normal(0.02);
        let weight = b.scope(name, |b| b.param("weight", [vocabulary, d], Layout::Same, Precision::Model, init))?;
        Ok(Self { weight })
    }

    /// Embeds `batch` contiguous rows of ids → `[B, T, d]`. Panics if an id exceeds the vocabulary.
    pub fn forward(&self, ids: &[u32], batch: usize) -> Tensor<3> {
        ops::embedding(self.weight.val(), ids, batch)
    }
}
