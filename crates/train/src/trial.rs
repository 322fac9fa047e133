//! Steps of masked pre-training on random tokens, for measurements of time and memory.

use longreach_engine::Pooling;
use longreach_models::EncoderModel;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::Error;
use crate::config::Optimiser;
use crate::data::{Example, Target};
use crate::learner::{Learner, NONE};
use crate::model::Trained;
use crate::objective::{Masked, Objective};
use crate::texts::Text;

/// The part of the tokens that is predicted. Devlin et al. 2019, §3.1.
const PREDICTED: f64 = 0.15;

/// An encoder of random weights that is pre-trained on random tokens.
pub struct Trial {
    learner: Learner,
    objective: Masked,
}

impl Trial {
    /// The model of a `config.json` with a masked-language head. An error if the model type is unknown or a field does not fit.
    pub fn new(config: &str, recompute: bool) -> Result<Self, Error> {
        let encoder = EncoderModel::random("config.json", config, 0, &longreach_burn::cpu().autodiff())?;
        if encoder.head.is_none() {
            let message = "want a model with a masked-language head, such as `BertForMaskedLM`".to_owned();
            return Err(Error::Config { file: "config.json".into(), message });
        }
        let model = Trained::Encoder(encoder, Pooling::Mean);
        let model = if recompute { model.recomputing() } else { model };
        let settings: Optimiser = toml::from_str("steps = 1000000\nbatch = 1\nrate = 1e-4\nweight_decay = 0.01")
            .map_err(|e| Error::Text(e.to_string()))?;
        let learner = Learner::new(model, &settings).map_err(Error::Text)?;
        Ok(Self { learner, objective: Masked { part: PREDICTED } })
    }

    /// The number of parameters.
    pub fn parameters(&self) -> usize {
        self.learner.model.parameters()
    }

    /// One step on a text of `tokens` tokens, at least one: forward pass, backward pass and AdamW. Returns the loss before it, in
    /// nats per predicted token. An error if the gradients of several steps were not finite.
    pub fn step(&mut self, tokens: usize) -> Result<f32, Error> {
        let mut draw = ChaCha8Rng::seed_from_u64(self.learner.step as u64);
        let vocabulary = self.learner.model.vocabulary().max(2) as u32;
        let ids: Vec<u32> = (0..tokens).map(|_| draw.random_range(1..vocabulary)).collect();
        let mut targets: Vec<i64> =
            ids.iter().map(|id| if draw.random_bool(PREDICTED) { i64::from(*id) } else { NONE }).collect();
        targets[0] = i64::from(ids[0]);
        let example = Example::new(vec![Text { ids, ..Text::default() }], Target::Tokens(targets));
        let learnt = self.objective.learn(&mut self.learner.model, &[example], 1);
        Ok(self.learner.apply(learnt)?.loss)
    }
}
