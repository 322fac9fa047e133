//! The optimiser: AdamW or Muon by parameter, clipping, the schedule, and a moving average of the weights.

use burn::grad_clipping::GradientClippingConfig;
use burn::module::{Module, ModuleVisitor, Param, ParamGroup, ParamId};
use burn::optim::decay::WeightDecayConfig;
use burn::optim::{AdjustLrFn, ModuleOptimizer, MuonConfig};
use burn::tensor::Tensor;
use longreach_nn::Names;

use crate::config::{ClipBy, Kind, Optimiser};

mod adamw;
mod average;
mod clip;
mod schedule;

use adamw::AdamW;
pub(crate) use average::Average;
pub(crate) use clip::{clip, norm};
pub(crate) use schedule::rate;

/// The parameters by how they are optimised.
#[derive(Default)]
struct Kinds<'a> {
    names: Option<&'a Names>,
    vocabulary: usize,
    vectors: Vec<ParamId>,
    /// Matrices between layers, which Muon optimises.
    hidden: Vec<ParamId>,
}

impl ModuleVisitor for Kinds<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let name = self.names.and_then(|names| names.get(param.id)).map_or("", |(name, _)| name);
        let [rows, columns] = match param.val().dims()[..] {
            [rows, columns] => [rows, columns],
            [_] => return self.vectors.push(param.id),
            _ => return,
        };
        let of_words = rows == self.vocabulary || columns == self.vocabulary;
        let outer = ["embed", "position", "classifier", "qa_outputs", "head"].iter().any(|part| name.contains(part));
        if !of_words && !outer {
            self.hidden.push(param.id);
        }
    }
}

/// The optimiser of a module's parameters: weight decay on matrices only, and, if it is asked for, clipping by parameter.
pub(crate) fn optimiser<M: Module>(o: &Optimiser, module: &M, names: &Names, vocabulary: usize) -> ModuleOptimizer {
    let mut kinds = Kinds { names: Some(names), vocabulary, ..Kinds::default() };
    module.visit(&mut kinds);
    let clip = (o.clip_by == ClipBy::Parameter).then(|| GradientClippingConfig::Norm(o.clip).init());
    let adam = |decay: f32| AdamW { betas: o.betas, epsilon: o.epsilon, decay };
    let mut all = ModuleOptimizer::from(adam(o.weight_decay));
    if let Some(clip) = &clip {
        all = all.with_grad_clipping(clip.clone());
    }
    all = all.with_group(ParamGroup::from_ids(kinds.vectors), adam(0.0), clip.clone());
    if o.kind == Kind::Muon {
        let muon = MuonConfig::new()
            .with_weight_decay(Some(WeightDecayConfig::new(o.weight_decay)))
            .with_adjust_lr_fn(AdjustLrFn::MatchRmsAdamW);
        all = all.with_group(ParamGroup::from_ids(kinds.hidden), muon.build(), clip);
    }
    all
}
