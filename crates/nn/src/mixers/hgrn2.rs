//! The HGRN2 mixer. Qin et al. 2024 (HGRN2), §3; as in flash-linear-attention.

use burn::module::Module;
use burn::tensor::{Device, Tensor, activation};
use longreach_burn as ops;

use super::parts::{self, HeadNorm, Heads, Projection};
use super::{Mix, Shared};
use crate::linear::Bias;
use crate::{Builder, Error, Linear, State};

/// The sizes of the mixer: `V` is `hidden / heads`.
#[derive(Clone, Debug, PartialEq)]
pub struct Hgrn2Config {
    /// The common sizes.
    pub heads: Heads,
}

/// The mixer.
#[derive(Module, Debug)]
pub struct Hgrn2 {
    q: Projection,
    f: Projection,
    i: Projection,
    norm: HeadNorm,
    out: Linear,
    #[module(skip)]
    heads: Heads,
}

impl Hgrn2 {
    /// Builds the mixer under the builder's scope. Errors if the sizes are inconsistent, or a weight is missing or
    /// has another shape.
    pub fn new(b: &mut Builder, c: &Hgrn2Config) -> Result<Self, Error> {
        let h = &c.heads;
        h.check(b)?;
        let (key, value) = (h.heads * h.key, h.heads * h.value);
        let none = ops::ConvActivation::None;
        Ok(Self {
            q: Projection::new(b, ("q", parts::CONVS[0]), [h.hidden, key], h.conv, none)?,
            f: Projection::new(b, ("f", parts::CONVS[1]), [h.hidden, key], h.conv, none)?,
            i: Projection::new(b, ("i", parts::CONVS[2]), [h.hidden, value], h.conv, none)?,
            norm: HeadNorm::new(b, "g_norm", value, h.norm_eps, h.affine)?,
            out: Linear::new(b, "o_proj", value, h.hidden, Bias::No)?,
            heads: h.clone(),
        })
    }
}

impl Mix for Hgrn2 {
    fn start(&self, batch: usize, device: &Device) -> State {
        let h = &self.heads;
        let (key, value) = (h.heads * h.key, h.heads * h.value);
        parts::matrices(h, [key, key, value], h.key, batch, device)
    }

    fn forward(&self, x: Tensor<3>, state: &mut State, shared: &mut Shared) -> Tensor<3> {
        let h = &self.heads;
        let q = activation::silu(self.q.forward(x.clone(), state, &shared.packed));
        let f = self.f.forward(x.clone(), state, &shared.packed);
        let v = self.i.forward(x, state, &shared.packed);
        let g = match &shared.lower_bound {
            None => activation::log_sigmoid(f),
            // ln(b + (1 − b) σ(f)), with the lower bound b < 1.
            Some(bound) => {
                let bound: Tensor<3> = bound.clone().unsqueeze();
                let rest = bound.clone().neg().add_scalar(1.0);
                (bound + rest * activation::sigmoid(f)).log().clamp_max(0.0)
            }
        };
        let heads = |x| parts::heads(x, h.heads);
        let (o, memory) = ops::Hgrn2 {
            q: heads(q),
            g: heads(g),
            v: heads(v),
            state: state.take("state"),
            scale: (h.key as f32).powf(-0.5),
        }
        .packed(&shared.packed);
        let o = self.norm.forward(parts::heads(parts::flat(o), 1));
        state.put("state", memory);
        self.out.forward(o)
    }
}
