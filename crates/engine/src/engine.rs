//! A loaded language model with its tokenizer.

use std::ffi::OsStr;
use std::ops::Deref;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use longreach_gguf::Gguf;
use longreach_models::gguf::Observed;
use longreach_models::{DType, Location, Model, Progress};
use longreach_simd::Cx;

use crate::{ChatTemplate, EMBEDDED, Error, Session, Tokenizer, embedded, vocabulary};

/// A loaded language model with its tokenizer, and the threads and instruction set that it runs with. A clone shares the weights.
#[derive(Clone)]
pub struct Engine {
    loaded: Arc<Loaded>,
    cx: Option<Arc<Cx>>,
}

/// What clones of an [`Engine`] share.
pub struct Loaded {
    /// The name it was loaded by.
    pub name: String,
    /// The model.
    pub model: Model,
    tokenizer: Option<Tokenizer>,
    chat: Option<ChatTemplate>,
    fingerprint: OnceLock<blake3::Hash>,
}

impl Deref for Engine {
    type Target = Loaded;

    fn deref(&self) -> &Loaded {
        &self.loaded
    }
}

impl Engine {
    /// Loads a model from a directory, a weights file or a Hub id. Weight matrices are kept in `dtype`, or in that of the checkpoint if `None`.
    ///
    /// An error if a file is missing or damaged, the model type is not supported, or a download fails.
    pub fn load(name: impl AsRef<OsStr>, dtype: Option<DType>, progress: Progress) -> Result<Self, Error> {
        let location = Location::find(&name, progress)?;
        if let Some(file) = location.gguf() {
            return Self::of_gguf(name.as_ref(), &file, dtype);
        }
        let model = Model::load(&location, dtype)?.prepared();
        let tokenizer = vocabulary::find(&location.directory, false)?;
        let chat = ChatTemplate::load(&location.directory)?;
        let name = name.as_ref().to_string_lossy().into_owned();
        Ok(Self::of(name, model, tokenizer, chat))
    }

    /// Loads a model whose matrices add up the squares of what they are multiplied by, in f32.
    ///
    /// An error as for [`Engine::load`], and if the model cannot be written as a GGUF file.
    pub fn observed(name: impl AsRef<OsStr>, progress: Progress) -> Result<(Self, Observed), Error> {
        let location = Location::find(&name, progress)?;
        let (model, observed) = Observed::load(&location)?;
        let tokenizer = Tokenizer::of(&location)?;
        let name = name.as_ref().to_string_lossy().into_owned();
        Ok((Self::of(name, model, tokenizer, None), observed))
    }

    /// Loads a GGUF file with its tokenizer and its chat template.
    fn of_gguf(name: &OsStr, file: &Path, dtype: Option<DType>) -> Result<Self, Error> {
        let gguf = Gguf::open(file).map_err(longreach_models::Error::from)?;
        let mut model = Model::of_gguf(&gguf, dtype)?.prepared();
        let (tokenizer, chat) = match vocabulary::gguf::find(&gguf)? {
            Some(texts) => {
                model.description.eos = texts.ends;
                model.start = model.description.eos.first().copied().or(texts.bos);
                (Some(texts.tokenizer), texts.chat)
            }
            None => (None, None),
        };
        Ok(Self::of(name.to_string_lossy().into_owned(), model, tokenizer, chat))
    }

    /// Loads the model that is built into this crate.
    pub fn embedded(dtype: Option<DType>) -> Result<Self, Error> {
        let model = Model::embedded(&EMBEDDED, dtype)?.prepared();
        let tokenizer = Some(vocabulary::parse("the embedded tokenizer", embedded::TOKENIZER)?);
        Ok(Self::of(EMBEDDED.name.to_owned(), model, tokenizer, None))
    }

    fn of(name: String, model: Model, tokenizer: Option<Tokenizer>, chat: Option<ChatTemplate>) -> Self {
        Self { loaded: Arc::new(Loaded { name, model, tokenizer, chat, fingerprint: OnceLock::new() }), cx: None }
    }

    /// The same model with threads and an instruction set of its own, instead of the process's. Sessions that were started before keep theirs.
    ///
    /// Results do not depend on the number of threads; instruction sets differ in the last bits.
    #[must_use]
    pub fn with_context(self, cx: Arc<Cx>) -> Self {
        Self { cx: Some(cx), ..self }
    }

    /// Calls `f` with the engine's threads and instruction set.
    pub fn run<R>(&self, f: impl FnOnce() -> R) -> R {
        match &self.cx {
            Some(cx) => longreach_burn::with_context(cx, f),
            None => f(),
        }
    }

    /// The tokenizer; an error if the model has none.
    pub fn tokenizer(&self) -> Result<&Tokenizer, Error> {
        self.tokenizer.as_ref().ok_or_else(|| Error::NoTokenizer(self.name.clone()))
    }

    /// The chat template; an error if the model has none.
    pub fn chat_template(&self) -> Result<&ChatTemplate, Error> {
        self.chat.as_ref().ok_or_else(|| Error::NoTemplate(self.name.clone()))
    }

    /// Starts an empty session.
    pub fn session(&self) -> Session {
        Session::new(self.clone())
    }

    /// A hash of the weights, configuration, dtype and tokenizer, as hexadecimal. O(bytes of the weights) time on the first call.
    pub fn fingerprint(&self) -> String {
        let hash = self.fingerprint.get_or_init(|| {
            let mut hasher = blake3::Hasher::new();
            hasher.update(self.model.dtype.name().as_bytes());
            // Blocks in place and dequantised give different numbers.
            let blocks = self.model.checkpoint.as_ref().is_some_and(|c| !c.block_types().is_empty());
            hasher.update(if blocks { &b" in blocks"[..] } else { b"" });
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
