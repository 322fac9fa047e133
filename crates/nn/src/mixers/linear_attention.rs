//! Linear attention. Katharopoulos et al. 2020; as in flash-linear-attention, with its learned feature maps.

use burn::module::Module;
use burn::tensor::{Device, Tensor, activation};
use longreach_attention::linear::linear_attention::Map;
use longreach_burn as ops;

use super::gla::widths;
use super::parts::{self, HeadNorm, Heads, Projections};
use super::{Mix, Shared};
use crate::linear::Bias;
use crate::{Builder, Error, Init, Linear, State};

/// The feature map of queries and keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Features {
    /// A fixed map of the mechanism, without parameters.
    Fixed(Map),
    /// `exp(W x)`, `W: [K, K]`.
    Exp,
    /// `max(W x, 0)`. Kasai et al. 2021 (T2R).
    T2r,
    /// `(W_1 x + b_1) ⊙ (W_2 x + b_2)`.
    Product,
    /// `softmax([2 y, −2 y])`, `y = W x + b`. Zhang et al. 2024 (Hedgehog).
    Hedgehog,
    /// Products of `[r, −r]`, `r = max(x, 0)`, with itself shifted by 1 to 4 channels, as the library computes it.
    /// Schlag et al. 2021 (DPFP).
    Dpfp,
}

impl Features {
    /// The number of features of `key` channels that are passed to the kernel.
    fn given(self, key: usize) -> usize {
        match self {
            Features::Hedgehog => 2 * key,
            Features::Dpfp => 8 * key,
            _ => key,
        }
    }

    fn map(self) -> Map {
        match self {
            Features::Fixed(map) => map,
            Features::Exp => Map::Exp,
            Features::T2r => Map::Relu,
            _ => Map::Identity,
        }
    }
}

/// The sizes and options of the mixer.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearAttentionConfig {
    /// The common sizes.
    pub heads: Heads,
    /// The feature map of queries and keys.
    pub features: Features,
    /// Whether queries and keys share a learned map.
    pub tied: bool,
    /// Whether the features of queries, and those of keys, are divided by their sums.
    pub by_sum: [bool; 2],
    /// ε of the denominator, if the output is divided by the sum of the weights; `None` for no division.
    pub normalize: Option<f64>,
}

/// The mixer.
#[derive(Module, Debug)]
pub struct LinearAttention {
    projections: Projections,
    map_q: Vec<Linear>,
    /// Empty if tied to the map of queries.
    map_k: Vec<Linear>,
    norm: HeadNorm,
    out: Linear,
    #[module(skip)]
    config: LinearAttentionConfig,
}

/// ε of the sums of features.
const SUM_EPS: f64 = 1e-4;

impl LinearAttention {
    /// Builds the mixer under the builder's scope. Errors if the sizes are inconsistent, or a weight is missing or
    /// has another shape.
    pub fn new(b: &mut Builder, c: &LinearAttentionConfig) -> Result<Self, Error> {
        let h = &c.heads;
        h.check(b)?;
        let (names, bias): (&[&str], _) = match c.features {
            Features::Fixed(_) | Features::Dpfp => (&[], Bias::No),
            Features::Exp | Features::T2r => (&["layer"], Bias::No),
            Features::Hedgehog => (&["layer"], Bias::Yes),
            Features::Product => (&["layer1", "layer2"], Bias::Yes),
        };
        let bound = (h.key as f32).powf(-0.5);
        let map = |b: &mut Builder, of: &str| {
            b.scope(of, |b| {
                let one = |name: &&str| Linear::with_init(b, name, [h.key, h.key], bias, Init::Uniform(-bound, bound));
                names.iter().map(one).collect::<Result<Vec<_>, _>>()
            })
        };
        Ok(Self {
            projections: Projections::new(b, h, widths(h), parts::SILU)?,
            map_q: map(b, "feature_map_q")?,
            map_k: if c.tied { Vec::new() } else { map(b, "feature_map_k")? },
            norm: HeadNorm::new(b, "norm", h.value, h.norm_eps, h.affine)?,
            out: Linear::new(b, "o_proj", h.heads * h.value, h.hidden, Bias::No)?,
            config: c.clone(),
        })
    }

