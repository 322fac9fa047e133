//! What attention is configured by.

use longreach_attention::rotary::Rotary;
use longreach_attention::softmax::deepspeed;
use longreach_attention::softmax::infllm_v2::InfLlmV2;
use longreach_attention::softmax::streaming::Streaming;

use crate::rotary::fits;
use crate::{Builder, Error, KvDtype, Layout, NormConfig};

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
    /// To the blocks of keys that a group of heads selects by summaries of the keys. Zhao et al. 2025 (InfLLM-V2).
    Blocks(Blocks),
}

/// Blocks of keys that the queries of a group of heads select.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocks {
    /// The sizes of blocks, summaries and window.
    pub sizes: InfLlmV2,
    /// Whether queries and keys are compared as they are before the rotation. Those that are selected are attended to with
    /// rotary positions in any case.
    pub unrotated: bool,
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
            Reach::Blocks(_) => "infllm_v2",
        }
    }

    /// The bytes of cached keys and values in `dtype` per token of a sequence, and for how many tokens; `None` for all.
    pub fn cache_size(&self, dtype: KvDtype) -> (usize, Option<usize>) {
        if matches!(self.source, KvSource::Layer(_)) {
            return (0, Some(0));
        }
        let tokens = match self.reach {
            Reach::Full | Reach::Blocks(_) => None,
            Reach::Window(width) => Some(width - 1),
            Reach::Sinks(streaming) => Some(streaming.recent - 1 + streaming.sinks),
        };
        let summaries = match self.reach {
            // They stay in f32.
            Reach::Blocks(blocks) => (4 * self.groups * self.head_dim).div_ceil(blocks.sizes.stride.max(1)),
            _ => 0,
        };
        (2 * self.groups * dtype.row_bytes(self.head_dim) + summaries, tokens)
    }

    pub(super) fn check(&self, b: &Builder) -> Result<(), Error> {
        let wrong = |message: String| Err(b.error(message));
        let Self { heads, groups, head_dim, .. } = *self;
        if heads == 0 || groups == 0 || head_dim == 0 || !heads.is_multiple_of(groups) {
            return wrong(format!("attention: {heads} heads of {head_dim} channels cannot share {groups} groups"));
        }
        if let Some(rotary) = &self.rotary {
            fits(rotary, head_dim).map_err(|message| b.error(format!("attention: {message}")))?;
        }
        if self.fused == Fused::Heads && groups != heads {
            return wrong(format!(
                "attention: queries, keys and values stored by head, for {heads} and {groups} heads"
            ));
        }
        let whole = matches!(self.reach, Reach::Full | Reach::Window(_));
        let apart = self.fused == Fused::No && self.adapters.is_none() && whole;
        if (self.source != KvSource::Own || self.values_are_keys) && !apart {
            return wrong(
                "attention: shared keys go with neither joined projections, adapters, sinks nor selected blocks".into(),
            );
        }
        match self.reach {
            Reach::Window(0) => wrong("attention: a window of 0 tokens".into()),
            Reach::Sinks(Streaming { recent: 0, .. }) => wrong("attention: 0 recent tokens beside the sinks".into()),
            Reach::Sinks(_) if self.alibi || self.learned_sinks => {
                wrong("attention: the first tokens as sinks go with neither ALiBi nor learned sinks".into())
            }
            Reach::Blocks(blocks) => blocks.check().map_err(|message| b.error(format!("attention: {message}"))),
            _ => Ok(()),
        }
    }
}

impl Blocks {
    /// Errors on inconsistent sizes, with a message.
    fn check(&self) -> Result<(), String> {
        self.sizes.parameters().map_err(|e| e.to_string())?;
        let InfLlmV2 { init_blocks, top, .. } = self.sizes;
        if top > init_blocks {
            return Ok(());
        }
        Err(format!(
            "{top} selected blocks beside the window: want more than the {init_blocks} first ones, which are among them, for the query's own block"
        ))
    }
}
