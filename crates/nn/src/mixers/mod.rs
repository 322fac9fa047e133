//! Token mixers: one file per mechanism, and the selection by configuration.
//!
//! A mixer maps `[B, T, d]` and its state to the output and the new state. [`parts`] contains the building blocks
//! that many mixers share.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use crate::padding::Tokens;
use crate::{Builder, Error, MixerState, Recurrent};

mod attention;
mod compressive;
mod cosformer;
mod delta_rule;
mod gated_delta;
mod gla;
mod hgrn2;
mod infini;
mod kda;
mod lightning;
mod linear_attention;
mod mamba;
mod mamba2;
pub mod parts;
mod performer;
mod retention;
mod rg_lru;
mod rwkv4;
mod rwkv5;
mod rwkv6;
mod rwkv7;
mod transformer_xl;

pub use attention::{Attention, AttentionConfig, AttentionNames, Reach, Seen};
pub use compressive::{Compressed, Compressive, CompressiveConfig};
pub use cosformer::{CosFormer, CosFormerConfig};
pub use delta_rule::{DeltaRule, DeltaRuleConfig};
pub use gated_delta::{GatedDelta, GatedDeltaConfig};
pub use gla::{Gla, GlaConfig};
pub use hgrn2::{Hgrn2, Hgrn2Config};
pub use infini::{Infini, InfiniConfig};
pub use kda::{Kda, KdaConfig};
pub use lightning::{Lightning, LightningConfig};
pub use linear_attention::{Features, LinearAttention, LinearAttentionConfig};
pub use mamba::{Mamba, MambaConfig};
pub use mamba2::{Mamba2, Mamba2Config};
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
    /// The sum of the auxiliary losses of the layers, `[1]`.
    pub loss: Option<Tensor<1>>,
}

