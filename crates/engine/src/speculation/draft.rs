//! Proposals of a smaller model with the same tokens.

use longreach_nn::{Decoder, Mark};

use crate::{Cancel, Engine, Error, History, Sampler, Session};

/// A smaller model, which reads the same text.
pub(super) struct Draft {
    session: Session,
    /// Vocabulary of the model that it proposes to.
    vocabulary: usize,
    /// The text that is certain.
    text: Vec<u32>,
    /// The state after it, if proposals were read behind it.
    mark: Option<Mark>,
    /// Tokens that were read behind the mark.
    behind: Vec<u32>,
    /// Whether the text has more tokens than this model has positions, or others than it knows.
    lost: bool,
}

impl Draft {
    /// Errors if the models have different tokens.
    pub(super) fn new(engine: &Engine, draft: &Engine) -> Result<Self, Error> {
        let [of_model, of_draft] = [engine, draft].map(|engine| engine.model.decoder.vocabulary());
        let wrong = |message: String| Error::Speculation { name: draft.name.clone(), message };
        match (engine.tokenizer(), draft.tokenizer()) {
            (Ok(a), Ok(b)) => {
                let differs = |id: &u32| a.token(*id) != b.token(*id);
                if let Some(id) = (0..of_model.min(of_draft) as u32).find(differs) {
                    let [found, want] =
                        [b, a].map(|t| t.token(id).map_or("nothing".into(), |token| format!("`{token}`")));
                    return Err(wrong(format!(
                        "a draft model must have the tokens of the model, {}: token {id} is {found}, want {want}",
                        engine.name
                    )));
                }
            }
            _ if of_model == of_draft => {}
            _ => {
                return Err(wrong(format!(
                    "a draft model must have the vocabulary of the model, {}: found {of_draft} tokens, want {of_model}",
                    engine.name
                )));
            }
        }
        if !draft.model.decoder.reads_few_as_one() {
            return Err(wrong("its layers remember segments of the text, so that it cannot propose tokens".into()));
        }
        let (text, behind) = (Vec::new(), Vec::new());
        Ok(Self { session: draft.session(), vocabulary: of_model, text, mark: None, behind, lost: false })
    }

    /// Reads what is new of a text. Proposals that are not in it are forgotten.
    pub(super) fn follow(&mut self, text: &[u32], cancel: &Cancel) -> Result<(), Error> {
        let begins = text.starts_with(&self.text);
        let kept = match text.get(self.text.len()..).filter(|_| begins) {
            Some(new) => new.iter().zip(&self.behind).take_while(|(a, b)| a == b).count(),
            None => 0,
        };
        if let Some(mark) = self.mark.take() {
            self.session.rewind(mark, &self.behind, kept);
        }
        self.text.extend(self.behind.drain(..).take(kept));
        if !begins {
            self.session = self.session.engine.session();
            self.text.clear();
        }
        self.session.set_cancel(cancel.clone());
        let (before, from) = (self.session.tokens(), self.text.len());
        let new = &text[from..];
        let unknown = |id: &u32| *id as usize >= self.session.vocabulary();
        self.lost = self.session.room().is_some_and(|room| room < new.len() as u64) || new.iter().any(unknown);
        if self.lost {
            return Ok(());
        }
        // What is read before a cancellation is known by the number of tokens.
        let read = self.session.read(new);
        let done = (self.session.tokens() - before) as usize;
        self.text.extend(&new[..done]);
        read
    }

    /// Up to `most` tokens that this model samples after the text and `next`, with copies of the sampler and the history of
    /// the other one.
    pub(super) fn propose(
        &mut self,
        next: u32,
        mut sampler: Sampler,
        mut history: History,
        most: usize,
    ) -> Result<Vec<u32>, Error> {
        let room = self.session.room().unwrap_or(u64::MAX) as usize;
        // The last proposal is not read.
        let most = most.min(room).min(Decoder::FEW);
        if most == 0 || self.lost || next as usize >= self.session.vocabulary() {
            return Ok(Vec::new());
        }
        self.mark = Some(self.session.mark());
        let (mut last, mut found) = (next, Vec::with_capacity(most));
        history.write(next);
        loop {
            self.session.read(&[last])?;
            self.behind.push(last);
            let logits = self.session.finite_logits()?;
            last = sampler.choose(&logits[..logits.len().min(self.vocabulary)], &history);
            found.push(last);
            history.write(last);
            if found.len() == most {
                return Ok(found);
            }
        }
    }
}
