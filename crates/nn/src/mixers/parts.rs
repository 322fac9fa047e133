//! What many mixers are made of: projections with a convolution behind them, heads, output norms, token shifts.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, activation};
use longreach_burn as ops;

use crate::linear::Bias;
use crate::{Builder, Error, Init, Layout, Linear, Precision, Recurrent, ShortConv};

/// A short convolution behind a projection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Short {
    /// How many tokens it sees.
    pub taps: usize,
    /// Whether it has a bias.
    pub bias: bool,
}

/// The sizes that mixers with heads of queries, keys and values have in common.
#[derive(Clone, Debug, PartialEq)]
pub struct Heads {
    /// `d`: width of the model.
    pub hidden: usize,
    /// `H`: heads.
    pub heads: usize,
    /// How many heads of keys and values there are; each is read by `H` divided by them.
    pub groups: usize,
    /// `K`: width of a head's keys.
    pub key: usize,
    /// `V`: width of a head's values.
    pub value: usize,
    /// Convolutions behind the projections, where there are some.
    pub conv: Option<Short>,
    /// ε of the output norm.
    pub norm_eps: f64,
    /// Whether the output norm has weights.
    pub affine: bool,
}

impl Heads {
    pub(super) fn check(&self, b: &Builder) -> Result<(), Error> {
        let Self { heads, groups, key, value, .. } = *self;
        if heads == 0 || groups == 0 || key == 0 || value == 0 || !heads.is_multiple_of(groups) {
            let message = format!("{heads} heads of {key} and {value} channels cannot share {groups} of keys");
            return Err(b.error(message));
        }
        Ok(())
    }

    /// How often a head of keys is read.
    pub(super) fn shared_by(&self) -> usize {
        self.heads / self.groups
    }

    /// The inputs that the convolutions of `widths` remember.
    pub(super) fn remembered(&self, widths: &[usize]) -> Vec<[usize; 2]> {
        self.conv.map_or_else(Vec::new, |conv| widths.iter().map(|d| [conv.taps - 1, *d]).collect())
    }
}

/// A function of single numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Pointwise {
    /// `x`
    #[default]
    Identity,
    /// `max(x, 0)`
    Relu,
    /// `max(x, 0)²`
    Relu2,
    /// `x σ(x)`
    Silu,
    /// `σ(x)`
    Sigmoid,
    /// `elu(x) + 1`
    Elu1,
    /// `tanh(x)`
    Tanh,
}

impl Pointwise {
    /// Of every number.
    pub fn of<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Pointwise::Identity => x,
            Pointwise::Relu => activation::relu(x),
            Pointwise::Relu2 => {
                let x = activation::relu(x);
                x.clone() * x
            }
            Pointwise::Silu => activation::silu(x),
            Pointwise::Sigmoid => activation::sigmoid(x),
            Pointwise::Tanh => x.tanh(),
            Pointwise::Elu1 => activation::relu(x.clone()) + x.clamp_max(0.0).exp(),
        }
    }
}

/// The inputs that a layer remembers, taken in the order in which they are put back.
pub(super) struct Remembered {
    before: std::vec::IntoIter<Tensor<3>>,
    after: Vec<Tensor<3>>,
}

impl Remembered {
    pub(super) fn of(inputs: Vec<Tensor<3>>) -> Self {
        Self { after: Vec::with_capacity(inputs.len()), before: inputs.into_iter() }
    }

    /// Replaces the next ones by what `f` makes of them. Panics if there are no more.
    pub(super) fn next<T>(&mut self, f: impl FnOnce(Tensor<3>) -> (T, Tensor<3>)) -> T {
        let (out, after) = f(self.before.next().expect("an input for each that looks back"));
        self.after.push(after);
        out
    }

    pub(super) fn into_inner(self) -> Vec<Tensor<3>> {
        self.after
    }
}

/// A projection and perhaps a convolution behind it.
#[derive(Module, Debug)]
pub struct Projection {
    linear: Linear,
    conv: Option<ShortConv>,
}

impl Projection {
    /// The projection `NAME_proj` from `inputs` to `outputs`, the convolution `NAME_conv1d` with `activation`.
    pub(super) fn new(
        b: &mut Builder,
        name: &str,
        [inputs, outputs]: [usize; 2],
        conv: Option<Short>,
        activation: ops::ConvActivation,
    ) -> Result<Self, Error> {
        let linear = Linear::new(b, &format!("{name}_proj"), inputs, outputs, Bias::No)?;
        let conv = match conv {
            Some(c) => {
                let conv = ShortConv::new(b, &format!("{name}_conv1d"), outputs, c.taps, c.bias.into())?;
                Some(conv.with_activation(activation))
            }
            None => None,
        };
        Ok(Self { linear, conv })
    }

