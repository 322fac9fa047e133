//! Comparing a language model with another precision of itself.

use std::ffi::OsStr;

use indicatif::{ProgressBar, ProgressStyle};
use longreach_engine::{Agreement, Engine, Perplexity, agreement, perplexity};
use serde_json::json;

use crate::failure::Failure;
use crate::model::{DTypeArg, load};

/// The models to compare, and how.
pub(crate) struct Decoders<'a> {
    pub(crate) model: &'a OsStr,
    pub(crate) dtype: Option<DTypeArg>,
    pub(crate) against: Option<&'a OsStr>,
    pub(crate) context: usize,
    pub(crate) windows: Option<usize>,
    pub(crate) json: bool,
}

impl Decoders<'_> {
    /// Measures the models on a text, and prints the results.
    pub(crate) fn measure(&self, text: &str) -> Result<(), Failure> {
        let model = load(Some(self.model), self.dtype)?;
        let windows = windows(&model, text, self.context, self.windows)?;
        let bar = bar_of_windows(windows.len());
        let progress = |done: usize, _: usize| bar.set_position(done as u64);
        let reference = match (self.against, self.dtype) {
            (Some(name), _) => Some(load(Some(name), None)?),
            (None, Some(_)) => Some(load(Some(self.model), Some(DTypeArg::F32))?),
            (None, None) => None,
        };
        let context = windows.first().map_or(0, Vec::len);
        match reference {
            Some(reference) => {
                let found = agreement(&reference, &model, &windows, progress)?;
                bar.finish_and_clear();
                let sizes = [&reference, &model].map(|engine| engine.model.dtype.name());
                self.print_agreement(&found, [windows.len(), context], sizes);
            }
            None => {
                let found = perplexity(&model, &windows, progress)?;
                bar.finish_and_clear();
                self.print_perplexity(&found, [windows.len(), context]);
            }
        }
        Ok(())
    }

    fn print_perplexity(&self, found: &Perplexity, [windows, context]: [usize; 2]) {
        if self.json {
            let Perplexity { tokens, perplexity, error } = found;
            println!(
                "{}",
                json!({
                    "model": self.model.to_string_lossy(), "windows": windows, "context": context, "tokens": tokens,
                    "perplexity": perplexity, "perplexity_error": error,
                })
            );
            return;
        }
        println!("{} tokens in {windows} windows of {context}", found.tokens);
        println!("perplexity   {:.4} ± {:.4}", found.perplexity, found.error);
    }

    fn print_agreement(&self, found: &Agreement, [windows, context]: [usize; 2], dtypes: [&str; 2]) {
        let Agreement { reference, model, kl_mean, kl_median, kl_99, kl_max, same_top, probability_rms } = found;
        let against = self.against.map(OsStr::to_string_lossy);
        if self.json {
            println!(
                "{}",
                json!({
                    "model": self.model.to_string_lossy(), "against": against, "dtype": dtypes[1],
                    "against_dtype": dtypes[0], "windows": windows, "context": context, "tokens": model.tokens,
                    "perplexity": model.perplexity, "perplexity_error": model.error,
                    "against_perplexity": reference.perplexity, "against_perplexity_error": reference.error,
                    "kl_mean": kl_mean, "kl_median": kl_median, "kl_99": kl_99, "kl_max": kl_max,
                    "same_top": same_top, "probability_rms": probability_rms,
                })
            );
            return;
        }
        let name = against.map_or_else(|| "f32".into(), |name| name.into_owned());
        println!("{} against {name}", self.model.to_string_lossy());
        println!("{} tokens in {windows} windows of {context}", model.tokens);
        let ratio = model.perplexity / reference.perplexity;
        println!(
            "perplexity   {:.4} ± {:.4} against {:.4} ± {:.4}, ratio {ratio:.4}",
            model.perplexity, model.error, reference.perplexity, reference.error
        );
        println!("divergence   mean {kl_mean:.6}, median {kl_median:.6}, 99 % {kl_99:.6}, largest {kl_max:.6} nats");
        println!("same top     {:.2} %", 100.0 * same_top);
        println!("probability  {:.3} % root mean square difference", 100.0 * probability_rms);
    }
}

/// The first windows of a text; all if `most` is `None`.
pub(crate) fn windows(
    engine: &Engine,
    text: &str,
    context: usize,
    most: Option<usize>,
) -> Result<Vec<Vec<u32>>, Failure> {
    let mut windows = engine.windows(text, context)?;
    windows.truncate(most.unwrap_or(windows.len()).max(1));
    Ok(windows)
}

/// A bar of windows.
pub(crate) fn bar_of_windows(windows: usize) -> ProgressBar {
    let bar = ProgressBar::new(windows as u64);
    bar.set_style(ProgressStyle::with_template("{bar:30} {pos} of {len} windows, {eta} left").expect("a template"));
    bar
}
