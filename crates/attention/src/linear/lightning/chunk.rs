//! Parallel over chunks of tokens: retention's.

pub use crate::linear::retention::chunk;
