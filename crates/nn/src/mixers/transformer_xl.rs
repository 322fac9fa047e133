//! The attention of Transformer-XL with relative positions, over a memory of the layer's past inputs. Dai et al.
//! 2019, §3.
//!
//! The memory has its full length from the start. Before the text, its rows are either zeros that are attended to
//! like any other row (as in the library transformers), or masked (as in the code of the paper).

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use longreach_burn as ops;

use super::{Mix, Shared, parts};
use crate::linear::Bias;
use crate::norm::{Norm, NormConfig};
use crate::{Builder, Error, Init, Layout, Linear, Precision, State, Weight};

/// The sizes and options of the mixer.
#[derive(Clone, Debug, PartialEq)]
pub struct TransformerXlConfig {
    /// `d`: width of the model; even.
    pub hidden: usize,
    /// The number of heads.
    pub heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// `M`: the number of tokens in the memory.
    pub memory: usize,
    /// The distance beyond which all distances are treated as equal; `None` for no limit.
    pub clamp: Option<usize>,
    /// Whether every query attends to the same number of tokens. If so, the result does not depend on how a text is
    /// split across calls.
    pub same_length: bool,
    /// Whether the initial memory consists of zeros that are attended to.
    pub zeros: bool,
    /// A norm of the inputs including the memory, if the mixer has one of its own.
    pub norm: Option<NormConfig>,
}

/// The mixer.
#[derive(Module, Debug)]
pub struct TransformerXl {
    attention: ByDistance,
    #[module(skip)]
    config: TransformerXlConfig,
}

/// The maximum number of tokens in the memory.
pub(super) const LONGEST: usize = 1 << 20;

impl TransformerXl {
    /// Builds the mixer under the builder's scope. Errors if a size is out of range.
    pub fn new(b: &mut Builder, c: &TransformerXlConfig) -> Result<Self, Error> {
        if c.memory > LONGEST || (c.memory == 0 && c.same_length) {
            let least = usize::from(c.same_length);
            return Err(b.error(format!("a memory of {} tokens: want {least} to {LONGEST}", c.memory)));
        }
        let attention = ByDistance::new(b, [c.hidden, c.heads, c.head_dim], c.clamp, c.norm)?;
        Ok(Self { attention, config: c.clone() })
    }

    /// The number of valid rows in the memory of a sequence.
    fn there(&self, seen: usize) -> usize {
        if self.config.zeros { self.config.memory } else { seen.min(self.config.memory) }
    }

    fn read(&self, x: Tensor<3>, state: &mut State) -> Tensor<3> {
        let (c, t) = (&self.config, x.dims()[1]);
        let there = state.positions().first().map_or(c.memory, |seen| self.there(*seen));
        if state.positions().iter().any(|seen| self.there(*seen) != there) {
            return parts::one_by_one(x, state, |x, state| self.read(x, state));
        }
        let memory: Tensor<3> = state.take("memory");
        let all = if c.memory == 0 { x } else { Tensor::cat(vec![memory.clone(), x], 1) };
        // Rows that no query attends to are not projected.
        let seen = all.clone().narrow(1, c.memory - there, there + t);
        let out = self.attention.forward(seen, there, c.same_length.then(|| c.memory - 1));
        state.put("memory", if c.memory == 0 { memory } else { all.narrow(1, t, c.memory) });
        out
    }
}

impl Mix for TransformerXl {
    fn start(&self, batch: usize, device: &Device) -> State {
        let c = &self.config;
        State::new(batch).with_rows("memory", [c.memory, c.hidden], device)
    }

    fn forward(&self, x: Tensor<3>, state: &mut State, _: &mut Shared) -> Tensor<3> {
        self.read(x, state)
    }
}

/// Attention with content and relative-position scores over rows of inputs, with its projections.
#[derive(Module, Debug)]
pub(super) struct ByDistance {
    qkv_net: Linear,
    r_net: Linear,
    o_net: Linear,
    /// The paper's `u`, `[H, D]`
    r_w_bias: Param<Tensor<2>>,
    /// The paper's `v`, `[H, D]`
    r_r_bias: Param<Tensor<2>>,
    layer_norm: Option<Norm>,
    #[module(skip)]
    sizes: Sizes,
}

