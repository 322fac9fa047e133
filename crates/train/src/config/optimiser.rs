//! The table `optimiser`: the optimiser, its schedule and the loop.

use serde::Deserialize;

/// The optimiser and the training loop.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Optimiser {
    /// The algorithm.
    #[serde(default, rename = "type")]
    pub kind: Kind,
    /// Number of steps.
    #[serde(default)]
    pub steps: usize,
    /// Number of passes over the data, in place of `steps`.
    pub epochs: Option<f64>,
    /// Sequences per step.
    #[serde(default)]
    pub batch: usize,
    /// Sequences that are computed at once; their gradients are added up to those of the step. All of them if `None`.
    pub micro: Option<usize>,
    /// The number of tokens of a window, and the largest number of tokens of a row of a table. That of the model, at most 512, for rows if it is 0.
    #[serde(default)]
    pub length: usize,
    /// Peak learning rate.
    pub rate: f64,
    /// Linear warm-up to the peak.
    #[serde(default)]
    pub warmup: Span,
    /// The learning rate after the warm-up.
    #[serde(default)]
    pub schedule: Schedule,
    /// Decay rates of the means of the gradient and of its square.
    #[serde(default = "betas")]
    pub betas: [f32; 2],
    /// Added to the root of the mean square.
    #[serde(default = "epsilon")]
    pub epsilon: f32,
    /// Weight decay of matrices; vectors have none.
    #[serde(default)]
    pub weight_decay: f32,
    /// Maximum norm of the gradient.
    #[serde(default = "clip")]
    pub clip: f32,
    /// What the norm is computed of.
    #[serde(default)]
    pub clip_by: ClipBy,
    /// Decay rate of an exponential moving average of the weights, which is then evaluated and written; no average if `None`.
    pub average: Option<f64>,
    /// Parameter groups with their own learning rate.
    #[serde(default)]
    pub groups: Vec<Group>,
    /// Splits sequences into segments, so that memory does not grow with their length (truncated BPTT); whole sequences if `None`.
    pub segments: Option<SegmentsOf>,
    /// Number of steps between checkpoints.
    #[serde(default = "every")]
    pub checkpoint_every: usize,
}

/// The algorithm of the optimiser.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// AdamW, Loshchilov and Hutter 2019.
    #[default]
    Adamw,
    /// Muon (Jordan 2024) for matrices of layers, with the factor of the learning rate by Liu et al. 2025, so that rates of AdamW carry over; AdamW for
    /// embeddings, heads and vectors.
    Muon,
}

/// What the norm of clipping is computed of.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum ClipBy {
    /// The gradients of all parameters together, as in other trainers (Pascanu et al. 2013).
    #[default]
    All,
    /// The gradient of each parameter by itself.
    Parameter,
}

/// A number of steps, or a part of all steps.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(untagged)]
pub enum Span {
    /// Steps.
    Steps(usize),
    /// A part of all steps, 0 to 1.
    Part(f64),
}

impl Default for Span {
    fn default() -> Self {
        Span::Steps(0)
    }
}

impl Span {
    /// The number of steps of a training of `all` steps.
    pub fn steps(self, all: usize) -> usize {
        match self {
            Span::Steps(steps) => steps,
            Span::Part(part) => (part * all as f64).round() as usize,
        }
    }

    /// An error if a part is not 0 to 1.
    pub(super) fn check(self, name: &str) -> Result<(), String> {
        match self {
            Span::Part(part) if !(0.0..=1.0).contains(&part) => {
                Err(format!("`{name}`: want a number of steps or a part of them, 0.0 to 1.0, found {part}"))
            }
            _ => Ok(()),
        }
    }
}

/// The learning rate after the warm-up.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Schedule {
    /// The peak.
    Constant,
    /// A line down to `end` times the peak at the last step.
    Linear {
        /// The last rate, as a part of the peak.
        #[serde(default)]
        end: f64,
    },
    /// Half a cosine down to `end` times the peak at the last step. Loshchilov and Hutter 2017.
    Cosine {
        /// The last rate, as a part of the peak.
        #[serde(default = "tenth")]
        end: f64,
    },
    /// The root of the ratio of the warm-up (at least one step) and the step. Vaswani et al. 2017.
    InverseRoot,
    /// The peak, then `1 − √x` over the last steps. Hägele et al. 2024.
    Wsd {
        /// The steps in which it falls.
        #[serde(default = "fifth")]
        decay: Span,
    },
}

