//! Encoders in GGUF files: the tokenizer and the pooling are in the file.

use std::path::Path;

use burn::tensor::Device;
use longreach_gguf::Gguf;
use longreach_models::gguf::PoolingType;
use longreach_models::{DType, EncoderModel};

use super::pooling::Pooling;
use super::steps::Step;
use super::{Pipeline, TextEncoder};
use crate::{Error, vocabulary};

impl TextEncoder {
    /// Loads an encoder with the tokenizer and the pooling of its GGUF file.
    pub(super) fn of_gguf(name: &str, file: &Path, dtype: Option<DType>, device: &Device) -> Result<Self, Error> {
        let failed = |e: longreach_gguf::Error| Error::from(longreach_models::Error::from(e));
        let gguf = Gguf::open(file).map_err(failed)?;
        let model = EncoderModel::of_gguf(&gguf, dtype, device)?;
        let pipeline = Pipeline::of_gguf(&gguf)?;
        let Some(texts) = vocabulary::gguf::find(&gguf)? else { return Err(Error::NoTokenizer(name.to_owned())) };
        let (tokenizer, tokenizer_file) = texts.tokenizer.into_hugging_face()?;
        let limit = model.description.longest.unwrap_or(usize::MAX);
        let settings = serde_json::Map::new();
        Self { name: name.to_owned(), model, pipeline, tokenizer, tokenizer_file, settings, limit }.checked()
    }
}

impl Pipeline {
    /// The pipeline of a GGUF file: its pooling, and, as in llama.cpp, vectors of unit length. Without a pooling it is the
    /// default one. An error if the model scores pairs of texts.
    fn of_gguf(gguf: &Gguf) -> Result<Self, Error> {
        let pooling = match longreach_models::gguf::pooling(gguf)? {
            PoolingType::None => return Ok(Self::plain()),
            PoolingType::Mean => Pooling::Mean,
            PoolingType::First => Pooling::Cls,
            PoolingType::Last => Pooling::LastToken,
            PoolingType::Rank => {
                let message = "a reranker, which scores pairs of texts, is not supported in GGUF files".into();
                return Err(Error::Pipeline { file: gguf.metadata().file().into(), message });
            }
        };
        Ok(Self { pooling: vec![pooling], steps: vec![Step::Normalize], described: true, ..Self::plain() })
    }
}
