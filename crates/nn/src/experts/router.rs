//! The router of a mixture of experts: it scores all experts for a token, chooses a few, and weighs them.

use burn::module::{Module, Param};
use burn::tensor::{Tensor, TensorData, activation};
use longreach_burn as ops;

use crate::linear::Bias;
use crate::{Builder, Error, Init, Linear};

/// How a router scores and chooses.
#[derive(Clone, Debug, PartialEq)]
pub struct RouterConfig {
    /// The name of the router's matrix in a checkpoint.
    pub name: String,
    /// Whether the matrix has a bias.
    pub bias: Bias,
    /// What turns the outputs of the matrix into scores.
    pub score: Score,
    /// The name of a bias, one per expert, that is added to the scores for the choice only. Wang et al. 2024.
    pub correction: Option<String>,
    /// Whether only experts of a few groups may be chosen.
    pub groups: Option<ExpertGroups>,
    /// If given, the weights of the chosen experts are divided by their sum plus this number.
    pub normalize: Option<f32>,
    /// A factor of all weights.
    pub scale: f32,
    /// The RMS norm of the router's input: its ε, and the name of its weights, which are divided by the root of the width.
    /// Gemma 4.
    pub norm: Option<(f64, String)>,
    /// The name of factors of the experts' weights. Gemma 4.
    pub expert_scales: Option<String>,
}

impl RouterConfig {
    /// Softmax over all experts, whose weights are divided by their sum if `normalize` is true.
    pub fn softmax(name: impl Into<String>, normalize: bool) -> Self {
        Self {
            name: name.into(),
            bias: Bias::No,
            score: Score::Softmax,
            correction: None,
            groups: None,
            normalize: normalize.then_some(0.0),
            scale: 1.0,
            norm: None,
            expert_scales: None,
        }
    }

    /// A sigmoid for each expert, whose weights are divided by their sum plus `normalize`, if given.
    pub fn sigmoid(name: impl Into<String>, normalize: Option<f32>) -> Self {
        Self { score: Score::Sigmoid, normalize, ..Self::softmax(name, false) }
    }
}

/// What turns the outputs of a router's matrix into scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Score {
    /// The softmax over all experts.
    Softmax,
    /// A sigmoid for each expert. DeepSeek-AI 2024.
    Sigmoid,
}

/// Groups of consecutive experts, of which the best are kept for the choice. A group is as good as the sum of the two
/// largest scores in it. DeepSeek-AI 2024.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpertGroups {
    /// The number of groups.
    pub count: usize,
    /// How many of them are kept.
    pub kept: usize,
}

/// See [`RouterConfig`].
#[derive(Module, Debug)]
pub(super) struct Router {
    pub(super) matrix: Linear,
    correction: Option<Param<Tensor<1>>>,
    norm: Option<Param<Tensor<1>>>,
    norm_eps: f64,
    expert_scales: Option<Param<Tensor<1>>>,
    #[module(skip)]
    groups: Option<ExpertGroups>,
    #[module(skip)]
    score: Score,
    normalize: Option<f64>,
    scale: f64,
    chosen: usize,
}

/// The experts of every token.
pub(super) struct Choice {
    /// `[N, experts]`: the weight of each chosen expert, and 0 of the others.
    pub(super) weights: Tensor<2>,
    /// The tokens of each expert.
    pub(super) tokens: Vec<Vec<i32>>,
}

impl Router {
    /// The router of width `d` that chooses `chosen` of `count` experts. Errors if there are too few of them, or a
    /// weight is missing.
    pub(super) fn new(b: &mut Builder, d: usize, [count, chosen]: [usize; 2], c: &RouterConfig) -> Result<Self, Error> {
        if chosen == 0 || chosen > count {
            return Err(b.error(format!("{chosen} of {count} experts a token: want 1 to {count}")));
        }
        if let Some(ExpertGroups { count: groups, kept }) = c.groups {
            if groups == 0 || kept == 0 || kept > groups || !count.is_multiple_of(groups) {
                return Err(b.error(format!("{kept} of {groups} groups of {count} experts: want equal groups")));
            }
            if chosen > count / groups * kept {
                return Err(b.error(format!("{chosen} experts of {kept} groups of {}: too many", count / groups)));
            }
        }
        // The choice is sensitive to small differences of the outputs, so the router is not quantised.
        let matrix = b.in_floats(|b| Linear::new(b, &c.name, d, count, c.bias))?;
        let correction = c.correction.as_ref().map(|name| b.vector(name, count, Init::Constant(0.0))).transpose()?;
        let ones = Init::Constant(1.0);
        let norm = c.norm.as_ref().map(|(_, name)| b.vector(name, d, ones)).transpose()?;
        let norm_eps = c.norm.as_ref().map_or(0.0, |(eps, _)| *eps);
        let expert_scales = c.expert_scales.as_ref().map(|name| b.vector(name, count, ones)).transpose()?;
        let (score, normalize, scale) = (c.score, c.normalize.map(f64::from), f64::from(c.scale));
        let groups = c.groups;
        Ok(Self { matrix, correction, norm, norm_eps, expert_scales, groups, score, normalize, scale, chosen })
    }

