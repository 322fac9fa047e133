//! Building blocks that many mixers share: projections with a short convolution, heads, output norms, token shifts.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, activation};
use longreach_burn as ops;

use crate::linear::Bias;
use crate::{Builder, Error, Init, Layout, Linear, Precision, ShortConv, State};

/// A short convolution after a projection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Short {
    /// The number of taps.
    pub taps: usize,
    /// Whether it has a bias.
    pub bias: bool,
}

/// The sizes that mixers with heads of queries, keys and values have in common.
#[derive(Clone, Debug, PartialEq)]
pub struct Heads {
    /// `d`: width of the model.
    pub hidden: usize,
    /// `H`: the number of heads.
    pub heads: usize,
    /// The number of key and value heads; `H / groups` heads share each.
    pub groups: usize,
    /// `K`: the key width of a head.
    pub key: usize,
    /// `V`: the value width of a head.
    pub value: usize,
    /// Short convolutions after the projections; `None` if there are none.
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

    /// The number of heads that share a key head.
    pub(super) fn shared_by(&self) -> usize {
        self.heads / self.groups
    }
}

/// An elementwise function.
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
    /// Applies it to every element.
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

/// A linear projection with an optional short convolution.
#[derive(Module, Debug)]
pub struct Projection {
    linear: Linear,
    conv: Option<ShortConv>,
    /// The part of the state with the past inputs of the convolution.
    #[module(skip)]
    part: &'static str,
}

impl Projection {
    /// The projection `NAME_proj` from `inputs` to `outputs`, the convolution `NAME_conv1d` with `activation`; `part` is
    /// the part of the state with the convolution's past inputs.
    pub(super) fn new(
        b: &mut Builder,
        (name, part): (&str, &'static str),
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
        Ok(Self { linear, conv, part })
    }

    pub(super) fn forward(&self, x: Tensor<3>, state: &mut State, packed: &ops::Packed) -> Tensor<3> {
        let y = self.linear.forward(x);
        match &self.conv {
            Some(conv) => state.update(self.part, |before| conv.forward(y, before, packed)),
            None => y,
        }
    }
}

/// The projections of queries, keys and values with optional short convolutions.
#[derive(Module, Debug)]
pub struct Projections {
    q: Projection,
    k: Projection,
    v: Projection,
}

impl Projections {
    /// Builds projections to `widths`. The activations apply to the convolutions of queries and keys, and to that of
    /// values.
    pub(super) fn new(
        b: &mut Builder,
        h: &Heads,
        [q, k, v]: [usize; 3],
        [of_keys, of_values]: [ops::ConvActivation; 2],
    ) -> Result<Self, Error> {
        Ok(Self {
            q: Projection::new(b, ("q", CONVS[0]), [h.hidden, q], h.conv, of_keys)?,
            k: Projection::new(b, ("k", CONVS[1]), [h.hidden, k], h.conv, of_keys)?,
            v: Projection::new(b, ("v", CONVS[2]), [h.hidden, v], h.conv, of_values)?,
        })
    }

