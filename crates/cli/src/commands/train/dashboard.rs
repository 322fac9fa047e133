//! What a terminal shows of a training: the curve of the loss, evaluations, rate, norm, speed and memory.

use crate::commands::generate::megabytes;

/// The number of cells of the curve.
const CELLS: usize = 48;
/// The levels of a cell, from the lowest loss to the highest.
const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// The figures of the training so far.
#[derive(Default)]
pub(super) struct Dashboard {
    losses: Vec<f32>,
    mean: Option<f32>,
    /// The first metric of the last evaluation with its step, and of the best one.
    held_out: Option<(String, f64, usize)>,
    best: Option<(f64, usize)>,
}

impl Dashboard {
    /// Adds the loss of a step, and returns its running mean.
    pub(super) fn add(&mut self, loss: f32) -> f32 {
        let mean = self.mean.map_or(loss, |mean| 0.98 * mean + 0.02 * loss);
        self.mean = Some(mean);
        self.losses.push(loss);
        mean
    }

    /// Adds an evaluation.
    pub(super) fn evaluated(&mut self, step: usize, metrics: &[(String, f64)], best: bool) {
        let Some((name, value)) = metrics.first() else { return };
        self.held_out = Some((name.clone(), *value, step));
        if best {
            self.best = Some((*value, step));
        }
    }

    /// The last evaluation, as the end of a sentence; empty if there was none.
    pub(super) fn held_out(&self) -> String {
        self.held_out.as_ref().map_or(String::new(), |(name, value, _)| format!(", held out {name} {value:.3}"))
    }

    /// The figures in lines, below the progress bar.
    pub(super) fn lines(&self, rate: f64, norm: f64, speed: f64) -> String {
        let loss = self.mean.unwrap_or(f32::NAN);
        let mut out = format!("loss      {loss:<8.4} {}", curve(&self.losses));
        if let Some((name, value, step)) = &self.held_out {
            let best = self.best.map_or(String::new(), |(best, at)| format!(", best {best:.4} at step {at}"));
            out += &format!("\nheld out  {name} {value:.4} at step {step}{best}");
        }
        let memory = crate::machine::peak().map_or(String::new(), |peak| format!("   peak {}", megabytes(peak).trim()));
        out + &format!("\nrate      {rate:.1e}   norm {norm:.2}   {speed:.0} tok/s{memory}")
    }
}

/// The course of numbers in at most [`CELLS`] characters, each the mean of as many; those that are not finite are left out.
fn curve(numbers: &[f32]) -> String {
    let part = numbers.len().div_ceil(CELLS).max(1);
    let mean = |part: &[f32]| {
        let finite: Vec<f32> = part.iter().copied().filter(|x| x.is_finite()).collect();
        (!finite.is_empty()).then(|| finite.iter().sum::<f32>() / finite.len() as f32)
    };
    let means: Vec<Option<f32>> = numbers.chunks(part).map(mean).collect();
    let (low, high) =
        means.iter().flatten().fold((f32::INFINITY, f32::NEG_INFINITY), |(l, h), x| (l.min(*x), h.max(*x)));
    let cell = |mean: &Option<f32>| match mean {
        Some(x) if high > low => LEVELS[((x - low) / (high - low) * 7.0).round() as usize],
        Some(_) => LEVELS[0],
        None => ' ',
    };
    means.iter().map(cell).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_falling_loss_is_a_falling_curve() {
        let losses: Vec<f32> = (0..1000).map(|i| 5.0 - i as f32 / 300.0).collect();
        let levels: Vec<char> = curve(&losses).chars().collect();
        assert!(levels.len() <= CELLS && levels.windows(2).all(|w| w[0] >= w[1]), "{levels:?}");
        assert_eq!((levels[0], levels[levels.len() - 1]), ('█', '▁'));
        assert_eq!(curve(&[2.0, f32::NAN, 1.0]), "█ ▁");
        assert_eq!(curve(&[3.0, 3.0]), "▁▁");
        assert_eq!(curve(&[]), "");
    }

    #[test]
    fn the_best_evaluation_stays() {
        let mut dashboard = Dashboard::default();
        assert_eq!(dashboard.held_out(), "");
        dashboard.add(2.0);
        dashboard.evaluated(10, &[("loss".into(), 1.5)], true);
        dashboard.evaluated(20, &[("loss".into(), 1.75)], false);
        let lines = dashboard.lines(1e-3, 0.5, 100.0);
        assert!(lines.contains("held out  loss 1.7500 at step 20, best 1.5000 at step 10"), "{lines}");
        assert!(lines.contains("rate      1.0e-3   norm 0.50   100 tok/s"), "{lines}");
    }
}
