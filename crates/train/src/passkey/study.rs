//! A study of length extrapolation: models trained on short passkey texts are tested on long ones.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use burn::tensor::Tensor;
use longreach_models::{DType, Location, Model, write_atomically};
use longreach_nn::Cache;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;

use super::{Passkey, picture};
use crate::entrant::{self, Entrant};
use crate::learner::{Done, Learner};
use crate::{Error, Optimiser, config, tokenizer};

/// A passkey study, read from a TOML file. Paths are relative to the file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PasskeyStudy {
    /// Directory for tables and figures.
    pub output: PathBuf,
    /// Directory for the trained models, one subdirectory each.
    pub weights: PathBuf,
    /// Seed of the initial weights and of the texts.
    #[serde(default)]
    pub seed: u64,
    /// Number of digits of the passkey.
    pub digits: usize,
    /// The curriculum of text lengths.
    pub course: Course,
    /// The optimiser. Every step has about `batch × length` tokens, where `length` is that of the longest text.
    pub optimiser: Optimiser,
    /// The tests.
    pub asked: Vec<Asked>,
    /// The fields of `config.json` that all models share.
    pub model: toml::Table,
    /// The models, with the fields in which they differ.
    pub models: Vec<Entrant>,
}

/// A curriculum of text lengths: the length of a step is drawn log-uniformly between the shortest and a maximum that grows up to the `length` of the optimiser.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Course {
    /// Length of the shortest text, in bytes.
    pub shortest: usize,
    /// Fraction of the steps after which the maximum stops growing, 0 to 1.
    pub growing: f64,
    /// Length of the longest filler, in bytes, for models with `long_states`. Once the maximum stops growing, every other step starts from the state after
    /// filler of a length between that of the optimiser and this, without gradients through it (state passing, Buitrago and Gu 2025).
    #[serde(default)]
    pub before: usize,
    /// Number of steps after which the filler is read again with the current weights.
    #[serde(default = "refresh")]
    pub refresh: usize,
}

fn refresh() -> usize {
    20
}

/// A test: texts of one length.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// Length of the texts, in bytes.
    pub length: usize,
    /// Number of depth intervals; the number is placed at random within each.
    pub depths: usize,
    /// Number of texts per depth interval.
    pub texts: usize,
}

/// How a model did on the texts of a length with the number at one depth.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    /// Bytes of a text.
    pub length: usize,
    /// The middle of the part where the number stood: 0 is the beginning of a text, 1 just before the question.
    pub depth: f64,
    /// Number of texts.
    pub texts: usize,
    /// Number of passkeys with all digits correct.
    pub right: usize,
    /// Number of correct digits.
    pub digits: usize,
    /// Seconds per text.
    pub seconds: f64,
}

impl Score {
    const HEAD: &'static str = "length,depth,texts,numbers,digits,seconds";

    fn line(&self) -> String {
        let Self { length, depth, texts, right, digits, seconds } = self;
        format!("{length},{depth:.3},{texts},{right},{digits},{seconds:.2}")
    }

    fn read(line: &str) -> Option<Self> {
        let mut parts = line.split(',');
        let mut next = || parts.next();
        Some(Self {
            length: next()?.parse().ok()?,
            depth: next()?.parse().ok()?,
            texts: next()?.parse().ok()?,
            right: next()?.parse().ok()?,
            digits: next()?.parse().ok()?,
            seconds: next()?.parse().ok()?,
        })
    }
}

/// A progress event of a study.
#[derive(Clone, Debug)]
pub enum PasskeyEvent<'a> {
    /// A training step was done.
    Step {
        /// The model.
        name: &'a str,
        /// Steps done by this model, and their total.
        done: (usize, usize),
        /// Length of the texts, in bytes.
        length: usize,
        /// The loss, in nats per digit.
        loss: f32,
    },
    /// A test was done.
    Asked {
        /// The model.
        name: &'a str,
        /// Its result.
        score: Score,
    },
}

/// A file name for a model.
fn slug(name: &str) -> String {
    let kept = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    name.chars().map(kept).collect()
}

