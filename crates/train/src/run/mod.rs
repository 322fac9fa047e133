//! A training: from a configuration to a model.

use std::ops::ControlFlow;
use std::time::Instant;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::Tensor;
use longreach_models::{Location, Model, write_atomically};
use longreach_nn::Dropout;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::data::Example;
use crate::learner::{Done, Learner};
use crate::model::{Starting, Trained};
use crate::objective::{Objective, objective};
use crate::report::{Files, Line};
use crate::texts::Texts;
use crate::{Config, Error};

mod checkpoint;
mod data;
mod evaluate;
mod event;
mod sample;
mod table;
mod written;

use checkpoint::Standing;
use data::{Held, Sizes, Stream};
pub use event::{Checked, Event, Outcome};

/// The time of a run.
struct Clock {
    start: Instant,
    /// Seconds of earlier runs.
    before: f64,
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
        let mut objective = objective(&config);
        let mut starting = Starting::find(&config)?;
        let data = data::prepare(&config, &mut starting, objective.as_mut())?;
        config.optimiser = data::settled(&config.optimiser, &data.stream)?;
        if data.vocabulary > 0 {
            starting.complete(data.vocabulary, data.end)?;
        }
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
    fn examples(&mut self, step: usize) -> Result<Vec<Example>, Error> {
        let of = (self.objective.as_ref(), self.texts.as_ref());
        let examples = self.stream.step(step, self.config.optimiser.batch, of)?;
        let seed = self.config.seed ^ 0x6d61_736b ^ (step as u64 + 1) << 32;
        let mut draw = ChaCha8Rng::seed_from_u64(seed);
        if self.config.dropout > 0.0 {
            let seed = self.config.seed ^ 0x6472_6f70 ^ (step as u64 + 1) << 32;
            self.learner.model.dropping(Dropout { rate: self.config.dropout, seed });
        }
        Ok(examples.iter().map(|example| self.objective.drawn(example, &mut draw)).collect())
    }

    /// Reads everything and computes one step without keeping it.
    pub fn check(mut self) -> Result<Checked, Error> {
        let step = self.learner.step;
        let examples = self.examples(step)?;
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
            tokens: examples.iter().map(Example::tokens).sum(),
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
        let (clock, mut read) = (Clock { start, before: self.standing.seconds }, 0);
        while self.learner.step < steps && !self.stopped() {
            let flow = self.step(&mut files, &clock, &mut read, &mut tell)?;
            let step = self.learner.step;
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

    /// Learns one step. `read` is the number of tokens of this run.
    fn step(
        &mut self,
        files: &mut Files,
        clock: &Clock,
        read: &mut usize,
        tell: &mut impl FnMut(Event) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Error> {
        let examples = self.examples(self.learner.step)?;
        let n = examples.iter().map(Example::tokens).sum::<usize>();
        let o = &self.config.optimiser;
        let (objective, micro) = (&self.objective, o.micro.unwrap_or(o.batch));
        let mut line = None;
        let (losses, standing) = (&mut self.losses, &mut self.standing);
        let flow = self.learner.train(
            self.learner.step + 1,
            |learner| Ok(objective.learn(&mut learner.model, &examples, micro)),
            |learner, Done { step, loss, rate, norm }| {
                *read += n;
                let speed = *read as f64 / clock.start.elapsed().as_secs_f64();
                losses.push((step, loss));
                standing.tokens += n;
                standing.seconds = clock.before + clock.start.elapsed().as_secs_f64();
                let (seconds, tokens, skipped) = (standing.seconds, standing.tokens, learner.skipped);
                line = Some(Line { step, seconds, tokens, loss, rate, norm, skipped, speed });
                Ok(tell(Event::Step { step, loss, rate, norm, speed }))
            },
        )?;
        line.map_or(Ok(()), |line| files.step(&line))?;
        Ok(flow)
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
