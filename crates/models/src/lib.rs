//! Hugging Face models built from longreach's layers, and their checkpoints.
//!
//! Each model type has a file, which parses its configuration and describes the blocks of the
//! [`Decoder`](longreach_nn::Decoder). [`MODELS`] lists them. [`Model::load`] loads a directory, a safetensors file
//! or a Hub id.

mod checkpoint;
mod config;
mod description;
mod directory;
mod encoder;
mod encoder_model;
mod error;
mod families;
mod generation;
pub mod gguf;
mod hub;
pub mod json;
mod location;
mod model;
mod model_types;
mod recognise;
mod save;
mod sparsify;
mod table;

pub use checkpoint::{Checkpoint, DType, Rewrite, Rewrites, Step, Values};
pub use config::Fields;
pub use description::{Architecture, Description};
pub use encoder::{EncoderArchitecture, EncoderDescription, GlobalByDefault, ScoreScale, Task};
pub use encoder_model::{Encoded, EncoderModel};
pub use error::Error;
pub use generation::GenerationConfig;

pub use hub::Progress;
pub use location::Location;
pub use longreach_attention::softmax::streaming::Streaming;
pub use model::{Evaluation, Files, LoadOptions, Model};
pub use model_types::{ENCODERS, MODELS};
pub use recognise::{recognise, recognise_file};
pub use save::{check_writable, save_module, write_atomically};
pub use sparsify::{SparseTarget, Sparsified, sparsify};
pub use table::{Answer, Column, ColumnKind, NumberCode, Predicted, TABLE, TableModel, TableRow};
