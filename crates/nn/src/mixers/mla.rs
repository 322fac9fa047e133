//! Multi-head latent attention. DeepSeek-AI 2024 (DeepSeek-V2), §2.1; as in Kimi Linear and Ling.
//!
//! Keys and values of all heads are linear maps of one vector a token, the latent `c`; a few further channels of the keys,
//! which may be rotated, are shared by the heads:
//!
//! $$ k_h = [W^K_h c \mid k^R], \quad v_h = W^V_h c, \quad q_h \cdot k_h = (W_h^{K\top} q^N_h) \cdot c + q^R_h \cdot k^R $$
//!
//! Only `[c | k^R]` is cached. Without a cache, keys and values are computed; with one, the right side of the equation is:
//! attention with a single KV head, whose keys are the cached vectors and whose values are their first channels.

use burn::module::Module;
use burn::tensor::{Device, Tensor, activation};
use longreach_attention::rotary::Rotary;
use longreach_attention::softmax::Patterned;
use longreach_attention::softmax::dense::Dense;
use longreach_burn as ops;

use super::attention::{joined, sequences};
use super::{Mix, Shared};
use crate::linear::Bias;
use crate::{Builder, Error, KvCache, KvDtype, Linear, RmsNorm, State};

/// The sizes and options of the mixer.
#[derive(Clone, Debug, PartialEq)]
pub struct MlaConfig {
    /// `d`: width of the model.
    pub hidden: usize,
    /// `H`: the number of heads.
    pub heads: usize,
    /// The rank of the projection of queries; `None` for a full matrix.
    pub query_rank: Option<usize>,
    /// Width of the latent `c`.
    pub latent: usize,
    /// Channels of a head's query and key that are its own.
    pub nope: usize,
    /// Channels of a query that meet the shared channels of the keys.
    pub rope: usize,
    /// Width of a value.
    pub value: usize,
    /// The rotation of the shared channels, if there is one.
    pub rotary: Option<Rotary>,
    /// The factor of the scores.
    pub scale: f32,
    /// Whether the projections to the latents and of the output have biases.
    pub bias: bool,
    /// ε of the norms of the latents.
    pub norm_eps: f64,
    /// Whether each head's output is multiplied by the sigmoid of a projection of the input, `g_proj`.
    pub gate: bool,
}

impl MlaConfig {
    /// The bytes cached in `dtype` per token of a sequence.
    pub fn cache_size(&self, dtype: KvDtype) -> usize {
        dtype.row_bytes(self.latent + self.rope)
    }
}

/// The mixer.
#[derive(Module, Debug)]
pub struct Mla {
    query: Query,
    kv_a: Linear,
    kv_norm: RmsNorm,
    kv_b: Linear,
    gate: Option<Linear>,
    out: Linear,
    /// `W^K: [H, nope, latent]` and `W^V` transposed, `[H, latent, value]`, computed once for inference.
    absorbed: Option<[Tensor<3>; 2]>,
    #[module(skip)]
    config: MlaConfig,
}

/// The projection of queries.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one per layer, next to megabytes of weights")]
enum Query {
    Full(Linear),
    Low(LowQuery),
}

#[derive(Module, Debug)]
struct LowQuery {
    a: Linear,
    norm: RmsNorm,
    b: Linear,
}

/// The part of the state with `[c | k^R]` of every token.
const LATENTS: &str = "latents";

