//! Reformer: reversible blocks of LSH attention and local attention, with axial positions. Kitaev et al. 2020, as in
//! Hugging Face.
//!
//! $$ a \leftarrow a + \mathrm{Attn}(\mathrm{LN}(h)), \qquad h \leftarrow h + \mathrm{FF}(\mathrm{LN}(a)), \qquad y = \mathrm{LN}([a \mid h]) $$
//!
//! Texts longer than a chunk are padded to whole chunks, and the padding is masked. Each sequence is read separately.

use std::sync::Arc;

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use longreach_attention::softmax::dense::Dense;
use longreach_attention::softmax::lsh::{self, Lsh};
use longreach_attention::softmax::masked::Masked;
use longreach_attention::softmax::{Attend, Patterned};
use longreach_burn as ops;
use ndarray::{Array2, Array4};

use crate::linear::Bias;
use crate::norm::{Norm, NormConfig};
use crate::{Builder, Embedding, Error, FeedForward, FeedForwardConfig, Init, Layout, Linear, Precision, Reading};

mod rotations;

/// The sizes of the model.
#[derive(Clone, Debug, PartialEq)]
pub struct ReformerConfig {
    /// Size of the vocabulary.
    pub vocabulary: usize,
    /// `d`: the width of each of the two streams; outputs have width `2 d`.
    pub hidden: usize,
    /// The number of heads and the width of each.
    pub heads: [usize; 2],
    /// The attention of the blocks, in order.
    pub blocks: Vec<ReformerAttention>,
    /// The learned position embeddings.
    pub positions: ReformerPositions,
    /// Whether attention is causal.
    pub causal: bool,
    /// The norms.
    pub norm: NormConfig,
    /// The feed-forward layers.
    pub feed_forward: FeedForwardConfig,
    /// The maximum number of tokens, from which the number of buckets is derived if it is not configured.
    pub longest: usize,
    /// The padding token.
    pub pad: u32,
    /// The seed of the random rotations.
    pub seed: u64,
}

/// The attention of a block.
#[derive(Clone, Debug, PartialEq)]
pub enum ReformerAttention {
    /// LSH attention.
    Hashed {
        /// The number of tokens of a chunk, and the numbers of chunks before and after a token's own chunk that it
        /// attends to.
        chunk: [usize; 3],
        /// The number of hash rounds.
        rounds: usize,
        /// The number of buckets or its factors; derived from the length of the text if `None`.
        buckets: Option<Vec<usize>>,
    },
    /// Attention to a token's own chunk and the given numbers of chunks before and after it, cyclically: the first
    /// and the last chunk are neighbours.
    Local([usize; 3]),
}

impl ReformerAttention {
    fn chunk(&self) -> usize {
        match self {
            ReformerAttention::Hashed { chunk, .. } | ReformerAttention::Local(chunk) => chunk[0],
        }
    }
}

/// The learned position embeddings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReformerPositions {
    /// A table with this many rows.
    Table(usize),
    /// Axial positions: the concatenation of an embedding of the row and one of the column of a grid.
    Axial {
        /// The number of rows and columns of the grid.
        shape: [usize; 2],
        /// The widths of the two embeddings, which sum to the width of the model.
        widths: [usize; 2],
    },
}

impl ReformerConfig {
    /// The least common multiple of the chunk lengths, to which texts are padded.
    fn step(&self) -> usize {
        fn divisor(a: usize, b: usize) -> usize {
            if b == 0 { a } else { divisor(b, a % b) }
        }
        let chunks = self.blocks.iter().map(ReformerAttention::chunk);
        chunks.fold(1, |all, chunk| (all / divisor(all, chunk)).saturating_mul(chunk))
    }

    fn least(&self) -> usize {
        self.blocks.iter().map(ReformerAttention::chunk).min().unwrap_or(1)
    }

    /// The padded length of a text of `t` tokens.
    fn filled(&self, t: usize) -> usize {
        let step = self.step();
        if t <= self.least() || t.is_multiple_of(step) { t } else { t.div_ceil(step).saturating_mul(step) }
    }

