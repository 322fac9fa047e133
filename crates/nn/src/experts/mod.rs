//! A mixture of experts: a router selects a few of many feed-forward layers for each token. Shazeer et al. 2017; Jiang et
//! al. 2024.
//!
//! $$ y = \sum_{e \in \mathrm{top}_k(p)} w_e \, f_e(x) + f_{shared}(x), \qquad p = \mathrm{softmax}(W_r x) $$
//!
//! `w_e` is `p_e`, or `p_e` divided by the sum over the selected experts; other scores than the softmax are in
//! [`RouterConfig`]. Ties go to the lower index. O(T k d inner) time.

use burn::module::Module;
use burn::tensor::{IndexingUpdateOp, Int, Tensor, activation};
use longreach_simd::product::{Order, STREAMED_ROWS};

use self::router::{Choice, Router};
use crate::linear::Bias;
use crate::{
    Builder, Error, FeedForward, FeedForwardConfig, GatedFeedForward, GatedFeedForwardConfig, Linear, NamedNorm, Norm,
};

mod router;

pub use self::router::{ExpertGroups, RouterConfig, Score};

/// The sizes and names of a mixture.
#[derive(Clone, Debug, PartialEq)]
pub struct ExpertsConfig {
    /// The number of experts.
    pub count: usize,
    /// `k`: the number of experts selected per token.
    pub chosen: usize,
    /// What selects them.
    pub router: RouterConfig,
    /// The configuration of each expert.
    pub expert: ExpertConfig,
    /// The name of the list of experts in a checkpoint.
    pub name: String,
    /// An expert of all tokens.
    pub shared: Option<SharedConfig>,
    /// A norm of what the experts, but neither router nor shared expert, read. Its name is beside that of the experts.
    pub norm: Option<NamedNorm>,
    /// Narrower vectors that the experts, but neither router nor shared expert, read and write.
    pub latent: Option<LatentConfig>,
}

impl ExpertsConfig {
    /// `chosen` of `count` experts of the name `experts`, with nothing else.
    pub fn new([count, chosen]: [usize; 2], router: RouterConfig, expert: impl Into<ExpertConfig>) -> Self {
        let (expert, name) = (expert.into(), "experts".into());
        Self { count, chosen, router, expert, name, shared: None, norm: None, latent: None }
    }
}

/// The configuration of an expert.
#[derive(Clone, Debug, PartialEq)]
pub enum ExpertConfig {
    /// A gated feed-forward layer.
    Gated(GatedFeedForwardConfig),
    /// A feed-forward layer without gate.
    Plain(FeedForwardConfig),
}

impl From<GatedFeedForwardConfig> for ExpertConfig {
    fn from(c: GatedFeedForwardConfig) -> Self {
        Self::Gated(c)
    }
}

impl From<FeedForwardConfig> for ExpertConfig {
    fn from(c: FeedForwardConfig) -> Self {
        Self::Plain(c)
    }
}

/// An expert of all tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct SharedConfig {
    /// Its name in a checkpoint.
    pub name: String,
    /// Its configuration.
    pub expert: ExpertConfig,
    /// The name of the vector `w` of a gate `σ(w · x)` by which its output is multiplied.
    pub gate: Option<String>,
}

/// The projections to and from the vectors of the experts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LatentConfig {
    /// The width of the vectors.
    pub width: usize,
    /// The names of the projections in a checkpoint.
    pub names: [String; 2],
    /// Whether the projections have biases.
    pub bias: Bias,
}

/// See [`ExpertsConfig`].
#[derive(Module, Debug)]
pub struct Experts {
    router: Router,
    experts: Vec<Expert>,
    shared: Option<Expert>,
    shared_gate: Option<Linear>,
    norm: Option<Norm>,
    latent: Option<[Linear; 2]>,
}

/// An expert.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "next to the weights it is small")]
enum Expert {
    Gated(GatedFeedForward),
    Plain(FeedForward),
}

