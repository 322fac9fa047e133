//! The definition: that of retention.

pub use crate::linear::retention::naive;
