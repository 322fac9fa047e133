//! How well two language models agree on a text: what fewer bits of one model's weights cost.

use serde::Serialize;

use crate::{Engine, Error};

/// What one model makes of a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Perplexity {
    /// The number of tokens that were predicted.
    pub tokens: usize,
    /// The exponential of the mean negative log-probability of the right tokens.
    pub perplexity: f64,
    /// The standard error of the perplexity.
    pub error: f64,
}

/// What two models make of the same text; probabilities of the second are compared with those of the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Agreement {
    /// Of the first.
    pub reference: Perplexity,
    /// Of the second.
    pub model: Perplexity,
    /// The mean Kullback–Leibler divergence of the second's distribution from the first's, in nats: `Σ p ln(p / q)`.
    pub kl_mean: f64,
    /// Its median.
    pub kl_median: f64,
    /// Its value that is exceeded at one of a hundred tokens.
    pub kl_99: f64,
    /// Its largest value.
    pub kl_max: f64,
    /// The share of tokens where both have the same most probable token.
    pub same_top: f64,
    /// The root mean square of the differences in the probability of the right token.
    pub probability_rms: f64,
}

/// Negative log-probabilities of the right tokens.
#[derive(Default)]
struct Losses {
    n: usize,
    sum: f64,
    squares: f64,
}

impl Losses {
    fn add(&mut self, loss: f64) {
        self.n += 1;
        self.sum += loss;
        self.squares += loss * loss;
    }

    fn perplexity(&self) -> Perplexity {
        let n = self.n.max(1) as f64;
        let mean = self.sum / n;
        let variance = (self.squares / n - mean * mean).max(0.0);
        let perplexity = mean.exp();
        let error = perplexity * (variance / (n - 1.0).max(1.0)).sqrt();
        Perplexity { tokens: self.n, perplexity, error }
    }
}

/// The perplexity of a text in windows: of the second half of each, so that every token is predicted from at least half a
/// window. `progress` hears the windows that were read, and all windows.
pub fn perplexity(
    engine: &Engine,
    windows: &[Vec<u32>],
    mut progress: impl FnMut(usize, usize),
) -> Result<Perplexity, Error> {
    let mut losses = Losses::default();
    for (i, window) in windows.iter().enumerate() {
        let (read, first) = scored(window);
        engine.each_logits(read, first, |position, logits| {
            losses.add(-log_probabilities(logits)[window[position + 1] as usize]);
        });
        progress(i + 1, windows.len());
    }
    Ok(losses.perplexity())
}

/// How well `model` agrees with `reference` on a text in windows, on the second half of each as in [`perplexity`]. Errors if
/// their vocabularies have different sizes.
pub fn agreement(
    reference: &Engine,
    model: &Engine,
    windows: &[Vec<u32>],
    mut progress: impl FnMut(usize, usize),
) -> Result<Agreement, Error> {
    let sizes = [reference, model].map(|engine| engine.model.decoder.vocabulary());
    if sizes[0] != sizes[1] {
        return Err(Error::Vocabularies { reference: sizes[0], model: sizes[1] });
    }
    let (mut of, mut divergences) = ([Losses::default(), Losses::default()], Vec::new());
    let (mut same, mut squares) = (0usize, 0.0);
    for (i, window) in windows.iter().enumerate() {
        let (read, first) = scored(window);
        let mut wanted = Vec::with_capacity(read.len() - first);
        reference.each_logits(read, first, |_, logits| wanted.push(logits.to_vec()));
        model.each_logits(read, first, |position, logits| {
            let (p, q) = (log_probabilities(&wanted[position - first]), log_probabilities(logits));
            let right = window[position + 1] as usize;
            [&p, &q].iter().zip(&mut of).for_each(|(logs, losses)| losses.add(-logs[right]));
            divergences.push(p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>());
            same += usize::from(top(&p) == top(&q));
            squares += (p[right].exp() - q[right].exp()).powi(2);
        });
        progress(i + 1, windows.len());
    }
    divergences.sort_by(f64::total_cmp);
    let n = divergences.len().max(1);
    let quantile = |q: f64| divergences.get(((n - 1) as f64 * q).round() as usize).copied().unwrap_or(0.0);
    let [reference, model] = of.map(|losses| losses.perplexity());
    Ok(Agreement {
        reference,
        model,
        kl_mean: divergences.iter().sum::<f64>() / n as f64,
        kl_median: quantile(0.5),
        kl_99: quantile(0.99),
        kl_max: quantile(1.0),
        same_top: same as f64 / n as f64,
        probability_rms: (squares / n as f64).sqrt(),
    })
}

/// The tokens of a window that are read, and the first after which the next is predicted.
fn scored(window: &[u32]) -> (&[u32], usize) {
    let last = window.len().saturating_sub(1);
    (&window[..last], (window.len() / 2).min(last.saturating_sub(1)))
}

/// The logarithms of the softmax.
fn log_probabilities(logits: &[f32]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|x| f64::from(x - largest).exp()).sum();
    let shift = f64::from(largest) + sum.ln();
    logits.iter().map(|x| f64::from(*x) - shift).collect()
}

/// The index of the largest.
fn top(logs: &[f64]) -> usize {
    (0..logs.len()).max_by(|a, b| logs[*a].total_cmp(&logs[*b]).then(b.cmp(a))).unwrap_or(0)
}
