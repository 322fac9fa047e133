//! Texts that a decoder continues while it is trained, by the most probable tokens.

use super::Run;
use crate::objective::{largest, numbers};

/// Tokens of a continuation.
const TOKENS: usize = 40;

impl Run {
    /// The beginnings of the configuration with their continuations; none for encoders.
    pub(super) fn samples(&mut self) -> Vec<String> {
        let Some(texts) = &self.texts else { return Vec::new() };
        let (beginnings, end) = (&self.config.report.samples, self.end);
        let encode = |text: &String| {
            let mut ids = texts.prefix().unwrap_or_default();
            ids.extend(texts.plain(text).unwrap_or_default());
            ids
        };
        let prompts: Vec<Vec<u32>> = beginnings.iter().map(encode).filter(|ids| !ids.is_empty()).collect();
        let continued = self.learner.evaluated(|model| {
            let Some(decoder) = model.decoder() else { return Vec::new() };
            let room = decoder.longest().unwrap_or(usize::MAX);
            let next = |prompt: &Vec<u32>| {
                let mut all = prompt[..prompt.len().min(room)].to_vec();
                let mut cache = decoder.start(1);
                let mut new = all.clone();
                while all.len() < prompt.len() + TOKENS && all.len() < room {
                    let hidden = decoder.forward(&new, &mut cache, None);
                    let last = hidden.dims()[1] - 1;
                    let id = largest(&numbers(decoder.logits(hidden.narrow(1, last, 1)))) as u32;
                    if Some(id) == end {
                        break;
                    }
                    all.push(id);
                    new = vec![id];
                }
                all
            };
            prompts.iter().map(next).collect::<Vec<_>>()
        });
        continued.iter().filter_map(|ids| texts.tokenizer().decode(ids).ok()).collect()
    }
}
