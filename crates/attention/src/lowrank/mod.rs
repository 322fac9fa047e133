//! Low-rank attention: keys are reduced to a few landmarks or projections that every query attends to.

pub mod linformer;
pub mod nystrom;
