//! A loaded language model with its tokenizer.

use std::ffi::OsStr;
use std::ops::Deref;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use longreach_gguf::Gguf;
use longreach_models::gguf::Observed;
use longreach_models::{DType, LoadOptions, Location, Model, Progress};
use longreach_nn::KvDtype;
use longreach_simd::Cx;

use crate::grammar::Vocabulary;
use crate::{ChatTemplate, EMBEDDED, Error, Session, Tokenizer, embedded, vocabulary};

/// A loaded language model with its tokenizer, and the threads and instruction set that it runs with. A clone shares the weights.
#[derive(Clone)]
pub struct Engine {
    loaded: Arc<Loaded>,
    cx: Option<Arc<Cx>>,
    kv_dtype: KvDtype,
    extrapolates: bool,
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
    words: OnceLock<Arc<Vocabulary>>,
}

impl Deref for Engine {
    type Target = Loaded;

    fn deref(&self) -> &Loaded {
        &self.loaded
    }
}

impl Engine {
    /// Loads a model on the CPU from a directory, a weights file or a Hub id. Weight matrices are kept in `dtype`, or in that of the checkpoint if `None`.
    ///
    /// An error if a file is missing or damaged, the model type is not supported, or a download fails.
    ///
    /// ```
    /// use longreach_engine::{Engine, Sampling};
    /// use longreach_models::Progress;
    ///
    /// let engine = Engine::load("../../models/default", None, Progress::Hidden)?;
    /// let mut session = engine.session();
    /// session.read_text("Ownership is")?;
    /// assert!(!session.write(8, Sampling::greedy())?.is_empty());
    /// # Ok::<(), longreach_engine::Error>(())
    /// ```
    pub fn load(name: impl AsRef<OsStr>, dtype: Option<DType>, progress: Progress) -> Result<Self, Error> {
        Self::load_with(name, &LoadOptions { dtype, ..LoadOptions::default() }, progress)
    }

