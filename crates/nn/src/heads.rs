//! What stands behind an encoder: a pooler, and heads that score tokens or texts.

use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor};
use longreach_burn::{self as ops, Activation};
use ndarray::Array2;

use crate::linear::Bias;
use crate::norm::{Norm, NormConfig};
use crate::{Builder, Error, FeedForward, FeedForwardConfig, Init, Layout, Linear, Precision};

/// What a head looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// Every token by itself.
    Tokens,
    /// The first token of a text.
    First,
    /// The last one.
    Last,
    /// The mean of a text's tokens.
    Mean,
    /// What the pooler makes of a text.
    Pooled,
}

/// The sizes and names of a [`Head`].
#[derive(Clone, Debug, PartialEq)]
pub struct HeadConfig {
    /// What it looks at.
    pub over: Over,
    /// Width of what it looks at.
    pub width: usize,
    /// A map before the last: its name, its outputs, its bias, and what follows it.
    pub dense: Option<(&'static str, usize, Bias, Activation)>,
    /// A feed-forward layer around which the input is added, and the norm of the sum: BigBird's, where it looks for answers.
    pub around: Option<(FeedForwardConfig, &'static str, NormConfig)>,
    /// A norm before the last map.
    pub norm: Option<(&'static str, NormConfig)>,
    /// The last map. Where a language model's weight is not there, it is the table of embeddings.
    pub out: &'static str,
    /// How many scores it gives.
    pub outputs: usize,
    /// Names the bias may have; the first that is there is taken, and the last is the usual one.
    pub bias: &'static [&'static str],
    /// Whether the weight may be the table of embeddings.
    pub tied: bool,
}

/// `W φ(W' x)`, with a norm between, or less.
#[derive(Module, Debug)]
pub struct Head {
    dense: Option<Linear>,
    around: Option<(FeedForward, Norm)>,
    norm: Option<Norm>,
    /// `[outputs, width]`; the table of embeddings if absent
    weight: Option<Param<Tensor<2>>>,
    bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    activation: Option<Activation>,
    #[module(skip)]
    over: Over,
}

impl Head {
    /// The head under the builder's scope.
    pub fn new(b: &mut Builder, c: &HeadConfig) -> Result<Self, Error> {
        b.unrounded(|b| {
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
                Some(b.param(&name, [c.outputs, width], Layout::Same, Precision::Model, init)?)
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

    /// What it looks at.
    pub fn over(&self) -> Over {
        self.over
    }

    /// Scores `[n, outputs]` of `[n, width]`; `embeddings` is the table that is the last map where it has none of its own. Panics if there is neither.
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
        let weight = weight.unwrap_or_else(|| panic!("a head without a weight, and no table of embeddings"));
        ops::linear(x, weight, self.bias.as_ref().map(|bias| bias.val()))
    }
}

/// `φ(W x)` of a text's first token.
#[derive(Module, Debug)]
pub struct Pooler {
    dense: Linear,
    #[module(skip)]
    activation: Activation,
}

impl Pooler {
    /// The pooler `name` of width `d`.
    pub fn new(b: &mut Builder, name: &str, d: usize, activation: Activation) -> Result<Self, Error> {
        Ok(Self { dense: b.unrounded(|b| Linear::new(b, name, d, d, Bias::Yes))?, activation })
    }

    /// `[n, d]` → `[n, d]`
    pub fn forward(&self, first: Tensor<2>) -> Tensor<2> {
        ops::activate(self.dense.forward(first), self.activation)
    }
}

/// A vector a text, `[texts, d]`, of hidden states `[B, T, d]` whose texts lie between `bounds`, counted over all rows. With `keep`, `[B, T]`, only what is
/// there counts. Of [`Over::Tokens`] all of them; [`Over::Pooled`] is [`Over::First`].
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