impl PasskeyStudy {
    /// Reads and checks a TOML file; the error names the file and the field.
    pub fn read(file: &Path) -> Result<Self, Error> {
        let wrong = |message: String| Error::Config { file: file.display().to_string(), message };
        let mut study: Self = config::read(file)?;
        let base = file.parent().unwrap_or(Path::new(""));
        study.output = base.join(&study.output);
        study.weights = base.join(&study.weights);
        let (o, course) = (&study.optimiser, &study.course);
        if o.batch == 0 || o.steps == 0 {
            return Err(wrong("`optimiser.batch`, `optimiser.steps`: want at least 1".into()));
        }
        if course.shortest > o.length {
            let (shortest, length) = (course.shortest, o.length);
            return Err(wrong(format!(
                "`course.shortest`: want at most `optimiser.length`, {length}, found {shortest}"
            )));
        }
        if !(0.0..=1.0).contains(&course.growing) {
            return Err(wrong(format!("`course.growing`: want 0 to 1, found {}", course.growing)));
        }
        if study.models.iter().any(|m| m.long_states) && (course.before < o.length || course.refresh == 0) {
            let found = course.before;
            let want = format!("want at least `optimiser.length`, {}, for models with `long_states`", o.length);
            return Err(wrong(format!("`course.before`: {want}, found {found}, and a `refresh` of at least 1")));
        }
        study.task(course.shortest).check().map_err(&wrong)?;
        for asked in &study.asked {
            study.task(asked.length).check().map_err(&wrong)?;
            if asked.depths == 0 || asked.texts == 0 {
                return Err(wrong("`asked.depths`, `asked.texts`: want at least 1".into()));
            }
        }
        entrant::check(&study.models).map_err(wrong)?;
        Ok(study)
    }

    fn task(&self, length: usize) -> Passkey {
        Passkey { length, digits: self.digits }
    }

