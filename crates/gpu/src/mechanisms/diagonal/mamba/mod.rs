//! Selective state spaces (S6), in segments of 16 tokens that are read side by side.
//!
//! A segment maps the state before it to that after it as `h' = e^{A ΣΔ} ⊙ h + r`, with `r` what it reaches from zero. So
//! segments are read for `r`, these are chained, and segments are read again from their own states. The backward pass
//! does the same from the end for the gradient of the state; a unit then has the states of a segment at hand, computed
//! anew from the first.

use longreach_attention::Sequences;

use super::UNITS;
use crate::convert::{narrowed_to, widened};
use crate::device::Device;
use crate::error::{Error, most, shape};
use crate::fast_weights::bounds;
use crate::formula::sum_of_tokens;
use crate::launch::{buffer, cubes, launch, words};
use crate::view::{DType, View, Words};

mod kernels;

use kernels::Sizes;

const OP: &str = "mamba";

/// Tokens of a segment.
const SEGMENT: usize = 16;
/// The most numbers in the state of a channel: they are registers.
const MOST: usize = 64;

/// The inputs, as in [`longreach_attention::diagonal::mamba`].
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// `[B, T, D]`
    pub x: &'a View,
    /// The step size before softplus, `[B, T, D]`
    pub dt: &'a View,
    /// Added to `dt`, `[D]`
    pub dt_bias: &'a View,
    /// `[N, D]`
    pub a: &'a View,
    /// `[B, T, N]`
    pub b: &'a View,
    /// `[B, T, N]`
    pub c: &'a View,
    /// `[D]`
    pub d: &'a View,
    /// The gate, `[B, T, D]`
    pub z: Option<&'a View>,
    /// How tokens form sequences.
    pub sequences: Sequences<'a>,
}

/// Gradients to the inputs.
#[derive(Clone, Debug)]
pub struct Gradient {
    /// `[B, T, D]`
    pub x: View,
    /// With respect to `dt`, before softplus, `[B, T, D]`
    pub dt: View,
    /// `[D]`
    pub dt_bias: View,
    /// `[N, D]`
    pub a: View,
    /// `[B, T, N]`
    pub b: View,
    /// `[B, T, N]`
    pub c: View,
    /// `[D]`
    pub d: View,
    /// `[B, T, D]`, with a gate
    pub z: Option<View>,
    /// To the state before the first token, `[S, N, D]`
    pub state: View,
}

/// The inputs in f32, and the segments.
struct Wide {
    x: View,
    dt: View,
    bias: View,
    a: View,
    b: View,
    c: View,
    d: View,
    z: Option<View>,
    /// `[P + 1]`, tokens at which segments begin
    segments: Words,
    /// `[S + 1]`, the first segment of each sequence
    of_sequence: Words,
    tokens: usize,
    sizes: Sizes,
}

impl Inputs<'_> {
    fn wide(&self, device: &Device, state: &View) -> Result<Wide, Error> {
        let (&[b, t, d], &[n, _]) = (self.x.shape(), self.a.shape()) else {
            return Err(Error::Shape { op: OP, input: "x", want: vec![0; 3], found: self.x.shape().to_vec() });
        };
        let wide = |name, x: &View, want: &[usize]| {
            shape(OP, name, want, x.shape())?;
            widened(OP, device, name, x)
        };
        most(OP, "the state of a channel", MOST, n)?;
        shape(OP, "state", &[self.sequences.count(b), n, d], state.shape())?;
        let (mut segments, mut of_sequence) = (Vec::new(), vec![0]);
        let bounds = bounds(OP, self.sequences, b, t)?;
        for range in bounds.windows(2) {
            segments.extend((range[0]..range[1].max(range[0] + 1)).step_by(SEGMENT).map(|t| t as u32));
            of_sequence.push(segments.len() as u32);
        }
        segments.push((b * t) as u32);
        Ok(Wide {
            x: wide("x", self.x, &[b, t, d])?,
            dt: wide("dt", self.dt, &[b, t, d])?,
            bias: wide("dt_bias", self.dt_bias, &[d])?,
            a: wide("a", self.a, &[n, d])?,
            b: wide("b", self.b, &[b, t, n])?,
            c: wide("c", self.c, &[b, t, n])?,
            d: wide("d", self.d, &[d])?,
            z: self.z.map(|z| wide("z", z, &[b, t, d])).transpose()?,
            segments: Words::upload(device, &segments),
            of_sequence: Words::upload(device, &of_sequence),
            tokens: b * t,
            sizes: Sizes { channels: d, n, gated: self.z.is_some(), segment: SEGMENT },
        })
    }
}

