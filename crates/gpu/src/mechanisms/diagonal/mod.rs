//! Recurrences with an element-wise decay, a unit for each channel: see [`longreach_attention::diagonal`].

pub mod mamba;
pub mod rg_lru;
pub mod rwkv4;

/// Units of a cube, each with one channel.
const UNITS: usize = 64;
