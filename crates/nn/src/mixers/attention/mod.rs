//! Softmax attention: projections, QK norm, rotary positions, and the KV cache.

use std::sync::Arc;

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, activation};
use longreach_attention::softmax::dense::Dense;
use longreach_attention::softmax::streaming::Streaming;
use longreach_attention::softmax::window::Window;
use longreach_attention::softmax::{self, Attend, Patterned, Sizes};
use longreach_burn as ops;
use longreach_simd::product::STREAMED_ROWS;
use ndarray::Array2;

use super::parts::{LowRank, Pointwise};
use super::{Mix, Shared};
use crate::linear::Bias;
use crate::rotary::RotaryCache;
use crate::{Builder, Error, Init, KvCache, KvDtype, Linear, Norm, State};

mod config;
mod projections;
mod selected;

pub use config::{AttentionConfig, AttentionNames, Blocks, Fused, KvSource, OutputGate, QkNorm, Reach};
use projections::Projections;

/// The mixer.
#[derive(Module, Debug)]
pub struct Attention {
    qkv: Projections,
    out: Linear,
    adapters: Option<Vec<LowRank>>,
    q_norm: Option<Norm>,
    k_norm: Option<Norm>,
    gate: Option<Linear>,
    sinks: Option<Param<Tensor<1>>>,
    #[module(skip)]
    rest: Rest,
}

/// The keys and values of a layer that others use during one call.
#[derive(Clone, Debug)]
pub struct SharedKv {
    source: usize,
    /// Those of all tokens, or of each.
    kv: Vec<Kv>,
}

/// The keys and values that tokens of one call attend to.
#[derive(Clone, Debug)]
struct Kv {
    /// Those of the call, if all sequences begin with it.
    first: Option<[Tensor<4>; 2]>,
    cache: KvCache,
}

/// The configuration, which holds no parameters.
#[derive(Clone, Debug)]
struct Rest {
    config: AttentionConfig,
    mechanism: Arc<dyn Attend>,
}

/// The arguments of a bidirectional attention call.
#[derive(Clone, Debug)]
pub struct Seen<'a> {
    /// The mechanism, which determines the keys that a query attends to.
    pub mechanism: Arc<dyn Attend>,
    /// Which tokens are not padding, `[B, T]`.
    pub keep: Option<&'a Array2<bool>>,
    /// The bounds of packed sequences, in a batch of one row; positions restart at each.
    pub packed: Option<&'a [usize]>,
}

impl Attention {
    /// Builds the mixer under the builder's scope. Errors if the sizes are inconsistent or a weight is missing or has
    /// another shape.
    pub fn new(b: &mut Builder, c: &AttentionConfig) -> Result<Self, Error> {
        c.check(b)?;
        let n = c.names;
        let norm = |b: &mut Builder, name: &str, heads: usize| match c.qk_norm {
            Some(QkNorm::Head(norm)) => Norm::new(b, name, c.head_dim, norm).map(Some),
            Some(QkNorm::Whole(norm)) => Norm::new(b, name, heads * c.head_dim, norm).map(Some),
            None => Ok(None),
        };
        let mechanism: Arc<dyn Attend> = match c.reach {
            Reach::Full if let Some((config, longest)) = &c.sparse => {
                let keys = longest.next_multiple_of(config.block());
                let layout = config.layout(&Sizes { batch: 1, heads: c.heads, queries: 0..keys, keys }, 0);
                Arc::new(Patterned::new(layout.map_err(|e| b.error(e.to_string()))?))
            }
            // Of the selected blocks a call makes a pattern of its own; this is for queries that attend to all keys.
            Reach::Full | Reach::Blocks(_) => Arc::new(Patterned::new(Dense { causal: true })),
            Reach::Window(width) => Arc::new(Patterned::new(Window { left: width - 1, right: 0 })),
            Reach::Sinks(streaming) => Arc::new(Patterned::new(streaming)),
        };
        let out = [c.output.unwrap_or(c.hidden), c.heads * c.head_dim];
        let gate = c.gate.map(|gate| {
            let outputs = if gate == OutputGate::Head { c.heads } else { c.heads * c.head_dim };
            let bias = gate == OutputGate::Channel && c.bias;
            Linear::new(b, n.gate, c.hidden, outputs, bias.into())
        });
        let adapters = c.adapters.map(|(rank, number)| {
            let adapter = |(name, heads): (&str, usize)| {
                let sizes = [c.hidden, rank, heads * c.head_dim];
                let at = format!("linear_{name}_adapter_list.{number}");
                b.scope(at, |b| LowRank::new(b, ["0", "1"], sizes, None, Pointwise::Identity))
            };
            [("q", c.heads), ("k", c.groups), ("v", c.groups)].into_iter().map(adapter).collect::<Result<_, Error>>()
        });
        let adapters = adapters.transpose()?;
        Ok(Self {
            adapters,
            gate: gate.transpose()?,
            qkv: Projections::new(b, c)?,
            out: Linear::with_layout(b, n.out, out, Bias::from(c.out_bias), c.layout)?,
            q_norm: norm(b, n.q_norm, c.heads)?,
            k_norm: if matches!(c.source, KvSource::Layer(_)) { None } else { norm(b, n.k_norm, c.groups)? },
            sinks: if c.learned_sinks { Some(b.vector(n.sinks, c.heads, Init::Constant(0.0))?) } else { None },
            rest: Rest { config: c.clone(), mechanism },
        })
    }

