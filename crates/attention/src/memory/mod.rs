//! Segments and recall: what was read before is carried along, as it was or made smaller.

pub mod compressive;
pub mod hmt;
pub mod infini;
pub mod transformer_xl;