    pub(super) fn forward(&self, x: Tensor<3>, remembered: &mut Remembered) -> Tensor<3> {
        let y = self.linear.forward(x);
        match &self.conv {
            Some(conv) => remembered.next(|before| conv.forward(y, before)),
            None => y,
        }
    }
}

/// Projections of queries, keys and values, and the convolutions behind them.
#[derive(Module, Debug)]
pub struct Projections {
    q: Projection,
    k: Projection,
    v: Projection,
}

impl Projections {
    /// Those to these widths; the activations are of the convolutions behind queries and keys, and behind values.
    pub(super) fn new(
        b: &mut Builder,
        h: &Heads,
        [q, k, v]: [usize; 3],
        [of_keys, of_values]: [ops::ConvActivation; 2],
    ) -> Result<Self, Error> {
        Ok(Self {
            q: Projection::new(b, "q", [h.hidden, q], h.conv, of_keys)?,
            k: Projection::new(b, "k", [h.hidden, k], h.conv, of_keys)?,
            v: Projection::new(b, "v", [h.hidden, v], h.conv, of_values)?,
        })
    }

    pub(super) fn forward(&self, x: &Tensor<3>, remembered: &mut Remembered) -> [Tensor<3>; 3] {
        [&self.q, &self.k, &self.v].map(|p| p.forward(x.clone(), remembered))
    }
}

/// The convolutions of queries, keys and values have silu.
pub(super) const SILU: [ops::ConvActivation; 2] = [ops::ConvActivation::Silu; 2];

/// `[B, T, H D]` → `[B, T, H, D]`
pub(super) fn heads(x: Tensor<3>, heads: usize) -> Tensor<4> {
    let [b, t, d] = x.dims();
    x.reshape([b, t, heads, d / heads])
}

/// `[B, T, H, D]` → `[B, T, H D]`
pub(super) fn flat(x: Tensor<4>) -> Tensor<3> {
    let [b, t, h, d] = x.dims();
    x.reshape([b, t, h * d])
}

/// Each head `times` times, one behind the other.
pub(super) fn repeated(x: Tensor<4>, times: usize) -> Tensor<4> {
    if times == 1 {
        return x;
    }
    let [b, t, h, d] = x.dims();
    x.reshape([b, t, h, 1, d]).expand([b, t, h, times, d]).reshape([b, t, h * times, d])
}

/// Rows of length 1: `x / √(Σ x² + ε)`.
pub(super) fn unit(x: Tensor<4>, eps: f64) -> Tensor<4> {
    let width = x.dims()[3] as f64;
    ops::rms_norm(x, None, (eps / width) as f32) * width.powf(-0.5)
}

/// Rows divided by their sums.
pub(super) fn of_sum(x: Tensor<4>, eps: f64) -> Tensor<4> {
    x.clone() / (x.sum_dim(3) + eps)
}

/// A vector in every row.
pub(super) fn row<const D: usize>(x: &Param<Tensor<1>>) -> Tensor<D> {
    x.val().unsqueeze()
}

/// What an output is multiplied with after its norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// `z σ(z)`
    Silu,
    /// `σ(z)`
    Sigmoid,
}

/// The RMS norm of each head.
#[derive(Module, Debug)]
pub struct HeadNorm {
    weight: Option<Param<Tensor<1>>>,
    eps: f64,
}

impl HeadNorm {
    /// The norm `name` over heads of `width`.
    pub(super) fn new(b: &mut Builder, name: &str, width: usize, eps: f64, affine: bool) -> Result<Self, Error> {
        let weight = if affine { Some(b.vector(&format!("{name}.weight"), width, Init::Constant(1.0))?) } else { None };
        Ok(Self { weight, eps })
    }

    pub(super) fn forward(&self, x: Tensor<4>) -> Tensor<3> {
        flat(ops::rms_norm(x, self.weight.as_ref().map(Param::val), self.eps as f32))
    }

    /// The norm, times the gate of `z: [B, T, H V]`.
    pub(super) fn gated(&self, x: Tensor<4>, z: Tensor<3>, gate: Gate) -> Tensor<3> {
        let x = self.forward(x);
        match gate {
            Gate::Silu => ops::silu_times(z, x),
            Gate::Sigmoid => activation::sigmoid(z) * x,
        }
    }
}

