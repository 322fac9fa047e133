//! The mechanisms with a state, by family: what each asks of its kernel. The folders are those of
//! `longreach_attention`.

pub mod delta;
pub mod diagonal;
pub mod linear;
