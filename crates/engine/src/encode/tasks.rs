//! Task heads: text and token classification, mask filling, and extractive question answering.

use std::ops::Range;

use burn::tensor::{Int, Tensor};
use longreach_models::{ScoreScale, Task};
use tokenizers::{Encoding, TruncationParams, TruncationStrategy};

use super::{Long, Part, TextEncoder};
use crate::Error;

/// A label with its score.
#[derive(Clone, Debug, PartialEq)]
pub struct Scored {
    /// The label.
    pub label: String,
    /// Softmax probability, sigmoid probability for multi-label models, or the raw score, as the model specifies.
    pub score: f32,
}

/// A labelled span of a text.
#[derive(Clone, Debug, PartialEq)]
pub struct Entity {
    /// The label without its `B-` or `I-` prefix.
    pub label: String,
    /// Mean probability of its tokens.
    pub score: f32,
    /// Which bytes of the text.
    pub bytes: Range<usize>,
}

/// A candidate for a mask.
#[derive(Clone, Debug, PartialEq)]
pub struct Filled {
    /// The token as text.
    pub word: String,
    /// Its id.
    pub id: u32,
    /// Its probability.
    pub score: f32,
}

/// An answer found in a text.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The product of the probabilities of its start and its end.
    pub score: f32,
    /// Which bytes of the text.
    pub bytes: Range<usize>,
}

