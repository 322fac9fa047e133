//! A model in training: the one loop of all trainings and studies.

use std::ops::ControlFlow;

use burn::lr_scheduler::module_lr_scheduler::{ModuleLearningRate, ModuleLrScheduler};
use burn::module::{ParamGroup, ParamId};
use burn::optim::ModuleOptimizer;
use burn::tensor::{Int, Tensor};
use longreach_models::Model;
use longreach_nn::Cache;

use crate::Error;
use crate::config::{ClipBy, LossOn, Optimiser, Packing};
use crate::model::Trained;
use crate::objective::{Causal, Learnt};
use crate::optimiser::{Average, clip, norm, optimiser, rate};

/// The most steps in a row whose gradient is not finite.
const SKIPPED: usize = 10;

/// A model and its optimiser.
pub(crate) struct Learner {
    pub(crate) model: Trained,
    pub(crate) optimiser: ModuleOptimizer,
    /// Number of steps done.
    pub(crate) step: usize,
    /// Number of steps that were skipped since their gradients were not finite.
    pub(crate) skipped: usize,
    in_a_row: usize,
    /// The moving average of the weights.
    pub(crate) average: Option<Average>,
    pub(crate) settings: Optimiser,
    /// Parameter groups and their learning-rate factors.
    groups: Vec<(Vec<ParamId>, f64)>,
}

/// A step that was done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Done {
    /// Number of steps done.
    pub(crate) step: usize,
    /// The loss before the step, in nats per target.
    pub(crate) loss: f32,
    /// The learning rate.
    pub(crate) rate: f64,
    /// The norm of the gradient before clipping.
    pub(crate) norm: f64,
}

impl Learner {
    /// A model before its first step; the error names the invalid setting.
    pub(crate) fn new(model: Trained, settings: &Optimiser) -> Result<Self, String> {
        settings.check_groups()?;
        let optimiser = optimiser(settings, &model.network(), model.names(), model.vocabulary());
        let group = |group: &crate::Group| (model.names().ending(&group.ends).collect(), group.factor);
        let groups = settings.groups.iter().map(group).collect();
        let average = settings.average.map(Average::new);
        Ok(Self { model, optimiser, step: 0, skipped: 0, in_a_row: 0, average, settings: settings.clone(), groups })
    }

    /// The language model of a study.
    pub(crate) fn decoder(&self) -> &Model {
        match &self.model {
            Trained::Decoder(model) => model,
            Trained::Encoder(..) | Trained::Table(_) => unreachable!("studies train language models"),
        }
    }

    /// Learns until step `to`: `learn` computes the gradients of a step, and `tell` is called after each. Breaks where `tell` does.
    pub(crate) fn train(
        &mut self,
        to: usize,
        mut learn: impl FnMut(&mut Self) -> Result<Learnt, Error>,
        mut tell: impl FnMut(&mut Self, Done) -> Result<ControlFlow<()>, Error>,
    ) -> Result<ControlFlow<()>, Error> {
        while self.step < to {
            let learnt = learn(self)?;
            let done = self.apply(learnt)?;
            if tell(self, done)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// The learning rates of the current step, per parameter group.
    fn rates(&self, rate: f64) -> ModuleLearningRate {
        let all = ModuleLrScheduler::new(rate);
        let add = |rates: ModuleLrScheduler, (ids, factor): &(Vec<ParamId>, f64)| {
            rates.with_group(ParamGroup::from_ids(ids.clone()), rate * factor)
        };
        self.groups.iter().fold(all, add).step()
    }

    /// One step of the optimiser. Gradients that are not finite are skipped; an error after several in a row.
    pub(crate) fn apply(&mut self, mut learnt: Learnt) -> Result<Done, Error> {
        let network = self.model.network();
        let norm = norm(&network, &learnt.gradients);
        let rate = rate(&self.settings, self.step);
        self.step += 1;
        let done = Done { step: self.step, loss: learnt.loss, rate, norm };
        if !norm.is_finite() {
            self.skipped += 1;
            self.in_a_row += 1;
            if self.in_a_row >= SKIPPED {
                return Err(Error::Diverged { step: self.step, loss: learnt.loss });
            }
            return Ok(done);
        }
        self.in_a_row = 0;
        if self.settings.clip_by == ClipBy::All {
            clip(&network, &mut learnt.gradients, norm, f64::from(self.settings.clip));
        }
        let rates = self.rates(rate);
        let network = self.optimiser.step(rates, network, learnt.gradients);
        if let Some(average) = &mut self.average {
            average.update(&network, self.step);
        }
        self.model.put(network);
        Ok(done)
    }

    /// Calls `f` with the average in place of the weights, if there is one, while no gradients are recorded.
    pub(crate) fn evaluated<T>(&mut self, f: impl FnOnce(&Trained) -> T) -> T {
        let own = self.model.network();
        if let Some(average) = &self.average {
            self.model.put(average.values.placed(own.clone()));
        }
        let value = self.model.still(f);
        self.model.put(own);
        value
    }

    /// The gradients of a language model on `ids` and `targets`, both `[batch × length]`; negative targets are ignored.
    pub(crate) fn next_tokens(&self, ids: &[u32], targets: &[i64], batch: usize) -> Learnt {
        self.next_tokens_after(ids, targets, self.decoder().decoder.start(batch))
    }

    /// Like [`Learner::next_tokens`], for sequences that continue from a state.
    pub(crate) fn next_tokens_after(&self, ids: &[u32], targets: &[i64], cache: Cache) -> Learnt {
        Causal::new(LossOn::All, self.settings.segments, Packing::Packed).learn_after(&self.model, ids, targets, cache)
    }
}

/// The target of a token without a loss.
pub(crate) const NONE: i64 = -100;

/// The indices of the tokens with a loss, and their targets.
pub(crate) fn counted(targets: &[i64]) -> (Vec<i32>, Vec<i64>) {
    targets.iter().enumerate().filter(|(_, t)| **t >= 0).map(|(i, t)| (i as i32, *t)).unzip()
}

/// Selects rows of `[B × T, d]` from `[B, T, d]`, as `[1, n, d]`.
pub(crate) fn chosen(hidden: Tensor<3>, rows: &[i32]) -> Tensor<3> {
    let [b, t, d] = hidden.dims();
    let rows = Tensor::<1, Int>::from_data(rows, &hidden.device());
    hidden.reshape([b * t, d]).select(0, rows).unsqueeze()
}
