//! Exact weights over chosen keys: one block-sparse kernel, and every pattern of the field on it.

pub mod dense;
pub mod mask;
pub mod tile;
