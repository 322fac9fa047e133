//! What mixes tokens: a file a mechanism, and the choice among them.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use crate::LayerState;

mod attention;
mod mamba;
mod mamba2;

pub use attention::{Attention, AttentionConfig, AttentionNames, Reach, Seen};
pub use mamba::{Mamba, MambaConfig};
pub use mamba2::{Mamba2, Mamba2Config};

/// The mixer of a block.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "a handful of them, each a layer of a model")]
pub enum Mixer {
    /// Softmax attention.
    Attention(Attention),
    /// Selective state space.
    Mamba(Mamba),
    /// State-space duality.
    Mamba2(Mamba2),
}

impl Mixer {
    /// The state before the first token of `batch` sequences.
    pub fn start(&self, batch: usize, device: &Device) -> LayerState {
        match self {
            Mixer::Attention(m) => m.start(batch, device),
            Mixer::Mamba(m) => m.start(batch, device),
            Mixer::Mamba2(m) => m.start(batch, device),
        }
    }

    /// As it is, with what depends on the weights alone computed once: for inference. Its weights must not change afterwards.
    pub fn prepared(self) -> Self {
        match self {
            Mixer::Attention(m) => Mixer::Attention(m),
            Mixer::Mamba(m) => Mixer::Mamba(m.prepared()),
            Mixer::Mamba2(m) => Mixer::Mamba2(m.prepared()),
        }
    }

    /// `x: [B, T, d]` with the state before it → the output and the state after it.
    ///
    /// `mask: [B, T, 1]` is 0 at padding, which then leaves no trace. Panics on another mixer's state.
    pub fn forward(&self, x: Tensor<3>, state: LayerState, mask: Option<Tensor<3>>) -> (Tensor<3>, LayerState) {
        match (self, state) {
            (Mixer::Attention(m), LayerState::Attention { near, sinks, seen }) => m.forward(x, near, sinks, seen, mask),
            (Mixer::Mamba(m), LayerState::Mamba { conv, scan }) => {
                let (y, conv, scan) = m.forward(x, conv, scan, mask);
                (y, LayerState::Mamba { conv, scan })
            }
            (Mixer::Mamba2(m), LayerState::Mamba2 { conv, scan }) => {
                let (y, conv, scan) = m.forward(x, conv, scan, mask);
                (y, LayerState::Mamba2 { conv, scan })
            }
            _ => panic!("a cache made by another model"),
        }
    }
}