impl Wide {
    fn segment_count(&self) -> usize {
        self.segments.len() - 1
    }

    fn is_empty(&self) -> bool {
        self.sizes.channels * self.segment_count() == 0
    }

    /// The inputs of kernels: x, dt, the bias, A, B, C and, with a gate, z.
    fn inputs(&self) -> Vec<&View> {
        let inputs = [&self.x, &self.dt, &self.bias, &self.a, &self.b, &self.c, &self.d];
        inputs.into_iter().chain(&self.z).collect()
    }

    /// What segments reach from zero, `[P, N, D]`, and the sums of their steps, `[P, D]`: of the state, or of its
    /// gradient, given that of the output.
    fn local(&self, device: &Device, d_o: Option<&View>) -> Result<[View; 2], Error> {
        let Sizes { channels, n, .. } = self.sizes;
        let count = self.segment_count();
        let local = View::empty(device, &[count, n, channels], DType::F32);
        let steps = View::empty(device, &[count, channels], DType::F32);
        launch!(
            "a unit has a channel below their number, and the tokens between two bounds",
            kernels::local on device,
            cubes(OP, device, [channels.div_ceil(UNITS), count, 1])?,
            cubecl::prelude::CubeDim::new_1d(UNITS as u32),
            self.inputs().into_iter().chain(d_o).map(|x| buffer(device, x)).collect(),
            words(&self.segments),
            buffer(device, &local),
            buffer(device, &steps),
            d_o.is_some(),
            self.sizes,
        );
        Ok([local, steps])
    }

    /// The states before each segment in order, or from the end, and that after all of a sequence.
    fn chained(
        &self,
        device: &Device,
        [local, steps]: &[View; 2],
        first: &View,
        reverse: bool,
    ) -> Result<[View; 2], Error> {
        let Sizes { channels, n, .. } = self.sizes;
        let starts = View::empty(device, local.shape(), DType::F32);
        let last = View::empty(device, first.shape(), DType::F32);
        launch!(
            "a unit has one number of the states of a sequence",
            kernels::chained on device,
            cubes(OP, device, [(n * channels).div_ceil(UNITS), self.of_sequence.len() - 1, 1])?,
            cubecl::prelude::CubeDim::new_1d(UNITS as u32),
            buffer(device, local),
            buffer(device, steps),
            buffer(device, &self.a),
            buffer(device, first),
            words(&self.of_sequence),
            buffer(device, &starts),
            buffer(device, &last),
            reverse,
            self.sizes,
        );
        Ok([starts, last])
    }
}

/// Returns the outputs, `[B, T, D]`, and the states after the last tokens. Errors on shapes that disagree, and on states
/// of more than 64 numbers a channel.
pub fn forward(device: &Device, x: &Inputs<'_>, state: &View) -> Result<(View, View), Error> {
    let wide = x.wide(device, state)?;
    let out = View::empty(device, x.x.shape(), DType::F32);
    if wide.is_empty() {
        return Ok((out, state.clone()));
    }
    let [starts, last] = wide.chained(device, &wide.local(device, None)?, state, false)?;
    launch!(
        "a unit has a channel below their number, and the tokens between two bounds",
        kernels::outputs on device,
        cubes(OP, device, [wide.sizes.channels.div_ceil(UNITS), wide.segment_count(), 1])?,
        cubecl::prelude::CubeDim::new_1d(UNITS as u32),
        wide.inputs().into_iter().map(|x| buffer(device, x)).collect(),
        words(&wide.segments),
        buffer(device, &starts),
        buffer(device, &out),
        wide.sizes,
    );
    Ok((narrowed_to(OP, device, &out, x.x.dtype())?, last))
}

