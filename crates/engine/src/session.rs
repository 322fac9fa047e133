//! A session: a text being read and generated, with the state of the model and the logits after its last token.

use std::io::Read;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use longreach_nn::Cache;

use crate::writer::Recent;
use crate::{Engine, Error, History, Pieces, Sampler, Sampling, Speculation, Writer};

/// Tokens per forward pass over a long prompt: enough for the matrix products to run at full speed, and few enough that activations need little memory
/// compared with the weights.
pub const CHUNK: usize = 512;

/// A flag that ends the work of sessions that were given it. Its clones are the same flag.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Sessions with this flag stop before their next chunk or token.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A text being read and generated. A session owns all it needs and can move to another thread. Cloning a session forks the text.
#[derive(Clone)]
pub struct Session {
    pub(crate) engine: Engine,
    pub(crate) cancel: Cancel,
    pub(crate) cache: Cache,
    /// Logits after the last token, `[vocabulary]`; empty before the first.
    pub(crate) logits: Vec<f32>,
    pub(crate) tokens: u64,
    pub(crate) history: History,
    pub(crate) recent: Recent,
    /// The tokens read since the text is kept.
    pub(crate) text: Option<Vec<u32>>,
    /// Whether all tokens were read in the calls of [`Decoder::cut`](longreach_nn::Decoder::cut) from the beginning: the state is
    /// then that of every text that begins with these tokens.
    pub(crate) canonical: bool,
}

impl Session {
    pub(crate) fn new(engine: Engine) -> Self {
        let decoder = &engine.model.decoder;
        let cache = decoder.start(1).with_keys_in(engine.kv_dtype());
        let history = History::new(decoder.vocabulary());
        let (cancel, recent) = (Cancel::default(), Recent::default());
        Self { engine, cancel, cache, logits: Vec::new(), tokens: 0, history, recent, text: None, canonical: true }
    }

    /// The session that has read the tokens `ids`, whose state is `cache`, in the calls of the model's cut.
    pub(crate) fn kept(engine: &Engine, cache: Cache, ids: &[u32], logits: Option<Vec<f32>>) -> Self {
        let mut session = Self::new(engine.clone());
        session.history.read(ids);
        session.note(ids);
        Self { cache, logits: logits.unwrap_or_default(), ..session }
    }

    /// Keeps the tokens that are read from now on, four bytes each: proposals of [`Speculation`](crate::Speculation) are made
    /// from them.
    pub fn keep_text(&mut self) {
        self.text.get_or_insert_default();
    }

    /// As [`Session::keep_text`], of a session that has read `text`.
    pub fn keep_text_of(&mut self, text: &[u32]) {
        self.text = Some(text.to_vec());
    }

    /// The tokens read since [`Session::keep_text`].
    pub fn text(&self) -> &[u32] {
        self.text.as_deref().unwrap_or_default()
    }

    /// Size of the vocabulary.
    pub(crate) fn vocabulary(&self) -> usize {
        self.history.seen.len()
    }

    /// Lets `cancel` end the reading and generating of this session, from any thread.
    pub fn set_cancel(&mut self, cancel: Cancel) {
        self.cancel = cancel;
    }

    /// The model that reads the text.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Number of tokens read and generated so far.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// The state of the model after the last token.
    pub fn state(&self) -> &Cache {
        &self.cache
    }

    /// Size of the state in bytes. It is constant for recurrent models and grows with the KV cache for softmax attention.
    pub fn state_bytes(&self) -> usize {
        self.cache.bytes()
    }

    /// The logits after the last token, `[vocabulary]`; an error before the first.
    pub fn logits(&self) -> Result<&[f32], Error> {
        if self.logits.is_empty() { Err(Error::NotStarted) } else { Ok(&self.logits) }
    }

    /// Reads tokens, up to [`CHUNK`] at a time. A text that is read from its beginning is read in calls that end at multiples of
    /// the model's cut ([`Decoder::cut`](longreach_nn::Decoder::cut)), and the rest in one of its own, so that the logits depend
    /// on its tokens alone, wherever a restored state or a call of this function was between. An error if an id is out of range or the text exceeds [`Engine::longest`], before anything is read.
    ///
    /// If it is cancelled between two chunks, it returns [`Error::Cancelled`]: the chunks before have been read ([`Session::tokens`] says how many tokens),
    /// there are no logits, and the session can read on.
    pub fn read(&mut self, ids: &[u32]) -> Result<(), Error> {
        let from = self.tokens as usize;
        for call in self.calls(ids)? {
            if self.cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            let chunk = &ids[call.start - from..call.end - from];
            let wanted = usize::from(call.end == from + ids.len());
            self.logits = self.forward(chunk, wanted).pop().unwrap_or_default();
            self.history.read(chunk);
            self.note(chunk);
        }
        Ok(())
    }

    /// The calls in which tokens are read next, as ranges of the text's tokens. Errors as [`Session::read`].
    pub(crate) fn calls(&mut self, ids: &[u32]) -> Result<Vec<Range<usize>>, Error> {
        let vocabulary = self.vocabulary();
        match self.engine.tokenizer() {
            Ok(tokenizer) => tokenizer.within(ids, vocabulary)?,
            Err(_) => {
                if let Some(&id) = ids.iter().find(|id| **id as usize >= vocabulary) {
                    return Err(Error::Token { id, vocabulary });
                }
            }
        }
        self.check_room(ids.len())?;
        let cut = self.engine.model.decoder.cut();
        let from = self.tokens as usize;
        self.canonical &= ids.is_empty() || from.is_multiple_of(cut.tokens);
        // Where a state was not left by reading, there are no calls to keep to.
        Ok(match self.canonical {
            true => cut.calls(from..from + ids.len(), CHUNK).collect(),
            false => (from..from + ids.len()).step_by(CHUNK).map(|at| at..(at + CHUNK).min(from + ids.len())).collect(),
        })
    }

