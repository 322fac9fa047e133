//! A training: from a configuration to a model.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::Tensor;
use longreach_models::{Location, Model, write_atomically};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::data::Example;
use crate::learner::{Done, Learner};
use crate::model::{Starting, Trained};
use crate::objective::{Metrics, Objective, nats, objective};
use crate::report::{Files, Line};
use crate::texts::Texts;
use crate::{Config, Error};

mod checkpoint;
mod data;
mod sample;
mod written;

use checkpoint::Standing;
use data::{Held, Sizes, Stream};

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

/// A training in progress.
pub struct Run {
    config: Config,
    learner: Learner,
    objective: Box<dyn Objective>,
    stream: Stream,
    held: Held,
    sizes: Sizes,
    texts: Option<Texts>,
    end: Option<u32>,
    labels: Vec<String>,
    at: Option<Location>,
    updated: Vec<String>,
    notes: Vec<String>,
    losses: Vec<(usize, f32)>,
    standing: Standing,
}

impl Run {
    /// Reads the data, builds the model, and restores the last checkpoint of the output directory, if any. An error if the data, tokenizer, model or checkpoint
    /// cannot be used.
    pub fn new(mut config: Config) -> Result<Self, Error> {
        std::fs::create_dir_all(&config.output).map_err(|e| Error::io(&config.output, e))?;
        let mut objective = objective(&config.objective, config.optimiser.segments);
        let mut starting = Starting::find(&config)?;
        let data = data::prepare(&config, &starting, objective.as_mut())?;
        config.optimiser = data::settled(&config.optimiser, &data.stream)?;
        starting.complete(data.vocabulary, data.end)?;
        let started = starting.build(&config, data.vocabulary, &data.labels)?;
        let wrong = |message| Error::Config { file: "optimiser".into(), message };
        let learner = Learner::new(started.model, &config.optimiser).map_err(wrong)?;
        let mut run = Self {
            config,
            learner,
            objective,
            stream: data.stream,
            held: data.held,
            sizes: data.sizes,
            texts: data.texts,
            end: data.end,
            labels: data.labels,
            at: started.at,
            updated: started.updated,
            notes: started.notes,
            losses: Vec::new(),
            standing: Standing::default(),
        };
        run.resume()?;
        Ok(run)
    }

    /// Number of steps of the whole training.
    pub fn steps(&self) -> usize {
        self.config.optimiser.steps
    }