    /// Trains every model that has no directory yet, and runs the tests that are missing from its table. Tables and figures are rewritten after each test.
    /// If `tell` breaks, a later run resumes with the current model or test. If `only` is not empty, other models are skipped.
    pub fn run(&self, only: &[String], mut tell: impl FnMut(PasskeyEvent<'_>) -> ControlFlow<()>) -> Result<(), Error> {
        if let Some(name) = only.iter().find(|name| !self.models.iter().any(|m| m.name == **name)) {
            let names: Vec<_> = self.models.iter().map(|m| m.name.as_str()).collect();
            let message = format!("want one of {}, found `{name}`", names.join(", "));
            return Err(Error::Config { file: "models".into(), message });
        }
        for directory in [&self.output, &self.weights] {
            std::fs::create_dir_all(directory).map_err(|e| Error::io(directory, e))?;
        }
        for entrant in self.models.iter().filter(|m| only.is_empty() || only.contains(&m.name)) {
            let directory = self.weights.join(slug(&entrant.name));
            if !directory.exists() && self.train(entrant, &directory, &mut tell)?.is_break() {
                return Ok(());
            }
            let model = Model::load(&Location { directory, weights: None }, None)?.prepared();
            if self.ask(entrant, &model, &mut tell)?.is_break() {
                return Ok(());
            }
        }
        self.write()
    }

    /// Length of the texts of a step, in bytes.
    fn length(&self, step: usize) -> usize {
        let (course, o) = (&self.course, &self.optimiser);
        let grown = (step as f64 / (course.growing * o.steps as f64)).min(1.0);
        let doublings = (o.length as f64 / course.shortest as f64).log2() * if grown.is_nan() { 1.0 } else { grown };
        let drawn: f64 = ChaCha8Rng::seed_from_u64(self.seed ^ (step as u64) << 20).random();
        ((course.shortest as f64 * (doublings * drawn).exp2()).round() as usize).min(o.length)
    }

    fn train(
        &self,
        entrant: &Entrant,
        directory: &Path,
        tell: &mut impl FnMut(PasskeyEvent<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Error> {
        let o = &self.optimiser;
        let weights = entrant.from.as_ref().map(|name| self.weights.join(slug(name)));
        let mut learner = entrant.learner(&self.model, tokenizer::BYTES, self.seed, weights.as_deref(), o)?;
        let mut state: Option<Cache> = None;
        let length = |step: usize| self.length(step);
        let learn = |learner: &mut Learner| {
            let (step, length) = (learner.step, length(learner.step));
            let batch = (o.batch * o.length / length).max(1);
            let (ids, targets) = self.task(length).sequences(batch, self.seed.wrapping_add(1 + step as u64));
            let long = entrant.long_states && step as f64 >= self.course.growing * o.steps as f64;
            if long && (state.is_none() || step.is_multiple_of(self.course.refresh)) {
                state = Some(self.after_filler(learner, step));
            }
            Ok(match state.clone().filter(|_| step % 2 == 1) {
                Some(state) => learner.next_tokens_after(&ids, &targets, state.select(&vec![0; batch])),
                None => learner.next_tokens(&ids, &targets, batch),
            })
        };
        let flow = learner.train(o.steps, learn, |_, Done { step, loss, .. }| {
            let done = (step, o.steps);
            Ok(tell(PasskeyEvent::Step { name: &entrant.name, done, length: length(step - 1), loss }))
        })?;
        if flow.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        self.keep(&learner, directory)?;
        Ok(ControlFlow::Continue(()))
    }

    /// The state after filler of a random length.
    fn after_filler(&self, learner: &Learner, step: usize) -> Cache {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed ^ (step as u64) << 40);
        let (least, most) = (self.optimiser.length as f64, self.course.before as f64);
        let part: f64 = rng.random();
        // Squaring favours short filler: a third of the range on average, occasionally close to the longest.
        let length = (least + (most - least) * part * part).round() as usize;
        let filler = super::filler(length, rng.random_range(0..length));
        let decoder = &learner.decoder().decoder;
        filler.chunks(PIECE).fold(decoder.start(1), |mut cache, piece| {
            decoder.forward(piece, &mut cache, None);
            cache.loss = None;
            cache.detached()
        })
    }

    /// Writes a model to a new directory, then renames it.
    fn keep(&self, learner: &Learner, directory: &Path) -> Result<(), Error> {
        let fresh = directory.with_extension("new");
        std::fs::create_dir_all(&fresh).map_err(|e| Error::io(&fresh, e))?;
        let model = learner.decoder();
        model.save(DType::F32, &fresh.join("model.safetensors"))?;
        write_atomically(&fresh.join("config.json"), |out| out.write_all(model.config.as_bytes()))?;
        let tokenizer = tokenizer::bytes()?;
        write_atomically(&fresh.join("tokenizer.json"), |out| out.write_all(tokenizer.as_bytes()))?;
        std::fs::rename(&fresh, directory).map_err(|e| Error::io(directory, e))
    }

    fn ask(
        &self,
        entrant: &Entrant,
        model: &Model,
        tell: &mut impl FnMut(PasskeyEvent<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Error> {
        let mut scores = self.scores(entrant)?;
        for asked in self.asked.iter().filter(|asked| entrant.longest.is_none_or(|longest| asked.length <= longest)) {
            for i in 0..asked.depths {
                let depth = (i as f64 + 0.5) / asked.depths as f64;
                let done = |s: &Score| s.length == asked.length && (s.depth - depth).abs() < 1e-3;
                if scores.iter().any(done) {
                    continue;
                }
                let score = self.score(model, asked, i);
                scores.push(score);
                let csv: String = scores.iter().map(|s| format!("{}\n", s.line())).collect();
                let csv = format!("{}\n{csv}", Score::HEAD);
                write_atomically(&self.table(entrant), |out| out.write_all(csv.as_bytes()))?;
                if tell(PasskeyEvent::Asked { name: &entrant.name, score }).is_break() {
                    self.write()?;
                    return Ok(ControlFlow::Break(()));
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Tests a model on texts with the number in depth interval `part`.
    fn score(&self, model: &Model, asked: &Asked, part: usize) -> Score {
        let start = Instant::now();
        let task = self.task(asked.length);
        let depth = (part as f64 + 0.5) / asked.depths as f64;
        let seed = |text: usize| self.seed ^ HELD_OUT ^ (asked.length as u64) << 24 ^ (part << 12 | text) as u64;
        // Random within the interval, so that the position relative to segments varies.
        let place = |text: usize| {
            let within: f64 = ChaCha8Rng::seed_from_u64(seed(text)).random();
            depth + (within - 0.5) / asked.depths as f64
        };
        let hidden: Vec<_> = (0..asked.texts).map(|text| task.text(place(text), seed(text))).collect();
        let (decoder, prompt) = (&model.decoder, hidden[0].prompt.len());
        let mut cache = decoder.start(asked.texts);
        let mut last = Vec::new();
        for from in (0..prompt).step_by(PIECE) {
            let to = prompt.min(from + PIECE);
            let ids: Vec<u32> = hidden.iter().flat_map(|text| &text.prompt[from..to]).copied().collect();
            let read = decoder.forward(&ids, &mut cache, None);
            if to == prompt {
                last = likeliest(decoder.logits(read.narrow(1, to - from - 1, 1)));
            }
        }
        let mut named: Vec<Vec<u32>> = vec![Vec::new(); asked.texts];
        for digit in 0..self.digits {
            named.iter_mut().zip(&last).for_each(|(named, id)| named.push(*id));
            if digit + 1 < self.digits {
                last = likeliest(decoder.logits(decoder.forward(&last, &mut cache, None)));
            }
        }
        let both = || named.iter().zip(&hidden);
        let same = |(named, text): (&Vec<u32>, &super::Hidden)| {
            named.iter().zip(&text.answer).filter(|(named, digit)| named == digit).count()
        };
        Score {
            length: asked.length,
            depth,
            texts: asked.texts,
            right: both().filter(|(named, text)| **named == text.answer).count(),
            digits: both().map(same).sum(),
            seconds: start.elapsed().as_secs_f64() / asked.texts as f64,
        }
    }

    fn table(&self, entrant: &Entrant) -> PathBuf {
        self.output.join(format!("{}.csv", slug(&entrant.name)))
    }

    fn scores(&self, entrant: &Entrant) -> Result<Vec<Score>, Error> {
        let file = self.table(entrant);
        if !file.exists() {
            return Ok(Vec::new());
        }
        let text = std::fs::read_to_string(&file).map_err(|e| Error::io(&file, e))?;
        let wrong = |line: &str| Error::Resume { path: file.clone(), message: format!("`{line}` is not a result") };
        text.lines().skip(1).map(|line| Score::read(line).ok_or_else(|| wrong(line))).collect()
    }

    /// Writes the table of all models and a figure of each.
    fn write(&self) -> Result<(), Error> {
        let share = |part: usize, of: usize| format!("{:.0} %", 100.0 * part as f64 / of as f64);
        let mut head = String::from("| model |");
        self.asked.iter().for_each(|asked| head.push_str(&format!(" {} |", asked.length)));
        let mut table = format!("{head}\n| --- |{}\n", " --- |".repeat(self.asked.len()));
        for entrant in &self.models {
            let scores = self.scores(entrant)?;
            if scores.is_empty() {
                continue;
            }
            table.push_str(&format!("| {} |", entrant.name));
            for asked in &self.asked {
                let of_length = || scores.iter().filter(|s| s.length == asked.length);
                let texts: usize = of_length().map(|s| s.texts).sum();
                let (right, digits) = (of_length().map(|s| s.right).sum(), of_length().map(|s| s.digits).sum());
                table.push_str(&match texts {
                    0 => " not asked |".into(),
                    _ => format!(" {} ({}) |", share(right, texts), share(digits, texts * self.digits)),
                });
            }
            table.push('\n');
            let svg = picture::heat_map(&entrant.name, &scores, self.digits, self.optimiser.length);
            let file = self.output.join(format!("{}.svg", slug(&entrant.name)));
            write_atomically(&file, |out| out.write_all(svg.as_bytes()))?;
        }
        Ok(write_atomically(&self.output.join("passkey-table.md"), |out| out.write_all(table.as_bytes()))?)
    }
}

/// Separates the seeds of test texts from those of training texts.
const HELD_OUT: u64 = 1 << 63;

/// Tokens per forward pass and text.
const PIECE: usize = 2048;

/// The most probable token of each row of `[B, 1, vocabulary]`.
fn likeliest(logits: Tensor<3>) -> Vec<u32> {
    let vocabulary = logits.dims()[2];
    let logits: Vec<f32> = logits.into_data().iter::<f32>().collect();
    let best = |row: &[f32]| (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap_or(0);
    logits.chunks(vocabulary).map(|row| best(row) as u32).collect()
}
