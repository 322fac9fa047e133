//! Softmax attention: projections, QK norm, rotary positions, and the KV cache.

use std::sync::Arc;

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, activation};
use longreach_attention::rotary::Rotary;
use longreach_attention::softmax::deepspeed;
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
use crate::{Builder, Error, Init, KvCache, Layout, Linear, Norm, NormConfig, State};

/// How far back a query of a decoder attends, which determines what its KV cache keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// To all keys.
    Full,
    /// To the last `n` keys, including its own.
    Window(usize),
    /// To the first keys as sinks and the most recent ones, with positions counted within the cache. Xiao et al.
    /// 2024, §3.2.
    Sinks(Streaming),
}

/// The sizes and options of attention.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionConfig {
    /// `d`: width of the model.
    pub hidden: usize,
    /// `H`: the number of query heads.
    pub heads: usize,
    /// `G`: the number of key and value heads.
    pub groups: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Whether the projections of queries, keys and values have a bias.
    pub bias: bool,
    /// Whether the output projection has a bias.
    pub out_bias: bool,
    /// Rotary positions, if used.
    pub rotary: Option<Rotary>,
    /// Whether scores get ALiBi biases.
    pub alibi: bool,
    /// The norm of queries and keys, applied before the rotation; `None` for no norm.
    pub qk_norm: Option<QkNorm>,
    /// The factor of the scores; `head_dim^{-1/2}` if `None`.
    pub scale: Option<f32>,
    /// The soft-cap of the scores.
    pub softcap: Option<f32>,
    /// Whether each head has a learned sink logit.
    pub learned_sinks: bool,
    /// The reach of a decoder's queries. An encoder passes its attention pattern with each call.
    pub reach: Reach,
    /// A gate of the heads' outputs before the output projection.
    pub gate: Option<OutputGate>,
    /// Width of the output, if it is not that of the input.
    pub output: Option<usize>,
    /// The rank of maps that are added to the projections of queries, keys and values, and their number in the lists of
    /// such adapters.
    pub adapters: Option<(usize, usize)>,
    /// Names in a checkpoint.
    pub names: AttentionNames,
    /// Where keys and values come from.
    pub source: KvSource,
    /// Whether there is no projection of values, which are the keys before their norm and rotation. Gemma 4.
    pub values_are_keys: bool,
    /// ε of an RMS norm, without weights, of each head's values.
    pub value_norm: Option<f64>,
    /// How the projections of queries, keys and values are stored.
    pub fused: Fused,
    /// The layout of the weights in the file.
    pub layout: Layout,
    /// A block layout of DeepSpeed for the given maximum number of tokens, which masks keys of a decoder of full
    /// reach.
    pub sparse: Option<(deepspeed::Config, usize)>,
}

/// The norm of queries and keys.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum QkNorm {
    /// Over each head, with weights that the heads share. Qwen3, Gemma 3.
    Head(NormConfig),
    /// Over all heads together, before they are divided. OLMo 2.
    Whole(NormConfig),
}

/// The sigmoid of a projection of the input, by which the heads' outputs are multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputGate {
    /// For each channel of each head. Qiu et al. 2025.
    Channel,
    /// One for each head.
    Head,
}

/// Where the keys and values of attention come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KvSource {
    /// From projections of its input.
    #[default]
    Own,
    /// From projections of its input, and later layers of the given number use them, too.
    Shared(usize),
    /// From the earlier layer that shares its own under the given number. Such attention has only queries and no KV cache.
    Layer(usize),
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

/// How the projections of queries, keys and values are stored in a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fused {
    /// One matrix each.
    No,
    /// One matrix under the name of the query projection: all queries, then all keys, then all values.
    Parts,
    /// One matrix under the name of the query projection: for each head its query, key and value. GPT-NeoX.
    Heads,
}

/// The names of the parts in a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are self-explanatory")]
pub struct AttentionNames {
    pub q: &'static str,
    pub k: &'static str,
    pub v: &'static str,
    pub out: &'static str,
    pub q_norm: &'static str,
    pub k_norm: &'static str,
    pub gate: &'static str,
    pub sinks: &'static str,
}

impl AttentionNames {
    /// The names of Llama and most later models.
    pub const LLAMA: Self = Self {
        q: "q_proj",
        k: "k_proj",
        v: "v_proj",
        out: "o_proj",
        q_norm: "q_norm",
        k_norm: "k_norm",
        gate: "gate_proj",
        sinks: "sinks",
    };
}