/// The configuration, which holds no parameters.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    hidden: usize,
    heads: usize,
    head_dim: usize,
    clamp: Option<usize>,
}

impl ByDistance {
    pub(super) fn new(
        b: &mut Builder,
        [hidden, heads, head_dim]: [usize; 3],
        clamp: Option<usize>,
        norm: Option<NormConfig>,
    ) -> Result<Self, Error> {
        let inner = heads * head_dim;
        if inner == 0 || !hidden.is_multiple_of(2) {
            let found = format!("{heads} heads of {head_dim} channels in a model of {hidden}");
            return Err(b.error(format!("{found}: want at least one each, and an even width")));
        }
        let bias = |b: &mut Builder, name: &str| {
            b.param(name, [heads, head_dim], Layout::Same, Precision::Full, Init::Constant(0.0))
        };
        Ok(Self {
            qkv_net: Linear::new(b, "qkv_net", hidden, 3 * inner, Bias::No)?,
            r_net: Linear::new(b, "r_net", hidden, inner, Bias::No)?,
            o_net: Linear::new(b, "o_net", inner, hidden, Bias::No)?,
            r_w_bias: bias(b, "r_w_bias")?,
            r_r_bias: bias(b, "r_r_bias")?,
            layer_norm: norm.map(|norm| Norm::new(b, "layer_norm", hidden, norm)).transpose()?,
            sizes: Sizes { hidden, heads, head_dim, clamp },
        })
    }

    /// Queries, keys and values of rows, `[B, n, H, D]` each.
    pub(super) fn project(&self, rows: Tensor<3>) -> [Tensor<4>; 3] {
        self.projected(rows, &self.qkv_net.weight)
    }

    /// The same with detached projections: no gradient flows into their weights.
    pub(super) fn given(&self, rows: Tensor<3>) -> [Tensor<4>; 3] {
        self.projected(rows, &self.qkv_net.weight.detached())
    }

    fn projected(&self, rows: Tensor<3>, weight: &Weight) -> [Tensor<4>; 3] {
        let (Sizes { heads, head_dim, .. }, [batch, n, _]) = (self.sizes, rows.dims());
        let rows = match &self.layer_norm {
            Some(norm) => norm.forward(rows),
            None => rows,
        };
        let qkv = weight.forward(rows, None);
        let inner = heads * head_dim;
        [0, 1, 2].map(|i| qkv.clone().narrow(2, i * inner, inner).reshape([batch, n, heads, head_dim]))
    }

    /// Of the rows `[B, S, d]`, those after the first `past` attend to all rows up to themselves, or to the `left`
    /// rows before them.
    pub(super) fn forward(&self, rows: Tensor<3>, past: usize, left: Option<usize>) -> Tensor<3> {
        let (Sizes { heads, head_dim, .. }, [batch, length, _]) = (self.sizes, rows.dims());
        let r = self.r_net.forward(self.distances(length, &rows.device()));
        let [q, k, v] = self.project(rows);
        let o = ops::transformer_xl(ops::TransformerXl {
            q: q.narrow(1, past, length - past),
            k,
            v,
            r: r.reshape([length, heads, head_dim]),
            biases: Some([self.r_w_bias.val(), self.r_r_bias.val()]),
            scale: (head_dim as f32).powf(-0.5),
            left,
        });
        self.o_net.forward(o.reshape([batch, length - past, heads * head_dim]))
    }

    /// The position embedding of each distance `0..n`, `[n, d]`: sines, then cosines.
    fn distances(&self, n: usize, device: &Device) -> Tensor<2> {
        let (d, clamp) = (self.sizes.hidden, self.sizes.clamp.unwrap_or(usize::MAX));
        let frequencies: Vec<f32> = (0..d / 2).map(|i| 10_000f64.powf(-2.0 * i as f64 / d as f64) as f32).collect();
        let mut rows = Vec::with_capacity(n * d);
        for distance in 0..n {
            // In f32, as in the library.
            let distance = distance.min(clamp) as f32;
            rows.extend(frequencies.iter().map(|f| f64::from(distance * f).sin() as f32));
            rows.extend(frequencies.iter().map(|f| f64::from(distance * f).cos() as f32));
        }
        Tensor::<1>::from_data(&rows[..], device).reshape([n, d])
    }
}
