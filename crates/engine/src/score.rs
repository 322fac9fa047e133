//! How well a model predicts a text: the negative log-likelihood of each token given those before it.
//!
//! $$ \mathrm{nll}_t = -\log p(x_t \mid x_1 \dots x_{t-1}), \quad \mathrm{ppl} = e^{\overline{\mathrm{nll}}}, \quad
//! \mathrm{bpb} = \frac{\sum_t \mathrm{nll}_t}{\ln 2 \cdot \mathrm{bytes}} $$
//!
//! A text longer than the context is read in windows, each from an empty state. A window begins `stride` tokens after the one before and scores only the
//! tokens which that one did not reach, so that every token is scored once, with at least `context - stride` tokens before it.

use std::io::Read;

use longreach_nn::Cache;

use crate::session::CHUNK;
use crate::{Engine, Error, Pieces};

/// The windows that a long text is read in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// Length of a window in tokens, at least 2.
    pub context: usize,
    /// Distance of two windows, from 1 to `context - 1`.
    pub stride: usize,
}

/// The tokens of a text that a model predicted with about as many tokens before them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bucket {
    /// The smallest and the largest number of tokens before, within the window.
    pub before: (u64, u64),
    /// The number of tokens.
    pub tokens: u64,
    /// The sum of their negative log-likelihoods, in nats.
    pub nats: f64,
    /// The sum of the squares.
    pub squares: f64,
}

impl Bucket {
    /// The mean loss in nats per token, and its standard error if tokens were independent.
    pub fn mean(&self) -> (f64, f64) {
        let n = self.tokens as f64;
        let mean = self.nats / n;
        (mean, ((self.squares / n - mean * mean).max(0.0) / n).sqrt())
    }
}

/// The score of a text, or of several.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Score {
    /// The number of scored tokens.
    pub tokens: u64,
    /// Their number of bytes.
    pub bytes: u64,
    /// The sum of their negative log-likelihoods, in nats.
    pub nats: f64,
    /// The loss by the number of tokens before: 1 to 15, 16 to 31, 32 to 63 and so on. Buckets without tokens are left out.
    pub buckets: Vec<Bucket>,
}

impl Score {
    /// The mean loss in nats per token.
    pub fn loss(&self) -> f64 {
        self.nats / self.tokens as f64
    }

    /// The perplexity of the tokens.
    pub fn perplexity(&self) -> f64 {
        self.loss().exp()
    }

    /// Bits per byte of the text, which models with different tokenizers share.
    pub fn bits_per_byte(&self) -> f64 {
        self.nats / std::f64::consts::LN_2 / self.bytes as f64
    }

    /// Adds the score of another text.
    pub fn add(&mut self, other: &Score) {
        self.tokens += other.tokens;
        self.bytes += other.bytes;
        self.nats += other.nats;
        for bucket in &other.buckets {
            let mine = self.bucket(bucket.before);
            mine.tokens += bucket.tokens;
            mine.nats += bucket.nats;
            mine.squares += bucket.squares;
        }
    }

    fn count(&mut self, before: u64, nats: f64) {
        self.tokens += 1;
        self.nats += nats;
        let low = if before < 16 { 1 } else { 1 << before.ilog2() };
        let bucket = self.bucket((low, (2 * low).max(16) - 1));
        bucket.tokens += 1;
        bucket.nats += nats;
        bucket.squares += nats * nats;
    }

    /// The bucket of this range, which is added in its place if there is none.
    fn bucket(&mut self, before: (u64, u64)) -> &mut Bucket {
        let at = self.buckets.partition_point(|bucket| bucket.before < before);
        if self.buckets.get(at).is_none_or(|bucket| bucket.before != before) {
            self.buckets.insert(at, Bucket { before, tokens: 0, nats: 0.0, squares: 0.0 });
        }
        &mut self.buckets[at]
    }
}

impl Engine {
    /// Scores a text of any length: in one pass, or in `windows`. A pass needs constant memory if the state of the model has a fixed size. The special tokens
    /// that the tokenizer adds before every text are read and not scored; without any, the first token is not scored. `name` is the source of the text in
    /// errors; `progress` is called with the number of bytes read.
    ///
    /// An error if the text cannot be read or has a single token, the windows are out of range, the model has no positions for them, or a loss is not finite.
    pub fn score(
        &self,
        text: impl Read,
        name: &str,
        windows: Option<Windows>,
        mut progress: impl FnMut(u64),
    ) -> Result<Score, Error> {
        let tokenizer = self.tokenizer()?;
        let prefix = tokenizer.prefix()?;
        let mut pieces = Pieces::new(tokenizer, text, name).continues(true);
        let mut scorer = Scorer::new(self, windows)?;
        let mut score = Score::default();
        let (mut first, mut seen) = (None, 0);
        let mut read = |scorer: &mut Scorer, ids: &[u32], last: bool| {
            scorer.read(ids, last, &mut |at, before, nats| {
                if at >= prefix.len() as u64 {
                    score.count(before, nats);
                }
            })
        };
        read(&mut scorer, &prefix, false)?;
        while let Some(piece) = pieces.next_piece()? {
            tokenizer.within(&piece, self.model.decoder.vocabulary())?;
            seen += piece.len();
            first = first.or(piece.first().copied());
            read(&mut scorer, &piece, false)?;
            progress(pieces.bytes());
        }
        read(&mut scorer, &[], true)?;
        if seen + prefix.len() < 2 {
            return Err(Error::Short(name.to_owned()));
        }
        let unscored = match first {
            Some(id) if prefix.is_empty() => tokenizer.decode(&[id])?.len() as u64,
            _ => 0,
        };
        score.bytes = pieces.bytes().saturating_sub(unscored).max(1);
        if !score.nats.is_finite() {
            return Err(Error::NotFinite { name: self.name.clone() });
        }
        Ok(score)
    }