    fn features(&self, x: Tensor<4>, maps: &[Linear], by_sum: bool) -> Tensor<4> {
        let y = match (self.config.features, maps) {
            (Features::Exp | Features::T2r, [w]) => w.forward(x),
            (Features::Product, [a, b]) => a.forward(x.clone()) * b.forward(x),
            (Features::Hedgehog, [w]) => {
                let y = w.forward(x) * 2.0;
                activation::softmax(Tensor::cat(vec![y.clone(), y.neg()], 3), 3)
            }
            (Features::Dpfp, _) => {
                let r = activation::relu(x);
                let z = Tensor::cat(vec![r.clone(), r.neg()], 3);
                let width = z.dims()[3];
                // A cyclic shift of the channels, for any width.
                let rolled = |j: usize| {
                    let j = j % width;
                    if j == 0 {
                        return z.clone();
                    }
                    let end = z.clone().narrow(3, width - j, j);
                    Tensor::cat(vec![end, z.clone().narrow(3, 0, width - j)], 3)
                };
                Tensor::cat((1..=4).map(|j| z.clone() * rolled(j)).collect(), 3)
            }
            _ => x,
        };
        match by_sum {
            // The sums are those of the features after the kernel's map, which is therefore applied here.
            true => parts::of_sum(self.mapped(y), SUM_EPS),
            false => y,
        }
    }

    /// Applies the kernel's map here.
    fn mapped(&self, x: Tensor<4>) -> Tensor<4> {
        match self.config.features.map() {
            Map::Elu => parts::Pointwise::Elu1.of(x),
            Map::Relu => parts::Pointwise::Relu.of(x),
            Map::Relu2 => parts::Pointwise::Relu2.of(x),
            Map::Exp => x.exp(),
            Map::Identity | Map::Taylor | Map::Based => x,
        }
    }
}

impl Mix for LinearAttention {
    fn start(&self, batch: usize, device: &Device) -> State {
        let (c, h) = (&self.config, &self.config.heads);
        let features = c.features.map().features(c.features.given(h.key));
        let width = h.value + usize::from(c.normalize.is_some());
        let state = parts::with_convs(State::new(batch), h, widths(h), device);
        state.with_matrix("state", [h.heads, features, width], device)
    }

    fn forward(&self, x: Tensor<3>, state: &mut State, shared: &mut Shared) -> Tensor<3> {
        let (c, h) = (&self.config, &self.config.heads);
        let [q, k, v] = self.projections.forward(&x, state, &shared.packed);
        let (q, k, v) = (parts::heads(q, h.heads), parts::heads(k, h.groups), parts::heads(v, h.groups));
        let maps = if c.tied { &self.map_q } else { &self.map_k };
        // Features divided by their sums are already mapped; the kernel maps the others.
        let divided = c.by_sum.contains(&true);
        let given = |x: Tensor<4>, maps: &[Linear], by_sum: bool| {
            let y = self.features(x, maps, by_sum);
            if divided && !by_sum { self.mapped(y) } else { y }
        };
        let map = if divided { Map::Identity } else { c.features.map() };
        let features = c.features.map().features(c.features.given(h.key));
        let (o, memory) = ops::LinearAttention {
            q: given(q, &self.map_q, c.by_sum[0]),
            k: parts::repeated(given(k, maps, c.by_sum[1]), h.shared_by()),
            v: parts::repeated(v, h.shared_by()),
            state: state.take("state"),
            map,
            normalize: c.normalize,
            causal: true,
            scale: (features as f64).powf(-0.5),
        }
        .packed(&shared.packed);
        let o = self.norm.forward(o);
        state.put("state", memory);
        self.out.forward(o)
    }
}
