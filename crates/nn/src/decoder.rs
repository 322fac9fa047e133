//! The skeleton of a language model: embedding, blocks of norm and mixer (and norm and feed-forward), norm, head.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use longreach_burn as ops;

use crate::linear::Bias;
use crate::mixers::Mixer;
use crate::{Builder, Cache, Embedding, Error, Linear, RmsNorm, SwiGlu};

/// The sizes and names of the skeleton.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderConfig {
    /// Size of the vocabulary.
    pub vocabulary: usize,
    /// `d`: width of the model.
    pub hidden: usize,
    /// How many blocks.
    pub layers: usize,
    /// ε of the norms.
    pub norm_eps: f64,
    /// Inner width of a feed-forward layer behind each mixer; absent for none.
    pub feed_forward: Option<usize>,
    /// Whether the head is the embedding.
    pub tied: bool,
    /// Names of the parts in a checkpoint.
    pub names: DecoderNames,
}

/// What a checkpoint calls the parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecoderNames {
    /// Before all but the head, with no dot at the end.
    pub body: &'static str,
    /// The embedding.
    pub embedding: &'static str,
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
    norm: RmsNorm,
    mixer: Mixer,
    feed_forward: Option<(RmsNorm, SwiGlu)>,
}

/// The model.
#[derive(Module, Debug)]
pub struct Decoder {
    embedding: Embedding,
    blocks: Vec<Block>,
    norm: RmsNorm,
    head: Option<Linear>,
}

impl Decoder {
    /// The model; `mixer` builds the mixer of block `i` under its scope.
    pub fn new(
        b: &mut Builder,
        c: &DecoderConfig,
        mixer: impl Fn(&mut Builder, usize) -> Result<Mixer, Error>,
    ) -> Result<Self, Error> {
        let n = c.names;
        let (embedding, blocks, norm) = b.scope(n.body, |b| {
            let embedding = Embedding::new(b, n.embedding, c.vocabulary, c.hidden)?;
            let block = |b: &mut Builder, i: usize| {
                let norm = RmsNorm::new(b, n.norm, c.hidden, c.norm_eps)?;
                let mixer = b.scope(n.mixer, |b| mixer(b, i))?;
                let feed_forward = match c.feed_forward {
                    Some(inner) => Some((
                        RmsNorm::new(b, n.second_norm, c.hidden, c.norm_eps)?,
                        b.scope(n.feed_forward, |b| SwiGlu::new(b, c.hidden, inner))?,
                    )),
                    None => None,
                };
                Ok::<_, Error>(Block { norm, mixer, feed_forward })
            };
            let blocks = b.scope("layers", |b| {
                (0..c.layers).map(|i| b.scope(i, |b| block(b, i))).collect::<Result<Vec<_>, _>>()
            })?;
            Ok::<_, Error>((embedding, blocks, RmsNorm::new(b, n.last_norm, c.hidden, c.norm_eps)?))
        })?;
        let head = if c.tied { None } else { Some(Linear::new(b, n.head, c.hidden, c.vocabulary, Bias::No)?) };
        Ok(Self { embedding, blocks, norm, head })
    }

    /// The state before the first token of `batch` sequences.
    pub fn start(&self, batch: usize) -> Cache {
        let device = self.device();
        Cache { layers: self.blocks.iter().map(|b| b.mixer.start(batch, &device)).collect(), batch }
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

    /// Reads `ids`, rows of equal length for each of the cache's sequences, one behind the other → `[B, T, d]`, normed.
    ///
    /// The whole sequence, a chunk, or one token: the cache carries on from one call to the next.
    /// `mask: [B, T, 1]` is 0 at padding. Panics if an id is not below the vocabulary's size.
    pub fn forward(&self, ids: &[u32], cache: &mut Cache, mask: Option<Tensor<3>>) -> Tensor<3> {
        let mut x = self.embedding.forward(ids, cache.batch);
        let states = std::mem::take(&mut cache.layers);
        for (block, state) in self.blocks.iter().zip(states) {
            let (y, state) = block.mixer.forward(block.norm.forward(x.clone()), state, mask.clone());
            cache.layers.push(state);
            x = x + y;
            if let Some((norm, feed_forward)) = &block.feed_forward {
                x = x.clone() + feed_forward.forward(norm.forward(x));
            }
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
