//! A model in training: one optimiser step at a time.

use burn::grad_clipping::GradientClippingConfig;
use burn::lr_scheduler::module_lr_scheduler::{ModuleLearningRate, ModuleLrScheduler};
use burn::module::{Module, ModuleVisitor, Param, ParamGroup, ParamId};
use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::Tensor;
use longreach_models::Model;
use longreach_nn::{Cache, Decoder, Segments, Through};

use crate::config::{Flow, Optimiser, SegmentsOf};

/// A model and its optimiser.
pub(crate) struct Learner {
    pub(crate) model: Model,
    pub(crate) optimiser: ModuleOptimizer,
    /// Number of steps done.
    pub(crate) step: usize,
    settings: Optimiser,
    /// Parameter groups and their learning-rate factors.
    groups: Vec<(Vec<ParamId>, f64)>,
    segments: Option<Segments>,
}

impl Learner {
    /// A model before its first step; the error names the invalid setting.
    pub(crate) fn new(model: Model, settings: &Optimiser) -> Result<Self, String> {
        let optimiser = optimiser(settings, &model.decoder);
        let groups = settings.groups.iter().map(|group| {
            let ids: Vec<ParamId> = model.names.ending(&group.ends).collect();
            if group.factor < 0.0 || !group.factor.is_finite() {
                return Err(format!(
                    "`optimiser.groups`: `factor`: want a number of at least 0, found {}",
                    group.factor
                ));
            }
            Ok((ids, group.factor))
        });
        let groups = groups.collect::<Result<_, _>>()?;
        let segments = match settings.segments {
            Some(SegmentsOf { length: 0, .. }) => {
                return Err("`optimiser.segments`: `length`: want at least 1, found 0".into());
            }
            Some(SegmentsOf { length, through }) => {
                let through = if through == Flow::All { Through::All } else { Through::Segment };
                Some(Segments { length, through })
            }
            None => None,
        };
        Ok(Self { model, optimiser, step: 0, settings: settings.clone(), groups, segments })
    }

    /// The learning rates of the current step, per parameter group.
    fn rates(&self) -> ModuleLearningRate {
        let rate = rate(&self.settings, self.step);
        let all = ModuleLrScheduler::new(rate);
        let add = |rates: ModuleLrScheduler, (ids, factor): &(Vec<ParamId>, f64)| {
            rates.with_group(ParamGroup::from_ids(ids.clone()), rate * factor)
        };
        self.groups.iter().fold(all, add).step()
    }

    /// One optimiser step on `ids` and `targets`, both `[batch × length]`. Returns the loss before the step, in nats per target; negative targets are ignored.
    pub(crate) fn learn(&mut self, ids: &[u32], targets: &[i64], batch: usize) -> f32 {
        self.learn_after(ids, targets, self.model.decoder.start(batch))
    }

    /// Like [`Learner::learn`], for sequences that continue from a state.
    pub(crate) fn learn_after(&mut self, ids: &[u32], targets: &[i64], mut cache: Cache) -> f32 {
        let decoder = &self.model.decoder;
        let (value, gradients) = if let Some(segments) = self.segments {
            let learnt = segments.learn(decoder, ids, targets, cache);
            (learnt.loss, learnt.gradients)
        } else {
            let hidden = decoder.forward(ids, &mut cache, None);
            let mut loss = decoder.loss(hidden, targets);
            let value = loss.clone().inner().into_data().iter::<f32>().next().unwrap_or(f32::NAN);
            if let Some(more) = cache.loss.take() {
                loss = loss + more;
            }
            drop(cache);
            (value, GradientsParams::from_grads(loss.backward(), decoder))
        };
        let rates = self.rates();
        // The optimiser consumes the model and returns it.
        let decoder = self.model.decoder.clone();
        self.model.decoder = self.optimiser.step(rates, decoder, gradients);
        self.step += 1;
        value
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
    let rows = Tensor::<1, burn::tensor::Int>::from_data(rows, &hidden.device());
    hidden.reshape([b * t, d]).select(0, rows).unsqueeze()
}

/// The learning rate of a step: linear warm-up, then cosine decay to a tenth.
fn rate(o: &Optimiser, step: usize) -> f64 {
    if step < o.warmup {
        return o.rate * (step + 1) as f64 / o.warmup as f64;
    }
    let part = (step - o.warmup) as f64 / (o.steps - o.warmup).max(1) as f64;
    o.rate * (0.1 + 0.45 * (1.0 + (std::f64::consts::PI * part).cos()))
}

/// AdamW with weight decay on matrices only, and gradient clipping per parameter.
pub(crate) fn optimiser(settings: &Optimiser, decoder: &Decoder) -> ModuleOptimizer {
    struct Vectors(Vec<ParamId>);
    impl ModuleVisitor for Vectors {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if D == 1 {
                self.0.push(param.id);
            }
        }
    }
    let mut vectors = Vectors(Vec::new());
    decoder.visit(&mut vectors);
    let clip = GradientClippingConfig::Norm(settings.clip);
    let adam = AdamWConfig::new().with_beta_1(0.9).with_beta_2(0.95).with_epsilon(1e-8);
    let matrices = adam.clone().with_weight_decay(settings.weight_decay);
    ModuleOptimizer::from(matrices.build()).with_grad_clipping(clip.init()).with_group(
        ParamGroup::from_ids(vectors.0),
        adam.with_weight_decay(0.0).build(),
        Some(clip.init()),
    )
}
