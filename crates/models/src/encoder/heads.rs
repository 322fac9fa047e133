//! The task heads of encoders, by the names in their checkpoints.

use longreach_nn::{Activation, Bias, FeedForwardConfig, HeadConfig, Layout, NormConfig, Over};
use serde_json::Value;

use super::Task;
use crate::{Error, Fields};

/// The head of a checkpoint, and the names of its labels.
pub(crate) struct Heads {
    task: Option<Task>,
    hidden: usize,
    vocabulary: usize,
    labels: Vec<String>,
}

/// The hidden layer of a head: its name, bias and activation.
pub(crate) type Dense = (&'static str, Bias, Activation);

impl Heads {
    pub(crate) fn of(fields: &Fields, hidden: usize, vocabulary: usize) -> Result<Self, Error> {
        let task = Task::of(fields);
        let labels = match task {
            Some(Task::Sequence | Task::Token) => labels(fields)?,
            _ => Vec::new(),
        };
        Ok(Self { task, hidden, vocabulary, labels })
    }

    pub(crate) fn task(&self) -> Option<Task> {
        self.task
    }

    fn plain(&self, over: Over, out: &'static str, outputs: usize, bias: &'static [&'static str]) -> HeadConfig {
        HeadConfig { over, width: self.hidden, dense: None, around: None, norm: None, out, outputs, bias, tied: false }
    }

    fn dense(&self, dense: Option<Dense>) -> Option<(&'static str, usize, Bias, Activation)> {
        dense.map(|(name, bias, f)| (name, self.hidden, bias, f))
    }

    /// A masked language-model head: `decoder` is the output layer, whose bias has one of the given names.
    pub(crate) fn words(
        &self,
        dense: Option<Dense>,
        norm: Option<(&'static str, NormConfig)>,
        decoder: &'static str,
        bias: &'static [&'static str],
    ) -> HeadConfig {
        let plain = self.plain(Over::Tokens, decoder, self.vocabulary, bias);
        HeadConfig { dense: self.dense(dense), norm, tied: true, ..plain }
    }

    /// A head that scores labels.
    pub(crate) fn labelled(&self, over: Over, dense: Option<Dense>, names: [&'static str; 2]) -> HeadConfig {
        let bias: &'static [&'static str] = match names[1] {
            "classifier.bias" => &["classifier.bias"],
            "classifier.out_proj.bias" => &["classifier.out_proj.bias"],
            _ => &[],
        };
        HeadConfig { dense: self.dense(dense), ..self.plain(over, names[0], self.labels.len(), bias) }
    }

    /// A question-answering head, which scores the first and the last token of answers.
    pub(crate) fn ends(&self, out: &'static str, bias: &'static [&'static str]) -> HeadConfig {
        self.plain(Over::Tokens, out, 2, bias)
    }

    pub(crate) fn labels(self) -> Vec<String> {
        self.labels
    }
}

/// The names of the labels: `id2label`, whose values may be numbers, or `LABEL_0` and so on.
fn labels(fields: &Fields) -> Result<Vec<String>, Error> {
    let Some(map) = fields.get("id2label") else {
        let n = fields.size("num_labels", 2)?;
        return Ok((0..n).map(|i| format!("LABEL_{i}")).collect());
    };
    let wrong = || fields.error("field `id2label`: want an object of the numbers from 0 on and names");
    let map = map.as_object().ok_or_else(wrong)?;
    let name = |i: usize| match map.get(&i.to_string()).ok_or_else(wrong)? {
        Value::String(name) => Ok(name.clone()),
        plain @ (Value::Number(_) | Value::Bool(_)) => Ok(plain.to_string()),
        _ => Err(wrong()),
    };
    (0..map.len()).map(name).collect()
}

/// The feed-forward layer of BERT and related models.
pub(crate) fn feed_forward(
    fields: &Fields,
    inner: usize,
    activation: Activation,
    names: [&'static str; 2],
) -> Result<FeedForwardConfig, Error> {
    let inner = fields.size("intermediate_size", inner)?;
    Ok(FeedForwardConfig { inner, activation, gated: false, bias: Bias::Yes, names, layout: Layout::Same })
}
