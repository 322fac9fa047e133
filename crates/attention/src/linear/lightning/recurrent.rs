//! The recurrent form: that of retention.

pub use crate::linear::retention::recurrent;
