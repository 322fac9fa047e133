//! Channel mixing, the feed-forward layer of the RWKV models, with token shift. Peng et al. 2023 (RWKV), §3; 2025
//! (Goose), §4.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, activation};
use longreach_burn as ops;

use crate::linear::Bias;
use crate::mixers::{Shared, parts};
use crate::padding::without_padding;
use crate::{Builder, Error, Init, Layout, Linear, Precision, State};

/// The sizes and names of the layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelMixConfig {
    /// Width of the hidden layer.
    pub inner: usize,
    /// `φ`: the activation of the hidden layer; `max(x, 0)²` in the papers.
    pub activation: parts::Pointwise,
    /// The names of the parts in a checkpoint, and how they are stored.
    pub names: ChannelMixNames,
}

/// The names of the parts in a checkpoint, and how they are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelMixNames {
    /// The token-shift weights of the keys.
    pub mix_key: &'static str,
    /// The projection to the hidden layer.
    pub key: &'static str,
    /// The token-shift weights of the receptance, and its projection; `None` if the output has no gate.
    pub receptance: Option<[&'static str; 2]>,
    /// The projection back to `d`.
    pub value: &'static str,
    /// Whether a token-shift weight is the share of the current token; otherwise it is the share of the previous one.
    pub kept: bool,
    /// Whether token-shift weights are `[1, 1, d]` in the file.
    pub wide: bool,
}

/// `σ(W_r x_r) ⊙ W_v φ(W_k x_k)`; the gate is optional.
#[derive(Module, Debug)]
pub struct ChannelMix {
    mix_key: Param<Tensor<1>>,
    key: Linear,
    receptance: Option<(Param<Tensor<1>>, Linear)>,
    value: Linear,
    kept: bool,
    #[module(skip)]
    activation: parts::Pointwise,
}

impl ChannelMix {
    /// Builds the layer of width `d` under the builder's scope. Errors if a weight is missing or has another shape.
    pub fn new(b: &mut Builder, d: usize, c: &ChannelMixConfig) -> Result<Self, Error> {
        let n = c.names;
        let layout = if n.wide { Layout::Wide } else { Layout::Same };
        let start = if n.kept { Init::Ramp(0.0, 1.0) } else { Init::Ramp(1.0, 0.0) };
        let mix = |b: &mut Builder, name: &str| b.param(name, [d], layout, Precision::Full, start);
        Ok(Self {
            mix_key: mix(b, n.mix_key)?,
            key: Linear::new(b, n.key, d, c.inner, Bias::No)?,
            receptance: match n.receptance {
                Some([of_mix, of_map]) => Some((mix(b, of_mix)?, Linear::new(b, of_map, d, d, Bias::No)?)),
                None => None,
            },
            value: Linear::new(b, n.value, c.inner, d, Bias::No)?,
            kept: n.kept,
            activation: c.activation,
        })
    }

    /// The initial state of `batch` sequences: the token before the first is zero.
    pub(crate) fn start(batch: usize, d: usize, device: &Device) -> State {
        State::new(batch).with_rows("shift", [1, d], device)
    }

    /// Maps `x: [B, T, d]` to the output. Padding has no effect on the state, which has the last token.
    pub(crate) fn forward(&self, x: Tensor<3>, state: &mut State, shared: &mut Shared) -> Tensor<3> {
        let width = x.dims()[2];
        without_padding(x, width, state, shared, |x, state, shared| {
            state.update("shift", |before| self.read(x, before, &shared.packed))
        })
    }

    fn read(&self, x: Tensor<3>, before: Tensor<3>, packed: &ops::Packed) -> (Tensor<3>, Tensor<3>) {
        let (delta, last) = parts::difference(&x, before, packed);
        let mixed = |mix: &Param<Tensor<1>>| {
            let mix: Tensor<3> = mix.val().unsqueeze();
            let share = if self.kept { mix.neg().add_scalar(1.0) } else { mix };
            x.clone() + delta.clone() * share
        };
        let value = self.value.forward(self.activation.of(self.key.forward(mixed(&self.mix_key))));
        let out = match &self.receptance {
            Some((mix, map)) => activation::sigmoid(map.forward(mixed(mix))) * value,
            None => value,
        };
        (out, last)
    }
}
