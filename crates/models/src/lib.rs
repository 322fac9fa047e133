//! Hugging Face models built from longreach's layers, and their checkpoints.
//!
//! Each model type has a file, which parses its configuration and describes the blocks of the
//! [`Decoder`](longreach_nn::Decoder). [`MODELS`] lists them. [`Model::load`] loads a directory, a safetensors file
//! or a Hub id.

mod architecture;
mod bert;
mod big_bird;
mod checkpoint;
mod config;
mod delta_net;
mod directory;
mod distilbert;
mod encoder;
mod error;
mod falcon_mamba;
mod fla;
mod gated_deltanet;
mod generation;
mod gla;
mod gpt2;
mod hgrn2;
mod hub;
pub mod json;
mod kda;
mod linear_attn;
mod location;
mod longformer;
mod longreach;
mod mamba;
mod mamba2;
mod mamba_ssm;
mod model;
mod modernbert;
mod nystromformer;
mod recognise;
mod reformer;
mod retnet;
mod roberta;
mod rwkv;
mod rwkv6;
mod rwkv7;
mod save;
mod sparsify;
mod transfo_xl;

pub use architecture::{Architecture, Description, MODELS};
pub use checkpoint::{Checkpoint, DType};
pub use config::Fields;
pub use encoder::{
    ENCODERS, Encoded, EncoderArchitecture, EncoderDescription, EncoderModel, GlobalByDefault, ScoreScale, Task,
};
pub use error::Error;
pub use generation::GenerationConfig;
pub use hub::Progress;
pub use location::Location;
pub use model::{Evaluation, Files, Model};
pub use recognise::{recognise, recognise_file};
pub use save::{check_writable, save, write_atomically};
pub use sparsify::{SparseTarget, Sparsified, sparsify};