    /// The maximum number of tokens, which the position embeddings determine.
    pub fn readable(&self) -> usize {
        let rows = match self.positions {
            ReformerPositions::Table(rows) => rows,
            ReformerPositions::Axial { shape, .. } => shape[0].saturating_mul(shape[1]),
        };
        (rows / self.step() * self.step()).max(self.least().min(rows))
    }
}

/// The model.
#[derive(Module, Debug)]
pub struct Reformer {
    embedding: Embedding,
    positions: Option<Embedding>,
    axes: Option<(Param<Tensor<3>>, Param<Tensor<3>>)>,
    blocks: Vec<ReformerBlock>,
    norm: Norm,
    #[module(skip)]
    config: ReformerConfig,
}

/// A block.
#[derive(Module, Debug)]
pub struct ReformerBlock {
    attention_norm: Norm,
    /// The projection of queries, which are also the keys if there is no key projection.
    query: Linear,
    key: Option<Linear>,
    value: Linear,
    out: Linear,
    norm: Norm,
    feed_forward: FeedForward,
    #[module(skip)]
    attention: ReformerAttention,
}

impl Reformer {
    /// Builds the model under the builder's scope. Errors if the configuration is invalid or a weight is missing or
    /// has another shape.
    pub fn new(b: &mut Builder, c: &ReformerConfig) -> Result<Self, Error> {
        let inner = c.heads[0] * c.heads[1];
        b.scope("reformer", |b| {
            let embedding = Embedding::new(b, "embeddings.word_embeddings", c.vocabulary, c.hidden)?;
            let (mut positions, mut axes) = (None, None);
            match c.positions {
                ReformerPositions::Table(rows) => {
                    positions = Some(Embedding::new(b, "embeddings.position_embeddings.embedding", rows, c.hidden)?);
                }
                ReformerPositions::Axial { shape: [rows, columns], widths } => {
                    let mut table = |i: usize, shape: [usize; 3]| {
                        let name = format!("embeddings.position_embeddings.weights.{i}");
                        b.param(&name, shape, Layout::Same, Precision::Full, Init::Normal(1.0))
                    };
                    axes = Some((table(0, [rows, 1, widths[0]])?, table(1, [1, columns, widths[1]])?));
                }
            }
            let block = |b: &mut Builder, attention: &ReformerAttention| {
                let attention_norm = Norm::new(b, "attention.layer_norm", c.hidden, c.norm)?;
                let mut linear =
                    |name: &str| Linear::new(b, &format!("attention.self_attention.{name}"), c.hidden, inner, Bias::No);
                let (query, key) = match attention {
                    ReformerAttention::Hashed { .. } => (linear("query_key")?, None),
                    ReformerAttention::Local(_) => (linear("query")?, Some(linear("key")?)),
                };
                let value = linear("value")?;
                Ok::<_, Error>(ReformerBlock {
                    attention_norm,
                    query,
                    key,
                    value,
                    out: Linear::new(b, "attention.output.dense", inner, c.hidden, Bias::No)?,
                    norm: Norm::new(b, "feed_forward.layer_norm", c.hidden, c.norm)?,
                    feed_forward: b.scope("feed_forward", |b| FeedForward::new(b, c.hidden, &c.feed_forward))?,
                    attention: attention.clone(),
                })
            };
            let blocks = b.scope("encoder.layers", |b| {
                let blocks = c.blocks.iter().enumerate();
                blocks.map(|(i, attention)| b.scope(i, |b| block(b, attention))).collect::<Result<Vec<_>, _>>()
            })?;
            let norm = Norm::new(b, "encoder.layer_norm", 2 * c.hidden, c.norm)?;
            Ok(Self { embedding, positions, axes, blocks, norm, config: c.clone() })
        })
    }

    /// The device of the weights.
    pub fn device(&self) -> Device {
        self.embedding.weight.device()
    }

    /// The embedding table, `[vocabulary, d]`.
    pub fn embeddings(&self) -> Tensor<2> {
        self.embedding.weight.float()
    }