impl Default for Schedule {
    fn default() -> Self {
        Schedule::Cosine { end: tenth() }
    }
}

/// Segments of a sequence, for backpropagation through time.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentsOf {
    /// Tokens per segment; the last may be shorter.
    pub length: usize,
    /// Extent of backpropagation.
    pub through: Flow,
}

/// Extent of backpropagation through time.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Flow {
    /// To the start of the sequence; every segment is computed twice (checkpointing).
    All,
    /// To the start of the segment (truncated BPTT, as in Transformer-XL).
    Segment,
}

/// A parameter group with its own learning rate.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Suffix of the parameter names in the checkpoint.
    pub ends: String,
    /// Factor of the learning rate, at least 0.
    pub factor: f64,
}

fn betas() -> [f32; 2] {
    [0.9, 0.95]
}

fn epsilon() -> f32 {
    1e-8
}

fn clip() -> f32 {
    1.0
}

fn every() -> usize {
    500
}

fn tenth() -> f64 {
    0.1
}

fn fifth() -> Span {
    Span::Part(0.2)
}

impl Optimiser {
    /// An error that names a setting that is out of range.
    pub(crate) fn check(&self) -> Result<(), String> {
        let wrong =
            |name: &str, want: &str, found: String| Err(format!("`optimiser.{name}`: want {want}, found {found}"));
        if self.batch == 0 {
            return wrong("batch", "at least 1", "0".into());
        }
        if self.micro == Some(0) {
            return wrong("micro", "at least 1", "0".into());
        }
        if self.checkpoint_every == 0 {
            return wrong("checkpoint_every", "at least 1", "0".into());
        }
        match self.epochs {
            None if self.steps == 0 => return wrong("steps", "at least 1", "0".into()),
            Some(epochs) if self.steps > 0 => {
                return Err(format!("`optimiser`: want either `steps` or `epochs`, found {} and {epochs}", self.steps));
            }
            Some(epochs) if !(epochs > 0.0 && epochs.is_finite()) => {
                return wrong("epochs", "a number above 0", epochs.to_string());
            }
            _ => {}
        }
        for (name, value) in [("rate", self.rate), ("weight_decay", f64::from(self.weight_decay))] {
            if !(value >= 0.0 && value.is_finite()) {
                return wrong(name, "a number of at least 0", value.to_string());
            }
        }
        for (name, value) in [("clip", self.clip), ("epsilon", self.epsilon)] {
            if value.is_nan() || value <= 0.0 {
                return wrong(name, "a number above 0", value.to_string());
            }
        }
        if !self.betas.iter().all(|beta| (0.0..1.0).contains(beta)) {
            return wrong("betas", "two numbers of at least 0 and below 1", format!("{:?}", self.betas));
        }
        if let Some(average) = self.average.filter(|average| !(0.0..1.0).contains(average)) {
            return wrong("average", "at least 0 and below 1", average.to_string());
        }
        self.warmup.check("optimiser.warmup")?;
        match self.schedule {
            Schedule::Linear { end } | Schedule::Cosine { end } if !(0.0..=1.0).contains(&end) => {
                wrong("schedule.end", "0 to 1", end.to_string())
            }
            Schedule::Wsd { decay } => decay.check("optimiser.schedule.decay"),
            _ => Ok(()),
        }
    }

    /// An error that names a group or segments that are out of range.
    pub(crate) fn check_groups(&self) -> Result<(), String> {
        if let Some(group) = self.groups.iter().find(|group| group.factor < 0.0 || !group.factor.is_finite()) {
            let found = group.factor;
            return Err(format!("`optimiser.groups`: `factor`: want a number of at least 0, found {found}"));
        }
        if let Some(SegmentsOf { length: 0, .. }) = self.segments {
            return Err("`optimiser.segments`: `length`: want at least 1, found 0".into());
        }
        Ok(())
    }
}