    pub(super) fn forward(&self, x: &Tensor<3>, state: &mut State, packed: &ops::Packed) -> [Tensor<3>; 3] {
        [&self.q, &self.k, &self.v].map(|p| p.forward(x.clone(), state, packed))
    }
}

/// Silu after the convolutions of queries, keys and values.
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

/// Repeats each head `times` times; the copies are adjacent.
pub(super) fn repeated(x: Tensor<4>, times: usize) -> Tensor<4> {
    if times == 1 {
        return x;
    }
    let [b, t, h, d] = x.dims();
    x.reshape([b, t, h, 1, d]).expand([b, t, h, times, d]).reshape([b, t, h * times, d])
}

/// Transposes the heads of `[B, T, n m, D]`: a list of `n` lists of `m` heads becomes a list of `m` lists of `n`.
pub(super) fn exchanged(x: Tensor<4>, [n, m]: [usize; 2]) -> Tensor<4> {
    if n == 1 || m == 1 {
        return x;
    }
    let [b, t, h, d] = x.dims();
    x.reshape([b, t, n, m, d]).swap_dims(2, 3).reshape([b, t, h, d])
}

/// Normalises rows to length 1: `x / √(Σ x² + ε)`.
pub(super) fn unit(x: Tensor<4>, eps: f64) -> Tensor<4> {
    let width = x.dims()[3] as f64;
    ops::rms_norm(x, None, (eps / width) as f32) * width.powf(-0.5)
}

/// Divides rows by their sums.
pub(super) fn of_sum(x: Tensor<4>, eps: f64) -> Tensor<4> {
    x.clone() / (x.sum_dim(3) + eps)
}

/// Reshapes a vector for broadcasting over rows.
pub(super) fn row<const D: usize>(x: &Param<Tensor<1>>) -> Tensor<D> {
    x.val().unsqueeze()
}

/// The gate of a normed output.
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

/// Group norm with one group per head, and a weight and a bias per channel. Wu and He 2018.
#[derive(Module, Debug)]
pub struct GroupNorm {
    weight: Param<Tensor<1>>,
    bias: Param<Tensor<1>>,
    eps: f64,
}

impl GroupNorm {
    /// The norm `name` of `channels` channels in total.
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

/// `x_{t−1} − x_t`, and the last token of each sequence for the next call. `before: [S, 1, D]` has the token before the first
/// of each sequence.
pub(crate) fn difference(x: &Tensor<3>, before: Tensor<3>, packed: &ops::Packed) -> (Tensor<3>, Tensor<3>) {
    if let Some(bounds) = packed.bounds() {
        let (mut shifted, mut last) = (Vec::new(), Vec::new());
        for (i, text) in bounds.windows(2).enumerate() {
            shifted.push(before.clone().narrow(0, i, 1));
            if text[1] - text[0] > 1 {
                shifted.push(x.clone().narrow(1, text[0], text[1] - text[0] - 1));
            }
            last.push(x.clone().narrow(1, text[1] - 1, 1));
        }
        return (Tensor::cat(shifted, 1) - x.clone(), Tensor::cat(last, 0));
    }
    let t = x.dims()[1];
    let last = x.clone().narrow(1, t - 1, 1);
    let shifted = if t == 1 { before } else { Tensor::cat(vec![before, x.clone().narrow(1, 0, t - 1)], 1) };
    (shifted - x.clone(), last)
}

/// A low-rank map, `f(x W_1) W_2 + b`.
#[derive(Module, Debug)]
pub struct LowRank {
    first: Linear,
    second: Linear,
    #[module(skip)]
    between: Pointwise,
}

impl LowRank {
    /// A map of rank `rank`; `names` are those of the two matrices.
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

/// A vector stored as `[1, 1, n]` in the file.
pub(crate) fn wide(b: &mut Builder, name: &str, n: usize, init: Init) -> Result<Param<Tensor<1>>, Error> {
    b.param(name, [n], Layout::Wide, Precision::Full, init)
}

/// The parts of the state with the past inputs of the convolutions of queries, keys and values.
pub(super) const CONVS: [&str; 3] = ["conv_q", "conv_k", "conv_v"];

/// Adds the past inputs of the short convolutions over `widths` channels, if there are any.
pub(super) fn with_convs(state: State, h: &Heads, widths: [usize; 3], device: &Device) -> State {
    let Some(conv) = h.conv else { return state };
    let parts = CONVS.into_iter().zip(widths);
    parts.fold(state, |state, (name, d)| state.with_rows(name, [conv.taps - 1, d], device))
}

/// An initial state with one matrix per head, and the past inputs of convolutions over `widths` channels.
pub(super) fn matrices(h: &Heads, widths: [usize; 3], key: usize, batch: usize, device: &Device) -> State {
    with_convs(State::new(batch), h, widths, device).with_matrix("state", [h.heads, key, h.value], device)
}

/// Linear projections of queries, keys and values, and of the output, which always has a bias.
#[derive(Module, Debug)]
pub struct Qkv {
    q: Linear,
    k: Linear,
    v: Linear,
    pub(super) out: Linear,
}

impl Qkv {
    /// Projections with as many key heads as query heads.
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

/// Excludes a matrix from training.
pub(super) fn fixed(matrix: Param<Tensor<2>>) -> Param<Tensor<2>> {
    matrix.set_require_grad(false)
}

/// Reads each sequence of a batch separately.
pub(super) fn one_by_one(
    x: Tensor<3>,
    state: &mut State,
    mut read: impl FnMut(Tensor<3>, &mut State) -> Tensor<3>,
) -> Tensor<3> {
    let one = |i: usize| {
        let mut own = state.select(&[i]);
        (read(x.clone().narrow(0, i, 1), &mut own), own)
    };
    let (out, states): (Vec<_>, Vec<_>) = (0..state.batch()).map(one).unzip();
    *state = State::join(states);
    Tensor::cat(out, 0)
}
