//! Options that choose a model and its dtype.

use std::ffi::{OsStr, OsString};
use std::sync::Arc;

use clap::{Args, ValueEnum};
use longreach_engine::Engine;
use longreach_models::{DType, EncoderModel, LoadOptions, Location, Progress, Streaming};
use longreach_nn::KvDtype;
use longreach_simd::Cx;

use crate::failure::Failure;
use crate::machine;

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
    /// Dtype of the KV cache of attention layers
    ///
    /// In bf16 it takes half the memory, and a token far into a text takes less time; keys and values are rounded to 8 significant bits.
    /// In q8_0 it takes little more than a quarter; they are rounded in blocks of 32, to 1/127 of the largest of each. The states of recurrent layers stay in
    /// f32.
    #[arg(long, value_enum, default_value_t)]
    kv_dtype: KvDtypeArg,
}

#[derive(Clone, Copy, Default, ValueEnum)]
pub(crate) enum KvDtypeArg {
    /// 32-bit floats
    #[default]
    F32,
    /// bfloat16
    Bf16,
    /// Blocks of 32 integers of 8 bits with a factor
    #[value(name = "q8_0")]
    Q8_0,
}

impl From<KvDtypeArg> for KvDtype {
    fn from(arg: KvDtypeArg) -> Self {
        match arg {
            KvDtypeArg::F32 => KvDtype::F32,
            KvDtypeArg::Bf16 => KvDtype::Bf16,
            KvDtypeArg::Q8_0 => KvDtype::Q8_0,
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum DTypeArg {
    /// 32-bit floats
    F32,
    /// bfloat16 weights; where the CPU has AMX, text is read with products in bfloat16
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
        Ok(Some(EncoderModel::load_on(&at, self.dtype.map(DType::from), &machine::device())?))
    }

    pub(crate) fn load(&self) -> Result<Engine, Failure> {
        Ok(load(self.model.as_deref(), self.dtype)?.with_kv_dtype(self.kv_dtype.into()))
    }

    /// As [`ModelArgs::load`], for texts of the lengths that `context` allows.
    pub(crate) fn load_for(&self, context: &ContextArgs) -> Result<Engine, Failure> {
        let engine = load_with(self.model.as_deref(), self.dtype, context.streaming())?;
        Ok(if context.extrapolate { engine.extrapolating() } else { engine })
    }
}

/// Options for texts that are longer than those the model was trained for.
#[derive(Args)]
pub(crate) struct ContextArgs {
    /// Keep the last N tokens, and the first ones (--sinks), in the KV cache of layers with full attention
    ///
    /// A text of any length can then be read, in constant memory; what lies between the first tokens and the window is forgotten. Positions are counted within
    /// the cache, as in StreamingLLM (Xiao et al. 2024): the oldest cached token has position 0 and the newest at most N + S - 1, which must not exceed the
    /// length that the model was trained for. Layers with a window of their own and recurrent layers stay as they are. Models with learned positions or ALiBi
    /// are refused.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    window: Option<u32>,
    /// Number of first tokens that --window keeps
    #[arg(long, value_name = "S", default_value_t = 4, requires = "window")]
    sinks: u32,
    /// Read on beyond the length that the model was trained for, at positions that it has never seen
    #[arg(long, conflicts_with = "window")]
    extrapolate: bool,
}

impl ContextArgs {
    fn streaming(&self) -> Option<Streaming> {
        self.window.map(|recent| Streaming { sinks: self.sinks as usize, recent: recent as usize })
    }
}

/// Loads the named model, or the built-in one, and prints its notes.
pub(crate) fn load(name: Option<&OsStr>, dtype: Option<DTypeArg>) -> Result<Engine, Failure> {
    load_with(name, dtype, None)
}

fn load_with(name: Option<&OsStr>, dtype: Option<DTypeArg>, streaming: Option<Streaming>) -> Result<Engine, Failure> {
    let dtype = dtype.map(DType::from);
    machine::check_dtype(dtype)?;
    let options = LoadOptions { dtype, streaming, device: machine::device() };
    let engine = match name {
        Some(name) => Engine::load_with(name, &options, Progress::Shown)?,
        None if streaming.is_some() => {
            return Err(Failure::new(
                "--window: the built-in model has no layer with full attention: it reads any length in constant memory",
            ));
        }
        None => Engine::embedded_with(&options)?,
    };
    // bfloat16 was asked for: its rounding is wanted where it is fast. Files that merely store it are read with f32.
    let rounding = dtype == Some(DType::Bf16) && std::env::var_os("LONGREACH_ISA").is_none();
    let engine = if rounding {
        let cx = longreach_burn::context();
        engine.with_context(Arc::new(Cx::with_isa(cx.isa.rounding(), cx.team.threads())))
    } else {
        engine
    };
    engine.model.notes().iter().for_each(|note| eprintln!("note: {note}"));
    Ok(engine)
}
