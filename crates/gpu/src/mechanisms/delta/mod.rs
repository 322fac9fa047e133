//! Mechanisms that erase before they write: see [`longreach_attention::delta`].

pub mod delta_rule;
pub mod dplr;
pub mod gated_delta;
pub mod kda;
pub mod rwkv7;
