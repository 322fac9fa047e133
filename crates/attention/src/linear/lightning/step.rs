//! One token, for decoding: that of retention.

pub use crate::linear::retention::step;