/// Returns the gradients, given those to the output and to the states after the last tokens. Errors as [`forward`].
pub fn backward(device: &Device, x: &Inputs<'_>, state: &View, d_o: &View, d_state: &View) -> Result<Gradient, Error> {
    let wide = x.wide(device, state)?;
    shape(OP, "do", x.x.shape(), d_o.shape())?;
    shape(OP, "dstate", state.shape(), d_state.shape())?;
    let d_o = widened(OP, device, "do", d_o)?;
    let Sizes { channels, n, .. } = wide.sizes;
    let (count, tokens) = (wide.segment_count(), wide.tokens);
    let blocks = channels.div_ceil(UNITS);
    let [dx, ddt, dz] = [(); 3].map(|()| View::empty(device, x.x.shape(), DType::F32));
    // Of B and C, for each block of channels; of A, D and the bias, for each segment.
    let shared = View::empty(device, &[blocks, tokens * 2 * n], DType::F32);
    let of_channels = View::empty(device, &[count, (n + 2) * channels], DType::F32);
    let mut first = d_state.clone();
    if !wide.is_empty() {
        let [starts, _] = wide.chained(device, &wide.local(device, None)?, state, false)?;
        let [d_ends, d_first] = wide.chained(device, &wide.local(device, Some(&d_o))?, d_state, true)?;
        first = d_first;
        launch!(
            "a unit has a channel below their number, and the tokens between two bounds",
            kernels::gradients on device,
            cubes(OP, device, [blocks, count, 1])?,
            cubecl::prelude::CubeDim::new_1d(UNITS as u32),
            wide.inputs().into_iter().chain([&d_o]).map(|x| buffer(device, x)).collect(),
            words(&wide.segments),
            buffer(device, &starts),
            buffer(device, &d_ends),
            [&dx, &ddt, &shared, &of_channels, &dz].into_iter().map(|x| buffer(device, x)).collect(),
            tokens as u32,
            wide.sizes,
        );
    }
    let both = sum_of_tokens(OP, device, &shared, blocks, tokens * 2 * n, &[tokens, 2 * n])?;
    let all = sum_of_tokens(OP, device, &of_channels, count, (n + 2) * channels, &[n + 2, channels])?;
    let part = |of: &View, width: usize, offset: usize, rows: usize, like: &View| -> Result<View, Error> {
        let stride = of.shape()[1];
        let access = crate::formula::Access { offset, token: stride, ..crate::formula::Access::rows(0, 1, width) };
        let sizes = crate::formula::Sizes::new(rows, 1, width);
        let part = crate::formula::formula(OP, device, &[of], &access.get(), sizes, like.shape())?;
        narrowed_to(OP, device, &part, like.dtype())
    };
    Ok(Gradient {
        x: narrowed_to(OP, device, &dx, x.x.dtype())?,
        dt: narrowed_to(OP, device, &ddt, x.dt.dtype())?,
        dt_bias: part(&all, channels, (n + 1) * channels, 1, x.dt_bias)?,
        a: part(&all, channels, 0, n, x.a)?,
        b: part(&both, n, 0, tokens, x.b)?,
        c: part(&both, n, n, tokens, x.c)?,
        d: part(&all, channels, n * channels, 1, x.d)?,
        z: x.z.map(|z| narrowed_to(OP, device, &dz, z.dtype())).transpose()?,
        state: first,
    })
}
