//! Objectives: what a model learns, a file each. An objective turns rows into examples, examples into a loss, and predictions into metrics.
//!
//! The loss of a step is the mean over all its targets, whatever the pieces in which it is computed: each piece counts by its number of targets.

use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{Int, Tensor, activation};
use longreach_models::EncoderModel;
use longreach_nn::Reading;
use ndarray::Array2;
use rand_chacha::ChaCha8Rng;

use crate::config::{self, Config};
use crate::data::{Example, Record, Target};
use crate::model::{Network, Trained};
use crate::texts::{Text, Texts};

mod causal;
mod contrastive;
mod masked;
mod spans;
mod table;
mod texts;
mod tokens;
mod weighing;

pub(crate) use causal::{Causal, nats};
pub(crate) use masked::Masked;
use weighing::Weighing;

/// Metrics by name.
pub(crate) type Metrics = Vec<(String, f64)>;

/// The loss of a step, in nats per target, and its gradients.
pub(crate) struct Learnt {
    pub(crate) loss: f32,
    pub(crate) gradients: GradientsParams,
}

/// The columns that an objective reads: sets of those it needs, and those it may have.
pub(crate) type Roles = [(&'static [&'static str], &'static [&'static str])];

/// What a model learns.
pub(crate) trait Objective {
    /// The columns of a table.
    fn roles(&self) -> &'static Roles;

    /// The labels that occur in the rows, for objectives with labels.
    fn labels(&mut self, roles: &[String], rows: &[&Record]) -> Result<Vec<String>, String> {
        let _ = (roles, rows);
        Ok(Vec::new())
    }

    /// The examples of row `number`; none for a row without targets.
    fn examples(&self, row: &Row<'_>, texts: &Texts) -> Result<Vec<Example>, String>;

    /// An example as a step learns it, which may depend on chance.
    fn drawn(&self, example: &Example, draw: &mut ChaCha8Rng) -> Example {
        let _ = draw;
        example.clone()
    }

    /// What the targets count together: their number, unless they have weights.
    fn count(&self, examples: &[Example]) -> f64 {
        examples.iter().map(|example| counted(&example.target)).sum::<usize>() as f64
    }

    /// The mean loss over the targets of examples, of which there is at least one.
    fn loss(&self, model: &Trained, examples: &[Example]) -> Tensor<1>;

    /// The loss and the gradients of a step, computed `micro` examples at once.
    fn learn(&self, model: &mut Trained, examples: &[Example], micro: usize) -> Learnt {
        in_pieces(self, model, examples, micro)
    }

    /// The metrics of examples, computed `micro` at once; the first one decides which model is best unless another is named.
    fn measure(&self, model: &Trained, examples: &[Example], micro: usize) -> Metrics;
}

/// A row by the roles of its values.
pub(crate) struct Row<'a> {
    pub(crate) number: u64,
    pub(crate) roles: &'a [String],
    pub(crate) record: &'a Record,
}

impl Row<'_> {
    /// The value of a role; `None` if the table has no such column or the value is missing.
    pub(crate) fn get(&self, role: &str) -> Option<&str> {
        let at = self.roles.iter().position(|known| known == role)?;
        self.record.values.get(at)?.as_deref()
    }

    /// The value of a role that must be there.
    pub(crate) fn text(&self, role: &str) -> Result<&str, String> {
        self.get(role).ok_or_else(|| format!("`{role}`: there is no value"))
    }

    /// A list of strings.
    pub(crate) fn list(&self, role: &str) -> Result<Vec<String>, String> {
        list(self.text(role)?).map_err(|message| format!("`{role}`: {message}"))
    }
}

/// A list of strings in JSON; its numbers as strings.
pub(crate) fn list(text: &str) -> Result<Vec<String>, String> {
    let values: Vec<serde_json::Value> =
        serde_json::from_str(text).map_err(|_| format!("want a list such as [\"a\", \"b\"], found {text:.40}"))?;
    let string = |value: serde_json::Value| match value {
        serde_json::Value::String(text) => text,
        other => other.to_string(),
    };
    Ok(values.into_iter().map(string).collect())
}

/// The objective of a configuration.
pub(crate) fn objective(config: &Config) -> Box<dyn Objective> {
    match config.objective.clone() {
        config::Objective::Causal { loss_on } => {
            Box::new(Causal::new(loss_on, config.optimiser.segments, config.data.packing))
        }
        config::Objective::Masked { part } => Box::new(masked::Masked { part }),
        config::Objective::Texts { of, labels, label_smoothing, class_weights } => {
            let weighing = Weighing::new(label_smoothing, class_weights);
            Box::new(texts::OfTexts { of, labels, weighing })
        }
        config::Objective::Tokens { labels, label_smoothing, class_weights } => {
            let weighing = Weighing::new(label_smoothing, class_weights);
            Box::new(tokens::OfTokens { labels, weighing })
        }
        config::Objective::Table { .. } => Box::new(table::OfTable),
        config::Objective::Spans { stride } => Box::new(spans::Spans { stride }),
        config::Objective::Contrastive { scale, symmetric } => Box::new(contrastive::Contrastive { scale, symmetric }),
    }
}

fn counted(target: &Target) -> usize {
    match target {
        Target::None => 0,
        Target::Tokens(targets) => targets.iter().filter(|target| **target >= 0).count(),
        Target::Label(_) | Target::Labels(_) | Target::Number(_) | Target::Span(..) => 1,
    }
}