impl AttentionConfig {
    /// Attention of `heads` heads with as many KV heads, full reach and no other options.
    pub fn new(hidden: usize, heads: usize) -> Self {
        Self {
            hidden,
            heads,
            groups: heads,
            head_dim: hidden / heads.max(1),
            bias: false,
            out_bias: false,
            rotary: None,
            alibi: false,
            qk_norm: None,
            scale: None,
            softcap: None,
            learned_sinks: false,
            reach: Reach::Full,
            gate: None,
            output: None,
            adapters: None,
            names: AttentionNames::LLAMA,
            source: KvSource::Own,
            values_are_keys: false,
            value_norm: None,
            fused: Fused::No,
            layout: Layout::Same,
            sparse: None,
        }
    }

    /// The name of the mechanism in the table of mechanisms.
    pub fn mechanism(&self) -> &'static str {
        match self.reach {
            Reach::Full if self.sparse.is_some() => "deepspeed",
            Reach::Full => "dense",
            Reach::Window(_) => "window",
            Reach::Sinks(_) => "streaming",
        }
    }

    /// The elements of cached keys and values per token of a sequence, and for how many tokens; `None` for all.
    pub fn cache_size(&self) -> (usize, Option<usize>) {
        if matches!(self.source, KvSource::Layer(_)) {
            return (0, Some(0));
        }
        let tokens = match self.reach {
            Reach::Full => None,
            Reach::Window(width) => Some(width - 1),
            Reach::Sinks(streaming) => Some(streaming.recent - 1 + streaming.sinks),
        };
        (2 * self.groups * self.head_dim, tokens)
    }

    fn check(&self, b: &Builder) -> Result<(), Error> {
        let wrong = |message: String| Err(b.error(message));
        let Self { heads, groups, head_dim, .. } = *self;
        if heads == 0 || groups == 0 || head_dim == 0 || !heads.is_multiple_of(groups) {
            return wrong(format!("attention: {heads} heads of {head_dim} channels cannot share {groups} groups"));
        }
        let width = self.rotary.as_ref().map_or(0, |rotary| rotary.width);
        if width > head_dim || !width.is_multiple_of(2) {
            return wrong(format!("attention: rotary positions of {width} channels in heads of {head_dim}"));
        }
        if let Some(rotary) = &self.rotary
            && let Err(error) = rotary.angles(Array2::zeros((1, 1)).view(), 1, &ops::context())
        {
            return wrong(error.to_string());
        }
        if self.fused == Fused::Heads && groups != heads {
            return wrong(format!(
                "attention: queries, keys and values stored by head, for {heads} and {groups} heads"
            ));
        }
        let apart = self.fused == Fused::No && self.adapters.is_none() && !matches!(self.reach, Reach::Sinks(_));
        if (self.source != KvSource::Own || self.values_are_keys) && !apart {
            return wrong("attention: shared keys go with neither joined projections, adapters nor sinks".into());
        }
        match self.reach {
            Reach::Window(0) => wrong("attention: a window of 0 tokens".into()),
            Reach::Sinks(Streaming { recent: 0, .. }) => wrong("attention: 0 recent tokens beside the sinks".into()),
            Reach::Sinks(_) if self.alibi || self.learned_sinks => {
                wrong("attention: the first tokens as sinks go with neither ALiBi nor learned sinks".into())
            }
            _ => Ok(()),
        }
    }
}

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

/// The projections of queries, keys and values.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one per layer, next to megabytes of weights")]
enum Projections {
    Joined(Linear),
    Apart(Apart),
    /// Queries and keys, which are the values, too.
    NoValues([Linear; 2]),
    /// Queries alone.
    Queries(Linear),
}

#[derive(Module, Debug)]
struct Apart {
    q: Linear,
    k: Linear,
    v: Linear,
}

impl Projections {
    fn new(b: &mut Builder, c: &AttentionConfig) -> Result<Self, Error> {
        let [queries, keys] = [c.heads, c.groups].map(|heads| heads * c.head_dim);
        let mut linear =
            |name: &str, outputs: usize| Linear::with_layout(b, name, [outputs, c.hidden], c.bias.into(), c.layout);
        Ok(if c.fused != Fused::No {
            Projections::Joined(linear(c.names.q, queries + 2 * keys)?)
        } else if matches!(c.source, KvSource::Layer(_)) {
            Projections::Queries(linear(c.names.q, queries)?)
        } else if c.values_are_keys {
            Projections::NoValues([linear(c.names.q, queries)?, linear(c.names.k, keys)?])
        } else {
            let (q, k, v) = (linear(c.names.q, queries)?, linear(c.names.k, keys)?, linear(c.names.v, keys)?);
            Projections::Apart(Apart { q, k, v })
        })
    }
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
            Reach::Full => Arc::new(Patterned::new(Dense { causal: true })),
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