impl Expert {
    fn new(b: &mut Builder, d: usize, c: &ExpertConfig) -> Result<Self, Error> {
        Ok(match c {
            ExpertConfig::Gated(c) => Self::Gated(GatedFeedForward::new(b, d, c)?),
            ExpertConfig::Plain(c) => Self::Plain(FeedForward::new(b, d, c)?),
        })
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        match self {
            Self::Gated(layer) => layer.forward(x),
            Self::Plain(layer) => layer.forward(x),
        }
    }
}

impl Experts {
    /// Builds the layer of width `d` under the builder's scope. Errors if `k` is 0 or exceeds the number of experts.
    pub fn new(b: &mut Builder, d: usize, c: &ExpertsConfig) -> Result<Self, Error> {
        let router = Router::new(b, d, [c.count, c.chosen], &c.router)?;
        let width = c.latent.as_ref().map_or(d, |latent| latent.width);
        let latent = c.latent.as_ref().map(|LatentConfig { width, names: [to, from], bias }| {
            Ok::<_, Error>([Linear::new(b, to, d, *width, *bias)?, Linear::new(b, from, *width, d, *bias)?])
        });
        let latent = latent.transpose()?;
        let experts = b.scope(&c.name, |b| {
            (0..c.count).map(|i| b.scope(i, |b| Expert::new(b, width, &c.expert))).collect::<Result<_, Error>>()
        })?;
        let shared = c.shared.as_ref().map(|c| b.scope(&c.name, |b| Expert::new(b, d, &c.expert))).transpose()?;
        let gate = c.shared.as_ref().and_then(|c| c.gate.as_ref());
        let shared_gate = gate.map(|gate| b.in_floats(|b| Linear::new(b, gate, d, 1, Bias::No))).transpose()?;
        let norm = c.norm.as_ref().map(|norm| norm.build(b, d)).transpose()?;
        Ok(Self { router, experts, shared, shared_gate, norm, latent })
    }

    /// `[B, T, d]` → `[B, T, d]`
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let [b, t, _] = x.dims();
        let choice = self.router.route(x.clone());
        let input = match &self.norm {
            Some(norm) => norm.forward(x.clone()),
            None => x.clone(),
        };
        let narrow = match &self.latent {
            Some([to, _]) => to.forward(input),
            None => input,
        };
        let width = narrow.dims()[2];
        let mixed = self.mixed(narrow.reshape([b * t, width]), choice, t).reshape([b, t, width]);
        let mixed = match &self.latent {
            Some([_, from]) => from.forward(mixed),
            None => mixed,
        };
        let Some(shared) = &self.shared else { return mixed };
        let y = shared.forward(x.clone());
        mixed
            + match &self.shared_gate {
                Some(gate) => y * activation::sigmoid(gate.forward(x)),
                None => y,
            }
    }

    /// The weighted sum of the chosen experts for each of `rows: [N, d]`, of sequences of `t` tokens.
    fn mixed(&self, rows: Tensor<2>, Choice { weights, tokens }: Choice, t: usize) -> Tensor<2> {
        let device = rows.device();
        let mut out = Tensor::zeros(rows.dims(), &device);
        for (e, (expert, tokens)) in self.experts.iter().zip(tokens).enumerate() {
            if tokens.is_empty() {
                continue;
            }
            let at = Tensor::<1, Int>::from_data(&tokens[..], &device);
            let y = alone(expert, rows.clone().select(0, at.clone()), t);
            let weight = weights.clone().narrow(1, e, 1).select(0, at.clone());
            out = out.select_assign(0, at, y * weight, IndexingUpdateOp::Add);
        }
        out
    }
}

