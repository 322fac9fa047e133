//! Windows of one length, cut from texts one behind the other.

use std::path::Path;

use bytes::Bytes;
use longreach_simd::file::Mapped;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::{Example, Target};
use crate::Error;
use crate::texts::Text;

/// Tokens in memory or in mapped files.
pub(crate) enum Tokens {
    /// In memory.
    Memory(Vec<u32>),
    /// Integers of this many bytes, least significant first.
    File(Bytes, usize),
}

impl Tokens {
    /// Maps a file of token ids: of 32 bits if its name ends in `.u32`, else of 16 bits. Errors if it cannot be read, or an id is not below `vocabulary`.
    pub(crate) fn open(file: &Path, vocabulary: usize) -> Result<Self, Error> {
        let width = if file.extension().is_some_and(|end| end == "u32") { 4 } else { 2 };
        let open = std::fs::File::open(file).map_err(|e| Error::io(file, e))?;
        let bytes = Bytes::from_owner(Mapped::new(&open).map_err(|e| Error::io(file, e))?);
        if !bytes.len().is_multiple_of(width) {
            let message = format!("{}: want a multiple of {width} bytes, found {}", file.display(), bytes.len());
            return Err(Error::Text(message));
        }
        let tokens = Tokens::File(bytes, width);
        let found = (0..tokens.len()).map(|i| tokens.at(i)).max().unwrap_or(0);
        if found as usize >= vocabulary {
            let message = format!("{}: token {found} is not in the vocabulary of {vocabulary} tokens", file.display());
            return Err(Error::Text(message));
        }
        Ok(tokens)
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Tokens::Memory(ids) => ids.len(),
            Tokens::File(bytes, width) => bytes.len() / width,
        }
    }

    /// The first `n` tokens.
    pub(crate) fn up_to(self, n: usize) -> Self {
        match self {
            Tokens::Memory(mut ids) => {
                ids.truncate(n);
                Tokens::Memory(ids)
            }
            Tokens::File(bytes, width) => Tokens::File(bytes.slice(..(n * width).min(bytes.len())), width),
        }
    }

    fn at(&self, i: usize) -> u32 {
        match self {
            Tokens::Memory(ids) => ids[i],
            Tokens::File(bytes, 2) => u32::from(u16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]])),
            Tokens::File(bytes, _) => {
                u32::from_le_bytes(*bytes[4 * i..].first_chunk().expect("the length is a multiple of 4"))
            }
        }
    }

    /// The tokens from `from` to `to`.
    pub(crate) fn range(&self, from: usize, to: usize) -> Vec<u32> {
        match self {
            Tokens::Memory(ids) => ids[from..to].to_vec(),
            Tokens::File(..) => (from..to).map(|i| self.at(i)).collect(),
        }
    }
}

/// Windows of equal length, shuffled anew in every epoch.
pub(crate) struct Windows {
    tokens: Tokens,
    starts: Vec<usize>,
    length: usize,
    seed: u64,
    epoch: Option<usize>,
}

impl Windows {
    /// The windows of pages in random order, each after the token `end`.
    pub(crate) fn of_pages(pages: Vec<Vec<u32>>, end: Option<u32>, length: usize, seed: u64) -> Self {
        let mut order: Vec<usize> = (0..pages.len()).collect();
        order.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
        let mut tokens = Vec::new();
        for i in order {
            tokens.extend(end);
            tokens.extend(&pages[i]);
        }
        Self::new(Tokens::Memory(tokens), length, seed)
    }

    /// The windows of tokens in their order.
    pub(crate) fn new(tokens: Tokens, length: usize, seed: u64) -> Self {
        let starts = (0..tokens.len().saturating_sub(length)).step_by(length.max(1)).collect();
        Self { tokens, starts, length, seed, epoch: None }
    }

    /// The number of windows.
    pub(crate) fn count(&self) -> usize {
        self.starts.len()
    }

    /// The windows of a step with the next tokens as targets. They depend on the step only, so that training can resume.
    pub(crate) fn step(&mut self, step: usize, batch: usize) -> Vec<Example> {
        let per_epoch = (self.starts.len() / batch).max(1);
        let epoch = step / per_epoch;
        if self.epoch != Some(epoch) {
            self.starts.sort_unstable();
            self.starts.shuffle(&mut ChaCha8Rng::seed_from_u64(self.seed ^ (epoch as u64 + 1)));
            self.epoch = Some(epoch);
        }
        // Another offset in every epoch, so that sequences do not always begin at the same tokens.
        let shift = (epoch * 131) % self.length;
        let at = (step % per_epoch) * batch;
        let window = |start: &usize| {
            let start = (start + shift).min(self.tokens.len() - self.length - 1);
            let ids = self.tokens.range(start, start + self.length);
            let next = self.tokens.range(start + 1, start + self.length + 1);
            let targets = next.into_iter().map(i64::from).collect();
            Example::new(vec![Text { ids, ..Text::default() }], Target::Tokens(targets))
        };
        self.starts[at..at + batch].iter().map(window).collect()
    }
}