/// The norm of mean and variance of each head, with a weight and a bias a channel. Wu and He 2018.
#[derive(Module, Debug)]
pub struct GroupNorm {
    weight: Param<Tensor<1>>,
    bias: Param<Tensor<1>>,
    eps: f64,
}

impl GroupNorm {
    /// The norm `name` of `channels` in all.
    pub(super) fn new(b: &mut Builder, name: &str, channels: usize, eps: f64) -> Result<Self, Error> {
        Ok(Self {
            weight: b.vector(&format!("{name}.weight"), channels, Init::Constant(1.0))?,
            bias: b.vector(&format!("{name}.bias"), channels, Init::Constant(0.0))?,
            eps,
        })
    }

    pub(super) fn forward(&self, x: Tensor<4>) -> Tensor<3> {
        let centred = x.clone() - x.mean_dim(3);
        flat(ops::rms_norm(centred, None, self.eps as f32)) * row(&self.weight) + row(&self.bias)
    }
}

/// `x_{t−1} − x_t`, and the last token for the next call.
pub(crate) fn difference(x: &Tensor<3>, before: Tensor<3>) -> (Tensor<3>, Tensor<3>) {
    let t = x.dims()[1];
    let last = x.clone().narrow(1, t - 1, 1);
    let shifted = if t == 1 { before } else { Tensor::cat(vec![before, x.clone().narrow(1, 0, t - 1)], 1) };
    (shifted - x.clone(), last)
}

/// `f(x W_1) W_2 + b`, of low rank.
#[derive(Module, Debug)]
pub struct LowRank {
    first: Linear,
    second: Linear,
    #[module(skip)]
    between: Pointwise,
}

impl LowRank {
    /// The map through `rank` channels; `names` are those of the two matrices.
    pub(super) fn new(
        b: &mut Builder,
        names: [&str; 2],
        [inputs, rank, outputs]: [usize; 3],
        bias: Option<Init>,
        between: Pointwise,
    ) -> Result<Self, Error> {
        let first = Linear::new(b, names[0], inputs, rank, Bias::No)?;
        let mut second = Linear::new(b, names[1], rank, outputs, Bias::No)?;
        if let Some(init) = bias {
            second.bias = Some(b.vector(&format!("{}.bias", names[1]), outputs, init)?);
        }
        Ok(Self { first, second, between })
    }

    pub(super) fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        self.second.forward(self.between.of(self.first.forward(x)))
    }
}

/// A vector that is `[1, 1, n]` in the file.
pub(crate) fn wide(b: &mut Builder, name: &str, n: usize, init: Init) -> Result<Param<Tensor<1>>, Error> {
    b.param(name, [n], Layout::Wide, Precision::Full, init)
}

/// A state with a matrix a head.
pub(super) fn matrices(h: &Heads, inputs: &[[usize; 2]], key: usize, batch: usize, device: &Device) -> Recurrent {
    Recurrent::zeros(batch, inputs, [h.heads, key, h.value], device)
}

/// The state after a pass that read `tokens`.
pub(super) fn after(remembered: Remembered, memory: Tensor<4>, mut seen: Vec<usize>, tokens: usize) -> Recurrent {
    seen.iter_mut().for_each(|seen| *seen += tokens);
    Recurrent { inputs: remembered.into_inner(), memory, seen }
}

/// Plain projections of queries, keys and values, and that of the output, which has a bias.
#[derive(Module, Debug)]
pub struct Qkv {
    q: Linear,
    k: Linear,
    v: Linear,
    pub(super) out: Linear,
}

impl Qkv {
    /// Projections of as many heads of queries as of keys and values.
    pub(super) fn new(b: &mut Builder, h: &Heads, bias: Bias, names: [&str; 4]) -> Result<Self, Error> {
        h.check(b)?;
        Ok(Self {
            q: Linear::new(b, names[0], h.hidden, h.heads * h.key, bias)?,
            k: Linear::new(b, names[1], h.hidden, h.heads * h.key, bias)?,
            v: Linear::new(b, names[2], h.hidden, h.heads * h.value, bias)?,
            out: Linear::new(b, names[3], h.heads * h.value, h.hidden, Bias::Yes)?,
        })
    }

    pub(super) fn forward(&self, x: &Tensor<3>, n: usize) -> [Tensor<4>; 3] {
        [&self.q, &self.k, &self.v].map(|p| heads(p.forward(x.clone()), n))
    }
}

/// A matrix that is not learned.
pub(super) fn fixed(matrix: Param<Tensor<2>>) -> Param<Tensor<2>> {
    matrix.set_require_grad(false)
}