fn softmax(scores: &[f32]) -> Vec<f32> {
    let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f64> = scores.iter().map(|s| f64::from(s - most).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.into_iter().map(|w| (w / sum) as f32).collect()
}

impl TextEncoder {
    /// An error unless the model has the head for a task.
    fn for_task(&self, task: Task) -> Result<(), Error> {
        let found = self.model.description.head.as_ref().map(|(found, _)| *found);
        if found == Some(task) {
            return Ok(());
        }
        let has = found.map_or("no head", Task::about);
        let message = format!("the model has {has}; this needs {}", task.about());
        Err(Error::Head { name: self.name.clone(), message })
    }

    /// The scores of the head for parts, one row per text or token; the width of a row; and the bounds of the parts.
    fn scores(&self, parts: &[&Part]) -> Result<(Vec<f32>, usize, Vec<usize>), Error> {
        let (encoded, bounds) = self.encoded(parts);
        let Some(scores) = encoded.scores else { return Ok((Vec::new(), 1, bounds)) };
        let width = scores.dims()[1];
        let scores = scores.into_data().try_into_vec().unwrap_or_default();
        Ok((self.finite(scores)?, width, bounds))
    }

    /// An error if a score is NaN or infinite.
    fn finite(&self, scores: Vec<f32>) -> Result<Vec<f32>, Error> {
        if scores.iter().all(|x| x.is_finite()) {
            Ok(scores)
        } else {
            Err(Error::NotFinite { name: self.name.clone() })
        }
    }

    /// Classifies a text; labels are sorted by descending score. A text longer than the input limit is split into windows, whose scores are averaged, weighted
    /// by token count. An error if the model has no head for text classification.
    ///
    /// ```
    /// use longreach_engine::TextEncoder;
    /// use longreach_models::Progress;
    ///
    /// let encoder = TextEncoder::load("tests/goldens/labels", None, Progress::Hidden)?;
    /// let scored = encoder.classify("the quick river")?;
    /// assert!(scored.len() > 1 && scored[0].score >= scored[1].score, "{scored:?}");
    /// # Ok::<(), longreach_engine::Error>(())
    /// ```
    pub fn classify(&self, text: &str) -> Result<Vec<Scored>, Error> {
        self.for_task(Task::Sequence)?;
        let parts = self.parts(text, "", Long::Split { overlap: 0 })?;
        let mut mean = vec![0.0f32; self.model.description.labels.len()];
        let all: usize = parts.iter().map(|part| part.ids.len()).sum();
        for part in &parts {
            let weight = part.ids.len() as f32 / all as f32;
            mean.iter_mut().zip(self.scaled(part)?).for_each(|(sum, share)| *sum += weight * share);
        }
        Ok(self.labelled(mean))
    }

    /// Classifies a pair of texts, for natural-language inference (premise and hypothesis) and rerankers (query and passage).
    ///
    /// A pair longer than the input limit is truncated, the longer text first, as in transformers; the second value says whether it was.
    pub fn classify_pair(&self, first: &str, second: &str) -> Result<(Vec<Scored>, bool), Error> {
        self.for_task(Task::Sequence)?;
        let wrong = |e: tokenizers::Error| Error::Tokenizer { file: self.name.clone(), message: e.to_string() };
        let mut tokenizer = self.tokenizer.clone();
        let truncation = TruncationParams {
            max_length: self.limit,
            strategy: TruncationStrategy::LongestFirst,
            ..TruncationParams::default()
        };
        tokenizer.with_truncation(Some(truncation)).map_err(wrong)?;
        let encoding = tokenizer.encode((first, second), true).map_err(wrong)?;
        self.known(encoding.get_ids())?;
        let cut = !encoding.get_overflowing().is_empty();
        let part = Part {
            ids: encoding.get_ids().to_vec(),
            types: encoding.get_type_ids().to_vec(),
            bytes: 0..0,
            skip: 0,
            places: vec![None; encoding.len()],
        };
        let part = part.not_empty(self.model.description.pad);
        Ok((self.labelled(self.scaled(&part)?), cut))
    }

    /// The scaled scores of a text-classification head, one per label.
    fn scaled(&self, part: &Part) -> Result<Vec<f32>, Error> {
        let (scores, ..) = self.scores(&[part])?;
        Ok(match self.model.scale {
            ScoreScale::Softmax => softmax(&scores),
            ScoreScale::Sigmoid => scores.into_iter().map(|s| 1.0 / (1.0 + (-s).exp())).collect(),
            ScoreScale::Identity => scores,
        })
    }

    fn labelled(&self, scores: Vec<f32>) -> Vec<Scored> {
        let labels = self.model.description.labels.iter().cloned();
        let mut scored: Vec<Scored> = labels.zip(scores).map(|(label, score)| Scored { label, score }).collect();
        scored.sort_by(|a, b| b.score.total_cmp(&a.score));
        scored
    }

    /// The labelled spans of a text, as in the token-classification pipeline of transformers with `aggregation_strategy="simple"`.
    ///
    /// Consecutive tokens with the same label form a span; a `B-` label starts a new one. Spans of the label `O` are dropped. An error if the model has no head
    /// for token classification.
    pub fn entities(&self, text: &str) -> Result<Vec<Entity>, Error> {
        self.for_task(Task::Token)?;
        let labels = &self.model.description.labels;
        let tag = |label: usize| {
            let name = &labels[label][..];
            match name.strip_prefix("B-") {
                Some(name) => (true, name),
                None => (false, name.strip_prefix("I-").unwrap_or(name)),
            }
        };
        // Label of a span, sum of the scores of its tokens, their number, and its byte range.
        let mut stretches: Vec<(usize, f64, usize, Range<usize>)> = Vec::new();
        for part in self.parts(text, "", Long::Split { overlap: 0 })? {
            let (scores, width, _) = self.scores(&[&part])?;
            for (row, place) in scores.chunks(width).zip(&part.places) {
                let Some((start, end)) = *place else { continue };
                let shares = softmax(row);
                // Ties go to the first label.
                let best = (1..width).fold(0, |best, i| if shares[i] > shares[best] { i } else { best });
                let (begins, name) = tag(best);
                match stretches.last_mut() {
                    Some((label, sum, n, bytes)) if !begins && tag(*label).1 == name => {
                        (*sum, *n, bytes.end) = (*sum + f64::from(shares[best]), *n + 1, end);
                    }
                    _ => stretches.push((best, f64::from(shares[best]), 1, start..end)),
                }
            }
        }
        let entity = |(label, sum, n, bytes): (usize, f64, usize, Range<usize>)| {
            // The pipeline strips the prefix of any other tagging scheme as well.
            let name = labels[label].split_once('-').map_or(&labels[label][..], |(_, name)| name);
            Entity { label: name.to_owned(), score: (sum / n as f64) as f32, bytes }
        };
        Ok(stretches.into_iter().map(entity).filter(|entity| entity.label != "O").collect())
    }

    /// The mask token as written in a text, and its id; an error if the tokenizer has none.
    pub fn mask(&self) -> Result<(String, u32), Error> {
        let named = self.special("mask_token", "");
        let written = [&named[..], "[MASK]", "<mask>"].into_iter().filter(|t| !t.is_empty());
        let found = written.filter_map(|text| Some((text.to_owned(), self.tokenizer.token_to_id(text)?))).next();
        let message = "the tokenizer has no mask token".to_owned();
        found.ok_or_else(|| Error::Tokenizer { file: self.name.clone(), message })
    }

    /// The `n` most probable tokens for each mask of a text, which is truncated to the input limit. An error if it has no mask or the model no
    /// masked-language-model head.
    pub fn fill(&self, text: &str, n: usize) -> Result<Vec<Vec<Filled>>, Error> {
        self.for_task(Task::MaskedLm)?;
        let (written, mask) = self.mask()?;
        let part = self.parts(text, "", Long::Truncate)?.remove(0);
        let at: Vec<i32> = part.ids.iter().enumerate().filter(|(_, id)| **id == mask).map(|(i, _)| i as i32).collect();
        if at.is_empty() {
            let message = format!("the first {} tokens of the text have no {written} to be filled", self.limit);
            return Err(Error::Head { name: self.name.clone(), message });
        }
        let (hidden, _) = self.hidden(&[&part]);
        let [_, t, d] = hidden.dims();
        let rows = hidden.reshape([t, d]).select(0, Tensor::<1, Int>::from_data(&at[..], &self.model.encoder.device()));
        let Some(head) = &self.model.head else { return Ok(Vec::new()) };
        let scores = head.forward(rows, self.model.encoder.embeddings());
        let vocabulary = scores.dims()[1];
        let scores = self.finite(scores.into_data().try_into_vec().unwrap_or_default())?;
        let word = |id: u32| {
            let text = self.tokenizer.decode(&[id], false).unwrap_or_default();
            if text.is_empty() { self.tokenizer.id_to_token(id).unwrap_or_default() } else { text }
        };
        let best = |row: &[f32]| {
            let shares = softmax(row);
            let mut order: Vec<u32> = (0..vocabulary as u32).collect();
            order.sort_by(|a, b| shares[*b as usize].total_cmp(&shares[*a as usize]));
            let filled = order.into_iter().take(n).map(|id| Filled { word: word(id), id, score: shares[id as usize] });
            filled.collect()
        };
        Ok(scores.chunks(vocabulary).map(best).collect())
    }

    /// The `n` best answers to a question in a text: spans of at most `most` tokens that do not overlap, sorted by descending score. A text longer than the
    /// input limit is split into windows that overlap by `overlap` tokens. An error if the model has no question-answering head or the question is too long.
    pub fn answer(
        &self,
        question: &str,
        text: &str,
        n: usize,
        most: usize,
        overlap: usize,
    ) -> Result<Vec<Answer>, Error> {
        self.for_task(Task::Question)?;
        let wrong = |e: tokenizers::Error| Error::Tokenizer { file: self.name.clone(), message: e.to_string() };
        let asked = self.encoding(question, false)?.len() + 4;
        if asked + 1 >= self.limit {
            return Err(Error::Limit { found: asked, least: 1, most: self.limit - 2 });
        }
        let mut tokenizer = self.tokenizer.clone();
        let truncation = TruncationParams {
            max_length: self.limit,
            strategy: TruncationStrategy::OnlySecond,
            stride: overlap.min((self.limit - asked) / 2),
            ..TruncationParams::default()
        };
        tokenizer.with_truncation(Some(truncation)).map_err(wrong)?;
        let mut whole = tokenizer.encode((question, text), true).map_err(wrong)?;
        let more = whole.take_overflowing();
        let mut found: Vec<Answer> = Vec::new();
        for encoding in std::iter::once(whole).chain(more) {
            self.known(encoding.get_ids())?;
            found.extend(self.answers(&encoding, most)?);
        }
        found.sort_by(|a, b| b.score.total_cmp(&a.score));
        let mut kept: Vec<Answer> = Vec::new();
        for answer in found {
            let apart = |k: &Answer| answer.bytes.end <= k.bytes.start || k.bytes.end <= answer.bytes.start;
            if kept.len() < n && kept.iter().all(apart) {
                kept.push(answer);
            }
        }
        Ok(kept)
    }

    /// The best spans of one window.
    fn answers(&self, encoding: &Encoding, most: usize) -> Result<Vec<Answer>, Error> {
        const CANDIDATES: usize = 32;
        if encoding.is_empty() {
            return Ok(Vec::new());
        }
        let places: Vec<Option<(usize, usize)>> = (0..encoding.len())
            .map(|i| (encoding.token_to_sequence(i) == Some(1)).then(|| encoding.get_offsets()[i]))
            .collect();
        let part = Part {
            ids: encoding.get_ids().to_vec(),
            types: encoding.get_type_ids().to_vec(),
            bytes: 0..0,
            skip: 0,
            places,
        };
        let (scores, ..) = self.scores(&[&part])?;
        // Only tokens of the text can be answers; the first token stands for "no answer".
        let end = |which: usize| {
            let of =
                |i: usize| if i == 0 || part.places[i].is_some() { scores[2 * i + which] } else { f32::NEG_INFINITY };
            softmax(&(0..part.ids.len()).map(of).collect::<Vec<_>>())
        };
        let (starts, ends) = (end(0), end(1));
        let best = |shares: &[f32]| {
            let mut order: Vec<usize> = (0..shares.len()).filter(|i| part.places[*i].is_some()).collect();
            order.sort_by(|a, b| shares[*b].total_cmp(&shares[*a]));
            order.truncate(CANDIDATES);
            order
        };
        let mut found = Vec::new();
        for i in best(&starts) {
            for &j in &best(&ends) {
                if let (Some((start, _)), Some((_, end))) = (part.places[i], part.places[j])
                    && (i..i + most).contains(&j)
                    && start < end
                {
                    found.push(Answer { score: starts[i] * ends[j], bytes: start..end });
                }
            }
        }
        Ok(found)
    }
}
