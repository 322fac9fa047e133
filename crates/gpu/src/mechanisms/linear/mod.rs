//! Mechanisms with a matrix state without erasure: see [`longreach_attention::linear`].

mod features;

pub mod cosformer;
pub mod gla;
pub mod hgrn2;
pub mod linear_attention;
pub mod mamba2;
pub mod performer;
pub mod retention;
pub mod rwkv5;
pub mod rwkv6;
pub mod scan;
