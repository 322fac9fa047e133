//! Segment-level recurrence: earlier tokens are cached, compressed, or summarised in a memory.

pub mod compressive;
pub mod hmt;
pub mod infini;
pub mod transformer_xl;
