//! The skeleton of a language model: embedding, blocks of norm and mixer (and norm and feed-forward), norm, head.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, activation};
use longreach_burn as ops;

use crate::linear::Bias;
use crate::mixers::{Mixer, MixerConfig, Shared};
use crate::{
    Builder, Cache, ChannelMix, ChannelMixConfig, Embedding, Error, Init, LayerState, Layout, Linear, Norm, NormConfig,
    Precision, SwiGlu,
};

/// The sizes and names of the skeleton.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderConfig {
    /// Size of the vocabulary.
    pub vocabulary: usize,
    /// `d`: width of the model.
    pub hidden: usize,
    /// The blocks, in order.
    pub blocks: Vec<BlockConfig>,
    /// A norm of the embeddings; in the file it is a part of the first block.
    pub first_norm: Option<NormConfig>,
    /// The norm before the head.
    pub last_norm: NormConfig,
    /// Whether each layer's gates have a learned lower bound, of this many channels. Qin et al. 2024 (HGRN2), §3.
    pub lower_bounds: Option<usize>,
    /// Whether the head is the embedding.
    pub tied: bool,
    /// Names of the parts in a checkpoint.
    pub names: DecoderNames,
}

/// One block.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockConfig {
    /// The norms before mixer and feed-forward layer.
    pub norm: NormConfig,
    /// The mixer.
    pub mixer: MixerConfig,
    /// The feed-forward layer, where there is one.
    pub feed_forward: Option<FeedForwardLayer>,
}

/// Which feed-forward layer stands behind a mixer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeedForwardLayer {
    /// SwiGLU of this inner width.
    SwiGlu(usize),
    /// That of the RWKV models.
    ChannelMix(ChannelMixConfig),
}

/// What a checkpoint calls the parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecoderNames {
    /// Before all but the head, with no dot at the end.
    pub body: &'static str,
    /// The embedding.
    pub embedding: &'static str,
    /// The blocks.
    pub blocks: &'static str,
    /// The norm of the embeddings, in the first block.
    pub first_norm: &'static str,
    /// A block's norm.
    pub norm: &'static str,
    /// A block's mixer.
    pub mixer: &'static str,
    /// A block's second norm, where there is a feed-forward layer.
    pub second_norm: &'static str,
    /// A block's feed-forward layer, where there is one.
    pub feed_forward: &'static str,
    /// The last norm.
    pub last_norm: &'static str,
    /// The head, outside the body.
    pub head: &'static str,
}

/// One block: `x + mixer(norm(x))`, and the same with a feed-forward layer where there is one.
#[derive(Module, Debug)]
pub struct Block {
    norm: Norm,
    mixer: Mixer,
    second_norm: Option<Norm>,
    feed_forward: Option<SwiGlu>,
    channel_mix: Option<ChannelMix>,
}

impl Block {
    fn new(b: &mut Builder, hidden: usize, c: &BlockConfig, n: &DecoderNames) -> Result<Self, Error> {
        let norm = Norm::new(b, n.norm, hidden, c.norm)?;
        let mixer = b.scope(n.mixer, |b| Mixer::new(b, &c.mixer))?;
        let second_norm = match c.feed_forward {
            Some(_) => Some(Norm::new(b, n.second_norm, hidden, c.norm)?),
            None => None,
        };
        let (mut feed_forward, mut channel_mix) = (None, None);
        b.scope(n.feed_forward, |b| {
            match &c.feed_forward {
                Some(FeedForwardLayer::SwiGlu(inner)) => feed_forward = Some(SwiGlu::new(b, hidden, *inner)?),
                Some(FeedForwardLayer::ChannelMix(c)) => channel_mix = Some(ChannelMix::new(b, hidden, c)?),
                None => {}
            }
            Ok::<_, Error>(())
        })?;
        Ok(Self { norm, mixer, second_norm, feed_forward, channel_mix })
    }
}

/// The model.
#[derive(Module, Debug)]
pub struct Decoder {
    embedding: Embedding,
    first_norm: Option<Norm>,
    blocks: Vec<Block>,
    /// `[L, D]`
    lower_bounds: Option<Param<Tensor<2>>>,
    norm: Norm,
    head: Option<Linear>,
}

