//! The learning rate of a step.

use crate::config::{Optimiser, Schedule};

/// The learning rate of step `step`, counted from 0, of a training of `o.steps` steps: linear warm-up, then the schedule.
pub(crate) fn rate(o: &Optimiser, step: usize) -> f64 {
    let warmup = o.warmup.steps(o.steps);
    if step < warmup {
        return o.rate * (step + 1) as f64 / warmup as f64;
    }
    let part = (step - warmup) as f64 / o.steps.saturating_sub(warmup).max(1) as f64;
    match o.schedule {
        Schedule::Constant => o.rate,
        Schedule::Linear { end } => o.rate * (end + (1.0 - end) * (1.0 - part).max(0.0)),
        Schedule::Cosine { end } => o.rate * (end + (1.0 - end) / 2.0 * (1.0 + (std::f64::consts::PI * part).cos())),
        Schedule::InverseRoot => o.rate * (warmup.max(1) as f64 / (step + 1).max(warmup.max(1)) as f64).sqrt(),
        Schedule::Wsd { decay } => {
            let falling = decay.steps(o.steps);
            let from = o.steps.saturating_sub(falling);
            if step < from || falling == 0 {
                return o.rate;
            }
            o.rate * (1.0 - ((step - from) as f64 / falling as f64).sqrt()).max(0.0)
        }
    }
}
