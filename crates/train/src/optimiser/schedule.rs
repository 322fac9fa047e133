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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Span;

    fn of(schedule: &str, warmup: Span) -> Vec<f64> {
        let text = format!("steps = 100\nbatch = 1\nrate = 2.0\nschedule = {{ {schedule} }}");
        let o = Optimiser { warmup, ..toml::from_str(&text).expect("valid") };
        (0..100).map(|step| rate(&o, step)).collect()
    }

    #[test]
    fn a_schedule_rises_stays_and_falls_as_it_says() {
        let all = [
            ("type = \"constant\"", 2.0, 2.0),
            ("type = \"linear\"", 1.0, 2.0 / 90.0),
            ("type = \"linear\", end = 0.5", 1.5, 1.0 + 1.0 / 90.0),
            ("type = \"cosine\", end = 0.0", 1.0, 1.0 - (std::f64::consts::PI * 89.0 / 90.0).cos().abs()),
            ("type = \"inverse_root\"", 2.0 * (10.0f64 / 56.0).sqrt(), 2.0 * 0.1f64.sqrt()),
            ("type = \"wsd\", decay = 0.2", 2.0, 2.0 * (1.0 - 0.95f64.sqrt())),
        ];
        for (schedule, middle, last) in all {
            for warmup in [Span::Steps(10), Span::Part(0.1)] {
                let rates = of(schedule, warmup);
                for step in 0..10 {
                    assert!((rates[step] - 0.2 * (step + 1) as f64).abs() < 1e-12, "{schedule}");
                }
                assert!((rates[55] - middle).abs() < 1e-9, "{schedule}: {} in the middle", rates[55]);
                assert!((rates[99] - last).abs() < 1e-9, "{schedule}: {} at the end", rates[99]);
                assert!(rates[10..].windows(2).all(|w| w[1] <= w[0] + 1e-12), "{schedule}");
            }
        }
        assert_eq!(of("type = \"wsd\", decay = 10", Span::Steps(0))[..91], vec![2.0; 91]);
    }
}