    /// The hidden states, `[B, T, 2 d]`. Panics if an id exceeds the vocabulary or a text is longer than
    /// [`ReformerConfig::readable`].
    pub fn forward(&self, of: &Reading<'_>) -> Tensor<3> {
        if let Some(bounds) = of.packed {
            let texts = bounds.windows(2).filter(|w| w[0] < w[1]);
            let each = texts.map(|w| self.read(&of.ids[w[0]..w[1]], 1, None));
            return Tensor::cat(each.collect(), 1);
        }
        self.read(of.ids, of.batch, of.keep)
    }

    fn read(&self, ids: &[u32], batch: usize, keep: Option<&Array2<bool>>) -> Tensor<3> {
        let c = &self.config;
        let t = ids.len() / batch.max(1);
        let n = c.filled(t);
        let filled: Vec<u32> =
            ids.chunks(t.max(1)).flat_map(|row| row.iter().copied().chain(std::iter::repeat_n(c.pad, n - t))).collect();
        let keep = (keep.is_some() || n > t)
            .then(|| Array2::from_shape_fn((batch, n), |(b, i)| i < t && keep.is_none_or(|keep| keep[[b, i]])));
        let x = self.embedding.forward(&filled, batch) + self.places(n);
        let (mut a, mut h) = (x.clone(), x);
        for block in &self.blocks {
            a = a + block.attend(h.clone(), keep.as_ref(), c);
            h = h + block.feed_forward.forward(block.norm.forward(a.clone()));
        }
        self.norm.forward(Tensor::cat(vec![a, h], 2)).narrow(1, 0, t)
    }

    /// The position embeddings, `[1, n, d]`.
    fn places(&self, n: usize) -> Tensor<3> {
        let all: Vec<u32> = (0..n as u32).collect();
        match (&self.positions, &self.axes) {
            (Some(table), _) => table.forward(&all, 1),
            (None, Some((rows, columns))) => {
                let ([down, _, wide], [_, across, narrow]) = (rows.val().dims(), columns.val().dims());
                let rows = rows.val().expand([down, across, wide]);
                let columns = columns.val().expand([down, across, narrow]);
                Tensor::cat(vec![rows, columns], 2).reshape([1, down * across, wide + narrow]).narrow(1, 0, n)
            }
            (None, None) => Tensor::zeros([1, n, self.config.hidden], &self.device()),
        }
    }
}

impl ReformerBlock {
    fn attend(&self, h: Tensor<3>, keep: Option<&Array2<bool>>, c: &ReformerConfig) -> Tensor<3> {
        let x = self.attention_norm.forward(h);
        let [b, t, _] = x.dims();
        let [heads, width] = c.heads;
        let split = |x: Tensor<3>| x.reshape([b, t, heads, width]);
        let (q, v) = (split(self.query.forward(x.clone())), split(self.value.forward(x.clone())));
        let out = match (&self.attention, &self.key) {
            (ReformerAttention::Local(chunk), Some(key)) => {
                let (mechanism, bias) = local(*chunk, t, c.causal, &q.device());
                let mut options = ops::AttentionOptions::shared(mechanism, width);
                options.keep = keep.cloned();
                let k = split(key.forward(x));
                ops::attention(ops::Attention { q, k, v, bias, sinks: None, options }).0
            }
            (ReformerAttention::Hashed { chunk: [chunk, before, after], rounds, buckets }, _) => {
                let lsh = Lsh { chunk: *chunk, before: *before, after: *after, causal: c.causal };
                let buckets = hashed(&q, (*chunk, *rounds), buckets.as_deref(), keep, c);
                let hash = ops::LshHash::Buckets(buckets);
                ops::lsh_attention(ops::LshAttention { x: q, v, hash, lsh, keep: keep.cloned() })
            }
            (ReformerAttention::Local(_), None) => unreachable!("local attention has a key projection"),
        };
        self.out.forward(out.reshape([b, t, heads * width]))
    }
}

