//! A loaded language model with its tokenizer.

use std::ffi::OsStr;
use std::sync::OnceLock;

use longreach_models::{DType, Location, Model, Progress};

use crate::{EMBEDDED, Error, Session, Tokenizer, embedded, vocabulary};

/// A loaded language model with its tokenizer.
pub struct Engine {
    /// The name it was loaded by.
    pub name: String,
    /// The model.
    pub model: Model,
    tokenizer: Option<Tokenizer>,
    fingerprint: OnceLock<blake3::Hash>,
}

impl Engine {
    /// Loads a model from a directory, a weights file or a Hub id. Weight matrices are kept in `dtype`, or in that of the checkpoint if `None`.
    ///
    /// An error if a file is missing or damaged, the model type is not supported, or a download fails.
    pub fn load(name: impl AsRef<OsStr>, dtype: Option<DType>, progress: Progress) -> Result<Self, Error> {
        let location = Location::find(&name, progress)?;
        let model = Model::load(&location, dtype)?.prepared();
        let tokenizer = vocabulary::find(&location.directory, false)?;
        let name = name.as_ref().to_string_lossy().into_owned();
        Ok(Self { name, model, tokenizer, fingerprint: OnceLock::new() })
    }

    /// Loads the model that is built into this crate.
    pub fn embedded(dtype: Option<DType>) -> Result<Self, Error> {
        let model = Model::embedded(&EMBEDDED, dtype)?.prepared();
        let tokenizer = Some(vocabulary::parse("the embedded tokenizer", embedded::TOKENIZER)?);
        Ok(Self { name: EMBEDDED.name.to_owned(), model, tokenizer, fingerprint: OnceLock::new() })
    }

    /// The tokenizer; an error if the model has none.
    pub fn tokenizer(&self) -> Result<&Tokenizer, Error> {
        self.tokenizer.as_ref().ok_or_else(|| Error::NoTokenizer(self.name.clone()))
    }

    /// Starts an empty session.
    pub fn session(&self) -> Session<'_> {
        Session::new(self)
    }

    /// A hash of the weights, configuration, dtype and tokenizer, as hexadecimal. O(bytes of the weights) time on the first call.
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
