//! What a run is when it is put down: weights, optimiser, average, losses, and how the evaluations stand.
//!
//! A checkpoint is written to a new directory. The last one is renamed before the new one takes its name, so that at every moment one of them is whole.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use longreach_models::write_atomically;
use serde::{Deserialize, Serialize};

use super::Run;
use crate::Error;
use crate::data::Cursor;
use crate::model::Values;
use crate::objective::Metrics;

/// How the evaluations stand.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct Standing {
    /// The best value of the metric that decides, and its step.
    pub(super) best: Option<(f64, usize)>,
    /// The number of evaluations since.
    pub(super) since: usize,
    pub(super) skipped: usize,
    pub(super) evaluations: Vec<(usize, Metrics)>,
    pub(super) samples: Vec<(usize, String)>,
    /// Tokens read.
    pub(super) tokens: usize,
    /// Seconds of all runs together.
    pub(super) seconds: f64,
    /// Where streamed rows are read on.
    #[serde(default)]
    pub(super) cursor: Option<Cursor>,
}

/// The directories of the current checkpoint, of the one before it, and of one that is being written.
fn places(output: &Path) -> [PathBuf; 3] {
    ["checkpoint", "checkpoint.old", "checkpoint.new"].map(|name| output.join(name))
}

impl Run {
    /// The directory of the last checkpoint.
    pub(super) fn checkpoint(&self) -> PathBuf {
        self.config.output.join("checkpoint")
    }

    /// Restores the last checkpoint of the output directory, if there is one.
    pub(super) fn resume(&mut self) -> Result<(), Error> {
        let [at, old, _] = places(&self.config.output);
        if !at.exists() && old.exists() {
            std::fs::rename(&old, &at).map_err(|e| Error::io(&at, e))?;
        }
        let log = at.join("losses.csv");
        if !log.exists() {
            return Ok(());
        }
        let wrong = |message: String| Error::Resume { path: at.clone(), message };
        let (learner, file) = (&mut self.learner, at.join("parameters.safetensors"));
        let network = learner.model.network();
        let values = Values::load(&network, learner.model.names(), &file)?;
        learner.model.put(values.placed(network));
        if let Some(average) = &mut learner.average {
            let (network, file) = (learner.model.network(), at.join("average.safetensors"));
            average.values = Values::load(&network, learner.model.names(), &file)?;
        }
        let optimiser = std::mem::replace(&mut learner.optimiser, burn::optim::AdamWConfig::new().init());
        learner.optimiser = optimiser.load(at.join("optimiser")).map_err(|e| wrong(format!("optimiser: {e:?}")))?;
        let text = std::fs::read_to_string(&log).map_err(|e| Error::io(&log, e))?;
        for line in text.lines().skip(1) {
            let pair = line.split_once(',').and_then(|(s, l)| Some((s.parse().ok()?, l.parse().ok()?)));
            self.losses.push(pair.ok_or_else(|| wrong(format!("losses.csv: `{line}` is not a step and a loss")))?);
        }
        let state = at.join("state.json");
        let text = std::fs::read_to_string(&state).map_err(|e| Error::io(&state, e))?;
        self.standing = serde_json::from_str(&text).map_err(|e| wrong(format!("state.json: {e}")))?;
        self.learner.step = self.losses.last().map_or(0, |(step, _)| *step);
        self.learner.skipped = self.standing.skipped;
        if let Some(cursor) = self.standing.cursor.clone() {
            self.stream.seek(cursor);
        }
        Ok(())
    }

    /// Writes a checkpoint.
    pub(super) fn write_checkpoint(&mut self) -> Result<(), Error> {
        let [at, old, fresh] = places(&self.config.output);
        let remove = |path: &Path| match path.exists() {
            true => std::fs::remove_dir_all(path).map_err(|e| Error::io(path, e)),
            false => Ok(()),
        };
        remove(&fresh)?;
        std::fs::create_dir_all(&fresh).map_err(|e| Error::io(&fresh, e))?;
        let learner = &self.learner;
        let names = learner.model.names();
        Values::of(&learner.model.network()).save(names, &fresh.join("parameters.safetensors"))?;
        if let Some(average) = &learner.average {
            average.values.save(names, &fresh.join("average.safetensors"))?;
        }
        let saved = learner.optimiser.save(fresh.join("optimiser"));
        saved.map_err(|e| Error::Resume { path: fresh.clone(), message: format!("optimiser: {e:?}") })?;
        let mut log = String::from("step,loss\n");
        for (step, loss) in &self.losses {
            let _ = writeln!(log, "{step},{loss}");
        }
        write_atomically(&fresh.join("losses.csv"), |out| out.write_all(log.as_bytes()))?;
        self.standing.skipped = learner.skipped;
        self.standing.cursor = self.stream.cursor();
        let state = serde_json::to_string(&self.standing).unwrap_or_default();
        write_atomically(&fresh.join("state.json"), |out| out.write_all(state.as_bytes()))?;
        remove(&old)?;
        if at.exists() {
            std::fs::rename(&at, &old).map_err(|e| Error::io(&at, e))?;
        }
        std::fs::rename(&fresh, &at).map_err(|e| Error::io(&at, e))?;
        remove(&old)?;
        self.write_curve()
    }
}
