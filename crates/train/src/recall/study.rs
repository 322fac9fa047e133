//! A study of mechanisms: models that differ only in their mixers are trained on the same task with the same budget.

use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use burn::tensor::Tensor;
use longreach_models::{Model, write_atomically};
use serde::Deserialize;

use super::{Recall, picture};
use crate::entrant::{self, Entrant};
use crate::learner::{Done, Learner, chosen, counted};
use crate::{Error, Optimiser};

/// An associative-recall study, read from a TOML file. Paths are relative to the file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Study {
    /// Directory for the results, the table and the figure.
    pub output: PathBuf,
    /// Seeds of the initial weights and of the sequences; each model is trained with all of them, and the median is reported.
    pub seeds: Vec<u64>,
    /// The task.
    pub task: Recall,
    /// Number of held-out sequences to evaluate on.
    pub measure: usize,
    /// The optimiser; its `length` is ignored in favour of that of the task.
    pub optimiser: Optimiser,
    /// Learning rates to try; the one with the best median accuracy is reported. That of the optimiser if empty.
    #[serde(default)]
    pub rates: Vec<f64>,
    /// The fields of `config.json` that all models share.
    pub model: toml::Table,
    /// The models, with the fields in which they differ.
    pub models: Vec<Entrant>,
}

/// The result of one model, learning rate and seed.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// Name of the model.
    pub name: String,
    /// Size of the state of one sequence, in numbers.
    pub state: usize,
    /// Number of parameters.
    pub parameters: usize,
    /// The learning rate.
    pub rate: f64,
    /// The seed.
    pub seed: u64,
    /// Fraction of queries answered correctly.
    pub accuracy: f64,
    /// Mean loss over the last tenth of the steps, in nats per query.
    pub loss: f64,
    /// Training time in seconds.
    pub seconds: f64,
}

impl Standing {
    const HEAD: &'static str = "name,state,parameters,rate,seed,accuracy,loss,seconds";

    fn line(&self) -> String {
        let Self { name, state, parameters, rate, seed, accuracy, loss, seconds } = self;
        format!("{name},{state},{parameters},{rate},{seed},{accuracy:.4},{loss:.4},{seconds:.0}")
    }

    fn read(line: &str) -> Option<Self> {
        let mut parts = line.split(',');
        let mut next = || parts.next();
        Some(Self {
            name: next()?.to_owned(),
            state: next()?.parse().ok()?,
            parameters: next()?.parse().ok()?,
            rate: next()?.parse().ok()?,
            seed: next()?.parse().ok()?,
            accuracy: next()?.parse().ok()?,
            loss: next()?.parse().ok()?,
            seconds: next()?.parse().ok()?,
        })
    }
}

/// The results of a model with its best learning rate, over all seeds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Verdict {
    pub(crate) name: String,
    pub(crate) state: usize,
    pub(crate) parameters: usize,
    pub(crate) rate: f64,
    /// Accuracy per seed, in ascending order.
    pub(crate) accuracies: Vec<f64>,
}

impl Verdict {
    /// The median; for an even number of seeds, the mean of the middle two.
    pub(crate) fn median(&self) -> f64 {
        let n = self.accuracies.len();
        (self.accuracies[(n - 1) / 2] + self.accuracies[n / 2]) / 2.0
    }

    /// The minimum and the maximum.
    pub(crate) fn spread(&self) -> (f64, f64) {
        (self.accuracies[0], self.accuracies[self.accuracies.len() - 1])
    }

    fn line(&self) -> String {
        let Self { name, state, parameters, rate, accuracies } = self;
        let (median, (least, most)) = (100.0 * self.median(), self.spread());
        let spread = if accuracies.len() > 1 {
            format!("{median:.1} % ({:.1}–{:.1})", 100.0 * least, 100.0 * most)
        } else {
            format!("{median:.1} %")
        };
        format!("| {name} | {state} | {parameters} | {spread} | {} | {rate} |", accuracies.len())
    }
}

