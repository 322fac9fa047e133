//! A model of a comparison.

use std::path::Path;

use burn::tensor::Device;
use longreach_models::{Checkpoint, Model};
use longreach_nn::Builder;
use serde::Deserialize;

use crate::learner::Learner;
use crate::{Error, Group, Optimiser, SegmentsOf};

/// A model of a comparison.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entrant {
    /// What it is called.
    pub name: String,
    /// Fields of `config.json` in which it differs from the others.
    pub model: toml::Table,
    /// In which segments it learns, where not as all do.
    pub segments: Option<SegmentsOf>,
    /// More parameters that learn at another rate.
    #[serde(default)]
    pub groups: Vec<Group>,
    /// The model of the study, by its directory's name, whose weights it begins with; drawn at random if absent.
    pub from: Option<String>,
    /// Whether some of its texts go on from states of long ones: see [`Course`](crate::Course).
    #[serde(default)]
    pub long_states: bool,
    /// Where what it costs grows with the text: the longest it is measured on.
    pub longest: Option<usize>,
}

/// What is wrong with the models of a comparison, if something is.
pub(crate) fn check(models: &[Entrant]) -> Result<(), String> {
    if models.is_empty() {
        return Err("`models`: want at least one".into());
    }
    match models.iter().find(|e| e.name.contains([',', '|', '\n'])) {
        Some(entrant) => Err(format!("`models.name`: want one without commas and bars, found `{}`", entrant.name)),
        None => Ok(()),
    }
}

impl Entrant {
    /// The model before its first step: `common` are the fields that all share, `weights` the directory of those it begins with.
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
        let device = Device::flex().autodiff();
        let mut model = Model::random(&self.name, &json, seed, &device)?;
        if let Some(weights) = weights {
            let mut stored = Checkpoint::open(weights)?;
            let built = model.description.build(&mut Builder::new(&mut stored, &device));
            model.decoder = built.map_err(longreach_models::Error::from)?;
        }
        let segments = self.segments.or(settings.segments);
        let groups = settings.groups.iter().chain(&self.groups).cloned().collect();
        Learner::new(model, &Optimiser { segments, groups, ..settings.clone() }).map_err(wrong)
    }
}
