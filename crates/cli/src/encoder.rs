//! The options that say which encoder, and bars over documents.

use std::ffi::OsString;

use clap::Args;
use indicatif::{HumanCount, ProgressBar, ProgressStyle};
use longreach_engine::{Pooling, Prompt, TextEncoder};
use longreach_models::Progress;
use longreach_search::job;

use crate::failure::Failure;
use crate::model::DTypeArg;

#[derive(Args)]
pub(crate) struct EncoderArgs {
    /// Directory, file of weights or Hub id: an encoder of Hugging Face, sentence-transformers or PyLate
    ///
    /// A Hub model is fetched once and kept in the Hub's cache; HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE and TRANSFORMERS_OFFLINE are
    /// honoured.
    #[arg(long, short, value_name = "MODEL")]
    model: OsString,
    /// Precision in which matrices are kept [default: as they are stored]; what int8 loses, `longreach accuracy` measures
    #[arg(long, value_enum)]
    dtype: Option<DTypeArg>,
    /// Read at most N tokens of a text at once [default: what the model says]
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,
}

impl EncoderArgs {
    pub(crate) fn load(&self) -> Result<TextEncoder, Failure> {
        let encoder = self.load_as(self.dtype)?;
        encoder.notes().iter().for_each(|note| eprintln!("note: {note}"));
        Ok(encoder)
    }

    pub(crate) fn load_as(&self, dtype: Option<DTypeArg>) -> Result<TextEncoder, Failure> {
        let mut encoder = TextEncoder::load(&self.model, dtype.map(Into::into), Progress::Shown)?;
        if let Some(n) = self.max_tokens {
            encoder.set_limit(n)?;
        }
        Ok(encoder)
    }

    pub(crate) fn dtype(&self) -> Option<DTypeArg> {
        self.dtype
    }
}

/// What may be said about vectors.
#[derive(Args)]
pub(crate) struct VectorArgs {
    /// How tokens become a vector [default: what the model says, or mean]; several are put one behind the other
    #[arg(long, value_name = "WAY", value_delimiter = ',', value_parser = pooling)]
    pooling: Vec<Pooling>,
    /// Divide vectors by their length, or do not [default: what the model says]
    #[arg(long, value_name = "true|false", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    normalize: Option<bool>,
}

fn pooling(name: &str) -> Result<Pooling, String> {
    let known = Pooling::ALL.iter().find(|(known, _)| *known == name);
    known.map(|(_, pooling)| *pooling).ok_or_else(|| {
        let names = Pooling::ALL.map(|(name, _)| name).join(", ");
        format!("want {names}")
    })
}

impl VectorArgs {
    pub(crate) fn apply(&self, encoder: &mut TextEncoder) {
        if !self.pooling.is_empty() {
            encoder.pipeline.pooling = self.pooling.clone();
        } else if let Some(note) = encoder.note_on_vectors() {
            eprintln!("note: {note}");
        }
        if let Some(normalize) = self.normalize {
            encoder.pipeline.set_normalize(normalize);
        }
    }
}

/// The text put before each text.
#[derive(Args)]
pub(crate) struct PromptArgs {
    /// Put the model's prompt of this name before each text [default: the model's own default]
    #[arg(long, value_name = "NAME", conflicts_with = "prompt_text")]
    prompt: Option<String>,
    /// Put this before each text
    #[arg(long, value_name = "TEXT")]
    prompt_text: Option<String>,
}

impl PromptArgs {
    pub(crate) fn of(&self) -> Prompt<'_> {
        match (&self.prompt, &self.prompt_text) {
            (Some(name), _) => Prompt::Named(name),
            (None, Some(text)) => Prompt::Text(text),
            (None, None) => Prompt::Default,
        }
    }
}

/// A bar over the bytes of an input, or a count where nobody knows how many there are.
pub(crate) struct Bar {
    bar: ProgressBar,
    start: std::time::Instant,
}

impl Bar {
    pub(crate) fn over(bytes: Option<u64>) -> Result<Self, Failure> {
        let style = match bytes {
            Some(_) => "{bar:32} {percent}%, {eta} left, {msg}",
            None => "{spinner} {elapsed}, {msg}",
        };
        let bar = bytes.map_or_else(ProgressBar::no_length, ProgressBar::new);
        bar.set_style(ProgressStyle::with_template(style).map_err(Failure::new)?);
        Ok(Self { bar, start: std::time::Instant::now() })
    }

    pub(crate) fn at(&self, p: &job::Progress) {
        self.bar.set_position(p.bytes);
        let rate = p.tokens as f64 / self.start.elapsed().as_secs_f64().max(1e-3);
        self.bar.set_message(format!("{} documents, {rate:.0} tok/s", HumanCount(p.documents)));
    }

    /// Takes the bar away and says what was done.
    pub(crate) fn done(self, p: &job::Progress, what: &str, split: &str, blank: &str) {
        self.bar.finish_and_clear();
        let rate = p.tokens as f64 / self.start.elapsed().as_secs_f64().max(1e-3);
        let before = if p.before > 0 { format!(" ({} of them before)", HumanCount(p.before)) } else { String::new() };
        eprintln!(
            "{} documents{before} became {} {what}: {} tokens, {rate:.0} tok/s",
            HumanCount(p.documents),
            HumanCount(p.rows),
            HumanCount(p.tokens)
        );
        for (n, what, note) in [
            (p.long, "documents longer than the model reads at once", split),
            (p.blank, "documents that are blank", blank),
            (p.left_out, "files that are no text", "left out"),
            (p.broken_links, "symbolic links that lead nowhere, or back to a folder they are in", "left out"),
        ] {
            if n > 0 {
                eprintln!("note: {what}: {} ({note})", HumanCount(n));
            }
        }
    }
}

/// What a BigBird does with texts too short for its blocks, said where it is done.
pub(crate) fn note_short(encoder: &TextEncoder) {
    let whole = encoder.model.encoder.attentions().find_map(|attention| match attention.sees() {
        longreach_nn::Sees::BigBird(b) => Some((5 + 2 * b.random_blocks) * b.block),
        _ => None,
    });
    if let Some(n) = whole {
        eprintln!("note: texts of at most {n} tokens are seen whole: the model's blocks need more, as in Hugging Face");
    }
}
