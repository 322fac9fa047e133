//! The mixer of lightning attention. Qin et al. 2024 (Lightning Attention-2), §3; as in MiniMax-01 (2025), §2.2.

use burn::module::Module;
use burn::tensor::{Device, Tensor, activation};
use longreach_attention::linear::lightning::decays;
use longreach_burn as ops;

use super::parts;
use super::{Mix, Shared};
use crate::linear::Bias;
use crate::{Activation, Builder, Error, Linear, RmsNorm, State};

/// The sizes of the mixer.
#[derive(Clone, Debug, PartialEq)]
pub struct LightningConfig {
    /// `d`: width of the model.
    pub hidden: usize,
    /// `H`: the number of heads.
    pub heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// The index of the layer and the number of layers, which determine the decays.
    pub layer: (usize, usize),
    /// ε of the output norm.
    pub norm_eps: f64,
    /// The activation of queries, keys and values.
    pub activation: Activation,
}

/// The mixer.
#[derive(Module, Debug)]
pub struct Lightning {
    qkv: Linear,
    gate: Linear,
    norm: RmsNorm,
    out: Linear,
    #[module(skip)]
    config: LightningConfig,
}

impl Lightning {
    /// Builds the mixer under the builder's scope. Errors if the sizes are inconsistent, or a weight is missing or
    /// has another shape.
    pub fn new(b: &mut Builder, c: &LightningConfig) -> Result<Self, Error> {
        let inner = c.heads * c.head_dim;
        if inner == 0 {
            return Err(b.error(format!("{} heads of {} channels", c.heads, c.head_dim)));
        }
        Ok(Self {
            qkv: Linear::new(b, "qkv_proj", c.hidden, 3 * inner, Bias::No)?,
            gate: Linear::new(b, "output_gate", c.hidden, inner, Bias::No)?,
            norm: RmsNorm::new(b, "norm", inner, c.norm_eps)?,
            out: Linear::new(b, "out_proj", inner, c.hidden, Bias::No)?,
            config: c.clone(),
        })
    }
}

impl Mix for Lightning {
    fn start(&self, batch: usize, device: &Device) -> State {
        let c = &self.config;
        State::new(batch).with_matrix("state", [c.heads, c.head_dim, c.head_dim], device)
    }

    fn forward(&self, x: Tensor<3>, state: &mut State, _: &mut Shared) -> Tensor<3> {
        let c = &self.config;
        // Queries, keys and values are interleaved by head.
        let qkv = parts::heads(ops::activate(self.qkv.forward(x.clone()), c.activation), c.heads);
        let part = |i: usize| qkv.clone().narrow(3, i * c.head_dim, c.head_dim);
        let decays: Vec<f32> = decays(c.heads, c.layer.0, c.layer.1).into_iter().map(|g| g as f32).collect();
        let (o, memory) = ops::retention(ops::Retention {
            q: part(0),
            k: part(1),
            v: part(2),
            g: Tensor::from_floats(&decays[..], &x.device()),
            state: state.take("state"),
            scale: 1.0,
        });
        let o = activation::sigmoid(self.gate.forward(x)) * self.norm.forward(parts::flat(o));
        state.put("state", memory);
        self.out.forward(o)
    }
}
