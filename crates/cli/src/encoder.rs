//! Options that choose an encoder and how it makes vectors, and the progress bar over documents.

use std::ffi::{OsStr, OsString};

use clap::Args;
use indicatif::{HumanCount, ProgressBar, ProgressStyle};
use longreach_engine::{Pooling, Prompt, TextEncoder};
use longreach_models::Progress;
use longreach_search::job;

use crate::failure::Failure;
use crate::machine::{check_dtype, device};
use crate::model::DTypeArg;

#[derive(Args)]
pub(crate) struct EncoderArgs {
    /// Encoder to load: a directory, weights file or Hugging Face Hub id (transformers, sentence-transformers or PyLate)
    ///
    /// A model of the Hub is downloaded once and kept in the Hub's cache. HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE and
    /// TRANSFORMERS_OFFLINE are honoured.
    #[arg(long, short, value_name = "MODEL")]
    model: OsString,
    /// Dtype of the weight matrices in memory; `longreach accuracy` measures the error of int8 [default: that of the checkpoint]
    #[arg(long, value_enum)]
    dtype: Option<DTypeArg>,
    /// Longest input of the encoder in tokens; longer texts are split or truncated [default: the limit of the model]
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
        let dtype = dtype.map(Into::into);
        check_dtype(dtype)?;
        let mut encoder = TextEncoder::load_on(&self.model, dtype, &device(), Progress::Shown)?;
        if let Some(n) = self.max_tokens {
            encoder.set_limit(n)?;
        }
        Ok(encoder)
    }

    /// The name of the model.
    pub(crate) fn model(&self) -> &OsStr {
        &self.model
    }

    pub(crate) fn dtype(&self) -> Option<DTypeArg> {
        self.dtype
    }
}

/// Options that override how token vectors become a text vector.
#[derive(Args)]
pub(crate) struct VectorArgs {
    /// Pooling of the token vectors: cls, max, mean, mean_sqrt_len_tokens, weightedmean or lasttoken [default: that of the model, or mean]
    ///
    /// Several poolings may be given, separated by commas; their results are concatenated.
    #[arg(long, value_name = "WAY", value_delimiter = ',', value_parser = pooling)]
    pooling: Vec<Pooling>,
    /// Normalise vectors to unit length, or not [default: as the model specifies]
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

/// Options for the prompt that is prepended to each text.
#[derive(Args)]
pub(crate) struct PromptArgs {
    /// Prepend the model's prompt of this name to each text [default: the model's default prompt]
    #[arg(long, value_name = "NAME", conflicts_with = "prompt_text")]
    prompt: Option<String>,
    /// Prepend this string to each text
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

/// A progress bar over the bytes of an input, or a spinner where its size is unknown.
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

    /// Removes the bar and prints a summary: `what` names the rows, `split` and `blank` say how long and blank documents were treated.
    pub(crate) fn done(self, p: &job::Progress, what: &str, split: &str, blank: &str) {
        self.bar.finish_and_clear();
        let rate = p.tokens as f64 / self.start.elapsed().as_secs_f64().max(1e-3);
        let before =
            if p.before > 0 { format!(" ({} of them in an earlier run)", HumanCount(p.before)) } else { String::new() };
        eprintln!(
            "embedded {} documents{before} as {} {what}: {} tokens, {rate:.0} tok/s",
            HumanCount(p.documents),
            HumanCount(p.rows),
            HumanCount(p.tokens)
        );
        for (n, what, note) in [
            (p.long, "documents longer than the input limit of the model", split),
            (p.blank, "blank documents", blank),
            (p.left_out, "files that are not text", "skipped"),
            (p.broken_links, "symbolic links that are broken or form a cycle", "skipped"),
        ] {
            if n > 0 {
                eprintln!("note: {what}: {} ({note})", HumanCount(n));
            }
        }
    }
}

/// Prints a note for BigBird models, which use full attention for texts too short for their block-sparse pattern.
pub(crate) fn note_short(encoder: &TextEncoder) {
    let whole = encoder.model.encoder.attentions().find_map(|attention| match attention.sees() {
        longreach_nn::Sees::BigBird(b) => Some((5 + 2 * b.random_blocks) * b.block),
        _ => None,
    });
    if let Some(n) = whole {
        eprintln!(
            "note: texts of up to {n} tokens get full attention: they are too short for block-sparse attention, as in transformers"
        );
    }
}
