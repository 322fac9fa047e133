//! The law `gpu_agrees`: kernels on a device against the definitions in f64, forward, backward and one token, in f32, f16
//! and bf16. The device is the first that a runtime of this build finds; software Vulkan (Mesa's lavapipe) will do.

mod harness;
mod lists;
mod recurrences;
mod small;
mod softmax;
