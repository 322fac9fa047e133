//! One label, several labels or a number for a text or a pair of texts.

use burn::tensor::{Tensor, activation};

use super::{
    Metrics, Objective, Roles, Row, Weighing, gathered, largest, list, number_of, numbers, scores, sum_of_nats,
};
use crate::config::TextsOf;
use crate::data::{Example, Record, Target};
use crate::metric;
use crate::model::Trained;
use crate::texts::Texts;

/// Classification of texts, and regression.
pub(crate) struct OfTexts {
    pub(crate) of: TextsOf,
    pub(crate) labels: Vec<String>,
    pub(crate) weighing: Weighing,
}

impl Objective for OfTexts {
    fn roles(&self) -> &'static Roles {
        match self.of {
            TextsOf::Several => &[(&["text", "labels"], &["pair"])],
            TextsOf::One | TextsOf::Number => &[(&["text", "label"], &["pair"])],
        }
    }

    fn labels(&mut self, roles: &[String], rows: &[&Record]) -> Result<Vec<String>, String> {
        let row = |record| Row { number: 0, roles, record };
        let found: Vec<String> = match self.of {
            TextsOf::Number => vec!["LABEL_0".into()],
            TextsOf::One => rows.iter().filter_map(|r| row(r).get("label").map(str::to_owned)).collect(),
            TextsOf::Several => {
                let lists = rows.iter().map(|r| row(r).get("labels").map_or_else(|| Ok(Vec::new()), list));
                lists.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect()
            }
        };
        self.labels = gathered(&self.labels, found.into_iter());
        if self.labels.len() < 2 && self.of == TextsOf::One {
            return Err(format!("want at least two labels, found {}: {}", self.labels.len(), self.labels.join(", ")));
        }
        self.weighing.number(&self.labels)?;
        Ok(self.labels.clone())
    }

    fn count(&self, examples: &[Example]) -> f64 {
        match self.of {
            TextsOf::One => self.weighing.count(labels(examples).into_iter()),
            TextsOf::Number | TextsOf::Several => examples.len() as f64,
        }
    }

    fn examples(&self, row: &Row<'_>, texts: &Texts) -> Result<Vec<Example>, String> {
        let text = texts.around(row.text("text")?, row.get("pair"))?;
        let target = match self.of {
            TextsOf::One => Target::Label(number_of(&self.labels, row.text("label")?)?),
            TextsOf::Number => {
                let found = row.text("label")?;
                let number: f32 =
                    found.trim().parse().map_err(|_| format!("`label`: want a number, found `{found}`"))?;
                Target::Number(number)
            }
            TextsOf::Several => {
                let mut marks = vec![0.0; self.labels.len()];
                for label in row.list("labels")? {
                    marks[number_of(&self.labels, &label)?] = 1.0;
                }
                Target::Labels(marks)
            }
        };
        Ok(vec![Example::new(vec![text], target)])
    }

    fn loss(&self, model: &Trained, examples: &[Example]) -> Tensor<1> {
        let scores = scores(model, examples);
        match self.of {
            TextsOf::One => self.weighing.loss(scores, &labels(examples)),
            TextsOf::Number => {
                let wanted = Tensor::<1>::from_data(&wanted(examples)[..], &scores.device()).unsqueeze_dim(1);
                (scores - wanted).powi_scalar(2).mean()
            }
            TextsOf::Several => {
                let [n, width] = scores.dims();
                let wanted = Tensor::<1>::from_data(&wanted(examples)[..], &scores.device()).reshape([n, width]);
                // −y ln σ(x) − (1 − y) ln σ(−x)
                let positive = activation::log_sigmoid(scores.clone()) * wanted.clone();
                let negative = activation::log_sigmoid(scores.neg()) * (wanted.neg() + 1.0);
                (positive + negative).mean().neg()
            }
        }
    }

    fn measure(&self, model: &Trained, examples: &[Example], micro: usize) -> Metrics {
        let (mut all, mut width) = (Vec::new(), 1);
        for piece in examples.chunks(micro.max(1)) {
            let scores = scores(model, piece);
            width = scores.dims()[1];
            all.extend(numbers(scores));
        }
        let n = examples.len().max(1) as f64;
        match self.of {
            TextsOf::One => {
                let targets = labels(examples);
                let found = all.chunks(width).map(largest);
                let pairs: Vec<(usize, usize)> = targets.iter().map(|t| *t as usize).zip(found).collect();
                vec![
                    ("accuracy".into(), metric::accuracy(&pairs)),
                    ("f1".into(), metric::macro_f1(&pairs)),
                    ("mcc".into(), metric::matthews(&pairs)),
                    ("loss".into(), sum_of_nats(&all, width, &targets) / n),
                ]
            }
            TextsOf::Number => {
                let wanted: Vec<f64> = wanted(examples).into_iter().map(f64::from).collect();
                let found: Vec<f64> = all.into_iter().map(f64::from).collect();
                vec![
                    ("spearman".into(), metric::spearman(&wanted, &found)),
                    ("pearson".into(), metric::pearson(&wanted, &found)),
                    ("mse".into(), metric::squared_error(&wanted, &found)),
                ]
            }
            TextsOf::Several => {
                let wanted = wanted(examples);
                let marks =
                    |x: &[f32], most: f32| x.chunks(width).map(|r| r.iter().map(|x| *x > most).collect()).collect();
                let (marked, found): (Vec<Vec<bool>>, Vec<Vec<bool>>) = (marks(&wanted, 0.5), marks(&all, 0.0));
                let same = marked.iter().zip(&found).filter(|(w, f)| w == f).count();
                vec![("f1".into(), metric::micro_f1(&marked, &found)), ("accuracy".into(), same as f64 / n)]
            }
        }
    }
}

fn labels(examples: &[Example]) -> Vec<i64> {
    let label = |example: &Example| match example.target {
        Target::Label(label) => label as i64,
        _ => 0,
    };
    examples.iter().map(label).collect()
}

fn wanted(examples: &[Example]) -> Vec<f32> {
    let of = |example: &Example| match &example.target {
        Target::Number(number) => vec![*number],
        Target::Labels(marks) => marks.clone(),
        _ => Vec::new(),
    };
    examples.iter().flat_map(of).collect()
}
