//! Token mixers: one file per mechanism, and the selection by configuration.
//!
//! A mixer maps `[B, T, d]` and its state to the output and the new state. [`parts`] contains the building blocks
//! that many mixers share.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use longreach_attention::rotary::Rotary;
use longreach_burn as ops;

use crate::dropout::Drops;
use crate::packed::text_by_text;
use crate::padding::{Tokens, without_padding};
use crate::rotary::RotaryCache;
use crate::{Builder, Cut, Error, State};

mod attention;
mod compressive;
mod cosformer;
mod delta_rule;
mod gated_conv;
mod gated_delta;
mod gla;
mod hgrn2;
mod infini;
mod kda;
mod lightning;
mod linear_attention;
mod mamba;
mod mamba2;
mod mla;
pub mod parts;
mod performer;
mod retention;
mod rg_lru;
mod rwkv4;
mod rwkv5;
mod rwkv6;
mod rwkv7;
mod transformer_xl;

pub use attention::{
    Attention, AttentionConfig, AttentionNames, Blocks, Fused, KvSource, OutputGate, QkNorm, Reach, Seen, SharedKv,
};
pub use compressive::{Compressed, Compressive, CompressiveConfig};
pub use cosformer::{CosFormer, CosFormerConfig};
pub use delta_rule::{DeltaRule, DeltaRuleConfig};
pub use gated_conv::{GatedConv, GatedConvConfig};
pub use gated_delta::{GatedDelta, GatedDeltaConfig};
pub use gla::{Gla, GlaConfig};
pub use hgrn2::{Hgrn2, Hgrn2Config};
pub use infini::{Infini, InfiniConfig};
pub use kda::{GateProjection, Kda, KdaConfig};
pub use lightning::{Decays, Lightning, LightningConfig, LightningInputs};
pub use linear_attention::{Features, LinearAttention, LinearAttentionConfig};
pub use mamba::{InnerNorm, Mamba, MambaConfig};
pub use mamba2::{GatedNorm, Mamba2, Mamba2Config};
pub use mla::{Mla, MlaConfig};
pub use performer::{Performer, PerformerConfig};
pub use retention::{Retention, RetentionConfig};
pub use rg_lru::{RgLru, RgLruConfig};
pub use rwkv4::{Rwkv4, Rwkv4Config};
pub use rwkv5::{Rwkv5, Rwkv5Config};
pub use rwkv6::{Rwkv6, Rwkv6Config};
pub use rwkv7::{Rwkv7, Rwkv7Config};
pub use transformer_xl::{TransformerXl, TransformerXlConfig};

/// Values passed between the layers of a model during a forward pass.
#[derive(Clone, Debug, Default)]
pub struct Shared {
    /// The values of the first layer, `[B, T, D]`, which later layers of RWKV-7 interpolate with their own.
    pub first_values: Option<Tensor<3>>,
    /// The lower bound of this layer's gates in HGRN2, `[D]`, which increases from layer to layer.
    pub lower_bound: Option<Tensor<1>>,
    /// The embeddings `[B, T, d]`, for layers that read them.
    pub embedded: Option<Tensor<3>>,
    /// The keys and values that later layers use, too.
    pub kv: Vec<SharedKv>,
    /// The same for each sequence, where there is padding.
    pub(crate) kv_of_sequences: Vec<Vec<SharedKv>>,
    /// What each layer adds of its own for the tokens, `[B, T, L p]`.
    pub per_layer: Option<Tensor<3>>,
    /// The sum of the auxiliary losses of the layers, `[1]`.
    pub loss: Option<Tensor<1>>,
    /// The angles of rotary positions, computed by the first layer that needs them.
    pub angles: RotaryCache,
    /// The tokens that are not padding; `None` if none is.
    pub(crate) padding: Option<Tokens>,
    /// The draws of dropout, where there is any.
    pub(crate) drops: Option<Drops>,
    /// The bounds of texts that are packed in one row, in which no token is padding.
    pub(crate) packed: ops::Packed,
}