    /// As [`Engine::load`], with options: another device, or a KV cache of bounded size, which lets a model of full attention read texts of any length.
    ///
    /// Also an error if the model does not allow them.
    pub fn load_with(name: impl AsRef<OsStr>, options: &LoadOptions, progress: Progress) -> Result<Self, Error> {
        let location = Location::find(&name, progress)?;
        if let Some(file) = location.gguf() {
            return Self::of_gguf(name.as_ref(), &file, options);
        }
        let model = Model::load_with(&location, options)?.prepared();
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
    fn of_gguf(name: &OsStr, file: &Path, options: &LoadOptions) -> Result<Self, Error> {
        let gguf = Gguf::open(file).map_err(longreach_models::Error::from)?;
        let mut model = Model::of_gguf_with(&gguf, options)?.prepared();
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

    /// Loads the model that is built into this crate, on the CPU.
    pub fn embedded(dtype: Option<DType>) -> Result<Self, Error> {
        Self::embedded_with(&LoadOptions { dtype, ..LoadOptions::default() })
    }

    /// As [`Engine::embedded`], with options. An error if the model does not allow them.
    pub fn embedded_with(options: &LoadOptions) -> Result<Self, Error> {
        let model = Model::embedded(&EMBEDDED, options)?.prepared();
        let tokenizer = Some(vocabulary::parse("the embedded tokenizer", embedded::TOKENIZER)?);
        Ok(Self::of(EMBEDDED.name.to_owned(), model, tokenizer, None))
    }

    fn of(name: String, model: Model, tokenizer: Option<Tokenizer>, chat: Option<ChatTemplate>) -> Self {
        Self {
            loaded: Arc::new(Loaded {
                name,
                model,
                tokenizer,
                chat,
                fingerprint: OnceLock::new(),
                words: OnceLock::new(),
            }),
            cx: None,
            extrapolates: false,
            kv_dtype: KvDtype::F32,
        }
    }

    /// The same model with threads and an instruction set of its own, instead of the process's. Sessions that were started before keep theirs.
    ///
    /// Results do not depend on the number of threads; instruction sets differ in the last bits.
    #[must_use]
    pub fn with_context(self, cx: Arc<Cx>) -> Self {
        Self { cx: Some(cx), ..self }
    }

    /// The same model, whose sessions store cached keys and values in `dtype`. Sessions that were started before keep theirs.
    #[must_use]
    pub fn with_kv_dtype(self, dtype: KvDtype) -> Self {
        Self { kv_dtype: dtype, ..self }
    }

    /// How its sessions store cached keys and values.
    pub fn kv_dtype(&self) -> KvDtype {
        self.kv_dtype
    }

    /// The same model for texts longer than it was trained for, as far as it has positions for them.
    #[must_use]
    pub fn extrapolating(self) -> Self {
        Self { extrapolates: true, ..self }
    }

    /// The longest text in tokens: the learned positions of the model, or the length that it was trained for. `None` if there is no limit: the state of the
    /// model has a fixed size, its KV cache is bounded, or the configuration does not say.
    pub fn longest(&self) -> Option<usize> {
        let trained = if self.extrapolates { None } else { self.model.description.context };
        self.model.decoder.longest().into_iter().chain(trained).min()
    }

    /// Calls `f` with the engine's threads and instruction set.
    pub fn run<R>(&self, f: impl FnOnce() -> R) -> R {
        match &self.cx {
            Some(cx) => longreach_burn::with_context(cx, f),
            None => f(),
        }
    }

    /// The name of the instruction set that it runs with.
    pub fn isa(&self) -> String {
        self.run(|| longreach_burn::context().isa.name().to_owned())
    }

    /// The tokenizer; an error if the model has none.
    pub fn tokenizer(&self) -> Result<&Tokenizer, Error> {
        self.tokenizer.as_ref().ok_or_else(|| Error::NoTokenizer(self.name.clone()))
    }

    /// The vocabulary as grammars see it, which is made once.
    pub(crate) fn words(&self) -> Result<Arc<Vocabulary>, Error> {
        if let Some(words) = self.words.get() {
            return Ok(words.clone());
        }
        let words = Arc::new(Vocabulary::new(self)?);
        Ok(self.words.get_or_init(|| words).clone())
    }

    /// Makes what all grammars of the model need, which takes a moment for a large vocabulary; [`Engine::grammar`] does so otherwise.
    ///
    /// An error if the model has no tokenizer.
    pub fn prepare_grammars(&self) -> Result<(), Error> {
        self.words().map(drop)
    }

    /// The chat template; an error if the model has none.
    pub fn chat_template(&self) -> Result<&ChatTemplate, Error> {
        self.chat.as_ref().ok_or_else(|| Error::NoTemplate(self.name.clone()))
    }

    /// The logits; an error if one is NaN or +∞, which means damaged weights. −∞ excludes a token.
    pub(crate) fn finite<'a>(&self, logits: &'a [f32]) -> Result<&'a [f32], Error> {
        if logits.iter().any(|x| x.is_nan() || *x == f32::INFINITY) {
            return Err(Error::NotFinite { name: self.name.clone() });
        }
        Ok(logits)
    }

    /// Starts an empty session.
    pub fn session(&self) -> Session {
        Session::new(self.clone())
    }

    /// A hash of the weights, configuration, dtypes and tokenizer, as hexadecimal. O(bytes of the weights) time on the first call.
    pub fn fingerprint(&self) -> String {
        let hash = self.fingerprint.get_or_init(|| {
            let mut hasher = blake3::Hasher::new();
            hasher.update(self.model.dtype.name().as_bytes());
            // Blocks in place and dequantised give different numbers.
            let blocks = self.model.checkpoint.as_ref().is_some_and(|c| !c.block_types().is_empty());
            hasher.update(if blocks { &b" in blocks"[..] } else { b"" });
            hasher.update(self.model.config.as_bytes());
            if let Some(streaming) = self.model.streaming {
                hasher.update(format!("{streaming:?}").as_bytes());
            }
            for part in self.model.checkpoint.iter().flat_map(|c| c.contents()) {
                hasher.update(part);
            }
            if let Some(tokenizer) = &self.tokenizer {
                hasher.update(tokenizer.hash.as_bytes());
            }
            hasher.finalize()
        });
        match self.kv_dtype {
            KvDtype::F32 => hash.to_hex().to_string(),
            other => blake3::keyed_hash(hash.as_bytes(), other.name().as_bytes()).to_hex().to_string(),
        }
    }
}
