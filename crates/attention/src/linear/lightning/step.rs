//! One token, for decoding: retention's.

pub use crate::linear::retention::step;