    /// The configuration.
    pub(crate) fn config(&self) -> &AttentionConfig {
        &self.rest.config
    }

    /// The learned sink logits, if there are any.
    pub(crate) fn learned_sinks(&self) -> Option<Tensor<1>> {
        self.sinks.as_ref().map(|sinks| sinks.val())
    }

    pub(crate) fn options(&self, mechanism: Arc<dyn Attend>) -> ops::AttentionOptions {
        let c = &self.rest.config;
        let mut options = ops::AttentionOptions::shared(mechanism, c.head_dim);
        options.scale = c.scale.unwrap_or(options.scale);
        options.softcap = c.softcap;
        options.alibi = c.alibi.then(|| softmax::alibi(c.heads));
        options
    }

    /// The heads' outputs `[B, T, H, width]`, times the gate of the input `x: [B, T, d]` if there is one.
    fn gated(&self, out: Tensor<4>, x: Tensor<3>) -> Tensor<4> {
        let Some(gate) = &self.gate else { return out };
        let [b, t, heads, _] = out.dims();
        let open = activation::sigmoid(gate.forward(x));
        let by = open.dims()[2] / heads;
        out * open.reshape([b, t, heads, by])
    }

    /// The output projection of the heads' outputs `[B, T, H, width]`.
    pub(crate) fn joined(&self, out: Tensor<4>) -> Tensor<3> {
        let [b, t, heads, width] = out.dims();
        self.out.forward(out.reshape([b, t, heads * width]))
    }

    /// Bidirectional attention over `x: [B, T, d]` with the mechanism of `seen`.
    pub fn both_ways(&self, x: Tensor<3>, seen: &Seen<'_>) -> Tensor<3> {
        let [q, k, v] = self.project(x.clone());
        let t = q.dims()[1];
        let (q, k) = match &self.rest.config.rotary {
            Some(rotary) => {
                let bounds = seen.packed.map_or_else(|| vec![0, t], <[usize]>::to_vec);
                let positions: Vec<usize> = bounds.windows(2).flat_map(|w| 0..w[1] - w[0]).collect();
                let longest = bounds.windows(2).map(|w| w[1] - w[0]).max().unwrap_or(0);
                let positions = Array2::from_shape_vec((1, t), positions).expect("the bounds cover the tokens");
                let angles = RotaryCache::default().at(rotary, positions, longest);
                (ops::rotary(q, &angles), ops::rotary(k, &angles))
            }
            None => (q, k),
        };
        let mut options = self.options(seen.mechanism.clone());
        options.keep = seen.keep.cloned();
        options.packed = seen.packed.map(<[usize]>::to_vec);
        let sinks = self.sinks.as_ref().map(|sinks| sinks.val());
        let out = ops::attention(ops::Attention { q, k, v, bias: None, sinks, options }).0;
        self.joined(self.gated(out, x))
    }

    /// Attention of all sequences to keys and values for all tokens, or for each: `q: [B, T, H, D]`.
    fn attend_all(&self, q: &Tensor<4>, kv: &[Kv], packed: &ops::Packed) -> Tensor<4> {
        if let [kv] = kv {
            return self.attend(q.clone(), kv, packed);
        }
        let one = |(i, kv): (usize, &Kv)| self.attend(q.clone().narrow(1, i, 1), kv, packed);
        Tensor::cat(kv.iter().enumerate().map(one).collect(), 1)
    }

    /// Attention of all sequences, to the keys and values of the call if they begin here, and otherwise to the cached ones,
    /// which end with those of this call: `q: [B, T, H, D]`.
    fn attend(&self, q: Tensor<4>, kv: &Kv, packed: &ops::Packed) -> Tensor<4> {
        let Some([k, v]) = kv.first.clone() else {
            let axis = usize::from(packed.bounds().is_some());
            let each = sequences(&q, packed).enumerate();
            return joined(each.map(|(b, q)| self.cached(q, &kv.cache, b)).collect(), axis);
        };
        let mut options = self.options(self.rest.mechanism.clone());
        options.packed = packed.bounds().map(<[usize]>::to_vec);
        ops::attention(ops::Attention { q, k, v, bias: None, sinks: self.learned_sinks(), options }).0
    }

