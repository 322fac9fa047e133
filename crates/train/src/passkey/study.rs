//! How far models that learnt the passkey on short texts find it in long ones.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use burn::tensor::Tensor;
use longreach_models::{DType, Location, Model, save, write_atomically};
use longreach_nn::Cache;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;

use super::{Passkey, picture};
use crate::entrant::{self, Entrant};
use crate::learner::Learner;
use crate::{Error, Optimiser, config, tokenizer};

/// A comparison, as a TOML file says it. Paths are relative to the file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PasskeyStudy {
    /// Where tables and pictures are written.
    pub output: PathBuf,
    /// Where the models are written, a directory each.
    pub weights: PathBuf,
    /// Seed of weights and texts.
    #[serde(default)]
    pub seed: u64,
    /// Digits of a number.
    pub digits: usize,
    /// How long the texts are that models learn from.
    pub course: Course,
    /// The optimiser; `batch` texts of the greatest `length` are as many tokens as every step has.
    pub optimiser: Optimiser,
    /// What models are asked.
    pub asked: Vec<Asked>,
    /// The fields of `config.json` that all models share.
    pub model: toml::Table,
    /// The models, with the fields in which they differ.
    pub models: Vec<Entrant>,
}

/// Texts grow while a model learns: a step's length is drawn between the shortest and a longest that grows up to the optimiser's `length`,
/// every doubling as likely as another.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Course {
    /// Bytes of the shortest text.
    pub shortest: usize,
    /// The part of the steps after which the longest does not grow any more.
    pub growing: f64,
    /// Bytes of the longest filler whose state models with `long_states` meet: once texts do not grow any more, every other step goes on from the state
    /// after some filler, between the optimiser's `length` and this, through which no gradient flows (state passing, Buitrago and Gu 2025).
    #[serde(default)]
    pub before: usize,
    /// Steps after which filler is read anew.
    #[serde(default = "refresh")]
    pub refresh: usize,
}

fn refresh() -> usize {
    20
}

/// Texts to measure on.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// Their bytes.
    pub length: usize,
    /// Into how many parts a text is cut, in each of which the number stands at a place drawn at random.
    pub depths: usize,
    /// How many texts for each.
    pub texts: usize,
}

/// How a model did on the texts of a length with the number at one depth.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    /// Bytes of a text.
    pub length: usize,
    /// The middle of the part where the number stood: 0 is the beginning of a text, 1 just before the question.
    pub depth: f64,
    /// How many texts.
    pub texts: usize,
    /// How many numbers were named rightly.
    pub right: usize,
    /// How many digits were.
    pub digits: usize,
    /// Seconds a text.
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

/// What a study tells while it works.
#[derive(Clone, Debug)]
pub enum PasskeyEvent<'a> {
    /// A step of training is done.
    Step {
        /// The model.
        name: &'a str,
        /// Its steps done, and how many there are.
        done: (usize, usize),
        /// Bytes of a text.
        length: usize,
        /// The loss, in nats a digit.
        loss: f32,
    },
    /// A model has been asked.
    Asked {
        /// The model.
        name: &'a str,
        /// How it did.
        score: Score,
    },
}

/// A name as part of a file's.
fn slug(name: &str) -> String {
    let kept = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    name.chars().map(kept).collect()
}

impl PasskeyStudy {
    /// Reads a file.
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
            let want = format!("want at least `optimiser.length`, {}, where models have `long_states`", o.length);
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

    /// Trains every model whose directory is not there yet, and asks it what its table does not have yet; tables and pictures are written anew
    /// whenever something was asked. `tell` may break off: another run goes on with the model or the question that was under way.
    /// With `only` some names, the other models are left for another run.
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

    /// Bytes of the texts of a step.
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
        for step in 0..o.steps {
            let length = self.length(step);
            let batch = (o.batch * o.length / length).max(1);
            let (ids, targets) = self.task(length).sequences(batch, self.seed.wrapping_add(1 + step as u64));
            let long = entrant.long_states && step as f64 >= self.course.growing * o.steps as f64;
            if long && (state.is_none() || step.is_multiple_of(self.course.refresh)) {
                state = Some(self.after_filler(&learner, step));
            }
            let loss = match state.clone().filter(|_| step % 2 == 1) {
                Some(state) => learner.learn_after(&ids, &targets, state.repeated(batch)),
                None => learner.learn(&ids, &targets, batch),
            };
            let event = PasskeyEvent::Step { name: &entrant.name, done: (step + 1, o.steps), length, loss };
            if tell(event).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        self.keep(&learner, directory)?;
        Ok(ControlFlow::Continue(()))
    }

    /// The state after filler of a length drawn for the step.
    fn after_filler(&self, learner: &Learner, step: usize) -> Cache {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed ^ (step as u64) << 40);
        let (least, most) = (self.optimiser.length as f64, self.course.before as f64);
        let part: f64 = rng.random();
        // A third of the longest on average, and some near it.
        let length = (least + (most - least) * part * part).round() as usize;
        let filler = super::filler(length, rng.random_range(0..length));
        let decoder = &learner.model.decoder;
        filler.chunks(PIECE).fold(decoder.start(1), |mut cache, piece| {
            decoder.forward(piece, &mut cache, None);
            cache.loss = None;
            cache.detached()
        })
    }

    /// Writes a model beside its place, then puts it there.
    fn keep(&self, learner: &Learner, directory: &Path) -> Result<(), Error> {
        let fresh = directory.with_extension("new");
        std::fs::create_dir_all(&fresh).map_err(|e| Error::io(&fresh, e))?;
        let model = &learner.model;
        save(&model.decoder, &model.names, DType::F32, &fresh.join("model.safetensors"))?;
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

    /// Asks about texts whose number stands in part `part` of them.
    fn score(&self, model: &Model, asked: &Asked, part: usize) -> Score {
        let start = Instant::now();
        let task = self.task(asked.length);
        let depth = (part as f64 + 0.5) / asked.depths as f64;
        let seed = |text: usize| self.seed ^ HELD_OUT ^ (asked.length as u64) << 24 ^ (part << 12 | text) as u64;
        // Somewhere in its part of the text, so that the same byte of a segment is not met every time.
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
        let wrong = |line: &str| Error::Resume { path: file.clone(), message: format!("`{line}` is no result") };
        text.lines().skip(1).map(|line| Score::read(line).ok_or_else(|| wrong(line))).collect()
    }

    /// The table over all models, and a picture of each.
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

/// Tells the texts to measure on from those to learn from.
const HELD_OUT: u64 = 1 << 63;

/// Tokens of each text that are read at once.
const PIECE: usize = 2048;

/// The likeliest token of each row of `[B, 1, vocabulary]`.
fn likeliest(logits: Tensor<3>) -> Vec<u32> {
    let vocabulary = logits.dims()[2];
    let logits: Vec<f32> = logits.into_data().iter::<f32>().collect();
    let best = |row: &[f32]| (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap_or(0);
    logits.chunks(vocabulary).map(|row| best(row) as u32).collect()
}
