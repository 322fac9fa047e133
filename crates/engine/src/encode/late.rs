//! Late interaction: one vector per token, compared by MaxSim. Khattab and Zaharia 2020 (ColBERT), with the conventions of PyLate.

use longreach_nn::Reading;
use ndarray::Array2;
use tokenizers::TruncationDirection;

use super::pipeline::Late;
use super::{Long, Part, TextEncoder, normalize};
use crate::Error;

impl TextEncoder {
    fn late(&self) -> Result<&Late, Error> {
        self.pipeline.late.as_ref().ok_or_else(|| Error::NotLate(self.name.clone()))
    }

    /// The token id of a prefix; `None` if the prefix is empty.
    fn prefix(&self, prefix: &str) -> Result<Option<u32>, Error> {
        if prefix.is_empty() {
            return Ok(None);
        }
        let id = self.tokenizer.token_to_id(prefix).or_else(|| self.tokenizer.token_to_id(prefix.trim_end()));
        let message = format!("the vocabulary lacks the prefix `{prefix}`");
        id.map(Some).ok_or_else(|| Error::Tokenizer { file: self.name.clone(), message })
    }

    /// Tokenizes a text, truncated to `length` tokens, with its prefix after the first token.
    fn prefixed(&self, text: &str, prefix: Option<u32>, length: usize) -> Result<Part, Error> {
        let room = length.min(self.limit).saturating_sub(usize::from(prefix.is_some()) + self.special_tokens());
        let mut encoding = self.encoding(text, false)?;
        encoding.truncate(room, 0, TruncationDirection::Right);
        let end = encoding.get_offsets().last().map_or(0, |(_, end)| *end);
        let mut part = self.part(encoding, 0, 0, 0..end, 0)?;
        if let Some(prefix) = prefix {
            self.known(&[prefix])?;
            part.ids.insert(1, prefix);
            part.types.insert(1, 0);
            part.places.insert(1, None);
        }
        Ok(part)
    }

    /// Tokenizes a document, like [`TextEncoder::parts`]. An error if the model is not a late-interaction model.
    pub fn late_parts(&self, text: &str, long: Long) -> Result<Vec<Part>, Error> {
        let late = self.late()?;
        let prefix = self.prefix(&late.document_prefix)?;
        let length = late.document_length;
        let Long::Split { overlap } = long else { return Ok(vec![self.prefixed(text, prefix, length)?]) };
        let room = length.min(self.limit).saturating_sub(usize::from(prefix.is_some()) + self.special_tokens()).max(1);
        let whole = self.encoding(text, false)?;
        let offsets = whole.get_offsets();
        if offsets.len() <= room {
            return Ok(vec![self.prefixed(text, prefix, length)?]);
        }
        let step = room - overlap.min(room / 2);
        let mut parts = Vec::new();
        let mut first = 0;
        loop {
            let last = (first + room).min(offsets.len());
            let from = offsets[first].0;
            let mut part = self.prefixed(&text[from..offsets[last - 1].1], prefix, length)?;
            part.bytes = from..from + part.bytes.end;
            let moved = |place: &mut Option<(usize, usize)>| {
                if let Some((start, end)) = place {
                    (*start, *end) = (*start + from, *end + from);
                }
            };
            part.places.iter_mut().for_each(moved);
            parts.push(part);
            if last == offsets.len() {
                return Ok(parts);
            }
            first += step;
        }
    }

    /// The token vectors of documents, concatenated per document: `[tokens, width]`. Tokens of the skiplist are dropped.
    pub fn late_documents(&self, parts: &[&Part]) -> Result<Vec<Vec<f32>>, Error> {
        let late = self.late()?;
        let skipped: Vec<u32> = late.skiplist.iter().filter_map(|word| self.tokenizer.token_to_id(word)).collect();
        let (hidden, bounds) = self.hidden(parts);
        let d = hidden.dims()[2];
        let hidden: Vec<f32> = hidden.into_data().try_into_vec().unwrap_or_default();
        let mut kept = Vec::new();
        let mut counts = Vec::new();
        for (part, w) in parts.iter().zip(bounds.windows(2)) {
            let rows = hidden[w[0] * d..w[1] * d].chunks_exact(d).zip(&part.ids);
            let before = kept.len();
            rows.filter(|(_, id)| !skipped.contains(id)).for_each(|(row, _)| kept.extend_from_slice(row));
            counts.push((kept.len() - before) / d);
        }
        let mut vectors = self.pipeline.finished(kept, d);
        let width = self.width();
        normalize(&mut vectors, width);
        let mut rest = &vectors[..];
        let take = |n: usize| {
            let (mine, others) = rest.split_at(n * width);
            rest = others;
            mine.to_vec()
        };
        Ok(counts.into_iter().map(take).collect())
    }

    /// The token vectors of a query, concatenated: `[tokens, width]`. Models with query expansion pad the query with mask tokens to a fixed length.
    pub fn late_query(&self, text: &str) -> Result<Vec<f32>, Error> {
        let late = self.late()?;
        let prefix = self.prefix(&late.query_prefix)?;
        let mut part = self.prefixed(text, prefix, late.query_length)?;
        let own = part.ids.len();
        if late.expansion && own < late.query_length {
            let mask = self.special("mask_token", "[MASK]");
            let filler = [mask, self.special("eos_token", "[SEP]")];
            let filler = filler.iter().find_map(|token| self.tokenizer.token_to_id(token));
            let message = "the vocabulary has no mask token, which query expansion needs".to_owned();
            let filler = filler.ok_or_else(|| Error::Tokenizer { file: self.name.clone(), message })?;
            self.known(&[filler])?;
            part.ids.resize(late.query_length.min(self.limit), filler);
        }
        let seen = Array2::from_shape_fn((1, part.ids.len()), |(_, t)| t < own || late.attend);
        let reading = Reading { keep: Some(&seen), ..Reading::one(&part.ids) };
        let hidden = self.model.encoder.forward(&reading);
        let d = hidden.dims()[2];
        let mut vectors = self.pipeline.finished(hidden.into_data().try_into_vec().unwrap_or_default(), d);
        normalize(&mut vectors, self.width());
        Ok(vectors)
    }
}