    /// The number of parameters that are trained.
    fn learning(&self) -> usize {
        struct Count(usize);
        impl ModuleVisitor for Count {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                if param.is_require_grad() {
                    self.0 += param.val().shape().num_elements();
                }
            }
        }
        let mut count = Count(0);
        self.learner.model.network().visit(&mut count);
        count.0
    }

    /// The examples of a step, with what chance decides. They depend on the step only.
    fn examples(&mut self, step: usize) -> Vec<Example> {
        let examples = self.stream.step(step, self.config.optimiser.batch);
        let seed = self.config.seed ^ 0x6d61_736b ^ (step as u64 + 1) << 32;
        let mut draw = ChaCha8Rng::seed_from_u64(seed);
        examples.iter().map(|example| self.objective.drawn(example, &mut draw)).collect()
    }

    /// Reads everything and computes one step without keeping it.
    pub fn check(mut self) -> Result<Checked, Error> {
        let step = self.learner.step;
        let examples = self.examples(step);
        let start = Instant::now();
        let o = &self.config.optimiser;
        let learnt = self.objective.learn(&mut self.learner.model, &examples, o.micro.unwrap_or(o.batch));
        let done = self.learner.apply(learnt)?;
        Ok(Checked {
            train: self.sizes.train,
            held_out: self.sizes.held_out,
            parameters: self.learner.model.parameters(),
            learning: self.learning(),
            steps: self.steps(),
            tokens: examples.iter().map(tokens).sum(),
            loss: done.loss,
            seconds: start.elapsed().as_secs_f64(),
            labels: self.labels,
            notes: self.notes,
        })
    }

    /// Trains to the last step, then writes the model to `output/model` and evaluates it.
    ///
    /// `tell` is called with every event. If it breaks, a checkpoint is written and `None` is returned; a later run resumes from there with the same results as
    /// an uninterrupted one.
    pub fn train(mut self, mut tell: impl FnMut(Event) -> ControlFlow<()>) -> Result<Option<Outcome>, Error> {
        let start = Instant::now();
        let (steps, first) = (self.steps(), self.learner.step);
        let Sizes { train, held_out } = self.sizes;
        let (parameters, learning) = (self.learner.model.parameters(), self.learning());
        for note in &self.notes {
            let _ = tell(Event::Note(note.clone()));
        }
        let _ = tell(Event::Ready { train, held_out, parameters, learning, step: first, steps });
        let mut files = Files::open(&self.config.output, first, self.config.report.tensorboard)?;
        let (before, mut read) = (self.standing.seconds, 0);
        while self.learner.step < steps && !self.stopped() {
            let examples = self.examples(self.learner.step);
            let n = examples.iter().map(tokens).sum::<usize>();
            let micro = self.config.optimiser.micro.unwrap_or(self.config.optimiser.batch);
            let objective = &self.objective;
            let mut last = None;
            let flow = self.learner.train(
                self.learner.step + 1,
                |learner| Ok(objective.learn(&mut learner.model, &examples, micro)),
                |_, done| {
                    last = Some(done);
                    read += n;
                    let speed = read as f64 / start.elapsed().as_secs_f64();
                    let Done { step, loss, rate, norm } = done;
                    Ok(tell(Event::Step { step, loss, rate, norm, speed }))
                },
            )?;
            let Some(Done { step, loss, rate, norm }) = last else { continue };
            self.losses.push((step, loss));
            self.standing.tokens += n;
            self.standing.seconds = before + start.elapsed().as_secs_f64();
            let (seconds, speed) = (self.standing.seconds, read as f64 / start.elapsed().as_secs_f64());
            let skipped = self.learner.skipped;
            files.step(&Line { step, seconds, tokens: self.standing.tokens, loss, rate, norm, skipped, speed })?;
            let every = self.config.evaluate.every;
            if every > 0 && step.is_multiple_of(every) && step < steps {
                self.evaluate(&mut files, &mut tell)?;
            }
            let ended = step == steps || self.stopped();
            if flow.is_break() || step.is_multiple_of(self.config.optimiser.checkpoint_every) || ended {
                self.write_checkpoint()?;
                let _ = tell(Event::Checkpoint(self.checkpoint()));
            }
            if flow.is_break() && !ended {
                return Ok(None);
            }
        }
        if self.stopped() {
            let best = self.standing.best.map_or(0, |(_, step)| step);
            let _ = tell(Event::Stopped { step: self.learner.step, best });
        }
        self.finish(&mut files, start, &mut tell).map(Some)
    }

    /// Whether the evaluations have not improved for as long as the user waits.
    fn stopped(&self) -> bool {
        self.config.evaluate.patience.is_some_and(|patience| self.standing.since >= patience.max(1))
    }

    /// The metrics on the held-out data, of at most `most` rows or pages; none if nothing is held out.
    fn measured(&mut self, most: Option<usize>) -> Metrics {
        let most = most.unwrap_or(usize::MAX);
        let micro = self.config.optimiser.micro.unwrap_or(self.config.optimiser.batch);
        let (objective, end) = (&self.objective, self.end.unwrap_or(0));
        match &self.held {
            Held::Rows(examples) if examples.is_empty() => Vec::new(),
            Held::Rows(examples) => {
                let examples = &examples[..examples.len().min(most)];
                self.learner.evaluated(|model| objective.measure(model, examples, micro))
            }
            Held::Pages { pages, bytes, .. } => {
                let (part, all) = (&pages[..pages.len().min(most)], pages.len());
                let tokens: usize = part.iter().map(Vec::len).sum();
                if tokens == 0 {
                    return Vec::new();
                }
                let sum: f64 = self.learner.evaluated(|model| match model {
                    Trained::Decoder(model) => part.iter().map(|page| nats(&model.decoder, end, page)).sum(),
                    Trained::Encoder(..) => f64::NAN,
                });
                let loss = sum / tokens as f64;
                let mut metrics = vec![("loss".to_owned(), loss), ("perplexity".to_owned(), loss.exp())];
                if *bytes > 0 && part.len() == all {
                    metrics.push(("bits_per_byte".into(), sum * std::f64::consts::LOG2_E / *bytes as f64));
                }
                metrics
            }
        }
    }

    /// Evaluates the model, keeps it if it is the best so far, and continues the samples.
    fn evaluate(&mut self, files: &mut Files, tell: &mut impl FnMut(Event) -> ControlFlow<()>) -> Result<(), Error> {
        let (step, metrics) = (self.learner.step, self.measured(self.config.evaluate.most));
        files.evaluated(step, &metrics)?;
        self.standing.evaluations.push((step, metrics.clone()));
        for text in self.samples() {
            files.sample(step, &text)?;
            self.standing.samples.push((step, text.clone()));
            let _ = tell(Event::Sample(text));
        }
        let decides = match &self.config.evaluate.metric {
            Some(name) => {
                let found = metrics.iter().find(|(known, _)| known == name);
                if found.is_none() {
                    let known = metrics.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
                    let message = format!("`evaluate.metric`: want one of {known}, found `{name}`");
                    return Err(Error::Config { file: "evaluate".into(), message });
                }
                found
            }
            None => metrics.first(),
        };
        let Some((name, value)) = decides else { return Ok(()) };
        let lower = matches!(name.as_str(), "loss" | "perplexity" | "bits_per_byte" | "mse");
        let better = |best: f64| if lower { *value < best } else { *value > best };
        let best = value.is_finite() && self.standing.best.is_none_or(|(known, _)| better(known));
        if best {
            self.standing.best = Some((*value, step));
            self.standing.since = 0;
            self.write_model("best")?;
        } else {
            self.standing.since += 1;
        }
        let _ = tell(Event::Evaluated { step, metrics, best });
        Ok(())
    }

    fn finish(
        mut self,
        files: &mut Files,
        start: Instant,
        tell: &mut impl FnMut(Event) -> ControlFlow<()>,
    ) -> Result<Outcome, Error> {
        let directory = self.config.output.join("model");
        let learning = self.learning();
        self.write_model("model")?;
        // What is written is what is measured.
        if self.learner.model.decoder().is_some() {
            let model = Model::load(&Location { directory: directory.clone(), weights: None }, None)?;
            self.learner.average = None;
            self.learner.model = Trained::Decoder(model);
        }
        let (step, metrics) = (self.learner.step, self.measured(None));
        if !metrics.is_empty() {
            files.evaluated(step, &metrics)?;
            self.standing.evaluations.push((step, metrics.clone()));
        }
        for text in self.samples() {
            files.sample(step, &text)?;
            self.standing.samples.push((step, text.clone()));
            let _ = tell(Event::Sample(text));
        }
        self.write_curve()?;
        self.write_report(learning)?;
        let held_out = match &self.held {
            Held::Pages { bytes, text, .. } => {
                let file = self.config.output.join("held_out.txt");
                write_atomically(&file, |out| out.write_all(text.as_bytes()))?;
                *bytes
            }
            Held::Rows(examples) => examples.len(),
        };
        let best = self.config.output.join("best");
        let best = (self.standing.best.is_some() && best.exists()).then_some(best);
        Ok(Outcome { metrics, held_out, directory, best, seconds: start.elapsed().as_secs_f64() })
    }
}

fn tokens(example: &Example) -> usize {
    example.texts.iter().map(|text| text.ids.len()).sum()
}
