//! longreach's kernels as differentiable Burn operations.
//!
//! [`bridge`] is generic: any [`Operator`](bridge::Operator) becomes an operation on tensors that is differentiable with
//! autodiff, and updates states in place without. The backend of the tensors chooses what computes it. Each other module
//! adds operators and the functions on tensors that call them.
//!
//! Like Burn's own operations, these functions panic on mismatched shapes; `longreach-nn` validates what comes from
//! files.

pub mod bridge;
mod by_name;
mod context;
mod conv;
mod cross_entropy;
mod device;
mod elementwise;
mod embedding;
#[cfg(feature = "gpu")]
mod gpu;
mod linear;
mod lowrank;
mod mamba;
mod mamba2;
mod memory;
mod norm;
mod packed;
mod q8;
mod recurrence;
mod rotary;
mod rows;
mod softmax;

pub use by_name::Mechanism;
pub use context::{after_fork, configure, context, reconfigure, with_context};
pub use conv::{Conv, short_conv};
pub use cross_entropy::linear_cross_entropy;
pub use device::{DeviceError, DeviceName, cpu, devices, is_host};
pub use elementwise::{activate, add, gated, neg_exp, silu_times};
pub use embedding::{embedding, embedding_quantised};
pub use linear::{linear, linear_quantised};
pub use longreach_attention::short_conv::Activation as ConvActivation;
pub use longreach_simd::activation::Activation;
pub use lowrank::{Linformer, Nystrom, NystromOptions, linformer, nystrom};
pub use mamba::{Mamba, mamba};
pub use mamba2::{Mamba2, Mamba2Form, mamba2};
pub use memory::{Infini, InfiniState, TransformerXl, infini, recall, transformer_xl};
pub use norm::{layer_norm, rms_norm, rms_norm_gated};
pub use packed::Packed;
pub use q8::{of_q8, q8_words, to_q8};
pub use recurrence::*;
pub use rotary::rotary;
pub use rows::put_rows;
pub use softmax::{Attention, Options as AttentionOptions, attention, cached_attention};
pub use softmax::{InfLlmV2Selection, infllm_v2_selection, infllm_v2_summaries};
pub use softmax::{LongformerAttention, longformer_attention};
pub use softmax::{LshAttention, LshHash, lsh_attention};
pub use softmax::{NsaAttention, nsa_attention};
pub use softmax::{StreamingAttention, streaming_attention};
