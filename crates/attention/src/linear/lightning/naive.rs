//! The definition: retention's.

pub use crate::linear::retention::naive;
