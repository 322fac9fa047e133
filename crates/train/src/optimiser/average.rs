//! An exponential moving average of the weights. Polyak and Juditsky 1992.
//!
//! $$ a \leftarrow d\, a + (1 - d)\, w, \quad d = \min(d_{max}, (1 + t) / (10 + t)) $$

use burn::module::Module;

use crate::model::Values;

/// The average of the parameters that are trained.
#[derive(Clone, Debug)]
pub(crate) struct Average {
    decay: f64,
    pub(crate) values: Values,
}

impl Average {
    /// An average with this decay rate.
    pub(crate) fn new(decay: f64) -> Self {
        Self { decay, values: Values::default() }
    }

    /// Adds the weights after step `step`.
    pub(crate) fn update<M: Module>(&mut self, module: &M, step: usize) {
        let warm = (1.0 + step as f64) / (10.0 + step as f64);
        let keep = self.decay.min(warm) as f32;
        self.values
            .each(module, |mean, now| mean.iter_mut().zip(now).for_each(|(a, w)| *a += (1.0 - keep) * (*w - *a)));
    }
}
