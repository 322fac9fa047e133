//! How a cross-entropy counts labels: weights of classes, and smoothed labels.
//!
//! $$ \ell = \frac{\sum_i (1 - \varepsilon)\, w_{y_i} (-\ln p_{i, y_i}) + \frac{\varepsilon}{C} \sum_c w_c (-\ln p_{i, c})}{\sum_i w_{y_i}} $$
//!
//! As in PyTorch. Label smoothing is by Szegedy et al. 2016, §7.

use std::collections::BTreeMap;

use burn::tensor::{Int, Tensor, activation};

/// The weight of each label, and the share of a label that is spread over all.
#[derive(Clone, Debug, Default)]
pub(crate) struct Weighing {
    smoothing: f64,
    /// By name; 1 for labels that are not listed.
    named: BTreeMap<String, f64>,
    /// By number; all 1 if empty.
    weights: Vec<f32>,
}

impl Weighing {
    pub(crate) fn new(smoothing: f64, named: BTreeMap<String, f64>) -> Self {
        Self { smoothing, named, weights: Vec::new() }
    }

    /// Numbers the weights as the labels are. An error if a weight is that of no label.
    pub(crate) fn number(&mut self, labels: &[String]) -> Result<(), String> {
        if let Some(name) = self.named.keys().find(|name| !labels.contains(name)) {
            let known = labels.join(", ");
            return Err(format!("`objective.class_weights`: there is no label `{name}`; there are {known}"));
        }
        if !self.named.is_empty() {
            self.weights = labels.iter().map(|label| self.named.get(label).map_or(1.0, |w| *w as f32)).collect();
        }
        Ok(())
    }

    /// What targets count: the sum of their weights.
    pub(crate) fn count(&self, targets: impl Iterator<Item = i64>) -> f64 {
        let of = |target: i64| match self.weights.get(target as usize) {
            Some(weight) => f64::from(*weight),
            None => 1.0,
        };
        targets.map(of).sum()
    }

    /// The mean loss of scores `[R, labels]`, all of which have a target.
    pub(crate) fn loss(&self, scores: Tensor<2>, targets: &[i64]) -> Tensor<1> {
        if self.smoothing == 0.0 && self.weights.is_empty() {
            return super::cross_entropy(scores, targets);
        }
        let (device, labels) = (scores.device(), scores.dims()[1]);
        let nats = activation::log_softmax(scores, 1).neg();
        let numbers: Vec<i32> = targets.iter().map(|target| *target as i32).collect();
        let at = Tensor::<1, Int>::from_data(&numbers[..], &device).unsqueeze_dim(1);
        let weights = if self.weights.is_empty() { vec![1.0; labels] } else { self.weights.clone() };
        let own: Vec<f32> = targets.iter().map(|target| weights[*target as usize]).collect();
        let own = Tensor::<1>::from_data(&own[..], &device).unsqueeze_dim::<2>(1);
        let mut sum = (nats.clone().gather(1, at) * own).sum() * (1.0 - self.smoothing);
        if self.smoothing > 0.0 {
            let all = Tensor::<1>::from_data(&weights[..], &device).unsqueeze::<2>();
            sum = sum + (nats * all).sum() * (self.smoothing / labels as f64);
        }
        sum / self.count(targets.iter().copied())
    }
}
