//! Text embeddings: an encoder with its tokenizer and the pipeline (pooling, dense layers, normalisation) after it.
//!
//! Batches are packed: all texts of a batch form one row without padding.

use std::ffi::OsStr;

use burn::tensor::{Device, Tensor};
use longreach_models::{DType, EncoderModel, Location, Progress};
use longreach_nn::Reading;
use ndarray::Array2;
use tokenizers::{Encoding, Tokenizer, TruncationDirection};

use crate::tokenizer::{token, within};
use crate::{Error, vocabulary};

mod gguf;
mod identity;
mod late;
mod pipeline;
mod pooling;
mod similarity;
mod steps;
mod tasks;

pub use pipeline::Pipeline;
pub use pooling::Pooling;
pub use similarity::Similarity;
pub use tasks::{Answer, Entity, Filled, Scored};

/// The prompt that is prepended to a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Prompt<'a> {
    /// The model's default prompt, if it has one.
    #[default]
    Default,
    /// The model's prompt of this name.
    Named(&'a str),
    /// This string.
    Text(&'a str),
    /// The model's prompt for queries, if it has one.
    Query,
    /// The model's prompt for documents, if it has one.
    Document,
}

/// How to treat a text longer than the input limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Long {
    /// Truncate it, as sentence-transformers does.
    Truncate,
    /// Split it into windows that overlap by `overlap` tokens.
    Split {
        /// Overlap in tokens, capped at half a window.
        overlap: usize,
    },
}

/// A tokenized text, or a window of a longer one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Token ids, including special tokens and those of the prompt.
    pub ids: Vec<u32>,
    /// Token types, one per token.
    pub types: Vec<u32>,
    /// Byte range of the window in the text.
    pub bytes: std::ops::Range<usize>,
    /// Number of leading tokens to exclude from pooling (the prompt).
    pub skip: usize,
    /// Byte range of each token in the text; `None` for special tokens and the prompt.
    pub places: Vec<Option<(usize, usize)>>,
}

impl Part {
    /// Replaces an empty token list by a single padding token: an empty text has no tokens if the tokenizer adds none.
    fn not_empty(mut self, pad: u32) -> Self {
        if self.ids.is_empty() {
            self.ids.push(pad);
            self.types.push(0);
            self.places.push(None);
        }
        self
    }
}

/// An encoder with its tokenizer and its embedding pipeline.
pub struct TextEncoder {
    /// The name it was loaded by.
    pub name: String,
    /// The encoder and its head.
    pub model: EncoderModel,
    /// How hidden states become a vector.
    pub pipeline: Pipeline,
    tokenizer: Tokenizer,
    tokenizer_file: String,
    settings: serde_json::Map<String, serde_json::Value>,
    limit: usize,
}

impl TextEncoder {
    /// Whether a location holds an encoder in the layout of transformers or of sentence-transformers, or in a GGUF file.
    pub fn is_at(at: &Location) -> Result<bool, Error> {
        let described = at.gguf().is_none() && at.directory.join("modules.json").exists();
        Ok(described || EncoderModel::is_at(at)?)
    }

    /// Loads an encoder on the CPU, of transformers, sentence-transformers or PyLate from a directory, a weights file or a Hub id, or one in a GGUF file. Weight matrices
    /// are kept in `dtype`, or in that of the checkpoint if `None`.
    ///
    /// An error if a file is missing or damaged, the model, a module or the tokenizer is not supported, or a download fails.
    pub fn load(name: impl AsRef<OsStr>, dtype: Option<DType>, progress: Progress) -> Result<Self, Error> {
        Self::load_on(name, dtype, &longreach_burn::cpu(), progress)
    }

    /// As [`TextEncoder::load`], on `device`.
    pub fn load_on(
        name: impl AsRef<OsStr>,
        dtype: Option<DType>,
        device: &Device,
        progress: Progress,
    ) -> Result<Self, Error> {
        let location = Location::find(&name, progress)?;
        let name = &*name.as_ref().to_string_lossy();
        if let Some(file) = location.gguf() {
            return Self::of_gguf(name, &file, dtype, device);
        }
        let (pipeline, directory) = Pipeline::load(&location.directory, device)?;
        let at = Location { directory, weights: location.weights };
        let model = EncoderModel::load_on(&at, dtype, device)?;
        let found = vocabulary::find(&at.directory, pipeline.lower)?;
        let Some(found) = found else { return Err(Error::NoTokenizer(name.to_owned())) };
        let (tokenizer, tokenizer_file) = found.into_hugging_face()?;
        let settings = vocabulary::settings(&at.directory)?;
        let said = settings.get("model_max_length").and_then(serde_json::Value::as_f64);
        let said = said.filter(|n| (1.0..1e9).contains(n)).map(|n| n as usize);
        let most = model.description.longest.unwrap_or(usize::MAX);
        let limit = pipeline.limit.or(said).unwrap_or(most).min(most);
        Self { name: name.to_owned(), model, pipeline, tokenizer, tokenizer_file, settings, limit }.checked()
    }