impl Mla {
    /// Builds the mixer under the builder's scope. Errors if the sizes are inconsistent, or a weight is missing or has
    /// another shape.
    pub fn new(b: &mut Builder, c: &MlaConfig) -> Result<Self, Error> {
        if c.heads == 0 || c.latent == 0 || c.nope == 0 || c.rope == 0 || c.value == 0 {
            return Err(b.error("latent attention: heads and widths of at least 1"));
        }
        if c.rotary.as_ref().is_some_and(|rotary| rotary.width != c.rope || !c.rope.is_multiple_of(2)) {
            return Err(b.error(format!("latent attention: rotary positions of {} channels", c.rope)));
        }
        let queries = c.heads * (c.nope + c.rope);
        let query = match c.query_rank {
            None => Query::Full(Linear::new(b, "q_proj", c.hidden, queries, Bias::No)?),
            Some(rank) => Query::Low(LowQuery {
                a: Linear::new(b, "q_a_proj", c.hidden, rank, c.bias.into())?,
                norm: RmsNorm::new(b, "q_a_layernorm", rank, c.norm_eps)?,
                b: Linear::new(b, "q_b_proj", rank, queries, Bias::No)?,
            }),
        };
        let gate = c.gate.then(|| Linear::new(b, "g_proj", c.hidden, c.heads, Bias::No)).transpose()?;
        // Its parts multiply queries and outputs, too.
        let kv_b = b.in_floats(|b| Linear::new(b, "kv_b_proj", c.latent, c.heads * (c.nope + c.value), Bias::No))?;
        Ok(Self {
            query,
            kv_a: Linear::new(b, "kv_a_proj_with_mqa", c.hidden, c.latent + c.rope, c.bias.into())?,
            kv_norm: RmsNorm::new(b, "kv_a_layernorm", c.latent, c.norm_eps)?,
            kv_b,
            gate,
            out: Linear::new(b, "o_proj", c.heads * c.value, c.hidden, c.bias.into())?,
            absorbed: None,
            config: c.clone(),
        })
    }

    /// The configuration.
    pub(crate) fn config(&self) -> &MlaConfig {
        &self.config
    }

    fn absorbed(&self) -> [Tensor<3>; 2] {
        self.absorbed.clone().unwrap_or_else(|| {
            let c = &self.config;
            let weight = self.kv_b.weight.full().reshape([c.heads, c.nope + c.value, c.latent]);
            [weight.clone().narrow(1, 0, c.nope), weight.narrow(1, c.nope, c.value).swap_dims(1, 2)]
        })
    }

    /// Queries `[B, T, H, nope]` and `[B, T, H, rope]`, and the vectors `[B, T, 1, latent + rope]` to be cached.
    fn project(&self, x: Tensor<3>, state: &State, shared: &mut Shared) -> [Tensor<4>; 3] {
        let (c, [b, t, _]) = (&self.config, x.dims());
        let mut turn = |x: Tensor<4>| match &c.rotary {
            Some(rotary) => shared.angles.turn(rotary, x, state.positions(), &shared.packed),
            None => x,
        };
        let q = match &self.query {
            Query::Full(q) => q.forward(x.clone()),
            Query::Low(q) => q.b.forward(q.norm.forward(q.a.forward(x.clone()))),
        };
        let q = q.reshape([b, t, c.heads, c.nope + c.rope]);
        let all = self.kv_a.forward(x);
        let latent = self.kv_norm.forward(all.clone().narrow(2, 0, c.latent)).reshape([b, t, 1, c.latent]);
        let k = turn(all.narrow(2, c.latent, c.rope).reshape([b, t, 1, c.rope]));
        let own = q.clone().narrow(3, 0, c.nope);
        [own, turn(q.narrow(3, c.nope, c.rope)), Tensor::cat(vec![latent, k], 3)]
    }

    fn options(&self) -> ops::AttentionOptions {
        let mechanism = std::sync::Arc::new(Patterned::new(Dense { causal: true }));
        let mut options = ops::AttentionOptions::shared(mechanism, self.config.nope + self.config.rope);
        options.scale = self.config.scale;
        options
    }

