//! A mixture of experts: a router selects a few of many gated feed-forward layers for each token. Shazeer et al.
//! 2017; Jiang et al. 2024.
//!
//! $$ y = \sum_{e \in \mathrm{top}_k(p)} w_e \, f_e(x), \qquad p = \mathrm{softmax}(W_r x) $$
//!
//! `w_e` is `p_e`, or `p_e` divided by the sum over the selected experts. Ties go to the lower index. O(T k d inner)
//! time.

use burn::module::Module;
use burn::tensor::{IndexingUpdateOp, Int, Tensor, TensorData, activation};
use longreach_simd::product::{Order, STREAMED_ROWS};

use crate::linear::Bias;
use crate::{Builder, Error, GatedFeedForward, GatedFeedForwardConfig, Linear};

/// The sizes and names of a mixture.
#[derive(Clone, Debug, PartialEq)]
pub struct ExpertsConfig {
    /// The number of experts.
    pub count: usize,
    /// `k`: the number of experts selected per token.
    pub chosen: usize,
    /// Whether the weights of the selected experts are divided by their sum.
    pub normalize: bool,
    /// The configuration of each expert.
    pub expert: GatedFeedForwardConfig,
    /// The names of the router's matrix and of the list of experts in a checkpoint.
    pub names: [String; 2],
}

/// See [`ExpertsConfig`].
#[derive(Module, Debug)]
pub struct Experts {
    router: Linear,
    experts: Vec<GatedFeedForward>,
    chosen: usize,
    normalize: bool,
}

impl Experts {
    /// Builds the layer of width `d` under the builder's scope. Errors if `k` is 0 or exceeds the number of experts.
    pub fn new(b: &mut Builder, d: usize, c: &ExpertsConfig) -> Result<Self, Error> {
        if c.chosen == 0 || c.chosen > c.count {
            return Err(b.error(format!("{} of {} experts a token: want 1 to {}", c.chosen, c.count, c.count)));
        }
        let [router, experts] = &c.names;
        // The selection is sensitive to small differences of the router's outputs, so the router is not quantised.
        let router = b.unrounded(|b| Linear::new(b, router, d, c.count, Bias::No))?;
        let experts = b.scope(experts, |b| {
            (0..c.count).map(|i| b.scope(i, |b| GatedFeedForward::new(b, d, &c.expert))).collect::<Result<_, Error>>()
        })?;
        Ok(Self { router, experts, chosen: c.chosen, normalize: c.normalize })
    }

    /// `[B, T, d]` → `[B, T, d]`
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let (shape, device) = (x.dims(), x.device());
        let [n, d] = [shape[0] * shape[1], shape[2]];
        let shares = self.router.forward(x.clone()).reshape([n, self.experts.len()]);
        let shares = activation::softmax(shares, 1);
        let rows = x.reshape([n, d]);
        let (mask, tokens) = self.choose(&shares.clone().into_data().iter::<f32>().collect::<Vec<_>>());
        let mask = Tensor::<2>::from_data(TensorData::new(mask, [n, self.experts.len()]), &device);
        let mut weights = shares * mask;
        if self.normalize {
            weights = weights.clone() / weights.sum_dim(1);
        }
        let mut out = Tensor::zeros([n, d], &device);
        for (e, (expert, tokens)) in self.experts.iter().zip(tokens).enumerate() {
            if tokens.is_empty() {
                continue;
            }
            let at = Tensor::<1, Int>::from_data(&tokens[..], &device);
            let y = alone(expert, rows.clone().select(0, at.clone()), shape[1]);
            let weight = weights.clone().narrow(1, e, 1).select(0, at.clone());
            out = out.select_assign(0, at, y * weight, IndexingUpdateOp::Add);
        }
        out.reshape(shape)
    }

    /// The selection mask `[N, experts]` with 1 for each selected expert, and the tokens of each expert.
    fn choose(&self, shares: &[f32]) -> (Vec<f32>, Vec<Vec<i32>>) {
        let count = self.experts.len();
        let (mut mask, mut tokens) = (vec![0.0; shares.len()], vec![Vec::new(); count]);
        for (t, row) in shares.chunks_exact(count).enumerate() {
            let mut order: Vec<usize> = (0..count).collect();
            order.sort_by(|a, b| row[*b].total_cmp(&row[*a]));
            for e in &order[..self.chosen] {
                mask[t * count + e] = 1.0;
                tokens[*e].push(t as i32);
            }
        }
        (mask, tokens)
    }
}