    /// The experts of each row of `x: [N, d]`. `shape`, `[B, T, d]`, is how the rows are divided into sequences.
    pub(super) fn route(&self, x: Tensor<3>) -> Choice {
        let ([b, t, _], device) = (x.dims(), x.device());
        let x = match &self.norm {
            Some(weight) => {
                let by = (x.dims()[2] as f64).powf(-0.5);
                ops::rms_norm(x, Some(weight.val().mul_scalar(by)), self.norm_eps as f32)
            }
            None => x,
        };
        let outputs = self.matrix.forward(x);
        let count = outputs.dims()[2];
        let outputs = outputs.reshape([b * t, count]);
        let scores = match self.score {
            Score::Softmax => activation::softmax(outputs, 1),
            Score::Sigmoid => activation::sigmoid(outputs),
        };
        let numbers: Vec<f32> = scores.clone().into_data().iter().collect();
        let correction = self.correction.as_ref().map(|c| c.val().into_data().iter().collect::<Vec<f32>>());
        let (mut mask, mut tokens) = (vec![0.0; numbers.len()], vec![Vec::new(); count]);
        for (token, row) in numbers.chunks_exact(count).enumerate() {
            let corrected: Vec<f32> = match &correction {
                Some(correction) => row.iter().zip(correction).map(|(score, by)| score + by).collect(),
                None => row.to_vec(),
            };
            for e in choose(&corrected, self.groups, self.chosen) {
                mask[token * count + e] = 1.0;
                tokens[e].push(token as i32);
            }
        }
        let mut weights = scores * Tensor::<2>::from_data(TensorData::new(mask, [b * t, count]), &device);
        if let Some(more) = self.normalize {
            let sum = weights.clone().sum_dim(1);
            weights = weights / if more == 0.0 { sum } else { sum.add_scalar(more) };
        }
        if self.scale != 1.0 {
            weights = weights.mul_scalar(self.scale);
        }
        if let Some(scales) = &self.expert_scales {
            weights = weights * scales.val().unsqueeze();
        }
        Choice { weights, tokens }
    }
}

/// The `n` largest of the scores that are in the best groups; ties go to the lower index.
fn choose(scores: &[f32], groups: Option<ExpertGroups>, n: usize) -> Vec<usize> {
    let largest = |of: Vec<f32>, n: usize| {
        let mut order: Vec<usize> = (0..of.len()).collect();
        order.sort_by(|a, b| of[*b].total_cmp(&of[*a]));
        order.truncate(n);
        order
    };
    let Some(ExpertGroups { count, kept }) = groups else { return largest(scores.to_vec(), n) };
    let width = scores.len() / count;
    let best = |group: &[f32]| largest(group.to_vec(), 2).into_iter().map(|i| group[i]).sum();
    let kept = largest(scores.chunks_exact(width).map(best).collect(), kept);
    let allowed = |(e, score): (usize, &f32)| if kept.contains(&(e / width)) { *score } else { f32::NEG_INFINITY };
    largest(scores.iter().enumerate().map(allowed).collect(), n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn experts_of_the_best_groups_are_chosen() {
        let scores = [0.1, 0.2, 0.9, 0.0, 0.5, 0.5, 0.4, 0.3];
        let groups = |count, kept| Some(ExpertGroups { count, kept });
        assert_eq!(choose(&scores, None, 3), [2, 4, 5]);
        // Sums of the two best: 0.3, 0.9, 1.0, 0.7.
        assert_eq!(choose(&scores, groups(4, 1), 2), [4, 5]);
        assert_eq!(choose(&scores, groups(4, 2), 3), [2, 4, 5]);
        // 1.1 and 1.0.
        assert_eq!(choose(&scores, groups(2, 1), 2), [2, 1]);
    }
}