/// Adds up the gradients of pieces of `micro` examples, each weighted by its share of the targets.
pub(crate) fn in_pieces<O: Objective + ?Sized>(
    objective: &O,
    model: &Trained,
    examples: &[Example],
    micro: usize,
) -> Learnt {
    let network = model.network();
    let all = objective.count(examples);
    let mut gradients = GradientsAccumulator::<Network>::new();
    let mut sum = 0.0;
    for piece in examples.chunks(micro.max(1)) {
        let count = objective.count(piece);
        if count == 0.0 {
            continue;
        }
        let mut loss = objective.loss(model, piece);
        if count < all {
            loss = loss * (count as f32 / all as f32);
        }
        sum += value(&loss);
        gradients.accumulate(&network, GradientsParams::from_grads(loss.backward(), &network));
    }
    Learnt { loss: sum, gradients: gradients.grads() }
}

/// The number that a tensor of one element holds.
pub(crate) fn value(x: &Tensor<1>) -> f32 {
    let x = if x.device().is_autodiff() { x.clone().inner() } else { x.clone() };
    x.into_data().iter::<f32>().next().unwrap_or(f32::NAN)
}

/// All numbers of a tensor.
pub(crate) fn numbers<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    let x = if x.device().is_autodiff() { x.inner() } else { x };
    x.into_data().iter::<f32>().collect()
}

/// The rows of `[R, d]` that have a target, and these targets.
pub(crate) fn chosen(rows: Tensor<2>, targets: &[i64]) -> (Tensor<2>, Vec<i64>) {
    let counted = targets.iter().enumerate().filter(|(_, target)| **target >= 0);
    let (at, targets): (Vec<i32>, Vec<i64>) = counted.map(|(i, target)| (i as i32, *target)).unzip();
    let at = Tensor::<1, Int>::from_data(&at[..], &rows.device());
    (rows.select(0, at), targets)
}

/// The mean of `−ln softmax(scores)[target]` over rows `[R, labels]`, all of which have a target.
pub(crate) fn cross_entropy(scores: Tensor<2>, targets: &[i64]) -> Tensor<1> {
    let targets: Vec<i32> = targets.iter().map(|target| *target as i32).collect();
    let at = Tensor::<1, Int>::from_data(&targets[..], &scores.device()).unsqueeze_dim(1);
    activation::log_softmax(scores, 1).gather(1, at).mean().neg()
}

/// The sum of `−ln softmax(row)[target]` over rows of `width` scores, in f64.
pub(crate) fn sum_of_nats(scores: &[f32], width: usize, targets: &[i64]) -> f64 {
    let of = |(row, target): (&[f32], &i64)| {
        let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let total: f64 = row.iter().map(|x| f64::from(x - most).exp()).sum();
        total.ln() - f64::from(row[*target as usize] - most)
    };
    scores.chunks(width.max(1)).zip(targets).map(of).sum()
}

/// The place of the largest number.
pub(crate) fn largest(row: &[f32]) -> usize {
    (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b]).then(b.cmp(a))).unwrap_or(0)
}

/// Texts packed into one row, as an encoder reads them.
pub(crate) struct Packed {
    ids: Vec<u32>,
    types: Vec<u32>,
    pub(crate) bounds: Vec<usize>,
    global: Option<Array2<bool>>,
}

impl Packed {
    pub(crate) fn of<'t>(model: &EncoderModel, texts: impl Iterator<Item = &'t Text>) -> Self {
        let kinds = model.description.body.types().unwrap_or(1) as u32;
        let (mut ids, mut types, mut bounds, mut global) = (Vec::new(), Vec::new(), vec![0], Vec::new());
        for text in texts {
            ids.extend_from_slice(&text.ids);
            types.extend(
                (0..text.ids.len()).map(|i| text.types.get(i).map_or(0, |t| (*t).min(kinds.saturating_sub(1)))),
            );
            global.extend(model.globals(&text.ids));
            bounds.push(ids.len());
        }
        let marked = global.iter().any(|mark| *mark);
        let global = marked.then(|| Array2::from_shape_vec((1, ids.len()), global).expect("one mark per token"));
        Self { ids, types, bounds, global }
    }

    pub(crate) fn reading(&self) -> Reading<'_> {
        let types = self.types.iter().any(|t| *t != 0).then_some(&self.types[..]);
        Reading { types, packed: Some(&self.bounds), global: self.global.as_ref(), ..Reading::one(&self.ids) }
    }
}

/// The encoder of a model; objectives of encoders are not given another one.
pub(crate) fn encoder(model: &Trained) -> &EncoderModel {
    model.encoder().expect("the objective was checked when the model was built")
}

/// The scores of an encoder's head for the first text of each example, `[texts or tokens, scores]`.
pub(crate) fn scores(model: &Trained, examples: &[Example]) -> Tensor<2> {
    let model = encoder(model);
    let packed = Packed::of(model, examples.iter().map(|example| &example.texts[0]));
    model.forward(&packed.reading()).scores.expect("the objective's head was built")
}

/// The labels: those given, or those of the rows, numbers in their order and others by name.
pub(crate) fn gathered(given: &[String], found: impl Iterator<Item = String>) -> Vec<String> {
    if !given.is_empty() {
        return given.to_vec();
    }
    let mut labels: Vec<String> = found.collect::<std::collections::BTreeSet<_>>().into_iter().collect();
    if let Ok(mut numbers) =
        labels.iter().map(|l| l.parse::<i64>().map(|n| (n, l.clone()))).collect::<Result<Vec<_>, _>>()
    {
        numbers.sort();
        labels = numbers.into_iter().map(|(_, label)| label).collect();
    }
    labels
}

/// The number of a label.
pub(crate) fn number_of(labels: &[String], label: &str) -> Result<usize, String> {
    let at = labels.iter().position(|known| known == label);
    at.ok_or_else(|| format!("label `{label}` is not one of {}", labels.join(", ")))
}
