//! A text in windows of equal length, each read from an empty state: how perplexity and importances are measured.

use crate::{Engine, Error};

/// Positions whose logits are in memory at a time.
const POSITIONS: usize = 32;

impl Engine {
    /// The tokens of a text in windows of `length`, without what is left at the end. The first token of a window is the one
    /// that the tokenizer puts before every text, if it has one, in place of the text's own. A text shorter than that is one
    /// window.
    ///
    /// Errors if the text has fewer than two tokens, if a token has no row in the embedding table, or if the model does not
    /// have as many positions.
    pub fn windows(&self, text: &str, length: usize) -> Result<Vec<Vec<u32>>, Error> {
        let tokenizer = self.tokenizer()?;
        let (prefix, mut ids) = (tokenizer.prefix()?, tokenizer.encode(text)?);
        ids.splice(0..0, prefix.iter().copied());
        tokenizer.within(&ids, self.model.decoder.vocabulary())?;
        if ids.len() < 2 {
            return Err(Error::TooShort(ids.len()));
        }
        let length = length.max(2).min(ids.len());
        if let Some(longest) = self.model.decoder.longest().filter(|longest| length > *longest) {
            return Err(Error::TooLong { found: length as u64, longest });
        }
        let first = |mut window: Vec<u32>| {
            if let [first] = prefix[..] {
                window[0] = first;
            }
            window
        };
        Ok(ids.chunks_exact(length).map(|window| first(window.to_vec())).collect())
    }

    /// Reads a window from an empty state, and calls `visit` with each position from `first` on and the logits `[vocabulary]`
    /// after its token. Panics if a token has no row in the embedding table.
    pub fn each_logits(&self, window: &[u32], first: usize, mut visit: impl FnMut(usize, &[f32])) {
        self.run(|| {
            let decoder = &self.model.decoder;
            let hidden = decoder.forward(window, &mut decoder.start(1), None);
            for from in (first..window.len()).step_by(POSITIONS) {
                let n = POSITIONS.min(window.len() - from);
                let logits: Vec<f32> = decoder
                    .logits(hidden.clone().narrow(1, from, n))
                    .into_data()
                    .try_into_vec()
                    .expect("logits are f32");
                let rows = logits.chunks_exact(logits.len() / n);
                (from..).zip(rows).for_each(|(position, logits)| visit(position, logits));
            }
        });
    }
}