    /// An error if `more` tokens exceed [`Engine::longest`].
    pub(crate) fn check_room(&self, more: usize) -> Result<(), Error> {
        let found = self.tokens + more as u64;
        let beyond = |longest: &usize| found > *longest as u64;
        match (self.engine.model.decoder.longest().filter(beyond), self.engine.longest().filter(beyond)) {
            (Some(longest), _) => Err(Error::TooLong { found, longest }),
            (None, Some(longest)) => Err(Error::Untrained { found, longest }),
            (None, None) => Ok(()),
        }
    }

    /// Passes tokens through the model and returns the logits after the last `wanted` of them.
    pub(crate) fn forward(&mut self, ids: &[u32], wanted: usize) -> Vec<Vec<f32>> {
        let engine = self.engine.clone();
        let decoder = &engine.model.decoder;
        engine.run(|| {
            let hidden = decoder.forward(ids, &mut self.cache, None);
            if wanted == 0 {
                return Vec::new();
            }
            let logits = decoder.logits(hidden.narrow(1, ids.len() - wanted, wanted)).into_data();
            let logits: Vec<f32> = logits.try_into_vec().expect("logits are f32");
            if wanted == 1 { vec![logits] } else { logits.chunks(logits.len() / wanted).map(<[f32]>::to_vec).collect() }
        })
    }

    /// Notes tokens that were read, apart from the history for penalties.
    pub(crate) fn note(&mut self, ids: &[u32]) {
        self.tokens += ids.len() as u64;
        if let Ok(tokenizer) = self.engine.tokenizer() {
            self.recent.add(tokenizer, ids);
        }
        self.text.iter_mut().for_each(|text| text.extend(ids));
    }

    /// Tokenizes and reads a text; an error if it is empty.
    pub fn read_text(&mut self, text: &str) -> Result<(), Error> {
        self.read_from(text.as_bytes(), "the prompt", |_| {})
    }

    /// Reads a text of any length in constant memory. At the beginning of a session, it is read with the special tokens
    /// that the tokenizer adds around every text, and later without them. `name` is its source in errors; `progress` is called with the number of bytes read.
    pub fn read_from(&mut self, text: impl Read, name: &str, mut progress: impl FnMut(u64)) -> Result<(), Error> {
        let engine = self.engine.clone();
        let mut pieces = Pieces::new(engine.tokenizer()?, text, name).continues(self.tokens > 0);
        // The rest of a piece is kept for the next, so that all chunks but the last are full.
        let mut waiting: Vec<u32> = Vec::new();
        while let Some(piece) = pieces.next_piece()? {
            waiting.extend(piece);
            let whole = (waiting.len().saturating_sub(1)) / CHUNK * CHUNK;
            for chunk in waiting[..whole].chunks(CHUNK) {
                self.read(chunk)?;
                let done = pieces.bytes().saturating_sub(2 * waiting.len() as u64);
                progress(done);
            }
            waiting.drain(..whole);
            progress(pieces.bytes());
        }
        self.read(&waiting)
    }

    /// Starts without a prompt: reads the tokens that the tokenizer adds before every text, or else the start-of-text
    /// token.
    pub fn read_start(&mut self) -> Result<(), Error> {
        let prefix = self.engine.tokenizer().map_or_else(|_| Ok(Vec::new()), crate::Tokenizer::prefix)?;
        if !prefix.is_empty() {
            return self.read(&prefix);
        }
        let start = self.engine.model.start.unwrap_or(0);
        self.read(&[start])
    }

    /// Generates up to `n` tokens and returns their text. Stops early at an end-of-text token, or when the positions of the model are used up.
    pub fn write(&mut self, n: usize, sampling: Sampling) -> Result<String, Error> {
        let mut sampler = Sampler::new(sampling)?;
        let mut writer = self.writer()?;
        let mut text = String::new();
        self.logits()?;
        let engine = self.engine.clone();
        self.generate(&mut sampler, n, &mut Speculation::none(), |id| {
            if engine.model.description.eos.contains(&id) {
                return Ok(ControlFlow::Break(()));
            }
            text.push_str(&writer.text(id)?);
            Ok::<_, Error>(ControlFlow::Continue(()))
        })?;
        text.push_str(&writer.rest()?);
        Ok(text)
    }

    /// Number of further tokens that the model can read ([`Engine::longest`]); `None` if there is no limit.
    pub fn room(&self) -> Option<u64> {
        let longest = self.engine.longest()?;
        Some((longest as u64).saturating_sub(self.tokens))
    }

    /// A [`Writer`] that turns the tokens generated next into text.
    pub fn writer(&self) -> Result<Writer, Error> {
        Writer::new(self.engine.tokenizer()?, &self.recent)
    }

    /// Samples the next token and reads it. The repetition penalty applies to all tokens of the session, those of the prompt included, and the presence
    /// and frequency penalties to those that were generated. An error if nothing was read yet or a logit is NaN or +∞.
    pub fn next_token(&mut self, sampler: &mut Sampler) -> Result<u32, Error> {
        let id = sampler.choose(self.finite_logits()?, &self.history);
        self.read(&[id])?;
        self.history.write(id);
        Ok(id)
    }

    /// The logits after the last token; an error before the first, and if one is NaN or +∞.
    pub(crate) fn finite_logits(&self) -> Result<&[f32], Error> {
        self.engine.finite(self.logits()?)
    }
}
