//! The models of a study.

use std::path::Path;

use longreach_models::{Checkpoint, Model};
use longreach_nn::Builder;
use serde::Deserialize;

use crate::learner::Learner;
use crate::model::Trained;
use crate::{Error, Group, Optimiser, SegmentsOf};

/// A model of a study.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entrant {
    /// Name in tables and plots.
    pub name: String,
    /// Fields of `config.json` in which it differs from the other models.
    pub model: toml::Table,
    /// Truncated BPTT for this model; that of the optimiser if `None`.
    pub segments: Option<SegmentsOf>,
    /// Additional parameter groups with their own learning rate.
    #[serde(default)]
    pub groups: Vec<Group>,
    /// Name of the model of the study whose weights initialise this one; random initialisation if `None`.
    pub from: Option<String>,
    /// Whether some of its training texts start from the state after a long text; see [`Course`](crate::Course).
    #[serde(default)]
    pub long_states: bool,
    /// Longest text to test it on, in tokens, for models whose cost grows with the text.
    pub longest: Option<usize>,
}

/// Checks the models of a study; the error names the field.
pub(crate) fn check(models: &[Entrant]) -> Result<(), String> {
    if models.is_empty() {
        return Err("`models`: want at least one".into());
    }
    match models.iter().find(|e| e.name.contains([',', '|', '\n'])) {
        Some(entrant) => {
            Err(format!("`models.name`: want a name without commas, bars and line breaks, found `{}`", entrant.name))
        }
        None => Ok(()),
    }
}

impl Entrant {
    /// Builds the model before its first step. `common` are the fields that all models share, `weights` is the directory of its initial weights.
    pub(crate) fn learner(
        &self,
        common: &toml::Table,
        vocabulary: usize,
        seed: u64,
        weights: Option<&Path>,
        settings: &Optimiser,
    ) -> Result<Learner, Error> {
        let wrong = |message: String| Error::Config { file: format!("model `{}`", self.name), message };
        let mut fields = common.clone();
        fields.extend(self.model.clone());
        fields.insert("vocab_size".into(), toml::Value::Integer(vocabulary as i64));
        let json = serde_json::to_string_pretty(&fields).map_err(|e| wrong(e.to_string()))?;
        let device = longreach_burn::cpu().autodiff();
        let mut model = Model::random(&self.name, &json, seed, &device)?;
        if let Some(weights) = weights {
            let mut stored = Checkpoint::open(weights)?;
            let built = model.description.build(&mut Builder::new(&mut stored, &device));
            model.decoder = built.map_err(longreach_models::Error::from)?;
        }
        let segments = self.segments.or(settings.segments);
        let groups = settings.groups.iter().chain(&self.groups).cloned().collect();
        Learner::new(Trained::Decoder(model), &Optimiser { segments, groups, ..settings.clone() }).map_err(wrong)
    }
}