    /// Errors if the steps do not fit the encoder, or special tokens fill its input.
    fn checked(self) -> Result<Self, Error> {
        self.pipeline.check(self.model.description.body.width())?;
        if self.special_tokens() + 1 > self.limit {
            let message = format!("the input limit of {} tokens leaves no room besides the special tokens", self.limit);
            return Err(Error::Tokenizer { file: self.name, message });
        }
        Ok(self)
    }

    /// The input limit in tokens, including special tokens.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Sets the input limit in tokens; an error if it exceeds the positions of the model or leaves no room besides the special tokens.
    pub fn set_limit(&mut self, tokens: usize) -> Result<(), Error> {
        let most = self.model.description.longest.unwrap_or(usize::MAX);
        let least = self.special_tokens() + 1;
        if !(least..=most).contains(&tokens) {
            return Err(Error::Limit { found: tokens, least, most });
        }
        self.limit = tokens;
        Ok(())
    }

    /// Number of dimensions of a vector.
    pub fn width(&self) -> usize {
        self.pipeline.width(self.model.description.body.width())
    }

    /// Whether the model makes one vector per token, for late interaction.
    pub fn is_late(&self) -> bool {
        self.pipeline.late.is_some()
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The text of a special token of `tokenizer_config.json`, such as `mask_token`.
    pub fn special(&self, name: &str, default: &str) -> String {
        vocabulary::special(&self.settings, name, default)
    }

    /// An error for a token without an embedding. A tokenizer may have more tokens than the model, as long as no text uses them.
    fn known(&self, ids: &[u32]) -> Result<(), Error> {
        let rows = self.model.description.body.vocabulary();
        within(&self.tokenizer_file, |id| token(&self.tokenizer, id), ids, rows)
    }

    fn special_tokens(&self) -> usize {
        use tokenizers::PostProcessor;
        self.tokenizer.get_post_processor().map_or(0, |p| p.added_tokens(false))
    }

    fn encoding(&self, text: &str, special: bool) -> Result<Encoding, Error> {
        let wrong = |e: tokenizers::Error| Error::Tokenizer { file: self.name.clone(), message: e.to_string() };
        self.tokenizer.encode(text, special).map_err(wrong)
    }

    /// The text of a prompt; an error if the model has no prompt of that name.
    pub fn prompt<'a>(&'a self, prompt: Prompt<'a>) -> Result<&'a str, Error> {
        let prompts = &self.pipeline.prompts;
        let named = |name: &str| prompts.get(name).map(String::as_str);
        Ok(match prompt {
            Prompt::Text(text) => text,
            Prompt::Default => self.pipeline.default_prompt.as_deref().and_then(named).unwrap_or(""),
            Prompt::Query => named("query").unwrap_or(""),
            Prompt::Document => ["document", "passage", "corpus"].into_iter().find_map(named).unwrap_or(""),
            Prompt::Named(name) => named(name).ok_or_else(|| {
                let known = prompts.keys().cloned().collect::<Vec<_>>().join(", ");
                let known = if known.is_empty() { "none".into() } else { known };
                Error::Prompt { name: name.to_owned(), known }
            })?,
        })
    }

    /// Tokenizes `prompt` and `text`. The result is a single part unless the text exceeds the input limit and `long` is [`Long::Split`]; each window then has
    /// the prompt and the special tokens, and starts `overlap` tokens before the end of the previous one.
    pub fn parts(&self, text: &str, prompt: &str, long: Long) -> Result<Vec<Part>, Error> {
        let skip = if self.pipeline.include_prompt || prompt.is_empty() {
            0
        } else {
            let alone = self.encoding(prompt, true)?;
            let last = alone.get_special_tokens_mask().last() == Some(&1);
            alone.len() - usize::from(last)
        };
        let whole = self.encoding(&format!("{prompt}{text}"), false)?;
        let room = self.limit - self.special_tokens();
        let part = |encoding: Encoding, from: usize, bytes: std::ops::Range<usize>| {
            self.part(encoding, prompt.len(), from, bytes, skip)
        };
        match long {
            _ if whole.len() <= room => Ok(vec![part(whole, 0, 0..text.len())?]),
            Long::Truncate => {
                let mut whole = whole;
                whole.truncate(room, 0, TruncationDirection::Right);
                let end = whole.get_offsets().last().map_or(0, |(_, end)| end.saturating_sub(prompt.len()));
                Ok(vec![part(whole, 0, 0..end)?])
            }
            Long::Split { overlap } => {
                let before = if prompt.is_empty() { 0 } else { self.encoding(prompt, false)?.len() };
                let of = self.encoding(text, false)?;
                let offsets = of.get_offsets();
                // Slightly less than fits, since a cut may change the tokens around it.
                let window = room.saturating_sub(before + 2).max(1);
                let step = window - overlap.min(window / 2);
                let mut parts = Vec::new();
                let mut first = 0;
                loop {
                    let mut last = (first + window).min(offsets.len());
                    loop {
                        let bytes = if first == 0 { 0 } else { offsets[first].0 }..if last == offsets.len() {
                            text.len()
                        } else {
                            offsets[last - 1].1
                        };
                        let encoding = self.encoding(&format!("{prompt}{}", &text[bytes.clone()]), false)?;
                        if encoding.len() <= room || last == first + 1 {
                            let mut encoding = encoding;
                            encoding.truncate(room, 0, TruncationDirection::Right);
                            parts.push(part(encoding, bytes.start, bytes)?);
                            break;
                        }
                        last -= 1;
                    }
                    if last == offsets.len() {
                        return Ok(parts);
                    }
                    // A window may have been shortened, so do not skip text after it.
                    first = (first + step).min(last);
                }
            }
        }
    }

    /// Adds special tokens to an encoding; `from` is the offset of its text in the whole text.
    fn part(
        &self,
        encoding: Encoding,
        prompt: usize,
        from: usize,
        bytes: std::ops::Range<usize>,
        skip: usize,
    ) -> Result<Part, Error> {
        let wrong = |e: tokenizers::Error| Error::Tokenizer { file: self.name.clone(), message: e.to_string() };
        let encoding = self.tokenizer.post_process(encoding, None, true).map_err(wrong)?;
        self.known(encoding.get_ids())?;
        let special = encoding.get_special_tokens_mask();
        let place = |(i, (start, end)): (usize, &(usize, usize))| {
            (special[i] == 0 && *start >= prompt).then(|| (start - prompt + from, end - prompt + from))
        };
        let places = encoding.get_offsets().iter().enumerate().map(place).collect();
        let (ids, types) = (encoding.get_ids().to_vec(), encoding.get_type_ids().to_vec());
        Ok(Part { ids, types, bytes, skip, places }.not_empty(self.model.description.pad))
    }

    /// The hidden states of packed parts, `[1, tokens, d]`, and the `parts + 1` bounds of the parts.
    pub fn hidden(&self, parts: &[&Part]) -> (Tensor<3>, Vec<usize>) {
        let packed = Packed::of(parts, &self.model);
        (self.model.encoder.forward(&packed.reading()), packed.bounds)
    }

    /// The outputs of encoder and head for packed parts, and the `parts + 1` bounds of the parts.
    pub fn encoded(&self, parts: &[&Part]) -> (longreach_models::Encoded, Vec<usize>) {
        let packed = Packed::of(parts, &self.model);
        (self.model.forward(&packed.reading()), packed.bounds)
    }

    /// The vectors of parts, concatenated: `[parts, width]`.
    pub fn vectors(&self, parts: &[&Part]) -> Vec<f32> {
        if parts.is_empty() {
            return Vec::new();
        }
        let (hidden, bounds) = self.hidden(parts);
        let d = hidden.dims()[2];
        let hidden: Vec<f32> = hidden.into_data().try_into_vec().unwrap_or_default();
        let mut pooled = Vec::with_capacity(parts.len() * d * self.pipeline.pooling.len());
        for (part, w) in parts.iter().zip(bounds.windows(2)) {
            for pooling in &self.pipeline.pooling {
                pooling.append(&hidden[w[0] * d..w[1] * d], d, part.skip, &mut pooled);
            }
        }
        let width = pooled.len() / parts.len();
        self.pipeline.finished(pooled, width)
    }

    /// Warnings about how the model was loaded, one sentence each.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = self.model.notes(|name| self.is_late() && name == steps::STANFORD);
        // The head of a Stanford ColBERT is read as a step after the encoder.
        notes.retain(|note| !(self.is_late() && note.contains("`HF_ColBERT`")));
        notes
    }

