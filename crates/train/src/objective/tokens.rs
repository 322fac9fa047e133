//! A label for every word, on the first of its tokens.

use burn::tensor::Tensor;

use super::causal::NONE;
use super::{Metrics, Objective, Roles, Row, Weighing, chosen, gathered, largest, list, number_of, numbers, scores};
use crate::data::{Example, Record, Target};
use crate::metric;
use crate::model::Trained;
use crate::texts::Texts;

/// Classification of words.
pub(crate) struct OfTokens {
    pub(crate) labels: Vec<String>,
    pub(crate) weighing: Weighing,
}

impl Objective for OfTokens {
    fn roles(&self) -> &'static Roles {
        &[(&["tokens", "tags"], &[])]
    }

    fn labels(&mut self, roles: &[String], rows: &[&Record]) -> Result<Vec<String>, String> {
        let of = |record| Row { number: 0, roles, record }.get("tags").map_or_else(|| Ok(Vec::new()), list);
        let found = rows.iter().map(|row| of(row)).collect::<Result<Vec<_>, _>>()?;
        self.labels = gathered(&self.labels, found.into_iter().flatten());
        self.weighing.number(&self.labels)?;
        Ok(self.labels.clone())
    }

    fn count(&self, examples: &[Example]) -> f64 {
        let all = examples.iter().flat_map(|example| targets(example).iter().copied());
        self.weighing.count(all.filter(|target| *target >= 0))
    }

    fn examples(&self, row: &Row<'_>, texts: &Texts) -> Result<Vec<Example>, String> {
        let (words, tags) = (row.list("tokens")?, row.list("tags")?);
        if words.len() != tags.len() {
            return Err(format!("`tags`: want one for each of {} tokens, found {}", words.len(), tags.len()));
        }
        let numbers = tags.iter().map(|tag| number_of(&self.labels, tag)).collect::<Result<Vec<_>, _>>()?;
        let (text, of_word) = texts.words(&words)?;
        let mut targets = vec![NONE; text.ids.len()];
        let mut last = None;
        for (target, word) in targets.iter_mut().zip(&of_word) {
            if let Some(word) = word
                && last != Some(*word)
                && let Some(number) = numbers.get(*word as usize)
            {
                *target = *number as i64;
            }
            last = word.or(last);
        }
        if targets.iter().all(|target| *target < 0) {
            return Ok(Vec::new());
        }
        Ok(vec![Example::new(vec![text], Target::Tokens(targets))])
    }

    fn loss(&self, model: &Trained, examples: &[Example]) -> Tensor<1> {
        let targets: Vec<i64> = examples.iter().flat_map(|example| targets(example).iter().copied()).collect();
        let (rows, targets) = chosen(scores(model, examples), &targets);
        self.weighing.loss(rows, &targets)
    }

    fn measure(&self, model: &Trained, examples: &[Example], micro: usize) -> Metrics {
        let (mut wanted, mut found, mut pairs) = (Vec::new(), Vec::new(), Vec::new());
        for piece in examples.chunks(micro.max(1)) {
            let scores = scores(model, piece);
            let width = scores.dims()[1].max(1);
            let scores = numbers(scores);
            let mut rows = scores.chunks(width);
            for example in piece {
                let (mut right, mut guessed) = (Vec::new(), Vec::new());
                for target in targets(example) {
                    let Some(row) = rows.next() else { break };
                    if *target >= 0 {
                        pairs.push((*target as usize, largest(row)));
                        right.push(self.labels[*target as usize].as_str());
                        guessed.push(self.labels[largest(row)].as_str());
                    }
                }
                wanted.push(right);
                found.push(guessed);
            }
        }
        vec![("f1".into(), metric::entity_f1(&wanted, &found)), ("accuracy".into(), metric::accuracy(&pairs))]
    }
}

fn targets(example: &Example) -> &[i64] {
    match &example.target {
        Target::Tokens(targets) => targets,
        _ => &[],
    }
}
