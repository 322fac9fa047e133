//! The training loop.

use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use burn::tensor::{Device, Tensor};
use longreach_models::{DType, Location, Model, write_atomically};
use longreach_nn::Decoder;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use tokenizers::Tokenizer;

use crate::learner::{Learner, optimiser};
use crate::tokenizer::{self, END_OF_TEXT};
use crate::{Config, Corpus, Error, Page, curve};

/// A progress event of a training.
#[derive(Clone, Debug)]
pub enum Event {
    /// The text was read and tokenized.
    Ready {
        /// Bytes and tokens of the training text.
        train: (usize, usize),
        /// Bytes and tokens of the held-out text.
        held_out: (usize, usize),
        /// Number of parameters of the model.
        parameters: usize,
        /// Step to start from; above 0 if a checkpoint was restored.
        step: usize,
    },
    /// A step was done.
    Step {
        /// Number of steps done.
        step: usize,
        /// The loss, in nats per token.
        loss: f32,
        /// Tokens per second since the start of this run.
        speed: f64,
    },
    /// A checkpoint was written.
    Checkpoint(PathBuf),
}

/// The result of a training.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Bits per byte on the held-out pages, each read from its start.
    pub bits_per_byte: f64,
    /// Number of held-out bytes.
    pub bytes: usize,
    /// Directory of the trained model.
    pub directory: PathBuf,
    /// Duration of this run in seconds.
    pub seconds: f64,
}

/// A training in progress.
pub struct Run {
    config: Config,
    corpus: Corpus,
    tokenizer: Tokenizer,
    learner: Learner,
    losses: Vec<(usize, f32)>,
}

impl Run {
    /// Reads the text, builds the model, and restores the last checkpoint of the output directory, if any. An error if the text, tokenizer, model or checkpoint
    /// cannot be used.
    pub fn new(config: Config) -> Result<Self, Error> {
        std::fs::create_dir_all(&config.output).map_err(|e| Error::io(&config.output, e))?;
        let corpus = Corpus::read(&config.data)?;
        let tokenizer = tokenizer::of(&config, &corpus.train, &config.output.join("tokenizer.json"))?;
        let mut fields = config.model.clone();
        let vocabulary = tokenizer.get_vocab_size(true);
        fields.insert("vocab_size".into(), toml::Value::Integer(vocabulary as i64));
        if let Some(end) = tokenizer.token_to_id(END_OF_TEXT) {
            for name in ["eos_token_id", "bos_token_id", "pad_token_id"] {
                fields.insert(name.into(), toml::Value::Integer(end as i64));
            }
        }
        let json = serde_json::to_string_pretty(&fields)
            .map_err(|e| Error::Config { file: "model".into(), message: e.to_string() })?;
        let device = Device::flex().autodiff();
        let model = Model::random("model", &json, config.seed, &device)?;
        let wrong = |message| Error::Config { file: "optimiser".into(), message };
        let learner = Learner::new(model, &config.optimiser).map_err(wrong)?;
        let mut run = Self { config, corpus, tokenizer, learner, losses: Vec::new() };
        run.resume(&device)?;
        Ok(run)
    }

    fn checkpoint(&self) -> PathBuf {
        self.config.output.join("checkpoint")
    }

    fn resume(&mut self, device: &Device) -> Result<(), Error> {
        let at = self.checkpoint();
        let log = at.join("losses.csv");
        if !log.exists() {
            return Ok(());
        }
        let wrong = |message: String| Error::Resume { path: at.clone(), message };
        let location = Location { directory: at.clone(), weights: None };
        let mut stored = longreach_models::Checkpoint::open(&location.directory)?;
        let mut builder = longreach_nn::Builder::new(&mut stored, device);
        self.learner.model.decoder =
            self.learner.model.description.build(&mut builder).map_err(longreach_models::Error::from)?;
        let fresh = optimiser(&self.config.optimiser, &self.learner.model.decoder);
        self.learner.optimiser = fresh.load(at.join("optimiser")).map_err(|e| wrong(format!("optimiser: {e:?}")))?;
        let text = std::fs::read_to_string(&log).map_err(|e| Error::io(&log, e))?;
        for line in text.lines().skip(1) {
            let pair = line.split_once(',').and_then(|(s, l)| Some((s.parse().ok()?, l.parse().ok()?)));
            self.losses.push(pair.ok_or_else(|| wrong(format!("losses.csv: `{line}` is not a step and a loss")))?);
        }
        self.learner.step = self.losses.last().map_or(0, |(step, _)| *step);
        Ok(())
    }

