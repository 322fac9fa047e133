//! The skeleton of a language model: embedding, blocks of norm and mixer (and norm and feed-forward), norm, head.

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor, activation};
use longreach_burn as ops;

use crate::hmt::{Hmt, HmtConfig};
use crate::mixers::{Mixer, MixerConfig, Shared};
use crate::words::{Words, WordsConfig};
use crate::{
    Builder, Cache, ChannelMix, ChannelMixConfig, Embedding, Error, FeedForward, FeedForwardConfig, Init, LayerState,
    Layout, MixerState, Norm, NormConfig, Order, Precision, SwiGlu,
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
    /// The norm before the head, where there is one.
    pub last_norm: Option<NormConfig>,
    /// Whether each layer's gates have a learned lower bound, of this many channels. Qin et al. 2024 (HGRN2), §3.
    pub lower_bounds: Option<usize>,
    /// Embedding and head.
    pub words: WordsConfig,
    /// A hierarchical memory around it all.
    pub hmt: Option<HmtConfig>,
    /// The name and the rows of a table of learned positions, where there is one. The first block is then attention that remembers all keys.
    pub positions: Option<(&'static str, usize)>,
    /// Names of the parts in a checkpoint.
    pub names: DecoderNames,
}

impl DecoderConfig {
    /// The name within the body of a tensor that every checkpoint of it has: its embedding, or that of the most frequent tokens.
    pub fn embedding(&self) -> String {
        match &self.words {
            WordsConfig::Table { .. } => format!("{}.weight", self.names.embedding),
            WordsConfig::Adaptive(_) => format!("{}.emb_layers.0.weight", self.names.embedding),
        }
    }
}

/// One block.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockConfig {
    /// The norms of mixer and feed-forward layer. A mixer that has one of its own gets none here.
    pub norm: NormConfig,
    /// Where they stand.
    pub order: Order,
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
    /// Two maps with a function between them.
    Plain(FeedForwardConfig),
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

/// The position of each of the next `t` tokens of each sequence: how many tokens were before it, padding not counted.
fn places(cache: &Cache, t: usize, mask: Option<&Tensor<3>>) -> Vec<u32> {
    let before = |b: usize| match cache.layers.first().map(|layer| &layer.mixer) {
        Some(MixerState::Attention { near, seen, .. }) => match near.keep() {
            Some(keep) => keep.row(b).iter().filter(|there| **there).count(),
            None => *seen,
        },
        _ => 0,
    };
    let there: Option<Vec<f32>> = mask.map(|mask| mask.clone().into_data().iter::<f32>().collect());
    let mut places = Vec::with_capacity(cache.batch * t);
    for b in 0..cache.batch {
        let mut next = before(b) as u32;
        for i in 0..t {
            places.push(next);
            next += u32::from(there.as_ref().is_none_or(|there| there[b * t + i] != 0.0));
        }
    }
    places
}

/// One block: `x + mixer(norm(x))`, and the same with a feed-forward layer where there is one; or `norm(x + mixer(x))`.
#[derive(Module, Debug)]
pub struct Block {
    norm: Option<Norm>,
    mixer: Mixer,
    second_norm: Option<Norm>,
    feed_forward: Option<SwiGlu>,
    plain: Option<FeedForward>,
    channel_mix: Option<ChannelMix>,
    #[module(skip)]
    order: Order,
}

impl Block {
    fn new(b: &mut Builder, hidden: usize, c: &BlockConfig, n: &DecoderNames) -> Result<Self, Error> {
        let norm = if c.mixer.has_a_norm() { None } else { Some(Norm::new(b, n.norm, hidden, c.norm)?) };
        let mixer = b.scope(n.mixer, |b| Mixer::new(b, &c.mixer))?;
        let second_norm = match c.feed_forward {
            Some(_) => Some(Norm::new(b, n.second_norm, hidden, c.norm)?),
            None => None,
        };
        let (mut feed_forward, mut plain, mut channel_mix) = (None, None, None);
        b.scope(n.feed_forward, |b| {
            match &c.feed_forward {
                Some(FeedForwardLayer::SwiGlu(inner)) => feed_forward = Some(SwiGlu::new(b, hidden, *inner)?),
                Some(FeedForwardLayer::Plain(c)) => plain = Some(FeedForward::new(b, hidden, c)?),
                Some(FeedForwardLayer::ChannelMix(c)) => channel_mix = Some(ChannelMix::new(b, hidden, c)?),
                None => {}
            }
            Ok::<_, Error>(())
        })?;
        Ok(Self { norm, mixer, second_norm, feed_forward, plain, channel_mix, order: c.order })
    }

    /// `x: [B, T, d]` with the state before it → the output and the state after it.
    fn forward(
        &self,
        x: Tensor<3>,
        state: LayerState,
        mask: Option<&Tensor<3>>,
        shared: &mut Shared,
    ) -> (Tensor<3>, LayerState) {
        let (before, behind) = match self.order {
            Order::Before => (self.norm.as_ref(), None),
            Order::Behind => (None, self.norm.as_ref()),
        };
        let normed = |norm: Option<&Norm>, x: Tensor<3>| match norm {
            Some(norm) => norm.forward(x),
            None => x,
        };
        let (y, mixer) = self.mixer.forward(normed(before, x.clone()), state.mixer, mask.cloned(), shared);
        let x = normed(behind, x + y);
        let (before, behind) = match self.order {
            Order::Before => (self.second_norm.as_ref(), None),
            Order::Behind => (None, self.second_norm.as_ref()),
        };
        let inner = || normed(before, x.clone());
        let (y, shift) = if let Some(feed_forward) = &self.feed_forward {
            (feed_forward.forward(inner()), state.shift)
        } else if let Some(plain) = &self.plain {
            (plain.forward(inner()), state.shift)
        } else if let (Some(mix), Some(before)) = (&self.channel_mix, state.shift) {
            let (y, last) = mix.forward(inner(), before, mask);
            (y, Some(last))
        } else {
            return (x, LayerState { mixer, shift: None });
        };
        (normed(behind, x + y), LayerState { mixer, shift })
    }
}

/// The model.
#[derive(Module, Debug)]
pub struct Decoder {
    words: Words,
    positions: Option<Embedding>,
    first_norm: Option<Norm>,
    blocks: Vec<Block>,
    /// `[L, D]`
    lower_bounds: Option<Param<Tensor<2>>>,
    norm: Option<Norm>,
    hmt: Option<Hmt>,
    hidden: usize,
}

impl Decoder {
    /// The model under the builder's scope.
    pub fn new(b: &mut Builder, c: &DecoderConfig) -> Result<Self, Error> {
        let n = c.names;
        let words = Words::new(b, &n, [c.vocabulary, c.hidden], &c.words)?;
        let (positions, first_norm, blocks, lower_bounds, norm) = b.scope(n.body, |b| {
            let table = |(name, rows)| Embedding::new(b, name, rows, c.hidden);
            let positions = c.positions.map(table).transpose()?;
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
            let norm = c.last_norm.map(|norm| Norm::new(b, n.last_norm, c.hidden, norm)).transpose()?;
            Ok::<_, Error>((positions, first_norm, blocks, lower_bounds, norm))
        })?;
        let hmt = c.hmt.as_ref().map(|hmt| b.scope("hmt", |b| Hmt::new(b, c.hidden, hmt))).transpose()?;
        Ok(Self { words, positions, first_norm, blocks, lower_bounds, norm, hmt, hidden: c.hidden })
    }

    /// The state before the first token of `batch` sequences.
    pub fn start(&self, batch: usize) -> Cache {
        let hmt = self.hmt.as_ref().map(|hmt| hmt.start(batch, &self.device()));
        Cache { layers: self.layers(batch), hmt, loss: None, batch }
    }

    /// The states of the layers before the first token.
    pub(crate) fn layers(&self, batch: usize) -> Vec<LayerState> {
        let device = self.device();
        let state = |block: &Block| LayerState {
            mixer: block.mixer.start(batch, &device),
            shift: block.channel_mix.is_some().then(|| Tensor::zeros([batch, 1, self.hidden], &device)),
        };
        self.blocks.iter().map(state).collect()
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
        self.words.device()
    }

    /// Size of the vocabulary.
    pub fn vocabulary(&self) -> usize {
        self.words.vocabulary()
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

    /// Whether sequences with padding can be read: not where a memory counts tokens for the whole batch.
    pub fn takes_padding(&self) -> bool {
        self.hmt.is_none()
    }

    /// Reads `ids`, rows of equal length for each of the cache's sequences, one behind the other → `[B, T, d]`, normed.
    ///
    /// The whole sequence, a chunk, or one token: the cache carries on from one call to the next.
    /// `mask: [B, T, 1]` is 0 at padding. Panics if an id is not below the vocabulary's size, and on a mask where
    /// [`Decoder::takes_padding`] says no, and where a text goes on beyond [`Decoder::longest`].
    pub fn forward(&self, ids: &[u32], cache: &mut Cache, mask: Option<Tensor<3>>) -> Tensor<3> {
        if let (Some(hmt), Some(_)) = (&self.hmt, &cache.hmt) {
            assert!(mask.is_none(), "a hierarchical memory does not take padding");
            return hmt.forward(self, ids, cache);
        }
        let mut x = self.words.embed(ids, cache.batch);
        if let Some(table) = &self.positions {
            let places = places(cache, ids.len() / cache.batch.max(1), mask.as_ref());
            x = ops::add(x, table.forward(&places, cache.batch));
        }
        self.through(x, cache, mask)
    }

    /// The longest text it can read, where its positions are learned.
    pub fn longest(&self) -> Option<usize> {
        self.positions.as_ref().map(|table| table.weight.val().dims()[0])
    }

    /// `batch` rows of ids, one behind the other → `[B, T, d]`
    pub(crate) fn embed(&self, ids: &[u32], batch: usize) -> Tensor<3> {
        self.words.embed(ids, batch)
    }

    /// What is read of embeddings `[B, T, d]`.
    pub(crate) fn through(&self, mut x: Tensor<3>, cache: &mut Cache, mask: Option<Tensor<3>>) -> Tensor<3> {
        if let Some(norm) = &self.first_norm {
            x = norm.forward(x);
        }
        let mut shared = Shared { loss: cache.loss.take(), ..Shared::default() };
        let states = std::mem::take(&mut cache.layers);
        for ((block, state), bound) in self.blocks.iter().zip(states).zip(self.bounds()) {
            shared.lower_bound = bound;
            let (y, state) = block.forward(x, state, mask.as_ref(), &mut shared);
            x = y;
            cache.layers.push(state);
        }
        cache.loss = shared.loss;
        match &self.norm {
            Some(norm) => norm.forward(x),
            None => x,
        }
    }

    /// `[.., d]`, normed → `[.., vocabulary]`, up to a number that a row's logits share.
    pub fn logits<const D: usize>(&self, hidden: Tensor<D>) -> Tensor<D> {
        self.words.logits(hidden)
    }

    /// The mean loss in nats of predicting `targets` from `hidden: [B, T, d]`; negative targets do not count.
    pub fn loss(&self, hidden: Tensor<3>, targets: &[i64]) -> Tensor<1> {
        let [b, t, d] = hidden.dims();
        let rows = hidden.reshape([b * t, d]);
        if targets.iter().all(|target| *target >= 0) {
            return self.words.loss(rows, targets);
        }
        let counted = targets.iter().enumerate().filter(|(_, target)| **target >= 0);
        let (at, targets): (Vec<i32>, Vec<i64>) = counted.map(|(i, target)| (i as i32, *target)).unzip();
        let at = Tensor::<1, Int>::from_data(&at[..], &rows.device());
        self.words.loss(rows.select(0, at), &targets)
    }
}