    /// A warning if the model does not specify how token vectors are pooled.
    pub fn note_on_vectors(&self) -> Option<String> {
        let note = "the model does not specify a pooling, so mean pooling is used (--pooling overrides it)";
        (!self.pipeline.described).then(|| note.to_owned())
    }

    /// Embeds texts, each after `prompt`; texts longer than the input limit are truncated. Returns one vector of [`TextEncoder::width`] numbers per text.
    /// An error if the model has no such prompt.
    ///
    /// ```
    /// use longreach_engine::{Prompt, TextEncoder};
    /// use longreach_models::Progress;
    ///
    /// let encoder = TextEncoder::load("tests/goldens/st-bert-mean", None, Progress::Hidden)?;
    /// let vectors = encoder.embed(&["the quick river", "a lake"], Prompt::Default)?;
    /// assert_eq!((vectors.len(), vectors[0].len()), (2, encoder.width()));
    /// # Ok::<(), longreach_engine::Error>(())
    /// ```
    pub fn embed(&self, texts: &[&str], prompt: Prompt<'_>) -> Result<Vec<Vec<f32>>, Error> {
        let prompt = self.prompt(prompt)?.to_owned();
        let mut parts = Vec::new();
        for text in texts {
            parts.extend(self.parts(text, &prompt, Long::Truncate)?);
        }
        let mut vectors = vec![Vec::new(); parts.len()];
        for batch in batches(&parts, BATCH) {
            let chosen: Vec<&Part> = batch.iter().map(|i| &parts[*i]).collect();
            for (i, vector) in batch.iter().zip(self.vectors(&chosen).chunks(self.width())) {
                vectors[*i] = vector.to_vec();
            }
        }
        Ok(vectors)
    }
}

