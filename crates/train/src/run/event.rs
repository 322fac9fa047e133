//! What a training tells while it runs, and what it comes to.

use std::path::PathBuf;

/// A progress event of a training.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// The data were read and tokenized.
    Ready {
        /// Bytes of text or rows of tables, and tokens, to train on.
        train: (usize, usize),
        /// The same, held out.
        held_out: (usize, usize),
        /// Number of parameters of the model.
        parameters: usize,
        /// Number of those that are trained.
        learning: usize,
        /// Step to start from; above 0 if a checkpoint was restored.
        step: usize,
        /// Number of steps of the whole training.
        steps: usize,
    },
    /// What a user should know about the model, as a sentence.
    Note(String),
    /// A step was done.
    Step {
        /// Number of steps done.
        step: usize,
        /// The loss, in nats per target.
        loss: f32,
        /// The learning rate.
        rate: f64,
        /// The norm of the gradient before clipping.
        norm: f64,
        /// Tokens per second since the start of this run.
        speed: f64,
    },
    /// The model was evaluated on the held-out data.
    Evaluated {
        /// Number of steps done.
        step: usize,
        /// The metrics by name.
        metrics: Vec<(String, f64)>,
        /// Whether it is the best so far.
        best: bool,
    },
    /// The model continued a text.
    Sample(String),
    /// A checkpoint was written.
    Checkpoint(PathBuf),
    /// The training ends early, since the evaluations no longer improve.
    Stopped {
        /// Number of steps done.
        step: usize,
        /// The step of the best evaluation.
        best: usize,
    },
}

/// The result of a training.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The metrics of the last model on the held-out data by name; none if nothing is held out.
    pub metrics: Vec<(String, f64)>,
    /// Number of held-out bytes or rows.
    pub held_out: usize,
    /// Directory of the trained model.
    pub directory: PathBuf,
    /// Directory of the model with the best evaluation, if there were evaluations before the end.
    pub best: Option<PathBuf>,
    /// Duration of this run in seconds.
    pub seconds: f64,
}

impl Outcome {
    /// A metric by its name.
    pub fn metric(&self, name: &str) -> Option<f64> {
        self.metrics.iter().find(|(known, _)| known == name).map(|(_, value)| *value)
    }
}

/// What a trial step says of a training.
#[derive(Clone, Debug, PartialEq)]
pub struct Checked {
    /// Bytes of text or rows of tables, and tokens, to train on.
    pub train: (usize, usize),
    /// The same, held out.
    pub held_out: (usize, usize),
    /// Number of parameters.
    pub parameters: usize,
    /// Number of those that are trained.
    pub learning: usize,
    /// Number of steps.
    pub steps: usize,
    /// Tokens of the step.
    pub tokens: usize,
    /// Its loss.
    pub loss: f32,
    /// Its duration in seconds.
    pub seconds: f64,
    /// The labels, for objectives with labels.
    pub labels: Vec<String>,
    /// What a user should know, one sentence each.
    pub notes: Vec<String>,
}