/// What maps the tokens of sequences, mixing each with those before it.
///
/// A mixer reads `x: [B, T, d]` and the state before it, and leaves the state after it. A text may be read at once, in
/// chunks, or token by token; the sequences of a batch may have read different numbers of tokens, and none depends on
/// the others. There is no padding: [`Mixer::forward`] removes it. Texts may be packed in one row, with a state for each, if
/// [`Mixer::reads_packed`].
pub(crate) trait Mix {
    /// The initial state of `batch` sequences.
    fn start(&self, batch: usize, device: &Device) -> State;

    /// Reads tokens and returns the output, `[B, T, d]`.
    fn forward(&self, x: Tensor<3>, state: &mut State, shared: &mut Shared) -> Tensor<3>;

    /// Precomputes what depends on the weights alone, for inference.
    fn prepare(&mut self) {}
}

/// Declares the mixers and the names of their mechanisms.
macro_rules! mixers {
    ($($(#[$doc:meta])* $name:ident $config:ident $mechanism:literal;)+) => {
        /// The mixer of a block.
        #[derive(Module, Debug)]
        #[allow(clippy::large_enum_variant, reason = "there is one per layer")]
        pub enum Mixer {
            $($(#[$doc])* $name($name),)+
        }

        /// The configuration of a mixer.
        #[derive(Clone, Debug, PartialEq)]
        #[allow(clippy::large_enum_variant, reason = "there is one per layer")]
        pub enum MixerConfig {
            $($(#[$doc])* $name($config),)+
        }

        impl MixerConfig {
            /// The name of the mechanism in the table of mechanisms.
            pub fn mechanism(&self) -> &'static str {
                match self {
                    // Attention names its own, which depends on its reach.
                    MixerConfig::Attention(c) => c.mechanism(),
                    #[allow(unreachable_patterns, reason = "attention has an arm above")]
                    $(MixerConfig::$name(_) => $mechanism,)+
                }
            }
        }

        impl Mixer {
            /// Builds the mixer under the builder's scope. Errors if a weight is missing or has another shape.
            pub fn new(b: &mut Builder, c: &MixerConfig) -> Result<Self, Error> {
                Ok(match c {
                    $(MixerConfig::$name(c) => Mixer::$name($name::new(b, c)?),)+
                })
            }

            fn mix(&self) -> &dyn Mix {
                match self {
                    $(Mixer::$name(mixer) => mixer,)+
                }
            }

            fn mix_mut(&mut self) -> &mut dyn Mix {
                match self {
                    $(Mixer::$name(mixer) => mixer,)+
                }
            }
        }
    };
}

mixers! {
    /// Softmax attention.
    Attention AttentionConfig "dense";
    /// Softmax attention whose keys and values are maps of one vector per token.
    Mla MlaConfig "dense";
    /// Selective state space.
    Mamba MambaConfig "mamba";
    /// State-space duality.
    Mamba2 Mamba2Config "mamba2";
    /// Linear attention with a feature map.
    LinearAttention LinearAttentionConfig "linear_attention";
    /// Linear attention with positive random features.
    Performer PerformerConfig "performer";
    /// Linear attention whose weights are multiplied by a cosine of the distance.
    CosFormer CosFormerConfig "cosformer";
    /// Retention: a fixed decay per head, with rotary positions.
    Retention RetentionConfig "retention";
    /// Linear attention with a fixed decay per head and layer.
    Lightning LightningConfig "lightning";
    /// Gated linear attention: a gate per channel.
    Gla GlaConfig "gla";
    /// A gate per channel with a lower bound; the key is one minus the gate.
    Hgrn2 Hgrn2Config "hgrn2";
    /// The delta rule.
    DeltaRule DeltaRuleConfig "delta_rule";
    /// The delta rule with a gate per head.
    GatedDelta GatedDeltaConfig "gated_delta";
    /// The delta rule with a gate per channel.
    Kda KdaConfig "kda";
    /// RWKV-4.
    Rwkv4 Rwkv4Config "rwkv4";
    /// RWKV-5, Eagle.
    Rwkv5 Rwkv5Config "rwkv5";
    /// RWKV-6, Finch.
    Rwkv6 Rwkv6Config "rwkv6";
    /// RWKV-7, Goose.
    Rwkv7 Rwkv7Config "rwkv7";
    /// The real-gated linear recurrent unit.
    RgLru RgLruConfig "rg_lru";
    /// A short convolution between two gates.
    GatedConv GatedConvConfig "short_conv";
    /// Local attention within a segment, and a compressive memory of earlier segments.
    Infini InfiniConfig "infini";
    /// Attention with relative positions over a memory of past inputs.
    TransformerXl TransformerXlConfig "transformer_xl";
    /// Attention with relative positions over a memory of past inputs and a compressed memory.
    Compressive CompressiveConfig "compressive";
}

impl Shared {
    /// Drops some of `x`, if anything is dropped.
    pub(crate) fn dropped(&mut self, x: Tensor<3>) -> Tensor<3> {
        match &mut self.drops {
            Some(drops) => drops.drop(x),
            None => x,
        }
    }
}

impl Mixer {
    /// The initial state of `batch` sequences.
    pub fn start(&self, batch: usize, device: &Device) -> State {
        self.mix().start(batch, device)
    }

    /// See [`Decoder::reads_few_as_one`](crate::Decoder::reads_few_as_one).
    pub(crate) fn reads_few_as_one(&self) -> bool {
        match self {
            Mixer::Infini(_) | Mixer::TransformerXl(_) | Mixer::Compressive(_) => false,
            Mixer::Attention(attention) => {
                let c = attention.config();
                !matches!(c.reach, Reach::Sinks(_)) && c.sparse.is_none()
            }
            _ => true,
        }
    }

    /// Whether other layers use its keys and values, or it uses theirs.
    pub(crate) fn shares_keys(&self) -> bool {
        matches!(self, Mixer::Attention(attention) if attention.config().source != KvSource::Own)
    }

    /// Whether it reads texts that are packed in one row at once. Others read them one by one: their memories count tokens
    /// or segments of a text.
    fn reads_packed(&self) -> bool {
        match self {
            Mixer::Infini(_) | Mixer::TransformerXl(_) | Mixer::Compressive(_) => false,
            Mixer::Attention(attention) => matches!(attention.config().reach, Reach::Full | Reach::Window(_)),
            _ => true,
        }
    }

    /// See [`Decoder::cut`](crate::Decoder::cut).
    pub(crate) fn cut(&self) -> Cut {
        let by_length = |rotary: Option<&Rotary>| rotary.is_some_and(|rotary| rotary.scaling.depends_on_length());
        match self {
            Mixer::TransformerXl(_) | Mixer::Compressive(_) => Cut::EACH,
            // Frequencies that depend on the length of the text are those at the end of the call.
            Mixer::Attention(attention) if by_length(attention.config().rotary.as_ref()) => Cut::EACH,
            Mixer::Mla(mla) if by_length(mla.config().rotary.as_ref()) => Cut::EACH,
            Mixer::Mla(_) => Cut::FIRST,
            _ => Cut::ANY,
        }
    }

    /// Precomputes everything that depends on the weights alone. For inference only: the weights must not change
    /// afterwards.
    #[must_use]
    pub fn prepared(mut self) -> Self {
        self.mix_mut().prepare();
        self
    }

    /// Maps `x: [B, T, d]` to the output, and `state`, the state before it, to that after it. Padding has no effect on
    /// the state. Panics if the state belongs to another mixer.
    pub fn forward(&self, x: Tensor<3>, state: &mut State, shared: &mut Shared) -> Tensor<3> {
        let width = match self {
            Mixer::Attention(attention) => attention.config().output.unwrap_or(x.dims()[2]),
            _ => x.dims()[2],
        };
        if shared.packed.bounds().is_some() && !self.reads_packed() {
            return text_by_text(x, state, shared, |x, state, shared| self.forward(x, state, shared));
        }
        without_padding(x, width, state, shared, |x, state, shared| self.mix().forward(x, state, shared))
    }
}
