//! AdamW in one pass over a parameter: `w, g, m, v` are each read once and `w, m, v` written once. Loshchilov and Hutter 2019, algorithm 2.
//!
//! $$ m \leftarrow \beta_1 m + (1 - \beta_1) g, \quad v \leftarrow \beta_2 v + (1 - \beta_2) g^2, \quad
//!    w \leftarrow w - \eta \lambda w - \eta \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon} $$

use burn::optim::{AdamWState, AdaptiveMomentumState, Optimizer};
use burn::tensor::{DType, Device, Tensor, TensorData};
use longreach_burn::context;

/// Numbers of a task.
const PART: usize = 1 << 14;

/// AdamW with the constants of a parameter group.
#[derive(Clone, Debug)]
pub(super) struct AdamW {
    pub(super) betas: [f32; 2],
    pub(super) epsilon: f32,
    pub(super) decay: f32,
}

/// The numbers of a tensor, without a copy if nothing else refers to it.
fn numbers<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    let data = x.into_data();
    let data = if data.dtype() == DType::F32 { data } else { data.convert_dtype(DType::F32) };
    data.try_into_vec().unwrap_or_default()
}

impl Optimizer for AdamW {
    type State<const D: usize> = AdamWState<D>;

    fn step<const D: usize>(
        &self,
        rate: f64,
        tensor: Tensor<D>,
        grad: Tensor<D>,
        state: Option<Self::State<D>>,
    ) -> (Tensor<D>, Option<Self::State<D>>) {
        let (device, shape, dtype) = (tensor.device(), tensor.dims(), tensor.dtype());
        let (mut w, g) = (numbers(tensor), numbers(grad));
        let (mut m, mut v, time) = match state.map(|state| state.momentum) {
            Some(state) => (numbers(state.moment_1), numbers(state.moment_2), state.time + 1),
            None => (vec![0.0; w.len()], vec![0.0; w.len()], 1),
        };
        let [b1, b2] = self.betas;
        let power = |beta: f32| 1.0 - f64::from(beta).powi(time.min(i32::MAX as usize) as i32);
        let (of_first, of_second) = ((rate / power(b1)) as f32, (1.0 / power(b2)) as f32);
        let (keep, epsilon) = ((1.0 - rate * f64::from(self.decay)) as f32, self.epsilon);
        let parts = w.chunks_mut(PART).zip(g.chunks(PART)).zip(m.chunks_mut(PART).zip(v.chunks_mut(PART)));
        context().team.for_each(parts, |((w, g), (m, v))| {
            for (((w, g), m), v) in w.iter_mut().zip(g).zip(m).zip(v) {
                *m = b1 * *m + (1.0 - b1) * g;
                *v = b2 * *v + (1.0 - b2) * g * g;
                *w = keep * *w - of_first * *m / ((*v * of_second).sqrt() + epsilon);
            }
        });
        let tensor = |x: Vec<f32>| Tensor::<D>::from_data(TensorData::new(x, shape), &device);
        let momentum = AdaptiveMomentumState { time, moment_1: tensor(m), moment_2: tensor(v), max_moment_2: None };
        let w = tensor(w);
        (if dtype == DType::F32 { w } else { w.cast(dtype) }, Some(AdamWState { momentum }))
    }

    fn to_device<const D: usize>(mut state: Self::State<D>, device: &Device) -> Self::State<D> {
        state.momentum = state.momentum.to_device(device);
        state
    }
}

#[cfg(test)]
mod tests {
    use burn::optim::AdamWConfig;
    use burn::tensor::Distribution;

    use super::*;

    #[test]
    fn one_pass_is_the_composed_step() {
        let device = longreach_burn::cpu();
        device.seed(3);
        let random = || Tensor::<2>::random([40, 50], Distribution::Normal(0.0, 1.0), &device);
        let ours = AdamW { betas: [0.9, 0.95], epsilon: 1e-8, decay: 0.1 };
        let theirs =
            AdamWConfig::new().with_beta_1(0.9).with_beta_2(0.95).with_epsilon(1e-8).with_weight_decay(0.1).build();
        let start = random();
        let (mut a, mut b) = ((start.clone(), None), (start, None));
        for _ in 0..5 {
            let g = random();
            a = ours.step(1e-2, a.0, g.clone(), a.1);
            b = theirs.step(1e-2, b.0, g, b.1);
        }
        for (a, b) in numbers(a.0).into_iter().zip(numbers(b.0)) {
            assert!((a - b).abs() < 1e-6, "{a} and {b}");
        }
    }
}
