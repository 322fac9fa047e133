//! Hugging Face models built from longreach's layers, and their checkpoints.
//!
//! A model type is a file: it reads its configuration and says which blocks the [`Decoder`](longreach_nn::Decoder) is
//! made of. [`MODELS`] lists them. [`Model::load`] takes a directory, a safetensors file or a Hub id.

mod architecture;
mod checkpoint;
mod config;
mod delta_net;
mod error;
mod falcon_mamba;
mod fla;
mod gated_deltanet;
mod gla;
mod hgrn2;
mod hub;
mod kda;
mod linear_attn;
mod location;
mod longreach;
mod mamba;
mod mamba2;
mod model;
mod retnet;
mod rwkv;
mod rwkv6;
mod rwkv7;
mod save;
mod transfo_xl;

pub use architecture::{Architecture, Description, MODELS};
pub use checkpoint::{Checkpoint, DType};
pub use config::Fields;
pub use error::Error;
pub use hub::Progress;
pub use location::Location;
pub use model::{Evaluation, Files, Model};
pub use save::{save, write_atomically};
