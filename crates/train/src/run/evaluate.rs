//! Evaluation on the held-out data: metrics, the best model, early stopping.

use std::ops::ControlFlow;

use super::data::Held;
use super::{Event, Run};
use crate::Error;
use crate::model::Trained;
use crate::objective::{Metrics, nats};
use crate::report::Files;

/// Whether smaller values of a metric are better.
fn is_error(name: &str) -> bool {
    matches!(name, "loss" | "perplexity" | "bits_per_byte" | "mse")
}

impl Run {
    /// Whether the evaluations have not improved for as long as the user waits.
    pub(super) fn stopped(&self) -> bool {
        self.config.evaluate.patience.is_some_and(|patience| self.standing.since >= patience.max(1))
    }

    /// The metrics on the held-out data, of at most `most` rows or pages; none if nothing is held out.
    pub(super) fn measured(&mut self, most: Option<usize>) -> Metrics {
        let most = most.unwrap_or(usize::MAX);
        let micro = self.config.optimiser.micro.unwrap_or(self.config.optimiser.batch);
        let (objective, end) = (&self.objective, self.end.unwrap_or(0));
        match &self.held {
            Held::Rows(examples) if examples.is_empty() => Vec::new(),
            Held::Rows(examples) => {
                let examples = &examples[..examples.len().min(most)];
                self.learner.evaluated(|model| objective.measure(model, examples, micro))
            }
            Held::Pages { pages, bytes, .. } => {
                let (part, all) = (&pages[..pages.len().min(most)], pages.len());
                let tokens: usize = part.iter().map(Vec::len).sum();
                if tokens == 0 {
                    return Vec::new();
                }
                let sum: f64 = self.learner.evaluated(|model| match model {
                    Trained::Decoder(model) => part.iter().map(|page| nats(&model.decoder, end, page)).sum(),
                    Trained::Encoder(..) | Trained::Table(_) => f64::NAN,
                });
                let loss = sum / tokens as f64;
                let mut metrics = vec![("loss".to_owned(), loss), ("perplexity".to_owned(), loss.exp())];
                if *bytes > 0 && part.len() == all {
                    metrics.push(("bits_per_byte".into(), sum * std::f64::consts::LOG2_E / *bytes as f64));
                }
                metrics
            }
        }
    }

    /// Evaluates the model, keeps it if it is the best so far, and continues the samples.
    pub(super) fn evaluate(
        &mut self,
        files: &mut Files,
        tell: &mut impl FnMut(Event) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        let (step, metrics) = (self.learner.step, self.measured(self.config.evaluate.most));
        files.evaluated(step, &metrics)?;
        self.standing.evaluations.push((step, metrics.clone()));
        for text in self.samples() {
            files.sample(step, &text)?;
            self.standing.samples.push((step, text.clone()));
            let _ = tell(Event::Sample(text));
        }
        let Some((name, value)) = self.deciding(&metrics)? else { return Ok(()) };
        let better = |best: f64| if is_error(&name) { value < best } else { value > best };
        let best = value.is_finite() && self.standing.best.is_none_or(|(known, _)| better(known));
        if best {
            self.standing.best = Some((value, step));
            self.standing.since = 0;
            self.write_model("best")?;
        } else {
            self.standing.since += 1;
        }
        let _ = tell(Event::Evaluated { step, metrics, best });
        Ok(())
    }

    /// The metric that decides which model is best, and its value. An error if the objective does not report it.
    fn deciding(&self, metrics: &Metrics) -> Result<Option<(String, f64)>, Error> {
        let Some(name) = &self.config.evaluate.metric else { return Ok(metrics.first().cloned()) };
        let found = metrics.iter().find(|(known, _)| known == name);
        if found.is_none() && !metrics.is_empty() {
            let known = metrics.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
            let message = format!("`evaluate.metric`: want one of {known}, found `{name}`");
            return Err(Error::Config { file: "evaluate".into(), message });
        }
        Ok(found.cloned())
    }
}
