//! Options that choose a model and its dtype.

use std::ffi::{OsStr, OsString};

use clap::{Args, ValueEnum};
use longreach_engine::Engine;
use longreach_models::{DType, EncoderModel, Location, Progress};

use crate::failure::Failure;

#[derive(Args)]
pub(crate) struct ModelArgs {
    /// Directory, weights file or Hugging Face Hub id [default: the built-in model]
    ///
    /// A model of the Hub is downloaded once and kept in the Hub's cache. HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE and
    /// TRANSFORMERS_OFFLINE are honoured.
    #[arg(long, short, value_name = "MODEL")]
    model: Option<OsString>,
    /// Dtype of the weight matrices in memory [default: that of the checkpoint]
    #[arg(long, value_enum)]
    dtype: Option<DTypeArg>,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum DTypeArg {
    /// 32-bit floats
    F32,
    /// bfloat16 weights; activations stay in 32-bit floats
    Bf16,
    /// int8 weights, with activations quantised dynamically
    Int8,
}

impl From<DTypeArg> for DType {
    fn from(arg: DTypeArg) -> Self {
        match arg {
            DTypeArg::F32 => DType::F32,
            DTypeArg::Bf16 => DType::Bf16,
            DTypeArg::Int8 => DType::Int8,
        }
    }
}

impl ModelArgs {
    /// Loads the named model if it is an encoder; `None` for a language model or if no model was named.
    pub(crate) fn encoder(&self) -> Result<Option<EncoderModel>, Failure> {
        let Some(name) = &self.model else { return Ok(None) };
        let at = Location::find(name, Progress::Shown)?;
        if !EncoderModel::is_at(&at)? {
            return Ok(None);
        }
        Ok(Some(EncoderModel::load(&at, self.dtype.map(DType::from))?))
    }

    pub(crate) fn load(&self) -> Result<Engine, Failure> {
        load(self.model.as_deref(), self.dtype)
    }
}

/// Loads the named model, or the built-in one, and prints its notes.
pub(crate) fn load(name: Option<&OsStr>, dtype: Option<DTypeArg>) -> Result<Engine, Failure> {
    let dtype = dtype.map(DType::from);
    let engine = match name {
        Some(name) => Engine::load(name, dtype, Progress::Shown)?,
        None => Engine::embedded(dtype)?,
    };
    engine.model.notes().iter().for_each(|note| eprintln!("note: {note}"));
    Ok(engine)
}
