//! Decayed outer products: the state is a matrix per head, `S ← e^g S + k vᵀ`, read by `o = Sᵀ q`.
//!
//! [`scan`] is the family's kernel; members prepare its inputs and call it.

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
