//! The skeleton of a language model: embedding, blocks of norm and mixer (and norm and feed-forward), norm, head.

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor, activation};
use longreach_burn as ops;

use crate::hmt::{Hmt, HmtConfig};
use crate::mixers::Shared;
use crate::words::{Words, WordsConfig};
use crate::{
    Block, BlockConfig, BranchState, Builder, Cache, Embedding, Error, Init, LayerState, Layout, MixerState, NamedNorm,
    Norm, Precision,
};

/// The sizes and names of the skeleton. [`DecoderConfig::new`] has everything that most models share, so that a model type writes down what is its own.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderConfig {
    /// Size of the vocabulary.
    pub vocabulary: usize,
    /// `d`: width of the model.
    pub hidden: usize,
    /// The blocks, in order.
    pub blocks: Vec<BlockConfig>,
    /// What embeddings are multiplied with.
    pub embedding_scale: f32,
    /// A norm of the embeddings, by its name within the body.
    pub first_norm: Option<NamedNorm>,
    /// The norm before the head, where there is one, by its name within the body.
    pub last_norm: Option<NamedNorm>,
    /// Whether each layer's gates have a learned lower bound, of this many channels. Qin et al. 2024 (HGRN2), §3.
    pub lower_bounds: Option<usize>,
    /// Embedding and head.
    pub words: WordsConfig,
    /// What logits are multiplied with.
    pub logits_scale: f32,
    /// `c`: logits, scaled, become `c tanh(x / c)`. Gemma 2.
    pub logits_cap: Option<f32>,
    /// A hierarchical memory around it all.
    pub hmt: Option<HmtConfig>,
    /// The name and the rows of a table of learned positions, where there is one. The first block then begins with attention that sees all keys.
    pub positions: Option<(String, usize)>,
    /// Names of the parts in a checkpoint.
    pub names: DecoderNames,
}

impl DecoderConfig {
    /// A model of these blocks with a table of embeddings and a head of its own; without a norm before the head, a memory or learned positions.
    pub fn new([vocabulary, hidden]: [usize; 2], blocks: Vec<BlockConfig>, names: DecoderNames) -> Self {
        Self {
            vocabulary,
            hidden,
            blocks,
            embedding_scale: 1.0,
            first_norm: None,
            last_norm: None,
            lower_bounds: None,
            words: WordsConfig::Table { tied: false },
            logits_scale: 1.0,
            logits_cap: None,
            hmt: None,
            positions: None,
            names,
        }
    }

    /// The name within the body of a tensor that every checkpoint of it has: its embedding, or that of the most frequent tokens.
    pub fn embedding(&self) -> String {
        match &self.words {
            WordsConfig::Table { .. } => format!("{}.weight", self.names.embedding),
            WordsConfig::Adaptive(_) => format!("{}.emb_layers.0.weight", self.names.embedding),
        }
    }

    /// An error in words if the blocks cannot be built.
    fn check(&self) -> Result<(), String> {
        if !self.logits_cap.is_none_or(|cap| cap > 0.0) {
            return Err(format!("logits are capped at {:?}: want a number above 0", self.logits_cap.unwrap_or(0.0)));
        }
        for (i, block) in self.blocks.iter().enumerate() {
            let Some(of) = block.shares else { continue };
            let there = self.blocks[..i].get(of).is_some_and(|other| other.shares.is_none());
            if !there {
                return Err(format!("block {i} uses the weights of block {of}: want an earlier one that has its own"));
            }
            if self.blocks[of].branches != block.branches {
                return Err(format!("block {i} uses the weights of block {of}, whose branches are others"));
            }
        }
        Ok(())
    }
}

/// What a checkpoint calls the parts of the skeleton. Blocks name their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecoderNames {
    /// Before all but the head, with no dot at the end.
    pub body: String,
    /// The embedding.
    pub embedding: String,
    /// The blocks.
    pub blocks: String,
    /// The head, outside the body.
    pub head: String,
}

impl DecoderNames {
    /// The names of the body, its embedding, its blocks, and the head.
    pub fn new([body, embedding, blocks, head]: [&str; 4]) -> Self {
        let [body, embedding, blocks, head] = [body, embedding, blocks, head].map(str::to_owned);
        Self { body, embedding, blocks, head }
    }
}

