//! Causal depthwise convolution over a few tokens, with an activation: a unit has a token's channel, or in the gradients
//! to the taps a tap and channel of a block of tokens.
use cubecl::prelude::{CubeCount, CubeDim};
use longreach_attention::Sequences;
pub use longreach_attention::short_conv::Activation;

use crate::convert::{narrowed_to, widened};
use crate::device::Device;
use crate::error::{Error, shape};
use crate::fast_weights::bounds;
use crate::formula::sum_of_tokens;
use crate::launch::{buffer, cubes, launch, words};
use crate::view::{DType, View, Words};

mod kernels;

use kernels::Sizes;

const OP: &str = "short_conv";
const UNITS: usize = 64;
/// Tokens that a unit sums in the gradient to a tap.
const BLOCK: usize = 64;

/// The inputs, as in [`longreach_attention::short_conv`].
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// `[B, T, D]`
    pub x: &'a View,
    /// `[W, D]`
    pub w: &'a View,
    /// `[D]`
    pub bias: Option<&'a View>,
    /// The activation.
    pub activation: Activation,
    /// How tokens form sequences.
    pub sequences: Sequences<'a>,
}

/// Gradients to the inputs.
#[derive(Clone, Debug)]
pub struct Gradient {
    /// `[B, T, D]`
    pub x: View,
    /// `[W, D]`
    pub w: View,
    /// `[D]`, with a bias
    pub bias: Option<View>,
    /// To the state before the first token, `[S, W - 1, D]`
    pub state: View,
}

/// The inputs in f32.
struct Wide {
    x: View,
    w: View,
    bias: Option<View>,
    /// `[S + 1]`
    bounds: Words,
    /// `[tokens]`, the sequence of each token
    sequence: Words,
    tokens: usize,
    sizes: Sizes,
}

impl Inputs<'_> {
    fn wide(&self, device: &Device, state: &View) -> Result<Wide, Error> {
        let (&[b, t, d], &[taps, _]) = (self.x.shape(), self.w.shape()) else {
            return Err(Error::Shape { op: OP, input: "x", want: vec![0; 3], found: self.x.shape().to_vec() });
        };
        shape(OP, "w", &[taps.max(1), d], self.w.shape())?;
        if let Some(bias) = self.bias {
            shape(OP, "bias", &[d], bias.shape())?;
        }
        shape(OP, "state", &[self.sequences.count(b), taps - 1, d], state.shape())?;
        let bounds = bounds(OP, self.sequences, b, t)?;
        let of_token = bounds.windows(2).enumerate().flat_map(|(n, range)| (range[0]..range[1]).map(move |_| n as u32));
        let sequence: Vec<u32> = of_token.collect();
        let starts: Vec<u32> = bounds.iter().map(|t| *t as u32).collect();
        let silu = self.activation == Activation::Silu;
        Ok(Wide {
            x: widened(OP, device, "x", self.x)?,
            w: widened(OP, device, "w", self.w)?,
            bias: self.bias.map(|bias| widened(OP, device, "bias", bias)).transpose()?,
            bounds: Words::upload(device, &starts),
            sequence: Words::upload(device, &sequence),
            tokens: b * t,
            sizes: Sizes { channels: d, taps, has_bias: self.bias.is_some(), silu },
        })
    }
}

impl Wide {
    /// The inputs of kernels: x, the taps, the state and, if there is one, the bias.
    fn inputs<'a>(&'a self, state: &'a View) -> impl Iterator<Item = &'a View> {
        [&self.x, &self.w, state].into_iter().chain(&self.bias)
    }

    /// Cubes for all tokens, in rows of tokens, and channels.
    fn cubes(&self, device: &Device, tokens: usize) -> Result<CubeCount, Error> {
        let across = tokens.clamp(1, 1 << 15);
        cubes(OP, device, [self.sizes.channels.div_ceil(UNITS), across, tokens.div_ceil(across)])
    }

    fn sequences(&self) -> usize {
        self.bounds.len() - 1
    }
}