impl Decoder {
    /// The model under the builder's scope.
    pub fn new(b: &mut Builder, c: &DecoderConfig) -> Result<Self, Error> {
        let n = c.names;
        let (embedding, first_norm, blocks, lower_bounds, norm) = b.scope(n.body, |b| {
            let embedding = Embedding::new(b, n.embedding, c.vocabulary, c.hidden)?;
            let (first_norm, blocks) = b.scope(n.blocks, |b| {
                let first = c.first_norm.map(|norm| b.scope(0, |b| Norm::new(b, n.first_norm, c.hidden, norm)));
                let blocks = c.blocks.iter().enumerate();
                let blocks = blocks.map(|(i, block)| b.scope(i, |b| Block::new(b, c.hidden, block, &n)));
                let blocks = blocks.collect::<Result<Vec<_>, _>>()?;
                Ok::<_, Error>((first.transpose()?, blocks))
            })?;
            let bounds = |b: &mut Builder, width| {
                let shape = [c.blocks.len(), width];
                b.param("lower_bounds", shape, Layout::Same, Precision::Full, Init::Constant(0.0))
            };
            let lower_bounds = c.lower_bounds.map(|width| bounds(b, width)).transpose()?;
            let norm = Norm::new(b, n.last_norm, c.hidden, c.last_norm)?;
            Ok::<_, Error>((embedding, first_norm, blocks, lower_bounds, norm))
        })?;
        let head = if c.tied { None } else { Some(Linear::new(b, n.head, c.hidden, c.vocabulary, Bias::No)?) };
        Ok(Self { embedding, first_norm, blocks, lower_bounds, norm, head })
    }

    /// The state before the first token of `batch` sequences.
    pub fn start(&self, batch: usize) -> Cache {
        let (device, hidden) = (self.device(), self.embedding.weight.val().dims()[1]);
        let state = |block: &Block| LayerState {
            mixer: block.mixer.start(batch, &device),
            shift: block.channel_mix.is_some().then(|| Tensor::zeros([batch, 1, hidden], &device)),
        };
        Cache { layers: self.blocks.iter().map(state).collect(), batch }
    }

    /// As it is, with what depends on the weights alone computed once: for inference. Its weights must not change afterwards.
    #[must_use]
    pub fn prepared(mut self) -> Self {
        let prepare = |block: Block| Block { mixer: block.mixer.prepared(), ..block };
        self.blocks = self.blocks.into_iter().map(prepare).collect();
        self
    }

    /// Where the weights are.
    pub fn device(&self) -> Device {
        self.embedding.weight.val().device()
    }

    /// Size of the vocabulary.
    pub fn vocabulary(&self) -> usize {
        self.embedding.weight.val().dims()[0]
    }

    /// The lower bound of each layer's gates, rising from 0 at the first.
    fn bounds(&self) -> Vec<Option<Tensor<1>>> {
        let Some(parameters) = &self.lower_bounds else { return vec![None; self.blocks.len()] };
        let shares = activation::softmax(parameters.val(), 0);
        let width = shares.dims()[1];
        let mut sum: Option<Tensor<1>> = None;
        let layer = |i: usize| {
            if i > 0 {
                let share = shares.clone().narrow(0, i, 1).reshape([width]);
                sum = Some(match sum.take() {
                    Some(sum) => sum + share,
                    None => share,
                });
            }
            sum.clone()
        };
        (0..self.blocks.len()).map(layer).collect()
    }

    /// Reads `ids`, rows of equal length for each of the cache's sequences, one behind the other → `[B, T, d]`, normed.
    ///
    /// The whole sequence, a chunk, or one token: the cache carries on from one call to the next.
    /// `mask: [B, T, 1]` is 0 at padding. Panics if an id is not below the vocabulary's size.
    pub fn forward(&self, ids: &[u32], cache: &mut Cache, mask: Option<Tensor<3>>) -> Tensor<3> {
        let mut x = self.embedding.forward(ids, cache.batch);
        if let Some(norm) = &self.first_norm {
            x = norm.forward(x);
        }
        let mut shared = Shared::default();
        let states = std::mem::take(&mut cache.layers);
        for ((block, state), bound) in self.blocks.iter().zip(states).zip(self.bounds()) {
            shared.lower_bound = bound;
            let (y, mixer) = block.mixer.forward(block.norm.forward(x.clone()), state.mixer, mask.clone(), &mut shared);
            x = x + y;
            let mut shift = state.shift;
            if let Some(norm) = &block.second_norm {
                let normed = norm.forward(x.clone());
                if let Some(feed_forward) = &block.feed_forward {
                    x = x + feed_forward.forward(normed);
                } else if let (Some(mix), Some(before)) = (&block.channel_mix, shift.take()) {
                    let (y, last) = mix.forward(normed, before, mask.as_ref());
                    (x, shift) = (x + y, Some(last));
                }
            }
            cache.layers.push(LayerState { mixer, shift });
        }
        self.norm.forward(x)
    }

    /// `[.., d]`, normed → `[.., vocabulary]`
    pub fn logits<const D: usize>(&self, hidden: Tensor<D>) -> Tensor<D> {
        match &self.head {
            Some(head) => head.forward(hidden),
            None => ops::linear(hidden, self.embedding.weight.val(), None),
        }
    }

    /// The mean loss in nats of predicting `targets` from `hidden: [B, T, d]`; negative targets do not count.
    pub fn loss(&self, hidden: Tensor<3>, targets: &[i64]) -> Tensor<1> {
        let [b, t, d] = hidden.dims();
        let weight = match &self.head {
            Some(head) => head.weight.val(),
            None => self.embedding.weight.val(),
        };
        ops::linear_cross_entropy(hidden.reshape([b * t, d]), weight, targets)
    }
}