    /// `x: [B, T, heads, width]` after the QK norm.
    fn normed(&self, x: Tensor<4>, norm: &Option<Norm>) -> Tensor<4> {
        match (norm, self.rest.config.qk_norm) {
            (Some(norm), Some(QkNorm::Whole(_))) => {
                let [b, t, n, width] = x.dims();
                norm.forward(x.reshape([b, t, n * width])).reshape([b, t, n, width])
            }
            (Some(norm), _) => norm.forward(x),
            (None, _) => x,
        }
    }

    /// Queries `[B, T, H, width]`, after their norm and before the rotation, of attention to another layer's keys.
    fn queries(&self, projection: &Linear, x: Tensor<3>) -> Tensor<4> {
        let c = &self.rest.config;
        let [b, t, _] = x.dims();
        self.normed(projection.forward(x).reshape([b, t, c.heads, c.head_dim]), &self.q_norm)
    }

    /// Queries, keys and values, `[B, T, heads, width]`, after their norms and before the rotation. Panics if the keys are
    /// those of another layer.
    pub(crate) fn project(&self, x: Tensor<3>) -> [Tensor<4>; 3] {
        let c = &self.rest.config;
        let [b, t, _] = x.dims();
        let heads = |x: Tensor<3>, n: usize| x.reshape([b, t, n, c.head_dim]);
        let [q, k, v] = match &self.qkv {
            Projections::Joined(all) if c.fused == Fused::Heads => {
                let all = all.forward(x).reshape([b, t, c.heads, 3 * c.head_dim]);
                [0, 1, 2].map(|i| all.clone().narrow(3, i * c.head_dim, c.head_dim))
            }
            Projections::Joined(all) => {
                let bounds = [0, c.heads, c.heads + c.groups, c.heads + 2 * c.groups];
                // Projects separately if possible, so that each tensor can be freed after its rotation.
                let part = |i: usize, x: Tensor<3>| {
                    let (from, to) = (bounds[i], bounds[i + 1]);
                    Some(heads(all.some(x, from * c.head_dim..to * c.head_dim)?, to - from))
                };
                match (part(0, x.clone()), part(1, x.clone()), part(2, x.clone())) {
                    (Some(q), Some(k), Some(v)) => [q, k, v],
                    _ => {
                        let all = heads(all.forward(x), bounds[3]);
                        [0, 1, 2].map(|i| all.clone().narrow(2, bounds[i], bounds[i + 1] - bounds[i]))
                    }
                }
            }
            Projections::Apart(apart) => {
                let [q, k, v] = [&apart.q, &apart.k, &apart.v].map(|linear| linear.forward(x.clone()));
                let [q, k, v] = match self.adapters.as_deref() {
                    Some([of_q, of_k, of_v]) => {
                        [q + of_q.forward(x.clone()), k + of_k.forward(x.clone()), v + of_v.forward(x)]
                    }
                    _ => [q, k, v],
                };
                [heads(q, c.heads), heads(k, c.groups), heads(v, c.groups)]
            }
            Projections::NoValues([q, k]) => {
                let k = heads(k.forward(x.clone()), c.groups);
                [heads(q.forward(x), c.heads), k.clone(), k]
            }
            Projections::Queries(_) => panic!("the keys are those of another layer"),
        };
        let v = match c.value_norm {
            Some(eps) => ops::rms_norm(v, None, eps as f32),
            None => v,
        };
        [self.normed(q, &self.q_norm), self.normed(k, &self.k_norm), v]
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
    fn attend_all(&self, q: &Tensor<4>, kv: &[Kv]) -> Tensor<4> {
        if let [kv] = kv {
            return self.attend(q.clone(), kv);
        }
        let one = |(i, kv): (usize, &Kv)| self.attend(q.clone().narrow(1, i, 1), kv);
        Tensor::cat(kv.iter().enumerate().map(one).collect(), 1)
    }

    /// Attention of all sequences, to the keys and values of the call if they begin here, and otherwise to the cached ones,
    /// which end with those of this call: `q: [B, T, H, D]`.
    fn attend(&self, q: Tensor<4>, kv: &Kv) -> Tensor<4> {
        let Some([k, v]) = kv.first.clone() else {
            return joined_rows((0..q.dims()[0]).map(|b| self.cached(row(&q, b), &kv.cache, b)).collect());
        };
        let options = self.options(self.rest.mechanism.clone());
        ops::attention(ops::Attention { q, k, v, bias: None, sinks: self.learned_sinks(), options }).0
    }

    /// Attention of sequence `b` to its cached keys and values, which end with its own: `q: [1, T, H, D]`.
    fn cached(&self, q: Tensor<4>, cache: &KvCache, b: usize) -> Tensor<4> {
        let mut options = self.options(self.rest.mechanism.clone());
        options.offset = cache.rows(b) - q.dims()[1];
        ops::cached_attention(q, cache.segments(b), self.learned_sinks(), options)
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
        ops::streaming_attention(ops::StreamingAttention {
            q,
            far,
            near: near.segments(b),
            sinks,
            streaming,
            position: seen,
            scale: options.scale,
            softcap: options.softcap,
        })
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
        let state = State::new(batch).with(KEYS, cache());
        if matches!(c.reach, Reach::Sinks(_)) { state.with(SINKS, cache()) } else { state }
    }

    fn forward(&self, x: Tensor<3>, state: &mut State, shared: &mut Shared) -> Tensor<3> {
        let c = &self.rest.config;
        if let (KvSource::Layer(source), Projections::Queries(q)) = (c.source, &self.qkv) {
            let q = self.queries(q, x.clone());
            let q = match &c.rotary {
                Some(rotary) => shared.angles.turn(rotary, q, state.positions()),
                None => q,
            };
            let kv = shared.kv.iter().find(|kv| kv.source == source).expect("an earlier layer shares its keys");
            return self.joined(self.gated(self.attend_all(&q, &kv.kv), x));
        }
        let [q, k, v] = self.project(x.clone());
        let [batch, t, _, _] = q.dims();
        let before = state.positions();
        let mut turn = |x: Tensor<4>| match &c.rotary {
            Some(rotary) => shared.angles.turn(rotary, x, before),
            None => x,
        };
        let (turned, k) = (turn(q.clone()), turn(k));
        let before = before.to_vec();
        let mut cache: KvCache = state.take(KEYS);
        let past = match c.reach {
            Reach::Full => usize::MAX,
            Reach::Window(width) => width - 1,
            Reach::Sinks(streaming) => streaming.recent - 1,
        };
        let out = match c.reach {
            Reach::Sinks(streaming) => {
                append(&mut cache, past, &k, &v);
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
                joined_rows(out)
            }
            _ => {
                // The keys of a window begin at its own place for each token, and sums over keys begin there: few tokens are
                // those of a text that grows by one at a time only if each has its own.
                let alone = matches!(c.reach, Reach::Window(_)) && (2..=STREAMED_ROWS).contains(&t);
                let shares = matches!(c.source, KvSource::Shared(_));
                let mut all = Vec::new();
                let mut outputs = Vec::new();
                for tokens in if alone { (0..t).map(|i| (i, 1)).collect() } else { vec![(0, t)] } {
                    let some = |x: &Tensor<4>| if alone { x.clone().narrow(1, tokens.0, tokens.1) } else { x.clone() };
                    let (k, v) = (some(&k), some(&v));
                    let first = append(&mut cache, past, &k, &v).then_some([k, v]);
                    let kv = Kv { first, cache };
                    outputs.push(self.attend(some(&turned), &kv));
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
        cache.keep_last(past);
        state.put(KEYS, cache);
        self.joined(self.gated(out, x))
    }
}

/// Keeps the last `past` tokens of each sequence and appends keys and values `[B, T, G, D]`. Returns whether nothing was cached
/// before.
fn append(cache: &mut KvCache, past: usize, k: &Tensor<4>, v: &Tensor<4>) -> bool {
    cache.keep_last(past);
    let first = cache.is_empty();
    (0..k.dims()[0]).for_each(|b| cache.push(b, row(k, b), row(v, b)));
    first
}

/// Sequence `b` alone.
fn row(x: &Tensor<4>, b: usize) -> Tensor<4> {
    if x.dims()[0] == 1 { x.clone() } else { x.clone().narrow(0, b, 1) }
}

/// Joins outputs along the batch axis.
fn joined_rows(mut out: Vec<Tensor<4>>) -> Tensor<4> {
    if out.len() == 1 { out.swap_remove(0) } else { Tensor::cat(out, 0) }
}