    /// Attention of sequence `b` to its cached keys and values, which end with its own: `q: [1, T, H, D]`.
    fn cached(&self, q: Tensor<4>, cache: &KvCache, b: usize) -> Tensor<4> {
        let mut options = self.options(self.rest.mechanism.clone());
        options.offset = cache.rows(b) - q.dims()[1];
        cache.cut(ops::cached_attention(q, cache.segments(b), self.learned_sinks(), options))
    }

    /// As [`Attention::cached`], with the first tokens as sinks. `q` is turned to positions in the text and `far` to
    /// those in the cache; `seen` is the number of tokens before.
    fn streaming(
        &self,
        [q, far]: [Tensor<4>; 2],
        streaming: Streaming,
        [near, sinks]: [&KvCache; 2],
        (b, seen): (usize, usize),
    ) -> Tensor<4> {
        let options = self.options(self.rest.mechanism.clone());
        let mut first = sinks.segments(b);
        let sinks = match first.len() {
            1 => first.swap_remove(0),
            _ => [0, 1].map(|part| Tensor::cat(first.iter().map(|segment| segment[part].clone()).collect(), 1)),
        };
        near.cut(ops::streaming_attention(ops::StreamingAttention {
            q,
            far,
            near: near.segments(b),
            sinks,
            streaming,
            position: seen,
            scale: options.scale,
            softcap: options.softcap,
        }))
    }
}

/// The parts of the state.
const KEYS: &str = "keys";
const SINKS: &str = "sinks";

impl Mix for Attention {
    fn start(&self, batch: usize, device: &Device) -> State {
        let c = &self.rest.config;
        if matches!(c.source, KvSource::Layer(_)) {
            return State::new(batch);
        }
        let cache = || KvCache::new(batch, (c.groups, c.head_dim, c.head_dim), device);
        let mut keys = cache();
        keep(&mut keys, c.reach);
        let state = State::new(batch).with(KEYS, keys);
        match c.reach {
            Reach::Full | Reach::Window(_) => state,
            Reach::Sinks(_) => state.with(SINKS, cache().of_some()),
            Reach::Blocks(_) => self.start_summaries(state, device),
        }
    }

