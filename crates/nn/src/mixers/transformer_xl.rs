//! Transformer-XL's attention, by content and by distance, over a memory of the layer's past inputs. Dai et al. 2019, §3.
//!
//! The memory has as many rows as it may have from the start: before the text they are zeros, which are attended to as any other row (as
//! transformers does), or are not there at all (as in the paper's own code).

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use longreach_burn as ops;

use super::Shared;
use crate::linear::Bias;
use crate::norm::{Norm, NormConfig};
use crate::{Builder, Error, Init, Layout, Linear, Precision, Recurrent};

/// The sizes and switches of the mixer.
#[derive(Clone, Debug, PartialEq)]
pub struct TransformerXlConfig {
    /// `d`: width of the model; even.
    pub hidden: usize,
    /// Heads.
    pub heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// `M`: how many tokens before the segment are remembered.
    pub memory: usize,
    /// From which distance on all are the same.
    pub clamp: Option<usize>,
    /// Whether a query sees as many tokens wherever it stands in the segment: with it, it does not matter where a text is cut.
    pub same_length: bool,
    /// Whether zeros are remembered before the text.
    pub zeros: bool,
    /// A norm of the inputs, memory and all, where the mixer has one of its own.
    pub norm: Option<NormConfig>,
}

/// The mixer.
#[derive(Module, Debug)]
pub struct TransformerXl {
    qkv_net: Linear,
    r_net: Linear,
    o_net: Linear,
    /// The paper's `u`, `[H, D]`
    r_w_bias: Param<Tensor<2>>,
    /// The paper's `v`, `[H, D]`
    r_r_bias: Param<Tensor<2>>,
    layer_norm: Option<Norm>,
    #[module(skip)]
    config: TransformerXlConfig,
}

/// The longest memory.
const LONGEST: usize = 1 << 20;

impl TransformerXl {
    /// The mixer under the builder's scope.
    pub fn new(b: &mut Builder, c: &TransformerXlConfig) -> Result<Self, Error> {
        let (d, inner) = (c.hidden, c.heads * c.head_dim);
        if inner == 0 || !d.is_multiple_of(2) {
            let (heads, width) = (c.heads, c.head_dim);
            return Err(b.error(format!("{heads} heads of {width} channels in a model of {d}: want some, and an even width")));
        }
        if c.memory > LONGEST || (c.memory == 0 && c.same_length) {
            let least = usize::from(c.same_length);
            return Err(b.error(format!("a memory of {} tokens: want {least} to {LONGEST}", c.memory)));
        }
        let bias = |b: &mut Builder, name: &str| {
            b.param(name, [c.heads, c.head_dim], Layout::Same, Precision::Full, Init::Constant(0.0))
        };
        Ok(Self {
            qkv_net: Linear::new(b, "qkv_net", d, 3 * inner, Bias::No)?,
            r_net: Linear::new(b, "r_net", d, inner, Bias::No)?,
            o_net: Linear::new(b, "o_net", inner, d, Bias::No)?,
            r_w_bias: bias(b, "r_w_bias")?,
            r_r_bias: bias(b, "r_r_bias")?,
            layer_norm: c.norm.map(|norm| Norm::new(b, "layer_norm", d, norm)).transpose()?,
            config: c.clone(),
        })
    }

    pub(super) fn start(&self, batch: usize, device: &Device) -> Recurrent {
        let c = &self.config;
        Recurrent::zeros(batch, &[[c.memory, c.hidden]], [1, 1, 0], device)
    }

    /// How many rows of a sequence's memory are there.
    fn there(&self, seen: usize) -> usize {
        if self.config.zeros { self.config.memory } else { seen.min(self.config.memory) }
    }

    pub(super) fn forward(&self, x: Tensor<3>, state: Recurrent, _: &mut Shared) -> (Tensor<3>, Recurrent) {
        self.read(x, state)
    }

    fn read(&self, x: Tensor<3>, state: Recurrent) -> (Tensor<3>, Recurrent) {
        let (c, [batch, t, _]) = (&self.config, x.dims());
        let there = state.seen.first().map_or(c.memory, |seen| self.there(*seen));
        if state.seen.iter().any(|seen| self.there(*seen) != there) {
            let one = |i: usize| self.read(x.clone().narrow(0, i, 1), state.of_sequence(i));
            let (out, states): (Vec<_>, Vec<_>) = (0..batch).map(one).unzip();
            return (Tensor::cat(out, 0), Recurrent::together(states));
        }
        let [memory] = <[Tensor<3>; 1]>::try_from(state.inputs).expect("one memory");
        let all = if c.memory == 0 { x } else { Tensor::cat(vec![memory.clone(), x], 1) };
        // Of rows that no query sees, nothing is made.
        let length = there + t;
        let seen = all.clone().narrow(1, c.memory - there, length);
        let seen = match &self.layer_norm {
            Some(norm) => norm.forward(seen),
            None => seen,
        };
        let inner = c.heads * c.head_dim;
        let qkv = self.qkv_net.forward(seen);
        let part = |i: usize, from: usize, n: usize| {
            qkv.clone().narrow(1, from, n).narrow(2, i * inner, inner).reshape([batch, n, c.heads, c.head_dim])
        };
        let r = self.r_net.forward(self.distances(length, &all.device()));
        let o = ops::transformer_xl(ops::TransformerXl {
            q: part(0, there, t),
            k: part(1, 0, length),
            v: part(2, 0, length),
            r: r.reshape([length, c.heads, c.head_dim]),
            biases: Some([self.r_w_bias.val(), self.r_r_bias.val()]),
            scale: (c.head_dim as f32).powf(-0.5),
            left: c.same_length.then(|| c.memory - 1),
        });
        let memory = if c.memory == 0 { memory } else { all.narrow(1, t, c.memory) };
        let state = Recurrent {
            inputs: vec![memory],
            memory: state.memory,
            seen: state.seen.into_iter().map(|seen| seen + t).collect(),
        };
        (self.o_net.forward(o.reshape([batch, t, inner])), state)
    }

    /// What stands for each distance from 0 on, `[n, d]`: sines of it, then cosines.
    fn distances(&self, n: usize, device: &Device) -> Tensor<2> {
        let (d, clamp) = (self.config.hidden, self.config.clamp.unwrap_or(usize::MAX));
        let frequencies: Vec<f32> = (0..d / 2).map(|i| 10_000f64.powf(-2.0 * i as f64 / d as f64) as f32).collect();
        let mut rows = Vec::with_capacity(n * d);
        for distance in 0..n {
            // In f32, as the library multiplies them.
            let distance = distance.min(clamp) as f32;
            rows.extend(frequencies.iter().map(|f| f64::from(distance * f).sin() as f32));
            rows.extend(frequencies.iter().map(|f| f64::from(distance * f).cos() as f32));
        }
        Tensor::<1>::from_data(&rows[..], device).reshape([n, d])
    }
}