    /// Trains to the last step, then writes the model to `output/model` and evaluates it.
    ///
    /// `tell` is called with every event. If it breaks, a checkpoint is written and `None` is returned; a later run resumes from there with the same results as
    /// an uninterrupted one.
    pub fn train(mut self, mut tell: impl FnMut(Event) -> ControlFlow<()>) -> Result<Option<Outcome>, Error> {
        let start = Instant::now();
        let o = self.config.optimiser.clone();
        let end = self.tokenizer.token_to_id(END_OF_TEXT);
        let pages = tokenizer::encode(&self.tokenizer, &self.corpus.train)?;
        let held_out = tokenizer::encode(&self.tokenizer, &self.corpus.held_out)?;
        let bytes = |pages: &[Page]| pages.iter().map(|p| p.text.len()).sum::<usize>();
        let count = |pages: &[Vec<u32>]| pages.iter().map(Vec::len).sum::<usize>();
        let _ = tell(Event::Ready {
            train: (bytes(&self.corpus.train), count(&pages)),
            held_out: (bytes(&self.corpus.held_out), count(&held_out)),
            parameters: self.learner.model.parameters(),
            step: self.learner.step,
        });
        let mut windows = Windows::new(pages, end, o.length, self.config.seed);
        if windows.starts.len() < o.batch {
            return Err(Error::Text(format!(
                "the training text has {} sequences of {} tokens, but a step needs {}",
                windows.starts.len(),
                o.length,
                o.batch
            )));
        }
        let first = self.learner.step;
        while self.learner.step < o.steps {
            let (ids, targets) = windows.batch(self.learner.step, o.batch);
            let value = self.learner.learn(&ids, &targets, o.batch);
            let step = self.learner.step;
            self.losses.push((step, value));
            let tokens = (step - first) * o.batch * o.length;
            let speed = tokens as f64 / start.elapsed().as_secs_f64();
            let stop = tell(Event::Step { step, loss: value, speed }).is_break();
            if stop || self.learner.step.is_multiple_of(o.checkpoint_every) || self.learner.step == o.steps {
                self.write_checkpoint()?;
                let _ = tell(Event::Checkpoint(self.checkpoint()));
            }
            if stop && self.learner.step < o.steps {
                return Ok(None);
            }
        }
        self.finish(&held_out, start).map(Some)
    }

    /// Writes a checkpoint to a new directory, then replaces the last one by it.
    fn write_checkpoint(&self) -> Result<(), Error> {
        let (at, fresh) = (self.checkpoint(), self.config.output.join("checkpoint.new"));
        let io = |e| Error::io(&fresh, e);
        if fresh.exists() {
            std::fs::remove_dir_all(&fresh).map_err(io)?;
        }
        std::fs::create_dir_all(&fresh).map_err(io)?;
        self.write_model(&fresh, DType::F32)?;
        self.learner
            .optimiser
            .save(fresh.join("optimiser"))
            .map_err(|e| Error::Resume { path: fresh.clone(), message: format!("optimiser: {e:?}") })?;
        let mut log = String::from("step,loss\n");
        for (step, loss) in &self.losses {
            let _ = writeln!(log, "{step},{loss}");
        }
        write_atomically(&fresh.join("losses.csv"), |out| out.write_all(log.as_bytes()))?;
        if at.exists() {
            std::fs::remove_dir_all(&at).map_err(|e| Error::io(&at, e))?;
        }
        std::fs::rename(&fresh, &at).map_err(|e| Error::io(&at, e))?;
        let picture = curve::svg(&self.losses, &[]);
        write_atomically(&self.config.output.join("loss.svg"), |out| out.write_all(picture.as_bytes()))?;
        Ok(())
    }

    fn write_model(&self, directory: &Path, dtype: DType) -> Result<(), Error> {
        self.learner.model.save(dtype, &directory.join("model.safetensors"))?;
        write_atomically(&directory.join("config.json"), |out| out.write_all(self.learner.model.config.as_bytes()))?;
        let tokenizer = self.tokenizer.to_string(false).map_err(|e| Error::Tokenizer(e.to_string()))?;
        write_atomically(&directory.join("tokenizer.json"), |out| out.write_all(tokenizer.as_bytes()))?;
        Ok(())
    }

