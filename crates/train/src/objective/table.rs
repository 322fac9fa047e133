//! A column of a table, from others.

use burn::tensor::Tensor;

use super::{Metrics, Objective, Roles, Row, cross_entropy, largest, numbers, sum_of_nats};
use crate::data::{Example, Target};
use crate::metric;
use crate::model::Trained;
use crate::texts::Texts;
use longreach_models::{Answer, TableModel, TableRow};

/// Labels or numbers of rows.
pub(crate) struct OfTable;

fn model(model: &Trained) -> &TableModel {
    model.table().expect("the objective was checked when the model was built")
}

/// The outputs for examples, `[examples, outputs]`.
fn outputs(of: &TableModel, examples: &[Example]) -> Tensor<2> {
    let rows: Vec<&TableRow> = examples.iter().filter_map(|example| example.row.as_ref()).collect();
    of.forward(&rows)
}

fn labels(examples: &[Example]) -> Vec<i64> {
    let label = |example: &Example| if let Target::Label(label) = example.target { label as i64 } else { 0 };
    examples.iter().map(label).collect()
}

fn wanted(examples: &[Example]) -> Vec<f32> {
    let number = |example: &Example| if let Target::Number(number) = example.target { number } else { 0.0 };
    examples.iter().map(number).collect()
}

impl Objective for OfTable {
    fn roles(&self) -> &'static Roles {
        &[]
    }

    fn examples(&self, _: &Row<'_>, _: &Texts) -> Result<Vec<Example>, String> {
        Err("rows of a table are read by their columns, and not as texts".into())
    }

    fn loss(&self, trained: &Trained, examples: &[Example]) -> Tensor<1> {
        let of = model(trained);
        let outputs = outputs(of, examples);
        match &of.answer {
            Answer::Label { .. } => cross_entropy(outputs, &labels(examples)),
            Answer::Number { .. } => {
                let wanted = Tensor::<1>::from_data(&wanted(examples)[..], &outputs.device()).unsqueeze_dim(1);
                (outputs - wanted).powi_scalar(2).mean()
            }
        }
    }

    fn measure(&self, trained: &Trained, examples: &[Example], micro: usize) -> Metrics {
        let of = model(trained);
        let pieces = examples.chunks(micro.max(1));
        let all: Vec<f32> = pieces.flat_map(|piece| numbers(outputs(of, piece))).collect();
        match &of.answer {
            Answer::Label { values, .. } => of_labels(&all, values.len(), &labels(examples)),
            Answer::Number { deviation, .. } => {
                let numbers = |x: &[f32]| x.iter().map(|x| f64::from(*x) * deviation).collect::<Vec<f64>>();
                let (wanted, found) = (numbers(&wanted(examples)), numbers(&all));
                vec![
                    ("mse".into(), metric::squared_error(&wanted, &found)),
                    ("pearson".into(), metric::pearson(&wanted, &found)),
                    ("spearman".into(), metric::spearman(&wanted, &found)),
                ]
            }
        }
    }
}

/// The metrics of labels, for rows of `width` outputs. Of two labels, the area under the curve is that of the second.
fn of_labels(all: &[f32], width: usize, targets: &[i64]) -> Metrics {
    let found = all.chunks(width).map(largest);
    let pairs: Vec<(usize, usize)> = targets.iter().map(|t| *t as usize).zip(found).collect();
    let mut metrics = Metrics::new();
    if width == 2 {
        let scores: Vec<f64> = all.chunks(2).map(|row| f64::from(row[1]) - f64::from(row[0])).collect();
        metrics.push(("auc".into(), metric::area(&scores, &targets.iter().map(|t| *t == 1).collect::<Vec<_>>())));
    }
    metrics.push(("accuracy".into(), metric::accuracy(&pairs)));
    metrics.push(("f1".into(), metric::macro_f1(&pairs)));
    metrics.push(("mcc".into(), metric::matthews(&pairs)));
    metrics.push(("loss".into(), sum_of_nats(all, width, targets) / targets.len().max(1) as f64));
    metrics
}
