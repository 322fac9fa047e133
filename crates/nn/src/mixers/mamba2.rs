//! The Mamba-2 mixer: one input projection, short convolution, state-space duality and a gated norm. Dao and Gu 2024,
//! §7.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use longreach_burn as ops;

use super::{Mix, Shared};
use crate::linear::Bias;
use crate::{Builder, Error, Init, Linear, RmsNorm, ShortConv, State};

/// The sizes and options of a Mamba-2 mixer.
#[derive(Clone, Debug, PartialEq)]
pub struct Mamba2Config {
    /// `d`: width of the model.
    pub hidden: usize,
    /// `H`: the number of heads.
    pub heads: usize,
    /// `P`: width of a head.
    pub head_dim: usize,
    /// `N`: the number of state rows per head.
    pub state: usize,
    /// `G`: the number of groups of heads that share `B` and `C`.
    pub groups: usize,
    /// The number of taps of the short convolution.
    pub conv: usize,
    /// Whether the convolution has a bias.
    pub conv_bias: bool,
    /// Whether the input projection has a bias.
    pub bias: bool,
    /// Whether the output projection has a bias.
    pub out_bias: bool,
    /// The gate of the scan's output, and its norm.
    pub norm: GatedNorm,
    /// Factors of the five parts of the input projection: gate, `x`, `B`, `C` and `dt`.
    pub multipliers: [f32; 5],
    /// Bounds of the step size `dt` after softplus.
    pub step_limit: (f32, f32),
    /// The range of the initial step size `dt`.
    pub step: (f32, f32),
}

/// The norm of the scan's output `y`, in groups of heads, and its gate `z`; ε is given.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum GatedNorm {
    /// `norm(y ⊙ silu(z))`
    AfterGate(f64),
    /// `norm(y) ⊙ silu(z)`
    BeforeGate(f64),
    /// `y ⊙ silu(z)`
    Absent,
}

/// The mixer.
#[derive(Module, Debug)]
pub struct Mamba2 {
    in_proj: Linear,
    conv1d: ShortConv,
    dt_bias: Param<Tensor<1>>,
    a_log: Param<Tensor<1>>,
    /// `A = −exp(a_log)`, precomputed for inference.
    a: Option<Tensor<1>>,
    d: Param<Tensor<1>>,
    norm: Option<RmsNorm>,
    norm_first: bool,
    /// `[2 H P + 2 G N + H]`
    multipliers: Option<Tensor<1>>,
    out_proj: Linear,
    heads: usize,
    head_dim: usize,
    state: usize,
    groups: usize,
    conv: usize,
    step_low: f64,
    step_high: f64,
}

impl Mamba2 {
    /// Builds the mixer under the builder's scope. Errors if a weight is missing or has another shape.
    pub fn new(b: &mut Builder, c: &Mamba2Config) -> Result<Self, Error> {
        let inner = c.heads * c.head_dim;
        let shared = c.groups * c.state;
        let mixed = inner + 2 * shared;
        let (norm_first, eps) = match c.norm {
            GatedNorm::AfterGate(eps) => (false, Some(eps)),
            GatedNorm::BeforeGate(eps) => (true, Some(eps)),
            GatedNorm::Absent => (false, None),
        };
        let multipliers = (c.multipliers != [1.0; 5]).then(|| {
            let widths = [inner, inner, shared, shared, c.heads];
            let all: Vec<f32> = widths.iter().zip(c.multipliers).flat_map(|(n, by)| vec![by; *n]).collect();
            Tensor::from_data(&all[..], b.device())
        });
        Ok(Self {
            in_proj: Linear::new(b, "in_proj", c.hidden, inner + mixed + c.heads, c.bias.into())?,
            conv1d: ShortConv::new(b, "conv1d", mixed, c.conv, c.conv_bias.into())?,
            dt_bias: b.vector("dt_bias", c.heads, Init::InverseSoftplusStep(c.step.0, c.step.1))?,
            a_log: b.vector("A_log", c.heads, Init::LogUniform(1.0, 16.0))?,
            a: None,
            d: b.vector("D", c.heads, Init::Constant(1.0))?,
            norm: eps.map(|eps| RmsNorm::new(b, "norm", inner, eps)).transpose()?,
            norm_first,
            multipliers,
            out_proj: Linear::new(b, "out_proj", inner, c.hidden, Bias::from(c.out_bias))?,
            heads: c.heads,
            head_dim: c.head_dim,
            state: c.state,
            groups: c.groups,
            conv: c.conv,
            step_low: c.step_limit.0 as f64,
            step_high: c.step_limit.1 as f64,
        })
    }

    fn a(&self) -> Tensor<1> {
        self.a.clone().unwrap_or_else(|| ops::neg_exp(self.a_log.val()))
    }
}

impl Mix for Mamba2 {
    fn start(&self, batch: usize, device: &Device) -> State {
        let mixed = self.heads * self.head_dim + 2 * self.groups * self.state;
        State::new(batch).with_rows("conv", [self.conv - 1, mixed], device).with_matrix(
            "state",
            [self.heads, self.state, self.head_dim],
            device,
        )
    }

    fn forward(&self, u: Tensor<3>, state: &mut State, shared: &mut Shared) -> Tensor<3> {
        let inner = self.heads * self.head_dim;
        let mixed = self.groups * self.state;
        let zxbcdt = self.in_proj.forward(u);
        let zxbcdt = match &self.multipliers {
            Some(by) => zxbcdt * by.clone().unsqueeze(),
            None => zxbcdt,
        };
        let z = zxbcdt.clone().narrow(2, 0, inner);
        let dt = zxbcdt.clone().narrow(2, 2 * inner + 2 * mixed, self.heads);
        let xbc = state.update("conv", |before| {
            self.conv1d.forward(zxbcdt.narrow(2, inner, inner + 2 * mixed), before, &shared.packed)
        });
        let (y, scan) = ops::Mamba2 {
            x: xbc.clone().narrow(2, 0, inner),
            dt,
            dt_bias: self.dt_bias.val(),
            dt_limit: (self.step_low as f32, self.step_high as f32),
            a: self.a(),
            b: xbc.clone().narrow(2, inner, mixed),
            c: xbc.narrow(2, inner + mixed, mixed),
            groups: self.groups,
            d: self.d.val(),
            state: state.take("state"),
            form: ops::Mamba2Form::Recurrent,
        }
        .packed(&shared.packed);
        let y = match &self.norm {
            Some(norm) if self.norm_first => ops::silu_times(z, norm.grouped(y, inner / self.groups)),
            Some(norm) => norm.gated(y, z, inner / self.groups),
            None => ops::silu_times(z, y),
        };
        state.put("state", scan);
        self.out_proj.forward(y)
    }

    fn prepare(&mut self) {
        self.a = Some(self.a());
    }
}