    fn finish(self, held_out: &[Vec<u32>], start: Instant) -> Result<Outcome, Error> {
        let directory = self.config.output.join("model");
        std::fs::create_dir_all(&directory).map_err(|e| Error::io(&directory, e))?;
        self.write_model(&directory, DType::Bf16)?;
        let model = Model::load(&Location { directory: directory.clone(), weights: None }, None)?;
        let end = self.tokenizer.token_to_id(END_OF_TEXT).unwrap_or(0);
        let nats: f64 = held_out.iter().map(|page| nats(&model.decoder, end, page)).sum();
        let bytes = self.corpus.held_out.iter().map(|p| p.text.len()).sum::<usize>();
        let bits_per_byte = nats * std::f64::consts::LOG2_E / bytes.max(1) as f64;
        let last = self.losses.last().map_or(0, |(step, _)| *step);
        let tokens: usize = held_out.iter().map(Vec::len).sum();
        let picture = curve::svg(&self.losses, &[(last, (nats / tokens.max(1) as f64) as f32)]);
        write_atomically(&self.config.output.join("loss.svg"), |out| out.write_all(picture.as_bytes()))?;
        let text: String = self.corpus.held_out.iter().map(|p| p.text.as_str()).collect();
        write_atomically(&self.config.output.join("held_out.txt"), |out| out.write_all(text.as_bytes()))?;
        Ok(Outcome { bits_per_byte, bytes, directory, seconds: start.elapsed().as_secs_f64() })
    }
}

/// The total loss of a page in nats, computed in chunks from its start.
fn nats(decoder: &Decoder, end: u32, page: &[u32]) -> f64 {
    let mut ids = vec![end];
    ids.extend(page);
    let mut cache = decoder.start(1);
    let mut sum = 0.0;
    for at in (0..page.len()).step_by(512) {
        let to = (at + 512).min(page.len());
        let targets: Vec<i64> = ids[at + 1..to + 1].iter().map(|id| *id as i64).collect();
        let hidden = decoder.forward(&ids[at..to], &mut cache, None);
        let logits: Tensor<3> = decoder.logits(hidden);
        let logits = logits.into_data();
        let vocabulary = decoder.vocabulary();
        let rows: Vec<f32> = logits.iter::<f32>().collect();
        for (row, target) in rows.chunks(vocabulary).zip(targets) {
            let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let total: f64 = row.iter().map(|x| ((x - most) as f64).exp()).sum();
            sum += total.ln() - (row[target as usize] - most) as f64;
        }
    }
    sum
}

/// Sequences of equal length, cut from the concatenated pages and shuffled anew in every epoch.
struct Windows {
    tokens: Vec<u32>,
    starts: Vec<usize>,
    length: usize,
    seed: u64,
    epoch: Option<usize>,
}

impl Windows {
    fn new(pages: Vec<Vec<u32>>, end: Option<u32>, length: usize, seed: u64) -> Self {
        let mut order: Vec<usize> = (0..pages.len()).collect();
        order.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
        let mut tokens = Vec::new();
        for i in order {
            tokens.extend(end);
            tokens.extend(&pages[i]);
        }
        let starts = (0..tokens.len().saturating_sub(length)).step_by(length).collect();
        Self { tokens, starts, length, seed, epoch: None }
    }

    /// The sequences of a step and their targets, the next tokens, both `[batch × length]`. They depend on the step only, so that training can resume.
    fn batch(&mut self, step: usize, batch: usize) -> (Vec<u32>, Vec<i64>) {
        let per_epoch = self.starts.len() / batch;
        let epoch = step / per_epoch;
        if self.epoch != Some(epoch) {
            self.starts.sort_unstable();
            self.starts.shuffle(&mut ChaCha8Rng::seed_from_u64(self.seed ^ (epoch as u64 + 1)));
            self.epoch = Some(epoch);
        }
        // Another offset in every epoch, so that sequences do not always begin at the same tokens.
        let shift = (epoch * 131) % self.length;
        let at = (step % per_epoch) * batch;
        let (mut ids, mut targets) = (Vec::new(), Vec::new());
        for start in &self.starts[at..at + batch] {
            let start = (start + shift).min(self.tokens.len() - self.length - 1);
            ids.extend(&self.tokens[start..start + self.length]);
            targets.extend(self.tokens[start + 1..start + self.length + 1].iter().map(|id| *id as i64));
        }
        (ids, targets)
    }
}
