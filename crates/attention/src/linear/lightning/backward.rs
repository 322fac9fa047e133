//! The gradient: retention's.

pub use crate::linear::retention::backward;