    /// The heads' outputs `[B, T, H, value]` of sequences that begin with these tokens: keys and values are computed.
    fn expanded(&self, [own, turned, cached]: [Tensor<4>; 3], packed: &ops::Packed) -> Tensor<4> {
        let mut options = self.options();
        options.packed = packed.bounds().map(<[usize]>::to_vec);
        let (c, [b, t, _, _]) = (&self.config, own.dims());
        let latent = cached.clone().narrow(3, 0, c.latent).reshape([b, t, c.latent]);
        let kv = self.kv_b.forward(latent).reshape([b, t, c.heads, c.nope + c.value]);
        let k = cached.narrow(3, c.latent, c.rope).expand([b, t, c.heads, c.rope]);
        ops::attention(ops::Attention {
            q: Tensor::cat(vec![own, turned], 3),
            k: Tensor::cat(vec![kv.clone().narrow(3, 0, c.nope), k], 3),
            v: kv.narrow(3, c.nope, c.value),
            bias: None,
            sinks: None,
            options,
        })
        .0
    }

    /// The heads' outputs `[1, T, H, value]` of sequence `b`, whose cache ends with the vectors of these tokens.
    fn cached(&self, [own, turned]: [Tensor<4>; 2], cache: &KvCache, b: usize) -> Tensor<4> {
        let (c, [_, t, _, _]) = (&self.config, own.dims());
        let [keys, values] = self.absorbed();
        // [H, T, nope] [H, nope, latent]
        let of_heads = |x: Tensor<4>| x.swap_dims(1, 2).reshape([c.heads, t, c.nope]);
        let q = of_heads(own).matmul(keys).reshape([1, c.heads, t, c.latent]).swap_dims(1, 2);
        let mut options = self.options();
        options.offset = cache.rows(b) - t;
        let out = ops::cached_attention(Tensor::cat(vec![q, turned], 3), cache.segments(b), None, options);
        let out = cache.cut(out);
        let out = out.swap_dims(1, 2).reshape([c.heads, t, c.latent]).matmul(values);
        out.reshape([1, c.heads, t, c.value]).swap_dims(1, 2)
    }
}

impl Mix for Mla {
    fn start(&self, batch: usize, device: &Device) -> State {
        let c = &self.config;
        State::new(batch).with(LATENTS, KvCache::latent(batch, [c.latent + c.rope, c.latent], device))
    }

    fn forward(&self, x: Tensor<3>, state: &mut State, shared: &mut Shared) -> Tensor<3> {
        let (c, [batch, t, _]) = (&self.config, x.dims());
        let gate = self.gate.as_ref().map(|gate| activation::sigmoid(gate.forward(x.clone())));
        let [own, turned, new] = self.project(x, state, shared);
        let (mut cache, packed): (KvCache, _) = (state.take(LATENTS), &shared.packed);
        // Where the vectors are rounded, keys and values are those of what is stored.
        let begins = |b: usize| cache.rows(b) == 0 && cache.dtype() == KvDtype::F32;
        let begins: Vec<bool> = (0..state.batch()).map(begins).collect();
        sequences(&new, packed).enumerate().for_each(|(b, new)| cache.push_keys(b, new));
        let out = if begins.iter().all(|begins| *begins) {
            self.expanded([own, turned, new], packed)
        } else {
            let each = sequences(&own, packed).zip(sequences(&turned, packed)).zip(sequences(&new, packed)).enumerate();
            let each = each.map(|(b, ((own, turned), new))| match begins[b] {
                true => self.expanded([own, turned, new], &ops::Packed::ROWS),
                false => self.cached([own, turned], &cache, b),
            });
            joined(each.collect(), usize::from(packed.bounds().is_some()))
        };
        state.put(LATENTS, cache);
        let out = match gate {
            Some(gate) => out * gate.reshape([batch, t, c.heads, 1]),
            None => out,
        };
        self.out.forward(out.reshape([batch, t, c.heads * c.value]))
    }

    fn prepare(&mut self) {
        // Contiguous, so that no product copies them.
        self.absorbed = Some(self.absorbed().map(|x| {
            let device = x.device();
            Tensor::from_data(x.into_data(), &device)
        }));
    }
}
