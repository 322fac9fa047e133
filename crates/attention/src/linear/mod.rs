//! Linear attention with decay: the state is a matrix per head, `S ← e^g S + k vᵀ`, read by `o = Sᵀ q`.
//!
//! [`scan`] is the kernel for one gate per head. GLA, HGRN2, RWKV-5 and RWKV-6 use the matrix-state kernel of
//! `fast_weights`.

pub mod cosformer;
mod features;
pub(crate) use features::{OfRows, each, fresh, unwritten};
pub mod gla;
pub mod hgrn2;
pub mod lightning;
pub mod linear_attention;
pub mod mamba2;
pub mod performer;
pub mod retention;
pub mod rwkv5;
pub mod rwkv6;
pub mod scan;