/// The outputs of an expert for rows `[n, d]` of sequences with `t` tokens each. Products add up in an order that does
/// not depend on how many rows other sequences have.
fn alone(expert: &Expert, rows: Tensor<2>, t: usize) -> Tensor<2> {
    let [n, d] = rows.dims();
    if Order::of_rows(t) == Order::Streamed {
        return expert.forward(rows.reshape([n, 1, d])).reshape([n, d]);
    }
    let least = STREAMED_ROWS + 1;
    let padded = match n < least {
        true => Tensor::cat(vec![rows.clone(), Tensor::zeros([least - n, d], &rows.device())], 0),
        false => rows,
    };
    let all = padded.dims()[0];
    expert.forward(padded.reshape([1, all, d])).reshape([all, d]).narrow(0, 0, n)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution};

    use super::*;
    use crate::Random;

    const SIZE: [usize; 3] = [2, 7, 6];

    const KINDS: [Kind; 4] = [
        Kind { score: Score::Softmax, normalize: true, more: false },
        Kind { score: Score::Softmax, normalize: false, more: true },
        Kind { score: Score::Sigmoid, normalize: true, more: true },
        Kind { score: Score::Sigmoid, normalize: false, more: false },
    ];

    #[derive(Clone, Copy)]
    struct Kind {
        score: Score,
        normalize: bool,
        /// A shared expert with a gate, and experts between projections to 4 channels.
        more: bool,
    }

    fn layer(kind: Kind, device: &Device) -> Experts {
        let router = RouterConfig { score: kind.score, scale: 1.5, ..RouterConfig::softmax("router", kind.normalize) };
        let mut config = ExpertsConfig::new([4, 2], router, GatedFeedForwardConfig::silu(5));
        if kind.more {
            let expert = ExpertConfig::Gated(GatedFeedForwardConfig::silu(3));
            config.shared = Some(SharedConfig { name: "shared".into(), expert, gate: Some("gate".into()) });
            let names = ["to", "from"].map(str::to_owned);
            config.latent = Some(LatentConfig { width: 4, names, bias: Bias::No });
        }
        Experts::new(&mut Builder::new(&mut Random::new(5), device), 6, &config).expect("random weights fit")
    }

    /// The definition: each token passes through every expert, and the two with the largest weights are summed.
    fn naive(layer: &Experts, kind: Kind, x: &Tensor<3>) -> Vec<f32> {
        let mut out = Vec::new();
        let of = |x: Tensor<3>| x.into_data().iter::<f32>().collect::<Vec<_>>();
        for t in 0..SIZE[0] * SIZE[1] {
            let token = x.clone().reshape([14, 1, 6]).narrow(0, t, 1);
            let outputs = layer.router.matrix.forward(token.clone());
            let shares = of(match kind.score {
                Score::Softmax => activation::softmax(outputs, 2),
                Score::Sigmoid => activation::sigmoid(outputs),
            });
            let larger = |e: usize| shares.iter().filter(|share| **share > shares[e]).count();
            let chosen: Vec<usize> = (0..4).filter(|e| larger(*e) < 2).collect();
            let sum: f32 = if kind.normalize { chosen.iter().map(|e| shares[*e]).sum() } else { 1.0 };
            let mut row = [0.0; 6];
            for e in chosen {
                let y = of(match &layer.latent {
                    Some([to, from]) => from.forward(layer.experts[e].forward(to.forward(token.clone()))),
                    None => layer.experts[e].forward(token.clone()),
                });
                row.iter_mut().zip(y).for_each(|(row, y)| *row += 1.5 * shares[e] / sum * y);
            }
            if let (Some(shared), Some(gate)) = (&layer.shared, &layer.shared_gate) {
                let open = of(activation::sigmoid(gate.forward(token.clone())))[0];
                row.iter_mut().zip(of(shared.forward(token))).for_each(|(row, y)| *row += open * y);
            }
            out.extend(row);
        }
        out
    }

    #[test]
    fn a_token_passes_through_the_chosen_experts() {
        let device = longreach_burn::cpu();
        for kind in KINDS {
            let (layer, x) = (layer(kind, &device), Tensor::random(SIZE, Distribution::Normal(0.0, 2.0), &device));
            let got: Vec<f32> = layer.forward(x.clone()).into_data().iter().collect();
            for (got, want) in got.iter().zip(naive(&layer, kind, &x)) {
                assert!((got - want).abs() < 1e-5, "{got} {want}");
            }
        }
    }

    /// The router is trained too: the gradient of the input equals the slope of the output, on which the routing
    /// weights depend.
    #[test]
    fn gradients_are_slopes() {
        let device = longreach_burn::cpu().autodiff();
        for kind in KINDS {
            let layer = layer(kind, &device);
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