/// Declares the mixers with a state of fixed size and the names of their mechanisms.
macro_rules! mixers {
    ($($(#[$doc:meta])* $name:ident $config:ident $mechanism:literal;)+) => {
        /// The mixer of a block.
        #[derive(Module, Debug)]
        #[allow(clippy::large_enum_variant, reason = "there is one per layer")]
        pub enum Mixer {
            /// Softmax attention.
            Attention(Attention),
            /// Selective state space.
            Mamba(Mamba),
            /// State-space duality.
            Mamba2(Mamba2),
            $($(#[$doc])* $name($name),)+
        }

        /// The configuration of a mixer.
        #[derive(Clone, Debug, PartialEq)]
        #[allow(clippy::large_enum_variant, reason = "there is one per layer")]
        pub enum MixerConfig {
            /// Softmax attention.
            Attention(AttentionConfig),
            /// Selective state space.
            Mamba(MambaConfig),
            /// State-space duality.
            Mamba2(Mamba2Config),
            $($(#[$doc])* $name($config),)+
        }

        impl MixerConfig {
            /// The name of the mechanism in the table of mechanisms.
            pub fn mechanism(&self) -> &'static str {
                match self {
                    MixerConfig::Attention(_) => "dense",
                    MixerConfig::Mamba(_) => "mamba",
                    MixerConfig::Mamba2(_) => "mamba2",
                    $(MixerConfig::$name(_) => $mechanism,)+
                }
            }
        }

        impl Mixer {
            /// Builds the mixer under the builder's scope. Errors if a weight is missing or has another shape.
            pub fn new(b: &mut Builder, c: &MixerConfig) -> Result<Self, Error> {
                Ok(match c {
                    MixerConfig::Attention(c) => Mixer::Attention(Attention::new(b, c)?),
                    MixerConfig::Mamba(c) => Mixer::Mamba(Mamba::new(b, c)?),
                    MixerConfig::Mamba2(c) => Mixer::Mamba2(Mamba2::new(b, c)?),
                    $(MixerConfig::$name(c) => Mixer::$name($name::new(b, c)?),)+
                })
            }

            /// The initial state of `batch` sequences.
            pub fn start(&self, batch: usize, device: &Device) -> MixerState {
                match self {
                    Mixer::Attention(m) => m.start(batch, device),
                    Mixer::Mamba(m) => MixerState::Recurrent(m.start(batch, device)),
                    Mixer::Mamba2(m) => MixerState::Recurrent(m.start(batch, device)),
                    $(Mixer::$name(m) => MixerState::Recurrent(m.start(batch, device)),)+
                }
            }

            /// Reads tokens without padding.
            fn read(&self, x: Tensor<3>, state: Recurrent, shared: &mut Shared) -> (Tensor<3>, Recurrent) {
                match self {
                    Mixer::Attention(_) => panic!("{OTHER}"),
                    Mixer::Mamba(m) => m.forward(x, state, None),
                    Mixer::Mamba2(m) => m.forward(x, state, None),
                    $(Mixer::$name(m) => m.forward(x, state, shared),)+
                }
            }
        }
    };
}

mixers! {
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
    /// Local attention within a segment, and a compressive memory of earlier segments.
    Infini InfiniConfig "infini";
    /// Attention with relative positions over a memory of past inputs.
    TransformerXl TransformerXlConfig "transformer_xl";
    /// Attention with relative positions over a memory of past inputs and a compressed memory.
    Compressive CompressiveConfig "compressive";
}

const OTHER: &str = "the cache belongs to another model";

impl Mixer {
    /// Precomputes everything that depends on the weights alone. For inference only: the weights must not change
    /// afterwards.
    pub fn prepared(self) -> Self {
        match self {
            Mixer::Mamba(m) => Mixer::Mamba(m.prepared()),
            Mixer::Mamba2(m) => Mixer::Mamba2(m.prepared()),
            other => other,
        }
    }

    /// Maps `x: [B, T, d]` and the state before it to the output and the state after it.
    ///
    /// `mask: [B, T, 1]` is 0 at padding, which has no effect on the state. Panics if the state belongs to another
    /// mixer.
    pub fn forward(
        &self,
        x: Tensor<3>,
        state: MixerState,
        mask: Option<Tensor<3>>,
        shared: &mut Shared,
    ) -> (Tensor<3>, MixerState) {
        let (y, state) = match (self, state) {
            (Mixer::Attention(m), MixerState::Attention { near, sinks, seen }) => {
                return m.forward(x, near, sinks, seen, mask);
            }
            (Mixer::Mamba(m), MixerState::Recurrent(state)) => m.forward(x, state, mask),
            (Mixer::Mamba2(m), MixerState::Recurrent(state)) => m.forward(x, state, mask),
            (_, MixerState::Recurrent(state)) => match mask.as_ref().and_then(Tokens::of) {
                Some(tokens) => self.around(&tokens, x, state, shared),
                None => self.read(x, state, shared),
            },
            _ => panic!("{OTHER}"),
        };
        (y, MixerState::Recurrent(state))
    }

    /// Reads each sequence separately, without its padding.
    fn around(&self, tokens: &Tokens, x: Tensor<3>, state: Recurrent, shared: &mut Shared) -> (Tensor<3>, Recurrent) {
        let [_, t, d] = x.dims();
        let (mut out, mut states, mut first_values) = (Vec::new(), Vec::new(), Vec::new());
        for i in 0..tokens.sequences() {
            let before = state.of_sequence(i);
            let Some(own) = tokens.gather(&x, i) else {
                out.push(Tensor::zeros([1, t, d], &x.device()));
                states.push(before);
                first_values.push(None);
                continue;
            };
            let first = shared.first_values.as_ref().and_then(|v| tokens.gather(v, i));
            let mut own_shared =
                Shared { first_values: first, lower_bound: shared.lower_bound.clone(), loss: shared.loss.take() };
            let (y, after) = self.read(own, before, &mut own_shared);
            out.push(tokens.scatter(y, i, t));
            states.push(after);
            shared.loss = own_shared.loss.take();
            first_values.push(own_shared.first_values.map(|v| tokens.scatter(v, i, t)));
        }
        if shared.first_values.is_none()
            && let Some(width) = first_values.iter().flatten().map(|v| v.dims()[2]).next()
        {
            let none = || Tensor::zeros([1, t, width], &x.device());
            let rows = first_values.into_iter().map(|v| v.unwrap_or_else(none)).collect();
            shared.first_values = Some(Tensor::cat(rows, 0));
        }
        (Tensor::cat(out, 0), Recurrent::together(states))
    }
}
