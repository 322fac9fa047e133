//! Where the weights of a model come from, and which of them are trained.

use std::collections::BTreeSet;

use burn::tensor::TensorData;
use longreach_models::Checkpoint;
use longreach_nn::{Error, Init, Inputs, Layout, Precision, Random, Source, Spec, Update};
use longreach_simd::product::Quantised;

use super::adapter::{AdapterWeights, key};
use crate::config::Lora;

/// A source of weights: a checkpoint, and random numbers for what it lacks.
pub(super) struct Plan<'a> {
    /// `None` for random weights.
    pub(super) checkpoint: Option<Checkpoint>,
    pub(super) random: Random,
    /// The prefix of the names of the body, with its trailing dot. What is outside of it, or its pooler, may be absent in the checkpoint.
    pub(super) body: String,
    /// Whether heads are part of what is trained: those of labels and answers.
    pub(super) new_head: bool,
    /// The weight of the output layer that is tied to the embeddings, if there is no checkpoint to say so.
    pub(super) tied: Option<String>,
    /// Parts of the names of parameters that are not trained.
    pub(super) frozen: &'a [String],
    /// The entries of `frozen` that no name contains yet.
    pub(super) unmatched: BTreeSet<String>,
    pub(super) lora: Option<LoraPlan<'a>>,
    /// The weights that the checkpoint lacks.
    pub(super) fresh: Vec<String>,
}

/// Which matrices get a low-rank update.
pub(super) struct LoraPlan<'a> {
    pub(super) config: &'a Lora,
    /// The matrix of the output layer, which gets none unless it is a target.
    pub(super) head: String,
    /// The prefix that PEFT's names lack.
    pub(super) strip: String,
    /// The adapter to continue from.
    pub(super) from: Option<AdapterWeights>,
    /// The names of the layers that got an update.
    pub(super) updated: Vec<String>,
}

impl Plan<'_> {
    fn outside(&self, name: &str) -> bool {
        !name.starts_with(&self.body) || name[self.body.len()..].starts_with("pooler.")
    }
}

impl Source for Plan<'_> {
    fn get(&mut self, spec: &Spec) -> Result<TensorData, Error> {
        for part in self.frozen {
            if spec.name.contains(part.as_str()) {
                self.unmatched.remove(part);
            }
        }
        let outside = self.new_head && self.outside(&spec.name);
        let Some(checkpoint) = &mut self.checkpoint else { return self.random.get(spec) };
        if !outside {
            return checkpoint.get(spec);
        }
        if checkpoint.has(&spec.name) {
            match checkpoint.get(spec) {
                // A head of another number of labels is replaced.
                Err(Error::Shape { .. }) => {}
                // What is trained is in f32.
                found => return Ok(found?.convert_dtype(burn::tensor::DType::F32)),
            }
        }
        self.fresh.push(spec.name.clone());
        // Heads start from the distribution of BERT's initialisation.
        let init = if spec.shape.len() == 1 { spec.init } else { Init::Normal(0.02) };
        self.random.get(&Spec { init, ..spec.clone() })
    }

    fn has(&self, name: &str) -> bool {
        match &self.checkpoint {
            Some(checkpoint) => checkpoint.has(name),
            None => self.tied.as_deref() != Some(name),
        }
    }

    fn quantised(&mut self, spec: &Spec) -> Result<Option<Quantised>, Error> {
        match &mut self.checkpoint {
            Some(checkpoint) if self.lora.is_some() => checkpoint.quantised(spec),
            _ => Ok(None),
        }
    }

    fn inputs(&mut self, _: &Spec) -> Option<Inputs> {
        None
    }

    fn learns(&self, spec: &Spec) -> bool {
        if self.lora.is_some() {
            // Heads are trained whole, and a pooler that starts at random, as PEFT's `modules_to_save` are.
            let there = self.checkpoint.as_ref().is_some_and(|checkpoint| checkpoint.has(&spec.name));
            let head = !spec.name.starts_with(&self.body) || !there;
            return self.new_head && self.outside(&spec.name) && head && spec.precision != Precision::Matrix;
        }
        !self.frozen.iter().any(|part| spec.name.contains(part.as_str()))
    }

    fn update(&mut self, spec: &Spec) -> Result<Option<Update>, Error> {
        let (Some(lora), Some(layer)) = (&mut self.lora, spec.name.strip_suffix(".weight")) else { return Ok(None) };
        let targets = &lora.config.targets;
        let ends = |target: &String| layer == target || layer.ends_with(&format!(".{target}"));
        let wanted = match targets.is_empty() {
            true => spec.precision == Precision::Matrix && layer != lora.head,
            false => spec.precision == Precision::Matrix && targets.iter().any(ends),
        };
        if !wanted {
            return Ok(None);
        }
        let short = layer.strip_prefix(&lora.strip).unwrap_or(layer);
        let names = ["A", "B"].map(|part| key(short, part));
        lora.updated.push(short.to_owned());
        let [out, inputs] = [spec.shape[0], spec.shape[1]];
        if let Some(from) = &mut lora.from {
            return from.update(names, [out, inputs]);
        }
        let bound = (inputs.max(1) as f32).powf(-0.5);
        let drawn = Spec {
            name: names[0].clone(),
            shape: vec![lora.config.rank, inputs],
            layout: Layout::Same,
            precision: Precision::Full,
            init: Init::Uniform(-bound, bound),
        };
        let a = self.random.get(&drawn)?.iter::<f32>().collect();
        let rank = lora.config.rank;
        let scale = (lora.config.alpha / rank as f64) as f32;
        Ok(Some(Update { names, rank, scale, a, b: vec![0.0; out * rank] }))
    }
}
