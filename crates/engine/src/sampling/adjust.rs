//! What is added to and subtracted from logits before the temperature: biases and penalties.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::Sampling;

/// The tokens of a text so far, as far as penalties need them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// Which tokens of the vocabulary occurred, `[vocabulary]`.
    pub(crate) seen: Vec<bool>,
    /// How often tokens were generated.
    pub(crate) written: BTreeMap<u32, u32>,
}

impl History {
    /// The history of an empty text.
    pub fn new(vocabulary: usize) -> Self {
        Self { seen: vec![false; vocabulary], written: BTreeMap::new() }
    }

    /// Appends tokens that were read. Those outside of the vocabulary are ignored.
    pub fn read(&mut self, ids: &[u32]) {
        for id in ids {
            if let Some(seen) = self.seen.get_mut(*id as usize) {
                *seen = true;
            }
        }
    }

    /// Appends a token that was generated.
    pub fn write(&mut self, id: u32) {
        self.read(&[id]);
        let count = self.written.entry(id).or_default();
        *count = count.saturating_add(1);
    }
}

impl Sampling {
    /// The logits with biases and penalties; borrowed if there are none.
    pub(super) fn adjusted<'a>(&self, logits: &'a [f32], history: &History) -> Cow<'a, [f32]> {
        let counted = self.presence_penalty != 0.0 || self.frequency_penalty != 0.0;
        let repeated = self.repetition_penalty != 1.0;
        if !counted && !repeated && self.bias.is_empty() && self.suppress.is_empty() {
            return Cow::Borrowed(logits);
        }
        let mut logits = logits.to_vec();
        for (id, bias) in &self.bias {
            change(&mut logits, *id, |x| x + bias);
        }
        if repeated {
            for (x, _) in logits.iter_mut().zip(&history.seen).filter(|(_, seen)| **seen) {
                *x = if *x < 0.0 { *x * self.repetition_penalty } else { *x / self.repetition_penalty };
            }
        }
        if counted {
            for (id, count) in &history.written {
                let penalty = self.frequency_penalty * *count as f32 + self.presence_penalty;
                change(&mut logits, *id, |x| x - penalty);
            }
        }
        for id in &self.suppress {
            change(&mut logits, *id, |_| f32::NEG_INFINITY);
        }
        Cow::Owned(logits)
    }
}

/// Replaces the logit of a token; one outside of the vocabulary has none.
fn change(logits: &mut [f32], id: u32, by: impl FnOnce(f32) -> f32) {
    if let Some(x) = logits.get_mut(id as usize) {
        *x = by(*x);
    }
}
