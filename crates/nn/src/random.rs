//! Random initialisation of weights for training from scratch.

use burn::tensor::TensorData;
use longreach_attention::linear::performer::projection;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::builder::hash;
use crate::{Error, Init, Source, Spec};

/// A [`Source`] that draws every weight from the distribution of its [`Init`].
///
/// A weight depends only on the seed and on its name, and not on which other weights are drawn.
#[derive(Clone, Debug)]
pub struct Random {
    seed: u64,
}

impl Random {
    /// Draws weights from this seed.
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }
}

/// A standard normal number from two uniform ones. Box and Muller, 1958.
fn normal(uniform: &mut impl FnMut(f32, f32) -> f32) -> f32 {
    let (u, v) = (uniform(f32::MIN_POSITIVE, 1.0).max(f32::MIN_POSITIVE), uniform(0.0, 1.0));
    (-2.0 * u.ln()).sqrt() * (std::f32::consts::TAU * v).cos()
}

impl Source for Random {
    fn get(&mut self, spec: &Spec) -> Result<TensorData, Error> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed ^ hash(&spec.name));
        let n: usize = spec.shape.iter().product();
        let row: usize = spec.shape[1..].iter().product();
        let mut uniform = |low: f32, high: f32| low + (high - low) * rng.random::<f32>();
        let data: Vec<f32> = match spec.init {
            Init::Constant(c) => vec![c; n],
            Init::Uniform(low, high) => (0..n).map(|_| uniform(low, high)).collect(),
            Init::LogUniform(low, high) => (0..n).map(|_| uniform(low, high).ln()).collect(),
            Init::Ramp(from, to) => {
                let step = (to - from) / (n.max(2) - 1) as f32;
                (0..n).map(|i| from + step * i as f32).collect()
            }
            Init::OrthogonalRows => {
                let normal = || normal(&mut uniform) as f64;
                projection(n / row.max(1), row, normal).into_iter().collect()
            }
            Init::LogOfRow => (0..n).map(|i| ((1 + i / row.max(1)) as f32).ln()).collect(),
            Init::Normal(deviation) => (0..n).map(|_| deviation * normal(&mut uniform)).collect(),
            Init::InverseSoftplusStep(low, high) => (0..n)
                .map(|_| {
                    let step = uniform(low.ln(), high.ln()).exp().max(1e-4);
                    step + (-(-step).exp_m1()).ln()
                })
                .collect(),
        };
        Ok(TensorData::new(data, spec.shape.clone()))
    }
}
