//! The pooler and the task heads of an encoder, which score tokens or whole texts.

use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor};
use longreach_burn::{self as ops, Activation};
use ndarray::Array2;

use crate::linear::Bias;
use crate::norm::{Norm, NormConfig};
use crate::{Builder, Error, FeedForward, FeedForwardConfig, Init, Layout, Linear, Precision};

/// The input of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// Every token.
    Tokens,
    /// The first token of a text.
    First,
    /// The last token of a text.
    Last,
    /// The mean over the tokens of a text.
    Mean,
    /// The output of the pooler for a text.
    Pooled,
}

/// The sizes and names of a [`Head`].
#[derive(Clone, Debug, PartialEq)]
pub struct HeadConfig {
    /// Its input.
    pub over: Over,
    /// Width of its input.
    pub width: usize,
    /// An optional hidden layer: its name, width, bias and activation.
    pub dense: Option<(&'static str, usize, Bias, Activation)>,
    /// An optional residual feed-forward layer with a norm of the sum: used by BigBird for question answering.
    pub around: Option<(FeedForwardConfig, &'static str, NormConfig)>,
    /// An optional norm before the output layer.
    pub norm: Option<(&'static str, NormConfig)>,
    /// The name of the output layer. If its weight is absent and the head is `tied`, the embedding table is used.
    pub out: &'static str,
    /// The number of scores.
    pub outputs: usize,
    /// The possible names of the output bias. The first that exists is used; the last is the default.
    pub bias: &'static [&'static str],
    /// Whether the output weight may be the embedding table.
    pub tied: bool,
}

/// `W φ(W' x)`, optionally with a norm between; every part but `W` is optional.
#[derive(Module, Debug)]
pub struct Head {
    dense: Option<Linear>,
    around: Option<(FeedForward, Norm)>,
    norm: Option<Norm>,
    /// `[outputs, width]`; `None` if tied to the embedding table
    weight: Option<Param<Tensor<2>>>,
    bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    activation: Option<Activation>,
    #[module(skip)]
    over: Over,
}

impl Head {
    /// Builds the head under the builder's scope. Errors if a weight is missing or has another shape.
    pub fn new(b: &mut Builder, c: &HeadConfig) -> Result<Self, Error> {
        b.in_floats(|b| {
            let (dense, width) = match c.dense {
                Some((name, outputs, bias, _)) => (Some(Linear::new(b, name, c.width, outputs, bias)?), outputs),
                None => (None, c.width),
            };
            let around = match &c.around {
                Some((layer, name, norm)) => {
                    Some((FeedForward::new(b, width, layer)?, Norm::new(b, name, width, *norm)?))
                }
                None => None,
            };
            let norm = c.norm.map(|(name, norm)| Norm::new(b, name, width, norm)).transpose()?;
            let name = format!("{}.weight", c.out);
            let weight = if c.tied && !b.has(&name) {
                None
            } else {
                let init = Init::Normal(0.02);
                Some(b.param(&name, [c.outputs, width], Layout::Same, Precision::Float, init)?)
            };
            let bias = match c.bias {
                [] => None,
                names => {
                    let name = names.iter().find(|name| b.has(name)).unwrap_or(&names[names.len() - 1]);
                    Some(b.vector(name, c.outputs, Init::Constant(0.0))?)
                }
            };
            let activation = c.dense.map(|(.., activation)| activation);
            Ok(Self { dense, around, norm, weight, bias, activation, over: c.over })
        })
    }

    /// Its input.
    pub fn over(&self) -> Over {
        self.over
    }

    /// Maps `[n, width]` to scores `[n, outputs]`; `embeddings` is the output weight of a tied head. Panics if the
    /// head has no weight and none is given.
    pub fn forward(&self, x: Tensor<2>, embeddings: Option<Tensor<2>>) -> Tensor<2> {
        let mut x = x;
        if let (Some(dense), Some(activation)) = (&self.dense, self.activation) {
            x = ops::activate(dense.forward(x), activation);
        }
        if let Some((layer, norm)) = &self.around {
            let y = layer.forward(x.clone().unsqueeze_dim(0)).squeeze_dim(0);
            x = norm.of_sum(y, x);
        }
        if let Some(norm) = &self.norm {
            x = norm.forward(x);
        }
        let weight = self.weight.as_ref().map(|weight| weight.val()).or(embeddings);
        let weight = weight.unwrap_or_else(|| panic!("the head has no weight and no embedding table was given"));
        ops::linear(x, weight, self.bias.as_ref().map(|bias| bias.val()))
    }
}

/// The pooler: `φ(W x)` of the first token of a text.
#[derive(Module, Debug)]
pub struct Pooler {
    dense: Linear,
    #[module(skip)]
    activation: Activation,
}

impl Pooler {
    /// The pooler `name` of width `d`. Errors if a weight is missing or has another shape.
    pub fn new(b: &mut Builder, name: &str, d: usize, activation: Activation) -> Result<Self, Error> {
        Ok(Self { dense: b.in_floats(|b| Linear::new(b, name, d, d, Bias::Yes))?, activation })
    }

    /// `[n, d]` → `[n, d]`
    pub fn forward(&self, first: Tensor<2>) -> Tensor<2> {
        ops::activate(self.dense.forward(first), self.activation)
    }
}

/// Gathers one vector per text, `[texts, d]`, from hidden states `[B, T, d]`; `bounds` are the texts' bounds counted
/// over all rows. Tokens that `keep: [B, T]` marks as padding are ignored. [`Over::Tokens`] returns every token;
/// [`Over::Pooled`] is the same as [`Over::First`].
pub fn gathered(over: Over, hidden: Tensor<3>, bounds: &[usize], keep: Option<&Array2<bool>>) -> Tensor<2> {
    let [b, t, d] = hidden.dims();
    let rows: Tensor<2> = hidden.reshape([b * t, d]);
    let there = |i: usize| keep.is_none_or(|keep| keep[[i / t.max(1), i % t.max(1)]]);
    let texts = || bounds.windows(2).map(|w| w[0]..w[1]);
    let pick = |at: Vec<usize>| {
        let at: Vec<i32> = at.into_iter().map(|i| i as i32).collect();
        rows.clone().select(0, Tensor::<1, Int>::from_data(&at[..], &rows.device()))
    };
    match over {
        Over::Tokens => rows,
        Over::First | Over::Pooled => pick(texts().map(|text| text.start).collect()),
        Over::Last => pick(texts().map(|mut text| text.rfind(|i| there(*i)).unwrap_or(0)).collect()),
        Over::Mean => {
            let mean = |text: std::ops::Range<usize>| {
                let at: Vec<usize> = text.filter(|i| there(*i)).collect();
                pick(at).mean_dim(0)
            };
            Tensor::cat(texts().map(mean).collect(), 0)
        }
    }
}