/// A progress event of a study.
#[derive(Clone, Debug)]
pub enum StudyEvent<'a> {
    /// A training step was done.
    Step {
        /// The model.
        name: &'a str,
        /// Size of the state of one sequence, in numbers.
        state: usize,
        /// Steps done over all models, and their total.
        done: (usize, usize),
        /// The loss, in nats per query.
        loss: f32,
    },
    /// A model was trained and evaluated.
    Done(&'a Standing),
}

impl Study {
    /// Reads and checks a TOML file; the error names the file and the field.
    pub fn read(file: &Path) -> Result<Self, Error> {
        let wrong = |message: String| Error::Config { file: file.display().to_string(), message };
        let mut study: Study = crate::config::read(file)?;
        study.output = file.parent().unwrap_or(Path::new("")).join(&study.output);
        study.task.check().map_err(&wrong)?;
        if study.measure == 0 || study.optimiser.batch == 0 || study.optimiser.steps == 0 {
            return Err(wrong("`measure`, `optimiser.batch` and `optimiser.steps`: want at least 1".into()));
        }
        if study.seeds.is_empty() {
            return Err(wrong("`seeds`: want at least one".into()));
        }
        entrant::check(&study.models).map_err(wrong)?;
        Ok(study)
    }

    /// Trains and evaluates every model that is missing from `recall.csv`, and rewrites the results, the table and the figure after each. If `tell` breaks, a
    /// later run resumes with the model that was being trained.
    pub fn run(&self, mut tell: impl FnMut(StudyEvent<'_>) -> ControlFlow<()>) -> Result<Vec<Standing>, Error> {
        std::fs::create_dir_all(&self.output).map_err(|e| Error::io(&self.output, e))?;
        let mut standings = self.standings()?;
        let rates = if self.rates.is_empty() { vec![self.optimiser.rate] } else { self.rates.clone() };
        let all = self.seeds.len() * self.models.len() * rates.len() * self.optimiser.steps;
        // Every model is trained once before any is trained with the next seed.
        let of_seed = |seed: u64| self.models.iter().map(move |entrant| (entrant, seed));
        let runs = self.seeds.iter().flat_map(|seed| of_seed(*seed));
        let runs = runs.flat_map(|(entrant, seed)| rates.iter().map(move |rate| (entrant, seed, *rate)));
        for (n, (entrant, seed, rate)) in runs.enumerate() {
            let (test, answers) = self.task.sequences(self.measure, seed ^ HELD_OUT);
            let settings = Optimiser { rate, ..self.optimiser.clone() };
            let mut learner = entrant.learner(&self.model, self.task.vocabulary, seed, None, &settings)?;
            let state = state(learner.decoder(), &test[..self.task.length]);
            let done = |s: &Standing| s.name == entrant.name && s.state == state && s.rate == rate && s.seed == seed;
            if standings.iter().any(done) {
                continue;
            }
            let start = Instant::now();
            let batch = self.optimiser.batch;
            let mut last = (0.0, 0);
            let learn = |learner: &mut Learner| {
                let (ids, targets) = self.task.sequences(batch, seed.wrapping_add(1 + learner.step as u64));
                Ok(learner.next_tokens(&ids, &targets, batch))
            };
            let flow = learner.train(self.optimiser.steps, learn, |_, Done { step, loss, .. }| {
                if 10 * (step - 1) >= 9 * self.optimiser.steps {
                    last = (last.0 + f64::from(loss), last.1 + 1);
                }
                let done = (n * self.optimiser.steps + step, all);
                Ok(tell(StudyEvent::Step { name: &entrant.name, state, done, loss }))
            })?;
            if flow.is_break() {
                return Ok(standings);
            }
            let seconds = start.elapsed().as_secs_f64();
            let accuracy = accuracy(learner.decoder(), &test, &answers, self.measure, self.task.length);
            let (name, parameters) = (entrant.name.clone(), learner.model.parameters());
            let loss = last.0 / f64::from(last.1.max(1));
            standings.push(Standing { name, state, parameters, rate, seed, accuracy, loss, seconds });
            self.write(&standings)?;
            let _ = tell(StudyEvent::Done(&standings[standings.len() - 1]));
        }
        self.write(&standings)?;
        Ok(standings)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.output.join(name)
    }

    fn standings(&self) -> Result<Vec<Standing>, Error> {
        let file = self.file("recall.csv");
        if !file.exists() {
            return Ok(Vec::new());
        }
        let text = std::fs::read_to_string(&file).map_err(|e| Error::io(&file, e))?;
        let wrong = |line: &str| Error::Resume { path: file.clone(), message: format!("`{line}` is not a result") };
        text.lines().skip(1).map(|line| Standing::read(line).ok_or_else(|| wrong(line))).collect()
    }

    fn write(&self, standings: &[Standing]) -> Result<(), Error> {
        let mut csv = format!("{}\n", Standing::HEAD);
        standings.iter().for_each(|s| csv.push_str(&format!("{}\n", s.line())));
        write_atomically(&self.file("recall.csv"), |out| out.write_all(csv.as_bytes()))?;
        let best = self.best(standings);
        let task = &self.task;
        let mut table = String::from(
            "| model | state size | parameters | accuracy | seeds | learning rate |\n| --- | --- | --- | --- | --- | --- |\n",
        );
        for verdict in &best {
            let _ = writeln!(table, "{}", verdict.line());
        }
        write_atomically(&self.file("recall-table.md"), |out| out.write_all(table.as_bytes()))?;
        let title = format!(
            "associative recall: {} pairs in {} tokens, vocabulary {}, {} steps of {} sequences",
            task.pairs, task.length, task.vocabulary, self.optimiser.steps, self.optimiser.batch
        );
        let svg = picture::recall(&title, &best);
        write_atomically(&self.file("recall.svg"), |out| out.write_all(svg.as_bytes()))?;
        Ok(())
    }

    /// The best learning rate of each model, in the order of the file and of ascending state size.
    fn best(&self, standings: &[Standing]) -> Vec<Verdict> {
        let mut all: Vec<Verdict> = Vec::new();
        for s in standings {
            let found = all.iter_mut().find(|v| v.name == s.name && v.state == s.state && v.rate == s.rate);
            match found {
                Some(verdict) => verdict.accuracies.push(s.accuracy),
                None => all.push(Verdict {
                    name: s.name.clone(),
                    state: s.state,
                    parameters: s.parameters,
                    rate: s.rate,
                    accuracies: vec![s.accuracy],
                }),
            }
        }
        all.iter_mut().for_each(|verdict| verdict.accuracies.sort_by(f64::total_cmp));
        let place = |v: &Verdict| self.models.iter().position(|e| e.name == v.name);
        all.sort_by(|a, b| {
            let same = (place(a), a.state).cmp(&(place(b), b.state));
            same.then(b.median().total_cmp(&a.median())).then(a.rate.total_cmp(&b.rate))
        });
        all.dedup_by(|b, a| a.name == b.name && a.state == b.state);
        all
    }
}

/// Separates the seeds of held-out sequences from those of training sequences.
const HELD_OUT: u64 = 1 << 63;

/// Size of the state after a sequence, in numbers.
fn state(model: &Model, ids: &[u32]) -> usize {
    let mut cache = model.decoder.start(1);
    model.decoder.forward(ids, &mut cache, None);
    cache.bytes() / 4
}

/// The fraction of queries that a model answers correctly.
fn accuracy(model: &Model, ids: &[u32], answers: &[i64], sequences: usize, length: usize) -> f64 {
    let (mut right, mut asked) = (0, 0);
    for first in (0..sequences).step_by(64) {
        let n = 64.min(sequences - first);
        let part = first * length..(first + n) * length;
        let mut cache = model.decoder.start(n);
        let hidden: Tensor<3> = model.decoder.forward(&ids[part.clone()], &mut cache, None);
        let (rows, targets) = counted(&answers[part]);
        let logits: Vec<f32> = model.decoder.logits(chosen(hidden, &rows)).into_data().iter::<f32>().collect();
        for (row, target) in logits.chunks(model.decoder.vocabulary()).zip(targets) {
            let best = (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b]));
            right += usize::from(best == Some(target as usize));
            asked += 1;
        }
    }
    right as f64 / f64::from(asked.max(1))
}