/// The position of each of the next `t` tokens of each sequence: how many tokens were before it, padding not counted.
fn places(cache: &Cache, t: usize, mask: Option<&Tensor<3>>) -> Vec<u32> {
    let first = cache.layers.first().and_then(|layer| layer.0.iter().find_map(BranchState::first));
    let before = |b: usize| match first {
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

/// The model.
#[derive(Module, Debug)]
pub struct Decoder {
    words: Words,
    positions: Option<Embedding>,
    first_norm: Option<Norm>,
    /// Those with weights of their own.
    blocks: Vec<Block>,
    /// Which of the blocks each layer is.
    layers: Vec<usize>,
    /// `[L, D]`
    lower_bounds: Option<Param<Tensor<2>>>,
    norm: Option<Norm>,
    hmt: Option<Hmt>,
    hidden: usize,
    embedding_scale: f64,
    logits_scale: f64,
    logits_cap: Option<f64>,
}

impl Decoder {
    /// The model under the builder's scope.
    pub fn new(b: &mut Builder, c: &DecoderConfig) -> Result<Self, Error> {
        c.check().map_err(|message| b.error(message))?;
        let n = &c.names;
        let words = Words::new(b, n, [c.vocabulary, c.hidden], &c.words)?;
        let (mut blocks, mut layers) = (Vec::new(), Vec::with_capacity(c.blocks.len()));
        let (positions, first_norm, lower_bounds, norm) = b.scope(&n.body, |b| {
            let table = |(name, rows): &(String, usize)| Embedding::new(b, name, *rows, c.hidden);
            let positions = c.positions.as_ref().map(table).transpose()?;
            let first = c.first_norm.as_ref().map(|norm| norm.build(b, c.hidden)).transpose()?;
            b.scope(&n.blocks, |b| {
                for (i, block) in c.blocks.iter().enumerate() {
                    if let Some(of) = block.shares {
                        layers.push(layers[of]);
                        continue;
                    }
                    layers.push(blocks.len());
                    blocks.push(b.scope(i, |b| Block::new(b, c.hidden, block))?);
                }
                Ok::<_, Error>(())
            })?;
            let bounds = |b: &mut Builder, width| {
                let shape = [c.blocks.len(), width];
                b.param("lower_bounds", shape, Layout::Same, Precision::Full, Init::Constant(0.0))
            };
            let lower_bounds = c.lower_bounds.map(|width| bounds(b, width)).transpose()?;
            let norm = c.last_norm.as_ref().map(|norm| norm.build(b, c.hidden)).transpose()?;
            Ok::<_, Error>((positions, first, lower_bounds, norm))
        })?;
        let hmt = c.hmt.as_ref().map(|hmt| b.scope("hmt", |b| Hmt::new(b, c.hidden, hmt))).transpose()?;
        Ok(Self {
            words,
            positions,
            first_norm,
            blocks,
            layers,
            lower_bounds,
            norm,
            hmt,
            hidden: c.hidden,
            embedding_scale: f64::from(c.embedding_scale),
            logits_scale: f64::from(c.logits_scale),
            logits_cap: c.logits_cap.map(f64::from),
        })
    }

    /// The state before the first token of `batch` sequences.
    pub fn start(&self, batch: usize) -> Cache {
        let hmt = self.hmt.as_ref().map(|hmt| hmt.start(batch, &self.device()));
        Cache { layers: self.start_layers(batch), hmt, loss: None, batch }
    }

    /// The states of the layers before the first token.
    pub(crate) fn start_layers(&self, batch: usize) -> Vec<LayerState> {
        let device = self.device();
        self.layers.iter().map(|i| self.blocks[*i].start(batch, self.hidden, &device)).collect()
    }

    /// As it is, with what depends on the weights alone computed once: for inference. Its weights must not change afterwards.
    #[must_use]
    pub fn prepared(mut self) -> Self {
        self.blocks = self.blocks.into_iter().map(Block::prepared).collect();
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
        let Some(parameters) = &self.lower_bounds else { return vec![None; self.layers.len()] };
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
        (0..self.layers.len()).map(layer).collect()
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
        let mut x = self.embed(ids, cache.batch);
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
        let x = self.words.embed(ids, batch);
        if self.embedding_scale == 1.0 { x } else { x.mul_scalar(self.embedding_scale) }
    }

    /// What is read of embeddings `[B, T, d]`.
    pub(crate) fn through(&self, mut x: Tensor<3>, cache: &mut Cache, mask: Option<Tensor<3>>) -> Tensor<3> {
        if let Some(norm) = &self.first_norm {
            x = norm.forward(x);
        }
        let mut shared = Shared { loss: cache.loss.take(), ..Shared::default() };
        let states = std::mem::take(&mut cache.layers);
        for ((block, state), bound) in self.layers.iter().zip(states).zip(self.bounds()) {
            shared.lower_bound = bound;
            let (y, state) = self.blocks[*block].forward(x, state, mask.as_ref(), &mut shared);
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
        let mut logits = self.words.logits(hidden);
        if self.logits_scale != 1.0 {
            logits = logits.mul_scalar(self.logits_scale);
        }
        match self.logits_cap {
            Some(cap) => logits.div_scalar(cap).tanh().mul_scalar(cap),
            None => logits,
        }
    }

    /// The mean loss in nats of predicting `targets` from `hidden: [B, T, d]`; negative targets do not count.
    pub fn loss(&self, hidden: Tensor<3>, targets: &[i64]) -> Tensor<1> {
        let [b, t, d] = hidden.dims();
        let rows = hidden.reshape([b * t, d]);
        if targets.iter().all(|target| *target >= 0) {
            return self.loss_of(rows, targets);
        }
        let counted = targets.iter().enumerate().filter(|(_, target)| **target >= 0);
        let (at, targets): (Vec<i32>, Vec<i64>) = counted.map(|(i, target)| (i as i32, *target)).unzip();
        let at = Tensor::<1, Int>::from_data(&at[..], &rows.device());
        self.loss_of(rows.select(0, at), &targets)
    }

    /// That of rows `[R, d]`, all of which count.
    fn loss_of(&self, rows: Tensor<2>, targets: &[i64]) -> Tensor<1> {
        if self.logits_cap.is_none() {
            let rows = if self.logits_scale == 1.0 { rows } else { rows.mul_scalar(self.logits_scale) };
            return self.words.loss(rows, targets);
        }
        // A cap is no part of the fused product and loss.
        let logits = activation::log_softmax(self.logits(rows), 1);
        let targets: Vec<i32> = targets.iter().map(|target| *target as i32).collect();
        let at = Tensor::<1, Int>::from_data(&targets[..], &logits.device()).unsqueeze_dim(1);
        logits.gather(1, at).mean().neg()
    }
}
