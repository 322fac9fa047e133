//! A layer of Zamba: before its mixer, attention and a feed-forward layer read the residual stream `x` beside the embeddings
//! `x₀`, and their output is added to what the mixer reads. Glorioso et al. 2024 (Zamba2).
//!
//! $$ t = W \, f(\mathrm{norm}(a(\mathrm{norm}([x \mid x_0])))), \qquad y = \mathrm{mix}(\mathrm{norm}(x + t)) $$
//!
//! Layers share the weights of `a` and `f`; what each has of its own are adapters of low rank beside them.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use longreach_burn as ops;
use longreach_burn::Activation;

use crate::linear::Bias;
use crate::mixers::{Attention, AttentionConfig, Mixer, MixerConfig, Shared};
use crate::{BranchState, Builder, Error, Linear, NamedNorm, Norm};

/// The sizes and names of the layer.
#[derive(Clone, Debug, PartialEq)]
pub struct ZambaConfig {
    /// The name of the shared part in a checkpoint.
    pub shared: String,
    /// The norm of `[x | x₀]`.
    pub norm: NamedNorm,
    /// `a`: it reads vectors twice as wide as the model, and writes those of the model.
    pub attention: AttentionConfig,
    /// The norm of its output.
    pub feed_forward_norm: NamedNorm,
    /// Width of the hidden layer of `f`.
    pub inner: usize,
    /// The activation of the gate of `f`.
    pub activation: Activation,
    /// Whether the linear maps of `f` have biases.
    pub bias: Bias,
    /// The rank of the adapter of `f`, and its number in the list of adapters.
    pub adapter: (usize, usize),
    /// The name of the decoder layer that contains the mixer, its norm, the name of the mixer, and the mixer.
    pub mixer: (String, NamedNorm, String, MixerConfig),
}

/// The layer.
#[derive(Module, Debug)]
pub struct Zamba {
    norm: Norm,
    attention: Mixer,
    feed_forward_norm: Norm,
    gate_up: Linear,
    adapter: [Linear; 2],
    down: Linear,
    linear: Linear,
    mixer_norm: Norm,
    mixer: Mixer,
    #[module(skip)]
    activation: Activation,
}

impl Zamba {
    /// Builds the layer in a model of width `d` under the builder's scope. Errors if a weight is missing or has another
    /// shape.
    pub(crate) fn new(b: &mut Builder, d: usize, c: &ZambaConfig) -> Result<Self, Error> {
        let (rank, number) = c.adapter;
        let (norm, attention, feed_forward_norm, gate_up, adapter, down) = b.scope(&c.shared, |b| {
            let norms = (c.norm.build(b, 2 * d)?, c.feed_forward_norm.build(b, d)?);
            let attention = b.scope("self_attn", |b| Attention::new(b, &c.attention))?;
            b.scope("feed_forward", |b| {
                let gate_up = Linear::new(b, "gate_up_proj", d, 2 * c.inner, c.bias)?;
                let down = Linear::new(b, "down_proj", c.inner, d, c.bias)?;
                let adapter = b.scope(format!("gate_up_proj_adapter_list.{number}"), |b| {
                    Ok::<_, Error>([
                        Linear::new(b, "0", d, rank, Bias::No)?,
                        Linear::new(b, "1", rank, 2 * c.inner, Bias::No)?,
                    ])
                })?;
                Ok::<_, Error>((norms.0, Mixer::Attention(attention), norms.1, gate_up, adapter, down))
            })
        })?;
        let (layer, mixer_norm, name, mixer) = &c.mixer;
        let (mixer_norm, mixer) =
            b.scope(layer, |b| Ok::<_, Error>((mixer_norm.build(b, d)?, b.scope(name, |b| Mixer::new(b, mixer))?)))?;
        Ok(Self {
            norm,
            attention,
            feed_forward_norm,
            gate_up,
            adapter,
            down,
            linear: Linear::new(b, "linear", d, d, Bias::No)?,
            mixer_norm,
            mixer,
            activation: c.activation,
        })
    }

    /// The initial states of attention and mixer.
    pub(crate) fn start(&self, batch: usize, device: &Device) -> BranchState {
        let states = [&self.attention, &self.mixer].map(|mixer| BranchState::Operation(mixer.start(batch, device)));
        BranchState::Parallel(states.into())
    }

    pub(crate) fn prepared(self) -> Self {
        Self { attention: self.attention.prepared(), mixer: self.mixer.prepared(), ..self }
    }

    /// The contribution of the layer to `x: [B, T, d]`. Panics if the states belong to another layer.
    pub(crate) fn forward(&self, x: Tensor<3>, states: &mut [BranchState], shared: &mut Shared) -> Tensor<3> {
        let [BranchState::Operation(attention), BranchState::Operation(mixer)] = states else {
            panic!("the cache belongs to another model")
        };
        let embedded = shared.embedded.clone().unwrap_or_else(|| x.clone());
        let both = self.norm.forward(Tensor::cat(vec![x.clone(), embedded], 2));
        let y = self.feed_forward_norm.forward(self.attention.forward(both, attention, shared));
        let [first, second] = &self.adapter;
        let inner = ops::add(self.gate_up.forward(y.clone()), second.forward(first.forward(y)));
        let t = self.linear.forward(self.down.forward(ops::gated(inner, self.activation)));
        self.mixer.forward(self.mixer_norm.forward(x + t), mixer, shared)
    }
}
