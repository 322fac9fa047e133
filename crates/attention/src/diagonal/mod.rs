//! Element-wise state: every channel keeps numbers of its own that decay and are written to.

pub mod mamba;
pub mod rg_lru;
pub mod rwkv4;
