//! The chunked form: that of retention.

pub use crate::linear::retention::chunk;
