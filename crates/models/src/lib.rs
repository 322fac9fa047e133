//! Hugging Face models built from longreach's layers, and their checkpoints.
//!
//! A model type is a file: it reads its configuration and says which blocks the [`Decoder`](longreach_nn::Decoder) is
//! made of. [`MODELS`] lists them. [`Model::load`] takes a directory, a safetensors file or a Hub id.

mod architecture;
mod checkpoint;
mod config;
mod error;
mod falcon_mamba;
mod hub;
mod location;
mod mamba;
mod mamba2;
mod model;
mod save;

pub use architecture::{Architecture, Description, MODELS, MixerConfig};
pub use checkpoint::{Checkpoint, DType};
pub use config::Fields;
pub use error::Error;
pub use hub::Progress;
pub use location::Location;
pub use model::{Evaluation, Files, Model};
pub use save::{save, write_atomically};
