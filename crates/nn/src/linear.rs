//! Linear maps and the embedding table.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use crate::{Builder, Error, Init, Layout, Weight};

/// `y = x Wᵀ + b`
#[derive(Module, Debug)]
pub struct Linear {
    /// `W: [out, in]`
    pub weight: Weight,
    /// `[out]`
    pub bias: Option<Param<Tensor<1>>>,
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
            let weight = b.matrix("weight", shape, layout, init)?;
            let bias = match bias {
                Bias::Yes => Some(b.vector("bias", shape[0], Init::Constant(0.0))?),
                Bias::No => None,
            };
            Ok(Self { weight, bias })
        })
    }

    /// Computes the outputs `outputs` only, `[.., in]` → `[.., n]`. Returns `None` if the rows of the matrix cannot be
    /// separated.
    pub(crate) fn some<const D: usize>(&self, x: Tensor<D>, outputs: std::ops::Range<usize>) -> Option<Tensor<D>> {
        let bias = self.bias.as_ref().map(|b| b.val().narrow(0, outputs.start, outputs.len()));
        self.weight.some(x, outputs, bias)
    }

    /// `[.., in]` → `[.., out]`
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        self.weight.forward(x, self.bias.as_ref().map(|b| b.val()))
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
    pub weight: Weight,
}

impl Embedding {
    /// The table `name`. Errors if the weight is missing or has another shape.
    pub fn new(b: &mut Builder, name: &str, vocabulary: usize, d: usize) -> Result<Self, Error> {
        let init = Init::Normal(0.02);
        let weight = b.scope(name, |b| b.table("weight", [vocabulary, d], init))?;
        Ok(Self { weight })
    }

    /// Embeds `batch` contiguous rows of ids → `[B, T, d]`. Panics if an id exceeds the vocabulary.
    pub fn forward(&self, ids: &[u32], batch: usize) -> Tensor<3> {
        self.weight.rows(ids, batch)
    }
}