/// Returns the outputs, `[B, T, D]`, and the states after the last tokens, in f32.
pub fn forward(device: &Device, x: &Inputs<'_>, state: &View) -> Result<(View, View), Error> {
    let wide = x.wide(device, state)?;
    let out = View::empty(device, x.x.shape(), DType::F32);
    if !out.is_empty() {
        launch!(
            "a unit has a token and a channel, which are compared with their numbers; taps before a sequence are in its state",
            kernels::forward on device,
            wide.cubes(device, wide.tokens)?,
            CubeDim::new_1d(UNITS as u32),
            wide.inputs(state).map(|x| buffer(device, x)).collect(),
            words(&wide.bounds),
            words(&wide.sequence),
            buffer(device, &out),
            wide.tokens as u32,
            wide.sizes,
        );
    }
    let last = View::empty(device, state.shape(), DType::F32);
    if !last.is_empty() {
        launch!(
            "a unit has a channel of one of the last inputs of a sequence, or of its state",
            kernels::last on device,
            cubes(OP, device, [wide.sizes.channels.div_ceil(UNITS), wide.sizes.taps - 1, wide.sequences()])?,
            CubeDim::new_1d(UNITS as u32),
            buffer(device, &wide.x),
            buffer(device, state),
            words(&wide.bounds),
            buffer(device, &last),
            wide.sizes,
        );
    }
    Ok((narrowed_to(OP, device, &out, x.x.dtype())?, last))
}

/// Returns the gradients, given those to the output and to the states after the last tokens.
pub fn backward(device: &Device, x: &Inputs<'_>, state: &View, d_o: &View, d_state: &View) -> Result<Gradient, Error> {
    let wide = x.wide(device, state)?;
    shape(OP, "do", x.x.shape(), d_o.shape())?;
    shape(OP, "dstate", state.shape(), d_state.shape())?;
    let Sizes { channels, taps, .. } = wide.sizes;
    let d_o = widened(OP, device, "do", d_o)?;
    // The gradient before the activation.
    let du = View::empty(device, d_o.shape(), DType::F32);
    let dx = View::empty(device, d_o.shape(), DType::F32);
    let first = View::empty(device, state.shape(), DType::F32);
    let blocks = wide.tokens.div_ceil(BLOCK);
    let dw = View::empty(device, &[blocks, (taps + 1) * channels], DType::F32);
    let row = || CubeDim::new_1d(UNITS as u32);
    if !du.is_empty() {
        launch!(
            "as in the forward pass",
            kernels::before_activation on device,
            wide.cubes(device, wide.tokens)?,
            row(),
            wide.inputs(state).map(|x| buffer(device, x)).collect(),
            words(&wide.bounds),
            words(&wide.sequence),
            buffer(device, &d_o),
            buffer(device, &du),
            wide.tokens as u32,
            wide.sizes,
        );
        launch!(
            "a unit has a token and a channel, which are compared with their numbers; later tokens are those of its sequence",
            kernels::inputs on device,
            wide.cubes(device, wide.tokens)?,
            row(),
            buffer(device, &wide.w),
            words(&wide.bounds),
            words(&wide.sequence),
            buffer(device, &du),
            buffer(device, d_state),
            buffer(device, &dx),
            wide.tokens as u32,
            wide.sizes,
        );
        launch!(
            "a unit has a channel and a tap of the tokens of a block, which are compared with their number",
            kernels::taps on device,
            cubes(OP, device, [channels.div_ceil(UNITS), taps + 1, blocks])?,
            row(),
            buffer(device, &wide.x),
            buffer(device, state),
            words(&wide.bounds),
            words(&wide.sequence),
            buffer(device, &du),
            buffer(device, &dw),
            wide.tokens as u32,
            wide.sizes,
        );
    }
    if !first.is_empty() {
        launch!(
            "a unit has a channel of one of the inputs before a sequence",
            kernels::first on device,
            cubes(OP, device, [channels.div_ceil(UNITS), taps - 1, wide.sequences()])?,
            row(),
            buffer(device, &wide.w),
            words(&wide.bounds),
            buffer(device, &du),
            buffer(device, d_state),
            buffer(device, &first),
            wide.sizes,
        );
    }
    let all = sum_of_tokens(OP, device, &dw, blocks, (taps + 1) * channels, &[taps + 1, channels])?;
    let rows = |first: usize, like: &View| -> Result<View, Error> {
        let access = crate::formula::Access { token: 1, offset: first * channels, ..crate::formula::Access::one(0) };
        let sizes = crate::formula::Sizes::new(like.len(), 1, 1);
        let part = crate::formula::formula(OP, device, &[&all], &access.get(), sizes, like.shape())?;
        narrowed_to(OP, device, &part, like.dtype())
    };
    Ok(Gradient {
        x: narrowed_to(OP, device, &dx, x.x.dtype())?,
        w: rows(0, x.w)?,
        bias: x.bias.map(|bias| rows(taps, bias)).transpose()?,
        state: first,
    })
}
