//! The Infini-attention mixer: local rotary attention within a segment, and a compressive memory of earlier segments.
//! Munkhdalai et al. 2024.
//!
//! The state holds the memory together with the pending update of the current segment, and that segment's keys and
//! values as past inputs.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use longreach_attention::rotary::Rotary;
use longreach_burn as ops;
use ndarray::Array2;

use super::gla::widths;
use super::parts::{self, Heads, Projections};
use super::{Mix, Shared};
use crate::linear::Bias;
use crate::{Builder, Error, Init, Linear, State};

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
}

impl Mix for Infini {
    fn start(&self, batch: usize, device: &Device) -> State {
        let (h, segment) = (&self.config.heads, self.config.segment);
        let matrix = [h.groups, h.key, h.value + 1];
        let state = State::new(batch).with_matrix("memory", matrix, device).with_matrix("pending", matrix, device);
        let state = state.with_matrix("keys", [segment, h.groups, h.key], device);
        state.with_matrix("values", [segment, h.groups, h.value], device)
    }

    fn forward(&self, x: Tensor<3>, state: &mut State, shared: &mut Shared) -> Tensor<3> {
        let (c, h, t) = (&self.config, &self.config.heads, x.dims()[1]);
        let within = |seen: &usize| seen % c.segment;
        let seen = state.positions().first().map_or(0, within);
        if state.positions().iter().any(|other| within(other) != seen) {
            // The segments of the sequences end at different tokens.
            return parts::one_by_one(x, state, |x, state| self.forward(x, state, shared));
        }
        let [q, k, v] = self.projections.forward(&x, state, &shared.packed);
        let (q, k, v) = (parts::heads(q, h.heads), parts::heads(k, h.groups), parts::heads(v, h.groups));
        let local = c.rotary.as_ref().map(|rotary| {
            let positions = Array2::from_shape_fn((1, t), |(_, i)| (seen + i) % c.segment);
            let angles = shared.angles.at(rotary, positions, c.segment);
            [ops::rotary(q.clone(), &angles), ops::rotary(k.clone(), &angles)]
        });
        let (o, after) = ops::infini(ops::Infini {
            q,
            k,
            v,
            local,
            gate: self.gate.val(),
            state: ops::InfiniState {
                memory: state.take("memory"),
                pending: state.take("pending"),
                keys: state.take("keys"),
                values: state.take("values"),
                seen,
            },
            segment: c.segment,
            delta: c.delta,
            epsilon: 1e-10,
            scale: (h.key as f32).powf(-0.5),
        });
        state.put("memory", after.memory);
        state.put("pending", after.pending);
        state.put("keys", after.keys);
        state.put("values", after.values);
        self.out.forward(parts::flat(o))
    }
}
