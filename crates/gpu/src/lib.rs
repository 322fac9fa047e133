//! GPU kernels of the mechanisms, through [CubeCL]: CUDA, Vulkan, Metal and WebGPU from one source.
//!
//! Without features the crate has what a host decides: [plans](tile::Plan) and [lists](softmax::Lists). The kernels come
//! with `kernels`, a runtime for them with `webgpu`. Definitions, shapes and names are those of `longreach_attention`; the
//! law `gpu_agrees` compares the two.
//!
//! Numbers are f32, f16 or bf16 in buffers, f32 everywhere else: accumulators, states, gates, log-sum-exp. On devices
//! without bf16 it is read by shifts. No kernel adds atomically, so that two runs agree to the bit.
//!
//! [CubeCL]: https://github.com/tracel-ai/cubecl

#[cfg(feature = "kernels")]
pub mod activation;
#[cfg(feature = "kernels")]
mod convert;
#[cfg(feature = "kernels")]
pub mod cross_entropy;
mod error;
#[cfg(feature = "kernels")]
pub mod fast_weights;
#[cfg(feature = "kernels")]
mod formula;
#[cfg(feature = "kernels")]
pub mod linear;
#[cfg(feature = "kernels")]
pub mod mechanisms;
#[cfg(feature = "kernels")]
pub mod norm;
#[cfg(feature = "kernels")]
pub mod rotary;
#[cfg(feature = "kernels")]
pub mod rows;
#[cfg(feature = "kernels")]
pub mod short_conv;
pub mod softmax;
pub mod tile;

#[cfg(feature = "kernels")]
mod device;
#[cfg(feature = "kernels")]
pub mod launch;
#[cfg(feature = "kernels")]
mod record;
#[cfg(feature = "kernels")]
mod view;

#[cfg(feature = "kernels")]
pub use cubecl;
#[cfg(feature = "kernels")]
pub use device::{Device, Facts};
pub use error::Error;
#[cfg(feature = "kernels")]
pub use record::Recorder;
#[cfg(feature = "kernels")]
pub use view::{DType, View, Words};
