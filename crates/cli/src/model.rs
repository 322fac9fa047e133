//! The options that say which model, in which precision.

use std::ffi::{OsStr, OsString};

use clap::{Args, ValueEnum};
use longreach_engine::Engine;
use longreach_models::{DType, EncoderModel, Location, Progress};

use crate::failure::Failure;

#[derive(Args)]
pub(crate) struct ModelArgs {
    /// Directory, file of weights or Hub id [default: the model built into this program]
    ///
    /// A Hub model is fetched once and kept in the Hub's cache; HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE and
    /// TRANSFORMERS_OFFLINE are honoured.
    #[arg(long, short, value_name = "MODEL")]
    model: Option<OsString>,
    /// Precision in which matrices are kept [default: as they are stored]
    #[arg(long, value_enum)]
    dtype: Option<DTypeArg>,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum DTypeArg {
    F32,
    Bf16,
    /// Matrices of 8-bit integers; activations are rounded to 8 bits before each product
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
    /// The encoder that is named, if it is one.
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

/// The model of that name, or the embedded one.
pub(crate) fn load(name: Option<&OsStr>, dtype: Option<DTypeArg>) -> Result<Engine, Failure> {
    let dtype = dtype.map(DType::from);
    let engine = match name {
        Some(name) => Engine::load(name, dtype, Progress::Shown)?,
        None => Engine::embedded(dtype)?,
    };
    engine.model.notes().iter().for_each(|note| eprintln!("note: {note}"));
    Ok(engine)
}
