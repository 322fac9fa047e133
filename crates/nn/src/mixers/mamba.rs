//! The Mamba mixer: short convolution, selective scan and gate. Gu and Dao 2023, §3.4; Falcon-Mamba norms `dt`, `B`
//! and `C`.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use longreach_burn as ops;

use super::{Mix, Shared};
use crate::linear::Bias;
use crate::{Builder, Error, Init, Layout, Linear, Precision, RmsNorm, ShortConv, State};

/// The sizes and options of a Mamba mixer.
#[derive(Clone, Debug, PartialEq)]
pub struct MambaConfig {
    /// `d`: width of the model.
    pub hidden: usize,
    /// `D`: channels of the scan.
    pub inner: usize,
    /// `N`: the state size per channel.
    pub state: usize,
    /// The number of taps of the short convolution.
    pub conv: usize,
    /// Rank of the step's projection.
    pub rank: usize,
    /// Whether the convolution has a bias.
    pub conv_bias: bool,
    /// Whether the input and output projections have biases.
    pub bias: bool,
    /// RMS norms of `dt`, `B` and `C`; `None` for no norms.
    pub inner_norm: Option<InnerNorm>,
    /// The range of the initial step size `dt`.
    pub step: (f32, f32),
}

/// RMS norms of the step, `B` and `C` after their projection, with their ε.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum InnerNorm {
    /// Without weights: Falcon-Mamba.
    Plain(f64),
    /// With weights: Jamba.
    Weighted(f64),
}

/// The mixer.
#[derive(Module, Debug)]
pub struct Mamba {
    in_proj: Linear,
    conv1d: ShortConv,
    x_proj: Linear,
    dt_proj: Linear,
    dt_bias: Param<Tensor<1>>,
    a_log: Param<Tensor<2>>,
    /// `A = −exp(a_log)`, precomputed for inference.
    a: Option<Tensor<2>>,
    d: Param<Tensor<1>>,
    out_proj: Linear,
    inner: usize,
    state: usize,
    rank: usize,
    conv: usize,
    /// ε of norms without weights.
    plain_norm: Option<f64>,
    /// Norms with weights, of `dt`, `B` and `C`.
    norms: Vec<RmsNorm>,
}

impl Mamba {
    /// Builds the mixer under the builder's scope. Errors if a weight is missing or has another shape.
    pub fn new(b: &mut Builder, c: &MambaConfig) -> Result<Self, Error> {
        let dt_init = (c.rank as f32).powf(-0.5);
        let dt_init = Init::Uniform(-dt_init, dt_init);
        let (plain_norm, norms) = match c.inner_norm {
            None => (None, Vec::new()),
            Some(InnerNorm::Plain(eps)) => (Some(eps), Vec::new()),
            Some(InnerNorm::Weighted(eps)) => {
                let of = [("dt_layernorm", c.rank), ("b_layernorm", c.state), ("c_layernorm", c.state)];
                let norms = of.into_iter().map(|(name, width)| RmsNorm::new(b, name, width, eps));
                (None, norms.collect::<Result<_, _>>()?)
            }
        };
        Ok(Self {
            in_proj: Linear::new(b, "in_proj", c.hidden, 2 * c.inner, c.bias.into())?,
            conv1d: ShortConv::new(b, "conv1d", c.inner, c.conv, c.conv_bias.into())?,
            x_proj: Linear::new(b, "x_proj", c.inner, c.rank + 2 * c.state, Bias::No)?,
            dt_proj: Linear::with_init(b, "dt_proj", [c.inner, c.rank], Bias::No, dt_init)?,
            dt_bias: b.vector("dt_proj.bias", c.inner, Init::InverseSoftplusStep(c.step.0, c.step.1))?,
            a_log: b.param("A_log", [c.state, c.inner], Layout::Transposed, Precision::Full, Init::LogOfRow)?,
            a: None,
            d: b.vector("D", c.inner, Init::Constant(1.0))?,
            out_proj: Linear::new(b, "out_proj", c.inner, c.hidden, c.bias.into())?,
            inner: c.inner,
            state: c.state,
            rank: c.rank,
            conv: c.conv,
            plain_norm,
            norms,
        })
    }

    fn a(&self) -> Tensor<2> {
        self.a.clone().unwrap_or_else(|| ops::neg_exp(self.a_log.val()))
    }
}

impl Mix for Mamba {
    fn start(&self, batch: usize, device: &Device) -> State {
        State::new(batch).with_rows("conv", [self.conv - 1, self.inner], device).with_matrix(
            "state",
            [self.state, self.inner, 1],
            device,
        )
    }

    fn forward(&self, u: Tensor<3>, state: &mut State, shared: &mut Shared) -> Tensor<3> {
        let batch = state.batch();
        let xz = self.in_proj.forward(u);
        let z = xz.clone().narrow(2, self.inner, self.inner);
        let x = state.update("conv", |before| self.conv1d.forward(xz.narrow(2, 0, self.inner), before, &shared.packed));
        let p = self.x_proj.forward(x.clone());
        let normed = |i: usize, t: Tensor<3>| match (self.norms.get(i), self.plain_norm) {
            (Some(norm), _) => norm.forward(t),
            (None, Some(eps)) => ops::rms_norm(t, None, eps as f32),
            (None, None) => t,
        };
        let dt = self.dt_proj.forward(normed(0, p.clone().narrow(2, 0, self.rank)));
        let b = normed(1, p.clone().narrow(2, self.rank, self.state));
        let c = normed(2, p.narrow(2, self.rank + self.state, self.state));
        let (y, scan) = ops::Mamba {
            x,
            dt,
            dt_bias: self.dt_bias.val(),
            a: self.a(),
            b,
            c,
            d: self.d.val(),
            z,
            state: state.take::<Tensor<4>>("state").reshape([batch, self.state, self.inner]),
        }
        .packed(&shared.packed);
        let memory = scan.reshape([batch, self.state, self.inner, 1]);
        state.put("state", memory);
        self.out_proj.forward(y)
    }

    fn prepare(&mut self) {
        self.a = Some(self.a());
    }
}
