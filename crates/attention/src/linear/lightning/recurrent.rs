//! Token by token: retention's.

pub use crate::linear::retention::recurrent;
