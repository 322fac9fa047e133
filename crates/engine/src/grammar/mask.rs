//! The tokens that may follow, as a text of a grammar is written.

use std::sync::Arc;

use llguidance::Matcher;
use llguidance::toktrie::SimpleVob;

use super::{Vocabulary, wrong};
use crate::Error;

/// Which tokens may be sampled.
pub(crate) struct Mask(SimpleVob);

impl Mask {
    /// Whether a token may be sampled.
    pub(crate) fn allows(&self, id: u32) -> bool {
        (id as usize) < self.0.len() && self.0.is_allowed(id)
    }

    /// The logits with those of all other tokens at −∞.
    pub(crate) fn of(&self, logits: &[f32]) -> Vec<f32> {
        let kept = |(id, x): (usize, &f32)| if self.allows(id as u32) { *x } else { f32::NEG_INFINITY };
        logits.iter().enumerate().map(kept).collect()
    }

    /// The most probable token that may be sampled; the lowest id of equals. `None` if there is none among `logits`.
    pub(crate) fn best(&self, logits: &[f32]) -> Option<u32> {
        let allowed = logits.iter().enumerate().filter(|(id, _)| self.allows(*id as u32));
        let best = allowed.fold(None, |best: Option<(usize, f32)>, (id, x)| match best {
            Some((_, most)) if *x <= most => best,
            _ => Some((id, *x)),
        });
        best.map(|(id, _)| id as u32)
    }
}

/// A text of a grammar that is being written.
pub(crate) struct Masked {
    matcher: Matcher,
    vocabulary: Arc<Vocabulary>,
}

impl Masked {
    pub(super) fn new(matcher: Matcher, vocabulary: Arc<Vocabulary>) -> Self {
        Self { matcher, vocabulary }
    }

    /// Appends a token; false if the grammar does not allow it, or is too complex to say.
    pub(crate) fn take(&mut self, id: u32) -> bool {
        matches!(self.matcher.try_consume_tokens(&[id]), Ok(1))
    }

    /// Appends bytes, however they are divided into tokens; false as for [`Masked::take`].
    pub(crate) fn take_text(&mut self, text: &str) -> bool {
        let ids = self.vocabulary.words.tokenize_bytes(text.as_bytes());
        matches!(self.matcher.try_consume_tokens(&ids), Ok(n) if n == ids.len())
    }

    /// Whether the text is one of the grammar as it is.
    pub(crate) fn is_whole(&mut self) -> bool {
        self.matcher.is_accepting().unwrap_or(false) || self.is_complete()
    }

    /// Whether the text is one of the grammar and cannot go on.
    pub(crate) fn is_complete(&self) -> bool {
        self.matcher.is_stopped() && !self.matcher.is_error()
    }

    /// The tokens that may follow, those that end texts included if the text is whole. An error if the grammar is too complex or has no such token.
    pub(crate) fn next(&mut self) -> Result<Mask, Error> {
        let mask = self.matcher.compute_mask().map_err(|_| wrong("the grammar is too complex for this text"))?;
        if mask.is_zero() { Err(wrong("the vocabulary has no token that may follow")) } else { Ok(Mask(mask)) }
    }
}
