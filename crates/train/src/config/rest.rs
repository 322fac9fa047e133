//! The tables `lora`, `evaluate` and `report`.

use std::path::PathBuf;

use serde::Deserialize;

/// Low-rank updates of matrices, in place of the training of all weights. Hu et al. 2022.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lora {
    /// The rank of the updates.
    #[serde(default = "rank")]
    pub rank: usize,
    /// The update is multiplied by `alpha / rank`.
    #[serde(default = "alpha")]
    pub alpha: f64,
    /// The ends of the names of the layers to update, such as `q_proj`; every matrix of a layer if empty.
    #[serde(default)]
    pub targets: Vec<String>,
    /// A directory with an adapter of PEFT to continue from.
    pub from: Option<PathBuf>,
}

fn rank() -> usize {
    8
}

fn alpha() -> f64 {
    16.0
}

/// Evaluation on the held-out data while the model is trained.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluate {
    /// Number of steps between evaluations; only at the end if 0.
    #[serde(default)]
    pub every: usize,
    /// The metric that decides which model is best; the first one that the objective reports if `None`.
    pub metric: Option<String>,
    /// The training stops after this many evaluations in a row that do not improve on the best.
    pub patience: Option<usize>,
    /// At most this many held-out rows are read at each evaluation; all if `None`.
    pub most: Option<usize>,
}

/// What is written about the training, besides `metrics.csv`, `metrics.jsonl` and `report.html`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// Whether event files of TensorBoard are written, to `OUTPUT/events`.
    #[serde(default)]
    pub tensorboard: bool,
    /// Beginnings of texts that a decoder continues at every evaluation, by the most probable tokens.
    #[serde(default)]
    pub samples: Vec<String>,
}
