//! A model and its tokenizer, loaded.

use std::ffi::OsStr;
use std::sync::OnceLock;

use longreach_models::{DType, Location, Model, Progress};

use crate::{EMBEDDED, Error, Session, Tokenizer, embedded, vocabulary};

/// A model and its tokenizer.
pub struct Engine {
    /// What it was asked for as.
    pub name: String,
    /// The model.
    pub model: Model,
    tokenizer: Option<Tokenizer>,
    fingerprint: OnceLock<blake3::Hash>,
}

impl Engine {
    /// Loads a model: a directory, a safetensors file, or a Hub id. Matrices are kept in `dtype`, or as they are stored.
    pub fn load(name: impl AsRef<OsStr>, dtype: Option<DType>, progress: Progress) -> Result<Self, Error> {
        let location = Location::find(&name, progress)?;
        let model = Model::load(&location, dtype)?.prepared();
        let tokenizer = vocabulary::find(&location.directory, false)?;
        let name = name.as_ref().to_string_lossy().into_owned();
        Ok(Self { name, model, tokenizer, fingerprint: OnceLock::new() })
    }

    /// The model built into this program.
    pub fn embedded(dtype: Option<DType>) -> Result<Self, Error> {
        let model = Model::embedded(&EMBEDDED, dtype)?.prepared();
        let tokenizer = Some(vocabulary::parse("the embedded tokenizer", embedded::TOKENIZER)?);
        Ok(Self { name: EMBEDDED.name.to_owned(), model, tokenizer, fingerprint: OnceLock::new() })
    }

    /// Its tokenizer.
    pub fn tokenizer(&self) -> Result<&Tokenizer, Error> {
        self.tokenizer.as_ref().ok_or_else(|| Error::NoTokenizer(self.name.clone()))
    }

    /// A session that has read nothing yet.
    pub fn session(&self) -> Session<'_> {
        Session::new(self)
    }

    /// What tells this model, precision and tokenizer from any other: a hash of their files.
    pub fn fingerprint(&self) -> String {
        let hash = self.fingerprint.get_or_init(|| {
            let mut hasher = blake3::Hasher::new();
            hasher.update(self.model.dtype.name().as_bytes());
            hasher.update(self.model.config.as_bytes());
            for part in self.model.checkpoint.iter().flat_map(|c| c.contents()) {
                hasher.update(part);
            }
            if let Some(tokenizer) = &self.tokenizer {
                hasher.update(tokenizer.hash.as_bytes());
            }
            hasher.finalize()
        });
        hash.to_hex().to_string()
    }
}