    /// The negative log-likelihood in nats of each of the tokens but the first, given those before it. Errors as [`Engine::score`] does.
    pub fn losses(&self, ids: &[u32], windows: Option<Windows>) -> Result<Vec<f64>, Error> {
        let vocabulary = self.model.decoder.vocabulary();
        if let Some(&id) = ids.iter().find(|id| **id as usize >= vocabulary) {
            return Err(Error::Token { id, vocabulary });
        }
        let mut losses = Vec::new();
        Scorer::new(self, windows)?.read(ids, true, &mut |_, _, nats| losses.push(nats))?;
        Ok(losses)
    }
}

/// A text being scored.
struct Scorer<'a> {
    engine: &'a Engine,
    windows: Option<Windows>,
    /// Tokens of the window that are not read yet; in windows, all tokens of the window.
    pending: Vec<u32>,
    cache: Cache,
    /// The number of tokens read, in this window and all.
    read: u64,
    /// The number of tokens before the window.
    start: u64,
    /// The number of tokens that were scored or are the first.
    done: u64,
    /// The logits after the last token read.
    logits: Option<Vec<f32>>,
}

/// Rows of logits that are computed together.
const ROWS: usize = 64;

impl<'a> Scorer<'a> {
    fn new(engine: &'a Engine, windows: Option<Windows>) -> Result<Self, Error> {
        if let Some(Windows { context, stride }) = windows {
            if let Some(longest) = engine.longest().filter(|longest| context > *longest) {
                return Err(Error::Windows(format!(
                    "a context of {context} tokens exceeds the {longest} that the model reads"
                )));
            }
            if context < 2 || stride == 0 || stride >= context {
                return Err(Error::Windows(format!(
                    "a context of {context} tokens with a stride of {stride}: want a context of at least 2 and a stride from 1 to less than the context"
                )));
            }
        }
        let cache = engine.model.decoder.start(1);
        Ok(Self { engine, windows, pending: Vec::new(), cache, read: 0, start: 0, done: 0, logits: None })
    }

    /// Reads further tokens of the text, the last ones if `last`. `each` is called with the number of a token in the text, the number of tokens before it in
    /// its window, and its loss.
    fn read(&mut self, ids: &[u32], last: bool, each: &mut dyn FnMut(u64, u64, f64)) -> Result<(), Error> {
        self.pending.extend_from_slice(ids);
        let Some(Windows { context, stride }) = self.windows else {
            let most = self.engine.longest().unwrap_or(usize::MAX) as u64;
            if self.read + self.pending.len() as u64 > most {
                let found = self.read + self.pending.len() as u64;
                return Err(Error::Untrained { found, longest: most as usize });
            }
            let n = if last { self.pending.len() } else { self.pending.len() / CHUNK * CHUNK };
            let ready: Vec<u32> = self.pending.drain(..n).collect();
            self.pass(&ready, each);
            return Ok(());
        };
        while self.pending.len() >= context {
            self.window(context, each);
            self.pending.drain(..stride);
            self.start += stride as u64;
        }
        // The rest of the text, if the last window did not reach it.
        if last && self.start + self.pending.len() as u64 > self.done {
            self.window(self.pending.len(), each);
        }
        Ok(())
    }

    /// Scores the window of the first `n` pending tokens.
    fn window(&mut self, n: usize, each: &mut dyn FnMut(u64, u64, f64)) {
        self.cache = self.engine.model.decoder.start(1);
        (self.read, self.logits) = (0, None);
        let ids = self.pending[..n].to_vec();
        self.pass(&ids, each);
    }

    /// Passes tokens through the model and scores those that were not scored.
    fn pass(&mut self, ids: &[u32], each: &mut dyn FnMut(u64, u64, f64)) {
        let (engine, start) = (self.engine, self.start);
        let decoder = &engine.model.decoder;
        for chunk in ids.chunks(CHUNK) {
            let mut scored = |done: &mut u64, before: u64, row: &[f32], id: u32| {
                let at = start + before;
                if at >= *done {
                    each(at, before, nll(row, id));
                    *done = at + 1;
                }
            };
            if let Some(row) = self.logits.take() {
                scored(&mut self.done, self.read, &row, chunk[0]);
            }
            // Tokens whose successors are in the chunk and were not scored.
            let skip = self.done.saturating_sub(start + self.read + 1).min(chunk.len() as u64 - 1) as usize;
            self.logits = engine.run(|| {
                let hidden = decoder.forward(chunk, &mut self.cache, None);
                let mut last = None;
                for from in (skip..chunk.len()).step_by(ROWS) {
                    let rows = ROWS.min(chunk.len() - from);
                    let logits = decoder.logits(hidden.clone().narrow(1, from, rows)).into_data();
                    let logits: Vec<f32> = logits.try_into_vec().expect("logits are f32");
                    for (i, row) in (from..).zip(logits.chunks_exact(decoder.vocabulary())) {
                        match chunk.get(i + 1) {
                            Some(id) => scored(&mut self.done, self.read + i as u64 + 1, row, *id),
                            None => last = Some(row.to_vec()),
                        }
                    }
                }
                last
            });
            self.read += chunk.len() as u64;
        }
        // The first token of a text is not predicted.
        self.done = self.done.max(1);
    }
}

/// The negative log-likelihood of `id` under these logits, in nats.
fn nll(logits: &[f32], id: u32) -> f64 {
    let most = logits.iter().fold(f32::NEG_INFINITY, |most, x| most.max(*x));
    let sum: f64 = logits.iter().map(|x| f64::from(*x - most).exp()).sum();
    f64::from(most) + sum.ln() - f64::from(logits[id as usize])
}
