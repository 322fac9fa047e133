//! The Infini-attention mixer: local rotary attention within a segment, and a compressive memory of earlier segments.
//! Munkhdalai et al. 2024.
//!
//! The state holds the memory together with the pending update of the current segment, and that segment's keys and
//! values as past inputs.

use std::sync::Arc;

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use longreach_attention::rotary::Rotary;
use longreach_burn as ops;
use ndarray::Array2;

use super::Shared;
use super::gla::widths;
use super::parts::{self, Heads, Projections, Remembered};
use crate::linear::Bias;
use crate::{Builder, Error, Init, Linear, Recurrent};

/// The sizes and options of the mixer.
#[derive(Clone, Debug, PartialEq)]
pub struct InfiniConfig {
    /// The common sizes; there are no convolutions and no norm.
    pub heads: Heads,
    /// The number of tokens of a segment.
    pub segment: usize,
    /// Whether the memory is updated by the delta rule: what it already returns for a key is subtracted from the
    /// value.
    pub delta: bool,
    /// Rotary positions within a segment.
    pub rotary: Option<Rotary>,
    /// The initial value of the gate between memory and local attention, before the sigmoid.
    pub gate: f32,
}

/// The maximum number of tokens of a segment, whose keys and values are cached.
const LONGEST: usize = 1 << 16;

/// The mixer.
#[derive(Module, Debug)]
pub struct Infini {
    projections: Projections,
    gate: Param<Tensor<1>>,
    out: Linear,
    #[module(skip)]
    config: InfiniConfig,
}

impl Infini {
    /// Builds the mixer under the builder's scope. Errors if a size is out of range.
    pub fn new(b: &mut Builder, c: &InfiniConfig) -> Result<Self, Error> {
        let h = &c.heads;
        h.check(b)?;
        if c.segment == 0 || c.segment > LONGEST {
            return Err(b.error(format!("a segment of {} tokens: want 1 to {LONGEST}", c.segment)));
        }
        if let Some(rotary) = &c.rotary
            && (rotary.width > h.key || !rotary.width.is_multiple_of(2))
        {
            return Err(b.error(format!("rotary positions of {} channels in heads of {}", rotary.width, h.key)));
        }
        Ok(Self {
            projections: Projections::new(b, h, widths(h), parts::SILU)?,
            gate: b.vector("gate", h.heads, Init::Constant(c.gate))?,
            out: Linear::new(b, "o_proj", h.heads * h.value, h.hidden, Bias::No)?,
            config: c.clone(),
        })
    }

    pub(super) fn start(&self, batch: usize, device: &Device) -> Recurrent {
        let (h, segment) = (&self.config.heads, self.config.segment);
        let kept = [[segment, h.groups * h.key], [segment, h.groups * h.value]];
        Recurrent::zeros(batch, &kept, [h.groups, h.key, 2 * (h.value + 1)], device)
    }

    pub(super) fn forward(&self, x: Tensor<3>, state: Recurrent, _: &mut Shared) -> (Tensor<3>, Recurrent) {
        self.read(x, state)
    }

    fn read(&self, x: Tensor<3>, state: Recurrent) -> (Tensor<3>, Recurrent) {
        let (c, h, [batch, t, _]) = (&self.config, &self.config.heads, x.dims());
        let seen = state.seen.first().map_or(0, |seen| seen % c.segment);
        if state.seen.iter().any(|other| other % c.segment != seen) {
            // The segments of the sequences end at different tokens.
            let one = |i: usize| self.read(x.clone().narrow(0, i, 1), state.of_sequence(i));
            let (out, states): (Vec<_>, Vec<_>) = (0..batch).map(one).unzip();
            return (Tensor::cat(out, 0), Recurrent::together(states));
        }
        let mut none = Remembered::of(Vec::new());
        let [q, k, v] = self.projections.forward(&x, &mut none);
        let (q, k, v) = (parts::heads(q, h.heads), parts::heads(k, h.groups), parts::heads(v, h.groups));
        let local = c.rotary.as_ref().map(|rotary| {
            let positions = Array2::from_shape_fn((1, t), |(_, i)| (seen + i) % c.segment);
            let angles = rotary.angles(positions.view(), c.segment, &ops::context()).unwrap_or_else(|e| panic!("{e}"));
            let angles = Arc::new(angles);
            [ops::rotary(q.clone(), &angles), ops::rotary(k.clone(), &angles)]
        });
        let width = h.value + 1;
        let mut inputs = state.inputs.into_iter();
        let mut kept = |width: usize| -> Tensor<4> {
            inputs.next().expect("keys, then values").reshape([batch, c.segment, h.groups, width])
        };
        let (o, after) = ops::infini(ops::Infini {
            q,
            k,
            v,
            local,
            gate: self.gate.val(),
            state: ops::InfiniState {
                memory: state.memory.clone().narrow(3, 0, width),
                pending: state.memory.narrow(3, width, width),
                keys: kept(h.key),
                values: kept(h.value),
                seen,
            },
            segment: c.segment,
            delta: c.delta,
            epsilon: 1e-10,
            scale: (h.key as f32).powf(-0.5),
        });
        let state = Recurrent {
            inputs: vec![parts::flat(after.keys), parts::flat(after.values)],
            memory: Tensor::cat(vec![after.memory, after.pending], 3),
            seen: state.seen.into_iter().map(|seen| seen + t).collect(),
        };
        (self.out.forward(parts::flat(o)), state)
    }
}