/// Default size of a packed batch, in tokens.
pub const BATCH: usize = 8192;

/// Normalises each vector of `width` numbers to unit length; zero vectors stay zero.
pub fn normalize(vectors: &mut [f32], width: usize) {
    for vector in vectors.chunks_mut(width.max(1)) {
        let length = vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt().max(1e-12);
        vector.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
    }
}

/// Groups the indices of parts, longest first, into batches of at most `most` tokens; a longer part is a batch by itself.
pub fn batches(parts: &[Part], most: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..parts.len()).collect();
    order.sort_by_key(|i| std::cmp::Reverse(parts[*i].ids.len()));
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let mut room = 0usize;
    for i in order {
        let n = parts[i].ids.len();
        match batches.last_mut() {
            Some(batch) if n <= room => batch.push(i),
            _ => {
                batches.push(vec![i]);
                room = most.max(n);
            }
        }
        room -= n;
    }
    batches
}

/// Parts packed into one row.
struct Packed {
    ids: Vec<u32>,
    types: Vec<u32>,
    bounds: Vec<usize>,
    global: Option<Array2<bool>>,
}

impl Packed {
    fn of(parts: &[&Part], model: &EncoderModel) -> Self {
        let (mut ids, mut types, mut bounds, mut global) = (Vec::new(), Vec::new(), vec![0], Vec::new());
        let kinds = model.description.body.types().unwrap_or(1) as u32;
        for part in parts {
            ids.extend_from_slice(&part.ids);
            types.extend(part.types.iter().map(|t| (*t).min(kinds - 1)));
            global.extend(model.globals(&part.ids));
            bounds.push(ids.len());
        }
        let marked = global.iter().any(|m| *m);
        let global = marked.then(|| Array2::from_shape_vec((1, ids.len()), global).expect("one mark per token"));
        Self { ids, types, bounds, global }
    }

    fn reading(&self) -> Reading<'_> {
        // Types of all zeros are the default.
        let types = self.types.iter().any(|t| *t != 0).then_some(&self.types[..]);
        Reading { types, packed: Some(&self.bounds), global: self.global.as_ref(), ..Reading::one(&self.ids) }
    }
}
