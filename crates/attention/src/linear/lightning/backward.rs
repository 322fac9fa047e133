//! The gradient: that of retention.

pub use crate::linear::retention::backward;