/// The buckets of a text's tokens. Bucket numbers of each round follow those of the previous round; padding has a
/// bucket of its own.
fn hashed(
    x: &Tensor<4>,
    (chunk, rounds): (usize, usize),
    buckets: Option<&[usize]>,
    keep: Option<&Array2<bool>>,
    c: &ReformerConfig,
) -> Array4<usize> {
    let [b, t, heads, width] = x.dims();
    if t <= chunk {
        return Array4::zeros((b, heads, 1, t));
    }
    let factors = buckets.map_or_else(|| found(t, chunk, c.longest), <[usize]>::to_vec);
    let all: usize = factors.iter().product();
    let data: Vec<f32> = x.clone().into_data().iter::<f32>().collect();
    let data = Array4::from_shape_vec((b, t, heads, width), data).expect("the data has this shape");
    let rotations = rotations::rotations(c.seed, [heads, width, rounds], &factors);
    let views: Vec<_> = rotations.iter().map(|r| r.view()).collect();
    let mut hashed = lsh::hash(data.view(), &views).unwrap_or_else(|e| panic!("{e}"));
    if keep.is_some_and(|keep| keep.iter().any(|there| !there)) {
        for ((b, _, round, t), bucket) in hashed.indexed_iter_mut() {
            let there = keep.is_none_or(|keep| keep[[b, t]]);
            *bucket = round * (all + 1) + if there { *bucket - round * all } else { all };
        }
    }
    hashed
}

/// The default number of buckets for `t` tokens: a power of two, split into two factors if it is large.
fn found(t: usize, chunk: usize, longest: usize) -> Vec<usize> {
    let power = (2 * (t / chunk)).ilog2();
    let limit = 2 * ((longest / chunk).isqrt()).max(chunk);
    if 1usize << power > limit {
        return vec![1 << (power / 2), 1 << (power - power / 2)];
    }
    vec![1 << power]
}

/// The pattern of local attention over `t` tokens, and the logarithms of the multiplicities if a chunk is reached
/// from both sides.
fn local(
    [chunk, before, after]: [usize; 3],
    t: usize,
    causal: bool,
    device: &Device,
) -> (Arc<dyn Attend>, Option<Tensor<4>>) {
    if t <= chunk {
        return (Arc::new(Patterned::new(Dense { causal })), None);
    }
    let n = t / chunk;
    // An offset of at least the number of chunks becomes 0.
    let step = |c: usize, by: isize| match by.unsigned_abs() {
        far if far >= n => c,
        _ => (c as isize + by).rem_euclid(n as isize) as usize,
    };
    let steps = || -(before.min(2 * n) as isize)..=(after.min(2 * n) as isize);
    let more = before.saturating_sub(2 * n) + after.saturating_sub(2 * n);
    let counts: Vec<Vec<(usize, usize)>> = (0..n)
        .map(|c| {
            let mut met: Vec<(usize, usize)> = Vec::new();
            for by in steps().map(|by| step(c, by)).chain(std::iter::repeat_n(c, more.min(1 << 16))) {
                match met.iter_mut().find(|(of, _)| *of == by) {
                    Some((_, times)) => *times += 1,
                    None => met.push((by, 1)),
                }
            }
            met
        })
        .collect();
    let (mut start, mut indices) = (vec![0], Vec::new());
    for i in 0..t {
        for (of, _) in &counts[i / chunk] {
            indices.extend((of * chunk..(of + 1) * chunk).filter(|j| !causal || *j <= i));
        }
        start.push(indices.len());
    }
    let masked = Masked::compressed(&start, &indices, t).unwrap_or_else(|e| panic!("{e}"));
    let often = counts.iter().flatten().any(|(_, times)| *times > 1);
    let bias = often.then(|| {
        let of = |i: usize, j: usize| counts[i / chunk].iter().find(|(of, _)| *of == j / chunk).map_or(1, |met| met.1);
        let bias: Vec<f32> = (0..t * t).map(|at| (of(at / t, at % t) as f32).ln()).collect();
        Tensor::<1>::from_data(&bias[..], device).reshape([1, 1, t, t])
    });
    (Arc::new(Patterned::new(masked)), bias)
}