    fn forward(&self, x: Tensor<3>, state: &mut State, shared: &mut Shared) -> Tensor<3> {
        let c = &self.rest.config;
        if let (KvSource::Layer(source), Projections::Queries(q)) = (c.source, &self.qkv) {
            let q = self.queries(q, x.clone());
            let q = match &c.rotary {
                Some(rotary) => shared.angles.turn(rotary, q, state.positions(), &shared.packed),
                None => q,
            };
            let kv = shared.kv.iter().find(|kv| kv.source == source).expect("an earlier layer shares its keys");
            return self.joined(self.gated(self.attend_all(&q, &kv.kv, &shared.packed), x));
        }
        let [q, k, v] = self.project(x.clone());
        let [batch, t, _, _] = q.dims();
        let before = state.positions();
        let mut turn = |x: Tensor<4>| match (&c.rotary, c.reach) {
            (Some(rotary), Reach::Sinks(s)) => shared.angles.turn_within(rotary, x, before, s.sinks + s.recent),
            (Some(rotary), _) => shared.angles.turn(rotary, x, before, &shared.packed),
            (None, _) => x,
        };
        let own = k.clone();
        let (turned, k) = (turn(q.clone()), turn(k));
        let before = before.to_vec();
        let mut cache: KvCache = state.take(KEYS);
        let out = match c.reach {
            Reach::Sinks(streaming) => {
                append(&mut cache, c.reach, [&k, &v], &shared.packed);
                let mut sinks: KvCache = state.take(SINKS);
                let out = (0..batch).map(|b| {
                    let (seen, q) = (before[b], row(&q, b));
                    let wanting = streaming.sinks.saturating_sub(sinks.rows(b)).min(t);
                    if wanting > 0 {
                        let more = |x: &Tensor<4>| row(x, b).narrow(1, 0, wanting);
                        sinks.push(b, more(&k), more(&v));
                    }
                    let far = match &c.rotary {
                        Some(rotary) => {
                            let places = Array2::from_shape_fn((1, t), |(_, i)| streaming.place(seen + i));
                            ops::rotary(q, &shared.angles.at(rotary, places, streaming.sinks + streaming.recent))
                        }
                        None => q,
                    };
                    self.streaming([row(&turned, b), far], streaming, [&cache, &sinks], (b, seen))
                });
                let out = out.collect::<Vec<_>>();
                state.put(SINKS, sinks);
                joined(out, 0)
            }
            Reach::Blocks(blocks) => {
                let scored = if blocks.unrotated { [q, own] } else { [turned.clone(), k.clone()] };
                // As with windows below: sums over keys begin with the first that a query of the call selects.
                let alone = (2..=STREAMED_ROWS).contains(&t);
                let mut outputs = Vec::new();
                for tokens in if alone { (0..t).map(|i| (i, 1)).collect() } else { vec![(0, t)] } {
                    let some = |x: &Tensor<4>| x.clone().narrow(1, tokens.0, tokens.1);
                    let (k, v) = (some(&k), some(&v));
                    let first = append(&mut cache, c.reach, [&k, &v], &shared.packed).then_some([k, v]);
                    let kv = Kv { first, cache };
                    let seen: Vec<usize> = before.iter().map(|n| n + tokens.0).collect();
                    outputs.push(self.among_blocks(some(&turned), scored.each_ref().map(some), &kv, (state, &seen)));
                    cache = kv.cache;
                }
                if outputs.len() == 1 { outputs.swap_remove(0) } else { Tensor::cat(outputs, 1) }
            }
            Reach::Full | Reach::Window(_) => {
                // The keys of a window begin at its own place for each token, and sums over keys begin there: few tokens are
                // those of a text that grows by one at a time only if each has its own.
                let few = (2..=STREAMED_ROWS).contains(&t) && shared.packed.bounds().is_none();
                let alone = matches!(c.reach, Reach::Window(_)) && few;
                let shares = matches!(c.source, KvSource::Shared(_));
                let mut all = Vec::new();
                let mut outputs = Vec::new();
                for tokens in if alone { (0..t).map(|i| (i, 1)).collect() } else { vec![(0, t)] } {
                    let some = |x: &Tensor<4>| if alone { x.clone().narrow(1, tokens.0, tokens.1) } else { x.clone() };
                    let (k, v) = (some(&k), some(&v));
                    let first = append(&mut cache, c.reach, [&k, &v], &shared.packed).then_some([k, v]);
                    let kv = Kv { first, cache };
                    outputs.push(self.attend(some(&turned), &kv, &shared.packed));
                    if shares {
                        all.push(kv.clone());
                    }
                    cache = kv.cache;
                }
                if let KvSource::Shared(source) = c.source {
                    shared.kv.retain(|kv| kv.source != source);
                    shared.kv.push(SharedKv { source, kv: all });
                }
                if outputs.len() == 1 { outputs.swap_remove(0) } else { Tensor::cat(outputs, 1) }
            }
        };
        keep(&mut cache, c.reach);
        state.put(KEYS, cache);
        self.joined(self.gated(out, x))
    }
}

/// Keeps the tokens that the next one attends to.
fn keep(cache: &mut KvCache, reach: Reach) {
    match reach {
        Reach::Full | Reach::Blocks(_) => cache.keep_last(usize::MAX),
        Reach::Window(width) => cache.keep_window(width - 1),
        Reach::Sinks(streaming) => cache.keep_last(streaming.recent - 1),
    }
}

/// Keeps the tokens that the next one attends to and appends keys and values `[B, T, G, D]`, or `[1, T, G, D]` of packed texts.
/// Returns whether attention is to
/// these alone as they are given: nothing was cached before, and they are stored without rounding.
fn append(cache: &mut KvCache, reach: Reach, [k, v]: [&Tensor<4>; 2], packed: &ops::Packed) -> bool {
    keep(cache, reach);
    let first = cache.is_empty() && cache.dtype() == KvDtype::F32;
    let each = sequences(k, packed).zip(sequences(v, packed)).enumerate();
    each.for_each(|(b, (k, v))| cache.push(b, k, v));
    first
}

/// Sequence `b` alone.
fn row(x: &Tensor<4>, b: usize) -> Tensor<4> {
    if x.dims()[0] == 1 { x.clone() } else { x.clone().narrow(0, b, 1) }
}

/// Each sequence alone: the rows of `x: [B, T, H, D]`, or the texts that are packed in its one row.
pub(super) fn sequences<'a>(x: &'a Tensor<4>, packed: &'a ops::Packed) -> impl Iterator<Item = Tensor<4>> + 'a {
    let bounds = packed.bounds();
    let count = bounds.map_or(x.dims()[0], |bounds| bounds.len() - 1);
    (0..count).map(move |i| match bounds {
        Some(bounds) => x.clone().narrow(1, bounds[i], bounds[i + 1] - bounds[i]),
        None => row(x, i),
    })
}

/// Joins outputs along the batch axis, 0, or along that of the tokens.
pub(super) fn joined(mut out: Vec<Tensor<4>>, axis: usize) -> Tensor<4> {
    if out.len() == 1 { out.swap_remove(0) } else { Tensor::cat(out, axis) }
}