/// The outputs of an expert for rows `[n, d]` of sequences with `t` tokens each. Products add up in an order that does
/// not depend on how many rows other sequences have.
fn alone(expert: &GatedFeedForward, rows: Tensor<2>, t: usize) -> Tensor<2> {
    let [n, d] = rows.dims();
    if Order::of_rows(t) == Order::Streamed {
        return expert.forward(rows.reshape([n, 1, d])).reshape([n, d]);
    }
    let least = STREAMED_ROWS + 1;
    if n >= least {
        return expert.forward(rows);
    }
    let padded = Tensor::cat(vec![rows.clone(), Tensor::zeros([least - n, d], &rows.device())], 0);
    expert.forward(padded).narrow(0, 0, n)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution};

    use super::*;
    use crate::Random;

    const SIZE: [usize; 3] = [2, 7, 6];

    fn layer(normalize: bool, device: &Device) -> Experts {
        let expert = GatedFeedForwardConfig::silu(5);
        let names = ["router", "experts"].map(str::to_owned);
        let config = ExpertsConfig { count: 4, chosen: 2, normalize, expert, names };
        Experts::new(&mut Builder::new(&mut Random::new(5), device), 6, &config).expect("random weights fit")
    }

    /// The definition: each token passes through every expert, and the two with the largest weights are summed.
    fn naive(layer: &Experts, x: &Tensor<3>) -> Vec<f32> {
        let mut out = Vec::new();
        for t in 0..SIZE[0] * SIZE[1] {
            let token = x.clone().reshape([14, 6]).narrow(0, t, 1);
            let of = |x: Tensor<2>| x.into_data().iter::<f32>().collect::<Vec<_>>();
            let shares = of(activation::softmax(layer.router.forward(token.clone()), 1));
            let larger = |e: usize| shares.iter().filter(|share| **share > shares[e]).count();
            let chosen: Vec<usize> = (0..4).filter(|e| larger(*e) < 2).collect();
            let sum: f32 = if layer.normalize { chosen.iter().map(|e| shares[*e]).sum() } else { 1.0 };
            let mut row = [0.0; 6];
            for e in chosen {
                let y = of(layer.experts[e].forward(token.clone()));
                row.iter_mut().zip(y).for_each(|(row, y)| *row += shares[e] / sum * y);
            }
            out.extend(row);
        }
        out
    }

    #[test]
    fn a_token_passes_through_the_chosen_experts() {
        let device = Device::flex();
        for normalize in [true, false] {
            let (layer, x) = (layer(normalize, &device), Tensor::random(SIZE, Distribution::Normal(0.0, 2.0), &device));
            let got: Vec<f32> = layer.forward(x.clone()).into_data().iter().collect();
            for (got, want) in got.iter().zip(naive(&layer, &x)) {
                assert!((got - want).abs() < 1e-5, "{got} {want}");
            }
        }
    }

    /// The router is trained too: the gradient of the input equals the slope of the output, on which the routing
    /// weights depend.
    #[test]
    fn gradients_are_slopes() {
        let device = Device::flex().autodiff();
        for normalize in [true, false] {
            let layer = layer(normalize, &device);
            let data: Vec<f32> = (0..84).map(|i| ((i * 37 % 83) as f32 / 41.0 - 1.0) * 1.5).collect();
            let of = |data: &[f32]| Tensor::<1>::from_data(data, &device).reshape(SIZE);
            let weights = of(&(0..84).map(|i| (i * 29 % 71) as f32 / 35.0 - 1.0).collect::<Vec<_>>());
            let loss = |x: Tensor<3>| (layer.forward(x) * weights.clone()).sum();
            let x = of(&data).require_grad();
            let gradient = x.grad(&loss(x.clone()).backward()).expect("a gradient").into_data();
            let value = |data: &[f32]| loss(of(data)).into_data().iter::<f32>().next().expect("a number");
            for (i, got) in gradient.iter::<f32>().enumerate().step_by(5) {
                let h = 1e-2;
                let moved = |by: f32| {
                    let mut data = data.clone();
                    data[i] += by;
                    value(&data)
                };
                let slope = (moved(h) - moved(-h)) / (2.0 * h);
                assert!((got - slope).abs() < 2e-3, "{i}: {got}, slope {slope}");
            }
        }
    }
}
